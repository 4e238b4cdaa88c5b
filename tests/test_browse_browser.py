"""The table of answers in a real browser: found, filtered, opened and left by hand, by keyboard and by link."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from eval.analysis import analyse
from eval.browse import FOLDER
from eval.folder import Results
from eval.report import save
from serve.chat import Message
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate

pytestmark = pytest.mark.browser

GRID = grid_of(["base", "tuned"], ["none", "dense", "gold"], ["direct", "brief"], "base:none:direct")
DENSE, BASE = Combination("tuned", "dense", "direct"), Combination("base", "none", "direct")
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\u2028<b>"


@dataclass
class Seen:
    """A page, everything that it asked of a network, and all that it complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ids(self) -> list[str]:
        """The questions in sight."""
        found: list[str] = self.page.locator("#body .row:visible").evaluate_all(
            "rows => rows.sort((a, b) => a.place - b.place).map(row => row.firstChild.title.match(/ship (\\d+)/)[1])"
        )
        return [f"q{number}" for number in found]


@contextmanager
def looking(browser: Browser, file: Path, view: dict[str, str] | None = None, **settings: Any) -> Iterator[Seen]:
    page = browser.new_page(**settings)
    page.set_default_timeout(60_000)
    seen = Seen(page)
    page.route(lambda url: url.startswith("http"), lambda route: (seen.asked.append(route.request.url), route.abort()))
    page.on("request", lambda one: seen.asked.append(one.url) if not one.url.startswith(("file:", "data:")) else None)
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(file.as_uri() + (f"#answers?{urlencode(view)}" if view else ""))
    yield seen
    page.close()


@pytest.fixture(scope="module")
def results() -> Results:
    return simulate(GRID, lambda cell, part: 0.3 + 0.3 * (cell.retriever != "none"), 400, 0)


@pytest.fixture(scope="module")
def file(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(analyse(results), tmp_path_factory.mktemp("run"))


def right(results: Results, cell: Combination) -> set[str]:
    return {item for item, record in results.records[cell].items() if record.scores["exact"] == 1}


def test_a_view_is_a_link_and_shows_what_the_records_say(browser: Browser, file: Path, results: Results) -> None:
    gained = right(results, DENSE) - right(results, BASE)

    with looking(browser, file, {"cell": str(DENSE), "is": "better", "other": str(BASE)}) as seen:
        expect(seen.page.locator("#count")).to_have_text(f"{len(gained)} of 400 questions")
        assert set(seen.ids()) <= gained
        assert seen.page.locator("[name=other]").input_value() == str(BASE)
        assert (seen.asked, seen.complaints) == ([], [])


def test_what_is_chosen_by_hand_stands_in_the_address(browser: Browser, file: Path, results: Results) -> None:
    with looking(browser, file) as seen:
        choice = seen.page.get_by_role("search")
        choice.get_by_label("combination").select_option(str(DENSE))
        choice.get_by_label("its answer is").select_option("wrong")
        choice.get_by_label("slice").select_option("code")
        choice.get_by_label("words").fill("14 SHIP")
        wanted = {
            one.id
            for one in results.examples
            if one.id not in right(results, DENSE) and one.slice == "code" and "14" in one.question
        }
        address = seen.page.evaluate("location.href")
        assert set(seen.ids()) == wanted
        seen.page.get_by_role("button", name="all questions").click()
        expect(seen.page.locator("#count")).to_have_text("400 of 400 questions")

        seen.page.goto("about:blank")
        seen.page.goto(address)
        assert set(seen.ids()) == wanted


def test_an_answer_is_a_link_and_stands_there_in_full(browser: Browser, file: Path, results: Results) -> None:
    record = results.records[DENSE]["q77"]

    with looking(browser, file, {"id": "q77", "of": str(DENSE)}) as seen:
        dialog = seen.page.get_by_role("dialog")
        expect(dialog.locator("h3")).to_have_text(results.examples[77].question)
        assert dialog.locator(".prompt pre").all_text_contents() == [turn.content for turn in record.prompt]
        expect(dialog.locator(".reply")).to_have_text(record.text)
        expect(dialog).to_contain_text("Odo Merrun 77")
        assert dialog.locator("ol code").all_text_contents() == [one.passage for one in record.sources]


def test_an_answer_of_several_calls_tells_its_notes_and_what_was_said_in_each(
    browser: Browser, results: Results, tmp_path: Path
) -> None:
    records = results.records[DENSE]
    told = replace(records["q7"], notes={"confidence": 2 / 3, "blocked": 0}, steps=("<b>Let me see.</b>\nNo.", "Ulm"))
    save(analyse(replace(results, records={**results.records, DENSE: {**records, "q7": told}})), tmp_path)

    with looking(browser, tmp_path / "report.html", {"id": "q7", "of": str(DENSE)}) as seen:
        dialog = seen.page.get_by_role("dialog")
        expect(dialog).to_contain_text("confidence 0.6667 · blocked 0")
        assert dialog.locator(".calls li").all_text_contents() == list(told.steps)

    with looking(browser, tmp_path / "report.html", {"id": "q8", "of": str(DENSE)}) as seen:
        expect(seen.page.get_by_role("dialog").locator(".reply")).to_have_text(records["q8"].text)
        expect(seen.page.get_by_role("dialog")).not_to_contain_text("notes")


def test_where_two_combinations_differ_both_answers_are_shown(browser: Browser, file: Path, results: Results) -> None:
    item = min(right(results, DENSE) - right(results, BASE))
    view = {"cell": str(DENSE), "is": "better", "other": str(BASE), "id": item, "of": str(DENSE)}

    with looking(browser, file, view) as seen:
        expect(seen.page.locator("#said article")).to_have_count(2)
        assert seen.page.locator("#said h4 code").all_text_contents() == [str(DENSE), str(BASE)]


def test_it_is_used_with_the_keyboard_alone(browser: Browser, file: Path, results: Results) -> None:
    with looking(browser, file) as seen:
        page, cells = seen.page, [row.combination for row in analyse(results).rows]
        page.get_by_role("grid").focus()
        for key in ("Control+End", "Home", "PageUp", "ArrowRight", "ArrowRight", "Enter"):
            page.keyboard.press(key)

        expect(page.get_by_role("dialog")).to_be_visible()
        expect(page.locator("#said h4 code")).to_have_text(cells[2])
        expect(page.locator("#about h3")).to_contain_text("ship 389")
        assert "id=q389" in page.evaluate("location.hash")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.wait_for_function("!location.hash.includes('id=')")
        assert page.evaluate("document.activeElement.id") == "grid"


def test_going_back_closes_an_answer(browser: Browser, file: Path) -> None:
    with looking(browser, file) as seen:
        seen.page.locator("#body .row:visible .mark").first.click()
        expect(seen.page.get_by_role("dialog")).to_be_visible()
        seen.page.go_back()
        expect(seen.page.get_by_role("dialog")).to_be_hidden()


def test_a_square_beside_an_open_answer_opens_its_own(browser: Browser, file: Path) -> None:
    with looking(browser, file) as seen:
        squares = seen.page.locator("#body .row:visible .mark")
        squares.nth(0).click()
        first = seen.page.evaluate("location.hash")
        expect(seen.page.get_by_role("dialog")).to_be_visible()
        # Sent to the square itself: the answer may lie above it, and what matters is what follows on what.
        squares.nth(1).dispatch_event("click")
        expect(seen.page.get_by_role("dialog")).to_be_visible()
        assert seen.page.evaluate("location.hash") != first


def test_leaving_an_answer_by_mouse_or_keyboard_closes_it(browser: Browser, file: Path) -> None:
    def beside(page: Page) -> None:
        page.mouse.click(5, 5)

    def past_the_end(page: Page) -> None:
        page.locator("#shut").focus()
        page.keyboard.press("Tab")

    with looking(browser, file) as seen:
        for leave in (beside, past_the_end):
            seen.page.locator("#body .row:visible .mark").first.click()
            expect(seen.page.get_by_role("dialog")).to_be_visible()
            leave(seen.page)
            expect(seen.page.get_by_role("dialog")).to_be_hidden()
            seen.page.wait_for_function("!location.hash.includes('id=')")


def test_from_an_answer_one_goes_on_to_the_next_that_was_chosen(browser: Browser, file: Path, results: Results) -> None:
    wrong = [one.id for one in results.examples if one.id not in right(results, DENSE)]

    with looking(browser, file, {"cell": str(DENSE), "is": "wrong", "id": wrong[0], "of": str(DENSE)}) as seen:
        assert seen.page.locator("#before").is_disabled()
        seen.page.locator("#after").click()
        expect(seen.page.locator("#about dl")).to_contain_text(f"{wrong[1]}, in")


def test_only_the_rows_in_sight_exist_and_the_last_can_be_reached(browser: Browser, file: Path) -> None:
    with looking(browser, file) as seen:
        seen.page.locator("#grid").evaluate("grid => grid.scrollTo(0, grid.scrollHeight)")
        expect(seen.page.locator(".asked[title*='ship 399 ']")).to_be_visible()
        assert seen.page.locator("#body .row").count() < 60


def test_marks_differ_by_more_than_their_colour(browser: Browser, file: Path, results: Results) -> None:
    with looking(browser, file) as seen:
        first = seen.page.locator("#body .row").first.locator(".mark")
        cells = [Combination.parse(row.combination) for row in analyse(results).rows]
        signs = ["✓" if "q0" in right(results, cell) else "×" for cell in cells]
        assert first.all_text_contents() == signs


def test_what_documents_and_models_wrote_stays_text(browser: Browser, results: Results, tmp_path: Path) -> None:
    examples = tuple(
        replace(one, id=f"{EVIL}{one.id}", question=EVIL, answers=(EVIL,), meta={"slice": EVIL})
        for one in results.examples[:9]
    )
    records = {
        cell: {
            f"{EVIL}{item}": replace(one, id=f"{EVIL}{item}", text=EVIL, prompt=(Message("user", EVIL),))
            for item, one in list(found.items())[:9]
        }
        for cell, found in results.records.items()
    }
    evil = save(analyse(replace(results, examples=examples, records=records)), tmp_path)

    with looking(browser, evil, {"id": f"{EVIL}q3", "of": str(DENSE)}) as seen:
        expect(seen.page.locator("dialog .prompt pre")).to_have_count(1)
        assert seen.page.locator("dialog .prompt pre").text_content() == EVIL
        assert seen.page.locator(".reply").text_content() == EVIL
        assert seen.page.locator("dialog img, dialog b, dialog script").count() == 0
        assert "taken" not in seen.page.title().split(" ")
        assert (seen.asked, seen.complaints) == ([], [])


def test_without_its_folder_the_page_says_so_and_still_tells_the_verdict(
    browser: Browser, results: Results, tmp_path: Path
) -> None:
    file = save(analyse(results), tmp_path)
    rmtree(tmp_path / FOLDER)

    with looking(browser, file) as seen:
        expect(seen.page.locator("#absent")).to_contain_text("which is not beside this page")
        assert seen.page.locator("#present").is_hidden()
        expect(seen.page.locator("h1")).not_to_be_empty()


def test_without_one_file_of_answers_it_says_which_and_what_to_do(
    browser: Browser, results: Results, tmp_path: Path
) -> None:
    file = save(analyse(results), tmp_path)
    for answers in (tmp_path / FOLDER).glob("answers-*"):
        answers.unlink()

    with looking(browser, file, {"id": "q3", "of": str(DENSE)}) as seen:
        expect(seen.page.locator("#said .loss")).to_contain_text("is not there: reload this page")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_axe_finds_nothing_serious(browser: Browser, file: Path, size: tuple[int, int], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    viewport = {"width": size[0], "height": size[1]}

    with looking(browser, file, viewport=viewport, color_scheme=scheme) as seen:
        seen.page.wait_for_selector("#body .row")
        found = axe.Axe().run(seen.page).response["violations"]
        seen.page.locator("#body .row:visible .mark").first.click()
        seen.page.wait_for_selector("#said article")
        found += axe.Axe().run(seen.page).response["violations"]

    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
