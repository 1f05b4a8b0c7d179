"""What tests share: a served app, tenants with data and keys, a client that asks by both paths, and walks over pages."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import asyncpg
import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict

from app.main import MakeDispatcher, create_app
from base.config import Config
from base.identity import DEFAULT_SCOPES
from handlers.protocol import runner_of
from handlers.services import SERVICES, Services
from r4.resource import split
from storage.embedded import Cluster
from storage.resources import Batch, upsert
from storage.tenancy import create_key, create_tenant
from tenants.dispatcher import Dispatcher
from tests.conftest import make_database

PATHS = ("direct", "channel")
OWN_TO_EACH = {"X-Request-ID", "X-Sluice-Path", "Server-Timing", "Date"}
JSON = "application/fhir+json;charset=utf-8"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


@dataclass
class Served:
    """A running server: its services, its URL, and requests with a tenant's key."""

    services: Services
    url: str
    session: aiohttp.ClientSession
    database: str
    keys: dict[str, str] = field(default_factory=dict)
    app: web.Application = field(default_factory=web.Application)

    def headers(self, tenant: str | None, headers: dict[str, str] | None = None) -> dict[str, str]:
        return {**({"Authorization": f"Bearer {self.keys[tenant]}"} if tenant else {}), **(headers or {})}

    async def get(
        self, path: str, tenant: str | None = "one", method: str = "GET", *, body: bytes | None = None, **headers: str
    ) -> "Reply":
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        from yarl import URL

        async with self.session.request(
            method, URL(self.url + path, encoded=True), headers=self.headers(tenant, given), data=body, allow_redirects=False
        ) as response:
            return Reply(response.status, dict(response.headers), await response.read())


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def path(self) -> str:
        return self.headers["X-Sluice-Path"]


async def connect(url: str, **settings: str) -> asyncpg.Connection:
    return await asyncpg.connect(url, server_settings=settings)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def add_tenant(url: str, name: str, resources: Iterable[dict[str, Any]] = (), *, exclusive: bool = False) -> str:
    """Makes a tenant with a key of every scope, and stores resources; returns the key."""
    async with connected(url) as connection:
        await create_tenant(connection, name, exclusive=exclusive)
        await store(connection, name, resources)
        return await create_key(connection, name, [*DEFAULT_SCOPES, "operate"])


async def store(connection: asyncpg.Connection, tenant: str, resources: Iterable[dict[str, Any]], now: datetime = NOW) -> None:
    tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = $1", tenant)
    batch = Batch([split(orjson.dumps(resource)) for resource in resources])
    async with connection.transaction():
        await upsert(connection, tenant_id, batch, now)


@asynccontextmanager
async def served(
    database: str,
    *,
    keys: dict[str, str] | None = None,
    watch: Middleware | None = None,
    make_dispatcher: MakeDispatcher = Dispatcher,
    **settings: Any,
) -> AsyncIterator[Served]:
    """The app on a free port. Open it inside the test's body: a TaskGroup's crash then fails the test itself.

    `watch` sees every request first, and every answer as it is sent.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]  # known before it is served, so that links lead back here
    config = Config(database_url=database, host="127.0.0.1", port=port, **{"control_share": 0.0, "key_ttl_s": 0.2, **settings})
    app = create_app(config, make_dispatcher=make_dispatcher)
    app.middlewares[:0] = [watch] if watch else []
    runner = runner_of(app)
    try:
        await runner.setup()
        await web.SockSite(runner, listening, backlog=1024).start()
        async with session_of() as session:
            yield Served(app[SERVICES], f"http://127.0.0.1:{port}", session, database, dict(keys or {}), app)
    finally:
        await runner.cleanup()
        listening.close()


def session_of() -> aiohttp.ClientSession:
    """A client that sends nothing of its own, and is shown what was sent."""
    # Unlimited: a test of 300 waiting requests must not wait in its own client.
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, auto_decompress=False, skip_auto_headers=["Accept-Encoding"])


def patient(key: str, /, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": key, **more}


def encounter(key: str, start: str | None = None, /, **more: Any) -> dict[str, Any]:
    period = {"period": {"start": start}} if start else {}
    return {
        "resourceType": "Encounter",
        "id": key,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        **period,
        **more,
    }


async def until(condition: Any, *, within_s: float = 5.0) -> None:
    """Waits until `condition()` holds, looking again each time that the event loop comes round."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


@dataclass
class Home:
    """A migrated database with tenants in it, and their keys."""

    database: str
    keys: dict[str, str] = field(default_factory=dict)


@dataclass
class Asker:
    """Asks as a client does. On the channel path it asks a second time, directly, and the two answers must be equal."""

    server: Served
    path: str

    async def __call__(self, path: str, tenant: str = "one", method: str = "GET", **more: Any) -> Reply:
        reply = await self.once(path, tenant, method, **more)
        if self.path == "channel":
            direct = await self.once(path, tenant, method, X_Sluice_Force="direct", **more)
            assert direct.headers.get("X-Sluice-Path") != "channel"
            assert shown(reply) == shown(direct)
        return reply

    async def once(self, path: str, tenant: str | None = "one", method: str = "GET", **more: Any) -> Reply:
        """`more`: headers, with _ for -, and `body`."""
        reply = await self.server.get(path, tenant, method, **more)
        return Reply(reply.status, cast("dict[str, str]", CIMultiDict(reply.headers)), reply.body)


def shown(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """What must not depend on the path."""
    return reply.status, {name: value for name, value in reply.headers.items() if name not in OWN_TO_EACH}, reply.body


@asynccontextmanager
async def asking(home: Home, path: str, **settings: Any) -> AsyncIterator[Asker]:
    """A server on which every tenant goes the wanted path."""
    async with served(home.database, keys=home.keys, **{"pool_size": 8, **settings}) as server:
        await set_path(server, path)
        yield Asker(server, path)


async def set_path(server: Served, path: str) -> None:
    """For all tenants."""
    for tenant in server.keys:
        standing = await server.get("/warm-up", tenant, "POST" if path == "channel" else "DELETE")
        assert standing.status in (200, 201, 403)


def build_home(cluster: Cluster, template: str, name: str, fill: Callable[[Home], Coroutine[Any, Any, None]]) -> Home:
    """A database for all tests of one file: `fill` puts in what they read."""

    async def make() -> Home:
        home = Home(await make_database(cluster, name, template))
        await fill(home)
        return home

    return asyncio.run(make())


async def delete(database: str, tenant: str, *keys: tuple[str, str]) -> None:
    async with connected(database) as connection, connection.transaction():
        tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = $1", tenant)
        await upsert(connection, tenant_id, Batch([], keys), NOW)


def diagnosed(reply: Reply, status: int, code: str) -> str:
    """Checks that a refusal is an OperationOutcome, and returns its words."""
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == JSON
    assert reply.json["resourceType"] == "OperationOutcome"
    (issue,) = reply.json["issue"]
    assert (issue["severity"], issue["code"]) == ("error", code)
    return str(issue["diagnostics"])


def ids(reply: Reply) -> list[str]:
    """Of a page's matches, in their order."""
    assert reply.status == 200, reply.body
    return [entry["resource"]["id"] for entry in reply.json.get("entry", []) if entry["search"]["mode"] == "match"]


def included(reply: Reply) -> list[str]:
    """`Type/id` of what a page brings beside its matches, in their order."""
    assert reply.status == 200, reply.body
    extra = [entry["resource"] for entry in reply.json.get("entry", []) if entry["search"]["mode"] == "include"]
    return [f"{resource['resourceType']}/{resource['id']}" for resource in extra]


def self_pairs(reply: Reply) -> list[tuple[str, str]]:
    """What the self link says was asked."""
    (url,) = (link["url"] for link in reply.json["link"] if link["relation"] == "self")
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)


def bundle_of(reply: Reply) -> dict[str, Any]:
    """Validated by the standard's own models."""
    from fhir.resources.R4B import get_fhir_model_class

    assert reply.status == 200, reply.body
    get_fhir_model_class("Bundle").model_validate(reply.json)
    return dict(reply.json)


def following(reply: Reply) -> str | None:
    """The next link's path and query, as a client of this server follows it."""
    links = {link["relation"]: link["url"] for link in reply.json["link"]}
    assert set(links) <= {"self", "next"}
    if "next" not in links:
        return None
    url = urlsplit(links["next"])
    return f"{url.path}?{url.query}"


async def walk(ask: Asker, url: str) -> list[list[str]]:
    """The ids of each page, to the end."""
    pages: list[list[str]] = []
    step: str | None = url
    while step is not None:
        reply = await ask(step)
        pages.append(ids(reply))
        step = following(reply)
        assert len(pages) < 100
    return pages


def cursor_of(reply: Reply) -> str:
    return dict(parse_qsl(urlsplit(following(reply) or "").query))["_cursor"]
