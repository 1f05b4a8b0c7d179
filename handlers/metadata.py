"""What this server can do: one CapabilityStatement for all tenants, without a key. https://hl7.org/fhir/R4/http.html#capabilities."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import version

import orjson
from aiohttp import web

from base.config import Config
from base.errors import Invalid, NotSupported, ServerBusy
from handlers.answers import Answer
from handlers.entity import response_of
from handlers.questions import subset_of
from handlers.routing import check_format
from handlers.services import SERVICES
from handlers.tokens import Tokens
from r4.capability import capability_statement
from r4.subset import subset

PATH = "/fhir/metadata"
_MODES = ("", "full", "normative")
_PATIENCE_S = 1.0  # for an issuer that was not asked yet: without its addresses an app would take the server for open
_URIS = {"authorize": "authorization_endpoint", "token": "token_endpoint", "register": "registration_endpoint"}
_VERSION = version("sluice")

Endpoints = tuple[tuple[str, str], ...]


async def metadata(request: web.Request) -> web.Response:
    """Raises Invalid for an unknown mode, NotSupported for the one that asks for TerminologyCapabilities."""
    pairs = list(request.query.items())
    check_format(request, pairs)
    mode = request.query.get("mode", "")
    if mode == "terminology":
        raise NotSupported("there is no TerminologyCapabilities: no terminology is served here", expression="mode")
    if mode not in _MODES:
        raise Invalid("mode is full or normative", expression="mode")
    services = request.app[SERVICES]
    answer = statement(services.config, await _endpoints(services.tokens))
    wanted = subset_of(pairs)
    if wanted is not None:
        body = subset(answer.body, wanted)
        answer = replace(answer, body=body, etag=_etag(body))
    return response_of(request, answer)


async def _endpoints(tokens: Tokens | None) -> Endpoints:
    """Where the first issuer gives tokens, as SMART apps that know no smart-configuration look for it."""
    if tokens is None:
        return ()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            discovery = await next(iter(tokens.issuers.values())).discovery()
    except (ServerBusy, TimeoutError):
        return ()
    found: Mapping[str, object] = {name: discovery.get(member) for name, member in _URIS.items()}
    return tuple((name, uri) for name, uri in found.items() if isinstance(uri, str))


@lru_cache(maxsize=16)
def statement(config: Config, endpoints: Endpoints = ()) -> Answer:
    """Made once of what it depends on: the settings, and what an issuer says."""
    said = capability_statement(
        config.base_url, _VERSION, cors=bool(config.cors_origins), tokens=bool(config.jwt_issuers), endpoints=dict(endpoints)
    )
    body = orjson.dumps(said)
    return Answer(body, _etag(body))


def _etag(body: bytes) -> str:
    return f'W/"{blake2b(body, digest_size=12).hexdigest()}"'
