"""Answers to the parts of a question, put together by a rule: their texts in a row, their sources as one list.

Knows nothing of models, or of how a question is split.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.passage import Hit
from retrieval.steps import ranked
from serve.chat import Answer
from serve.layout import MARKER, shown
from serve.reading import numbers_in


def union(answers: Sequence[Answer]) -> tuple[Hit, ...]:
    """What any of them rests on, none twice, ranked in this order."""
    found: dict[tuple[str, str], Hit] = {}
    for answer in answers:
        for hit in answer.sources:
            found.setdefault(_key(hit), hit)
    return ranked(shown(tuple(found.values())))


def renumbered(answer: Answer, hits: Sequence[Hit]) -> tuple[str, Mapping[int, int]]:
    """Its text with the numbers that its passages have among `hits`, and which number became which.

    A passage that it was not shown gets 0, so that it cannot pass for one of another part.
    """
    places = {_key(hit): place for place, hit in enumerate(hits, start=1)}
    numbers = {number: places[_key(hit)] for number, hit in enumerate(answer.sources, start=1)}
    return MARKER.sub(lambda mark: f"[S{numbers.get(int(mark[1]), 0)}]", answer.text.strip()), numbers


def in_a_row(answers: Sequence[Answer], hits: Sequence[Hit], between: str) -> str:
    """Their texts with `between` between them, citing `hits`."""
    return between.join(renumbered(one, hits)[0] for one in answers)


def as_json(answers: Sequence[Answer], hits: Sequence[Hit], between: str, field: str, cited: str | None) -> str | None:
    """One JSON object: `field` of all in a row, the passage numbers in `cited` as one list, all else as the first says.

    None when one of the answers is no object with that field.
    """
    objects = [_object(one.text) for one in answers]
    if not all(isinstance(one.get(field), str | int | float) for one in objects):
        return None
    whole = {**objects[0], field: between.join(str(one[field]) for one in objects)}
    if cited:
        told = [renumbered(one, hits)[1] for one in answers]
        pairs = [(n, numbers) for one, numbers in zip(objects, told, strict=True) for n in numbers_in(one.get(cited))]
        whole[cited] = sorted({numbers.get(n, 0) for n, numbers in pairs})
    return json.dumps(whole, ensure_ascii=False)


def _object(text: str) -> dict[str, Any]:
    """The object that the text is; an empty one when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(hit: Hit) -> tuple[str, str]:
    """A passage and its words: two summaries of one passage, each for its own part, are two."""
    return hit.passage.id, hit.passage.text
