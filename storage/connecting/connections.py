"""Connections to PostgreSQL: a pool of plain ones, lent first come first served, and mended when they break.

asyncpg's own Pool hands out last in first out, which let direct requests starve (p99 of 85–365 ms against 12–13 in the
prototypes), and resets each connection on return. Ours run one role, one set of limits and only our statements: there is
nothing to reset. Which pools there are, and how large, is said in pools.py.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from base.errors import ServerBusy
from base.log import CAUSE
from metrics.accumulators import Distribution
from storage.connecting.stock import Connection, PoolLimits, Stock

__all__ = ["Connection", "Lender", "Loan", "PoolLimits"]

_PATIENCE_S = 1.0  # how long a request waits for a database that is away: long enough for a restart of a replica


class TurnedAway(ServerBusy):
    """The server went away while somebody waited for a connection to it."""


class Lender(Stock):
    """Lends a pool's connections, first come first served."""

    def __init__(
        self,
        name: str,
        url: str | Callable[[], str],
        limits: PoolLimits,
        settings: Mapping[str, str],
        *,
        wait: Distribution,
        hot: Sequence[str] = (),
    ) -> None:
        super().__init__(name, url, limits, settings, hot)
        self.busy_s = 0.0
        self.timeouts = 0
        self._wait = wait
        self._waiters: deque[asyncio.Future[Connection]] = deque()

    async def close(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ServerBusy("the server is shutting down"))
        await super().close()

    def lend(self, patience_s: float | None = None) -> "Loan":
        """`async with lender.lend() as connection`. Raises ServerBusy when none comes free in time, `acquire_s` at most."""
        return Loan(self, self.patience(patience_s))

    def patience(self, wanted_s: float | None) -> float:
        """Seconds that a loan is waited for."""
        longest_s = self.limits.acquire_s
        return longest_s if wanted_s is None or wanted_s > longest_s else wanted_s

    @property
    def waiting(self) -> int:
        """Who waits for a connection."""
        return sum(1 for waiter in self._waiters if not waiter.done())

    def turn_away(self) -> None:
        """The server is gone: who waits is told at once, for another server may serve him."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(TurnedAway("the database is away"))

    async def take(self, patience_s: float) -> Connection:
        connection = self._next_free()
        if connection is None:
            connection = await self._wait_for_one(patience_s)
        else:
            self._wait.observe(0.0)
        connection.since = perf_counter()
        connection.holder = asyncio.current_task(self._loop)  # with the loop it takes a third of the time
        connection.cause = CAUSE.get()
        return connection

    def give_back(self, connection: Connection) -> None:
        now = perf_counter()
        self.busy_s += now - connection.since
        connection.since = now
        connection.holder = connection.cause = None
        if connection.leaving:
            self._let_go_or_offer(connection)
        elif connection.raw.is_closed():
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
        if self.away:
            patience_s = min(patience_s, _PATIENCE_S)
        began = perf_counter()
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._open_missing()
        connection = None
        try:
            async with asyncio.timeout(patience_s):
                connection = await waiter
        except TimeoutError:
            self.timeouts += 1
            raise ServerBusy("the database is away" if self.away else "no connection to the database came free") from None
        finally:
            self._wait.observe(perf_counter() - began)  # who waited in vain waited, too
            if connection is None:
                self._withdraw(waiter)
        return connection

    def _withdraw(self, waiter: "asyncio.Future[Connection]") -> None:
        """A connection may have been handed over just as its waiter gave up: pass it on, or it would be lost."""
        if not waiter.cancel() and not waiter.cancelled() and waiter.exception() is None:
            connection = waiter.result()
            connection.since = perf_counter()
            self.give_back(connection)
        while self._waiters and self._waiters[0].done():
            self._waiters.popleft()

    def _offer(self, connection: Connection) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._free.append(connection)

    def _waited_for(self) -> bool:
        return any(not waiter.done() for waiter in self._waiters)


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
