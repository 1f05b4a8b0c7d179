"""Files of one facility from its post office into the database: downloaded ahead, loaded, and then acknowledged."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import TypeAlias

import structlog

from base.log import about
from base.tracing import Work, work
from ingestion.loader import Loaded, Received
from ingestion.polling.means import File, Means, Whole, is_away_now, passes
from ingestion.polling.pace import SLOW_S, Gate, Pace
from ingestion.post_office.client import LoginRefused, Mailbox, PostOfficeError, Refused, Transient
from storage import facilities
from storage.connecting.connections import Connection
from storage.facilities import Facility, Tally

log = structlog.get_logger()

TRIES_MAX = 3
"""A file that was tried as often, and is not in, is parked."""
_ATTEMPTS = 8  # within one try, while the database is away or others are in the way: 10 s in all
_BACKOFF_S = (0.05, 4.0)
_SURVEYED = 1000
_AGAIN_MAX = 50  # files that a post office lists again, having forgotten that they were acknowledged; the rest at the next poll
_REFUSALS_MAX = 3  # acknowledgements that fail one after the other: the rest waits for the next poll


Queue: TypeAlias = "asyncio.Queue[tuple[File, Received, Work] | None]"


@dataclass
class Taker:
    """One poll's. Raises LoginRefused, and what says that the database is away; whatever else fails is one file's matter."""

    means: Means
    facility: Facility
    mailbox: Mailbox
    tally: Tally
    problems: list[str] = field(default_factory=list)
    """Why the poll is no whole success."""

    def __post_init__(self) -> None:
        self.pace = Pace(self.facility.batch_size, self.means.files_max)
        self.seen: set[str] = set()
        self._suspects: set[str] = set()
        self._label = self.means.metrics.labels.label(self.facility.licence)
        self._gate = Gate(lambda: self.means.brake().files(self.pace.size))
        self._acknowledgements_failed = 0
        self._again_left = _AGAIN_MAX
        self._held = 0  # bytes

    async def take(self, files: Sequence[File]) -> bool:
        """Whether all are in: parked ones are not waited for."""
        before = self.tally.failed
        for start in range(0, len(files), _SURVEYED):
            await self._take([file for file in files[start : start + _SURVEYED] if file.file_id not in self.seen])
        return self.tally.failed == before

    async def _take(self, files: list[File]) -> None:
        self.seen.update(file.file_id for file in files)
        async with self.means.connection() as connection:
            known = await facilities.survey(connection.raw, self.facility, [file.file_id for file in files])
        wanted = [file for file in files if (it := known[file.file_id]).state is None and not it.parked]
        fresh = [file for file in wanted if known[file.file_id].tries == 0]
        # One of these may have killed its worker: each goes alone, so that it takes no innocent one with it again, nor one of
        # another facility that this worker polls.
        tried = sorted((file for file in wanted if known[file.file_id].tries), key=lambda file: known[file.file_id].tries)
        self._suspects.update(file.file_id for file in tried)
        self.tally.listed += len(wanted)
        owed = [file for file in files if not file.sent and known[file.file_id].state not in (None, "ignored")]
        for file in owed:
            if known[file.file_id].acknowledged:
                self._again_left -= 1
            if not known[file.file_id].acknowledged or self._again_left >= 0:
                await self.acknowledge(file.file_id)
        await self._take_all(fresh)
        for file in tried:
            if known[file.file_id].tries >= TRIES_MAX:
                await self._park(file)
            else:
                await self._take_all([file])

    async def _take_all(self, files: list[File]) -> None:
        queue: Queue = asyncio.Queue(self.means.files_max)
        loaders = min(self.means.lender.size, len(files))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(loaders):
                    group.create_task(self._load_from(queue, group))
                async with asyncio.TaskGroup() as downloads:
                    for file in files:
                        await self._turn()
                        downloads.create_task(self._fetch(file, queue))
                for _ in range(loaders):
                    await queue.put(None)
        finally:  # what was on its way when all was cancelled
            self._release(self._held)

    async def _turn(self) -> None:
        """When a further file may begin."""
        if pause_s := self.means.brake().pause_s:
            await asyncio.sleep(pause_s)
        await self.means.budget.room()
        await self._gate.enter()

    async def _fetch(self, file: File, queue: Queue) -> None:
        """Every line of the file's way through three tasks, and its span, bear its id."""
        piece = Work("file", {"file": file.file_id})
        try:
            with piece.going_on():
                downloaded = await self._download(file, queue, piece)
        except BaseException as error:
            piece.end(error=type(error).__name__)
            raise
        if not downloaded:
            piece.end(error="not_downloaded")

    async def _download(self, file: File, queue: Queue, piece: Work) -> bool:
        began = perf_counter()
        try:
            with self.stage("download"):
                payload = await self.mailbox.download(file.file_id)
        except LoginRefused:
            raise
        except PostOfficeError as error:
            self._gate.leave()
            await self._not_downloaded(file, error)
            return False
        else:
            self.pace.went(well=perf_counter() - began < SLOW_S)
            self.means.budget.take(size := len(payload.content))
            self._held += size
            await queue.put((file, Received(file.file_id, payload.name or file.name, file.sent, payload.content), piece))
            return True

    async def _not_downloaded(self, file: File, error: PostOfficeError) -> None:
        """What may work later is not the file's fault; what would fail again is, and in the end it is parked."""
        self.pace.went(well=False)
        if not isinstance(error, Transient):
            async with self.means.connection() as connection:
                await self._count_try(connection, file, str(error))
        self._failed(file, str(error))

    async def _load_from(self, queue: Queue, group: asyncio.TaskGroup) -> None:
        while (item := await queue.get()) is not None:
            file, received, piece = item
            with piece.going_on():
                try:
                    async with self.means.room.alone() if file.file_id in self._suspects else self.means.room.shared():
                        loaded = await self._load(file, received)
                finally:
                    self._release(len(received.payload))
                    del item, received
                # The connection is free meanwhile for the next file: a post office takes its time.
                group.create_task(self._settle(file, loaded, piece))

    async def _load(self, file: File, received: Received) -> Loaded | None:
        """None when it failed. Raises what says that the database is away."""
        began, counted = perf_counter(), False
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with Whole(self.means.connection()) as connection:
                    if not counted:
                        await self._count_try(connection, file)
                        counted = True
                    with self.stage("load"):
                        return await self.means.loader.load(connection.raw, self.facility, received)
            except asyncio.CancelledError:
                # The worker or the poll ends. One that filled half of the poll's time is to blame for it itself.
                if counted and perf_counter() - began < self.means.timeout_s / 2:
                    await self._give_back(file)
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is this file's alone
                if attempt == _ATTEMPTS or not passes(error):
                    await self._not_loaded(file, error)
                    return None
                log.warning("file.tried_again", file=file.file_id, attempt=attempt, error=type(error).__name__)
            await asyncio.sleep(min(_BACKOFF_S[0] * 2**attempt, _BACKOFF_S[1]) * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
        raise AssertionError

    async def _not_loaded(self, file: File, error: Exception) -> None:
        if is_away_now(error):  # the try stands: it may be this file that takes the database down
            raise error
        log.error("file.failed", file=file.file_id, exc_info=error)
        self.pace.went(well=False)
        self._failed(file, reason := type(error).__name__)
        async with self.means.connection() as connection:
            await facilities.explain_try(connection.raw, self.facility, file.file_id, reason)

    async def _settle(self, file: File, loaded: Loaded | None, piece: Work) -> None:
        try:
            if loaded is None:
                piece.say(error="not_loaded")
            else:
                piece.say(state=loaded.state, claims=loaded.claims)
                self._count(loaded)
                # Whoever loaded a known one owes its acknowledgement, or the next poll does.
                if not file.sent and loaded.state not in ("ignored", "known"):
                    await self.acknowledge(file.file_id)
        finally:
            piece.end()
            self._gate.leave()

    def _count(self, loaded: Loaded) -> None:
        metrics, tally = self.means.metrics, self.tally
        tally.loaded += loaded.state in ("loaded", "test", "duplicate", "ignored")
        tally.quarantined += loaded.state == "quarantined"
        tally.claims += loaded.claims
        metrics.files.child(self._label, loaded.state).add()
        metrics.claims.child(self._label).add(loaded.claims)
        for stage, took_s in loaded.took_s.items():
            metrics.ingest_stage.child(stage).observe(took_s)

    async def acknowledge(self, file_id: str, *, gone: bool = False) -> None:
        """What fails stays owed. `gone`: it is listed no more, so who says that there is no such file knows it as taken."""
        if not self.facility.acknowledge or self._acknowledgements_failed >= _REFUSALS_MAX:
            return
        try:
            with about(file=file_id), self.stage("acknowledge"):
                await self.mailbox.acknowledge(file_id)
        except LoginRefused:
            raise
        except PostOfficeError as error:
            if not (gone and isinstance(error, Refused)):
                self._acknowledgements_failed += 1
                log.warning("acknowledgement.owed", file=file_id, reason=str(error))
                return
        self._acknowledgements_failed = 0
        async with self.means.connection() as connection:
            await facilities.acknowledged(connection.raw, self.facility, file_id, datetime.now(UTC))
        self.tally.acknowledged += 1

    async def _park(self, file: File) -> None:
        async with self.means.connection() as connection:
            await facilities.park(connection.raw, self.facility, file.file_id, datetime.now(UTC))
        self.means.metrics.files.child(self._label, "parked").add()
        log.error("file.parked", file=file.file_id, tries=TRIES_MAX)

    def _release(self, size: int) -> None:
        self._held -= size
        self.means.budget.give_back(size)

    def _failed(self, file: File, reason: str) -> None:
        self.tally.failed += 1
        self.means.metrics.files.child(self._label, "failed").add()
        self.problems.append(f"a file failed: {reason}")
        log.warning("file.not_taken", file=file.file_id, reason=reason)

    async def _count_try(self, connection: Connection, file: File, reason: str = "") -> None:
        now = datetime.now(UTC)
        await facilities.count_try(
            connection.raw, self.facility, file.file_id, name=file.name, sent=file.sent, now=now, reason=reason
        )

    async def _give_back(self, file: File) -> None:
        with suppress(Exception):  # at worst the file is tried alone the next time
            async with asyncio.timeout(2), self.means.lender.lend(1.0) as connection:
                await facilities.give_back_try(connection.raw, self.facility, file.file_id)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = perf_counter()
        try:
            with work(name):
                yield
        finally:
            self.means.metrics.ingest_stage.child(name).observe(perf_counter() - began)
