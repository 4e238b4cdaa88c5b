"""A test set: questions with gold answers and gold evidence, and the scorers that judge replies.

Reads and checks the files, all problems at once. Knows nothing of models, prompts or how a score is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from eval.gold import cite, document_of
from retrieval.documents import read_documents
from retrieval.files import STRICT, FileError, read_jsonl, read_yaml
from retrieval.passage import Passage, RetrievalError
from serve.stack import lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question, every answer that counts as right, and where the documents say so."""

    id: str
    question: str
    answers: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    """`doc`, `doc#p12` (a page) or `doc@120-480` (characters); empty when nobody has marked it."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """`slice` groups the report; `cluster` names what makes examples alike; `unanswerable` says that no document has
    the answer; strategies may read the rest."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        if not self.answers:
            raise ValueError("`answers` is empty, so no reply could ever be right")

    @property
    def has_gold(self) -> bool:
        """Whether the oracle arm can answer it: by its evidence, or by finding nothing because there is nothing."""
        return bool(self.evidence or self.meta.get("unanswerable"))

    @property
    def slice(self) -> str:
        """The group it belongs to in the report."""
        return str(self.meta.get("slice", "all"))

    @property
    def cluster(self) -> str:
        """What it shares its luck with: `meta.cluster` (a database, a template), or the document of its first evidence.

        The first alone: were every document a link, questions over two documents would chain half a test set together.
        """
        if "cluster" in self.meta:
            return f"cluster {self.meta['cluster']}"
        return f"document {document_of(self.evidence[0])}" if self.evidence else f"example {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings:
    """One named scorer of a task; `eval.scorers` says what each kind does."""

    kind: Literal[
        "exact", "choice", "contains", "f1", "json_format", "tool_call", "arguments", "valid_call", "context_used"
    ]
    json: str | None = None
    """Score this text field of a reply that must be one JSON object."""
    loose: bool = False
    """Find that field even where the format was missed: shows what strictness costs."""
    keys: tuple[str, ...] = ()
    """For `json_format`: the keys that the object must have."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if (self.kind == "json_format") != bool(self.keys):
            raise ValueError("`keys` (a list) belongs to kind json_format, and only there")
        if self.kind in ("json_format", "valid_call") and self.json:
            raise ValueError(f"{self.kind} judges the whole reply; remove `json`")
        if self.kind == "context_used" and self.loose:
            raise ValueError("context_used always looks for the field loosely; remove `loose`")
        if self.loose and not self.json:
            raise ValueError("`loose` says how strictly a JSON field is looked for; name the field with `json`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What an answer is worth, in any one unit: a right one brings `right`, a wrong one costs `wrong`.

    >>> Stakes(right=20, wrong=88).break_even
    0.81481...
    """

    right: Annotated[float, Field(gt=0)]
    wrong: Annotated[float, Field(gt=0)]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def break_even(self) -> float:
        """The score at which right answers bring what wrong ones cost."""
        return self.wrong / (self.right + self.wrong)

    def net(self, score: float) -> float:
        """What an answer brings on average."""
        return self.right * score - self.wrong * (1 - score)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """`task.yaml` as it is written."""

    name: str
    examples: Path
    primary: str
    """The scorer that ranks."""
    scorers: dict[str, ScorerSettings]
    enough: Annotated[float, Field(gt=0, lt=1)] | Stakes | None = None
    """The score from which on it is good enough, or what answers are worth, which says it too."""
    documents: Path | None = None
    """What the evidence points into: a corpus.jsonl, or a file or folder as `retrieval build` reads them."""

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
    settings = _resolved(read_yaml(path, TaskSettings), path.parent)
    settings = replace(settings, examples=split or settings.examples)
    numbered, problems = _examples(settings.examples)
    evidence, unfounded = _evidence(settings, path, numbered)
    problems = [*_misnamed(settings, path), *problems, *unfounded]
    if problems:
        raise FileError("\n".join(problems))
    return Task(settings=settings, examples=tuple(example for _, example in numbered), evidence=evidence)


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a JSONL file. FileError has every problem."""
    numbered, problems = _examples(path)
    if problems:
        raise FileError("\n".join(problems))
    return tuple(example for _, example in numbered)


def _resolved(settings: TaskSettings, here: Path) -> TaskSettings:
    documents = here / settings.documents if settings.documents else None
    return replace(settings, examples=here / settings.examples, documents=documents)


def _misnamed(settings: TaskSettings, path: Path) -> Iterator[str]:
    if settings.primary not in settings.scorers:
        known = ", ".join(settings.scorers) or "none"
        line = lines(path)["primary",]
        yield f"{path}:{line}: primary: {settings.primary!r} is not among the scorers of this task ({known})"


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
        documents = {one.id: one for one in read_documents(settings.documents)} if settings.documents else {}
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
