"""Render training chats with the very strategies and retrievers that the evaluation uses, so that no prompt differs.

Each example of the train split is asked in one of the listed ways, in turn. What is to be learnt is what `target` says,
or what a `teacher` answered when it was asked its own, longer way; nothing else here asks a model.
    python -m scripts.make_sft out/demo/world/sft.yaml
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field

from eval.record import RunError
from eval.task import Task, TaskSettings, load_task
from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.files import STRICT, FileError, read_yaml, write_jsonl
from retrieval.passage import RetrievalError
from scripts.prompts import Asking, render
from scripts.raft import RAFT, RaftSettings
from scripts.targets import TARGETS, misfit
from scripts.teacher import TEACHER, Dropped, Teacher, TeacherSettings, ask, open_teacher, saving
from serve.chat import ServeError
from serve.combination import BASE, GOLD, NONE, Combination
from serve.stack import Stack
from train.overlap import check, read_texts

Names = Annotated[tuple[str, ...], Field(min_length=1)]

MOST_NAMED: Final = 10
"""Examples named for one mistake; more are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    """`sft.yaml`; relative paths are relative to it."""

    stack: Path
    task: Path
    examples: Path
    """The split to train on; a question of it that is in the task's own test set gets no row."""
    retrievers: Names
    """`none`, `gold` (the marked evidence), `raft` (it among distractors), or those of the stack."""
    strategies: Names
    target: str
    """What is to be learnt: a rule of `scripts/targets.py` by its name, or `teacher`."""
    teacher: TeacherSettings | None = None
    raft: RaftSettings | None = None
    out: Path

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        for key, is_named, is_set in (
            ("raft", RAFT in self.retrievers, self.raft is not None),
            ("teacher", self.target == TEACHER, self.teacher is not None),
        ):
            if is_named and not is_set:
                raise ValueError(f"`{key}` is named, but the key `{key}:`, which says what it is, is missing")
            if is_set and not is_named:
                raise ValueError(
                    f"`{key}:` is set and not used; write `retrievers: [{RAFT}]`"
                    if key == RAFT
                    else f"`{key}:` is set and not used; write `target: {TEACHER}`"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings with what they name, checked; its paths are good from anywhere."""

    settings: SftSettings
    asking: Asking
    teacher: Teacher | None
    leaked: tuple[Dropped, ...]
    """Examples of the train split that are test questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of a plan."""

    rows: list[dict[str, Any]]
    dropped: tuple[Dropped, ...]
    """The examples that got no row."""
    said: tuple[str, ...] = ()
    """What else there is to tell."""
    unanswered: int = 0
    """Of the dropped, those whose teacher gave no answer at all."""


def load(path: Path) -> Plan:
    """Read the settings and what they name; FileError has every problem, before anything is asked or rendered."""
    settings = _resolved(read_yaml(path, SftSettings), path.parent)
    stack, split = Stack.load(settings.stack), load_task(settings.task, settings.examples)
    task, leaked = without_test_questions(split, tests_of(settings.task))
    problems = list(_problems(settings, stack, task))
    teacher = None
    try:
        if settings.teacher:
            teacher = open_teacher(settings.teacher, stack, task, settings.task)
    except (FileError, ServeError) as error:
        problems += [f"teacher: {line}" for line in str(error).split("\n")]
    if problems:
        raise FileError("\n".join(f"{path}: {what}" for what in problems))
    ways = tuple(Combination(BASE, *names) for names in product(settings.retrievers, settings.strategies))
    asking = Asking(stack=stack, task=task, ways=ways, raft=settings.raft)
    return Plan(settings=settings, asking=asking, teacher=teacher, leaked=leaked)


def make(plan: Plan) -> Made:
    """Render every example by rule, or those that the teacher answered well enough."""
    if plan.teacher is None:
        return Made(rows=asyncio.run(render(plan.asking, TARGETS[plan.settings.target])), dropped=plan.leaked)
    task = plan.asking.task
    lesson = ask(plan.teacher, plan.settings.out.with_suffix(".teacher"))
    dropped = (*plan.leaked, *lesson.dropped)
    if not lesson.kept:
        why = reasons(lesson.dropped)
        raise RunError(f"{lesson.combination}: none of {len(task.examples)} answers can be kept ({why})")
    good = replace(task, examples=tuple(one for one in task.examples if one.id in lesson.kept))
    rows = asyncio.run(render(replace(plan.asking, task=good), lesson.target))
    for row in rows:
        row["meta"]["teacher"] = lesson.card(row["meta"]["id"])
    said = f"{lesson.combination}: {len(rows):,} of {len(task.examples):,} answers are kept"
    saved = saving(lesson, rows, plan.asking.stack.model)
    return Made(rows=rows, dropped=dropped, said=(said, saved), unanswered=lesson.unanswered)


def tests_of(task: Path) -> tuple[Path, ...]:
    """The files whose questions nobody may learn from: those that are asked, and those that are locked."""
    written = read_yaml(task, TaskSettings)
    return tuple(task.parent / file for file in (written.examples, written.locked) if file)


def without_test_questions(split: Task, tests: Sequence[Path]) -> tuple[Task, tuple[Dropped, ...]]:
    """The split without the questions that a test set asks too, however they are written (see `train.overlap`)."""
    texts = read_texts(split.settings.examples)
    asked = [text for test in tests for text in read_texts(test)]
    found = {one.train.where: one for one in check(texts, asked).refused}
    pairs = [(example, found.get(text.where)) for example, text in zip(split.examples, texts, strict=True)]
    if all(overlap for _, overlap in pairs):
        named = " or ".join(map(str, tests))
        raise FileError(f"{split.settings.examples}: every question of it is in {named}; train on another split")
    leaked = [
        Dropped(id=one.id, question=one.question, why=f"a test question: {overlap.said}")
        for one, overlap in pairs
        if overlap
    ]
    return replace(split, examples=tuple(example for example, overlap in pairs if not overlap)), tuple(leaked)


def _resolved(settings: SftSettings, here: Path) -> SftSettings:
    teacher = settings.teacher
    return replace(
        settings,
        teacher=replace(teacher, stack=here / teacher.stack) if teacher and teacher.stack else teacher,
        stack=here / settings.stack,
        task=here / settings.task,
        examples=here / settings.examples,
        out=here / settings.out,
    )


def _problems(settings: SftSettings, stack: Stack, task: Task) -> Iterator[str]:
    """What is wrong with the ways and the target."""
    own, targets = ((RAFT,) if settings.raft else ()), (*TARGETS, TEACHER)
    yield from _unknown("retrievers", settings.retrievers, (NONE, GOLD, *own, *stack.retrievers))
    yield from _unknown("strategies", settings.strategies, tuple(stack.strategies))
    yield from _unknown("target", (settings.target,), targets)
    yield from _written(settings, stack)
    if settings.raft:
        yield from _unknown("raft: retriever", (settings.raft.retriever,), tuple(stack.retrievers))
        if not any(example.evidence for example in task.examples):
            yield f"raft: no example of {settings.examples} has evidence to put among distractors"
    misfits = [(example.id, why) for example in task.examples if (why := misfit(example, settings.target))]
    yield from (f"target: {settings.examples}: {name}: {why}" for name, why in misfits[:MOST_NAMED])
    if len(misfits) > MOST_NAMED:
        yield f"target: ... and {len(misfits) - MOST_NAMED} more examples"


def _written(settings: SftSettings, stack: Stack) -> Iterator[str]:
    """What would ask a model that does not run while prompts are rendered."""
    ways = [Combination(BASE, *names) for names in product(settings.retrievers, settings.strategies)]
    used = {*stack.only(ways).retrievers, *([settings.raft.retriever] if settings.raft else [])}
    for name, one in stack.retrievers.items():
        if name in used and one.expand and one.expand.needs_model:
            yield f"retrievers: a model writes what {name!r} searches, and none runs here; name one without `expand`"


def _unknown(key: str, names: Sequence[str], offered: Sequence[str]) -> Iterator[str]:
    yield from (f"{key}: {name!r} is none of {', '.join(offered)}" for name in names if name not in offered)


def _write(made: Made, out: Path) -> Iterator[str]:
    """Write the rows, and beside them what was left out; a sentence for each thing to know."""
    write_jsonl(out, made.rows)
    listing = out.with_suffix(".dropped.jsonl")
    listing.unlink(missing_ok=True)
    yield from made.said
    if made.dropped:
        write_jsonl(listing, map(asdict, made.dropped))
        yield f"no row for {len(made.dropped):,} examples ({reasons(made.dropped)}), each listed in {listing}"


def reasons(dropped: Sequence[Dropped]) -> str:
    """How many were left out for each kind of reason, which is what stands before its first colon."""
    kinds = Counter(one.why.partition(":")[0] for one in dropped)
    return "; ".join(f"{count:,} {why}" for why, count in kinds.most_common())


def main() -> int:
    parser = Parser(
        description="Render training chats with the strategies and retrievers of the evaluation.",
        epilog="example: python -m scripts.make_sft out/demo/world/sft.yaml",
    )
    parser.add_argument("settings", type=Path, help="an sft.yaml: which examples, asked in which ways, answered how")
    path = parser.parse_args().settings
    tell_progress("eval", "serve", "retrieval")
    stop_politely()
    try:
        plan = load(path)
        made = make(plan)
        for sentence in _write(made, plan.settings.out):
            print(sentence)
    except (FileError, RetrievalError, ServeError, RunError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Every answer so far is kept; the same command goes on from here.", file=sys.stderr)
        return 1
    if made.unanswered:
        print(f"{made.unanswered} questions got no answer; the same command asks them again.", file=sys.stderr)
    print(f"wrote {len(made.rows):,} chats to {plan.settings.out}; next: python -m train.chat {plan.settings.out}")
    return int(made.unanswered > 0)


if __name__ == "__main__":
    raise SystemExit(main())
