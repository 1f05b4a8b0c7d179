"""Pages of other origins: who may ask, what a browser is told before it asks, and nothing at all where it is off."""

import pytest

from base.errors import TenantBusy
from handlers.services import Services
from handlers.wellknown import PATHS as WELL_KNOWN
from storage.embedded import Cluster
from tests.support import PATHS, Asker, Home, Reply, add_tenant, asking, build_home, diagnosed, patient, until

APP = "https://app.example"
EXPOSED = {"ETag", "Last-Modified", "X-Request-ID", "X-Sluice-Path", "Server-Timing", "Retry-After"}
TAKEN = {
    "Authorization", "Content-Type", "Accept", "Prefer", "If-None-Match", "If-Modified-Since", "X-Request-ID",
    "X-Sluice-Force",
}  # fmt: skip


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", [patient("a"), patient("long", text={"div": "x" * 2000})])


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "cors", _fill)


def granted(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("Access-Control-")}


async def prepare(ask: Asker, path: str, origin: str = APP) -> Reply:
    """What a browser sends first, without a key."""
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,if-none-match"}
    return await ask.once(path, None, "OPTIONS", Origin=origin, **asked)


@pytest.mark.parametrize("path", PATHS)
async def test_off(home: Home, path: str) -> None:
    """Unless it is set, no answer says anything of origins, and OPTIONS is 405."""
    async with asking(home, path) as ask:
        answers = [
            await ask("/patients/a", Origin=APP),
            await ask("/patients/zz", Origin=APP),
            await prepare(ask, "/patients/a"),
        ]
        assert diagnosed(answers[-1], 405, "not-supported")
        for reply in answers:
            assert granted(reply) == {}
            assert "Vary" not in reply.headers


@pytest.mark.parametrize("origins", [(APP,), ("https://first.example", APP), ("*",)])
async def test_preflight(home: Home, origins: tuple[str, ...]) -> None:
    """A browser is told without a key what it may send, wherever it asks; the answer is counted and has its request id."""
    async with asking(home, "direct", cors_origins=origins) as ask:
        counted = ask.server.services.metrics.requests.child("none", "none", "204", "")
        paths = ("/patients/a", "/fhir/Patient?family=x", "/reviews/e", "/warm-up", "/fhir/metadata", *WELL_KNOWN, "/nowhere")
        for number, path in enumerate(paths):
            reply = await prepare(ask, path)
            assert (reply.status, reply.body) == (204, b"")
            assert reply.headers["Access-Control-Allow-Origin"] == ("*" if origins == ("*",) else APP)
            assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST, DELETE"
            assert set(reply.headers["Access-Control-Allow-Headers"].split(", ")) == TAKEN
            assert int(reply.headers["Access-Control-Max-Age"]) > 0
            assert reply.headers["X-Request-ID"]
            await until(lambda number=number: counted.value == number + 1)


async def test_options_without_question(home: Home) -> None:
    """OPTIONS that is no preflight is 405, as everywhere; a page may read that."""
    async with asking(home, "direct", cors_origins=(APP,)) as ask:
        reply = await ask.once("/patients/a", None, "OPTIONS", Origin=APP)
        assert diagnosed(reply, 405, "not-supported")
        assert reply.headers["Access-Control-Allow-Origin"] == APP
        assert (await ask.once("/patients/a", None, "OPTIONS")).status == 405


STRANGERS = [
    "https://other.example", "http://app.example", "https://app.example:8443", "https://app.example.evil.example",
    "https://evil.example/https://app.example", "https://xapp.example", "null", "", "HTTPS://APP.EXAMPLE", "*",
]  # fmt: skip


async def test_strangers(home: Home) -> None:
    """An origin that is not listed to the letter is granted nothing; caches are told that it depends on the origin."""
    async with asking(home, "direct", cors_origins=(APP,)) as ask:
        for origin in STRANGERS:
            reply = await ask("/patients/a", Origin=origin)
            assert (reply.status, granted(reply), reply.headers["Vary"]) == (200, {}, "Origin"), origin
            before = await prepare(ask, "/patients/a", origin)
            assert (before.status, granted(before), before.headers["Vary"]) == (405, {}, "Origin"), origin
        silent = await ask("/patients/a")
        assert (granted(silent), silent.headers["Vary"]) == ({}, "Origin")


@pytest.mark.parametrize("path", PATHS)
async def test_answers(home: Home, path: str) -> None:
    """A page reads answers, and those of their headers that it needs; Vary keeps what it says of compression."""
    async with asking(home, path, cors_origins=(APP,)) as ask:
        for url, headers, status in (
            ("/patients/a", {}, 200),
            ("/patients/a", {"If_None_Match": "*"}, 304),
            ("/fhir/Patient?family=x", {}, 200),
            ("/patients/long", {"Accept_Encoding": "gzip"}, 200),
        ):
            reply = await ask(url, Origin=APP, **headers)
            assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (status, APP)
            assert set(reply.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED
            assert reply.headers["Vary"] == ("Accept-Encoding, Origin" if url == "/patients/long" else "Origin")
            assert "Access-Control-Allow-Credentials" not in reply.headers


async def test_everybody(home: Home) -> None:
    """With * every page may ask, and never with credentials; nothing depends on the origin then."""
    async with asking(home, "direct", cors_origins=("*",)) as ask:
        for origin in (APP, "null", "http://localhost:3000"):
            reply = await ask("/patients/a", Origin=origin)
            assert set(granted(reply)) == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
            assert "Vary" not in reply.headers
        assert granted(await ask("/patients/a")) == {}


async def test_refusals(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may read why it was refused, whatever refused it."""

    def submit(_services: Services, _actor: object, _ask: object) -> None:
        raise TenantBusy("one has 256 requests waiting")

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with asking(home, "direct", cors_origins=(APP,)) as ask:
        refusals = [
            (401, await ask.once("/patients/a", None, Origin=APP)),
            (401, await ask.once("/warm-up", None, "POST", Origin=APP)),
            (400, await ask("/patients/a_b", Origin=APP)),
            (404, await ask("/patients/zz", Origin=APP)),
            (404, await ask("/nowhere", Origin=APP)),
            (404, await ask.once(WELL_KNOWN[0], None, Origin=APP)),
            (405, await ask("/patients/a", method="PUT", Origin=APP)),
            (406, await ask("/patients/a?_format=xml", Origin=APP)),
            (414, await ask("/patients?family=" + "x" * 9000, Origin=APP)),
        ]
        monkeypatch.setattr(Services, "submit", submit)
        refusals.append((429, await ask("/patients/a", Origin=APP)))
        monkeypatch.setattr("handlers.routing._identified", broken)
        refusals.append((500, await ask("/patients/a", Origin=APP)))
        for status, reply in refusals:
            assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (status, APP)
            assert "Retry-After" in reply.headers["Access-Control-Expose-Headers"]
            assert reply.headers["Vary"] == "Origin"
