"""What a generated visit is charged, and what the payer answers: Claim, ClaimResponse, ExplanationOfBenefit.

Money is counted in fils and written in dirhams, so that totals are the sums of what they total.
"""

from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import NamedTuple

from simulator.people_catalogue import (
    BASE,
    CPT,
    DENIALS,
    ICD_10,
    TERMINOLOGY,
    Json,
    concept,
    draw,
    identifier,
    moment,
    reference,
)
from simulator.people_types import Visit

OUTCOME_SHARES = {"paid": 0.76, "partial": 0.12, "denied": 0.12}
"""Of one claimed service."""
REPEATED = ("97110", "99232")
"""Services that are given several times in one visit."""


class Line(NamedTuple):
    """One claimed service and what the payer gave for it."""

    code: str
    display: str
    quantity: int
    price_fils: int
    paid_fils: int
    denial: str | None

    @property
    def net_fils(self) -> int:
        return self.quantity * self.price_fils


def services(visit: Visit, random: Random) -> list[Line]:
    return [_line(random, *service) for service in visit.case.services]


def _line(random: Random, code: str, display: str, price_fils: int) -> Line:
    quantity = random.randint(2, 6) if code in REPEATED else 1
    net_fils = quantity * price_fils
    outcome = draw(random, OUTCOME_SHARES)
    paid_fils = {"paid": net_fils, "partial": net_fils * 4 // 5, "denied": 0}[outcome]
    denial = None if outcome == "paid" else random.choice(DENIALS)
    return Line(code, display, quantity, price_fils, paid_fils, denial)


def _aed(fils: int) -> Json:
    return {"value": fils / 100, "currency": "AED"}


def _submitted(lines: Sequence[Line]) -> int:
    return sum(line.net_fils for line in lines)


def _paid(lines: Sequence[Line]) -> int:
    return sum(line.paid_fils for line in lines)


def _billing(visit: Visit, insurer: Json, created: datetime) -> Json:
    """What a claim, its response and its explanation all say."""
    kind = "institutional" if visit.kind in ("IMP", "SS") else "professional"
    return {
        "status": "active",
        "type": concept(f"{TERMINOLOGY}/claim-type", kind),
        "use": "claim",
        "patient": reference("Patient", visit.person.id),
        "created": moment(created),
        "insurer": insurer,
    }


def claim(visit: Visit, lines: Sequence[Line], insurer: Json, created: datetime) -> Json:
    hospital = visit.person.hospital
    diagnosis: Json = {"sequence": 1, "type": [concept(f"{TERMINOLOGY}/ex-diagnosistype", "principal")]}
    if visit.has_condition:
        diagnosis["diagnosisReference"] = reference("Condition", f"con-{visit.key}")
    else:
        diagnosis["diagnosisCodeableConcept"] = concept(ICD_10, visit.case.code, visit.case.display)
    return {
        "resourceType": "Claim",
        "id": f"clm-{visit.key}",
        "identifier": [identifier(f"claim/{hospital.licence}", f"CL{visit.key}")],
        **_billing(visit, insurer, created),
        "billablePeriod": {"start": visit.start.date().isoformat(), "end": visit.end.date().isoformat()},
        "provider": reference("Organization", hospital.id),
        "priority": concept(f"{TERMINOLOGY}/processpriority", "normal"),
        "careTeam": [{"sequence": 1, "provider": reference("Practitioner", visit.practitioner)}],
        "diagnosis": [diagnosis],
        "insurance": [{"sequence": 1, "focal": True, "coverage": reference("Coverage", visit.person.coverage)}],
        "item": [
            _service(visit, number, line)
            | {"unitPrice": _aed(line.price_fils), "net": _aed(line.net_fils), "diagnosisSequence": [1]}
            for number, line in enumerate(lines, 1)
        ],
        "total": _aed(_submitted(lines)),
    }


def _service(visit: Visit, number: int, line: Line) -> Json:
    return {
        "sequence": number,
        "productOrService": concept(CPT, line.code, line.display),
        "servicedDate": visit.start.date().isoformat(),
        "quantity": {"value": line.quantity},
        "encounter": [reference("Encounter", visit.encounter)],
    }


def _category(code: str, fils: int) -> Json:
    return {"category": concept(f"{TERMINOLOGY}/adjudication", code), "amount": _aed(fils)}


def _adjudication(line: Line) -> list[Json]:
    benefit = _category("benefit", line.paid_fils)
    if line.denial:
        benefit["reason"] = concept(f"{BASE}/cs/denial-code", line.denial)
    return [_category("submitted", line.net_fils), benefit]


def _settlement(lines: Sequence[Line], answered: datetime) -> Json:
    """Outcome in words, totals, and the payment where there was one."""
    submitted, paid = _submitted(lines), _paid(lines)
    words = "Paid in full" if paid == submitted else "Paid in part" if paid else "Rejected"
    settled: Json = {
        "outcome": "complete",
        "disposition": words,
        "total": [_category("submitted", submitted), _category("benefit", paid)],
    }
    if paid:
        whole = "complete" if paid == submitted else "partial"
        kind = concept(f"{TERMINOLOGY}/ex-paymenttype", whole)
        settled["payment"] = {"type": kind, "date": answered.date().isoformat(), "amount": _aed(paid)}
    return settled


def claim_response(visit: Visit, lines: Sequence[Line], insurer: Json, answered: datetime) -> Json:
    return {
        "resourceType": "ClaimResponse",
        "id": f"clr-{visit.key}",
        "identifier": [identifier("claim-response", f"RA{visit.key}")],
        **_billing(visit, insurer, answered),
        "request": reference("Claim", f"clm-{visit.key}"),
        "item": [{"itemSequence": number, "adjudication": _adjudication(line)} for number, line in enumerate(lines, 1)],
        **_settlement(lines, answered),
    }


def explanation(visit: Visit, lines: Sequence[Line], insurer: Json, answered: datetime) -> Json:
    return {
        "resourceType": "ExplanationOfBenefit",
        "id": f"eob-{visit.key}",
        "identifier": [identifier("explanation", f"EB{visit.key}")],
        **_billing(visit, insurer, answered),
        "provider": reference("Organization", visit.person.hospital.id),
        "claim": reference("Claim", f"clm-{visit.key}"),
        "claimResponse": reference("ClaimResponse", f"clr-{visit.key}"),
        "insurance": [{"focal": True, "coverage": reference("Coverage", visit.person.coverage)}],
        "item": [_service(visit, number, line) | {"adjudication": _adjudication(line)} for number, line in enumerate(lines, 1)],
        **_settlement(lines, answered),
    }
