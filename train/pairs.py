"""What an embedder is shown at once: rows of a question, a relevant and some wrong documents, and batches of them.

Pure; knows nothing of files or models.
"""

import random
from collections.abc import Mapping, Sequence

from train.judged import Question

Row = Mapping[str, str]
"""anchor (a question), positive, negative_0, negative_1 ..."""


def rows(questions: Sequence[Question], negatives: Mapping[str, Sequence[str]], each: int) -> list[Row]:
    """A row for each question and relevant document, with `each` wrong documents of its own, the hardest first."""
    return [
        {"anchor": one.text, "positive": document}
        | {f"negative_{n}": wrong[(place * each + n) % len(wrong)] for n in range(each)}
        for one in questions
        for wrong in [negatives[one.text] if each else ()]
        for place, document in enumerate(one.relevant)
    ]


def batches(rows: Sequence[Row], relevant: Mapping[str, frozenset[str]], size: int, seed: int) -> list[list[int]]:
    """Every row once, in batches of at most `size` in which no document is relevant to the question of another row.

    Each question of a batch takes the documents of all others for wrong answers. In Cranfield, where many questions
    share documents, three in ten rows of batches of 32 would be taught to avoid a document that answers them.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    done: list[list[int]] = []
    open_: list[_Batch] = []
    for number in order:
        row = rows[number]
        batch = next((one for one in open_ if one.takes(row, relevant)), None)
        if batch is None:
            batch = _Batch()
            open_.append(batch)
        batch.add(number, row, relevant)
        if len(batch.rows) == size:
            open_.remove(batch)
            done.append(batch.rows)
    done += [batch.rows for batch in open_]
    random.Random(seed).shuffle(done)
    return done


class _Batch:
    """Rows that may stand together."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._questions: set[str] = set()
        self._documents: set[str] = set()
        self._relevant: set[str] = set()

    def takes(self, row: Row, relevant: Mapping[str, frozenset[str]]) -> bool:
        question, *documents = row.values()
        return (
            question not in self._questions
            and self._documents.isdisjoint(relevant[question])
            and self._relevant.isdisjoint(documents)
        )

    def add(self, number: int, row: Row, relevant: Mapping[str, frozenset[str]]) -> None:
        question, *documents = row.values()
        self.rows.append(number)
        self._questions.add(question)
        self._documents.update(documents)
        self._relevant |= relevant[question]
