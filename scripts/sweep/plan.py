"""What a sweep will do, and everything that can be wrong with it, before anything slow starts.

Knows nothing of how training and asking are done, or of what comes out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.gold import is_oracle
from eval.grid import Grid, load_grid
from eval.keys import keys_of
from retrieval.files import FileError
from retrieval.passage import RetrievalError
from scripts.sweep.checkpoints import expected, snapshots
from scripts.sweep.variants import Variant, read_variants
from serve.base import model_folder
from serve.chat import ServeError
from serve.combination import BASE
from train.base import check_base, find_base, fingerprint, read_config
from train.chat import read_chats
from train.door import TrainError
from train.holdout import drawn, held_out
from train.lora import without_leaks
from train.provenance import identify, is_finished, record_check, unfinished
from train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Plan:
    """Trainings, and the questions that each of them will be asked."""

    variants: tuple[Variant, ...]
    grids: Mapping[str, Grid]
    """By the names of their files; the first is what is trained for, the others are watched for losses."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What there is to learn from, before any of it is held out."""

    groups: Sequence[str]
    """Each row's."""
    overlap: str | Mapping[str, Any]
    """What the check against test sets found."""
    leaked: Sequence[str]
    """Rows that it leaves out."""


def load_plan(recipe: Path, grids: Sequence[Path]) -> Plan:
    """Read the recipe, the grids and all that they name; FileError has every problem."""
    problems: list[str] = []
    variants: tuple[Variant, ...] = ()
    with _noting(problems):
        variants, wrong = read_variants(recipe)
        problems += wrong
    loaded: dict[str, Grid] = {}
    for path in grids:
        with _noting(problems):
            loaded[path.stem] = _checked(path)
    for name, times in Counter(path.stem for path in grids).items():
        if times > 1:
            problems.append(f"{times} grids are called {name}.yaml, and results are kept under that name: rename one")
    for variant in variants:
        with _noting(problems):
            _check_model(variant.recipe, loaded.values())
    rows, wrong = _check_data(variants)
    problems += wrong
    if not problems:
        for variant in variants:
            with _noting(problems):
                _check_made(variant, rows[variant.name])
    if problems:
        raise FileError("\n".join(dict.fromkeys(problems)))
    return Plan(variants, loaded)


def plain(grid: Grid) -> Grid:
    """The grid for the base model alone. The oracle arm is left out: nobody could deploy what is best under it."""
    retrievers = tuple(name for name in grid.settings.retrievers if not is_oracle(name))
    baseline = replace(grid.baseline, adapter=BASE)
    settings = replace(grid.settings, adapters=(BASE,), retrievers=retrievers, baseline=str(baseline))
    return replace(grid, settings=settings, baseline=baseline)


def _checked(path: Path) -> Grid:
    """The grid, when everything it needs but the adapters is there."""
    grid = plain(load_grid(path))
    if grid.stack.url:
        raise FileError(
            f"{grid.stack.where('url')}: url: a server that runs already cannot know adapters that are yet to be "
            "trained: remove the key, and an engine is started here"
        )
    keys_of(grid)  # hashes the model, the indexes and the worked examples, or says which is missing
    return grid


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except (FileError, TrainError, ServeError, RetrievalError) as error:
        problems += str(error).split("\n")


def _check_model(recipe: Recipe, grids: Iterable[Grid]) -> None:
    """The base can be trained on, and every grid's stack serves it."""
    base = find_base(recipe.model)
    check_base(read_config(base), recipe)
    for stack in (grid.stack for grid in grids):
        served = model_folder(stack.model)
        if served is None or served.resolve() == base.resolve() or "quantization_config" in read_config(served):
            continue
        if fingerprint(served) != fingerprint(base):
            raise TrainError(
                f"{stack.where('model')}: model: serves {stack.model}, but the recipe trains on {recipe.model}: "
                "an adapter works on its own base only, so name the same model in both"
            )


def _check_data(variants: Sequence[Variant]) -> tuple[dict[str, Rows], list[str]]:
    """The rows of each variant, and what is wrong with them: each file is read once, whatever else is tried."""
    found: dict[tuple[object, ...], Rows] = {}
    rows: dict[str, Rows] = {}
    problems: list[str] = []
    for variant in variants:
        recipe = variant.recipe
        source = (recipe.data, recipe.check_against, recipe.check_embedder, recipe.leaks)
        if source not in found:
            found[source] = Rows((), "unchecked", ())
            with _noting(problems):
                if not recipe.data.is_file():
                    raise TrainError(f"{recipe.data}: there is no such file; set `data` to a file of chats")
                chats, overlap, leaked = without_leaks(recipe, read_chats(recipe.data))
                found[source] = Rows([chat.group for chat in chats], overlap, leaked)
        rows[variant.name] = found[source]
        groups = found[source].groups
        # Rows that turn out too long can make it fewer; training says so then.
        most = len(drawn(groups, held_out(groups, recipe.eval_fraction, recipe.seed), None, recipe.seed))
        if groups and recipe.rows and recipe.rows > most:
            problems.append(
                f"{recipe.data}: rows: {recipe.rows} are asked for, but only {most} can be trained on; null means all"
            )
    return rows, problems


def _check_made(variant: Variant, rows: Rows) -> None:
    """It can start from where it continues; what is there already is of this very recipe, with its snapshots."""
    held = snapshots(variant.folder)
    if (
        not variant.recipe.continue_from
        and not held
        and not variant.folder.exists()
        and not unfinished(variant.folder).exists()
    ):
        return
    identity = identify(variant.recipe, find_base(variant.recipe.model), rows.leaked)
    for folder in held:
        is_finished(folder, identity)
    if not is_finished(variant.folder, identity):
        return
    if len(held) < expected(variant):
        raise TrainError(
            f"{variant.folder} was made with {len(held)} snapshots and the recipe asks for "
            f"{variant.recipe.snapshots}: delete it to train again, or lower `snapshots`"
        )
    record_check(variant.folder, rows.overlap)
