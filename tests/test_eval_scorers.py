"""What counts as right: SQuAD's rules against SQuAD's own code, and strict and loose readings of a JSON answer."""

import re
import sqlite3
import string
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import settings as at_most
from hypothesis import strategies as st

from eval.scoring.kinds import LOOSE_ALONE, USES, Executing, Kind, loosely
from eval.scoring.scorers import build
from eval.scoring.words import exact, f1
from eval.task import Example, ScorerSettings
from serve.chat import Message
from serve.layout import shown_in, user_turn

EXAMPLE = Example(id="q", question="Who?", answers=("Odo Merrun", "Merrun"))
STRICT = ScorerSettings(kind="exact", json="answer")
LOOSE = ScorerSettings(kind="exact", json="answer", loose=True)
NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
FORMAT = ScorerSettings(kind="json_format", keys=("answer", "source"))


def score(settings: ScorerSettings, text: str, example: Example = EXAMPLE, shown: Sequence[str] = ()) -> float:
    return build({"it": settings}, "it", ())["it"](example, text, shown)


# SQuAD's evaluate-v2.0.py, as published.
def squad_normalize(s: str) -> str:
    exclude = set(string.punctuation)
    no_punctuation = "".join(ch for ch in s.lower() if ch not in exclude)
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", no_punctuation).split())


def squad_f1(prediction: str, gold: str) -> float:
    gold_tokens, prediction_tokens = squad_normalize(gold).split(), squad_normalize(prediction).split()
    common = Counter(gold_tokens) & Counter(prediction_tokens)
    same = sum(common.values())
    if len(gold_tokens) == 0 or len(prediction_tokens) == 0:
        return float(gold_tokens == prediction_tokens)
    if same == 0:
        return 0.0
    precision, recall = 1.0 * same / len(prediction_tokens), 1.0 * same / len(gold_tokens)
    return (2 * precision * recall) / (precision + recall)


phrases = st.lists(st.sampled_from(["the", "A", "an", "fox", "Fox,", "red", "red-", "(foxes)", "42", "  "]), max_size=6)


@given(phrases.map(" ".join), phrases.map(" ".join))
def test_exact_and_f1_are_squads_unless_a_text_is_articles_only(said: str, gold: str) -> None:
    if not squad_normalize(said) or not squad_normalize(gold):
        return

    assert exact(said, gold) == (squad_normalize(said) == squad_normalize(gold))
    assert f1(said, gold) == pytest.approx(squad_f1(said, gold))


def test_an_option_that_is_called_a_is_not_an_article() -> None:
    assert exact("A", "A") == 1
    assert exact("the", "A") == 0


@pytest.mark.parametrize(
    ("text", "strict", "loose", "form"),
    [
        ('{"answer": "Odo Merrun", "source": 2}', 1, 1, 1),
        ('{"source": null, "answer": "merrun"}', 1, 1, 1),
        ('  {"answer": "Odo Merrun", "source": 2}\n', 1, 1, 1),
        ('{"answer": "Odo Merrun",\n "source": 2}', 1, 1, 0),
        ('{"answer": "Odo Merrun"}', 1, 1, 0),
        ('{"answer": "Odo Merrun", "source": 2, "note": ""}', 1, 1, 0),
        ('Sure! {"answer": "Odo Merrun", "source": 2}', 0, 1, 0),
        ('```json\n{"answer": "Odo Merrun", "source": 2}\n```', 0, 1, 0),
        ('{"answer": "Odo Merrun", "answer": "Odo Merrun", "source": 2}', 0, 1, 0),
        ('{"answer": "Odo Merrun", "source": NaN}', 0, 1, 0),
        ('{"answer": ["Odo Merrun"], "source": 2}', 0, 0, 1),
        ('{"Answer": "Odo Merrun", "source": 2}', 0, 0, 0),
        ("Odo Merrun", 0, 1, 0),
        ("{broken Odo Merrun", 0, 0, 0),
        ("", 0, 0, 0),
        ("{" * 5000, 0, 0, 0),
        ("[" * 5000, 0, 0, 0),
    ],
)
def test_correctness_and_form_are_scored_apart(text: str, strict: float, loose: float, form: float) -> None:
    assert (score(STRICT, text), score(LOOSE, text), score(FORMAT, text)) == (strict, loose, form)


def test_a_number_is_an_answer_only_to_the_loose_reading() -> None:
    count = Example(id="q", question="How many?", answers=("7",))

    assert score(STRICT, '{"answer": 7}', count) == 0
    assert score(LOOSE, '{"answer": 7}', count) == 1


SHOWN = ("Owls\nThe keeper of the owls is Odo Merrun.", "Foxes\nThey bark.", "Newts\nTheir keeper is odo  merrun!")
USED = ScorerSettings(kind="context_used", json="answer")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ('{"answer": "Odo Merrun", "sources": [1]}', 2 / 3),  # the first is cited, and the third says it too
        ('{"answer": "Odo Merrun", "sources": []}', 2 / 3),
        ('{"answer": "unknown", "sources": [2]}', 1 / 3),
        ('{"answer": "unknown", "sources": []}', 0),
        ('{"answer": "Odo", "sources": [2, 9]}', 1),  # there is no ninth
        ("The Odo Merrun [S1] barks [S2].", 2 / 3),  # the whole reply stands nowhere; two are cited
        ("[S1]", 1 / 3),
        ("", 0),
    ],
)
def test_a_passage_is_used_when_it_is_cited_or_says_the_value(text: str, share: float) -> None:
    assert score(USED, text, shown=SHOWN) == pytest.approx(share)
    assert score(USED, text, shown=()) == 0


def test_the_whole_reply_is_the_value_where_no_field_is_named() -> None:
    assert score(ScorerSettings(kind="context_used"), "Odo Merrun. [S3]", shown=SHOWN) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "precision", "recall"),
    [
        ("Odo Merrun [S1].", 1, 1),
        ("Odo Merrun [S1][S3].", 1, 1),  # either would do
        ("Odo Merrun [S1][S2].", 0.5, 1),
        ("Odo Merrun [S1][S9].", 0.5, 1),  # there is no ninth
        ("They bark [S2].", 0, 0),
        ("Someone else [S3].", 1, 1),  # a wrong answer with a good source: citations are scored apart
        ('{"answer": "Odo Merrun", "sources": [1, 2, 3]}', 2 / 3, 1),
        ("Odo Merrun.", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_citation_is_good_when_the_gold_answer_stands_in_the_passage(
    text: str, precision: float, recall: float
) -> None:
    assert score(ScorerSettings(kind="cites_precision"), text, shown=SHOWN) == pytest.approx(precision)
    assert score(ScorerSettings(kind="cites_recall"), text, shown=SHOWN) == recall


def test_where_no_document_has_the_answer_nothing_should_be_cited() -> None:
    nowhere = Example(id="u", question="?", answers=("unknown",), meta={"unanswerable": True})

    for kind in ("cites_precision", "cites_recall"):
        settings = ScorerSettings(kind=kind)  # type: ignore[arg-type]
        assert score(settings, "unknown", nowhere, SHOWN) == 1
        assert score(settings, "Odo [S1]", nowhere, SHOWN) == 0


def test_an_abstention_is_what_would_be_right_where_there_is_no_answer() -> None:
    nowhere = replace(EXAMPLE, id="u", answers=("unknown", "not in the documents"), meta={"unanswerable": True})
    asked = {"right": STRICT, "abstains": ScorerSettings(kind="abstains")}
    decides = build(asked, "right", (EXAMPLE, nowhere))["abstains"]

    for said in (
        '{"answer": "unknown"}',
        '{"answer": "Not in the documents."}',
        'Well: {"answer": "unknown"}',
        "unknown",
    ):
        assert (decides(nowhere, said, ()), decides(EXAMPLE, said, ())) == (1, 0)
    for said in ('{"answer": "Odo"}', '{"answer": "the keeper is unknown"}', ""):
        assert (decides(nowhere, said, ()), decides(EXAMPLE, said, ())) == (0, 1)


def test_a_primary_without_gold_answers_leaves_abstention_to_words() -> None:
    nowhere = replace(EXAMPLE, answers=("unknown",), meta={"unanswerable": True})
    asked = {"right": ScorerSettings(kind="regex", pattern=".+"), "abstains": ScorerSettings(kind="abstains")}
    decides = build(asked, "right", (nowhere,))["abstains"]

    assert (decides(nowhere, "Unknown.", ()), decides(nowhere, "Odo", ())) == (1, 0)


texts = (
    st.text(alphabet="ab\n [S1]", min_size=1)
    .map(lambda text: text.strip() or "x")
    .filter(lambda text: "[S" not in text)
)


@given(st.lists(st.tuples(texts, texts), max_size=4), st.text(alphabet="ab ?"))
def test_what_a_prompt_shows_is_what_was_put_into_it(passages: list[tuple[str, str]], question: str) -> None:
    prompt = (Message("system", "Answer."), Message("user", user_turn(passages, question)))

    assert shown_in(prompt) == tuple(f"{title}\n{text}" for title, text in passages)


def every_kind(own: Path, **more: Any) -> dict[str, ScorerSettings]:
    """One scorer of each kind, with no more than it needs; `more` goes to those that use it."""
    own.write_text("def score(example, text, shown):\n    return len(text) % 2\n")
    needed: dict[str, dict[str, Any]] = {
        "json_format": {"keys": ("answer",)},
        "json_fields": {"fields": ("answer",)},
        "json_schema": {"schema": {"type": "object", "required": ["answer"]}},
        "python": {"path": Path(f"{own}:score")},
    } | {one: {"databases": own.parent} for one in get_args(Executing)}
    with closing(sqlite3.connect(own.with_name("own.db"))) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS a (a)")
    return {kind: ScorerSettings(kind=kind, **needed.get(kind, {}), **_used(kind, more)) for kind in USES}


def _used(kind: Kind, settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in USES[kind]}


EVERY_EXAMPLE = (
    Example(
        id="q",
        question="Who?",
        answers=('{"answer": 7}', "a 0", "7"),
        meta={
            "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
            "kwargs": [{}, {}],
            "db_id": "own",
        },
    ),
    Example(id="u", question="What?", answers=("0",), meta=NO_COMMA | {"unanswerable": True, "db_id": "own"}),
)


@pytest.mark.parametrize("more", [{}, {"json": "answer"}, {"json": "answer", "loose": True}])
def test_whatever_a_model_writes_gets_a_score_between_0_and_1(more: dict[str, Any], tmp_path: Path) -> None:
    judges = build(every_kind(tmp_path / "own.py", **more), "exact", EVERY_EXAMPLE)

    @given(st.text(alphabet='{}[]":,\\ a07S#*\n', max_size=40), st.sampled_from(EVERY_EXAMPLE))
    @at_most(max_examples=60)
    def every_scorer(text: str, example: Example) -> None:
        for judge in judges.values():
            assert 0 <= judge(example, text, ()) <= 1
            assert 0 <= judge(example, text, SHOWN) <= 1

    every_scorer()


@pytest.mark.parametrize("kind", [kind for kind in USES if "loose" in USES[kind]])
def test_the_loose_form_takes_whatever_the_strict_one_takes(kind: Kind, tmp_path: Path) -> None:
    named = {} if kind in LOOSE_ALONE else {"json": "answer"}
    strict = every_kind(tmp_path / "own.py", **named)[kind]
    judges = build({"strict": strict, "loose": replace(strict, loose=True)}, "strict", EVERY_EXAMPLE)
    parts = ['{"answer": "', '"}', "7", "a", "0", " ", "\n", ",", '"', "*", "#### "]

    @given(st.lists(st.sampled_from(parts), max_size=8).map("".join), st.sampled_from(EVERY_EXAMPLE))
    def both(text: str, example: Example) -> None:
        assert judges["strict"](example, text, ()) <= judges["loose"](example, text, ())

    both()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "exact", "loose": True}, "name the field with `json`"),
        ({"kind": "context_used", "json": "answer", "loose": True}, "context_used does not use `loose`; remove it"),
        ({"kind": "exact", "keys": ("a",)}, "exact does not use `keys`; remove it"),
        ({"kind": "json_format"}, "json_format needs `keys`"),
        ({"kind": "json_format", "keys": ("a",), "json": "a"}, "does not use `json`"),
        ({"kind": "valid_call", "json": "a"}, "does not use `json`"),
        ({"kind": "exact", "tolerance": 0.1}, "does not use `tolerance`"),
        ({"kind": "json_fields"}, "needs `fields`"),
        ({"kind": "json_schema"}, "needs `schema`"),
        ({"kind": "python"}, "needs `path`"),
        ({"kind": "python", "path": Path("mine.py")}, "FILE:NAME"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ScorerSettings(**settings)  # type: ignore[arg-type]


def test_only_what_judges_the_answer_can_find_it_loosely_right() -> None:
    kept = ScorerSettings(kind="instructions", loose=True)
    part = ScorerSettings(kind="contains", json="answer", loose=True)

    assert loosely({"it": STRICT, "kept": kept}, "it") == (STRICT, LOOSE)
    assert loosely({"it": STRICT, "part": part}, "it") == (STRICT, part)
    assert loosely({"it": ScorerSettings(kind="instructions"), "kept": kept}, "it")[1:] == (kept,)
    assert loosely({"it": ScorerSettings(kind="exact")}, "it") == (ScorerSettings(kind="exact"),)


def test_every_setting_is_used_by_some_kind() -> None:
    assert {one.name for one in fields(ScorerSettings)} - {"kind"} == set().union(*USES.values())
