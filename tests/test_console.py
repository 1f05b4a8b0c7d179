"""The console's login, session, stream and files, by a plain client; tests/test_console_page.py has it in a browser."""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter, time
from typing import Any

import asyncpg
import plotly
import pytest
from multidict import CIMultiDict

from base.identity import key_hash
from handlers.console import sessions
from handlers.console.hub import HUB, Hub
from handlers.console.sessions import COOKIE
from storage.console import books
from storage.embedded import Cluster
from storage.tenancy import create_key
from tests.processes import running
from tests.support import Home, Reply, Served, add_tenant, build_home, connected, patient, served, until
from tests.test_channels import held

TICK_S = 0.05
UNREAD = (b": " + b"x" * 30_000 + b"\n") * 300
"""More than the sockets of both ends hold; comments, of lines that a client takes."""


@dataclass
class Event:
    kind: str
    id: str
    data: Any


async def fill(home: Home) -> None:
    """A tenant `one`, and an operator's key."""
    home.keys["one"] = await add_tenant(home.database, "one", [patient("p")])
    async with connected(home.database) as connection:
        home.keys["operator"] = await create_key(connection, None, ["operate"])


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    """For all tests that change nothing which others see."""
    return build_home(cluster, template, "console", fill)


@pytest.fixture
async def own(database: str) -> Home:
    """For a test that writes."""
    home = Home(database)
    await fill(home)
    return home


@asynccontextmanager
async def console(home: Home, *, tick_s: float = TICK_S, **settings: Any) -> AsyncIterator[tuple[Served, str]]:
    """A server, and the operator's key."""
    async with served(home.database, keys=home.keys, pool_size=8, **settings) as server:
        server.app[HUB].tick_s = tick_s
        yield server, home.keys["operator"]


async def post(server: Served, path: str, body: str = "", **headers: str) -> Reply:
    headers.setdefault("Content_Type", "application/x-www-form-urlencoded")
    return await server.get(path, None, "POST", body=body.encode(), **headers)


async def log_in(server: Served, key: str) -> str:
    """What a browser then sends as its cookie."""
    reply = await post(server, "/console/login", f"key={key}")
    assert (reply.status, reply.headers["Location"]) == (303, "/console")
    return reply.headers["Set-Cookie"].partition(";")[0]


@asynccontextmanager
async def watching(server: Served, cookie: str) -> AsyncIterator[AsyncIterator[Event]]:
    """The stream's events as they come; it ends as the server ends it."""
    async with server.session.get(f"{server.url}/console/events", headers={"Cookie": cookie}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        yield _events(response.content)


async def _events(content: Any) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}


async def first(events: AsyncIterator[Event], kind: str, condition: Any = lambda _data: True) -> Any:
    async with asyncio.timeout(10):
        async for event in events:
            if event.kind == kind and condition(event.data):
                return event.data
    raise AssertionError("the stream has ended")


# Logging in


async def test_login(home: Home) -> None:
    """The right key gives a cookie that no script reads and no other site sends, and that ends; with it the page is shown."""
    async with console(home) as (server, operator):
        reply = await post(server, "/console/login", f"key=+{operator}+")
        assert (reply.status, reply.headers["Location"]) == (303, "/console")
        cookie, *attributes = reply.headers["Set-Cookie"].split("; ")
        assert set(attributes) == {"HttpOnly", "Max-Age=43200", "Path=/console", "SameSite=Strict"}
        page = await server.get("/console", None, Cookie=cookie)
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"Is the channel worth it?" in page.body
        assert operator not in cookie
        assert key_hash(operator).hex() not in cookie


async def test_cookie_is_secure(home: Home) -> None:
    """Where links begin with https the cookie goes over https alone."""
    async with console(home, base_url="https://sluice.example") as (server, operator):
        assert "Secure" in (await post(server, "/console/login", f"key={operator}")).headers["Set-Cookie"].split("; ")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("key=sluice_wrong", 401, "This key is unknown, or was revoked."),
        ("key=%00%ff", 401, "This key is unknown"),
        ("key=", 400, "Enter a key."),
        ("other=1", 400, "Enter a key."),
        ("key=" + "a" * 5000, 400, "Enter a key."),
    ],
)
async def test_login_refused(home: Home, body: str, status: int, words: str) -> None:
    """What is no key gets the form again, with an error and without a cookie."""
    async with console(home) as (server, _):
        reply = await post(server, "/console/login", body)
        assert (reply.status, "Set-Cookie" in reply.headers) == (status, False)
        assert words in reply.body.decode()
        assert 'action="/console/login"' in reply.body.decode()


async def test_scope_is_needed(home: Home) -> None:
    """A tenant's key of every scope but `operate` is refused with 403; with `operate` it may."""
    async with console(home) as (server, _):
        async with connected(home.database) as connection:
            plain = await create_key(connection, "one", ["read", "warm", "report"])
        reply = await post(server, "/console/login", f"key={plain}")
        assert (reply.status, "Set-Cookie" in reply.headers) == (403, False)
        assert "sluice key create --operator" in reply.body.decode()
        assert await log_in(server, server.keys["one"])


async def test_without_session(home: Home) -> None:
    """Without a session the page leads to the form and the stream answers 401; a cookie that was not made here is none."""
    async with console(home) as (server, operator):
        good = await log_in(server, operator)
        for cookie in ("", f"{COOKIE}=x", good[:-4] + "AAAA", good + "A", good.replace("=", "=A", 1)):
            page = await server.get("/console", None, Cookie=cookie)
            assert (page.status, page.headers["Location"]) == (303, "/console/login")
            assert (await server.get("/console/events", None, Cookie=cookie)).status == 401
        as_bearer = await server.get("/console", None, Authorization=f"Bearer {operator}")
        assert as_bearer.status == 303


async def test_cookie_opens_nothing_else(home: Home) -> None:
    """What is in the cookie is no key, and a page's cursor is no session."""
    async with console(home) as (server, operator):
        value = (await log_in(server, operator)).partition("=")[2]
        assert (await server.get("/patients/p", None, Authorization=f"Bearer {value}")).status == 401
        cursor = server.services.cursors.seal(1, ("console", "session"), [key_hash(operator).hex(), int(time()) + 1000])
        assert (await server.get("/console", None, Cookie=f"{COOKIE}={cursor}")).status == 303


async def test_session_needs_the_scope(home: Home) -> None:
    """A session is as good as its key is now: of one that may not operate any more it is none."""
    async with console(home) as (server, _):
        async with connected(home.database) as connection:
            plain = await create_key(connection, "one", ["read"])
        session = [key_hash(plain).hex(), int(time()) + 1000]
        cookie = server.services.cursors.seal(*sessions._BOUND_TO, session)
        assert (await server.get("/console", None, Cookie=f"{COOKIE}={cookie}")).status == 303


async def test_session_ends_in_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve hours after the login the cookie is good for nothing, whatever the browser thinks."""
    async with console(home) as (server, operator):
        monkeypatch.setattr(sessions, "LASTS_S", -1)
        cookie = await log_in(server, operator)
        assert (await server.get("/console", None, Cookie=cookie)).status == 303


async def test_logout(home: Home) -> None:
    """Logging out takes the cookie away, by POST alone."""
    async with console(home) as (server, operator):
        cookie = await log_in(server, operator)
        assert (await server.get("/console/logout", None, Cookie=cookie)).status == 405
        reply = await post(server, "/console/logout", Cookie=cookie)
        assert (reply.status, reply.headers["Location"]) == (303, "/console/login?why=out")
        assert f'{COOKIE}=""; ' in reply.headers["Set-Cookie"]
        assert "Max-Age=0" in reply.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
async def test_other_sites_are_refused(home: Home, headers: dict[str, str]) -> None:
    """A form of another site neither logs in nor out, even with the right key."""
    async with console(home) as (server, operator):
        for path in ("/console/login", "/console/logout"):
            reply = await post(server, path, f"key={operator}", **headers)
            assert (reply.status, "Set-Cookie" in reply.headers) == (403, False)
        same = {"Sec_Fetch_Site": "same-origin"} if "Sec_Fetch_Site" in headers else {"Origin": server.url}
        assert (await post(server, "/console/login", f"key={operator}", **same)).status == 303


async def test_session_in_every_process(home: Home) -> None:
    """A session begun in one process is good in another, and in one that starts later, with the secret of the database."""
    async with console(home) as (server, operator), served(home.database) as other:
        cookie = await log_in(server, operator)
        assert (await other.get("/console", None, Cookie=cookie)).status == 200
    async with served(home.database) as later, served(home.database, secret="another one") as stranger:
        assert (await later.get("/console", None, Cookie=cookie)).status == 200
        assert (await stranger.get("/console", None, Cookie=cookie)).status == 303


# Headers and files


async def test_policy(home: Home) -> None:
    """Every page forbids what is inline and what is from elsewhere, frames, sniffing and keeping."""
    async with console(home) as (server, operator):
        cookie = await log_in(server, operator)
        for path, method in (
            ("/console", "GET"),
            ("/console/login", "GET"),
            ("/console/login", "POST"),
            ("/console/logout", "POST"),
        ):
            headers = (await server.get(path, None, method, Cookie=cookie)).headers
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
            assert headers["Referrer-Policy"] == "same-origin"


async def test_files(home: Home) -> None:
    """What the page asks for stands at a path of its own content, compressed, kept for ever, and is known by its ETag."""
    async with console(home) as (server, operator):
        page = (await server.get("/console", None, Cookie=await log_in(server, operator))).body.decode()
        paths = re.findall(r'"(/console/static/[^"]+)"', page)
        assert {path.rpartition("/")[2] for path in paths} >= {"theme.css", "console.css", "console.js", "plotly.min.js"}
        for path in set(paths):
            plain, packed = await server.get(path, None), await server.get(path, None, Accept_Encoding="gzip")
            assert packed.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(packed.body) == plain.body
            for reply, encoding in ((plain, "identity"), (packed, "gzip")):
                assert "immutable" in reply.headers["Cache-Control"]
                assert reply.headers["Vary"] == "Accept-Encoding"
                known = await server.get(path, None, If_None_Match=CIMultiDict(reply.headers)["ETag"], Accept_Encoding=encoding)
                assert (known.status, known.body) == (304, b"")
        (script,) = {path for path in paths if path.endswith("plotly.min.js")}
        assert (await server.get(script, None)).body == (
            Path(plotly.__file__).parent / "package_data/plotly.min.js"
        ).read_bytes()


async def test_files_of_another_version(home: Home) -> None:
    """An older page finds today's file, which it must not keep; what there is not is 404."""
    async with console(home) as (server, _):
        old = await server.get("/console/static/0123456789abcdef/console.js", None)
        assert (old.status, old.headers["Cache-Control"]) == (200, "no-cache")
        assert (await server.get("/console/static/0123456789abcdef/secret.py", None)).status == 404
        assert (await server.get("/console/static/0123456789abcdef/console.html", None)).status == 404


# The stream


async def test_stream(home: Home) -> None:
    """It begins with what does not change, the figures come at once and go on, numbered, and the database's books beside."""
    async with (
        console(home, control_share=0.25) as (server, operator),
        watching(server, await log_in(server, operator)) as events,
    ):
        hello = await anext(events)
        assert (hello.kind, hello.data["control_share"], hello.data["channels"]) == ("hello", 0.25, "on")
        seen = [await anext(events) for _ in range(5)]
        ticks = [event for event in seen if event.kind == "tick"]
        assert [int(tick.id) for tick in ticks] == sorted({tick.data["at"] for tick in ticks})
        assert [event.kind for event in seen].count("books") == 1
        assert len(ticks) == 4


async def test_stream_tells_of_tenants(home: Home) -> None:
    """A warm tenant is told with what is left of its cooldown, which falls; a cold one is not."""
    async with (
        console(home, cooldown_s=100) as (server, operator),
        watching(server, await log_in(server, operator)) as events,
    ):
        assert (await first(events, "tick"))["tenants"] == {"rows": [], "number": 0, "waiting": 0}
        await server.get("/warm-up", method="POST")
        told = [await first(events, "tick", lambda tick: tick["tenants"]["number"] == 1) for _ in range(6)]
        rows = [tick["tenants"]["rows"][0] for tick in told]
        assert {(row["name"], row["state"]) for row in rows[1:]} == {("one", "warm")}
        left = [row["left_s"] for row in rows]
        assert 100 >= left[0] > left[-1] > 90
        assert left == sorted(left, reverse=True)
        await server.get("/warm-up", method="DELETE")
        await first(events, "tick", lambda tick: tick["tenants"]["number"] == 0)


async def test_idle_countdown(home: Home) -> None:
    """Where the cooldown counts from the last request, so does what is told of it."""
    async with console(home, cooldown_s=100, cooldown="idle") as (server, _):
        await server.get("/warm-up", method="POST")
        registry = server.services.registry
        (before,) = (left for _, _, left in registry.attached())
        await until(lambda: registry.attached()[0][2] < before - 0.2)
        await server.get("/patients/p")
        assert registry.attached()[0][2] > before - 0.2


async def test_revoked_key_ends_the_stream(own: Home) -> None:
    """Revoking the key ends a running stream when the key's memory has run out, and says so; the page then wants a login."""
    async with console(own, key_ttl_s=0.3) as (server, operator):
        cookie = await log_in(server, operator)
        async with watching(server, cookie) as events:
            await first(events, "tick")
            async with connected(own.database) as connection:
                await connection.execute("UPDATE ops.api_key SET revoked_at = now() WHERE sha256 = $1", key_hash(operator))
            began = perf_counter()
            await first(events, "ended")
            assert perf_counter() - began < 0.3 + 10 * TICK_S
            assert [event async for event in events] == []
        assert (await server.get("/console", None, Cookie=cookie)).status == 303


async def test_watched_alone(home: Home) -> None:
    """The loop runs while somebody watches: one for all of them, and none when the last has left."""
    async with console(home) as (server, operator):
        hub, cookie = server.app[HUB], await log_in(server, operator)
        assert hub._task is None
        async with watching(server, cookie) as one, watching(server, cookie) as two:
            loop = hub._task
            theirs = [await first(events, "tick", lambda tick: tick["span_s"] >= 0) for events in (one, two)]
            assert theirs[0]["at"] <= theirs[1]["at"]
            assert (hub._task, len(hub.watchers)) == (loop, 2)
        await until(lambda: not hub.watchers)
        assert loop is not None
        await until(loop.done)


async def test_watchers_are_bounded(home: Home) -> None:
    """One more than there may be is refused with 503 and words; when one leaves, another may come."""
    async with console(home) as (server, operator):
        hub, cookie = server.app[HUB], await log_in(server, operator)
        hub.watchers_max = 1
        async with watching(server, cookie):
            reply = await server.get("/console/events", None, Cookie=cookie)
            assert (reply.status, "Retry-After" in reply.headers) == (503, True)
            assert reply.json["detail"].startswith("1 consoles are open here")
        await until(lambda: not hub.watchers)
        async with watching(server, cookie) as events:
            await first(events, "tick")


async def test_slow_reader_is_dropped(home: Home) -> None:
    """Who does not read is cut off and holds nobody up: what he was not sent is not kept."""
    async with console(home) as (server, operator):
        hub, cookie = server.app[HUB], await log_in(server, operator)
        with socket.create_connection(("127.0.0.1", server.services.config.port)) as lazy:
            lazy.sendall(f"GET /console/events HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n".encode())
            await until(lambda: len(hub.watchers) == 1)
            (theirs,) = hub.watchers
            async with watching(server, cookie) as events:
                theirs.tell(UNREAD)
                for _ in range(12):
                    await first(events, "tick")
                await until(lambda: theirs not in hub.watchers)


async def test_shutdown_does_not_wait(home: Home) -> None:
    """A server that is told to end does so at once, whoever watches and whoever does not read; the stream ends cleanly."""
    async with console(home) as (server, operator):
        hub, cookie = server.app[HUB], await log_in(server, operator)
        with socket.create_connection(("127.0.0.1", server.services.config.port)) as lazy:
            lazy.sendall(f"GET /console/events HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n".encode())
            await until(lambda: len(hub.watchers) == 1)
            (theirs,) = hub.watchers
            async with watching(server, cookie) as events:
                await first(events, "tick")
                theirs.tell(UNREAD)
                await until(lambda: theirs.is_writing)
                began = perf_counter()
                await server.app.shutdown()
                assert not [event async for event in events if event.kind == "ended"]
                await until(lambda: not hub.watchers)
                assert perf_counter() - began < 2
                assert (await server.get("/console/events", None, Cookie=cookie)).status == 503


def asked(tick: dict[str, Any]) -> int:
    return sum(arm["n"] for arm in tick["comparison"]["arms"].values())


@pytest.mark.prove
async def test_all_processes_are_told_of(home: Home) -> None:
    """With several processes a console shows the sum of all, wherever its stream has landed; the session holds in each."""
    key, operator = home.keys["one"], home.keys["operator"]
    async with running("serve", "--workers", "2", database_url=home.database, key_ttl_s=1) as process:
        url = await process.url(2)
        async with _client(url, key) as server:
            async with watching(server, await log_in(server, operator)) as events:
                await first(events, "tick")
                for _ in range(40):  # each on a connection of its own, so that both get some
                    async with _client(url, key) as client:
                        assert (await client.get("/patients/p")).status == 200
                told = await first(events, "tick", lambda tick: asked(tick) >= 40)
                assert asked(told) == 40
                assert told["pools"][0]["size"] == 22
            assert await process.end() == 0


@asynccontextmanager
async def _client(url: str, key: str) -> AsyncIterator[Served]:
    from tests.support import session_of

    async with session_of() as session:
        yield Served(None, url, session, "", {"one": key})  # type: ignore[arg-type]


# What the database says


MINUTE = timedelta(minutes=1)


async def register(
    connection: asyncpg.Connection,
    licence: str,
    state: str = "active",
    *outcomes: str | None,
    ago: timedelta = timedelta(minutes=1),
) -> None:
    """A facility of the first tenant, with runs; the last one's outcome is the last."""
    number = await connection.fetchval(
        "INSERT INTO ops.facility (tenant_id, licence, url, login, password, since, state, created_at) "
        "VALUES (1, $1, 'https://post.example', 'the-login', 'the-password', now(), $2, now() - $3::interval) "
        "RETURNING facility_no",
        licence, state, ago,
    )  # fmt: skip
    for outcome in outcomes:
        await connection.execute(
            "INSERT INTO ops.poll_run (facility_no, worker, started_at, finished_at, outcome, reason, claims) "
            "VALUES ($1, 'w', now() - $2::interval, CASE WHEN $3::text IS NOT NULL THEN now() END, $3, $4, 7)",
            number, ago, outcome, "" if outcome in ("ok", None) else "the post office is away",
        )  # fmt: skip


async def test_books(own: Home) -> None:
    """Facilities with their last run that is over, judged by the rule of the metrics, and nothing of their mailbox."""
    async with console(own) as (server, _):
        async with connected(own.database) as connection:
            await register(connection, "F1-ok", "active", "failed", "ok")
            await register(connection, "F2-failing", "active", "ok", "timeout")
            await register(connection, "F3-paused", "paused", "failed")
            await register(connection, "F4-stopped", "stopped", "failed")
            await register(connection, "F5-overdue", "active", "ok", ago=timedelta(hours=2))
            await register(connection, "F6-running", "active", "ok", None, ago=timedelta(hours=2))
            await register(connection, "F7-new")
            await connection.execute(
                "INSERT INTO ops.ingest_error (tenant_id, facility_no, file_id, severity, reason, at) VALUES "
                "(1, 1, 'a', 'quarantined', 'x', now()), (1, 1, 'b', 'warning', 'x', now()), "
                "(1, 1, 'c', 'aside', 'x', now() - interval '2 days')"
            )
            await connection.execute(
                "UPDATE ops.report_view SET incremental = true, rows = 12, applied = 3 WHERE name = 'claims-by-payer'"
            )
            await connection.execute(
                "INSERT INTO claims.change (tenant_id, provider_id, claim_id, remitted) VALUES (1, 'a', 'b', false)"
            )
        found = await books(server.services.storage, 1800.0)
        shown = {one["licence"]: one for one in found.facilities}
        assert {name: one["health"] for name, one in shown.items()} == {
            "F1-ok": "ok", "F2-failing": "failing", "F3-paused": "paused", "F4-stopped": "stopped", "F5-overdue": "overdue",
            "F6-running": "ok", "F7-new": "ok",
        }  # fmt: skip
        assert (shown["F1-ok"]["problems"], shown["F1-ok"]["outcome"], shown["F1-ok"]["claims"]) == (1, "ok", 7)
        assert (shown["F6-running"]["is_running"], shown["F6-running"]["outcome"]) == (True, "ok")
        assert (shown["F7-new"]["outcome"], shown["F7-new"]["finished_at"]) == (None, None)
        assert shown["F2-failing"]["why"] == "the post office is away"
        assert not {"the-login", "the-password", "https://post.example"} & set(
            map(str, (v for one in found.facilities for v in one.values()))
        )
        views = {one["name"]: one for one in found.views}
        assert list(views) == ["balance-amount", "remittance-advice", "claims-by-payer"]
        assert {name: one["behind_since"] is not None for name, one in views.items()} == {
            "balance-amount": True, "remittance-advice": False, "claims-by-payer": True,
        }  # fmt: skip
        assert (views["claims-by-payer"]["way"], views["claims-by-payer"]["rows"]) == ("by changes", 12)


async def test_books_are_sent_when_they_change(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facilities and views come once, and again when something has changed."""
    monkeypatch.setattr("handlers.console.hub.BOOKS_EVERY_S", 0.05)
    async with console(own) as (server, operator), watching(server, await log_in(server, operator)) as events:
        assert (await first(events, "books"))["facilities"] == []
        assert [(await anext(events)).kind for _ in range(8)] == ["tick"] * 8
        async with connected(own.database) as connection:
            await register(connection, "F1", "active", "failed")
        assert [one["licence"] for one in (await first(events, "books"))["facilities"]] == ["F1"]
        found = await first(events, "tick", lambda tick: tick["findings"])
        assert found["findings"] == [{"weight": "look", "where": "facilities", "text": "facility F1 failed at the last poll"}]


async def test_depth_under_a_held_table(home: Home) -> None:
    """While the database holds requests up, those that wait in a channel are shown; afterwards none."""
    async with console(home) as (server, operator), watching(server, await log_in(server, operator)) as events:
        await server.get("/warm-up", method="POST")
        async with stuck(server, home.database, 30) as requests:
            told = await first(events, "tick", lambda tick: tick["tenants"]["waiting"] >= 30)
            assert told["tenants"]["rows"][0]["depth"] == told["tenants"]["waiting"] == 30
        await requests
        assert (await first(events, "tick", lambda tick: not tick["tenants"]["waiting"]))["tenants"]["rows"][0]["depth"] == 0


_HELD = """
    SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE NOT granted AND d.datname = current_database()
"""


@asynccontextmanager
async def stuck(server: Served, database: str, number: int) -> AsyncIterator["asyncio.Future[list[Reply]]"]:
    """So many requests wait in a channel, behind two whose statements a lock holds up; what is given has all answers."""
    async with held(database, "fhir.resource_patient"), connected(database) as owner, asyncio.timeout(20):
        asked = []
        for number_held in (1, 2):  # each alone in its batch
            asked.append(asyncio.create_task(server.get(f"/patients/first{number_held}")))
            while await owner.fetchval(_HELD) < number_held:
                pass
        asked += [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(number)]
        yield asyncio.gather(*asked)


async def test_database_away(own: Home, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database the stream goes on and says so, and who was let in stays; when it is back all is well again."""
    monkeypatch.setattr("handlers.console.hub.BOOKS_EVERY_S", 0.05)
    name = own.database.rpartition("/")[2]
    async with console(own, key_ttl_s=0.05) as (server, operator), connected(cluster.url) as owner:
        cookie = await log_in(server, operator)
        async with watching(server, cookie) as events:
            await first(events, "books")
            await owner.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            told = await first(events, "tick", lambda tick: tick["database"])
            assert {"weight": "bad", "where": "pools", "text": told["database"]} in told["findings"]
            assert (await server.get("/console", None, Cookie=cookie)).status == 200
            stranger = await post(server, "/console/login", "key=sluice_unknown")
            assert (stranger.status, "Nobody can be let in now" in stranger.body.decode()) == (503, True)
            await owner.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await first(events, "tick", lambda tick: not tick["database"])


def test_hub_says_how_often() -> None:
    """A look is due every two seconds at most."""
    assert Hub().tick_s <= 2
