"""JSON replies: their form by a schema, and apart from it the share of fields that are right; and patterns."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.example import Example
from eval.scoring.kinds import ScorerSettings
from eval.scoring.objects import same
from eval.scoring.scorers import build, unfit

GOLD = '{"name": "Odo", "age": 41, "ships": ["Ada", "Bo"], "port": {"city": "Titmas", "open": true}, "rank": null}'
FIELDS = ("name", "age", "ships", "port.open", "rank", "ships.1")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/years"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"years": {"type": "integer", "minimum": 0}},
}


def score(text: str, *answers: str, **settings: Any) -> float:
    made = {"it": ScorerSettings(**settings)}
    return build(made, "it", ())["it"](Example(id="q", question="?", answers=answers), text, ())


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "Odo", "age": 41}', 1),
        ('\n{"name": "Odo"}\n', 1),
        ('{"name": "Odo", "age": 41.0}', 1),  # JSON knows one kind of number
        ('{"name": "Odo", "age": "41"}', 0),
        ('{"name": "Odo", "age": -1}', 0),
        ('{"name": "Odo", "crew": 3}', 0),
        ('{"age": 41}', 0),
        ('Sure: {"name": "Odo"}', 0),
        ('{"name": "Odo", "name": "Odo"}', 0),
        ('{"name": "Odo", "age": NaN}', 0),
        ("[]", 0),
        ("", 0),
        ("[" * 5000, 0),
    ],
)
def test_a_schema_judges_the_form_of_the_whole_reply(text: str, right: float) -> None:
    assert score(text, kind="json_schema", schema=SCHEMA) == right


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "objekt"}, "this is no JSON schema: 'objekt' is not"),
        ({"$ref": "#/$defs/years"}, "refers to '#/\\$defs/years', which is not in it"),
        ({"items": [{"$ref": "http://example.com/other.json"}]}, "no JSON schema|refers to 'http://example.com"),
        ({"properties": {"a": {"$ref": "other.json"}}}, "refers to 'other.json', which is not in it"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        score("{}", kind="json_schema", schema=schema)


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        (GOLD, 6, 6),
        (GOLD.replace("41", "41.0"), 6, 6),
        (GOLD.replace("41", '"41"'), 5, 5),
        (GOLD.replace("true", "1"), 5, 5),
        (GOLD.replace('["Ada", "Bo"]', '["Bo", "Ada"]'), 4, 4),  # a list has an order
        (GOLD.replace('"rank": null', '"rang": null'), 5, 5),  # null is a value, and absence is none
        (GOLD.replace("Titmas", "Elsewhere"), 6, 6),  # not asked for
        ('{"name": "Odo"}', 1, 1),
        (f"Sure!\n```json\n{GOLD}\n```", 0, 6),
        ("Odo, 41", 0, 0),
        ("", 0, 0),
    ],
)
def test_fields_are_right_one_by_one(text: str, strict: int, loose: int) -> None:
    assert score(text, GOLD, kind="json_fields", fields=FIELDS) == pytest.approx(strict / 6)
    assert score(text, GOLD, kind="json_fields", fields=FIELDS, loose=True) == pytest.approx(loose / 6)


def test_the_gold_object_that_fits_best_counts() -> None:
    assert score('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', '{"a": 1, "b": 2}', kind="json_fields", fields=("a", "b")) == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "1", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@given(values, values)
def test_equality_is_jsons(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, other) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@given(st.permutations(list(json.loads(GOLD).items())))
def test_the_order_of_an_objects_keys_does_not_count(pairs: list[tuple[str, Any]]) -> None:
    assert score(json.dumps(dict(pairs)), GOLD, kind="json_fields", fields=FIELDS) == 1


def test_a_gold_answer_that_has_not_the_fields_is_refused() -> None:
    settings = ScorerSettings(kind="json_fields", fields=("a.b",))
    examples = [Example(id="q", question="?", answers=(said,)) for said in ('{"a": {"b": 1}}', '{"a": 1}', "Odo")]

    found = [unfit(settings, one) for one in examples]

    assert found[0] is None
    assert found[1] == "the answer '{\"a\": 1}' has no field 'a.b'"
    assert found[2] == "the answer 'Odo' is not one JSON object, which json_fields compares"


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [("QN-1033", 1, 1), (" QN-1033\n", 1, 1), ("It is QN-1033.", 0, 1), ("QN-1033, I think", 0, 1), ("qn-1033", 0, 0)],
)
def test_a_pattern_matches_all_of_a_reply_or_some_of_it(text: str, strict: float, loose: float) -> None:
    for gold, pattern in (("QN-\\d{4}", None), ("anything", "QN-\\d{4}")):
        assert score(text, gold, kind="regex", pattern=pattern) == strict
        assert score(text, gold, kind="regex", pattern=pattern, loose=True) == loose


def test_a_field_that_is_missing_matches_no_pattern() -> None:
    assert score('{"answer": "7"}', kind="regex", json="answer", pattern=".*") == 1
    assert score('{"other": "7"}', kind="regex", json="answer", pattern=".*") == 0


def test_a_broken_pattern_is_refused_wherever_it_stands() -> None:
    with pytest.raises(ValueError, match="the pattern '\\(' is broken: missing \\)"):
        score("x", kind="regex", pattern="(")

    said = unfit(ScorerSettings(kind="regex"), Example(id="q", question="?", answers=("ok", "[")))

    assert said == "the pattern '[' is broken: unterminated character set at position 0"
