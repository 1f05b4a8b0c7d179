"""The database away, restarted, or slow to connect; the lender under cancellation."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import asyncpg
import pytest

from base.errors import ServerBusy
from metrics.accumulators import Distribution
from storage.connecting.connections import Lender, PoolLimits
from storage.connecting.pools import API_SETTINGS
from storage.embedded import Cluster, throwaway
from storage.migrate import migrate
from tests.support import Reply, Served, add_tenant, connected, patient, served, until

PEOPLE = [patient(f"p{n}") for n in range(50)]


@asynccontextmanager
async def own_cluster() -> AsyncIterator[Cluster]:
    """A server that this test alone may stop."""
    stack = throwaway({"shared_buffers": "32MB"})  # durable: what was committed must be there after a crash
    cluster = await asyncio.to_thread(stack.__enter__)
    try:
        await migrate(cluster.url)
        yield cluster
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)


async def _asked(server: Served, path: str, stop: asyncio.Event) -> list[Reply]:
    """Requests one after the other until `stop`."""
    replies = []
    while not stop.is_set():
        replies.append(await server.get(path))
    return replies


@pytest.mark.parametrize("path", ["channel", "direct"])
async def test_connections_ended(database: str, path: str) -> None:
    """When the server ends all our connections under load, reads are answered 200 or 503, and soon all are 200."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        if path == "channel":
            await server.get("/warm-up", method="POST")
        stop = asyncio.Event()
        load = [asyncio.create_task(_asked(server, f"/patients/p{n}", stop)) for n in range(16)]
        async with connected(database) as connection:
            for _ in range(5):
                await _end_ours(connection)
                await until(lambda: server.services.storage.api.counts()["missing"] == 0)
        stop.set()
        statuses = {reply.status for replies in await asyncio.gather(*load) for reply in replies}
        assert statuses <= {200, 503}
        assert 200 in statuses
        reply = await server.get("/patients/p1")
        assert (reply.status, reply.path) == (200, path)


async def _end_ours(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'sluice api' AND datname = current_database()"
    )


async def test_database_restarted() -> None:
    """While the database is away requests get 503 with Retry-After in time; within 2 s of its return all is well."""
    async with own_cluster() as cluster:
        key = await add_tenant(cluster.url, "one", PEOPLE)
        async with served(cluster.url, keys={"one": key}, key_ttl_s=60.0) as server:
            await server.get("/warm-up", method="POST")
            await asyncio.to_thread(_stop, cluster)
            began = perf_counter()
            replies = await asyncio.gather(*(server.get(f"/patients/p{n}") for n in range(20)))
            assert {reply.status for reply in replies} == {503}
            assert {reply.headers["Retry-After"] for reply in replies} == {"1"}
            assert perf_counter() - began < 5
            assert (await server.get("/health/ready", None)).status == 503
            assert (await server.get("/health/live", None)).status == 200
            await asyncio.to_thread(_start, cluster)
            back = perf_counter()
            async with asyncio.timeout(10):
                while (await server.get("/patients/p1")).status != 200:
                    pass
            assert perf_counter() - back < 2
            await until(lambda: server.services.storage.api.counts()["missing"] == 0)
            replies = await asyncio.gather(*(server.get(f"/patients/p{n}") for n in range(20)))
            assert {(reply.status, reply.path) for reply in replies} == {(200, "channel")}


def _stop(cluster: Cluster) -> None:
    _pg_ctl(cluster, "stop", "-m", "immediate")


def _start(cluster: Cluster) -> None:
    _pg_ctl(cluster, "start", "-w", "-l", str(cluster.data_dir / "restart.log"))


def _pg_ctl(cluster: Cluster, *words: str) -> None:
    """As whoever runs the server: PostgreSQL refuses root."""
    import psutil

    if not hasattr(_pg_ctl, "programs"):
        server = psutil.Process(cluster.pid)
        _pg_ctl.programs = Path(server.exe()).parent  # type: ignore[attr-defined]
        _pg_ctl.uid = server.uids().real  # type: ignore[attr-defined]
    data = cluster.data_dir / "pgdata"
    command = [str(_pg_ctl.programs / "pg_ctl"), "-D", str(data), *words]  # type: ignore[attr-defined]
    done = subprocess.run(
        command,
        check=False,
        capture_output=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=_pg_ctl.uid,  # type: ignore[attr-defined]
        cwd="/",
    )
    assert done.returncode == 0


async def test_cooling_down_without_the_database() -> None:
    """A tenant whose time is up while the database is away is cold, and the server goes on."""
    async with own_cluster() as cluster:
        key = await add_tenant(cluster.url, "one", PEOPLE)
        async with served(cluster.url, keys={"one": key}, key_ttl_s=60.0, cooldown_s=0.5) as server:
            await server.get("/warm-up", method="POST")
            await asyncio.to_thread(_stop, cluster)
            assert (await server.get("/warm-up", method="POST")).status == 503
            await until(lambda: server.services.registry.standing(1).state.value == "cold")
            await asyncio.to_thread(_start, cluster)
            await until(lambda: server.services.storage.api.counts()["missing"] == 0)
            assert (await server.get("/warm-up", method="POST")).status == 201


async def test_idle_longer_than_the_statement_timeout(database: str) -> None:
    """A connection idle for longer than its statement timeout answers the next request: preparing left no clock running."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, deadline_s=0.5, key_ttl_s=60.0) as server:
        assert (await server.get("/patients/p1")).status == 200
        async with connected(database) as connection:
            await connection.fetch("SELECT pg_sleep(0.8)")  # time itself is what is tested
        replies = await asyncio.gather(*(server.get(f"/patients/p{n}") for n in range(30)))
        assert {reply.status for reply in replies} == {200}


async def test_cancels_lose_no_connection(database: str) -> None:
    """After thousands of takers that give up at any moment, every connection is back and idle."""
    lender = Lender("test", database, PoolLimits(3, 3), API_SETTINGS, wait=Distribution((1.0,)))
    await lender.open()
    chance = random.Random(5)

    async def borrow() -> None:
        async with lender.lend(5) as connection:
            await connection.fetch("SELECT 1")

    try:
        for _ in range(100):
            tasks = [asyncio.create_task(borrow()) for _ in range(30)]
            for task in chance.sample(tasks, 20):
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: lender.counts() == {"idle": 3, "busy": 0, "missing": 0})
    finally:
        await lender.close()


async def test_waiting_is_bounded(database: str) -> None:
    """Whoever waits for a connection longer than it can is refused, and takes no connection with it."""
    lender = Lender("test", database, PoolLimits(1, 1), API_SETTINGS, wait=Distribution((1.0,)))
    await lender.open()
    try:
        async with lender.lend(1):
            with pytest.raises(ServerBusy):
                await lender.take(0.05)
        assert lender.counts() == {"idle": 1, "busy": 0, "missing": 0}
    finally:
        await lender.close()
