import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli import cli
from base.config import Config
from base.errors import Conflict, Problem
from ingestion.credentials import Vault
from ingestion.polling.braking import mean_between, pool_wait_in
from ingestion.polling.jobs import enqueue_due, enqueue_now, prune
from ingestion.polling.pace import Budget, Gate, Pace
from ingestion.polling.schedule import plan, spacing_s
from ingestion.polling.throttle import Brake, Reading, decide
from metrics.catalog import FirstComers, Metrics, WorkerMetrics
from metrics.exposition import exposition
from storage import facilities, jobs
from storage.jobs import queries
from storage.migrate import migrate
from tests.polls import SECRET, clinics, files_of, polling
from tests.support import add_tenant, connected

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def starts(due: list[tuple[int, datetime]], last: datetime | None = None, gap_s: float = 30.0) -> list[tuple[int, float]]:
    """(facility, seconds from NOW) of a minute's tick."""
    planned = plan(due, now=NOW, until=NOW + MINUTE, last_start=last, interval_s=1800, gap_s=gap_s)
    assert all(start.next_at - start.at == timedelta(seconds=1800) for start in planned)
    return [(start.facility_no, (start.at - NOW).total_seconds()) for start in planned]


# Who is due when


@pytest.mark.parametrize(
    ("mode", "facilities_there", "gap_s"),
    [("staggered", 1, 30), ("staggered", 60, 30), ("staggered", 100, 18), ("staggered", 0, 0), ("concurrent", 100, 0)],
)
def test_spacing(mode: str, facilities_there: int, gap_s: float) -> None:
    """30 s between starts, or the interval by the facilities when that is less; none in concurrent mode."""
    assert spacing_s(mode, 1800, facilities_there) == gap_s


def test_plan() -> None:
    """Polls start a gap apart, also from those of the tick before; who finds no place in this tick waits for the next."""
    due = [(number, NOW) for number in (1, 2, 3)]
    assert starts(due) == [(1, 0), (2, 30)]
    assert starts(due, last=NOW - timedelta(seconds=10)) == [(1, 20), (2, 50)]
    assert starts(due, last=NOW - MINUTE) == [(1, 0), (2, 30)]
    assert starts(due, gap_s=0) == [(1, 0), (2, 0), (3, 0)]
    assert starts([(1, NOW + timedelta(seconds=45))]) == [(1, 45)]


@given(st.integers(1, 300), st.integers(0, 3600))
def test_plan_keeps_up(count: int, late_s: int) -> None:
    """Tick after tick each facility gets its turn within an interval of being due, none sooner than a gap after another."""
    gap_s, tick, now = spacing_s("staggered", 1800, count), MINUTE, NOW
    waiting = {number: NOW - timedelta(seconds=late_s) for number in range(count)}
    begun: list[datetime] = []
    first: dict[int, datetime] = {}
    while now < NOW + timedelta(seconds=1860):
        due = sorted(((number, at) for number, at in waiting.items() if at < now + tick), key=lambda it: (it[1], it[0]))
        last = begun[-1] if begun else None
        for start in plan(due, now=now, until=now + tick, last_start=last, interval_s=1800, gap_s=gap_s):
            begun.append(start.at)
            first.setdefault(start.facility_no, start.at)
            waiting[start.facility_no] = start.next_at
        now += tick
    assert len(first) == count
    assert all(later - earlier >= timedelta(seconds=gap_s) for earlier, later in pairwise(begun))


async def test_ticks_side_by_side(database: str) -> None:
    """However many workers tick at once, each facility is planned once, and staggered."""
    config = Config(database_url=database, poll_interval_s=64)

    async def tick() -> int:
        async with connected(database) as connection:
            return await enqueue_due(connection, config)

    async with clinics(database, 4, files=files_of(4, claims=1)) as of:
        assert sorted(await asyncio.gather(*(tick() for _ in range(4)))) == [0, 0, 0, 4]
        rows = await of.rows("SELECT payload, execute_after FROM jobs.queue ORDER BY execute_after")
        assert len({row["payload"] for row in rows}) == 4
        gaps = [later["execute_after"] - earlier["execute_after"] for earlier, later in pairwise(rows)]
        assert gaps == [timedelta(seconds=16)] * 3
        async with connected(database) as connection:
            await connection.execute("UPDATE ops.facility SET state = 'paused', next_poll_at = now()")
            assert await enqueue_due(connection, config) == 0


async def test_asked_for(database: str) -> None:
    """A poll that is asked for is one that waits, brought forward; or another after one that runs, the same for all who ask."""
    async with clinics(database, files=files_of(1, claims=1)) as of, connected(database) as connection:
        number = await of.number(of.licences[0])
        await connection.execute("UPDATE ops.facility SET next_poll_at = now() + interval '50 seconds'")
        assert await enqueue_due(connection, Config(database_url=database)) == 1
        waiting = await enqueue_now(connection, number)
        assert await of.value("SELECT execute_after <= now() FROM jobs.queue WHERE id = $1", waiting)
        await connection.execute("UPDATE jobs.queue SET status = 'picked' WHERE id = $1", waiting)
        after = await enqueue_now(connection, number)
        assert after != waiting
        assert await enqueue_now(connection, number) == after


async def test_pruned(database: str) -> None:
    """The log of jobs and the history of polls are kept for a while, not for ever."""
    async with clinics(database, files=files_of(1, claims=1)) as of, connected(database) as connection:
        number = await of.number(of.licences[0])
        await enqueue_now(connection, number)
        run = await facilities.start_run(connection, number, "one", NOW - timedelta(days=4000), None)
        await facilities.finish_run(connection, run, NOW, "ok", "", facilities.Tally())
        await prune(connection)
        assert await of.value("SELECT count(*) FROM jobs.queue_log") == 1
        assert await of.value("SELECT count(*) FROM ops.poll_run") == 0
        await connection.execute("UPDATE jobs.queue_log SET created = now() - interval '8 days'")
        await prune(connection)
        assert await of.value("SELECT count(*) FROM jobs.queue_log") == 0


async def test_queue_tables(database: str) -> None:
    """`migrate` makes the queue's tables once, upgrades them for another pgqueuer, and the ingestion's role may use them."""
    await migrate(database)
    async with connected(database) as connection:
        assert not await jobs.ensure(connection)
        await connection.execute("UPDATE ops.fact SET value = '1.0.0' WHERE name = 'pgqueuer'")
        assert await jobs.ensure(connection)
        await connection.execute("SET ROLE sluice_ingest")
        assert await queries(connection).enqueue("poll", b"1", dedupe_key="one")


# Facilities


async def test_licence_is_of_one_tenant(database: str) -> None:
    """A licence that is registered is refused, to its own tenant and to any other."""
    async with clinics(database, files=files_of(1, claims=1)) as of:
        await add_tenant(database, "other")
        async with connected(database) as connection:
            other = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = 'other'")
            with pytest.raises(Conflict, match="registered already"):
                await facilities.add_facility(
                    connection, other, of.licences[0], url="https://x", login="x", password=b"x", since=NOW
                )


async def test_mailbox_moves(database: str) -> None:
    """A facility whose mailbox has moved is polled there at once, also one whose login was refused; a paused one stays so."""
    async with clinics(database, 3) as of, connected(database) as connection:
        found = [await facilities.facility_of(connection, licence) for licence in of.licences]
        await facilities.stop(connection, found[1], "login refused")
        await facilities.set_state(connection, found[2], "paused")
        await facilities.set_next_polls(connection, [(each.facility_no, NOW + timedelta(days=9999)) for each in found])
        for each in found:
            await facilities.set_mailbox(connection, each.licence, url="http://[::1]:1/x", login="new", password=b"sealed")
        rows = await connection.fetch("SELECT *, next_poll_at <= now() AS is_due FROM ops.facility ORDER BY licence")
    assert [(row["state"], row["reason"]) for row in rows] == [("active", ""), ("active", ""), ("paused", "")]
    assert {(row["url"], row["login"], row["password"], row["is_due"]) for row in rows} == {
        ("http://[::1]:1/x", "new", b"sealed", True)
    }


async def test_status_and_errors(database: str) -> None:
    """The status tells how many acknowledgements are owed and files parked; errors tell what was quarantined."""
    async with clinics(database) as of, polling(of) as polls, connected(database) as connection:
        (licence,) = of.licences
        (status,) = await facilities.status(connection)
        assert (status["outcome"], status["files"], status["owed"]) == (None, 0, 0)
        of.behave(licence, garbage_share=1.0, ack_fail_next=10_000)
        await polls.of(licence)
        (status,) = await facilities.status(connection)
        received = len(of.boxes[licence].received)
        assert (status["outcome"], status["files"], status["owed"], status["parked"]) == (
            "ok",
            len(of.files[licence]),
            received,
            0,
        )
        errors = await facilities.errors(connection, None, 100)
        assert {row["severity"] for row in errors} == {"quarantined"}
        assert len(errors) == len(of.files[licence])
        assert len(await facilities.errors(connection, None, 2)) == 2
        assert await facilities.errors(connection, "DHA-F-9", 100) == []


async def test_commands(database: str, tmp_path: Path) -> None:
    """A facility is registered, listed, changed, paused, resumed and polled by commands; its password is stored encrypted."""
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    clean = {name: None for name in os.environ if name.startswith("SLUICE_")}

    async def run(*words: str) -> Any:
        """What it prints as JSON, or the Problem that it tells of."""
        environment = {**clean, "SLUICE_DATABASE_URL": database, "SLUICE_SECRET": SECRET}
        done = await asyncio.to_thread(CliRunner(env=environment).invoke, cli, words)
        assert done.exception is None or isinstance(done.exception, Problem), done.output
        return done.exception or (json.loads(done.stdout) if "--json" in words else None)

    await run("tenant", "create", "clinic")
    words = ("facility", "add", "clinic", "DHA-F-1", "--login", "me", "--password-file", str(password), "--since", "2026-05-01")
    for bad in ("http://post.example/x", "https://me:sesame@post.example/x", "post.example"):
        assert "begins with https://" in str(await run(*words, "--url", bad))
    assert await run(*words, "--url", "https://post.example/x", "--no-acknowledge") is None
    assert "registered already" in str(await run(*words, "--url", "https://post.example/x"))
    assert await run("facility", "pause", "DHA-F-1") is None
    (row,) = await run("facility", "list", "--json")
    assert (row["licence"], row["tenant"], row["state"], row["acknowledge"]) == ("DHA-F-1", "clinic", "paused", False)
    assert datetime.fromisoformat(row["since"]) == datetime.fromisoformat("2026-05-01T00:00:00+04:00")
    assert "is paused" in str(await run("facility", "poll", "DHA-F-1"))
    assert await run("facility", "resume", "DHA-F-1") is None
    (job,) = await run("facility", "poll", "--json")
    assert job["facility"] == "DHA-F-1"
    (status,) = await run("ingest", "status", "--json")
    assert (status["licence"], status["state"], status["outcome"]) == ("DHA-F-1", "active", None)
    assert await run("ingest", "errors", "--json") == []
    assert "there is no facility DHA-F-2" in str(await run("ingest", "errors", "DHA-F-2"))
    assert "was tried in vain" in str(await run("ingest", "retry", "DHA-F-1", "F1"))
    async with connected(database) as connection:
        facility = await facilities.facility_of(connection, "DHA-F-1")
    assert b"sesame" not in facility.password
    assert "password" not in repr(facility)
    password.write_text("shut sesame\n")
    assert "nothing is to change" in str(await run("facility", "mailbox", "DHA-F-1"))
    assert "there is no facility DHA-F-2" in str(await run("facility", "mailbox", "DHA-F-2", "--login", "you"))
    assert "begins with https://" in str(await run("facility", "mailbox", "DHA-F-1", "--url", "http://post.example/x"))
    assert await run("facility", "mailbox", "DHA-F-1", "--password-file", str(password)) is None
    assert await run("facility", "mailbox", "DHA-F-1", "--login", "you", "--url", "https://post.example/y") is None
    async with connected(database) as connection:
        changed = await facilities.facility_of(connection, "DHA-F-1")
    assert (changed.login, changed.url) == ("you", "https://post.example/y")
    assert Vault.from_config(Config(secret=SECRET)).open(changed.password) == "shut sesame"


# Slowing down


@pytest.mark.parametrize(
    ("reading", "reason", "hardest"),
    [
        (Reading(), "", 0.0),
        (Reading(pool_wait_s=0.02, replica_lag_s=10.0, cpu=0.9, disk_free=0.05), "", 0.0),
        (Reading(pool_wait_s=0.03), "api", 0.5),
        (Reading(replica_lag_s=1000.0), "replica", 1.0),
        (Reading(cpu=0.95), "cpu", 0.5),
        (Reading(disk_free=0.03, cpu=0.91), "disk", 0.8),
    ],
)
def test_decide(reading: Reading, reason: str, hardest: float) -> None:
    """Up to its limit nothing brakes; beyond it what is furthest beyond does."""
    brake = decide(reading, Config(throttle_cpu=0.9))
    assert brake.reason == reason
    assert brake.hardest == pytest.approx(hardest)


def test_brake() -> None:
    """A brake makes files fewer and puts pauses between them; only a full disk stops all."""
    assert (Brake({}).files(16), Brake({}).pause_s) == (16, 0)
    assert (Brake({"api": 0.5}).files(16), Brake({"api": 0.5}).pause_s) == (8, 0.5)
    assert (Brake({"cpu": 1.0}).files(16), Brake({"cpu": 1.0}).pause_s, Brake({"cpu": 1.0}).stopped) == (1, 0, False)
    assert (Brake({"replica": 1.0}).files(16), Brake({"replica": 1.0}).stopped) == (1, False)
    assert (Brake({"disk": 1.0}).files(16), Brake({"disk": 1.0}).stopped) == (0, True)


def test_cpu_never() -> None:
    """A limit of all the CPU brakes never."""
    assert decide(Reading(cpu=1.0), Config(throttle_cpu=1.0)).hardest == 0


def test_pool_wait() -> None:
    """The API's wait is read from its own scrape, as the mean since the scrape before."""
    metrics = Metrics()
    before = pool_wait_in(exposition(metrics.families, metrics.snapshot()).decode())
    assert before is None
    metrics.pool_wait.child("api").observe(0.5)
    scrapes = []
    for wait_s in (0.1, 0.3):
        metrics.pool_wait.child("api").observe(wait_s)
        found = pool_wait_in(exposition(metrics.families, metrics.snapshot()).decode())
        assert found is not None
        scrapes.append(found)
    assert mean_between(*scrapes) == pytest.approx(0.3)
    assert mean_between(scrapes[1], scrapes[1]) is None
    assert mean_between(scrapes[1], scrapes[0]) is None


# How much at once


def test_pace() -> None:
    """One more after as many that went well, half as many after one that did not; several failures at once halve once."""
    pace = Pace(2, 4)
    sizes = []
    for well in (True, True, True, True, True, True, True, False, False, False, True, True, True):
        pace.went(well=well)
        sizes.append(pace.size)
    assert sizes == [2, 3, 3, 3, 4, 4, 4, 2, 2, 2, 2, 2, 3]
    assert (Pace(99, 8).size, Pace(0, 8).size) == (8, 1)


async def test_gate() -> None:
    """A gate lets in up to its limit, and further ones as soon as others leave or the limit grows."""
    limit = [1]
    gate = Gate(lambda: limit[0])
    await gate.enter()
    second = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    assert not second.done()
    gate.leave()
    await second
    third = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    limit[0] = 2
    async with asyncio.timeout(2):
        await third
    assert gate.inside == 2


async def test_budget() -> None:
    """Nothing is begun while as many bytes are held as may be."""
    budget = Budget(10)
    await budget.room()
    budget.take(11)
    waiting = asyncio.ensure_future(budget.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.give_back(11)
    await waiting
    assert budget.held == 0


def test_first_comers() -> None:
    """Facilities have a label of their own up to a bound, whatever comes after."""
    labels = WorkerMetrics().labels
    assert isinstance(labels, FirstComers)
    names = [f"DHA-F-{number}" for number in range(300)]
    found = [labels.label(name) for name in names]
    assert found == names[:200] + ["other"] * 100
    assert [labels.label(name) for name in names] == found
