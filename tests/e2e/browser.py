"""A real Chromium on the page, which fails a test for what a reader would only see in the console."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from infra.page import BUNDLE, FOLDER

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "runs" / "page"
PATIENCE_MS = 180_000  # drawing without a graphics card, on a machine that has other work
# Draw in software, where there is no card; without a sandbox only for root, who cannot have one.
DRAWS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
DRAWS_NOTHING = ("--disable-gpu", "--disable-3d-apis")


def chromium() -> str:
    """The browser of this machine, or the test is skipped."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is on PATH; on Debian, as root: apt-get install --no-install-recommends chromium")
    if not (BUNDLE / "index.html").is_file():
        pytest.skip("the page is not built; run make page")
    return found


@contextlib.contextmanager
def driven() -> Iterator[Playwright]:
    """What drives browsers; a process has one at a time."""
    chromium()
    with sync_playwright() as playwright:
        yield playwright


@contextlib.contextmanager
def launched(playwright: Playwright, arguments: Sequence[str] = DRAWS) -> Iterator[Browser]:
    """A browser that ends with the block."""
    flags = [*arguments, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    browser = playwright.chromium.launch(executable_path=chromium(), args=flags, timeout=PATIENCE_MS)
    try:
        yield browser
    finally:
        browser.close()


@dataclass(slots=True, kw_only=True)
class Seen:
    """A tab and what it complained of.

    Attributes:
        page: The tab.
        origin: The only place it may fetch from.
        troubles: Errors of the console and of scripts, and what was fetched from elsewhere.
        expected: Parts of complaints that a test provokes.
    """

    page: Page
    origin: str
    troubles: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def shot(self, name: str) -> Path:
        """Keep a picture of the tab for people to look at."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def axe(self) -> list[str]:
        """What axe-core finds of serious or critical weight, one line each."""
        self.page.evaluate((FOLDER / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8"))
        found: dict[str, Any] = self.page.evaluate("() => axe.run(document)")
        return [
            f"{violation['id']}: {node['html'][:160]}: {node['failureSummary']}"
            for violation in found["violations"]
            if violation["impact"] in {"serious", "critical"}
            for node in violation["nodes"]
        ]

    def unexpected(self) -> list[str]:
        """Complaints that no test provoked."""
        return [trouble for trouble in self.troubles if not any(part in trouble for part in self.expected)]


@contextlib.contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Seen]:  # noqa: ANN401 - of Browser.new_context
    """The page of a server in a new tab; complaints at its end fail the test."""
    usual = {"viewport": {"width": 1280, "height": 800}, "accept_downloads": True, "reduced_motion": "reduce"}
    made = browser.new_context(**{**usual, **context})
    made.set_default_timeout(PATIENCE_MS)
    seen = Seen(page=made.new_page(), origin=url)
    _listen(seen)
    try:
        seen.page.goto(f"{url}/")
        yield seen
        assert seen.unexpected() == []
    finally:
        made.close()


def _listen(seen: Seen) -> None:
    page = seen.page

    def requested(address: str) -> None:
        if not address.startswith((seen.origin, "blob:", "data:")):
            seen.troubles.append(f"fetched from elsewhere: {address}")

    page.on("console", lambda told: seen.troubles.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: seen.troubles.append(str(error)))
    page.on("request", lambda request: requested(request.url))
