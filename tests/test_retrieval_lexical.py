"""BM25: the numbers of the formula, and the published figure on SciFact."""

import math
from pathlib import Path
from statistics import fmean

import pytest

from retrieval.documents import read_documents
from retrieval.lexical import Words
from retrieval.metrics import judged
from retrieval.topics import read_topics

SCIFACT = Path(__file__).parents[2] / "shared" / "data" / "retrieval" / "scifact"

ANIMALS = ("cat dog dog owl", "dog", "owl owl fox", "cat fox fox fox owl dog")


def bm25(question: str, texts: tuple[str, ...], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Lucene's BM25, as its papers write it."""
    split = [text.split() for text in texts]
    average = fmean(map(len, split))

    def score(words: list[str]) -> float:
        total = 0.0
        for term in question.split():
            with_term = sum(term in other for other in split)
            rarity = math.log(1 + (len(split) - with_term + 0.5) / (with_term + 0.5))
            count = words.count(term)
            total += rarity * count / (count + k1 * (1 - b + b * len(words) / average))
        return total

    return [score(words) for words in split]


@pytest.mark.parametrize("question", ["dog", "owl fox", "fox fox cat", "unicorn", "unicorn dog"])
def test_scores_are_those_of_the_formula(question: str) -> None:
    expected = bm25(question, ANIMALS)

    found = Words.build(ANIMALS).search(question, k=10)

    assert dict(found) == pytest.approx({row: score for row, score in enumerate(expected) if score > 0}, rel=1e-5)


@pytest.mark.parametrize(
    ("question", "rows"), [("the running foxes", [1]), ("a an of", []), ("", []), ("?!", []), ("Ångström", [2])]
)
def test_words_are_matched_by_stem_and_stop_words_never(question: str, rows: list[int]) -> None:
    words = Words.build(["a stone of the wall", "a fox runs", "the ångström unit"])

    assert [row for row, _ in words.search(question, k=5)] == rows


def test_equal_texts_come_in_the_order_of_the_index() -> None:
    words = Words.build(["grey owl"] * 50)

    assert [row for row, _ in words.search("owl", k=3)] == [0, 1, 2]


def test_saving_is_without_pickle_and_loading_gives_the_same_answers(tmp_path: Path) -> None:
    words = Words.build(ANIMALS)

    words.save(tmp_path)

    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".json"}
    assert Words.load(tmp_path).search("owl fox", k=4) == words.search("owl fox", k=4)


def test_texts_without_a_single_word_make_an_index_that_finds_nothing(tmp_path: Path) -> None:
    Words.build(["the", "..."]).save(tmp_path)

    assert Words.load(tmp_path).search("the fox", k=4) == []


@pytest.mark.skipif(
    not SCIFACT.exists(), reason="SciFact is not beside the repository (../shared/data/retrieval/scifact)"
)
def test_scifact_comes_back_to_the_published_bm25() -> None:
    documents = list(read_documents(SCIFACT))
    words = Words.build([f"{document.title} {document.text}" for document in documents])

    topics = read_topics(SCIFACT)
    found = {topic.id: [documents[row].id for row, _ in words.search(topic.text, k=10)] for topic in topics}

    rows = judged(found, {topic.id: topic.grades for topic in topics}).values()

    assert fmean(row["nDCG@10"] for row in rows) == pytest.approx(
        0.686, abs=0.005
    )  # bm25s' own benchmark: 0.687 with these parameters
