"""Train a LoRA adapter on chats.

    accelerate launch train/lora.py [--config FILE] [key=value ...]

Without arguments it trains the demo's adapter. Everything that can be wrong with a recipe, its data or its disk is said
before torch is loaded. Knows nothing of gradients: see fit.py.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from retrieval.console import Parser
from retrieval.files import FileError
from train.base import check_base, find_base, read_config
from train.chat import Chat, read_chats, refuse_all
from train.door import TrainError, refuse
from train.holdout import drawn, held_out
from train.overlap import check, read_texts
from train.processes import agreed, by_first, count, firsts, is_first, is_shared
from train.provenance import (
    Identity,
    card,
    check_space,
    identify,
    is_finished,
    record_check,
    refuse_strangers,
)
from train.recipe import REPOSITORY, Recipe, read_recipe
from train.tune import in_meaning

if TYPE_CHECKING:
    from train.masking import Sample, Template

DEMO: Final = REPOSITORY / "train" / "recipes" / "demo.yaml"
OTHERS: Final = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""Ways of Accelerate's to use several GPUs that nothing here knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done, once nothing speaks against it."""

    chats: Sequence[Chat]
    leaked: Sequence[str]
    """Rows that are test questions, and left out."""
    overlap: str | Mapping[str, Any]
    """What the check against test sets found."""
    base: Path
    identity: Identity
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What is trained on, and what the loss is measured on."""

    training: "tuple[Sample, ...]"
    held_out: "tuple[Sample, ...]"
    dropped: tuple[str, ...]
    """Rows that were too long, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; the exit code."""
    options = _parser().parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # models come from folders and the hub's cache; only scripts/fetch.py downloads
    # On import, bitsandbytes asks the hub for a CPU kernel and warns that it got none; its own kernels do the work.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        recipe = read_recipe(options.config, options.settings)
        run(recipe)
    except (TrainError, FileError) as error:
        return refuse(error)
    return 0


def _parser() -> Parser:
    keys = ", ".join(field.name for field in fields(Recipe))
    parser = Parser(
        prog="accelerate launch train/lora.py",
        description=f"Train a LoRA adapter on chats. Keys: {keys}.",
        epilog="example: accelerate launch train/lora.py quantize=nf4 epochs=1",
    )
    parser.add_argument("--config", type=Path, default=DEMO, metavar="FILE", help="the recipe (default: the demo's)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="replaces the recipe's value")
    return parser


def run(recipe: Recipe) -> None:
    """Check, train, save, and say how to serve it; or say that there is nothing left to do."""
    task = agreed(lambda: look_at(recipe))
    agreed(lambda: refuse_strangers(task.identity))
    folder = recipe.output / recipe.name
    if firsts(task.finished):
        if is_first():
            record_check(folder, task.overlap)
        _say(f"{folder} is already made from this recipe, data and model: nothing left to do. {_how_to_serve(recipe)}")
        return

    from train.masking import Template

    template = Template.load(task.base)
    material = agreed(lambda: prepare(recipe, task.chats, template))

    from train.adapter import Workshop  # what follows is heavy
    from train.fit import Job, fit

    def describe(results: Mapping[str, Any]) -> dict[str, Any]:
        dropped = [*task.leaked, *material.dropped]
        return card(recipe, task.identity, task.base, task.overlap, {**results, "dropped_rows": dropped})

    workshop = Workshop(folder, asdict(task.identity), template.tokenizer.chat_template, describe)
    job = Job(recipe=recipe, base=task.base, training=material.training, held_out=material.held_out, workshop=workshop)
    with ExitStack() as stay:
        by_first(lambda: stay.enter_context(workshop.opened()))
        results = fit(job)
    _say(f"{_summary(folder, results)}\n{_how_to_serve(recipe)}")


def look_at(recipe: Recipe) -> Task:
    """Read everything but the weights; TrainError for whatever can be said against the training by then."""
    if not recipe.data.is_file():
        raise TrainError(
            f"{recipe.data}: there is no such file; `make demo` writes the demo's, or set data=FILE to your own chats"
        )
    check_machines(recipe)
    chats, overlap, leaked = without_leaks(recipe, read_chats(recipe.data))
    base = find_base(recipe.model)
    check_base(read_config(base), recipe)
    folder = recipe.output / recipe.name
    identity = identify(recipe, base, leaked)
    finished = is_finished(folder, identity)
    if not finished:
        check_space(folder, read_config(base), recipe.rank)
    return Task(chats=chats, leaked=leaked, overlap=overlap, base=base, identity=identity, finished=finished)


def check_machines(recipe: Recipe) -> None:
    """Refuse ways to launch that would train nothing, or not what the recipe says."""
    if any(os.environ.get(f"ACCELERATE_USE_{other}", "false").lower() == "true" for other in OTHERS):
        raise TrainError(f"{' and '.join(OTHERS)} are not supported: take a file of train/machines/")
    if is_shared() and os.environ.get("FSDP_VERSION") != "2":
        raise TrainError("bases are shared by FSDP2 alone: take train/machines/fsdp2.yaml, or set fsdp_version: 2")
    if (packs := recipe.tokens_per_step // recipe.max_length) < count():
        raise TrainError(
            f"{count()} processes share steps of {packs} packs of max_length={recipe.max_length} tokens, so some would "
            f"idle: set tokens_per_step={count() * recipe.max_length} or more, or start fewer"
        )


def without_leaks(
    recipe: Recipe, chats: Sequence[Chat]
) -> tuple[Sequence[Chat], str | Mapping[str, Any], Sequence[str]]:
    """The rows whose question is in no test set, what the check found, and the rows it dropped; or a refusal."""
    if not recipe.check_against:
        return chats, "unchecked", ()
    tests = [text for test in recipe.check_against for text in read_texts(test)]
    report = check(read_texts(recipe.data), tests, in_meaning(recipe.check_embedder))
    if recipe.leaks == "refuse":
        refuse_all(report.refusals())
    for note in report.notes():
        _say(f"note: {note}")
    leaked = report.leaked
    card = {**report.card(), "compared_in_meaning": recipe.check_embedder or False}
    return [chat for chat in chats if chat.where not in leaked], card, leaked


def prepare(recipe: Recipe, chats: Sequence[Chat], template: "Template") -> Material:
    """Tokens and labels of every row. Rows that are too long are refused by name, or dropped if the recipe says so."""
    from train.masking import encode, too_long

    samples = encode(chats, template)
    if recipe.too_long == "refuse":
        refuse_all(too_long(samples, recipe.max_length))
    for note in sorted({sample.note for sample in samples} - {""}):
        _say(f"note: {note}")
    groups = {chat.where: chat.group for chat in chats}
    kept = [sample for sample in samples if len(sample.tokens) <= recipe.max_length]
    if len(kept) < len(samples):
        _say(
            f"note: {len(samples) - len(kept)} of {len(samples)} rows are left out, being longer than "
            f"{recipe.max_length} tokens"
        )
    kept_groups = [groups[sample.where] for sample in kept]
    out = held_out(kept_groups, recipe.eval_fraction, recipe.seed)
    training = tuple(kept[i] for i in drawn(kept_groups, out, recipe.rows, recipe.seed))
    if not training:
        raise TrainError(
            f"{recipe.data}: no row is left to train on; add rows, raise max_length or lower eval_fraction"
        )
    if len(training) < (recipe.rows or 0):
        raise TrainError(
            f"{recipe.data}: rows: {recipe.rows} are asked for, but only {len(training)} can be trained on"
        )
    return Material(
        training=training,
        held_out=tuple(sample for i, sample in enumerate(kept) if i in out),
        dropped=tuple(sample.where for sample in samples if len(sample.tokens) > recipe.max_length),
    )


def _summary(folder: Path, results: dict[str, float]) -> str:
    losses = (
        f"evaluation loss {results['eval_loss_before']:.4f} -> {results['eval_loss']:.4f}"
        if results["held_out_rows"]
        else f"last training loss {results['train_loss']:.4f}"
    )
    return (
        f"{folder}: {losses}; {results['tokens']:,} tokens in {results['seconds']:.0f} s "
        f"({results['tokens_per_second']:,.0f} tokens/s), {results['steps']} steps"
    )


def _how_to_serve(recipe: Recipe) -> str:
    return (
        f"Serve it: `adapters: {{{recipe.name}: {recipe.output / recipe.name}}}` in a stack file, then "
        "`python -m serve up STACK`; or with vLLM alone: "
        f"--enable-lora --max-lora-rank {recipe.rank} --lora-modules {recipe.name}={recipe.output / recipe.name}"
    )


def _say(text: str) -> None:
    """One of several processes speaks."""
    if is_first():
        print(text)


if __name__ == "__main__":
    sys.exit(main())
