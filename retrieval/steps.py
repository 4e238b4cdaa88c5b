"""What happens to hits between a search and a prompt: preferred by rule, freed of near-duplicates, cut to a budget of
tokens, put in order.

Pure functions over a sequence of hits, the best first. Knows nothing of indexes, models or prompts.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field

from retrieval.files import STRICT
from retrieval.filters import Where, check, keeps, moment
from retrieval.passage import Hit, RetrievalError
from retrieval.worked import shown

Order = Literal["best_first", "best_last", "edges"] | Annotated[float, Field(ge=0, le=1)]
"""Where the best stands; a number says how deep, from 0 (first) to 1 (last)."""

SHINGLE: Final = 3
"""Words in a shingle."""

SIMILAR: Final = 0.8
"""The similarity from which a hit is a near-duplicate: another word in the middle of 29 words or more.

The demo's registers hold nothing like that: the two versions of a record share at most 0.46 (three seeds)."""

Shingles: TypeAlias = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is preferred, and how much: `{newest: year, weight: 0.3}` or `{where: {kind: manual}, weight: 0.2}`."""

    weight: float
    """In units of the distance between the best hit's score and the worst's; below 0, a rule puts back instead.

    On the demo's world, words alone, three seeds: with `newest: year` at 0.1 the latest of two versions is first for 87
    of 90 questions that ask for it (without: 43), and facts, codes, clashes and two-part questions lose nothing; at 0.3
    it is first for all 90, and the right one of two records of one name for 77 instead of 90.
    """
    newest: str = ""
    """The field with a number, a year or an ISO date."""
    where: Where = field(default_factory=dict)

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if bool(self.newest) == bool(self.where):
            raise RetrievalError("a rule prefers by `newest: FIELD` or by `where: {...}`: write one of the two")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise RetrievalError(
                f"weight is {self.weight}, and such a rule means nothing: 0.1 decides between equals, 1 is as strong "
                "as the search itself"
            )
        check(self.where)


def prefer(hits: Sequence[Hit], rules: Sequence[Rule], asked: Mapping[str, Any] | None = None) -> tuple[Hit, ...]:
    """The hits by score plus what the rules give, renumbered; ties keep their order.

    Scores are first spread over 0..1 (min-max over these hits), so that a weight means the same for every kind of
    search; it also means that the worst hit found has 0, and that how many are found matters. A `newest` rule gives
    weight x 0..1, from the oldest of these hits to the newest, and nothing to a hit without the field; a `where` rule
    gives its weight to the hits for which it holds. Rules that tell no hit from another leave everything as it was.

    >>> from retrieval.passage import Document
    >>> old, new = (Document(id=str(y), title="", text="...", meta={"year": y}).cut(0, 3) for y in (1999, 2020))
    >>> hits = [Hit(old, 0.52, 1), Hit(new, 0.50, 2)]
    >>> [(hit.passage.document, hit.score, hit.rank) for hit in prefer(hits, [Rule(newest="year", weight=1.5)])]
    [('2020', 1.5, 1), ('1999', 1.0, 2)]
    """
    metas = [hit.passage.meta for hit in hits]
    values = [_values(rule, metas, asked or {}) for rule in rules]
    if all(len(set(given)) < 2 for given in values):
        return tuple(hits)
    given = [
        sum(rule.weight * value for rule, value in zip(rules, row, strict=True)) for row in zip(*values, strict=True)
    ]
    scores = [near + extra for near, extra in zip(_spread([hit.score for hit in hits]), given, strict=True)]
    order = sorted(range(len(hits)), key=lambda n: -scores[n])
    return tuple(Hit(hits[n].passage, scores[n], rank) for rank, n in enumerate(order, start=1))


def distinct(hits: Sequence[Hit], similarity: float = SIMILAR) -> tuple[Hit, ...]:
    """The hits without those whose text is nearly that of a better one that stays; the ranks close up.

    Similarity is the Jaccard index of the sets of three-word shingles (Broder 1997), capitals and punctuation apart; a
    text of fewer words is one shingle. Two texts whose numbers differ are never near-duplicates, however long: what
    changed between two versions of a record is often one number, and that is what is asked for. A text without
    spaces, as in Chinese, has few shingles, so that little but the same text is dropped.

    >>> from retrieval.passage import Document
    >>> said = ["The Orla carries coal to Brest in 2003.", "the Orla carries coal to Brest, in 2003",
    ...     "The Orla carries coal to Brest in 2004."]
    >>> hits = [Hit(Document(id="", title="", text=text).cut(0, 99), 1.0, n) for n, text in enumerate(said, start=1)]
    >>> [(hit.rank, hit.passage.text[-5:]) for hit in distinct(hits)]
    [(1, '2003.'), (2, '2004.')]
    """
    kept: list[tuple[Hit, Shingles, frozenset[str]]] = []
    for hit in hits:
        pieces, numbers = shingles(hit.passage.text), frozenset(re.findall(r"\d+", hit.passage.text))
        if all(numbers != theirs or jaccard(pieces, those) < similarity for _, those, theirs in kept):
            kept.append((hit, pieces, numbers))
    return ranked([hit for hit, _, _ in kept])


def within(hits: Sequence[Hit], tokens: int, count: Callable[[str], int]) -> tuple[Hit, ...]:
    """The longest beginning of which titles and texts, and the answers of worked examples, have at most so many tokens.

    What follows the first hit that does not fit is left out too: a shorter, worse one in its place would make the
    prompt depend on lengths instead of ranks. When even the first does not fit, there is none: a budget is kept, and a
    passage is never cut, for it is cited by its characters. The prompt's own words around passages are not counted.

    >>> from retrieval.passage import Document
    >>> hits = [Hit(Document(id="", title="", text="a " * n).cut(0, 99), 1.0, n) for n in (3, 5, 1)]
    >>> [hit.rank for hit in within(hits, 7, lambda text: len(text.split()))]
    [3]
    """
    used = 0
    for place, hit in enumerate(hits):
        used += count(shown(hit.passage))
        if used > tokens:
            return tuple(hits[:place])
    return tuple(hits)


def arrange(hits: Sequence[Hit], order: Order) -> tuple[Hit, ...]:
    """The hits in the order in which a prompt shows them; their ranks stay.

    Models use best what stands at the beginning or the end of a long prompt (Liu et al., "Lost in the middle",
    2307.03172): `best_last` puts the best next to the question, `edges` puts the best first, the second best last,
    and so on inwards. A depth puts the best there and the next best around it, for finding out where it is best.

    >>> from retrieval.passage import Document
    >>> hits = [Hit(Document(id="", title="", text="").cut(0, 0), 0.0, rank) for rank in range(1, 6)]
    >>> [[hit.rank for hit in arrange(hits, order)] for order in ("edges", 0.5, 0.75)]
    [[1, 3, 5, 4, 2], [4, 2, 1, 3, 5], [5, 4, 2, 1, 3]]
    """
    return ORDERS[order](tuple(hits)) if isinstance(order, str) else _around(hits, order)


def _around(hits: Sequence[Hit], depth: float) -> tuple[Hit, ...]:
    """The best at this share of the way down, each further one at the nearest place that is free."""
    middle = depth * (len(hits) - 1)
    places = sorted(range(len(hits)), key=lambda place: abs(place - middle))
    laid = dict(zip(places, hits, strict=True))
    return tuple(laid[place] for place in range(len(hits)))


ORDERS: Final[Mapping[str, Callable[[tuple[Hit, ...]], tuple[Hit, ...]]]] = {
    "best_first": lambda hits: hits,
    "best_last": lambda hits: hits[::-1],
    "edges": lambda hits: hits[::2] + hits[1::2][::-1],
}


def shingles(text: str) -> Shingles:
    """Every three words in a row; of a shorter text all it has.

    >>> sorted(shingles("To be, or not"))
    [('be', 'or', 'not'), ('to', 'be', 'or')]
    """
    words = re.findall(r"\w+", text.casefold()) or [text]
    return frozenset(tuple(words[n : n + SHINGLE]) for n in range(max(1, len(words) - SHINGLE + 1)))


def jaccard(one: Shingles, other: Shingles) -> float:
    """What two sets share, of all they have; neither is empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _values(rule: Rule, metas: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]) -> list[float]:
    """The rule's value for each hit, in 0..1."""
    if rule.where:
        holds = keeps(rule.where, asked)
        return [float(holds(meta)) for meta in metas]
    moments = [_newest(meta.get(rule.newest)) for meta in metas]
    spread = iter(_spread([one for one in moments if one is not None]))
    return [0.0 if one is None else next(spread) for one in moments]


def _newest(value: Any) -> float | None:
    """The moment of a field; the last of several."""
    values = value if isinstance(value, list | tuple) else [value]
    return max((one for one in map(moment, values) if one is not None), default=None)


def _spread(numbers: Sequence[float]) -> list[float]:
    """The numbers over 0..1; all 0 when they are equal."""
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    return [(number - low) / (high - low) if high > low else 0.0 for number in numbers]


def ranked(hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """The hits, ranked in this order."""
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1))
