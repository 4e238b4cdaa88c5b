"""Spider, BIRD and a table of one's own, made small, become the same files."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eval.task import load_task
from scripts import spider
from scripts.hardness import hardness, tables_of

ROWS = [
    {"db_id": "shows", "question": "How many singers are there?", "query": "SELECT count(*) FROM Singer"},
    {"db_id": "shows", "question": "Who sings for no one?", "query": "SELECT name FROM nobody"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("shows", "pets"):
        file = tmp_path / "data" / "database" / name / f"{name}.sqlite"
        file.parent.mkdir(parents=True)
        with closing(sqlite3.connect(file)) as database:
            database.executescript("CREATE TABLE singer (name TEXT, age INT); CREATE TABLE nobody (name TEXT);")
            database.execute("INSERT INTO singer VALUES ('Ann', 30)")
            database.commit()
    (tmp_path / "data" / "dev.json").write_text(json.dumps(ROWS))
    train = [{**ROWS[0], "db_id": name, "question": f"What is the age of {name}?"} for name in ("shows", "pets")]
    (tmp_path / "data" / "train.json").write_text(json.dumps(train))
    return tmp_path / "data"


def made(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> list[dict[str, object]]:
    out = folder.parent / "out"
    monkeypatch.setattr(sys, "argv", ["spider", str(folder), "--out", str(out), *more])
    assert spider.main() == 0
    return [json.loads(line) for line in (out / "test.jsonl").read_text().splitlines()]


def test_an_empty_table_tells_nothing_and_evidence_is_the_tables_of_the_query(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = made(monkeypatch, folder)

    assert "left out 1 questions whose query reads a table without rows: dev-00001" in capsys.readouterr().out
    assert row["evidence"] == ["shows.singer"]
    assert row["meta"] == {
        "slice": "easy",
        "cluster": "shows",
        "db_id": "shows",
        "hardness": "easy",
        "names": ["singers"],
        "shown": ["a", "b"],
    }


def test_a_training_question_is_shown_no_example_of_its_own_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, folder)
    rows = map(json.loads, (folder.parent / "out" / "train.jsonl").read_text().splitlines())

    assert {one["meta"]["db_id"]: (one["meta"]["half"], one["meta"]["shown"]) for one in rows} == {
        "pets": ("a", ["b"]),
        "shows": ("b", ["a"]),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bird.json", '[{"question": "How many?", "evidence": "of singers", "SQL": "SELECT count(*) FROM singer;", '
         '"db_id": "shows", "difficulty": "simple"}]'),
        ("mine.csv", "db_id,question,query,difficulty\n"
         "shows,How many? (of singers),SELECT count(*) FROM singer,simple\n"),
    ],
)  # fmt: skip
def test_other_formats_come_to_the_same_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    (folder / name).write_text(text)

    (row,) = made(monkeypatch, folder, "--test", name)

    assert (row["question"], row["answers"]) == ("How many? (of singers)", ["SELECT count(*) FROM singer"])
    assert row["meta"]["slice"] == "simple"  # type: ignore[index]


def test_what_it_writes_is_a_task_that_can_be_scored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch, folder)
    task = folder.parent / "out" / "task.yaml"
    task.write_text(
        "name: t\nexamples: test.jsonl\ndocuments: create.jsonl\nprimary: ex\n"
        "scorers: {ex: {kind: ex_spider, databases: databases}}\n"
    )

    assert load_task(task).evidence["shows.singer"].text.startswith("CREATE TABLE singer (")


def test_what_names_no_table_or_is_no_sql() -> None:
    assert tables_of("WITH a AS (SELECT x FROM b) SELECT * FROM a") == ("b",)
    assert tables_of("this is not SQL (") == ()
    assert hardness("this is not SQL (") == "unreadable"
