"""What a reply says, as far as strings tell: the field of its JSON, the passages that it cites, its claims, its quotes.

Pure; knows nothing of what is right, of who asks, or of any strategy.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from serve.layout import MARKER

FEW_WORDS: Final = 5
"""A reply with fewer is no sentence: `58 drops.` is true or false only after its question."""


def loose_field(text: str, field: str) -> str | None:
    """The field of the first JSON object anywhere in the reply; the whole reply when there is none.

    Forgives, in this order: code fences, prose around the object, a number or truth value where text was asked for, and
    no JSON at all. An object without the field is still no answer.

    >>> loose_field('Sure!\\n```json\\n{"answer": 7}\\n```', "answer"), loose_field("Oslo", "answer")
    ('7', 'Oslo')
    """
    found = first_object(text)
    if found is None:
        return re.sub(r"```\w*", "", text).strip()
    value = found.get(field)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value if isinstance(value, str) else None


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object anywhere in the text."""
    return next(filter(None, (_at(text, brace.start()) for brace in re.finditer("{", text))), None)


def _at(text: str, start: int) -> dict[str, Any] | None:
    """The JSON object that begins at this brace, if one does."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def cited_in(text: str) -> set[int]:
    """The numbers of the passages that a reply cites: `[S2]` anywhere, or in the list `sources` of its JSON object.

    >>> cited_in('{"answer": "Oslo", "sources": [1, 3]}'), cited_in("Oslo [S2].")
    ({1, 3}, {2})
    """
    return {*numbers_in((first_object(text) or {}).get("sources")), *map(int, MARKER.findall(text))}


def numbers_in(value: Any) -> list[int]:
    """The whole numbers of a list; none of what is no list."""
    return [one for one in value if isinstance(one, int)] if isinstance(value, list) else []


def sentences(question: str, text: str) -> list[str]:
    """The sentences of a text; a few words alone say nothing without the question.

    >>> sentences("Who barks?", "Foxes bark in the night. Owls do not bark at all."), sentences("Who barks?", "Foxes.")
    (['Foxes bark in the night.', 'Owls do not bark at all.'], ['Who barks? Foxes.'])
    """
    found = [one.strip() for one in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'])|\n+", text) if one.strip()]
    return found if len(text.split()) >= FEW_WORDS or not found else [f"{question} {' '.join(found)}"]


@dataclass(frozen=True, slots=True)
class Quote:
    """Words that a reply gives as those of a passage, and the number of the passage, where it stands behind them."""

    words: str
    of: int | None
    written: str
    """As it stands in the reply, marks included."""


def quotes(text: str) -> list[Quote]:
    """What stands in quotation marks, straight, curly or angular, each with a citation right behind it.

    >>> [(one.words, one.of) for one in quotes('It is "dark red" [S2], not “green”.')]
    [('dark red', 2), ('green', None)]
    """
    return [
        Quote(next(filter(None, found.groups()[:3])), int(found[4]) if found[4] else None, found[0])
        for found in _QUOTE.finditer(text)
    ]


_QUOTE: Final = re.compile(rf'(?:"([^"]+)"|“([^”]+)”|«([^»]+)»)(?:\s*{MARKER.pattern})?')


def stands_in(words: str, passages: Iterable[str]) -> bool:
    """Whether these words stand in one of the passages, in this order; case, spaces and a last stop say nothing.

    >>> stands_in("Dark  red.", ["It is dark red, mostly."]), stands_in("red", ["It is dark, reddish."])
    (True, False)
    """
    wanted = _plain(words).strip(" .,;:!?")
    return bool(wanted) and any(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _plain(one)) for one in passages)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
