"""A report opened in a real browser, for the report's tests and for the end-to-end test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A shell that starts the tests in the background makes them, and every process they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest file first: files are shared out in this order, and none of the workers should be left with it in the end.
    items.sort(key=lambda item: item.path.name != "test_demo.py")


@pytest.fixture(scope="session")
def chromium_browser() -> Iterator[Browser]:
    """One browser for all tests."""
    pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    if chromium.executable() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with chromium.browser() as browser:
        yield browser


@pytest.fixture
def open_in_chromium(chromium_browser: Browser) -> Iterator[chromium.OpenInChromium]:
    """`open_in_chromium(path, width=…, dark=…, javascript=…)` → what the browser saw; closed after the test."""
    opened: list[chromium.Opened] = []

    def open_page(path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, javascript: bool = True):
        opened.append(chromium.open_page(chromium_browser, path, width=width, height=height, dark=dark, javascript=javascript))
        return opened[-1]

    yield open_page
    for page in opened:
        page.page.context.close()
