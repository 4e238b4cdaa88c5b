"""Filters: what a document says of itself, against what is wanted."""

import datetime
import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import filters
from retrieval.filters import check, keeps
from retrieval.passage import RetrievalError

VALUES = st.one_of(st.integers(1990, 2010), st.sampled_from(["harbour", "clinic", "2003", "007"]), st.booleans())
METAS = st.dictionaries(st.sampled_from("abc"), st.one_of(VALUES, st.none(), st.lists(VALUES, max_size=3)))
DAYS = st.dates(datetime.date(1, 1, 1), datetime.date(9999, 12, 31))


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(filters).failed == 0


@given(METAS, st.dictionaries(st.sampled_from("abc"), st.one_of(VALUES, st.lists(VALUES, min_size=1, max_size=3))))
def test_a_filter_is_its_definition(meta: dict[str, Any], where: dict[str, Any]) -> None:
    def said(value: Any) -> set[str]:
        values = value if isinstance(value, list) else [] if value is None else [value]
        return {str(one).lower() for one in values}

    stays = keeps(where, {})(meta)

    assert stays == all(said(meta.get(field)) & said(wanted) for field, wanted in where.items())


@given(st.integers(-50, 50), st.integers(-50, 50), st.floats(-60, 60))
def test_a_range_of_numbers_includes_its_ends(low: int, width: int, value: float) -> None:
    stays = keeps({"n": {"min": low, "max": low + abs(width)}}, {})

    assert stays({"n": value}) == (low <= value <= low + abs(width)) == stays({"n": repr(value)})


@given(DAYS, DAYS, DAYS)
def test_a_range_of_days_is_that_of_the_calendar(one: datetime.date, other: datetime.date, day: datetime.date) -> None:
    low, high = sorted((one, other))

    stays = keeps({"day": {"min": low.isoformat(), "max": high}}, {})({"day": day.isoformat()})

    assert stays == (low <= day <= high)


@pytest.mark.parametrize(
    ("where", "value", "stays"),
    [
        ({"max": "2004-03"}, "2004-03-31", True),
        ({"max": "2004-03"}, "2004-04-01", False),
        ({"max": 2004}, "2004-12-31T23:59", True),
        ({"min": 2004}, "2003-12-31", False),
        ({"min": "2004-03-01"}, 2005, True),
        ({"min": "2004-03-01"}, 2004, False),
        ({"min": 5}, "2004-03-01", False),
        ({"min": 5}, "soon", False),
        ({"min": 0}, True, False),
        ({"min": 2003}, [1999, 2004], True),
        (2003, "2003", True),
        ("2003", 2003.0, True),
        ("7", "007", False),
        ("Harbour", "harbour", False),
        (True, "true", True),
        ("$5 a day", "$5 a day", True),
    ],
)
def test_like_is_compared_with_like(where: Any, value: object, stays: bool) -> None:
    check({"it": where})

    assert keeps({"it": where}, {})({"it": value}) is stays


def test_no_condition_keeps_everything_and_a_missing_field_meets_none() -> None:
    assert keeps({}, {})({})
    assert not keeps({"year": {"min": 0}}, {})({"domain": "harbour"})
    assert not keeps({"year": "None"}, {})({"year": None})


def test_what_the_caller_sends_stands_where_its_name_does() -> None:
    where = {"domain": ["house", "$domain"], "year": {"min": "$since"}}

    stays = keeps(where, {"domain": ["clinic", "harbour"], "since": "2003"})

    assert [stays({"domain": name, "year": 2003}) for name in ("house", "clinic", "harbour", "other")] == [1, 1, 1, 0]
    assert not stays({"domain": "clinic", "year": 2002})


@pytest.mark.parametrize("sent", [{}, {"domain": None}, {"domain": []}])
def test_what_the_caller_did_not_send_is_asked_for(sent: dict[str, object]) -> None:
    with pytest.raises(RetrievalError, match=r'send "metadata": \{"domain": \.\.\.\}.*in extra_body'):
        keeps({"domain": "$domain"}, sent)


@pytest.mark.parametrize("sent", [{"min": 1}, [["harbour"]], [{}]])
def test_a_caller_sends_values_and_no_conditions(sent: object) -> None:
    with pytest.raises(RetrievalError, match="a caller sends a value or a list"):
        keeps({"domain": "$domain"}, {"domain": sent})


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"year": []}, "write a value, a list of values"),
        ({"year": None}, "write a value, a list of values"),
        ({"year": [[2003]]}, "write a value, a list of values"),
        ({"year": {}}, "here is neither"),
        ({"year": {"mn": "$since"}}, "here is mn"),
        ({"year": {"min": "soon"}}, "where.year.min is 'soon'"),
        ({"year": {"min": "2004-02-31"}}, "neither a number nor a date"),
        ({"year": {"max": [1]}}, "neither a number nor a date"),
        ({"year": {"max": float("nan")}}, "neither a number nor a date"),
        ({"year": {"min": 2005, "max": 2003}}, "exchange the two"),
    ],
)
def test_nonsense_is_refused_before_anybody_asks(where: dict[str, object], said: str) -> None:
    with pytest.raises(RetrievalError, match=said):
        check(where)


def test_names_are_no_nonsense() -> None:
    check({"domain": "$domain", "year": {"min": "$from", "max": 1990}, "kind": ["$a", "b"]})
