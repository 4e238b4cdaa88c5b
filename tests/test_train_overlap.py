"""Rows of the test set must not be trained on, whatever way they are written; what only looks alike may be."""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.pocket.files import write_world
from tests.test_train_run import train
from train.lora import main
from train.overlap import (
    COMMON_IN_TESTS,
    COMMON_IN_TRAINING,
    CONTAINED,
    COVER,
    EXACT,
    FEWEST,
    GRAM,
    LONG,
    MEANING,
    NEAR,
    SQL,
    TYPOS,
    Reading,
    Text,
    _rarest,
    check,
    is_copy,
    overlaps,
    read,
    read_texts,
    stands_alone,
)

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SPIDER = DATA / "spider"
BANKING = DATA / "tasks" / "banking77"


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
        ("Which cargo has the Pasha?", "Which cargo has the Pashu?"),
        ("What is 5 + 3?", "What is 5 - 3?"),
        ("Who invented C++?", "Who invented C?"),
        ("Where is my card from the new shop?", "Where is my card?"),
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


def test_a_later_check_is_written_into_the_card_and_trains_nothing_again(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "clean.jsonl").write_text(json.dumps({"id": "1", "question": "Who rang?", "answers": ["Ann"]}) + "\n")
    monkeypatch.chdir(world)
    settings = ["name=later", "dtype=float32", "epochs=1"]
    card = train(world, *settings) / "provenance.json"
    assert json.loads(card.read_text())["overlap"] == "unchecked"

    train(world, *settings, "check_against=clean.jsonl")
    train(world, *settings)

    assert capsys.readouterr().out.count("nothing left to do") == 2
    assert json.loads(card.read_text())["overlap"]["test_questions"] == 1


def test_a_test_set_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"id": "1"}\n')

    with pytest.raises(ValueError, match=r"test\.jsonl:1 question: is missing - write `question` and `answers`"):
        read_texts(tmp_path / "test.jsonl")


def naive(ours: Sequence[Reading], theirs: Sequence[Reading]) -> Iterator[tuple[int, int, str]]:
    """What the index must find, by comparing every text with every other."""
    for (i, one), (j, test) in product(enumerate(ours), enumerate(theirs)):
        alike = len(one.grams & test.grams) / max(1, len(one.grams | test.grams))
        if one.key and one.key == test.key:
            yield i, j, EXACT
        elif is_whole(one, test) or (len(test.words) > LONG and covered(one, test, ours, theirs) >= COVER):
            yield i, j, CONTAINED
        elif alike >= TYPOS and is_copy(one, test, alike):
            yield i, j, NEAR


def is_whole(one: Reading, test: Reading) -> bool:
    places = [n for n in range(len(one.words)) if one.words[n : n + len(test.words)] == test.words]
    return len(test.words) >= FEWEST and any(stands_alone(one, n, n + len(test.words)) for n in places)


def covered(one: Reading, test: Reading, ours: Sequence[Reading], theirs: Sequence[Reading]) -> float:
    grams = {test.words[n : n + GRAM] for n in range(len(test.words) - GRAM + 1)}
    telling = [
        gram
        for gram in grams
        if sum(holds(words, gram) for words in {text.words for text in theirs}) <= COMMON_IN_TESTS
        and sum(holds(words, gram) for words in {text.words for text in ours}) <= COMMON_IN_TRAINING
    ]
    return sum(holds(one.words, gram) for gram in telling) / len(telling) if telling else 0


def holds(words: tuple[str, ...], run: tuple[str, ...]) -> bool:
    return any(words[n : n + len(run)] == run for n in range(len(words)))


@pytest.mark.parametrize("seed", range(4))
def test_the_index_finds_the_very_pairs_that_comparing_all_finds(seed: int) -> None:
    random = Random(seed)
    known = ["where", "is", "my", "lost", "card", "now", "12", "Oslo", "please", "tell"]
    stock = [" ".join(random.choices(known, k=k)) for k in range(2, 25)]

    def text() -> str:
        words = " ".join(random.sample(stock, random.choice([1, 1, 2]))).split()
        for n in random.sample(range(len(words)), random.choice([0, 0, 1, 2])):
            words[n] = random.choice([words[n][::-1], words[n][:-1], words[n] + "s", words[n] + "?", ""])
        return " ".join(words)

    ours, theirs = texts(*(text() for _ in range(45))), texts(*(text() for _ in range(25)))

    found = {(one.train.where, one.test.where, one.kind) for one in overlaps(ours, theirs)}

    expected = naive([read(one.question) for one in ours], [read(one.question) for one in theirs])
    assert found == {(ours[i].where, theirs[j].where, kind) for i, j, kind in expected}
    assert {kind for *_, kind in found} == {EXACT, CONTAINED, NEAR}


@given(st.lists(st.text("abcdefghé", min_size=1, max_size=6), min_size=1, max_size=20), st.data())
def test_case_spacing_and_marks_make_no_other_question(words: list[str], data: st.DataObject) -> None:
    marks = data.draw(st.lists(st.sampled_from([" ", "  ", ", ", "? ", "\n", " - "]), min_size=len(words)))
    written = "".join(word + mark for word, mark in zip(words, marks, strict=False))
    written = data.draw(st.sampled_from([written, written.upper(), written.title()]))

    assert [one.kind for one in overlaps(texts(written), texts(" ".join(words)))] == [EXACT]


@given(st.text(), st.text())
def test_any_text_can_be_compared(one: str, other: str) -> None:
    same = read(one).key == read(other).key != ""

    assert [found.kind for found in overlaps(texts(one), texts(other))][:1] == [EXACT] or not same
    assert bool(overlaps(texts(one), texts(one))) is bool(read(one).words)


def test_a_long_question_that_was_asked_in_many_ways_of_prompting_is_still_found() -> None:
    question = "Janet has 16 ducks and sells every egg that she does not eat for 2 dollars, so what does she earn?"
    ours = texts(*(f"Example {n}. {question} Take {n} steps." for n in range(COMMON_IN_TRAINING + 5)))

    assert len(check(ours, texts(question)).leaked) == len(ours)


@pytest.mark.parametrize(("rows", "tests", "leaks"), [(1, 1, True), (1, 3, False), (11, 1, False)])
def test_a_long_question_with_another_name_leaks_unless_many_share_its_frame(
    rows: int, tests: int, leaks: bool
) -> None:
    frame = "In the register of the harbour that burnt down in the great storm, who is the captain of the {}?"
    ours, theirs = (texts(*(frame.format(who + "a" * n) for n in range(k))) for who, k in (("Ox", rows), ("Zu", tests)))

    assert bool(overlaps(ours, theirs)) is leaks


def test_sets_that_share_just_enough_share_a_rare_gram() -> None:
    for size in range(1, 200):
        one = [f"{n:03}" for n in range(size)]
        other = one[size - ceil(TYPOS * size) :]
        spread = {gram: n for n, gram in enumerate(one)}

        assert set(_rarest(frozenset(one), spread)) & set(_rarest(frozenset(other), spread))


def test_the_first_words_of_a_long_test_question_find_no_short_one() -> None:
    theirs = texts("lost my new card", "lost my" + " old and new card" * 4)

    assert overlaps(texts("Yesterday at noon in Oslo I lost my new card"), theirs) == ()


def test_what_is_only_close_in_meaning_is_listed() -> None:
    def embed(said: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.0] if "lock" in text else [0.0, 1.0] for text in said])

    report = check(texts("How do I lock it?", "Who won?"), texts("Ways of locking"), embed)

    assert [(one.train.where, one.kind) for one in report.listed] == [("f:1", MEANING)]
    assert report.refused == ()


@pytest.mark.parametrize("seed", [0, 5])
def test_a_generated_world_is_no_leak_of_its_own(seed: int, tmp_path: Path) -> None:
    write_world(seed, tmp_path)

    assert overlaps(read_texts(tmp_path / "train.jsonl"), read_texts(tmp_path / "test.jsonl")) == ()


@pytest.mark.skipif(not BANKING.exists(), reason="Banking77 is not beside this checkout")
def test_the_copies_between_the_halves_of_banking77_are_found() -> None:
    train_half, test_half = (
        texts(*(row["text"] for row in csv.DictReader((BANKING / name).open(encoding="utf-8"))))
        for name in ("train.csv", "test.csv")
    )

    card = check(train_half, test_half).card()

    assert card["refused"] == {EXACT: 28, CONTAINED: 128, NEAR: 125}
    assert card["leaking_rows"] == 272
