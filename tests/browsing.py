"""A page of ours in a real browser, as one may expect of it: it asks no host, says nothing and fits the screen."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page


@contextmanager
def looked_at(browser: Browser, file: Path, width: int, scheme: str) -> Iterator[Page]:
    """The page, loaded from its file on a screen of this width; fails where it does anything of that."""
    heard: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))

    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")

    assert [one for one in heard if not one.startswith(("file://", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    yield page
    page.close()
