"""Routing: key → tenant → operation → channel or direct.

A middleware, so that it stands before every handler, entity or not. `ACCESS` says what each route asks of a key.
"""

import random
import re
from functools import lru_cache

from aiohttp import web
from aiohttp.typedefs import Handler

from base.errors import Conflict, Forbidden, Invalid, NotAcceptable, Unauthenticated
from base.identity import Identity
from base.operations import OPERATIONS, OTHERS, Operation
from handlers import reports, wellknown
from handlers.answers import Pairs
from handlers.console import routes as console
from handlers.exchange import EXCHANGE, Exchange
from handlers.posted import pairs_of
from handlers.questions import question_of
from handlers.services import SERVICES, Services
from storage.asks import Ask
from tenants.actor import TenantActor

OPERATION_OF: dict[str, Operation] = {route: operation for operation in (*OPERATIONS, *OTHERS) for route in operation.routes}

OPEN = "open"
ACCESS: dict[str, str] = {
    "/warm-up": "warm",
    "/health/live": OPEN,
    "/health/ready": OPEN,
    "/metrics": "operate",
    "/fhir/metadata": OPEN,
    **dict.fromkeys(wellknown.PATHS, OPEN),
    **dict.fromkeys(console.PATHS, OPEN),  # it has a login of its own
    **dict.fromkeys(reports.NAMES, "report"),
    **dict.fromkeys(OPERATION_OF, "read"),
}
_NAMES = {**reports.NAMES, **dict.fromkeys(console.PATHS, console.NAME)}
_JSON = {"*/*", "application/*", "application/json", "application/fhir+json", "text/json", "json", "text/*"}


@web.middleware
async def routing(request: web.Request, handler: Handler) -> web.StreamResponse:
    resource = request.match_info.route.resource
    if resource is None:  # no such route, or not with this method: aiohttp's own handler says so
        return await handler(request)
    services, exchange = request.app[SERVICES], request[EXCHANGE]
    operation = exchange.operation = OPERATION_OF.get(resource.canonical)
    exchange.name = _NAMES.get(resource.canonical, "none")
    scope = ACCESS[resource.canonical]
    if scope == OPEN or (resource.canonical == "/metrics" and services.metrics_open):
        return await handler(request)
    identity = exchange.identity = await _identified(request, services, scope)
    if operation is not None:
        pairs = await pairs_of(request, services.config.deadline_s)
        _prepare(request, pairs, services, exchange, operation, identity)
    return await handler(request)


async def _identified(request: web.Request, services: Services, scope: str) -> Identity:
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    key = key.strip()
    if kind.lower() != "bearer" or not key:
        raise Unauthenticated("a key is needed: Authorization: Bearer KEY")
    if services.tokens is not None and key.count(".") == 2:  # no key of ours has a dot
        identity: Identity | None = await services.tokens.owner(key)
    else:
        identity = await services.keys.owner(key)
    if identity is None:
        raise Unauthenticated("this key is unknown or was revoked")
    if scope not in identity.scopes:
        raise Forbidden(identity.without(scope))
    if identity.tenant_id is None and scope != "operate":
        raise Forbidden("this key belongs to no tenant")
    return identity


def _prepare(
    request: web.Request, pairs: Pairs, services: Services, exchange: Exchange, operation: Operation, identity: Identity
) -> None:
    """The parsed ask and its path; the handler submits it."""
    check_format(request, pairs)
    tenant_id = identity.tenant_id or 0
    question = question_of(request, pairs, operation, tenant_id, services.config.base_url, services.cursors)
    exchange.question = question
    exchange.actor, exchange.arm, exchange.why = _actor(request, services, operation, identity)
    exchange.path = "direct" if exchange.actor is None else "channel"
    exchange.asks = tuple(
        Ask(
            operation,
            tenant_id,
            identity.tenant,
            statement,
            values,
            services.config.deadline_s,
            exclusive=identity.exclusive,
            request_id=exchange.request_id,
        )
        for statement, values in question.parts
    )


def _actor(
    request: web.Request, services: Services, operation: Operation, identity: Identity
) -> tuple[TenantActor | None, str, str]:
    """The actor that takes the asks, None for direct; the arm, which warm tenants' requests alone have; and why."""
    actor = services.registry.actor_for(identity.tenant_id or 0, operation)
    forced = request.headers.get("X-Sluice-Force")
    if forced is not None:
        return _forced(forced, actor, identity), "none", "forced"
    if actor is None:
        return None, "none", "cold"
    if random.random() < services.config.control_share:  # noqa: S311  # a draw, not a secret
        return None, "control", "control"
    return actor, "treatment", ""


def _forced(path: str, actor: TenantActor | None, identity: Identity) -> TenantActor | None:
    if "operate" not in identity.scopes:
        raise Forbidden("X-Sluice-Force needs a key with the scope operate")
    if path not in ("channel", "direct"):
        raise Invalid("X-Sluice-Force takes channel or direct", expression="X-Sluice-Force")
    if path == "channel" and actor is None:
        raise Conflict("this tenant has no channel for this operation now; POST /warm-up makes it")
    return actor if path == "channel" else None


def check_format(request: web.Request, pairs: Pairs) -> None:
    """`_format` goes before Accept (http.html#parameters); a + in it may have been decoded to a space."""
    request[EXCHANGE].pretty = ("_pretty", "true") in pairs  # of a form: no middleware reads it
    given = next((value for name, value in pairs if name == "_format"), "")
    if given:
        if not _acceptable(given.replace("fhir json", "fhir+json")):
            raise NotAcceptable("only JSON of FHIR 4.0 is spoken here: application/fhir+json", expression="_format")
    elif not _acceptable(request.headers.get("Accept", "*/*")):
        raise NotAcceptable("only JSON of FHIR 4.0 is spoken here: application/fhir+json")


@lru_cache(maxsize=1024)
def _acceptable(accept: str) -> bool:
    """Whether one of its media types is JSON, of FHIR 4.0 where it says a version."""
    for given in accept.split(","):
        kind, *rest = (part.strip() for part in given.lower().split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        version = parameters.get("fhirversion", "4.0").strip('"')
        refused = re.fullmatch(r"0(\.0*)?", parameters.get("q", "1"))
        if (kind in _JSON or not kind) and version in ("4.0", "4.0.1") and not refused:
            return True
    return False
