"""A page opened in a real headless Chromium, and all that went wrong on the way.

Also a command that takes the picture for the README: python tests/chromium.py runs/demo/report.html docs/report.png
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox",  # else it does not start for root, as in containers
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
)
_PICTURE_BYTES = 250_000


@dataclass
class Opened:
    """A page that is open, and what the browser noticed."""

    page: Page
    requests: list[str] = field(default_factory=list)
    """Every address asked for, the page's own included."""
    console_errors: list[str] = field(default_factory=list)
    """Errors and warnings on the console: what a policy blocks is said there too."""
    page_errors: list[str] = field(default_factory=list)

    @property
    def outside_requests(self) -> list[str]:
        """The requests that left this machine's own files."""
        return [address for address in self.requests if not address.startswith(("file:", "about:", "data:"))]

    @property
    def sideways(self) -> int:
        """By how many pixels the page is wider than the window."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found

    def screenshot(self, path: Path | None = None, **options: Any) -> bytes:
        """A PNG of the window; `full_page=True` for the whole page."""
        return self.page.screenshot(path=path, animations="disabled", **options)

    def colours(self) -> int:
        """How many different colours the window shows: 1 is a blank page."""
        # A page of its own, because the policy of the one on show lets it run nothing.
        scratch = self.page.context.browser.new_page()  # type: ignore[union-attr]
        try:
            count: int = scratch.evaluate(_COUNT_COLOURS, base64.b64encode(self.screenshot()).decode())
            return count
        finally:
            scratch.close()


_COUNT_COLOURS = """async (png) => {
  const bytes = Uint8Array.from(atob(png), character => character.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  return new Set(new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer)).size;
}"""


OpenInChromium = Callable[..., Opened]
"""What the fixture `open_in_chromium` is."""


def executable() -> str | None:
    """Where a Chromium is installed, or None."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium of this machine, which asks nobody for updates."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=list(_QUIET))
        try:
            yield chromium
        finally:
            chromium.close()


def open_page(
    chromium: Browser, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, javascript: bool = True
) -> Opened:
    """Open a local file in a window of that many pixels and wait until it is drawn."""
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", java_script_enabled=javascript
    )
    opened = Opened(context.new_page())
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.on("pageerror", lambda error: opened.page_errors.append(str(error)))
    opened.page.on(
        "console", lambda said: opened.console_errors.append(said.text) if said.type in ("error", "warning") else None
    )
    opened.page.goto(path.resolve().as_uri(), wait_until="load")
    return opened


def main() -> int:
    """Take the picture of a report that stands in the README."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("report", type=Path, help="the HTML file")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    if executable() is None:
        print("no Chromium here: apt-get install chromium", file=sys.stderr)
        return 2
    with browser() as chromium:
        opened = open_page(chromium, given.report, width=given.width, height=given.height, dark=given.dark)
        picture = opened.screenshot()
    if len(picture) > _PICTURE_BYTES:
        print(f"the picture has {len(picture):,} bytes, more than {_PICTURE_BYTES:,}: lower --height", file=sys.stderr)
        return 1
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    given.picture.write_bytes(picture)
    print(f"{given.picture}: {len(picture):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
