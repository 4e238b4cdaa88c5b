"""A test set: questions with gold answers and gold evidence, and the scorers that judge replies.

Reads and checks the files, all problems at once. Knows nothing of models, prompts or what a score means.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from eval.example import Example as Example
from eval.gold import cite
from eval.scoring.kinds import ScorerSettings as ScorerSettings
from eval.scoring.scorers import build, remarks, unfit
from retrieval.databases import STYLE, Style
from retrieval.documents import read_documents
from retrieval.files import STRICT, FileError, read_jsonl, read_text, read_yaml
from retrieval.passage import Passage, RetrievalError
from serve.stack import lines

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What an answer is worth, in any one unit: a right one brings `right`, a wrong one costs `wrong`.

    >>> Stakes(right=20, wrong=88).break_even, Stakes(right=20, wrong=88, passed_on=8).sure_enough
    (0.81481..., 0.74074...)
    """

    right: Annotated[float, Field(gt=0)]
    wrong: Annotated[float, Field(gt=0)]
    passed_on: Annotated[float, Field(ge=0)] = 0.0
    """What a question costs that is handed on to somebody else unanswered."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def break_even(self) -> float:
        """The score at which right answers bring what wrong ones cost."""
        return self.wrong / (self.right + self.wrong)

    @property
    def sure_enough(self) -> float:
        """The chance of being right from which on an answer is worth more than passing the question on."""
        return max(0.0, (self.wrong - self.passed_on) / (self.right + self.wrong))

    def net(self, score: float) -> float:
        """What an answer brings on average."""
        return self.right * score - self.wrong * (1 - score)


def _told_once(value: Any, read: ValidatorFunctionWrapHandler) -> float | Stakes:
    """Of two shapes that it may have, neither of which fits, people want to hear one sentence."""
    try:
        found: float | Stakes = read(value)
    except ValidationError:
        raise ValueError(
            f"{value!r} is neither a score between 0 and 1 nor what answers are worth, such as {{right: 20, wrong: 88}}"
        ) from None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """`task.yaml` as it is written."""

    name: str
    examples: Path
    primary: str
    """The scorer that ranks."""
    scorers: dict[str, ScorerSettings]
    enough: Annotated[Annotated[float, Field(gt=0, lt=1)] | Stakes, WrapValidator(_told_once)] | None = None
    """The score from which on it is good enough, or what answers are worth, which says it too."""
    documents: Path | None = None
    """What the evidence points into: a corpus.jsonl, or a file or folder as `retrieval build` reads them."""
    tables: Style = STYLE
    """Where documents are SQLite databases: how their tables are written, as for `retrieval build --tables`."""
    locked: Path | None = None
    """Questions that only `python -m eval confirm` asks, and counts how often; `examples` are then to choose with."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A test set that has been checked: every answer can be scored and all evidence exists."""

    settings: TaskSettings
    examples: tuple[Example, ...]
    evidence: Mapping[str, Passage]
    """What each evidence string of the examples stands for."""


def load_task(path: Path, split: Path | None = None) -> Task:
    """Read `task.yaml` and what it names, relative to it; `split` are other examples of the same kind to read instead.

    FileError has every problem of every file.
    """
    written = _resolved(read_yaml(path, TaskSettings), path.parent)
    settings, broken = _with_scorers(replace(written, examples=split or written.examples), path)
    numbered, problems = _examples(settings.examples)
    evidence, unfounded = _evidence(settings, path, numbered)
    if not broken and not problems:
        broken = list(_unscorable(settings, path, numbered, whole=split is None))
    problems = [*_misnamed(settings, path), *_unlocked(written, path), *broken, *problems, *unfounded]
    if problems:
        raise FileError("\n".join(problems))
    examples = tuple(example for _, example in numbered)
    for sentence in remarks(settings.scorers, examples):
        log.warning("%s: %s", path, sentence)
    return Task(settings=settings, examples=examples, evidence=evidence)


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a JSONL file. FileError has every problem."""
    numbered, problems = _examples(path)
    if problems:
        raise FileError("\n".join(problems))
    return tuple(example for _, example in numbered)


def _resolved(settings: TaskSettings, here: Path) -> TaskSettings:
    documents = here / settings.documents if settings.documents else None
    locked = here / settings.locked if settings.locked else None
    return replace(settings, examples=here / settings.examples, documents=documents, locked=locked)


def _misnamed(settings: TaskSettings, path: Path) -> Iterator[str]:
    if settings.primary not in settings.scorers:
        known = ", ".join(settings.scorers) or "none"
        line = lines(path)["primary",]
        yield f"{path}:{line}: primary: {settings.primary!r} is not among the scorers of this task ({known})"
    elif settings.scorers[settings.primary].kind == "abstains":
        yield f"{path}:{lines(path)['primary',]}: primary: abstains looks at the primary scorer, so it cannot be it"


def _with_scorers(settings: TaskSettings, path: Path) -> tuple[TaskSettings, list[str]]:
    """The settings with what their scorers name, and a sentence for each scorer that cannot be made."""
    settled: dict[str, ScorerSettings] = {}
    problems = []
    for name, one in settings.scorers.items():
        try:
            settled[name] = _settled(one, path.parent)
            build({name: settled[name]}, name, ())
        except ValueError as error:
            problems.append(f"{path}:{lines(path)['scorers', name]}: scorers.{name}: {error}")
    return replace(settings, scorers=settled) if not problems else settings, problems


def _settled(one: ScorerSettings, here: Path) -> ScorerSettings:
    """A schema is read in, so that a run's folder has it; code and databases stay where they are, as they should."""
    if isinstance(one.schema, Path):
        return replace(one, schema=_schema(here / one.schema))
    return replace(one, path=one.path and here / one.path, databases=one.databases and here / one.databases)


def _schema(file: Path) -> dict[str, Any]:
    try:
        schema = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise FileError(f"{file}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(schema, dict) or not schema:
        raise FileError(f"{file}:1: expected a JSON schema, which is an object that is not empty")
    return schema


def _unscorable(
    settings: TaskSettings, path: Path, numbered: list[tuple[str, Example]], *, whole: bool
) -> Iterator[str]:
    """What the scorers ask of the examples. Of a split nobody can say that it should have unanswerable questions."""
    for name, one in settings.scorers.items():
        for place, example in numbered:
            if said := unfit(one, example):
                yield f"{place}: {said} (scorers.{name})"
        if one.kind == "abstains" and whole and not any(example.meta.get("unanswerable") for _, example in numbered):
            line = lines(path)["scorers", name]
            yield f"{path}:{line}: scorers.{name}: no example has `meta.unanswerable`, so none should abstain"


def _unlocked(settings: TaskSettings, path: Path) -> Iterator[str]:
    """Before another split takes the place of `examples`: what is chosen with cannot confirm the choice.

    That the file is there is all that is asked of it, before anything is chosen.
    """
    if settings.locked is None:
        return
    place = f"{path}:{lines(path)['locked',]}: locked"
    if settings.locked.resolve() == settings.examples.resolve():
        yield f"{place}: is what `examples` names too; choose with other questions (a dev split)"
    elif not settings.locked.is_file():
        yield f"{place}: {settings.locked}: there is no such file, so nothing could be confirmed"


def _examples(path: Path) -> tuple[list[tuple[str, Example]], list[str]]:
    """The examples, each with its `file:line`, and a sentence for everything wrong with the file."""
    found: list[tuple[str, Example]] = []
    first: dict[str, str] = {}
    problems: list[str] = []
    try:
        for number, row in read_jsonl(path):
            place = f"{path}:{number}"
            try:
                example: Example = EXAMPLE.validate_python(row)
            except ValidationError as error:
                problems += [f"{place}: {sentence}" for sentence in _sentences(error)]
                continue
            if first.setdefault(example.id, place) == place:
                found.append((place, example))
            else:
                problems.append(f"{place}: id {example.id!r} was taken by {first[example.id]}; ids must differ")
    except FileError as error:
        problems.append(str(error))
    return found, problems or ([] if found else [f"{path}:1: there is no example in this file"])


def _evidence(
    settings: TaskSettings, path: Path, numbered: list[tuple[str, Example]]
) -> tuple[dict[str, Passage], list[str]]:
    """The passage for each evidence string, and a sentence for each string that names nothing."""
    named = [(place, one) for place, example in numbered for one in example.evidence]
    if named and settings.documents is None:
        return {}, [f"{named[0][0]}: has evidence, but {path} does not say where its `documents` are"]
    try:
        found = read_documents(settings.documents, tables=settings.tables) if settings.documents else ()
        documents = {one.id: one for one in found}
    except (FileError, RetrievalError) as error:
        return {}, [str(error)]
    passages: dict[str, Passage] = {}
    problems = []
    for place, one in named:
        try:
            passages[one] = cite(one, documents)
        except ValueError as error:
            problems.append(f"{place}: {error} ({settings.documents})")
    return passages, problems


def _sentences(error: ValidationError) -> Iterator[str]:
    """What is wrong with one row of the test set."""
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "unexpected_keyword_argument":
            near = get_close_matches(key, Example.__dataclass_fields__, n=1)
            yield f"unknown key {key!r}; " + (
                f"did you mean {near[0]!r}?" if near else "put your own keys under `meta`"
            )
        elif problem["type"] in ("missing", "missing_argument"):
            yield f"the key {key!r} is required and missing"
        else:
            yield f"{key}: {problem['msg']}" if key else problem["msg"].removeprefix("Value error, ")


EXAMPLE: Final = TypeAdapter(Example)
