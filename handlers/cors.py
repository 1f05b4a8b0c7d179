"""Pages of other origins may ask, where SLUICE_CORS_ORIGINS says so. https://fetch.spec.whatwg.org/#http-cors-protocol.

A key or a token stands in Authorization, which a page sets itself: cookies are never asked for, so there is no
Access-Control-Allow-Credentials. Without the setting neither middleware is there, and nothing costs anything.
"""

from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_METHODS = "GET, HEAD, POST, DELETE"
_TAKEN = "Authorization, Content-Type, Accept, Prefer, If-None-Match, If-Modified-Since, X-Request-ID, X-Sluice-Force"
_EXPOSED = "ETag, Last-Modified, X-Request-ID, X-Sluice-Path, Server-Timing, Retry-After"
_MAX_AGE_S = 7200  # the longest that Chromium keeps it


def sharing(origins: Sequence[str]) -> Middleware:
    """Outermost, so that refusals have the headers, too: without them a page would not learn why it was refused."""

    @web.middleware
    async def shared(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not response.prepared:
            share(request, response, origins)
        return response

    return shared


def share(request: web.Request, response: web.StreamResponse, origins: Sequence[str]) -> None:
    """What a page of one of the origins needs to read the answer. Of an answer that is streamed, before it begins."""
    if not origins:
        return
    if origins[0] != "*":
        vary = response.headers.get("Vary")
        response.headers["Vary"] = f"{vary}, Origin" if vary else "Origin"
    origin = _allowed(request, origins)
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED


def preflight(origins: Sequence[str]) -> Middleware:
    """A browser asks before it sends a key, and without one: it is told here, before any key is looked at."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return await handler(request)
        if _allowed(request, origins) is None:
            return await handler(request)
        told = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _TAKEN,
            "Access-Control-Max-Age": str(_MAX_AGE_S),
        }
        return web.Response(status=204, headers=told)

    return answer


def _allowed(request: web.Request, origins: Sequence[str]) -> str | None:
    origin = request.headers.get("Origin")
    if origin is None or origins[0] == "*":
        return origin and "*"
    return origin if origin in origins else None
