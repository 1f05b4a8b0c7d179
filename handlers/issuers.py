"""An issuer of bearer tokens: its keys, asked of it and kept (OpenID Connect Discovery 1.0, RFC 7517).

Only what an issuer signs with a private key is taken: an algorithm whose key we would have to share with it, or none,
proves nothing.
"""

import asyncio
from time import monotonic
from typing import Any

import aiohttp
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK, PyJWTError

from base.config import is_trustworthy
from base.errors import ServerBusy

log = structlog.get_logger()

KEYS_TTL_S = 300.0
PAUSE_S = 10.0  # between two askings, whatever kinds of tokens come: a flood of unknown keys must not become one of ours
RETRY_S = 2.0  # the same after one that failed
_TIMEOUT_S = 3.0
_LARGEST = 262_144
_KEYS_MAX = 100

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_FITTING: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS = tuple(name for names in _FITTING.values() for name in names)

Keys = list[tuple[str | None, str, PyJWK]]
"""(kid, algorithm, key): a key that does not say its algorithm stands here once for each that fits it."""

Discovery = dict[str, Any]
"""What an issuer says of itself: `issuer` and `jwks_uri` are checked, the rest is as it came."""


class _KeySet(msgspec.Struct):
    keys: list[Any]


class _UnusableError(Exception):
    """What an issuer answered cannot be used; the message says why."""


class Issuer:
    """`url` is what its tokens have as `iss`, to the letter."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._discovery: Discovery | None = None
        self._keys: Keys = []
        self._failed = False
        self._fresh_until = 0.0
        self._ask_next = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key of that id; without an id the only one for the algorithm. None when the issuer has no such key.

        Raises ServerBusy when the key is not known here and the issuer cannot be asked.
        """
        found = self._find(kid, algorithm)
        await self._look_again(wait=found is None)
        found = found or self._find(kid, algorithm)
        if found is None and self._failed:
            raise ServerBusy("the issuer of this token cannot be asked for its keys now")
        return found

    async def discovery(self) -> Discovery:
        """Raises ServerBusy as long as it could not be asked at all."""
        await self._look_again(wait=self._discovery is None)
        if self._discovery is None:
            raise ServerBusy("the issuer of tokens cannot be asked now")
        return self._discovery

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        fitting = [key for name, fits, key in self._keys if fits == algorithm and kid in (None, name)]
        return fitting[0] if len(fitting) == 1 else None

    async def _look_again(self, *, wait: bool) -> None:
        """Asks the issuer if what is known is old, or `wait` says that it does not do; but not if it was just asked.

        What is known stays good while the issuer is asked, and when it is away.
        """
        now = monotonic()
        if not wait and now < self._fresh_until:
            return
        if self._asking is None and now >= self._ask_next:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        if wait and self._asking is not None:
            await asyncio.shield(self._asking)

    def _asked(self, _task: "asyncio.Task[None]") -> None:
        self._asking = None

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                self._discovery, self._keys = await _fetched(self.url)
        except Exception as error:  # noqa: BLE001  # whatever an issuer answers, what is known of it stays good
            why = str(error) if isinstance(error, _UnusableError) else type(error).__name__
            log.warning("issuer.asking_failed", issuer=self.url, why=why)
            self._failed = True
            self._ask_next = monotonic() + RETRY_S
        else:
            self._failed = False
            self._fresh_until, self._ask_next = monotonic() + KEYS_TTL_S, monotonic() + PAUSE_S


async def _fetched(issuer: str) -> tuple[Discovery, Keys]:
    """No cookies, no redirects, no compression: an answer is what stands at this address, and as large as it seems."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session:
        text = await _body(session, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        discovery = msgspec.json.decode(text, type=Discovery)
        if discovery.get("issuer") != issuer:
            raise _UnusableError("it says that it is another")
        return discovery, keys_of(await _body(session, _key_address(issuer, discovery.get("jwks_uri"))))


def _key_address(issuer: str, given: Any) -> str:
    """The keys of one that is asked by https come by https."""
    if isinstance(given, str) and is_trustworthy(given) and given.startswith(issuer.partition("//")[0]):
        return given
    raise _UnusableError("its jwks_uri is no https address")


async def _body(session: aiohttp.ClientSession, url: str) -> bytes:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        if response.status != 200:
            raise _UnusableError(f"it answered {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _LARGEST:
                raise _UnusableError("its answer is too large")
        return bytes(body)


def keys_of(text: bytes) -> Keys:
    """Of a JSON Web Key Set those keys that can sign tokens for us. Raises msgspec.DecodeError for what is none."""
    keys: Keys = []
    for data in msgspec.json.decode(text, type=_KeySet).keys[:_KEYS_MAX]:
        if not isinstance(data, dict) or data.get("use", "sig") != "sig":
            continue
        fitting = next((names for kind, names in _FITTING.items() if kind == (data.get("kty"), data.get("crv"))), ())
        for name in fitting:
            if data.get("alg", name) == name and (key := _key(data, name)) is not None:
                keys.append((data.get("kid"), name, key))
    return keys


def _key(data: dict[str, Any], algorithm: str) -> PyJWK | None:
    try:
        key = PyJWK(data, algorithm)
        weak = key.Algorithm.check_key_length(key.key)
    except (PyJWTError, UnsupportedAlgorithm):  # the latter where OpenSSL is held to FIPS
        return None
    return None if weak else key
