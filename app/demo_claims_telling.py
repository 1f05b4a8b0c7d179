"""What the demo tells of its claims: now and then how many are in, and once a review of one that is paid."""

import asyncio
import contextlib
from time import monotonic

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
    SELECT c.tenant_id, c.provider_id || '|' || c.claim_id FROM claims.claim c JOIN ops.tenant t USING (tenant_id)
    WHERE t.name = $1 AND c.held > 0 AND c.encounter_start IS NOT NULL
    ORDER BY c.status <> 'PAID', c.provider_id, c.claim_id LIMIT 1
"""
notices = Console(stderr=True, soft_wrap=True)


async def tell(config: Config, stop: asyncio.Event, *, tenant: str, key: str, base_url: str) -> None:
    """Until `stop`: counts on standard error, and the one request to paste on standard output."""
    connection = await asyncpg.connect(config.database_url)
    began = said_at = monotonic()
    said, shown = "", False
    try:
        while not stop.is_set():
            if not shown and (encounter := await _paid(connection, config, tenant)):
                shown = True
                print(_example(base_url, key, encounter), flush=True)
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


async def _paid(connection: asyncpg.Connection, config: Config, tenant: str) -> str | None:
    """An encounter whose claim came in, and was paid. Its id is a keyed hash: only the database knows it."""
    row = await connection.fetchrow(_PAID, tenant)
    if row is None:
        return None
    naming = Naming(key=await identity_secret(connection), base=config.identifier_base)
    wanted = Identifier("Encounter", naming.sid("claim-encounter"), row[1])
    ids = (await find_identifiers(connection, row[0], [wanted]))[wanted]
    return ids[0] if ids else None


def _example(base_url: str, key: str, encounter: str) -> str:
    return (
        "# a review of a visit whose claim came in from a facility, and what the insurer paid for it\n"
        f"curl -s -H 'Authorization: Bearer {key}' {base_url}/reviews/{encounter}\n"
    )
