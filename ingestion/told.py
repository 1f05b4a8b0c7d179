"""What a file says of claims, with what is known of them, as rows and resources. Pure: it runs beside the event loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ingestion.claims import Claim, Event, Header, Parsed, Remark, Remitted, from_document
from ingestion.identities import Identities
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
from ingestion.rows import activity_row, claim_row, event_row, place, said_rows, standing
from ingestion.settling.history import REPEATED, UNKNOWN_ACTIVITY, Settled, Step, settle
from r4.resource import Resource
from storage.claims import ClaimKey, Known, Row
from storage.copying import encoded
from storage.resources import Identifier


class Mailbox(Protocol):
    """What the loader knows of a facility."""

    @property
    def facility_no(self) -> int: ...
    @property
    def tenant_id(self) -> int: ...
    @property
    def licence(self) -> str: ...


@dataclass(slots=True)
class Told:
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

    def kept(self, tenant_id: int) -> Iterator[Row]:
        """The claim's activities, as activities_keep wants them, if others may be stored.

        When an earlier submission comes late, the one that was taken for the first becomes a repetition and counts no more.
        """
        if any(step.kind == "repetition" for step in self.changed_steps()):
            yield tenant_id, *self.key, [state.activity.id for state in self.settled.activities]


def told_of(parsed: Parsed, facility: Mailbox, file_id: str) -> list[Told]:
    """The file's claims in the order of their keys, as everybody locks them."""
    found: dict[ClaimKey, Told] = {}
    header = parsed.header
    contents: Sequence[Claim | Remitted] = parsed.claims
    for n, content in enumerate(contents, 1):
        event = Event(header.transaction_date, facility.facility_no, file_id, n, header.sender_id, content)
        key = _provider(content, header, facility.licence), content.id
        found.setdefault(key, Told(key)).events.append(event)
    return [found[key] for key in sorted(found)]


def _provider(content: Claim | Remitted, header: Header, licence: str) -> str:
    """Whose claim it is: a remittance need not say it."""
    return content.provider_id or getattr(content, "facility_id", None) or header.receiver_id or licence


def settle_all(
    told: Sequence[Told], history: dict[ClaimKey, list[Known]], naming: Naming
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
class Made:
    """What COPY takes is encoded."""

    claims: bytes
    activities: bytes
    said: dict[str, bytes]
    rewritten: list[Row]
    kept: list[Row]
    resources: list[Resource]


def make(told: Sequence[Told], identities: Identities, naming: Naming, tenant_id: int, shared: Sequence[Resource]) -> Made:
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
    return Made(
        encoded([claim_row(tenant_id, each.key, each.settled) for each in told]),
        encoded([activity_row(tenant_id, each.key, state) for each in told for state in each.settled.activities]),
        {table: encoded(rows) for table, rows in said.items()},
        rewritten,
        [row for each in told for row in each.kept(tenant_id)],
        [resources[key] for key in sorted(resources)],
    )


def _resources(told: Sequence[Told], identities: Identities, naming: Naming) -> Iterator[Resource]:
    for each, claim, ids in _submitted(told, identities, naming):
        if any(isinstance(event.content, Claim) for event in each.events):
            if not patient_identifiers(claim, naming):  # a patient who is known by this claim alone
                yield patient(ids.patient, (), naming)
            yield from clinical(each.settled, ids, naming)
        yield from financial(each.settled, ids, naming)


def _submitted(told: Sequence[Told], identities: Identities, naming: Naming) -> Iterator[tuple[Told, Claim, Ids]]:
    """Those whose submission has come, with the ids of whom they speak of."""
    for each in told:
        if (claim := each.settled.claim) is not None:
            identifiers = patient_identifiers(claim, naming)
            patient_id = identities.patient(identifiers) if identifiers else naming.id_of("Patient", *each.key)
            yield each, claim, Ids(patient_id, identities.ids)


def coverages(told: Sequence[Told], identities: Identities, naming: Naming) -> list[Resource]:
    found = [coverage(each.settled, ids, naming) for each, _, ids in _submitted(told, identities, naming)]
    return [resource for resource in found if resource is not None]


def remarks_of(told: Sequence[Told]) -> Iterator[Remark]:
    """What the file's own events came to, beside what the parser has said."""
    for each in told:
        known = {state.activity.id for state in each.settled.activities}
        for step in each.new_steps():
            content = step.event.content
            if step.kind == "repetition":
                yield Remark("warning", REPEATED, each.key[1])
            elif isinstance(content, Remitted) and known and any(line.activity_id not in known for line in content.lines):
                yield Remark("warning", UNKNOWN_ACTIVITY, each.key[1])


def size_of(content: Claim | Remitted) -> int:
    return len(content.activities if isinstance(content, Claim) else content.lines)
