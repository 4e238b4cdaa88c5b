"""Does a fine-tuned embedder, or a re-ranker, find more of what people marked as relevant? Learnt on some questions,
measured on others.

    python -m scripts.crossfit_retrieval beir/handbook --folds 5 embedder.epochs=2

Every question is measured once, by models that have not seen it, and beside word search and hybrid search, which need
no training. What is done is kept: the same command goes on where it was stopped.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from retrieval.build import build
from retrieval.console import Parser, stop_politely
from retrieval.documents import read_documents
from retrieval.embed import PACKAGED, locate
from retrieval.files import FileError, file_hash, model_hash, write_atomically
from retrieval.index import Index, open_index
from retrieval.manifest import BuildSettings
from retrieval.measure import passages_for
from retrieval.metrics import METRICS, scores
from retrieval.passage import Query, RetrievalError
from retrieval.retriever import Retriever, open_retriever
from retrieval.search import KINDS
from retrieval.settings import RetrieverSettings
from retrieval.stats import Difference, holm, paired, quantile
from retrieval.topics import Topic, folds, mixed, read_topics
from train import embedder, reranker
from train.door import TrainError
from train.provenance import CARD
from train.retrieval_recipe import read_recipe
from train.tune import Door, run

METRIC: Final = "nDCG@10"
DOORS: Final[Mapping[str, Door]] = {"embedder": embedder.DOOR, "reranker": reranker.DOOR}
UNTRAINED: Final = ("lexical", "dense", "hybrid")
BEFORE: Final = {"dense, tuned": "dense", "hybrid, tuned": "hybrid", "hybrid, re-ranked": "hybrid"}
"""Each trained way to search, and the same without training."""
TRAINING: Final = (
    "training helps here",
    "training hurts here",
    "training does not help here, as far as these questions show",
)
BEST: Final = (
    "better than the best that needs no training",
    "worse than the best that needs no training",
    "no better than the best that needs no training, as far as these questions show",
)
"""What is said of a difference that is sure and above 0, sure and below, or not sure."""
READ: Final = 20
"""Passages that a re-ranker reads."""
SURE: Final = 0.05

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Way to search -> question -> metric (and seconds) -> value"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is learnt and what is then measured; no question is on both sides."""

    name: str
    learnt: Sequence[Topic]
    measured: Sequence[Topic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A trained way to search against another on the same questions."""

    after: str
    before: str
    difference: Difference
    p_holm: float

    @property
    def sentence(self) -> str:
        value, p = self.difference.estimate, self.p_holm
        better, worse, unsure = TRAINING if BEFORE[self.after] == self.before else BEST
        verdict = unsure if p >= SURE else better if value.value > 0 else worse
        return (
            f"{self.after} against {self.before}: {value.value:+.4f} {METRIC}, 95% interval {value.low:+.4f} to "
            f"{value.high:+.4f}, Holm-corrected p = {p:.4f}, {self.difference.n} questions: {verdict}."
        )


def main(words: Sequence[str] | None = None) -> int:
    """Train and measure what is not done yet; the exit code."""
    options = _parser().parse_intermixed_args(words)  # BEIR_DIR --folds 3 key=value
    os.environ["HF_HUB_OFFLINE"] = "1"
    stop_politely()
    try:
        print("\n".join(_report(options)))
    except (FileError, RetrievalError, TrainError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on with what is not done.", file=sys.stderr)
        return 1
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m scripts.crossfit_retrieval",
        description="Train an embedder and a re-ranker on some questions of a BEIR folder, measure them on the others.",
        epilog="example: python -m scripts.crossfit_retrieval beir/handbook --folds 5 epochs=2 reranker.negatives=4",
    )
    parser.add_argument("beir", metavar="BEIR_DIR", type=Path, help="corpus.jsonl, queries.jsonl and qrels/*.tsv")
    parser.add_argument(
        "--folds", type=int, default=5, help="how many parts, each measured once (default: %(default)s)"
    )
    parser.add_argument(
        "--splits", nargs=2, metavar=("LEARNT", "MEASURED"), help="two names of qrels/*.tsv, instead of folds"
    )
    parser.add_argument("--only", choices=DOORS, help="one of the two models")
    parser.add_argument("--out", type=Path, help="where models, indexes and figures go (default: out/crossfit/NAME)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of both recipes; embedder.key=value of one")
    return parser


def _report(options: Namespace) -> Iterator[str]:
    out = options.out or Path("out") / "crossfit" / options.beir.resolve().name
    rounds = list(_rounds(options))
    topics = [topic for each in rounds for topic in each.measured]
    base = BuildSettings(embedder=_base(options.settings))
    world = (file_hash(options.beir / "corpus.jsonl"), model_hash(locate(base.embedder)))
    parts = [_part(out / "untrained.json", (*world, topics), lambda: _untrained(options.beir, out, topics, base))]
    for noun, each in [(noun, each) for noun in DOORS for each in rounds if options.only in (None, noun)]:
        words = [word.removeprefix(f"{noun}.") for word in options.settings if _is_for(word, noun)]
        folder = _trained(DOORS[noun], options.beir, out / each.name, each, words)
        measure = partial(MEASURE[noun], options.beir, folder, each.measured, base)
        parts.append(_part(out / each.name / f"{noun}.json", (*world, model_hash(folder), each.measured), measure))
    found = _pooled(parts, topics)
    comparisons = compare(found)
    figures = {
        "questions": len(topics),
        "rounds": len(rounds),
        "means": {
            name: {metric: fmean(column) for metric, column in columns.items()} for name, columns in found.items()
        },
        "comparisons": [_plain(one) for one in comparisons],
        "seconds": [part["seconds"] for part in parts],
    }
    write_atomically(out / "crossfit.json", json.dumps(figures, indent=2) + "\n")
    yield from _table(found)
    yield from (one.sentence for one in comparisons)
    yield f"{out / 'crossfit.json'} has these figures; {out}/*/*.json those of every question."


def _base(words: Sequence[str]) -> str:
    """The embedder that is trained, and so the one that untrained search has."""
    named = [word.partition("=")[2] for word in words if word.startswith(("model=", "embedder.model="))]
    return [PACKAGED, *named][-1]


def _is_for(word: str, noun: str) -> bool:
    return not any(word.startswith(f"{other}.") for other in DOORS if other != noun)


def _rounds(options: Namespace) -> Iterator[Round]:
    if options.splits:
        learnt, measured = (read_topics(options.beir, name) for name in options.splits)
        yield Round(name="-".join(options.splits), learnt=learnt, measured=measured)
        return
    parts = folds(read_topics(options.beir), options.folds)
    for number, measured in enumerate(parts, start=1):
        learnt = mixed(topic for part in parts if part is not measured for topic in part)
        yield Round(name=f"fold-{number}-of-{len(parts)}", learnt=learnt, measured=measured)


def _trained(door: Door, beir: Path, folder: Path, each: Round, words: Sequence[str]) -> Path:
    """The model of this round, trained unless it is there. Near copies of measured questions are not learnt."""
    for name, topics in (("learnt", each.learnt), ("measured", each.measured)):
        lines = [f"{one.id}\t{document}\t{grade}" for one in topics for document, grade in one.grades.items()]
        write_atomically(folder / f"{name}.tsv", "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    recipe = folder / f"{door.noun}.yaml"
    where = f"data: {json.dumps(str(beir.resolve()))}\nqrels: learnt.tsv\noutput: .\nname: {door.noun}\n"
    write_atomically(recipe, where + "check_against: [measured.tsv]\nleaks: drop\n")
    print(f"{each.name}: {run(door, read_recipe(door.recipe, recipe, words))}", file=sys.stderr)
    return folder / door.noun


def _part(path: Path, made_of: Sequence[Any], make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What was measured before, of the same documents, questions, judgements and model, or is measured now."""
    of = hashlib.sha256(repr(made_of).encode()).hexdigest()
    part: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if part.get("of") != of:
        part = {"of": of, **make()}
        write_atomically(path, json.dumps(part) + "\n")
    return part


def _untrained(beir: Path, out: Path, topics: Sequence[Topic], base: BuildSettings) -> dict[str, Any]:
    index, seconds = _indexed(beir, out / "index", base)
    return {
        "seconds": {"part": "untrained", "index": seconds},
        "scores": {kind: _asked(KINDS[kind](index, passages_for(10, index.passages)), topics) for kind in UNTRAINED},
    }


def _tuned(beir: Path, folder: Path, topics: Sequence[Topic], base: BuildSettings) -> dict[str, Any]:
    index, seconds = _indexed(beir, folder.parent / "index", replace(base, embedder=str(folder)))
    k = passages_for(10, index.passages)
    return {
        "seconds": {"part": str(folder), "training": _training_seconds(folder), "index": seconds},
        "scores": {f"{kind}, tuned": _asked(KINDS[kind](index, k), topics) for kind in ("dense", "hybrid")},
    }


def _read_again(beir: Path, folder: Path, topics: Sequence[Topic], base: BuildSettings) -> dict[str, Any]:
    index = folder.parents[1] / "index"
    _indexed(beir, index, base)
    retriever = open_retriever(RetrieverSettings(kind="hybrid", index=index, k=READ, depth=READ, rerank=folder))
    return {
        "seconds": {"part": str(folder), "training": _training_seconds(folder)},
        "scores": {"hybrid, re-ranked": _asked(retriever, topics)},
    }


MEASURE: Final[Mapping[str, Callable[..., Mapping[str, Any]]]] = {"embedder": _tuned, "reranker": _read_again}


def _indexed(beir: Path, index: Path, settings: BuildSettings) -> tuple[Index, float]:
    started = time.perf_counter()
    build(read_documents(beir), index, settings)
    return open_index(index), time.perf_counter() - started


def _training_seconds(folder: Path) -> float:
    return float(json.loads((folder / CARD).read_text(encoding="utf-8"))["seconds"])


def _asked(retriever: Retriever, topics: Sequence[Topic]) -> dict[str, dict[str, float]]:
    """One question after another, as one user would ask them. Models are loaded before the clock runs."""

    async def ask() -> dict[str, dict[str, float]]:
        await retriever.search(Query("a question that loads the model"))
        found = {}
        for topic in topics:
            started = time.perf_counter()
            hits = await retriever.search(topic.query)
            seconds = time.perf_counter() - started
            found[topic.id] = {**scores(hits, topic.grades), "seconds": seconds}
        return found

    return asyncio.run(ask())


Columns = Mapping[str, Mapping[str, Sequence[float]]]
"""Way to search -> metric (and seconds) -> a value for each question, in the same order."""


def _pooled(parts: Sequence[Mapping[str, Any]], topics: Sequence[Topic]) -> Columns:
    ways: dict[str, dict[str, Mapping[str, float]]] = {}
    for part in parts:
        for name, rows in part["scores"].items():
            ways.setdefault(name, {}).update(rows)
    return {
        name: {metric: [rows[topic.id][metric] for topic in topics] for metric in (*METRICS, "seconds")}
        for name, rows in ways.items()
    }


def compare(found: Columns) -> list[Comparison]:
    """Each trained way against the same without training, and against the best that needs none."""
    best = max(UNTRAINED, key=lambda name: fmean(found[name][METRIC]))
    pairs = [
        (after, before) for after, own in BEFORE.items() if after in found for before in dict.fromkeys((own, best))
    ]
    differences = [paired(found[after][METRIC], found[before][METRIC]) for after, before in pairs]
    corrected = holm([one.p for one in differences])
    return [
        Comparison(after=after, before=before, difference=difference, p_holm=p)
        for (after, before), difference, p in zip(pairs, differences, corrected, strict=True)
    ]


def _plain(one: Comparison) -> dict[str, Any]:
    value = one.difference.estimate
    return {
        "after": one.after,
        "before": one.before,
        "difference": value.value,
        "ci": [value.low, value.high],
        "p": one.difference.p,
        "p_holm": one.p_holm,
        "gained": one.difference.gained,
        "lost": one.difference.lost,
        "sentence": one.sentence,
    }


def _table(found: Columns) -> Iterator[str]:
    shown = (METRIC, "recall@10", "MRR@10")
    yield "".ljust(18) + "".join(name.rjust(11) for name in shown) + "p50 seconds".rjust(13)
    for name, columns in found.items():
        means = "".join(f"{fmean(columns[metric]):11.4f}" for metric in shown)
        # Fused rankings are made of the other two, whose vectors are remembered by then: their time would be too short.
        fast = name.startswith("hybrid") and "re-ranked" not in name
        yield name.ljust(18) + means + ("-" if fast else f"{quantile(columns['seconds'], 0.5):.3f}").rjust(13)


if __name__ == "__main__":
    sys.exit(main())
