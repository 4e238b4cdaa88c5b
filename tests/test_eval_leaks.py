"""What the models have seen is found in the test set, each kind in its place; the scores without it are told."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.__main__ import main
from eval.analysis import analyse
from eval.folder import Results
from eval.leaks import Leaks, blocks, check, find_leaks, said, to_json
from eval.material import Kind, Material, materials
from eval.report import render
from eval.task import Example
from retrieval.build import build
from retrieval.files import file_hash
from retrieval.manifest import BuildSettings
from retrieval.passage import Document
from scripts.check_leaks import clean, plant, read_data
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, serving, write_rows, write_world
from tests.eval_stub import example as asked
from tests.tiny_search import make_embedder
from train.overlap import CONTAINED, EXACT, MEANING, NEAR, SQL, Text

GRID = grid_of(["base", "tuned"], ["none", "dense"], ["direct", "shown"], "base:none:direct")
TUNED = Combination.parse("tuned:none:direct")
SINGERS = Example(
    id="q", question="How many singers are from France?", answers=("SELECT count(*) FROM singer WHERE x = 'France'",)
)


def run(folder: Path, trained: Sequence[str] = (), shown: Sequence[str] = (), instructions: str = "") -> Results:
    """A run of 40 questions whose adapter was trained on these questions and whose strategy shows those."""
    results = simulate(GRID, lambda cell, part: 0.5, 40, 0)
    chats(folder / "train.jsonl", [*trained, "Which colour has the moon?"])
    chats(folder / "shots.jsonl", [*shown, "What is two and two?"])
    (folder / "tuned").mkdir()
    provenance(folder)
    direct = {"kind": "direct", "instructions": "", "demonstrations": None, "examples_from": None}
    stack = results.config.stack | {
        "adapters": {"tuned": "tuned"},
        "retrievers": {"dense": {"kind": "dense", "index": "index"}},
        "strategies": {
            "direct": direct,
            "shown": direct | {"instructions": instructions, "demonstrations": "shots.jsonl"},
        },
    }
    return replace(results, config=replace(results.config, stack=stack))


def chats(path: Path, questions: Sequence[str]) -> None:
    turns = [[{"role": "user", "content": one}, {"role": "assistant", "content": "So."}] for one in questions]
    write_rows(path, [{"messages": one} for one in turns])


def provenance(folder: Path, **identity: Any) -> None:
    data = folder / "train.jsonl"
    card = {
        "data": {"path": str(data)},
        "identity": {"data": file_hash(data), "start": None, "left_out": []} | identity,
    }
    (folder / "tuned" / "provenance.json").write_text(json.dumps(card))


def material(*texts: Text, kind: Kind = "training data") -> Material:
    return Material(kind=kind, used_by=("tuned",), place="here", texts=texts)


def text(question: str, sql: str = "", db_id: str = "") -> Text:
    return Text(where="f:1", question=question, sql=sql, db_id=db_id)


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (text("how many  singers are from FRANCE"), EXACT),
        (text("Be brief. How many singers are from France? Thank you."), CONTAINED),
        (text("How many singers are form France?"), NEAR),
        (text("Count them.", "SELECT count(*) FROM singer WHERE x = 'Chad'", "concert"), SQL),
    ],
)
def test_a_planted_question_is_flagged_by_its_kind(seen: Text, kind: str) -> None:
    example = replace(SINGERS, meta={"db_id": seen.db_id})

    found = check(material(text("Where is the moon?"), seen), [example])

    assert found.counts == {kind: 1}
    assert found.flagged == {"q"}
    assert not found.doubts


def test_the_same_words_about_another_database_are_to_look_at() -> None:
    found = check(material(text(SINGERS.question, db_id="opera")), [replace(SINGERS, meta={"db_id": "concert"})])

    assert (found.counts, found.doubts) == ({}, {EXACT: 1})


def test_closeness_in_meaning_alone_flags_nothing() -> None:
    def embed(texts: list[str]) -> Any:
        return np.ones((len(texts), 1), dtype=np.float32)

    found = check(material(text("What number of French vocalists is there?")), [SINGERS], embed)

    assert (found.counts, found.doubts) == ({}, {MEANING: 1})


@pytest.mark.parametrize(
    ("page", "flagged", "doubtful"),
    [
        ("Who keeps the old lighthouse at Skerrow? Odo Merrun does.", 1, 0),
        ("Visitors ask: Who keeps the old lighthouse at Skerrow? Nobody tells.", 0, 1),
        ("Odo Merrun keeps the old lighthouse at Skerrow.", 0, 0),
    ],
)
def test_a_corpus_may_hold_answers_but_not_questions_with_their_answers(page: str, flagged: int, doubtful: int) -> None:
    example = Example(id="q", question="Who keeps the old lighthouse at Skerrow?", answers=("Odo Merrun",))

    found = check(material(text(f"Harbour\n{page}"), kind="corpus"), [example])

    assert (len(found.flagged), len(found.doubtful)) == (flagged, doubtful)


def test_a_page_that_a_long_question_quotes_for_the_most_part_is_where_its_answer_should_be() -> None:
    page = "The treaty on the shared use of the northern fishing grounds was signed by both ministers in 1994."
    question = f"In which town is it said that {page.removesuffix(' in 1994.')}?"
    example = Example(id="q", question=question, answers=("1994",))

    trained, searched = (check(material(text(page), kind=kind), [example]) for kind in ("training data", "corpus"))

    assert trained.counts == {CONTAINED: 1}
    assert not searched.sightings


def test_everything_that_the_grid_uses_is_in_the_matrix(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = BuildSettings(embedder=str(make_embedder(tmp_path_factory.mktemp("embedder"))))
    results = run(tmp_path, instructions="Answer in one word.")
    worked = {"answer": "So."}
    pages = [Document(id="a", title="", text="A page."), Document(id="b", title="", text="Who?", meta=worked)]
    build(pages, tmp_path / "index", settings)

    company = replace(results.config.grid, retrievers=(*results.config.grid.retrievers, "gold-dense"))
    found = materials(replace(results.config, grid=company), tmp_path)

    assert [(one.name, len(one.texts), one.remark) for one in found] == [
        ("training data of tuned", 1, ""),
        ("worked examples of shown", 1, ""),
        ("worked examples of dense", 1, ""),
        ("corpus of dense", 1, ""),
        ("instructions of shown", 1, ""),
    ]


def test_what_cannot_be_read_is_named_and_is_not_called_clean(tmp_path: Path) -> None:
    results = run(tmp_path)
    (tmp_path / "shots.jsonl").unlink()
    (tmp_path / "tuned" / "provenance.json").unlink()

    leaks = find_leaks(results, tmp_path)

    assert [one.kind for one in leaks.unread] == ["training data", "worked examples", "corpus"]
    assert len(said(leaks, 40)) == 3
    assert "nobody can say what it learnt from" in said(leaks, 40)[0]
    assert "there is no such file" in said(leaks, 40)[1]
    assert "there is no index here" in said(leaks, 40)[2]


@pytest.mark.parametrize(
    ("change", "remark", "texts"),
    [
        ({}, "", 2),
        ({"data": "0"}, "the file has changed since the training", 2),
        ({"left_out": ["1"]}, "", 1),
        ({"left_out": ["1"], "data": "0"}, "the file has changed since the training", 2),
        ({"start": "abc"}, "it continues an adapter whose own data its card does not name", 2),
    ],
)
def test_an_adapters_card_says_what_it_learnt_from(
    tmp_path: Path, change: dict[str, Any], remark: str, texts: int
) -> None:
    results = run(tmp_path, trained=["Who sees the sea?"])
    provenance(tmp_path, **change)

    learnt = materials(results.config, tmp_path)[0]

    assert (len(learnt.texts), learnt.remark) == (texts, remark)


def test_training_data_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    results = run(tmp_path)
    (tmp_path / "train.jsonl").unlink()

    learnt = materials(results.config, tmp_path)[0]

    assert learnt.unread
    assert learnt.remark == "the file is gone"


@pytest.mark.parametrize("broken", ["{", "[]", '{"data": {}}', '{"data": {"path": "train.jsonl"}, "identity": []}'])
def test_a_broken_card_is_a_remark_and_no_crash(tmp_path: Path, broken: str) -> None:
    results = run(tmp_path)
    (tmp_path / "tuned" / "provenance.json").write_text(broken)

    assert materials(results.config, tmp_path)[0].unread


def cheating(results: Results, known: set[str]) -> Results:
    """The same, but the adapter is right exactly on these questions, and otherwise as good as the base model."""
    base = results.records[results.baseline]
    told = {
        item: replace(one, scores=one.scores | {"exact": 1.0 if item in known else base[item].scores["exact"]})
        for item, one in results.records[TUNED].items()
    }
    return replace(results, records={**results.records, TUNED: told})


def test_a_gain_that_was_learnt_by_heart_is_gone_on_the_clean_questions(tmp_path: Path) -> None:
    results = run(tmp_path)
    known = [one for one in results.examples if not results.records[results.baseline][one.id].scores["exact"]][:15]
    ids = {one.id for one in known}
    chats(tmp_path / "train.jsonl", [one.question for one in known])
    provenance(tmp_path)

    leaks = find_leaks(cheating(results, ids), tmp_path)

    clean, seen = ({row.combination: row for row in rows}[str(TUNED)] for rows in (leaks.clean, leaks.seen))
    assert leaks.flagged == ids
    assert (clean.n, clean.delta, seen.n, seen.delta) == (25, 0.0, 15, 1.0)
    assert clean.p_holm is not None
    assert clean.p_holm > 0.05
    assert "15 of 40 test questions were seen before: 15 in the training data of tuned" in said(leaks, 40)[0]


def test_the_two_parts_are_scored_on_their_own_questions_alone(tmp_path: Path) -> None:
    results = run(tmp_path)
    shown = results.examples[:7]
    chats(tmp_path / "shots.jsonl", [one.question for one in shown])

    leaks = find_leaks(results, tmp_path)

    for row in leaks.seen:
        records = results.records[Combination.parse(row.combination)]
        assert row.score == pytest.approx(sum(records[one.id].scores["exact"] for one in shown) / 7)
    assert {row.combination for row in leaks.clean} == {row.combination for row in leaks.seen}
    assert {row.n for row in leaks.clean} == {33}


def test_a_test_set_that_was_seen_whole_leaves_no_score_to_trust(tmp_path: Path) -> None:
    results = run(tmp_path)
    chats(tmp_path / "train.jsonl", [one.question for one in results.examples])
    provenance(tmp_path)

    leaks = find_leaks(results, tmp_path)

    assert not leaks.clean
    assert "no score of this run can be trusted" in said(leaks, 40)[0]
    assert "no score of this run" in render(analyse(results, leaks))


def test_a_clean_run_says_nothing_and_passes_every_gate(tmp_path: Path) -> None:
    results = run(tmp_path, instructions="Answer in one word.")

    leaks = replace(find_leaks(results, tmp_path), checks=find_leaks(results, tmp_path).checks[:2])

    assert not leaks.flagged
    assert blocks(leaks) == said(leaks, 40) == ()


@pytest.mark.parametrize(("wording", "blocked"), [(str.upper, True), (lambda one: one.replace("ship", "shpi"), False)])
def test_the_gate_blocks_questions_that_stand_word_for_word(wording: Any, blocked: bool) -> None:
    example = Example(id="q", question="Where was the old wooden ship repaired?", answers=("-",))

    found = check(material(text(wording(example.question))), [example])

    assert found.flagged == {"q"}
    assert bool(blocks(Leaks(checks=(found,)))) == blocked


def test_instructions_that_quote_a_test_question_are_flagged(tmp_path: Path) -> None:
    results = run(tmp_path)
    quoted = f"Answer in one word. For instance: {results.examples[3].question} Odo."
    direct = results.config.stack["strategies"]["direct"]
    strategies = {"direct": direct, "shown": direct | {"instructions": quoted}}
    config = replace(results.config, stack=results.config.stack | {"strategies": strategies})

    leaks = find_leaks(replace(results, config=config), tmp_path)

    assert [(one.material.kind, one.flagged) for one in leaks.checks if one.flagged] == [("instructions", {"q3"})]


def test_the_page_and_the_file_show_the_matrix_and_what_was_seen_stays_text(tmp_path: Path) -> None:
    results = run(tmp_path)
    evil = f"<script>alert(1)</script> {results.examples[5].question}"
    chats(tmp_path / "train.jsonl", [evil])
    provenance(tmp_path)

    leaks = find_leaks(results, tmp_path)
    page, file = render(analyse(results, leaks)), json.loads(json.dumps(to_json(leaks), allow_nan=False))

    assert 'id="matrix"' in page
    assert 'id="parted"' in page
    assert "<script" not in page
    assert "1 of 40 test questions were seen before" in page
    assert file["flagged"] == ["q5"]
    assert file["checks"][0]["counts"] == {CONTAINED: 1}
    assert "<script>" in file["checks"][0]["examples"][0]["seen"]


def test_a_run_warns_on_the_terminal_and_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Stub(say=lambda model, messages: "word1")) as stub:
        grid = write_world(tmp_path, stub.url, adapters=["base"], retrievers=["none"], strategies=["direct", "shown"])
        direct = {"kind": "direct"}
        shown = {"kind": "fewshot", "demonstrations": "shots.jsonl"}
        stack = {"model": "stub", "url": stub.url, "strategies": {"direct": direct, "shown": shown}}
        (tmp_path / "stack.yaml").write_text(json.dumps(stack))
        chats(tmp_path / "shots.jsonl", [asked(4)["question"]])

        code = main(["run", str(grid), "--out", str(tmp_path / "out")])

    said = capsys.readouterr().out
    file = json.loads((tmp_path / "out" / "leaks.json").read_text())
    assert code == 0
    assert "Warning: 1 of 20 test questions were seen before: 1 in the worked examples of shown" in said
    assert (file["flagged"], file["compared_in_meaning"], len(file["blocks"])) == (["q4"], False, 1)


def test_a_report_compares_in_meaning_when_it_is_given_an_embedder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    embedder = make_embedder(tmp_path_factory.mktemp("embedder"))
    with serving(Stub(say=lambda model, messages: "word1")) as stub:
        grid = write_world(tmp_path, stub.url, adapters=["base"], retrievers=["none"], strategies=["direct", "brief"])
        main(["run", str(grid), "--out", str(tmp_path / "out")])

    code = main(["report", str(tmp_path / "out"), "--embedder", str(embedder)])

    assert code == 0
    assert json.loads((tmp_path / "out" / "leaks.json").read_text())["compared_in_meaning"]


def test_what_the_script_plants_is_found_and_the_clean_world_blocks_nothing(tmp_path: Path) -> None:
    tests = [{**asked(n), "question": f"Who was the keeper of {name}?"} for n, name in enumerate(NAMES)]
    write_rows(tmp_path / "test.jsonl", tests)
    chats(tmp_path / "train.jsonl", [f"Where is the house of {name}?" for name in NAMES])
    write_rows(tmp_path / "corpus.jsonl", [{"_id": "d", "title": "Entry", "text": "A page about nothing."}])

    data = read_data(tmp_path)
    tried = {one.kind: one for one in plant(data, None)}

    assert not any(check.sightings for check in clean(data))
    assert all(tried[kind].found == len(NAMES) for kind in ("exact", "inside a longer prompt", "answer in the corpus"))
    assert sum(one.false for one in tried.values()) == 0
    assert tried["translation (by hand)"].found == 0, "an honest table: words alone cannot see a translation"


NAMES = ("Skerrow", "Brannoch", "Odmar", "Pellwyn", "Tarvis", "Ulgrove", "Henwick", "Mossgate")
