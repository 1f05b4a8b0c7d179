"""The console in a real browser: what is on the page, that it moves, and that anybody can use it."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

import handlers.console
from app.main import create_app
from base.config import Config
from base.identity import key_hash
from handlers.console.hub import HUB
from handlers.protocol import runner_of
from storage.embedded import Cluster
from storage.tenancy import create_key
from tests.browser import browsing, needs_chromium, photograph
from tests.support import Home, Served, add_tenant, build_home, connected, encounter, patient, served
from tests.test_console import register, stuck

TENANTS = ("harbour-hospital", "oasis-clinics", "palm-polyclinic")
COLD = "desert-dental"
PATHS = ("/patients/p{}", "/encounters/e{}", "/encounters?_count={}", "/patients?_count={}", "/reviews/e{}")
CSS = Path(handlers.console.__file__).parent / "theme.css"


async def fill(home: Home) -> None:
    """Three tenants to warm and one that stays cold; facilities that do well and that do not."""
    people = [patient(f"p{n}") for n in range(40)]
    visits = [encounter(f"e{n}", "2026-01-01T10:00:00Z", subject={"reference": f"Patient/p{n}"}) for n in range(40)]
    for name in (*TENANTS, COLD):
        home.keys[name] = await add_tenant(home.database, name, [*people, *visits])
    async with connected(home.database) as connection:
        home.keys["operator"] = await create_key(connection, None, ["operate"])
        for number in range(12):
            outcomes = ("ok", "failed") if number == 4 else ("ok",)
            await register(connection, f"DHA-F-{number + 1:07}", "paused" if number == 7 else "active", *outcomes)
        await connection.execute("UPDATE ops.report_view SET rows = 64000, refreshed = 9, refreshed_at = now()")


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "console_page", fill)


@asynccontextmanager
async def loaded(server: Served) -> AsyncIterator[None]:
    """Clients of all tenants, each with one request after the other."""
    stop = asyncio.Event()

    async def ask(tenant: str, seed: int) -> None:
        chance = Random(seed)
        while not stop.is_set():
            number = chance.randrange(40)
            path = chance.choice(
                ("/patients/p{}", "/encounters/e{}", "/encounters?_count={}", "/patients?_count={}", "/reviews/e{}")
            )
            await server.get(path.format(number + 1 if "_count" in path else number), tenant)

    names = [*TENANTS, *TENANTS, *TENANTS, *TENANTS, COLD, COLD]
    clients = [asyncio.create_task(ask(name, seed)) for seed, name in enumerate(names)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*clients)


async def enter(page: Page, url: str, key: str) -> None:
    """By the form, as anybody does."""
    await page.goto(f"{url}/console")
    await page.fill("#key", key)
    await page.keyboard.press("Enter")
    await live(page)


async def live(page: Page) -> None:
    await page.wait_for_selector('#stream[data-state="live"]')


async def until_text(page: Page, selector: str, pattern: str) -> str:
    """The text, once it matches."""
    await page.wait_for_function(
        "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector)?.textContent ?? '')",
        arg=[selector, pattern],
    )
    return await page.inner_text(selector)


async def seconds_left(page: Page) -> list[int]:
    """Of each warm tenant, as its countdown shows."""
    shown = await page.locator("#tenants-table .meter b").all_inner_texts()
    return [int(minutes) * 60 + int(seconds) for minutes, seconds in (text.split(":") for text in shown)]


async def points(page: Page, plot: str) -> int:
    """How many points plotly has drawn of a plot's first line."""
    return int(await page.evaluate("(id) => document.getElementById(id).data?.[0]?.x?.length ?? 0", plot))


async def overflow(page: Page) -> int:
    """By how many pixels the page is wider than what is seen."""
    return int(await page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@needs_chromium
async def test_under_load(home: Home) -> None:
    """Three warm tenants under load: countdowns fall, plots move, all is shown; nothing is inline, from elsewhere or wrong."""
    async with served(home.database, keys=home.keys, control_share=0.3) as server, browsing() as (page, seen):
        server.app[HUB].tick_s = 0.4
        for name in TENANTS:
            assert (await server.get("/warm-up", name, "POST")).status in (200, 201)
        async with loaded(server):
            await enter(page, server.url, home.keys["operator"])
            await page.wait_for_function(
                "() => [...document.querySelectorAll('#plot-rate .scatterlayer path.js-line')].length > 1"
            )
            before, drawn = await seconds_left(page), await points(page, "plot-rate")
            assert await page.locator("#tenants-table tbody th").all_inner_texts() == list(TENANTS)
            await until_text(page, "#verdict", r"^(The channel is (faster|slower)|No difference shown)")
            await page.wait_for_function("(n) => document.getElementById('plot-rate').data[0].x.length > n + 4", arg=drawn)
            await page.wait_for_function("() => document.querySelectorAll('#plot-spread .scatterlayer .trace').length === 2")
            await page.wait_for_function("() => document.querySelectorAll('#plot-batches .bars .point').length > 0")
            after = await seconds_left(page)
            assert len(before) == len(after) == 3
            assert all(0 < late < early for early, late in zip(before, after, strict=True))
            assert re.search(r"12 facilities: 10 ok, 1 failing, 1 paused", await page.inner_text("#facilities-text"))
            assert "DHA-F-0000005" in await page.inner_text("#facilities-table tbody tr:first-child")
            assert await page.locator("#views-table tbody tr").count() == 3
            assert (await page.inner_text("#pools-table tbody tr:first-child")).startswith("api")
            assert await page.inner_text("#now-title") in ("1 thing needs a look", "2 things need a look")
            await photograph(page, "console-light")
            await page.click("#theme")
            await photograph(page, "console-dark")
            await page.set_viewport_size({"width": 390, "height": 844})
            await page.wait_for_function("() => document.querySelector('#plot-rate .main-svg').clientWidth < 390")
            assert await overflow(page) == 0
            cut = "() => [...document.querySelectorAll('.wide')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
            assert await page.evaluate(cut) == 0  # nor is a table wider than its place
            await photograph(page, "console-phone")
        assert seen.elsewhere(server.url) == []
        assert any("plotly" in url for url in seen.asked)
        assert seen.wrong == []


@needs_chromium
async def test_depth_is_shown(home: Home) -> None:
    """What waits in a tenant's channel while the database holds it up stands in its row."""
    async with served(home.database, keys=home.keys, pool_size=8, deadline_s=60) as server, browsing() as (page, seen):
        server.app[HUB].tick_s = 0.2
        server.keys["one"] = home.keys[TENANTS[0]]
        await server.get("/warm-up", "one", "POST")
        await enter(page, server.url, home.keys["operator"])
        async with stuck(server, home.database, 25) as answers:
            await until_text(page, '[data-key="harbour-hospital"] td:nth-child(3)', "^25$")
            await until_text(page, "#tenants-text", "^25 requests wait")
        await answers
        await until_text(page, '[data-key="harbour-hospital"] td:nth-child(3)', "^0$")
        assert seen.wrong == []


@needs_chromium
async def test_login_form(home: Home) -> None:
    """A wrong key brings the form back with an error that its field names; logging out leads to it, and the page is gone."""
    async with served(home.database, keys=home.keys, pool_size=8) as server, browsing(width=390) as (page, seen):
        await page.goto(f"{server.url}/console")
        assert page.url == f"{server.url}/console/login"
        assert await page.evaluate("document.activeElement.id") == "key"
        await page.fill("#key", "sluice_wrong")
        await page.keyboard.press("Enter")
        assert await page.inner_text("[role=alert]") == "This key is unknown, or was revoked."
        described = (await page.get_attribute("#key", "aria-describedby") or "").split()
        assert (await page.get_attribute("#key", "aria-invalid"), "said" in described) == ("true", True)
        assert await overflow(page) == 0
        await enter(page, server.url, home.keys["operator"])
        await page.get_by_role("button", name="Log out").click()
        assert await page.inner_text("[role=status]") == "You are logged out."
        await page.goto(f"{server.url}/console")
        assert page.url == f"{server.url}/console/login"
        assert [line for line in seen.wrong if "401" not in line] == []  # the browser tells of the refusal


@needs_chromium
async def test_nothing_yet(database: str) -> None:
    """Without warm tenants, requests and facilities the page says so, and what would change it."""
    await add_tenant(database, "one")
    async with connected(database) as connection:
        operator = await create_key(connection, None, ["operate"])
    async with served(database) as server, browsing(dark=True) as (page, seen):
        server.app[HUB].tick_s = 0.2
        await enter(page, server.url, operator)
        assert "No tenant is warm" in await page.inner_text("#tenants-empty")
        assert "POST /warm-up" in await page.inner_text("#tenants-empty")
        assert await until_text(page, "#facilities-empty", "No facility is registered")
        assert await page.inner_text("#verdict") == "No request has gone through a channel, so there is nothing to compare."
        found = await page.locator("#findings li").all_inner_texts()
        assert found == [] or "event loop" in found[0]  # a machine that has much else to do is told of, rightly
        assert await page.inner_text("#now-title") == ("1 thing needs a look" if found else "All is well")
        assert await page.get_attribute("#plot-spread", "data-empty") == "No warm tenant has asked yet"
        await photograph(page, "console-empty")
        assert seen.wrong == []


@asynccontextmanager
async def on_port(home: Home, port: int) -> AsyncIterator[web.Application]:
    """A server where one was before."""
    app = create_app(Config(database_url=home.database, host="127.0.0.1", port=port, pool_size=8, key_ttl_s=0.2))
    app[HUB].tick_s = 0.2
    runner = runner_of(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield app
    finally:
        await runner.cleanup()


@needs_chromium
async def test_stream_lost_and_found(home: Home) -> None:
    """When the server goes, the page says of when its figures are; when it is back the page goes on, logged in as before."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with browsing() as (page, seen):
        async with on_port(home, port):
            await enter(page, f"http://127.0.0.1:{port}", home.keys["operator"])
        await page.wait_for_selector('#stream[data-state="lost"]')
        assert re.search(r"Connection lost\. Trying again\. Figures are of \d", await page.inner_text("#stream"))
        async with on_port(home, port) as app:
            await live(page)
            app[HUB].watchers_max = 0
            for watcher in list(app[HUB].watchers):
                watcher.end()
            await until_text(page, "#stream-text", "consoles are open here")
            app[HUB].watchers_max = 9
            await live(page)
        expected = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "503")
        assert [line for line in seen.wrong if not any(part in line for part in expected)] == []


@needs_chromium
async def test_revoked_while_watching(home: Home) -> None:
    """When its key is revoked the page leads to the form, which says why."""
    async with connected(home.database) as connection:
        key = await create_key(connection, None, ["operate"])
    async with served(home.database, keys=home.keys, pool_size=8) as server, browsing() as (page, seen):
        server.app[HUB].tick_s = 0.1
        await enter(page, server.url, key)
        async with connected(home.database) as connection:
            await connection.execute("UPDATE ops.api_key SET revoked_at = now() WHERE sha256 = $1", key_hash(key))
        await page.wait_for_url("**/console/login?why=ended")
        assert "The session has ended" in await page.inner_text("[role=status]")
        assert seen.wrong == []


@needs_chromium
async def test_light_and_dark(home: Home) -> None:
    """It follows the system; what is chosen here is remembered, also by the login's page, and plots change with it."""
    async with served(home.database, keys=home.keys, pool_size=8) as server, browsing(dark=True) as (page, _):
        server.app[HUB].tick_s = 0.2
        paper = "getComputedStyle(document.body).backgroundColor"
        await enter(page, server.url, home.keys["operator"])
        await page.wait_for_function("() => document.getElementById('plot-rate').layout")
        dark, ink = await page.evaluate(paper), await page.evaluate("document.getElementById('plot-rate').layout.font.color")
        assert dark == "rgb(18, 24, 27)"
        await page.get_by_role("button", name="Switch to light colours").click()
        assert await page.evaluate(paper) == "rgb(251, 250, 247)"
        await page.wait_for_function("(ink) => document.getElementById('plot-rate').layout.font.color !== ink", arg=ink)
        await page.reload()
        assert await page.evaluate(paper) == "rgb(251, 250, 247)"
        await page.get_by_role("button", name="Log out").click()
        assert await page.evaluate(paper) == "rgb(251, 250, 247)"


@needs_chromium
async def test_keyboard_alone(home: Home) -> None:
    """All that can be pressed is reached by Tab in the page's order, each with a ring that is seen; nothing holds the focus."""
    async with served(home.database, keys=home.keys, pool_size=8) as server, browsing() as (page, _):
        server.app[HUB].tick_s = 0.2
        await page.goto(f"{server.url}/console")
        await page.keyboard.type(home.keys["operator"])
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await live(page)
        await page.wait_for_selector("#facilities-all")
        server.app[HUB].tick_s = 600  # what is found meanwhile would be more to press
        await page.wait_for_function("() => Date.now() - state.tickedAt > 500")
        reached = await tabbed(page)
        wanted = await page.evaluate(
            "[...document.querySelectorAll('a[href], button, [tabindex=\"0\"]')].filter((one) => one.checkVisibility()).length"
        )
        assert len(reached) == wanted
        assert [one["text"] for one in reached[:8]] == [
            "Skip to the figures", "Tenants", "Channel", "Pools", "Views", "Facilities", "Dark", "Log out",
        ]  # fmt: skip
        assert all(one["ring"] >= 2 for one in reached)
        assert all(one["top"] >= 0 and one["height"] > 0 for one in reached)
        assert reached[-1]["text"] == "Show all 12"
        await page.focus("#facilities-all")
        await page.keyboard.press("Enter")
        await page.wait_for_function("() => document.querySelectorAll('#facilities-table tbody tr').length === 12")
        assert await page.get_attribute("#facilities-all", "aria-expanded") == "true"
        await page.reload()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def tabbed(page: Page) -> list[dict[str, Any]]:
    """What Tab reaches from the top of the page, until it leaves it."""
    reached: list[dict[str, Any]] = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        one = await page.evaluate(
            """() => {
                const found = document.activeElement, style = getComputedStyle(found), box = found.getBoundingClientRect();
                return found === document.body ? null : {
                    text: found.innerText.slice(0, 40), top: box.top, height: box.height,
                    ring: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
                };
            }"""
        )
        if one is None or (reached and one["text"] == reached[0]["text"]):
            return reached
        reached.append(one)
    raise AssertionError("Tab never leaves the page")


@needs_chromium
async def test_said_to_who_does_not_see(home: Home) -> None:
    """Every table has a caption and headers with their scope, every plot and part a name; headings are in order."""
    async with served(home.database, keys=home.keys, pool_size=8) as server, browsing() as (page, _):
        server.app[HUB].tick_s = 0.2
        await enter(page, server.url, home.keys["operator"])
        found = await page.evaluate(
            """() => ({
                language: document.documentElement.lang,
                headings: [...document.querySelectorAll("h1, h2, h3")].map((one) => one.tagName),
                captions: [...document.querySelectorAll("table")].filter((one) => !one.caption?.textContent).length,
                scopes: [...document.querySelectorAll("th")].filter((one) => !one.scope).length,
                unnamed: [...document.querySelectorAll("section, [role=region], [role=img], nav")].filter((one) =>
                    !one.getAttribute("aria-label") && !document.getElementById(one.getAttribute("aria-labelledby"))).length,
                pictures: [...document.querySelectorAll("img")].filter((one) => one.alt === null).length,
                status: document.querySelectorAll("[role=status]").length,
            })"""
        )
        assert found == {
            "language": "en", "headings": ["H1", *["H2"] * 5], "captions": 0, "scopes": 0, "unnamed": 0, "pictures": 0,
            "status": 1,
        }  # fmt: skip


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "papers"),
    [
        ("ink", ("paper", "card")),
        ("soft", ("paper", "card")),
        ("channel", ("paper", "card")),
        ("direct", ("card",)),
        ("worse-ink", ("paper", "card", "worse")),
        ("better-ink", ("better",)),
        ("none-ink", ("none",)),
    ],
)
def test_contrast(ink: str, papers: tuple[str, ...], scheme: int) -> None:
    """Every colour that text has stands out from what is behind it by 4.5 at least, light and dark."""
    palette = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS.read_text())}
    for paper in papers:
        bright, dim = sorted((luminance(palette[one][scheme]) for one in (ink, paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, paper


def test_nothing_is_inline() -> None:
    """No page brings a script, a style or a handler of its own, nor an address of anybody else's."""
    folder = Path(handlers.console.__file__).parent
    for page in folder.glob("*.html"):
        text = page.read_text()
        assert not re.search(r"<style|style=|\son\w+=|javascript:", text), page.name
        assert not re.search(r"<script(?![^>]* src=)", text), page.name
    for file in folder.glob("*.*"):
        if file.suffix in (".html", ".css", ".js"):
            addresses = re.findall(r"https?://[^\s\"']+|@import|url\(", file.read_text())
            assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file.name
