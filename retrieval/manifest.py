"""What an index says of itself: what it was made from, and a hash of every file. Knows nothing of how to make one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from retrieval.embed import PACKAGED
from retrieval.files import STRICT
from retrieval.lexical import check_language
from retrieval.passage import RetrievalError
from retrieval.vectors import Kind
from retrieval.views import View, by_a_model

FORMAT: Final = 2
"""Raised when the same inputs would make other files; an index of another format is built again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """How documents become an index."""

    embedder: str = PACKAGED
    """The packaged embedder's name, or the folder of any sentence-transformers model."""
    size: int = 1000
    """The most characters of a passage; a document that is no longer stays whole."""
    overlap: int = 100
    """How many characters a passage may repeat of the one before it."""
    view: View = "titled"
    """What of a passage is searched."""
    writer: str = ""
    """The model that writes it, where a model does; another one makes another index."""
    vectors: Kind | None = None
    """How vectors are kept; None: by how many there are."""
    shards: int = 1
    """In how many files vectors are kept, each with as many passages."""
    language: str = "english"
    """Whose stems and stop words lexical search knows; `none` compares words as they are written."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        check_language(self.language)
        if self.shards < 1:
            raise RetrievalError(f"{self.shards} shards hold nothing; an index has at least 1")
        if by_a_model(self.view) != bool(self.writer):
            raise RetrievalError(
                f"what is searched is {self.view!r}, which a model writes: name it (--model-url URL --model NAME)"
                if by_a_model(self.view)
                else f"what is searched is {self.view!r}, which no model writes: leave {self.writer!r} out"
            )
        if not 0 <= 2 * self.overlap < self.size:
            raise RetrievalError(
                f"an overlap of {self.overlap} characters is too much for passages of {self.size}: less than half fits"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that determines an index: the same inputs make the same index, so nothing needs to be built."""

    corpus_sha256: str
    settings: BuildSettings
    embedder_sha256: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One generation: what it was made from, what must be in it, and the hash of each file as written."""

    inputs: Inputs
    documents: int
    passages: int
    dimension: int
    kind: Kind
    probes: int
    """How vectors are kept, and how many groups of them a search reads (0: there are no groups)."""
    metric: Literal["inner_product"] = "inner_product"
    """Of unit vectors, so it is the cosine."""
    fulcrum: str = field(default_factory=lambda: version("fulcrum"))
    files: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


_MANIFEST: Final = TypeAdapter(Manifest)


def to_json(manifest: Manifest) -> str:
    return _MANIFEST.dump_json(manifest, indent=2).decode() + "\n"


def from_json(text: str) -> Manifest | None:
    """The manifest, or None when the text is not a whole one of this format."""
    try:
        manifest = _MANIFEST.validate_json(text)
    except ValidationError:
        return None
    return manifest if manifest.inputs.format == FORMAT else None
