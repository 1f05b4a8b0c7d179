"""Claims as tests want them: one with its members changed, and many of all codes, drawn at random. Nothing in them is real."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from ingestion.claims import (
    Activity,
    Claim,
    Diagnosis,
    Encounter,
    Event,
    Line,
    Observation,
    Remitted,
    Resubmission,
)

PROVIDER, PAYER, SENDER = "DHA-F-0000001", "INS001", "TPA001"
SUBMITTED = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)
"""The second of March in Dubai."""
VISITED = datetime(2026, 2, 27, 21, 15, tzinfo=UTC)

ENCOUNTER_TYPES = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "12", "13", "15", "41", "42", "77")
START_TYPES = (None, "1", "2", "3", "4", "5", "6", "7", "88")
END_TYPES = (None, "1", "2", "3", "4", "5", "6", "7", "8", "99")
ACTIVITY_TYPES = ("3", "4", "5", "6", "8", "9", "10", "55")
OBSERVATION_TYPES = ("LOINC", "Text", "File", "Universal Dental", "Financial", "Grouping", "ERX", "Result", "Ödd one|x")
RESUBMISSIONS = ("correction", "internal complaint", "legacy", "reconciliation", "other")
VALUES = (None, "7.5", "-3", "20260301", "01/03/2026", "x" * 5000, '<b>"\\ \t ü لا', "1e400", "007")
UNITS = (None, "mmol/L", "Date", "Time")


def activity(key: str = "A1", **more: Any) -> Activity:
    values = {"start": VISITED, "type": "3", "code": "99213", "quantity": Decimal("1.0"), "net": Decimal("64.80")}
    return Activity(key, **{**values, "clinician_id": "DHA-P-00000001", **more})


def visit(**more: Any) -> Encounter:
    values = {"facility_id": PROVIDER, "type": "1", "patient_id": "MRN-1", "start": VISITED}
    return Encounter(**{**values, "end": VISITED + timedelta(hours=1), "start_type": "1", "end_type": "1", **more})


def claim(**more: Any) -> Claim:
    values: dict[str, Any] = {
        "id": "C1",
        "payer_id": PAYER,
        "provider_id": PROVIDER,
        "emirates_id": "784-1990-0000001-1",
        "gross": Decimal("70.00"),
        "patient_share": Decimal("5.20"),
        "activities": (activity(),),
        "diagnoses": (Diagnosis("Principal", "J06.9"),),
        "encounter": visit(),
        "member_id": "M-1",
    } | more
    return Claim(**{"net": sum((each.net for each in values["activities"]), Decimal("0.00")), **values})


def line(of: Activity, payment: str, **more: Any) -> Line:
    said = (of.id, of.start, of.type, of.code, of.quantity, of.net, of.clinician_id)
    return Line(*said, payment=Decimal(payment), **more)


def remitted(*lines: Line, **more: Any) -> Remitted:
    return Remitted(**{"id": "C1", "id_payer": "P-77", "payment_reference": "PAY-1", "lines": lines, **more})


def event(content: Claim | Remitted, days: int = 0, n: int = 1, **more: Any) -> Event:
    """`days` after the submission."""
    sender = PROVIDER if isinstance(content, Claim) else SENDER
    values = {"facility_no": 1, "file_id": f"F{days}", "n": n, "sender_id": sender}
    return Event(SUBMITTED + timedelta(days=days), content=content, **{**values, **more})


def history(random: Random, number: int) -> list[Event]:
    """All that happened to a claim: submitted, perhaps again, paid, denied, taken back."""
    first = _drawn_claim(random, number)
    events = [event(first, 0, number)]
    said = first
    for step in range(1, random.randrange(5)):
        if random.random() < 0.25:
            said = _drawn_claim(
                random, number, first.id, Resubmission(random.choice(RESUBMISSIONS), random.choice(("", "why")))
            )
            events.append(event(said, step * 10, number))
        else:
            events.append(event(_drawn_remitted(random, said), step * 10, number))
    return events


def _drawn_claim(random: Random, number: int, key: str = "", again: Resubmission | None = None) -> Claim:
    activities = tuple(_drawn_activity(random, n) for n in range(1, random.randint(2, 6)))
    kinds = ("Principal", "Secondary", "Admitting", "ReasonForVisit")
    return claim(
        id=key or f"C{number}|x y",
        payer_id=random.choice((PAYER, "INS002")),
        emirates_id=random.choice((f"784-1990-{number:07}-1", "000-0000-0000000-0", "999-9999-9999999-9")),
        activities=activities,
        diagnoses=tuple(Diagnosis(random.choice(kinds), f"J0{n}.9") for n in range(random.randrange(5))),
        encounter=None if random.random() < 0.1 else _drawn_visit(random, number),
        member_id=random.choice((None, "SelfPay", f"M-{number}")),
        resubmission=again,
        package_name=random.choice((None, "Gold ü")),
    )


def _drawn_visit(random: Random, number: int) -> Encounter:
    return visit(
        type=random.choice(ENCOUNTER_TYPES),
        patient_id=f"MRN-{number}",
        facility_id=random.choice((PROVIDER, "DHA-F-0000002")),
        end=random.choice((None, VISITED + timedelta(hours=3), VISITED - timedelta(hours=3))),
        start_type=random.choice(START_TYPES),
        end_type=random.choice(END_TYPES),
        transfer_source=random.choice((None, "Some House")),
        transfer_destination=random.choice((None, "DHA-F-0000009")),
    )


def _drawn_activity(random: Random, n: int) -> Activity:
    observations = (
        Observation(random.choice(OBSERVATION_TYPES), f"O-{k}", random.choice(VALUES), random.choice(UNITS))
        for k in range(random.choice((0, 0, 1, 3)))
    )
    return activity(
        f"A{n}",
        type=random.choice(ACTIVITY_TYPES),
        code=random.choice(("99213", "A 1", "0000-123456-0001")),
        quantity=Decimal(random.choice(("1.0", "0", "2.50", "1E-7"))),
        net=Decimal(random.randrange(100_000)) / 100 if random.random() < 0.9 else Decimal("0.00"),
        clinician_id=f"DHA-P-{random.randrange(4):08}",
        prior_authorization=random.choice((None, "AUTH-1", "AUTH-2")),
        observations=tuple(observations),
    )


def _drawn_remitted(random: Random, said: Claim) -> Remitted:
    lines = [_drawn_line(random, each) for each in said.activities if random.random() < 0.9]
    if not lines or random.random() < 0.1:
        lines.append(_drawn_line(random, activity("A-unasked", clinician_id="DHA-P-00000009")))
    settled = random.choice((None, VISITED + timedelta(days=random.randrange(60))))
    return remitted(
        *lines,
        id=said.id,
        id_payer=random.choice(("", "P-77")),
        payment_reference=random.choice(("", "PAY-1")),
        date_settlement=settled,
        denial_code=random.choice((None, None, "CLAI-012")),
    )


def _drawn_line(random: Random, of: Activity) -> Line:
    payment = random.choice((of.net, of.net, of.net / 2, -of.net, Decimal(0), of.net + 1)).quantize(Decimal("0.01"))
    money = (None, Decimal("0.00"), Decimal("12.30"))
    return line(
        of,
        str(payment),
        gross=random.choice(money),
        list=random.choice(money),
        patient_share=random.choice(money),
        denial_code=random.choice((None, None, "MNEC-003", "ODD 1")),
    )
