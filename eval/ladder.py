"""`ladder.yaml`: the steps of a journey in their order, each one way of answering, as an ordinary grid to run.

    ladder = load_ladder(Path("ladder.yaml")); run(ladder.grid, folder)

Refuses everything wrong with the ladder, its stack and its task at once. Knows nothing of what came of a step.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import yaml
from pydantic import ConfigDict, Field

from eval.gold import is_oracle
from eval.grid import Grid, GridSettings, assemble, exactly, unknown_names
from retrieval.files import STRICT, read_text, read_yaml
from serve.chat import ServeError
from serve.combination import Combination
from serve.stack import Stack

PARTS: Final = {"adapters": "adapter", "retrievers": "retriever", "strategies": "strategy"}
"""The lists of a grid, and the part of a combination that each holds."""

LADDER: Final = """\
ladder.yaml, one change at a time:

  name: the talk's retrieval story
  stack: stack.yaml
  task: task.yaml
  steps:
    - {name: cosine search, combination: "base:dense:direct", published: 0.45}
    - {name: HyDE, combination: "base:dense-hyde:direct", rejected: true}   # the story went on without it
    - {name: other chunks, combination: "base:dense-small:direct", published: 0.65}
    - {name: fine-tuned embeddings, needs: workstation}                     # shown, not run
    - {name: re-ranking, combination: "base:reranked:direct", against: cosine search}

A step is compared with the last one before it that was kept and runs, or with the one it is `against`.

example: python -m eval ladder out/demo/world/ladder.yaml --out out/demo-ladder"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row of a ladder."""

    name: str
    combination: str = ""
    """`adapter:retriever:strategy`; of a step that `needs` something it may be left out."""
    against: str = ""
    """The name of the step that it is compared with: unless named, the last one before it that was kept and runs."""
    rejected: bool = False
    """Whether the story that the ladder tells went on without it."""
    published: Annotated[float, Field(ge=0, le=1)] | None = None
    """The story's own figure once this step was taken, where it gives one."""
    needs: str = ""
    """What it takes that is not here, e.g. `workstation`: the step is shown with this reason, and not run."""
    note: str = ""
    """What a reader should know of it, in a sentence."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def cell(self) -> Combination:
        """How it answers; only of a step that runs."""
        return Combination.parse(self.combination)


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderSettings:
    """`ladder.yaml` as it is written."""

    name: str
    """What the page is called, e.g. "from 45 to 98 %: the talk's retrieval story"."""
    story: str = "the talk"
    """Whose steps and figures these are, as sentences name it."""
    stack: Path
    task: Path
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    concurrency: Annotated[int, Field(ge=1)] = 64
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    repeats: Annotated[int, Field(ge=1)] = 1

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """A ladder that has been checked: every step that runs can be asked."""

    settings: LadderSettings
    grid: Grid
    """Its combinations, the first step's as the baseline."""

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.settings.steps


def is_ladder(path: Path) -> bool:
    """Whether this file is a ladder: it has `steps`, which a grid has not."""
    data = yaml.safe_load(read_text(path))
    return isinstance(data, dict) and "steps" in data


def load_ladder(path: Path) -> Ladder:
    """Read a ladder; relative paths in it are relative to it. FileError has every problem of every file."""
    settings = read_yaml(path, LadderSettings)
    grid = _grid(settings, path.parent)
    places = _lines(path)
    return Ladder(
        settings=settings,
        grid=assemble(
            grid,
            lambda stack, _: (f"{path}:{places[at]}: steps: {what}" for at, what in misfits(settings.steps, stack)),
        ),
    )


def compared_with(steps: Sequence[Step]) -> dict[str, str]:
    """The name of each step that runs, and of the one it is compared with; the first has none: empty."""
    found: dict[str, str] = {}
    kept = ""
    for step in steps:
        if not step.needs:
            found[step.name] = step.against or kept
            kept = kept if step.rejected else step.name
    return found


def misfits(steps: Sequence[Step], stack: Stack | None) -> Iterator[tuple[int, str]]:
    """What is wrong with the steps, as (place of the step, sentence)."""
    twice = {name for name, times in Counter(step.name for step in steps).items() if times > 1}
    asked = Counter(step.combination for step in steps if not step.needs)
    running: list[str] = []
    for place, step in enumerate(steps):
        named = repr(step.name)
        if step.name in twice:
            yield place, f"{named} names two steps; give each a name of its own"
        if step.against and step.against not in running:
            known = ", ".join(running) or "none"
            yield place, f"{named} is compared with {step.against!r}, no step before it that runs; there is: {known}"
        if step.needs:
            continue
        running.append(step.name)
        if asked[step.combination] > 1:
            yield place, f"{named}: {step.combination} is another step's too, so nothing would be compared"
        yield from ((place, f"{named}: {what}") for what in _unanswerable(step, stack))
    if not running:
        yield 0, "every step needs something that is not here, so there is nothing to run"


def _unanswerable(step: Step, stack: Stack | None) -> Iterator[str]:
    """Why this step cannot be asked."""
    try:
        cell = step.cell
    except ServeError as error:
        yield f"{error}; or say what the step `needs`" if not step.combination else str(error)
        return
    if is_oracle(cell.retriever):
        yield f"{cell} is an oracle arm, which nobody can deploy, so no step of a journey"
    elif stack is not None:
        for part, name in PARTS.items():
            yield from unknown_names(stack, part, [getattr(cell, name)])


def _grid(settings: LadderSettings, here: Path) -> GridSettings:
    """The grid of the steps that run, in their order; what cannot be read as a combination is left to `misfits`."""
    names = [step.combination for step in settings.steps if not step.needs]
    return replace(
        exactly(names, here / settings.stack, here / settings.task),
        concurrency=settings.concurrency,
        price_per_hour=settings.price_per_hour,
        repeats=settings.repeats,
    )


def _lines(path: Path) -> list[int]:
    """The line on which each step begins."""
    root: Any = yaml.compose(read_text(path), yaml.SafeLoader)
    steps = next(value for key, value in root.value if key.value == "steps")
    return [one.start_mark.line + 1 for one in steps.value]
