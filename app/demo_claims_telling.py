"""What the demo tells of its claims: now and then how many are in, and once a review of one that is paid, and the reports."""

import asyncio
import contextlib
from time import monotonic
from urllib.parse import quote

import asyncpg
from rich.console import Console

from base.config import Config
from ingestion.mapping.from_claims import Identifier, Naming
from storage.claims import identity_secret
from storage.resources import find_identifiers

_LOOK_S = 0.5
_OFTEN_S, _SELDOM_S = 5.0, 60.0
_OFTEN_FOR_S = 60.0
"""The time in which the first files come in."""
_PATIENCE_S = 120.0
_COUNTS = """
    SELECT count(*) AS claims, count(*) FILTER (WHERE held > 0) AS paid, coalesce(sum(held), 0) AS held FROM claims.claim c
    WHERE submitted_at IS NOT NULL AND EXISTS (SELECT FROM ops.facility f WHERE f.tenant_id = c.tenant_id)
"""
_PAID = """
    SELECT c.tenant_id, c.provider_id, c.claim_id FROM claims.claim c JOIN ops.tenant t USING (tenant_id)
    WHERE t.name = $1 AND c.held > 0 AND c.encounter_start IS NOT NULL
    ORDER BY c.status <> 'PAID', c.provider_id, c.claim_id LIMIT 1
"""
_REPORTED = "SELECT EXISTS (SELECT FROM report.balance_amount WHERE provider_id = $1 AND claim_id = $2 AND total_payment > 0)"
notices = Console(stderr=True, soft_wrap=True)


async def tell(config: Config, stop: asyncio.Event, *, tenant: str, key: str, base_url: str) -> None:
    """Until `stop`: counts on standard error, and once the requests to paste on standard output."""
    connection = await asyncpg.connect(config.database_url)
    began = said_at = monotonic()
    said, shown = "", False
    try:
        while not stop.is_set():
            if not shown and (found := await _paid(connection, config, tenant)):
                shown = True
                print(_examples(base_url, key, *found), flush=True)
            now = monotonic()
            waits = not shown and now - began < _PATIENCE_S
            every_s = _OFTEN_S if now - began < _OFTEN_FOR_S else _SELDOM_S
            if now - said_at >= every_s and (line := await _line(connection)) != said:
                notices.print(line, highlight=False)
                said, said_at = line, now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_S if waits else _OFTEN_S)
    finally:
        await connection.close(timeout=2)


async def _line(connection: asyncpg.Connection) -> str:
    (row,) = await connection.fetch(_COUNTS)
    return f"claims: {row['claims']:,} in, {row['paid']:,} of them paid AED {row['held']:,.2f}"


async def _paid(connection: asyncpg.Connection, config: Config, tenant: str) -> tuple[str, str, str] | None:
    """An encounter whose claim came in, was paid and is in the reports, and the claim's provider and id.

    The encounter's id is a keyed hash: only the database knows it.
    """
    row = await connection.fetchrow(_PAID, tenant)
    if row is None:
        return None
    naming = Naming(key=await identity_secret(connection), base=config.identifier_base)
    tenant_id, provider_id, claim_id = row
    async with connection.transaction():
        await connection.execute("SELECT set_config('sluice.tenant_id', $1, true)", str(tenant_id))
        if not await connection.fetchval(_REPORTED, provider_id, claim_id):
            return None
    wanted = Identifier("Encounter", naming.sid("claim-encounter"), f"{provider_id}|{claim_id}")
    ids = (await find_identifiers(connection, tenant_id, [wanted]))[wanted]
    return (ids[0], provider_id, claim_id) if ids else None


def _examples(base_url: str, key: str, encounter: str, provider_id: str, claim_id: str) -> str:
    claim = f"{quote(provider_id, safe='')}/{quote(claim_id, safe='')}"
    requests = (
        ("a review of a visit whose claim came in from a facility, and what the insurer paid for it", f"/reviews/{encounter}"),
        ("what is still to be received, the most first", "/reports/balance-amount?sort=-pending_amount&_count=2"),
        ("by month, payer and facility, for a spreadsheet", "/reports/claims-by-payer?format=csv"),
        ("what happened to that claim", f"/reports/claims/{claim}"),
    )
    return "".join(f"# {title}\ncurl -s -H 'Authorization: Bearer {key}' '{base_url}{path}'\n" for title, path in requests)
