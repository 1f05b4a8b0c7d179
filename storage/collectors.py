"""What the primary says of itself, for the metrics `sluice_database_*`: looked at on a timer, never at a scrape.

One connection of its own, by the login that every command has: locks, waits and sessions every ten seconds, sizes of tables
every minute. A database that does not answer is `sluice_database_up` 0, and nothing else is said of it: numbers of before would
look like those of now.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any

import asyncpg
import structlog

from metrics.accumulators import Labels
from metrics.catalog import OF_THE_DATABASE, Catalogue, WorkerMetrics
from storage.queries import load

log = structlog.get_logger()

Connect = Callable[..., Awaitable[asyncpg.Connection]]
Samples = dict[str, list[tuple[Labels, float]]]

_SQL = load("collectors.sql")
_SETTINGS = MappingProxyType(
    {
        "application_name": "sluice collector",
        "default_transaction_read_only": "on",
        "jit": "off",
        "lock_timeout": "500ms",  # the size of a table that is being altered can wait
        "max_parallel_workers_per_gather": "0",
        "search_path": "pg_catalog",
        "statement_timeout": "2s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
)
_CONNECT_S = 3.0
_ANSWER_S = 3.0  # beyond the server's own limit: of a server that is gone nothing comes
_SINCE_START = ("statements_total", "statement_seconds_total")


@dataclass(frozen=True)
class Pace:
    """Seconds. The first look comes when the start is over, which has better things to do."""

    begin_s: float = 0.5
    every_s: float = 10.0
    tables_every_s: float = 60.0


@dataclass
class Part:
    """What one statement finds, and when it did. Forgotten when three looks in a row have brought nothing."""

    every_s: float
    samples: Samples = field(default_factory=dict)
    at: float = -math.inf
    next_at: float = -math.inf

    @property
    def due(self) -> bool:
        return monotonic() >= self.next_at

    def hasten(self) -> None:
        self.next_at = -math.inf

    def take(self, rows: Iterable[asyncpg.Record]) -> None:
        found: Samples = {}
        for name, labels, value in rows:
            found.setdefault(name, []).append((tuple(labels), float(value)))
        self.samples, self.at = found, monotonic()
        self.next_at = self.at + self.every_s * 0.9  # a look that comes a little early counts

    def forget(self) -> None:
        self.samples, self.at, self.next_at = {}, -math.inf, -math.inf

    def of(self, name: str) -> list[tuple[Labels, float]]:
        return self.samples.get(name, []) if monotonic() < self.at + self.every_s * 3.5 else []


class Grown:
    """A sum that begins at 0 with this process, and only grows.

    pg_stat_statements forgets the rarest statements when it is full. A sum of what is left falls then, and would be taken for
    a counter that began anew: for all of it once more.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._last: float | None = None

    def take(self, seen: float) -> float:
        if self._last is not None:
            self.value += max(seen - self._last, 0.0)
        self._last = seen
        return self.value


class Collector:
    """`connect` leads to the primary. `poll_interval_s`: of the worker, which also tells how its facilities do."""

    def __init__(
        self, metrics: Catalogue, connect: Connect, *, poll_interval_s: float | None = None, pace: Pace | None = None
    ) -> None:
        self._connect = connect
        self._pace = pace = pace or Pace()
        self._poll_interval_s = poll_interval_s
        self._connection: asyncpg.Connection | None = None
        self._looked = False
        self._failing: set[str] = set()
        self._grown: dict[tuple[str, Labels], Grown] = {}
        self._parts = {
            "activity": Part(pace.every_s),
            "statements": Part(pace.every_s),
            "facilities": Part(pace.every_s),
            "tables": Part(pace.tables_every_s),
        }
        self._schema: str | None = None  # of pg_stat_statements
        for name, *_ in OF_THE_DATABASE:
            metrics.families[f"sluice_database_{name}"].read = partial(self._read, name)
        metrics.families["sluice_database_up"].read = self._read_up
        if isinstance(metrics, WorkerMetrics):
            metrics.facilities.read = partial(self._read, "facilities")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        looking = asyncio.create_task(self._go_on())
        try:
            await stop.wait()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self.close()

    async def _go_on(self) -> None:
        await asyncio.sleep(self._pace.begin_s)
        while True:
            began = monotonic()
            await self.look()
            await asyncio.sleep(max(self._pace.every_s - (monotonic() - began), 0.01))

    async def look(self) -> None:
        """Once. Whatever goes wrong is told in the metrics and the log."""
        try:
            connection = await self._connected()
            self._parts["activity"].take(await _ask(connection, _SQL["activity"]))
            self._tell("activity", "")
            for name, work in (("statements", self._statements), ("facilities", self._facilities), ("tables", self._tables)):
                if self._parts[name].due:
                    await self._look_at(name, partial(work, connection))
        except Exception as error:  # noqa: BLE001  # whatever it was, the database did not answer as it should
            self.close()
            for part in self._parts.values():
                part.forget()
            self._tell("activity", type(error).__name__)
        finally:
            self._looked = True

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect(timeout=_CONNECT_S, server_settings=dict(_SETTINGS))
        return self._connection

    def hasten(self) -> None:
        """The next look is at everything."""
        for part in self._parts.values():
            part.hasten()

    def close(self) -> None:
        """Lets go of the connection; the next look makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _look_at(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """What one statement is refused, or takes too long for, is no matter of the others."""
        try:
            await work()
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if self._connection is None or self._connection.is_closed():
                raise
            self._tell(name, type(error).__name__)
        else:
            self._tell(name, "")

    async def _statements(self, connection: asyncpg.Connection) -> None:
        part = self._parts["statements"]
        if self._schema is None or self._parts["tables"].due:  # it may have come, or gone
            self._schema = await connection.fetchval(_SQL["statements_schema"], timeout=_ANSWER_S)
        if self._schema is None:
            part.forget()
            return
        part.take(await _ask(connection, _SQL["statements"].format(schema=self._schema)))
        for name in _SINCE_START:
            part.samples[name] = [
                (labels, self._grown.setdefault((name, labels), Grown()).take(value)) for labels, value in part.samples[name]
            ]

    async def _facilities(self, connection: asyncpg.Connection) -> None:
        if self._poll_interval_s is not None:
            self._parts["facilities"].take(await _ask(connection, _SQL["facilities"], self._poll_interval_s))

    async def _tables(self, connection: asyncpg.Connection) -> None:
        self._parts["tables"].take(await _ask(connection, _SQL["tables"]))

    def _tell(self, what: str, error: str) -> None:
        """Once when it begins to fail, and once when it is well again."""
        if error and what not in self._failing:
            self._failing.add(what)
            log.warning("database.not_looked_at", what=what, error=error)
        elif not error and what in self._failing:
            self._failing.remove(what)
            log.info("database.looked_at", what=what)

    def _read_up(self) -> list[tuple[Labels, float]]:
        """Nothing before the first look; 0 also when looks have ceased to end."""
        return [((), 1.0 if self._parts["activity"].of("sessions") else 0.0)] if self._looked else []

    def _read(self, name: str) -> list[tuple[Labels, float]]:
        return [sample for part in self._parts.values() for sample in part.of(name)]


async def _ask(connection: asyncpg.Connection, sql: str, *values: Any) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await connection.fetch(sql, *values, timeout=_ANSWER_S)
    return rows
