"""Files into claims and resources: every claim once, to the last fils, whatever order they come in and however often."""

import asyncio
import random
import zlib
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import asyncpg
import pytest

from ingestion import loader as loading
from simulator.claims import GeneratedFile, facilities, generate
from simulator.claims_truth import truth
from storage import claims as store
from tests.claim_text import remittance, submission
from tests.claims import Intake, assert_is_truth, connected, intake, standing
from tests.support import add_tenant, served

FACILITY = facilities(1)[0]


@pytest.fixture(scope="module")
def files() -> list[GeneratedFile]:
    """All that traffic brings: resubmissions, take-backs, orphans, repetitions, tests."""
    return list(generate(7, FACILITY, claims=300, claims_per_file=40))


async def test_totals(database: str, files: list[GeneratedFile]) -> None:
    """Loaded in order, the database is what the files say: claims, activities, lines, resources."""
    async with intake(database) as taken:
        states = {loaded.state for loaded in await taken.load_all(files)}
        assert states == {"loaded", "test"}
        await assert_is_truth(taken, truth(files))


@pytest.mark.parametrize("seed", range(2))
async def test_any_order(database: str, files: list[GeneratedFile], seed: int) -> None:
    """Whatever order files come in, and side by side, the database is the same."""
    shuffled = random.Random(seed).sample(files, len(files))
    async with intake(database) as taken:
        await taken.load_all(shuffled, at_once=4)
        await assert_is_truth(taken, truth(files))
        async with connected(database, {}) as connection:
            assert await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def _content(taken: Intake) -> list[Any]:
    tables = ("claim", "activity", "event", "remittance", "remittance_activity", "diagnosis", "observation", "identity")
    rows = [sorted(map(repr, await taken.rows(f"SELECT * FROM claims.{table} WHERE tenant_id = $1"))) for table in tables]
    versions = "SELECT type, id, version, sha256 FROM fhir.resource WHERE tenant_id = $1 ORDER BY 1, 2"
    return [*rows, await taken.rows(versions)]


async def test_again_changes_nothing(database: str, files: list[GeneratedFile]) -> None:
    """The same file again is known; its document under another id is a duplicate; neither changes a row or a version."""
    async with intake(database) as taken:
        await taken.load_all(files)
        before = await _content(taken)
        assert {loaded.state for loaded in await taken.load_all(files)} == {"known"}
        again = {(await taken.load((f"again-{file.file_id}", file.document))).state for file in files}
        assert again == {"duplicate", "test"}
        assert await _content(taken) == before


async def test_one_document_twice_at_once(database: str, files: list[GeneratedFile]) -> None:
    """Under two ids at the same moment, a document counts once, and so it does from two facilities of a tenant."""
    async with intake(database) as taken, intake(database, "DHA-F-0000002") as other:
        for file in files[:8]:
            states = await asyncio.gather(
                taken.load((file.file_id, file.document)),
                taken.load((f"b{file.file_id}", file.document)),
                other.load((file.file_id, file.document)),
            )
            expected = ["test"] * 3 if file.is_test else ["duplicate", "duplicate", "loaded"]
            assert sorted(loaded.state for loaded in states) == expected
        assert len(await standing(database, taken.tenant_id)) == len(truth(files[:8]).by_claim)


async def test_same_ids_of_two_tenants(database: str, files: list[GeneratedFile]) -> None:
    """Two tenants with the same files have a claim each, and no resource in common."""
    async with intake(database) as one, intake(database, "DHA-F-0000009", tenant="other") as two:
        await one.load_all(files[:6])
        await two.load_all(files[:6])
        expected = truth(files[:6])
        await assert_is_truth(one, expected)
        await assert_is_truth(two, expected)


async def test_nothing_without_commit(database: str, files: list[GeneratedFile], monkeypatch: pytest.MonkeyPatch) -> None:
    """When a load fails at its last statement nothing of the file is there, and it can be loaded then."""

    async def fails(*_: object) -> None:
        raise asyncpg.PostgresError("planted")

    async with intake(database) as taken:
        with monkeypatch.context() as patched:
            patched.setattr(store, "announce", fails)
            with pytest.raises(asyncpg.PostgresError, match="planted"):
                await taken.load(files[0])
        for table in ("claims.file", "claims.claim", "claims.event", "claims.identity", "fhir.resource"):
            assert await taken.value(f"SELECT count(*) FROM {table} WHERE tenant_id = $1") == 0
        await taken.load_all(files)
        await assert_is_truth(taken, truth(files))


async def test_huge_file_in_chunks(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of more claims than are written at a time is the same as in one piece."""
    monkeypatch.setattr(loading, "CHUNK_CLAIMS", 7)
    big = list(generate(3, FACILITY, claims=120, claims_per_file=60))
    async with intake(database) as taken:
        await taken.load_all(big)
        await assert_is_truth(taken, truth(big))


async def test_an_earlier_submission_comes_late(database: str) -> None:
    """The one that was taken for the first counts no more, nor do its activities, whichever came first."""
    later, earlier = submission("c1", activity="a1"), submission("c1", activity="a2", at="01/05/2026 09:00")
    async with intake(database) as one, intake(database, "DHA-F-0000009", tenant="other") as two:
        for file in (("1", later), ("2", earlier), ("3", remittance("c1", activity="a2"))):
            await one.load(file)
        for file in (("2", earlier), ("3", remittance("c1", activity="a2")), ("1", later)):
            await two.load(file)
        for taken in (one, two):
            assert [row[0] for row in await taken.rows("SELECT activity_id FROM claims.activity WHERE tenant_id = $1")] == [
                "a2"
            ]
            assert await taken.value("SELECT held FROM claims.claim WHERE tenant_id = $1") == 100


async def test_raw_file_is_kept(database: str, files: list[GeneratedFile]) -> None:
    """Byte for byte, with its SHA-256."""
    async with intake(database) as taken:
        await taken.load(files[0], sent=True)
        body, digest, sent = (await taken.rows("SELECT body, sha256, sent FROM claims.file WHERE tenant_id = $1"))[0]
        assert zlib.decompress(body) == files[0].document
        assert digest == sha256(files[0].document).digest()
        assert sent


async def test_garbage_is_quarantined(database: str) -> None:
    """A file that is none is kept with its bytes, and listed with a reason that repeats nothing of it."""
    async with intake(database) as taken:
        loaded = await taken.load(("g1", b"<html>secret-name</html>"))
        assert loaded.state == "quarantined"
        assert (
            zlib.decompress(await taken.value("SELECT body FROM claims.file WHERE tenant_id = $1"))
            == b"<html>secret-name</html>"
        )
        row = (await taken.rows("SELECT severity, reason FROM ops.ingest_error WHERE tenant_id = $1"))[0]
        assert row["severity"] == "quarantined"
        assert row["reason"]
        assert "secret-name" not in row["reason"]


async def test_test_files_count_for_nothing(database: str, files: list[GeneratedFile]) -> None:
    """DispositionFlag TEST: the file is stored, and no claim of it."""
    file = next(file for file in files if file.is_test)
    async with intake(database) as taken:
        assert (await taken.load(file)).state == "test"
        assert await taken.value("SELECT count(*) FROM claims.claim WHERE tenant_id = $1") == 0
        assert await taken.value("SELECT count(*) FROM fhir.resource WHERE tenant_id = $1") == 0


async def test_told_once(database: str, files: list[GeneratedFile]) -> None:
    """One notification a transaction, with the tenant and the types that changed."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with intake(database) as taken, connected(database, {}) as listening:
        await listening.add_listener("sluice_changed", lambda *said: heard.put_nowait(str(said[-1])))
        await taken.load(next(file for file in files if not file.is_test and file.kind == "submission"))
        tenant, types = (await asyncio.wait_for(heard.get(), 5)).split(" ")
        assert int(tenant) == taken.tenant_id
        assert {"Claim", "Encounter", "Patient"} <= set(types.split(","))
        await listening.execute("SELECT 1")
        assert heard.empty()


async def test_a_warm_tenant_sees_it(database: str) -> None:
    """What was committed is read at once through the channel: the claim by search, and the review with its money."""
    keys = {"clinic": await add_tenant(database, "clinic")}
    async with intake(database) as taken, served(database, keys=keys) as server:
        assert (await server.get("/warm-up", "clinic", method="POST")).status == 201
        assert "entry" not in (await server.get("/encounters", "clinic")).json
        await taken.load(("1", submission("c1", net="100.00")))
        encounter = (await server.get("/encounters", "clinic")).json["entry"][0]["resource"]
        review = await server.get(f"/reviews/{encounter['id']}", "clinic")
        assert money_of(review.json) == {"submitted": 100, "paid": 0, "taken-back": 0, "denied": 0, "pending": 100}
        await taken.load(("2", remittance("c1", payment="60.00")))
        review = await server.get(f"/reviews/{encounter['id']}", "clinic")
        assert money_of(review.json) == {"submitted": 100, "paid": 60, "taken-back": 0, "denied": 0, "pending": 40}
        assert review.path == "channel"
        kinds = {entry["resource"]["resourceType"] for entry in review.json["entry"]}
        assert {"Encounter", "Patient", "Practitioner", "Organization", "Condition", "Coverage", "Claim"} <= kinds
        assert {"ClaimResponse", "ExplanationOfBenefit"} <= kinds


def money_of(review: dict[str, Any]) -> dict[str, float]:
    """The amounts of a review's one currency."""
    (group,) = review["meta"]["extension"]
    return {each["url"]: each["valueMoney"]["value"] for each in group["extension"]}


async def test_timeline(database: str, files: list[GeneratedFile]) -> None:
    """Events loaded in any order have the standing that they have when loaded in order."""
    columns = "provider_id, claim_id, file_id, n, kind, at, status, held, taken_back, denied, pending"
    sql = f"SELECT {columns} FROM claims.event WHERE tenant_id = $1 ORDER BY 1, 2, 3, 4"
    async with intake(database) as one, intake(database, "DHA-F-0000009", tenant="other") as two:
        await one.load_all(files)
        await two.load_all(files[::-1])
        assert await one.rows(sql) == await two.rows(sql)
        assert datetime.now(UTC) > (await one.rows(sql))[0]["at"]
