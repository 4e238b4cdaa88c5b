"""`grid.yaml`: which adapters, retrievers and strategies to cross on which test set, and what to compare them with.

Reads the file with the stack and the task it names, and refuses everything wrong with any of the three at once. Starts
nothing and opens no index.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import ConfigDict, Field

from eval.gold import AMONG, is_oracle, searched
from eval.task import Task, load_task
from retrieval.files import STRICT, FileError, read_yaml
from serve.chat import ServeError
from serve.combination import BASE, GOLD, NONE, Combination
from serve.stack import Stack, lines

T = TypeVar("T")
Names = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSettings:
    """`grid.yaml` as it is written; a list means "try each"."""

    stack: Path
    task: Path
    adapters: Names
    retrievers: Names
    strategies: Names
    only: tuple[str, ...] = ()
    """Of the product, these combinations alone; all of it unless named."""
    baseline: str
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Calls in flight at once; the engine batches them."""
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """What an hour of the machine costs, in any unit: with it, the report prices answers."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """How often each question is asked: the first time as the stack samples, then with a seed for each time."""
    screen: bool = False
    """Whether hopeless combinations are asked no further; `eval.screening` says which those are."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def cells(self) -> tuple[Combination, ...]:
        """The product or what is left of it, in the order of the file, strategies slowest."""
        return tuple(Combination.parse(name) for name in _names(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid that has been checked: every cell can be asked and every answer scored."""

    settings: GridSettings
    stack: Stack
    task: Task
    baseline: Combination

    @property
    def cells(self) -> tuple[Combination, ...]:
        """Every combination to try."""
        return self.settings.cells


def searches(cells: Iterable[Combination]) -> tuple[Combination, ...]:
    """The cells, each with the retriever that is really searched: what a stack must have to try them."""
    return tuple(replace(cell, retriever=searched(cell.retriever)) for cell in cells)


def exactly(names: Sequence[str], stack: Path, task: Path) -> GridSettings:
    """A grid of these combinations and no others, of which the first is the baseline.

    What cannot be read as a combination stands in `only` alone, where `misfits` finds it.
    """
    parts = [name.split(":") for name in names if name.count(":") == 2] or [[BASE, NONE, NONE]]
    adapters, retrievers, strategies = (tuple(dict.fromkeys(column)) for column in zip(*parts, strict=True))
    return GridSettings(
        stack=stack,
        task=task,
        adapters=adapters,
        retrievers=retrievers,
        strategies=strategies,
        only=tuple(dict.fromkeys(names)),
        baseline=next(iter(names), ":".join(parts[0])),
    )


def load_grid(path: Path) -> Grid:
    """Read a grid; relative paths in it are relative to it. FileError has every problem of every file."""
    written = read_yaml(path, GridSettings)
    settings = replace(written, stack=path.parent / written.stack, task=path.parent / written.task)
    places = lines(path)
    return assemble(
        settings,
        lambda *loaded: (f"{path}:{places[key,]}: {key}: {what}" for key, what in misfits(settings, *loaded)),
    )


def assemble(settings: GridSettings, problems_with: Callable[[Stack | None, Task | None], Iterable[str]]) -> Grid:
    """The grid with its stack and task; FileError has their problems, and those that the caller finds with the two."""
    problems: list[str] = []
    stack = _or_note(problems, lambda: Stack.load(settings.stack))
    task = _or_note(problems, lambda: load_task(settings.task))
    problems += problems_with(stack, task)
    if problems or stack is None or task is None:
        raise FileError("\n".join(problems))
    return Grid(settings=settings, stack=stack, task=task, baseline=Combination.parse(settings.baseline))


def _names(settings: GridSettings) -> list[str]:
    return [name for name in _product(settings) if not settings.only or name in settings.only]


def _product(settings: GridSettings) -> list[str]:
    crossed = product(settings.strategies, settings.retrievers, settings.adapters)
    return [f"{adapter}:{retriever}:{strategy}" for strategy, retriever, adapter in crossed]


def _or_note(problems: list[str], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except (FileError, ServeError) as error:
        problems.append(str(error))
        return None


def misfits(settings: GridSettings, stack: Stack | None, task: Task | None) -> Iterator[tuple[str, str]]:
    """What is wrong with the grid itself, as (key, sentence)."""
    for key in ("adapters", "retrievers", "strategies"):
        names: tuple[str, ...] = getattr(settings, key)
        yield from ((key, f"{name!r} is listed twice") for name, times in Counter(names).items() if times > 1)
        if stack is not None:
            yield from ((key, what) for what in unknown_names(stack, key, names))
    yield from (
        ("only", what) for what in _unknown(settings.only, _product(settings), "not in the product of the lists")
    )
    yield from (
        ("baseline", what) for what in _unknown([settings.baseline], _names(settings), "not a cell of this grid")
    )
    if any(map(is_oracle, settings.baseline.split(":")[1:2])):
        yield "baseline", f"{settings.baseline!r} is the oracle arm, which nobody can deploy; compare with another cell"
    oracles = [name for name in settings.retrievers if is_oracle(name)]
    if task is not None and oracles and not any(example.has_gold for example in task.examples):
        yield "retrievers", f"`{oracles[0]}` needs evidence, and no example of {task.settings.examples} has any"
    for name in stack.retrievers if stack is not None else ():
        if name.startswith(AMONG) and name in settings.retrievers:
            what = f"`{name}` always means the evidence among what `{searched(name)}` finds"
            yield "retrievers", f"{what}; give the stack's retriever another name"


def unknown_names(stack: Stack, key: str, names: Iterable[str]) -> Iterator[str]:
    """What is wrong with names that a grid lists under this key: the stack has none such."""
    return _unknown(names, _offered(stack, key), f"not in {stack.file}")


def _offered(stack: Stack, key: str) -> tuple[str, ...]:
    """The names that a grid may list under this key."""
    return {
        "adapters": (BASE, *stack.adapters),
        "retrievers": (NONE, GOLD, *stack.retrievers, *(f"{AMONG}{name}" for name in stack.retrievers)),
        "strategies": tuple(stack.strategies),
    }[key]


def _unknown(names: Iterable[str], known: Sequence[str], why: str) -> Iterator[str]:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            yield f"{name!r}: {why}; " + (f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}")
