"""Which tenants have a name of their own in metrics: a hundred of the warm ones, while they are; the rest are `other`."""

from collections import Counter
from collections.abc import Iterable

from base.operations import OPERATIONS
from metrics.accumulators import Count, Labels
from metrics.catalog import Metrics
from tenants.actor import TenantActor

MOST = 100
OTHER = "other"


class Places:
    def __init__(self, metrics: Metrics) -> None:
        self._messages = metrics.channel_messages
        self._taken: set[str] = set()
        self._others = self._counters(OTHER)

    def give(self, tenant: str) -> dict[str, Count]:
        """Its messages' counters by operation; `other` share theirs."""
        if tenant == OTHER or len(self._taken) >= MOST:
            return self._others
        self._taken.add(tenant)
        return self._counters(tenant)

    def take_back(self, tenant: str) -> None:
        if tenant in self._taken:
            self._taken.discard(tenant)
            for operation in OPERATIONS:
                self._messages.children.pop((tenant, operation.name), None)

    def depths(self, waiting: Iterable[TenantActor]) -> Iterable[tuple[Labels, float]]:
        """How many wait in each channel; `waiting` are the actors with anything in a queue."""
        depths: Counter[Labels] = Counter()
        depths.update({(name, operation.name): 0 for name in (OTHER, *self._taken) for operation in OPERATIONS})
        for actor in waiting:
            label = actor.tenant.name if actor.tenant.name in self._taken else OTHER
            for name in actor.channels:
                depths[label, name] += actor.depth(name)
        return depths.items()

    def _counters(self, label: str) -> dict[str, Count]:
        return {operation.name: self._messages.child(label, operation.name) for operation in OPERATIONS}
