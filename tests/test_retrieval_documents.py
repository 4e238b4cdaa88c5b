"""Documents from disk, and what is refused before anything slow begins."""

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from retrieval.__main__ import main
from retrieval.documents import read_documents
from retrieval.files import FileError, read_jsonl
from retrieval.passage import Document
from tests.logs import told
from tests.made_files import make_hollow


def corpus(folder: Path, *lines: str | dict[str, Any]) -> Path:
    file = folder / "corpus.jsonl"
    rows = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def test_a_beir_corpus_keeps_its_free_metadata(tmp_path: Path) -> None:
    file = corpus(tmp_path, {"_id": "d1", "title": "Fox", "text": "Red.", "year": 1999}, {"_id": 2, "text": "Blue."})

    first, second = read_documents(file)

    assert first == Document(id="d1", title="Fox", text="Red.", meta={"year": 1999})
    assert second == Document(id="2", title="", text="Blue.")


def test_a_folder_with_a_corpus_is_that_corpus(tmp_path: Path) -> None:
    corpus(tmp_path, {"_id": "d1", "text": "Red."})
    (tmp_path / "README.md").write_text("# About")

    assert [document.id for document in read_documents(tmp_path)] == ["d1"]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c"], ids=ascii)
def test_a_line_ends_only_where_json_lines_end(tmp_path: Path, separator: str) -> None:
    text = f"one{separator}two"

    assert [document.text for document in read_documents(corpus(tmp_path, {"_id": "d", "text": text}))] == [text]


def test_a_folder_of_texts_is_read_with_paths_as_ids_and_headings_as_titles(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "leave-policy.txt").write_text("Thirty days.")
    (tmp_path / "about.md").write_text("# About us\n\nWe make doors.")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")

    found = {document.id: document for document in read_documents(tmp_path)}

    assert {name: document.title for name, document in found.items()} == {
        "about.md": "About us",
        "deep/leave-policy.txt": "leave policy",
    }
    assert found["deep/leave-policy.txt"].text == "Thirty days."


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"_id": "a", "text": "x"}', '{"_id": "b", "text": '], ["corpus.jsonl:2: not JSON"]),
        (['{"_id": "a", "text": "x"}', '["b"]'], ["corpus.jsonl:2: expected a JSON object"]),
        (['{"text": "x"}'], ['corpus.jsonl:1: a document needs an "_id"']),
        (['{"_id": "a"}'], ["corpus.jsonl:1: document 'a' needs a \"text\""]),
        (['{"_id": "a", "text": "x", "title": 3}'], ["corpus.jsonl:1: the \"title\" of document 'a'"]),
        (['{"_id": "a", "text": "x"}', "", '{"_id": "a", "text": "y"}'], [":3: document 'a' is already on line 1"]),
        ([""], ["corpus.jsonl: holds no documents"]),
        (['{"_id": "a"}', '{"text": "x"}'], ["corpus.jsonl:1: ", "corpus.jsonl:2: "]),
        (['{"_id": "a", "text": "\\ud83d"}'], ["corpus.jsonl:1: document 'a' holds '\\ud83d', half of a character"]),
        (['{"_id": "a", "text": "x", "by": "\\udc00"}'], ["corpus.jsonl:1: document 'a' holds '\\udc00'"]),
        ([{"_id": "a", "text": "x" * 20_000_001}], ["document 'a' holds 20,000,001 characters, more than 20,000,000"]),
        (['{"_id": "a", "text": ' + "[" * 100_000], ["corpus.jsonl:1: cannot be read as JSON"]),
        (['{"_id": ' + "9" * 5000 + "}"], ["corpus.jsonl:1: cannot be read as JSON"]),
    ],
)
def test_a_bad_corpus_is_refused_with_every_line(tmp_path: Path, lines: list[Any], says: list[str]) -> None:
    with pytest.raises(FileError) as refusal:
        list(read_documents(corpus(tmp_path, *lines)))

    assert len(str(refusal.value).splitlines()) == len(says)
    assert all(part in str(refusal.value) for part in says)


def test_a_corpus_with_the_same_mistake_everywhere_is_refused_in_a_few_lines(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="and 80 more") as refusal:
        list(read_documents(corpus(tmp_path, *["{}"] * 100)))

    assert len(str(refusal.value).splitlines()) == 21


@pytest.mark.parametrize("name", ["nowhere", "empty", "table.csv"])
def test_what_holds_no_documents_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b")

    with pytest.raises(FileError, match=name):
        list(read_documents(tmp_path / name))


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(b'{"_id": "a", "text": "x"}\r\n\n{"_id": "b", "text": "\xff"}\n')

    with pytest.raises(FileError, match=r"corpus.jsonl:3: not UTF-8 \(invalid start byte at byte 23\)"):
        list(read_documents(file))


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    file = make_hollow(tmp_path / "corpus.jsonl", 200 << 20)

    with pytest.raises(FileError, match=r"corpus.jsonl:1: longer than 64 MB"):
        list(read_documents(file))


def test_a_long_file_is_read_line_by_line(tmp_path: Path) -> None:
    file = corpus(tmp_path, *({"_id": n, "text": "x" * 1_000_000} for n in range(40)))
    tracemalloc.start()

    read = sum(1 for _ in read_jsonl(file))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert read == 40
    assert most < 10_000_000


def test_a_file_alone_is_read_like_a_folder_of_one(tmp_path: Path) -> None:
    file = tmp_path / "faq.csv"
    file.write_text("question,answer\nWhen?,At nine.\n")

    alone, among = list(read_documents(file)), list(read_documents(tmp_path))

    assert alone == among == [Document(id="faq.csv#2", title="", text="question: When?\nanswer: At nine.")]


def test_a_file_alone_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("")

    with pytest.raises(FileError, match=r"empty.md: is empty"):
        list(read_documents(tmp_path / "empty.md"))


def test_a_folder_in_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("")

    with pytest.raises(FileError, match=r"... and 10 more$") as refusal:
        list(read_documents(tmp_path))

    assert len(str(refusal.value).splitlines()) == 21


def test_what_was_skipped_and_passed_over_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.txt").write_text("Good.")
    for number in range(25):
        (tmp_path / f"{number:02}.txt").write_text("")
        (tmp_path / f"{number:02}.png").write_bytes(b"")

    reading = read_documents(tmp_path)
    documents = list(reading)

    assert [document.id for document in documents] == ["good.txt"]
    assert len(reading.skipped) == 25
    assert told(caplog, logging.WARNING) == [
        f"{tmp_path}: passed over 25 of other kinds: 00.png, 01.png, 02.png, 03.png, 04.png and 20 more",
        *(f"skipped: {tmp_path}/{number:02}.txt: is empty" for number in range(20)),
        "skipped: ... and 5 more",
    ]


def test_a_name_that_is_no_text_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Good.")
    (tmp_path / "bad-\udcff.txt").write_text("Good, too.")

    reading = read_documents(tmp_path)

    assert [document.id for document in reading] == ["good.txt"]
    assert [skip.split(": ")[-1] for skip in reading.skipped] == ["rename it"]


def test_a_build_says_at_its_end_how_many_files_it_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "good.txt").write_text("Good.")
    (tmp_path / "docs" / "empty.txt").write_text("")

    code = main(["build", str(tmp_path / "docs"), str(tmp_path / "index")])

    assert code == 0
    assert "1 files could not be read and were skipped (see above)." in capsys.readouterr().out.splitlines()
