"""A ladder's page in a real browser: nothing is fetched or overflows, and bars and marks stand where figures are."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from eval.ladder import Ladder, LadderSettings, Step
from eval.ladder_page import save_ladder
from eval.ladder_steps import Climb, climb
from tests.browsing import looked_at
from tests.eval_simulation import grid_of, simulate

pytestmark = pytest.mark.browser

CHANCES = {"start": 0.3, "better": 0.6, "worse": 0.2}
STEPS = (
    Step(name="where it begins", combination="base:start:direct", published=0.45),
    Step(name="a step that helps a great deal", combination="base:better:direct", published=0.65),
    Step(name="a loss", combination="base:worse:direct", rejected=True),
    Step(name="a tool", needs="a machine of quite another kind, " * 6, published=0.98),
)


@pytest.fixture(scope="module")
def climbed() -> Climb:
    results = simulate(
        grid_of(["base"], list(CHANCES), ["direct"], "base:start:direct"),
        lambda cell, part: CHANCES[cell.retriever],
        300,
        0,
    )
    settings = LadderSettings(name="a journey", stack=Path("stack.yaml"), task=Path("task.yaml"), steps=STEPS)
    return climb(Ladder(settings=settings, grid=None), results)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page_file(climbed: Climb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ladder(climbed, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_asks_no_host_says_nothing_on_the_console_and_fits_the_screen(
    width: int, scheme: str, browser: Browser, page_file: Path
) -> None:
    with looked_at(browser, page_file, width, scheme) as page:
        assert page.locator("figure svg:visible").count() == 1


def test_a_bar_is_as_high_as_its_score_beside_the_published_one(
    browser: Browser, climbed: Climb, page_file: Path
) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(page_file.as_uri())

    def height(said: str) -> float:
        box = page.locator(".wide path", has=page.locator("title", has_text=said)).first.bounding_box()
        assert box is not None
        return box["height"]

    whole = height("4. a tool: 98.0% in the talk") / 0.98
    for place, rung in enumerate(climbed.rungs[:3], start=1):
        assert rung.row is not None
        ours = height(f"{place}. {rung.step.name}: {100 * rung.row.score:.1f}%")
        assert ours / whole == pytest.approx(rung.row.score, abs=0.02)
    assert height("2. a step that helps a great deal: 65.0% in the talk") / whole == pytest.approx(0.65, abs=0.02)
    page.close()


def test_a_step_is_coloured_by_what_it_did(browser: Browser, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(page_file.as_uri())
    rows = page.locator("section:has(#steps) tbody tr")

    assert [one.get_attribute("class") for one in rows.all()] == ["start", "helps", "hurts", "not-run"]
    assert [one.locator(".up").count() for one in rows.all()] == [0, 1, 0, 0]
    assert [one.locator(".down").count() for one in rows.all()] == [0, 0, 1, 0]
    page.close()
