"""Looks every second how the API, the replicas and the machine do, and brakes ingestion by it."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import psutil
import structlog

from base.config import Config
from ingestion.polling.throttle import OPEN, REASONS, Reading, decide
from metrics.accumulators import Labels
from storage.connecting.watch import Primary

log = structlog.get_logger()

_EVERY_S = 1.0
_SMOOTH = 0.3  # of a new reading of the CPU: one busy second is nothing yet
_LAG = "SELECT extract(epoch FROM max(replay_lag))::float8 FROM pg_stat_replication"
_pool_wait = re.compile(r'^sluice_pool_wait_seconds_(sum|count)\{pool="api"\} (\S+)$', re.MULTILINE)


class Brakes:
    """`now` is the brake of the moment."""

    def __init__(self, config: Config, primary: Primary) -> None:
        self.now = OPEN
        self._config = config
        self._primary = primary
        self._cpu = 0.0
        self._waited: tuple[float, float] | None = None
        self._connection: asyncpg.Connection | None = None

    async def run(self, stop: asyncio.Event) -> None:
        psutil.cpu_percent()  # counts from here on
        async with httpx.AsyncClient(timeout=2) as client:
            try:
                while not stop.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _EVERY_S)
                    self._set(await self._reading(client))
            finally:
                if self._connection is not None:
                    await self._connection.close(timeout=1)

    def gauges(self) -> list[tuple[Labels, float]]:
        return [((reason,), self.now.by.get(reason, 0.0)) for reason in REASONS]

    def _set(self, reading: Reading) -> None:
        before, self.now = self.now, decide(reading, self._config)
        if (before.reason, before.stopped) != (self.now.reason, self.now.stopped):
            log.warning(
                "ingestion.throttled" if self.now.reason else "ingestion.released",
                reason=self.now.reason or before.reason,
                hard=round(self.now.hardest, 2),
                stopped=self.now.stopped,
            )

    async def _reading(self, client: httpx.AsyncClient) -> Reading:
        self._cpu += _SMOOTH * (psutil.cpu_percent() / 100 - self._cpu)
        return Reading(
            pool_wait_s=await self._pool_wait(client) if self._config.api_metrics_url else None,
            replica_lag_s=await self._replica_lag(),
            cpu=self._cpu,
            disk_free=_free_share(self._config.data_dir),
        )

    async def _pool_wait(self, client: httpx.AsyncClient) -> float | None:
        """None while the API is away: nobody waits there then."""
        try:
            text = (await client.get(self._config.api_metrics_url)).text
        except httpx.HTTPError:
            return None
        before, self._waited = self._waited, pool_wait_in(text)
        return None if before is None or self._waited is None else mean_between(before, self._waited)

    async def _replica_lag(self) -> float | None:
        """With the login's rights, for the ingestion's role may not look; a login that may not either sees nothing."""
        try:
            async with asyncio.timeout(2):
                if self._connection is None or self._connection.is_closed():
                    settings = {"application_name": "sluice throttle"}
                    self._connection = await self._primary.connect(server_settings=settings)
                lag: float | None = await self._connection.fetchval(_LAG)
                return lag
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None


def pool_wait_in(text: str) -> tuple[float, float] | None:
    """Seconds waited for a connection, and how often, as a scrape of the API says."""
    found = {kind: float(value) for kind, value in _pool_wait.findall(text)}
    return (found["sum"], found["count"]) if len(found) == 2 else None


def mean_between(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """None when nobody asked, or the API was started again."""
    times = after[1] - before[1]
    return (after[0] - before[0]) / times if times > 0 else None


def _free_share(folder: Path) -> float | None:
    """None where the data folder is not: the database is on another machine."""
    try:
        usage = psutil.disk_usage(str(folder))
    except OSError:
        return None
    return usage.free / usage.total
