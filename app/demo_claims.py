"""Claims for the demo: a simulated post office, and a worker that polls it, beside the API in processes of their own.

The parent holds the pipe that is this process's standard input, and this one holds the worker's: however one of them ends,
those below it end too. Of several demos on one database the first one's post office serves; the next takes over from it.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg
import msgspec
import uvloop
from rich.console import Console

from app.cli_tools import settings
from app.database import database
from app.demo_claims_telling import tell
from app.demo_facilities import registered
from app.parent import follow_parent
from base import log
from base.config import Config
from handlers.protocol import until_told
from ingestion.credentials import Vault
from simulator.claims import DUBAI, Live
from simulator.post_office import Box, serving

_NEW_CLAIMS = 5
_NEW_EVERY_S = (5.0, 30.0)
"""Seconds between new files: at first, and after half an hour. A demo that is left alone must not fill the disk."""
_WORKER = {
    "SLUICE_POLL_INTERVAL_S": "5",
    "SLUICE_POLL_TICK_S": "5",
    "SLUICE_INGEST_POOL_SIZE": "2",
    "SLUICE_INGEST_FILES_MAX": "2",
    "SLUICE_VIEW_FRESHNESS_S": "2",
}
"""The settings of the demo's worker that nobody has set otherwise."""
_NICE = 10
_LOCK = 0x51C_DE30  # an advisory lock: a number that is only ours
_PATIENCE_S = 10.0
_PAUSE_S = 1.0
notices = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo's API is, and who is shown there."""

    tenants: tuple[str, ...]
    """Each gets a facility."""
    shown: str
    """The tenant whose review is printed."""
    key: str
    base_url: str
    metrics_url: str


@contextmanager
def claims_coming_in(place: Place) -> Iterator[None]:
    """As long as the caller is inside, and lives."""
    theirs, ours = os.pipe()
    # A group of its own: Ctrl-C is for us, and we tell it.
    child = subprocess.Popen([sys.executable, "-m", "app.demo_claims"], stdin=theirs, process_group=0)
    os.close(theirs)
    try:
        # The key is in it, which neither a command line nor an environment should show.
        with contextlib.suppress(BrokenPipeError):
            os.write(ours, msgspec.json.encode(place) + b"\n")
        yield
    finally:
        os.close(ours)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)
        finally:
            child.kill()
            child.wait()


def _main() -> None:
    os.nice(_NICE)
    log.configure("post-office", level=logging.WARNING)
    line = _first_line()
    follow_parent()
    try:
        given, place = settings(), msgspec.json.decode(line, type=Place)
        vault = Vault.from_config(given)
        with database(given) as config:
            uvloop.run(_run(config, vault, place))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  # the demo goes on without claims
        told = log.innermost(error)
        text = str(told).partition("\n")[0] or type(told).__name__
        notices.print(f"no more claims come in: {text}", style="red", markup=False, highlight=False)
        sys.exit(1)


def _first_line() -> bytes:
    """Byte by byte, so that nothing is held back from who reads on."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


async def _run(config: Config, vault: Vault, place: Place) -> None:
    stop = until_told()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tell(config, stop, tenant=place.shown, key=place.key, base_url=place.base_url))
        await _come_in(config, vault, place, stop)


async def _come_in(config: Config, vault: Vault, place: Place, stop: asyncio.Event) -> None:
    connection = await asyncpg.connect(config.database_url)
    try:
        if not await _is_first(connection, stop):
            return
        async with serving({}) as office:
            live = await registered(connection, config, vault, office, place.tenants)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_work(config, place, stop))
                tasks.create_task(_go_on(live, stop))
    finally:
        await connection.close(timeout=2)


async def _is_first(connection: asyncpg.Connection, stop: asyncio.Event) -> bool:
    """Whether ours is the post office: at once, or when the one before us is gone. False when we are told to end."""
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if await _told_within(stop, _PAUSE_S):
            return False
    return True


async def _go_on(desks: list[tuple[Box, Live]], stop: asyncio.Event) -> None:
    """One facility after the other gets another file."""
    began = time.monotonic()
    often, seldom = _NEW_EVERY_S
    for box, desk in itertools.cycle(desks):
        if await _told_within(stop, min(max(often, (time.monotonic() - began) / 60), seldom)):
            return
        for file in desk.next(datetime.now(DUBAI), _NEW_CLAIMS):
            box.add(file)


async def _work(config: Config, place: Place, stop: asyncio.Event) -> None:
    """A worker, and another when it ends before its time."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        ours = {"SLUICE_METRICS_PORT": str(probe.getsockname()[1]), "SLUICE_API_METRICS_URL": place.metrics_url}
    environment = {**_WORKER, **ours, **os.environ}
    log_file = config.data_dir / "demo-worker.log"
    notice = (
        f"facilities are polled every {environment['SLUICE_POLL_INTERVAL_S']} s; the worker's metrics: "
        f"http://127.0.0.1:{environment['SLUICE_METRICS_PORT']}/metrics, its log: {log_file}"
    )
    while not stop.is_set():
        async with _worker(environment, log_file) as child:
            notices.print(notice, highlight=False)
            ended, told = asyncio.ensure_future(child.wait()), asyncio.ensure_future(stop.wait())
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        if not await _told_within(stop, _PAUSE_S):
            notices.print(f"the worker has ended, and is started again; see {log_file}", style="yellow", highlight=False)


@asynccontextmanager
async def _worker(environment: dict[str, str], log_file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Ended with the block."""
    with os.fdopen(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.demo_worker", env=environment, stdin=asyncio.subprocess.PIPE, stdout=file, stderr=file
        )
    try:
        yield child
    finally:
        try:
            await asyncio.wait_for(child.communicate(b""), _PATIENCE_S - 2)  # which closes its standard input
        except TimeoutError:
            child.kill()
            await child.wait()


async def _told_within(stop: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()


if __name__ == "__main__":
    _main()
