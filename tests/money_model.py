"""The rules of money once more, written down plainly: everything is computed anew from all events, with no thought of speed.

What ingestion and the report views compute is compared with this. It shares nothing with them but the events themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from ingestion.claims import Activity, Claim, Event, Line, Remitted

NIL = Decimal("0.00")
NAMES = ("net", "held", "taken_back", "denied", "pending", "overpaid")


@dataclass(frozen=True)
class Money:
    net: Decimal = NIL
    held: Decimal = NIL
    taken_back: Decimal = NIL
    denied: Decimal = NIL
    pending: Decimal = NIL
    overpaid: Decimal = NIL


@dataclass(frozen=True)
class ActivityNow:
    activity: Activity
    ordinal: int
    submitted_at: datetime
    money: Money
    status: str
    denial_code: str | None
    last_remitted_at: datetime | None


def is_submission(event: Event) -> bool:
    return isinstance(event.content, Claim)


def claim_of(event: Event) -> Claim:
    assert isinstance(event.content, Claim)
    return event.content


def remitted_of(event: Event) -> Remitted:
    assert isinstance(event.content, Remitted)
    return event.content


def timeline(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda e: (e.at, 0 if is_submission(e) else 1, e.facility_no, e.file_id, e.n))


def remittances(events: Iterable[Event]) -> list[Event]:
    """In the order in which they count."""
    found = [event for event in events if not is_submission(event)]
    return sorted(found, key=lambda e: (remitted_of(e).date_settlement or e.at, e.at, e.file_id, e.n, e.facility_no))


def submissions(events: Iterable[Event]) -> list[Event]:
    """Those that count: the earliest without Resubmission, then those with one, in the order of time."""
    ordered = [event for event in timeline(events) if is_submission(event)]
    plain = [event for event in ordered if claim_of(event).resubmission is None]
    again = [event for event in ordered if claim_of(event).resubmission is not None]
    return plain[:1] + again


def kind(event: Event, events: Iterable[Event]) -> str:
    if not is_submission(event):
        return "remittance"
    counting = submissions(events)
    if event not in counting:
        return "repetition"
    return "submission" if event == counting[0] else "resubmission"


def corrects(event: Event) -> bool:
    again = claim_of(event).resubmission
    return again is not None and again.type == "correction"


def terms(events: Iterable[Event]) -> Claim | None:
    """The claim with its fields and its activities as they are now."""
    counting = submissions(events)
    if not counting:
        return None
    standing = [counting[0], *(event for event in counting[1:] if corrects(event))]
    now = activities(events)
    said = claim_of(standing[-1])
    visits = [visit for event in standing if (visit := claim_of(event).encounter)]
    return Claim(
        said.id,
        said.payer_id,
        said.provider_id,
        said.emirates_id,
        said.gross,
        said.patient_share,
        said.net,
        tuple(each.activity for each in now.values()),
        said.diagnoses,
        visits[-1] if visits else None,
        said.id_payer,
        said.member_id,
        claim_of(counting[-1]).resubmission,
        said.package_name,
    )


def lines_of(activity_id: str, events: Iterable[Event]) -> list[tuple[Event, Line]]:
    """The latest last."""
    return [
        (event, line) for event in remittances(events) for line in remitted_of(event).lines if line.activity_id == activity_id
    ]


def holding(activity_id: str, events: Iterable[Event]) -> list[Event]:
    return [event for event in submissions(events) if any(each.id == activity_id for each in claim_of(event).activities)]


def activity_as_said(activity_id: str, events: Iterable[Event]) -> Activity:
    said = holding(activity_id, events)
    standing = [said[0], *(event for event in said[1:] if corrects(event))][-1]
    return next(each for each in claim_of(standing).activities if each.id == activity_id)


def is_reopened(activity_id: str, events: Sequence[Event]) -> bool:
    lines = lines_of(activity_id, events)
    if not lines:
        return False
    counting = submissions(events)
    first = counting.index(holding(activity_id, events)[0])
    return any(again.at > max(event.at for event, _ in lines) for again in counting[first + 1 :])


def latest_code(activity_id: str, events: Iterable[Event]) -> str | None:
    lines = lines_of(activity_id, events)
    return lines[-1][1].denial_code if lines else None


def activity_money(activity_id: str, events: Sequence[Event]) -> Money:
    net = activity_as_said(activity_id, events).net
    payments = [line.payment for _, line in lines_of(activity_id, events)]
    p = sum((payment for payment in payments if payment > 0), NIL)
    n = sum((-payment for payment in payments if payment < 0), NIL)
    held = min(max(p - n, NIL), net)
    taken_back = min(p, net) - held
    denied = net if latest_code(activity_id, events) and p == 0 else NIL
    if is_reopened(activity_id, events):
        taken_back = denied = NIL
    return Money(net, held, taken_back, denied, net - held - taken_back - denied, max(p - n - net, NIL))


def activity_status(activity_id: str, events: Sequence[Event]) -> str:
    money = activity_money(activity_id, events)
    if money.net == 0:
        never_paid = all(line.payment <= 0 for _, line in lines_of(activity_id, events))
        code = latest_code(activity_id, events)
        return "REJECTED" if code and never_paid and not is_reopened(activity_id, events) else "PENDING"
    if money.held == money.net:
        return "FULLY_PAID"
    if money.held > 0 and money.taken_back > 0:
        return "PARTIALLY_TAKEN_BACK"
    if money.held > 0:
        return "PARTIALLY_PAID"
    if money.taken_back > 0:
        return "TAKEN_BACK"
    return "REJECTED" if money.denied > 0 else "PENDING"


def activities(events: Iterable[Event]) -> dict[str, ActivityNow]:
    """By id, in the order of first submission."""
    events = list(events)
    ids = list(dict.fromkeys(each.id for event in submissions(events) for each in claim_of(event).activities))
    return {each: activity_now(each, place, events) for place, each in enumerate(ids, 1)}


def activity_now(activity_id: str, ordinal: int, events: Sequence[Event]) -> ActivityNow:
    lines = lines_of(activity_id, events)
    return ActivityNow(
        activity_as_said(activity_id, events),
        ordinal,
        holding(activity_id, events)[-1].at,
        activity_money(activity_id, events),
        activity_status(activity_id, events),
        None if is_reopened(activity_id, events) else latest_code(activity_id, events),
        max((event.at for event, _ in lines), default=None),
    )


def claim_money(events: Iterable[Event]) -> Money:
    now = activities(events).values()
    return Money(*(sum((getattr(each.money, name) for each in now), NIL) for name in NAMES))


def claim_status(events: Sequence[Event]) -> str:
    if not submissions(events):
        return "PENDING"
    money = claim_money(events)
    if money.net == 0:
        return "CLOSED"
    if money.held == money.net:
        return "PAID"
    if money.held > 0:
        return "PARTIALLY_PAID"
    if money.denied == money.net:
        return "REJECTED"
    return "TAKEN_BACK" if money.taken_back > 0 else "PENDING"


def statuses(events: Iterable[Event]) -> list[tuple[datetime, str]]:
    """The claim's status after each of its events, as if nothing had come after that."""
    ordered = timeline(events)
    return [(event.at, claim_status(ordered[: place + 1])) for place, event in enumerate(ordered)]


def status_at(events: Iterable[Event]) -> datetime | None:
    """When the status became what it is."""
    since = None
    before = None
    for at, status in statuses(events):
        if status != before:
            since, before = at, status
    return since


def resubmissions(events: Iterable[Event]) -> list[Event]:
    return submissions(events)[1:]


def orphans(events: Sequence[Event]) -> list[Line]:
    known = activities(events)
    return [line for event in remittances(events) for line in remitted_of(event).lines if line.activity_id not in known]
