"""What judges have said, kept for good: a file that only grows, where the same inquiry to the same judge stands once.

    book = Book(folder, judge_hash)
    judgement = await book.ask(inquiry)

Knows nothing of metrics, or of why anybody asks.
"""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

from eval.judging.inquiry import Inquiry, Judgement, digest, template
from eval.judging.model import Judge
from eval.record import Journal
from retrieval.files import FileError, read_jsonl
from serve.once import Once

SHOWN: Final = 300
"""Characters of each part that a line quotes for people: the whole is in the run's records."""


class Unasked(Exception):  # noqa: N818 - a state of the book, not a mistake of anybody's
    """The judge has not been asked yet, and there is none to ask now."""


class Book:
    """Judgements of one judge, remembered over runs of the same command."""

    def __init__(self, path: Path, judge: str) -> None:
        """`judge` is its identity; what others said in the same file stays theirs."""
        self._judge_hash = judge
        self._journal = Journal(path)
        self._said: dict[str, Judgement] = {}
        self._once: Once[str, Judgement] = Once()
        self.judge: Judge | None = None
        for number, row in read_jsonl(path):
            try:
                if row["judge"] == judge:
                    self._said[row["key"]] = Judgement(row["said"], row["expected"])
            except KeyError as error:
                raise FileError(
                    f"{path}:{number}: no judgement of this program (no {error}); remove the line"
                ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.__exit__(kind, error, trace)

    async def ask(self, inquiry: Inquiry) -> Judgement:
        """What the judge said, or says now; Unasked when it is not there, ServeError when it fails."""
        key = digest([self._judge_hash, template(inquiry.kind), inquiry.parts])
        if key in self._said:
            return self._said[key]
        if (judge := self.judge) is None:
            raise Unasked
        # Two answers in the same words are judged once, also at the same time.
        return await self._once(key, lambda: self._fresh(key, inquiry, judge))

    async def _fresh(self, key: str, inquiry: Inquiry, judge: Judge) -> Judgement:
        judgement = await judge.judge(inquiry)
        shown = {name: text[:SHOWN] for name, text in inquiry.named.items()}
        row = {"key": key, "judge": self._judge_hash, "kind": inquiry.kind, "asked": shown}
        self._journal.write(row | {"said": judgement.said, "expected": judgement.expected})
        self._said[key] = judgement
        return judgement
