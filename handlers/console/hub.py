"""Looks at the server while somebody watches, and tells all who do: one loop a process, one look for all watchers.

Nobody is waited for. Who does not take what is sent is dropped, rather than that it is kept for him.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import time
from typing import Any

import msgspec
import structlog
from aiohttp import web

from base.errors import Problem, ServerBusy
from base.log import without_cause
from base.operations import OPERATIONS
from base.version import VERSION
from handlers.console.findings import findings
from handlers.console.snapshot import POINTS, TICK_S, Facts, Recorder
from handlers.services import Services
from storage.console import Books, books

log = structlog.get_logger()

WATCHERS_MAX = 32
"""Of one process."""
BOOKS_EVERY_S = 5.0
HEARTBEAT_S = 10.0
RETRY_MS = 2000
_UNREAD_MAX = 8


class Watcher:
    """What one of them has not been sent yet."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self._unread: asyncio.Queue[bytes | None] = asyncio.Queue(_UNREAD_MAX)
        self._transport = transport
        self.is_writing = False

    def tell(self, frame: bytes | None) -> None:
        try:
            self._unread.put_nowait(frame)
        except asyncio.QueueFull:
            self.drop()

    def drop(self) -> None:
        """At once, and without another word: it does not read."""
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """After what it reads now; who is in the middle of not reading is dropped."""
        if self.is_writing:
            self.drop()
        while not self._unread.empty():
            self._unread.get_nowait()
        self._unread.put_nowait(None)

    async def next(self) -> bytes | None:
        """None when it is over. A comment when there was nothing for a while, so that both ends know of each other."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                return await self._unread.get()
        except TimeoutError:
            return b": still here\n\n"


class Hub:
    def __init__(self, *, tick_s: float = TICK_S, watchers_max: int = WATCHERS_MAX) -> None:
        self.tick_s = tick_s
        self.watchers_max = watchers_max
        self.watchers: set[Watcher] = set()
        self._recorder: Recorder | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._books: Books | None = None
        self._books_frame = b""
        self._trouble = ""
        self._tick_frame = b""
        self._closed = False

    @contextmanager
    def watching(self, services: Services, transport: asyncio.Transport | None) -> Iterator[Watcher]:
        """Raises ServerBusy when there are as many as there may be."""
        if self._closed:
            raise ServerBusy("the server is shutting down")
        if len(self.watchers) >= self.watchers_max:
            raise ServerBusy(f"{self.watchers_max} consoles are open here, as many as may be; close one, then this one goes on")
        watcher = Watcher(transport)
        self.watchers.add(watcher)
        try:
            self._start(services)
            watcher.tell(self._greeting(services))
            yield watcher
        finally:
            self.watchers.discard(watcher)

    async def close(self) -> None:
        """For good: streams end now, so that a shutdown need not wait for them."""
        self._closed = True
        for watcher in self.watchers:
            watcher.end()
        running = [task for task in (self._task, self._reading) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _start(self, services: Services) -> None:
        if self._task is None or self._task.done():
            self._tick_frame = b""  # of when somebody watched last
            self._task = asyncio.get_running_loop().create_task(self._run(services), context=without_cause())

    async def _run(self, services: Services) -> None:
        """As long as somebody watches."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self.watchers:
            try:
                self._look_at_books(services)
                self._tell(await self._looked(services))
            except Exception as error:  # what is shown must not end what is served, nor the other looks
                log.error("console.look_failed", exc_info=error)
            due = max(due + self.tick_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _looked(self, services: Services) -> bytes:
        recorder = self._recorder = self._recorder or Recorder(_facts(services))
        snapshot = await services.gather()
        now = asyncio.get_running_loop().time()
        tick = recorder.tick(now, int(time() * 1000), snapshot, services.registry.attached())
        tick |= {"database": self._trouble, "books_at": self._books.at if self._books else None}
        tick["findings"] = findings(tick, _shown(self._books), view_interval_s=_interval(services))
        self._tick_frame = _frame("tick", tick, number=tick["at"])
        return self._tick_frame

    def _look_at_books(self, services: Services) -> None:
        """On a beat of its own: whatever the database does, the looks at the process go on."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(services), context=without_cause())

    async def _read(self, services: Services) -> None:
        try:
            self._books = await books(services.storage, services.config.poll_interval_s)
            self._trouble = ""
        except Problem as problem:
            self._trouble = str(problem)
        except Exception as error:
            log.error("console.books_unread", exc_info=error)
            self._trouble = "what the database says cannot be read; the log says why"
        else:
            self._tell_books(self._books)
        await asyncio.sleep(BOOKS_EVERY_S)

    def _tell_books(self, read: Books) -> None:
        """Only what has changed: with a thousand facilities it is much."""
        frame = _frame("books", _shown(read) | {"at": 0})
        if frame != self._books_frame:
            self._books_frame = frame
            self._tell(frame)

    def _tell(self, frame: bytes) -> None:
        for watcher in self.watchers:
            watcher.tell(frame)

    def _greeting(self, services: Services) -> bytes:
        """What a page needs that has just come: what does not change, the plots so far, and the last look."""
        config = services.config
        hello = {
            "version": VERSION,
            "base_url": config.base_url,
            "cooldown_s": config.cooldown_s,
            "cooldown": config.cooldown,
            "channels": config.channels,
            "control_share": config.control_share,
            "queue_size": config.queue_size,
            "operations": [operation.name for operation in OPERATIONS],
            "tick_s": self.tick_s,
            "points_max": POINTS,
            "points": self._recorder.points if self._recorder else [],
        }
        return f"retry: {RETRY_MS}\n".encode() + _frame("hello", hello) + self._books_frame + self._tick_frame


HUB: web.AppKey[Hub] = web.AppKey("console_hub", Hub)


async def close_hub(app: web.Application) -> None:
    await app[HUB].close()


def _facts(services: Services) -> Facts:
    sizes = {lender.name: lender.size for lender in (services.storage.api, services.storage.reports)}
    return Facts(services.config.channels == "on", services.config.control_share, sizes)


def _interval(services: Services) -> float:
    """The longest of the views' intervals, as this process knows them."""
    return max(seconds for _, seconds in services.config.view_interval_s)


def _shown(read: Books | None) -> dict[str, Any]:
    return {} if read is None else {"at": read.at, "facilities": read.facilities, "views": read.views}


def _frame(event: str, data: object, *, number: int | None = None) -> bytes:
    """One event: https://html.spec.whatwg.org/multipage/server-sent-events.html. JSON has no line breaks."""
    head = f"event: {event}\n" + (f"id: {number}\n" if number is not None else "")
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
