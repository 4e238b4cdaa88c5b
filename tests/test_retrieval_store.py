"""What is written comes back: every text to the character, every passage where it stands in it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.chunking import passages
from retrieval.corpus import read_corpus
from retrieval.passage import Document, RetrievalError
from retrieval.store import Cuts, Passages, write

DATA = Path(__file__).parents[2] / "shared" / "data" / "retrieval"

TEXTS = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab .\n\r\t\0\u2028\u2029\u0085\u0301\ufeff🦊漢")),
    max_size=120,
)
META = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=3)

SPOKEN = (
    "Die Straße läuft über den Fluß.",
    "Ёжик в тумане. Это ещё не всё.",
    "漢字と仮名交じり文。日本語の文章です。",
    "النص العربي يُكتب من اليمين.",
    "हिन्दी में लिखा हुआ पाठ।",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈, one sign each of many characters 🦊",
    "cafe\u0301 is not café",
    "one\r\ntwo\rthree\n\n four ",
    "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "nothing\0between\0zeros",
    "\ufeffa mark of the order of bytes",
    '"quotes" and \\backslashes\\ and </script>',
)


def written(folder: Path, documents: list[Document], size: int, overlap: int) -> Cuts:
    """A store of the documents, as a build would cut them; where each passage stands."""
    pieces = [
        (n, one.start, one.end) for n, document in enumerate(documents) for one in passages(document, size, overlap)
    ]
    cuts = np.array(pieces, dtype=np.int64).reshape(-1, 3)
    write(folder, documents, cuts)
    return cuts


def check(documents: list[Document], size: int, overlap: int) -> None:
    with TemporaryDirectory() as folder:
        cuts = written(Path(folder), documents, size, overlap)

        found = Passages(Path(folder))

        assert list(found.each_document()) == documents
        assert len(found) == len(cuts)
        assert found.owners.tolist() == cuts[:, 0].tolist()
        for passage, (number, start, end) in zip(found, cuts.tolist(), strict=True):
            source = documents[number]
            assert passage.text == source.text[start:end]
            assert (passage.document, passage.title, passage.meta) == (source.id, source.title, source.meta)
        counts = np.bincount(cuts[:, 0], minlength=len(documents)).tolist()
        for number, document in enumerate(documents):
            assert found.document(document.id) == document
            assert cuts[found.of(document.id), 0].tolist() == [number] * counts[number]


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXTS, TEXTS, META), max_size=6), st.integers(1, 40))
def test_any_text_comes_back(given_texts: list[tuple[str, str, dict[str, object]]], size: int) -> None:
    documents = [
        Document(
            id=f"{number}-{title[:3]}", title=title, text=text, meta=meta, pages=(0, len(text) // 2) if text else ()
        )
        for number, (title, text, meta) in enumerate(given_texts)
    ]

    check(documents, size, (size - 1) // 2)


def test_texts_of_many_languages_and_odd_characters_come_back_from_a_file(tmp_path: Path) -> None:
    rows = [{"_id": f"d{n}", "title": text[:5], "text": text * 3, "says": text} for n, text in enumerate(SPOKEN)]
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=n % 2 == 0) + "\n" for n, row in enumerate(rows))
    )

    documents = list(read_corpus(tmp_path / "corpus.jsonl"))

    assert [one.text for one in documents] == [text * 3 for text in SPOKEN]
    assert [one.meta["says"] for one in documents] == list(SPOKEN)
    for size in (1, 7, 30, 1000):
        check(documents, size, size // 3)


@pytest.mark.parametrize("name", ["cranfield", "scifact"])
@pytest.mark.parametrize(("size", "overlap"), [(300, 60), (1000, 100)])
def test_every_passage_of_a_published_corpus_is_the_characters_it_says(name: str, size: int, overlap: int) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not beside the repository (../shared/data/retrieval/{name})")

    check(list(read_corpus(DATA / name / "corpus.jsonl")), size, overlap)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Passages:
    folder = tmp_path_factory.mktemp("store")
    written(folder, [Document(id=f"d{n}", title="", text=f"{n} " * 3 * n) for n in range(14)], 20, 5)
    return Passages(folder)


@given(st.integers(-70, 70), st.integers(-70, 70), st.sampled_from([1, 2, -1, 7]))
def test_a_slice_is_that_of_a_list(stored: Passages, start: int, stop: int, step: int) -> None:
    whole = list(stored)

    assert len(whole) > 20
    assert stored[start:stop:step] == tuple(whole[start:stop:step])


def test_a_row_or_a_name_that_is_not_there_is_an_error(stored: Passages) -> None:
    with pytest.raises(IndexError):
        stored[len(stored)]
    with pytest.raises(KeyError):
        stored.document("d99")
    with pytest.raises(KeyError):
        stored.of("d99")
    assert list(stored.of("d0")) == [], "a document without text has no passages, and is a document"


@pytest.mark.parametrize("file", ["documents.jsonl", "documents.npy", "passages.npy"])
def test_files_of_two_stores_do_not_go_together(tmp_path: Path, file: str) -> None:
    for name, count in (("one", 3), ("two", 5)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, [Document(id=f"d{n}", title="", text=f"text {n}") for n in range(count)], 20, 5)
    (tmp_path / "two" / file).rename(tmp_path / "one" / file)

    with pytest.raises(RetrievalError, match=r"documents.jsonl: does not fit"):
        Passages(tmp_path / "one")
