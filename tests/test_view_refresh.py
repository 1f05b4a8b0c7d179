"""The views' upkeep beside whoever else does it: real connections, real locks, real processes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import pytest

from base.config import VIEWS
from metrics.catalog import WorkerMetrics
from reporting import planning
from reporting.planning import Wish
from reporting.refreshing import Connect, Refreshing
from storage import views
from storage.connecting.watch import Primary
from storage.views import REPORTS
from tests.claims import connected
from tests.histories import remittance, submission
from tests.processes import sluice, total
from tests.test_worker import scraped, working
from tests.view_books import Books, books

SETTINGS = {"role": "sluice_ingest", "application_name": "sluice views"}
SOON = Wish(interval_s=0.3, changes_min=1, freshness_s=None, offset=0.0)
HOURLY = Wish(interval_s=3600.0, changes_min=1, freshness_s=None, offset=0.0)


@dataclass
class Upkeep:
    metrics: WorkerMetrics
    stop: asyncio.Event
    task: asyncio.Task[None]

    def refreshes(self, view: str, outcome: str) -> int:
        """How many ended so."""
        return int(sum(self.metrics.view_refresh.child(view, outcome).counts))

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(3):
            await self.task


@asynccontextmanager
async def upkeep(url: str, wish: Wish, connect: Connect | None = None) -> AsyncIterator[Upkeep]:
    """A worker's part in it, with the same wish for all views."""
    metrics, stop = WorkerMetrics(), asyncio.Event()
    running = Refreshing(connect or Primary(url).connect, SETTINGS, dict.fromkeys(VIEWS, wish), metrics)
    kept = Upkeep(metrics, stop, asyncio.ensure_future(running.run(stop)))
    try:
        yield kept
    finally:
        await kept.end()


async def until(of: Books, condition: Any, within_s: float = 10.0) -> dict[str, views.State]:
    """The states, as soon as they are so."""
    async with asyncio.timeout(within_s):
        while not condition(states := await views.states(of.ingest)):  # noqa: ASYNC110  # another process may do it
            await asyncio.sleep(0.01)
    return states


def claim(n: int) -> dict[tuple[str, str], list[Any]]:
    return {("P", f"C{n}"): [submission(0, {"A1": "10.00"}), remittance(1, {"A1": "4.00"})]}


@pytest.fixture
def never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no refresh takes too long for its interval."""
    monkeypatch.setattr(planning, "_SLOW", 1000.0)


@pytest.mark.usefixtures("never_slow")
async def test_two_workers(database: str) -> None:
    """Two workers together refresh a view once in each of its intervals, with claims coming in all the time."""
    async with books(database) as of, upkeep(database, SOON) as one, upkeep(database, SOON) as other:
        times: dict[str, set[Any]] = {name: set() for name in VIEWS}
        first = (await views.states(of.ingest))["balance-amount"].refreshed_at
        number = 0
        while min(map(len, times.values())) < 5:
            await of.tell(1, claim(number := number + 1))
            for name, state in (await views.states(of.ingest)).items():
                times[name] |= {state.refreshed_at} - {first}
        await one.end()
        await other.end()
        for name, state in (await views.states(of.ingest)).items():
            seen = times[name] | {state.refreshed_at}
            assert state.refreshed == len(seen), "none was between two looks"
            assert len({SOON.slot_of(moment) for moment in seen}) == len(seen)
            assert one.refreshes(name, "refreshed") + other.refreshes(name, "refreshed") == state.refreshed
            assert (state.failed, state.applied) == (0, 0)


async def test_looked_at_again(database: str) -> None:
    """Who has waited for a view's lock does nothing that another has just done."""
    async with books(database) as of:
        await of.tell(1, claim(1))
        await of.bring_up("refresh")
        running = Refreshing(Primary(database).connect, SETTINGS, dict.fromkeys(VIEWS, HOURLY), WorkerMetrics())
        await running._lanes[0]._act(of.ingest, REPORTS["balance-amount"], planning.Decision("refresh"))
        assert (await views.states(of.ingest))["balance-amount"].refreshed == 1


@pytest.mark.usefixtures("never_slow")
async def test_unchanged(database: str) -> None:
    """Where nothing has changed nothing is computed, once in each interval it counts, and reports know how fresh they are."""
    async with books(database) as of, upkeep(database, SOON) as kept:
        before = await views.states(of.ingest)
        after = await until(of, lambda now: all(now[name].current_at > before[name].current_at for name in VIEWS))
        assert all(after[name].refreshed_at == before[name].refreshed_at for name in VIEWS)
        assert all(kept.metrics.view_skipped.child(name, "unchanged").value >= 1 for name in VIEWS)
        ages = {labels[0]: age for labels, age in kept.metrics.view_age.snapshot()}
        assert set(ages) == set(VIEWS)
        assert max(ages.values()) < 5


@pytest.mark.usefixtures("never_slow")
async def test_few(database: str) -> None:
    """Few changes wait, and are counted as waiting."""
    wish = replace(SOON, changes_min=100)
    async with books(database) as of:
        await of.bring_up("refresh")
        await of.tell(1, claim(1))
        before = await views.states(of.ingest)
        async with upkeep(database, wish) as kept:
            skipped = kept.metrics.view_skipped.child("balance-amount", "few")
            after = await until(of, lambda _: skipped.value)
        assert {name: state.refreshed for name, state in after.items()} == {name: before[name].refreshed for name in VIEWS}


async def test_told_at_once(database: str) -> None:
    """Where a refresh takes long, a view is kept by its table, and what comes in is there as soon as it is announced."""
    async with books(database) as of, connected(database, {}) as owner:
        await of.tell(1, claim(1))
        await of.bring_up("refresh")
        await owner.execute("UPDATE ops.report_view SET took_s = 1000")
        async with upkeep(database, HOURLY) as kept:
            await until(of, lambda now: all(state.incremental for state in now.values()))
            await of.check(1)
            for number in range(2, 5):
                await of.tell(1, claim(number))
                await until(of, lambda now: not any(state.waiting for state in now.values()), within_s=2)
                await of.check(1)
            assert all(kept.refreshes(name, "applied") >= 3 for name in VIEWS)
            assert dict(kept.metrics.view_rows.snapshot())[("balance-amount",)] == 4
        assert await owner.fetchval("SELECT count(*) FROM claims.change") == 0, "what is in everywhere is forgotten"


async def backends(owner: asyncpg.Connection, waiting: str) -> list[int]:
    """Of views' connections; `waiting`: a condition on pg_stat_activity."""
    ours = "application_name = 'sluice views' AND datname = current_database()"
    await owner.execute("SELECT pg_stat_clear_snapshot()")
    return [row[0] for row in await owner.fetch(f"SELECT pid FROM pg_stat_activity WHERE {ours} AND {waiting}")]


@asynccontextmanager
async def standing_still(owner: asyncpg.Connection) -> AsyncIterator[None]:
    """Whoever computes a view waits for the claims."""
    async with owner.transaction():
        await owner.execute("LOCK TABLE claims.claim IN ACCESS EXCLUSIVE MODE")
        yield


async def stuck(owner: asyncpg.Connection) -> int:
    """The backend that has begun to compute, and waits."""
    async with asyncio.timeout(10):
        while not (found := await backends(owner, "wait_event_type = 'Lock'")):
            pass
    return found[0]


@pytest.mark.usefixtures("never_slow")
async def test_killed(database: str) -> None:
    """A worker whose backend is killed in the midst goes on by itself, and the failure is written down without any data."""
    async with books(database) as of, connected(database, {}) as owner:
        await of.tell(1, claim(1))
        async with upkeep(database, SOON) as kept:
            async with standing_still(owner):
                await owner.execute("SELECT pg_terminate_backend($1, 5000)", await stuck(owner))
            states = await until(of, lambda now: not any(state.waiting for state in now.values()))
            await of.check(1)
        assert sum(state.failed for state in states.values()) == 1
        assert sum(kept.refreshes(name, "failed") for name in VIEWS) == 1
        assert not await owner.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")


@pytest.mark.usefixtures("never_slow")
async def test_ended_in_the_midst(database: str) -> None:
    """A worker that is told to end does not finish a refresh first, and leaves no lock behind."""
    async with books(database) as of, connected(database, {}) as owner:
        await of.tell(1, claim(1))
        async with upkeep(database, SOON) as kept, standing_still(owner):
            await stuck(owner)
            await kept.end()
            async with asyncio.timeout(2):
                while await backends(owner, "true"):
                    pass
        assert (await views.states(of.ingest))["balance-amount"].waiting == 1


@pytest.mark.usefixtures("never_slow")
async def test_one_fails(database: str) -> None:
    """A view whose refresh fails says why, is tried again later, and keeps no other one from being refreshed."""
    matview = REPORTS["remittance-advice"].matview
    async with books(database) as of, connected(database, {}) as owner:
        await of.tell(1, claim(1))
        await owner.execute(f"REVOKE MAINTAIN ON {matview} FROM sluice_ingest")
        async with upkeep(database, SOON) as kept:
            states = await until(of, lambda now: now["remittance-advice"].failed and now["claims-by-payer"].refreshed)
            assert states["remittance-advice"].reason == "InsufficientPrivilegeError (42501)"
            await owner.execute(f"GRANT MAINTAIN ON {matview} TO sluice_ingest")
            states = await until(of, lambda now: not any(state.waiting for state in now.values()))
            assert states["remittance-advice"].reason == ""
            assert kept.refreshes("remittance-advice", "failed") == states["remittance-advice"].failed == 1
        await of.check(1)


@pytest.mark.usefixtures("never_slow")
async def test_never_on_a_replica(database: str) -> None:
    """Where nothing can be written, as on a replica, nothing is tried; it begins as soon as it can."""
    name, tries = database.rpartition("/")[2], 0

    async def connect(**how: Any) -> asyncpg.Connection:
        nonlocal tries
        tries += 1
        return await asyncpg.connect(database, **how)

    async with books(database) as of, connected(database, {}) as owner:
        await of.tell(1, claim(1))
        await owner.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        async with upkeep(database, SOON, connect) as kept:
            await until(of, lambda _: tries > 2)  # it is tried again and again
            assert not kept.metrics.view_age.snapshot()
            await owner.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            states = await until(of, lambda now: not any(state.waiting for state in now.values()))
        assert not any(state.failed for state in states.values())


async def test_commands(database: str) -> None:
    """`views refresh` waits for its turn and brings a view up to date; `views status` tells how they are kept."""
    async with books(database) as of, connected(database) as busy:
        await of.tell(1, claim(1))
        await of.bring_up("rebuild", ["claims-by-payer"])
        await of.tell(1, claim(2))
        async with views.turn(busy, REPORTS["remittance-advice"], whole=True):
            waits = asyncio.ensure_future(sluice("views", "refresh", database_url=database))
            unknown = await sluice("views", "refresh", "balance", database_url=database)
            assert not waits.done()
            assert (await views.states(of.ingest))["balance-amount"].waiting == 2
        done = await waits
        assert (done.code, done.out) == (0, "")
        told = [line.partition(" in ")[0] for line in done.err.splitlines()]
        assert told == [
            "balance-amount: 2 rows refreshed",
            "remittance-advice: 2 rows refreshed",
            "claims-by-payer: 1 rows computed anew",
        ]
        await of.check(1)
    assert (unknown.code, unknown.out) == (1, "")
    assert "expected one of balance-amount, remittance-advice, claims-by-payer" in unknown.err
    status = await sluice("views", "status", "--json", database_url=database)
    rows = json.loads(status.out)
    assert [row["view"] for row in rows] == list(VIEWS)
    assert [row["kept"] for row in rows] == ["materialized view", "materialized view", "table"]
    assert [(row["changes"], row["age_s"], row["interval_s"], row["failed"]) for row in rows] == [(0, 0.0, 60.0, 0)] * 3
    assert [row["rows"] for row in rows] == [2, 2, 1]


async def test_worker(database: str) -> None:
    """`sluice worker` does it, beside its polls, and shows it on its port."""
    async with books(database) as of, working(database, view_freshness_s=0.5) as worker:
        await worker.seen(lambda: len(worker.logged("view.rebuilt")) == 3 or None)
        await of.tell(1, claim(1))
        await worker.seen(lambda: {line["view"] for line in worker.logged("view.applied")} == set(VIEWS) or None)
        await of.check(1)
        text = await scraped(worker)
        assert total(text, "sluice_view_rows", view="balance-amount") == 1
        assert total(text, "sluice_view_refresh_duration_seconds_count", view="balance-amount", outcome="applied") == 1
