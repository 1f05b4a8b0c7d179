"""`sluice serve`: one process, or several that share the port."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop
from aiohttp import web

from app.database import database
from app.main import create_app
from app.workers import supervise
from base import log
from base.config import Config, ConfigError
from handlers.protocol import serve as serve_app
from storage.migrate import migrate

Ready = Callable[[web.Application], Awaitable[None]]


def serve(given: Config, *, workers: int = 1, ready: Ready | None = None) -> None:
    """Until SIGTERM or SIGINT. `ready` is called when the port is open."""
    if workers > 1 and given.port == 0:
        raise ConfigError("several workers need a port that is known: set SLUICE_PORT")
    log.configure()
    with database(given) as config:
        uvloop.run(_serve(config, workers, ready))


async def _serve(config: Config, workers: int, ready: Ready | None) -> None:
    stop = until_told()
    await migrate(config.database_url)
    if workers > 1:
        await supervise(config, workers, stop)
    else:
        await serve_app(create_app(config), host=config.host, port=config.port, stop=stop, ready=ready)


def until_told() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    return stop
