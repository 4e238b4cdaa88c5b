"""`schema`: the engine holds every reply to a JSON schema, or to one of some choices, token by token.

Constrained decoding (2307.09702). To see what the constraint brings, compare with the strategy that it is made `of`.
Knows nothing of what is asked.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrieval.files import FileError, read_text
from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.sampled import asking, one_of
from serve.strategies.kind import Kind, Parts, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema(Kind):
    """A model that was told the form only by its constraint may fill it with nonsense: say it in the instructions too.

    A small one may fill it with line breaks: `engine: {arguments: [--structured-outputs-config,
    '{"disable_any_whitespace": true}']}` allows none, and no spaces either, on which a model that was trained to write
    them loses: try both.
    """

    kind: Literal["schema"]
    of: str
    """The strategy that answers, all of whose calls are held to the form."""
    schema: Mapping[str, Any] | None = None
    file: Path | None = None
    """A schema in a JSON file."""
    choices: tuple[str, ...] = ()
    """Words of which the reply is one, without quotes: labels of a classification."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.schema, self.file, self.choices))) != 1:
            raise ValueError("`schema` needs one of `schema` (a JSON schema), `file` (one in a file) and `choices`")

    def problems(self) -> Iterator[tuple[str, str]]:
        """A file that is no JSON object."""
        try:
            self.demanded()
        except FileError as error:
            yield "file", str(error)

    def demanded(self) -> Mapping[str, Any]:
        """The schema; FileError when its file has none."""
        if not self.file:
            return self.schema or {}
        try:
            found = json.loads(read_text(self.file))
        except ValueError as error:
            raise FileError(f"{self.file}: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise FileError(f"{self.file}: a JSON schema is an object, such as {{'type': 'object'}}")
        return found

    def build(self, parts: Parts) -> Strategy:
        """Its answer is that of `of` under the constraint."""
        ask = parts.strategy(self.of)
        form = {"name": "reply", "schema": self.demanded(), "strict": True}

        async def schema(query: Query, retriever: Retriever, model: Model) -> Answer:
            if self.choices:
                return await ask(query, retriever, one_of(model, self.choices))
            held = asking(model, response_format={"type": "json_schema", "json_schema": form})
            return await ask(query, retriever, held)

        return schema
