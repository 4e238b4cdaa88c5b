"""Filters over what documents say of themselves: `where: {domain: $domain, year: {min: 2003}}` as one yes or no.

Pure. Knows nothing of indexes and hits: it sees one document's metadata at a time, and what the caller sent.
"""

import datetime
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from retrieval.passage import RetrievalError

Where: TypeAlias = Mapping[str, Any]
"""Field -> a value, a list of values (any of them) or `{min: x, max: y}`; `$name`: what the caller sends as `name`."""

Keeps: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""Metadata of a document -> does it stay?"""

Point: TypeAlias = float | str
"""A number; or a date, as its text in ISO 8601."""

NAME: Final = re.compile(r"\$[A-Za-z_]\w*")
DATE: Final = re.compile(r"\d{4}-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?")
"""A month, a day or a moment. Moments compare as they are written: time zones are not converted."""


def keeps(where: Where, asked: Mapping[str, Any]) -> Keeps:
    """Whether a document's metadata meets every condition; `asked` is the caller's `query.meta`.

    A field that is missing or null meets none; of a field that is a list, one entry is enough. A number, a truth and
    their text are the same value (`2003` and `"2003"`, `true` and `"true"`), since CSV files and many HTTP callers have
    only text; capitals count. In a range numbers compare with numbers, dates with dates, and a year is both; whatever
    else a document has there does not pass. RetrievalError when `where` is nonsense or names what was not sent.

    >>> stays = keeps({"domain": "$domain", "year": {"min": 2003, "max": "2004-03"}}, {"domain": "harbour"})
    >>> stays({"domain": ["harbour", "clinic"], "year": "2004-03-31"}), stays({"domain": "harbour", "year": 2002})
    (True, False)
    """
    tests = {name: _test(name, condition, asked) for name, condition in where.items()}
    return lambda meta: all(any(map(test, _entries(meta.get(name)))) for name, test in tests.items())


def check(where: Where) -> None:
    """Refuse a filter that nobody could mean, before anybody asks; what a caller then sends is checked by `keeps`."""
    # A text, a number and a year: what may stand wherever a name does.
    keeps(where, dict.fromkeys(names(where), "2000"))


def names(where: Where) -> Iterator[str]:
    """What a caller has to send for this filter.

    >>> list(names({"domain": "$domain", "year": {"min": "$since"}}))
    ['domain', 'since']
    """
    for condition in where.values():
        values = condition.values() if isinstance(condition, Mapping) else _entries(condition)
        yield from (value[1:] for value in values if _is_name(value))


def moment(value: Any) -> float | None:
    """Where a value lies on the line of numbers, dates counted in years; None for what is neither, and for no such day.

    >>> moment(2004), moment("2004-07-02"), moment("2004-02-31"), moment("soon")
    (2004.0, 2004.5, None, None)
    """
    point = _point(value)
    if not isinstance(point, str):
        return point
    try:
        day = datetime.datetime.fromisoformat(f"{point}-01" if len(point) == len("2004-07") else point)
    except ValueError:
        return None
    return day.year + (day - day.replace(month=1, day=1, hour=0, minute=0)) / datetime.timedelta(days=366)


def _test(name: str, condition: Any, asked: Mapping[str, Any]) -> Callable[[Any], bool]:
    """The condition on one field, as a test of one value."""
    if isinstance(condition, Mapping):
        return _range(name, condition, asked)
    written = _entries(condition)
    wanted = [value for one in written for value in (_entries(_sent(name, one, asked)) if _is_name(one) else [one])]
    if not wanted or any(isinstance(value, list | tuple | Mapping) for value in wanted):
        raise RetrievalError(
            f"where.{name}: cannot compare with {wanted or condition!r}; write a value, a list of values of which one "
            "must hold, or {min: x, max: y}; a caller sends a value or a list"
        )
    texts = {_text(value) for value in wanted}
    return lambda value: _text(value) in texts


def _range(name: str, bounds: Mapping[str, Any], asked: Mapping[str, Any]) -> Callable[[Any], bool]:
    """From min to max, both included."""
    unknown = sorted(map(str, bounds.keys() - SIDES.keys()))
    if unknown or not bounds:
        raise RetrievalError(f"where.{name}: a range has min, max or both; here is {', '.join(unknown) or 'neither'}")
    points: dict[str, Point] = {}
    for side, written in bounds.items():
        bound = _sent(name, written, asked)
        point = _point(bound)
        if point is None or moment(bound) is None:
            raise RetrievalError(
                f"where.{name}.{side} is {bound!r}: neither a number nor a date (2004, 2004-03, 2004-03-31)"
            )
        points[side] = point
    # What a caller sends may well leave nothing; a file in which it is so was written in error.
    is_written = len(points) == len(SIDES) and not any(map(_is_name, bounds.values()))
    if is_written and not _until(points["min"], points["max"]):
        raise RetrievalError(
            f"where.{name}: nothing lies between {bounds['min']} and {bounds['max']}; exchange the two"
        )
    return lambda value: all(SIDES[side](_point(value), point) for side, point in points.items())


def _from(point: Point | None, bound: Point) -> bool:
    """At least the bound: of the date 2004-03, from its first day on."""
    if isinstance(point, float) and isinstance(bound, float):
        return point >= bound
    ours, first = _date(point), _date(bound)
    return ours is not None and first is not None and ours >= first


def _until(point: Point | None, bound: Point) -> bool:
    """At most the bound: of the date 2004-03, until its last day."""
    if isinstance(point, float) and isinstance(bound, float):
        return point <= bound
    ours, last = _date(point), _date(bound)
    return ours is not None and last is not None and ours[: len(last)] <= last


SIDES: Final[Mapping[str, Callable[[Point | None, Point], bool]]] = {"min": _from, "max": _until}


def _date(point: Point | None) -> str | None:
    """A date, or a year as one; None for another number."""
    if isinstance(point, float):
        return str(int(point)) if 1000 <= point <= 9999 and point.is_integer() else None
    return point


def _point(value: Any) -> Point | None:
    """A number or a date; None for what is neither."""
    if isinstance(value, bool):
        return None
    text = _text(value)
    date = text.replace(" ", "T")
    if DATE.fullmatch(date):
        return date
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    """One way of writing for every kind of value: 2003.0 is 2003, but the text "007" stays what it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, datetime.date) else str(value).strip()


def _entries(value: Any) -> Sequence[Any]:
    """The values of a field: several, one, or none."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if one is not None]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _sent(name: str, value: Any, asked: Mapping[str, Any]) -> Any:
    """The value, or what the caller sent where it is a `$name`."""
    if not _is_name(value):
        return value
    sent = asked.get(value[1:])
    if not _entries(sent):
        raise RetrievalError(
            f"this retriever filters by where.{name}: {value}, and the question came without it; send "
            f'"metadata": {{"{value[1:]}": ...}} beside the messages (with the OpenAI client: in extra_body)'
        )
    return sent
