import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from r4.indexing import FINGERPRINT, rank
from r4.resource import Resource, stamp
from storage import reindex as reindexing
from storage import resources as upserting
from storage.index_rows import TABLES, write_rows
from storage.migrate import migrate, migrations
from storage.reindex import is_outdated, reindex, warn_if_outdated
from storage.resources import Batch, upsert
from tests.conftest import make_database
from tests.importing import connected, genders_of, made, make_tenant, rows_of, stored
from tests.processes import running, sluice
from tests.support import add_tenant, encounter, patient, served

NOW = datetime(2024, 5, 6, 12, tzinfo=UTC)
OWNER = ""


def nobody(_done: int, _total: int) -> None:
    """Who is told of the progress."""


def several(count: int = 10) -> list[Resource]:
    """Of three types, two of which share a partition, with rows in every table."""
    members: dict[str, Any] = {"subject": {"reference": "Patient/1"}, "length": {"value": 5}, "type": [{"text": "check"}]}
    return [
        *(made("Encounter", f"e{n}", **members, status="planned", period={"start": f"20{n:02}"}) for n in range(count)),
        *(made("Basic", f"b{n}", identifier=[{"value": str(n)}]) for n in range(count)),
        *(made("Location", f"e{n}", name=f"Ward {n}") for n in range(count)),
    ]


async def put(url: str, tenant_id: int, *resources: Resource, deletes: tuple[tuple[str, str], ...] = ()) -> None:
    async with connected(url) as connection, connection.transaction():
        await upsert(connection, tenant_id, Batch(resources, deletes), NOW)


async def run(url: str, tenant_id: int | None = None, progress: Callable[[int, int], None] = nobody) -> int:
    async with connected(url, role=OWNER) as connection:
        return await reindex(connection, tenant_id, progress)


async def execute(url: str, *statements: str) -> None:
    async with connected(url, role=OWNER) as connection:
        for statement in statements:
            await connection.execute(statement)


async def all_rows(url: str, where: str = "true") -> dict[str, list[tuple[Any, ...]]]:
    return {table: await rows_of(url, table, "*", where) for table in TABLES}


async def make_old(url: str) -> None:
    """As if another version had stored all that there is: other rows, other ranks, other fingerprint."""
    await execute(
        url,
        *(f"DELETE FROM fhir.{table} WHERE id LIKE '%1' OR id LIKE '%2'" for table in TABLES),
        *(f"UPDATE fhir.{table} SET rank = rank - 7" for table in (*TABLES, "resource")),
        "INSERT INTO fhir.token SELECT tenant_id, type, id, rank, 'gone', 'x', '' FROM fhir.resource",
        "INSERT INTO fhir.quantity SELECT tenant_id, type, id, rank, 'gone', 1, '', '', '' FROM fhir.resource",
        "INSERT INTO ops.fact VALUES ('index', 'older') ON CONFLICT (name) DO UPDATE SET value = 'older'",
    )


async def outdated(url: str) -> bool:
    async with connected(url, role=OWNER) as connection:
        return await is_outdated(connection)


async def noted(url: str) -> str | None:
    async with connected(url, role=OWNER) as connection:
        value: str | None = await connection.fetchval("SELECT value FROM ops.fact WHERE name = 'index'")
        return value


# What it does


async def test_what_an_older_version_stored_is_found_again(database: str) -> None:
    """A search finds what it missed, in its order, once all is indexed anew."""
    keys = {"one": await add_tenant(database, "one", [patient("a", name=[{"family": "Ek"}]), *_visits()])}
    async with served(database, keys=keys) as server:
        newest_first = [entry["resource"]["id"] for entry in (await server.get("/fhir/Encounter")).json["entry"]]
        await execute(database, "DELETE FROM fhir.string", "UPDATE fhir.resource SET rank = 5", "DELETE FROM fhir.token")
        assert "entry" not in (await server.get("/fhir/Patient?name=ek")).json
        await run(database)
        assert [entry["resource"]["id"] for entry in (await server.get("/fhir/Patient?name=ek")).json["entry"]] == ["a"]
        found = (await server.get("/fhir/Encounter?status=finished")).json["entry"]
        assert [entry["resource"]["id"] for entry in found] == newest_first == ["y", "x", "z"]


def _visits() -> list[dict[str, Any]]:
    return [encounter("x", "2021"), encounter("y", "2022"), encounter("z", "2020")]


async def test_rows_and_ranks_are_made_anew(database: str) -> None:
    """Missing rows come, those of no parameter go, and every rank is right, in the resource too."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, *several())
    rows, ranks = await all_rows(database), await rows_of(database, "resource", "type, id, rank")
    await make_old(database)
    assert await run(database) == 30
    assert await all_rows(database) == rows
    assert await rows_of(database, "resource", "type, id, rank") == ranks == sorted((r.type, r.id, rank(r)) for r in several())


async def test_resources_stay_as_they_are(database: str) -> None:
    """Nothing gets a new version, time or body, and what is deleted has no rows."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, *several())
    await put(database, tenant_id, made("Basic", "b0", code={"text": "x"}), deletes=(("Encounter", "e0"),))
    columns = "type, id, version, last_updated, deleted, sha256, body"
    before = await rows_of(database, "resource", columns), await rows_of(database, "history", "*")
    await make_old(database)
    await run(database)
    assert (await rows_of(database, "resource", columns), await rows_of(database, "history", "*")) == before
    assert await all_rows(database, "type = 'Encounter' AND id = 'e0'") == {table: [] for table in TABLES}


async def test_one_tenant(database: str) -> None:
    """Of the tenants one can be done alone; the index is up to date when all are."""
    north, south = await make_tenant(database), await make_tenant(database, "south")
    for tenant_id in (north, south):
        await put(database, tenant_id, *several())
    rows = await all_rows(database)
    await make_old(database)
    old = await all_rows(database, f"tenant_id = {south}")
    assert await run(database, north) == 30
    assert await all_rows(database, f"tenant_id = {south}") == old
    assert await outdated(database)
    assert await run(database) == 60
    assert await all_rows(database) == rows
    assert not await outdated(database)


async def test_batches(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is bounded by resources and by bytes, one resource is always taken, and none is left out or done twice."""
    tenant_id = await make_tenant(database)
    large = [made("Basic", "b10", text="x" * 5000), made("Encounter", "a", text="x" * 5000)]
    await put(database, tenant_id, *several(), *large)
    rows = await all_rows(database)
    for resources, total_bytes in ((7, 10**9), (1000, 700)):  # none has less than 100
        monkeypatch.setattr(reindexing, "_BATCH_RESOURCES", resources)
        monkeypatch.setattr(reindexing, "_BATCH_BYTES", total_bytes)
        told: list[tuple[int, int]] = []
        await make_old(database)
        await run(database, progress=lambda done, total: told.append((done, total)))  # noqa: B023  # it is over by then
        assert (told[0], told[-1]) == ((0, 32), (32, 32))
        assert len(told) > 5
        assert max(after[0] - before[0] for before, after in pairwise(told)) <= 7
        assert await all_rows(database) == rows


# Beside others, and interrupted


async def test_a_writer_before_it(database: str) -> None:
    """An update that is under way is waited for, and its rows are those that stay."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, made("Patient", "a"), made("Patient", "b", gender="male"), made("Patient", "c"))
    await make_old(database)
    async with connected(database) as writer, writer.transaction():
        batch = Batch([made("Patient", "b", gender="female"), made("Patient", "c0", gender="other")], [("Patient", "c")])
        await upsert(writer, tenant_id, batch, NOW)
        waiting = asyncio.create_task(run(database))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
    await waiting
    assert await genders_of(database, "id, code") == [("b", "female"), ("c0", "other")]
    assert await rows_of(database, "token", "id", "param = 'deceased'") == [("a",), ("b",), ("c0",)]


async def test_a_writer_after_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that comes while its resource is being indexed waits, and its rows are those that stay."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, made("Patient", "a", gender="male"))
    await make_old(database)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*given: Any) -> None:
        reached.set()
        await go_on.wait()
        await write_rows(*given)

    monkeypatch.setattr(reindexing, "write_rows", slowly)
    running_one = asyncio.create_task(run(database))
    await reached.wait()
    writing = asyncio.create_task(put(database, tenant_id, made("Patient", "a", gender="female")))
    done, _ = await asyncio.wait({writing}, timeout=0.3)
    assert not done
    go_on.set()
    await asyncio.gather(running_one, writing)
    assert await genders_of(database, "id, code") == [("a", "female")]
    assert (await stored(database, tenant_id))["Patient/a"][0] == 2


async def test_many_writers_beside_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers and several runs that meet on the same resources neither deadlock nor leave a row that is not the newest."""
    monkeypatch.setattr(reindexing, "_BATCH_RESOURCES", 7)
    tenant_id = await make_tenant(database)
    ended = asyncio.Event()

    async def write(seed: int) -> None:
        choose = random.Random(seed)
        for number in range(30):
            kinds = {f"p{n}": choose.choice(("Patient", "Practitioner")) for n in choose.sample(range(40), 20)}
            resources = [made(kind, key, gender=f"{seed}-{number}") for key, kind in list(kinds.items())[:15]]
            await put(database, tenant_id, *resources, deletes=tuple((kind, key) for key, kind in list(kinds.items())[15:]))

    async def index_again() -> None:
        while not ended.is_set():
            await run(database)

    async with asyncio.TaskGroup() as group:
        indexing = [group.create_task(index_again()) for _ in range(2)]
        await asyncio.gather(*(write(seed) for seed in range(3)))
        ended.set()
    assert all(task.done() for task in indexing)
    found = {(kind, key): code for kind, key, code in await genders_of(database, "type, id, code")}
    bodies = await rows_of(database, "resource", "type, id, body", "NOT deleted")
    assert len(await genders_of(database)) == len(found) == len(bodies) > 10
    assert all(f'"gender":"{found[kind, key]}"'.encode() in body for kind, key, body in bodies)


async def test_a_long_writer_is_no_dam(database: str) -> None:
    """While it waits for one resource, it holds back nobody who writes another."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, made("Patient", "a"), made("Patient", "b"))
    async with connected(database) as first:
        async with first.transaction():
            await upsert(first, tenant_id, Batch([made("Patient", "b", gender="male")]), NOW)
            waiting = asyncio.create_task(run(database))
            done, _ = await asyncio.wait({waiting}, timeout=0.2)
            assert not done
            async with asyncio.timeout(5):
                await put(database, tenant_id, made("Patient", "a", gender="female"))
                # Nor is it the other's deadlock, who comes to the same resource by and by.
                await upsert(first, tenant_id, Batch([made("Patient", "a", gender="other")]), NOW)
        await waiting
    assert await genders_of(database, "id, code") == [("a", "other"), ("b", "male")]


async def test_killed_and_run_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is killed in stays as it was and the index outdated; the next run does all."""
    monkeypatch.setattr(reindexing, "_BATCH_RESOURCES", 10)
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, *several())
    rows = await all_rows(database)
    await make_old(database)
    old = await all_rows(database, "id > 'e1'")
    batches = 0

    async def killed(connection: asyncpg.Connection, *given: Any) -> None:
        nonlocal batches
        batches += 1
        if batches == 2:
            connection.terminate()
        await write_rows(connection, *given)

    with monkeypatch.context() as patched:
        patched.setattr(reindexing, "write_rows", killed)
        with pytest.raises(asyncpg.InterfaceError):
            await run(database)
    assert (await all_rows(database, "id < 'c'"), await all_rows(database, "id > 'e1'")) == (
        {table: [row for row in found if row[2] < "c"] for table, found in rows.items()},
        old,
    )
    assert await outdated(database)
    await run(database)
    assert await all_rows(database) == rows
    assert not await outdated(database)


# When it is needed


async def test_the_first_writer_notes_its_index(database: str) -> None:
    """An empty database is of no version; whoever writes first, and commits, says whose rows they are."""
    tenant_id = await make_tenant(database)
    assert (await noted(database), await outdated(database)) == (None, False)
    async with connected(database) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await upsert(connection, tenant_id, Batch([made("Patient", "a")]), NOW)
        await transaction.rollback()
    assert (await noted(database), await outdated(database)) == (None, False)
    await put(database, tenant_id, made("Patient", "a"))
    assert (await noted(database), await outdated(database)) == (FINGERPRINT, False)


async def test_the_first_writers_do_not_wait_for_each_other(database: str) -> None:
    """To be first in a database is no reason to wait."""
    tenant_id = await make_tenant(database)
    async with connected(database) as first, first.transaction(), asyncio.timeout(5):
        await upsert(first, tenant_id, Batch([made("Patient", "a")]), NOW)
        await put(database, tenant_id, made("Patient", "b"))
    assert await noted(database) == FINGERPRINT


async def test_writers_of_two_versions(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several versions are nobody's, whoever came first, until all is indexed anew."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, made("Patient", "a"))
    with monkeypatch.context() as patched:
        patched.setattr(upserting, "FINGERPRINT", "older")
        await put(database, tenant_id, made("Patient", "b"))
    assert await outdated(database)
    await put(database, tenant_id, made("Patient", "c"))
    assert (await noted(database), await outdated(database)) == ("", True)
    await run(database)
    assert (await noted(database), await outdated(database)) == (FINGERPRINT, False)


async def test_nothing_stored_is_never_outdated(database: str) -> None:
    """Where all is deleted there is nothing to index."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, made("Patient", "a"))
    await make_old(database)
    assert await outdated(database)
    await put(database, tenant_id, deletes=(("Patient", "a"),))
    assert not await outdated(database)


async def test_a_database_of_the_version_before(cluster: Any) -> None:
    """What was stored before anybody noted whose rows they are has to be indexed anew."""
    url = await make_database(cluster, "before_reindex")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(execute, cluster.url, "DROP DATABASE before_reindex WITH (FORCE)")
        await migrate(url, [migration for migration in migrations() if migration.name in ("ground", "search")])
        tenant_id, came = await make_tenant(url), made("Patient", "a", gender="male")
        async with connected(url, role=OWNER) as connection:
            await connection.execute(
                "INSERT INTO fhir.resource VALUES ($1, 'Patient', 'a', 0, 1, $2, false, $3, $4)",
                tenant_id,
                NOW,
                came.sha256,
                stamp("Patient", "a", 1, NOW, came.tail),
            )
        await migrate(url)
        assert await outdated(url)
        await put(url, tenant_id, made("Patient", "b", gender="female"))
        assert await outdated(url)
        await run(url)
        assert (await outdated(url), await genders_of(url)) == (False, [("female",), ("male",)])


async def test_the_warning(database: str) -> None:
    """A server says in its log that it may miss something, and what to do; else it says nothing."""
    tenant_id = await make_tenant(database)
    await put(database, tenant_id, made("Patient", "a"))
    with capture_logs() as logs:
        await warn_if_outdated(database)
        await make_old(database)
        await warn_if_outdated(database)
    assert logs == [{"event": "index.outdated", "log_level": "warning", "remedy": "sluice reindex"}]


async def test_the_commands(database: str) -> None:
    """`migrate` and `serve` say what to do, `reindex` does it, of a tenant or of all, and then they say it no more."""
    tenant_id = await make_tenant(database)
    await make_tenant(database, "south")
    await put(database, tenant_id, *several())
    await make_old(database)
    assert "`sluice reindex`" in (await sluice("migrate", database_url=database)).err
    async with running("serve", database_url=database) as server:
        await server.url()
        assert [line["remedy"] for line in server.logged("index.outdated")] == ["sluice reindex"]
    for words, said in ((("north",), "30 resources"), (("south",), "0 resources"), ((), "30 resources")):
        done = await sluice("reindex", *words, database_url=database)
        assert (done.code, done.out) == (0, "")
        assert said in done.err
    assert "reindex" not in (await sluice("migrate", database_url=database)).err
    unknown = await sluice("reindex", "west", database_url=database)
    assert (unknown.code, "there is no tenant west" in unknown.err) == (1, True)
