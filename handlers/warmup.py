"""The warm-up endpoint: a tenant says that it is about to be busy, asks how it stands, or cools down early."""

from datetime import datetime
from typing import Any

from aiohttp import web

from base.identity import Identity
from base.operations import OPERATIONS
from handlers.exchange import EXCHANGE
from handlers.services import SERVICES, Services
from tenants.actor import Tenant
from tenants.registry import Standing


async def warm_up(request: web.Request) -> web.Response:
    """201 when this request made the actor, 200 when the tenant was warm or warming."""
    services, identity = _who(request)
    tenant = Tenant(identity.tenant_id or 0, identity.tenant, identity.exclusive)
    standing, made = await services.registry.warm_up(tenant)
    return web.json_response(_shown(services, identity, standing), status=201 if made else 200)


async def standing(request: web.Request) -> web.Response:
    services, identity = _who(request)
    return web.json_response(_shown(services, identity, services.registry.standing(identity.tenant_id or 0)))


async def cool_down(request: web.Request) -> web.Response:
    """200 also when it was cold already."""
    services, identity = _who(request)
    return web.json_response(_shown(services, identity, await services.registry.cool_down(identity.tenant_id or 0)))


def _who(request: web.Request) -> tuple[Services, Identity]:
    identity = request[EXCHANGE].identity
    assert identity is not None  # noqa: S101  # routing lets nobody in without
    return request.app[SERVICES], identity


def _shown(services: Services, identity: Identity, standing: Standing) -> dict[str, Any]:
    return {
        "tenant": identity.tenant,
        "state": standing.state.value,
        "generation": standing.generation,
        "warmed_at": _time(standing.warmed_at),
        "cools_at": _time(standing.cools_at),
        "cooldown_s": services.config.cooldown_s,
        "channels": [operation.name for operation in OPERATIONS] if standing.generation is not None else [],
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
