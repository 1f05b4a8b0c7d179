"""The report views in the database: by whatever way they are kept, their rows are those of the plain model."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import product
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion.claims import Encounter
from storage import views
from storage.views import REPORTS, View
from tests import claim_text
from tests.claims import connected, intake
from tests.conftest import PROVE
from tests.histories import histories, hour, remittance, submission
from tests.view_books import Books, apply_all, books, write

EXAMPLES = 1000 if PROVE else 15
MANY = """
INSERT INTO claims.claim (tenant_id, provider_id, claim_id, submitted_at, facility_id, payer_id, net, pending, remittance_count)
SELECT 1, 'P', 'C' || n, now(), 'F', 'INS' || n % 9, 1, 1, 1 FROM generate_series(1, 1000) n;
INSERT INTO claims.remittance
SELECT 1, 'P', 'C' || n, 1, 'f', n, 'S', now(), now(), '', '', NULL, 0 FROM generate_series(1, 1000) n;
"""
"""A tenant's claims, all of them remitted."""
pytestmark = pytest.mark.timeout(3600 if PROVE else 120)

_keys = st.tuples(st.sampled_from([1, 2]), st.sampled_from(["P-1", "P-2"]), st.sampled_from(["C-1", "C-2"]))
"""Of two tenants with the same ids: tenant, provider, claim."""
_told = st.dictionaries(_keys, histories.filter(bool), min_size=1, max_size=5)
_ways = st.lists(st.sampled_from(["apply", "apply", "rebuild", "refresh"]), min_size=1, max_size=4)


async def by_chance(strategy: Any, holds: Callable[[Any], Coroutine[Any, Any, None]], examples: int) -> None:
    """Hypothesis itself is synchronous, so it gets a thread."""
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=examples, derandomize=not PROVE, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(strategy)
    def check(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(holds(example), loop).result(60)

    await asyncio.to_thread(check)


async def test_random_histories(database: str) -> None:
    """Whatever comes of claims, in whatever order: after each step every view has the model's rows, to the last fils."""
    async with books(database) as of:

        async def holds(example: tuple[dict[tuple[int, str, str], list[Any]], list[str]]) -> None:
            told, ways = example
            first = max(of.told, default=0)  # tenants of their own: what others have stays, and must
            steps = len(ways)
            for number, way in enumerate(ways):
                for tenant in (1, 2):
                    said = {
                        key[1:]: events[len(events) * number // steps : len(events) * (number + 1) // steps]
                        for key, events in told.items()
                        if key[0] == tenant
                    }
                    await of.tell(first + tenant, {key: events for key, events in said.items() if events})
                await of.bring_up(way)
                await of.check(first + 1, first + 2)

        await by_chance(st.tuples(_told, _ways), holds, EXAMPLES)
        for way in ("refresh", "rebuild"):
            await of.bring_up(way)
            await of.check()


DOES: dict[str, Callable[[asyncpg.Connection, View], Coroutine[Any, Any, Any]]]
DOES = {"refresh": views.refresh, "rebuild": views.rebuild, "apply": views.apply}
WAYS = tuple(DOES)


async def test_two_tenants(database: str) -> None:
    """The same ids of two tenants are two claims: what changes of one changes nothing of the other."""
    async with books(database) as of:
        key = ("P", "C")
        for one, way in enumerate(WAYS, 1):
            other = one + 10
            await of.tell(one, {key: [submission(0, {"A1": "100.00"})]})
            await of.tell(other, {key: [submission(0, {"A1": "40.00"}), remittance(1, {"A1": "40.00"})]})
            await of.bring_up("rebuild")
            await of.tell(one, {key: [remittance(2, {"A1": "0.00 MNEC-003"})]})
            await of.bring_up(way)
            await of.check()
        assert await of.read(99) == {"balance-amount": [], "remittance-advice": [], "claims-by-payer": []}


async def test_orphans(database: str) -> None:
    """What was remitted before its submission came appears nowhere, and everywhere once it has come."""
    async with books(database) as of:
        for tenant, way in enumerate(WAYS, 1):
            await of.bring_up("rebuild")
            await of.tell(tenant, {("P", "C"): [remittance(3, {"A1": "30.00"}, settled=2)]})
            await of.bring_up(way)
            assert not any((await of.read(tenant)).values())
            await of.tell(tenant, {("P", "C"): [submission(0, {"A1": "30.00", "A2": "5.00"})]})
            await of.bring_up(way)
            assert all((await of.read(tenant)).values())
            await of.check()


@pytest.mark.parametrize(
    "moved",
    [
        {"payer_id": "INS002"},
        {"encounter": Encounter("DHA-F-0000001", "1", "MRN-1", hour(-24 * 60))},
        {"encounter": Encounter("DHA-F-0000009", "1", "MRN-1", hour(-1))},
    ],
    ids=["payer", "month", "facility"],
)
async def test_moved(database: str, moved: dict[str, Any]) -> None:
    """A correction that takes a claim to another group leaves no ghost of it in the old one, alone there or among others."""
    alone, among, other = ("P", "alone"), ("P", "among"), ("P", "other")
    first: dict[str, Any] = {"payer_id": "INS001", "encounter": Encounter("DHA-F-0000001", "1", "MRN-1", hour(-1))}
    async with books(database) as of:
        for tenant, way in enumerate(WAYS, 1):
            await of.tell(tenant, {alone: [submission(0, {"A1": "7.00"}, **first | {"payer_id": "INS007"})]})
            await of.tell(tenant, {key: [submission(0, {"A1": "10.00"}, **first)] for key in (among, other)})
            await of.bring_up("rebuild")
            await of.tell(
                tenant, {alone: [submission(2, {"A1": "7.00"}, "correction", **{"payer_id": "INS007"} | first | moved)]}
            )
            # By a group that it was in between, which nobody has read of.
            between = first | {"payer_id": "INS003"}
            await of.tell(tenant, {among: [submission(2, {"A1": "10.00"}, "correction", **between)]})
            await of.tell(tenant, {among: [submission(3, {"A1": "10.00"}, "correction", **first | moved)]})
            await of.bring_up(way)
            await of.check()


async def test_late_commit(database: str) -> None:
    """A transaction that began before, and commits after, is found by the next one, whatever others did meanwhile."""
    async with books(database) as of, connected(database) as late:
        for tenant, way in enumerate(WAYS, 1):
            await of.bring_up("rebuild")
            transaction = late.transaction()
            await transaction.start()
            said = {("P", "late"): [submission(0, {"A1": "9.00"}), remittance(1, {"A1": "4.00"})]}
            await write(late, tenant, said)
            await of.tell(tenant, {("P", "soon"): [submission(0, {"A1": "1.00"}), remittance(1, {"A1": "1.00"})]})
            await of.bring_up(way)
            await of.check()
            assert await waiting(of) == [0, 0, 0]
            await views.prune(of.ingest)
            await transaction.commit()
            of.note(tenant, said)
            assert await waiting(of) == [1, 1, 1]
            for view in REPORTS.values():
                assert not await views.confirm(of.ingest, view)
                await of.bring_up(way, [view.name])
                assert await views.confirm(of.ingest, view)
                await views.prune(of.ingest)  # what the others have not seen yet stays
            await of.check()
            assert await of.ingest.fetchval("SELECT count(*) FROM claims.change") == 0


async def test_commit_in_the_midst(database: str) -> None:
    """What is committed while a view is being computed, which does not see it, is found by the next one."""
    async with books(database) as of, connected(database, {}) as owner:
        for tenant, (way, view) in enumerate(product(WAYS, REPORTS.values()), 1):
            await of.tell(tenant, {("P", "soon"): [submission(0, {"A1": "1.00"})]})
            await of.bring_up("refresh" if way == "refresh" else "rebuild")
            await of.tell(tenant, {("P", "soon"): [remittance(1, {"A1": "1.00"})]})
            said = {("P", "late"): [submission(0, {"A1": "9.00"}), remittance(1, {"A1": "4.00"})]}
            async with owner.transaction():
                await owner.execute("LOCK TABLE claims.claim IN ACCESS EXCLUSIVE MODE")
                work = asyncio.ensure_future(DOES[way](of.ingest, view))
                await until_waiting(owner, of.ingest.get_server_pid())
                await write(owner, tenant, said)
            await work
            assert (await views.states(of.ingest))[view.name].waiting == 1
            of.note(tenant, said)
            await of.bring_up(way)
            await of.check(tenant)


async def waiting(of: Books) -> list[int]:
    return [state.waiting for state in (await views.states(of.ingest)).values()]


async def test_open_transaction(database: str) -> None:
    """While a transaction is open, what came after it is computed once, not again and again."""
    async with books(database) as of, connected(database) as late:
        await of.bring_up("rebuild")
        async with late.transaction():
            await write(late, 1, {("P", "late"): [submission(0, {"A1": "9.00"})]})
            await of.tell(1, {("P", "soon"): [submission(0, {"A1": "1.00"})]})
            for view in REPORTS.values():
                expected = 0 if view.remitted else 1
                assert (await views.apply(of.ingest, view)).keys == expected
                assert await views.apply(of.ingest, view) == views.Applied(0, 0, more=False)


@pytest.mark.parametrize("name", REPORTS)
async def test_steps(database: str, name: str) -> None:
    """Many changes are applied step by step, each of whole transactions, and none of them is lost between two steps."""
    view = REPORTS[name]
    async with books(database) as of, connected(database) as late:
        await of.bring_up("rebuild")
        transaction = late.transaction()
        await transaction.start()
        said = {("P", "late"): [submission(0, {"A1": "9.00"}), remittance(1, {"A1": "4.00"})]}
        await write(late, 1, said)
        for number in range(5):
            keys = [("P", f"{number}-{n}") for n in range(3)]
            history = [submission(0, {"A1": "1.00"}, payer_id=f"INS{number}"), remittance(1, {"A1": "0.50"})]
            await of.tell(1 + number % 2, dict.fromkeys(keys, history))
        assert [step.more for step in await apply_all(of.ingest, view, most=3)] == [False], "nothing is cut after what is open"
        await transaction.commit()
        of.note(1, said)
        for number in range(4):
            await of.tell(1 + number % 2, {("P", f"{number}-1"): [remittance(2, {"A1": "0.25"})]})
        before = await views.states(of.ingest)
        steps = [await views.apply(of.ingest, view, most=2)]
        assert steps[0].more
        assert (await views.states(of.ingest))[name].current_at == before[name].current_at, "some is missing still"
        steps += await apply_all(of.ingest, view, most=2)
        assert [step.more for step in steps] == [True, True, False]
        found, expected = await of.read(1), of.expected(1)
        assert found[name] == expected[name]
        assert (await of.read(2))[name] == of.expected(2)[name]


async def test_rows_are_counted(database: str) -> None:
    """The number of rows is right by every way, also where some are no more."""
    async with books(database) as of:
        await of.bring_up("rebuild")
        for said in (submission(0, {"A1": "1.00"}), submission(2, {"A1": "1.00"}, "correction", payer_id="INS002")):
            await of.tell(1, {("P", "C"): [said]})
            for way in ("apply", "rebuild", "refresh", "rebuild"):
                await of.bring_up(way)
                found = {name: len(rows) for name, rows in (await of.read(1)).items()}
                assert {name: state.rows for name, state in (await views.states(of.ingest)).items()} == found


async def test_copy_of_a_database(database: str) -> None:
    """Where it is not known what is in, as after a restore of a dump, changes alone are not trusted."""
    async with books(database) as of, connected(database, {}) as owner:
        await of.bring_up("rebuild")
        await owner.execute("UPDATE ops.report_view SET done = '1000000000:1000000000:'")
        await of.tell(1, {("P", "C"): [submission(0, {"A1": "1.00"})]})
        await owner.execute("INSERT INTO claims.change (xid, tenant_id, provider_id, claim_id, remitted)"
                            " VALUES ('999999999', 1, 'P', 'C', true)")  # fmt: skip
        assert all(state.lost for state in (await views.states(of.ingest)).values())
        for view in REPORTS.values():
            assert not await views.confirm(of.ingest, view)
            assert await views.apply(of.ingest, view) == views.Applied(0, 0, more=False)
            assert (await views.states(of.ingest))[view.name].lost, "it must not be forgotten either"
        await of.bring_up("rebuild")
        await of.check(1)
        await views.prune(of.ingest)
        assert not any(state.lost or state.waiting for state in (await views.states(of.ingest)).values())
        assert await owner.fetchval("SELECT count(*) FROM claims.change") == 0


async def test_one_at_a_time(database: str) -> None:
    """Who computes a view as a whole is alone with it in the database; changes of other views are applied meanwhile."""
    balance, advice, _ = REPORTS.values()
    async with connected(database) as one, connected(database) as other:
        async with views.turn(one, balance, whole=True) as ours:
            assert ours
            for view, whole, expected in ((balance, False, False), (advice, True, False), (advice, False, True)):
                async with views.turn(other, view, whole=whole) as theirs:
                    assert theirs is expected
        async with views.turn(other, balance, whole=True) as theirs:
            assert theirs
        assert not await one.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")


@pytest.mark.parametrize("way", ["refresh", "rebuild"])
async def test_readers_are_not_held_up(database: str, way: str) -> None:
    """Reports read on while a view is computed as a whole, to the very end of its transaction; then they see the new rows."""
    async with books(database) as of:
        await of.bring_up(way)
        await of.ingest.execute(MANY)
        await of.reader.execute("SET lock_timeout = '300ms'")
        reads = 0
        for view in REPORTS.values():
            async with of.ingest.transaction(isolation="repeatable_read" if way == "rebuild" else None):
                work = asyncio.ensure_future(DOES[way](of.ingest, view))
                while not work.done():
                    assert not (await of.read(1))[view.name]
                    reads += 1
                assert await work > 0
                assert not (await of.read(1))[view.name], "it is not committed"
            assert (await of.read(1))[view.name]
        assert reads > 3


@pytest.mark.parametrize("way", WAYS)
async def test_killed(database: str, way: str) -> None:
    """A backend that is killed in the midst leaves everything as it was, and the lock free for the next."""
    async with books(database) as of, connected(database, {}) as owner:
        await of.tell(1, {("P", "C"): [submission(0, {"A1": "1.00"}), remittance(1, {"A1": "1.00"})]})
        await of.bring_up("refresh" if way == "refresh" else "rebuild")
        before, read = await views.states(of.ingest), await of.read(1)
        await of.tell(1, {("P", "C"): [remittance(2, {"A1": "-1.00"})]})
        for view in REPORTS.values():
            async with connected(database) as doomed:
                blocking = owner.transaction()
                await blocking.start()
                await owner.execute("LOCK TABLE claims.claim IN ACCESS EXCLUSIVE MODE")
                work = asyncio.ensure_future(locked(doomed, view, way))
                await until_waiting(owner, doomed.get_server_pid())
                await owner.execute("SELECT pg_terminate_backend($1, 5000)", doomed.get_server_pid())
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                    await work
                await blocking.rollback()
            async with views.turn(of.ingest, view, whole=True) as ours:
                assert ours
        assert await of.read(1) == read
        after = await views.states(of.ingest)
        assert [state.refreshed_at for state in after.values()] == [state.refreshed_at for state in before.values()]
        await of.bring_up(way)
        await of.check(1)


async def locked(connection: asyncpg.Connection, view: View, way: str) -> None:
    async with views.turn(connection, view, whole=True):
        await DOES[way](connection, view)


async def until_waiting(connection: asyncpg.Connection, backend: int) -> None:
    async with asyncio.timeout(10):
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", backend):
            pass


async def test_whose_rows(database: str) -> None:
    """Every relation of schema report has rows of the tenant alone that the transaction names, and none without one."""
    async with intake(database) as one, intake(database, "DHA-F-0000009", tenant="other") as other, books(database) as of:
        for taken in (one, other):
            said = claim_text.submission("C-1", facility=taken.facility.licence)
            paid = claim_text.remittance("C-1", facility=taken.facility.licence, payment="0.00", denial="MNEC-003")
            for file in (("f1", said), ("f2", paid)):
                assert (await taken.load(file)).state == "loaded"
        for way in ("refresh", "rebuild"):
            await of.bring_up(way)
            relations = await of.reader.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'report'")
            assert len(relations) >= 11
            for (relation,) in relations:
                if relation == "state":  # says how the views are kept, and nothing of anybody
                    continue
                with suppress(asyncpg.PostgresError):  # no such setting: refused, or nothing
                    assert not await of.reader.fetch(f"SELECT * FROM report.{relation}")
                for taken in (one, other):
                    async with of.reader.transaction():
                        await of.reader.execute("SELECT set_config('sluice.tenant_id', $1, true)", str(taken.tenant_id))
                        rows = await of.reader.fetch(f"SELECT * FROM report.{relation}")
                        assert rows
                        assert {row["tenant_id"] for row in rows} == {taken.tenant_id}
        for schema in ("claims", "fhir", "ops"):
            assert not await of.reader.fetchval("SELECT has_schema_privilege($1, 'USAGE')", schema)
