"""Keys: looked up once, remembered for seconds. A revoked key is refused when its memory has run out."""

import asyncio
from collections import OrderedDict
from time import monotonic

from base.identity import Identity, key_hash
from storage.connections import Storage
from storage.failures import problem_of

_OWNER = "SELECT key_id, tenant_id, tenant, exclusive, scopes FROM ops.key_owner($1)"
HOT = (_OWNER,)
_KEPT = 20_000  # unknown keys are remembered too, so that hammering with one costs no statement each


class KeyRing:
    def __init__(self, storage: Storage, ttl_s: float) -> None:
        self._storage = storage
        self._ttl_s = ttl_s
        self._known: OrderedDict[bytes, tuple[float, Identity | None]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Identity | None]] = {}

    async def owner(self, key: str) -> Identity | None:
        """Who a key stands for; None when it is unknown or revoked. Raises ServerBusy or Expired when it cannot be asked."""
        digest = key_hash(key)
        known = self._known.get(digest)
        if known is not None and known[0] > monotonic():
            return known[1]
        return await self._look_up(digest)

    async def _look_up(self, digest: bytes) -> Identity | None:
        """Those who come while a key is looked up share the answer; one of them leaving takes nothing from the others."""
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.get_running_loop().create_task(self._fetch(digest))
            task.add_done_callback(lambda done: self._forget(digest, done))
        return await asyncio.shield(task)

    def _forget(self, digest: bytes, task: "asyncio.Task[Identity | None]") -> None:
        del self._asked[digest]
        if not task.cancelled():
            task.exception()  # those who waited have it; if all have left, it is nobody's

    async def _fetch(self, digest: bytes) -> Identity | None:
        try:
            async with self._storage.read() as connection:
                rows = await connection.fetch(_OWNER, digest)
        except Exception as error:
            raise problem_of(error) from error
        identity = None
        if rows:
            key_id, tenant_id, tenant, exclusive, scopes = rows[0]
            identity = Identity(key_id, tenant_id, tenant, exclusive, frozenset(scopes))
        self._known.pop(digest, None)
        self._known[digest] = (monotonic() + self._ttl_s, identity)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return identity
