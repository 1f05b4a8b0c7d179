"""The report views: how each is kept, and how what is kept is brought up to date.

A view's rows are defined once, by `claims.*_now`. They are kept by a materialised view, which is refreshed as a whole, or by a
table of the same columns, in which the rows of changed keys alone are computed anew; ops.report_view says which, and the views
of schema report read that one. claims.change says what has changed, and ops.report_view.done what is in already: a snapshot. So
a transaction that began before it and commits long after is found all the same: it is the one that the snapshot has not seen.

Who writes a view holds its lock, and who computes one as a whole holds that of all, too: one of these at a time.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, TypeAlias

import asyncpg

from base.config import VIEWS
from storage.queries import load

_SQL = load("views.sql")
_WHOLE_LOCK = 0
STEP_CHANGES = 20_000
"""Changes of one transaction, unless a single file has made more."""
_CHUNK_KEYS = 1000
_GROWN = 2
"""How many times its rows a view has now, for statistics to be gathered at once."""

Key: TypeAlias = tuple[Any, ...]
"""tenant_id, and what stands in the view's `key`."""


@dataclass(frozen=True, slots=True)
class View:
    name: str
    matview: str
    table: str
    now: str
    """The view that computes its rows."""
    key: tuple[str, ...] = ("provider_id", "claim_id")
    """After tenant_id."""
    types: tuple[str, ...] = ("text", "text")
    remitted: bool = False
    """Claims that nothing was remitted for have no row."""
    number: int = 0
    """Of its lock."""

    @property
    def of_groups(self) -> bool:
        """Its rows are sums over claims, not claims."""
        return "claim_id" not in self.key


REPORTS: Mapping[str, View] = {
    view.name: view
    for view in (
        View(
            VIEWS[0],
            matview="claims.mv_balance_amount_summary",
            table="claims.balance_amount_summary",
            now="claims.balance_amount_now",
            number=1,
        ),
        View(
            VIEWS[1],
            matview="claims.mv_remittance_advice_summary",
            table="claims.remittance_advice_summary",
            now="claims.remittance_advice_now",
            remitted=True,
            number=2,
        ),
        View(
            VIEWS[2],
            matview="claims.mv_claim_summary_payerwise",
            table="claims.claim_summary_payerwise",
            now="claims.claims_by_payer_now",
            key=("month", "payer_id", "facility_id"),
            types=("date", "text", "text"),
            number=3,
        ),
    )
}
_OF_REMITTED = [view.name for view in REPORTS.values() if view.remitted]


@dataclass(frozen=True, slots=True)
class State:
    """A view as ops.report_view has it, at `now` by the database's clock."""

    name: str
    incremental: bool
    """It is kept by the table."""
    refreshed_at: datetime
    """Its rows were computed then."""
    current_at: datetime
    """Nothing was missing then."""
    took_s: float
    """The last refresh of the materialised view; 0: there was none."""
    rows: int
    refreshed: int
    applied: int
    failed: int
    reason: str
    now: datetime
    lost: bool
    """What is in is not known: the database is a copy of another."""
    waiting: int
    """Changes that are not in."""

    @property
    def age_s(self) -> float:
        """Seconds since nothing was missing."""
        return (self.now - self.current_at).total_seconds() if self.waiting or self.lost else 0.0


@dataclass(frozen=True, slots=True)
class Applied:
    keys: int
    """Rows that were computed anew."""
    written: int
    """Of them those that differed."""
    more: bool
    """Changes were left for the next step."""


async def states(connection: asyncpg.Connection) -> dict[str, State]:
    """Of all views, by name, in their order."""
    found = {row["name"]: State(**row) for row in await connection.fetch(_SQL["states"], _OF_REMITTED)}
    return {name: found[name] for name in REPORTS}


@asynccontextmanager
async def turn(connection: asyncpg.Connection, view: View, *, whole: bool, wait: bool = False) -> AsyncIterator[bool]:
    """Whether it is ours to write the view; `whole`: to compute one as a whole, of which there is one at a time.

    With `wait` it is, as soon as the others are done. The locks are the session's: they go with it, however it ends.
    """
    wanted = [_WHOLE_LOCK, view.number] if whole else [view.number]
    held: list[int] = []
    try:
        for lock in wanted:
            if not wait and not await connection.fetchval(_SQL["lock_try"], lock):
                break
            if wait:
                await connection.execute(_SQL["lock"], lock)
            held.append(lock)
        yield held == wanted
    finally:
        if not connection.is_closed():
            for lock in reversed(held):
                await connection.execute(_SQL["unlock"], lock)


async def refresh(connection: asyncpg.Connection, view: View) -> int:
    """The materialised view anew, which is then what is read. Readers are not held up. Returns its rows."""
    async with connection.transaction():
        await connection.execute(_SQL["whole_settings"])
        # Before the refresh takes its own: what this one has seen, that one sees.
        seen = await connection.fetchval(_SQL["seen"])
        await connection.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view.matview}")
        rows: int = await connection.fetchval(f"SELECT count(*) FROM {view.matview}")
        before = await _rows_before(connection, view)
        await connection.execute(_SQL["refreshed"], view.name, False, seen, rows)
    await _keep_statistics(connection, view.matview, before, rows)
    return rows


async def rebuild(connection: asyncpg.Connection, view: View) -> int:
    """The table as a whole, which is then what is read: row by row where it differs, so that readers are not held up."""
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute(_SQL["whole_settings"])
        seen = await connection.fetchval(_SQL["seen"])
        names = await _names(connection, view)
        await connection.execute(_SQL["fill_compute"].format(**names))
        await connection.execute(_SQL["fill_remove"].format(**names))
        await connection.execute(_SQL["fill_write"].format(**names))
        rows: int = await connection.fetchval("SELECT count(*) FROM view_fresh")
        before = await _rows_before(connection, view)
        await connection.execute(_SQL["refreshed"], view.name, True, seen, rows)
    await _keep_statistics(connection, view.table, before, rows)
    return rows


async def apply(connection: asyncpg.Connection, view: View, *, most: int = STEP_CHANGES) -> Applied:
    """The table's rows of the keys that have changed; about `most` changes, and no less than one transaction's.

    Of a view that is not kept by its table, or of which it is not known what is in, nothing is done.
    """
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute(_SQL["keys_settings"])
        at = await connection.fetchrow(_SQL["begin"], view.name)
        if at is None or at["lost"] or not at["incremental"]:
            return Applied(0, 0, more=False)
        cut = await connection.fetchval(_SQL["cut"], at["done"], most)
        keys = await _changed_keys(connection, view, at["done"], cut)
        more_rows, written = await _compute(connection, view, keys)
        # A step is as if a snapshot had seen all before the cut, and nothing from there on.
        done = f"{cut}:{cut}:" if cut else at["seen"]
        await connection.execute(_SQL["applied"], view.name, done, more_rows, cut is None)
    return Applied(len(keys), written, more=cut is not None)


async def confirm(connection: asyncpg.Connection, view: View) -> bool:
    """Writes down that nothing is missing. False when something is."""
    return bool(await connection.fetchval(_SQL["confirm"], view.name, _OF_REMITTED))


async def note_failure(connection: asyncpg.Connection, view: View, reason: str) -> None:
    await connection.execute(_SQL["failed"], view.name, reason)


async def prune(connection: asyncpg.Connection) -> None:
    """Forgets the changes that are in all views."""
    await connection.execute(_SQL["prune"])


async def _changed_keys(connection: asyncpg.Connection, view: View, done: str, cut: str | None) -> list[Key]:
    """In the order of their tenants."""
    claims = [tuple(row) for row in await connection.fetch(_SQL["claims"], done, cut, view.remitted)]
    if not view.of_groups:
        return claims
    groups = {tuple(row) for row in await connection.fetch(_SQL["groups_before"], done, cut)}
    for tenant_id, chunk in _chunks(claims):
        groups |= {(tenant_id, *row) for row in await connection.fetch(_SQL["groups_now"], tenant_id, *_columns(chunk))}
    return sorted(groups)


async def _compute(connection: asyncpg.Connection, view: View, keys: Sequence[Key]) -> tuple[int, int]:
    """How many rows more there are, and how many were written or removed. Tenant by tenant: one partition each."""
    if not keys:
        return 0, 0
    names = await _names(connection, view)
    more_rows = written = 0
    for tenant_id, chunk in _chunks(keys):
        row = await connection.fetchrow(_SQL["apply"].format(**names), tenant_id, *_columns(chunk))
        assert row is not None  # noqa: S101  # counts of nothing are a row, too
        gone = [chunk[place - 1] for place in row["gone"]]  # groups whose last claim has moved: few
        await connection.executemany(_SQL["remove"].format(**names), gone)
        more_rows += row["added"] - len(gone)
        written += row["added"] + row["changed"] + len(gone)
    return more_rows, written


def _chunks(keys: Iterable[Key]) -> Iterable[tuple[int, list[Key]]]:
    for tenant_id, of_tenant in groupby(keys, key=lambda key: key[0]):
        members = list(of_tenant)
        for first in range(0, len(members), _CHUNK_KEYS):
            yield tenant_id, members[first : first + _CHUNK_KEYS]


def _columns(keys: Sequence[Key]) -> list[list[Any]]:
    """Without the tenant."""
    return [list(column) for column in zip(*keys, strict=True)][1:]


async def _names(connection: asyncpg.Connection, view: View) -> dict[str, str]:
    """What a statement for this view is put together from."""
    columns: list[str] = await connection.fetchval(_SQL["columns"], view.table)
    return {
        "table": view.table,
        "now": view.now,
        "columns": ", ".join(columns),
        "excluded": ", ".join(f"excluded.{column}" for column in columns),
        "names": ", ".join(view.key),
        "keys": ", ".join(f"k.{name} AS key_{n}" for n, name in enumerate(view.key)),
        "arrays": ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(view.types, 2)),
        "computed": " AND ".join(f"v.{name} = k.{name}" for name in view.key),
        "kept": " AND ".join(f"t.{name} = n.key_{n}" for n, name in enumerate(view.key)),
        "given": " AND ".join(f"t.{name} = ${n}" for n, name in enumerate(view.key, 2)),
        "fresh": " AND ".join(f"f.{name} = t.{name}" for name in view.key),
    }


async def _rows_before(connection: asyncpg.Connection, view: View) -> int:
    return int(await connection.fetchval("SELECT rows FROM ops.report_view WHERE name = $1", view.name))


async def _keep_statistics(connection: asyncpg.Connection, relation: str, before: int, rows: int) -> None:
    """Of what has grown much: autovacuum looks once a minute, and reports are read at once."""
    if rows > _GROWN * before:
        with suppress(asyncpg.PostgresError):  # the rows are in, whatever becomes of this
            await connection.execute(f"ANALYZE (SKIP_LOCKED) {relation}")
