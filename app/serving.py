"""`sluice serve`: one process, or several that share the port and answer one scrape together."""

import asyncio
import signal

import uvloop

from app.database import database
from app.main import create_app
from base import log
from base.config import Config
from handlers.protocol import serve as serve_app
from storage.migrate import migrate


def serve(config: Config, *, workers: int = 1) -> None:
    log.configure()
    with database(config) as config:
        uvloop.run(_serve(config))


async def _serve(config: Config) -> None:
    await migrate(config.database_url)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await serve_app(create_app(config), host=config.host, port=config.port, stop=stop)
