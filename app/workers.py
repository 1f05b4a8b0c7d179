"""`sluice serve --workers N`: processes that share one port, kept running by a parent, and one scrape of all of them.

The kernel spreads connections over the processes (SO_REUSEPORT). Whichever gets the scrape asks its siblings for their
snapshots through sockets in a folder of the parent's, and sums them.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
import uvloop

from app.main import create_app
from app.parent import follow_parent
from base import log as logs
from base.config import Config
from handlers.protocol import serve, until_told
from handlers.services import SERVICES
from metrics.accumulators import Snapshot, merged
from metrics.catalog import Metrics
from storage.pools import api_size

log = structlog.get_logger()

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_FOLDER = "SLUICE_WORKERS_DIR"  # from parent to child, nobody else's business
_PATIENCE_S = 1.0
_RESTART_PAUSE_S = 0.5
_DRAIN_S = 30.0


async def supervise(config: Config, workers: int, stop: asyncio.Event) -> None:
    """Until `stop`: a child that ends is started again."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        given = {"SLUICE_DATABASE_URL": config.database_url, "SLUICE_HOST": config.host, "SLUICE_PORT": str(config.port)}
        if config.replica_url:  # the primary may be one that was named as a replica
            given["SLUICE_REPLICA_URL"] = ",".join(config.replica_url)
        shared = {"SLUICE_POOL_SIZE": str(api_size(config, workers))}  # the machine's cores are there for all of them
        ours = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in given}
        environment = {**ours, **given, **shared, _FOLDER: folder}
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(_keep_running(number, environment, stop))


async def _keep_running(number: int, environment: dict[str, str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.workers", str(number), env=environment, stdin=asyncio.subprocess.PIPE
        )
        ended, stopped = asyncio.ensure_future(child.wait()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await _end(child, ended)
        else:
            log.error("worker.ended", worker=number, exit_code=child.returncode)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped, _RESTART_PAUSE_S)


async def _end(child: asyncio.subprocess.Process, ended: "asyncio.Future[int]") -> None:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(ended, _DRAIN_S)
    except TimeoutError:
        child.kill()
        await child.wait()


async def run_worker(number: int, folder: Path, config: Config, stop: asyncio.Event) -> None:
    own = folder / f"{number}.sock"
    # What a sibling said last stands for one that is silent for once: a sum that falls and rises would look like a restart.
    said: dict[Path, Snapshot] = {}

    async def gather(metrics: Metrics) -> Snapshot:
        others = [path for path in sorted(folder.glob("*.sock")) if path != own]
        found = await asyncio.gather(*map(_snapshot_of, others))
        said.update({path: snapshot for path, snapshot in zip(others, found, strict=True) if snapshot is not None})
        return merged(metrics.families, [metrics.snapshot(), *(said[path] for path in others if path in said)])

    app = create_app(config, gather=gather)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (services := app.get(SERVICES)) is not None:  # not yet, while it starts
            writer.write(msgspec.json.encode(services.metrics.snapshot()))
            await writer.drain()
        writer.close()

    async with _listening(own, answer):
        await serve(app, host=config.host, port=config.port, stop=stop, reuse_port=True)


@contextlib.asynccontextmanager
async def _listening(path: Path, answer: Answer) -> AsyncIterator[None]:
    path.unlink(missing_ok=True)  # of a worker before us that was killed
    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _snapshot_of(path: Path) -> Snapshot | None:
    """None for a sibling that is starting, stopping, gone or too busy."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            text = await reader.read()
            writer.close()
        return msgspec.json.decode(text) if text else None
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None


def _main() -> None:
    logs.configure()
    follow_parent()

    async def run() -> None:
        stop = until_told()
        await run_worker(int(sys.argv[1]), Path(os.environ[_FOLDER]), Config.from_mapping(os.environ), stop)

    try:
        uvloop.run(run())
    except KeyboardInterrupt:  # told to end before it listened for that
        sys.exit(130)
    except Exception as error:  # the log has its place, and no traceback with a message
        log.error("worker.failed", worker=int(sys.argv[1]), exc_info=error)
        sys.exit(1)


if __name__ == "__main__":
    _main()
