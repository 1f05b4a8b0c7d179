"""Whether the process lives, whether it can serve, and its metrics."""

import asyncio

from aiohttp import web

from base.errors import Problem
from handlers.services import SERVICES
from metrics.exposition import CONTENT_TYPE, exposition
from storage.connecting.servers import Storage
from storage.failures import problem_of, worth_another_try


async def live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """503 while the database does not answer within a second."""
    storage = request.app[SERVICES].storage
    try:
        async with asyncio.timeout(1):
            try:
                await _look(storage)
            except Exception as error:
                if not worth_another_try(error):
                    raise
                await _look(storage)  # a server was just lost: what serves reads now is what counts
    except Exception as error:
        if not isinstance(problem_of(error), Problem):
            raise
        return web.json_response({"status": "not ready", "why": type(error).__name__}, status=503)
    return web.json_response({"status": "ready"})


async def _look(storage: Storage) -> None:
    async with storage.latest(1) as connection:
        await connection.fetch("SELECT 1")


async def metrics(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    text = exposition(services.metrics.families, await services.gather())
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
