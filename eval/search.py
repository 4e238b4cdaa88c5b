"""`search.yaml`: from which combination a search starts, what it may try, and which questions it must never see.

Reads the file with the stack, the task and the questions it names, and refuses a search that the test set would be part
of. Asks nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from eval.candidates import VARIED, Way, read_chats
from eval.grid import GridSettings, exactly, misfits
from eval.task import Task, load_task
from eval.wording import counted, listed
from retrieval.files import STRICT, FileError, read_yaml
from serve.combination import Combination
from serve.stack import Stack, lines
from train.overlap import Text, check, read_texts

NAMED: Final = 3
"""Rows that a refusal names."""
Count = Annotated[int, Field(ge=1)]
HELP: Final = """\
search.yaml:

  stack: stack.yaml
  task: dev_task.yaml                    # questions to choose with; one half chooses, the other judges the choice
  test: test.jsonl                       # the test set, only to refuse what it has; the task's `locked` else
  start: base:hybrid:instructed          # what to make better
  instructions: ["Answer in one word.", "Answer as the passage has it."]
  write: 4                               # more of them, by the base model, told what the start gets wrong
  demonstrations:
    train: train.jsonl                   # questions with answers, some of which the start is asked
    chats: sft.jsonl                     # shown as they are; without it, the gold answers
    ways: [gold, own, near]              # by people; by the start, where right; nearest to what it gets wrong
    k: [1, 2, 3]
  most: 32                               # candidates: each instructions with each set

A strategy is written only when it beats the start on the half that chose nothing.

example: python -m eval optimise search.yaml --out out/search"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """What may be shown, and how sets of it are drawn."""

    train: Path
    """Questions with answers, as a test set has them; the start is asked some of them."""
    chats: Path | None = None
    """Training chats, shown in place of the gold answers of `train`, which may lack the form of a reply."""
    ways: Annotated[tuple[Way, ...], Field(min_length=1)] = ("gold", "own", "near")
    """`gold`: as people answered. `own`: as the start answered, where that was right. `near`: gold, of those questions
    that are nearest to what the start gets wrong on dev."""
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 3)
    draws: Count = 2
    """Sets of each way and size."""
    asked: Count = 60
    """Questions of `train` that the start is asked."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """`search.yaml` as it is written."""

    stack: Path
    task: Path
    """Questions to choose with: a dev split."""
    start: str
    """The combination to make better."""
    test: Path | None = None
    """The questions of the test set; needed unless the task keeps some `locked`."""
    instructions: tuple[str, ...] = ()
    """Texts to try in place of the start's."""
    write: Annotated[int, Field(ge=0)] = 0
    """How many more the base model is to write, told what the start gets wrong."""
    demonstrations: Demonstrations | None = None
    most: Count = 32
    """The most candidates: each one more makes the best of them luckier."""
    seed: int = 0
    """Another one halves dev and draws differently."""
    concurrency: Count = 64

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search that has been checked: it starts from something that can be varied, and knows nothing of the test."""

    settings: SearchSettings
    stack: Stack
    task: Task
    start: Combination
    test: Path


def load_search(path: Path) -> Search:
    """Read a search; relative paths in it are relative to it. FileError says what is wrong, or what the test set has of
    what would be tried."""
    settings = _under(path.parent, read_yaml(path, SearchSettings))
    stack, task, start = Stack.load(settings.stack), load_task(settings.task), Combination.parse(settings.start)
    places, test = lines(path), settings.test or task.settings.locked
    problems = [f"{path}:{places[key,]}: {key}: {what}" for key, what in _wrong(settings, stack, task, start)]
    if test is None:
        problems.append(
            f"{path}:1: test: names no file, and {settings.task} keeps none `locked`; name the test set's questions, "
            "so that none of them is asked or shown"
        )
    elif not problems:
        texts = [Text(where=f"{path}:{places['instructions',]}", question=text) for text in settings.instructions]
        problems += _seen(settings, task, test, texts)
    if problems or test is None:
        raise FileError("\n".join(problems))
    return Search(settings=settings, stack=stack, task=task, start=start, test=test)


def alone(settings: SearchSettings, stack: Path, *cells: Combination) -> GridSettings:
    """A grid of these combinations; the first is what the others are compared with."""
    return replace(exactly([*map(str, cells)], stack, settings.task), concurrency=settings.concurrency)


def _under(here: Path, written: SearchSettings) -> SearchSettings:
    shows = written.demonstrations
    return replace(
        written,
        stack=here / written.stack,
        task=here / written.task,
        test=here / written.test if written.test else None,
        demonstrations=shows
        and replace(shows, train=here / shows.train, chats=here / shows.chats if shows.chats else None),
    )


def _wrong(settings: SearchSettings, stack: Stack, task: Task, start: Combination) -> Iterator[tuple[str, str]]:
    """What is wrong with the search itself, as (key, sentence)."""
    yield from (
        ("start", what)
        for what in dict.fromkeys(what for _, what in misfits(alone(settings, settings.stack, start), stack, task))
    )
    kind = stack.strategies[start.strategy].name if start.strategy in stack.strategies else VARIED[0]
    if kind not in VARIED:
        yield "start", f"only {listed(VARIED)} have instructions and demonstrations to vary, and this is {kind!r}"
    shows = settings.demonstrations
    if kind == "cot" and shows and (shows.chats is None or "own" in shows.ways):
        what = "answers without the thoughts before them teach `cot` not to think"
        yield "demonstrations", f"{what}; name `chats` that think first, and `ways: [gold, near]`"
    try:
        _ = tuple(read_chats(shows.chats)) if shows and shows.chats else ()
    except FileError as error:
        yield "demonstrations", str(error)
    if not (settings.instructions or settings.write or shows):
        yield "start", "there is nothing to try; give `instructions`, `write` or `demonstrations`"


def _seen(settings: SearchSettings, task: Task, test: Path, texts: Sequence[Text]) -> Iterator[str]:
    """The sentences that refuse a search: what chooses or is shown may not be of the test, nor what is shown of dev."""
    dev, shows = task.settings.examples, settings.demonstrations
    shown = [path for path in (shows.train, shows.chats) if path] if shows else []
    for path, against in (*((one, test) for one in (dev, *shown)), *((one, dev) for one in shown)):
        yield from _clash(read_texts(path), against, str(path))
    yield from _clash(texts, test, "instructions")


def _clash(texts: Sequence[Text], against: Path, what: str) -> Iterator[str]:
    if not (found := check(texts, read_texts(against)).refused):
        return
    rows = list({one.train.where: f"{one.train.where} gives away {one.said}" for one in found}.values())
    more = f"; and {counted(len(rows) - NAMED, 'row')} more" if len(rows) > NAMED else ""
    yield (
        f"{what}: has questions of {against}: {'; '.join(rows[:NAMED])}{more}. Take them out: what a search has seen, "
        "it cannot be judged by"
    )
