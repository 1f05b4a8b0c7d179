"""The one upsert: every resource comes in here, and here its version is decided.

Rows are inserted before any are locked, and both in order of type and id. So who waits for an uncommitted row holds no lock
that another waits for, and writers of the same resources cannot deadlock, as long as each has one batch in a transaction.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TypeAlias

import asyncpg

from r4.indexing import FINGERPRINT, rank
from r4.resource import Resource, to_milliseconds
from storage.index_rows import OffLoop, at_once, remove_rows, tables_of, write_rows
from storage.queries import load

_SQL = load("resources.sql")

Key: TypeAlias = tuple[str, str]
"""type, id"""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written together; no type and id may stand in it twice."""

    resources: Sequence[Resource] = ()
    deletes: Sequence[Key] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of each type were created, updated, deleted, or stayed as they were; the latter are `unchanged`."""

    by_type: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.by_type + other.by_type)

    def of(self, outcome: str) -> int:
        return sum(count for (_, what), count in self.by_type.items() if what == outcome)

    @property
    def total(self) -> int:
        return self.by_type.total()

    @property
    def created(self) -> int:
        return self.of("created")

    @property
    def updated(self) -> int:
        return self.of("updated")

    @property
    def unchanged(self) -> int:
        return self.of("unchanged")

    @property
    def deleted(self) -> int:
        return self.of("deleted")

    @property
    def changed_types(self) -> list[str]:
        return sorted({kind for (kind, outcome), count in self.by_type.items() if count and outcome != "unchanged"})


@dataclass(frozen=True, slots=True)
class Identifier:
    """`system` None is any, '' is none."""

    type: str
    system: str | None
    code: str


async def upsert(
    connection: asyncpg.Connection, tenant_id: int, batch: Batch, now: datetime, *, off_loop: OffLoop = at_once
) -> Counts:
    """Writes a batch in the caller's transaction, at isolation READ COMMITTED.

    A resource that is new gets version 1, one whose content differs the next, one that is the same is not touched. `off_loop`
    runs what takes CPU alone, in a thread for those who have an event loop to keep free.
    """
    staged = _staged(batch)
    now = to_milliseconds(now)
    await _note(connection)
    await _stage(connection, staged)
    created = {(row["type"], row["id"]) for row in await connection.fetch(_SQL["resources_insert"], tenant_id, now)}
    changed: list[tuple[Key, Resource | None]] = []
    if len(created) < len(staged):
        # A statement of its own: only a new snapshot shows what another writer has put in meanwhile.
        rows = await connection.fetch(_SQL["resources_lock"], tenant_id)
        changed = [staged[row["n"]] for row in rows]
        await _update(connection, tenant_id, [key for key, _ in changed], now)
    written = [r for key, r in staged if r is not None and key in created] + [r for _, r in changed if r is not None]
    await write_rows(connection, tenant_id, written, off_loop)
    return _counts(staged, created, changed)


async def find_identifiers(
    connection: asyncpg.Connection, tenant_id: int, wanted: Iterable[Identifier]
) -> dict[Identifier, list[str]]:
    """The ids that have each identifier: none, one, or two where there are several."""
    asked = list(wanted)
    found: dict[Identifier, list[str]] = {identifier: [] for identifier in asked}
    columns = [[i.type for i in asked], [i.code for i in asked], [i.system for i in asked]]
    for number, resource_id in await connection.fetch(_SQL["identifiers_find"], tenant_id, *columns):
        found[asked[number - 1]].append(resource_id)
    return found


async def refresh_statistics(connection: asyncpg.Connection) -> None:
    """Needs the tables' owner; another gets a warning in the server's log, and no statistics."""
    await connection.execute(_SQL["statistics_refresh"])


async def _note(connection: asyncpg.Connection) -> None:
    """What indexes from here on: first of all that is done, so that nobody waits for it who holds a lock."""
    if await connection.fetchval(_SQL["index_noted"]) not in (FINGERPRINT, ""):
        await connection.execute(_SQL["index_note"], FINGERPRINT)


def _staged(batch: Batch) -> list[tuple[Key, Resource | None]]:
    staged: dict[Key, Resource | None] = {(resource.type, resource.id): resource for resource in batch.resources}
    staged.update(dict.fromkeys(batch.deletes))
    if len(staged) < len(batch.resources) + len(batch.deletes):
        raise ValueError("a type and id stands in the batch twice")
    return list(staged.items())


async def _stage(connection: asyncpg.Connection, staged: list[tuple[Key, Resource | None]]) -> None:
    await connection.execute(_SQL["stage_make"])
    if await connection.fetchval(_SQL["stage_used"]):
        await connection.execute(_SQL["stage_empty"])
    records = [
        (n, *key, 0, True, b"", b"") if resource is None else (n, *key, rank(resource), False, resource.sha256, resource.tail)
        for n, (key, resource) in enumerate(staged)
    ]
    await connection.copy_records_to_table("sluice_stage", records=records)


async def _update(connection: asyncpg.Connection, tenant_id: int, keys: list[Key], now: datetime) -> None:
    for kind, group in groupby(keys, key=lambda key: key[0]):
        ids = [resource_id for _, resource_id in group]
        await connection.execute(_SQL["resources_update"], tenant_id, now, kind, ids)
        await remove_rows(connection, tenant_id, kind, ids, tables_of(kind))


def _counts(staged: list[tuple[Key, Resource | None]], created: set[Key], changed: list[tuple[Key, Resource | None]]) -> Counts:
    outcomes = dict.fromkeys(created, "created")
    outcomes |= {key: "updated" if resource else "deleted" for key, resource in changed}
    return Counts(Counter((key[0], outcomes.get(key, "unchanged")) for key, _ in staged))
