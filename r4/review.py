"""The money of a review: what was submitted for an encounter, and what became of it. Pure.

A claim's amounts are read from its ExplanationOfBenefit's totals, by category; where that says nothing of what was submitted or
paid, from Claim.total and the payments. What is neither paid, taken back nor denied is pending.
"""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Context, Decimal, localcontext
from typing import Any

import msgspec

MONEY_URL = "https://sluice.example/fhir/StructureDefinition/review-money"
_DIGITS = 30  # of an amount, before and behind the point
_EXACT = Context(prec=3 * _DIGITS)
_PARTS = ("submitted", "paid", "taken-back", "denied", "pending")
# The categories of a total: https://hl7.org/fhir/R4/valueset-adjudication.html, and two that claims ingestion adds.
_CATEGORY = {"submitted": "submitted", "benefit": "paid", "taken-back": "taken-back", "denied": "denied"}


class _Money(msgspec.Struct):
    value: Decimal | None = None
    currency: str = ""

    @property
    def amount(self) -> Decimal | None:
        """None for what cannot be money: a number with an exponent of a million is a megabyte when it is written out."""
        value = self.value
        if value is None or not value.is_finite() or value.adjusted() >= _DIGITS or len(value.as_tuple().digits) > _DIGITS:
            return None
        return value if -int(value.as_tuple().exponent) <= _DIGITS else None


class _Coding(msgspec.Struct):
    code: str = ""


class _Concept(msgspec.Struct):
    coding: list[_Coding] = []


class _Total(msgspec.Struct):
    category: _Concept = msgspec.field(default_factory=_Concept)
    amount: _Money = msgspec.field(default_factory=_Money)


class _Payment(msgspec.Struct):
    amount: _Money | None = None


class _Reference(msgspec.Struct):
    reference: str = ""


class _Claim(msgspec.Struct):
    id: str
    total: _Money | None = None


class _Answer(msgspec.Struct):
    """What a ClaimResponse and an ExplanationOfBenefit have in common here."""

    claim: _Reference | None = None
    request: _Reference | None = None
    total: list[_Total] = []
    payment: _Payment | None = None


def money_meta(resources: Iterable[tuple[str, bytes]]) -> bytes:
    """`Bundle.meta` with the amounts of these (type, body), a group of amounts a currency; empty when there is no claim.

    An amount that cannot be read counts for nothing: the review shows the resource itself.
    """
    claims: dict[str, _Claim] = {}
    answers: dict[str, dict[str, list[_Answer]]] = {
        "ClaimResponse": defaultdict(list),
        "ExplanationOfBenefit": defaultdict(list),
    }
    for kind, body in resources:
        if kind == "Claim":
            claim = _decoded(body, _Claim)
            claims.update({claim.id: claim} if claim else {})
        elif kind in answers and (answer := _decoded(body, _Answer)):
            target = answer.claim or answer.request
            answers[kind][target.reference if target else ""].append(answer)
    with localcontext(_EXACT):
        sums = _sums(claims.values(), answers)
        return _rendered(sums) if sums else b""


def _sums(claims: Iterable[_Claim], answers: dict[str, dict[str, list[_Answer]]]) -> dict[str, dict[str, Decimal]]:
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: dict.fromkeys(_PARTS, Decimal(0)))
    for claim in claims:
        name = f"Claim/{claim.id}"
        explained = answers["ExplanationOfBenefit"].get(name) or answers["ClaimResponse"].get(name, [])
        for currency, parts in _claim_money(claim, explained).items():
            for part, amount in parts.items():
                sums[currency][part] += amount
    return sums


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        return None


def _claim_money(claim: _Claim, answers: list[_Answer]) -> dict[str, dict[str, Decimal]]:
    parts: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for answer in answers:
        for total in answer.total:
            part = next((_CATEGORY[coding.code] for coding in total.category.coding if coding.code in _CATEGORY), None)
            if part:
                _add(parts, total.amount, part)
    if not any("paid" in amounts for amounts in parts.values()):
        for answer in answers:
            if answer.payment and answer.payment.amount:
                _add(parts, answer.payment.amount, "paid")
    if claim.total and claim.total.amount is not None:
        parts[claim.total.currency].setdefault("submitted", claim.total.amount)
    for amounts in parts.values():
        settled = sum((amounts.get(part, Decimal(0)) for part in ("paid", "taken-back", "denied")), Decimal(0))
        amounts["pending"] = max(amounts.get("submitted", Decimal(0)) - settled, Decimal(0))
    return parts


def _add(parts: dict[str, dict[str, Decimal]], money: _Money, part: str) -> None:
    if money.amount is not None:
        parts[money.currency][part] = parts[money.currency].get(part, Decimal(0)) + money.amount


def _rendered(sums: dict[str, dict[str, Decimal]]) -> bytes:
    """JSON with the digits of the sums: a Decimal has no float in between."""
    groups = []
    for currency, parts in sorted(sums.items()):
        members = [f'{{"url":"{part}","valueMoney":{{"value":{parts[part]:f}{_currency(currency)}}}}}' for part in _PARTS]
        groups.append(f'{{"url":"{MONEY_URL}","extension":[{",".join(members)}]}}')
    return f'{{"extension":[{",".join(groups)}]}}'.encode()


def _currency(code: str) -> str:
    return f',"currency":{msgspec.json.encode(code).decode()}' if code else ""
