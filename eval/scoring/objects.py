"""Replies that should be a JSON object: whether they have the form, and apart from it whether the fields are right.

Knows nothing of where a schema or a gold object was read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from eval.example import Example
from eval.scoring.kinds import Scorer, ScorerSettings
from eval.scoring.reading import json_object, json_value
from serve.reading import first_object

ABSENT: Final = object()
"""What stands where an object has no such field; a field may hold null, which is something else."""


def json_format(settings: ScorerSettings) -> Scorer:
    """Nothing but one JSON object with exactly these keys, in any order, on one line; its values are not judged."""

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        found = json_object(text.strip())
        return float(found is not None and found.keys() == set(settings.keys) and "\n" not in text.strip())

    return score


def json_schema(settings: ScorerSettings) -> Scorer:
    """Nothing but one JSON value that the schema allows; `format` is a note in a schema, and not checked.

    ValueError when the schema is none, or points out of itself: nothing is ever fetched.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    schema = settings.schema
    if not isinstance(schema, dict):
        raise ValueError(f"{schema}: the schema was not read")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"this is no JSON schema: {error.message} (at {error.json_path})") from None
    for target in _references(schema):
        if at(schema, target.removeprefix("#").strip("/").replace("/", ".")) is ABSENT or not target.startswith("#"):
            raise ValueError(f"the schema refers to {target!r}, which is not in it; write the definition into it")
    validator = kind(schema, registry=Registry())

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        try:
            return float(validator.is_valid(json_value(text.strip())))
        except (ValueError, RecursionError):
            return 0.0

    return score


def _references(schema: Any) -> Iterator[str]:
    """The targets of every `$ref`, however deep."""
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for one in inner:
        yield from _references(one)


def json_fields(settings: ScorerSettings) -> Scorer:
    """The share of the named fields that are as in the gold answer, a JSON object; the best gold answer counts.

    Strict: the reply is that object and nothing else. Loose: the first object anywhere in it. Types count (`"1"` is not
    `1`, `true` is not `1`), and so does the order of a list; a field that is missing is wrong.
    """
    find = first_object if settings.loose else lambda text: json_object(text.strip())

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        said = find(text)
        golds = [json_object(gold) for gold in example.answers] if said is not None else []
        return max((_share(said, gold, settings.fields) for gold in golds), default=0.0)

    return score


def holds_fields(settings: ScorerSettings, example: Example) -> None:
    """ValueError when a gold answer is not an object with all the fields that are compared."""
    for gold in example.answers:
        found = json_object(gold)
        if found is None:
            raise ValueError(f"the answer {gold!r} is not one JSON object, which json_fields compares")
        for field in settings.fields:
            if at(found, field) is ABSENT:
                raise ValueError(f"the answer {gold!r} has no field {field!r}")


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path; a number is a place in a list. ABSENT where there is nothing.

    >>> at({"items": [{"name": "owl"}]}, "items.0.name")
    'owl'
    """
    for part in path.split(".") if path else ():
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: as in JSON, 1 is 1.0; as not in Python, 1 is not true.

    >>> same({"a": [1, None]}, {"a": [1.0, None]}), same([1], [True]), same([1, 2], [2, 1])
    (True, False, False)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _share(said: Any, gold: Any, paths: Sequence[str]) -> float:
    return sum(same(at(said, path), at(gold, path)) for path in paths) / len(paths)
