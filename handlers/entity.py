"""The one handler of all entity operations: submits the asks to the path that routing chose, and encodes their rows."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import perf_counter

from aiohttp import web

from handlers.answers import Answer
from handlers.encoding import SMALLEST
from handlers.exchange import EXCHANGE
from handlers.services import SERVICES
from r4.bundle import CONTENT_TYPE


async def entity(request: web.Request) -> web.Response:
    """Raises the Problem that the answer is, if it is one."""
    services = request.app[SERVICES]
    exchange = request[EXCHANGE]
    assert exchange.question is not None  # noqa: S101  # routing has put it there
    try:
        for ask in exchange.asks:
            services.submit(exchange.actor, ask)
            services.deadlines.watch(ask)
        rows = [await ask.future for ask in exchange.asks]
    finally:
        for ask in exchange.asks:
            services.deadlines.forget(ask)
            ask.abandon()
    exchange.encoded_from = perf_counter()
    return response_of(request, exchange.question.encode(rows))


def response_of(request: web.Request, answer: Answer) -> web.Response:
    headers = {"ETag": answer.etag}
    if answer.changed_at is not None:
        headers["Last-Modified"] = _http_date(answer.changed_at.replace(microsecond=0))
    if len(answer.body) >= SMALLEST:
        headers["Vary"] = "Accept-Encoding"  # of a 304, too
    if _unchanged(request, answer):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = CONTENT_TYPE
    return web.Response(body=answer.body, headers=headers)


@lru_cache(maxsize=4096)
def _http_date(moment: datetime) -> str:
    """As RFC 9110, 5.6.7 wants it."""
    return moment.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def _unchanged(request: web.Request, answer: Answer) -> bool:
    """If-None-Match goes before If-Modified-Since, and an unreadable date counts for nothing (RFC 9110, 13.1)."""
    headers = request.headers
    if "If-None-Match" in headers:
        return _matches(",".join(headers.getall("If-None-Match")), answer.etag)
    if answer.changed_at is None or "If-Modified-Since" not in headers:
        return False
    try:
        since = parsedate_to_datetime(headers["If-Modified-Since"])
        return since.tzinfo is not None and answer.changed_at.replace(microsecond=0) <= since
    except (ValueError, OverflowError):
        return False


def _matches(header: str, etag: str) -> bool:
    """Weak comparison; clients send W/"1", "1" and a bare 1."""
    bare = etag.removeprefix("W/").strip('"')
    return any(part in ("*", bare) for part in (given.strip().removeprefix("W/").strip('"') for given in header.split(",")))
