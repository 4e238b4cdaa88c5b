"""The report in a real browser: nothing is fetched, complains or overflows, and the figures are the table's."""

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from eval.analysis import analyse
from eval.report import save
from serve.combination import BASE, NONE
from tests.browsing import looked_at
from tests.eval_simulation import grid_of, simulate

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grid = grid_of(
        ["base", "tuned", "a-much-longer-adapter-name"],
        ["none", "random", "dense", "hybrid", "gold"],
        ["direct", "instructed", "fewshot"],
        "base:none:direct",
    )
    chance = {NONE: 0.2, "random": 0.15, "dense": 0.5, "hybrid": 0.6, "gold": 0.8}
    results = simulate(grid, lambda cell, part: chance[cell.retriever] + 0.1 * (cell.adapter != BASE), 64, 0)
    return save(analyse(results), tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_asks_no_host_says_nothing_on_the_console_and_fits_the_screen(
    width: int, scheme: str, browser: Browser, page_file: Path
) -> None:
    with looked_at(browser, page_file, width, scheme) as page:
        assert page.locator("figure svg:visible").count() == 3
        assert page.locator("h1").inner_text() == "The levers are retrieval and adapter"


def test_the_figures_on_the_page_are_those_of_summary_csv(browser: Browser, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    rows = list(csv.reader((page_file.parent / "summary.csv").open()))
    shown = page.locator("#summary tr").all()
    forest = page.locator("section:has(#combinations) tbody tr:not(.group)")

    assert [row.locator("th, td").all_text_contents() for row in shown] == rows
    assert [text.strip() for text in forest.locator(".score").all_text_contents()] == [
        f"{100 * float(row[7]):.1f}%" for row in rows[1:]
    ]
    assert forest.locator("th").first.inner_text() == rows[1][0]
    page.close()


def test_a_mark_is_where_its_score_is(browser: Browser, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(page_file.as_uri())
    ticks = page.locator("section:has(#combinations) .ticks span").all()
    places = {float(tick.inner_text()): _middle(tick.bounding_box()) for tick in (ticks[0], ticks[-1])}
    (low, left), (high, right) = sorted(places.items())

    for row in page.locator("section:has(#combinations) tbody tr:not(.group)").all()[:10]:
        score = float(row.locator(".score").inner_text().strip("%"))
        expected = left + (score - low) / (high - low) * (right - left)
        assert _middle(row.locator(".dot").bounding_box()) == pytest.approx(expected, abs=1.5)
    page.close()


def _middle(box: object) -> float:
    return box["x"] + box["width"] / 2  # type: ignore[index]
