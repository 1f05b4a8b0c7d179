"""Real faults of a real database, and what the metrics say of them."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from structlog.testing import capture_logs

from app.serving import on_free_port
from app.workers import _snapshot_of, run_worker
from base.config import Config
from metrics.accumulators import Snapshot
from metrics.catalog import OF_THE_DATABASE, Metrics
from storage.collectors import Grown, Pace
from storage.embedded import Cluster
from storage.migrate import migrate
from tests.conftest import make_database
from tests.looking import Looking, looking
from tests.processes import samples, total
from tests.replicas import SETTINGS, Node, _prepared
from tests.support import add_tenant, connected, encounter, patient, until

OF_STATEMENTS = {
    "sluice_database_statements_total",
    "sluice_database_statement_seconds_total",
    "sluice_database_slow_statements",
}
OF_THIS_DATABASE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
OF_ALL = {f"sluice_database_{name}" for name, *_ in OF_THE_DATABASE}


def told(text: str) -> set[str]:
    """The families of the database that have a series."""
    return {name for series in samples(text) if (name := series.partition("{")[0]) in OF_ALL}


async def seen(looking: Looking, name: str, value: float | None = None, *, least: float = 0.0, **labels: str) -> str:
    """Looks until a number is this one, or as large: sessions tell the server of what they did a moment later."""
    async with asyncio.timeout(10):
        while True:
            number = total(text := await looking.look(), f"sluice_database_{name}", **labels)
            if number == value or (value is None and number >= least):
                return text
            await asyncio.sleep(0.01)


@asynccontextmanager
async def session(url: str, *statements: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """Open, with a transaction in which these statements ran."""
    async with connected(url) as connection:
        for name, value in settings.items():
            await connection.execute(f"SET {name} = '{value}'")
        await connection.execute("BEGIN")
        for statement in statements:
            await connection.execute(statement)
        yield connection


# What sessions do to each other


async def test_deadlock(database: str) -> None:
    """Two transactions that wait for each other are one deadlock, when PostgreSQL has ended one of them."""
    await add_tenant(database, "one")
    await add_tenant(database, "two")
    update = "UPDATE ops.tenant SET name = name WHERE name = '{}'"
    async with looking(database) as database_:
        assert total(await database_.look(), "sluice_database_deadlocks_total") == 0
        async with (
            session(database, update.format("one"), deadlock_timeout="10ms") as one,
            session(database, update.format("two"), deadlock_timeout="1min") as other,
        ):
            waits = asyncio.create_task(other.execute(update.format("one")))
            await seen(database_, "lock_waiting", 1)
            with pytest.raises(asyncpg.DeadlockDetectedError):
                await one.execute(update.format("two"))
            await waits
        text = await seen(database_, "deadlocks_total", 1)
    assert total(text, "sluice_database_transactions_total", outcome="rolled_back") >= 1


async def test_lock_wait(database: str) -> None:
    """Who waits for a row is counted with how long, and is gone when it has the row; who waits for its turn is not."""
    await add_tenant(database, "one")
    update = "UPDATE ops.tenant SET name = name"
    async with (
        looking(database) as database_,
        session(database, update, "SELECT pg_advisory_lock(1)") as holder,
        connected(database) as waiter,
        connected(database) as next_,
    ):
        quiet = await database_.look()
        assert total(quiet, "sluice_database_lock_waiting") == total(quiet, "sluice_database_lock_wait_seconds") == 0
        assert total(quiet, "sluice_database_locks", mode="RowExclusiveLock") >= 1
        waits = [asyncio.create_task(waiter.execute(update)), asyncio.create_task(next_.execute("SELECT pg_advisory_lock(1)"))]
        text = await seen(database_, "lock_wait_seconds", least=0.1)
        assert total(text, "sluice_database_lock_wait_seconds") < 10
        assert total(text, "sluice_database_lock_waiting") == 1
        # The advisory one is held once and waited for once, the row's transaction likewise.
        assert total(text, "sluice_database_locks", mode="ExclusiveLock") >= 3
        assert total(text, "sluice_database_locks", mode="ShareLock") == 1
        await holder.execute("SELECT pg_advisory_unlock(1)")
        await holder.execute("COMMIT")
        await asyncio.gather(*waits)
        text = await database_.look()
    assert total(text, "sluice_database_lock_waiting") == total(text, "sluice_database_lock_wait_seconds") == 0


async def test_long_transaction(database: str) -> None:
    """A transaction that is left open is told of with its age until it ends; another database's is not."""
    async with looking(database) as database_, session(database, "SELECT 1") as lazy:
        text = await seen(database_, "longest_transaction_seconds", least=0.1)
        assert total(text, "sluice_database_longest_transaction_seconds") < 10
        assert total(text, "sluice_database_sessions", state="idle_in_transaction") >= 1
        assert total(text, "sluice_database_sessions", state="hidden") == 0
        assert 0 < total(text, "sluice_database_sessions") < total(text, "sluice_database_connections_max")
        await lazy.execute("COMMIT")
        async with session(f"{database.rpartition('/')[0]}/postgres", "SELECT 1"):
            text = await database_.look()
    assert total(text, "sluice_database_longest_transaction_seconds") == 0


async def test_slow_statement(database: str) -> None:
    """A statement over a second runs slow; when it has ended its kind is slow, under its role, and its seconds are counted."""
    async with looking(database) as database_, connected(database) as reports, connected(database) as login:
        await database_.look()
        await reports.execute("SET ROLE sluice_report")
        sleeping = asyncio.create_task(reports.execute("SELECT pg_sleep(1.2)"))
        await login.execute("SELECT pg_sleep(0.6)")
        assert total(await database_.look(), "sluice_database_running_slow") == 0
        await seen(database_, "running_slow", 1)
        await sleeping
        text = await seen(database_, "running_slow", 0)
    of = {role: total(text, "sluice_database_slow_statements", role=role) for role in ("sluice_report", "sluice_api", "other")}
    assert of == {"sluice_report": 1, "sluice_api": 0, "other": 1}
    assert 1.2 <= total(text, "sluice_database_statement_seconds_total", role="sluice_report") < 10
    assert total(text, "sluice_database_statements_total", role="sluice_report") >= 1


async def test_statements_of_own_login(database: str) -> None:
    """What a login runs that is a member of one of the pools' roles is that role's."""
    role = f"own_{database.rpartition('_')[2]}"
    async with looking(database) as database_, connected(database) as admin:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'placeholder' IN ROLE sluice_ingest")
        try:
            await database_.look()
            async with connected(database.replace(database[13 : database.index("@")], f"{role}:placeholder")) as own:
                await own.execute("SELECT 1")
            text = await database_.look()
        finally:
            await admin.execute(f"DROP ROLE {role}")
    assert total(text, "sluice_database_statements_total", role="sluice_ingest") == 1


async def test_statements_forgotten(database: str) -> None:
    """Counts of statements begin with who looks, and do not fall when pg_stat_statements has forgotten some."""
    async with looking(database) as database_, connected(database) as connection:
        await connection.execute("SELECT 1")
        assert total(await database_.look(), "sluice_database_statements_total") == 0
        for _ in range(20):
            await connection.execute("SELECT 2")
        before = total(await database_.look(), "sluice_database_statements_total")
        assert before >= 20
        await connection.execute(f"SELECT public.pg_stat_statements_reset(0, {OF_THIS_DATABASE}, 0)")
        after = total(await database_.look(), "sluice_database_statements_total")
    assert before <= after < before + 20


def test_grown() -> None:
    """Only what came since the first look counts, and what falls takes nothing away."""
    grown = Grown()
    assert [grown.take(seen) for seen in (100, 103, 50, 51)] == [0, 3, 3, 4]


# What lies in it


async def test_tables(database: str) -> None:
    """A table has the sizes and rows of all its partitions; rows that were changed are dead until a vacuum."""
    people = [patient(f"p{number}") for number in range(30)]
    await add_tenant(database, "one", [*people, *(encounter(f"e{number}", "2026-01-02") for number in range(20))])
    size = """
        SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('fhir.resource') WHERE isleaf
    """
    async with looking(database) as database_, connected(database) as connection:
        await seen(database_, "rows", 50, table="fhir.resource", state="live")
        await connection.execute("UPDATE fhir.resource SET rank = rank + 1 WHERE type = 'Patient'")
        await connection.execute("SELECT pg_stat_force_next_flush()")
        text = await seen(database_, "rows", 30, table="fhir.resource", state="dead")
        assert total(text, "sluice_database_table_bytes", table="fhir.resource") == await connection.fetchval(size)
        whole = await connection.fetchval("SELECT pg_database_size(current_database())")
        assert 0 < total(text, "sluice_database_table_bytes") < total(text, "sluice_database_bytes") <= whole
        await connection.execute("VACUUM fhir.resource")
        text = await seen(database_, "rows", 0, table="fhir.resource", state="dead")
        assert total(text, "sluice_database_rows", table="fhir.resource", state="live") == 50
        parts = await connection.fetchval("SELECT count(*) FROM pg_inherits")
    tables = {series for series in samples(text) if series.startswith("sluice_database_table_bytes")}
    assert 30 <= len(tables) < parts
    assert not any("resource_patient" in series for series in tables)


async def test_locked_table(database: str) -> None:
    """While a table is being altered its size is the one of before, all else goes on, and the log says it once."""
    async with looking(database, Metrics()) as database_:
        before = await database_.look()
        async with session(database, "LOCK TABLE ops.tenant IN ACCESS EXCLUSIVE MODE"):
            with capture_logs() as logs:
                text = await database_.look()
                assert total(text, "sluice_database_up") == 1
                assert total(text, "sluice_database_locks", mode="AccessExclusiveLock") == 1
                assert told(text) == told(before) == OF_ALL
                await database_.look()
        assert [(line["event"], line["what"]) for line in logs] == [("database.not_looked_at", "tables")]
        with capture_logs() as logs:
            await database_.look()
    assert [(line["event"], line["what"]) for line in logs] == [("database.looked_at", "tables")]


# What it does not tell


async def test_without_statements(database: str) -> None:
    """Without pg_stat_statements three metrics are absent and the others there; they come when it does, with no restart."""
    async with looking(database) as database_, connected(database) as connection:
        await connection.execute("DROP EXTENSION pg_stat_statements")
        assert told(await database_.look()) == OF_ALL - OF_STATEMENTS
        await connection.execute('CREATE SCHEMA "Other place"; CREATE EXTENSION pg_stat_statements SCHEMA "Other place"')
        assert told(await database_.look()) == OF_ALL
        await connection.execute("DROP EXTENSION pg_stat_statements")
        assert told(await database_.look()) == OF_ALL - OF_STATEMENTS


@asynccontextmanager
async def plain_login(cluster: Cluster, name: str) -> AsyncIterator[str]:
    """The URL of an empty database, by its owner: no superuser, as docs/operations.md makes one, but for pg_read_all_stats."""
    url = await make_database(cluster, name)
    async with connected(cluster.url) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'placeholder'")
        for pool in ("sluice_api", "sluice_ingest", "sluice_report"):  # another database's migration has made them
            await admin.execute(f"GRANT {pool} TO {name} WITH ADMIN OPTION")
        await admin.execute(f"ALTER DATABASE {name} OWNER TO {name}")
        try:
            yield url.replace(url[url.index("//") + 2 : url.index("@")], f"{name}:placeholder")
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await admin.execute(f"DROP OWNED BY {name}")
            await admin.execute(f"DROP ROLE {name}")


@pytest.mark.usefixtures("template")
async def test_plain_login(cluster: Cluster) -> None:
    """A login without more rights migrates and looks: others' sessions are hidden until it may see them, statements absent."""
    async with plain_login(cluster, "plain") as url, connected(cluster.url) as admin:
        await migrate(url)
        async with looking(url) as database_:
            text = await database_.look()
            assert told(text) == OF_ALL - OF_STATEMENTS
            assert total(text, "sluice_database_sessions", state="hidden") >= 1
            await admin.execute("GRANT pg_read_all_stats TO plain")
            text = await seen(database_, "sessions", 0, state="hidden")
            assert total(text, "sluice_database_sessions") >= 1


@pytest.mark.usefixtures("template")
async def test_migration_gives_rights(cluster: Cluster) -> None:
    """A login that may give itself the right to see others' sessions has it after the migration."""
    async with plain_login(cluster, "giving") as url, connected(cluster.url) as admin:
        await admin.execute("GRANT pg_read_all_stats TO giving WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        await migrate(url)
        async with looking(url) as database_:
            assert total(await database_.look(), "sluice_database_sessions", state="hidden") == 0


@pytest.fixture(scope="module")
def bare() -> Iterator[Node]:
    """A server of its own, which a test may kill, that was started without pg_stat_statements' library."""
    with bare_server() as node:
        yield node


@contextmanager
def bare_server() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="sluice-") as place:
        node = _prepared(Path(place), "bare", {**SETTINGS, "shared_preload_libraries": ""})
        try:
            asyncio.run(node.start())
            assert node.status is not None
            asyncio.run(migrate(node.url))
            yield node
        finally:
            node.postmaster.stop()


async def test_without_library(bare: Node) -> None:
    """Where the server has not loaded the library the migration goes on, three metrics are absent, and the log says it once."""
    async with looking(bare.url) as database_:
        with capture_logs() as logs:
            assert told(await database_.look()) == OF_ALL - OF_STATEMENTS
            assert told(await database_.look()) == OF_ALL - OF_STATEMENTS
    assert [(line["event"], line["what"]) for line in logs] == [("database.not_looked_at", "statements")]


# When it is away


async def test_killed(bare: Node) -> None:
    """Of a database that was killed it is said that it is away, and nothing else; when it is back all is said again."""
    async with looking(bare.url, pace=Pace(begin_s=0, every_s=0.02)) as database_:
        before = told(await database_.look())
        stop = asyncio.Event()
        run = asyncio.create_task(database_.collector.run(stop))
        with capture_logs() as logs:
            bare.kill()
            await until(lambda: told(database_.scrape()) == {"sluice_database_up"})
            assert total(database_.scrape(), "sluice_database_up") == 0
            await bare.start()
            await until(lambda: total(database_.scrape(), "sluice_database_up") == 1, within_s=20)
            await until(lambda: told(database_.scrape()) == before)
        async with asyncio.timeout(2):
            stop.set()
            await run
    lines = [line["event"] for line in logs if line["what"] == "activity"]
    assert lines == ["database.not_looked_at", "database.looked_at"]


async def test_held_up(database: str) -> None:
    """When looks have ceased to end, the numbers of the last one are gone after a while, and it counts as away."""
    async with looking(database, pace=Pace(every_s=0.1, tables_every_s=0.1)) as database_:
        assert told(await database_.look()) == OF_ALL
        await until(lambda: told(database_.scrape()) == {"sluice_database_up"})
        assert total(database_.scrape(), "sluice_database_up") == 0
        assert told(await database_.look()) == OF_ALL


async def test_never_there() -> None:
    """A database that never answered is away, and an ending does not wait for it."""
    async with looking("postgresql://nobody@127.0.0.1:1/nothing") as database_:
        assert told(database_.scrape()) == set()
        assert told(await database_.look()) == {"sluice_database_up"}
        assert total(database_.scrape(), "sluice_database_up") == 0


# Who looks


async def test_several_processes(database: str) -> None:
    """Of the processes that make one scrape one looks at the database, and each tells what it saw."""
    config = on_free_port(Config(database_url=database, port=0))
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory() as place:
        workers = [asyncio.create_task(run_worker(number, Path(place), config, stop)) for number in range(2)]
        try:
            async with asyncio.timeout(20), connected(database) as connection:
                while told(await answered(config)) != OF_ALL or None in (said := await both(Path(place))):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert [len(each["sluice_database_up"]) for each in said if each] == [1, 0]
                for _ in range(10):  # of both, by all likelihood: the kernel gives a connection to either
                    assert total(await answered(config), "sluice_database_up") == 1
                assert await connection.fetchval(_LOOKERS) == 1
        finally:
            stop.set()
            await asyncio.gather(*workers)


async def both(place: Path) -> list[Snapshot | None]:
    return [await _snapshot_of(place / f"{number}.sock") for number in range(2)]


async def answered(config: Config) -> str:
    """Empty while nobody listens."""
    with suppress(aiohttp.ClientConnectorError):
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{config.port}/metrics") as response:
            return await response.text()
    return ""


_LOOKERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice collector' AND datname = current_database()"


# How facilities do


_FACILITIES: dict[str, Any] = {
    "new": ("active", []),
    "fine": ("active", [("ok", 10)]),
    "stumbling": ("active", [("ok", 4000), ("partial", 10)]),
    "running": ("active", [("ok", 9000), (None, 8000)]),
    "failed": ("active", [("ok", 2000), ("failed", 10)]),
    "failed-running": ("active", [("timeout", 2000), (None, 10)]),
    "lost": ("active", [("lost", 10)]),
    "refused": ("stopped", [("ok", 10)]),
    "refused-twice": ("active", [("stopped", 10)]),
    "late": ("active", [("ok", 3700)]),
    "never": ("active", []),
    "paused": ("paused", [("failed", 90000)]),
}
"""By name: the state, and its polls: the outcome and how many seconds ago they began."""


async def test_facilities(database: str) -> None:
    """Each facility is counted once: as polled, failing, overdue, or paused."""
    await add_tenant(database, "one")
    async with looking(database) as worker, connected(database) as connection:
        text = await worker.look()
        assert {total(text, "sluice_facilities", state=state) for state in ("ok", "failing", "overdue", "paused")} == {0}
        for name, (state, polls) in _FACILITIES.items():
            number = await connection.fetchval(
                "INSERT INTO ops.facility (tenant_id, licence, url, login, password, since, state, created_at) "
                "VALUES (1, $1, '', '', '', now(), $2, now() - make_interval(secs => $3)) RETURNING facility_no",
                name,
                state,
                10 if name == "new" else 100_000,
            )
            for outcome, ago in polls:
                await connection.execute(
                    "INSERT INTO ops.poll_run (facility_no, worker, started_at, outcome) "
                    "VALUES ($1, 'w', now() - make_interval(secs => $2), $3)",
                    number,
                    ago,
                    outcome,
                )
        text = await worker.look()
        found = {state: total(text, "sluice_facilities", state=state) for state in ("ok", "failing", "overdue", "paused")}
        assert found == {"ok": 4, "failing": 5, "overdue": 2, "paused": 1}
        await connection.execute("DROP TABLE ops.poll_run")
        text = await worker.look()
    assert told(text) == OF_ALL
