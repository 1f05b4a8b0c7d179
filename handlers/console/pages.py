"""The pages of the console: itself, the login form, and what may be posted."""

import asyncio
from html import escape
from urllib.parse import parse_qs

import structlog
from aiohttp import web

from base.errors import Forbidden, Problem
from handlers.console import sessions
from handlers.console.assets import page
from handlers.console.hub import HUB
from handlers.errors import STATUS
from handlers.services import SERVICES

log = structlog.get_logger()

HOME, LOGIN, LOGOUT, EVENTS = "/console", "/console/login", "/console/logout", "/console/events"
_LONGEST_FORM = 4096
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere. What plotly would write into style elements stands in console.css."""
# With no-referrer a browser would send `Origin: null` with our own forms.
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_ENDED = "The session has ended: its key was revoked, or twelve hours have passed."
_NOTES = {"ended": _ENDED, "out": "You are logged out."}


async def home(request: web.Request) -> web.Response:
    """303 to the form for who is not logged in."""
    try:
        if await sessions.session_of(request) is None:
            return _see_other(LOGIN)
    except Problem as problem:
        return await _form(STATUS[problem.category][0], error=_because(problem))
    return _html(await page("console.html"))


async def login_form(request: web.Request) -> web.Response:
    return await _form(200, note=_NOTES.get(request.query.get("why", ""), ""))


async def login(request: web.Request) -> web.Response:
    """401 for a key that is unknown, 403 for one that may not operate, each with the form again."""
    if sessions.is_from_elsewhere(request):
        return await _form(403, error="This form was sent by another site's page. Log in here.")
    services = request.app[SERVICES]
    key = await _posted_key(request)
    if not key:
        return await _form(400, error="Enter a key.")
    try:
        identity = await sessions.operator_of(services, key)
    except Forbidden:
        log.info("console.refused", why="scope")
        words = "This key may not operate. `sluice key create --operator` makes one that may."
        return await _form(403, error=words)
    except Problem as problem:
        return await _form(STATUS[problem.category][0], error=_because(problem))
    if identity is None:
        log.info("console.refused", why="unknown")
        return await _form(401, error="This key is unknown, or was revoked.")
    log.info("console.opened", key_id=identity.key_id)
    response = _see_other(HOME)
    sessions.begin(response, services, key)
    return response


async def logout(request: web.Request) -> web.Response:
    if sessions.is_from_elsewhere(request):
        return await _form(403, error="This form was sent by another site's page.")
    response = _see_other(f"{LOGIN}?why=out")
    sessions.end(response, request.app[SERVICES].config)
    return response


async def events(request: web.Request) -> web.StreamResponse:
    """The stream: until the client leaves or does not read, the session ends, or the server does."""
    session = await sessions.session_of(request)
    if session is None:
        return web.Response(status=401, text="log in again", headers=HEADERS)
    with request.app[HUB].watching(request.app[SERVICES], request.transport) as watcher:
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        while (frame := await watcher.next()) is not None:
            try:
                if not await sessions.is_good(request, session):
                    frame = b"event: ended\ndata: {}\n\n"
            except Problem:
                break  # the stream begins anew, and is told why not
            watcher.is_writing = True
            await response.write(frame)
            watcher.is_writing = False
            if frame.startswith(b"event: ended"):
                break
    return response


async def _posted_key(request: web.Request) -> str:
    """Empty for what is no form, or too long for one with a key; blanks around it come from pasting."""
    try:
        async with asyncio.timeout(request.app[SERVICES].config.deadline_s):
            body = await request.content.read(_LONGEST_FORM + 1)
            while body and len(body) <= _LONGEST_FORM and (more := await request.content.read(_LONGEST_FORM + 1)):
                body += more
    except (TimeoutError, web.RequestPayloadError):
        return ""
    if len(body) > _LONGEST_FORM:
        return ""
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def _because(problem: Problem) -> str:
    return f"Nobody can be let in now: {problem}."


async def _form(status: int, *, error: str = "", note: str = "") -> web.Response:
    shown = f'<p class="error" role="alert" id="said">{escape(error)}</p>' if error else ""
    shown = shown or (f'<p class="note" role="status" id="said">{escape(note)}</p>' if note else "")
    return _html(await page("login.html", said=shown, invalid="true" if error else "false"), status)


def _html(text: str, status: int = 200) -> web.Response:
    response = web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
    return response


def _see_other(place: str) -> web.Response:
    return web.Response(status=303, headers={**HEADERS, "Location": place})
