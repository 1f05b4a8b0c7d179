"""The connections of a pool: opened when they are missing, replaced when they are old, closed when nobody needs them.

Who has them is the business of connections.py.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

import asyncpg
import structlog

from base.log import CAUSE, Cause, facts_of, without_cause
from storage.connecting.holders import who

log = structlog.get_logger()

STATEMENTS_KEPT = 200
_BACKOFF_S = (0.05, 0.5)
_CONNECT_S = 5.0
_CLOSE_S = 2.0
_LOOKS = 10  # how often a pool is looked after within the shortest of its times
_LOOK_S = (0.01, 5.0)
_random = random.Random()  # noqa: S311  # of its own: connections open beside tests that draw by the global one's seed
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)


class Connection:
    """A connection and the statements prepared on it."""

    __slots__ = ("backend", "cause", "ends_at", "holder", "hot", "leaving", "raw", "reported", "since", "stale", "statements")

    def __init__(self, raw: asyncpg.Connection, ends_at: float) -> None:
        self.raw = raw
        self.backend: int = raw.get_server_pid()
        self.statements: dict[str, Any] = {}
        self.hot = 0  # how many of the statements, the first ones, are kept whatever comes
        self.ends_at = ends_at
        self.leaving = False  # another takes its place
        self.stale = False  # it leads to where the URL led before: nobody may have it any more
        self.cause: Cause | None = None  # what it was lent for
        self.holder: asyncio.Task[Any] | None = None  # who has it; None also while it is on its way to a waiter
        self.since = perf_counter()  # when it was lent, or came back
        self.reported = 0.0  # the `since` of the loan that was reported as too long

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


@dataclass(frozen=True)
class PoolLimits:
    """`least` connections are kept open, the others come when somebody waits and go when they are idle; times in seconds."""

    size: int
    least: int
    acquire_s: float = 10.0
    lifetime_s: float = 1800.0
    idle_s: float = 300.0
    held_s: float = 60.0


class Stock:
    """At most `limits.size` connections, at least `limits.least`. `hot` statements are prepared when one opens.

    A `url` that is called is called for each connection anew; after `move` all are on what it gives now. One that is old goes
    when another is there, so that for a moment there may be one more than `size`.
    """

    def __init__(
        self, name: str, url: str | Callable[[], str], limits: PoolLimits, settings: Mapping[str, str], hot: Sequence[str]
    ) -> None:
        self.name = name
        self.limits = limits
        self.held_long = 0
        self._url = url if callable(url) else lambda: url
        self._settings = dict(settings)
        self._hot = hot
        self._free: deque[Connection] = deque()  # those that came back last are at the right
        self._staying: set[Connection] = set()
        self._leaving: set[Connection] = set()
        self._opening: asyncio.Task[None] | None = None
        self._partings: set[asyncio.Task[None]] = set()
        self._look: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def open(self) -> None:
        """`least` connections. Raises what the first failing one raised."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.limits.least):
                group.create_task(self._connect())
        self._look_after()

    def start(self) -> None:
        """As `open`, without waiting for connections: for a server that may be away, and comes when it comes."""
        self._open_missing()
        self._look_after()

    async def close(self) -> None:
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        present = [*self._staying, *self._leaving]
        await asyncio.gather(*map(_close, present), *self._partings)

    def move(self, *, at_once: bool = False) -> None:
        """The URL leads elsewhere now: connections are opened there, the present ones closed, lent ones when they come back.

        `at_once` breaks lent ones, too: nothing that is under way there may end as if it were well.
        """
        if self._opening is not None:
            self._opening.cancel()  # it may wait for a server that is gone
            self._opening = None
        for connection in list(self._staying):
            self._replace(connection)
        for connection in self._leaving:
            connection.stale = True
            if at_once:
                connection.raw.terminate()
        while self._free:
            self._part_with(self._free.popleft())
        self._open_missing()

    @property
    def size(self) -> int:
        return self.limits.size

    @property
    def away(self) -> bool:
        """Whether there is no connection at all."""
        return not self._staying and not self._leaving

    @property
    def lent(self) -> int:
        """How many connections somebody has."""
        return len(self._staying) + len(self._leaving) - len(self._free)

    def counts(self) -> dict[str, int]:
        """Connections by state. Only those below `least` are missing: the others come when they are needed."""
        free, present = len(self._free), len(self._staying) + len(self._leaving)
        return {"idle": free, "busy": present - free, "missing": max(self.limits.least - present, 0)}

    def backends(self) -> set[int]:
        """The server's process numbers of our connections."""
        return {connection.backend for connection in (*self._staying, *self._leaving)}

    def held(self) -> list[dict[str, Any]]:
        """Of each connection that somebody has: since when, who, where that waits, and what for."""
        now = perf_counter()
        return [self._loan(each, now) for each in (*self._staying, *self._leaving) if each.holder is not None]

    def _waited_for(self) -> bool:
        """Whether anybody waits for a connection."""
        raise NotImplementedError

    def _offer(self, connection: Connection) -> None:
        """To who has waited longest, or to nobody."""
        raise NotImplementedError

    def _is_short(self) -> bool:
        """Whether another is to be opened: below the least, or for somebody who waits."""
        present = len(self._staying)
        return present < self.limits.least or (present < self.limits.size and self._waited_for())

    def _open_missing(self) -> None:
        if not self._closed and (self._opening is None or self._opening.done()) and self._is_short():
            # A connection outlives who first waited for it: what it calls back later is not of that request.
            opening = self._open_while_short(CAUSE.get())
            self._opening = asyncio.get_running_loop().create_task(opening, context=without_cause())

    async def _open_while_short(self, cause: Cause | None) -> None:
        """One at a time, so that a database that comes back meets no storm of connections."""
        pause, longest = _BACKOFF_S
        while self._is_short():
            try:
                await self._connect()
                self._let_go()
                pause = _BACKOFF_S[0]
            except _FAILURES as error:
                if pause < longest:  # after that it is known
                    facts = {"pool": self.name, "error": type(error).__name__, **facts_of(cause)}
                    log.warning("database.connection_failed", **facts)
                await asyncio.sleep(pause * _random.uniform(0.5, 1.0))  # jitter
                pause = min(pause * 2, longest)

    async def _connect(self) -> None:
        async with asyncio.timeout(_CONNECT_S):
            raw = await asyncpg.connect(self._url(), server_settings=self._settings, timeout=_CONNECT_S)
            try:
                connection = await self._ready(raw)
            except BaseException:
                raw.terminate()
                raise
        raw.add_termination_listener(lambda _raw: self._terminated(connection))
        self._staying.add(connection)
        self._offer(connection)

    async def _ready(self, raw: asyncpg.Connection) -> Connection:
        lifetime_s = self.limits.lifetime_s * _random.uniform(0.8, 1.0)  # opened together, they do not end together
        connection = Connection(raw, perf_counter() + lifetime_s)
        for sql in self._hot:
            await connection.prepare(sql)
        connection.hot = len(connection.statements)
        # asyncpg's prepare ends with Flush, not Sync: without a statement after it, statement_timeout would go on running on
        # the idle connection and hit whoever comes next.
        await raw.execute("SELECT 1")
        return connection

    def _terminated(self, connection: Connection) -> None:
        """The server hung up on a connection that nobody uses: replace it before somebody does."""
        if connection in self._free:
            self._free.remove(connection)
            self._lose(connection)

    def _lose(self, connection: Connection) -> None:
        self._staying.discard(connection)
        self._leaving.discard(connection)
        self._open_missing()

    def _replace(self, connection: Connection) -> None:
        """It may be lent until another is there."""
        connection.leaving = True
        self._staying.discard(connection)
        self._leaving.add(connection)

    def _let_go_or_offer(self, connection: Connection) -> None:
        """One that is leaving and came back."""
        if connection.stale or connection.raw.is_closed() or len(self._staying) >= self.limits.least:
            self._part_with(connection)
        else:
            self._offer(connection)

    def _part_with(self, connection: Connection) -> None:
        self._lose(connection)
        parting = asyncio.get_running_loop().create_task(_close(connection))
        self._partings.add(parting)
        parting.add_done_callback(self._partings.discard)

    # What is looked after from time to time.

    def _look_after(self) -> None:
        limits, now, self._loop = self.limits, perf_counter(), asyncio.get_running_loop()
        shortest = min(limits.lifetime_s, limits.idle_s, limits.held_s)
        pause_s = min(max(shortest / _LOOKS, _LOOK_S[0]), _LOOK_S[1])
        self._look = self._loop.call_later(pause_s, self._look_after)
        old = next((connection for connection in self._staying if connection.ends_at <= now), None)
        if old is not None and not self._leaving:  # one after the other, though all be old
            self._replace(old)
        self._let_go()
        self._open_missing()
        for connection in (*self._staying, *self._leaving):
            if connection.holder is not None and now - connection.since > limits.held_s:
                self._report(connection, now)

    def _let_go(self) -> None:
        """Closes free ones that another has taken the place of, and those that nobody has needed for long."""
        long_ago = perf_counter() - self.limits.idle_s
        for connection in list(self._free):
            if len(self._staying) < self.limits.least:
                return
            spare = len(self._staying) > self.limits.least and connection.since < long_ago
            if connection.leaving or spare:
                self._free.remove(connection)
                self._part_with(connection)

    def _report(self, connection: Connection, now: float) -> None:
        """Once a loan. No values of a statement: they are patients' data."""
        if connection.reported != connection.since:
            connection.reported = connection.since
            self.held_long += 1
            log.warning("connection.held_long", pool=self.name, **self._loan(connection, now))

    def _loan(self, connection: Connection, now: float) -> dict[str, Any]:
        held_s = round(now - connection.since, 1)
        return {"held_s": held_s, "backend": connection.backend, **who(connection.holder), **facts_of(connection.cause)}


async def _close(connection: Connection) -> None:
    try:
        await connection.raw.close(timeout=_CLOSE_S)
    except _FAILURES:
        connection.raw.terminate()
