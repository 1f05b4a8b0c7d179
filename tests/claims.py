"""What tests of claims share: facilities, files taken in by the loader, and the database held against what the files say."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg

from ingestion.claims import Parsed
from ingestion.loader import Loaded, Loader, Received
from ingestion.mapping.from_claims import Naming
from ingestion.parsing.parser import parse
from simulator.claims import GeneratedFile
from simulator.claims_truth import Truth, truth
from storage.claims import identity_secret
from storage.facilities import Facility, add_facility, facility_of
from tests.support import add_tenant

BASE = "https://fhir.example.ae"
MONEY = ("net", "held", "taken_back", "denied", "pending", "overpaid")
INGEST = {"role": "sluice_ingest", "application_name": "sluice ingest"}


@dataclass
class Intake:
    """A tenant's facility, and the loader that its files go through."""

    url: str
    facility: Facility
    loader: Loader

    @property
    def tenant_id(self) -> int:
        return self.facility.tenant_id

    async def load(self, file: GeneratedFile | tuple[str, bytes], *, sent: bool = False) -> Loaded:
        """A generated file, or (file id, payload), on a connection of its own."""
        async with connected(self.url) as connection:
            return await self.load_on(connection, file, sent=sent)

    async def load_on(
        self, connection: asyncpg.Connection, file: GeneratedFile | tuple[str, bytes], *, sent: bool = False
    ) -> Loaded:
        file_id, payload = file if isinstance(file, tuple) else (file.file_id, file.document)
        return await self.loader.load(connection, self.facility, Received(file_id, f"{file_id}.xml", sent, payload))

    async def load_all(self, files: Iterable[GeneratedFile], *, at_once: int = 1) -> list[Loaded]:
        """By so many connections side by side."""
        waiting = list(files)[::-1]
        done: list[Loaded] = []

        async def work() -> None:
            async with connected(self.url) as connection:
                while waiting:
                    done.append(await self.load_on(connection, waiting.pop()))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
        return done

    async def rows(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """$1 is the tenant."""
        async with connected(self.url, {}) as connection:
            found: list[asyncpg.Record] = await connection.fetch(sql, self.tenant_id, *values)
            return found

    async def value(self, sql: str, *values: Any) -> Any:
        return (await self.rows(sql, *values))[0][0]


@asynccontextmanager
async def connected(url: str, settings: dict[str, str] | None = None) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings=INGEST if settings is None else settings)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def intake(url: str, licence: str = "DHA-F-0000001", tenant: str = "clinic") -> AsyncIterator[Intake]:
    """A facility of a tenant, which is made unless it is there."""
    async with connected(url, {}) as connection:
        tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = $1", tenant)
        if tenant_id is None:
            await add_tenant(url, tenant)
            tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = $1", tenant)
        await add_facility(
            connection,
            tenant_id,
            licence,
            url="http://127.0.0.1:1/",
            login=licence,
            password=b"sealed",
            since=datetime(2026, 1, 1, tzinfo=UTC),
        )
        facility = await facility_of(connection, licence)
        loader = Loader(Naming(await identity_secret(connection), BASE))
    try:
        yield Intake(url, facility, loader)
    finally:
        loader.close()


async def standing(url: str, tenant_id: int) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What the database knows of each submitted claim: its amounts and status."""
    async with connected(url, {}) as connection:
        rows = await connection.fetch(
            f"SELECT provider_id, claim_id, {', '.join(MONEY)}, status FROM claims.claim"
            " WHERE tenant_id = $1 AND submitted_at IS NOT NULL",
            tenant_id,
        )
    return {(row[0], row[1]): tuple(row)[2:] for row in rows}


async def assert_is_truth(taken: Intake, expected: Truth) -> None:
    """Every claim once, every amount to the fils, by claim, by activity, and in the files' own control totals."""
    found = await standing(taken.url, taken.tenant_id)
    assert found.keys() == expected.by_claim.keys()
    assert {key: found[key] for key in found if found[key] != tuple(expected.by_claim[key])} == {}
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in MONEY)
    of_activities = (await taken.rows(f"SELECT count(*), {sums} FROM claims.activity WHERE tenant_id = $1"))[0]
    assert tuple(of_activities) == (expected.activities, *expected.total[:6])
    paid = await taken.rows("SELECT count(*), coalesce(sum(payment), 0) FROM claims.remittance_activity WHERE tenant_id = $1")
    assert tuple(paid[0]) == (expected.lines, expected.paid)
    said = await taken.rows(
        """SELECT coalesce(sum(claims) FILTER (WHERE kind = 'submission'), 0),
            coalesce(sum(claims) FILTER (WHERE kind = 'remittance'), 0),
            coalesce(sum(amount) FILTER (WHERE kind = 'remittance'), 0)
        FROM claims.file WHERE tenant_id = $1 AND state = 'loaded'"""
    )
    assert tuple(said[0]) == (expected.submitted, expected.remitted, expected.paid)
    orphans = await taken.value("SELECT count(*) FROM claims.claim WHERE tenant_id = $1 AND submitted_at IS NULL")
    assert orphans == expected.orphans
    await assert_is_fhir(taken, expected)


async def assert_is_fhir(taken: Intake, expected: Truth) -> None:
    """A Claim for each, a ClaimResponse for each remittance of one, and the explained amounts are the claims'."""
    there = await taken.rows("SELECT type, count(*) FROM fhir.resource WHERE tenant_id = $1 AND NOT deleted GROUP BY type")
    kinds: dict[str, int] = {row[0]: row[1] for row in there}
    assert kinds.get("Claim", 0) == expected.claims
    answers = await taken.value(
        "SELECT count(*) FROM claims.remittance r JOIN claims.claim c USING (tenant_id, provider_id, claim_id)"
        " WHERE tenant_id = $1 AND c.submitted_at IS NOT NULL"
    )
    assert kinds.get("ClaimResponse", 0) == answers
    explained = await taken.value(
        "SELECT count(*) FROM claims.claim WHERE tenant_id = $1 AND submitted_at IS NOT NULL AND remittance_count > 0"
    )
    assert kinds.get("ExplanationOfBenefit", 0) == explained
    totals = await taken.rows(
        """SELECT t->'category'->'coding'->0->>'code', sum((t->'amount'->>'value')::numeric)
        FROM fhir.resource, jsonb_array_elements(convert_from(body, 'UTF8')::jsonb->'total') t
        WHERE tenant_id = $1 AND type = 'ExplanationOfBenefit' AND NOT deleted GROUP BY 1"""
    )
    explained_sums: dict[str, Decimal] = {row[0]: row[1] for row in totals}
    assert explained_sums.get("benefit", Decimal(0)) == expected.total.held


def parsed_of(files: Sequence[GeneratedFile]) -> list[Parsed]:
    return [parse(file.document) for file in files]


def truth_of_files(files: Iterable[GeneratedFile]) -> Truth:
    return truth(files)
