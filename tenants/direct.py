"""The direct path: the same statement for one ask, on the next free of its own connections.

Waiting is first come first served within a tenant and in turns between tenants, and bounded: one noisy cold tenant
fills its own line, not its neighbours'.
"""

import asyncio
from collections import OrderedDict, deque
from time import perf_counter

from base.errors import Mismatch, ServerBusy, TenantBusy
from storage.asks import Ask, settle
from storage.connecting.servers import Storage
from tenants.dispatcher import Dispatcher


class DirectLine:
    """At most `slots` statements at once; at most `tenant_max` waiting of one tenant, and `total_max` in all."""

    def __init__(self, storage: Storage, dispatcher: Dispatcher, *, slots: int, tenant_max: int, total_max: int) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._slots = slots
        self._tenant_max = tenant_max
        self._total_max = total_max
        self._lines: OrderedDict[int, deque[Ask]] = OrderedDict()
        self._waiting = 0
        self._running: set[asyncio.Task[None]] = set()

    def submit(self, ask: Ask) -> None:
        """Raises TenantBusy or ServerBusy when the line is full; the answer comes through the ask's future.

        A task of its own runs the statement: a client that leaves cancels its future, never the statement, for which asyncpg
        would open another connection just to say so.
        """
        if len(self._running) < self._slots:
            self._start(ask)
        else:
            self._enqueue(ask)

    def standing(self) -> dict[str, int]:
        """How many statements may run and do, and how many asks wait, of how many tenants."""
        return {
            "slots": self._slots,
            "running": len(self._running),
            "waiting": self._waiting,
            "tenants": len(self._lines),
        }

    async def close(self) -> None:
        """Call when no request comes any more: waits for what is running."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _enqueue(self, ask: Ask) -> None:
        if self._waiting >= self._total_max:
            raise ServerBusy("the server has as many requests waiting as it takes")
        line = self._lines.setdefault(ask.tenant_id, deque())
        if len(line) >= self._tenant_max:
            raise TenantBusy(f"{ask.tenant} has {len(line)} requests waiting")
        line.append(ask)
        self._waiting += 1

    def _start(self, ask: Ask) -> None:
        ask.taken_at = perf_counter()
        task = asyncio.get_running_loop().create_task(self._answer(ask))
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def _answer(self, ask: Ask) -> None:
        if isinstance(await settle(self._storage, (ask,)), Mismatch):
            self._dispatcher.distrust(ask.operation.name)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        ask = self._next()
        if ask is not None:
            self._start(ask)

    def _next(self) -> Ask | None:
        while self._lines:
            tenant_id, line = self._lines.popitem(last=False)
            ask = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[tenant_id] = line  # behind the other tenants
            if ask.waiting:
                return ask
        return None
