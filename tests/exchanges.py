"""Exchanges for tests of what listens to the gateway."""

from dataclasses import replace
from typing import Any, Final

from retrieval.passage import Hit, Passage
from serve.chat import Usage
from serve.exchange import Exchange

HIT: Final = Hit(Passage("varn", "Varn", "Mira Tall founded Varn in 1891.", 0, 31), 0.5, 1)

ANSWERED: Final = Exchange(
    id="r1",
    at=1_764_000_000.25,
    route="chat",
    combination="house:hybrid:instructed",
    key="support",
    status=200,
    error="",
    stream=True,
    queue_seconds=0.002,
    search_seconds=0.03,
    first_seconds=0.2,
    seconds=1.5,
    usage=Usage(120, 7),
    sources=(HIT,),
    unknown_citations=1,
    messages=({"role": "user", "content": "Who founded Varn?"},),
    text="Mira Tall [S1], not Oda [S9].",
    finish_reason="stop",
    sampling={"temperature": 0.0, "max_tokens": 64},
)


def answered(**changes: Any) -> Exchange:
    """The exchange, but for these."""
    return replace(ANSWERED, **changes)
