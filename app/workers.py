"""`sluice serve --workers N`: processes that share one port, kept running by a parent, and one scrape of all of them.

The kernel spreads connections over the processes (SO_REUSEPORT). Whichever gets the scrape asks its siblings for their
snapshots through sockets in a folder of the parent's, and sums them.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic

import msgspec
import structlog
import uvloop

from app.dump import Line, dumping, listen
from app.dump_state import of_api
from app.main import create_app
from app.parent import follow_parent
from base import log as logs
from base.config import Config
from handlers.protocol import serve, until_told
from handlers.services import SERVICES
from metrics.accumulators import Snapshot, merged
from metrics.catalog import Metrics
from storage.connecting.pools import api_size

log = structlog.get_logger()

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_FOLDER = "SLUICE_WORKERS_DIR"  # from parent to child, nobody else's business
_PATIENCE_S = 1.0
_SILENT_S = 30.0
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
        children = _Children(Path(folder))
        with dumping(children.standing, children.pass_on):
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(_keep_running(number, children, environment, stop))


class _Children:
    """Those that run, by their numbers."""

    def __init__(self, folder: Path) -> None:
        self.running: dict[int, asyncio.subprocess.Process] = {}
        self._folder = folder

    def standing(self) -> list[Line]:
        return [("dump.process", {"worker": number, "pid": child.pid}) for number, child in self.running.items()]

    def pass_on(self, name: signal.Signals) -> None:
        """Called in a thread. One that still starts does not listen for it, and would end."""
        for number, child in list(self.running.items()):
            if child.returncode is None and self._socket(number).exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, name)

    async def gone(self, number: int) -> None:
        """From then on its process id may be another's, and gets no signal."""
        await self.running[number].wait()
        del self.running[number]
        self._socket(number).unlink(missing_ok=True)  # left there by one that was killed

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.sock"


async def _keep_running(number: int, children: _Children, environment: dict[str, str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        child = children.running[number] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.workers", str(number), env=environment, stdin=asyncio.subprocess.PIPE
        )
        ended, stopped = asyncio.ensure_future(children.gone(number)), asyncio.ensure_future(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await _end(child, ended)
        else:
            log.error("worker.ended", worker=number, exit_code=child.returncode)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped, _RESTART_PAUSE_S)


async def _end(child: asyncio.subprocess.Process, ended: "asyncio.Future[None]") -> None:
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
    said: dict[Path, tuple[float, Snapshot]] = {}

    async def gather(metrics: Metrics) -> Snapshot:
        others = [path for path in sorted(folder.glob("*.sock")) if path != own]
        found = await asyncio.gather(*map(_snapshot_of, others))
        now = monotonic()
        said.update({path: (now, snapshot) for path, snapshot in zip(others, found, strict=True) if snapshot is not None})
        theirs = (still_said(metrics, *said[path], now) for path in others if path in said)
        return merged(metrics.families, [metrics.snapshot(), *theirs])

    app = create_app(config, gather=gather, collects=number == 0)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (services := app.get(SERVICES)) is not None:  # not yet, while it starts
            writer.write(msgspec.json.encode(services.metrics.snapshot()))
            await writer.drain()
        writer.close()

    async with _listening(own, answer):
        with dumping(of_api(app)):
            await serve(app, host=config.host, port=config.port, stop=stop, reuse_port=True)


def still_said(metrics: Metrics, at: float, snapshot: Snapshot, now: float) -> Snapshot:
    """What a process that has long been silent had counted is counted still; how things stood with it is no longer known."""
    if now - at < _SILENT_S:
        return snapshot
    return {name: samples for name, samples in snapshot.items() if metrics.families[name].kind != "gauge"}


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
    logs.configure("api", worker=int(sys.argv[1]))
    listen()
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
