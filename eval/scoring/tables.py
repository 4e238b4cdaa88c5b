"""When two results are the same: four published and stricter rules, of rows that are there already.

    same_rows       values as they stand, floats within a millionth; in their order where that is asked for
    same_bag        as the official Spider scorer compares: equal values, whatever the type of a number
    in_any_order    either, for some order of the columns
    same_set        as BIRD compares: duplicates and order do not count

Pure; knows nothing of SQL.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

Row = tuple[Any, ...]
Rows = Sequence[Row]
Same = Callable[[Rows, Rows, bool], bool]
"""(gold, said, whether their order counts) -> whether they are the same"""

TOLERANCE: Final = 1e-6
EFFORT: Final = 2_000_000
"""Rows that are compared in search of an order of the columns, before it is given up as not found."""


def same_rows(gold: Rows, said: Rows, ordered: bool) -> bool:
    """Row by row; without an order both are sorted, by their exact columns first, which no rounding can exchange.

    >>> same_rows([(1, 0.1 + 0.2), (2, None)], [(2, None), (1.0, 0.3)], False)
    True
    >>> same_rows([(1,), (2,)], [(2,), (1,)], True), same_rows([("1",)], [(1,)], False)
    (False, False)
    """
    if len(gold) != len(said) or (gold and len(gold[0]) != len(said[0])):
        return False
    if not ordered:
        width = range(len(gold[0])) if gold else ()
        inexact = [any(isinstance(row[column], float) for rows in (gold, said) for row in rows) for column in width]
        columns = sorted(width, key=inexact.__getitem__)
        gold, said = (sorted(rows, key=lambda row: [_rank(row[one]) for one in columns]) for rows in (gold, said))
    return all(all(map(_near, one, other)) for one, other in zip(gold, said, strict=True))


def same_bag(gold: Rows, said: Rows, ordered: bool) -> bool:
    """Equal rows, each as often.

    >>> same_bag([(1,), (1,)], [(1,)], False), same_bag([(1,), (2,)], [(2.0,), (1,)], False)
    (False, True)
    """
    return list(gold) == list(said) if ordered else Counter(gold) == Counter(said)


def same_set(gold: Rows, said: Rows, ordered: bool) -> bool:
    """Equal rows, however often and in whatever order.

    >>> same_set([(1,), (1,), (2,)], [(2,), (1,)], True)
    True
    """
    return set(gold) == set(said)


def in_any_order(same: Same) -> Same:
    """Whether some order of what was said's columns makes it the same; column by column, and back where it fails.

    >>> in_any_order(same_bag)([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], False)
    True
    >>> in_any_order(same_bag)([(1, 1), (2, 2)], [(1, 2), (2, 1)], False)
    False
    """

    def compare(gold: Rows, said: Rows, ordered: bool) -> bool:
        if len(gold) != len(said) or (gold and len(gold[0]) != len(said[0])):
            return False
        return not gold or _Columns(same, gold, said, ordered).fit()

    return compare


class _Columns:
    """A search for the order of the columns."""

    def __init__(self, same: Same, gold: Rows, said: Rows, ordered: bool) -> None:
        self._same, self._gold, self._said, self._ordered = same, gold, said, ordered
        width = range(len(gold[0]))
        self._left = max(EFFORT, 2 * len(gold) * len(width))
        columns = [[(row[one],) for row in said] for one in width]
        # A column twice is tried once: eight columns that are all alike are no 40,320 orders.
        self._twins = [next(one for one in width if columns[one] == columns[other]) for other in width]
        self._fits = [[one for one in width if self._alike([(row[at],) for row in gold], columns[one])] for at in width]

    def fit(self, chosen: tuple[int, ...] = ()) -> bool:
        """Whether these columns, which make what was said like gold's first ones, go on to all of them."""
        at = len(chosen)
        if at == len(self._fits):
            return True
        tried: set[int] = set()
        for column in self._fits[at]:
            if column in chosen or self._twins[column] in tried or self._left <= 0:
                continue
            tried.add(self._twins[column])
            longer = (*chosen, column)
            said = [tuple(row[one] for one in longer) for row in self._said]
            if self._alike([row[: at + 1] for row in self._gold], said) and self.fit(longer):
                return True
        return False

    def _alike(self, gold: Rows, said: Rows) -> bool:
        self._left -= len(gold)
        return self._same(gold, said, self._ordered)


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and (one == other or math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-12))
    return type(one) is type(other) and one == other


def _rank(value: Any) -> tuple[int, Any]:
    """An order of values of any type: NULL, numbers, texts, blobs, as in SQLite."""
    for rank, kinds in enumerate(((int, float), (str,), (bytes,)), start=1):
        if isinstance(value, kinds):
            return rank, value
    return 0, 0
