"""Which tenant has which actor: decided at once, without I/O and by a clock that is passed in.

At most one actor of a tenant takes asks; those that cool are detached, drain and are gone. The registry does what is
decided here.
"""

import heapq
import itertools
from collections import Counter

from tenants.actor import Tenant, TenantActor
from tenants.phase import Event, Phase


class Lifecycle:
    def __init__(self, queue_size: int) -> None:
        self._queue_size = queue_size
        self._attached: dict[int, TenantActor] = {}
        self._cooling: dict[int, set[TenantActor]] = {}
        # One entry an actor: an extension only changes cools_at, which is looked at when the entry's time has come.
        self._due: list[tuple[float, int, TenantActor]] = []
        self._order = itertools.count()

    def warm(self, tenant_id: int) -> TenantActor | None:
        """The actor that takes this tenant's asks, if it is warm."""
        actor = self._attached.get(tenant_id)
        return actor if actor is not None and actor.phase is Phase.WARM else None

    def attached(self, tenant_id: int) -> TenantActor | None:
        return self._attached.get(tenant_id)

    def phase(self, tenant_id: int) -> Phase:
        """What the tenant is told."""
        actor = self._attached.get(tenant_id)
        if actor is not None:
            return actor.phase
        return Phase.COOLING if tenant_id in self._cooling else Phase.COLD

    def begin(self, tenant: Tenant) -> TenantActor:
        """A new actor, warming; the tenant must have none that is attached."""
        if tenant.tenant_id in self._attached:
            raise ValueError(f"{tenant.name} has an actor already")
        actor = self._attached[tenant.tenant_id] = TenantActor(tenant, self._queue_size)
        actor.happen(Event.WARM_UP)
        return actor

    def ready(self, actor: TenantActor, cools_at: float) -> bool:
        """False when it was told to cool down meanwhile: the last command holds."""
        if actor.phase is not Phase.WARMING:
            return False
        actor.happen(Event.READY)
        actor.cools_at = cools_at
        heapq.heappush(self._due, (cools_at, next(self._order), actor))
        return True

    def fail(self, actor: TenantActor) -> None:
        if actor.phase is Phase.WARMING:
            actor.happen(Event.FAILED)
            del self._attached[actor.tenant.tenant_id]

    def extend(self, actor: TenantActor, cools_at: float) -> None:
        actor.happen(Event.WARM_UP)
        actor.cools_at = cools_at
        if (
            self._due and self._due[0][0] > cools_at
        ):  # sooner than anybody else: an entry of its own, or it is looked at too late
            heapq.heappush(self._due, (cools_at, next(self._order), actor))

    def retire(self, actor: TenantActor) -> None:
        """Detached at once, it takes nothing new; it drains what it has."""
        actor.happen(Event.COOL_DOWN)
        tenant_id = actor.tenant.tenant_id
        del self._attached[tenant_id]
        self._forget_entries()
        if actor.open:
            self._cooling.setdefault(tenant_id, set()).add(actor)
        else:
            actor.happen(Event.DRAINED)

    def _forget_entries(self) -> None:
        """Of actors that are gone, once they are the most: an entry keeps its actor, queues and all, until its time."""
        if len(self._due) > 2 * len(self._attached) + 16:
            self._due = [entry for entry in self._due if entry[2].phase is Phase.WARM]
            heapq.heapify(self._due)

    def drained(self, actor: TenantActor) -> None:
        actor.happen(Event.DRAINED)
        left = self._cooling[actor.tenant.tenant_id]
        left.remove(actor)
        if not left:
            del self._cooling[actor.tenant.tenant_id]

    def due(self, now: float) -> list[TenantActor]:
        """Warm actors whose time has come. Each is given once: extend it, or retire it."""
        found = []
        while self._due and self._due[0][0] <= now:
            _, order, actor = heapq.heappop(self._due)
            if actor.phase is not Phase.WARM:
                continue
            if actor.cools_at > now:
                heapq.heappush(self._due, (actor.cools_at, order, actor))
            else:
                found.append(actor)
        return found

    def keep(self, actor: TenantActor, cools_at: float) -> None:
        """One that was due stays until then."""
        actor.cools_at = cools_at
        heapq.heappush(self._due, (cools_at, next(self._order), actor))

    def next_due(self) -> float | None:
        return self._due[0][0] if self._due else None

    def actors(self) -> list[TenantActor]:
        return list(self._attached.values())

    def cooling(self) -> list[TenantActor]:
        """The detached."""
        return [actor for actors in self._cooling.values() for actor in actors]

    def counts(self) -> Counter[str]:
        """Actors by phase, the detached among them."""
        counts = Counter(actor.phase.value for actor in self._attached.values())
        counts[Phase.COOLING.value] += sum(len(actors) for actors in self._cooling.values())
        return counts
