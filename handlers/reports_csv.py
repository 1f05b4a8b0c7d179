"""Reports as CSV: all rows from one snapshot, as PostgreSQL writes them, no faster than the client reads.

Rows go through as bytes, so an export of a million takes this process little time, and only what is on its way memory.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from aiohttp import web

from base.errors import Problem, ServerBusy
from handlers.cors import share
from handlers.exchange import EXCHANGE
from handlers.reports_answers import PRIVATE, Freshness, tenant_of, who
from handlers.services import SERVICES
from storage.connecting.connections import Connection
from storage.failures import problem_of
from storage.reports import EXPORT_SETTINGS, Selected, copy_csv, snapshot, state_of

log = structlog.get_logger()

STALL_S = 30.0
"""How long a client may read nothing of what is there for it."""


class Exports:
    """At most half of the reports' connections are exports': they may last, and pages must not wait for them."""

    def __init__(self, connections: int, stall_s: float = STALL_S) -> None:
        self.running = 0
        self.limit = max(connections // 2, 1)
        self.stall_s = stall_s

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises ServerBusy."""
        if self.running >= self.limit:
            raise ServerBusy(f"{self.limit} exports are running, as many as may at once; try again")
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


EXPORTS: web.AppKey[Exports] = web.AppKey("exports", Exports)


async def export(request: web.Request, name: str, selected: Selected, view: str | None, *, ages: bool) -> web.StreamResponse:
    """`view`: the report that it is as old as; None: it is of this moment. Raises a Problem as long as nothing is sent."""
    services, identity = who(request)
    response = web.StreamResponse()
    try:
        with request.app[EXPORTS].place():
            patience_s = services.config.pool_acquire_s
            async with snapshot(services.storage, tenant_of(identity), patience_s, EXPORT_SETTINGS) as connection:
                freshness = Freshness(await state_of(connection, view), "csv", ages=ages) if view else None
                if freshness is not None and freshness.is_known(request):
                    return web.Response(status=304, headers=freshness.headers)
                _describe(request, response, name, freshness)
                await _stream(request, response, connection, selected)
    except Exception as error:
        if not response.prepared:
            if isinstance(error, Problem):
                raise
            raise problem_of(error) from error
        _cut(request, name, error)
    return response


def _describe(request: web.Request, response: web.StreamResponse, name: str, freshness: Freshness | None) -> None:
    response.headers.update(freshness.headers if freshness else {"Vary": "Accept", **PRIVATE})
    response.headers["Content-Type"] = "text/csv; charset=utf-8; header=present"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    # No middleware can add to what is sent already.
    response.headers["X-Request-ID"] = request[EXCHANGE].request_id
    share(request, response, request.app[SERVICES].config.cors_origins)


async def _stream(request: web.Request, response: web.StreamResponse, connection: Connection, selected: Selected) -> None:
    stall_s = request.app[EXPORTS].stall_s

    async def send(lines: bytes) -> None:
        if not response.prepared:  # only now it is known that there is an answer
            await response.prepare(request)
        async with asyncio.timeout(stall_s):
            await response.write(lines)

    if request.method == "HEAD":
        await response.prepare(request)
    else:
        await copy_csv(connection, selected, send)


def _cut(request: web.Request, name: str, error: Exception) -> None:
    """A file that ends too soon must not look like one that is whole: the connection is cut off before the last chunk."""
    problem = problem_of(error)
    left = isinstance(error, ConnectionError)
    request[EXCHANGE].why = "left" if left else problem.category.value if isinstance(problem, Problem) else "exception"
    log.warning("export.cut", report=name, error=type(error).__name__)
    if request.transport is not None:
        request.transport.abort()
