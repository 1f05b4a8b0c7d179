"""The rules of money, per activity and per claim. Pure; Decimal throughout."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

CENT = Decimal("0.01")
ZERO = Decimal("0.00")


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """net = held + taken_back + denied + pending; overpaid is shown beside."""

    net: Decimal = Decimal("0.00")
    held: Decimal = Decimal("0.00")
    taken_back: Decimal = Decimal("0.00")
    denied: Decimal = Decimal("0.00")
    pending: Decimal = Decimal("0.00")
    overpaid: Decimal = Decimal("0.00")


NOTHING = Amounts()


def is_denied(denial_code: str | None, paid: Decimal, *, reopened: bool) -> bool:
    """Whether an activity's latest line denies it. Its code alone does not: part payment with a code is common."""
    return bool(denial_code) and not paid and not reopened


def amounts_of(net: Decimal, paid: Decimal, returned: Decimal, *, denied: bool, reopened: bool) -> Amounts:
    """An activity's. `paid`: the sum of what came; `returned`: of what was taken back, a positive number; two places each.

    `denied` as by `is_denied`; `reopened`: it was resubmitted, and no line came since.
    """
    if denied:
        return Amounts(net, denied=net)
    kept = paid - returned
    held = over = ZERO
    if kept >= net:
        held, over = net, kept - net
    elif kept > ZERO:
        held = kept
    if reopened:
        return Amounts(net, held, ZERO, ZERO, net - held, over)
    taken_back = paid - held if paid < net else net - held
    return Amounts(net, held, taken_back, ZERO, net - held - taken_back, over)


def activity_status(amounts: Amounts, *, denied: bool) -> str:
    """`denied` as by `is_denied`: the amounts of an activity of net 0 do not show it."""
    if denied:
        return "REJECTED"
    if not amounts.held:
        return "TAKEN_BACK" if amounts.taken_back else "PENDING"
    if amounts.held == amounts.net:
        return "FULLY_PAID"
    return "PARTIALLY_TAKEN_BACK" if amounts.taken_back else "PARTIALLY_PAID"


def claim_status(amounts: Amounts) -> str:
    if not amounts.net:
        return "CLOSED"
    if amounts.held:
        return "PAID" if amounts.held == amounts.net else "PARTIALLY_PAID"
    if amounts.taken_back:
        return "TAKEN_BACK"
    return "REJECTED" if amounts.denied == amounts.net else "PENDING"


def total(parts: Iterable[Amounts]) -> Amounts:
    net = held = taken_back = denied = pending = overpaid = ZERO
    for part in parts:
        net += part.net
        held += part.held
        taken_back += part.taken_back
        denied += part.denied
        pending += part.pending
        overpaid += part.overpaid
    return Amounts(net, held, taken_back, denied, pending, overpaid)


def exchanged(whole: Amounts, before: Amounts, after: Amounts) -> Amounts:
    """`whole` with `after` in the place of its part `before`."""
    return Amounts(
        whole.net - before.net + after.net,
        whole.held - before.held + after.held,
        whole.taken_back - before.taken_back + after.taken_back,
        whole.denied - before.denied + after.denied,
        whole.pending - before.pending + after.pending,
        whole.overpaid - before.overpaid + after.overpaid,
    )
