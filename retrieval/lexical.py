"""The words of passages: a BM25 index. The only door to bm25s; knows nothing of vectors or passages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.ranking import Ranking, best


class Words:
    """BM25 (Lucene's formula, k1 = 1.5, b = 0.75) over English stems without stop words."""

    def __init__(self, bm25: Any) -> None:
        self._bm25 = bm25

    @classmethod
    def build(cls, texts: Sequence[str]) -> "Words":
        import bm25s

        words = _words(texts)
        # Sorted, because bm25s numbers words in the order of a set: the same texts must make the same files.
        vocabulary = {word: number for number, word in enumerate(sorted({word for text in words for word in text}))}
        bm25 = bm25s.BM25()
        numbers = [[vocabulary[word] for word in text] for text in words]
        with np.errstate(invalid="ignore"):  # texts without a single word have an average length of 0
            bm25.index((numbers, vocabulary), create_empty_token=False, show_progress=False)
        return cls(bm25)

    @classmethod
    def load(cls, folder: Path) -> "Words":
        import bm25s

        return cls(bm25s.BM25.load(folder, allow_pickle=False, show_progress=False))

    def save(self, folder: Path) -> None:
        self._bm25.save(folder, allow_pickle=False, show_progress=False)

    def search(self, text: str, k: int) -> Ranking:
        """The k texts that share the most telling words with this one; fewer when fewer share any."""
        numbers = self._bm25.get_tokens_ids(_words([text])[0])
        return best(self._bm25.get_scores_from_ids(numbers), k) if numbers else []

    def __len__(self) -> int:
        return int(self._bm25.scores["num_docs"])


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s
    import Stemmer

    # A new stemmer for every call: one is not safe in two threads, and it costs less than a microsecond.
    stemmer = Stemmer.Stemmer("english")
    words: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
    )
    return words
