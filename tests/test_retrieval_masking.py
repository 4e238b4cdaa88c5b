"""What is left of a question without its names and literals."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import masking
from retrieval.masking import MASK, masked


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(masking).failed == 0


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("Which vessel carries the code UB-5100?", "Which vessel carries the code <mask>?"),
        ("Who is the maker of Faimprim Fodhaix?", "Who is the maker of <mask>?"),
        ("Anna asks. Where is Bernd?", "Anna asks. Where is <mask>?"),
        ("What is 'a b' in «x y», „z“ and `w`?", "What is <mask> in <mask>, <mask> and <mask>?"),
        ("on 2024-03-31 at 10:30, 3.5 %", "on <mask> at <mask>, <mask> %"),
        ("Am I older than I'm told?", "Am I older than I'm told?"),
        ("WHO IS THE OWNER?", "WHO IS THE OWNER?"),
        ("the dogs' bone and the cats' milk", "the dogs' bone and the cats' milk"),
        ("Кто владеет домом Анны?", "Кто владеет домом <mask>?"),
        ("", ""),
    ],
)
def test_what_is_hidden(question: str, left: str) -> None:
    assert masked(question) == left


def test_what_it_cannot_do() -> None:
    assert masked("Orla has which colour?") == "Orla has which colour?"
    assert masked("who keeps the orla for seven years?") == "who keeps the orla for seven years?"
    assert masked("Wie viele Häuser gibt es?") == "Wie viele <mask> gibt es?"
    assert masked("Is it in St. Petersburg?") == "Is it in <mask>. Petersburg?"


@given(st.text())
def test_no_digit_is_left(text: str) -> None:
    assert not any(letter.isdigit() for letter in masked(text))


@given(st.text("abcß ?!.,-\n"))
def test_a_text_without_names_and_literals_stays(text: str) -> None:
    assert masked(text) == text


@given(st.lists(st.sampled_from(["who", "keeps", "the", "Orla", "Bafo", "7", "UB-51"]), max_size=9))
def test_questions_of_one_shape_are_masked_alike(words: list[str]) -> None:
    other = [{"Orla": "Zeakgo", "Bafo": "Rai", "7": "1,200", "UB-51": "x9"}.get(word, word) for word in words]

    assert masked(f"and {' '.join(words)}") == masked(f"and {' '.join(other)}")
    assert f"{MASK} {MASK}" not in masked(" ".join(words))


def test_a_very_long_question_is_masked_in_passing() -> None:
    for letter in "\"“„«`'A1- ":
        masked(letter * 100_000)
