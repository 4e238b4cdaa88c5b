"""Worked examples that a model is shown are never questions of the test set: it would read the answers off.

Reads the indexes of a grid, asks nothing and starts nothing. Knows nothing of how examples are found.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from eval.grid import Grid, searches
from eval.record import RunError
from eval.task import Example
from retrieval.generation import current, verified
from retrieval.passage import Document
from retrieval.store import Passages
from train.overlap import read

NAMED: Final = 3
"""Questions that the refusal shows."""


def refuse_test_questions(grid: Grid) -> None:
    """RunError, with a sentence for each retriever of the grid that would show questions of the test set."""
    asked = _asked(grid.task.examples)
    found: dict[Path, list[str]] = {}
    problems = []
    for name, settings in grid.stack.only(searches(grid.cells)).retrievers.items():
        index = settings.index
        if index not in found:
            found[index] = [one.text for one in _demonstrations(index) if _is_asked(one, asked)]
        if texts := found[index]:
            problems.append(
                f"{grid.stack.where('retrievers', name)}: retrievers.{name}: {_sentence(grid, index, texts)}"
            )
    if problems:
        raise RunError("\n".join(problems))


def _asked(examples: tuple[Example, ...]) -> dict[str, set[str]]:
    """The databases that each question of the test set is asked about, by the question's key; an empty key is none."""
    asked: dict[str, set[str]] = {}
    for one in examples:
        asked.setdefault(read(one.question).key, set()).add(_database(one.meta.get("db_id")))
    asked.pop("", None)
    return asked


def _demonstrations(index: Path) -> Iterator[Document]:
    """The documents that a strategy would show as questions with their answers."""
    generation = current(index)
    verified(generation)
    return (one for one in Passages(generation).each_document() if "answer" in one.meta)


def _is_asked(document: Document, asked: dict[str, set[str]]) -> bool:
    """Whether it is a question of the test set, however it is written. The same words about other data are none."""
    databases = asked.get(read(document.text).key)
    mine = _database(document.meta.get("db_id"))
    return databases is not None and (not mine or mine in databases or "" in databases)


def _database(named: Any) -> str:
    return str(named or "")


def _sentence(grid: Grid, index: Path, texts: list[str]) -> str:
    shown = "; ".join(repr(text) for text in texts[:NAMED])
    count = "1 worked example of" if len(texts) == 1 else f"{len(texts)} worked examples of"
    return (
        f"{count} {index} would show the model the answer to a question of {grid.task.settings.examples} ({shown}). "
        f"Build that index of the train split: python -m retrieval build TRAIN {index}"
    )
