"""Ask every adapter a grid's questions, through the evaluation's own front door, and read back what they score.

Writes a grid and a stack like the given ones, with other adapters. Knows nothing of how adapters came to be.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from eval.folder import load_results
from eval.grid import Grid, searches
from eval.summary import scores
from retrieval.files import write_atomically
from retrieval.stats import Difference, Estimate, mean, paired
from scripts.sweep.doors import go_through
from serve.combination import BASE
from serve.stack import Stack

Ask = Callable[[Path, Path], None]
"""(grid, folder of the run): answer what is not answered yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What every adapter scored on one grid."""

    grid: str
    questions: Path
    """The file."""
    report: Path
    table: Mapping[str, Mapping[str, float]]
    """Adapter -> question -> score, `base` among them; over several ways of asking, the mean."""

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.table[BASE])

    def of(self, adapter: str) -> Estimate:
        """The mean, with its interval."""
        return mean(list(self.table[adapter].values()))

    def change(self, after: str, before: str) -> Difference:
        """One adapter against another, by question."""
        ours, theirs = self.table[after], self.table[before]
        return paired([ours[item] for item in theirs], list(theirs.values()))


def through_the_door(grid: Path, folder: Path) -> None:
    """`python -m eval run`; its own report stays in its folder."""
    go_through([sys.executable, "-m", "eval", "run", str(grid), "--out", str(folder)], quiet=True)


def ask(name: str, grid: Grid, adapters: Mapping[str, Path], folder: Path, door: Ask = through_the_door) -> Scores:
    """The base and these adapters on the grid's questions: one engine, or none if all are answered."""
    written = write_grid(grid, adapters, folder / f"{name}.yaml")
    door(written, folder / name)
    return Scores(
        grid=name,
        questions=grid.task.settings.examples,
        report=folder / name / "report.html",
        table=read_scores(folder / name, (BASE, *adapters)),
    )


def write_grid(grid: Grid, adapters: Mapping[str, Path], file: Path) -> Path:
    """The grid with these adapters beside the base, as a file, and its stack in another."""
    stack_file = file.with_suffix(".stack.yaml")
    stack = replace(grid.stack.only(searches(grid.cells)), adapters=dict(adapters), file=None)
    settings = replace(
        grid.settings, stack=Path(stack_file.name), task=grid.settings.task.resolve(), adapters=(BASE, *adapters)
    )
    for path, kind, content in ((stack_file, Stack, stack), (file, type(settings), settings)):
        plain = TypeAdapter(kind).dump_python(content, mode="json", exclude_defaults=True)
        write_atomically(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    return file


def read_scores(run: Path, adapters: Sequence[str]) -> dict[str, dict[str, float]]:
    """The primary score of each question for each adapter, over the cells of the grid."""
    results = load_results(run)
    found: dict[str, dict[str, float]] = {}
    for adapter in adapters:
        cells = [scores(results, cell) for cell in results.records if cell.adapter == adapter]
        found[adapter] = {one.id: sum(cell[one.id] for cell in cells) / len(cells) for one in results.examples}
    return found
