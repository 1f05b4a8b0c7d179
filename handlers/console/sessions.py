"""Who has logged in: a cookie that names a key by its hash, encrypted, which every process can read, and one that starts again.

It opens nothing but the console, and is good for as long as its key is: whoever revokes the key ends the session. Guesses need
no lock-out: a key is 256 random bits, and an attempt costs one look-up by its hash, known or not.
"""

import asyncio
from dataclasses import dataclass
from time import monotonic, time
from urllib.parse import urlsplit

from aiohttp import web

from base.config import Config
from base.errors import Expired, Forbidden, Invalid, ServerBusy
from base.identity import Identity, key_hash
from handlers.cursors import Cursors
from handlers.services import SERVICES, Services

COOKIE = "sluice_console"
LASTS_S = 12 * 3600
"""A shift."""
TRUSTED_S = 600.0
"""Who was let in here within these seconds stays while no key can be looked up: that is when the console is needed most."""
_PATIENCE_S = 0.5
"""How long such a one waits for the look-up, which goes on; a stream does not wait at all."""
_BOUND_TO = (0, ("console", "session"))  # no tenant's cursor is bound to these


@dataclass(frozen=True, slots=True)
class Session:
    """`digest`: the key's hash, in hexadecimal; `ends_at`: seconds since 1970."""

    digest: str
    ends_at: int


class Trusted:
    """When each session's key was last seen to be good, here."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def note(self, session: Session) -> None:
        now = monotonic()
        self._seen = {digest: at for digest, at in self._seen.items() if at > now - TRUSTED_S}
        self._seen[session.digest] = now

    def forget(self, session: Session) -> None:
        self._seen.pop(session.digest, None)

    def has(self, session: Session) -> bool:
        return self._seen.get(session.digest, -TRUSTED_S) > monotonic() - TRUSTED_S


TRUSTED: web.AppKey[Trusted] = web.AppKey("console_trusted", Trusted)


async def session_of(request: web.Request) -> Session | None:
    """The session of the request's cookie, if its key still operates. Raises ServerBusy or Expired where nobody knows."""
    session = _opened(request.app[SERVICES].cursors, request.cookies.get(COOKIE))
    return session if session is not None and await is_good(request, session, _PATIENCE_S) else None


async def is_good(request: web.Request, session: Session, patience_s: float = 0.0) -> bool:
    """Costs a look into memory, and a statement every SLUICE_KEY_TTL_S. Raises as `session_of` does.

    Who is trusted waits `patience_s` at most. With 0 what is found out is seen at the next look.
    """
    services, trusted = request.app[SERVICES], request.app[TRUSTED]
    if session.ends_at <= time():
        return False
    is_trusted = trusted.has(session)
    try:
        async with asyncio.timeout(patience_s if is_trusted else None):
            identity = await services.keys.owner_by_hash(bytes.fromhex(session.digest))
    except (ServerBusy, Expired, TimeoutError):
        if is_trusted:
            return True
        raise
    if identity is None or "operate" not in identity.scopes:
        trusted.forget(session)
        return False
    trusted.note(session)
    return True


async def operator_of(services: Services, key: str) -> Identity | None:
    """Who a key stands for; None when it is unknown. Raises Forbidden for one that may not operate."""
    identity = await services.keys.owner(key)
    if identity is not None and "operate" not in identity.scopes:
        raise Forbidden(identity.without("operate"))
    return identity


def begin(response: web.StreamResponse, services: Services, key: str) -> None:
    session = [key_hash(key).hex(), int(time()) + LASTS_S]
    _set_cookie(response, services.config, services.cursors.seal(*_BOUND_TO, session), LASTS_S)


def end(response: web.StreamResponse, config: Config) -> None:
    _set_cookie(response, config, "", 0)


def _set_cookie(response: web.StreamResponse, config: Config, value: str, lasts_s: int) -> None:
    secure = config.base_url.startswith("https://")
    response.set_cookie(COOKIE, value, max_age=lasts_s, path="/console", httponly=True, secure=secure, samesite="Strict")


def _opened(cursors: Cursors, cookie: str | None) -> Session | None:
    if not cookie:
        return None
    try:
        return Session(*cursors.open(*_BOUND_TO, cookie, tuple[str, int]))
    except Invalid:
        return None


def is_from_elsewhere(request: web.Request) -> bool:
    """Whether another site's page sent this. Browsers say so; what says nothing is no browser, and has no cookie of ours."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    ours = urlsplit(request.app[SERVICES].config.base_url)
    return urlsplit(origin).netloc not in (ours.netloc, request.host)
