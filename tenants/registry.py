"""The registry: does what the lifecycle decides, and follows what other processes decided.

The row in ops.warm_tenant is the truth. Commands for one tenant run one after the other, so that the last one holds;
a change by another process is announced by NOTIFY and read from the row; when the listener is lost, all rows are read
anew.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Any
from weakref import WeakValueDictionary

import structlog

from base.config import Config
from base.errors import Conflict
from base.log import CAUSE, facts_of
from base.operations import OPERATIONS, Operation
from metrics.catalog import Metrics
from storage.asks import Ask
from storage.connecting.servers import Storage
from storage.hot import probe_of
from storage.warmth import Warmth, cool, warm, warmth_of
from tenants.actor import Tenant, TenantActor
from tenants.deadlines import Deadlines
from tenants.dispatcher import Dispatcher
from tenants.lifecycle import Lifecycle
from tenants.phase import Phase
from tenants.places import Places

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the warm-up endpoint tells of a tenant."""

    state: Phase
    generation: int | None = None
    warmed_at: datetime | None = None
    cools_at: datetime | None = None


class TenantRegistry:
    def __init__(
        self, config: Config, storage: Storage, dispatcher: Dispatcher, deadlines: Deadlines, metrics: Metrics
    ) -> None:
        self._config = config
        self._storage = storage
        self._dispatcher = dispatcher
        self._deadlines = deadlines
        self._metrics = metrics
        self._lifecycle = Lifecycle(config.queue_size)
        self._warming: dict[int, asyncio.Task[Standing]] = {}
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._restoring = asyncio.Lock()
        self._touched: set[int] = set()
        self._places = Places(metrics)
        self._changed = asyncio.Event()
        self._stopping = False
        metrics.tenants.read = lambda: [
            ((phase.value,), self._lifecycle.counts()[phase.value]) for phase in Phase if phase is not Phase.COLD
        ]
        metrics.channel_depth.read = lambda: self._places.depths(dispatcher.waiting_actors())
        dispatcher.drained = self._lifecycle.drained
        for transition in ("warm_up", "extend", "cooldown", "evict"):
            metrics.tenant_transitions.child(transition)

    # The way of a request

    def actor_for(self, tenant_id: int, operation: Operation) -> TenantActor | None:
        """The warm actor that takes this operation's asks; None: direct."""
        if not operation.channel or operation.name in self._dispatcher.broken:
            return None
        return self._lifecycle.warm(tenant_id)

    def submit(self, actor: TenantActor, ask: Ask) -> None:
        """Raises TenantBusy or ServerBusy: a full channel never spills to direct."""
        self._dispatcher.submit(actor, ask)
        actor.last_request_at = ask.submitted_at
        actor.messages[ask.operation.name].value += 1

    # Commands

    def standing(self, tenant_id: int) -> Standing:
        actor = self._lifecycle.attached(tenant_id)
        if actor is None:
            return Standing(self._lifecycle.phase(tenant_id))
        return Standing(actor.phase, actor.generation, actor.warmed_at, actor.warm_until)

    def attached(self) -> list[tuple[str, Standing, float]]:
        """Every tenant whose actor warms or is warm: its name, how it stands, and in how many seconds it cools down."""
        return [(a.tenant.name, self.standing(a.tenant.tenant_id), self._left(a)) for a in self._lifecycle.actors()]

    def actors(self) -> list[TenantActor]:
        """All there are, those that cool and drain among them."""
        return [*self._lifecycle.actors(), *self._lifecycle.cooling()]

    def lanes(self) -> list[dict[str, Any]]:
        """The dispatcher's."""
        return self._dispatcher.lanes()

    async def warm_up(self, tenant: Tenant) -> tuple[Standing, bool]:
        """Its standing, and whether this call made the actor. Raises Conflict while channels are off, or what a probe met."""
        if self._config.channels == "off":
            raise Conflict("channels are off on this server (SLUICE_CHANNELS): every request is direct")
        running = self._warming.get(tenant.tenant_id)
        if running is not None:
            return await asyncio.shield(running), False
        # A task of its own: a client that leaves must not take the warm-up from those who joined it.
        task = asyncio.get_running_loop().create_task(self._warm_up(tenant))
        self._warming[tenant.tenant_id] = task
        made = self._lifecycle.attached(tenant.tenant_id) is None
        task.add_done_callback(lambda done: self._warmed(tenant.tenant_id, done))
        return await asyncio.shield(task), made

    async def cool_down(self, tenant_id: int) -> Standing:
        """Idempotent."""
        self._warming.pop(tenant_id, None)  # who comes after this command begins anew, and does not join what it ends
        actor = self._lifecycle.attached(tenant_id)
        if actor is not None and actor.phase is Phase.WARMING:
            self._retire(actor, "evict")
        async with self._lock(tenant_id):
            await cool(self._storage, tenant_id)
            actor = self._lifecycle.attached(tenant_id)
            if actor is not None:
                self._retire(actor, "evict")
        return self.standing(tenant_id)

    async def _warm_up(self, tenant: Tenant) -> Standing:
        began = perf_counter()
        async with self._lock(tenant.tenant_id):
            actor = self._lifecycle.attached(tenant.tenant_id)
            if actor is None:
                actor = self._lifecycle.begin(tenant)
            generation, warmed_at, warm_until, remaining_s = await self._row(actor)
            actor.warmed_at, actor.warm_until = warmed_at, warm_until
            if actor.phase is Phase.WARM:
                self._lifecycle.extend(actor, _now() + remaining_s)
                self._changed.set()
                self._count("extend")
                return self.standing(tenant.tenant_id)
            actor.generation = generation
            await self._prove(actor)
            actor.drop_queues()
            self._open(actor, remaining_s)
            log.info("tenant.warmed_up", tenant=tenant.name, generation=generation, took_s=round(perf_counter() - began, 3))
            return self.standing(tenant.tenant_id)

    async def _row(self, actor: TenantActor) -> tuple[int, datetime, datetime, float]:
        try:
            return await warm(self._storage, actor.tenant.tenant_id, self._config.cooldown_s)
        except BaseException:
            self._lifecycle.fail(actor)
            raise

    def _warmed(self, tenant_id: int, task: "asyncio.Task[Standing]") -> None:
        if self._warming.get(tenant_id) is task:
            del self._warming[tenant_id]
        if not task.cancelled():
            task.exception()  # those who waited have it; if all have left, it is nobody's

    async def _prove(self, actor: TenantActor) -> None:
        """A probe through each of the tenant's own queues, so that its first request is as fast as its hundredth."""
        tenant, deadline_s = actor.tenant, self._config.deadline_s
        request_id = facts_of(CAUSE.get()).get("request_id", "")
        asks = [Ask(o, tenant.tenant_id, tenant.name, *probe_of(o), deadline_s, request_id=request_id) for o in OPERATIONS]
        try:
            for ask in asks:
                if actor.phase is Phase.WARMING:
                    self._dispatcher.submit(actor, ask)
                    self._deadlines.watch(ask)
                    await ask.future
        except BaseException:
            self._lifecycle.fail(actor)
            await self._undo(actor)
            raise
        finally:
            for ask in asks:
                self._deadlines.forget(ask)
                ask.abandon()

    async def _undo(self, actor: TenantActor) -> None:
        """The row says warm already; without this, other processes would go on believing it."""
        try:
            await cool(self._storage, actor.tenant.tenant_id)
        except Exception as error:  # noqa: BLE001  # the probe's own failure is the one to tell
            log.warning("tenant.not_cooled", tenant=actor.tenant.name, error=type(error).__name__)

    def _open(self, actor: TenantActor, remaining_s: float) -> None:
        actor.messages = self._places.give(actor.tenant.name)
        if self._lifecycle.ready(actor, _now() + remaining_s):
            self._changed.set()
            self._count("warm_up")
        else:
            self._places.take_back(actor.tenant.name)

    def _retire(self, actor: TenantActor, transition: str) -> None:
        self._lifecycle.retire(actor)
        self._places.take_back(actor.tenant.name)
        self._count(transition)
        log.info("tenant.cooled_down", tenant=actor.tenant.name, generation=actor.generation, draining=actor.open)

    # Following the row

    async def restore(self) -> None:
        """At start, and when the listener was lost: what the rows say."""
        if self._config.channels == "off":
            return
        async with self._restoring:
            # A command may end between the look at the rows and their arrival: of its tenant they are old news.
            self._touched = touched = set(self._locks)
            rows = await warmth_of(self._storage)
            known = {actor.tenant.tenant_id for actor in self._lifecycle.actors() if actor.phase is Phase.WARM}
            for row in rows:
                if row.tenant_id not in touched and self._lifecycle.attached(row.tenant_id) is None:
                    self._adopt(row)
            for tenant_id in known | touched:
                await self._follow(tenant_id)

    async def follow(self, tenant_ids: Iterable[int]) -> None:
        """Another process changed these."""
        if self._config.channels == "on":
            for tenant_id in tenant_ids:
                await self._follow(tenant_id)

    async def _follow(self, tenant_id: int) -> None:
        async with self._lock(tenant_id):
            rows = await warmth_of(self._storage, [tenant_id])
            actor = self._lifecycle.attached(tenant_id)
            if not rows:
                if actor is not None:
                    self._retire(actor, "cooldown")
            elif actor is None:
                self._adopt(rows[0])
            elif actor.phase is Phase.WARM:
                self._keep(actor, rows[0])

    def _adopt(self, row: Warmth) -> None:
        """Without probes: every connection has prepared the statements as it opened."""
        actor = self._lifecycle.begin(Tenant(row.tenant_id, row.name, row.exclusive))
        actor.generation, actor.warmed_at, actor.warm_until = row.generation, row.warmed_at, row.warm_until
        self._open(actor, row.remaining_s)

    def _keep(self, actor: TenantActor, row: Warmth) -> None:
        actor.generation, actor.warmed_at, actor.warm_until = row.generation, row.warmed_at, row.warm_until
        self._lifecycle.extend(actor, _now() + row.remaining_s)
        self._changed.set()

    # Cooling down when the time has come

    async def run(self) -> None:
        """Until `close`: one timer for all tenants."""
        while not self._stopping:
            due = self._lifecycle.next_due()
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            for actor in self._lifecycle.due(_now()):
                await self._expire(actor)

    def close(self) -> None:
        self._stopping = True
        self._changed.set()

    async def _expire(self, actor: TenantActor) -> None:
        """The row decides: another process may have extended it. If it cannot be read, better cold than warm for ever."""
        tenant_id = actor.tenant.tenant_id
        async with self._lock(tenant_id):
            if actor.phase is not Phase.WARM:
                return
            try:
                if self._config.cooldown == "idle" and self._idle_left(actor) > 0:
                    row = Warmth(tenant_id, "", False, actor.generation, *await self._extended(actor))
                    rows = [row]
                else:
                    rows = await warmth_of(self._storage, [tenant_id])
            except Exception as error:  # noqa: BLE001  # whatever it was, the timer of all the others must go on
                log.warning("tenant.row_unread", tenant=actor.tenant.name, error=type(error).__name__)
                rows = []
            if rows:
                actor.warm_until = rows[0].warm_until
                self._lifecycle.keep(actor, _now() + rows[0].remaining_s)
            else:
                self._retire(actor, "cooldown")

    def _left(self, actor: TenantActor) -> float:
        """Until it cools down, if nobody asks any more; what other processes were asked is not known here."""
        left = actor.cools_at - _now() if actor.phase is Phase.WARM else self._config.cooldown_s
        return max(left, self._idle_left(actor) if self._config.cooldown == "idle" else 0.0, 0.0)

    def _idle_left(self, actor: TenantActor) -> float:
        return actor.last_request_at + self._config.cooldown_s - perf_counter()

    async def _extended(self, actor: TenantActor) -> tuple[datetime, datetime, float]:
        _, warmed_at, warm_until, remaining_s = await warm(self._storage, actor.tenant.tenant_id, self._idle_left(actor))
        return warmed_at, warm_until, remaining_s

    # The rest

    def _lock(self, tenant_id: int) -> asyncio.Lock:
        lock = self._locks.get(tenant_id)
        if lock is None:
            lock = self._locks[tenant_id] = asyncio.Lock()
        self._touched.add(tenant_id)
        return lock

    def _count(self, transition: str) -> None:
        self._metrics.tenant_transitions.child(transition).add()


def _now() -> float:
    return asyncio.get_running_loop().time()
