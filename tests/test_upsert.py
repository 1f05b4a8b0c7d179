import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from r4.resource import stamp
from storage.resources import Batch, Counts, Identifier, find_identifiers, upsert
from tests.importing import connected, genders_of, made, make_tenant, rows_of, stored

NOW = datetime(2024, 5, 6, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


async def put(connection: asyncpg.Connection, tenant_id: int, batch: Batch, now: datetime = NOW) -> Counts:
    async with connection.transaction():
        return await upsert(connection, tenant_id, batch, now)


def told(counts: Counts) -> tuple[int, int, int, int]:
    return counts.created, counts.updated, counts.unchanged, counts.deleted


async def test_versions(database: str) -> None:
    """New is version 1, the same changes nothing, other content is the next version, and each former one is in the history."""
    tenant_id = await make_tenant(database)
    async with connected(database) as connection:
        first, second = made("Patient", "a", active=True), made("Patient", "a", active=False)
        assert told(await put(connection, tenant_id, Batch([first, made("Basic", "b")]))) == (2, 0, 0, 0)
        assert told(await put(connection, tenant_id, Batch([first, made("Basic", "b")]), LATER)) == (0, 0, 2, 0)
        assert told(await put(connection, tenant_id, Batch([second, made("Basic", "b")]), LATER)) == (0, 1, 1, 0)
        rows = await connection.fetch("SELECT version, last_updated, deleted, body FROM fhir.history")
        assert [tuple(row) for row in rows] == [
            (1, NOW.replace(microsecond=123000), False, stamp("Patient", "a", 1, NOW, first.tail))
        ]
        row = await connection.fetchrow("SELECT version, last_updated, sha256, body FROM fhir.resource WHERE type = 'Patient'")
        assert row is not None
        assert tuple(row) == (2, LATER.replace(microsecond=123000), second.sha256, stamp("Patient", "a", 2, LATER, second.tail))


async def test_body_in_sql_is_body_in_python(database: str) -> None:
    """fhir.stamp and stamp make the same bytes, whatever the letters and the zone."""
    tenant_id = await make_tenant(database)
    resource = made("Patient", "a", meta={"profile": ["p"]}, name=[{"text": 'Zoë "\\ 李 𝔘 \u2028'}])
    async with connected(database) as connection:
        await connection.execute("SET timezone = 'Asia/Tokyo'")
        await put(connection, tenant_id, Batch([resource]))
    assert await stored(database, tenant_id) == {"Patient/a": (1, stamp("Patient", "a", 1, NOW, resource.tail))}


async def test_index_follows_the_resource(database: str) -> None:
    """The rows that a resource is found by are those of its newest content, and none when it is deleted."""
    tenant_id = await make_tenant(database)
    before = made(
        "Encounter",
        "a",
        status="planned",
        subject={"reference": "Patient/1"},
        period={"start": "2020", "end": "2021"},
        length={"value": 5, "unit": "h"},
    )
    after = made(
        "Encounter",
        "a",
        status="finished",
        subject={"reference": "Patient/2"},
        period={"start": "2022"},
        length={"value": 7.50, "code": "h"},
    )
    columns = {
        "token": "id, rank, param, code, system",
        "string": "id, param, value, exact",
        "date": "id, rank, param, lower::text, upper::text",
        "reference": "id, rank, path, to_type, to_id",
        "quantity": "id, rank, param, value, system, code, unit",
    }
    async with connected(database) as connection:
        await put(connection, tenant_id, Batch([before, made("Organization", "a", name="Ann")]))
        await put(connection, tenant_id, Batch([after, made("Organization", "a", name="Bob", active=True)]))
        rank = -1640995200000000
        assert {table: await rows_of(database, table, what) for table, what in columns.items()} == {
            "token": [("a", rank, "status", "finished", ""), ("a", 0, "active", "true", "")],
            "string": [("a", "name", "bob", "Bob"), ("a", "phonetic", "bb", "")],
            "date": [("a", rank, "date", "2022-01-01 00:00:00+00", "infinity")],
            "reference": [("a", rank, "subject", "Patient", "2")],
            "quantity": [("a", rank, "length", Decimal("7.5"), "", "h", "")],
        }
        await put(connection, tenant_id, Batch([], [("Encounter", "a"), ("Organization", "a")]))
        assert [await rows_of(database, table, "id") for table in columns] == [[]] * 5


async def test_a_type_without_quantities_is_not_asked_for_them(database: str) -> None:
    """A change takes rows away only where its type may have some."""
    tenant_id = await make_tenant(database)
    async with connected(database) as connection:
        for value in (1, 2):
            resources = [made("Encounter", "a", length={"value": value}), made("Patient", "a", gender=str(value))]
            await put(connection, tenant_id, Batch(resources))
        asked = await connection.fetch("SELECT statement, generic_plans + custom_plans AS times FROM pg_prepared_statements")
        times = {row["statement"].split("\n")[0].split(":")[0]: row["times"] for row in asked}
    assert (times["-- string_remove"], times["-- quantity_remove"]) == (2, 1)


async def test_delete_and_again(database: str) -> None:
    """A deletion is a version without a body; what comes back, even the same, is the next; unknown ids are let be."""
    tenant_id = await make_tenant(database)
    patient = made("Patient", "a", gender="male")
    async with connected(database) as connection:
        await put(connection, tenant_id, Batch([patient]))
        assert told(await put(connection, tenant_id, Batch([], [("Patient", "a"), ("Patient", "b")]))) == (0, 0, 1, 1)
        assert told(await put(connection, tenant_id, Batch([], [("Patient", "a")]))) == (0, 0, 1, 0)
        assert await rows_of(database, "resource", "id, version, deleted, body") == [("a", 2, True, b"")]
        assert told(await put(connection, tenant_id, Batch([patient]))) == (0, 1, 0, 0)
    assert await rows_of(database, "resource", "id, version, deleted") == [("a", 3, False)]
    assert await rows_of(database, "history", "version, deleted") == [(1, False), (2, True)]
    assert await genders_of(database) == [("male",)]


async def test_tenants_are_apart(database: str) -> None:
    """The same id in two tenants is two resources, each with its own versions and rows."""
    north, south = await make_tenant(database), await make_tenant(database, "south")
    async with connected(database) as connection:
        await put(connection, north, Batch([made("Patient", "a", gender="male")]))
        assert told(await put(connection, south, Batch([made("Patient", "a", gender="female")]))) == (1, 0, 0, 0)
        await put(connection, north, Batch([], [("Patient", "a")]))
    assert await genders_of(database, "tenant_id, code") == [(south, "female")]


async def test_twice_in_a_batch(database: str) -> None:
    """A batch in which a resource stands twice is the caller's mistake."""
    async with connected(database) as connection:
        with pytest.raises(ValueError, match="twice"):
            await put(connection, 1, Batch([made("Patient", "a")], [("Patient", "a")]))


async def test_several_batches_in_one_transaction(database: str) -> None:
    """Each batch of a transaction is staged anew."""
    tenant_id = await make_tenant(database)
    old, new = made("Patient", "a"), made("Patient", "a", active=True)
    async with connected(database) as connection, connection.transaction():
        assert told(await upsert(connection, tenant_id, Batch([old, made("Patient", "b")]), NOW)) == (2, 0, 0, 0)
        assert told(await upsert(connection, tenant_id, Batch([made("Patient", "c"), new]), NOW)) == (1, 1, 0, 0)
        assert told(await upsert(connection, tenant_id, Batch([], [("Patient", "b")]), NOW)) == (0, 0, 0, 1)
    kept = await stored(database, tenant_id)
    assert sorted(kept) == ["Patient/a", "Patient/c"]
    assert kept["Patient/a"] == (2, stamp("Patient", "a", 2, NOW, new.tail))


async def test_plans_are_not_kept(database: str) -> None:
    """No batch runs by a plan that was made when the tables were small, and the caller's settings stay as they were."""
    tenant_id = await make_tenant(database)
    async with connected(database) as connection:
        for number in range(10):
            await put(connection, tenant_id, Batch([made("Patient", "a", gender=str(number))]))
        kept = await connection.fetch("SELECT statement FROM pg_prepared_statements WHERE generic_plans > 0")
        assert [row["statement"] for row in kept if "fhir." in row["statement"]] == []
        assert await connection.fetchval("SHOW plan_cache_mode") == "auto"


async def test_counts_by_type(database: str) -> None:
    """Counts say how many of which type, can be summed, and name the types that changed."""
    tenant_id = await make_tenant(database)
    async with connected(database) as connection:
        first = await put(connection, tenant_id, Batch([made("Patient", "a"), made("Basic", "a")]))
        second = await put(connection, tenant_id, Batch([made("Patient", "a"), made("Basic", "a", code={"text": "x"})]))
    assert first.by_type == {("Patient", "created"): 1, ("Basic", "created"): 1}
    assert (first + second).by_type["Basic", "updated"] == 1
    assert second.changed_types == ["Basic"]


async def test_a_writer_waits_for_another_of_the_same_resource(database: str) -> None:
    """Of two that put in the same new resource, the second waits, and makes version 2 with its own rows alone."""
    tenant_id = await make_tenant(database)
    one, two = made("Patient", "a", gender="male"), made("Patient", "a", gender="female")
    async with connected(database) as first, connected(database) as second:
        async with first.transaction():
            await upsert(first, tenant_id, Batch([one]), NOW)
            waiting = asyncio.create_task(put(second, tenant_id, Batch([two]), LATER))
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            assert not done
        assert told(await waiting) == (0, 1, 0, 0)
    assert (await stored(database, tenant_id))["Patient/a"] == (2, stamp("Patient", "a", 2, LATER, two.tail))
    assert await genders_of(database) == [("female",)]
    assert await rows_of(database, "history", "version") == [(1,)]


async def test_a_writer_waits_for_anothers_update(database: str) -> None:
    """Two updates of the same resource are two versions, and an update to what another has just written is none."""
    tenant_id = await make_tenant(database)
    async with connected(database) as first, connected(database) as second:
        await put(first, tenant_id, Batch([made("Patient", "a"), made("Patient", "b")]))
        batch = Batch([made("Patient", "a", gender="male"), made("Patient", "b", gender="male")])
        async with first.transaction():
            await upsert(first, tenant_id, batch, NOW)
            changed = Batch([batch.resources[0], made("Patient", "b", gender="female")])
            waiting = asyncio.create_task(put(second, tenant_id, changed, LATER))
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            assert not done
        assert told(await waiting) == (0, 1, 1, 0)
    assert await rows_of(database, "resource", "id, version") == [("a", 2), ("b", 3)]
    assert await genders_of(database, "id, code") == [("a", "male"), ("b", "female")]
    assert await rows_of(database, "history", "id, version") == [("a", 1), ("b", 1), ("b", 2)]


async def _write_at_random(url: str, tenant_id: int, seed: int, rounds: int) -> None:
    choose = random.Random(seed)
    async with connected(url) as connection:
        for round_number in range(rounds):
            ids = choose.sample(range(round_number * 10, round_number * 10 + 60), 30)  # some new in every round
            resources = [made("Patient", f"p{n}", gender=f"{seed}-{round_number}") for n in ids[:24]]
            choose.shuffle(resources)
            await put(connection, tenant_id, Batch(resources, [("Patient", f"p{n}") for n in ids[24:]]))


async def test_many_writers_of_the_same_resources(database: str) -> None:
    """Writers that meet on the same resources in any order neither deadlock nor lose a version, a row or a body."""
    tenant_id = await make_tenant(database)
    async with asyncio.TaskGroup() as group:
        for seed in range(6):
            group.create_task(_write_at_random(database, tenant_id, seed, 15))
    async with connected(database) as connection:
        versions = await connection.fetch(
            """
            SELECT r.version, array_agg(h.version ORDER BY h.version) FILTER (WHERE h.version IS NOT NULL) AS former
            FROM fhir.resource r LEFT JOIN fhir.history h USING (tenant_id, type, id) GROUP BY r.id, r.version
            """
        )
        wrong = await connection.fetch(
            """
            SELECT r.id FROM fhir.resource r LEFT JOIN fhir.token t
                ON (t.tenant_id, t.type, t.id, t.param) = (r.tenant_id, r.type, r.id, 'gender')
            GROUP BY r.id, r.deleted, r.body
            HAVING count(t.id) <> (NOT r.deleted)::int
                OR NOT r.deleted AND position(convert_to('"gender":"' || min(t.code) || '"', 'UTF8') IN r.body) = 0
            """
        )
    assert all((row["former"] or []) == list(range(1, row["version"])) for row in versions)
    assert not wrong


async def test_find_identifiers(database: str) -> None:
    """A resource is found by an identifier of any, of one, or of no system; of several, two are told."""
    tenant_id = await make_tenant(database)
    stored_ones = [
        made("Patient", "a", identifier=[{"system": "s", "value": "7"}]),
        made("Patient", "b", identifier=[{"value": "7"}]),
        made("Patient", "c", identifier=[{"system": "s", "value": "8"}, {"system": "t", "value": "8"}]),
        made("Basic", "d", identifier=[{"system": "s", "value": "7"}]),
    ]
    asked = [
        Identifier("Patient", "s", "7"),
        Identifier("Patient", "", "7"),
        Identifier("Patient", None, "7"),
        Identifier("Patient", None, "8"),
        Identifier("Basic", "s", "7"),
        Identifier("Basic", "s", "9"),
    ]
    async with connected(database) as connection:
        await put(connection, tenant_id, Batch(stored_ones))
        found = await find_identifiers(connection, tenant_id, asked)
        assert [sorted(found[identifier]) for identifier in asked] == [["a"], ["b"], ["a", "b"], ["c"], ["d"], []]
        assert not any((await find_identifiers(connection, tenant_id + 1, asked)).values())
