"""Connections to PostgreSQL: a pool of plain ones, lent first come first served, and mended when they break.

asyncpg's own Pool hands out last in first out, which let direct requests starve (p99 of 85–365 ms against 12–13 in the
prototypes), and resets each connection on return. Ours run one role, one set of limits and only our statements: there is
nothing to reset.
"""

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

import asyncpg
import structlog

from base.errors import ServerBusy
from metrics.accumulators import Distribution

log = structlog.get_logger()

STATEMENTS_KEPT = 200
_PATIENCE_S = 1.0  # how long a request waits for a database that is away: long enough for a restart of a replica
_BACKOFF_S = (0.05, 0.5)

# Every statement of the API is an index walk with a LIMIT. These settings keep it one on any table, however skewed, and
# also on one that was empty when the statement was planned; a generic plan saves planning anew.
API_SETTINGS = {
    "role": "sluice_api",
    "application_name": "sluice api",
    "default_transaction_read_only": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_hashagg": "off",
    "enable_sort": "off",
    "enable_memoize": "off",
    "jit": "off",
    "search_path": "pg_catalog",
}

# Ingestion's: its transactions plan for themselves, and none holds its locks for long.
INGEST_SETTINGS = {
    "role": "sluice_ingest",
    "application_name": "sluice ingest",
    "statement_timeout": "60s",
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",
}

# Reports': what they read is one tenant's, named by `sluice.tenant_id` for each transaction.
REPORT_SETTINGS = {
    "role": "sluice_report",
    "application_name": "sluice report",
    "default_transaction_read_only": "on",
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",
    "search_path": "pg_catalog",
}


class Connection:
    """A connection and the statements prepared on it."""

    __slots__ = ("backend", "hot", "lent_at", "raw", "statements")

    def __init__(self, raw: asyncpg.Connection) -> None:
        self.raw = raw
        self.backend: int = raw.get_server_pid()
        self.statements: dict[str, Any] = {}
        self.hot = 0  # how many of the statements, the first ones, are kept whatever comes
        self.lent_at = 0.0

    async def fetch(self, sql: str, *values: Any, timeout: float | None = None) -> list[asyncpg.Record]:  # noqa: ASYNC109  # asyncpg's own
        """Runs a statement, prepared at its first use; `timeout` in seconds guards against a network that is silent."""
        statement = self.statements.get(sql)
        if statement is None:
            statement = await self.prepare(sql)
        try:
            return await statement.fetch(*values, timeout=timeout)  # type: ignore[no-any-return]
        except asyncpg.InternalClientError:
            # The server hung up while the connection was idle, and asyncpg lost its place: nobody may use it again.
            self.raw.terminate()
            raise

    async def prepare(self, sql: str) -> Any:
        if len(self.statements) >= STATEMENTS_KEPT + self.hot:
            del self.statements[next(islice(self.statements, self.hot, None))]
        statement = self.statements[sql] = await self.raw.prepare(sql)
        return statement


class Lender:
    """`size` connections under one name. `hot` statements are prepared when a connection opens."""

    def __init__(
        self,
        name: str,
        url: str,
        size: int,
        settings: Mapping[str, str],
        *,
        wait: Distribution,
        hot: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.size = size
        self.busy_s = 0.0
        self._url = url
        self._settings = dict(settings)
        self._wait = wait
        self._hot = hot
        self._free: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection]] = deque()
        self._mending: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Raises what the first failing connection raised."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.size):
                group.create_task(self._connect())

    async def close(self) -> None:
        self._closing = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ServerBusy("the server is shutting down"))
        await asyncio.gather(*(connection.raw.close(timeout=2) for connection in list(self._all)), return_exceptions=True)

    def counts(self) -> dict[str, int]:
        """Connections by state."""
        free = len(self._free)
        return {"idle": free, "busy": len(self._all) - free, "missing": self.size - len(self._all)}

    def backends(self) -> set[int]:
        """The server's process numbers of our connections."""
        return {connection.backend for connection in self._all}

    def lend(self, patience_s: float = 10.0) -> "Loan":
        """`async with lender.lend() as connection`. Raises ServerBusy when none comes free in time."""
        return Loan(self, patience_s)

    async def take(self, patience_s: float) -> Connection:
        connection = self._next_free()
        if connection is not None:
            connection.lent_at = perf_counter()
            self._wait.observe(0.0)
            return connection
        began = perf_counter()
        try:
            connection = await self._wait_for_one(patience_s)
            connection.lent_at = perf_counter()
            return connection
        finally:
            self._wait.observe(perf_counter() - began)  # who waited in vain waited, too

    def give_back(self, connection: Connection) -> None:
        self.busy_s += perf_counter() - connection.lent_at
        if connection.raw.is_closed():
            self._lose(connection)
        else:
            self._offer(connection)

    def _next_free(self) -> Connection | None:
        # Of the free ones the last to come back: its backend's caches are warm. Who waits is served in the order of coming.
        while self._free:
            connection = self._free.pop()
            if not connection.raw.is_closed():
                return connection
            self._lose(connection)
        return None

    async def _wait_for_one(self, patience_s: float) -> Connection:
        if not self._all:
            patience_s = min(patience_s, _PATIENCE_S)
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        connection = None
        try:
            async with asyncio.timeout(patience_s):
                connection = await waiter
        except TimeoutError:
            raise ServerBusy("no connection to the database came free" if self._all else "the database is away") from None
        finally:
            if connection is None:
                self._withdraw(waiter)
        return connection

    def _withdraw(self, waiter: "asyncio.Future[Connection]") -> None:
        """A connection may have been handed over just as its waiter gave up: pass it on, or it would be lost."""
        if not waiter.cancel() and not waiter.cancelled() and waiter.exception() is None:
            self._offer(waiter.result())

    def _offer(self, connection: Connection) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._free.append(connection)

    def _lose(self, connection: Connection) -> None:
        self._all.discard(connection)
        if not self._closing and (self._mending is None or self._mending.done()):
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    async def _mend(self) -> None:
        """One attempt at a time, so that a database that comes back meets no storm of connections."""
        pause, longest = _BACKOFF_S
        while len(self._all) < self.size:
            try:
                await self._connect()
                pause = _BACKOFF_S[0]
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("database.connection_failed", pool=self.name, error=type(error).__name__)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                pause = min(pause * 2, longest)

    async def _connect(self) -> None:
        raw = await asyncpg.connect(self._url, server_settings=self._settings, timeout=5)
        connection = Connection(raw)
        raw.add_termination_listener(lambda _raw: self._terminated(connection))
        for sql in self._hot:
            await connection.prepare(sql)
        connection.hot = len(connection.statements)
        # asyncpg's prepare ends with Flush, not Sync: without a statement after it, statement_timeout would go on running on
        # the idle connection and hit whoever comes next.
        await raw.execute("SELECT 1")
        self._all.add(connection)
        self._offer(connection)

    def _terminated(self, connection: Connection) -> None:
        """The server hung up on a connection that nobody uses: replace it before somebody does."""
        if connection in self._free:
            self._free.remove(connection)
            self._lose(connection)


class Loan:
    """A connection for the length of an `async with`."""

    __slots__ = ("_connection", "_lender", "_patience_s")

    def __init__(self, lender: Lender, patience_s: float) -> None:
        self._lender = lender
        self._patience_s = patience_s

    async def __aenter__(self) -> Connection:
        self._connection = await self._lender.take(self._patience_s)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        self._lender.give_back(self._connection)
