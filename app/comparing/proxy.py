"""A database that is further away: a TCP proxy in a process of its own, which holds back each direction by half of a delay.

`python -m app.comparing.proxy HOST PORT` prints its port; each line that it reads is a new delay in milliseconds, printed again
when it holds. The delay is of a timer finer than the event loop's; what the proxy itself costs comes on top, so measure it.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from app.comparing.servers import CompareError, child_of
from simulator.load_alarm import alarm

SetDelay = Callable[[float], None]


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, SetDelay]]:
    """The URL of the database behind the proxy, and what sets the delay in ms. Raises CompareError where it cannot be."""
    parts = urlsplit(url)
    if not parts.hostname or "," in parts.netloc:
        raise CompareError("a delay can be put before a database with one host alone")
    with child_of("app.comparing.proxy", parts.hostname, str(parts.port or 5432)) as child:

        def line() -> bytes:
            found = child.stdout.readline() if child.stdout else b""
            if not found:
                raise CompareError("the delaying proxy has ended")
            return found

        def set_delay(delay_ms: float) -> None:
            if child.stdin is not None:
                child.stdin.write(f"{delay_ms}\n".encode())
                child.stdin.flush()
            line()

        credentials = parts.netloc.rpartition("@")[0]
        netloc = f"{credentials}@127.0.0.1:{int(line())}" if credentials else f"127.0.0.1:{int(line())}"
        yield parts._replace(netloc=netloc).geturl(), set_delay


class Delays:
    """Holds back what it is given, all by the same time, so that the order stays."""

    def __init__(self) -> None:
        self.half_s = 0.0
        self._held: deque[tuple[float, Callable[[], None]]] = deque()
        self._alarm = alarm(self._release)

    def hold(self, action: Callable[[], None]) -> None:
        if not self.half_s and not self._held:
            action()
            return
        self._held.append((time.monotonic() + self.half_s, action))
        if len(self._held) == 1:
            self._alarm.set(self._held[0][0])

    def _release(self) -> None:
        while self._held and self._held[0][0] <= time.monotonic():
            self._held.popleft()[1]()
        if self._held:
            self._alarm.set(self._held[0][0])


class Side(asyncio.Protocol):
    """One end of a proxied connection; what comes in here leaves by the other, later."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._early: list[bytes] = []
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a TCP transport

    def data_received(self, data: bytes) -> None:
        self._delays.hold(lambda: self.deliver(data))

    def deliver(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def join(self, other: "Side") -> None:
        self.other, other.other = other, self
        for data in self._early:
            self.deliver(data)
        self._early.clear()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # either end may leave
        self._delays.hold(self._leave)

    def _leave(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Near(Side):
    """The client's end: it connects to the database for it."""

    def __init__(self, delays: Delays, host: str, port: int) -> None:
        super().__init__(delays)
        self._target = host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            _, far = await asyncio.get_running_loop().create_connection(lambda: Side(self._delays), *self._target)
        except OSError:
            if self.transport is not None:
                self.transport.close()
            return
        self.join(far)


async def proxy(host: str, port: int) -> None:
    """Until its input ends."""
    loop = asyncio.get_running_loop()
    delays = Delays()
    listening = await loop.create_server(lambda: Near(delays, host, port), "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        delays.half_s = float(line) / 2000
        print(line.decode().strip(), flush=True)


if __name__ == "__main__":
    asyncio.run(proxy(sys.argv[1], int(sys.argv[2])))
