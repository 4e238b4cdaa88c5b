"""What a task may say of a scorer: its kind, and the settings that this kind uses.

A setting that a kind would ignore is refused, and so is a kind without what it needs. Knows nothing of how a score is
computed; `eval.scoring.scorers` says what each kind does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import ConfigDict, Field

from eval.example import Example
from retrieval.files import STRICT
from serve.own import parted

Scorer = Callable[[Example, str, Sequence[str]], float]
"""(example, what was said, the passages in the prompt, `[S1]` first) -> 0..1"""

Comparing = Literal[
    "exact",
    "choice",
    "contains",
    "f1",
    "numeric",
    "regex",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "chrf",
    "gleu",
    "tool_call",
    "arguments",
    "json_fields",
]
"""Kinds that compare a reply with the gold answers, and with nothing else."""
Executing = Literal["ex_strict", "ex_colperm", "ex_spider", "ex_bird"]
"""Kinds that run a reply as SQL."""
Kind = Literal[
    Comparing,
    Executing,
    "valid_call",
    "json_format",
    "json_schema",
    "context_used",
    "cites_precision",
    "cites_recall",
    "abstains",
    "instructions",
    "instruction_share",
    "python",
]

USES: Final[Mapping[Kind, frozenset[str]]] = {
    "exact": frozenset({"json", "loose"}),
    "choice": frozenset({"json", "loose"}),
    "contains": frozenset({"json", "loose"}),
    "f1": frozenset({"json", "loose"}),
    "numeric": frozenset({"json", "loose", "tolerance"}),
    "regex": frozenset({"json", "loose", "pattern"}),
    "rouge1": frozenset({"json", "loose"}),
    "rouge2": frozenset({"json", "loose"}),
    "rougeL": frozenset({"json", "loose"}),
    "bleu": frozenset({"json", "loose"}),
    "chrf": frozenset({"json", "loose"}),
    "gleu": frozenset({"json", "loose"}),
    "tool_call": frozenset({"json", "loose"}),
    "arguments": frozenset({"json", "loose"}),
    "json_fields": frozenset({"fields", "loose"}),
    "ex_strict": frozenset({"json", "loose", "databases"}),
    "ex_colperm": frozenset({"json", "loose", "databases"}),
    "ex_spider": frozenset({"json", "loose", "databases"}),
    "ex_bird": frozenset({"json", "loose", "databases"}),
    "valid_call": frozenset(),
    "json_format": frozenset({"keys"}),
    "json_schema": frozenset({"schema"}),
    "context_used": frozenset({"json"}),
    "cites_precision": frozenset(),
    "cites_recall": frozenset(),
    "abstains": frozenset(),
    "instructions": frozenset({"loose"}),
    "instruction_share": frozenset({"loose"}),
    "python": frozenset({"path"}),
}
NEEDS: Final[Mapping[Kind, str]] = {
    "json_format": "keys",
    "json_schema": "schema",
    "json_fields": "fields",
    "ex_strict": "databases",
    "ex_colperm": "databases",
    "ex_spider": "databases",
    "ex_bird": "databases",
    "python": "path",
}
"""The one setting without which a kind says nothing."""

PLACES: Final = frozenset({"path", "databases"})
"""Settings that say where something lies, which may move."""
COMPARE: Final[frozenset[Kind]] = frozenset(get_args(Comparing))
EXECUTE: Final[frozenset[Kind]] = frozenset(get_args(Executing))
FORMS: Final[frozenset[Kind]] = frozenset({"json_format", "json_schema"})
"""Kinds that judge the form of a reply and never whether it is right."""
LOOSE_ALONE: Final[frozenset[Kind]] = frozenset(
    {"numeric", "regex", "json_fields", "instructions", "instruction_share", *get_args(Executing)}
)
"""Kinds that have a loose form of the whole reply; the others look loosely for a JSON field, which must be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings:
    """One named scorer of a task."""

    kind: Kind
    json: str | None = None
    """Score this text field of a reply that must be one JSON object."""
    loose: bool = False
    """Forgive a missed form: shows what strictness costs. What is forgiven, the kind says."""
    keys: tuple[str, ...] = ()
    """For `json_format`: the keys that the object must have."""
    fields: tuple[str, ...] = ()
    """For `json_fields`: what is compared with the gold object, as dotted paths such as `address.city` or `items.0`."""
    schema: Path | dict[str, Any] | None = None
    """For `json_schema`: a JSON schema, or the file it stands in, relative to the task."""
    pattern: str | None = None
    """For `regex`: one pattern for all examples; without it each gold answer is a pattern."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-6
    """For `numeric`: how far off a number may be, as a share of the gold one."""
    path: Path | None = None
    """For `python`: a function of one's own as `FILE:NAME`, relative to the task."""
    databases: Path | None = None
    """For `ex_...`: the folder of the SQLite files that `meta.db_id` names, relative to the task."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __str__(self) -> str:
        """As a task would say it. Where code or databases lie says nothing: their content is among the signatures."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in PLACES}
        default = {one.name: one.default for one in fields(self)}
        return ", ".join(f"{name}: {value}" for name, value in said.items() if value != default[name])

    def __post_init__(self) -> None:
        for one in fields(self)[1:]:
            if getattr(self, one.name) != one.default and one.name not in USES[self.kind]:
                raise ValueError(f"{self.kind} does not use `{one.name}`; remove it")
        needed = NEEDS.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"{self.kind} needs `{needed}`")
        if self.loose and not self.can_be_loose:
            raise ValueError("`loose` says how strictly a JSON field is looked for; name the field with `json`")
        if self.path:
            parted(self.path)

    @property
    def compares(self) -> bool:
        """Whether it compares a reply with the gold answers, and with nothing else."""
        return self.kind in COMPARE and self.pattern is None

    @property
    def can_be_loose(self) -> bool:
        """Whether it has a form that forgives."""
        return "loose" in USES[self.kind] and (self.json is not None or self.kind in LOOSE_ALONE)


def loosely(scorers: Mapping[str, ScorerSettings], primary: str) -> tuple[ScorerSettings, ...]:
    """The ways of being right: the primary scorer, and whatever the task itself calls loose, or else its loose form.

    None that would run anything: to look at answers runs nothing, and what such a scorer said stands in the records.
    """
    first = scorers[primary]
    if first.kind in EXECUTE:
        return (first,)
    declared = [one for one in scorers.values() if one.loose and (one.compares or one.kind == first.kind)]
    loosened = [replace(first, loose=True)] if first.can_be_loose else []
    return (first, *(declared or loosened))
