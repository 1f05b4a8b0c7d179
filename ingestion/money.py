"""The rules of money, per activity and per claim. Pure; Decimal throughout."""

from decimal import Decimal

import msgspec


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """net = held + taken_back + denied + pending; overpaid is shown beside."""

    net: Decimal = Decimal("0.00")
    held: Decimal = Decimal("0.00")
    taken_back: Decimal = Decimal("0.00")
    denied: Decimal = Decimal("0.00")
    pending: Decimal = Decimal("0.00")
    overpaid: Decimal = Decimal("0.00")
