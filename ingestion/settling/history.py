"""What is known of a claim: made of all that files said of it, in whatever order they came. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from ingestion.claims import Activity, Claim, Event, Remark
from ingestion.settling.accounts import Item
from ingestion.settling.money import Amounts
from ingestion.settling.telling import Telling, in_time, place_of, submission_of

REPEATED = "claim id said again without Resubmission"
UNKNOWN_ACTIVITY = "remitted Activity/ID is in no submission of the claim"


class ActivityState(msgspec.Struct, frozen=True, gc=False):
    """An activity as its claim's submissions left it, and its money."""

    activity: Activity
    ordinal: int
    """From 1, in the order of first submission: the item's sequence."""
    submitted_at: datetime
    """Of the submission that said it last."""
    amounts: Amounts
    status: str
    denial_code: str | None
    """Of its latest line, unless that was reopened."""
    last_remitted_at: datetime | None


class Step(msgspec.Struct, frozen=True, gc=False):
    """An event, what it was for the claim, and how the claim stood after it."""

    event: Event
    kind: str
    """submission, resubmission, remittance; or repetition: a claim id said again without Resubmission, which counts for
    nothing."""
    status: str
    amounts: Amounts


class Settled(msgspec.Struct, frozen=True, gc=False):
    """A claim now. `claim` None: it was remitted, and its submission has not come yet."""

    claim: Claim | None
    """The latest submission that counts, with the activities of all of them as they are now."""
    submission: Event | None
    """The first submission that counts."""
    activities: tuple[ActivityState, ...]
    amounts: Amounts
    """Sums over the activities."""
    status: str
    status_at: datetime | None
    """When the status became what it is."""
    resubmission_count: int
    last_resubmission_at: datetime | None
    remittances: tuple[Step, ...]
    """In the order in which they count; the latest is last."""
    steps: tuple[Step, ...]
    remarks: tuple[Remark, ...]


def settle(events: Sequence[Event]) -> Settled:
    """`events`: all of one claim, each once, in any order. Each step stands as if nothing had come after it."""
    events = in_time(events)
    submission = submission_of(events)
    telling = Telling(submission)
    steps = tuple([Step(event, telling.tell(event), telling.status, telling.amounts) for event in events])
    resubmitted = [step.event.at for step in steps if step.kind == "resubmission"]
    return Settled(
        claim=_claim_now(telling),
        submission=submission,
        activities=tuple([_state_of(item) for item in telling.items.values()]),
        amounts=telling.amounts,
        status=telling.status,
        status_at=telling.status_at,
        resubmission_count=len(resubmitted),
        last_resubmission_at=resubmitted[-1] if resubmitted else None,
        remittances=_in_their_order(steps),
        steps=steps,
        remarks=_remarks_on(steps, telling),
    )


def _claim_now(telling: Telling) -> Claim | None:
    if telling.terms is None or (len(telling.told) == 1 and len(telling.items) == len(telling.terms.activities)):
        return telling.terms
    activities = tuple([item.activity for item in telling.items.values()])
    return msgspec.structs.replace(telling.terms, activities=activities)


def _state_of(item: Item) -> ActivityState:
    account = item.account
    return ActivityState(
        item.activity,
        item.ordinal,
        item.submitted_at,
        item.amounts,
        item.status,
        None if item.reopened else account.denial_code,
        account.remitted_at,
    )


def _in_their_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The remittances. Where all else is equal (files of two facilities), the order of time decides."""
    remittances = [step for step in steps if step.kind == "remittance"]
    if len(remittances) > 1:
        remittances.sort(key=lambda step: place_of(step.event))
    return tuple(remittances)


def _remarks_on(steps: Sequence[Step], telling: Telling) -> tuple[Remark, ...]:
    """Each reason once, however often it was given."""
    if telling.terms is None:
        return ()
    return tuple([Remark("warning", reason, telling.terms.id) for reason in _oddities(steps, telling)])


def _oddities(steps: Sequence[Step], telling: Telling) -> Iterator[str]:
    if any(step.kind == "repetition" for step in steps):
        yield REPEATED
    if len(telling.accounts) > len(telling.items):
        yield UNKNOWN_ACTIVITY
