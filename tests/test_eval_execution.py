import json
import logging
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from eval.example import Example
from eval.record import RunError
from eval.scoring.execution import verdict
from eval.scoring.kinds import Executing, ScorerSettings
from eval.scoring.scorers import build, signatures
from eval.scoring.tables import in_any_order, same_bag, same_rows
from eval.task import load_task
from retrieval.files import FileError
from scripts.check_spider import choices, dev, main
from serve.sql.queries import is_ordered, query_in, without_distinct
from serve.sql.runner import Runner

ROOT = Path(__file__).parents[1]
SPIDER = ROOT.parent / "shared" / "data" / "spider"
KINDS = get_args(Executing)


def write_database(folder: Path, name: str = "zoo") -> None:
    (folder / name).mkdir(parents=True)
    with closing(sqlite3.connect(folder / name / f"{name}.sqlite")) as database, database:
        database.execute("CREATE TABLE animal (name TEXT, kind TEXT, legs INT, weight REAL)")
        rows = [("Ada", "owl", 2, 0.1), ("Bo", "owl", 2, 0.2), ("Cy", "cat", 4, 4.5), ("Di", None, 0, None)]
        database.executemany("INSERT INTO animal VALUES (?, ?, ?, ?)", rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    write_database(folder)
    return folder


def scores(folder: Path, gold: str, said: str, *, loose: bool = False) -> str:
    """The kinds by which it is right."""
    example = Example(id="q", question="?", answers=(gold,), meta={"db_id": "zoo"})
    named = {kind: ScorerSettings(kind=kind, databases=folder, loose=loose) for kind in KINDS}
    return " ".join(
        kind.removeprefix("ex_")
        for kind, score in build(named, "ex_strict", [example]).items()
        if score(example, said, ())
    )


ALL = "strict colperm spider bird"


@pytest.mark.parametrize(
    ("gold", "said", "by"),
    [
        ("SELECT name, legs FROM animal", "SELECT name, legs FROM animal ORDER BY name DESC", ALL),
        ("SELECT name, legs FROM animal", "SELECT legs, name FROM animal", "colperm spider"),
        ("SELECT name, legs FROM animal", "SELECT name FROM animal", ""),
        ("SELECT kind FROM animal", "SELECT DISTINCT kind FROM animal", "spider bird"),
        ("SELECT count(DISTINCT kind) FROM animal", "SELECT count(kind) FROM animal", "spider"),
        ("SELECT kind FROM animal", "SELECT kind FROM animal GROUP BY kind", "bird"),
        ("SELECT name FROM animal ORDER BY name", "SELECT name FROM animal ORDER BY name DESC", "bird"),
        ("SELECT name FROM animal ORDER BY name", "SELECT name FROM animal ORDER BY weight IS NULL, weight", ALL),
        # An ORDER BY inside brackets is Spider's alone to count.
        (
            "SELECT name FROM (SELECT * FROM animal ORDER BY name LIMIT 3)",
            "SELECT name FROM animal WHERE legs > 0 ORDER BY name DESC",
            "strict colperm bird",
        ),
        ("SELECT kind FROM animal WHERE name = 'Di'", "SELECT weight FROM animal WHERE name = 'Di'", ALL),
        ("SELECT kind FROM animal WHERE name = 'Di'", "SELECT ''", ""),
        ("SELECT sum(weight) FROM animal WHERE legs = 2", "SELECT 0.3", "strict colperm"),
        ("SELECT legs FROM animal WHERE name = 'Cy'", "SELECT 4.0", ALL),
        ("SELECT legs FROM animal WHERE name = 'Cy'", "SELECT '4'", ""),
        ("SELECT 10000000", "SELECT 10000001", ""),
        # Nothing against nothing: only the number of columns is left to tell.
        ("SELECT name FROM animal WHERE legs = 9", "SELECT name, legs FROM animal WHERE 0", "spider bird"),
        ("SELECT name FROM animal WHERE legs >= 4", "SELECT name FROM animal WHERE legs > = 4", "spider"),
        ("SELECT name FROM animal", "SELECT name FROM animal;", ALL),
        ("SELECT name FROM animal", "SELECT name FROM animal; DROP TABLE animal", ""),
        ("SELECT name FROM animal", "SELECT name FROM animals", ""),
        ("SELECT name FROM animal", "", ""),
    ],
)
def test_each_kind_forgives_what_it_should(gold: str, said: str, by: str, folder: Path) -> None:
    assert scores(folder, gold, said) == by


@pytest.mark.parametrize(
    "said",
    [
        "```sql\nSELECT count(*) FROM animal;\n```",
        "Let me see.\n\n```\nSELECT 1\n```\nNo:\n```sqlite\nSELECT count(*)\n\nFROM animal\n```\nThis counts them.",
        "<think>\nSELECT name FROM animal\n</think>\nSELECT count(*) FROM animal",
        "First the tables.\n**Answer:** SELECT count(*) FROM animal",
        "SQL: ```SELECT count(*) FROM animal```",
        "With this query we count:\n\nselect count(*)\nfrom animal -- all; of them\n\nIt has one row.",
        "SELECT count(*) FROM animal WHERE name <> 'a;b'; SELECT 2",
        "WITH a AS (SELECT * FROM animal) SELECT count(*) FROM a",
        "/* as asked */ SELECT count(*)\n\nFROM animal",
    ],
)
def test_a_query_among_words_is_right_loosely(said: str, folder: Path) -> None:
    assert scores(folder, "SELECT count(*) FROM animal", said, loose=True) == ALL


@pytest.mark.parametrize("said", ["", "I cannot say.", "Answer: four", "```\nanimal\n```", "With these tables, none."])
def test_words_without_a_query_have_none(said: str) -> None:
    assert query_in(said) == ""


def test_the_query_in_a_json_field_is_found_strictly_and_loosely(folder: Path) -> None:
    example = Example(id="q", question="?", answers=("SELECT 1",), meta={"db_id": "zoo"})
    strict = ScorerSettings(kind="ex_strict", databases=folder, json="sql")
    loose = ScorerSettings(kind="ex_strict", databases=folder, json="sql", loose=True)
    found = build({"strict": strict, "loose": loose}, "strict", [example])

    bare, fenced = '{"sql": "SELECT 1"}', 'Sure: {"sql": "```sql\\nSELECT 1\\n```"}'

    assert [found["strict"](example, said, ()) for said in (bare, fenced)] == [1, 0]
    assert [found["loose"](example, said, ()) for said in (bare, fenced)] == [1, 1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("SELECT count(*) FROM animal", "right"),
        ("SELECT 7", "wrong result"),
        ("", "no query"),
        ("SELECT nme FROM animal", "no such column"),
        ("SELECT name FROM animals", "no such table"),
        ("SELECT FROM", "syntax error"),
        ("DROP TABLE animal", "not authorized"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
    ],
)
def test_errors_have_kinds(said: str, why: str, folder: Path) -> None:
    example = Example(id="q", question="?", answers=("SELECT count(*) FROM animal",), meta={"db_id": "zoo"})

    assert verdict(ScorerSettings(kind="ex_strict", databases=folder))(example, said) == why


def test_distinct_in_quotes_stays_and_order_is_the_outermost() -> None:
    assert without_distinct('select Distinct a, "distinct" -- distinct\n') == 'select  a, "distinct" -- distinct\n'
    assert is_ordered("WITH a AS (SELECT 1) SELECT * FROM a WHERE b = '(' ORDER  BY 1")
    assert not is_ordered("SELECT row_number() OVER (ORDER BY (a)) FROM t WHERE b = 'x ORDER BY y' /* ORDER BY */")


def table(draw: random.Random) -> list[tuple[Any, ...]]:
    width, height = draw.randint(1, 5), draw.randint(1, 6)
    return [tuple(draw.choice([0, 1, "a", None, 0.5]) for _ in range(width)) for _ in range(height)]


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("ordered", [True, False])
def test_an_order_of_columns_is_found_exactly_when_there_is_one(seed: int, ordered: bool) -> None:
    from itertools import permutations

    draw = random.Random(seed)
    gold = table(draw)
    said = [tuple(row) for row in gold] if ordered else draw.sample(gold, len(gold))
    order = draw.sample(range(len(gold[0])), len(gold[0]))
    said = [tuple(row[one] for one in order) for row in said]
    spoilt = [*said[:-1], tuple(draw.choice([0, 1]) for _ in said[0])]

    def tried(rows: Sequence[tuple[Any, ...]]) -> bool:
        orders = permutations(range(len(rows[0])))
        return any(same_bag(gold, [tuple(row[at] for at in one) for row in rows], ordered) for one in orders)

    for same in (same_bag, same_rows):
        assert in_any_order(same)(gold, said, ordered)
        assert in_any_order(same)(gold, spoilt, ordered) == tried(spoilt)


def test_many_columns_that_are_nearly_alike_do_not_hold_up_the_run() -> None:
    draw = random.Random(1)
    gold = [tuple(draw.choice([0, 1]) for _ in range(16)) for _ in range(50)]
    columns = [sorted(column, key=lambda _: draw.random()) for column in zip(*gold, strict=True)]

    assert not in_any_order(same_bag)(gold, list(zip(*columns, strict=True)), False)


def write_task(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> Path:
    write_database(tmp_path / "databases")
    rows = rows or ({"answers": ["SELECT name FROM animal"], "meta": {"db_id": "zoo"}},)
    lines = [json.dumps({"id": f"q{number}", "question": "Who?"} | row) for number, row in enumerate(rows)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    scorer = {"kind": "ex_strict", "databases": "databases"} | settings
    task = {"name": "zoo", "examples": "test.jsonl", "primary": "ex", "scorers": {"ex": scorer}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    return tmp_path / "task.yaml"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"answers": ["SELECT x FROM animal"], "meta": {"db_id": "zoo"}}, "does not run on zoo: no such column: x"),
        ({"answers": ["DROP TABLE animal"], "meta": {"db_id": "zoo"}}, "does not run on zoo: not authorized"),
        ({"answers": ["SELECT 1"], "meta": {"db_id": "farm"}}, "there is no database 'farm' here"),
        ({"answers": ["SELECT 1"]}, "`meta.db_id` does not name a database"),
        ({"answers": [], "meta": {"db_id": "zoo"}}, "there is no gold query for ex_strict"),
    ],
)
def test_a_gold_query_that_does_not_run_is_refused_with_its_line(
    row: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    good = {"answers": ["SELECT 1"], "meta": {"db_id": "zoo"}}

    with pytest.raises(FileError) as caught:
        load_task(write_task(tmp_path, good, row))

    assert "test.jsonl:2: " in str(caught.value)
    assert sentence in str(caught.value)


def test_a_folder_that_is_not_there_is_refused_with_the_line_of_its_scorer(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"task\.yaml:\d+: scorers\.ex: .*nowhere: there is no such folder"):
        load_task(write_task(tmp_path, databases="nowhere"))


def test_gold_queries_that_give_nothing_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = {"answers": ["SELECT name FROM animal WHERE legs = 9"], "meta": {"db_id": "zoo"}}
    full = {"answers": ["SELECT name FROM animal"], "meta": {"db_id": "zoo"}}

    with caplog.at_level(logging.WARNING):
        task = load_task(write_task(tmp_path, full, empty))

    assert "scorers.ex: 1 of 2 gold queries give no row (the first is of 'q1')" in caplog.text
    assert "vacuous:1 of 2" in signatures(task.settings.scorers, task.examples)["ex"]


def test_scores_depend_on_what_is_in_the_databases_and_not_on_where_they_lie(tmp_path: Path) -> None:
    def signed(where: Path) -> dict[str, str]:
        task = load_task(where / "task.yaml")
        return signatures(task.settings.scorers, task.examples)

    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_task(tmp_path / name)
    before = signed(tmp_path / "one")
    moved = signed(tmp_path / "other")
    with closing(sqlite3.connect(tmp_path / "other" / "databases" / "zoo" / "zoo.sqlite")) as database, database:
        database.execute("DELETE FROM animal")

    assert before == moved
    assert signed(tmp_path / "other") != before


def test_a_gold_query_that_fails_later_is_never_a_score(folder: Path) -> None:
    example = Example(id="q", question="?", answers=("SELECT x FROM animal",), meta={"db_id": "zoo"})

    with pytest.raises(RunError, match="the gold query 'SELECT x FROM animal' of example 'q' does not run"):
        verdict(ScorerSettings(kind="ex_bird", databases=folder))(example, "SELECT 1")


def test_golds_values_take_the_places_of_a_predictions_own_and_no_others() -> None:
    said = "SELECT t1.a FROM t1 WHERE b = 'x' LIMIT 1"

    assert list(choices(said, "SELECT a FROM t1 WHERE b > 2.5")) == ["SELECT t1.a FROM t1 WHERE b = 2.5 LIMIT 2.5"]
    assert list(choices(said, "SELECT a FROM t1")) == []


@pytest.mark.skipif(not SPIDER.exists(), reason="Spider's databases are not beside this checkout")
def test_published_predictions_come_to_the_official_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["check_spider", str(SPIDER)])

    assert main() == 0


@pytest.mark.skipif(not SPIDER.exists(), reason="Spider's databases are not beside this checkout")
def test_every_gold_query_of_spider_gives_what_plain_sqlite_gives() -> None:
    runner = Runner(SPIDER / "database")
    differ = []

    for example in dev(SPIDER):
        name, (sql,) = example.meta["db_id"], example.answers
        with closing(sqlite3.connect(f"file:{SPIDER}/database/{name}/{name}.sqlite?mode=ro", uri=True)) as database:
            database.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
            expected = database.execute(sql).fetchall()
        if list(runner.run_now(name, sql).rows) != expected:
            differ.append(example.id)
    runner.close()

    assert differ == []
