"""An empty database becomes a crowd's: the import's own upsert for the first tenant, copies of its rows for the others.

The copies go into tables without indexes, which are made again afterwards.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg

from storage.migrate import migrate
from storage.resources import Batch, refresh_statistics, upsert
from storage.tenancy import create_key, create_tenant
from tests.benchmarks.crowd import Crowd

BATCH = 200
BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
EVERY = timedelta(minutes=7)
"""From one batch of the import to the next."""
RUN = 500
"""Rows of one tenant that lie together, as after an import of many tenants in turn."""
WRITERS = 2
FIRST = "first tenant"
SCOPES = ("read", "warm", "operate")

Advance = Callable[[str, int, int], None]
"""What is done, how much more of it, and of how much in all."""

_TABLES = """
SELECT c.oid::regclass::text AS name, array_agg(t.relid::regclass::text ORDER BY t.relid::regclass::text)
           FILTER (WHERE t.isleaf) AS leaves
FROM pg_class c CROSS JOIN LATERAL pg_partition_tree(c.oid) t
WHERE c.relnamespace = 'fhir'::regnamespace AND c.relkind = 'p'
GROUP BY c.oid
"""
_INDEXES = """
SELECT i.indexrelid::regclass::text AS name, k.conname AS key, pg_get_constraintdef(k.oid) AS key_text,
       pg_get_indexdef(i.indexrelid) AS text
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u')
WHERE i.indrelid IN (SELECT relid FROM pg_partition_tree($1::text::regclass)) AND NOT c.relispartition
ORDER BY 1
"""
_COLUMNS = """
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'tenant_id'
"""
_SOURCE = """
CREATE TEMP TABLE source ON COMMIT DROP AS SELECT row_number() OVER () AS n, * FROM {leaf};
CREATE INDEX ON source (n);
ANALYZE source;
"""


async def fill(url: str, crowd: Crowd, wanted: str, advance: Advance) -> None:
    """An empty database becomes the crowd's; the row of public.crowd comes last, and says that it is whole."""
    began = time.monotonic()
    await migrate(url)
    owner = await asyncpg.connect(url)
    try:
        tenants, keys = await _make_tenants(owner, crowd.size.tenants)
        await _import(owner, tenants[0], crowd, advance)
        seconds = {FIRST: time.monotonic() - began}
        await _Multiplication(url, tenants, seconds, advance).run(await owner.fetch(_TABLES))
        await refresh_statistics(owner)
        seconds["all"] = time.monotonic() - began
        await owner.execute("CREATE TABLE public.crowd (version text, keys text[], seconds text)")
        await owner.execute("INSERT INTO public.crowd VALUES ($1, $2, $3)", wanted, keys, json.dumps(seconds))
        await owner.execute("CHECKPOINT")
    finally:
        await owner.close()


async def _make_tenants(owner: asyncpg.Connection, count: int) -> tuple[list[int], list[str]]:
    names = [f"crowd-{number:03}" for number in range(1, count + 1)]
    return [await create_tenant(owner, name) for name in names], [await create_key(owner, name, SCOPES) for name in names]


async def _import(owner: asyncpg.Connection, tenant: int, crowd: Crowd, advance: Advance) -> None:
    for number, begin in enumerate(range(0, len(crowd.resources), BATCH)):
        resources = crowd.resources[begin : begin + BATCH]
        async with owner.transaction():
            await upsert(owner, tenant, Batch(resources), BEGAN + number * EVERY)
        advance(FIRST, len(resources), len(crowd.resources))


class _Multiplication:
    """The first tenant's rows become all tenants', table by table."""

    def __init__(self, url: str, tenants: list[int], seconds: dict[str, float], advance: Advance) -> None:
        self._url = url
        self._tenants = tenants
        self._seconds = seconds
        self._advance = advance
        self._rows = self._indexes = 0

    async def run(self, tables: list[asyncpg.Record]) -> None:
        connections = [await asyncpg.connect(self._url) for _ in range(WRITERS)]
        try:
            first = connections[0]
            rows = {leaf: await first.fetchval(f"SELECT count(*) FROM {leaf}") for table in tables for leaf in table["leaves"]}
            self._rows = sum(rows.values()) * len(self._tenants)
            self._indexes = sum([len(await first.fetch(_INDEXES, table["name"])) for table in tables])
            # The largest first, so that no writer is left with it at the end.
            waiting = sorted(tables, key=lambda table: sum(rows[leaf] for leaf in table["leaves"]))
            async with asyncio.TaskGroup() as group:
                for connection in connections:
                    group.create_task(self._work(connection, waiting, rows))
        finally:
            for connection in connections:
                await connection.close()

    async def _work(self, connection: asyncpg.Connection, waiting: list[asyncpg.Record], rows: dict[str, int]) -> None:
        while waiting:
            table = waiting.pop()
            indexes = await connection.fetch(_INDEXES, table["name"])
            for index in indexes:
                key = f"ALTER TABLE {table['name']} DROP CONSTRAINT {index['key']}"
                await connection.execute(key if index["key"] else f"DROP INDEX {index['name']}")
            began = time.monotonic()
            for leaf in table["leaves"]:
                await self._copy(connection, leaf, rows[leaf])
            self._seconds[table["name"]] = time.monotonic() - began
            for index in indexes:
                await self._build(connection, table["name"], index)

    async def _copy(self, connection: asyncpg.Connection, leaf: str, rows: int) -> None:
        if rows:
            columns = await connection.fetchval(_COLUMNS, leaf)
            async with connection.transaction():
                await connection.execute(_SOURCE.format(leaf=leaf))
                await connection.execute(f"TRUNCATE {leaf}")
                for begin in range(0, rows, RUN):
                    for tenant in self._tenants:
                        await connection.execute(
                            f"INSERT INTO {leaf} (tenant_id, {columns}) SELECT $1::int, {columns} FROM source "
                            "WHERE n > $2::int AND n <= $2 + $3::int",
                            tenant,
                            begin,
                            RUN,
                        )
                    self._advance("rows", min(RUN, rows - begin) * len(self._tenants), self._rows)
        await connection.execute(f"VACUUM (FREEZE) {leaf}")

    async def _build(self, connection: asyncpg.Connection, table: str, index: asyncpg.Record) -> None:
        began = time.monotonic()
        key = f"ALTER TABLE {table} ADD CONSTRAINT {index['key']} {index['key_text']}"
        await connection.execute(key if index["key"] else index["text"].replace(" ON ONLY ", " ON ", 1))
        self._seconds[index["name"]] = time.monotonic() - began
        self._advance("indexes", 1, self._indexes)
