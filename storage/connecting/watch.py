"""Which server is the primary, and which replicas are not far behind: found out by looking, for roles move.

A small connection to each server is asked four times a second. The primary is the server that takes writes on the highest
timeline that any of them has been seen on: a promotion begins a new one, so an old primary that comes back beside the one that
took its place is known for what it is, and nothing is written to it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from time import monotonic
from typing import Any

import asyncpg
import structlog

from base.errors import ServerBusy
from metrics.catalog import Catalogue
from storage.connecting.addresses import Address, addresses_of, at
from storage.queries import load

log = structlog.get_logger()

_SQL = load("watch.sql")
INTERVAL_S = 0.25
TIMEOUT_S = 2.0
_SAMPLES = 4096  # of where the primary was: a lag is known up to 17 minutes
_PAGE_BYTES, _HEADER_BYTES = 8192, 40
STATES = ("primary", "replica", "lagging", "stale", "away")


class Primary:
    """Where writes go: the one server that there is. A Watch is one that finds it among several."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.moved: list[Callable[[], None]] = []
        """Called when it has become another server."""

    def url(self, login: str = "") -> str:
        """By the login of another URL, if one is given. Raises ConnectionError while there is none."""
        return login or self._url

    async def connect(self, login: str = "", **how: Any) -> asyncpg.Connection:
        """A connection to it, as asyncpg.connect makes it; broken when the primary becomes another server.

        Raises what asyncpg.connect does, and ConnectionError while there is no primary.
        """
        return await asyncpg.connect(self.url(login), **how)


class Server:
    """One PostgreSQL as it was last seen. `lsn`: written, of a primary; replayed, of a replica."""

    __slots__ = ("answered", "looked", "lsn", "name", "recovering", "started_at", "state", "system", "timeline", "url", "wake")

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self.url = address.url
        self.answered = False
        self.recovering = True
        self.lsn = 0
        self.timeline = 0
        self.system = 0
        self.started_at: datetime | None = None
        self.state = "away"
        self.looked = False  # or tried to
        self.wake = asyncio.Event()

    def take(self, row: asyncpg.Record) -> None:
        self.answered = self.looked = True
        self.recovering = row["recovering"]
        self.lsn = end_of_record(row["lsn"] or 0)
        self.timeline, self.system, self.started_at = row["timeline"], row["system"], row["started_at"]


def end_of_record(lsn: int) -> int:
    """Where the last record ended, of where the next one begins: after the header of its page.

    A replica's LSN is the former, a primary's the latter. No record begins and ends within the first 40 bytes of a page, so
    nothing that is at or below the one LSN is missing at the other.
    """
    return lsn - offset if (offset := lsn % _PAGE_BYTES) <= _HEADER_BYTES else lsn


class Watch(Primary):
    """`changed` is called after each look; `primary` is the last that was there, `here` whether it is now."""

    def __init__(self, addresses: Sequence[Address], *, lag_max_s: float = 5.0, metrics: Catalogue | None = None) -> None:
        super().__init__("")
        self.servers = [Server(address) for address in addresses]
        self.primary: Server | None = None
        self.changed: Callable[[], None] = lambda: None
        self._lag_max_s = lag_max_s
        self.looked = asyncio.Event()
        """Every server has been looked at, or did not answer."""
        self._timeline = 0  # the highest that was seen
        self._here = asyncio.Event()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._guests: dict[asyncpg.Connection, Server] = {}
        self._promotions = None
        if metrics is not None:
            self._promotions = metrics.database_promotions.child()
            metrics.database_servers.read = self._state_gauges
            metrics.database_replica_lag.read = self._lag_gauges

    @property
    def here(self) -> bool:
        return self._here.is_set()

    def url(self, login: str = "") -> str:
        """`login` leads to the primary too, if it is a URL of one of the servers; else it is taken as it stands."""
        if self.primary is None or not self.here:
            raise ConnectionError("there is no primary at the moment")
        return self.at(self.primary, login)

    def at(self, server: Server, login: str) -> str:
        """The URL of one of the servers, by that login."""
        if not login:
            return server.url
        names = {address.name for address in addresses_of([login])}
        return at(login, server.name) if names <= {each.name for each in self.servers} else login

    async def present(self, patience_s: float) -> bool:
        """Whether there is a primary, or comes to be one in time."""
        if not self.here:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._here.wait()
        return self.here

    async def connect(self, login: str = "", **how: Any) -> asyncpg.Connection:
        url, server = self.url(login), self.primary
        connection: asyncpg.Connection = await asyncpg.connect(url, **how)
        if server is None or server is not self.primary:
            connection.terminate()
            raise ConnectionError("the primary has become another server")
        self._guests[connection] = server
        connection.add_termination_listener(self._left)
        return connection

    def _left(self, connection: Any) -> None:
        self._guests.pop(connection, None)

    def suspect(self, server: Server) -> None:
        """Somebody's connection to it broke: nobody is sent there until it has answered again."""
        if server.answered:
            server.answered = False
            server.wake.set()
            self._decide()

    def lag_s(self, server: Server) -> float:
        """How long ago the primary was seen beyond what the replica has replayed; 0 when it has replayed all."""
        since = None
        for seen_at, lsn in reversed(self._samples):
            if lsn <= server.lsn:
                break
            since = seen_at
        return 0.0 if since is None else monotonic() - since

    async def follow(self, server: Server) -> None:
        """Looks at one server for as long as anybody cares."""
        while True:
            try:
                await self._look(server)
            except Exception as error:  # noqa: BLE001  # whatever it was, the server is not to be counted on
                log.debug("database.not_looked_at", server=server.name, error=type(error).__name__)
            server.answered, server.looked = False, True
            try:
                self._decide()
            except Exception as error:  # who was told of it failed, and the looking must go on
                log.error("database.watch_failed", exc_info=error)
            await asyncio.sleep(INTERVAL_S)

    async def _look(self, server: Server) -> None:
        """Until the connection breaks."""
        settings = {"application_name": "sluice watch"}
        connection = await asyncpg.connect(server.url, timeout=TIMEOUT_S, server_settings=settings)
        try:
            connection.add_termination_listener(lambda _connection: server.wake.set())
            while True:
                server.wake.clear()
                (row,) = await connection.fetch(_SQL["look"], timeout=TIMEOUT_S)
                server.take(row)
                self._decide()
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S):
                        await server.wake.wait()
        finally:
            connection.terminate()

    def _decide(self) -> None:
        if not all(server.looked for server in self.servers):
            return  # the first to answer may be a former primary
        before = self.primary
        self._timeline = max(self._timeline, *(server.timeline for server in self.servers if self._ours(server)))
        able = [server for server in self.servers if self._takes_writes(server)]
        if able and before not in able:
            self._become(able[0])
        if self.primary in able:
            self._here.set()
        else:
            self._here.clear()
        self._sample()
        for server in self.servers:
            self._tell(server, self._state_of(server, able))
        self.looked.set()
        self.changed()

    def _takes_writes(self, server: Server) -> bool:
        return server.answered and not server.recovering and server.timeline >= self._timeline and self._ours(server)

    def _ours(self, server: Server) -> bool:
        """Not of another cluster, which somebody's slip may have named."""
        return self.primary is None or server.system == self.primary.system

    def _become(self, server: Server) -> None:
        before, self.primary = self.primary, server
        self._samples.clear()
        if before is None:
            log.info("database.primary_found", server=server.name, timeline=server.timeline)
            return
        log.warning("database.promoted", server=server.name, timeline=server.timeline, before=before.name)
        if self._promotions is not None:
            self._promotions.add()
        for connection, where in list(self._guests.items()):
            if where is not server:
                connection.terminate()
        for tell in self.moved:
            tell()

    def _sample(self) -> None:
        if (primary := self.primary) is not None and self.here and (not self._samples or self._samples[-1][1] < primary.lsn):
            self._samples.append((monotonic(), primary.lsn))

    def _state_of(self, server: Server, able: Sequence[Server]) -> str:
        primary = self.primary
        if not server.answered:
            return "away"
        if not self._ours(server):
            return "stale"
        if not server.recovering:
            # The same server by another name, a proxy's for one, is no second primary.
            same = primary is not None and server.started_at == primary.started_at
            return "primary" if server in able and same else "stale"
        # One that has gone another way than the primary's may have what was never committed there.
        behind = primary is None or server.timeline != primary.timeline or self.lag_s(server) > self._lag_max_s
        return "lagging" if behind else "replica"

    def _tell(self, server: Server, state: str) -> None:
        before, server.state = server.state, state
        if state == before:
            return
        if state == "stale":
            log.error(
                "database.stale_primary",
                server=server.name,
                timeline=server.timeline,
                primary=self.primary.name if self.primary else None,
                remedy="make it a replica of the primary, or stop it: nothing is written to it, and nothing read",
            )
        else:
            say = log.warning if state in ("away", "lagging") else log.info
            say("database.server", server=server.name, state=state, before=before)

    def _state_gauges(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return [((each.name, state), float(each.state == state)) for each in self.servers for state in STATES]

    def _lag_gauges(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return [((each.name,), self.lag_s(each)) for each in self.servers if each.recovering and each.lsn]


@asynccontextmanager
async def watching(
    addresses: Sequence[Address], *, lag_max_s: float = 5.0, metrics: Catalogue | None = None
) -> AsyncIterator[Watch]:
    """Entered when every server has been looked at, or did not answer."""
    watch = Watch(addresses, lag_max_s=lag_max_s, metrics=metrics)
    tasks = [asyncio.create_task(watch.follow(server)) for server in watch.servers]
    try:
        await watch.looked.wait()
        yield watch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def find_primary(addresses: Sequence[Address], patience_s: float = 5.0) -> str:
    """Its URL. Raises ServerBusy when none of the servers is one within that time."""
    async with watching(addresses) as watch:
        if not await watch.present(patience_s):
            names = ", ".join(address.name for address in addresses)
            raise ServerBusy(
                f"none of {names} is a primary that can be reached; see SLUICE_DATABASE_URL and SLUICE_REPLICA_URL"
            )
        return watch.url()
