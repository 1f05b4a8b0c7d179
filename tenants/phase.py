"""The life of a tenant's actor, as a table. Pure."""

from enum import Enum


class Phase(Enum):
    COLD = "cold"
    WARMING = "warming"
    WARM = "warm"
    COOLING = "cooling"


class Event(Enum):
    WARM_UP = "warm-up"
    READY = "ready"
    FAILED = "failed"
    COOL_DOWN = "cool-down"
    DRAINED = "drained"


NEXT: dict[tuple[Phase, Event], Phase] = {
    (Phase.COLD, Event.WARM_UP): Phase.WARMING,
    (Phase.WARMING, Event.READY): Phase.WARM,
    (Phase.WARMING, Event.FAILED): Phase.COLD,
    (Phase.WARMING, Event.COOL_DOWN): Phase.COOLING,
    (Phase.WARM, Event.WARM_UP): Phase.WARM,  # the cooldown starts anew
    (Phase.WARM, Event.COOL_DOWN): Phase.COOLING,
    (Phase.COOLING, Event.DRAINED): Phase.COLD,
}
"""What is not here cannot happen: an actor that cools never warms again, its tenant gets the next generation."""
