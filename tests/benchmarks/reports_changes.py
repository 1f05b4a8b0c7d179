"""Claims that change while reports are read, as the loader changes them, and when a report shows it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg

from storage import claims
from storage.claims import ClaimKey
from storage.connecting.pools import INGEST_SETTINGS
from storage.copying import encoded

DUBAI = ZoneInfo("Asia/Dubai")
_PAUSE_S = 0.01
_LIMIT_S = 30.0
Row = dict[str, Any]

_KEYS = """
SELECT provider_id, claim_id FROM claims.claim TABLESAMPLE SYSTEM (20) WHERE tenant_id = $1 AND submitted_at IS NOT NULL
"""
_ROWS = """
SELECT t.* FROM unnest($2::text[], $3::text[]) AS k (provider_id, claim_id)
CROSS JOIN LATERAL (
    SELECT * FROM claims.{table} t
    WHERE t.tenant_id = $1 AND t.provider_id = k.provider_id AND t.claim_id = k.claim_id OFFSET 0
) t
"""


@asynccontextmanager
async def ingesting(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings=INGEST_SETTINGS)
    try:
        yield connection
    finally:
        await connection.close()


class Changes:
    """Remittances for one tenant's claims: what was not paid in full is, what was is taken back."""

    def __init__(self, tenant_id: int, keys: Sequence[ClaimKey], facility_no: int, day: datetime) -> None:
        self.tenant_id = tenant_id
        self._keys = keys
        self._facility_no = facility_no
        self._day = day
        self._random = Random()  # other claims each run
        self._made = 0

    @classmethod
    async def of(cls, url: str, tenant_id: int) -> "Changes":
        connection = await asyncpg.connect(url)
        try:
            keys = [(row[0], row[1]) for row in await connection.fetch(_KEYS, tenant_id)]
            facility_no = await connection.fetchval("SELECT min(facility_no) FROM ops.facility WHERE tenant_id = $1", tenant_id)
            latest = await connection.fetchval("SELECT max(settled_at) FROM claims.claim")
            return cls(tenant_id, keys, facility_no, latest)
        finally:
            await connection.close()

    def choose(self, count: int, *, among: int | None = None) -> list[ClaimKey]:
        """In the order in which everybody locks them."""
        keys = self._keys[:among]
        return sorted(self._random.sample(keys, min(count, len(keys))))

    def change(self, keys: Sequence[ClaimKey]) -> "Change":
        """Settled on a day of its own."""
        self._made += 1
        return Change(self.tenant_id, keys, self._day + timedelta(days=self._made))

    async def make(self, connection: asyncpg.Connection, change: "Change") -> None:
        """One file of remittances, in one transaction."""
        async with connection.transaction():
            await claims.begin(connection, self.tenant_id)
            await claims.take_claims(connection, self.tenant_id, change.keys)
            await change.read(connection)
            await change.write(connection, self._facility_no, f"C-{time.time_ns()}")
            await claims.announce(connection, self.tenant_id, ["Claim"])
        change.committed = time.perf_counter()


class Change:
    """What one transaction changes. `claims` are the rows of claims.claim, and afterwards as they have become."""

    def __init__(self, tenant_id: int, keys: Sequence[ClaimKey], day: datetime) -> None:
        self._tenant_id = tenant_id
        self.keys = keys
        self.day = day
        self.claims: list[Row] = []
        self.committed = 0.0
        self._activities: list[Row] = []

    async def read(self, connection: asyncpg.Connection) -> None:
        columns = [key[0] for key in self.keys], [key[1] for key in self.keys]
        self.claims, self._activities = [
            [dict(row) for row in await connection.fetch(_ROWS.format(table=table), self._tenant_id, *columns)]
            for table in ("claim", "activity")
        ]

    async def write(self, connection: asyncpg.Connection, facility_no: int, file_id: str) -> None:
        of_claim: dict[ClaimKey, list[Row]] = {key: [] for key in self.keys}
        for activity in self._activities:
            of_claim[activity["provider_id"], activity["claim_id"]].append(activity)
        said: dict[str, list[tuple[Any, ...]]] = {"event": [], "remittance": [], "remittance_activity": []}
        for number, claim in enumerate(self.claims, 1):
            key = claim["provider_id"], claim["claim_id"]
            place = (self._tenant_id, *key, facility_no, file_id, number)
            self._remit(place, claim, of_claim[key], said)
        written = [encoded([tuple(row.values()) for row in rows]) for rows in (self.claims, self._activities)]
        await claims.write_claims(connection, self._tenant_id, *written)
        for table, texts in said.items():
            await claims.write_said(connection, table, encoded(texts))

    def _remit(self, place: tuple[Any, ...], claim: Row, activities: list[Row], said: dict[str, list[tuple[Any, ...]]]) -> None:
        back = claim["status"] == "PAID"
        paid = Decimal("0.00")
        for line, activity in enumerate(activities, 1):
            payment = -activity["held"] if back else activity["net"] - activity["held"]
            paid += payment
            said["remittance_activity"].append(
                (
                    *(*place, line, activity["activity_id"], activity["started_at"], activity["type"], activity["code"]),
                    *(activity["quantity"], activity["net"], None, None, None, activity["clinician_id"], None, payment, None),
                )
            )
            _settle(activity, back=back)
            activity |= {
                "status": "TAKEN_BACK" if back else "FULLY_PAID",
                "denial_code": None,
                "last_remitted_at": self.day,
            }
        _settle(claim, back=back)
        claim |= {
            "status": "TAKEN_BACK" if back else "PAID",
            "status_at": self.day,
            "remittance_count": claim["remittance_count"] + 1,
            "first_remitted_at": claim["first_remitted_at"] or self.day,
            "last_remitted_at": self.day,
            "settled_at": self.day,
            "payment_reference": "CHANGED",
            "id_payer": claim["id_payer"] or "P",
        }
        said["remittance"].append((*place, claim["payer_id"], self.day, self.day, "CHANGED", claim["id_payer"], None, paid))
        known = claim["status"], claim["held"], claim["taken_back"], claim["denied"], claim["pending"]
        said["event"].append((*place, "remittance", self.day, *known, b"\0", paid))


def _settle(row: Row, *, back: bool) -> None:
    net, none = row["net"], Decimal("0.00")
    row |= {"held": none if back else net, "taken_back": net if back else none, "denied": none, "pending": none}


class Watcher:
    """Asks the report routes until they show a change."""

    def __init__(self, session: aiohttp.ClientSession, port: int, key: str) -> None:
        self._session = session
        self._base = f"http://127.0.0.1:{port}/reports"
        self._headers = {"Authorization": f"Bearer {key}"}

    async def rows(self, path: str, **asked: str) -> list[Row]:
        async with self._session.get(f"{self._base}/{path}", params=asked, headers=self._headers) as response:
            assert response.status == 200, await response.text()
            found: list[Row] = (await response.json())["rows"]
            return found

    async def group_of(self, claim: Row) -> list[Row]:
        """The row of claims-by-payer that the claim counts in."""
        month = f"{(claim['encounter_start'] or claim['submitted_at']).astimezone(DUBAI):%Y-%m-01}"
        asked = {"from": month, "to": month, "payer": claim["payer_id"], "facility": claim["facility_id"]}
        return await self.rows("claims-by-payer", **asked)

    async def seen(self, change: Change, before: list[Row]) -> dict[str, float]:
        """Seconds from the commit until each report shows it; `before`: the first claim's group as it was."""
        claim = change.claims[0]

        async def balance() -> bool:
            day = f"{(claim['encounter_start'] or claim['submitted_at']).astimezone(DUBAI):%Y-%m-%d}"
            asked = {"from": day, "to": day, "facility": claim["facility_id"], "status": claim["status"], "_count": "1000"}
            return any(row["claim_id"] == claim["claim_id"] for row in await self.rows("balance-amount", **asked))

        async def remittance() -> bool:
            day = f"{change.day.astimezone(DUBAI):%Y-%m-%d}"
            return bool(await self.rows("remittance-advice", **{"from": day, "to": day, "_count": "1"}))

        async def payer() -> bool:
            return await self.group_of(claim) != before

        async def until(shown: Any) -> float:
            async with asyncio.timeout(_LIMIT_S):
                while not await shown():  # noqa: ASYNC110  # nobody tells a client
                    await asyncio.sleep(_PAUSE_S)
            return time.perf_counter() - change.committed

        took = await asyncio.gather(*map(until, (balance, remittance, payer)))
        return dict(zip(("balance-amount", "remittance-advice", "claims-by-payer"), took, strict=True))
