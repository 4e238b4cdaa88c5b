"""The Chromium of this machine, for tests and measurements of pages. Knows nothing of what it shows."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NONE_HERE: Final = "there is no Chromium here; apt-get install chromium"


@contextmanager
def chromium() -> "Iterator[Browser | None]":
    """One that is over with the block; None where none is installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=["--no-sandbox"]) as browser,
    ):
        yield browser
