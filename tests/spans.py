"""A collector of traces: OTLP over HTTP on loopback, read by OpenTelemetry's own protobuf messages."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Told:
    """A span as it was received; ids in hex, times in nanoseconds since 1970."""

    name: str
    trace: str
    own: str
    parent: str
    kind: int
    began: int
    ended: int
    failed: bool
    facts: dict[str, Any]
    links: tuple[tuple[str, str], ...]


@dataclass
class Spans:
    """What has come in so far."""

    url: str = ""
    spans: list[Told] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.raw.append(body)
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_facts(part.resource.attributes))
            self.spans += [_told(span) for scope in part.scope_spans for span in scope.spans]
        self._news.set()
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def seen(self, name: str, number: int = 1) -> list[Told]:
        """The spans of that name, once there are so many."""
        async with asyncio.timeout(20):
            while len(found := self.named(name)) < number:
                self._news.clear()
                await self._news.wait()
        return found

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Told) -> list[str]:
        """The names of a span's children, in the order in which they began."""
        return [span.name for span in sorted(self.children(parent), key=lambda span: span.began)]

    def children(self, parent: Told) -> list[Told]:
        return [span for span in self.spans if span.parent == parent.own and span.trace == parent.trace]


@asynccontextmanager
async def collecting() -> AsyncIterator[Spans]:
    collector = Spans()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()


def _told(span: Any) -> Told:
    return Told(
        name=span.name,
        trace=span.trace_id.hex(),
        own=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == 2,
        facts=_facts(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
