"""What `sluice check` finds in a database and its replicas: each fault is really caused, and seen."""

from dataclasses import replace
from functools import partial
from time import time
from typing import Any

import asyncpg
import pytest

from app.checking.checks import examine
from app.checking.scene import Scene
from app.checking.schema import wraparound
from base.config import Config
from ingestion.credentials import Vault
from storage.embedded import Cluster
from storage.migrate import migrations
from tests.checking import BY_NAME, ONE_TENANT, SECRET, found, says, scene_of, shown
from tests.conftest import database_url
from tests.replicas import Node, servers, stranger
from tests.support import connected

LAST = migrations()[-1]
PATIENT = """
    INSERT INTO fhir.resource (tenant_id, type, id, rank, version, last_updated, sha256, body)
    VALUES (1, 'Patient', 'a', 0, 1, now(), '', '');
"""
CHANGE = "INSERT INTO claims.change (tenant_id, provider_id, claim_id, remitted) VALUES (1, 'p', 'c', true);"
FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "rights": [
        ("GRANT INSERT ON fhir.resource TO sluice_api", "failure", "sluice_api has INSERT on fhir.resource, and should not"),
        ("GRANT UPDATE (name) ON ops.tenant TO sluice_api", "failure", "sluice_api has UPDATE on ops.tenant, and should not"),
        ("GRANT SELECT ON ops.secret TO PUBLIC", "failure", "sluice_ingest has SELECT on ops.secret, and should not"),
        (
            "GRANT SELECT ON claims.claim TO sluice_report",
            "failure",
            "sluice_report has SELECT on claims.claim, ops.secret, and should not",
        ),
        (
            "GRANT USAGE ON SCHEMA claims TO sluice_report",
            "failure",
            "sluice_report gets into the schema claims, and should not",
        ),
        ("GRANT CREATE ON SCHEMA fhir TO sluice_ingest", "failure", "sluice_ingest may make tables in fhir"),
        (
            "GRANT EXECUTE ON FUNCTION ops.key_owner TO PUBLIC",
            "failure",
            "sluice_report may call ops.key_owner, and should not",
        ),
        (
            "CREATE TABLE public.mine (); GRANT DELETE ON public.mine TO sluice_api",
            "failure",
            "DELETE on public.mine, and should not",
        ),
        ("REVOKE INSERT ON claims.claim FROM sluice_ingest", "failure", "sluice_ingest lacks INSERT on claims.claim"),
        ("REVOKE SELECT ON fhir.token FROM sluice_api", "failure", "sluice_api lacks SELECT on fhir.token"),
        ("REVOKE USAGE ON SCHEMA report FROM sluice_report", "failure", "sluice_report does not get into the schema report"),
        ("REVOKE EXECUTE ON FUNCTION ops.warm FROM sluice_api", "failure", "sluice_api may not call ops.warm"),
    ],
    "indexes": [("", "failure", "invalid, no plan uses it: ops.wrong (of ops.tenant)")],
    "statistics": [
        (
            "CREATE TABLE public.big WITH (autovacuum_enabled = off) AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)",
            "warning",
            "never analysed, so plans go wrong: big",
        )
    ],
    "server": [
        ("ALTER DATABASE {database} SET idle_session_timeout = '1h'", "warning", "idle_session_timeout = 3600000: it ends"),
        ("ALTER DATABASE {database} SET transaction_timeout = '1h'", "warning", "transaction_timeout = 3600000: it may end"),
    ],
    "keys": [
        ("INSERT INTO ops.tenant (name) VALUES ('two'), ('three')", "warning", "three, two: no key, so nobody can ask"),
        (
            "UPDATE ops.api_key SET revoked_at = now() WHERE tenant_id = 1",
            "warning",
            "one, three, two: no key, so nobody can ask",
        ),
        ("UPDATE ops.api_key SET revoked_at = now()", "warning", "there is no operator's key"),
        ("TRUNCATE ops.tenant CASCADE", "warning", "there is no tenant"),
    ],
    "search index": [
        (PATIENT + "DELETE FROM ops.fact WHERE name = 'index'", "warning", "searches may miss"),
    ],
    "report views": [
        (
            CHANGE + "UPDATE ops.report_view SET current_at = now() - interval '1 hour'",
            "warning",
            "claims-by-payer is 3,600 s behind, 1 changes wait → does `sluice worker` run?",
        ),
        (
            "UPDATE ops.report_view SET reason = 'DiskFullError (53100)'",
            "warning",
            "its last refresh failed, DiskFullError (53100)",
        ),
    ],
    "extensions": [
        ("DROP EXTENSION pg_stat_statements", "warning", "pg_stat_statements is loaded, and not made here"),
        ("DROP EXTENSION pg_trgm CASCADE", "failure", "pg_trgm is missing → run `sluice migrate`"),
    ],
    "migrations": [
        ("UPDATE ops.fact SET value = '0' WHERE name = 'pgqueuer'", "warning", "the job queue's tables are of pgqueuer 0"),
        (
            f"DELETE FROM public.sluice_migration WHERE version = {LAST.version}",
            "failure",
            f"not applied: {LAST.version:04} {LAST.name}",
        ),
        ("UPDATE public.sluice_migration SET sha256 = ''", "failure", "migration 0001 was changed after it was applied"),
        ("INSERT INTO public.sluice_migration VALUES (9999, 'x', '')", "failure", "does not know → upgrade Sluice"),
        ("DROP TABLE public.sluice_migration", "failure", "not applied: 0001 ground, 0002 search, 0003 reindex and"),
    ],
}


@pytest.mark.parametrize("check", FAULTS)
async def test_database_faults(check: str, database: str) -> None:
    """What is wrong with the database is found when it is, and only then."""
    scene = scene_of(database)
    async with connected(database) as connection:
        await connection.execute(ONE_TENANT)
        for sql, state, words in FAULTS[check]:
            assert not says(await found(check, scene), state, words)
            if sql:
                await connection.execute(sql.replace("{database}", database.rsplit("/", 1)[1]))
            else:
                await spoil_index(connection)
            after = await found(check, scene)
            assert says(after, state, words), after


async def spoil_index(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO ops.tenant (name) VALUES ('two')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY wrong ON ops.tenant ((1))")


POWERS = [
    ("ALTER ROLE sluice_api CREATEDB", "ALTER ROLE sluice_api NOCREATEDB", "sluice_api is CREATEDB"),
    ("ALTER ROLE sluice_report BYPASSRLS", "ALTER ROLE sluice_report NOBYPASSRLS", "sluice_report is BYPASSRLS"),
    ("ALTER ROLE sluice_ingest SUPERUSER", "ALTER ROLE sluice_ingest NOSUPERUSER", "sluice_ingest is SUPERUSER"),
    (
        "GRANT pg_read_all_data TO sluice_report",
        "REVOKE pg_read_all_data FROM sluice_report",
        "is a member of pg_read_all_data",
    ),
]


async def test_powers(database: str) -> None:
    """A role that is mighty for the whole server is found; as migrations leave them none is."""
    scene = scene_of(database)
    assert [each for each, _ in await found("rights", scene)] == ["ok"]
    async with connected(database) as connection:
        for give, take, words in POWERS:
            await connection.execute(give)
            try:
                assert says(await found("rights", scene), "failure", words)
            finally:
                await connection.execute(take)


async def test_facilities(database: str) -> None:
    """What is paused, stopped, failing, overdue, without TLS, or sealed with another secret is named; no password is."""
    ours = Vault.from_config(Config(database_url="x", secret=SECRET)).seal("geheim")
    other = Vault.from_config(Config(database_url="x", secret="another")).seal("geheim")
    rows = [
        ("fine", ours, "https://a.example", "active", "0 s"),
        ("sealed", other, "https://a.example", "active", "0 s"),
        ("paused", ours, "https://a.example", "paused", "0 s"),
        ("stopped", ours, "https://a.example", "stopped", "0 s"),
        ("late", ours, "https://a.example", "active", "2 hours"),
        ("bare", ours, "http://a.example", "active", "0 s"),
        ("failing", ours, "https://a.example", "active", "0 s"),
        ("mended", ours, "https://a.example", "active", "0 s"),
    ]
    expected = {
        "sealed: the password cannot be opened": "failure",
        "paused: are paused": "warning",
        "stopped: are stopped": "warning",
        "late: are long overdue": "warning",
        "bare: have a post office without TLS": "warning",
        "failing: came to nothing 3 times": "warning",
    }
    scene = scene_of(database)
    assert (await found("facilities", scene))[0][1].startswith("none is registered")
    async with connected(database) as connection:
        await connection.execute("INSERT INTO ops.tenant (name) VALUES ('one')")
        await connection.executemany(
            "INSERT INTO ops.facility (tenant_id, licence, password, url, login, since, state, next_poll_at) "
            "VALUES (1, $1, $2, $3, 'login', now(), $4, now() - $5::text::interval)",
            rows,
        )
        await connection.execute(
            "INSERT INTO ops.poll_run (facility_no, worker, started_at, outcome) SELECT facility_no, 'w', now(), 'failed' "
            "FROM ops.facility, generate_series(1, CASE WHEN licence IN ('failing', 'mended') THEN 3 ELSE 2 END)"
        )
        await connection.execute(
            "INSERT INTO ops.poll_run (facility_no, worker, started_at, outcome) "
            "SELECT facility_no, 'w', now(), 'ok' FROM ops.facility WHERE licence = 'mended'"
        )
    told_ = await found("facilities", scene)
    assert len(told_) == len(expected)
    assert all(says(told_, state, words) for words, state in expected.items()), told_
    assert says(await found("facilities", scene_of(database, secret="")), "failure", "SLUICE_SECRET is unset")
    assert "geheim" not in str(told_)


async def test_transactions(database: str) -> None:
    """One that has been open for long is named, with how it is ended; one that may be is not."""
    scene = replace(scene_of(database), busy_s=0.05)
    async with connected(database) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetchval("SELECT pg_sleep(0.06)")
        pid = connection.get_server_pid()
        assert says(
            await found("transactions", scene), "warning", f"process {pid} (unnamed, idle in transaction) has been open"
        )
        assert [state for state, _ in await found("transactions", replace(scene, busy_s=900.0))] == ["ok"]
        await transaction.rollback()


@pytest.mark.parametrize(("age", "states"), [(399_999_999, []), (400_000_001, ["warning"]), (1_500_000_001, ["failure"])])
def test_wraparound(age: int, states: list[str]) -> None:
    """Rows that are long not frozen are a warning, and a failure before writing ends."""
    assert [str(each.state) for each in wraparound(age, 200_000_000)] == states


async def test_connections_and_clock(database: str) -> None:
    """More connections than four fifths of what the server has fail; clocks that differ are told of from a second on."""
    scene = scene_of(database)
    assert says(await found("connections", scene), "ok", " of 197 for 1 API process and 1 worker")
    assert says(
        await found("connections", replace(scene, processes=20)),
        "failure",
        "for 20 API processes and 1 worker (SLUICE_POOL_SIZE",
    )
    assert says(await found("connections", replace(scene, processes=10)), "warning", "more than 80 %")
    for ahead_s, state in ((0.0, "ok"), (2.0, "warning"), (-100.0, "failure")):
        assert [each for each, _ in await found("clock", replace(scene, clock=partial(clock, ahead_s)))] == [state]


def clock(ahead_s: float) -> float:
    return time() + ahead_s


async def test_time_limit(database: str) -> None:
    """A check that waits for a lock is given up, and the others are told."""
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE ops.api_key IN ACCESS EXCLUSIVE MODE")
        rows = await examine(scene_of(database), [BY_NAME["keys"], BY_NAME["indexes"]], limit_s=0.3)
    assert says(shown(rows[:1]), "failure", "no answer within 0.3 s")
    assert str(rows[1].state) == "ok"


async def test_a_fault_of_ours(database: str) -> None:
    """A check that breaks is one failure, told by its kind alone."""

    async def broken(_scene: Scene) -> Any:
        raise KeyError("geheim")

    (row,) = await examine(scene_of(database), [replace(BY_NAME["keys"], run=broken)])
    assert shown([row]) == [("failure", "it broke off: KeyError → that is a fault of ours: please report it")]


async def test_throwaway(database: str) -> None:
    """A server that a crash would tear is refused: the tests' own is one."""
    told_ = await found("server", scene_of(database))
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert says(told_, "failure", f"{name} = off: ")


async def test_encoding(cluster: Cluster) -> None:
    """A database that is not UTF-8 is refused."""
    async with connected(cluster.url) as connection:
        await connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    told_ = await found("database", scene_of(database_url(cluster, "ascii")))
    assert says(told_, "failure", "its encoding is SQL_ASCII")
    assert says(await found("keys", scene_of(database_url(cluster, "ascii"))), "skipped", "the database is not at this version")


async def test_replicas(primary: Node) -> None:
    """A replica that is away, held back, promoted, of another cluster, or the primary by another name, is told of."""
    async with servers(primary) as three, stranger() as other:
        first, second = three.nodes
        urls = {"replica_url": f"{second.url},{other.url}", "replica_lag_s": 0.3}
        told_ = await found("replicas", scene_of(first.url, **urls))
        assert says(told_, "warning", f"{second.address}: hot_standby_feedback is off")
        assert says(told_, "warning", "replication is asynchronous")
        assert says(told_, "failure", f"{other.address} is of another cluster")
        assert says(await found("database", scene_of(second.url)), "failure", f"{second.address}/postgres: takes no writes")
        # Whichever is named first, the primary is found.
        assert (await found("database", scene_of(second.url, replica_url=first.url)))[0][1].startswith(first.address)
        await second.hold()
        await first.run("CREATE TABLE public.more ()")
        assert says(
            await found("replicas", scene_of(first.url, **urls)), "failure", f"{second.address} is more than 0.3 s behind"
        )
        await second.resume()
        again = first.url.replace("127.0.0.1", "localhost")
        assert says(
            await found("replicas", scene_of(first.url, replica_url=again)), "warning", "is the primary by another name"
        )
        await second.promote()
        told_ = await found("replicas", scene_of(first.url, **urls))
        assert says(told_, "failure", f"{first.address} takes writes beside the primary")  # whose timeline is the higher one
        await second.stop()
        assert says(await found("replicas", scene_of(first.url, **urls)), "failure", f"no connection to {second.address}/")
