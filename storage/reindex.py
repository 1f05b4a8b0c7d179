"""Indexes anew what is stored: after an upgrade that makes other rows of it, since an import touches nothing unchanged.

Batch by batch, each in a transaction of its own: it may be ended at any time and run again, beside readers and writers.
"""

from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter

import asyncpg
import structlog

from r4.indexing import FINGERPRINT, rank
from r4.resource import restored
from storage.index_rows import remove_rows, write_rows
from storage.queries import load
from storage.resources import Key, refresh_statistics

log = structlog.get_logger()

_SQL = load("reindex.sql")
_BATCH_RESOURCES = 1000
_BATCH_BYTES = 8 * 1024 * 1024
_BEFORE_ALL: Key = ("", "")

Progress = Callable[[int, int], None]
"""Called with how many resources are done, and how many there were at the beginning."""


async def is_outdated(connection: asyncpg.Connection) -> bool:
    """Whether searches may miss something that is stored until it is indexed anew."""
    return bool(await connection.fetchval(_SQL["index_outdated"], FINGERPRINT))


async def warn_if_outdated(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        if await is_outdated(connection):
            log.warning("index.outdated", remedy="sluice reindex")
    finally:
        await connection.close()


async def reindex(connection: asyncpg.Connection, tenant_id: int | None, progress: Progress) -> int:
    """Of one tenant, or of all; how many resources there were. With all of them done the index is no longer outdated."""
    await connection.execute("SET plan_cache_mode = force_custom_plan; SET jit = off")
    tenants = await connection.fetch(_SQL["tenants_count"], tenant_id)
    done, total = 0, sum(row["resources"] for row in tenants)
    progress(done, total)
    for tenant in tenants:
        after = _BEFORE_ALL
        while keys := await _next_keys(connection, tenant["tenant_id"], after):
            await _index_anew(connection, tenant["tenant_id"], keys)
            done, after = done + len(keys), keys[-1]
            progress(done, max(done, total))
    if tenant_id is None:
        await connection.execute(_SQL["index_settle"], FINGERPRINT)
    await refresh_statistics(connection)
    return done


async def _next_keys(connection: asyncpg.Connection, tenant_id: int, after: Key) -> list[Key]:
    """As many as fit into memory together, and one at least."""
    kind, resource_id = after
    keys: list[Key] = []
    bytes_total = 0
    for row in await connection.fetch(_SQL["batch_keys"], tenant_id, resource_id, kind, _BATCH_RESOURCES):
        bytes_total += row["bytes"]
        if keys and bytes_total > _BATCH_BYTES:
            break
        keys.append((row["type"], row["id"]))
    return keys


async def _index_anew(connection: asyncpg.Connection, tenant_id: int, keys: list[Key]) -> None:
    """Whom it would have to wait for long it lets go first: nobody is to wait for the locks that it has already."""
    while True:
        try:
            async with connection.transaction():
                await connection.execute(_SQL["batch_patience"])
                await _index_locked(connection, tenant_id, keys)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            continue
        else:
            return


async def _index_locked(connection: asyncpg.Connection, tenant_id: int, keys: list[Key]) -> None:
    """What another has just written is seen: who waited for a lock gets the newest version, and later statements its rows."""
    columns = [list(column) for column in zip(*keys, strict=True)]
    rows = await connection.fetch(_SQL["batch_lock"], tenant_id, *columns)
    resources = [restored(row["type"], row["id"], row["body"]) for row in rows if not row["deleted"]]
    ranks: dict[Key, int] = {(row["type"], row["id"]): row["rank"] for row in rows}
    moved = {(r.type, r.id): rank(r) for r in resources if rank(r) != ranks[r.type, r.id]}
    for kind, ids in _by_type(moved):
        await connection.execute(_SQL["ranks_update"], tenant_id, kind, ids, [moved[kind, each] for each in ids])
    for kind, ids in _by_type(ranks):
        await remove_rows(connection, tenant_id, kind, ids)
    await write_rows(connection, tenant_id, resources)


def _by_type(keys: Iterable[Key]) -> list[tuple[str, list[str]]]:
    return [(kind, [each for _, each in group]) for kind, group in groupby(keys, key=itemgetter(0))]
