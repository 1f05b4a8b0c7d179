"""How much at once: files of a facility, and bytes of a worker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

SLOW_S = 20.0
"""A file that takes longer to come counts as a post office that has too much to do."""
_LOOK_AGAIN_S = 0.5  # a limit may change without anybody leaving


class Pace:
    """Files at once: one more after as many that went well, half as many after one that did not."""

    def __init__(self, size: int, most: int) -> None:
        self.most = most
        self.size = min(max(size, 1), most)
        self._well = 0
        self._settling = 0

    def went(self, *, well: bool) -> None:
        if self._settling:  # what was on its way when it was halved tells nothing of the new size
            self._settling -= 1
        elif not well:
            self._settling, self._well = self.size - 1, 0
            self.size = max(1, self.size // 2)
        else:
            self._well += 1
            if self._well >= self.size and self.size < self.most:
                self.size, self._well = self.size + 1, 0


class Gate:
    """Lets in while fewer are inside than `limit` says at that time."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self.inside = 0
        self._limit = limit
        self._left = asyncio.Event()

    async def enter(self) -> None:
        while self.inside >= self._limit():
            self._left.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._left.wait()
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1
        self._left.set()


class Room:
    """Shared by many, or had by one alone: whoever waits for that lets nobody else in before."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._door:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:
            await self._empty.wait()
            yield


class Budget:
    """Bytes of downloaded files that a worker holds. A download begins while there is room, of whatever size it be."""

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        await self._room.wait()

    def take(self, size: int) -> None:
        self.held += size
        if self.held >= self._most:
            self._room.clear()

    def give_back(self, size: int) -> None:
        self.held -= size
        if self.held < self._most:
            self._room.set()
