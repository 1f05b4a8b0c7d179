"""A worker that files kill, as a crash in C would: `python -m tests.deadly_worker`, with their ids in DEADLY."""

import os
import signal

import asyncpg

from app.worker import work
from base.config import Config
from ingestion.loader import Loaded, Loader, Received
from storage.facilities import Facility

DEADLY = frozenset(os.environ.get("DEADLY", "").split())
_load = Loader.load


async def _deadly(self: Loader, connection: asyncpg.Connection, facility: Facility, received: Received) -> Loaded:
    if received.file_id in DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return await _load(self, connection, facility, received)


if __name__ == "__main__":
    Loader.load = _deadly  # type: ignore[method-assign, assignment]
    work(Config.from_mapping(os.environ))
