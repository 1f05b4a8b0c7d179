"""The rules of money, with figures computed by hand; in order: net, held, taken back, denied, pending, overpaid."""

from decimal import Decimal

import pytest

from ingestion.settling.money import Amounts, activity_status, amounts_of, claim_status, exchanged, is_denied, total


def amounts(*figures: str) -> Amounts:
    return Amounts(*map(Decimal, figures))


def account(net: str, *payments: str, code: str | None = None, reopened: bool = False) -> tuple[Amounts, str]:
    paid = sum((Decimal(each) for each in payments if not each.startswith("-")), Decimal("0.00"))
    returned = -sum((Decimal(each) for each in payments if each.startswith("-")), Decimal("0.00"))
    denied = is_denied(code, paid, reopened=reopened)
    found = amounts_of(Decimal(net), paid, returned, denied=denied, reopened=reopened)
    return found, activity_status(found, denied=denied)


@pytest.mark.parametrize(
    ("net", "payments", "code", "reopened", "expected", "status"),
    [
        pytest.param("100.00", [], None, False, "0 0 0 100 0", "PENDING", id="nothing remitted"),
        pytest.param("100.00", ["0.00"], None, False, "0 0 0 100 0", "PENDING", id="nothing paid, no code"),
        pytest.param("100.00", ["100.00"], None, False, "100 0 0 0 0", "FULLY_PAID", id="paid"),
        pytest.param("100.00", ["64.80", "35.20"], None, False, "100 0 0 0 0", "FULLY_PAID", id="paid in two parts"),
        pytest.param("100.00", ["64.80"], None, False, "64.80 0 0 35.20 0", "PARTIALLY_PAID", id="part"),
        pytest.param("100.00", ["64.80"], "MNEC-003", False, "64.80 0 0 35.20 0", "PARTIALLY_PAID", id="part with a code"),
        pytest.param("100.00", ["0.00"], "MNEC-003", False, "0 0 100 0 0", "REJECTED", id="denied"),
        pytest.param("100.00", ["130.00"], None, False, "100 0 0 0 30", "FULLY_PAID", id="overpaid"),
        pytest.param("100.00", ["130.00", "-20.00"], None, False, "100 0 0 0 10", "FULLY_PAID", id="too much taken back"),
        pytest.param("100.00", ["130.00", "-50.00"], None, False, "80 20 0 0 0", "PARTIALLY_TAKEN_BACK", id="and more of it"),
        pytest.param("100.00", ["100.00", "-100.00"], None, False, "0 100 0 0 0", "TAKEN_BACK", id="taken back"),
        pytest.param("100.00", ["100.00", "-40.00"], None, False, "60 40 0 0 0", "PARTIALLY_TAKEN_BACK", id="partly"),
        pytest.param("100.00", ["70.00", "-70.00"], "PRCE-003", False, "0 70 0 30 0", "TAKEN_BACK", id="a part, wholly"),
        pytest.param("100.00", ["100.00", "-250.00"], None, False, "0 100 0 0 0", "TAKEN_BACK", id="beyond what was paid"),
        pytest.param("100.00", ["-50.00"], None, False, "0 0 0 100 0", "PENDING", id="taken back, never paid"),
        pytest.param("100.00", ["-50.00"], "PRCE-003", False, "0 0 100 0 0", "REJECTED", id="the same, with a code"),
        pytest.param("100.00", ["0.00"], "MNEC-003", True, "0 0 0 100 0", "PENDING", id="denied, reopened"),
        pytest.param("100.00", ["100.00", "-40.00"], None, True, "60 0 0 40 0", "PARTIALLY_PAID", id="taken back, reopened"),
        pytest.param("100.00", ["130.00"], None, True, "100 0 0 0 30", "FULLY_PAID", id="overpaid, reopened"),
        pytest.param("0.00", [], None, False, "0 0 0 0 0", "PENDING", id="worth nothing"),
        pytest.param("0.00", ["0.00"], "MNEC-003", False, "0 0 0 0 0", "REJECTED", id="worth nothing, denied"),
        pytest.param("0.00", ["5.00"], None, False, "0 0 0 0 5", "PENDING", id="worth nothing, paid"),
    ],
)
def test_an_activity(net: str, payments: list[str], code: str | None, reopened: bool, expected: str, status: str) -> None:
    """Held, taken back, denied, pending, overpaid and the status of an activity follow from its lines by the rules."""
    assert account(net, *payments, code=code, reopened=reopened) == (amounts(net, *expected.split()), status)


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ("100 100 0 0 0 0", "PAID"),
        ("100 100 0 0 0 30", "PAID"),
        ("100 99.99 0 0 0.01 0", "PARTIALLY_PAID"),
        ("100 50 50 0 0 0", "PARTIALLY_PAID"),
        ("100 0 0 100 0 0", "REJECTED"),
        ("100 0 0 99.99 0.01 0", "PENDING"),
        ("100 0 0.01 50 49.99 0", "TAKEN_BACK"),
        ("100 0 100 0 0 0", "TAKEN_BACK"),
        ("100 0 0 0 100 0", "PENDING"),
        ("0 0 0 0 0 0", "CLOSED"),
        ("0 0 0 0 0 5", "CLOSED"),
    ],
)
def test_a_claim(figures: str, status: str) -> None:
    """A claim's status follows from the sums of its activities."""
    assert claim_status(amounts(*figures.split())) == status


def test_sums() -> None:
    """A claim's amounts are those of its activities added up, overpaid too, and nothing is netted between them."""
    one, two = amounts("100.00", "100.00", "0.00", "0.00", "0.00", "30.00"), amounts("50.00", "0.00", "0.00", "50.00", "0.00")
    whole = total([one, two])
    assert whole == amounts("150.00", "100.00", "0.00", "50.00", "0.00", "30.00")
    paid = amounts("50.00", "20.00", "5.00", "0.00", "25.00", "0.00")
    assert exchanged(whole, two, paid) == amounts("150.00", "120.00", "5.00", "0.00", "25.00", "30.00")


def test_nothing_is_rounded_twice() -> None:
    """Of amounts with two places every sum and difference has two places, and is exact."""
    found, _ = account("0.30", "0.10", "0.10", "0.10", "-0.20")
    assert [str(getattr(found, name)) for name in Amounts.__struct_fields__] == ["0.30", "0.10", "0.20", "0.00", "0.00", "0.00"]
