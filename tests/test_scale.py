"""Many warm tenants at once: what they cost, and that it is given back."""

import asyncio
import ctypes
import gc
import sys

import psutil

from tenants.actor import Tenant
from tests.conftest import PROVE
from tests.support import Served, connected, served

TENANTS = 10_000 if PROVE else 3_000


def resident() -> int:
    """Bytes, after Python and the C library have given back what they can."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


async def _warm_up(server: Served, tenants: range) -> None:
    """Each by its own warm-up, a hundred at a time, so that every one has had its probes."""
    for begin in range(tenants.start, tenants.stop, 100):
        numbers = range(begin, min(begin + 100, tenants.stop))
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(server.services.registry.warm_up(Tenant(number, f"t{number}", exclusive=False)))


async def test_many_warm_tenants(database: str) -> None:
    """An idle warm tenant costs at most 32 KB, and when all have cooled the memory is back within a tenth."""
    async with connected(database) as connection:
        await connection.execute(
            "INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, $1::int) n", TENANTS + 200
        )
    async with served(database) as server:
        registry = server.services.registry
        await _warm_up(server, range(TENANTS + 1, TENANTS + 201))  # what a process needs once is not counted
        before = resident()
        await _warm_up(server, range(1, TENANTS + 1))
        warm = resident()
        assert registry._lifecycle.counts()["warm"] == TENANTS + 200
        async with connected(database) as connection:
            await connection.execute("UPDATE ops.warm_tenant SET warm_until = now() WHERE tenant_id <= $1", TENANTS)
        await registry.restore()
        assert registry._lifecycle.counts()["warm"] == 200
        after = resident()
        print(f"{(warm - before) / TENANTS / 1024:.1f} KB a tenant; MB: {before >> 20}, {warm >> 20}, {after >> 20}")
        assert (warm - before) / TENANTS <= 32 * 1024
        assert after <= before * 1.1


async def test_metrics_stay_small(database: str) -> None:
    """However many tenants are warm, a hundred have series of their own and the rest are `other`."""
    async with connected(database) as connection:
        await connection.execute("INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, 300) n")
    async with served(database) as server:
        await _warm_up(server, range(1, 151))
        await server.get("/metrics", None)  # counts itself, from the second on
        lines = len((await server.get("/metrics", None)).body.splitlines())
        await _warm_up(server, range(151, 301))
        text = (await server.get("/metrics", None)).body.decode()
        assert len(text.splitlines()) == lines
        named = {line.split('tenant="')[1].split('"')[0] for line in text.splitlines() if "channel_depth{" in line}
        assert len(named) == 101
        assert "other" in named
