"""What remittances tell: a ClaimResponse of each, and what they come to, the ExplanationOfBenefit."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal

from ingestion.claims import Claim, Line, Remitted
from ingestion.mapping import codes
from ingestion.mapping.naming import Naming
from ingestion.mapping.pieces import (
    Json,
    aed,
    amount_text,
    concept_text,
    day,
    encoded,
    identifier,
    identifier_text,
    moment,
    raw,
    reference,
    rows,
)
from ingestion.mapping.shared import About, Ids, about
from ingestion.settling.history import ActivityState, Settled, Step
from ingestion.settling.money import Amounts
from r4.resource import Resource, made

_ZERO = Decimal("0.00")


def financial(settled: Settled, ids: Ids, naming: Naming) -> list[Resource]:
    """Nothing while the submission has not come, for a ClaimResponse needs its patient; and before the first remittance."""
    base = about(settled, ids, naming) if settled.remittances else None
    if base is None:
        return []
    items = {state.activity.id: state.ordinal for state in settled.activities}
    responses = [
        _response(step, step.event.content, base, items, _submitted_before(step, settled), ids, naming)
        for step in settled.remittances
        if isinstance(step.event.content, Remitted)
    ]
    return [*responses, _explanation(settled, base, responses[-1].id, naming)]


def _submitted_before(step: Step, settled: Settled) -> AbstractSet[str]:
    """Ids of the activities that were submitted when this was remitted; all, if that was before any were."""
    found: set[str] = set()
    if settled.resubmission_count:
        for earlier in settled.steps[: settled.steps.index(step)]:
            content = earlier.event.content
            if earlier.kind != "repetition" and isinstance(content, Claim):
                found.update([activity.id for activity in content.activities])
    return found or {state.activity.id for state in settled.activities}


def _response(
    step: Step, said: Remitted, base: About, items: Mapping[str, int], submitted: AbstractSet[str], ids: Ids, naming: Naming
) -> Resource:
    event = step.event
    members: Json = {
        "identifier": [identifier(naming.sid("remittance"), f"{event.file_id}|{said.id}")],
        "status": "active",
        "type": base.type,
        "use": "claim",
        "patient": base.patient,
        "created": moment(event.at),
        "insurer": reference("Organization", ids.of[naming.payer(event.sender_id)]),
        "request": reference("Claim", base.id),
        "outcome": "complete" if submitted <= {line.activity_id for line in said.lines} else "partial",
        "disposition": step.status,
    }
    if said.id_payer:
        members["identifier"].append(identifier(naming.sid("payer-claim", event.sender_id), said.id_payer))
    members |= _items(said, items, ids, naming)
    if said.denial_code:
        members["adjudication"] = raw(f'[{{"category":{codes.BENEFIT},"reason":{codes.denial(said.denial_code, naming)}}}]')
    members["payment"] = _payment(said, naming)
    key = (str(event.facility_no), event.file_id, base.claim.provider_id, base.claim.id, str(event.n))
    return made("ClaimResponse", naming.id_of("ClaimResponse", *key), members)


def _items(said: Remitted, items: Mapping[str, int], ids: Ids, naming: Naming) -> Json:
    """By the activities' ids; what was remitted for one that was not submitted has none, and is added."""
    matched = [
        f'{{"itemSequence":{items[line.activity_id]},"adjudication":[{_adjudication(line, naming)}]}}'
        for line in said.lines
        if line.activity_id in items
    ]
    found: Json = {"item": rows(matched)} if matched else {}
    if len(matched) < len(said.lines):
        found["addItem"] = [_added(line, ids, naming) for line in said.lines if line.activity_id not in items]
    return found


def _adjudication(line: Line, naming: Naming) -> str:
    found = [
        amount_text(codes.SUBMITTED, line.net),
        amount_text(codes.BENEFIT, line.payment, codes.denial(line.denial_code, naming)),
    ]
    if line.patient_share is not None:
        found.append(amount_text(codes.COPAY, line.patient_share))
    if line.gross is not None:
        found.append(amount_text(concept_text(naming.cs("adjudication"), "gross"), line.gross))
    if line.list is not None:
        found.append(amount_text(concept_text(naming.cs("adjudication"), "list"), line.list))
    return ",".join(found)


def _added(line: Line, ids: Ids, naming: Naming) -> Json:
    url = naming.url("activity-id")
    item: Json = {
        "extension": raw(f'[{{"url":"{url}","valueString":{encoded(line.activity_id)}}}]'),
        "productOrService": raw(codes.service(line.type, line.code, naming)),
        "servicedDate": day(line.start),
        "quantity": {"value": line.quantity},
        "net": raw(aed(line.net)),
        "adjudication": raw(f"[{_adjudication(line, naming)}]"),
    }
    if line.clinician_id:
        item["provider"] = [reference("Practitioner", ids.of[naming.clinician(line.clinician_id)])]
    return item


def _payment(said: Remitted, naming: Naming) -> Json:
    paid = sum([line.payment for line in said.lines], _ZERO)
    asked = sum([line.net for line in said.lines], _ZERO)
    kind = codes.WHOLE_PAYMENT if paid >= asked else codes.PART_PAYMENT
    payment: Json = {"type": raw(kind), "amount": raw(aed(paid))}
    if said.date_settlement:
        payment["date"] = day(said.date_settlement)
    if said.payment_reference:
        payment["identifier"] = raw(identifier_text(naming.sid("payment-reference"), said.payment_reference))
    return payment


def _explanation(settled: Settled, base: About, latest_id: str, naming: Naming) -> Resource:
    answered = all(state.last_remitted_at for state in settled.activities)
    members: Json = {
        "status": "active",
        "type": base.type,
        "use": "claim",
        "patient": base.patient,
        "created": moment(settled.remittances[-1].event.at),
        "insurer": base.payer,
        "provider": base.provider,
        "claim": reference("Claim", base.id),
        "claimResponse": reference("ClaimResponse", latest_id),
        "outcome": "complete" if answered else "partial",
        "insurance": [{"focal": True, "coverage": reference("Coverage", base.coverage_id)}],
        "total": rows(
            [
                amount_text(codes.SUBMITTED, settled.amounts.net),
                amount_text(codes.BENEFIT, settled.amounts.held),
                amount_text(codes.COPAY, base.claim.patient_share),
                *_lost(settled.amounts, naming),
            ]
        ),
    }
    if settled.activities:
        members["item"] = rows([_explained(state, base, naming) for state in settled.activities])
    return made("ExplanationOfBenefit", base.id, members, {"item": base.visited})


def _explained(state: ActivityState, base: About, naming: Naming) -> str:
    activity, amounts = state.activity, state.amounts
    kept = amount_text(codes.BENEFIT, amounts.held, codes.denial(state.denial_code, naming))
    return (
        f'{{"sequence":{state.ordinal},"productOrService":{codes.service(activity.type, activity.code, naming)},'
        f'"adjudication":[{",".join([kept, *_lost(amounts, naming)])}]{base.in_item}}}'
    )


def _lost(amounts: Amounts, naming: Naming) -> Iterator[str]:
    """Categories of our own, where they are not nothing. The review reads the first two, of the totals."""
    for name, amount in (("taken-back", amounts.taken_back), ("denied", amounts.denied), ("overpaid", amounts.overpaid)):
        if amount:
            yield amount_text(concept_text(naming.cs("adjudication"), name), amount)
