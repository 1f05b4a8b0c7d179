"""What a comparison measures, and how its time is shared out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.comparing.cells import MIX
from base.operations import OPERATIONS

NAMES = tuple(operation.name for operation in OPERATIONS)
READ, LIST, REVIEW = "get_patient", "list_encounters", "review"
"""One of each kind, where all seven would be too many."""


@dataclass(frozen=True)
class Plan:
    """`shares`: of the time, by section; a section that is done early leaves its rest to those that follow.

    Loads are (workload, in flight); `parts` are (workload, whether all ask for one and the same).
    """

    name: str
    seconds: float
    shares: Mapping[str, float]
    judged: tuple[str, ...] = ("levels", "rates", "alone", "parts", "delays")
    """The sections that go on for the pairs that a verdict needs, while there is any time left."""
    levels: tuple[int, ...] = (1, 16, 64)
    operations: tuple[str, ...] = NAMES
    at_rest: tuple[str, ...] = NAMES
    """The operations that are also asked for one after the other, at the lowest level."""
    levels_apart: bool = True
    """A block for each level, or one for all."""
    rates: tuple[float, ...] = (0.3, 0.6, 0.8)
    """Of what direct can do, for the mix."""
    operation_rate: float | None = 0.6
    alone: tuple[tuple[str, int], ...] = ()
    parts: tuple[tuple[str, bool], ...] = ()
    parts_level: int = 64
    delays_ms: tuple[float, ...] = (0.0, 0.5, 2.0)
    delayed: tuple[tuple[str, int], ...] = ()
    capacity: tuple[str, ...] = (MIX,)
    slo_ms: float = 50.0
    trial_s: float = 2.0
    trials: int = 9

    def with_minutes(self, minutes: float | None) -> "Plan":
        return self if minutes is None else replace(self, seconds=minutes * 60)


FULL = Plan(
    "full",
    20 * 60.0,
    {"costs": 2, "levels": 34, "rates": 18, "alone": 8, "parts": 13, "delays": 15, "capacity": 10},
    alone=tuple((workload, level) for workload in (MIX, READ, LIST) for level in (1, 16, 64)),
    parts=((MIX, False), (READ, False), (READ, True), (LIST, False), (LIST, True)),
    delayed=tuple((workload, level) for workload in (MIX, READ, LIST) for level in (1, 64)),
    capacity=(MIX, READ, LIST),
)
QUICK = Plan(
    "quick",
    2 * 60.0,
    {"costs": 2, "levels": 45, "rates": 8, "alone": 4, "parts": 14, "delays": 19, "capacity": 8},
    levels=(1, 64),
    at_rest=(READ, LIST, REVIEW),
    levels_apart=False,
    rates=(0.6,),
    operation_rate=None,
    alone=((MIX, 64),),
    parts=((READ, False), (READ, True)),
    delayed=((MIX, 64),),
    trial_s=0.8,
    trials=6,
)


class Budget:
    """The time that is left, shared out as the plan says."""

    def __init__(self, plan: Plan) -> None:
        asked = {"alone": plan.alone, "delays": plan.delayed}
        self._shares = {section: share for section, share in plan.shares.items() if asked.get(section, True)}
        self.ends_at = time.monotonic() + plan.seconds
        self.latest = self.ends_at - plan.seconds * self._shares["capacity"] / sum(self._shares.values())
        """When the sections before the last one must be done, whatever they still lack."""

    def until(self, section: str) -> float:
        """When this section is to be done, of `time.monotonic()`; it is taken from the list of those to come."""
        now = time.monotonic()
        whole = sum(self._shares.values())
        return now + max(self.ends_at - now, 0.0) * self._shares.pop(section) / whole

    def skip(self, section: str) -> None:
        self._shares.pop(section, None)
