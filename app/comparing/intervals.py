"""Medians of paired ratios with their 95 % intervals, by bootstrap; and when there is enough of them."""

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PAIRS_MIN = 5
"""Fewer say nothing: of four pairs, one run in eight has the true median outside of all of them."""
PRECISE = 0.05
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median, the ends of its 95 % interval, and how many pairs it is of."""

    middle: float
    low: float
    high: float
    pairs: int

    @property
    def half_width(self) -> float:
        """As a share of the middle."""
        return (self.high - self.low) / 2 / self.middle if self.middle else float("inf")

    @property
    def is_precise(self) -> bool:
        """Whether it lies within ± 5 %."""
        return self.pairs >= PAIRS_MIN and self.half_width <= PRECISE

    def __str__(self) -> str:
        return f"{self.middle:.2f} × [{self.low:.2f}, {self.high:.2f}]"


def interval_of(values: Sequence[float]) -> Interval:
    """The percentile bootstrap of the median (Efron and Tibshirani, 13.3); the same values always give the same interval."""
    if not values:
        raise ValueError("an interval is of one value at least")
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return Interval(statistics.median(values), medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40 - 1], len(values))


def ratios_of(ones: Iterable[float], others: Iterable[float]) -> list[float]:
    """Of each pair; one whose halves are not both above 0 has none."""
    return [one / other for one, other in zip(ones, others, strict=True) if one > 0 and other > 0]


def is_enough(ratios: Iterable[Sequence[float]]) -> bool:
    """The rule for stopping early: each list's interval is within ± 5 %."""
    return all(len(values) >= PAIRS_MIN and interval_of(values).is_precise for values in ratios)
