"""The rows that resources are found by, in the tables of their kinds."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias

import asyncpg

from r4.indexing import index, rank
from r4.parameters import ParamType, parameters_of
from r4.resource import Resource
from storage.queries import load

_SQL = load("resources.sql")
_INFINITE = (datetime.min, datetime.max)  # noqa: DTZ901  # without a zone asyncpg takes them for the infinities
TABLES = {
    "token": ("param", "code", "system"),
    "string": ("param", "value", "exact"),
    "date": ("param", "lower", "upper"),
    "reference": ("path", "to_type", "to_id"),
    "quantity": ("param", "value", "system", "code", "unit"),
}


OffLoop: TypeAlias = Callable[..., Awaitable[Any]]
"""Runs a function that takes CPU alone, and gives what it gives."""

_COPIED = 2000
"""Rows that are encoded at a time: some milliseconds of the event loop's."""


async def at_once(work: Callable[..., Any], *args: Any) -> Any:
    """Where there is no event loop to keep free."""
    return work(*args)


async def write_rows(
    connection: asyncpg.Connection, tenant_id: int, resources: Iterable[Resource], off_loop: OffLoop = at_once
) -> None:
    records = await off_loop(_records, tenant_id, resources)
    for table, columns in TABLES.items():
        rows = records[table]
        for first in range(0, len(rows), _COPIED):
            await connection.copy_records_to_table(
                table,
                schema_name="fhir",
                columns=("tenant_id", "type", "id", "rank", *columns),
                records=rows[first : first + _COPIED],
            )


def _records(tenant_id: int, resources: Iterable[Resource]) -> dict[str, list[tuple[Any, ...]]]:
    records: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    for resource in resources:
        head = (tenant_id, resource.type, resource.id, rank(resource))
        rows = index(resource)
        records["token"] += [head + row for row in rows.tokens]
        records["string"] += [head + row for row in rows.strings]
        records["reference"] += [head + row for row in rows.references]
        records["quantity"] += [head + row for row in rows.quantities]
        records["date"] += [(*head, param, lower or _INFINITE[0], upper or _INFINITE[1]) for param, lower, upper in rows.dates]
    return records


async def remove_rows(
    connection: asyncpg.Connection, tenant_id: int, kind: str, ids: Sequence[str], tables: Iterable[str] = TABLES
) -> None:
    for table in tables:
        await connection.execute(_SQL[f"{table}_remove"], tenant_id, kind, ids)


@lru_cache(maxsize=256)
def tables_of(type_name: str) -> tuple[str, ...]:
    """Those that may have rows of a type: only few types have quantities."""
    measured = any(row.type is ParamType.QUANTITY for row in parameters_of(type_name).values())
    return tuple(table for table in TABLES if table != "quantity" or measured)
