"""An issuer of bearer tokens, on a loopback port: its discovery document, its keys, and what it signs."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support import Served

AUDIENCE = "https://fhir.example/fhir"
DISCOVERY, JWKS = "/.well-known/openid-configuration", "/keys"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


@cache
def key_named(name: str) -> PrivateKey:
    """One key a name, made once: `rsa-…`, `weak-…` (RSA of 1024 bits), `ed-…`, or a curve's name."""
    if name.startswith(("rsa", "weak")):
        return rsa.generate_private_key(public_exponent=65537, key_size=1024 if name.startswith("weak") else 2048)
    return ed25519.Ed25519PrivateKey.generate() if name.startswith("ed") else ec.generate_private_key(_CURVES[name[:5]])


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """The public half, under its name as `kid`."""
    key = key_named(name)
    if isinstance(key, rsa.RSAPrivateKey):
        made = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        made = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**{name: value for name, value in made.items() if name != "key_ops"}, "kid": name, **more}


@dataclass
class IssuerServer:
    """`answers` goes before what it would say by itself at a path; `asked` counts; it is silent until `speaks` is set."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=lambda: [jwk("rsa-1")])
    document: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, web.Response | None] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    speaks: asyncio.Event = field(default_factory=asyncio.Event)

    def token(self, key: str = "rsa-1", algorithm: str = "RS256", /, kid: str | None = "", **claims: Any) -> str:
        """A good token for tenant one; a claim of None is left out. `kid` is the key's name unless it is said."""
        now = int(time.time())
        given = {"iss": self.url, "aud": AUDIENCE, "sub": "someone", "exp": now + 300, "iat": now, "tenant": "one"}
        given |= {"scope": "system/*.rs", **claims}
        headers = {} if kid is None else {"kid": kid or key}
        payload = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(payload, key_named(key), algorithm, headers=headers)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        await self.speaks.wait()
        if request.path in self.answers:
            answer = self.answers[request.path]
            if answer is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        if request.path == DISCOVERY:
            return web.json_response({"issuer": self.url, "jwks_uri": self.url + JWKS, **self.document})
        return web.json_response({"keys": self.keys}) if request.path == JWKS else web.Response(status=404)

    def leaves(self) -> None:
        """From now on it hangs up on everybody."""
        self.answers = {DISCOVERY: None, JWKS: None}


@asynccontextmanager
async def issuing() -> AsyncIterator[IssuerServer]:
    issuer = IssuerServer()
    issuer.speaks.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", issuer.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        issuer.speaks.set()
        await runner.cleanup()


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def verified(server: Served, token: str) -> Any:
    """The identity that a token stands for."""
    assert server.services.tokens is not None
    return await server.services.tokens.owner(token)
