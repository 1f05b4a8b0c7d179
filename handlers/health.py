"""Whether the process lives, whether it can serve, and its metrics."""

import asyncio

from aiohttp import web

from base.errors import Problem
from handlers.services import SERVICES
from metrics.exposition import CONTENT_TYPE, exposition


async def live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """503 while the database does not answer within a second."""
    try:
        async with asyncio.timeout(1), request.app[SERVICES].storage.latest(1) as connection:
            await connection.fetch("SELECT 1")
    except (Problem, TimeoutError, OSError) as error:
        return web.json_response({"status": "not ready", "why": type(error).__name__}, status=503)
    return web.json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    text = exposition(services.metrics.families, await services.gather())
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
