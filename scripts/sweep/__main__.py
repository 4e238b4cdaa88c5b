"""Train every variant that a recipe's lists mean, and score each of them, and its snapshots, as it would be used.

    python -m scripts.sweep out/demo/world/curve.yaml out/demo/world/dev_grid.yaml out/demo/world/general_grid.yaml

A list in the recipe means "try each". The first grid is what is trained for; further ones are watched for losses.
Killed or stopped, the same command goes on. Knows nothing of training or asking: both go through their front doors.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from eval.folder import locked
from eval.record import RunError
from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.files import FileError
from scripts.sweep.asking import Ask, ask, through_the_door
from scripts.sweep.checkpoints import checkpoints
from scripts.sweep.doors import DoorError, train
from scripts.sweep.outcome import Outcome
from scripts.sweep.plan import Plan, load_plan
from scripts.sweep.report import save, table
from scripts.sweep.sentences import next_step, sentences
from scripts.sweep.variants import write_recipe

Train = Callable[[Path], None]
"""(recipe): make its adapter."""
WIDE = 150
"""Columns of a table that goes to a file or a pipe."""


def sweep(plan: Plan, folder: Path, trainer: Train = train, asker: Ask = through_the_door) -> Outcome:
    """Train what is not trained yet, ask what is not answered yet, and put both together."""
    recipes = [write_recipe(one.recipe, folder / "recipes" / f"{one.name}.yaml") for one in plan.variants]
    todo = [recipe for one, recipe in zip(plan.variants, recipes, strict=True) if not one.folder.exists()]
    for number, recipe in enumerate(todo, start=1):
        print(f"training {number} of {len(todo)}: {recipe.stem}", flush=True)
        trainer(recipe)
    found = tuple(one for variant in plan.variants for one in checkpoints(variant))
    starts = {variant.start: variant.recipe.continue_from for variant in plan.variants}
    adapters = {name: folder for name, folder in starts.items() if folder} | {one.name: one.folder for one in found}
    target, *watched = [ask(name, grid, adapters, folder, asker) for name, grid in plan.grids.items()]
    return Outcome(found, target, tuple(watched))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all of it; 0 when all is well, 1 when something is wrong."""
    tell_progress()
    stop_politely()
    options = _parser().parse_args(arguments)
    try:
        plan = load_plan(options.recipe, options.grids)
        folder = (options.out or Path("out") / options.recipe.stem).resolve()
        with locked(folder) as lock:
            os.set_inheritable(lock, True)  # a training that outlives a killed sweep keeps the folder until it ends
            outcome = sweep(plan, folder)
            page = save(outcome, folder)
    except (FileError, RunError, DoorError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What is trained and answered is kept; the same command goes on from here.", file=sys.stderr)
        return 1
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    console.print(table(outcome))
    for sentence in sentences(outcome):
        console.print(f"\n{sentence}", highlight=False, markup=False)
    print(f"\nReport: {page}\nNext:   {next_step(outcome, folder)}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m scripts.sweep",
        description="Train a recipe in every way that its lists name, and score every adapter and snapshot.",
        epilog="example: python -m scripts.sweep out/demo/world/curve.yaml out/demo/world/dev_grid.yaml "
        "out/demo/world/general_grid.yaml",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe; a list means `try each`")
    parser.add_argument(
        "grids",
        type=Path,
        nargs="+",
        metavar="GRID",
        help="whose questions are asked: the first is what is trained for, others are watched for losses",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the sweep's folder (default: out/<name of the recipe file>)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
