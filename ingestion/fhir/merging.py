"""An import after ingestion: whom it brings under an identifier that ingestion has made a resource for, are one and the same.

What claims refer to is then the imported resource, and the one that was made is deleted.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from r4.indexing import cap
from r4.resource import Resource, split
from storage.claims import Named, find_names, has_names, lock_merging, move_names, referrers
from storage.resources import Batch, Counts, Identifier, upsert

KINDS = ("Organization", "Patient", "Practitioner")
_AT_ONCE = 1000


class _Move(NamedTuple):
    kind: str
    old: str
    new: str


async def upsert_imported(connection: asyncpg.Connection, tenant_id: int, batch: Batch, now: datetime) -> Counts:
    """As `upsert`, in the caller's transaction."""
    moves = await _moves(connection, tenant_id, batch)
    if moves:
        # Files that are being loaded still refer to what was made; and by the lock's time others may have been made.
        await lock_merging(connection, tenant_id)
        moves = await _moves(connection, tenant_id, batch)
    counts = await upsert(connection, tenant_id, batch, now)
    for move in moves:
        await _follow(connection, tenant_id, move, now)
    return counts


async def _moves(connection: asyncpg.Connection, tenant_id: int, batch: Batch) -> list[_Move]:
    """Which resources that ingestion made are the batch's, in order."""
    owners = {identifier: r.id for r in batch.resources if r.type in KINDS for identifier in _identifiers(r)}
    if not owners or not await has_names(connection, tenant_id):
        return []
    found = await find_names(connection, tenant_id, owners)
    return sorted({_move(name, owners[name.identifier]) for name in found if name.made})


def _move(name: Named, new: str) -> _Move:
    return _Move(name.identifier.type, name.resource_id, new)


async def _follow(connection: asyncpg.Connection, tenant_id: int, move: _Move, now: datetime) -> None:
    await move_names(connection, tenant_id, *move)
    if move.old == move.new:  # the import has taken the made one's place by its id
        return
    was, is_now = f'"{move.kind}/{move.old}"'.encode(), f'"{move.kind}/{move.new}"'.encode()
    found = await referrers(connection, tenant_id, move.kind, move.old)
    changed = [split(body.replace(was, is_now)) for _, _, body in found]
    for first in range(0, len(changed), _AT_ONCE):
        await upsert(connection, tenant_id, Batch(changed[first : first + _AT_ONCE]), now)
    await upsert(connection, tenant_id, Batch(deletes=[(move.kind, move.old)]), now)


def _identifiers(resource: Resource) -> Iterator[Identifier]:
    found = resource.document.get("identifier")
    for identifier in found if isinstance(found, list) else [found]:
        if isinstance(identifier, dict):
            system, code = _text(identifier.get("system")), _text(identifier.get("value"))
            if system and code:
                yield Identifier(resource.type, cap(system), cap(code))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
