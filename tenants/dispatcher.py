"""The dispatcher: takes from ready actors in fair rounds, and answers what it took with as few statements as it can.

It never waits to form a batch: it takes what piled up while the last round trips ran. A batch of one runs the plain
statement, so a lone request costs what direct costs.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import structlog

from base.errors import Mismatch, ServerBusy
from base.log import CAUSE
from base.operations import OPERATIONS, Kind
from metrics.catalog import Metrics
from storage.asks import Ask, Company, settle
from storage.connecting.servers import Storage
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
    Kind.LIST: Limits(slots=3, asks=32, rows=672, quantum=42),
    Kind.REVIEW: Limits(slots=1, asks=8, rows=8, quantum=1),
}
SLOTS = sum(limits.slots for limits in LIMITS.values())


Batch = list[tuple[TenantActor, Ask]]
Settle = Callable[[Storage, Sequence[Ask]], Awaitable[BaseException | None]]


@dataclass(slots=True)
class _Lane:
    """All of one kind. `taken`: batches that are formed, by what may share a statement; `idle`: slots at rest.

    An actor stands in the ring exactly while something of its own waits in this lane.
    """

    name: str
    limits: Limits
    ring: deque[TenantActor] = field(default_factory=deque)
    taken: dict[Hashable, Batch] = field(default_factory=dict)
    idle: list["asyncio.Future[None]"] = field(default_factory=list)
    waking: bool = False


class Dispatcher:
    """`drained` is called with a cooling actor whose last ask has been answered; the registry puts itself there.

    `limits` and `settle` are others only where the parts of a channel are measured one by one (app/comparing).
    """

    def __init__(
        self,
        storage: Storage,
        metrics: Metrics,
        *,
        total_max: int,
        fair: bool = True,
        limits: Mapping[Kind, Limits] = LIMITS,
        settle: Settle = settle,
    ) -> None:
        self.drained: Callable[[TenantActor], None] = lambda _actor: None
        self.broken: set[str] = set()
        self.waiting = 0
        self._storage = storage
        self._metrics = metrics
        self._total_max = total_max
        self._fair = fair
        self._settle = settle
        self._lanes = {kind: _Lane(kind.value, limits_of) for kind, limits_of in limits.items()}
        # By the operation's name: hashing an enum's member is Python code, and these are looked at for every ask.
        self._lane_of = {operation.name: self._lanes[operation.kind] for operation in OPERATIONS}
        self._sizes = {operation.name: metrics.batch_size.child(operation.name) for operation in OPERATIONS}
        self._row_bytes = dict.fromkeys(self._lane_of, 1000.0)
        self._stopping = False

    def submit(self, actor: TenantActor, ask: Ask) -> None:
        """Raises TenantBusy or ServerBusy; the answer comes through the ask's future."""
        if self.waiting >= self._total_max:
            raise ServerBusy("the server has as many requests waiting as it takes")
        lane = self._lane_of[ask.operation.name]
        if actor.put(ask, lane.name):
            lane.ring.append(actor)
        self.waiting += 1
        _wake(lane)

    def waiting_actors(self) -> set[TenantActor]:
        """Those with anything in a queue."""
        return {actor for lane in self._lanes.values() for actor in lane.ring}

    def lanes(self) -> list[dict[str, Any]]:
        """Of each: its slots, those at rest, the tenants that wait in it, and the asks that are taken but not sent."""
        return [
            {
                "lane": lane.name,
                "slots": lane.limits.slots,
                "idle": sum(1 for slot in lane.idle if not slot.done()),
                "tenants": len(lane.ring),
                "formed": sum(map(len, lane.taken.values())),
            }
            for lane in self._lanes.values()
        ]

    async def run(self) -> None:
        """Until `close`. A slot is a task that answers batch after batch; an ask that finds one at rest goes at once."""
        async with asyncio.TaskGroup() as slots:
            for lane in self._lanes.values():
                for _ in range(lane.limits.slots):
                    slots.create_task(self._slot(lane))

    def close(self) -> None:
        """Call when no request comes any more: answers what waits, then ends `run`."""
        self._stopping = True
        for lane in self._lanes.values():
            for slot in lane.idle:
                if not slot.done():  # cancelled with the whole process
                    slot.set_result(None)
            lane.idle.clear()

    async def _slot(self, lane: _Lane) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                if (batch := self._next(lane)) is not None:
                    await self._answer(batch)
                    CAUSE.set(None)  # the batch has no lines any more, and need not be kept
                elif self._stopping:
                    return
                else:
                    waiter = loop.create_future()
                    lane.idle.append(waiter)
                    await waiter
                    lane.waking = False
            except Exception as error:  # a slot that is gone would leave its channels hanging
                self._metrics.dispatcher_restarts.child().add()
                asks = [ask for batch in lane.taken.values() for _, ask in batch]
                log.error("dispatcher.crashed", exc_info=error, **(Company(asks).facts() if asks and not CAUSE.get() else {}))
                CAUSE.set(None)
                self._fail_taken(lane)

    def _next(self, lane: _Lane) -> Batch | None:
        """What piled up since the last look, of one company; None when there is nothing."""
        if not lane.taken and lane.ring:
            if len(lane.ring) == 1 and (ask := lane.ring[0].take_only(lane.name)) is not None:
                return self._alone(lane, ask)
            self._gather(lane)
        if not lane.taken:
            return None
        batch = lane.taken.pop(next(iter(lane.taken)))
        if lane.taken or lane.ring:
            _wake(lane)  # there is more than this slot takes
        return batch

    def _alone(self, lane: _Lane, ask: Ask) -> Batch | None:
        """The only ask that waits in this lane: there are no turns to take, and a lone one should cost what direct costs."""
        actor = lane.ring.popleft()
        self.waiting -= 1
        if ask.waiting:
            return [(actor, ask)]
        self._settled(actor)
        return None

    def _gather(self, lane: _Lane) -> None:
        """One batch's worth of asks, in deficit round robin: a tenant's turn ends when its rows for this round are used up."""
        asks, rows, limits = 0, 0.0, lane.limits
        quantum = limits.quantum if self._fair else limits.rows
        while lane.ring and asks < limits.asks and rows < limits.rows:
            actor = lane.ring.popleft()
            allowed = actor.deficit.get(lane.name, 0.0) + quantum
            try:
                while allowed > 0 and asks < limits.asks and rows < limits.rows and (ask := actor.take(lane.name)) is not None:
                    self.waiting -= 1
                    if not ask.waiting:
                        self._settled(actor)
                        continue
                    lane.taken.setdefault(_company(ask), []).append((actor, ask))
                    cost = self._cost(ask, limits)
                    allowed, rows, asks = allowed - cost, rows + cost, asks + 1
            finally:
                self._end_turn(lane, actor, allowed)

    def _end_turn(self, lane: _Lane, actor: TenantActor, allowed: float) -> None:
        if not actor.waits(lane.name):
            actor.deficit.pop(lane.name, None)
            return
        actor.deficit[lane.name] = allowed
        if self._fair:
            lane.ring.append(actor)
        else:
            lane.ring.appendleft(actor)

    def _cost(self, ask: Ask, limits: Limits) -> float:
        """In rows; large rows count for more, so that a batch's answer stays near BYTES_MAX."""
        heavy = self._row_bytes[ask.operation.name] * limits.rows / BYTES_MAX
        rows: float = ask.values[-1] if ask.statement.pages else 1.0
        return rows * heavy if heavy > 1.0 else rows

    async def _answer(self, batch: Batch) -> None:
        try:
            now = perf_counter()
            asks = [ask for _, ask in batch]
            for ask in asks:
                ask.taken_at = now
            self._sizes[asks[0].operation.name].observe(len(asks))
            failure = await self._settle(self._storage, asks)
            if isinstance(failure, Mismatch):
                self.distrust(asks[0].operation.name)
            elif failure is None and len(asks) > 1:
                self._learn(asks)
        finally:
            for actor, ask in batch:
                ask.fail(ServerBusy("the server is shutting down"))  # nothing, unless this slot was cancelled
                self._settled(actor)

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

    def _fail_taken(self, lane: _Lane) -> None:
        for batch in lane.taken.values():
            for actor, ask in batch:
                ask.fail(ServerBusy("the dispatcher was restarted; ask again"))
                self._settled(actor)
        lane.taken.clear()


def _wake(lane: _Lane) -> None:
    """One slot at a time: it takes all that is there at its step, and wakes the next if that was too much for it."""
    if lane.idle and not lane.waking:
        lane.waking = True
        lane.idle.pop().set_result(None)


def _company(ask: Ask) -> Hashable:
    """Asks of equal company share a statement: the same one, bounded by an index, and no exclusive tenant among others."""
    alone = None if ask.statement.bounded else id(ask)
    return id(ask.statement), ask.tenant_id if ask.exclusive else None, alone
