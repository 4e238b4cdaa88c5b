"""Answers of a teacher as targets: one combination of a stack is asked for real, and what it answers well is kept.

A teacher is a grid of one cell over the train split, so that asking, resuming and scoring are the evaluation's own: an
outage is a failure line and never a row, and what is answered stays answered. Knows nothing of how rows are asked.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Final

from pydantic import ConfigDict

from eval.folder import Results, read_keys
from eval.grid import Grid, GridSettings
from eval.record import Record
from eval.run import run
from eval.task import Example, Task
from retrieval.files import STRICT, FileError
from retrieval.passage import Hit
from scripts.targets import Turn, says
from serve.combination import BASE, GOLD, NONE, Combination
from serve.stack import Stack
from train.base import find_base
from train.door import TrainError
from train.masking import Template

TEACHER: Final = "teacher"
"""Its name among the targets of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """Who is asked, and which answers are good enough."""

    combination: str
    """`adapter:retriever:strategy` of the stack; `gold`, the marked evidence, may be its retriever."""
    stack: Path | None = None
    """The teacher's stack; by default the one that the rows are made with."""
    keep: dict[str, float] = field(default_factory=dict)
    """Scorers of the task, each with the least score of an answer that is kept; none keeps every answer."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """An example without a row, and why."""

    id: str
    question: str
    why: str
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a teacher had to say."""

    combination: Combination
    model: str
    key: str
    """The hash of everything its answers depend on but the question: weights, adapter, index, prompt, sampling."""
    kept: Mapping[str, Record]
    dropped: tuple[Dropped, ...]
    unanswered: int
    """How many of the dropped got no answer at all: the same command asks for them again."""

    def target(self, example: Example, _: Sequence[Hit]) -> Turn:
        """What the teacher said, to the letter, whatever the row's own prompt shows."""
        return says(self.kept[example.id].text)

    def card(self, example: str) -> dict[str, str]:
        """For a row's `meta`: whose answer it is, and the hash of what the teacher was asked."""
        prompt = json.dumps([asdict(turn) for turn in self.kept[example].prompt], ensure_ascii=False)
        return {
            "combination": str(self.combination),
            "model": self.model,
            "key": self.key,
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A combination to ask, as a grid of one cell, and how good its answers must be."""

    grid: Grid
    keep: Mapping[str, float]


def open_teacher(settings: TeacherSettings, rows: Stack, task: Task, task_file: Path) -> Teacher:
    """The teacher over the examples of `task`, by default with the stack of the rows; FileError has all it lacks."""
    cell, stack = Combination.parse(settings.combination), Stack.load(settings.stack) if settings.stack else rows
    offered = {
        "adapter": (cell.adapter, (BASE, *stack.adapters)),
        "retriever": (cell.retriever, (NONE, GOLD, *stack.retrievers)),
        "strategy": (cell.strategy, tuple(stack.strategies)),
        **{f"keep, {name}": (name, tuple(task.settings.scorers)) for name in settings.keep},
    }
    wrong = [
        f"{key}: {name!r} is none of {', '.join(known)}" for key, (name, known) in offered.items() if name not in known
    ]
    if wrong:
        raise FileError("\n".join(wrong))
    grid = GridSettings(
        stack=stack.file or Path(),
        task=task_file,
        adapters=(cell.adapter,),
        retrievers=(cell.retriever,),
        strategies=(cell.strategy,),
        baseline=str(cell),
    )
    return Teacher(grid=Grid(settings=grid, stack=stack, task=task, baseline=cell), keep=settings.keep)


def ask(teacher: Teacher, folder: Path) -> Lesson:
    """Ask every example; `folder` keeps the answers. RunError, with all of them kept, when the teacher is gone."""
    grid, cell = teacher.grid, teacher.grid.baseline
    results = run(grid, folder)
    records, model = results.records[cell], grid.stack.model
    objections = {example.id: _objection(example, results, cell, teacher.keep) for example in grid.task.examples}
    return Lesson(
        combination=cell,
        model=os.path.relpath(model, folder.parent) if Path(model).is_dir() else model,
        key=read_keys(folder).cells[str(cell)],
        kept={one: records[one] for one, why in objections.items() if why is None},
        dropped=tuple(
            Dropped(id=one.id, question=one.question, why=why, said=records[one.id].text if one.id in records else "")
            for one in grid.task.examples
            if (why := objections[one.id]) is not None
        ),
        unanswered=results.missing(cell),
    )


def _objection(example: Example, results: Results, cell: Combination, keep: Mapping[str, float]) -> str | None:
    """Why the answer to this example is not to be learnt; None when it is."""
    record = results.records[cell].get(example.id)
    if record is None:
        failure = results.failures[cell].get(example.id)
        return f"no answer: {failure.reason}" if failure else "not asked: it has no marked evidence to show"
    if not record.text.strip():
        return "the answer is empty"
    if record.finish_reason == "length":
        return "the answer was cut off at max_tokens"
    short = [name for name, least in keep.items() if record.scores[name] < least]
    return f"{' and '.join(short)} below {', '.join(f'{keep[name]:g}' for name in short)}" if short else None


def saving(lesson: Lesson, rows: Sequence[Mapping[str, Any]], model: str) -> str:
    """A sentence on prompt tokens: the teacher's as its engine counted them, the rows' as `model`'s tokenizer does."""
    before = fmean(lesson.kept[row["meta"]["id"]].usage.prompt_tokens for row in rows)
    try:
        after = _prompt_tokens(rows, Template.load(find_base(model)))
    except TrainError as error:
        return f"{lesson.combination} reads {before:.1f} prompt tokens a question; the rows' were not counted: {error}"
    return (
        f"prompt tokens a question: {before:.1f} as {lesson.combination} asks, {after:.1f} as the rows do: "
        f"{abs(before - after) * 1000:,.0f} {'fewer' if after <= before else 'more'} for 1,000 calls"
    )


def _prompt_tokens(rows: Sequence[Mapping[str, Any]], template: Template) -> float:
    """Mean tokens of what the server would be sent for these rows."""
    prompts = (template.render(row["messages"][:-1], add_generation_prompt=True) for row in rows)
    return fmean(len(template.tokens(prompt)) for prompt in prompts)
