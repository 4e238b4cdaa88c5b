"""Where a combination does clearly worse than elsewhere, and training examples of just that (active learning).

Reads a finished run; what it exports is of the train split, never the test's own, and for `scripts.make_sft`.
    python -m scripts.weak_slices out/demo --out out/demo/world/weak.jsonl
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from eval.folder import Results, load_results, planned
from eval.record import RunError
from eval.summary import ranked, scores, summarise
from eval.task import Example, read_examples
from eval.wording import chance, counted, percent, points, span
from retrieval.console import Parser
from retrieval.files import FileError, write_jsonl
from retrieval.stats import mean
from scripts.slices import Finding, Slice, findings
from serve.chat import ServeError
from serve.combination import GOLD, Combination
from train.overlap import check, read_texts


def chosen(results: Results, name: str | None) -> Combination:
    """The named combination, or the best that could be chosen; RunError when it has gaps or is not in the run."""
    if name is None:
        rows = ranked(summarise(results))
        if not rows:
            raise RunError("no combination of this run is complete; finish it with `python -m eval run`")
        return Combination.parse(rows[0].combination)
    cell = Combination.parse(name)
    if cell not in results.records:
        raise RunError(f"{cell} is not in this run; it has {', '.join(map(str, results.records))}")
    if missing := results.missing(cell):
        raise RunError(f"{cell} still lacks {counted(missing, 'answer')}; finish the run with `python -m eval run`")
    return cell


def look(results: Results, cell: Combination) -> tuple[Finding, ...]:
    """Every slice of what this combination was asked, the weakest first."""
    asked, right = planned(cell, results.examples), scores(results, cell)
    return findings([example.meta for example in asked], [right[example.id] for example in asked])


def table(results: Results, cell: Combination, found: Sequence[Finding]) -> Iterator[str]:
    """The slices as lines. The oracle tells a slice that lacks knowledge from one that lacks behaviour."""
    whole = mean(list(scores(results, cell).values()))
    oracle = replace(cell, retriever=GOLD)
    has_oracle = oracle != cell and oracle in results.records and not results.missing(oracle)
    yield (
        f"{cell}: {percent(whole.value)} of {counted(len(results.records[cell]), 'question')} "
        f"(95 % interval {percent(whole.low)} to {percent(whole.high)})"
    )
    yield f"{'slice':<28}{'n':>5}{'score':>8}{'against the rest':>18}  {'95 % interval':<18}{'p (Holm)':>9}" + (
        "  with the evidence" if has_oracle else ""
    )
    for one in found:
        name = f"{one.slice.key}={one.slice.value}"
        line = f"{name:<28}{one.n:>5}{percent(one.score):>8}{points(one.difference.value):>18}  "
        line += f"{span(one.difference):<18}{chance(one.p_holm):>9}"
        yield line + (f"{_inside(results, oracle, one.slice):>19}" if has_oracle else "") + " weak" * one.is_weak


def _inside(results: Results, cell: Combination, slice_: Slice) -> str:
    right = scores(results, cell)
    inside = [right[one.id] for one in results.examples if one.id in right and slice_.holds(one.meta)]
    return percent(sum(inside) / len(inside)) if inside else "-"


def examples_of(slices: Sequence[Slice], train: Path, test: Path) -> list[Example]:
    """The train split's examples in these slices. FileError when there is none, or when one is a test question."""
    pairs = [
        (example, text)
        for example, text in zip(read_examples(train), read_texts(train), strict=True)
        if any(one.holds(example.meta) for one in slices)
    ]
    if not pairs:
        names = ", ".join(f"{one.key}={one.value}" for one in slices)
        raise FileError(f"{train}: no example has {names} in its meta; write or collect some, that is what is missing")
    leaks = check([text for _, text in pairs], read_texts(test)).refused
    if leaks:
        told = dict.fromkeys(f"{one.train.where}: is the test question {one.said}; remove it" for one in leaks)
        raise FileError("\n".join(told))
    return [example for example, _ in pairs]


def main() -> int:
    parser = Parser(
        description="Find the slices in which a combination is clearly worse, and export training examples of them.",
        epilog="example: python -m scripts.weak_slices out/demo --out out/demo/world/weak.jsonl",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--combination", metavar="ID", help="adapter:retriever:strategy (default: the run's best)")
    parser.add_argument(
        "--train", type=Path, metavar="FILE", help="the train split (default: train.jsonl beside the run's test set)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="where the examples go")
    options = parser.parse_args()
    try:
        for line in _report(options):
            print(line)
    except (FileError, RunError, ServeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _report(options: Namespace) -> Iterator[str]:
    results = load_results(options.run)
    cell = chosen(results, options.combination)
    found = look(results, cell)
    yield from table(results, cell, found)
    weak = [one for one in found if one.is_weak]
    if not weak:
        yield f"None of {counted(len(found), 'slice')} is clearly worse than the rest: which rows to add is a guess."
        return
    yield HINT
    train = options.train or (options.run / results.config.task.examples).parent / "train.jsonl"
    # The test set as it was asked: the file it came from may have changed since.
    rows = examples_of([one.slice for one in weak], train, options.run / "examples.jsonl")
    write_jsonl(options.out, map(asdict, rows))
    yield (
        f"wrote {counted(len(rows), 'training example')} of {counted(len(weak), 'weak slice')} to {options.out}; "
        "next: name it as `examples:` in an sft.yaml, and python -m scripts.make_sft"
    )


HINT: Final = (
    "A weak slice that is right with the evidence does not lack rows like it: it lacks retrieval, or rows among "
    "distractors (`raft`)."
)

if __name__ == "__main__":
    sys.exit(main())
