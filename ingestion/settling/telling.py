"""A claim's history told event by event, in the order of time: how the claim stands after each."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ingestion.claims import Claim, Event, Remitted
from ingestion.settling.accounts import Account, Item, Place
from ingestion.settling.money import NOTHING, claim_status, exchanged, total


def in_time(events: Sequence[Event]) -> Sequence[Event]:
    return sorted(events, key=_time_of) if len(events) > 1 else events


def _time_of(event: Event) -> tuple[datetime, bool, int, str, int]:
    """Of equal times submissions come first."""
    return event.at, isinstance(event.content, Remitted), event.facility_no, event.file_id, event.n


def place_of(event: Event) -> Place:
    settled_at = event.content.date_settlement if isinstance(event.content, Remitted) else None
    return settled_at or event.at, event.at, event.file_id, event.n


def submission_of(events: Sequence[Event]) -> Event | None:
    """Of events in time: the first without Resubmission; where there is none, the first of all stands as the submission."""
    first = None
    for event in events:
        if isinstance(event.content, Claim):
            if event.content.resubmission is None:
                return event
            first = first or event
    return first


class Telling:
    """`submission`: the one that is known when all is told. What is told before it stands as if it would never come."""

    def __init__(self, submission: Event | None) -> None:
        self.submission = submission
        self.told: list[tuple[Event, Claim]] = []  # the submissions that count
        self.terms: Claim | None = None  # what holds of the claim apart from its activities
        self.accounts: dict[str, Account] = {}
        self.items: dict[str, Item] = {}
        self.amounts = NOTHING
        self.status = "PENDING"
        self.status_at: datetime | None = None

    def tell(self, event: Event) -> str:
        """The event's kind. What it changed stands in the attributes."""
        content = event.content
        if isinstance(content, Remitted):
            kind = "remittance"
            self._remit(content, place_of(event))
        else:
            kind = self._submit(event, content)
        status = claim_status(self.amounts) if self.told else "PENDING"
        if status != self.status or self.status_at is None:
            self.status, self.status_at = status, event.at
        return kind

    def _remit(self, remitted: Remitted, place: Place) -> None:
        touched = {}
        for line in remitted.lines:
            account = self.accounts.get(line.activity_id)
            if account is None:
                account = self.accounts[line.activity_id] = Account()
            account.post(line, place)
            item = self.items.get(line.activity_id)
            if item is not None:
                touched[line.activity_id] = item
        if touched:
            before = total([item.amounts for item in touched.values()])
            after = total([item.balance() for item in touched.values()])
            self.amounts = exchanged(self.amounts, before, after)

    def _submit(self, event: Event, claim: Claim) -> str:
        if event is not self.submission and claim.resubmission is None:
            return "repetition"
        if event is self.submission and self.told:
            # Its resubmissions bear earlier times: they are told again, upon it.
            told, self.told, self.items = self.told, [], {}
            self._take(event, claim)
            for earlier in told:
                self._take(*earlier)
        else:
            self._take(event, claim)
        self.amounts = total([item.balance() for item in self.items.values()])
        return "submission" if event is self.submission else "resubmission"

    def _take(self, event: Event, claim: Claim) -> None:
        corrects = claim.resubmission is not None and claim.resubmission.type == "correction"
        if self.terms is None or not self.told or corrects:
            kept = self.terms.encounter if self.terms is not None and self.told else None
            # A correction that does not repeat the visit does not take it back.
            self.terms = claim if claim.encounter or kept is None else msgspec.structs.replace(claim, encounter=kept)
        else:
            self.terms = msgspec.structs.replace(self.terms, resubmission=claim.resubmission)
        for known in self.items.values():
            known.resubmitted_at = event.at
        for activity in claim.activities:
            item = self.items.get(activity.id)
            if item is None:
                account = self.accounts.get(activity.id)
                if account is None:
                    account = self.accounts[activity.id] = Account()
                self.items[activity.id] = Item(activity, len(self.items) + 1, event.at, account)
            else:
                item.submitted_at = event.at
                if corrects:
                    item.activity = activity
        self.told.append((event, claim))
