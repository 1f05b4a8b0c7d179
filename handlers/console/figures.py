"""Counters and histograms over a span of time, from what they had at its ends. Pure.

A histogram is as metrics/accumulators.py snapshots it: a count a bucket, then the sum.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any, Generic, TypeVar

from metrics.accumulators import Labels

T = TypeVar("T")
Histogram = Sequence[float]
Samples = Mapping[Labels, Any]

_BEYOND = 10
"""A quantile is told when so many requests lie on its thinner side: the p99 of 1000."""
_Z = 1.96  # 95 %


class Window(Generic[T]):
    """What was seen, at most `length_s` back, an entry every `step_s`; times by any clock that never goes back."""

    def __init__(self, length_s: float, step_s: float) -> None:
        self._length_s = length_s
        self._step_s = step_s
        self._entries: deque[tuple[float, T]] = deque()

    def add(self, at: float, value: T) -> bool:
        """Whether it was time for another entry."""
        if self._entries and at < self._entries[-1][0] + self._step_s:
            return False
        self._entries.append((at, value))
        while len(self._entries) > 1 and self._entries[1][0] <= at - self._length_s:
            self._entries.popleft()
        return True

    def before(self, at: float) -> tuple[float, T] | None:
        """The newest entry that is no younger than that, else the oldest there is."""
        if not self._entries:
            return None
        place = bisect_left(self._entries, at, key=lambda entry: entry[0])
        if place == len(self._entries) or self._entries[place][0] > at:
            place -= 1
        return self._entries[max(place, 0)]

    def entries(self) -> list[tuple[float, T]]:
        return list(self._entries)

    def clear(self) -> None:
        self._entries.clear()


def has_fallen(now: Samples, before: Samples) -> bool:
    """Whether a counter is less than it was: a process began anew, and no difference says anything."""
    return any(_total(now.get(labels, 0.0)) < _total(value) for labels, value in before.items())


def _total(value: Any) -> float:
    return float(sum(value[:-1])) if isinstance(value, list) else float(value)


def growth(now: Samples, before: Samples) -> dict[Labels, Any]:
    """What was added. A series that is new, or has fallen, began at nothing: so does a tenant that warms up again."""
    found = {}
    for labels, value in now.items():
        earlier = before.get(labels)
        if earlier is None or _total(value) < _total(earlier):
            found[labels] = value
        elif isinstance(value, list):
            found[labels] = [one - other for one, other in zip(value, earlier, strict=True)]
        else:
            found[labels] = value - earlier
    return found


def added_up(histograms: Iterable[Histogram], bounds: Sequence[float]) -> list[float]:
    together = [0.0] * (len(bounds) + 2)
    for histogram in histograms:
        together = [one + other for one, other in zip(together, histogram, strict=True)]
    return together


def number(histogram: Histogram) -> int:
    return round(sum(histogram[:-1]))


def mean(histogram: Histogram) -> float | None:
    count = number(histogram)
    return histogram[-1] / count if count else None


def quantile(histogram: Histogram, bounds: Sequence[float], share: float) -> float | None:
    """Within a bucket all values are taken to lie evenly, as Prometheus does; beyond the last bound it is that bound."""
    rank = share * sum(histogram[:-1])
    if rank <= 0:
        return None
    below = 0.0
    for place, bound in enumerate(bounds):
        count = histogram[place]
        if count and below + count >= rank:
            lower = bounds[place - 1] if place else 0.0
            return lower + (bound - lower) * (rank - below) / count
        below += count
    return bounds[-1]


def told_quantile(histogram: Histogram, bounds: Sequence[float], share: float) -> float | None:
    """As `quantile`; None where too few requests lie beyond it to tell."""
    enough = sum(histogram[:-1]) * min(share, 1 - share) >= _BEYOND
    return quantile(histogram, bounds, share) if enough else None


def quantile_interval(histogram: Histogram, bounds: Sequence[float], share: float) -> tuple[float, float] | None:
    """The 95 % interval of a quantile, by the binomial distribution of its rank; None where there are too few to tell."""
    count = sum(histogram[:-1])
    if count * min(share, 1 - share) < _BEYOND:
        return None
    margin = _Z * sqrt(share * (1 - share) / count)
    low = quantile(histogram, bounds, max(share - margin, 0.5 / count))
    high = quantile(histogram, bounds, min(share + margin, 1.0))
    assert low is not None  # noqa: S101  # there are requests
    assert high is not None  # noqa: S101
    return low, high
