"""A stack's retrievers and strategies, open: at a start, and again whenever an index has a new generation.

Knows nothing of models, or of who asks.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from retrieval.files import FileError
from retrieval.generation import CURRENT
from retrieval.passage import RetrievalError
from retrieval.retriever import NO_HANDS, Hands, NoRetrieval, Retriever, open_retriever
from retrieval.reuse import Write
from serve.combination import NONE
from serve.hands import counter
from serve.meter import at_once
from serve.stack import Stack
from serve.strategies.kind import Strategy
from serve.strategies.kinds import build, needed, searched_by

Lend = Callable[[Retriever], Retriever]
"""A retriever -> what is lent in its place."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What questions are answered with from one moment on; one that is under way keeps to what it began with."""

    stack: Stack
    hands: Hands
    retrievers: Mapping[str, Retriever]
    strategies: Mapping[str, Strategy]
    pointers: Mapping[str, str]
    """For each retriever, which generation its index named before it was opened."""
    lend: Lend

    def renewed(self) -> "Opened":
        """The same over the generations that are in use now; itself, where they are those it has.

        One that is broken is said once, and what was open in its place stays so. Reads whole files.
        """
        now = _pointers(self.stack)
        changed = [name for name, pointer in now.items() if pointer != self.pointers[name]]
        if not changed:
            return self
        problems: dict[str, None] = {}
        retrievers, strategies = dict(self.retrievers), dict(self.strategies)
        for name in changed:
            with _noted(problems):
                retrievers[name] = self.lend(open_retriever(self.stack.retrievers[name], self.hands))
                _logger.info("%s: %s is in use", self.stack.retrievers[name].index, now[name].split()[0])
        known = self.stack.strategies
        for name in known:
            if searched_by(known, name).intersection(changed):
                with _noted(problems):
                    strategies[name] = build(needed(known, [name]), retrievers)[name]
        for sentence in problems:
            _logger.warning("%s. Until it changes again, what was open before answers.", sentence)
        return replace(self, retrievers=retrievers, strategies=strategies, pointers=now)


def alone(retriever: Retriever) -> Retriever:
    """The retriever itself."""
    return retriever


def open_all(stack: Stack, write: Write = NO_HANDS.write, lend: Lend = alone) -> Opened:
    """Everything that the stack names; RetrievalError or FileError for the first that cannot be used.

    `write` is the stack's model. Without one everything opens too: what is wrong is said before an engine is started.
    """
    hands = Hands(write=write, count=counter(stack.model), at_once=at_once)
    if any(settings.tokens for settings in stack.retrievers.values()):
        hands.count("")
    pointers = _pointers(stack)
    retrievers: dict[str, Retriever] = {NONE: NoRetrieval()}
    retrievers |= {name: lend(open_retriever(settings, hands)) for name, settings in stack.retrievers.items()}
    strategies = build(stack.strategies, retrievers)
    return Opened(stack=stack, hands=hands, retrievers=retrievers, strategies=strategies, pointers=pointers, lend=lend)


def _pointers(stack: Stack) -> dict[str, str]:
    return {name: _pointer(settings.index) for name, settings in stack.retrievers.items()}


def _pointer(index: Path) -> str:
    """What CURRENT says; nothing where it cannot be read, and opening the index then says why."""
    try:
        return (index / CURRENT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def _noted(problems: dict[str, None]) -> Iterator[None]:
    """Go on without it; two retrievers of one broken index have the same to say."""
    try:
        yield
    except (FileError, RetrievalError, OSError) as error:
        problems[str(error)] = None
