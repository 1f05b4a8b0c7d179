"""A real browser for tests: Debian's Chromium without a screen, which must not find anything wrong, nor ask anybody else."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import ConsoleMessage, Page, Request, async_playwright

SHOTS = Path(__file__).parents[1] / "build"
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(not _CHROMIUM, reason="Chromium is not installed (Debian's package `chromium`)")


@dataclass
class Seen:
    """What went on in a page: `wrong` are errors of scripts, breaches of its policy, and whatever its console complained of."""

    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def elsewhere(self, url: str) -> list[str]:
        """What was asked of anybody but this server."""
        return [one for one in self.asked if urlsplit(one).netloc != urlsplit(url).netloc]


@asynccontextmanager
async def browsing(
    *, width: int = 1280, height: int = 900, dark: bool = False, storage: str | None = None
) -> AsyncIterator[tuple[Page, Seen]]:
    """An empty profile and one page."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS)
        try:
            context = await browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", storage_state=storage
            )
            page, seen = await context.new_page(), Seen()
            page.on("console", lambda message: _complained(seen, message))
            page.on("pageerror", lambda error: seen.wrong.append(str(error)))
            page.on("request", lambda request: _asked(seen, request))
            page.set_default_timeout(30_000)  # on a machine that has much else to do
            yield page, seen
        finally:
            await browser.close()


def _complained(seen: Seen, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        seen.wrong.append(message.text)


def _asked(seen: Seen, request: Request) -> None:
    if not request.url.startswith("data:"):
        seen.asked.append(request.url)


async def photograph(page: Page, name: str) -> Path:
    """The whole page, kept below build/."""
    SHOTS.mkdir(exist_ok=True)
    path = SHOTS / f"{name}.png"
    await page.screenshot(path=path, full_page=True)
    return path
