"""A claim's history and standing as rows of the tables of schema claims. Pure."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from ingestion.claims import Claim, Event, Remitted, to_document
from ingestion.settling.history import ActivityState, Settled, Step
from storage.claims import ClaimKey, Row

TEXT_MAX = 4000
"""What is longer stays in the file."""


def place(event: Event) -> tuple[int, str, int]:
    return event.facility_no, event.file_id, event.n


def standing(step: Step) -> tuple[Any, ...]:
    """As storage.claims.Known has it."""
    amounts = step.amounts
    return step.kind, step.status, amounts.held, amounts.taken_back, amounts.denied, amounts.pending


def claim_row(tenant_id: int, key: ClaimKey, settled: Settled) -> Row:
    """A row of claims.claim."""
    claim, amounts = settled.claim, settled.amounts
    visit = claim.encounter if claim else None
    remitted = [step.event for step in settled.remittances]
    moments = [event.at for event in remitted]
    latest = remitted[-1].content if remitted else None
    return (
        tenant_id,
        *key,
        settled.submission.at if settled.submission else None,
        None if claim is None else visit.facility_id if visit else claim.provider_id,
        *((claim.payer_id, claim.member_id) if claim else (None, None)),
        *((visit.type, visit.start, visit.end) if visit else (None, None, None)),
        *((claim.gross, claim.patient_share) if claim else (None, None)),
        *(amounts.net, amounts.held, amounts.taken_back, amounts.denied, amounts.pending, amounts.overpaid),
        settled.status,
        settled.status_at,
        settled.resubmission_count,
        settled.last_resubmission_at,
        len(remitted),
        min(moments, default=None),
        max(moments, default=None),
        *((latest.date_settlement, latest.payment_reference, latest.id_payer) if isinstance(latest, Remitted) else (None,) * 3),
    )


def activity_row(tenant_id: int, key: ClaimKey, state: ActivityState) -> Row:
    """A row of claims.activity."""
    activity, amounts = state.activity, state.amounts
    return (
        tenant_id,
        *key,
        activity.id,
        state.ordinal,
        activity.start,
        activity.type,
        activity.code,
        activity.quantity,
        activity.net,
        activity.clinician_id,
        activity.prior_authorization,
        state.submitted_at,
        *(amounts.held, amounts.taken_back, amounts.denied, amounts.pending, amounts.overpaid),
        state.status,
        state.denial_code,
        state.last_remitted_at,
    )


def event_row(tenant_id: int, key: ClaimKey, step: Step) -> Row:
    """A row of claims.event."""
    kind, *rest = standing(step)
    return (
        tenant_id,
        *key,
        *place(step.event),
        kind,
        step.event.at,
        *rest,
        to_document(step.event),
        amount_of(step.event.content),
    )


def amount_of(content: Claim | Remitted) -> Decimal:
    """What a document asks for, or pays: the sum of its lines."""
    if isinstance(content, Claim):
        return sum((activity.net for activity in content.activities), Decimal("0.00"))
    return sum((line.payment for line in content.lines), Decimal("0.00"))


def said_rows(tenant_id: int, key: ClaimKey, event: Event) -> Iterator[tuple[str, Row]]:
    """What a file said of a claim, each row with its table."""
    head = (tenant_id, *key, *place(event))
    if isinstance(event.content, Claim):
        yield from _submitted(head, event.content)
    else:
        yield from _remitted(head, event, event.content)


def _submitted(head: Row, claim: Claim) -> Iterator[tuple[str, Row]]:
    for line, diagnosis in enumerate(claim.diagnoses, 1):
        yield "diagnosis", (*head, line, diagnosis.type, diagnosis.code)
    for activity in claim.activities:
        for line, said in enumerate(activity.observations, 1):
            yield "observation", (*head, activity.id, line, said.type, said.code, _cut(said.value), said.value_type)


def _remitted(head: Row, event: Event, remitted: Remitted) -> Iterator[tuple[str, Row]]:
    paid = sum(line.payment for line in remitted.lines)
    yield (
        "remittance",
        (
            *(*head, event.sender_id, event.at, remitted.date_settlement, remitted.payment_reference, remitted.id_payer),
            *(remitted.denial_code, paid),
        ),
    )
    for number, line in enumerate(remitted.lines, 1):
        yield (
            "remittance_activity",
            (
                *(*head, number, line.activity_id, line.start, line.type, line.code, line.quantity, line.net, line.gross),
                *(line.patient_share, line.list, line.clinician_id, line.prior_authorization, line.payment, line.denial_code),
            ),
        )


def error_rows(head: tuple[int, int, str], remarks: Iterable[Any]) -> list[Row]:
    """Rows of ops.ingest_error, the same remark once with how often it was met; `head`: tenant_id, facility_no, file_id."""
    times: dict[tuple[str, str, str], int] = {}
    for remark in remarks:
        said = remark.claim_id[:100], remark.severity, remark.reason[:500]
        times[said] = times.get(said, 0) + 1
    return [(*head, *said, count) for said, count in times.items()]


def _cut(text: str | None) -> str | None:
    return text and text[:TEXT_MAX]
