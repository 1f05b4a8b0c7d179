"""A downloaded file into the database: what it says of claims, what is known of them now, and their FHIR resources.

One transaction a file: after it everything of the file is there, before it nothing. Loading the same again changes nothing.
What takes CPU runs in a thread of its own, so that the event loop stays free for the facilities and the heartbeats.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import asyncpg
import msgspec

from base.tracing import passed
from ingestion.claims import Header, NotClaims, Parsed, Remark
from ingestion.identities import Identities, identify
from ingestion.mapping.from_claims import (
    Naming,
)
from ingestion.parsing.parser import OtherKind, parse
from ingestion.parsing.payloads import unpack
from ingestion.rows import amount_of, error_rows
from ingestion.told import Mailbox, Told, coverages, make, remarks_of, settle_all, size_of, told_of
from r4.resource import Resource
from storage import claims as store
from storage.claims import ClaimKey, Known, Row
from storage.resources import Batch, Counts, upsert

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_CLAIMS = 400
"""How many claims' resources are made at a time: a huge file is one transaction, and not one heap of memory."""

REMARKS_MAX = 500
GROWN = (1_000, 10_000, 100_000)
"""Resources written by a process, after which statistics are gathered."""


class Received(msgspec.Struct, frozen=True):
    """A file as it was downloaded; `sent`: the facility sent it itself."""

    file_id: str
    name: str
    sent: bool
    payload: bytes


class Loaded(msgspec.Struct, frozen=True):
    """What became of a file: `state` as claims.file has it, or `known` when it was there already."""

    state: str
    kind: str | None = None
    claims: int = 0
    activities: int = 0
    put_aside: int = 0
    skipped: int = 0
    changed: tuple[str, ...] = ()
    took_s: dict[str, float] = {}
    """Seconds by stage."""


class Loader:
    """Loads files, several at a time, each on a connection of its own."""

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._written = 0  # resources
        # One thread: two would take turns with the event loop, and each other, for nothing.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claims")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def load(self, connection: asyncpg.Connection, facility: Mailbox, received: Received) -> Loaded:
        """In a transaction of its own. Raises what the database raises; then nothing of the file is in it."""
        stages = _Stages()
        document = await self._off_loop(_read, received)
        stages.end("parse")
        async with connection.transaction():
            loading = _Loading(self._naming, connection, facility, document, self._off_loop, stages)
            loaded = await loading.run()
        await self._keep_statistics(connection, loading.written)
        return loaded

    async def _keep_statistics(self, connection: asyncpg.Connection, written: int) -> None:
        """A table that was empty is soon known for what it is now; from then on autovacuum looks in time."""
        before, self._written = self._written, self._written + written
        if any(before < size <= self._written for size in GROWN):
            with suppress(asyncpg.PostgresError):  # the file is in, whatever becomes of this
                await store.refresh_statistics(connection)

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))


class _Stages:
    """How long each stage took."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._began = perf_counter()

    def end(self, stage: str) -> None:
        now = perf_counter()
        passed(stage, self._began, now)
        self.took_s[stage] = self.took_s.get(stage, 0.0) + now - self._began
        self._began = now


@dataclass(frozen=True, slots=True)
class _Document:
    received: Received
    state: str
    reason: str
    """Why it is not loaded."""
    parsed: Parsed | None
    size_bytes: int
    sha256: bytes
    body: bytes


def _read(received: Received) -> _Document:
    """Everything about a file that needs no database."""
    parsed, state, reason, content = None, "loaded", "", received.payload
    try:
        content = unpack(received.payload)
        parsed = parse(content)
    except OtherKind as error:
        state, reason = "ignored", str(error)
    except NotClaims as error:
        state, reason = "quarantined", str(error)
    if parsed and parsed.header.is_test:
        state = "test"
    return _Document(received, state, reason, parsed, len(content), hashlib.sha256(content).digest(), zlib.compress(content, 1))


class _Loading:
    """One file on its way, within its transaction."""

    def __init__(
        self,
        naming: Naming,
        connection: asyncpg.Connection,
        facility: Mailbox,
        document: _Document,
        off_loop: Callable[..., Any],
        stages: _Stages,
    ) -> None:
        self._naming = naming
        self._connection = connection
        self._facility = facility
        self._tenant_id = facility.tenant_id
        self._document = document
        self._off_loop = off_loop
        self._stages = stages
        self._head = (facility.tenant_id, facility.facility_no, document.received.file_id)
        self._counts = Counts()

    @property
    def written(self) -> int:
        """Resources created or changed."""
        return self._counts.total - self._counts.unchanged

    async def run(self) -> Loaded:
        document = self._document
        await store.begin(self._connection, self._tenant_id)
        state = await self._enter()
        if state == "known":
            return Loaded(state, took_s=self._stages.took_s)
        remarks = [*document.parsed.remarks] if document.parsed else []
        await self._note(remarks)
        parsed = document.parsed
        if state != "loaded" or parsed is None:
            return Loaded(state, parsed.kind if parsed else None, took_s=self._stages.took_s)
        told = await self._off_loop(told_of, parsed, self._facility, document.received.file_id)
        history = await store.take_claims(self._connection, self._tenant_id, [each.key for each in told])
        identities = await self._settle(told, history)
        shared: Sequence[Resource] = identities.resources
        if len(told) > CHUNK_CLAIMS:
            # What other files may be writing too is written first, so that later chunks wait for nobody.
            shared = [*shared, *await self._off_loop(coverages, told, identities, self._naming)]
        for chunk in range(0, len(told), CHUNK_CLAIMS):
            await self._write(told[chunk : chunk + CHUNK_CLAIMS], identities, shared)
            shared = ()
        return await self._finish(parsed, told)

    async def _enter(self) -> str:
        """The state under which the file is there now."""
        state = self._document.state
        if await store.add_file(self._connection, self._file_row(state)):
            return state
        # It is there, or its document is, under another id or in another facility's mailbox: that counts once.
        return "duplicate" if await store.add_file(self._connection, self._file_row("duplicate")) else "known"

    def _file_row(self, state: str) -> Row:
        document, received, parsed = self._document, self._document.received, self._document.parsed
        header = parsed.header if parsed else None
        aside = sum(remark.severity == "aside" for remark in parsed.remarks) if parsed else 0
        return (
            *self._head,
            received.name[:400],
            parsed.kind if parsed else None,
            state,
            received.sent,
            *_of_header(header),
            aside,
            document.size_bytes,
            document.sha256,
            document.body,
        )

    async def _note(self, remarks: Sequence[Remark]) -> None:
        rows = error_rows(self._head, remarks[:REMARKS_MAX])
        if self._document.reason and self._document.state == "quarantined":
            rows.append((*self._head, "", "quarantined", self._document.reason[:500], 1))
        if more := len(remarks) - REMARKS_MAX:
            rows += [(*self._head, "", "warning", f"{more} more remarks are left out", 1)] if more > 0 else []
        await store.write_errors(self._connection, rows)

    async def _settle(self, told: Sequence[Told], history: dict[ClaimKey, list[Known]]) -> Identities:
        patients, others = await self._off_loop(settle_all, told, history, self._naming)
        self._stages.end("settle")
        identities = await identify(self._connection, self._tenant_id, self._naming, patients, others)
        self._stages.end("identify")
        return identities

    async def _write(self, told: Sequence[Told], identities: Identities, shared: Sequence[Resource]) -> None:
        made = await self._off_loop(make, told, identities, self._naming, self._tenant_id, shared)
        self._stages.end("derive")
        await store.write_claims(self._connection, self._tenant_id, made.claims, made.activities)
        for table, rows in made.said.items():
            await store.write_said(self._connection, table, rows)
        if made.rewritten:
            await store.rewrite_events(self._connection, made.rewritten)
        if made.kept:
            await store.keep_activities(self._connection, made.kept)
        self._stages.end("claims")
        now = datetime.now(UTC)
        self._counts += await upsert(self._connection, self._tenant_id, Batch(made.resources), now, off_loop=self._off_loop)
        self._stages.end("resources")

    async def _finish(self, parsed: Parsed, told: Sequence[Told]) -> Loaded:
        steps = [step for each in told for step in each.new_steps()]
        skipped = sum(step.kind == "repetition" for step in steps)
        await store.write_errors(self._connection, error_rows(self._head, remarks_of(told)))
        activities = sum(map(size_of, parsed.claims))
        amount = sum((amount_of(claim) for claim in parsed.claims), start=Decimal("0.00"))
        await store.count_file(self._connection, *self._head, len(parsed.claims), activities, skipped, amount)
        changed = tuple(self._counts.changed_types)
        await store.announce(self._connection, self._tenant_id, changed)
        self._stages.end("finish")
        aside = sum(remark.severity == "aside" for remark in parsed.remarks)
        return Loaded("loaded", parsed.kind, len(parsed.claims), activities, aside, skipped, changed, self._stages.took_s)


def _of_header(header: Header | None) -> Row:
    if header is None:
        return (None,) * 4
    return header.sender_id, header.receiver_id, header.transaction_date, min(header.record_count, 2**31 - 1)
