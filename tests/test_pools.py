"""The three pools: how they grow and shrink, who holds a connection, and that none of them takes another's."""

import asyncio
import inspect
import random
import re
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from base.config import Config
from base.errors import ServerBusy
from metrics.accumulators import Distribution
from metrics.catalog import Catalogue
from storage.connecting.connections import Connection, Lender, PoolLimits
from storage.connecting.pools import api_size, automatic_size, ingest_lender, read_pools, report_lender, warn_if_too_many
from storage.embedded import Cluster
from tests.conftest import PROVE, make_database
from tests.processes import running
from tests.support import Served, add_tenant, connected, patient, served, until
from tests.test_worker import QUICK

LIMITS = PoolLimits(size=3, least=1)


def lender_of(url: str | Callable[[], str], limits: PoolLimits = LIMITS, name: str = "test") -> Lender:
    return Lender(name, url, limits, {"application_name": f"sluice {name}"}, wait=Distribution((0.01, 1.0)))


@asynccontextmanager
async def lending(url: str | Callable[[], str], limits: PoolLimits = LIMITS) -> AsyncIterator[Lender]:
    lender = lender_of(url, limits)
    await lender.open()
    try:
        yield lender
    finally:
        await lender.close()


async def there(url: str, name: str = "test") -> set[int]:
    """The pool's connections as the server sees them."""
    async with connected(url) as connection:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()", f"sluice {name}"
        )
    return {row["pid"] for row in rows}


async def gone_but(url: str, wanted: Callable[[], set[int]]) -> None:
    """Until the server has no others of ours: a backend ends a little later than its connection, and old ones are replaced."""
    async with asyncio.timeout(5):
        while await there(url) != wanted():  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)


async def test_grows_and_shrinks(database: str) -> None:
    """A pool keeps its least, opens another only for somebody who waits, up to its size, and closes what is long idle."""
    async with lending(database, replace(LIMITS, idle_s=0.2)) as lender:
        assert lender.counts() == {"idle": 1, "busy": 0, "missing": 0}
        async with AsyncExitStack() as loans:
            for lent in (1, 2, 3):
                await loans.enter_async_context(lender.lend())
                assert lender.counts() == {"idle": 0, "busy": lent, "missing": 0}
            with pytest.raises(ServerBusy):
                await lender.take(0.05)
            assert await there(database) == lender.backends()
        assert lender.counts() == {"idle": 3, "busy": 0, "missing": 0}
        await until(lambda: lender.counts() == {"idle": 1, "busy": 0, "missing": 0})
        (kept,) = lender.backends()
        await until(lambda: perf_counter() - lender._free[0].since > 0.4)  # however long it is idle, the last one stays
        assert lender.backends() == {kept}
        await gone_but(database, lambda: {kept})


async def test_first_come_first_served(database: str) -> None:
    """Whoever waits gets a connection in the order of coming, be it a new one or one that came back."""
    async with lending(database) as lender:
        order: list[int] = []

        async def borrow(number: int) -> None:
            async with lender.lend():
                order.append(number)
                await until(lambda: number >= 3 or len(lender.backends()) == 3)

        await asyncio.gather(*(borrow(number) for number in range(40)))
        assert order == list(range(40))
        assert len(lender.backends()) == 3


async def test_one_opening_for_each_who_waits(database: str) -> None:
    """Two who wait for a pool that may have many make it open two and no more."""
    async with lending(database, PoolLimits(size=20, least=1)) as lender:
        taken = [await lender.take(5) for _ in range(3)]
        for connection in taken:
            lender.give_back(connection)
        assert await there(database) == lender.backends() == {connection.backend for connection in taken}


async def test_lifetime(database: str) -> None:
    """Connections are replaced when they are old, and nobody who uses the pool meanwhile sees one that is broken or missing."""
    limits = PoolLimits(size=4, least=4, lifetime_s=0.4)
    async with lending(database, limits) as lender:
        first, seen, most = lender.backends(), set[int](), 0
        over = asyncio.Event()

        async def borrow() -> None:
            nonlocal most
            while not over.is_set():
                async with lender.lend() as connection:
                    (row,) = await connection.fetch("SELECT pg_backend_pid()")
                assert row[0] == connection.backend
                seen.add(row[0])
                assert lender.counts()["missing"] == 0
                most = max(most, len(lender.backends()))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(12):
                tasks.create_task(borrow())
            await until(lambda: not lender.backends() & first and len(seen) > 8)
            over.set()
        assert most <= 4 + 1
        await until(lambda: len(lender.backends()) == 4)  # those that are idle are replaced as well
        before = lender.backends()
        await until(lambda: not lender.backends() & before)
        assert lender.timeouts == 0


async def test_lifetimes_differ(database: str) -> None:
    """Connections that were opened together do not end together, and none is older than its lifetime."""
    async with lending(database, PoolLimits(size=8, least=8, lifetime_s=1000)) as lender:
        now = perf_counter()
        ends = sorted(connection.ends_at - now for connection in lender._free)
    assert 790 < ends[0] < ends[-1] < 1000
    assert ends[-1] - ends[0] > 10


async def keeps(lender: Lender, until_then: asyncio.Event) -> None:
    async with lender.lend() as connection:
        await connection.fetch("SELECT $1", "Aisha")
        await until_then.wait()


_LINE = inspect.getsourcelines(keeps)[1] + 3


async def test_held_long(database: str) -> None:
    """Who holds a connection for too long is named in the log once, with the line of its code that waits; no value is."""
    async with lending(database, replace(LIMITS, held_s=0.05)) as lender:
        for loans in (1, 2):  # each loan is reported for itself
            over = asyncio.Event()
            with capture_logs() as logs:
                holding = asyncio.create_task(keeps(lender, over))
                await until(lambda loans=loans: lender.held_long == loans)
                again = asyncio.create_task(keeps(lender, over))  # when this one is reported the first was looked at anew
                await until(lambda loans=loans: lender.held_long == loans + 1)
            lender.held_long = loans
            over.set()
            await asyncio.gather(holding, again)
            assert [(line["event"], line["pool"], line["holder"], line["at"]) for line in logs] == [
                ("connection.held_long", "test", "keeps", f"tests/test_pools.py:{_LINE}")
            ] * 2
            assert len({line["backend"] for line in logs}) == 2
            assert all(0.05 <= line["held_s"] < 5 for line in logs)
            assert "Aisha" not in str(logs)


async def test_held_in_a_statement(database: str) -> None:
    """Of one who waits for the database, the line of ours is told that asked it; of one who has ended, that it has."""

    async def asks(connection: Connection) -> None:
        await connection.fetch("SELECT pg_sleep(10)")

    async def borrows() -> None:
        async with lender.lend() as connection:
            await asks(connection)

    async def forgets() -> None:
        forgotten.append(await lender.take(1))

    forgotten: list[Connection] = []
    async with lending(database, replace(LIMITS, held_s=0.05)) as lender:
        with capture_logs() as logs:
            holding = asyncio.create_task(borrows())
            await until(lambda: lender.held_long == 1)
            await asyncio.create_task(forgets())
            await until(lambda: lender.held_long == 2)
        holding.cancel()
        await asyncio.wait([holding])
    line = inspect.getsourcelines(asks)[1] + 1
    assert [(log["holder"].rpartition(".")[2], log["at"]) for log in logs] == [
        ("borrows", f"tests/test_pools.py:{line}"),
        ("forgets", "it has ended"),
    ]


async def test_cancels(database: str) -> None:
    """After thousands of takers that give up at any moment, no connection is lost: here and in the server they are the same."""
    chance = random.Random(7)
    cancelled = 0
    async with lending(database, PoolLimits(size=4, least=1, idle_s=0.1, lifetime_s=0.3)) as lender:

        async def borrow() -> None:
            async with lender.lend(5) as connection:
                await connection.fetch("SELECT 1")

        while cancelled < (10_000 if PROVE else 500):
            tasks = [asyncio.create_task(borrow()) for _ in range(30)]
            for task in chance.sample(tasks, 20):
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
            cancelled += sum(result is not None for result in results)
        assert lender.timeouts == 0
        await until(lambda: lender.counts() == {"idle": 1, "busy": 0, "missing": 0})
        lender.limits = replace(lender.limits, lifetime_s=1000)
        async with lender.lend():  # and it works
            pass
        await until(lambda: not lender._leaving)
        await gone_but(database, lender.backends)
        assert not lender._waiters


async def test_moves(cluster: Cluster, database: str) -> None:
    """After a move all connections are opened elsewhere: free ones at once, one that is lent when it comes back."""
    elsewhere = await make_database(cluster, f"{urlsplit(database).path[1:]}_b")
    urls = [database]
    try:
        async with lending(lambda: urls[0], PoolLimits(size=3, least=3)) as lender:
            async with lender.lend() as connection:
                urls[0] = elsewhere
                lender.move()
                async with lender.lend() as other:
                    (row,) = await other.fetch("SELECT current_database()")
                    assert row[0] == urlsplit(elsewhere).path[1:]
                await gone_but(database, lambda: {connection.backend})
                assert [row[0] for row in await connection.fetch("SELECT 1")] == [1]
                await until(lambda: lender.counts() == {"idle": 3, "busy": 1, "missing": 0})
            await gone_but(database, set)
            await gone_but(elsewhere, lender.backends)
            assert len(lender.backends()) == 3
            async with lender.lend():
                urls[0] = "postgresql://nobody@127.0.0.1:1/none"
                lender.move()
            assert lender.away  # it is not lent again, though there be no other
    finally:
        async with connected(cluster.url) as operator:
            await operator.execute(f'DROP DATABASE "{urlsplit(elsewhere).path[1:]}" WITH (FORCE)')


async def test_moves_from_a_server_that_is_silent(database: str) -> None:
    """Whoever waits for a connection to a server that never answers has one as soon as the URL leads to another."""
    came, over = asyncio.Event(), asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    urls = [f"postgresql://nobody@127.0.0.1:{server.sockets[0].getsockname()[1]}/none"]
    lender = lender_of(lambda: urls[0])
    lender.start()
    try:
        await came.wait()
        waiting = asyncio.create_task(lender.take(1))
        await asyncio.sleep(0)
        urls[0] = database
        began = perf_counter()
        lender.move()
        lender.give_back(await waiting)
        assert perf_counter() - began < 0.9
    finally:
        over.set()
        await lender.close()
        server.close()


async def test_too_slow_to_start(database: str) -> None:
    """A pool that was started while its server was away lends when it is there; who asked before is refused within its time."""
    urls = ["postgresql://nobody@127.0.0.1:1/none"]
    lender = lender_of(lambda: urls[0])
    lender.start()
    try:
        with pytest.raises(ServerBusy, match="the database is away"):
            await lender.take(0.05)
        assert (lender.away, lender.counts()["missing"], lender.timeouts) == (True, 1, 1)
        urls[0] = database
        async with lender.lend(5):
            assert not lender.away
    finally:
        await lender.close()


async def latency(call: Callable[[], Awaitable[Any]], times: int = 60) -> float:
    """The median, in seconds."""
    took = []
    for _ in range(times):
        began = perf_counter()
        await call()
        took.append(perf_counter() - began)
    return statistics.median(took)


async def exhaust(lender: Lender, over: asyncio.Event) -> None:
    """Holds all that the pool may have, and a few more wait for it."""

    async def sleep() -> None:
        async with lender.lend() as connection:
            slow = asyncio.ensure_future(connection.raw.execute("SELECT pg_sleep(60)"))
            await over.wait()
            slow.cancel()
            await asyncio.wait([slow])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(lender.size + 3):
            tasks.create_task(sleep())


async def asked(server: Served, status: int = 200) -> None:
    assert (await server.get("/patients/p")).status == status


async def full_speed(call: Callable[[], Awaitable[Any]], exhausted: Lender) -> None:
    """What is called takes as long while the other pool has nothing left: within twice and a millisecond."""
    await latency(call, 20)
    before, over = await latency(call), asyncio.Event()
    exhausting = asyncio.create_task(exhaust(exhausted, over))
    await until(lambda: exhausted.lent == exhausted.size)
    during = await latency(call)
    assert exhausted.lent == exhausted.size
    over.set()
    await exhausting
    assert during < before * 2 + 0.001


@pytest.mark.parametrize("path", ["direct", "channel"])
async def test_api_goes_on(database: str, path: str) -> None:
    """While reports or ingestion hold all of their connections, and others wait for one, requests are as fast as before."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, key_ttl_s=60.0) as server:
        await server.get("/warm-up", method="POST" if path == "channel" else "DELETE")
        ingest = ingest_lender(server.services.config, Catalogue())
        await ingest.open()
        try:
            for lender in (server.services.storage.reports, ingest):
                await full_speed(lambda: asked(server), lender)
        finally:
            await ingest.close()
        assert server.services.storage.api.timeouts == 0


async def test_reports_go_on(database: str) -> None:
    """While the API's connections are all taken, a report is as fast as before, and a request is refused in time, with 503."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, key_ttl_s=60.0, pool_acquire_s=0.3) as server:
        storage = server.services.storage

        async def report() -> None:
            async with storage.report(1) as connection:
                await connection.fetch("SELECT 1")

        await asked(server)
        over = asyncio.Event()
        exhausting = asyncio.create_task(exhaust_quietly(storage.api, over))
        before = await latency(report)
        await until(lambda: storage.api.lent == storage.api.size)
        began = perf_counter()
        reply = await server.get("/patients/p")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert 0.3 <= perf_counter() - began < 1
        assert await latency(report) < before * 2 + 0.001
        over.set()
        await exhausting
        await asked(server)
        text = (await server.get("/metrics")).body.decode()
    assert re.search(r'sluice_pool_timeouts_total\{pool="api"\} [1-9]', text)
    assert 'sluice_pool_timeouts_total{pool="report"} 0' in text


async def test_server_of_reports_away(database: str) -> None:
    """When reports have a server of their own that is away, all else is served from the start, and reports are refused."""
    key = await add_tenant(database, "one", [patient("p")])
    away = "postgresql://nobody@127.0.0.1:1/none"
    async with served(database, keys={"one": key}, report_database_url=away, pool_acquire_s=0.1) as server:
        await asked(server)
        with pytest.raises(ServerBusy, match="the database is away"):
            await server.services.storage.report(1).__aenter__()


async def exhaust_quietly(lender: Lender, over: asyncio.Event) -> None:
    taken = [await lender.take(1) for _ in range(lender.size)]
    await over.wait()
    for connection in taken:
        lender.give_back(connection)


async def test_metrics_of_all(database: str) -> None:
    """Each pool's connections, waits, busy time, refusals and long holds count under its name, several lenders' together."""
    metrics = Catalogue()
    config = Config(database_url=database, report_pool_size=2, pool_held_s=0.02, pool_acquire_s=0.1)
    lenders = [report_lender(config, metrics), report_lender(config, metrics), ingest_lender(config, metrics)]
    read_pools(metrics, lambda: lenders)
    for lender in lenders:
        await lender.open()
    try:
        async with lenders[0].lend(), lenders[0].lend(), lenders[1].lend():
            with pytest.raises(ServerBusy):
                await lenders[0].lend(5).__aenter__()
            await until(lambda: lenders[0].held_long == 2 and lenders[1].held_long == 1)
            found = metrics.snapshot()
            assert dict(found["sluice_pool_connections"]) == {
                ("report", "idle"): 0, ("report", "busy"): 3, ("report", "missing"): 0,
                ("ingest", "idle"): 1, ("ingest", "busy"): 0, ("ingest", "missing"): 0,
            }  # fmt: skip
            assert dict(found["sluice_pool_timeouts_total"]) == {("report",): 1, ("ingest",): 0}
            assert dict(found["sluice_pool_held_long_total"]) == {("report",): 3, ("ingest",): 0}
        busy = dict(metrics.snapshot()["sluice_pool_busy_seconds_total"])
        waits = dict(metrics.snapshot()["sluice_pool_wait_seconds"])
        assert busy["report",] > 0.3
        assert busy["ingest",] == 0
        assert sum(waits["report",][:-1]) == 4
    finally:
        for lender in lenders:
            await lender.close()


@pytest.fixture
async def login(cluster: Cluster, database: str) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Makes a login that is a member of a role, and gives the URL that it logs in by."""
    made: list[str] = []

    async def make(role: str) -> str:
        name = f"{role}_login_of_{urlsplit(database).path[1:]}"
        async with connected(cluster.url) as operator:
            await operator.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'placeholder' IN ROLE {role}")
        made.append(name)
        return re.sub("//[^@]+@", f"//{name}:placeholder@", database)

    yield make
    async with connected(cluster.url) as operator:
        for name in made:
            await operator.execute(f"DROP ROLE {name}")


SHOWN = "SELECT current_user::text, session_user::text, current_setting('statement_timeout'), current_setting('jit')"


async def shown(lender: Lender) -> tuple[str, ...]:
    await lender.open()
    try:
        async with lender.lend() as connection:
            return tuple((await connection.fetch(SHOWN))[0])
    finally:
        await lender.close()


async def test_roles(database: str) -> None:
    """Reports and ingestion are their roles by the one URL, with the time that each one's statements may take."""
    config = Config(database_url=database, report_timeout_s=1.5, ingest_timeout_s=2.5)
    user = urlsplit(database).username or ""
    assert await shown(report_lender(config, Catalogue())) == ("sluice_report", user, "1500ms", "off")
    assert await shown(ingest_lender(config, Catalogue())) == ("sluice_ingest", user, "2500ms", "off")


async def test_logins(database: str, login: Callable[[str], Awaitable[str]]) -> None:
    """A pool with a URL of its own is who logs in there, without a role to take on, and has all other limits."""
    report_url, ingest_url = await login("sluice_report"), await login("sluice_ingest")
    config = Config(
        database_url=database, report_database_url=report_url, ingest_database_url=ingest_url,
        report_timeout_s=1.5, ingest_timeout_s=2.5,
    )  # fmt: skip
    names = [urlsplit(url).username or "" for url in (report_url, ingest_url)]
    assert await shown(report_lender(config, Catalogue())) == (names[0], names[0], "1500ms", "off")
    assert await shown(ingest_lender(config, Catalogue())) == (names[1], names[1], "2500ms", "off")
    report = report_lender(config, Catalogue())
    await report.open()
    try:
        async with report.lend() as connection, connection.raw.transaction():
            await connection.raw.execute("SET LOCAL sluice.tenant_id = 1")
            assert await connection.fetch("SELECT * FROM report.balance_amount") == []
        async with report.lend() as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("SELECT * FROM fhir.resource")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.raw.execute("CREATE TEMP TABLE t (n int)")
    finally:
        await report.close()


@pytest.mark.parametrize(
    ("cores", "processes", "size"), [(1, 1, 11), (2, 1, 11), (8, 1, 17), (8, 2, 11), (16, 1, 33), (16, 2, 17), (16, 8, 11)]
)
def test_automatic_size(cores: int, processes: int, size: int) -> None:
    """Two for each core and one more, shared by the processes, and in each at least what it may have in flight."""
    assert automatic_size(cores, processes) == size


def test_given_size() -> None:
    """A size that was given is each process' own, however many there are."""
    assert (api_size(Config(pool_size=20)), api_size(Config(pool_size=20), 4)) == (20, 20)
    assert api_size(Config()) >= 11


async def test_too_large(database: str) -> None:
    """At the start it is said when the pools could take most of what the server has, with what to set; else nothing is."""
    async with connected(database) as connection:
        names = ("max_connections", "superuser_reserved_connections", "reserved_connections")
        total, *reserved = [int(await connection.fetchval(f"SHOW {name}")) for name in names]
    most = total - sum(reserved)
    least = int(most * 0.8) - 2 * 11 - 3  # of the reports of two processes, to be just within it
    config = Config(database_url=database, pool_size=11)
    within, over = (replace(config, report_pool_size=size) for size in (least // 2, least // 2 + 1))
    with capture_logs() as logs:
        await warn_if_too_many(Config(database_url=database), processes=1, workers=1)
        await warn_if_too_many(within, processes=2)
        await warn_if_too_many(replace(over, report_database_url="postgresql://elsewhere.invalid/x"), processes=2)
    assert logs == []
    with capture_logs() as logs:
        await warn_if_too_many(over, processes=2)
        other_login = re.sub("//[^@]+@", "//reports:placeholder@", database)
        await warn_if_too_many(replace(over, report_database_url=other_login), processes=2)
    for line in logs:
        assert (line["event"], line["server_has"]) == ("pool.too_large", most)
        assert line["taken"] == {"SLUICE_POOL_SIZE": 22, "SLUICE_REPORT_POOL_SIZE": 2 * over.report_pool_size, "others": 3}
        assert line["connections"] == sum(line["taken"].values()) > most * 0.8
        assert "lower SLUICE_POOL_SIZE or SLUICE_REPORT_POOL_SIZE, run fewer processes, or" in line["remedy"]
        assert "postgresql://" not in str(line)
    assert len(logs) == 2


async def test_the_commands_warn(database: str) -> None:
    """`serve` and `worker` say at their start that their pools are too large for the server."""
    async with (
        running("serve", database_url=database, report_pool_size=150) as server,
        running("worker", **{**QUICK, "database_url": database, "ingest_pool_size": 99, "poll_facilities_max": 99}) as worker,
    ):
        (line,) = await server.seen(lambda: server.logged("pool.too_large") or None)
        assert "SLUICE_REPORT_POOL_SIZE" in line["remedy"]
        (line,) = await worker.seen(lambda: worker.logged("pool.too_large") or None)
        assert "SLUICE_INGEST_POOL_SIZE" in line["remedy"]
