"""A downloaded file into the database: what it says of claims, what is known of them now, and their FHIR resources.

One transaction a file: after it everything of the file is there, before it nothing. Loading the same again changes nothing.
What takes CPU runs in a thread of its own, so that the event loop stays free for the facilities and the heartbeats.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, ParamSpec, Protocol, TypeVar

import asyncpg
import msgspec

from ingestion.claims import Claim, Event, Header, NotClaims, Parsed, Remark, Remitted, from_document
from ingestion.identities import Identities, identify
from ingestion.mapping.from_claims import (
    Ids,
    Naming,
    clinical,
    coverage,
    financial,
    mentioned,
    patient,
    patient_identifiers,
)
from ingestion.parsing.parser import OtherKind, parse
from ingestion.parsing.payloads import unpack
from ingestion.rows import activity_row, claim_row, error_rows, event_row, place, said_rows, standing
from ingestion.settling.history import REPEATED, UNKNOWN_ACTIVITY, Settled, Step, settle
from r4.resource import Resource
from storage import claims as store
from storage.claims import ClaimKey, Known, Row
from storage.copying import encoded
from storage.resources import Batch, Counts, Identifier, upsert

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


class Mailbox(Protocol):
    """What the loader knows of a facility."""

    @property
    def facility_no(self) -> int: ...
    @property
    def tenant_id(self) -> int: ...
    @property
    def licence(self) -> str: ...


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


@dataclass(slots=True)
class _Told:
    """A claim that a file speaks of: its new events, and those that are known."""

    key: ClaimKey
    events: list[Event] = field(default_factory=list)
    known: Sequence[Known] = ()
    settled: Settled = None  # type: ignore[assignment]  # as soon as its history is known

    def settle(self) -> None:
        self.settled = settle([*(from_document(known.document) for known in self.known), *self.events])

    def new_steps(self) -> Iterator[Step]:
        new = {place(event) for event in self.events}
        return (step for step in self.settled.steps if place(step.event) in new)

    def changed_steps(self) -> Iterator[Step]:
        stored = {known.place: known.standing for known in self.known}
        return (step for step in self.settled.steps if stored.get(place(step.event), standing(step)) != standing(step))


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
        told = await self._off_loop(_told, parsed, self._facility, document.received.file_id)
        history = await store.take_claims(self._connection, self._tenant_id, [each.key for each in told])
        identities = await self._settle(told, history)
        shared: Sequence[Resource] = identities.resources
        if len(told) > CHUNK_CLAIMS:
            # What other files may be writing too is written first, so that later chunks wait for nobody.
            shared = [*shared, *await self._off_loop(_coverages, told, identities, self._naming)]
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

    async def _settle(self, told: Sequence[_Told], history: dict[ClaimKey, list[Known]]) -> Identities:
        patients, others = await self._off_loop(_settled, told, history, self._naming)
        self._stages.end("settle")
        identities = await identify(self._connection, self._tenant_id, self._naming, patients, others)
        self._stages.end("identify")
        return identities

    async def _write(self, told: Sequence[_Told], identities: Identities, shared: Sequence[Resource]) -> None:
        made = await self._off_loop(_made, told, identities, self._naming, self._tenant_id, shared)
        self._stages.end("derive")
        await store.write_claims(self._connection, self._tenant_id, made.claims, made.activities)
        for table, rows in made.said.items():
            await store.write_said(self._connection, table, rows)
        if made.rewritten:
            await store.rewrite_events(self._connection, made.rewritten)
        self._stages.end("claims")
        now = datetime.now(UTC)
        self._counts += await upsert(self._connection, self._tenant_id, Batch(made.resources), now, off_loop=self._off_loop)
        self._stages.end("resources")

    async def _finish(self, parsed: Parsed, told: Sequence[_Told]) -> Loaded:
        steps = [step for each in told for step in each.new_steps()]
        skipped = sum(step.kind == "repetition" for step in steps)
        await store.write_errors(self._connection, error_rows(self._head, _remarks(told)))
        activities = sum(map(_size, parsed.claims))
        amount = sum((_amount(claim) for claim in parsed.claims), start=0)
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


def _told(parsed: Parsed, facility: Mailbox, file_id: str) -> list[_Told]:
    """The file's claims in the order of their keys, as everybody locks them."""
    found: dict[ClaimKey, _Told] = {}
    header = parsed.header
    contents: Sequence[Claim | Remitted] = parsed.claims
    for n, content in enumerate(contents, 1):
        event = Event(header.transaction_date, facility.facility_no, file_id, n, header.sender_id, content)
        key = _provider(content, header, facility.licence), content.id
        found.setdefault(key, _Told(key)).events.append(event)
    return [found[key] for key in sorted(found)]


def _provider(content: Claim | Remitted, header: Header, licence: str) -> str:
    """Whose claim it is: a remittance need not say it."""
    return content.provider_id or getattr(content, "facility_id", None) or header.receiver_id or licence


def _settled(
    told: Sequence[_Told], history: dict[ClaimKey, list[Known]], naming: Naming
) -> tuple[set[tuple[Identifier, ...]], set[Identifier]]:
    """Settles each claim; the patients, and the practitioners and organizations that they speak of."""
    patients: set[tuple[Identifier, ...]] = set()
    others: set[Identifier] = set()
    for each in told:
        each.known = history[each.key]
        each.settle()
        if each.settled.claim is not None:
            others |= mentioned(each.settled, naming)
            patients.add(patient_identifiers(each.settled.claim, naming))
    return patients - {()}, others


@dataclass(frozen=True, slots=True)
class _Made:
    """What COPY takes is encoded."""

    claims: bytes
    activities: bytes
    said: dict[str, bytes]
    rewritten: list[Row]
    resources: list[Resource]


def _made(told: Sequence[_Told], identities: Identities, naming: Naming, tenant_id: int, shared: Sequence[Resource]) -> _Made:
    """All rows and resources of a chunk."""
    said: dict[str, list[Row]] = {}
    rewritten: list[Row] = []
    resources = {(resource.type, resource.id): resource for resource in shared}
    for each in told:
        for step in each.new_steps():
            said.setdefault("event", []).append(event_row(tenant_id, each.key, step))
            for table, row in said_rows(tenant_id, each.key, step.event):
                said.setdefault(table, []).append(row)
        rewritten += [(tenant_id, *each.key, *place(step.event), *standing(step)) for step in each.changed_steps()]
    for resource in _resources(told, identities, naming):
        resources[resource.type, resource.id] = resource
    return _Made(
        encoded([claim_row(tenant_id, each.key, each.settled) for each in told]),
        encoded([activity_row(tenant_id, each.key, state) for each in told for state in each.settled.activities]),
        {table: encoded(rows) for table, rows in said.items()},
        rewritten,
        [resources[key] for key in sorted(resources)],
    )


def _resources(told: Sequence[_Told], identities: Identities, naming: Naming) -> Iterator[Resource]:
    for each, claim, ids in _submitted(told, identities, naming):
        if any(isinstance(event.content, Claim) for event in each.events):
            if not patient_identifiers(claim, naming):  # a patient who is known by this claim alone
                yield patient(ids.patient, (), naming)
            yield from clinical(each.settled, ids, naming)
        yield from financial(each.settled, ids, naming)


def _submitted(told: Sequence[_Told], identities: Identities, naming: Naming) -> Iterator[tuple[_Told, Claim, Ids]]:
    """Those whose submission has come, with the ids of whom they speak of."""
    for each in told:
        if (claim := each.settled.claim) is not None:
            identifiers = patient_identifiers(claim, naming)
            patient_id = identities.patient(identifiers) if identifiers else naming.id_of("Patient", *each.key)
            yield each, claim, Ids(patient_id, identities.ids)


def _coverages(told: Sequence[_Told], identities: Identities, naming: Naming) -> list[Resource]:
    found = [coverage(each.settled, ids, naming) for each, _, ids in _submitted(told, identities, naming)]
    return [resource for resource in found if resource is not None]


def _remarks(told: Sequence[_Told]) -> Iterator[Remark]:
    """What the file's own events came to, beside what the parser has said."""
    for each in told:
        known = {state.activity.id for state in each.settled.activities}
        for step in each.new_steps():
            content = step.event.content
            if step.kind == "repetition":
                yield Remark("warning", REPEATED, each.key[1])
            elif isinstance(content, Remitted) and known and any(line.activity_id not in known for line in content.lines):
                yield Remark("warning", UNKNOWN_ACTIVITY, each.key[1])


def _size(content: Claim | Remitted) -> int:
    return len(content.activities if isinstance(content, Claim) else content.lines)


def _amount(content: Claim | Remitted) -> Any:
    if isinstance(content, Claim):
        return sum(activity.net for activity in content.activities)
    return sum(line.payment for line in content.lines)
