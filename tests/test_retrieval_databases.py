"""SQLite files as documents: what is told of a table, in each style, and what is refused."""

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from retrieval.databases import Style, read_database
from retrieval.documents import read_documents
from retrieval.files import FileError
from retrieval.masking import masked

SCHEMA = """
CREATE TABLE stadium (id INTEGER PRIMARY KEY, "Home Town" TEXT, photo BLOB);
CREATE TABLE concert (stadium_id INT REFERENCES stadium, year INT, note TEXT, PRIMARY KEY (stadium_id, year));
CREATE TABLE hollow (a TEXT);
CREATE VIEW seen AS SELECT * FROM concert;
"""


@pytest.fixture
def shows(tmp_path: Path) -> Path:
    """A folder with the database `shows` in a folder of its own, as Spider has it."""
    file = tmp_path / "shows" / "shows.sqlite"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.executescript(SCHEMA)
        database.execute("INSERT INTO stadium VALUES (1, ?, ?), (2, 'Oslo', NULL)", ("x" * 50, b"12345"))
        database.execute("INSERT INTO concert VALUES (1, 2014, 'two\nlines'), (2, 2014, CAST(x'ff' AS TEXT))")
        database.commit()
    return tmp_path


def test_each_table_is_a_document_called_as_in_a_query_wherever_the_file_lies(shows: Path) -> None:
    found = {one.id: one for one in read_documents(shows)}

    assert list(found) == ["shows.stadium", "shows.concert", "shows.hollow"]
    assert found["shows.concert"].title == "concert"
    assert found["shows.concert"].meta == {
        "db_id": "shows",
        "table": "concert",
        "columns": ["stadium_id", "year", "note"],
    }


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (
            "create",
            "CREATE TABLE concert (\n  stadium_id INT,\n  year INT,\n  note TEXT,\n  PRIMARY KEY (stadium_id, year),\n"
            "  FOREIGN KEY (stadium_id) REFERENCES stadium (id)\n)\n/*\n"
            "stadium_id | year | note\n1 | 2014 | two lines\n2 | 2014 | \ufffd\n*/",
        ),
        (
            "compact",
            "stadium_id: INT, primary key, = stadium.id, e.g. 1, 2\nyear: INT, primary key, e.g. 2014\n"
            "note: TEXT, e.g. 'two lines', '\ufffd'",
        ),
        ("names", "stadium_id, year, note\nstadium_id = stadium.id"),
    ],
)
def test_a_schema_has_keys_and_values_in_its_style(shows: Path, style: Style, text: str) -> None:
    found = {one.title: one.text for one in read_documents(shows, tables=style)}

    assert found["concert"] == text


def test_a_long_value_is_cut_a_blob_is_counted_and_a_name_of_two_words_quoted(shows: Path) -> None:
    stadium, _, hollow = read_documents(shows)

    assert f"1 | {'x' * 40}... | (5 bytes)\n2 | Oslo | NULL" in stadium.text
    assert '"Home Town" TEXT' in stadium.text
    assert hollow.text.endswith("/* no rows */")


def test_nothing_is_changed_and_nothing_left_beside_the_file(shows: Path) -> None:
    file = shows / "shows" / "shows.sqlite"
    before = sha256(file.read_bytes()).hexdigest()

    list(read_documents(shows))

    assert sha256(file.read_bytes()).hexdigest() == before
    assert list(file.parent.iterdir()) == [file]


def test_what_is_no_database_or_is_being_written_is_left_out_with_a_sentence(shows: Path) -> None:
    (shows / "Thumbs.db").write_bytes(b"no database at all" * 100)
    with closing(sqlite3.connect(shows / "bare.db")) as bare:
        bare.execute("PRAGMA user_version = 1")
    (shows / "shows" / "shows.sqlite").with_name("busy.sqlite").write_bytes((shows / "shows/shows.sqlite").read_bytes())
    (shows / "shows" / "busy.sqlite-wal").write_bytes(b"changes")

    reading = read_documents(shows)

    assert [one.id for one in reading] == ["shows.stadium", "shows.concert", "shows.hollow"]
    said = "\n".join(sorted(reading.skipped))
    assert "Thumbs.db: is no .db file that can be read" in said
    assert "bare.db: holds no tables" in said
    assert "close the program that writes them" in said
    with pytest.raises(FileError, match="holds no tables"):
        list(read_database(shows / "bare.db", 1000))


def test_what_is_masked_once_stays_and_names_are_masked_whatever_their_capitals() -> None:
    once = masked("Show the AGE of singers older than 30 in France", names=["age", "singers"])

    assert once == "Show the <mask> of <mask> older than <mask> in <mask>"
    assert masked(once) == once
