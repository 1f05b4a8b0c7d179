"""The outermost middleware: request id, errors, timing, metrics, headers and the log line of every request."""

import asyncio
import itertools
import random
import re
import secrets
from time import perf_counter

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from base.errors import Category, Problem
from base.log import CAUSE
from handlers.encoding import compress, is_large, is_pretty, prettify
from handlers.errors import error_response, http_response, problem_response, unknown_response
from handlers.exchange import EXCHANGE, Exchange
from handlers.services import SERVICES, Services
from storage.asks import Ask

log = structlog.get_logger()

SLOW_S = 0.5
SAMPLE = 0.01  # the share of ordinary requests that get a log line
LONGEST_URL = 8192
SERVER = "sluice"  # aiohttp's own would tell which versions run here
_TIMED = (200, 304, 404)
_REPORTED = (200, 304)  # but an export that was cut off, which says why
_own_id = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_numbers = itertools.count(1)
_process = secrets.token_hex(4)


@web.middleware
async def observing(request: web.Request, handler: Handler) -> web.StreamResponse:
    exchange = request[EXCHANGE] = Exchange(request_id_of(request))
    CAUSE.set(exchange)  # until this task ends: aiohttp makes one for each request
    try:
        response, reason = await _answered(request, handler)
        if exchange.pretty or is_pretty(request):
            prettify(response)
        if is_large(response):
            await compress(request, response)
    except asyncio.CancelledError:
        _count(request.app[SERVICES], exchange, "cancelled", "")
        raise
    _finish(request, exchange, response, reason)
    return response


async def _answered(request: web.Request, handler: Handler) -> tuple[web.StreamResponse, str]:
    """The answer, whatever happens, and of a refusal its reason in the metrics."""
    fhir = not request.path.startswith(("/warm-up", "/reports", "/metrics", "/health", "/console"))
    try:
        if len(request.raw_path) > LONGEST_URL:
            return error_response(414, "too-long", f"a URL has at most {LONGEST_URL} characters", fhir=fhir), ""
        return await handler(request), ""
    except Problem as problem:
        if problem.category is Category.BROKEN:
            log.error("request.failed", exc_info=problem)
        return problem_response(problem, fhir=fhir), problem.category.value
    except web.HTTPException as refusal:
        return http_response(refusal, fhir=fhir), ""
    except Exception as error:  # whatever it was, the client gets an answer and the log its place
        log.error("request.failed", exc_info=error)
        return unknown_response(fhir=fhir), ""


def request_id_of(request: web.BaseRequest) -> str:
    """The client's own, if it is one."""
    given = request.headers.get("X-Request-ID")
    return given if given and _own_id(given) else f"{_process}-{next(_numbers):x}"


def _finish(request: web.Request, exchange: Exchange, response: web.StreamResponse, reason: str) -> None:
    services = request.app[SERVICES]
    now = perf_counter()
    total = now - exchange.started_at
    headers = response.headers
    headers["X-Request-ID"] = exchange.request_id
    headers["Server"] = SERVER
    if exchange.operation is not None:
        headers["X-Sluice-Path"] = exchange.path
        headers["Server-Timing"] = _observe(services, exchange, response.status, now, total)
    elif exchange.name.startswith("report_") and response.status in _REPORTED and not exchange.why:
        services.metrics.report_duration.child(exchange.name).observe(total)
    _count(services, exchange, str(response.status), reason)
    _log(services, request, exchange, response.status, total)


def _observe(services: Services, exchange: Exchange, status: int, now: float, total: float) -> str:
    """Adds to the histograms what is an answer, and says the same to the client, in milliseconds."""
    asks = exchange.asks
    answered = status in _TIMED and asks and exchange.encoded_from
    if not answered:
        return f"total;dur={total * 1000:.3f}"
    operation, path, ask = exchange.operation.name, exchange.path, asks[0]  # type: ignore[union-attr]
    encode = now - exchange.encoded_from
    source = "shared" if ask.shared else "database"
    whole, slots = services.metrics.answered(operation, path, exchange.arm, source)
    whole.observe(total)
    stages = _stages(ask, encode)
    for slot, (_, seconds) in zip(slots, stages, strict=True):
        slot.observe(seconds)
    parts = ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages)
    return f"{parts}, total;dur={total * 1000:.3f}"


def _stages(ask: Ask, encode: float) -> tuple[tuple[str, float], ...]:
    return (
        ("queue", ask.taken_at - ask.submitted_at),
        ("pool", ask.lent_at - ask.taken_at),
        ("query", ask.answered_at - ask.lent_at),
        ("encode", encode),
    )


def _count(services: Services, exchange: Exchange, outcome: str, reason: str) -> None:
    operation = exchange.operation.name if exchange.operation is not None else exchange.name
    services.metrics.requests.child(operation, exchange.path, outcome, reason or exchange.why).add()


def _log(services: Services, request: web.Request, exchange: Exchange, status: int, total: float) -> None:
    """Every error, every slow request and a sample of the rest. Never the query: it may name a patient."""
    mode = services.config.access_log
    if status < 500 and total < SLOW_S and mode != "all" and (mode == "off" or random.random() > SAMPLE):  # noqa: S311
        return
    log.info(
        "request.answered",
        method=request.method,
        path=exchange.path,
        status=status,
        took_ms=round(total * 1000, 3),
    )
