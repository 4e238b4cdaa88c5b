"""What is known of one request when it has ended: made by the gateway, told to the metrics, the log and the capture.

Knows nothing of who listens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retrieval.passage import Hit
from serve.chat import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and what came of it. Only a capture keeps `messages` and `text`; nothing else may write them down."""

    id: str
    """The request's, as in its `x-request-id`."""
    at: float
    """Unix time at which it came."""
    route: str
    """`chat`, `completions` or `search`."""
    combination: str
    """`house:hybrid:instructed`; empty when it named none that is on offer."""
    key: str
    """The name of the caller's key; empty without keys."""
    status: int
    """Of HTTP; 499: the caller went away; 502: a stream failed midway."""
    error: str
    """The sentence; empty when all went well."""
    stream: bool
    queue_seconds: float
    search_seconds: float
    first_seconds: float | None
    """To the first token; None when there was none."""
    seconds: float
    usage: Usage
    sources: tuple[Hit, ...]
    unknown_citations: int
    """Markers in the answer of sources that the model was not given."""
    messages: tuple[Mapping[str, Any], ...]
    """The caller's, as sent."""
    text: str
    finish_reason: str
    sampling: Mapping[str, Any]
    """As used."""
