"""Who is warm, as the database has it: the truth for all processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.asks import Rows
from storage.connecting.connections import Loan
from storage.connecting.servers import Storage
from storage.failures import problem_of
from storage.queries import load

_SQL = load("warmth.sql")
HOT = tuple(_SQL.values())
CHANGED = "sluice_warm"
"""NOTIFY's channel; the payload is the tenant's number."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """`remaining_s` is by the database's clock: the processes' own may differ."""

    tenant_id: int
    name: str
    exclusive: bool
    generation: int
    warmed_at: datetime
    warm_until: datetime
    remaining_s: float


async def warm(storage: Storage, tenant_id: int, cooldown_s: float) -> tuple[int, datetime, datetime, float]:
    """Warms a tenant, or extends it: (generation, warmed_at, warm_until, remaining_s)."""
    row = (await _asked(storage.write(), "warm", tenant_id, cooldown_s))[0]
    return row[0], row[1], row[2], row[3]


async def cool(storage: Storage, tenant_id: int) -> bool:
    """Whether it was warm."""
    return bool((await _asked(storage.write(), "cool", tenant_id))[0][0])


async def warmth_of(storage: Storage, tenant_ids: Sequence[int] | None = None) -> list[Warmth]:
    """The warm ones of these tenants, or of all."""
    if tenant_ids is None:
        rows = await _asked(storage.latest(), "all_warm")
    else:
        rows = await _asked(storage.latest(), "some_warm", list(tenant_ids))
    return [Warmth(*row) for row in rows]


async def _asked(loan: Loan, statement: str, *values: Any) -> Rows:
    """Raises ServerBusy or Expired when the database is away or slow."""
    try:
        async with loan as connection:
            return await connection.fetch(_SQL[statement], *values)
    except Exception as error:
        raise problem_of(error) from error
