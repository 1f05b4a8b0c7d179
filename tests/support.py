"""What tests share: a served app, tenants with data and keys, and a client."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import orjson
from aiohttp import web

from app.main import create_app
from base.config import Config
from base.identity import DEFAULT_SCOPES
from handlers.protocol import runner_of
from handlers.services import SERVICES, Services
from r4.resource import split
from storage.resources import Batch, upsert
from storage.tenancy import create_key, create_tenant

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


@dataclass
class Served:
    """A running server: its services, its URL, and requests with a tenant's key."""

    services: Services
    url: str
    session: aiohttp.ClientSession
    database: str
    keys: dict[str, str] = field(default_factory=dict)

    def headers(self, tenant: str | None, headers: dict[str, str] | None = None) -> dict[str, str]:
        return {**({"Authorization": f"Bearer {self.keys[tenant]}"} if tenant else {}), **(headers or {})}

    async def get(self, path: str, tenant: str | None = "one", method: str = "GET", **headers: str) -> "Reply":
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        from yarl import URL

        async with self.session.request(
            method, URL(self.url + path, encoded=True), headers=self.headers(tenant, given), allow_redirects=False
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
async def served(database: str, *, keys: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Served]:
    """The app on a free port. Open it inside the test's body: a TaskGroup's crash then fails the test itself."""
    config = Config(database_url=database, host="127.0.0.1", port=0, **{"control_share": 0.0, "key_ttl_s": 0.2, **settings})
    app = create_app(config)
    runner = runner_of(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        # Unlimited: a test of 300 waiting requests must not wait in its own client.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Served(app[SERVICES], f"http://127.0.0.1:{port}", session, database, dict(keys or {}))
    finally:
        await runner.cleanup()


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
