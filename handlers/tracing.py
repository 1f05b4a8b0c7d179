"""Spans of requests, where tracing is on: a middleware, a wrapper of the entity handler, and one of what settles a batch.

Nothing of this is imported while tracing is off (app/main.py). A request's span is the server's, in the trace that the client
names by `traceparent` (W3C Trace Context), if it names one; what it did is told by the times that its asks carry anyway.
A batch answers many requests: its span stands in the trace of the first of them that is sampled, and links to each; each
of the others links to it.

No span says a path with an id in it, a query, a header, or an exception's message: they may name a patient.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)

from base.tracing import epoch_shift
from handlers.exchange import EXCHANGE, Exchange
from storage.asks import Ask, settle
from storage.connecting.servers import Storage

_traceparent = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_UNTRACED = ("/metrics", "/health/", "/console")
"""Asked by machines every few seconds, or open for as long as somebody looks."""
_METHODS = {"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"}


class Asked:
    """An ask's place in its trace: the spans of its request, of its batch once it is in one, and of who has that below it."""

    __slots__ = ("batch", "first", "request")

    def __init__(self, request: Span) -> None:
        self.request = request
        self.batch = self.first = INVALID_SPAN


def tracing_requests(tracer: Tracer) -> Middleware:
    """Outermost of all."""

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        if route.startswith(_UNTRACED):
            return await handler(request)
        method = request.method if request.method in _METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": request.scheme, **({"http.route": route} if route else {})}
        context = _context_of(request.headers.get("traceparent", ""))
        span = tracer.start_span(f"{method} {route}".strip(), context, SpanKind.SERVER, attributes)
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                response = await handler(request)
        except asyncio.CancelledError:
            _fail(span, "cancelled")
            raise
        else:
            exchange = request.get(EXCHANGE)
            if exchange is not None and span.is_recording():
                _tell(tracer, span, exchange, response.status)
            return response
        finally:
            span.end()

    return traced


def tracing_asks(handler: Handler) -> Handler:
    """The entity handler, whose asks then know their request's span."""

    async def traced(request: web.Request) -> web.StreamResponse:
        span = get_current_span()
        if span.is_recording():
            for ask in request[EXCHANGE].asks:
                ask.trace = Asked(span)
        return await handler(request)

    return traced


def tracing_batches(tracer: Tracer) -> Callable[[Storage, Sequence[Ask]], Awaitable[BaseException | None]]:
    """What a dispatcher settles its batches with."""

    async def traced(storage: Storage, asks: Sequence[Ask]) -> BaseException | None:
        traces = [ask.trace for ask in asks if hasattr(ask, "trace")]
        if not traces:
            return await settle(storage, asks)
        shift = epoch_shift()
        span = tracer.start_span(
            "batch",
            set_span_in_context(traces[0].request),
            attributes={"sluice.operation": asks[0].operation.name, "sluice.batch.size": len(asks)},
            links=[Link(trace.request.get_span_context()) for trace in traces],
            start_time=_time(shift, asks[0].taken_at),
        )
        for trace in traces:
            trace.batch, trace.first = span, traces[0].request
        failure: BaseException | None = None
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                failure = await settle(storage, asks)
        finally:
            _tell_batch(tracer, span, asks, failure, shift)
        return failure

    return traced


def _context_of(header: str) -> Context:
    """The client's span, if that is one. Its tracestate is left where it is: what stands in it is nobody's to pass on here."""
    found = _traceparent(header)
    if found is None or (header.startswith("00-") and found[4]) or not int(found[1], 16) or not int(found[2], 16):
        return Context()
    flags = TraceFlags(int(found[3], 16) & TraceFlags.SAMPLED)
    remote = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _tell(tracer: Tracer, span: Span, exchange: Exchange, status: int) -> None:
    span.set_attributes({"http.response.status_code": status, **_facts_of(exchange)})
    if status >= 500:
        _fail(span, str(status))
    shift = epoch_shift()
    for ask in exchange.asks:
        _span(tracer, span, "queue", shift, ask.submitted_at, _after(ask.taken_at, ask.submitted_at))
        trace = getattr(ask, "trace", None)
        if trace is None or trace.batch is INVALID_SPAN:
            _tell_statement(tracer, span, [ask], shift)
        elif trace.first is not span:
            links = [Link(trace.batch.get_span_context())]
            _span(tracer, span, "batched", shift, ask.taken_at, _after(ask.answered_at, ask.taken_at), links=links)


def _facts_of(exchange: Exchange) -> Mapping[str, Any]:
    identity, operation = exchange.identity, exchange.operation
    facts: dict[str, Any] = {
        "sluice.request_id": exchange.request_id,
        "sluice.operation": operation.name if operation else exchange.name,
    }
    if identity is not None:
        facts["sluice.tenant"] = identity.tenant
    if operation is not None:
        facts |= {"sluice.path": exchange.path, "sluice.arm": exchange.arm}
    if exchange.asks:
        facts["sluice.rows"] = sum(len(ask.rows) for ask in exchange.asks)
        facts["sluice.shared"] = any(ask.shared for ask in exchange.asks)
    return facts


def _tell_batch(tracer: Tracer, span: Span, asks: Sequence[Ask], failure: BaseException | None, shift: int) -> None:
    if failure is not None:
        _fail(span, type(failure).__name__)
    span.set_attribute("sluice.rows", sum(len(ask.rows) for ask in asks if not ask.shared))
    _tell_statement(tracer, span, asks, shift)
    span.end()


def _tell_statement(tracer: Tracer, span: Span, asks: Sequence[Ask], shift: int) -> None:
    """From when it had its connection; the wait for that is a fact of it, for each span costs a request more."""
    ask = max(asks, key=lambda each: each.answered_at)
    if ask.lent_at <= ask.submitted_at:
        return
    facts = {
        "db.system.name": "postgresql",
        "db.operation.name": "SELECT",
        "sluice.operation": ask.operation.name,
        "sluice.pool_wait_s": round(ask.lent_at - ask.taken_at, 6),
    }
    ended = _after(ask.answered_at, ask.lent_at)
    _span(tracer, span, "query", shift, ask.lent_at, ended, SpanKind.CLIENT, attributes=facts)


def _after(moment: float, before: float) -> float:
    """Now, of what failed or was given up before it came so far."""
    return moment if moment > before else perf_counter()


def _span(
    tracer: Tracer,
    parent: Span,
    name: str,
    shift: int,
    began: float,
    ended: float,
    kind: SpanKind = SpanKind.INTERNAL,
    **more: Any,
) -> None:
    """One that is over; times of perf_counter."""
    context = set_span_in_context(parent)
    tracer.start_span(name, context, kind, start_time=_time(shift, began), **more).end(_time(shift, ended))


def _time(shift: int, moment: float) -> int:
    return shift + int(moment * 1e9)


def _fail(span: Span, kind: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)
