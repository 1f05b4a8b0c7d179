"""What is known of a claim: made of all that files said of it, in whatever order they came. Pure."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from ingestion.claims import Activity, Claim, Event, Remark
from ingestion.money import Amounts


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
    """submission, resubmission, remittance; repetition: a claim id said again without Resubmission, which counts for nothing."""
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
    """`events`: all of one claim, each once, in any order."""
    raise NotImplementedError
