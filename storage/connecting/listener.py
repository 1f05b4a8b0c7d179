"""LISTEN on a connection of its own: what other processes changed.

A notification that is sent while the connection is away is lost, so whoever follows reads everything anew after each
connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Any, Generic, TypeVar

import asyncpg
import structlog

log = structlog.get_logger()

_PAUSE_S = 0.25
_SETTINGS = {
    "application_name": "sluice listener",
    # It only ever waits: a server whose machine is gone would be noticed after hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
T = TypeVar("T", bound=Hashable)


def tenant_in(payload: str) -> int | None:
    """Every channel's payload begins with the tenant's number."""
    first = payload.partition(" ")[0]
    return int(first) if first.isdecimal() else None


class Listener(Generic[T]):
    """Follows a channel: `parse` makes of a payload what was changed, or None.

    `heard` is called at once for each; `changed` gets all that were heard since its last call, and `connected` is called each
    time that the listening begins: both with the connection that listens. `lost` is called when it ends.
    """

    def __init__(
        self,
        connect: Callable[..., Awaitable[asyncpg.Connection]],
        channel: str,
        *,
        parse: Callable[[str], T | None],
        changed: Callable[[asyncpg.Connection, set[T]], Awaitable[None]],
        connected: Callable[[asyncpg.Connection], Awaitable[None]],
        heard: Callable[[T], None] = lambda _news: None,
        lost: Callable[[], None] = lambda: None,
        own_backends: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._parse = parse
        self._changed = changed
        self._connected = connected
        self._tell = heard
        self._lost = lost
        self._own = own_backends
        self._news: set[T] = set()
        self._wake = asyncio.Event()
        self._told_lost = False
        self._stopping = False

    async def run(self) -> None:
        """Until `close`."""
        while not self._stopping:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001  # whatever ended it, listening begins again
                if not self._told_lost:
                    log.warning("listener.lost", channel=self._channel, error=type(error).__name__)
                self._told_lost = True
                await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        self._stopping = True
        self._wake.set()

    async def _listen(self) -> None:
        connection = await self._connect(timeout=5, server_settings=_SETTINGS)
        try:
            connection.add_termination_listener(self._ended)
            await connection.add_listener(self._channel, self._heard)
            await self._connected(connection)
            self._told_lost = False
            while not self._stopping and not connection.is_closed():
                await self._wake.wait()
                self._wake.clear()
                news, self._news = self._news, set()
                await self._changed(connection, news)
        finally:
            self._lost()
            await connection.close(timeout=2)

    def _ended(self, _connection: object) -> None:
        self._lost()
        self._wake.set()

    def _heard(self, _connection: object, backend: int, _channel: str, payload: Any) -> None:
        """What our own connections said we know already."""
        if backend not in self._own() and (news := self._parse(str(payload))) is not None:
            self._news.add(news)
            self._tell(news)
            self._wake.set()
