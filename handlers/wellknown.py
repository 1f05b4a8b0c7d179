"""What a SMART app asks first: where its users sign in. https://hl7.org/fhir/smart-app-launch/conformance.html."""

from typing import Any

from aiohttp import web

from base.errors import NotFound
from handlers.issuers import Discovery
from handlers.services import SERVICES
from handlers.tokens import SCOPES

PATHS = ("/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration")
_ENDPOINTS = (
    "authorization_endpoint", "token_endpoint", "registration_endpoint", "management_endpoint", "introspection_endpoint",
    "revocation_endpoint",
)  # fmt: skip
_CLIENTS = {
    "none": "client-public",
    "client_secret_basic": "client-confidential-symmetric",
    "client_secret_post": "client-confidential-symmetric",
    "private_key_jwt": "client-confidential-asymmetric",
}


async def smart_configuration(request: web.Request) -> web.Response:
    """Of the first issuer. Raises NotFound when there is none, ServerBusy when it cannot be asked."""
    tokens = request.app[SERVICES].tokens
    if tokens is None:
        raise NotFound("no issuer of tokens is configured here; keys are what is taken")
    issuer = next(iter(tokens.issuers.values()))
    return web.json_response(smart(await issuer.discovery()))


def smart(discovery: Discovery) -> dict[str, Any]:
    """Nothing that the issuer does not say of itself, and of SMART's capabilities those alone that follow from it.

    Of launches and of scopes for one patient or one type we know nothing, so they are not claimed.
    """
    clients = _listed(discovery, "token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return {
        "issuer": discovery["issuer"],
        "jwks_uri": discovery["jwks_uri"],
        **{name: discovery[name] for name in _ENDPOINTS if isinstance(discovery.get(name), str)},
        "grant_types_supported": [
            name
            for name in _listed(discovery, "grant_types_supported", ["authorization_code"])
            if name in ("authorization_code", "client_credentials")
        ],
        "token_endpoint_auth_methods_supported": clients,
        "scopes_supported": list(SCOPES),
        "response_types_supported": _listed(discovery, "response_types_supported", ["code"]),
        # SMART forbids plain, whatever else the issuer takes.
        "code_challenge_methods_supported": [
            name for name in _listed(discovery, "code_challenge_methods_supported", []) if name == "S256"
        ],
        "capabilities": list(dict.fromkeys(_CLIENTS[name] for name in clients if name in _CLIENTS)),
    }


def _listed(discovery: Discovery, name: str, default: list[str]) -> list[str]:
    """What an issuer leaves out is OpenID Connect's default for it (Discovery 1.0, 3)."""
    given = discovery.get(name)
    return [member for member in given if isinstance(member, str)] if isinstance(given, list) else default
