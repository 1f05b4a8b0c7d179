"""Polls as jobs of pgqueuer: any number of workers, at most so many facilities at once over all of them.

What pgqueuer must be guarded against is written at each guard. The record of what was polled is ops.poll_run, not its log.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import structlog
from pgqueuer import PgQueuer
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job
from pgqueuer.types import Channel

from base.config import Config
from base.log import about, innermost
from ingestion.polling.poll import Busy, Ended
from ingestion.polling.schedule import plan, spacing_s
from storage import facilities
from storage.connecting.watch import Primary
from storage.jobs import CHANNEL, SCHEMA, queries

log = structlog.get_logger()

POLL = "poll"
NOW = 1
"""The priority of a poll that somebody asked for."""
_CONNECTION = {"role": "sluice_ingest", "application_name": "sluice jobs", "tcp_keepalives_idle": "30"}
_RECONNECT_S = 0.5
_BUSY_AGAIN = timedelta(seconds=1)
_AWAY_AGAIN = timedelta(seconds=5)
_LOOK_S = 5.0  # how soon it is seen that a job's worker is gone, or that the connection is
_LOG_KEPT = timedelta(days=7)
_RUNS_KEPT = timedelta(days=90)

Poll = Callable[[int, int | None], Awaitable[Ended | None]]


async def enqueue_now(connection: asyncpg.Connection, facility_no: int) -> int:
    """The number of the job that polls the facility next, at once or after a poll that runs."""
    queue = queries(connection)
    while True:
        # Each key stands for one job that waits or runs: the second for one that waits while the first runs.
        for key in (f"poll:{facility_no}", f"again:{facility_no}"):
            payload = str(facility_no).encode()
            (job,) = await queue.enqueue([POLL], [payload], [NOW], dedupe_key=[key], on_conflict="skip")
            if job is None:
                job = await connection.fetchval(
                    f"UPDATE {SCHEMA}.queue SET execute_after = now(), priority = $2 "
                    "WHERE dedupe_key = $1 AND status = 'queued' RETURNING id",
                    key,
                    NOW,
                )
            if job is not None:
                return int(job)
        await asyncio.sleep(0.1)  # the second is just looking whether the first still runs


async def enqueue_due(connection: asyncpg.Connection, config: Config) -> int:
    """How many polls were planned to start until the next tick. One at a time over all workers."""
    async with connection.transaction():
        await facilities.lock_schedule(connection)
        now = await connection.fetchval("SELECT clock_timestamp()")
        until = now + timedelta(seconds=config.poll_tick_s)
        due = await facilities.due_before(connection, until)
        last, active = await facilities.last_start(connection, until, config.poll_interval_s)
        gap_s = spacing_s(config.poll_mode, config.poll_interval_s, active)
        starts = plan(due, now=now, until=until, last_start=last, interval_s=config.poll_interval_s, gap_s=gap_s)
        if starts:
            await queries(connection).enqueue(
                [POLL] * len(starts),
                [str(start.facility_no).encode() for start in starts],
                [0] * len(starts),
                [start.at - now for start in starts],
                [f"poll:{start.facility_no}" for start in starts],
                on_conflict="skip",
            )
            await facilities.set_next_polls(connection, [(start.facility_no, start.next_at) for start in starts])
    return len(starts)


async def prune(connection: asyncpg.Connection) -> None:
    """Pgqueuer keeps its log for ever."""
    now = await connection.fetchval("SELECT now()")
    await connection.execute(f"DELETE FROM {SCHEMA}.queue_log WHERE created < $1", now - _LOG_KEPT)
    await connection.execute(f"DELETE FROM {SCHEMA}.statistics WHERE created < $1", now - _LOG_KEPT)
    await facilities.forget_runs(connection, now - _RUNS_KEPT)


@dataclass
class Jobs:
    """A worker's share of the jobs. `poll` polls a facility, by its number and the job's."""

    config: Config
    poll: Poll
    primary: Primary
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    """Jobs in the queue by (entrypoint, status), as last seen."""

    def __post_init__(self) -> None:
        self._polls: set[asyncio.Task[Ended | None]] = set()
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then what runs is left where it is, and queued for another worker."""
        while not stop.is_set():
            try:
                await self._session(stop)
            except Exception as error:  # whatever ended it, it begins again
                log.warning("jobs.lost", exc_info=innermost(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _RECONNECT_S)

    async def _session(self, stop: asyncio.Event) -> None:
        """On one connection of its own: LISTEN needs a session."""
        connection = await self.primary.connect(server_settings=_CONNECTION, timeout=5)
        try:
            await self._tick()
            queuer = self._queuer(connection)
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(one) for one in (self._go_on(), self._watch(queuer), self._stop(queuer, stop))]
                try:
                    await self._run(queuer)
                finally:
                    for task in beside:
                        task.cancel()
        finally:
            await connection.close(timeout=2)

    def _queuer(self, connection: asyncpg.Connection) -> PgQueuer:
        queue = queries(connection)
        queuer = PgQueuer(queue.driver, Channel(CHANNEL), queries=queue)
        # Full workers look as often as this whether a place is free.
        queuer.qm.min_dequeue_poll_interval = timedelta(seconds=0.25)
        # hold: by default a job that fails is deleted without a trace.
        queuer.entrypoint(POLL, concurrency_limit=self.config.poll_facilities_max, on_failure="hold")(self._job)
        return queuer

    async def _run(self, queuer: PgQueuer) -> None:
        await queuer.qm.run(
            dequeue_timeout=timedelta(seconds=_LOOK_S),
            batch_size=1,  # so that workers share what there is
            max_concurrent_tasks=max(2, self.config.poll_facilities_max),
            heartbeat_timeout=timedelta(seconds=self.config.poll_heartbeat_s),
        )

    async def _job(self, job: Job) -> None:
        # The poll has its own time limit, for pgqueuer has none; and a lock, for a worker whose event loop was blocked loses
        # its jobs to others while it runs them.
        with about(job=int(job.id)):
            task = asyncio.ensure_future(self.poll(int(job.payload or b"0"), int(job.id)))
            self._polls.add(task)
            try:
                again = await self._outcome(task, asked_for=job.priority >= NOW)
            finally:
                self._polls.discard(task)
        if again is not None:
            raise RetryRequested(again)

    async def _outcome(self, task: "asyncio.Task[Ended | None]", *, asked_for: bool) -> timedelta | None:
        """After how long it is to be tried again, if it is."""
        try:
            await task
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return timedelta(0)
        except Busy:
            # What was asked for is to see what came until now; a regular poll is what runs already.
            return _BUSY_AGAIN if asked_for else None
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("poll.lost", error=type(error).__name__)
            return _AWAY_AGAIN
        return None

    async def _go_on(self) -> None:
        """Every worker's own: a tick of pgqueuer's that dies with its worker keeps all others from ticking for 30 s."""
        while True:
            await asyncio.sleep(self.config.poll_tick_s)
            try:
                await self._tick()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("tick.missed", error=type(error).__name__)

    async def _tick(self) -> None:
        connection = await self.primary.connect(server_settings=_CONNECTION, timeout=5)
        try:
            if started := await enqueue_due(connection, self.config):
                log.info("polls.planned", facilities=started)
            await prune(connection)
        finally:
            await connection.close(timeout=2)

    async def _watch(self, queuer: PgQueuer) -> None:
        while True:
            rows: list[Any] = await queuer.qm.queries.queue_size()
            self.sizes.clear()
            for row in rows:
                key = (str(row.entrypoint), str(row.status))
                self.sizes[key] = self.sizes.get(key, 0) + row.count
            await asyncio.sleep(_LOOK_S)

    async def _stop(self, queuer: PgQueuer, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        queuer.shutdown.set()
        for task in self._polls:
            task.cancel()
