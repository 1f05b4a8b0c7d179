"""Plain slots that the hot path adds to, and snapshots of them that can be summed over processes.

aioprometheus' own `observe` costs 2–3 µs a call; a slot costs 0.2. The slots are rendered at scrape, in exposition.py.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Any, Literal

Labels = tuple[str, ...]
Merge = Literal["sum", "max", "last"]
Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BOUNDS = tuple(float(f"{0.00025 * 2 ** (step / 2):.6g}") for step in range(29))
"""Seconds, from 0.25 ms to 4.1 s in steps of the square root of two."""

STAGE_BOUNDS = tuple(float(f"{0.001 * 2**step:.6g}") for step in range(18))
"""Seconds, from 1 ms to 131 s, doubling: a download may take long."""

SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Count:
    """One number that grows, or a gauge that is set."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        self.value += amount

    def snapshot(self) -> float:
        return self.value


class Distribution:
    """One histogram: a count a bucket (`bounds` are inclusive upper ones) and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> list[float]:
        """The buckets' counts, then the sum: lists of one family add up member by member."""
        return [*self.counts, self.total]


@dataclass
class Family:
    """A metric with its labels; `child` gives the slot of one set of label values, made at first use.

    `read` is for values that live elsewhere: it is called at scrape and gives (label values, number) pairs.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    merge: Merge = "sum"
    bounds: tuple[float, ...] = ()
    read: Callable[[], Iterable[tuple[Labels, float]]] | None = None
    children: dict[Labels, Any] = field(default_factory=dict)

    def child(self, *values: str) -> Any:
        """A Count, or a Distribution for a histogram."""
        slot = self.children.get(values)
        if slot is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
            slot = self.children[values] = Distribution(self.bounds) if self.kind == "histogram" else Count()
        return slot

    def snapshot(self) -> list[tuple[Labels, Any]]:
        found = [(values, slot.snapshot()) for values, slot in self.children.items()]
        return found if self.read is None else [*found, *self.read()]


Snapshot = Mapping[str, list[tuple[Labels, Any]]]


def merged(families: Mapping[str, Family], snapshots: Iterable[Snapshot]) -> dict[str, list[tuple[Labels, Any]]]:
    """Several processes' snapshots as one: counters and histograms summed, gauges as each says of itself."""
    together: dict[str, dict[Labels, Any]] = {name: {} for name in families}
    for snapshot in snapshots:
        for name, samples in snapshot.items():
            into = together[name]
            for labels, value in samples:
                key = tuple(labels)
                into[key] = value if key not in into else _joined(families[name].merge, into[key], value)
    return {name: list(samples.items()) for name, samples in together.items()}


def _joined(merge: Merge, one: Any, other: Any) -> Any:
    if isinstance(one, list):
        return list(map(add, one, other))
    if merge == "sum":
        return one + other
    return max(one, other) if merge == "max" else other
