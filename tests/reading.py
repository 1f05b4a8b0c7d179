"""A server that stays from test to test, for those that only read: opening one for each took most of their time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

from tests.support import Asker, Home, Served, served, session_of, set_path

KEPT_MAX = 2
"""Servers at once: each takes a dozen of the database's connections."""


class Lasting:
    """A server in a thread of its own, for a test's event loop ends with the test."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._opened = threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self._ended: Future[None] = self._threads.submit(asyncio.run, self._serve())
        self._ended.add_done_callback(lambda _: self._opened.set())
        self._opened.wait(30)
        self.check()

    @property
    def died(self) -> bool:
        return self._ended.done()

    def check(self) -> None:
        """Raises what the server died of."""
        if self.died:
            self._ended.result()
            raise AssertionError("the server has ended")

    def close(self) -> None:
        """Raises what the server died of, as it closed at the latest."""
        if not self.died:
            self._loop.call_soon_threadsafe(self._end.set)
        self._ended.result(30)
        self._threads.shutdown()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with served(self._home.database, keys=self._home.keys, pool_size=8) as self.server:
            self._opened.set()
            await self._end.wait()


_lasting: dict[str, Lasting] = {}
"""By the database; the one that was asked last is the last."""


@asynccontextmanager
async def reading(home: Home, path: str) -> AsyncIterator[Asker]:
    """As `asking`, of a home that nobody writes to; a server that died fails the test in which it did."""
    lasting = _lasting.pop(home.database, None)
    if lasting is None or lasting.died:
        lasting = await asyncio.to_thread(Lasting, home)
    _lasting[home.database] = lasting
    while len(_lasting) > KEPT_MAX:
        await asyncio.to_thread(_lasting.pop(next(iter(_lasting))).close)
    async with session_of() as session:
        theirs = lasting.server
        server = Served(theirs.services, theirs.url, session, theirs.database, dict(home.keys))
        await set_path(server, path)
        yield Asker(server, path)
    lasting.check()


def close_all() -> None:
    """Before the database goes."""
    while _lasting:
        _lasting.popitem()[1].close()
