"""A tenant's actor: its channels, its phase and its counters. It has no task; the dispatcher takes from its queues."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from base.errors import TenantBusy
from metrics.accumulators import Count
from storage.asks import Ask
from tenants.phase import NEXT, Event, Phase


@dataclass(frozen=True, slots=True)
class Tenant:
    tenant_id: int
    name: str
    exclusive: bool


class TenantActor:
    """`cools_at` is of the event loop's clock; `open` counts what came in and is not settled yet."""

    __slots__ = (
        "_size", "_turns", "channels", "cools_at", "deficit", "generation", "last_request_at", "messages", "open", "phase",
        "tenant", "warm_until", "warmed_at",
    )  # fmt: skip

    def __init__(self, tenant: Tenant, queue_size: int) -> None:
        self.tenant = tenant
        self.phase = Phase.COLD
        self.generation = 0
        self.channels: dict[str, asyncio.Queue[Ask]] = {}
        self.messages: dict[str, Count] = {}
        self.deficit: dict[str, float] = {}
        self.open = 0
        self.cools_at = 0.0
        self.last_request_at = 0.0
        self.warmed_at: datetime | None = None
        self.warm_until: datetime | None = None
        self._size = queue_size
        self._turns: dict[str, deque[asyncio.Queue[Ask]]] = {}

    def happen(self, event: Event) -> None:
        """Raises KeyError for what cannot happen in this phase: that is a fault of ours."""
        self.phase = NEXT[self.phase, event]

    def put(self, ask: Ask, lane: str) -> bool:
        """Whether it is the first to wait in this lane. Raises TenantBusy when the channel is full: it never waits."""
        name = ask.operation.name
        queue = self.channels.get(name)
        if queue is None:
            queue = self.channels[name] = asyncio.Queue(self._size)
        was_empty = queue.empty()
        try:
            queue.put_nowait(ask)
        except asyncio.QueueFull:
            raise TenantBusy(f"{self.tenant.name} has {self._size} requests waiting in {name}") from None
        self.open += 1
        if not was_empty:
            return False
        turns = self._turns.get(lane)
        if turns is None:
            turns = self._turns[lane] = deque()
        turns.append(queue)
        return len(turns) == 1

    def take(self, lane: str) -> Ask | None:
        """The next ask of this lane; its operations take turns."""
        turns = self._turns[lane]
        if not turns:
            return None
        queue = turns.popleft()
        ask = queue.get_nowait()
        if not queue.empty():
            turns.append(queue)
        return ask

    def take_only(self, lane: str) -> Ask | None:
        """The ask that waits in this lane, if it is the only one."""
        turns = self._turns[lane]
        if len(turns) == 1 and turns[0].qsize() == 1:
            return turns.popleft().get_nowait()
        return None

    def drop_queues(self) -> None:
        """All, when nothing waits: an empty asyncio.Queue takes over 3 KB, and is made again at first use."""
        if self.open == 0:
            self.channels.clear()
            self._turns.clear()

    def waits(self, lane: str) -> bool:
        return bool(self._turns.get(lane))

    def depth(self, operation: str) -> int:
        queue = self.channels.get(operation)
        return 0 if queue is None else queue.qsize()
