"""What is kept of claims: files, what is known of each claim, and what its files said. All within the caller's transaction.

Locks are taken in one order by everybody: the file, then claims, then identities, then resources, each in the order of its key.
So no two files wait for each other.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from storage.copying import copy
from storage.queries import load
from storage.resources import Identifier

_SQL = load("claims.sql")

ClaimKey: TypeAlias = tuple[str, str]
"""provider_id, claim_id"""

Row: TypeAlias = tuple[Any, ...]


class Known(NamedTuple):
    """An event that is stored, with the standing that was stored beside it."""

    place: tuple[int, str, int]
    """facility_no, file_id, n"""
    standing: tuple[Any, ...]
    """kind, status, held, taken_back, denied, pending"""
    document: bytes


class Named(NamedTuple):
    """Which resource stands for an identifier; `made` by ingestion, else imported."""

    identifier: Identifier
    resource_id: str
    made: bool


async def begin(connection: asyncpg.Connection, tenant_id: int) -> None:
    """The settings of a transaction that loads, and its part of the lock that keeps merging out."""
    await connection.execute(_SQL["settings"])
    await connection.execute(_SQL["loading"], tenant_id)


async def add_file(connection: asyncpg.Connection, values: Row) -> bool:
    """False when it is there already, or when another with the same document is loaded. `values` as file_add says."""
    return bool(await connection.fetchval(_SQL["file_add"], *values))


async def known_state(connection: asyncpg.Connection, tenant_id: int, facility_no: int, file_id: str) -> str | None:
    """The state of a file that is there."""
    found: str | None = await connection.fetchval(_SQL["file_known"], tenant_id, facility_no, file_id)
    return found


async def count_file(connection: asyncpg.Connection, *values: Any) -> None:
    await connection.execute(_SQL["file_counted"], *values)


async def take_claims(connection: asyncpg.Connection, tenant_id: int, keys: Sequence[ClaimKey]) -> dict[ClaimKey, list[Known]]:
    """Locks the claims until the transaction's end, those that are new included, and gives what is known of each."""
    columns = [key[0] for key in keys], [key[1] for key in keys]
    new = await connection.fetch(_SQL["claims_add"], tenant_id, *columns)
    history: dict[ClaimKey, list[Known]] = {key: [] for key in keys}
    if len(new) < len(keys):
        await connection.execute(_SQL["claims_lock"], tenant_id, *columns)
        # A statement of its own: only a new snapshot shows what those had written whom the lock has waited for.
        for n, *place, kind, status, held, taken_back, denied, pending, document in await connection.fetch(
            _SQL["claims_history"], tenant_id, *columns
        ):
            standing = (kind, status, held, taken_back, denied, pending)
            history[keys[n - 1]].append(Known((place[0], place[1], place[2]), standing, document))
    return history


async def write_claims(connection: asyncpg.Connection, tenant_id: int, claims: bytes, activities: bytes) -> None:
    """`claims` and `activities`: whole rows of their tables, encoded for COPY."""
    if await connection.fetchval(_SQL["stage_used"]):
        await connection.execute(_SQL["stage_empty"])
    await copy(connection, "claim_stage", claims)
    await connection.execute(_SQL["claims_write"], tenant_id)
    if activities:
        await copy(connection, "activity_stage", activities)
        await connection.execute(_SQL["activities_write"], tenant_id)


async def write_said(connection: asyncpg.Connection, table: str, rows: bytes) -> None:
    """Encoded rows of a table in which nothing changes: event, diagnosis, observation, remittance, remittance_activity."""
    await copy(connection, table, rows, "claims")


async def rewrite_events(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """`rows` as event_write says."""
    await connection.executemany(_SQL["event_write"], rows)


async def keep_activities(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """`rows` as activities_keep says."""
    await connection.executemany(_SQL["activities_keep"], rows)


async def write_errors(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """`rows`: tenant_id, facility_no, file_id, claim_id, severity, reason, times."""
    if rows:
        await connection.copy_records_to_table(
            "ingest_error",
            schema_name="ops",
            columns=("tenant_id", "facility_no", "file_id", "claim_id", "severity", "reason", "times"),
            records=rows,
        )


async def find_names(connection: asyncpg.Connection, tenant_id: int, wanted: Iterable[Identifier]) -> list[Named]:
    rows = await connection.fetch(_SQL["identities_find"], tenant_id, *_columns(list(wanted)))
    return [_named(row) for row in rows]


async def add_names(connection: asyncpg.Connection, tenant_id: int, names: Sequence[Named]) -> bool:
    """False when another transaction has named one of them meanwhile: then look again, for this one waited for its end."""
    identifiers = _columns([name.identifier for name in names])
    ids, made = [name.resource_id for name in names], [name.made for name in names]
    return len(await connection.fetch(_SQL["identities_add"], tenant_id, *identifiers, ids, made)) == len(names)


async def names_of(connection: asyncpg.Connection, tenant_id: int, kind: str, resource_ids: Sequence[str]) -> list[Named]:
    """All that name these resources, which nobody else adds to until the transaction's end."""
    await connection.execute(_SQL["identities_lock"], tenant_id, kind, resource_ids)
    rows = await connection.fetch(_SQL["identities_of"], tenant_id, kind, resource_ids)
    return [_named(row) for row in rows]


async def holders(
    connection: asyncpg.Connection, tenant_id: int, kind: str, system: str, resource_ids: Iterable[str]
) -> set[str]:
    """Which of the resources have an identifier of a system."""
    rows = await connection.fetch(_SQL["identities_held"], tenant_id, kind, system, list(resource_ids))
    return {row[0] for row in rows}


async def has_names(connection: asyncpg.Connection, tenant_id: int) -> bool:
    return bool(await connection.fetchval(_SQL["identities_any"], tenant_id))


async def move_names(connection: asyncpg.Connection, tenant_id: int, kind: str, old: str, new: str) -> None:
    await connection.execute(_SQL["identities_move"], tenant_id, kind, old, new)


async def lock_merging(connection: asyncpg.Connection, tenant_id: int) -> None:
    """Waits for all who load into the tenant, and keeps them waiting."""
    await connection.execute(_SQL["merging"], tenant_id)


async def referrers(
    connection: asyncpg.Connection, tenant_id: int, kind: str, resource_id: str
) -> list[tuple[str, str, bytes]]:
    """(type, id, body) of what refers to a resource."""
    return [tuple(row) for row in await connection.fetch(_SQL["referrers"], tenant_id, kind, resource_id)]


async def announce(connection: asyncpg.Connection, tenant_id: int, types: Sequence[str]) -> None:
    """NOTIFY, which goes out with the commit."""
    await connection.execute(_SQL["changed"], tenant_id, types)


async def refresh_statistics(connection: asyncpg.Connection) -> None:
    """Not within a transaction of other work: it takes a second of a large database."""
    await connection.execute(_SQL["statistics_refresh"])


async def identity_secret(connection: asyncpg.Connection) -> bytes:
    return bytes(await connection.fetchval(_SQL["identity_secret"]))


def _columns(identifiers: Sequence[Identifier]) -> tuple[list[str], list[str], list[str]]:
    return [i.type for i in identifiers], [i.system or "" for i in identifiers], [i.code for i in identifiers]


def _named(row: asyncpg.Record) -> Named:
    return Named(Identifier(row["type"], row["system"], row["code"]), row["resource_id"], row["made"])
