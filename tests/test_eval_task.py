"""Test sets: what a good one becomes, and that everything wrong with a bad one is said at once, with its place."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from eval.gold import GoldRetriever
from eval.scoring.kinds import USES, Kind
from eval.scoring.scorers import SCORERS
from eval.task import load_task
from retrieval.files import FileError
from retrieval.passage import Query
from tests.eval_stub import example, write_rows, write_world
from tests.made_files import make_pdf

ROW = {"id": "q", "question": "Who?", "answers": ["Odo"]}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    write_world(tmp_path, "http://unused", n=4)
    return tmp_path / "task.yaml"


def change(task: Path, **keys: Any) -> None:
    task.write_text(yaml.safe_dump(yaml.safe_load(task.read_text()) | keys, sort_keys=False))


def complaint(task: Path) -> str:
    with pytest.raises(FileError) as caught:
        load_task(task)
    return str(caught.value)


async def test_the_oracle_finds_the_marked_evidence_in_the_order_of_the_test_set(task: Path) -> None:
    write_rows(task.with_name("test.jsonl"), [ROW | {"evidence": ["d2@0-7", "d1"]}])
    loaded = load_task(task)

    hits = await GoldRetriever(tuple(loaded.evidence[place] for place in loaded.examples[0].evidence)).search(
        Query("?")
    )

    assert [(hit.passage.id, hit.passage.text, hit.rank) for hit in hits] == [
        ("d2@0-7", "Entry 2", 1),
        ("d1@0-19", "Entry 1 says word1.", 2),
    ]


def test_another_split_is_read_as_the_same_task(task: Path) -> None:
    write_rows(task.with_name("train.jsonl"), [ROW | {"evidence": ["d3"]}])

    loaded = load_task(task, task.with_name("train.jsonl"))

    assert [one.id for one in loaded.examples] == ["q"]
    assert loaded.evidence.keys() == {"d3"}


def test_an_example_has_an_oracle_when_its_evidence_is_marked_or_there_is_none_to_find(task: Path) -> None:
    rows = [ROW | {"id": "a", "evidence": ["d1"]}, ROW | {"id": "b", "meta": {"unanswerable": True}}, ROW | {"id": "c"}]
    write_rows(task.with_name("test.jsonl"), rows)

    assert [one.has_gold for one in load_task(task).examples] == [True, True, False]


def test_a_document_may_be_called_like_a_span(task: Path) -> None:
    write_rows(task.with_name("corpus.jsonl"), [{"_id": "d@1-2", "title": "", "text": "whole"}])
    write_rows(task.with_name("test.jsonl"), [ROW | {"evidence": ["d@1-2", "d@1-2@0-3"]}])

    assert [passage.text for passage in load_task(task).evidence.values()] == ["whole", "who"]


def test_evidence_may_be_a_page(task: Path) -> None:
    change(task, documents="docs")
    task.with_name("docs").mkdir()
    make_pdf(task.with_name("docs") / "policy.pdf", "Thirty days.", "Forty after ten years.", "")
    write_rows(task.with_name("test.jsonl"), [ROW | {"evidence": ["policy.pdf#p1", "policy.pdf#p2"]}])

    loaded = load_task(task)

    assert [(passage.text, passage.page) for passage in loaded.evidence.values()] == [
        ("Thirty days.", 1),
        ("Forty after ten years.", 2),
    ]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(0, "the document has pages 1 to 3"), (4, "the document has pages 1 to 3"), (3, "names a page without text")],
)
def test_evidence_on_a_page_that_says_nothing_is_refused(task: Path, number: int, sentence: str) -> None:
    change(task, documents="docs")
    task.with_name("docs").mkdir()
    make_pdf(task.with_name("docs") / "policy.pdf", "Thirty days.", "Forty after ten years.", "")
    write_rows(task.with_name("test.jsonl"), [ROW | {"evidence": [f"policy.pdf#p{number}"]}])

    said = complaint(task)

    assert f"{task.with_name('test.jsonl')}:1: evidence 'policy.pdf#p{number}'" in said
    assert sentence in said


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": "q", "answers": ["x"]}, "the key 'question' is required and missing"),
        ({"id": "q", "question": "Who?"}, "the key 'answers' is required and missing"),
        (ROW | {"answers": []}, "`answers` is empty"),
        (ROW | {"question": "  "}, "the question is empty"),
        (ROW | {"answers": "Odo"}, "answers: Input should be a valid tuple"),
        (ROW | {"id": 7}, "id: Input should be a valid string"),
        (ROW | {"anwsers": ["x"]}, "unknown key 'anwsers'; did you mean 'answers'?"),
        (ROW | {"level": 3}, "unknown key 'level'; put your own keys under `meta`"),
        (ROW | {"evidence": ["d9"]}, "evidence 'd9' names no document"),
        (ROW | {"evidence": ["d1@5-500"]}, "is out of range: the document has characters 0 to 19"),
        (ROW | {"evidence": ["d1@7-7"]}, "is out of range"),
        (ROW | {"evidence": ["d1#p1"]}, "evidence 'd1#p1' names no page: the document has no pages"),
        (ROW | {"evidence": ["d9#p1"]}, "evidence 'd9#p1' names no document"),
    ],
)
def test_a_bad_row_is_named_by_its_line(task: Path, row: dict[str, Any], sentence: str) -> None:
    write_rows(task.with_name("test.jsonl"), [example(0), row])

    said = complaint(task)

    assert f"{task.with_name('test.jsonl')}:2: " in said
    assert sentence in said


def test_everything_wrong_is_said_at_once(task: Path) -> None:
    change(task, primary="exat")
    write_rows(
        task.with_name("test.jsonl"), [example(0), example(1), example(0), {"id": "x"}, ROW | {"evidence": ["d7"]}]
    )
    test = task.with_name("test.jsonl")

    said = complaint(task)

    assert f"{task}:4: primary: 'exat' is not among the scorers of this task (exact, part)" in said
    assert f"{test}:3: id 'q0' was taken by {test}:1" in said
    assert f"{test}:4: the key 'question' is required and missing" in said
    assert f"{test}:5: evidence 'd7' names no document" in said


def test_a_line_that_is_not_json_is_named_beside_what_is_wrong_above_it(task: Path) -> None:
    test = task.with_name("test.jsonl")
    test.write_text(json.dumps({"id": "x"}) + '\n{"id": "y", \n')

    said = complaint(task)

    assert f"{test}:1: the key 'question' is required and missing" in said
    assert f"{test}:2: not JSON" in said


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"scorers": {"exact": {"kind": "exactly"}}}, "scorers.exact.kind: Input should be 'exact', 'choice'"),
        ({"scorers": {"exact": {"kind": "exact", "lose": True}}}, "scorers.exact.lose: unknown key"),
        ({"documents": None}, "does not say where its `documents` are"),
        ({"documents": "corpse.jsonl"}, "corpse.jsonl: there is no such file"),
        ({"examples": "tests.jsonl"}, "tests.jsonl: there is no such file"),
        ({"example": "test.jsonl"}, "example: unknown key; did you mean 'examples'?"),
        ({"colour": "red"}, ": colour: unknown key; known keys: documents, enough, examples,"),
        ({"locked": "lokced.jsonl"}, "lokced.jsonl: there is no such file, so nothing could be confirmed"),
        (
            {"enough": 1.2},
            ": enough: 1.2 is neither a score between 0 and 1 nor what answers are worth, such as {right:",
        ),
        ({"enough": {"right": 20}}, ": enough: {'right': 20} is neither a score"),
        ({"enough": {"right": 20, "wrong": float("inf")}}, ": enough: {'right': 20, 'wrong': inf} is neither a score"),
    ],
)
def test_a_bad_task_file_is_refused(task: Path, keys: dict[str, Any], sentence: str) -> None:
    change(task, **keys)

    assert sentence in complaint(task)


def test_an_empty_test_set_is_refused(task: Path) -> None:
    task.with_name("test.jsonl").write_text("\n")

    assert "there is no example in this file" in complaint(task)


def test_every_kind_of_scorer_that_a_task_may_name_exists() -> None:
    named = set(get_args(Kind))

    assert named == USES.keys()
    assert named == SCORERS.keys() | {"abstains"}
