"""A tenant's actor: its channels, its phase and its counters. It has no task; the dispatcher takes from its queues."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from base.errors import TenantBusy
from base.operations import OPERATIONS, Kind
from metrics.accumulators import Count
from storage.asks import Ask
from tenants.phase import NEXT, Event, Phase

OF_KIND: dict[Kind, tuple[str, ...]] = {kind: tuple(o.name for o in OPERATIONS if o.kind is kind) for kind in Kind}


@dataclass(frozen=True, slots=True)
class Tenant:
    tenant_id: int
    name: str
    exclusive: bool


class TenantActor:
    """`cools_at` and `last_request_at` are of the event loop's clock; `open` counts what came in and is not settled yet."""

    __slots__ = (
        "_size", "channels", "cools_at", "deficit", "generation", "last_request_at", "messages", "open", "phase", "ready",
        "tenant", "warm_until", "warmed_at",
    )  # fmt: skip

    def __init__(self, tenant: Tenant, queue_size: int) -> None:
        self.tenant = tenant
        self.phase = Phase.COLD
        self.generation = 0
        self.channels: dict[str, asyncio.Queue[Ask]] = {}
        self.messages: dict[str, Count] = {}
        self.deficit: dict[Kind, float] = {}
        self.ready: set[Kind] = set()
        self.open = 0
        self.cools_at = 0.0
        self.last_request_at = 0.0
        self.warmed_at: datetime | None = None
        self.warm_until: datetime | None = None
        self._size = queue_size

    def happen(self, event: Event) -> None:
        """Raises KeyError for what cannot happen in this phase: that is a fault of ours."""
        self.phase = NEXT[self.phase, event]

    def put(self, ask: Ask) -> None:
        """Raises TenantBusy when the channel is full: it never waits."""
        name = ask.operation.name
        queue = self.channels.get(name)
        if queue is None:
            queue = self.channels[name] = asyncio.Queue(self._size)
        try:
            queue.put_nowait(ask)
        except asyncio.QueueFull:
            raise TenantBusy(f"{self.tenant.name} has {self._size} requests waiting in {name}") from None
        self.open += 1

    def take(self, kind: Kind) -> Ask | None:
        """The next ask of this kind; the longest of its operations' queues goes first."""
        first: asyncio.Queue[Ask] | None = None
        for name in OF_KIND[kind]:
            queue = self.channels.get(name)
            if queue is not None and not queue.empty() and (first is None or queue.qsize() > first.qsize()):
                first = queue
        return None if first is None else first.get_nowait()

    def depth(self, operation: str) -> int:
        queue = self.channels.get(operation)
        return 0 if queue is None else queue.qsize()

    def waits(self, kind: Kind) -> bool:
        return any(self.depth(name) for name in OF_KIND[kind])
