"""One poll of one facility: what it submitted and what was sent to it, each file once, however often polls fail."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import structlog

from base.errors import Problem
from base.log import innermost
from base.tracing import Work, work
from ingestion.polling.means import File, Means
from ingestion.polling.taking import Taker
from ingestion.post_office.client import Listed, LoginRefused, PostOffice, PostOfficeError, TooLarge, windows
from storage import facilities
from storage.connecting.watch import Primary
from storage.facilities import Facility, Tally

log = structlog.get_logger()

SENT, SUBMISSIONS = 1, 2
STATUSES = (1, 2)  # not yet fetched by the payer, and fetched: one that changes between the two searches is found twice
OVERLAP = timedelta(days=2)
"""Searched anew each time: a file may appear with a date that lies back. Those that are in are not fetched again."""
_WINDOW_MIN = timedelta(minutes=1)
_OWED_MAX = 1000
_LOCK_SETTINGS = {
    "role": "sluice_ingest",
    "application_name": "sluice facility lock",
    # A worker whose machine is gone must not keep its facilities for hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a poll went. `outcome`: ok, partial, failed, timeout, stopped."""

    outcome: str
    reason: str = ""


class Busy(Exception):
    """Another poll of the facility runs."""


@dataclass
class Poller:
    """A worker's polls. `open_password` opens what is sealed."""

    means: Means
    primary: Primary
    """Each poll has a connection of its own for its facility's lock."""
    office: PostOffice
    open_password: Callable[[bytes], str]
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    running: dict[str, Tally] = field(default_factory=dict)
    """By licence."""

    async def poll(self, facility_no: int, job_id: int | None = None) -> Ended | None:
        """None when the facility is not to be polled.

        Raises Busy, and what connecting raises; ConnectionError when the lock was lost. All else is in what it returns.
        """
        async with self._locked(facility_no) as connection:
            facility = await facilities.facility_by_no(connection, facility_no)
            if facility is None or facility.state != "active":
                await facilities.lose_runs(connection, facility_no, datetime.now(UTC))
                return None
            run_id = await facilities.start_run(connection, facility_no, self.name, datetime.now(UTC), job_id)
            with work("poll", tenant=facility.tenant, facility=facility.licence, poll=run_id) as piece:
                return await self._run(connection, facility, run_id, piece)

    async def _run(self, connection: asyncpg.Connection, facility: Facility, run_id: int, piece: Work) -> Ended:
        tally = self.running[facility.licence] = Tally()
        began = asyncio.get_running_loop().time()
        ended = Ended("partial", "the worker was stopped")
        try:
            ended = await self._ended(facility, tally)
            if ended.outcome == "stopped":
                await facilities.stop(connection, facility, ended.reason)
        finally:
            del self.running[facility.licence]
            label = self.means.metrics.labels.label(facility.licence)
            self.means.metrics.polls.child(label, ended.outcome).add()
            took_s = round(asyncio.get_running_loop().time() - began, 3)
            say = log.error if ended.outcome == "stopped" else log.info if ended.outcome == "ok" else log.warning
            counts = {name: getattr(tally, name) for name in tally.__struct_fields__}
            say("facility.polled", outcome=ended.outcome, reason=ended.reason, took_s=took_s, **counts)
            piece.say(error="" if ended.outcome == "ok" else ended.outcome, outcome=ended.outcome, **counts)
            # Should the database be away, whoever polls next finds that the run is lost.
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                async with asyncio.timeout(5):
                    await facilities.finish_run(connection, run_id, datetime.now(UTC), ended.outcome, ended.reason, tally)
        return ended

    async def _ended(self, facility: Facility, tally: Tally) -> Ended:
        try:
            async with asyncio.timeout(self.means.timeout_s) as limit:
                password = self.open_password(facility.password)
                mailbox = self.office.mailbox(facility.url, facility.login, password, facility.licence)
                return await Poll(Taker(self.means, facility, mailbox, tally)).run()
        except Exception as error:  # noqa: BLE001  # one facility's trouble is nobody else's
            if isinstance(error, TimeoutError) and limit.expired():
                return Ended("timeout", f"not done within {self.means.timeout_s:g} s")
            return _failure(innermost(error))

    @asynccontextmanager
    async def _locked(self, facility_no: int) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own that holds the facility's lock; whoever loses it stops, for another may poll now."""
        connection = await self.primary.connect(server_settings=_LOCK_SETTINGS, timeout=5)
        task = asyncio.current_task()
        lost = False

        def lose(_: object) -> None:
            nonlocal lost
            lost = True
            if task is not None:
                task.cancel()

        try:
            if not await facilities.try_lock(connection, facility_no):
                raise Busy
            connection.add_termination_listener(lose)
            yield connection
        except asyncio.CancelledError:
            if not lost or task is None or task.uncancel():
                raise
            log.warning("facility.lock_lost", facility_no=facility_no)
            raise ConnectionError("the facility's lock is lost") from None
        finally:
            connection.remove_termination_listener(lose)
            await connection.close(timeout=2)


class Poll:
    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        self._facility = taker.facility
        self._mailbox = taker.mailbox
        self._heard = False  # one listing came

    async def run(self) -> Ended:
        """Raises LoginRefused, and what says that the database is away."""
        taker = self._taker
        try:
            await self._submissions(datetime.now(UTC))
            await self._unfinished()
            await self._remittances()
        finally:
            with suppress(Problem, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                async with asyncio.timeout(5), taker.means.connection() as connection:
                    await facilities.set_batch_size(connection.raw, self._facility, taker.pace.size)
                    await facilities.forget_tries(connection.raw, self._facility)
        if not taker.problems:
            return Ended("ok")
        more = f" (and {len(taker.problems) - 1} more)" if len(taker.problems) > 1 else ""
        return Ended("partial" if self._heard else "failed", taker.problems[0] + more)

    async def _submissions(self, now: datetime) -> None:
        """The facility's own, window by window: what was searched is remembered as far as every file of it is in."""
        facility, unbroken = self._facility, True
        since = facility.since if facility.searched_until is None else max(facility.since, facility.searched_until - OVERLAP)
        for start, end in windows(since, now):
            listed = await self._listed(partial(self._searched, start, end))
            if listed is None:
                return  # a post office that does not answer is not asked for all the other windows
            whole = await self._taker.take([File(entry.file_id, entry.name, sent=True) for entry in listed])
            unbroken = unbroken and whole
            if unbroken:
                async with self._taker.means.connection() as connection:
                    await facilities.advance(connection.raw, facility, min(end, now))

    async def _searched(self, start: datetime, end: datetime) -> list[Listed]:
        """Halved when it holds too much."""
        try:
            found: dict[str, Listed] = {}
            for status in STATUSES:
                entries = await self._mailbox.search(direction=SENT, kind=SUBMISSIONS, start=start, end=end, status=status)
                found.update({entry.file_id: entry for entry in entries})
            return list(found.values())
        except TooLarge:
            if end - start <= _WINDOW_MIN:
                raise
        middle = start + (end - start) / 2
        earlier, later = await self._searched(start, middle), await self._searched(middle, end)
        return list({entry.file_id: entry for entry in [*earlier, *later]}.values())

    async def _unfinished(self) -> None:
        """Files that failed before, also those that no listing names any more."""
        async with self._taker.means.connection() as connection:
            found = await facilities.unfinished(connection.raw, self._facility)
        await self._taker.take([File(*row) for row in found])

    async def _remittances(self) -> None:
        """What others sent; and acknowledgements that were lost, or whose answer was."""
        listed = await self._listed(self._mailbox.new)
        if listed is None:
            return
        await self._taker.take([File(entry.file_id, entry.name, sent=False) for entry in listed])
        if self._facility.acknowledge:
            async with self._taker.means.connection() as connection:
                owed = await facilities.owed(connection.raw, self._facility, _OWED_MAX)
            for file_id in sorted(set(owed) - {entry.file_id for entry in listed}):
                await self._taker.acknowledge(file_id, gone=True)

    async def _listed(self, ask: Callable[[], Awaitable[list[Listed]]]) -> Sequence[Listed] | None:
        """None when no listing is to be had."""
        try:
            with self._taker.stage("list"):
                listed = await ask()
        except LoginRefused:
            raise
        except PostOfficeError as error:
            self._taker.problems.append(str(error))
            return None
        self._heard = True
        return listed


def _failure(error: BaseException) -> Ended:
    if isinstance(error, LoginRefused):
        return Ended("stopped", str(error))
    if isinstance(error, PostOfficeError | Problem):
        return Ended("failed", str(error))
    log.error("facility.failed", exc_info=error)
    return Ended("failed", type(error).__name__)
