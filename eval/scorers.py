"""What an answer is worth: functions from (example, text, passages shown) to 0..1, found by name in SCORERS.

A scorer reads the text, the example's gold answers and what stood above the question; it knows nothing of who wrote
the text, or how. Correctness
and format are scored apart, and a correct answer can be looked for strictly or loosely, so that each error shows once.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from eval.calls import calls_of, names_of, once, refuse, same_arguments, same_calls
from eval.task import Example, ScorerSettings
from serve.strategies import MARKER

Scorer = Callable[[Example, str, Sequence[str]], float]
"""(example, what was said, the passages in the prompt, `[S1]` first) -> 0..1"""
Comparison = Callable[[str, str], float]
"""(said, gold) -> 0..1"""

NORMALISATION: Final = "squad-1.1+1"
"""Version of `normalise`, kept with every run. `+1`: a text of articles only, such as the option "A", keeps them."""


def normalise(text: str) -> str:
    """SQuAD 1.1: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016, evaluate-v1.1.py).

    >>> normalise("The  Red-Fox!"), normalise("A")
    ('redfox', 'a')
    """
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    words = [word for word in bare.split() if word not in ("a", "an", "the")]
    return " ".join(words or bare.split())


def exact(said: str, gold: str) -> float:
    """Exact match after SQuAD's normalisation."""
    return float(normalise(said) == normalise(gold))


def choice(said: str, gold: str) -> float:
    """The label itself, spaces around it aside. Case counts: a label is an identifier, and `Card_Lost` is not one.

    >>> choice(" card_lost\\n", "card_lost"), choice("Card_lost", "card_lost")
    (1.0, 0.0)
    """
    return float(said.strip() == gold.strip())


def contains(said: str, gold: str) -> float:
    """The gold answer stands in the text as whole words, both normalised.

    >>> contains("It was the red fox.", "Red Fox"), contains("foxes", "fox")
    (1.0, 0.0)
    """
    return float(f" {normalise(gold)} " in f" {normalise(said)} ")


def f1(said: str, gold: str) -> float:
    """Overlap of the normalised words, whatever their order (SQuAD's token F1).

    >>> f1("red fox jumps", "the red fox")
    0.8
    """
    ours, theirs = Counter(normalise(said).split()), Counter(normalise(gold).split())
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else float(ours == theirs)


def strict_field(text: str, field: str) -> str | None:
    """The field's text when the whole reply is one JSON object that has it as text.

    >>> strict_field('{"answer": "Oslo"}', "answer"), strict_field('Sure! {"answer": "Oslo"}', "answer")
    ('Oslo', None)
    """
    value = (_object(text.strip()) or {}).get(field)
    return value if isinstance(value, str) else None


def loose_field(text: str, field: str) -> str | None:
    """The field of the first JSON object anywhere in the reply; the whole reply when there is none.

    Forgives, in this order: code fences, prose around the object, a number or truth value where text was asked for, and
    no JSON at all. An object without the field is still no answer.

    >>> loose_field('Sure!\\n```json\\n{"answer": 7}\\n```', "answer"), loose_field("Oslo", "answer")
    ('7', 'Oslo')
    """
    found = _first_object(text)
    if found is None:
        return re.sub(r"```\w*", "", text).strip()
    value = found.get(field)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value if isinstance(value, str) else None


def best_of(compare: Comparison) -> Callable[[ScorerSettings], Scorer]:
    """A scorer kind: the best comparison with any gold answer, of the whole reply or of the field that is named."""

    def build(settings: ScorerSettings) -> Scorer:
        field, find = settings.json, loose_field if settings.loose else strict_field

        def score(example: Example, text: str, _: Sequence[str]) -> float:
            said = text if field is None else find(text, field)
            return 0.0 if said is None else max(compare(said, gold) for gold in example.answers)

        return score

    return build


def json_format(settings: ScorerSettings) -> Scorer:
    """Nothing but one JSON object with exactly these keys, in any order, on one line; its values are not judged."""

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        found = _object(text.strip())
        return float(found is not None and found.keys() == set(settings.keys) and "\n" not in text.strip())

    return score


def valid_call(_: ScorerSettings) -> Scorer:
    """Nothing but calls of functions that were on offer (`meta.tools`; any, where it is missing); values not judged."""

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        offered, made = names_of(example.meta.get("tools")), calls_of(text)
        return float(made is not None and (not offered or all(call["name"] in offered for call in made)))

    return score


def context_used(settings: ScorerSettings) -> Scorer:
    """The share of the passages in the prompt that the answer draws on; 0 when none was shown.

    It draws on a passage that it cites (`[S2]` in the text, or 2 among `sources` in its JSON) and on one in which its
    value stands: the field that is named, or the whole reply, as whole words, normalised. Both are signs of use, not
    proof of it: a model can cite what it did not read, and a value as short as "no" stands in many passages.
    """

    def score(_: Example, text: str, shown: Sequence[str]) -> float:
        cited, marks = cited_in(text), r"\[S\d+\]"
        said = normalise((loose_field(text, settings.json) if settings.json else re.sub(marks, "", text)) or "")
        used = [n in cited or bool(said and contains(passage, said)) for n, passage in enumerate(shown, start=1)]
        return sum(used) / len(used) if used else 0.0

    return score


def cited_in(text: str) -> set[int]:
    """The numbers of the passages that a reply cites: `[S2]` anywhere, or in the list `sources` of its JSON object.

    >>> cited_in('{"answer": "Oslo", "sources": [1, 3]}'), cited_in("Oslo [S2].")
    ({1, 3}, {2})
    """
    listed = (_first_object(text) or {}).get("sources")
    numbers = [n for n in listed if isinstance(n, int)] if isinstance(listed, list) else []
    return {*numbers, *map(int, MARKER.findall(text))}


SCORERS: Final[Mapping[str, Callable[[ScorerSettings], Scorer]]] = {
    "exact": best_of(exact),
    "choice": best_of(choice),
    "contains": best_of(contains),
    "f1": best_of(f1),
    "json_format": json_format,
    "tool_call": best_of(same_calls),
    "arguments": best_of(same_arguments),
    "valid_call": valid_call,
    "context_used": context_used,
}


def build(settings: Mapping[str, ScorerSettings]) -> dict[str, Scorer]:
    """The scorers of a task, by the names it gives them."""
    return {name: SCORERS[one.kind](one) for name, one in settings.items()}


def _object(text: str) -> dict[str, Any] | None:
    """The text as one JSON object; None when it is anything else, or says a key twice."""
    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object anywhere in the text."""
    return next(filter(None, (_object_at(text, brace.start()) for brace in re.finditer("{", text))), None)


def _object_at(text: str, start: int) -> dict[str, Any] | None:
    """The JSON object that begins at this brace, if one does."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
