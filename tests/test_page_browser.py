"""The page at `/` in a real browser, against a real gateway: it streams side by side, and all it shows is text."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.build import build
from retrieval.manifest import BuildSettings
from retrieval.passage import Document
from retrieval.settings import RetrieverSettings
from serve import page as served
from serve.capture import Capture
from serve.gateway import Gateway, application
from serve.pipeline import Pipeline
from serve.running import listen
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.serve_stub import CUT, Echo, echoing
from tests.tiny_search import make_embedder

pytestmark = pytest.mark.browser

ATTACK = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
FOUR = ("base:none:direct", "base:words:direct", "house:none:direct", "house:words:direct")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    documents = [
        Document(id="evil", title=f"Foxes {ATTACK}", text=f"The fox barks. {ATTACK}"),
        Document(id="owl", title="Owls", text="The owl hoots at the fox."),
    ]
    build(documents, folder / "index", BuildSettings(embedder=str(make_embedder(folder / "embedder"))))
    return folder / "index"


@dataclass
class Site:
    """A gateway with its page, and the engine's stub behind it."""

    url: str
    echo: Echo


@dataclass
class Seen:
    """A page, and everything that it asked for and complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def card(self, combination: str) -> Any:
        return self.page.get_by_role("article", name=combination)


@contextmanager
def site(index: Path, capture: Capture | None = None, key: str = "", strategies: int = 1) -> Iterator[Site]:
    with echoing() as echo:
        words = RetrieverSettings(kind="lexical", index=index, k=2)
        names = ["direct", *(f"told{n}" for n in range(1, strategies))]
        told = Prompted(kind="instructed", instructions="Be brief.")
        stack = Stack(
            model="pocket",
            url=echo.url,
            adapters={"house": Path("/house")},
            retrievers={"words": words},
            strategies={name: told if n else Prompted(kind="direct") for n, name in enumerate(names)},
        )
        listener = listen(0)
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(lambda *_: None, log_config=None))

        observers = [capture.observe] if capture else []

        async def run() -> None:
            async with Pipeline(stack) as pipeline:
                app = application(Gateway(pipeline, observers), served.routes(capture))
                server.config.app = _locked(app, key) if key else app
                await server.serve(sockets=[listener])

        thread = Thread(target=asyncio.run, args=[run()])
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", echo)
        finally:
            echo.may_go_on.set()
            server.should_exit = True
            thread.join(20)


def _locked(app: ASGIApp, key: str) -> ASGIApp:
    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        wanted = (b"authorization", f"Bearer {key}".encode())
        if scope["type"] == "http" and scope["path"] != "/" and wanted not in scope["headers"]:
            await JSONResponse({"error": {"message": "a key is needed"}}, 401)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return door


@contextmanager
def looking(browser: Browser, site: Site, search: str = "", **settings: Any) -> Iterator[Seen]:
    page = browser.new_page(**settings)
    page.set_default_timeout(60_000)
    seen = Seen(page)
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.asked.append(request.url))
    page.goto(site.url + search)
    expect(page.locator("#about")).to_contain_text("combination")
    yield seen
    page.close()


def of(*combinations: str) -> str:
    return "?" + "&".join(f"model={one}" for one in combinations)


def ask(seen: Seen, question: str) -> None:
    seen.page.get_by_label("Question").fill(question)
    seen.page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def plain(index: Path) -> Iterator[Site]:
    with site(index) as one:
        yield one


def test_four_answers_are_written_at_once_each_with_its_figures(browser: Browser, plain: Site) -> None:
    with looking(browser, plain, of(*FOUR)) as seen:
        plain.echo.may_go_on.clear()
        ask(seen, "Who barks at the fox?")
        for one in FOUR:  # all have begun, and none can have ended
            expect(seen.card(one).locator(".text")).to_have_text(re.compile("^(pocket|house) ?$"))
        plain.echo.may_go_on.set()
        expect(seen.page.locator("#said")).to_have_text("4 of 4 combinations answered.")

        for one in FOUR:
            heard = f"{'house' if one.startswith('house') else 'pocket'} heard Question: Who barks at the fox?"
            expect(seen.card(one).locator(".text")).to_contain_text(heard)
            first, whole, tokens, speed = seen.card(one).locator("dd").all_inner_texts()
            assert float(first.split()[0]) <= float(whole.split()[0])
            assert re.fullmatch(r"\d+ in, 8 out", tokens)
            assert float(speed.replace(",", "")) > 0
            assert seen.card(one).locator("details").count() == (2 if ":words:" in one else 0)
        assert {url.partition(plain.url)[0] for url in seen.asked} <= {"", "data:,"}
        assert seen.complaints == []


def test_an_attack_in_a_source_the_question_and_an_id_stays_text(browser: Browser, plain: Site) -> None:
    with looking(browser, plain, of("base:words:direct", f"{ATTACK}")) as seen:
        expect(seen.page.locator("#said")).to_have_text(f"Not on offer here: {ATTACK}.")
        ask(seen, f"Who barks at the fox, [S1] or [S2] or [S9]? {ATTACK}")
        expect(seen.page.locator("#said")).to_have_text("1 of 1 combination answered.")
        card = seen.card("base:words:direct")

        card.get_by_role("button", name="Source 1").click()

        passage = card.locator("details[open]")
        expect(passage.locator(".passage")).to_contain_text("barks")
        assert ATTACK in card.locator("details", has_text="Foxes").text_content()
        assert ATTACK in card.locator(".text").text_content()
        assert seen.page.evaluate("document.activeElement === document.querySelector('details[open] summary')")
        assert card.locator(".text .loss").all_inner_texts() == ["[S9]"]
        assert seen.page.locator("#answers img, #answers script").count() == 0
        assert seen.page.title() == "Fulcrum · ask side by side"
        assert seen.complaints == []


def test_the_policy_stops_what_is_not_the_pages_own(browser: Browser, plain: Site) -> None:
    """A script that got in all the same would neither run nor reach another host."""
    with looking(browser, plain) as seen:
        refused = seen.page.evaluate(
            """async () => {
              const script = document.createElement("script"), said = [], note = (error) => said.push(error.name);
              try { script.text = "document.title = 'taken'"; } catch (error) { note(error); }
              try { document.body.innerHTML = "<p>"; } catch (error) { note(error); }
              await fetch("http://127.0.0.2:1/").catch(note);
              return said;
            }"""
        )

        assert refused == ["TypeError", "TypeError", "TypeError"]
        assert seen.page.title() != "taken"
        assert any("connect-src 'self'" in one for one in seen.complaints)


def test_everything_can_be_done_from_the_keyboard(browser: Browser, index: Path) -> None:
    with site(index, strategies=5) as many, looking(browser, many) as seen:
        page, press = seen.page, seen.page.keyboard.press
        assert page.evaluate("document.activeElement.id") == "question"
        assert page.locator("#chosen button").all_inner_texts() == ["base:none:direct ×", "house:words:told4 ×"]
        page.keyboard.type("Who?")
        press("Tab")  # Ask
        for _ in range(2):  # the two that are chosen: Stop is off
            press("Tab")
        press("Enter")
        page.keyboard.type("base words told2")
        press("Enter")
        press("Control+Enter")
        expect(page.locator("#said")).to_have_text("2 of 2 combinations answered.")
        assert page.locator("article h2").all_inner_texts() == ["base:none:direct", "base:words:told2"]
        assert "model=base%3Anone%3Adirect&model=base%3Awords%3Atold2" in page.url

        many.echo.may_go_on.clear()
        page.get_by_label("Question").focus()
        press("Enter")
        expect(seen.card("base:none:direct").locator(".text")).to_have_text(re.compile("pocket"))
        press("Escape")

        expect(page.locator("#said")).to_have_text("0 of 2 combinations answered.")
        expect(seen.card("base:none:direct").locator(".state")).to_have_text("stopped")
        expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
        many.echo.may_go_on.set()
        assert seen.complaints == []


def test_a_fifth_cannot_be_chosen_and_the_address_brings_the_same_back(browser: Browser, index: Path) -> None:
    with site(index, strategies=2) as many, looking(browser, many, of(*FOUR)) as seen:
        fifth = seen.page.get_by_role("checkbox", name="base:none:told1")
        expect(fifth).to_be_disabled()
        expect(seen.page.locator("#full")).to_contain_text("Four are chosen")

        seen.page.get_by_role("button", name="Leave out base:words:direct").click()
        fifth.check()
        seen.page.reload()

        wanted = [one for one in FOUR if one != "base:words:direct"] + ["base:none:told1"]
        expect(seen.page.locator("#chosen button")).to_have_text([f"{one} ×" for one in wanted])


def test_failures_are_sentences_and_the_others_go_on(browser: Browser, plain: Site) -> None:
    with looking(browser, plain, of("base:none:direct", "house:none:direct")) as seen:
        plain.echo.failures = [400]
        ask(seen, "Who?")
        expect(seen.page.locator("#said")).to_have_text("1 of 2 combinations answered.")
        expect(seen.page.locator("article .loss:visible")).to_contain_text("out of order")

        plain.echo.failures = [CUT]
        ask(seen, "Who?")
        expect(seen.page.locator("#said")).to_have_text("1 of 2 combinations answered.")
        expect(seen.page.locator("article .loss:visible")).to_contain_text("broke off")

        seen.page.route("**/v1/chat/completions", lambda route: route.abort())
        ask(seen, "Who?")
        expect(seen.page.locator("#said")).to_have_text("0 of 2 combinations answered.")
        expect(seen.page.locator("article .loss").first).to_contain_text("cannot be reached")


def test_a_key_is_asked_for_when_it_is_needed_and_kept_in_the_tab_only(browser: Browser, index: Path) -> None:
    with site(index, key="secret") as closed:
        page = browser.new_page()
        page.goto(closed.url)
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("4 combinations")

        page.get_by_label("Question").fill("Who?")
        page.keyboard.press("Enter")

        expect(page.locator("#said")).to_have_text("2 of 2 combinations answered.")
        expect(page.get_by_label("API key")).to_be_hidden()
        assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        page.close()


def test_no_key_field_and_no_votes_where_neither_means_anything(browser: Browser, plain: Site) -> None:
    with looking(browser, plain, of("base:none:direct")) as seen:
        ask(seen, "Who?")
        expect(seen.page.locator("#said")).to_have_text("1 of 1 combination answered.")

        expect(seen.page.get_by_label("API key")).to_be_hidden()
        assert seen.page.locator(".votes button").count() == 0


def test_a_vote_and_a_correction_reach_the_file(browser: Browser, index: Path, tmp_path: Path) -> None:
    with (
        Capture(tmp_path / "chats.jsonl") as kept,
        site(index, capture=kept) as open_site,
        looking(browser, open_site, of("base:none:direct")) as seen,
    ):
        page = seen.page
        ask(seen, "Who?")
        page.get_by_role("button", name="A bad answer").click()
        expect(page.get_by_role("button", name="A bad answer")).to_have_attribute("aria-pressed", "true")
        page.get_by_label("What should it have said?").fill("Oda")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".votes [role=status]")).to_have_text("Kept, with the correction.")

    rows = [json.loads(line) for line in (tmp_path / "chats.jsonl").read_text().splitlines()]
    assert (rows[0]["messages"], rows[0]["text"]) == (
        [{"role": "user", "content": "Who?"}],
        "pocket heard Question: Who? ",
    )
    assert [row["feedback"] for row in rows[1:]] == [{"rating": "down"}, {"correction": "Oda"}]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_fits_the_screen_and_can_be_read(width: int, scheme: str, browser: Browser, plain: Site) -> None:
    size = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with looking(browser, plain, of(*FOUR), **size) as seen:
        ask(seen, "Who barks at the fox? " + "x" * 300 + " [S1]")
        expect(seen.page.locator("#said")).to_have_text("4 of 4 combinations answered.")
        for details in seen.page.locator("summary").all():
            details.click()

        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        assert min(seen.page.evaluate(CONTRASTS)) >= 4.5


CONTRASTS = """() => {
  const linear = (v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(node.parentElement) : colour;
  };
  const texts = "p, dt, dd, summary, .text, .passage, h1, h2, h2 span, label, button:enabled, .loss";
  return [...document.querySelectorAll(texts)]
    .filter((node) => node.checkVisibility() && node.textContent.trim() && !node.querySelector(":disabled"))
    .map((node) => [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a))
    .map(([above, below]) => (above + .05) / (below + .05));
}"""
"""Of every text that is seen, against what is behind it (WCAG 2.2, 1.4.3)."""
