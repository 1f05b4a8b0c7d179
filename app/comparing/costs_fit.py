"""What a statement costs by the number of asks in it: T(n) = a·n + b, and what batching can gain by that at most."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CANNOT_PAY = 1.1
"""A greatest gain below this is lost again in queueing: batching cannot pay."""
_RESAMPLES = 400


@dataclass(frozen=True)
class Fit:
    """`a_ms` is the cost of an ask, `b_ms` of a statement, whatever is in it.

    `gain`, (a + b) / a, is how many times the asks of lone statements one connection can answer at most, and `gain_low` and
    `gain_high` its 95 % interval; `misfit` is how far the line lies from the farthest median, as a share of it.
    """

    a_ms: float
    b_ms: float
    gain: float
    gain_low: float
    gain_high: float
    misfit: float

    @property
    def can_pay(self) -> bool:
        return self.gain >= CANNOT_PAY


def fit(times_ms: Mapping[int, Sequence[float]]) -> Fit:
    """`times_ms`: what statements of n asks took, by n; two different n at least."""
    if len(times_ms) < 2:
        raise ValueError("a line needs two sizes of batches at least")
    medians = {size: statistics.median(times) for size, times in times_ms.items()}
    a, b = _line(medians)
    chance = random.Random(1)
    gains = sorted(
        _gain(*_line({n: statistics.median(chance.choices(times, k=len(times))) for n, times in times_ms.items()}))
        for _ in range(_RESAMPLES)
    )
    misfit = max(abs(a * size + b - median) / median for size, median in medians.items())
    return Fit(a, b, _gain(a, b), gains[_RESAMPLES // 40], gains[-_RESAMPLES // 40 - 1], misfit)


def _line(medians: Mapping[int, float]) -> tuple[float, float]:
    """Least squares of the relative errors, or large batches alone would say what a lone ask costs. Neither is below 0."""
    weights = {size: 1 / median**2 for size, median in medians.items()}
    total = sum(weights.values())
    mean_n = sum(weights[size] * size for size in medians) / total
    mean_t = sum(weights[size] * median for size, median in medians.items()) / total
    spread = sum(weights[size] * (size - mean_n) ** 2 for size in medians)
    slope = sum(weights[n] * (n - mean_n) * (t - mean_t) for n, t in medians.items()) / spread
    if slope <= 0:
        return 0.0, mean_t
    if mean_t < slope * mean_n:  # through the origin
        return sum(weights[n] * n * t for n, t in medians.items()) / sum(weights[n] * n * n for n in medians), 0.0
    return slope, mean_t - slope * mean_n


def _gain(a: float, b: float) -> float:
    """A statement whose cost does not grow at all would gain without end; 1000 says as much."""
    return min((a + b) / a, 1000.0) if a > 0 else 1000.0
