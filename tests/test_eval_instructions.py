"""IFEval's instructions: each kept and each broken, strictly and loosely, and what cannot be checked is refused."""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.example import Example
from eval.scoring.figures import figures
from eval.scoring.instructions import CHECKS, DETECTED, checks, kept, loosened
from eval.scoring.kinds import ScorerSettings
from eval.scoring.scorers import build, unfit

KEPT = ScorerSettings(kind="instructions")


def asking(*said: tuple[str, dict[str, Any]]) -> Example:
    names, arguments = zip(*said, strict=True)
    return Example(
        id="q", question="Write.", answers=(), meta={"instruction_id_list": [*names], "kwargs": [*arguments]}
    )


RELATED = {"relation": "at least"}
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["owl", "fox"]}, "Foxes and OWLS", "owls alone"),
    ("keywords:frequency", {"keyword": "owl", "frequency": 2} | RELATED, "Owl, owls", "an owl"),
    ("keywords:frequency", {"keyword": "owl", "frequency": 2, "relation": "less than"}, "an owl", "owl owl"),
    ("keywords:frequency", {"keyword": "c++", "frequency": 1} | RELATED, "I like C++", "I like C"),
    ("keywords:forbidden_words", {"forbidden_words": ["owl"]}, "owls hoot", "An Owl hoots"),
    ("keywords:letter_frequency", {"letter": "o", "let_frequency": 3, "let_relation": "at least"}, "O, oo", "oo"),
    ("length_constraints:number_sentences", {"num_sentences": 2} | RELATED, "Hoot! Dr. Owl left.", "Dr. Owl left."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "three-words now"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb\n***", "a\n***\n***\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Owls"},
        "a\n\n\"Owls' hoot",
        "Owls\n\na",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S. more", "P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b\n**c**", "* a\n- b\n- c"),
    ("detectable_format:constrained_response", {}, "So: My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 Section2",
        "",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<Owls>> hoot", "<< >> hoot"),
    ("combination:two_responses", {}, "a\n******\nb", "a ****** a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write. "}, "write. Owls hoot.", "Owls hoot. Write."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"Owls. THE END."\n', "The end. Owls."),
    ("startend:quotation", {}, ' "Owls." ', '"'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "AN OWL",
        "AN owl",
    ),
    ("punctuation:no_comma", {}, "Owls hoot", "Owls, foxes"),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_each_instruction_is_kept_or_broken(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    example = asking((name, arguments))

    assert unfit(KEPT, example) is None
    assert kept(example, good, loose=False) == [True]
    assert kept(example, bad, loose=False) == [False]


def test_every_instruction_is_tried_above() -> None:
    assert {name for name, *_ in CASES} | {*DETECTED} == CHECKS.keys()
    assert len(CHECKS) == 25


def test_loosely_a_line_at_either_end_and_asterisks_are_forgiven() -> None:
    quoted = asking(("startend:quotation", {}))

    assert len(loosened("a\nb")) == 8
    for text in ('"a"', 'Sure:\n"a"', '"a"\nBye.', 'Sure:\n"a"\nBye.', '**"a"**', 'Sure:\n*"a"*\nBye.'):
        assert kept(quoted, text, loose=True) == [True]
    assert kept(quoted, 'Well,\nsure:\n"a"', loose=True) == [False]
    assert kept(quoted, 'Sure:\n"a"', loose=False) == [False]


def test_an_empty_reply_keeps_nothing() -> None:
    assert kept(asking(("punctuation:no_comma", {})), " \n", loose=False) == [False]
    assert kept(asking(("punctuation:no_comma", {})), "", loose=True) == [False]


@given(st.text(alphabet='ab ,.*"\n', max_size=20))
def test_loose_keeps_what_strict_keeps(text: str) -> None:
    example = asking(("punctuation:no_comma", {}), ("startend:quotation", {}), ("detectable_format:title", {}))

    strict, loose = kept(example, text, loose=False), kept(example, text, loose=True)

    assert all(after or not before for before, after in zip(strict, loose, strict=True))


def test_the_levels_weigh_questions_or_instructions() -> None:
    one = asking(("punctuation:no_comma", {}))
    three = asking(("punctuation:no_comma", {}), ("startend:quotation", {}), ("detectable_format:title", {}))
    made = {"all": KEPT, "share": ScorerSettings(kind="instruction_share")}
    judges = build(made, "all", ())
    answers: Any = [(one, "no commas"), (three, "no commas")]

    scores = {name: [judge(example, text, ()) for example, text in answers] for name, judge in judges.items()}
    records: Any = [
        (example, SimpleNamespace(text=text, scores={name: some[n] for name, some in scores.items()}))
        for n, (example, text) in enumerate(answers)
    ]

    assert scores == {"all": [1, 0], "share": [1, pytest.approx(1 / 3)]}
    assert figures(made, records) == {"share_pooled": pytest.approx(2 / 4)}


def test_arguments_that_are_null_are_left_out_as_some_copies_have_them() -> None:
    example = asking(("punctuation:no_comma", {"num_words": None, "keywords": None}))

    assert unfit(KEPT, example) is None
    assert [check("a") for check in checks(example)] == [True]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (("keywords:absence", {}), "there is no instruction 'keywords:absence'"),
        (("keywords:existence", {}), "the instruction 'keywords:existence' needs `keywords`"),
        (("keywords:existence", {"keywords": "owl"}), "'owl' cannot be `keywords`"),
        (
            ("length_constraints:number_words", {"num_words": True, "relation": "at least"}),
            "True cannot be `num_words`",
        ),
        (
            ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}),
            "'at most' cannot be `relation`",
        ),
    ],
)
def test_an_instruction_that_cannot_be_checked_is_refused(said: tuple[str, dict[str, Any]], sentence: str) -> None:
    assert sentence in (unfit(KEPT, asking(said)) or "")


def test_an_example_without_instructions_is_refused() -> None:
    assert "must be lists of the same length" in (unfit(KEPT, Example(id="q", question="?", answers=("a",))) or "")


@pytest.mark.skipif(find_spec("langdetect") is not None, reason="langdetect is installed")
@pytest.mark.parametrize("name", DETECTED)
def test_a_language_needs_a_package_that_is_named(name: str) -> None:
    said = unfit(KEPT, asking((name, {"language": "de"})))

    assert said == f"the instruction {name!r} needs the package langdetect, which is not installed"
