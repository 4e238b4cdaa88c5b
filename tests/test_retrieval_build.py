"""A generation made of the last one is the one made from nothing, and pays only for what is new."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import get_args
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

import retrieval.build
from retrieval.batch import Vectors as Matrix
from retrieval.build import UNFINISHED, WRITTEN, build
from retrieval.embed import open_embedder
from retrieval.files import model_hash, read_jsonl
from retrieval.generation import current, in_use
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Query, RetrievalError
from retrieval.retriever import open_retriever
from retrieval.settings import RetrieverSettings
from retrieval.views import PROMPTS, View
from tests.tiny_search import SAID, make_embedder

WRITERS = tuple(PROMPTS)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_embedder(tmp_path_factory.mktemp("embedder") / "tiny")


@pytest.fixture(scope="module")
def embedded(embedder: Path) -> Iterator[list[str]]:
    """The texts that builds had embedded; a test forgets them."""
    texts: list[str] = []
    really = open_embedder(embedder, model_hash(embedder)).passages

    def passages(some: list[str]) -> Matrix:
        texts.extend(some)
        return really(some)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval.build, "open_same", lambda *_: SimpleNamespace(passages=passages))
        yield texts


def document(number: int, edition: int = 0) -> Document:
    """Some five passages at a size of 20; two documents share some of them."""
    words = [SAID[(number * 7 + place * 5) % 24] for place in range(14)]
    return Document(id=f"n{number}", title="", text=f"{' '.join(words)} own{number} edition{edition}")


Edits = list[tuple[str, int]]
EDITS = st.lists(st.tuples(st.sampled_from(["add", "change", "remove"]), st.integers(0, 11)), min_size=1, max_size=6)


def edited(corpus: dict[int, Document], edits: Edits, edition: int) -> dict[int, Document]:
    """One document always stays."""
    after = dict(corpus)
    for what, number in edits:
        if what == "add":
            after.setdefault(number, document(number))
        elif what == "change" and number in after:
            after[number] = document(number, edition)
        elif what == "remove" and len(after) > 1:
            after.pop(number, None)
    return after


@tried(max_examples=12)
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_a_build_on_top_of_another_is_one_from_nothing(
    embedder: Path, embedded: list[str], rounds: list[Edits]
) -> None:
    settings = BuildSettings(embedder=str(embedder), size=20, overlap=5)
    corpus = {number: document(number) for number in range(0, 12, 2)}
    with TemporaryDirectory() as folder:
        index, fresh = Path(folder) / "index", Path(folder) / "fresh"
        build(corpus.values(), index, settings)
        for edition, edits in enumerate(rounds, start=1):
            known = {passage.searchable for passage in open_index(index).passages}
            corpus = edited(corpus, edits, edition)
            embedded.clear()

            build(corpus.values(), index, settings)

            asked = list(embedded)
            made = build(corpus.values(), fresh / str(edition), settings)
            ours, theirs = open_index(index), open_index(fresh / str(edition))
            assert sorted(asked) == sorted({passage.searchable for passage in ours.passages} - known)
            assert tuple(ours.passages) == tuple(theirs.passages)
            rows = np.arange(len(ours.passages))
            assert np.array_equal(ours.vectors.take(rows), theirs.vectors.take(rows))
            for question in ("d1 d8", "own4", "edition2 d3"):
                vector = ours.embedder.passages([question])[0]
                assert ours.vectors.search(vector, 9) == theirs.vectors.search(vector, 9)
                assert ours.words.search(question, 9) == theirs.words.search(question, 9)
            assert ours.manifest.files == made.files, "to the bit"


class Model:
    """Writes of each passage that it was seen; refuses once it has written `patience` times."""

    def __init__(self, patience: int = 10**6) -> None:
        self.asked: list[str] = []
        self.patience = patience

    async def __call__(self, prompt: str) -> str:
        if len(self.asked) >= self.patience:
            raise RetrievalError("the model has gone home")
        self.asked.append(prompt)
        await asyncio.sleep(0)
        return f" seen{crc32(prompt.encode())} \n"


def short(number: int, edition: int = 0) -> Document:
    return Document(id=f"n{number}", title=f"own{number}", text=f"{SAID[number]} edition{edition}")


def written_by(embedder: Path, view: View, writer: str = "one") -> BuildSettings:
    return BuildSettings(embedder=str(embedder), view=view, writer=writer)


@pytest.mark.parametrize("view", WRITERS)
def test_a_model_is_asked_only_about_what_is_new(tmp_path: Path, embedder: Path, view: View) -> None:
    first, second, third = Model(), Model(), Model()
    settings = written_by(embedder, view)

    build([short(n) for n in range(10)], tmp_path / "index", settings, first)
    build([short(3, edition=1), *map(short, range(4, 12))], tmp_path / "index", settings, second)
    build([short(3, edition=1), *map(short, range(4, 11))], tmp_path / "index", settings, third)

    assert len(first.asked) == 10
    assert [name for name in ("own3", "own10", "own11") if any(name in one for one in second.asked)] == [
        "own3",
        "own10",
        "own11",
    ]
    assert (len(second.asked), third.asked) == (3, [])
    assert len(list(read_jsonl(current(tmp_path / "index") / WRITTEN))) == 8, "what is written of a lost passage goes"


def test_another_writer_is_asked_anew(tmp_path: Path, embedder: Path) -> None:
    one, other = Model(), Model()

    build([short(1), short(2)], tmp_path / "index", written_by(embedder, "summary"), one)
    build([short(1), short(2)], tmp_path / "index", written_by(embedder, "summary", "other"), other)

    assert one.asked == other.asked
    assert open_index(tmp_path / "index").manifest.inputs.settings.writer == "other"


@pytest.mark.parametrize("patience", [1, 8, 11, 19])
def test_a_model_that_fails_leaves_the_old_index_and_what_it_has_written(
    tmp_path: Path, embedder: Path, patience: int
) -> None:
    index, settings = tmp_path / "index", written_by(embedder, "questions")
    build([short(0)], index, settings, Model())
    before, failing, patient = in_use(index), Model(patience), Model()

    with pytest.raises(RetrievalError, match="gone home"):
        build(map(short, range(21)), index, settings, failing)

    assert in_use(index) == before
    made = build(map(short, range(21)), index, settings, patient)
    assert len(failing.asked) == patience
    assert len(failing.asked) + len(patient.asked) == 20, "nothing is asked twice"
    assert not {*failing.asked} & {*patient.asked}
    assert in_use(index) == made
    assert not (index / UNFINISHED).exists()


def test_a_line_of_the_log_that_a_death_has_torn_is_asked_for_again(tmp_path: Path, embedder: Path) -> None:
    failing, patient = Model(6), Model()
    with pytest.raises(RetrievalError):
        build(map(short, range(12)), tmp_path / "index", written_by(embedder, "context"), failing)
    (log,) = (tmp_path / "index" / UNFINISHED).glob("*.jsonl")
    log.write_bytes(log.read_bytes()[:-5])

    build(map(short, range(12)), tmp_path / "index", written_by(embedder, "context"), patient)

    assert len(patient.asked) == 12 - 6 + 1


def test_half_a_character_that_a_model_writes_spoils_nothing(tmp_path: Path, embedder: Path) -> None:
    async def write(prompt: str) -> str:
        return "fox \ud83e"

    build([short(1)], tmp_path / "index", written_by(embedder, "summary"), write)

    assert [row["text"] for _, row in read_jsonl(current(tmp_path / "index") / WRITTEN)] == ["fox \ufffd"]


PIECE = Document(
    id="n1", title="Moor", text="When did Aldous Finch buy d7 in 1931?", meta={"answer": "SELECT price", "year": 1931}
)
SEEN = {
    "titled": "Moor\nWhen did Aldous Finch buy d7 in 1931?",
    "text": "When did Aldous Finch buy d7 in 1931?",
    "answer": "SELECT price",
    "masked": "When did <mask> buy <mask> in <mask>?",
    "summary": "It is about d5.",
    "questions": "It is about d5.\nMoor\nWhen did Aldous Finch buy d7 in 1931?",
    "context": "It is about d5.\nMoor\nWhen did Aldous Finch buy d7 in 1931?",
}


@pytest.mark.parametrize("view", get_args(View))
def test_a_view_is_what_is_embedded_and_whose_words_are_found(
    tmp_path: Path, embedder: Path, embedded: list[str], view: View
) -> None:
    async def write(prompt: str) -> str:
        return "It is about d5."

    other = Document(id="n2", title="Lake", text="Nothing of the kind.", meta={"answer": "none"})
    embedded.clear()
    settings = BuildSettings(embedder=str(embedder), view=view, writer="one" if view in WRITERS else "")
    build([PIECE, other], tmp_path / "index", settings, write if view in WRITERS else None)
    search = open_retriever(RetrieverSettings(kind="lexical", index=tmp_path / "index", k=1)).search

    found = {
        word: [hit.passage.document for hit in asyncio.run(search(Query(word)))]
        for word in ("Moor", "buy", "finch", "price", "Aldous Finch buys")
    }

    assert embedded[0] == SEEN[view]
    assert found["Moor"] == (["n1"] if "Moor" in SEEN[view] else [])
    assert found["buy"] == (["n1"] if "buy" in SEEN[view] else [])
    assert found["finch"] == (["n1"] if "Finch" in SEEN[view] else [])
    assert found["price"] == (["n1"] if view == "answer" else [])
    assert found["Aldous Finch buys"] == (["n1"] if "buy" in SEEN[view] else [])


def test_what_is_shown_is_the_passage_whatever_was_searched(tmp_path: Path, embedder: Path) -> None:
    build([PIECE], tmp_path / "index", BuildSettings(embedder=str(embedder), view="answer"))

    (hit,) = asyncio.run(
        open_retriever(RetrieverSettings(kind="lexical", index=tmp_path / "index", k=3)).search(Query("price"))
    )

    assert (hit.passage.text, hit.passage.title) == (PIECE.text, PIECE.title)


def test_another_view_embeds_its_own_texts(tmp_path: Path, embedder: Path, embedded: list[str]) -> None:
    settings = BuildSettings(embedder=str(embedder))
    build([PIECE], tmp_path / "index", settings)
    embedded.clear()

    build([PIECE], tmp_path / "index", replace(settings, view="text"))

    assert embedded == [SEEN["text"]]
