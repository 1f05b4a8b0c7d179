"""Closed and open loop: who sends when, and what is counted. No result is made here, see load.py."""

import asyncio
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Callable
from random import Random

from simulator.load_alarm import alarm
from simulator.load_connection import Answer, Connection
from simulator.load_types import Load, Requests

CONNECT_AT_ONCE = 64
"""Below the usual listen backlog of 128: a burst of more would be dropped and come again after a second."""
SWEEP_S = 0.1
RECONNECT_S = 0.05


class Tally:
    """What happened to the requests due in the window [begin, end), and how many answers came within it."""

    def __init__(self) -> None:
        self.begin = self.end = float("inf")
        self.latencies = array("d")
        self.late = array("d")
        self.statuses: Counter[int] = Counter()
        self.paths: Counter[bytes] = Counter()
        self.error_kinds: Counter[str] = Counter()
        self.dropped = 0
        self.answers = 0
        self.marks: list[tuple[float, float, int]] = []

    def mark(self) -> None:
        """Notes time, own CPU seconds and answers so far; called at both ends of the window."""
        self.marks.append((time.monotonic(), time.process_time(), self.answers))

    def measures(self, due: float) -> bool:
        return self.begin <= due < self.end


class Driver(ABC):
    """Keeps the connections, watches over timeouts, and walks through warm-up, window and drain."""

    def __init__(self, load: Load, requests: Requests) -> None:
        self.load = load
        self.tally = Tally()
        self._pick = _picker(requests, Random(load.seed))
        self._connections: list[Connection] = []
        self._over = False
        self._quiet = asyncio.Event()

    async def run(self) -> Tally:
        """Raises OSError where not even the first connections can be made."""
        try:
            await self._connect_all()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._keep(number)) for number in range(self.load.connections)]
                tasks.append(group.create_task(self._sweep()))
                await self._walk()
                for task in tasks:
                    task.cancel()
        finally:
            await self._close_all()
        return self.tally

    async def _walk(self) -> None:
        tally = self.tally
        tally.begin = time.monotonic() + self.load.warmup_s
        tally.end = tally.begin + self.load.seconds
        self._start()
        await _sleep_until(tally.begin)
        tally.mark()
        await _sleep_until(tally.end)
        tally.mark()
        self._over = True
        self._check_quiet()
        try:
            async with asyncio.timeout(self.load.timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            self._give_up()

    @abstractmethod
    def _start(self) -> None:
        """Called once, when every connection is made."""

    @abstractmethod
    def _ready(self, connection: Connection, now: float) -> None:
        """A connection has nothing to do."""

    def _waiting(self) -> int:
        """Requests that are due and not sent."""
        return 0

    def answered(self, connection: Connection, answer: Answer) -> None:
        now = time.monotonic()
        tally = self.tally
        tally.answers += 1
        if tally.begin <= connection.due < tally.end:
            tally.latencies.append(now - connection.due)
            tally.statuses[answer.status] += 1
            if answer.path:
                tally.paths[answer.path] += 1
        if connection.open:
            self._ready(connection, now)
        if self._over:
            self._check_quiet()

    def failed(self, kind: str, due: float) -> None:
        if self.tally.measures(due):
            self.tally.error_kinds[kind] += 1
        if self._over:
            self._check_quiet()

    def _check_quiet(self) -> None:
        if not self._waiting() and not any(connection.busy for connection in self._connections):
            self._quiet.set()

    def _give_up(self) -> None:
        for connection in self._connections:
            if connection.busy:
                connection.fail("timeout")

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), self.load.host, self.load.port)
        return connection

    async def _connect_all(self) -> None:
        while (missing := self.load.connections - len(self._connections)) > 0:
            batch = [self._connect() for _ in range(min(missing, CONNECT_AT_ONCE))]
            made = await asyncio.gather(*batch, return_exceptions=True)
            self._connections.extend(connection for connection in made if isinstance(connection, Connection))
            for error in made:
                if isinstance(error, BaseException):
                    raise error

    async def _keep(self, number: int) -> None:
        """Connects anew whenever the server has closed connection `number`."""
        while True:
            await self._connections[number].gone.wait()
            try:
                connection = await self._connect()
            except OSError:
                self.failed("connect", time.monotonic())
                await asyncio.sleep(RECONNECT_S)
                continue
            self._connections[number] = connection
            self._ready(connection, time.monotonic())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            latest = time.monotonic() - self.load.timeout_s
            for connection in self._connections:
                if connection.busy and connection.sent_at < latest:
                    connection.fail("timeout")

    async def _close_all(self) -> None:
        for connection in self._connections:
            if connection.open:
                connection.close()
        await asyncio.gather(*(connection.gone.wait() for connection in self._connections))


class Closed(Driver):
    """Each connection sends its next request when the last is answered: a slow server is asked less."""

    def _start(self) -> None:
        now = time.monotonic()
        for connection in self._connections:
            if connection.open:
                self._ready(connection, now)

    def _ready(self, connection: Connection, now: float) -> None:
        if now < self.tally.end:
            connection.send(self._pick(), now, now)


class Open(Driver):
    """Requests fall due by the schedule whatever the server does; latency counts from then (wrk2's method)."""

    def __init__(self, load: Load, requests: Requests, rate: float) -> None:
        super().__init__(load, requests)
        self._rate = rate
        self._random = Random(~load.seed)
        self._idle: deque[Connection] = deque()
        self._backlog: deque[float] = deque()
        self._alarm = alarm(self._tick)
        self._next = 0.0

    async def run(self) -> Tally:
        try:
            return await super().run()
        finally:
            self._alarm.close()

    def _start(self) -> None:
        self._idle.extend(self._connections)
        self._next = time.monotonic()
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        end = self.tally.end
        while self._next <= now and self._next < end:
            self._arrive(self._next, now)
            self._next += self._random.expovariate(self._rate) if self.load.poisson else 1 / self._rate
        if self._next < end:
            self._alarm.set(max(self._next, now + self.load.tick_s))

    def _arrive(self, due: float, now: float) -> None:
        if self.tally.measures(due):
            self.tally.late.append(now - due)
        while self._idle:
            connection = self._idle.popleft()
            if connection.open:
                connection.send(self._pick(), due, now)
                return
        if len(self._backlog) < self.load.backlog:
            self._backlog.append(due)
        elif self.tally.measures(due):
            self.tally.dropped += 1

    def _ready(self, connection: Connection, now: float) -> None:
        if self._backlog:
            connection.send(self._pick(), self._backlog.popleft(), now)
        else:
            self._idle.append(connection)

    def _waiting(self) -> int:
        return len(self._backlog)

    def _give_up(self) -> None:
        self.tally.dropped += sum(map(self.tally.measures, self._backlog))
        self._backlog.clear()
        super()._give_up()


def _picker(requests: Requests, random: Random) -> Callable[[], bytes]:
    if callable(requests):
        return lambda: requests(random)
    count = len(requests)
    if not count:
        raise ValueError("a load needs a request to send")
    draw = random.random
    return lambda: requests[int(draw() * count)]


async def _sleep_until(at: float) -> None:
    # The loop's clock may be a millisecond behind, so once may be too short.
    while (left := at - time.monotonic()) > 0:  # noqa: ASYNC110  # a time, not a change, is waited for
        await asyncio.sleep(left)
