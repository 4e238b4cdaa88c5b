"""Numbers in replies: which texts are one, which is the last one, and when two are the same."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.example import Example
from eval.scoring.kinds import ScorerSettings
from eval.scoring.numeric import gold_number, last_number, number
from eval.scoring.scorers import build

GSM8K = Path(__file__).parents[1].parent / "shared" / "data" / "tasks" / "gsm8k" / "train.jsonl"


def score(text: str, *answers: str, **settings: object) -> float:
    made = {"it": ScorerSettings(kind="numeric", **settings)}  # type: ignore[arg-type]
    return build(made, "it", ())["it"](Example(id="q", question="How many?", answers=answers), text, ())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        (" -3.50\n", Fraction(-7, 2)),
        ("\N{MINUS SIGN}3", -3),
        ("+7", 7),
        (".5", Fraction(1, 2)),
        ("1,234,567.8", Fraction(12345678, 10)),
        ("$1,200", 1200),
        ("-$5", -5),
        ("$-5", -5),
        ("5 €", 5),
        ("12%", 12),
        ("12 %", 12),
        ("3/4", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("1½", Fraction(3, 2)),
        ("½", Fraction(1, 2)),
        ("2e-3", Fraction(1, 500)),
        ("１２", 12),
        ("1/0", None),
        ("1,23", None),
        ("12,3456", None),
        ("42 apples", None),
        ("42.", None),
        ("5-3", None),
        ("1e9999", None),
        ("9" * 5000, None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_text_is_one_number_or_none(text: str, value: Fraction | int | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 apples and 4 pears make 7.", 7),
        ("It costs $1,200, I think", 1200),
        ("6 * 7 = 42\n#### 42\nThat took 3 steps.", 42),
        ("#### 1\nno, wait\n#### 2", 2),
        ("#### none of 5 words", 5),
        ("from 10-12", 12),
        ("it is -3 degrees", -3),
        ("version v2 of model B12", None),
        ("half of it: 1/2", Fraction(1, 2)),
        ("no digits", None),
    ],
)
def test_the_last_number_is_the_one_that_is_meant(text: str, value: Fraction | int | None) -> None:
    assert last_number(text) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_a_number_is_read_back_however_it_is_written(whole: int, places: int) -> None:
    value = Fraction(whole, 10**places)

    assert number(f"{whole / 10**places:,.{places}f}") == pytest.approx(float(value))
    assert number(f"{value.numerator}/{value.denominator}") == value
    assert last_number(f"so 3 and 4 are {float(value)!r}") == Fraction(repr(float(value)))


def test_strict_takes_the_number_alone_and_loose_the_last_one() -> None:
    assert (score("1,200", "1200"), score("1,200", "1200", loose=True)) == (1, 1)
    assert (score("It is 1,200.", "1200"), score("It is 1,200.", "1200", loose=True)) == (0, 1)
    assert score("It is 1,200 or 3.", "1200", loose=True) == 0


def test_a_json_number_is_the_strictest_form_of_a_number() -> None:
    assert score('{"answer": 7}', "7", json="answer") == 1
    assert score('{"answer": "7"}', "7", json="answer") == 1
    assert score('{"answer": true}', "1", json="answer") == 0
    assert score('Sure: {"answer": 7}', "7", json="answer") == 0
    assert score('Sure: {"answer": "7 kg"}', "7", json="answer", loose=True) == 1


def test_a_tolerance_is_a_share_of_the_gold_number() -> None:
    assert (score("0.333333", "1/3"), score("0.3333", "1/3")) == (1, 0)
    assert (score("103", "100", tolerance=0.03), score("103.1", "100", tolerance=0.03)) == (1, 0)
    assert (score("1000001", "1000000"), score("1000001", "1000000", tolerance=0)) == (1, 0)
    assert (score("0.0000001", "0"), score("0", "0")) == (0, 1)


def test_a_percent_sign_is_a_unit() -> None:
    assert (score("25%", "25"), score("25", "25%"), score("0.25", "25%")) == (1, 1, 0)


def test_a_gold_answer_without_a_number_is_compared_as_words() -> None:
    assert (score("Unknown.", "unknown"), score("7", "unknown")) == (1, 0)


@pytest.mark.skipif(not GSM8K.exists(), reason="needs GSM8K's training questions")
def test_the_gold_answer_of_every_question_of_gsm8k_is_found() -> None:
    solutions = [json.loads(line)["answer"] for line in GSM8K.read_text(encoding="utf-8").splitlines()]

    found = [gold_number(one) for one in solutions]

    assert len(found) == 7473
    assert found == [Fraction(one.rpartition("#### ")[2].replace(",", "")) for one in solutions]
