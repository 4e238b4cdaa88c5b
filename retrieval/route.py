"""Which domain a question belongs to, learnt from questions whose domain is known. The only door to scikit-learn.

Knows nothing of indexes or of what is done with a label: a filter, a text shown first, a choice of worked examples by
difficulty. Whether the questions it learns from are also those of a test is the caller's affair.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from pydantic import ConfigDict

from retrieval.batch import Vectors
from retrieval.files import STRICT, FileError, read_jsonl
from retrieval.passage import Passage, RetrievalError

Embed: TypeAlias = Callable[[str], Awaitable[Vectors]]
"""A text's vector, from any event loop: `Embedder.question`."""

FEWEST: Final = 5
"""Questions that a label needs to be learnt at all."""

INVERSE_REGULARISATION: Final = 10.0
"""On the demo's world, learnt from train and asked dev, three seeds: 182 of 240 are right; at 1, 175; at 100, 184.

On test, at 10: 572 of 720 (the most frequent label: 312), all 90 clashes, where the question names its register, and 41
of 72 paraphrases, of whose domain there are 16 questions to learn from in each world.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """`route: {questions: train.jsonl, label: domain}` of a named retriever."""

    questions: Path
    """JSONL of `{"question": ..., "meta": {LABEL: ...}}`: a test set's form, and never the questions of a test."""
    label: str
    """The key in `meta` that is predicted."""
    sure: float = 0.9
    """How likely a label must be, 0 to 1; of a question that no label is sure for, none is said."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Label -> a text about that domain, shown before what was found."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 <= self.sure < 1:
            raise RetrievalError(f"route.sure is {self.sure}: a likelihood from 0 (always sure) to below 1")
        blank = [label for label, text in self.about.items() if not text.strip()]
        if not self.label.strip() or blank:
            raise RetrievalError(
                f"route.about: the text for {', '.join(blank)} is blank; write one, or leave the line out"
                if blank
                else "route.label is blank; name the key of `meta` that is predicted, e.g. domain"
            )

    def under(self, folder: Path) -> "RouteSettings":
        """The same, with a path that was relative to this folder."""
        return replace(self, questions=(folder / self.questions).resolve())


class Router:
    """Logistic regression on the questions' vectors: learnt with the first question it is asked, the same each time.

    Whoever asks meanwhile waits for it; when the embedder fails, those who waited are told and the next who asks tries
    again.
    """

    def __init__(self, embed: Embed, labelled: Sequence[tuple[str, str]], sure: float = 0.0) -> None:
        self._embed = embed
        self._sure = sure
        self._labelled = labelled
        self._lock = Lock()
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._learning: Future[Any] | None = None

    async def label(self, text: str) -> str:
        """The most likely label of a question; empty when it is not likely enough."""
        # Shielded: who gives up waiting takes nothing from the others.
        model = await asyncio.shield(asyncio.wrap_future(self._learnt()))
        vector = await self._embed(text)
        likely = model.predict_proba(vector[np.newaxis])[0]
        return str(model.classes_[likely.argmax()]) if likely.max() >= self._sure else ""

    def _learnt(self) -> "Future[Any]":
        with self._lock:
            if self._learning is None or (self._learning.done() and self._learning.exception()):
                self._learning = self._worker.submit(self._learn)
            return self._learning

    def _learn(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        vectors = asyncio.run(self._vectors())
        labels = [label for _, label in self._labelled]
        return LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1_000).fit(vectors, labels)

    async def _vectors(self) -> Vectors:
        return np.stack(await asyncio.gather(*(self._embed(question) for question, _ in self._labelled)))


def open_router(settings: RouteSettings, embed: Embed) -> Router:
    """The router, ready to learn; FileError or RetrievalError when there is not enough to learn from."""
    labelled = read_labelled(settings)
    counts = Counter(label for _, label in labelled)
    scarce = [f"{label} ({count})" for label, count in sorted(counts.items()) if count < FEWEST]
    if len(counts) < 2 or scarce:
        have = f"too few for {', '.join(scarce)}" if scarce else f"only {', '.join(counts) or 'no label at all'}"
        raise RetrievalError(
            f"{settings.questions}: a router learns from {FEWEST} questions or more for each of two labels or more of "
            f"meta.{settings.label}, and here are {have}; add some, or leave such questions out"
        )
    unknown = sorted(settings.about.keys() - counts.keys())
    if unknown:
        raise RetrievalError(
            f"route.about: no question in {settings.questions} is labelled {', '.join(unknown)}; "
            f"there are {', '.join(sorted(counts))}"
        )
    return Router(embed, labelled, settings.sure)


def read_labelled(settings: RouteSettings) -> list[tuple[str, str]]:
    """(question, label) of every line; FileError has every bad line."""
    labelled: list[tuple[str, str]] = []
    problems: list[str] = []
    for number, row in read_jsonl(settings.questions):
        question, meta = row.get("question"), row.get("meta")
        label = meta.get(settings.label) if isinstance(meta, dict) else None
        if not isinstance(question, str) or not question.strip():
            problems.append(f"{settings.questions}:{number}: question: expected a text")
        elif not isinstance(label, str | int) or not str(label).strip():
            problems.append(
                f"{settings.questions}:{number}: meta.{settings.label}: expected a text, the question's label"
            )
        else:
            labelled.append((question, str(label)))
    if problems:
        raise FileError("\n".join(problems))
    return labelled


def introduction(about: Mapping[str, str], label: str) -> Passage | None:
    """The text about a domain, as a passage to be shown first; None for a domain without one.

    >>> introduction({"harbour": "Lengths are in metres."}, "harbour").id
    'about:harbour@0-22'
    """
    text = about.get(label)
    return None if text is None else Passage(f"about:{label}", f"About: {label}", text, 0, len(text))
