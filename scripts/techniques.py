"""docs/techniques.md: every technique, its name in a grid or its command, and what it was measured to bring and cost.

    python -m scripts.techniques out/techniques out/spider

Reads docs/techniques.yaml and the runs that are given; types no figure. Knows nothing of how a technique works.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from eval.folder import Results, load_results
from eval.record import RunError
from eval.summary import difference
from retrieval.console import Parser
from retrieval.files import STRICT, FileError, read_yaml, write_atomically
from serve.combination import Combination

DOCS: Final = Path(__file__).parents[1] / "docs"
ROWS: Final = 73
HEAD: Final = """\
# Every technique, by name

Written by `python -m scripts.techniques {runs}`
from [techniques.yaml](techniques.yaml) and these runs; no figure is typed. An effect is the paired difference of the
task's own score against the same combination without the technique, in points of 100, with its 95 % interval,
uncorrected: of so many rows some will differ by chance. Tokens are what it adds to those of an answer. *Not measured*:
none of these runs shows it, most often since the embedded model cannot do it and it needs the workstation form; its
planted test says that it does what it should.

| # | technique | axis | name | effect | tokens | planted test |
| --: | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Two cells of a run, with the technique and without."""

    run: str
    """The name of the run's folder."""
    cell: str
    against: str
    slice: str = ""
    """Only questions of this slice; all, where there is none."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """A row of the table."""

    id: int
    technique: str
    axis: str
    name: str = ""
    """What to write in a grid, or what to type."""
    planted: str = ""
    """The test that would fail if it did nothing."""
    measured: tuple[Measured, ...] = ()
    see: str = ""
    """Where figures that no paired difference tells are to be had: a command."""
    undone: str = ""
    """Why it is not there."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Techniques:
    """docs/techniques.yaml."""

    techniques: Annotated[tuple[Technique, ...], Field(min_length=1)]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


def load(path: Path) -> tuple[Technique, ...]:
    """The rows, in order. FileError has every problem."""
    rows = read_yaml(path, Techniques).techniques
    problems = [f"{path}:1: technique {n} is missing" for n in range(1, ROWS + 1) if all(n != one.id for one in rows)]
    for one in rows:
        if bool(one.name) == bool(one.undone):
            problems.append(f"{path}:1: technique {one.id}: say `name`, or why it is `undone`")
        if one.planted and not (path.parents[1] / one.planted.partition("::")[0]).is_file():
            problems.append(f"{path}:1: technique {one.id}: there is no {one.planted}")
    if problems:
        raise FileError("\n".join(problems))
    return tuple(sorted(rows, key=lambda one: one.id))


def page(rows: Sequence[Technique], runs: Mapping[str, Results], command: str) -> str:
    """The table, and what is left out of it with the reason."""
    done = [one for one in rows if not one.undone]
    left = [f"- {one.id}, {one.technique}: {one.undone}" for one in rows if one.undone]
    table = "\n".join(_line(one, runs) for one in done)
    return HEAD.format(runs=command) + table + ("\n\nNot done:\n\n" + "\n".join(left) if left else "") + "\n"


def _line(one: Technique, runs: Mapping[str, Results]) -> str:
    found = [_figures(which, runs[which.run]) for which in one.measured if which.run in runs]
    effects, tokens = ("<br>".join(column) for column in zip(*found, strict=True)) if found else ("", "")
    nothing = one.see or "not measured"
    planted = (
        f"[{Path(one.planted.partition('::')[0]).stem}](../{one.planted.partition('::')[0]})" if one.planted else ""
    )
    cells = (str(one.id), one.technique, one.axis, one.name, effects or nothing, tokens, planted)
    return f"| {' | '.join(cells)} |"


def _figures(which: Measured, results: Results) -> tuple[str, str]:
    """The effect and the tokens."""
    kept, after, before = _cells(which, results)
    effect = difference(kept, after, before).estimate
    where = f" ({which.slice})" if which.slice else ""
    said = f"{100 * effect.value:+.1f} [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}] `{which.cell}`{where}"
    return said, f"{_spent(kept, after) - _spent(kept, before):+.0f}"


def _spent(results: Results, cell: Combination) -> float:
    answers = results.records[cell].values()
    return sum(one.usage.prompt_tokens + one.usage.completion_tokens for one in answers) / len(answers)


def _cells(which: Measured, results: Results) -> tuple[Results, Combination, Combination]:
    cells = [Combination.parse(name) for name in (which.cell, which.against)]
    for cell in cells:
        if not results.records.get(cell) or results.missing(cell):
            raise RunError(f"out/{which.run} has no whole {cell}, which docs/techniques.yaml names; run its grid first")
    ids = {one.id for one in results.examples if not which.slice or one.meta.get("slice") == which.slice}
    if not ids:
        raise RunError(
            f"out/{which.run} has no question of the slice {which.slice!r}, which docs/techniques.yaml names"
        )
    return results.only(ids), *cells


def main(words: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = Parser(description=__doc__, epilog="example: python -m scripts.techniques out/techniques out/spider")
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders of finished runs")
    options = parser.parse_args(words)
    try:
        rows = load(DOCS / "techniques.yaml")
        runs = dict(_loaded(options.runs))
        write_atomically(DOCS / "techniques.md", page(rows, runs, " ".join(map(str, options.runs))))
    except (FileError, RunError) as error:
        raise SystemExit(str(error)) from None
    print(f"docs/techniques.md: {sum(not one.undone for one in rows)} of {len(rows)} techniques have a name")


def _loaded(folders: Sequence[Path]) -> Iterator[tuple[str, Results]]:
    for folder in folders:
        yield folder.name, load_results(folder)


if __name__ == "__main__":
    main()
