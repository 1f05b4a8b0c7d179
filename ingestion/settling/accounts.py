"""What is known of each activity of a claim, while its history is told. The rules are money.py's."""

from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

import msgspec

from ingestion.claims import Activity, Line
from ingestion.settling.money import CENT, NOTHING, ZERO, Amounts, activity_status, amounts_of, is_denied

Place: TypeAlias = tuple[datetime, datetime, str, int]
"""A remittance's among those of its claim: DateSettlement, else the header's date; the header's date; file id; n."""


class Account(msgspec.Struct, gc=False):
    """What was remitted for an activity id, whether a submission holds it or not."""

    paid: Decimal = ZERO
    returned: Decimal = ZERO
    latest: Place | None = None
    denial_code: str | None = None
    remitted_at: datetime | None = None

    def post(self, line: Line, place: Place) -> None:
        """Remittances come in the order of time, their lines as they stand: of equal places the later counts."""
        payment = line.payment.quantize(CENT)
        if payment > ZERO:
            self.paid += payment
        else:
            self.returned -= payment
        if self.latest is None or place >= self.latest:
            self.latest, self.denial_code = place, line.denial_code
        self.remitted_at = place[1]


class Item(msgspec.Struct, gc=False):
    """An activity that a submission holds."""

    activity: Activity
    ordinal: int
    submitted_at: datetime
    account: Account
    resubmitted_at: datetime | None = None
    """Of the claim's latest resubmission that found the activity there."""
    amounts: Amounts = NOTHING
    denied: bool = False
    reopened: bool = False

    @property
    def status(self) -> str:
        return activity_status(self.amounts, denied=self.denied)

    def balance(self) -> Amounts:
        account = self.account
        self.reopened = (
            account.remitted_at is not None and self.resubmitted_at is not None and account.remitted_at < self.resubmitted_at
        )
        self.denied = is_denied(account.denial_code, account.paid, reopened=self.reopened)
        self.amounts = amounts_of(
            self.activity.net.quantize(CENT), account.paid, account.returned, denied=self.denied, reopened=self.reopened
        )
        return self.amounts
