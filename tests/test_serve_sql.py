import asyncio
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serve.chat import ServeError
from serve.sql.runner import Limits, Result, Runner, database_file

LIMITS = Limits(seconds=0.5, rows=10_000, value_bytes=1_000_000, result_bytes=2_000_000, memory_mib=256)
PEOPLE = (("Ada", 36, 1.5, b"\x00\xff"), ("Bo", None, 2.0, None), ("Ö\U0001f600", 7, -0.0, b""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    for name, encoding in (("people", "UTF-8"), ("wide", "UTF-16le")):
        (folder / name).mkdir()
        with closing(sqlite3.connect(folder / name / f"{name}.sqlite")) as database, database:
            database.execute(f"PRAGMA encoding = '{encoding}'")
            database.execute("CREATE TABLE person (name TEXT, age INT, height REAL, photo BLOB)")
            database.executemany("INSERT INTO person VALUES (?, ?, ?, ?)", PEOPLE)
            database.execute("CREATE TABLE number (n INT)")
            database.executemany("INSERT INTO number VALUES (?)", [(n,) for n in range(1_000)])
            database.execute("CREATE VIEW way_out AS SELECT load_extension('/tmp/evil') AS x")
            database.execute("CREATE TRIGGER t AFTER INSERT ON number BEGIN DELETE FROM person; END")
            database.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
            database.execute("INSERT INTO words VALUES ('owl')")
    with closing(sqlite3.connect(folder / "odd.db")) as database, database:
        database.execute("CREATE TABLE odd (said TEXT)")
        database.execute(
            "INSERT INTO odd VALUES (CAST(x'41ff42' AS TEXT)), (CAST(x'eda080' AS TEXT)), ('a' || char(0))"
        )
    return folder


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """On a busy machine a child may be long in coming; what a statement may take is counted in processor time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("serve.sql.runner.PATIENCE", 120)
        yield


@pytest.fixture(scope="module")
def runner(folder: Path) -> Iterator[Runner]:
    runner = Runner(folder, LIMITS, children=2)
    yield runner
    runner.close()


def content(folder: Path) -> dict[str, str]:
    """Every file below the folder, and what is in it."""
    return {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.rglob("*") if one.is_file()}


ATTACKS = {
    "drop": "DROP TABLE person",
    "delete": "DELETE FROM person",
    "insert": "INSERT INTO person VALUES ('x', 1, 1, 1)",
    "update returning": "UPDATE person SET age = 1 RETURNING name",
    "with insert": "WITH x AS (SELECT 1) INSERT INTO number SELECT * FROM x",
    "temp table": "CREATE TEMP TABLE t AS SELECT * FROM person",
    "attach": "ATTACH DATABASE '/tmp/sql-attack-attached.db' AS other",
    "vacuum into": "VACUUM INTO '/tmp/sql-attack-copied.db'",
    "vacuum": "VACUUM",
    "begin": "BEGIN EXCLUSIVE",
    "pragma write": "PRAGMA writable_schema = ON",
    "schema": "UPDATE sqlite_master SET sql = 'CREATE TABLE person (x)'",
    "pragma with a value": "PRAGMA page_size = 512; ",
    "pragma journal": "PRAGMA journal_mode = WAL",
    "pragma function": "SELECT * FROM pragma_database_list",
    "reindex": "REINDEX",
    "load extension": "SELECT load_extension('/tmp/evil')",
    "a view's load extension": "SELECT x FROM way_out",
    "readfile": "SELECT readfile('/etc/passwd')",
    "writefile": "SELECT writefile('/tmp/sql-attack-written', 'x')",
    "tokenizer's address": "SELECT hex(fts3_tokenizer('simple'))",
    "fts5 command": "INSERT INTO words(words) VALUES ('rebuild')",
    "two statements": "SELECT 1; SELECT 2",
    "two statements, one hidden": "SELECT 1 /* ; */ ; -- x\n DROP TABLE person",
    "a comment alone": "-- SELECT 1",
    "nothing": "",
    "blob of 2 GB": "SELECT zeroblob(2000000000)",
    "random blob": "SELECT randomblob(1000000000)",
    "printf": "SELECT printf('%.*c', 1000000000, 'x')",
    "replace": "SELECT replace(hex(zeroblob(400000)), '0', hex(zeroblob(400000)))",
    "group_concat": "SELECT group_concat(hex(zeroblob(1000))) FROM number a, number b",
    "many long values": "SELECT hex(zeroblob(400000)) FROM number",
    "many rows": "SELECT a.n FROM number a, number b",
    "10^9 rows to count": "SELECT count(*) FROM number a, number b, number c",
    "10^9 rows to sort": "SELECT a.n FROM number a, number b, number c ORDER BY b.n + c.n",
    "distinct rows to remember": "SELECT DISTINCT count(*) FROM number a, number b, number c GROUP BY a.n, b.n, c.n",
    "recursion without end": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    "recursion that remembers": "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r) SELECT max(n) FROM r",
    "recursion that doubles": "WITH RECURSIVE r(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM r) SELECT s FROM r",
    "long pattern": "SELECT 1 FROM number WHERE hex(zeroblob(400000)) LIKE hex(zeroblob(400000))",
    "long query": "SELECT 1 " + "+ 1" * 100_000,
    "very long query": "SELECT '" + "x" * 50_000_000 + "'",
    "deep brackets": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "deep sum": "SELECT " + "+ ".join(["1"] * 20_000),
    "many unions": " UNION ALL ".join(["SELECT 1"] * 2_000),
    "many columns": "SELECT " + ", ".join(["1"] * 5_000),
    "nul": "SELECT 1 \x00 DROP TABLE person",
    "half a character": "SELECT '\ud800'",
    "no sql": "I cannot answer that.",
    "in utf-16": "SELECT 1".encode("utf-16").decode("latin-1"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_query_must_not_do_ends_in_a_sentence_and_the_next_one_is_answered(
    name: str, folder: Path, runner: Runner
) -> None:
    before = content(folder)

    found = [runner.run_now(database, ATTACKS[name]) for database in ("people", "wide")]
    after = [runner.run_now(database, "SELECT name FROM person") for database in ("people", "wide")]

    assert all(one.error and not one.rows for one in found)
    assert [one.rows for one in after] == [tuple((name,) for name, *_ in PEOPLE)] * 2
    assert content(folder) == before
    assert not list(Path("/tmp").glob("sql-attack-*"))


@pytest.mark.parametrize("database", ["people", "wide"])
def test_values_of_every_type_come_as_they_are(database: str, runner: Runner) -> None:
    found = runner.run_now(database, "SELECT * FROM person; -- all of them")

    assert found == Result(columns=("name", "age", "height", "photo"), rows=PEOPLE)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r WHERE n < 9) SELECT n FROM r",
        "VALUES (1, 9223372036854775807), (NULL, 1e999)",
        "SELECT count(*), avg(age), group_concat(name) FROM person GROUP BY age IS NULL ORDER BY 1",
        "SELECT word FROM words WHERE words MATCH 'owl'",
        "SELECT value FROM json_each('[1, \"two\", null]')",
        "SELECT name, row_number() OVER (ORDER BY name) FROM person",
        "SELECT sql FROM sqlite_master ORDER BY name",
    ],
)
def test_what_reads_gives_what_sqlite_gives(sql: str, folder: Path, runner: Runner) -> None:
    with closing(sqlite3.connect(folder / "people" / "people.sqlite")) as database:
        expected = database.execute(sql).fetchall()

    assert list(runner.run_now("people", sql).rows) == expected


def test_text_that_is_no_utf8_stays_apart_and_can_be_written(runner: Runner) -> None:
    found = runner.run_now("odd", "SELECT said FROM odd")

    assert found.rows == ((r"A\xffB",), (r"\xed\xa0\x80",), ("a\0",))
    assert str(found.rows).encode()


def test_time_is_told_apart_from_other_errors(runner: Runner) -> None:
    slow = runner.run_now("people", ATTACKS["recursion without end"])
    wrong = runner.run_now("people", "SELECT nme FROM person")

    assert slow == Result(error="took more than 0.5 s of processor time", timed_out=True)
    assert wrong == Result(error="no such column: nme")


def test_a_child_that_does_not_end_by_itself_is_killed_and_another_one_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(folder, Limits(seconds=1.0), children=1)
    assert runner.run_now("people", "SELECT 1").rows == ((1,),)
    child = runner._idle.queue[0]._process
    assert child
    os.kill(child.pid, 19)  # stopped: it looks at no clock

    with monkeypatch.context() as patched:
        patched.setattr("serve.sql.runner.PATIENCE", 1)
        found = runner.run_now("people", "SELECT 1")
    after = runner.run_now("people", "SELECT 2")
    runner.close()

    assert found.timed_out
    assert after.rows == ((2,),)


def test_a_child_that_died_meanwhile_is_replaced(folder: Path) -> None:
    runner = Runner(folder, LIMITS, children=1)
    runner.run_now("people", "SELECT 1")
    child = runner._idle.queue[0]._process
    assert child
    child.kill()
    child.wait()

    found = runner.run_now("people", "SELECT 2")
    runner.close()

    assert found.rows == ((2,),)


async def test_many_at_once_each_get_their_own_answer(runner: Runner) -> None:
    found = await asyncio.gather(*(runner.run("people", f"SELECT {n}") for n in range(40)))

    assert [one.rows for one in found] == [((n,),) for n in range(40)]


@pytest.mark.parametrize("name", ["nothing", "../people/people", "", "people/people", "/etc/passwd"])
def test_a_database_that_is_not_in_the_folder_is_named(name: str, folder: Path) -> None:
    with pytest.raises(ServeError, match="there is no database"):
        database_file(folder, name)


def test_changes_that_are_not_in_the_file_yet_are_not_overlooked(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "live.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE t (a)")

    with pytest.raises(ServeError, match=r"live\.db-wal: has changes that are not in live\.db yet"):
        database_file(tmp_path, "live")
    database.close()


def test_a_child_imports_nothing_of_ours() -> None:
    from serve.sql import child

    text = Path(child.__file__).read_text(encoding="utf-8")

    assert not [line for line in text.splitlines() if line.startswith(("from serve", "from retrieval", "import serve"))]
