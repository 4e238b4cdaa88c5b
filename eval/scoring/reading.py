"""What a reply says: the whole of it, or a field of the JSON object that it is, looked for strictly or loosely.

Pure; knows nothing of what is right.
"""

import json
from collections.abc import Callable
from typing import Any

from eval.scoring.calls import once, refuse
from eval.scoring.kinds import ScorerSettings
from serve.reading import loose_field


def reading(settings: ScorerSettings) -> Callable[[str], str | None]:
    """How a scorer finds what a reply says: the whole reply, or its field; None where there is no such field."""
    field = settings.json
    if field is None:
        return lambda text: text
    find = loose_field if settings.loose else strict_number if settings.kind == "numeric" else strict_field
    return lambda text: find(text, field)


def strict_field(text: str, field: str) -> str | None:
    """The field's text when the whole reply is one JSON object that has it as text.

    >>> strict_field('{"answer": "Oslo"}', "answer"), strict_field('Sure! {"answer": "Oslo"}', "answer")
    ('Oslo', None)
    """
    value = (json_object(text.strip()) or {}).get(field)
    return value if isinstance(value, str) else None


def strict_number(text: str, field: str) -> str | None:
    """As `strict_field`, and a number may stand there as one: for a scorer of numbers that is the strictest form.

    >>> strict_number('{"answer": 42}', "answer"), strict_number('{"answer": true}', "answer")
    ('42', None)
    """
    value = (json_object(text.strip()) or {}).get(field)
    return (
        json.dumps(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else strict_field(text, field)
    )


def json_object(text: str) -> dict[str, Any] | None:
    """The text as one JSON object; None when it is anything else, or says a key twice."""
    try:
        found = json_value(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def json_value(text: str) -> Any:
    """The text as JSON and nothing else; ValueError when it is none, says a key twice, or NaN."""
    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
