"""Keys and the tenants that tokens name: looked up once, remembered for seconds.

A revoked key is refused when its memory has run out. What is unknown is remembered too, so that hammering with one
costs no statement each.
"""

from collections.abc import Coroutine
from typing import Any

import asyncpg

from base.identity import Identity, key_hash
from base.remembered import Remembered
from storage.connecting.servers import Storage
from storage.failures import problem_of

_OWNER = "SELECT key_id, tenant_id, tenant, exclusive, scopes FROM ops.key_owner($1)"
_TENANT = "SELECT tenant_id, exclusive FROM ops.tenant WHERE name = $1"
HOT = (_OWNER,)


class KeyRing:
    def __init__(self, storage: Storage, ttl_s: float) -> None:
        self._storage = storage
        self._ttl_s = ttl_s
        self._owners: Remembered[bytes, Identity | None] = Remembered(self._owner)
        self._tenants: Remembered[str, tuple[int, bool] | None] = Remembered(self._tenant)

    def owner(self, key: str) -> Coroutine[Any, Any, Identity | None]:
        """Who a key stands for; None when it is unknown or revoked. Raises ServerBusy or Expired when it cannot be asked."""
        return self._owners.get(key_hash(key))

    def owner_by_hash(self, digest: bytes) -> Coroutine[Any, Any, Identity | None]:
        """As `owner`, of whom only the key's hash is known: a console's session holds no more."""
        return self._owners.get(digest)

    def tenant(self, name: str) -> Coroutine[Any, Any, tuple[int, bool] | None]:
        """(tenant_id, exclusive) of a tenant's name; None when there is no such tenant. Raises as `owner` does."""
        return self._tenants.get(name)

    async def _owner(self, digest: bytes) -> tuple[Identity | None, float]:
        row = await self._row(_OWNER, digest)
        if row is None:
            return None, self._ttl_s
        key_id, tenant_id, tenant, exclusive, scopes = row
        return Identity(key_id, tenant_id, tenant, exclusive, frozenset(scopes)), self._ttl_s

    async def _tenant(self, name: str) -> tuple[tuple[int, bool] | None, float]:
        row = await self._row(_TENANT, name)
        return None if row is None else (row[0], row[1]), self._ttl_s

    async def _row(self, sql: str, value: bytes | str) -> asyncpg.Record | None:
        try:
            async with self._storage.latest() as connection:
                rows = await connection.fetch(sql, value)
        except Exception as error:
            raise problem_of(error) from error
        return rows[0] if rows else None
