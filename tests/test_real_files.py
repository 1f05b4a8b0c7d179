"""Files of the real schema, as other people wrote them, from their bytes to what operators see of them."""

import json
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ingestion.loader import Loaded
from tests.claims import Intake, intake
from tests.processes import sluice


@pytest.fixture
def files(shared_data: Path) -> dict[str, bytes]:
    """By the last part of their names: `min_ok`, `multi_acts_ok`, `missing_activity_err`, `nonconformant`."""
    folder = shared_data / "post-office" / "xml"
    found = {path.stem.partition("_")[2]: path.read_bytes() for path in folder.glob("*.xml")}
    return {name.removeprefix("remit_").removeprefix("testRemittance_"): document for name, document in found.items()}


async def took(taken: Intake, files: dict[str, bytes], name: str) -> Loaded:
    return await taken.load((name, files[name]))


async def remarks(taken: Intake) -> list[tuple[Any, ...]]:
    """Severity, claim and reason of each."""
    return [
        tuple(row) for row in await taken.rows("SELECT severity, claim_id, reason FROM ops.ingest_error WHERE tenant_id = $1")
    ]


async def said(taken: Intake) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The remittances' claims, and their lines."""
    claims = "SELECT provider_id, claim_id, sender_id, paid FROM claims.remittance WHERE tenant_id = $1"
    lines = "SELECT claim_id, activity_id, net, payment FROM claims.remittance_activity WHERE tenant_id = $1 ORDER BY line"
    return [tuple(row) for row in await taken.rows(claims)], [tuple(row) for row in await taken.rows(lines)]


async def test_taken(database: str, files: dict[str, bytes]) -> None:
    """remit_min_ok is taken without a word, its claim and its line to the fils; the claim waits for its submission."""
    async with intake(database) as taken:
        loaded = await took(taken, files, "min_ok")
        assert (loaded.state, loaded.claims, loaded.activities, loaded.put_aside) == ("loaded", 1, 1, 0)
        amount = Decimal("111.72")
        assert await said(taken) == ([("FAC-001", "R-OK-1", "TPA-XYZ", amount)], [("R-OK-1", "RA1", amount, amount)])
        row = (await taken.rows("SELECT claim_id, submitted_at, remittance_count FROM claims.claim WHERE tenant_id = $1"))[0]
        assert tuple(row) == ("R-OK-1", None, 1)
        assert await remarks(taken) == []


async def test_taken_with_a_warning(database: str, files: dict[str, bytes]) -> None:
    """remit_multi_acts_ok, which breaks the schema's order, is taken whole, and the warning names the element."""
    async with intake(database) as taken:
        loaded = await took(taken, files, "multi_acts_ok")
        assert (loaded.state, loaded.claims, loaded.activities, loaded.put_aside) == ("loaded", 1, 2, 0)
        first, second = Decimal("111.72"), Decimal("108.19")
        assert await said(taken) == (
            [("FAC-001", "R-MULTI-1", "TPA-XYZ", first + second)],
            [("R-MULTI-1", "RA-1", first, first), ("R-MULTI-1", "RA-2", second, second)],
        )
        assert await remarks(taken) == [("warning", "R-MULTI-1", "Activity/List is out of the schema's order")]


async def test_put_aside(database: str, files: dict[str, bytes]) -> None:
    """remit_missing_activity_err is in as a file; its claim is not, and the reason is kept."""
    async with intake(database) as taken:
        loaded = await took(taken, files, "missing_activity_err")
        assert (loaded.state, loaded.claims, loaded.put_aside) == ("loaded", 0, 1)
        assert await said(taken) == ([], [])
        assert await taken.value("SELECT count(*) FROM claims.claim WHERE tenant_id = $1") == 0
        assert await taken.value("SELECT put_aside FROM claims.file WHERE tenant_id = $1") == 1
        assert await remarks(taken) == [("aside", "R-NO-ACT", "Claim/Activity is missing")]


async def test_quarantined(database: str, files: dict[str, bytes]) -> None:
    """testRemittance_nonconformant is kept with its bytes, nothing of it counts, and `ingest errors` lists it and why."""
    async with intake(database) as taken:
        loaded = await took(taken, files, "nonconformant")
        assert (loaded.state, loaded.claims) == ("quarantined", 0)
        body = zlib.decompress(await taken.value("SELECT body FROM claims.file WHERE tenant_id = $1"))
        assert body == files["nonconformant"]
        assert await taken.value("SELECT count(*) FROM claims.claim WHERE tenant_id = $1") == 0
        done = await sluice("ingest", "errors", "--json", database_url=database)
        (row,) = json.loads(done.out)
        assert (row["licence"], row["file_id"], row["severity"]) == (taken.facility.licence, "nonconformant", "quarantined")
        assert row["reason"] == "its claims are those of a Claim.Submission"
