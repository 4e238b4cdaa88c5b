"""Rows of the test set must not be trained on, whatever way they are written; what only looks alike may be."""

import json
from pathlib import Path

import pytest

from tests.test_train_run import train
from train.lora import main
from train.overlap import CONTAINED, EXACT, NEAR, SQL, Text, check, overlaps, read_texts

SPIDER = Path(__file__).parents[1].parent / "shared" / "data" / "spider"


def texts(*questions: str, db_id: str = "", sql: str = "") -> list[Text]:
    return [Text(where=f"f:{n}", question=q, db_id=db_id, sql=sql) for n, q in enumerate(questions, start=1)]


PLANTED = {
    "exact": ("How many singers are from France?", EXACT),
    "case, spaces and marks": ("how many  singers are from FRANCE", EXACT),
    "misspelt": ("How many singers are form France?", NEAR),
    "inside a longer prompt": (
        "You are helpful. Context: none. How many singers are from France? Be brief.",
        CONTAINED,
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_leak_is_found_and_named(case: str) -> None:
    question, kind = PLANTED[case]

    report = check(texts("What is the weather?", question), texts("Who won?", "How many singers are from France?"))

    assert [(one.train.where, one.test.where, one.kind) for one in report.refused] == [("f:2", "f:2", kind)]
    (said,) = report.refusals()
    assert said.startswith(f"f:2 messages: the question is in f:2 ({kind}, ")
    assert said.endswith(" - remove the row, or set leaks=drop")


def test_the_same_sql_with_other_literals_leaks_within_a_database_only() -> None:
    ours = texts("Count the young ones", db_id="school", sql="SELECT count(*) FROM pupil WHERE age < 9")
    same = texts("How many are small?", db_id="school", sql="select COUNT( * ) from pupil where age < 12;")
    elsewhere = texts("How many are small?", db_id="zoo", sql="select COUNT( * ) from pupil where age < 12;")

    assert [one.kind for one in overlaps(ours, same)] == [SQL]
    assert overlaps(ours, elsewhere) == ()


def test_the_same_question_about_another_database_is_listed_and_not_refused() -> None:
    report = check(texts("How many rows are there?", db_id="a"), texts("How many rows are there?", db_id="b"))

    assert report.refused == ()
    assert [one.other_database for one in report.listed] == [True]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who is the keeper of the Butfin?", "Who is the keeper of the Hindmum?"),
        ("Which vessel carries the code TA-8107?", "Which vessel carries the code TA-8108?"),
        ("How do I cancel a transfer?", "How do I cancel a card?"),
        ("List all singers older than 20.", "List all singers older than 30."),
    ],
)
def test_questions_that_share_a_frame_are_no_leak(one: str, other: str) -> None:
    assert overlaps(texts(one), texts(other)) == ()


@pytest.mark.skipif(not SPIDER.exists(), reason="Spider's questions are not beside this checkout")
def test_spider_train_is_clean_of_spider_dev() -> None:
    def rows(name: str) -> list[Text]:
        found = json.loads(next(SPIDER.rglob(name)).read_text())
        return [
            Text(where=f"{name}:{n}", question=row["question"], db_id=row["db_id"], sql=row["query"])
            for n, row in enumerate(found)
        ]

    report = check(rows("train.json"), rows("dev.json"))

    assert report.refused == ()
    assert report.listed


def test_training_refuses_leaks_or_drops_them_and_its_card_says_so(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (world / "chats.jsonl").read_text().splitlines()]
    question = rows[4]["messages"][0]["content"]
    (world / "test.jsonl").write_text(json.dumps({"id": "1", "question": question, "answers": ["red"]}) + "\n")
    settings = ["name=checked", "dtype=float32", "epochs=1", f"check_against=[{world / 'test.jsonl'}]"]

    assert main(["--config", str(world / "tiny.yaml"), *settings]) == 1

    said = capsys.readouterr().err
    assert f"{world / 'chats.jsonl'}:5 messages: the question is in {world / 'test.jsonl'}:1 (same question" in said
    card = json.loads((train(world, *settings, "leaks=drop") / "provenance.json").read_text())
    assert card["overlap"]["refused"] == {EXACT: 1}
    assert card["dropped_rows"] == [f"{world / 'chats.jsonl'}:5"]
    assert card["rows"] + card["held_out_rows"] == len(rows) - 1


def test_a_test_set_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"id": "1"}\n')

    with pytest.raises(ValueError, match=r"test\.jsonl:1 question: is missing - write `question` and `answers`"):
        read_texts(tmp_path / "test.jsonl")
