"""One line of JSON a request, for whoever keeps the gateway running: who asked what kind of thing, and how it went.

Never a word of a prompt, a source or an answer: sources are ids, and an error that quotes the caller is withheld.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from serve.exchange import Exchange

QUOTE: Final = 16
"""So many characters in a row that an error shares with what was said are a quotation; of a shorter text, the whole."""
LONGEST: Final = 300
"""Characters of an error that are logged."""
WITHHELD: Final = "withheld: it quotes the caller, the sources or the model"

_logger = logging.getLogger(__name__)


def tell(exchange: Exchange) -> None:
    """Log one request that has ended."""
    _logger.info("%s", line(exchange))


def line(exchange: Exchange) -> str:
    """The request as one JSON object; times in seconds."""
    row = {
        "at": datetime.fromtimestamp(exchange.at, UTC).isoformat(timespec="milliseconds"),
        "id": exchange.id,
        "route": exchange.route,
        "combination": exchange.combination,
        "key": exchange.key,
        "status": exchange.status,
        "stream": exchange.stream,
        "prompt_tokens": exchange.usage.prompt_tokens,
        "completion_tokens": exchange.usage.completion_tokens,
        "sources": [hit.passage.id for hit in exchange.sources],
        "unknown_citations": exchange.unknown_citations,
        "finish_reason": exchange.finish_reason,
        "queue_seconds": round(exchange.queue_seconds, 6),
        "search_seconds": round(exchange.search_seconds, 6),
        "first_seconds": None if exchange.first_seconds is None else round(exchange.first_seconds, 6),
        "seconds": round(exchange.seconds, 6),
        **_error(exchange),
    }
    return json.dumps(row, ensure_ascii=False)


def _error(exchange: Exchange) -> Mapping[str, str]:
    """Why it failed, when that is ours to mend: a caller has read his own mistake, and its sentence may quote him."""
    if exchange.status < 500 or not exchange.error:
        return {}
    said = exchange.error[:LONGEST]
    return {"error": WITHHELD if any(_quotes(said, text) for text in _said(exchange)) else said}


def _said(exchange: Exchange) -> Iterator[str]:
    yield exchange.text
    for hit in exchange.sources:
        yield hit.passage.text
    for message in exchange.messages:
        yield from _texts(message.get("content"))


def _texts(content: Any) -> Iterator[str]:
    """A message's content is a text or a list of parts."""
    for part in content if isinstance(content, list | tuple) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _quotes(error: str, text: str) -> bool:
    if len(text) < QUOTE:
        return bool(text) and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", error) is not None
    return any(error[at : at + QUOTE] in text for at in range(len(error) - QUOTE + 1))
