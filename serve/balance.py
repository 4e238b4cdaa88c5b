"""Which of several servers is asked: one that is up and has the model, with few calls, and an adapter near its home.

    balance = Balance(("http://a:8000/v1", "http://b:8000/v1"), look)
    while url := await balance.pick("house", but=tried):
        with balance.busy(url):
            ...

Knows nothing of HTTP: it is lent a way to look at a server, and told what came of a call.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Final

from serve.chat import ServeError, Unavailable

FRESH: Final = 10.0
"""Seconds for which a server is taken for what it said of itself; then it is looked at again, beside the calls."""
RESTS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before one that failed is looked at: the first time, the second without an answer in between, and so on."""
LEAD: Final = 2
"""Calls that an adapter's home may have more than the least busy server. Consistent hashing with bounded loads
(arXiv 1608.01350) has a share of the mean here. An evaluation asks one adapter after the other, and with eight calls a
bound of 1.25 means would leave the last of four servers with none."""

Models = Mapping[str, bool]
"""What a server offers: the name of each model, and whether it is an adapter of another."""
Look = Callable[[str], Awaitable[Models]]
"""Ask the server at this address what it offers; Unavailable when it does not say."""

_logger = logging.getLogger(__name__)


class Silent(Unavailable):
    """It did not say in time: it may be busy."""


@dataclass(slots=True)
class Place:
    """A server, as far as it is known."""

    url: str
    models: Models | None = None
    """None: it is not known to be up."""
    calls: int = 0
    """In flight."""
    last: int = 0
    """Which of all calls was its last."""
    why: str = ""
    """What is wrong with one that is not up."""
    failures: int = 0
    """How often it was found to be down since a call was answered."""
    due: float = float("-inf")
    """When it is to be looked at again."""
    looking: asyncio.Task[None] | None = field(default=None, repr=False)


class Balance:
    """The servers behind one line. Where there is one, there is no choice: it is asked whatever is known of it."""

    def __init__(self, urls: Sequence[str], look: Look, clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = urls
        self._places: dict[str, Place] = {}
        self._look = look
        self._clock = clock
        self._nth = count(1)

    async def pick(self, model: str, but: Container[str] = ()) -> str | None:
        """The server to ask next; None when there is none but those. ServeError when all are up and none has it."""
        there = self._there()
        left = [place for place in there if place.url not in but]
        if len(there) == 1 or not left:
            return left[0].url if left else None
        now = self._clock()
        for place in left:
            if place.due <= now:
                self._looked_at(place)
        if not (able := _having(model, left)):
            await asyncio.wait([self._looked_at(place) for place in left])
            able = _having(model, left)
        if able:
            return chosen(model, able).url
        if len(left) == len(there) and all(place.models is not None for place in left):
            raise ServeError(
                "; ".join(f"{one.url} offers {', '.join(one.models or ())}" for one in left) + f": no {model}"
            )
        return None

    @contextmanager
    def busy(self, url: str) -> Iterator[None]:
        """Inside, the server has one call more."""
        place = self._places[url]
        place.calls, place.last = place.calls + 1, next(self._nth)
        try:
            yield
        finally:
            place.calls -= 1

    def answered(self, url: str) -> None:
        """A call came back."""
        self._places[url].failures = 0

    def failed(self, url: str, why: str) -> None:
        """A call did not; the server rests, unless it is the only one, and is looked at before it is asked again."""
        place = self._places[url]
        if len(self._urls) > 1 and place.models is not None:  # else another call has said so already
            self._rest(place, why)

    def resting(self, model: str) -> dict[str, str]:
        """What is wrong with each server that is not asked for this model."""
        there = self._there()
        if len(there) == 1:
            return {}
        told = {one.url: one.why if one.models is None else f"offers no {model}" for one in there}
        return {one.url: told[one.url] for one in there if model not in (one.models or ())}

    def _there(self) -> list[Place]:
        """The servers of now: some may come and go."""
        return [self._places.setdefault(url, Place(url)) for url in self._urls]

    async def close(self) -> None:
        """Nothing is looked at any more."""
        looks = [place.looking for place in self._places.values() if place.looking]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    def _rest(self, place: Place, why: str) -> None:
        if place.models is not None:
            place.failures += 1
            _logger.warning("%s %s; the other servers go on", place.url, why)
        place.models, place.why = None, why
        place.due = self._clock() + RESTS[min(max(place.failures, 1), len(RESTS)) - 1]

    def _looked_at(self, place: Place) -> asyncio.Task[None]:
        if place.looking is None or place.looking.done():
            place.looking = asyncio.create_task(self._learn(place))
        return place.looking

    async def _learn(self, place: Place) -> None:
        place.due = float("inf")
        try:
            models = await self._look(place.url)
        except Unavailable as error:
            if isinstance(error, Silent) and place.models is not None:
                place.due = self._clock() + FRESH  # its calls will tell
            else:
                self._rest(place, str(error).removeprefix(f"{place.url} "))
            return
        if place.models is None and place.why:
            _logger.warning("%s is back", place.url)
        place.models, place.due = models, self._clock() + FRESH


def chosen(model: str, able: Sequence[Place]) -> Place:
    """The least busy. An adapter's home may be somewhat busier: its weights are loaded there, and its prompts known.

    Among equals, an adapter goes where it went before, and a base model where nobody was sent for the longest time.
    """
    if not any((place.models or {}).get(model) for place in able):
        return min(able, key=lambda place: (place.calls, place.last))
    order = sorted(able, key=lambda place: weight(model, place.url), reverse=True)
    return min(order, key=lambda place: place.calls - (LEAD if place is order[0] else 0))


def weight(model: str, url: str) -> int:
    """A model is at home where this is highest: of `n` servers, one more takes every n+1st model and moves no other.

    Rendezvous hashing (Thaler and Ravishankar 1998).
    """
    return int.from_bytes(blake2b(f"{model} {url}".encode(), digest_size=8).digest())


def _having(model: str, places: Sequence[Place]) -> list[Place]:
    return [place for place in places if place.models is not None and model in place.models]
