"""Does the server say what training taught? The same chats through the training code and through vLLM, compared.

    python -m scripts.check_parity out/adapters/demo

For the base and for the adapter on it: the prompts' token ids, the log-probabilities of the file's answers, and the
greedy answers. An adapter that learnt on 4 bits is judged on the base in 16, where it is served; how far that is from
where it learnt is a figure of its own. Knows nothing of strategies or retrieval.
"""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.table import Table

from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.files import FileError
from scripts.accounts import Account, Dtype, Question, Subject, account, as_trained, choose, hear
from serve.chat import ServeError
from train.base import find_base
from train.chat import read_chats
from train.door import TrainError, refuse

EQUAL_ANSWERS: Final = 0.95
"""The share of greedy answers that must be equal: rounding decides between two tokens that are as likely."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far the log-probability of a token of the answers may be from the other side's."""

    mean: float
    worst: float

    def allows(self, mean: float, worst: float) -> bool:
        """Never a number that is none."""
        return mean <= self.mean and worst <= self.worst


WHAT_NOW: Final[Mapping[Dtype, str]] = {
    "bfloat16": "run it again with --dtype float32: where that finds parity, it was rounding",
    "float32": "do not serve this adapter before you know why",
}
Listen = Callable[[Path, Mapping[str, Path], Dtype, Sequence[Question]], list[list[Account]]]
TOLERANCES: Final[Mapping[Dtype, Tolerance]] = {
    # The pocket model without and with its adapter: 1.9e-6 and 5.8e-7 on average, 2.2e-5 and 9.5e-6 at most; deeper
    # models get room. An alpha of 33 instead of 32 moves 0.001 on average and 0.16 at most.
    "float32": Tolerance(mean=1e-4, worst=1e-3),
    # 0.019 and 0.0009, 0.30 and 0.11. Half the alpha moves 0.045 and 2.4; a tenth more or less is not seen.
    "bfloat16": Tolerance(mean=0.05, worst=1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two accounts of each question, compared."""

    prompts: tuple[int | None, ...]
    """The first token in which the two prompts differ; None where they are equal."""
    answers: tuple[int | None, ...]
    """The same of the greedy answers."""
    apart: tuple[tuple[float, ...], ...]
    """How far the two log-probabilities are from each other, for each token of each answer of the file's."""

    @property
    def mean(self) -> float:
        """Over all tokens of all answers."""
        return fmean(chain.from_iterable(self.apart))

    @property
    def worst(self) -> float:
        """Over all tokens of all answers."""
        return max(chain.from_iterable(self.apart))


def compare(some: Sequence[Account], others: Sequence[Account]) -> Agreement:
    """Question by question."""
    pairs = list(zip(some, others, strict=True))
    return Agreement(
        prompts=tuple(_parting(one.prompt, other.prompt) for one, other in pairs),
        answers=tuple(_parting(one.answer, other.answer) for one, other in pairs),
        apart=tuple(tuple(abs(a - b) for a, b in zip(x.gold, y.gold, strict=True)) for x, y in pairs),
    )


def _parting(some: Sequence[int], others: Sequence[int]) -> int | None:
    return next((n for n, (one, other) in enumerate(zip_longest(some, others)) if one != other), None)


def problems(agreement: Agreement, questions: Sequence[Question], tolerance: Tolerance) -> Iterator[str]:
    """Why this is no parity, each with the first message that shows it; nothing when it is parity."""
    if sentence := _elsewhere("prompt", agreement.prompts, questions, allowed=0):
        yield sentence
    if not tolerance.allows(agreement.mean, agreement.worst):
        first = next(n for n, apart in enumerate(agreement.apart) if not tolerance.allows(fmean(apart), max(apart)))
        apart = agreement.apart[first]
        yield (
            f"{questions[first].where}: the answer's log-probabilities are {fmean(apart):.2g} apart on average and "
            f"{max(apart):.2g} at most (all answers': {agreement.mean:.2g}, {agreement.worst:.2g}); rounding explains "
            f"{tolerance.mean:g} and {tolerance.worst:g}"
        )
    if sentence := _elsewhere("greedy answer", agreement.answers, questions, allowed=1 - EQUAL_ANSWERS):
        yield sentence


def _elsewhere(what: str, parts: Sequence[int | None], questions: Sequence[Question], allowed: float) -> str:
    """Where the first two of a kind part, and how many do; nothing when no larger share than `allowed` does."""
    apart = [(question.where, part) for question, part in zip(questions, parts, strict=True) if part is not None]
    if len(apart) <= allowed * len(parts):
        return ""
    where, part = apart[0]
    return f"{where}: another {what} from its token {part} on, as in {len(apart)} of {len(parts)} chats"


def main(arguments: Sequence[str] | None = None, listen: Listen = hear) -> int:
    """Compare, and say what to do next; the exit code. `listen` asks the server."""
    parser = Parser(
        prog="python -m scripts.check_parity",
        description="Compare what the training code and vLLM make of the same chats, without and with an adapter.",
        epilog="example: python -m scripts.check_parity out/adapters/demo --prompts 50",
    )
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="an adapter's folder")
    parser.add_argument("--prompts", type=int, default=50, metavar="N", help="how many chats (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="CHATS", help="JSONL (default: what the adapter was trained on)")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the base, where it is no longer where it was")
    parser.add_argument(
        "--dtype",
        choices=tuple(TOLERANCES),
        default="bfloat16",
        help="of both sides: bfloat16 (default) is what is served; float32, without rounding in the way, sees more",
    )
    parser.add_argument(
        "--merged", type=Path, metavar="FOLDER", help="compare this work of train.merge's with the served adapter, too"
    )
    options = parser.parse_args(arguments)
    if options.prompts < 1:
        parser.error("--prompts: at least 1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # as in train.lora
    tell_progress("serve")
    stop_politely()
    try:
        check(options, listen)
    except (TrainError, FileError, ServeError) as error:
        return refuse(error)
    return 0


def check(options: Namespace, listen: Listen) -> None:
    """Ask both sides and show how far they agree; TrainError unless it is far enough."""
    subject = Subject.load(options.adapter, options.base)
    questions = choose(read_chats(options.data or subject.recipe.data), subject, options.prompts)
    merged = [find_base(str(options.merged))] if options.merged else []
    name, dtype, tolerance = subject.adapter.name, options.dtype, TOLERANCES[options.dtype]

    bare, heard = listen(subject.base, {name: subject.adapter}, dtype, questions)
    told = {f"{name}, merged": compare(listen(model, {}, dtype, questions)[0], heard) for model in merged}
    model = as_trained(subject, replace(subject.recipe, quantize="none", dtype=dtype))
    with model.disable_adapter():
        judged = {"base": compare(account(model, questions, bare), bare)}
    judged[name] = compare(account(model, questions, heard), heard)
    if subject.recipe.quantize != "none":
        del model  # a GPU need not hold both
        model = as_trained(subject, subject.recipe)
        told[f"{name} on {subject.recipe.quantize}"] = compare(account(model, questions, heard), heard)

    show(judged, f"{len(questions)} prompts and {sum(len(q.gold) for q in questions):,} tokens of answers, {dtype}")
    if told:
        show(told, f"how far from {name} as it is served (told, not judged)")
    wrong = [f"{who}: {what}" for who, each in judged.items() for what in problems(each, questions, tolerance)]
    if wrong:
        raise TrainError("\n".join(["no parity:", *wrong, WHAT_NOW[dtype]]))
    print(f"parity: vLLM serves what {name} learnt; `adapters: {{{name}: {subject.adapter}}}` in a stack file does it")


def show(agreements: Mapping[str, Agreement], title: str) -> None:
    """A line each, compared with what vLLM serves."""
    table = Table(title=title)
    for column in ("", "equal prompts", "log-probabilities apart", "at most", "equal greedy answers"):
        table.add_column(column, justify="right" if column else "left")
    for who, each in agreements.items():
        prompts, answers = (f"{parts.count(None)} of {len(parts)}" for parts in (each.prompts, each.answers))
        table.add_row(who, prompts, f"{each.mean:.2g}", f"{each.worst:.2g}", answers)
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
