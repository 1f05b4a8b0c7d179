"""`sluice serve`: one process, or several that share the port."""

import socket

import uvloop

from app.database import database
from app.dump import dumping, listen
from app.dump_state import of_api
from app.main import create_app
from app.workers import supervise
from base import log
from base.config import Config, ConfigError
from base.tracing import is_on
from handlers.protocol import Ready, until_told
from handlers.protocol import serve as serve_app
from storage.connecting.pools import warn_if_too_many
from storage.migrate import migrate
from storage.reindex import warn_if_outdated


def serve(given: Config, *, workers: int = 1, ready: Ready | None = None) -> None:
    """Until SIGTERM or SIGINT. `ready` is called when the port is open."""
    log.configure("api" if workers == 1 else "supervisor")
    listen()
    is_on(given)  # what is missing for tracing is said here, not by each of the processes
    with database(on_free_port(given)) as config:
        uvloop.run(_serve(config, workers, ready))


def on_free_port(config: Config) -> Config:
    """The config with a port that can be had: for 0 one is chosen, so that links and workers know it.

    Raises ConfigError when the port is in use: workers, who share theirs, would not notice it.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # What is left of the connections of a server before us is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return config.on_port(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; another port is chosen by --port or SLUICE_PORT"
        ) from None


async def _serve(config: Config, workers: int, ready: Ready | None) -> None:
    stop = until_told()
    await migrate(config.database_url)
    await warn_if_outdated(config.database_url)
    await warn_if_too_many(config, processes=workers)
    if workers > 1:
        await supervise(config, workers, stop)
    else:
        app = create_app(config)
        with dumping(of_api(app)):
            await serve_app(app, host=config.host, port=config.port, stop=stop, ready=ready)
