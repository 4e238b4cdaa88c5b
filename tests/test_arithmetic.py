"""Arithmetic that nobody trusts: what it is worth, and what is refused before it costs anything."""

import json
import os
import re
from pathlib import Path

import pytest

from serve.arithmetic import ArithmeticMistake, value


@pytest.mark.parametrize(
    ("expression", "worth"),
    [
        ("48/2 + 48", 72),
        ("0.1 + 0.2", 0.3),
        ("-(2 + 3) * 4 // 3 % 5", 3),
        ("2 ** 10 ** 0", 2),
        ("2 ** -1", 0.5),
        (" round(2 / 3, 2) + abs(-1) ", 1.67),
        ("min(3, 1, 2) + max(4, 5) + sum(1, 2, 3)", 12),
        ("sum(0.1, 0.1, 0.1)", 0.3),
        ("1_000 * 2", 2000),
        ("1e3", 1000),
    ],
)
def test_what_an_expression_is_worth(expression: str, worth: float) -> None:
    assert value(expression) == worth


ATTACKS = {
    "power of powers": ("9**9**9", "too large"),
    "power that grows below": ("2**-(9**9)", "too large"),
    "factors": ("*".join(["9**500"] * 20), "too large"),
    "long number": ("9" * 499 + "*" + "9" * 400, "longer"),
    "float": ("1e308 * 10", "too large"),
    "infinite literal": ("1e999", "too large"),
    "infinity less infinity": ("1e999 - 1e999", "too large"),
    "whole number too large for a fraction": ("9**500 / 0.1", "too large"),
    "round to 10**9 digits": ("round(5, -10**9)", "15 digits"),
    "shift": ("1 << 10**9", "something in it"),
    "repeated list": ("[0] * 10**9", "something in it"),
    "repeated text": ("'a' * 10**9", "something in it"),
    "zero": ("1 / 0", "divides by zero"),
    "rest of zero": ("1 % 0", "divides by zero"),
    "zero to less than nothing": ("0 ** -1", "divides by zero"),
    "root": ("(-8) ** 0.5", "root of a negative"),
    "complex": ("1j * 1j", "something in it"),
    "truth": ("True + 1", "something in it"),
    "name": ("x + 1", "something in it"),
    "import": ("__import__('os').system('true')", "something in it"),
    "attribute": ("(1).__class__", "something in it"),
    "call of a call": ("abs(1)(2)", "something in it"),
    "other function": ("pow(9, 9)", "something in it"),
    "keyword": ("sum(1, start=2)", "something in it"),
    "star": ("sum(*[1])", "something in it"),
    "comprehension": ("sum(i for i in 3)", "something in it"),
    "lambda": ("(lambda: 1)()", "something in it"),
    "walrus": ("(a := 1)", "something in it"),
    "thousands": ("1,000 + 1", "something in it"),
    "no argument": ("max()", "is no arithmetic"),
    "two of abs": ("abs(1, 2)", "does not take"),
    "nothing": ("", "is no arithmetic"),
    "statement": ("import os", "is no arithmetic"),
    "two lines": ("1\n2", "is no arithmetic"),
    "NUL": ("1\0", "is no arithmetic"),
    "half of a character": ("\ud83e", "is no arithmetic"),
    "many brackets": ("(" * 240 + "1" + ")" * 240, "is no arithmetic"),
    "many signs": ("-" * 499 + "x", "something in it|brackets"),
    "very long": ("1+" * 10_000_000 + "1", "longer than 500"),
}


@pytest.mark.parametrize(("expression", "why"), ATTACKS.values(), ids=ATTACKS)
def test_what_is_no_arithmetic_or_too_much_of_it_ends_in_a_sentence(expression: str, why: str) -> None:
    with pytest.raises(ArithmeticMistake, match=why):
        value(expression)


def test_the_calculations_of_gsm8k_are_worth_what_their_authors_say() -> None:
    place = os.environ.get("GSM8K")
    if not place:
        pytest.skip("GSM8K does not name a file of its questions (JSONL)")
    answers = [json.loads(line)["answer"] for line in Path(place).read_text(encoding="utf-8").splitlines()]
    noted = [part for answer in answers for part in re.findall(r"<<([^=<>]+)=([^<>]+)>>", answer)]

    agree = [_close(value(_plain(said)), float(_plain(worth))) for said, worth in noted if _readable(said, worth)]

    assert len(agree) > 0.99 * len(noted)
    assert sum(agree) > 0.99 * len(agree)


def _plain(text: str) -> str:
    """Without the zeros that Python does not take before a number."""
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def _readable(said: str, worth: str) -> bool:
    try:
        value(_plain(said))
        float(_plain(worth))
    except ValueError:
        return False
    return True


def _close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= 0.01 * max(1.0, abs(theirs))
