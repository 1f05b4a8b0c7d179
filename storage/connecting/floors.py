"""How far a replica must have replayed to be read by a tenant: beyond what was last announced of it.

From the moment that a change is heard the tenant reads the primary, until the primary has been asked where it is: that is
beyond the change's commit. While nobody listens everybody reads the primary.
"""

from collections.abc import Iterable

import asyncpg

from storage.connecting.watch import end_of_record
from storage.queries import load

CHANGED = "sluice_changed"
"""NOTIFY's channel; the payload is the tenant's number, a space, and the types that changed."""
TENANTS_MAX = 10_000
"""Of so many a floor is kept, whatever the replicas have replayed: one that is started again goes back for a while."""
_SQL = load("watch.sql")


class Floors:
    """LSNs, as numbers of bytes. Its methods but `needed` and `known` are what a Listener calls."""

    def __init__(self) -> None:
        self._all = 0
        self._of: dict[int, int] = {}
        self._heard: set[int] = set()
        self._asked: set[int] = set()
        self._listening = False

    def needed(self, tenant_ids: Iterable[int]) -> int | None:
        """What all of these tenants' reads need; None: the primary itself."""
        if not self._listening:
            return None
        floor, of = self._all, self._of
        for tenant_id in tenant_ids:
            if tenant_id in self._heard or tenant_id in self._asked:
                return None
            if (own := of.get(tenant_id, 0)) > floor:
                floor = own
        return floor

    def known(self, tenant_ids: Iterable[int]) -> int:
        """As far as it is known, for when there is no primary to be read."""
        return max(self._all, *(self._of.get(tenant_id, 0) for tenant_id in tenant_ids))

    def heard(self, tenant_id: int) -> None:
        self._heard.add(tenant_id)

    async def changed(self, connection: asyncpg.Connection, tenant_ids: set[int]) -> None:
        self._asked = tenant_ids
        self._heard -= tenant_ids
        floor = await _written(connection)
        for tenant_id in tenant_ids:
            self._of[tenant_id] = floor
        self._asked = set()
        if len(self._of) > TENANTS_MAX:
            self._all = floor
            self._of.clear()

    async def connected(self, connection: asyncpg.Connection) -> None:
        """Nobody knows what was missed, so all need what there is now."""
        self._all = await _written(connection)
        self._of.clear()
        self._asked = set()
        self._listening = True

    def lost(self) -> None:
        self._listening = False


async def _written(connection: asyncpg.Connection) -> int:
    return end_of_record(await connection.fetchval(_SQL["written"]))
