"""The words of passages: a BM25 index. The only door to bm25s; knows nothing of vectors or passages."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retrieval.passage import RetrievalError
from retrieval.ranking import Ranking, best

WITHOUT_STEMS: Final = "none"
"""The language of texts whose words are compared as they are written."""


class Words:
    """BM25 (Lucene's formula, k1 = 1.5, b = 0.75) over the stems of a language without its stop words."""

    def __init__(self, bm25: Any, language: str = "english") -> None:
        self._bm25 = bm25
        self._language = language

    @classmethod
    def build(cls, texts: Sequence[str], language: str = "english") -> "Words":
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it narrates at its own, lower level
        words = _words(texts, language)
        # Sorted, because bm25s numbers words in the order of a set: the same texts must make the same files.
        vocabulary = {word: number for number, word in enumerate(sorted({word for text in words for word in text}))}
        bm25 = bm25s.BM25()
        numbers = [[vocabulary[word] for word in text] for text in words]
        with np.errstate(invalid="ignore"):  # texts without a single word have an average length of 0
            bm25.index((numbers, vocabulary), create_empty_token=False, show_progress=False)
        return cls(bm25, language)

    @classmethod
    def load(cls, folder: Path, language: str = "english") -> "Words":
        """Memory-mapped, but for the vocabulary."""
        import bm25s

        return cls(bm25s.BM25.load(folder, mmap=True, allow_pickle=False, show_progress=False), language)

    def save(self, folder: Path) -> None:
        self._bm25.save(folder, allow_pickle=False, show_progress=False)

    def search(self, text: str, k: int, rows: NDArray[np.bool_] | None = None) -> Ranking:
        """The k texts, of those that `rows` allows, that share the most telling words with this one; fewer when fewer
        share any."""
        scores = self.scores(text)
        return best(scores if rows is None else scores * rows, k)

    def scores(self, text: str) -> NDArray[np.float32]:
        """BM25 of every text for this one, 0 where they share no word."""
        numbers = self._bm25.get_tokens_ids(_words([text], self._language)[0])
        if not numbers:
            return np.zeros(len(self), dtype=np.float32)
        return np.asarray(self._bm25.get_scores_from_ids(numbers), dtype=np.float32)

    def __len__(self) -> int:
        return int(self._bm25.scores["num_docs"])


def check_language(name: str) -> None:
    """RetrievalError for a language without a stemmer; `none` has none and wants none."""
    import Stemmer

    if name != WITHOUT_STEMS and name not in Stemmer.algorithms():
        known = ", ".join(sorted(Stemmer.algorithms()))
        raise RetrievalError(f"language: there are no stems of {name!r}; choose {WITHOUT_STEMS} or one of: {known}")


def _words(texts: Sequence[str], language: str) -> list[list[str]]:
    import bm25s
    import Stemmer

    # A new stemmer for every call: one is not safe in two threads, and it costs less than a microsecond.
    stemmer = None if language == WITHOUT_STEMS else Stemmer.Stemmer(language)
    words: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords=_stop_words(language), stemmer=stemmer, return_ids=False, show_progress=False
    )
    return words


def _stop_words(language: str) -> str | list[str]:
    """The library's list for the language, by its name; none where it has none."""
    import bm25s.stopwords

    known = language == "english" or hasattr(bm25s.stopwords, f"STOPWORDS_{language.upper()}")
    return language if known else []
