"""What tests of the report views share: claims told as the loader writes them; what reports read, and what the model says."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg

from ingestion.claims import Event
from ingestion.rows import activity_row, claim_row, event_row, place, said_rows, standing
from ingestion.told import Told
from storage import claims as store
from storage import views
from storage.claims import ClaimKey
from storage.connecting.pools import REPORT_SETTINGS
from storage.copying import encoded
from storage.views import REPORTS, View
from tests.claims import INGEST, connected
from tests.money_views import DUBAI, balance_amount_summary, claim_summary_payerwise, remittance_advice_summary

RELATIONS = {"balance-amount": "balance_amount", "remittance-advice": "remittance_advice", "claims-by-payer": "claims_by_payer"}
Rows: TypeAlias = dict[str, list[tuple[tuple[str, str], ...]]]
"""Of each view, sorted; every value as text, so that 1.0 is not 1.00."""
Telling: TypeAlias = Mapping[ClaimKey, Sequence[Event]]


async def tell(connection: asyncpg.Connection, tenant_id: int, said: Telling) -> None:
    """A transaction as the loader's, without the resources."""
    async with connection.transaction():
        await write(connection, tenant_id, said)


async def write(connection: asyncpg.Connection, tenant_id: int, said: Telling) -> None:
    await store.begin(connection, tenant_id)
    told = [Told(key, list(said[key])) for key in sorted(said)]
    history = await store.take_claims(connection, tenant_id, [each.key for each in told])
    for each in told:
        each.known = history[each.key]
        each.settle()
    claims = [claim_row(tenant_id, each.key, each.settled) for each in told]
    activities = [activity_row(tenant_id, each.key, state) for each in told for state in each.settled.activities]
    await store.write_claims(connection, tenant_id, encoded(claims), encoded(activities))
    tables: dict[str, list[Any]] = {}
    for each in told:
        for step in each.new_steps():
            tables.setdefault("event", []).append(event_row(tenant_id, each.key, step))
            for table, row in said_rows(tenant_id, each.key, step.event):
                tables.setdefault(table, []).append(row)
    for table, rows in tables.items():
        await store.write_said(connection, table, encoded(rows))
    changed = [(tenant_id, *each.key, *place(step.event), *standing(step)) for each in told for step in each.changed_steps()]
    await store.rewrite_events(connection, changed)
    await store.keep_activities(connection, [row for each in told for row in each.kept(tenant_id)])
    await store.announce(connection, tenant_id, ["Claim"])


@dataclass
class Books:
    """A database's claims, by tenant, and connections of both roles."""

    url: str
    ingest: asyncpg.Connection
    reader: asyncpg.Connection
    told: dict[int, dict[ClaimKey, list[Event]]] = field(default_factory=dict)

    async def tell(self, tenant_id: int, said: Telling) -> None:
        self.note(tenant_id, said)
        await tell(self.ingest, tenant_id, said)

    def note(self, tenant_id: int, said: Telling) -> None:
        for key, events in said.items():
            self.told.setdefault(tenant_id, {}).setdefault(key, []).extend(events)

    async def read(self, tenant_id: int) -> Rows:
        """What a report of the tenant reads."""
        found = {}
        async with self.reader.transaction():
            await self.reader.execute("SELECT set_config('sluice.tenant_id', $1, true)", str(tenant_id))
            for name, relation in RELATIONS.items():
                rows = await self.reader.fetch(f"SELECT * FROM report.{relation}")
                assert {row["tenant_id"] for row in rows} <= {tenant_id}
                found[name] = _as_text(dict(row) for row in rows)
        return found

    def expected(self, tenant_id: int) -> Rows:
        """What the model computes."""
        histories, today = self.told.get(tenant_id, {}), datetime.now(DUBAI).date()
        made = (
            balance_amount_summary(histories, today),
            remittance_advice_summary(histories),
            claim_summary_payerwise(histories),
        )
        return dict(zip(RELATIONS, map(_as_text, made), strict=True))

    async def check(self, *tenants: int) -> None:
        for tenant_id in tenants or self.told:
            assert await self.read(tenant_id) == self.expected(tenant_id)

    async def bring_up(self, way: str, names: Iterable[str] = REPORTS) -> None:
        """`way`: refresh, rebuild or apply, which a view that is not kept by its table is rebuilt for."""
        for name in names:
            view = REPORTS[name]
            state = (await views.states(self.ingest))[name]
            if way == "refresh":
                await views.refresh(self.ingest, view)
            elif way == "rebuild" or not state.incremental:
                await views.rebuild(self.ingest, view)
            else:
                await apply_all(self.ingest, view)


async def apply_all(connection: asyncpg.Connection, view: View, most: int = views.STEP_CHANGES) -> list[views.Applied]:
    steps = [await views.apply(connection, view, most=most)]
    while steps[-1].more:
        steps.append(await views.apply(connection, view, most=most))
    return steps


def _as_text(rows: Iterable[dict[str, Any]]) -> list[tuple[tuple[str, str], ...]]:
    return sorted(tuple(sorted((name, _text(value)) for name, value in row.items() if name != "tenant_id")) for row in rows)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        value = value.astimezone(UTC)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


@asynccontextmanager
async def books(url: str) -> AsyncIterator[Books]:
    async with connected(url, INGEST) as ingest, connected(url, REPORT_SETTINGS) as reader:
        yield Books(url, ingest, reader)
