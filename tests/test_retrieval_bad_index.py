"""Whatever is wrong with an index or a question: a sentence that names it, or an answer; and nothing is lost."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest

from retrieval.__main__ import main
from retrieval.build import UNFINISHED, build
from retrieval.generation import alone, current, in_use
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Query, RetrievalError, whole
from retrieval.retriever import open_retriever
from retrieval.search import KINDS
from retrieval.settings import Kind, RetrieverSettings
from tests.tiny_search import SAID, make_embedder

ROOT = Path(__file__).parents[1]
DOCUMENTS = tuple(Document(id=f"n{n}", title=f"own{n}", text=f"{SAID[n]} {SAID[n * n % 23]} true") for n in range(12))
OTHERS = tuple(Document(id=f"m{n}", title=f"other{n}", text=f"{SAID[n * 5 % 24]} false") for n in range(12))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_embedder(tmp_path_factory.mktemp("embedder") / "tiny")


@pytest.fixture(scope="module")
def settings(embedder: Path) -> BuildSettings:
    return BuildSettings(embedder=str(embedder))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, settings: BuildSettings) -> Path:
    """Two indexes, `one` and `two`; a test damages a copy."""
    folder = tmp_path_factory.mktemp("made")
    build(DOCUMENTS, folder / "one", settings)
    build(OTHERS, folder / "two", settings)
    return folder


FILES = (
    "CURRENT",
    "gen-0001/manifest.json",
    "gen-0001/documents.jsonl",
    "gen-0001/documents.npy",
    "gen-0001/passages.npy",
    "gen-0001/index.faiss",
    "gen-0001/keys.npy",
    "gen-0001/written.jsonl",
    "gen-0001/words/data.csc.index.npy",
    "gen-0001/words/indices.csc.index.npy",
    "gen-0001/words/indptr.csc.index.npy",
    "gen-0001/words/vocab.index.json",
    "gen-0001/words/params.index.json",
)


def test_these_are_all_files_of_an_index(made: Path) -> None:
    found = {file.relative_to(made / "one").as_posix() for file in (made / "one").rglob("*") if file.is_file()}

    assert found == {*FILES, ".lock"}


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda file, _: file.write_bytes(file.read_bytes()[:-2]),
    "emptied": lambda file, _: file.write_bytes(b""),
    "removed": lambda file, _: file.unlink(),
    "another": lambda file, other: file.write_bytes(other.read_bytes()),
    "a folder": lambda file, _: (file.unlink(), file.mkdir()),
    "longer": lambda file, _: file.write_bytes(file.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_a_build_makes_the_index_whole_again(
    made: Path, tmp_path: Path, settings: BuildSettings, name: str, damage: str
) -> None:
    index = Path(copytree(made / "one", tmp_path / "one"))
    before = (index / name).read_bytes()
    DAMAGES[damage](index / name, made / "two" / name)
    if (index / name).is_file() and (index / name).read_bytes() == before:
        assert len(open_index(index).passages) == 12, "nothing was damaged: both indexes have the same file"
        return

    with pytest.raises(RetrievalError) as refusal:
        open_index(index)

    assert str(refusal.value).startswith(str(index))
    assert f"`python -m retrieval build DOCS {index}`" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    if (index / "CURRENT").is_dir():
        (index / "CURRENT").rmdir()
    build(DOCUMENTS, index, settings)
    assert [passage.document for passage in open_index(index).passages] == [one.id for one in DOCUMENTS]


def test_a_generation_of_another_index_is_refused(made: Path, tmp_path: Path) -> None:
    index = Path(copytree(made / "one", tmp_path / "one"))
    rmtree(index / "gen-0001")
    copytree(made / "two" / "gen-0001", index / "gen-0001")

    with pytest.raises(RetrievalError, match=r"manifest.json: is not what was written"):
        open_index(index)


def test_an_embedder_of_another_width_in_its_place_is_refused_and_a_build_starts_anew(tmp_path: Path) -> None:
    settings = BuildSettings(embedder=str(make_embedder(tmp_path / "mine", width=32)))
    build(DOCUMENTS, tmp_path / "index", settings)
    rmtree(tmp_path / "mine")
    make_embedder(tmp_path / "mine", width=16)

    with pytest.raises(RetrievalError, match="built with another version of the embedder mine"):
        open_index(tmp_path / "index")

    assert build(DOCUMENTS, tmp_path / "index", settings).dimension == 16
    assert open_index(tmp_path / "index").vectors.dimension == 16


@pytest.mark.parametrize("pointer", ["gen-0001\n", "gen-0001 {sha256}\n"])
def test_an_index_of_the_first_format_is_refused_and_can_be_built_over(
    tmp_path: Path, settings: BuildSettings, pointer: str
) -> None:
    index = tmp_path / "index"
    (index / "gen-0001").mkdir(parents=True)
    manifest = json.dumps({"inputs": {"corpus_sha256": "c", "format": 1}, "documents": 1, "passages": 1, "files": {}})
    (index / "gen-0001" / "manifest.json").write_text(manifest)
    (index / "CURRENT").write_text(pointer.format(sha256=sha256(manifest.encode()).hexdigest()))

    with pytest.raises(RetrievalError, match=rf"make the index with `python -m retrieval build DOCS {index}`"):
        open_index(index)

    build(DOCUMENTS, index, settings)
    assert current(index).name == "gen-0002"
    assert len(open_index(index).passages) == 12


QUERIES = {
    "empty": "",
    "blank": " \n\t\u2028",
    "punctuation": "?!... --- «»",
    "zeros": "\0\0\0",
    "a zero between": "d7\0d8",
    "half a character": "d7 \ud83e",
    "two halves": "\udd8a\ud83e",
    "long": "d7 own3 " * 12_500,
    "one long word": "x" * 100_000,
    "no word of it": "d" * 7,
}


@pytest.mark.parametrize(("kind", "weight"), [*((kind, None) for kind in KINDS), ("hybrid", 0.5)])
@pytest.mark.parametrize("query", QUERIES)
def test_any_question_has_an_answer(made: Path, kind: Kind, query: str, weight: float | None) -> None:
    retriever = open_retriever(RetrieverSettings(kind=kind, index=made / "one", k=100, weight=weight))

    hits = asyncio.run(retriever.search(Query(QUERIES[query])))

    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len({hit.passage.id for hit in hits}) == len(hits)
    assert all(hit.score == hit.score for hit in hits), "a score that is no number"
    assert len(hits) == 12 or kind == "lexical", "k is larger than the corpus: all of it"
    if kind == "lexical":
        words = {word.lower() for word in QUERIES[query].replace("\0", " ").split()}
        assert len(hits) == sum(bool(words & {*one.text.split(), one.title}) for one in DOCUMENTS)


def test_half_a_character_is_replaced_and_a_whole_one_is_not() -> None:
    query = Query("a \ud83e b \U0001f98a", history=("\udd8a", "\ud83e\udd8a"))

    assert query == Query("a \ufffd b 🦊", history=("\ufffd", "🦊"))
    assert whole("\ufeffé\0") == "\ufeffé\0"


@pytest.mark.parametrize("words", ["", "?", "\0", "\udcff"])
def test_the_command_answers_any_question(made: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(made / "one"), words, "-k", "99"]) == 0
    assert capsys.readouterr().out.startswith("1. own")


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        ("", "holds no documents"),
        ("\n \n", "holds no documents"),
        ('{"_id": "a", "text": " \\n"}\n{"_id": "b", "title": "\\t", "text": "\\u2003"}\n', "hold no text"),
    ],
)
def test_a_corpus_without_text_is_refused_and_the_index_stays(
    made: Path, tmp_path: Path, embedder: Path, corpus: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Path(copytree(made / "one", tmp_path / "one"))
    before = in_use(index)
    (tmp_path / "corpus.jsonl").write_text(corpus)

    assert main(["build", str(tmp_path / "corpus.jsonl"), str(index), "--embedder", str(embedder)]) == 1

    assert says in capsys.readouterr().err
    assert in_use(index) == before


guarded: list[str] = []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As for a user who may not write there; root, who may, runs the tests in many a container."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate")

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if not guarded or not arguments or not str(arguments[0]).startswith(guarded[0]):
            return
        if event in changes or (event == "open" and arguments[2] & writes):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    sys.addaudithook(refuse)  # it stays, and does nothing once nothing is guarded
    guarded.append(str(folder))
    try:
        yield
    finally:
        guarded.clear()


def test_an_index_that_cannot_be_written_can_be_searched(
    made: Path, tmp_path: Path, embedder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Path(copytree(made / "one", tmp_path / "one"))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "d7"}\n')

    with read_only(index):
        found = main(["search", str(index), "own3 d9"])
        built = main(["build", str(corpus), str(index), "--embedder", str(embedder)])

    said = capsys.readouterr()
    assert (found, built) == (0, 1)
    assert said.out.startswith("1. own3")
    assert f"{index}: cannot be written: Permission denied." in said.err


def test_a_path_may_have_spaces_and_letters_of_any_alphabet(
    tmp_path: Path, embedder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Ärzte & Söhne's 漢字 🦊"
    docs, index = folder / "the documents", folder / "the index"
    docs.mkdir(parents=True)
    copytree(embedder, folder / "my embedder")
    (docs / "приветствие %s {x}.md").write_text("# own7\n\nd7 true")

    codes = [
        main(["build", str(docs), str(index), "--embedder", str(folder / "my embedder")]),
        main(["search", str(index), "d7"]),
    ]

    assert codes == [0, 0]
    assert "приветствие %s {x}" in capsys.readouterr().out


def test_a_second_build_at_the_same_time_is_refused(
    made: Path, tmp_path: Path, embedder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Path(copytree(made / "one", tmp_path / "one"))
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "d7"}\n')
    before = in_use(index)

    with alone(index):
        code = main(["build", str(tmp_path / "corpus.jsonl"), str(index), "--embedder", str(embedder)])

    assert code == 1
    assert capsys.readouterr().err == f"{index}: another build of this index is running; wait until it ends\n"
    assert in_use(index) == before


def test_a_build_that_is_interrupted_leaves_the_old_index_and_what_it_has_embedded(
    made: Path, tmp_path: Path, embedder: Path
) -> None:
    index = Path(copytree(made / "one", tmp_path / "one"))
    before = in_use(index)
    rows = ({"_id": str(n), "text": f"{SAID[n % 24]} own{n}"} for n in range(30_000))
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["build", str(tmp_path / "corpus.jsonl"), str(index), "--embedder", str(embedder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "retrieval", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not list((index / UNFINISHED).glob("*/*.npz")):
        assert process.poll() is None
        time.sleep(0.005)

    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]

    assert process.returncode == 1
    assert said.endswith("\nStopped. No index is left half made: each is the old one, or the new one.\n")
    assert "Traceback" not in said
    assert in_use(index) == before
    assert list((index / UNFINISHED).glob("*/*.npz"))
