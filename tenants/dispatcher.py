"""The dispatcher: takes from ready actors in fair rounds, and answers what it took with as few statements as it can.

It never waits to form a batch: it takes what piled up while the last round trips ran. A batch of one runs the plain statement, so a
lone request costs what direct costs.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from time import perf_counter

import structlog

from base.errors import Mismatch, ServerBusy
from base.operations import OPERATIONS, Kind
from metrics.catalog import Metrics
from storage.asks import Ask, settle
from storage.connections import Storage
from tenants.actor import TenantActor
from tenants.phase import Phase

log = structlog.get_logger()

BYTES_MAX = 1_000_000  # of one batch's answer, by the running mean of what a row of this operation has been
_MEMORY = 0.1  # the weight of the newest batch in that mean


@dataclass(frozen=True, slots=True)
class Limits:
    """`slots`: statements in flight at once; `asks` and `rows`: the most in one; `quantum`: rows that a tenant gets a round."""

    slots: int
    asks: int
    rows: int
    quantum: int


LIMITS = {
    Kind.READ: Limits(slots=2, asks=128, rows=128, quantum=8),
    Kind.LIST: Limits(slots=2, asks=32, rows=672, quantum=42),
    Kind.REVIEW: Limits(slots=1, asks=8, rows=8, quantum=1),
}
SLOTS = sum(limits.slots for limits in LIMITS.values())


@dataclass(slots=True)
class _Lane:
    """All of one kind. `taken`: batches that are formed and wait for a slot, by what may share a statement."""

    limits: Limits
    free: int
    ring: deque[TenantActor] = field(default_factory=deque)
    taken: dict[Hashable, list[tuple[TenantActor, Ask]]] = field(default_factory=dict)


class Dispatcher:
    """`drained` is called with a cooling actor whose last ask has been answered; the registry puts itself there."""

    def __init__(self, storage: Storage, metrics: Metrics, *, total_max: int, fair: bool = True) -> None:
        self.drained: Callable[[TenantActor], None] = lambda _actor: None
        self.broken: set[str] = set()
        self.waiting = 0
        self.depth = dict.fromkeys((operation.name for operation in OPERATIONS), 0)
        self._storage = storage
        self._metrics = metrics
        self._total_max = total_max
        self._fair = fair
        self._lanes = {kind: _Lane(limits, limits.slots) for kind, limits in LIMITS.items()}
        self._row_bytes = dict.fromkeys(self.depth, 1000.0)
        self._wake = asyncio.Event()
        self._stopping = False
        self._running: set[asyncio.Task[None]] = set()

    def submit(self, actor: TenantActor, ask: Ask) -> None:
        """Raises TenantBusy or ServerBusy; the answer comes through the ask's future."""
        if self.waiting >= self._total_max:
            raise ServerBusy("the server has as many requests waiting as it takes")
        actor.put(ask)
        self.waiting += 1
        self.depth[ask.operation.name] += 1
        kind = ask.operation.kind
        if kind not in actor.ready:
            actor.ready.add(kind)
            self._lanes[kind].ring.append(actor)
        self._wake.set()

    async def run(self) -> None:
        """Until `close`; a crash fails what had been taken, and it starts again."""
        while not self._stopping:
            try:
                await self._run()
            except Exception as error:  # a dispatcher that is gone would leave every channel hanging
                self._metrics.dispatcher_restarts.child().add()
                log.error("dispatcher.crashed", exc_info=error)
                self._fail_taken()
                self._wake.set()  # what still waits in the queues is taken at the next start

    async def close(self) -> None:
        """Call when no request comes any more: answers what waits, then ends `run`."""
        while self.waiting or self._running:
            self._wake.set()
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(0)
        self._stopping = True
        self._wake.set()

    async def _run(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            for kind, lane in self._lanes.items():
                self._fill(kind, lane)

    def _fill(self, kind: Kind, lane: _Lane) -> None:
        while lane.free and (lane.taken or lane.ring):
            if not lane.taken:
                self._gather(kind, lane)
                if not lane.taken:
                    return  # whoever waited has left
            self._start(lane, lane.taken.pop(next(iter(lane.taken))))

    def _gather(self, kind: Kind, lane: _Lane) -> None:
        """One batch's worth of asks, in deficit round robin: a tenant's turn ends when its rows for this round are used up."""
        asks, rows, limits = 0, 0.0, lane.limits
        quantum = limits.quantum if self._fair else limits.rows
        while lane.ring and asks < limits.asks and rows < limits.rows:
            actor = lane.ring.popleft()
            allowed = actor.deficit.get(kind, 0.0) + quantum
            while allowed > 0 and asks < limits.asks and rows < limits.rows and (ask := actor.take(kind)) is not None:
                self.waiting -= 1
                self.depth[ask.operation.name] -= 1
                if ask.waiting:
                    cost = self._cost(ask, limits)
                    allowed, rows, asks = allowed - cost, rows + cost, asks + 1
                    lane.taken.setdefault(_company(ask), []).append((actor, ask))
                else:
                    self._settled(actor)
            self._end_turn(kind, lane, actor, allowed)

    def _end_turn(self, kind: Kind, lane: _Lane, actor: TenantActor, allowed: float) -> None:
        if actor.waits(kind):
            actor.deficit[kind] = allowed
            if self._fair:
                lane.ring.append(actor)
            else:
                lane.ring.appendleft(actor)
        else:
            actor.deficit.pop(kind, None)
            actor.ready.discard(kind)

    def _cost(self, ask: Ask, limits: Limits) -> float:
        """In rows; large rows count for more, so that a batch's answer stays near BYTES_MAX."""
        heavy = self._row_bytes[ask.operation.name] * limits.rows / BYTES_MAX
        rows = ask.values[-1] if ask.statement.pages else 1
        return float(max(rows * max(heavy, 1.0), 1.0))

    def _start(self, lane: _Lane, batch: list[tuple[TenantActor, Ask]]) -> None:
        now = perf_counter()
        for _, ask in batch:
            ask.taken_at = now
        lane.free -= 1
        self._metrics.batch_size.child(batch[0][1].operation.name).observe(len(batch))
        task = asyncio.get_running_loop().create_task(self._answer(lane, batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, lane: _Lane, batch: list[tuple[TenantActor, Ask]]) -> None:
        asks = [ask for _, ask in batch]
        try:
            failure = await settle(self._storage, asks)
            if isinstance(failure, Mismatch):
                self.distrust(asks[0].operation.name)
            elif failure is None:
                self._learn(asks)
        finally:
            lane.free += 1
            for actor, ask in batch:
                ask.fail(ServerBusy("the server is shutting down"))  # nothing, unless this task was cancelled
                self._settled(actor)
            self._wake.set()

    def _settled(self, actor: TenantActor) -> None:
        actor.open -= 1
        if actor.open == 0 and actor.phase is Phase.COOLING:
            self.drained(actor)

    def distrust(self, operation: str) -> None:
        """From now on this operation is direct: whatever mixed up tenants must not get another chance."""
        self.broken.add(operation)
        self._metrics.tenant_mismatch.child().add()
        log.error("tenant.mismatched", operation=operation)

    def _learn(self, asks: list[Ask]) -> None:
        lengths = [len(row[-1]) for ask in asks if ask.statement.pages or ask.statement.reads_one for row in ask.rows]
        if lengths:
            name = asks[0].operation.name
            mean = sum(lengths) / len(lengths)
            self._row_bytes[name] += _MEMORY * (mean - self._row_bytes[name])

    def _fail_taken(self) -> None:
        for lane in self._lanes.values():
            for batch in lane.taken.values():
                for actor, ask in batch:
                    ask.fail(ServerBusy("the dispatcher was restarted; ask again"))
                    self._settled(actor)
            lane.taken.clear()


def _company(ask: Ask) -> Hashable:
    """Asks of equal company share a statement: the same one, bounded by an index, and no exclusive tenant among others."""
    alone = None if ask.statement.bounded else id(ask)
    return id(ask.statement), ask.tenant_id if ask.exclusive else None, alone
