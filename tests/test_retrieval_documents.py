"""Documents from disk, and what is refused before anything slow begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.documents import read_documents
from retrieval.files import FileError
from retrieval.passage import Document


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
    ],
)
def test_a_bad_corpus_is_refused_with_every_line(tmp_path: Path, lines: list[str], says: list[str]) -> None:
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
