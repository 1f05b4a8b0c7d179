"""The data that is asked for: the demo's tenants where they are, else some that are made for it and gone afterwards."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import orjson
import psutil

from app.comparing.workloads import Holding
from app.demo import TENANTS
from app.importing import import_with_bar
from base.config import Config
from base.errors import Forbidden
from base.identity import key_hash
from simulator.people import resources
from storage.embedded import running, throwaway
from storage.migrate import migrate
from storage.tenancy import create_key, create_tenant, list_tenants, revoke_key

SIZE: Mapping[str, int] = {"patients": 300, "practitioners": 40, "encounters": 700}
"""Of each tenant that is made, if there is no demo."""
TYPES = ("Patient", "Practitioner", "Encounter")
_IDS_MAX = 5000
_IDS = "SELECT id FROM fhir.resource WHERE tenant_id = $1 AND type = $2 AND NOT deleted ORDER BY id LIMIT $3"
_BODIES = "SELECT body FROM fhir.resource WHERE tenant_id = $1 AND type = $2 AND NOT deleted ORDER BY id LIMIT 500"


@dataclass(frozen=True)
class Stock:
    """`postmaster`: the database's first process, where it can be seen; `origin` says in words whose data it is."""

    url: str = field(repr=False)
    postmaster: int | None
    origin: str
    version: str
    holdings: Sequence[Holding]
    warm: frozenset[str]
    """Names of the tenants that were warm before."""


@contextmanager
def stocked(given: Config, *, size: Mapping[str, int] = SIZE) -> Iterator[Stock]:
    """Keys that are made for it are revoked at the end, and a database that is made for it is dropped."""
    with ExitStack() as stack:
        if given.database_url:
            url = given.database_url
        elif (given.data_dir / "pgdata").is_dir():
            url = stack.enter_context(running(given.data_dir)).url
        else:
            url = stack.enter_context(throwaway({})).url
        with asyncio.Runner() as runner:
            opened = _opened(url, size)
            stock = runner.run(opened.__aenter__())
            try:
                yield stock
            finally:
                runner.run(opened.__aexit__(None, None, None))


@asynccontextmanager
async def _opened(url: str, size: Mapping[str, int]) -> AsyncIterator[Stock]:
    if await _has_demo(url):
        async with _held(url, "the demo's tenants") as stock:
            yield stock
        return
    async with _scratch(url) as made:
        await _fill(made, size)
        async with _held(made, "tenants made for it in a throwaway database") as stock:
            yield stock


async def _has_demo(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        if not await connection.fetchval("SELECT to_regclass('ops.tenant') IS NOT NULL"):
            return False
        there = {row["name"]: row["tenant_id"] for row in await connection.fetch("SELECT name, tenant_id FROM ops.tenant")}
        if not set(TENANTS) <= set(there):
            return False
        found = [await connection.fetch(_IDS, there[name], "Encounter", 1) for name in TENANTS]
        return all(found)
    finally:
        await connection.close()


@asynccontextmanager
async def _scratch(url: str) -> AsyncIterator[str]:
    """A database of one's own on the same server. Raises Forbidden where none may be made."""
    name = f"sluice_compare_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(url)
    try:
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        except asyncpg.InsufficientPrivilegeError:
            raise Forbidden(
                "the demo's tenants are not in this database, and its user may not make another for the data; "
                "run `sluice demo` on it first, or unset SLUICE_DATABASE_URL"
            ) from None
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


async def _fill(url: str, size: Mapping[str, int]) -> None:
    await migrate(url)
    today = datetime.now(UTC).date()
    for name, seed in TENANTS.items():
        connection = await asyncpg.connect(url)
        try:
            tenant_id = await create_tenant(connection, name)
        finally:
            await connection.close()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.ndjson"
            with path.open("wb") as file:
                file.writelines(line + b"\n" for line in resources(seed, **size, today=today))
            await import_with_bar(url, tenant_id, [path], strict=True, title=name)


@asynccontextmanager
async def _held(url: str, origin: str) -> AsyncIterator[Stock]:
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        there = {row["name"]: row for row in await list_tenants(connection)}
        holdings: list[Holding] = []
        try:
            for name in TENANTS:
                holdings += [await _holding(connection, there[name]["tenant_id"], name)]
            yield Stock(
                url=url,
                postmaster=await _postmaster(connection, url),
                origin=origin,
                version=await connection.fetchval("SHOW server_version"),
                holdings=holdings,
                warm=frozenset(name for name, row in there.items() if row["warm"]),
            )
        finally:
            for holding in holdings:
                await _revoke(connection, holding.key)
    finally:
        await connection.close()


async def _holding(connection: asyncpg.Connection, tenant_id: int, name: str) -> Holding:
    ids = {kind: [row["id"] for row in await connection.fetch(_IDS, tenant_id, kind, _IDS_MAX)] for kind in TYPES}
    families = {}
    for kind in ("Patient", "Practitioner"):
        people = [orjson.loads(row["body"]) for row in await connection.fetch(_BODIES, tenant_id, kind)]
        families[kind] = [name["family"] for person in people for name in person.get("name", ())[:1] if name.get("family")]
    return Holding(tenant_id, name, await create_key(connection, name, ["read", "warm", "operate"]), ids, families)


async def _revoke(connection: asyncpg.Connection, key: str) -> None:
    await revoke_key(connection, await connection.fetchval("SELECT key_id FROM ops.api_key WHERE sha256 = $1", key_hash(key)))


async def _postmaster(connection: asyncpg.Connection, url: str) -> int | None:
    """The parent of the process that serves us, if it is one of this machine."""
    if urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost", None):
        return None
    try:
        backend = psutil.Process(connection.get_server_pid())
        parent = backend.parent()
        return parent.pid if parent is not None and "postgres" in parent.name() and "postgres" in backend.name() else None
    except psutil.Error:
        return None
