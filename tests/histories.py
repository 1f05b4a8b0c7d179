"""Events of one claim: short words for writing a history down, and Hypothesis' strategy for random ones."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from ingestion.claims import Activity, Claim, Encounter, Event, Line, Remitted, Resubmission

DUBAI = ZoneInfo("Asia/Dubai")
START = datetime(2026, 4, 11, 10, 44, tzinfo=DUBAI)
TYPES = ("correction", "internal complaint", "legacy", "reconciliation")


def hour(number: int) -> datetime:
    return START + timedelta(hours=number)


def activity(activity_id: str, net: str, code: str = "99213") -> Activity:
    return Activity(activity_id, START, "3", code, Decimal(1), Decimal(net), "DHA-P-00000001")


def submission(
    at: int,
    nets: dict[str, str],
    again: str | None = None,
    *,
    file_id: str = "",
    facility_no: int = 1,
    n: int = 1,
    **terms: Any,
) -> Event:
    """`nets` by activity id; `again`: the Resubmission's type; `terms`: the claim's other fields."""
    claim = Claim(
        id="C-1",
        payer_id=terms.pop("payer_id", "INS001"),
        provider_id="DHA-F-0000001",
        emirates_id="111-1111-1111111-1",
        gross=Decimal("500.00"),
        patient_share=Decimal("20.00"),
        net=sum(map(Decimal, nets.values()), Decimal("0.00")),
        activities=tuple(activity(each, net, code=f"{at}") for each, net in nets.items()),
        resubmission=Resubmission(again, "please look again") if again else None,
        **terms,
    )
    return Event(hour(at), facility_no, file_id or f"s{at}", n, "DHA-F-0000001", claim)


def remittance(
    at: int,
    payments: dict[str, str] | list[tuple[str, str]],
    *,
    settled: int | None = None,
    file_id: str = "",
    facility_no: int = 1,
    n: int = 1,
) -> Event:
    """Payments by activity id, as `"64.80"`, or with a denial code as `"0.00 MNEC-003"`."""
    pairs = payments.items() if isinstance(payments, dict) else payments
    lines = tuple(line(each, *said.split()) for each, said in pairs)
    reference = f"PAY-{at}"
    content = Remitted("C-1", "I-1", reference, lines, date_settlement=None if settled is None else hour(settled))
    return Event(hour(at), facility_no, file_id or f"r{at}", n, "INS001", content)


def line(activity_id: str, payment: str, code: str | None = None) -> Line:
    net = Decimal("100.00")
    return Line(activity_id, START, "3", "99213", Decimal(1), net, "DHA-P-00000001", Decimal(payment), denial_code=code)


_IDS = ("A1", "A2", "A3")
_hours = st.integers(0, 5)
_nets = st.dictionaries(st.sampled_from(_IDS), st.sampled_from(["0.00", "0.01", "50.00", "100.00"]), min_size=1)
_payments = st.sampled_from(["0.00", "0.01", "50.00", "100.00", "130.00", "-0.01", "-50.00", "-100.00", "-250.00"])
_said = st.builds(lambda payment, code: f"{payment} {code}".strip(), _payments, st.sampled_from(["", "MNEC-003", "PRCE-003"]))
_lines = st.lists(st.tuples(st.sampled_from((*_IDS, "X9")), _said), min_size=1, max_size=5)
_names = {"file_id": st.sampled_from(["f1", "f2", "f3"]), "facility_no": st.integers(1, 2), "n": st.integers(1, 2)}
_encounters = st.sampled_from([None, Encounter("DHA-F-0000002", "1", "MRN-1", hour(-30))])
_submissions = st.builds(
    submission,
    _hours,
    _nets,
    st.sampled_from([None, "correction", *TYPES]),
    payer_id=st.sampled_from(["INS001", "INS002"]),
    member_id=st.sampled_from([None, "M-1", "SelfPay"]),
    encounter=_encounters,
    **_names,
)
_remittances = st.builds(remittance, _hours, _lines, settled=st.none() | _hours, **_names)


def _in_utc(event: Event) -> Event:
    """The same instant, as it is read again from where it was kept."""
    return Event(event.at.astimezone(UTC), event.facility_no, event.file_id, event.n, event.sender_id, event.content)


def _name(event: Event) -> tuple[int, str, int]:
    return event.facility_no, event.file_id, event.n


_events = _submissions | _remittances | _submissions.map(_in_utc) | _remittances.map(_in_utc)
histories = st.lists(_events, max_size=8, unique_by=_name)
"""Equal times, repeated ids, early and late ones, and lines of activities that nobody submitted are all likely."""
