"""What is looked at in a claim as a whole. Each check tells what is odd, or raises Aside. Pure."""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import cast

from lxml import etree
from lxml.etree import _Element as Element

from ingestion.claims import Claim, Remitted
from ingestion.parsing.tables import local_name
from ingestion.parsing.values import AMOUNT_LIMIT, Aside, Odd

_ZERO = Decimal("0.00")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_with_attributes = etree.XPath("descendant-or-self::*[@*]")
_text = etree.XPath("string()", smart_strings=False)


def check_claim(claim: Claim) -> Iterator[str]:
    activities = claim.activities
    if len(activities) > 1 and len({activity.id for activity in activities}) != len(activities):
        raise Aside("Activity/ID is there twice in the claim")
    if any(activity.net < 0 for activity in activities):
        raise Aside("Activity/Net is negative: what is taken back is said by a remittance")
    total = _sum(activity.net for activity in activities)
    if total != claim.net:
        yield "Claim/Net differs from the sum of its activities' Net"
    if claim.gross < claim.patient_share + claim.net:
        yield "Claim/Gross is less than PatientShare and Net together"
    if not claim.diagnoses:
        yield "Claim/Diagnosis is missing"


def check_remitted(claim: Remitted) -> Iterator[str]:
    """An activity may have several lines: a payment, and one that takes it back."""
    lines = claim.lines
    _sum(abs(line.payment) for line in lines)
    _sum(abs(line.net) for line in lines)
    if len(lines) > 1 and len({line.activity_id for line in lines}) != len(lines):
        yield "Activity/ID is there twice in the claim: its payments are added up"


def look_closer(element: Element, odd: Odd) -> None:
    """For documents that hold what nearly none does: attributes, control characters."""
    if _CONTROLS.search(cast("str", _text(element))):
        raise Aside("the claim holds control characters")
    for found in cast("list[Element]", _with_attributes(element)):
        odd.append(f"attributes of {local_name(found)} are unknown, and skipped")


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = sum(amounts, _ZERO)
    if abs(total) >= AMOUNT_LIMIT:
        raise Aside("its activities' amounts add up to a trillion and more")
    return total
