"""Bearer tokens beside keys: JSON Web Tokens (RFC 7519) of the issuers that are configured, with SMART's scopes."""

import re
from collections.abc import Coroutine, Mapping
from time import time
from typing import Any

import jwt

from base.config import Config
from base.errors import Forbidden, InvalidToken
from base.identity import Identity, is_tenant_name, key_hash
from base.remembered import Remembered
from handlers.issuers import ALGORITHMS, Issuer
from storage.keys import KeyRing

LEEWAY_S = 30

# Reads and searches of every type. A scope of one patient or one type gives nothing: we could not keep reads to it.
# https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html; the letters are of its version 2.
_gives_read = re.compile(r"(system|user)/\*\.(read|\*|c?ru?d?s)").fullmatch
_OWN = {"sluice/warm": "warm", "sluice/report": "report"}
SCOPES = ("system/*.rs", "system/*.read", "user/*.rs", "user/*.read", *_OWN)
"""What a client may ask its issuer for."""

_WORDS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "this token has expired",
    jwt.ImmatureSignatureError: "this token is not good yet",
    jwt.InvalidAudienceError: "this token is not meant for this server",
    jwt.MissingRequiredClaimError: "this token does not say whom it is for and how long it is good",
    jwt.InvalidSignatureError: "this token's signature is not its issuer's",
}


class Tokens:
    """Who a token stands for. A verified one is remembered, so that the next request with it costs one look."""

    def __init__(self, config: Config, keys: KeyRing) -> None:
        self.issuers = {url: Issuer(url) for url in config.jwt_issuers}
        self._audience = config.jwt_audience or f"{config.base_url}/fhir"
        self._tenant_claim = config.jwt_tenant_claim
        self._ttl_s = config.key_ttl_s
        self._keys = keys
        self._known: Remembered[bytes, Identity] = Remembered(self._verified)

    def owner(self, token: str) -> Coroutine[Any, Any, Identity]:
        """Raises InvalidToken; Forbidden when it names no tenant; ServerBusy when its issuer or the database is away."""
        return self._known.get(key_hash(token), token)

    async def close(self) -> None:
        for issuer in self.issuers.values():
            await issuer.close()

    async def _verified(self, _digest: bytes, token: str) -> tuple[Identity, float]:
        claims, left_s = await self._claims(token)
        name = claims.get(self._tenant_claim)
        found = await self._keys.tenant(name) if isinstance(name, str) and is_tenant_name(name) else None
        if found is None:
            raise Forbidden(f"this token's claim {self._tenant_claim} names no tenant of this server")
        tenant_id, exclusive = found
        return Identity(None, tenant_id, str(name), exclusive, scopes_of(claims)), min(self._ttl_s, left_s)

    async def _claims(self, token: str) -> tuple[dict[str, Any], float]:
        """The claims, and for how many seconds they are good. Until the signature is checked nothing of a token is believed."""
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError):
            raise InvalidToken("this is no token that can be read") from None
        header, issuer = unverified["header"], self.issuers.get(str(unverified["payload"].get("iss")))
        if issuer is None:
            raise InvalidToken("this token's issuer is not one that is trusted here")
        if header.get("alg") not in ALGORITHMS:
            raise InvalidToken(f"a token is signed here by one of {', '.join(ALGORITHMS)}")
        key = await issuer.key(header.get("kid"), header["alg"])
        if key is None:
            raise InvalidToken("this token's key is not one of its issuer's")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=issuer.url,
                leeway=LEEWAY_S,
                options={"require": ["exp"]},
            )
            return claims, int(claims["exp"]) - time()
        except (jwt.PyJWTError, ValueError, OverflowError) as error:
            raise InvalidToken(_WORDS.get(type(error), "this token cannot be verified")) from None


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Ours, of a token's: `scope` is a string with blanks between (RFC 8693), some issuers send a list, or call it `scp`."""
    given = claims.get("scope", claims.get("scp", ""))
    names = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    found = {_OWN[name] for name in map(str, names) if name in _OWN}
    if any(_gives_read(name) for name in map(str, names)):
        found.add("read")
    return frozenset(found)
