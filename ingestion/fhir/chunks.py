"""What an import writes together: units gathered into chunks, each chunk one transaction, taken apart where one is refused."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from ingestion.fhir.files import BadLine
from ingestion.fhir.merging import upsert_imported
from r4.resource import Resource
from storage.claims import announce
from storage.failures import is_data
from storage.resources import Batch, Counts, Identifier, Key, find_identifiers

CHUNK_RESOURCES = 2000
CHUNK_BYTES = 8 * 1024 * 1024
_TRIES = 5
_TOO_LARGE_FOR_IT = "54"  # SQLSTATE class 54, program limit exceeded: as much the data's fault as class 22


@dataclass(frozen=True, slots=True)
class Unit:
    """What goes in together or not at all: one resource, or all of a transaction; and the line that it came from."""

    file: Path
    line: int
    place: str  # in the line's Bundle, else empty
    resources: Sequence[Resource] = ()
    deletes: Sequence[Key] = ()

    def keys(self) -> list[Key]:
        return [*((resource.type, resource.id) for resource in self.resources), *self.deletes]


@dataclass(slots=True)
class _Chunk:
    """Units that wait to be written; no resource stands in it twice."""

    units: list[Unit] = field(default_factory=list)
    keys: set[Key] = field(default_factory=set)
    size_bytes: int = 0

    def is_full(self) -> bool:
        return len(self.keys) >= CHUNK_RESOURCES or self.size_bytes >= CHUNK_BYTES


class Writer:
    """Writes units in the order in which they are added; in a transaction of the caller's, each chunk is a savepoint.

    `refused` is told of each unit that the database does not take, and `written` is called after every chunk.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        tenant_id: int,
        refused: Callable[[BadLine], None],
        written: Callable[[], None],
    ) -> None:
        self.counts = Counts()
        self._connection = connection
        self._tenant_id = tenant_id
        self._refused = refused
        self._written = written
        self._chunk = _Chunk()

    async def add(self, unit: Unit) -> None:
        keys = unit.keys()
        if not self._chunk.keys.isdisjoint(keys):
            await self.flush()
        self._chunk.units.append(unit)
        self._chunk.keys.update(keys)
        self._chunk.size_bytes += sum(len(resource.tail) for resource in unit.resources)
        if self._chunk.is_full():
            await self.flush()

    def keep(self, key: Key) -> None:
        """Counts what is stored already, and is wanted only if it were not."""
        self.counts.by_type[key[0], "unchanged"] += 1

    async def flush(self) -> None:
        chunk, self._chunk = self._chunk, _Chunk()
        if chunk.units:
            await self._write(chunk.units)
            self._written()

    async def find(self, identifiers: Iterable[Identifier]) -> dict[Identifier, list[str]]:
        """Among all that was added too."""
        await self.flush()
        return await find_identifiers(self._connection, self._tenant_id, identifiers)

    async def _write(self, units: list[Unit]) -> None:
        try:
            self.counts += await self._write_together(units)
        except (asyncpg.PostgresError, asyncpg.DataError, UnicodeEncodeError) as error:
            if not _is_units_fault(error):
                raise
            await self._write_apart(units, error)

    async def _write_apart(self, units: list[Unit], error: Exception) -> None:
        """By halves, until what is refused stands alone."""
        if len(units) == 1:
            reason = f"the database does not take it (SQLSTATE {getattr(error, 'sqlstate', None) or '22000'})"
            self._refused(BadLine(units[0].file, units[0].line, units[0].place + reason))
            return
        middle = len(units) // 2
        await self._write(units[:middle])
        await self._write(units[middle:])

    async def _write_together(self, units: list[Unit]) -> Counts:
        batch = Batch([r for unit in units for r in unit.resources], [key for unit in units for key in unit.deletes])
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._connection.transaction():
                    counts = await upsert_imported(self._connection, self._tenant_id, batch, datetime.now(UTC))
                    if counts.changed_types:
                        await announce(self._connection, self._tenant_id, counts.changed_types)
                    return counts
            except asyncpg.DeadlockDetectedError:  # with a writer that has several batches in one transaction
                if not tries_left:
                    raise
        raise AssertionError("every try returns or raises")


def _is_units_fault(error: Exception) -> bool:
    return is_data(error) or (getattr(error, "sqlstate", None) or "").startswith(_TOO_LARGE_FOR_IT)
