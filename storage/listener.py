"""LISTEN on a connection of its own: what other processes changed.

A notification that is sent while the connection is away is lost, so whoever follows reads everything anew after each
connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import asyncpg
import structlog

log = structlog.get_logger()

_PAUSE_S = 0.25


class Listener:
    """`changed` gets the payloads, as numbers; `connected` is called each time that the listening begins."""

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        changed: Callable[[set[int]], Awaitable[None]],
        connected: Callable[[], Awaitable[None]],
        own_backends: Callable[[], Collection[int]],
    ) -> None:
        self._url = url
        self._channel = channel
        self._changed = changed
        self._connected = connected
        self._own = own_backends
        self._news: set[int] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Until `close`."""
        while not self._stopping:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001  # whatever ended it, listening begins again
                log.warning("listener.lost", channel=self._channel, error=type(error).__name__)
                await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        self._stopping = True
        self._wake.set()

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._url, timeout=5, server_settings={"application_name": "sluice listener"})
        try:
            connection.add_termination_listener(lambda _connection: self._wake.set())
            await connection.add_listener(self._channel, self._heard)
            await self._connected()
            while not self._stopping and not connection.is_closed():
                await self._wake.wait()
                self._wake.clear()
                news, self._news = self._news, set()
                await self._changed(news)
        finally:
            await connection.close(timeout=2)

    def _heard(self, _connection: object, backend: int, _channel: str, payload: object) -> None:
        """What our own connections said we know already."""
        if backend not in self._own() and str(payload).isdecimal():
            self._news.add(int(str(payload)))
            self._wake.set()
