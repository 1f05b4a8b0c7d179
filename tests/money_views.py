"""The rows of the three report views, computed plainly from what files said (see money_model).

Money and percentages are Decimals with two places, times are as the files have them; days and months are Asia/Dubai. Where the
names of columns leave a choice, its function says which was made.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from ingestion.claims import Claim, Event
from tests.money_model import (
    NIL,
    Money,
    activities,
    claim_money,
    claim_status,
    lines_of,
    remittances,
    remitted_of,
    resubmissions,
    status_at,
    submissions,
    terms,
)

DUBAI = ZoneInfo("Asia/Dubai")
Row: TypeAlias = dict[str, Any]
Histories: TypeAlias = Mapping[tuple[str, str], Sequence[Event]]
"""The events of each claim by (provider_id, claim_id): a claim id is not unique without its provider."""


def percent(part: Decimal, whole: Decimal) -> Decimal:
    """0 of nothing."""
    return (part * 100 / whole).quantize(Decimal("0.01"), ROUND_HALF_UP) if whole else NIL


def facility_of(claim: Claim) -> str:
    return claim.encounter.facility_id if claim.encounter else claim.provider_id


def begin_of(claim: Claim, events: Iterable[Event]) -> datetime:
    return claim.encounter.start if claim.encounter else submissions(events)[0].at


def submitted(histories: Histories) -> Iterable[tuple[tuple[str, str], Sequence[Event], Claim]]:
    """What was remitted and is not submitted yet appears nowhere."""
    for key, events in histories.items():
        claim = terms(events)
        if claim is not None:
            yield key, events, claim


def key_columns(key: tuple[str, str], claim: Claim) -> Row:
    return {"provider_id": key[0], "claim_id": key[1], "facility_id": facility_of(claim), "payer_id": claim.payer_id}


def balance_amount_summary(histories: Histories, today: date) -> list[Row]:
    return [balance_row(key, events, claim, today) for key, events, claim in submitted(histories)]


def balance_row(key: tuple[str, str], events: Sequence[Event], claim: Claim, today: date) -> Row:
    """Amounts add up to `initial_net`, the net of the activities as they are now.

    Days are counted from the encounter's start, else from the submission; dates of remittances are their headers'.
    """
    money, told, again = claim_money(events), [event.at for event in remittances(events)], resubmissions(events)
    return {
        **key_columns(key, claim),
        "encounter_start": claim.encounter.start if claim.encounter else None,
        "submitted_at": submissions(events)[0].at,
        "initial_net": money.net,
        "total_payment": money.held,
        "total_taken_back": money.taken_back,
        "total_denied": money.denied,
        "pending_amount": money.pending,
        "overpaid_amount": money.overpaid,
        "remittance_count": len(told),
        "first_remittance_date": min(told, default=None),
        "last_remittance_date": max(told, default=None),
        "resubmission_count": len(again),
        "last_resubmission_date": again[-1].at if again else None,
        "current_status": claim_status(events),
        "last_status_date": status_at(events),
        "aging_days": (today - begin_of(claim, events).astimezone(DUBAI).date()).days,
    }


def remittance_advice_summary(histories: Histories) -> list[Row]:
    return [remittance_row(key, events, claim) for key, events, claim in submitted(histories) if remittances(events)]


def remittance_row(key: tuple[str, str], events: Sequence[Event], claim: Claim) -> Row:
    """`activity_count` counts the claim's activities, `denied_count` those REJECTED now.

    `all_denial_codes` are those of all lines of its activities, also of lines that others followed. A remittance without
    DateSettlement was settled at its header's date.
    """
    money, now, told = claim_money(events), activities(events), remittances(events)
    latest = remitted_of(told[-1])
    denied = [each for each in now.values() if each.status == "REJECTED"]
    codes = {line.denial_code for activity_id in now for _, line in lines_of(activity_id, events) if line.denial_code}
    return {
        **key_columns(key, claim),
        "id_payer": latest.id_payer,
        "date_settlement": latest.date_settlement or told[-1].at,
        "payment_reference": latest.payment_reference,
        "activity_count": len(now),
        "total_remitted": money.net,
        "total_payment": money.held,
        "denied_count": len(denied),
        "denied_amount": money.denied,
        "remittance_count": len(told),
        "first_settlement_date": remitted_of(told[0]).date_settlement or told[0].at,
        "all_denial_codes": ", ".join(sorted(codes)),
        "collection_rate": percent(money.held, money.net),
        "payment_status": payment_status(money, len(denied)),
    }


def payment_status(money: Money, denied_count: int) -> str:
    if denied_count:
        return "Has Denials"
    if money.held == 0:
        return "No Payment"
    return "Fully Paid" if money.held == money.net else "Partially Paid"


def claim_summary_payerwise(histories: Histories) -> list[Row]:
    groups: dict[tuple[date, str, str], list[tuple[Sequence[Event], Claim]]] = {}
    for _, events, claim in submitted(histories):
        month = begin_of(claim, events).astimezone(DUBAI).date().replace(day=1)
        groups.setdefault((month, claim.payer_id, facility_of(claim)), []).append((events, claim))
    return [payer_row(key, members) for key, members in groups.items()]


def payer_row(key: tuple[date, str, str], members: Sequence[tuple[Sequence[Event], Claim]]) -> Row:
    """Pending are the claims whose status is PENDING, and what is pending of any; `collection_rate`: of what was remitted."""
    states = [claim_status(events) for events, _ in members]
    money = [claim_money(events) for events, _ in members]
    remitted = [each.net for each, (events, _) in zip(money, members, strict=True) if remittances(events)]
    own = [each.net for each, (_, claim) in zip(money, members, strict=True) if claim.member_id == "SelfPay"]
    net, held, denied = (sum((getattr(each, name) for each in money), NIL) for name in ("net", "held", "denied"))
    return {
        **dict(zip(("month", "payer_id", "facility_id"), key, strict=True)),
        "count_claims": len(members),
        "remitted_count": len(remitted),
        "fully_paid_count": states.count("PAID"),
        "partially_paid_count": states.count("PARTIALLY_PAID"),
        "fully_rejected_count": states.count("REJECTED"),
        "taken_back_count": states.count("TAKEN_BACK"),
        "pending_remittance_count": states.count("PENDING"),
        "self_pay_count": len(own),
        "claim_amount": net,
        "remitted_amount": sum(remitted, NIL),
        "paid_amount": held,
        "rejected_amount": denied,
        "taken_back_amount": sum((each.taken_back for each in money), NIL),
        "pending_remittance_amount": sum((each.pending for each in money), NIL),
        "self_pay_amount": sum(own, NIL),
        "rejected_percentage_on_initial": percent(denied, net),
        "rejected_percentage_on_remittance": percent(denied, sum(remitted, NIL)),
        "collection_rate": percent(held, sum(remitted, NIL)),
    }
