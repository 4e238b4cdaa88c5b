"""The demo's world keeps its promises: what each slice claims is true of the files."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from eval.grid import load_grid
from retrieval.passage import Hit, Passage, Query
from retrieval.topics import read_topics
from scripts.pocket.files import SPLITS, make_splits, registers, write_world
from scripts.pocket.general import ASKED
from scripts.pocket.lessons import lessons, user_turn
from scripts.pocket.notices import NOTICES
from scripts.pocket.world import Entry, World
from scripts.sweep.variants import read_variants
from serve.layout import layout


@pytest.fixture(scope="module", params=[0, 7])
def worlds(request: pytest.FixtureRequest) -> dict[str, World]:
    return make_splits(request.param)


def stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return set(Stemmer.Stemmer("english").stemWords([w for w in words if w not in STOPWORDS_EN and len(w) > 1]))


@pytest.mark.parametrize(("statement", "question"), NOTICES)
def test_a_notice_shares_no_word_with_its_question(statement: str, question: str) -> None:
    assert not stems(statement) & stems(question)


def test_no_name_stands_in_two_splits(worlds: dict[str, World]) -> None:
    names = [{page.name for page in world.documents if isinstance(page, Entry)} for world in worlds.values()]

    assert len(set.union(*names)) == sum(map(len, names))


def test_document_ids_differ(worlds: dict[str, World]) -> None:
    ids = [page.id for world in worlds.values() for page in world.documents]

    assert len(set(ids)) == len(ids)


def test_every_answer_stands_in_its_evidence(worlds: dict[str, World]) -> None:
    for world in worlds.values():
        pages = {page.id: f"{page.title} {page.text}" for page in world.documents}
        for question in world.questions:
            if question.slice == "count":
                assert question.answer == str(len(question.evidence))
            elif question.answer:
                told = " ".join(pages[i] for i in question.evidence)
                assert all(part in told for part in question.answer.split(" and "))


def test_a_code_belongs_to_one_document(worlds: dict[str, World]) -> None:
    text = "\n".join(page.text for world in worlds.values() for page in world.documents)

    for question in worlds["test"].questions:
        if question.slice == "code":
            assert text.count(question.text.rstrip("?").split()[-1]) == 1


def test_a_page_does_not_state_what_is_unanswerable(worlds: dict[str, World]) -> None:
    for world in worlds.values():
        asked = {q.text for q in world.questions if q.slice == "unanswerable"}

        assert not asked & {q.text for q in world.questions if q.slice != "unanswerable"}


def test_updated_questions_have_an_older_page_that_says_otherwise(worlds: dict[str, World]) -> None:
    world = worlds["test"]
    pages = {page.id: page for page in world.documents if isinstance(page, Entry)}
    updated = [q for q in world.questions if q.slice == "updated"]

    assert updated
    for question in updated:
        newer = pages[question.evidence[0]]
        assert any(p.name == newer.name and p.year < newer.year for p in pages.values())


def test_the_test_split_has_enough_of_every_slice(worlds: dict[str, World]) -> None:
    split = next(s for s in SPLITS if s.name == "test")
    for slice_, count in split.questions.items():
        available = sum(q.slice == slice_ for q in worlds["test"].questions)
        assert available >= min(count, 8), slice_


def test_the_same_seed_writes_the_same_files(tmp_path) -> None:
    for name in ("a", "b"):
        write_world(3, tmp_path / name / "world")

    for file in sorted((tmp_path / "a" / "world").glob("*.jsonl")):
        assert file.read_text() == (tmp_path / "b" / "world" / file.name).read_text()


def test_a_sweep_of_the_world_can_be_read_and_what_it_watches_is_not_trained_on(tmp_path) -> None:
    world = tmp_path / "out" / "demo-2" / "world"
    write_world(2, world)

    grids = [load_grid(world / f"{name}_grid.yaml") for name in ("dev", "general")]
    variants, problems = read_variants(world / "curve.yaml")

    asked = [{example.question for example in grid.task.examples} for grid in grids]
    trained = {json.loads(line)["question"] for line in (world / "train.jsonl").read_text().splitlines()}
    assert (problems, variants[-1].name) == ([], "demo-2-curve.rows-all")
    assert len(grids[1].task.examples) == 2 * ASKED
    assert not trained & (asked[0] | asked[1])


def test_chosen_worked_examples_are_as_many_as_fixed_ones(tmp_path) -> None:
    write_world(2, tmp_path / "demo-2" / "world")

    grid = load_grid(tmp_path / "demo-2" / "world" / "shots_grid.yaml")

    names = [one.examples_from for one in grid.stack.strategies.values() if one.examples_from]
    shown = (tmp_path / "demo-2" / "world" / "shown.jsonl").read_text().splitlines()
    assert len(names) == 2
    assert {grid.stack.retrievers[name].k for name in names} == {len(shown)}


def test_a_sweep_over_k_changes_nothing_but_k(tmp_path) -> None:
    write_world(2, tmp_path / "demo-2" / "world")

    grid = load_grid(tmp_path / "demo-2" / "world" / "k_grid.yaml")

    assert [one.k for one in grid.stack.retrievers.values()] == [1, 2, 3, 5, 8]
    assert all(replace(one, k=1) == grid.stack.retrievers["lexical-1"] for one in grid.stack.retrievers.values())


def test_the_model_was_taught_no_fact_of_the_demo_and_not_its_format() -> None:
    demo = {(p.name, *p.values) for p in make_splits(0)["test"].documents if isinstance(p, Entry)}
    names = {each[0] for each in demo}
    taught = [chat for _, chat in islice(lessons(Random("lessons-0")), 4000)]
    replies = [m["content"] for chat in taught for m in chat if m["role"] == "assistant"]

    assert not [r for r in replies if re.match(r'\{"answer"', r)]
    known = [r for r in replies if any(re.search(rf"\b{name}\b", r) for name in names)]
    assert not [r for r in known for name, *values in demo if name in r and any(value in r for _, value in values)]


def test_lessons_lay_passages_out_as_the_server_does() -> None:
    pages = [("A title", "Its text."), ("Another", "More.")]
    hits = [
        Hit(Passage(document=str(n), title=t, text=x, start=0, end=len(x)), 1.0, n) for n, (t, x) in enumerate(pages)
    ]

    assert layout((), Query("Why?"), hits)[-1].content == user_turn(pages, "Why?")
    assert layout((), Query("Why?"), ())[-1].content == user_turn([], "Why?")


def test_written_questions_are_valid_json_with_a_slice(tmp_path) -> None:
    write_world(1, tmp_path / "demo-1" / "world")
    rows = [json.loads(line) for line in (tmp_path / "demo-1" / "world" / "test.jsonl").read_text().splitlines()]

    assert len(rows) >= 200
    assert all(row["meta"]["slice"] and row["answers"] for row in rows)


def test_the_judgements_of_a_split_are_the_evidence_of_its_questions(tmp_path) -> None:
    folder = tmp_path / "demo-1" / "world"
    write_world(1, folder)
    asked: list[str] = []

    for split in SPLITS:
        rows = [json.loads(line) for line in (folder / f"{split.name}.jsonl").read_text().splitlines()]
        evidence = {row["id"]: (row["question"], dict.fromkeys(row["evidence"], 1)) for row in rows if row["evidence"]}
        assert {topic.id: (topic.text, topic.grades) for topic in read_topics(folder, split.name)} == evidence
        asked += [row["question"] for row in rows]

    queries = [json.loads(line)["text"] for line in (folder / "queries.jsonl").read_text().splitlines()]
    assert sorted(queries) == sorted(asked)


def test_a_query_on_the_registers_answers_every_question_that_counts(worlds: dict[str, World], tmp_path: Path) -> None:
    (tmp_path / "registers.sqlite").write_bytes(registers(worlds))
    columns = {"vessels": "port", "medicines": "shelf"}
    asked = [question for world in worlds.values() for question in world.questions if question.slice == "count"]

    with closing(sqlite3.connect(tmp_path / "registers.sqlite")) as database:
        for question in asked:
            table, value = question.text.split()[2], question.text.rstrip("?").split()[-1]
            counted = f"SELECT COUNT(*) FROM {table} WHERE {columns[table]} = ?"
            assert str(database.execute(counted, [value]).fetchone()[0]) == question.answer
    assert len(asked) > 20
    assert registers(worlds) == registers(worlds), "the same world writes the same file"
