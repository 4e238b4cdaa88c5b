"""The page on scale says what was measured, and what is worked out follows its formulas."""

from math import factorial
from pathlib import Path

import pytest

from scripts.scale import DOCS, FILE, page, rows_of, slope, waits


def erlang_c(places: int, busy: float) -> float:
    """How many customers have to wait, by Erlang's formula."""
    offered = places * busy
    last = offered**places / factorial(places) / (1 - busy)
    return last / (sum(offered**n / factorial(n) for n in range(places)) + last)


@pytest.mark.parametrize(("engines", "at_once", "busy"), [(1, 1, 0.5), (1, 4, 0.8), (2, 8, 0.9)])
def test_customers_wait_as_erlang_says(engines: int, at_once: int, busy: float) -> None:
    found, places = waits(busy, engines, at_once), engines * at_once

    mean = sum(found) / len(found)
    assert mean == pytest.approx(erlang_c(places, busy) / places / (1 - busy), rel=0.15)
    assert sum(one > 0 for one in found) / len(found) == pytest.approx(erlang_c(places, busy), abs=0.03)


def test_a_slope_is_of_two_sizes_or_none() -> None:
    rows = [{"n": n, "s": 3.0 + 0.5 * n} for n in (10, 20, 40)]

    assert slope(rows, "n", "s") == pytest.approx(0.5)
    assert slope([*rows[:1], *rows[:1]], "n", "s") is None


def test_the_page_is_made_of_the_measurements_beside_it() -> None:
    assert (DOCS / "scale.md").read_text(encoding="utf-8") == page(rows_of(FILE))


def test_a_page_of_nothing_measured_has_no_figure_of_a_run(tmp_path: Path) -> None:
    said = page(rows_of(tmp_path / "none.json"))

    assert "answers a second" not in said.partition("## A service")[0]
