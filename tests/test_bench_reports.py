"""The claims of the benchmark of reports are what ingestion would have left."""

from collections import Counter
from decimal import Decimal
from typing import TypeAlias

from ingestion.settling.money import Amounts, activity_status, amounts_of, claim_status, is_denied, total
from tests.benchmarks.reports_rows import Book, Lines, Provider

PROVIDER = Provider(1, 7, "DHA-F-0000007", 300)
ClaimKey: TypeAlias = tuple[str, ...]


def made() -> dict[str, list[list[str]]]:
    """The rows of each table, as columns."""
    rows: dict[str, list[list[str]]] = {}
    for chunk in Book(PROVIDER, 1).chunks(100):
        for table, lines in chunk.items():
            rows.setdefault(table, []).extend(line.split("\t") for line in lines)
    return rows


def amounts(columns: list[str]) -> Amounts:
    """net, then held, taken_back, denied, pending and overpaid."""
    return Amounts(*map(Decimal, columns))


def test_each_amount_and_status_is_by_the_money_rules() -> None:
    """Every activity's amounts follow from its lines, and every claim's from its activities."""
    rows = made()
    lines: dict[ClaimKey, list[tuple[Decimal, str]]] = {}
    for line in rows["remittance_activity"]:
        lines.setdefault((*line[:3], line[7]), []).append((Decimal(line[18]), line[19]))
    parts: dict[ClaimKey, list[Amounts]] = {}
    for row in rows["activity"]:
        came = lines.get(tuple(row[:4]), [])
        paid = sum((payment for payment, _ in came if payment > 0), Decimal("0.00"))
        returned = -sum((payment for payment, _ in came if payment < 0), Decimal("0.00"))
        code = came[-1][1].replace(r"\N", "") if came else ""
        denied = is_denied(code, paid, reopened=False)
        found = amounts([row[9], *row[13:18]])
        assert found == amounts_of(found.net, paid, returned, denied=denied, reopened=False)
        assert row[18] == activity_status(found, denied=denied)
        parts.setdefault(tuple(row[:3]), []).append(found)
    assert len(rows["claim"]) == PROVIDER.claims
    for row in rows["claim"]:
        found = amounts(row[12:18])
        assert found == total(parts[tuple(row[:3])])
        assert row[18] == claim_status(found)
    assert len({row[18] for row in rows["claim"]}) == 5


def test_files_hold_what_was_said_of_claims() -> None:
    """A file's counts and amount are those of its claims' events, and a remittance pays what its lines pay."""
    rows = made()
    paid: Counter[ClaimKey] = Counter()
    for row in rows["remittance_activity"]:
        paid[tuple(row[:6])] += round(Decimal(row[18]) * 100)
    assert {tuple(row[:6]): round(Decimal(row[12]) * 100) for row in rows["remittance"]} == dict(paid)
    claims: Counter[str] = Counter()
    amount: Counter[str] = Counter()
    for row in rows["event"]:
        claims[row[4]] += 1
        amount[row[4]] += round(Decimal(row[14]) * 100)
    assert {row[2]: (int(row[11]), round(Decimal(row[15]) * 100)) for row in rows["file"]} == {
        file_id: (claims[file_id], amount[file_id]) for file_id in claims
    }


def test_a_seed_makes_the_same_claims_again() -> None:
    """And another one makes others."""

    def chunk(seed: int) -> Lines:
        return next(Book(PROVIDER, seed).chunks(20))

    assert chunk(1) == chunk(1) != chunk(2)
