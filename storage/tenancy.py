"""Tenants and keys, as operators manage them: with the owner's rights, not the API's."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from base.errors import Conflict, Invalid, NotFound
from base.identity import SCOPES, key_hash, new_key
from storage.queries import load

_SQL = load("tenancy.sql")


async def create_tenant(connection: asyncpg.Connection, name: str, *, exclusive: bool = False) -> int:
    """The new tenant's number. Raises Conflict for a name that is taken, Invalid for one that cannot be."""
    try:
        return int(await connection.fetchval(_SQL["create_tenant"], name, exclusive))
    except asyncpg.UniqueViolationError:
        raise Conflict(f"there is a tenant {name} already") from None
    except asyncpg.CheckViolationError:
        raise Invalid("a tenant's name has 1 to 63 lower-case letters, digits and -, and begins with no -") from None


async def list_tenants(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(_SQL["list_tenants"])]


async def tenant_id_of(connection: asyncpg.Connection, name: str) -> int:
    found = await connection.fetchval(_SQL["tenant_id_of"], name)
    if found is None:
        raise NotFound(f"there is no tenant {name}; `sluice tenant create {name}` makes it, `sluice tenant list` shows all")
    return int(found)


async def create_key(connection: asyncpg.Connection, tenant: str | None, scopes: Sequence[str]) -> str:
    """The new key, which is kept nowhere. `tenant` None: an operator's."""
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise Invalid(f"unknown scope {', '.join(unknown)}; there are {', '.join(SCOPES)}")
    tenant_id = None if tenant is None else await tenant_id_of(connection, tenant)
    key = new_key()
    await connection.execute(_SQL["create_key"], tenant_id, key_hash(key), sorted(set(scopes)))
    return key


async def list_keys(connection: asyncpg.Connection, tenant: str | None = None) -> list[dict[str, Any]]:
    """Of all, or of a tenant. Raises NotFound when there is no such tenant."""
    if tenant is not None:
        await tenant_id_of(connection, tenant)
    return [dict(row) for row in await connection.fetch(_SQL["list_keys"], tenant)]


async def revoke_key(connection: asyncpg.Connection, key_id: int) -> None:
    """Processes that have just looked the key up let it in for the seconds that they remember it."""
    if await connection.fetchval(_SQL["revoke_key"], key_id) is None:
        raise NotFound(f"there is no key {key_id} that could be revoked; `sluice key list` shows all")


async def rotate_key(connection: asyncpg.Connection, key_id: int) -> str:
    """A new key with the old one's tenant and scopes; the old one is revoked."""
    key = new_key()
    async with connection.transaction():
        await revoke_key(connection, key_id)
        await connection.execute(_SQL["copy_key"], key_id, key_hash(key))
    return key
