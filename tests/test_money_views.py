"""The model of the report views, on figures computed by hand: what the views themselves will be compared with."""

from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from ingestion.claims import Encounter
from tests.histories import hour, remittance, submission
from tests.money_views import balance_amount_summary, claim_summary_payerwise, remittance_advice_summary

LATE = datetime(2026, 3, 31, 21, 30, tzinfo=ZoneInfo("UTC"))
"""In Dubai it is April already."""
VISIT = Encounter("DHA-F-0000002", "1", "MRN-1", LATE)
HISTORIES = {
    ("DHA-F-0000001", "paid"): [
        submission(0, {"A1": "100.00"}, encounter=VISIT),
        remittance(3, {"A1": "100.00"}, settled=1),
    ],
    ("DHA-F-0000001", "denied"): [
        submission(0, {"A1": "100.00", "A2": "50.00", "A3": "50.00"}, encounter=VISIT, member_id="SelfPay"),
        remittance(4, {"A1": "0.00 MNEC-003", "A2": "30.00 PRCE-001"}),
        remittance(5, {"A3": "50.00"}, settled=2),
    ],
    ("DHA-F-0000001", "open"): [
        submission(0, {"A1": "70.00"}),
        submission(2, {"A1": "70.00"}, "legacy"),
    ],
    ("DHA-F-0000001", "early"): [remittance(1, {"A1": "9.00"})],
}


def money(row: dict[str, object]) -> list[str]:
    return [str(value) for value in row.values() if isinstance(value, Decimal)]


def test_balance() -> None:
    """A row for each submitted claim, with what is still to be received of it."""
    paid, denied, still_open = balance_amount_summary(HISTORIES, date(2026, 4, 11))
    assert [money(row) for row in (paid, denied, still_open)] == [
        ["100.00", "100.00", "0.00", "0.00", "0.00", "0.00"],
        ["200.00", "80.00", "0.00", "100.00", "20.00", "0.00"],
        ["70.00", "0.00", "0.00", "0.00", "70.00", "0.00"],
    ]
    assert (paid["aging_days"], paid["current_status"], paid["facility_id"]) == (10, "PAID", "DHA-F-0000002")
    assert (denied["remittance_count"], denied["first_remittance_date"]) == (2, hour(4))
    assert (still_open["aging_days"], still_open["resubmission_count"], still_open["facility_id"]) == (0, 1, "DHA-F-0000001")


def test_remittance_advice() -> None:
    """A row for each claim that was both submitted and remitted; the latest remittance is the one that was settled last."""
    paid, denied = remittance_advice_summary(HISTORIES)
    assert (paid["payment_status"], paid["collection_rate"], paid["date_settlement"]) == ("Fully Paid", 100, hour(1))
    assert (denied["payment_status"], denied["denied_count"], denied["denied_amount"]) == ("Has Denials", 1, 100)
    assert (denied["all_denial_codes"], denied["collection_rate"]) == ("MNEC-003, PRCE-001", 40)
    assert (denied["payment_reference"], denied["first_settlement_date"]) == ("PAY-4", hour(2))


def test_by_payer() -> None:
    """A row for each month (as Dubai counts them), payer and facility."""
    visits, other = claim_summary_payerwise(HISTORIES)
    assert (visits["month"], visits["facility_id"], visits["count_claims"]) == (date(2026, 4, 1), "DHA-F-0000002", 2)
    counts = [visits[f"{name}_count"] for name in ("remitted", "fully_paid", "partially_paid", "self_pay")]
    assert counts == [2, 1, 1, 1]
    amounts = ["300.00", "300.00", "180.00", "100.00", "0.00", "20.00", "200.00", "33.33", "33.33", "60.00"]
    assert money(visits) == amounts
    assert (other["month"], other["remitted_count"], other["pending_remittance_count"]) == (date(2026, 4, 1), 0, 1)
