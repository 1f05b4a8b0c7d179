"""The highest rate that a path alone sustains with its p99 below a limit and hardly a request refused or failed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.comparing.cells import Cell, Figures
from app.comparing.servers import Arm
from app.comparing.switchback import Bench

BAD_MAX = 0.001
"""Errors and refusals, of what was offered."""
TRIALS_MIN = 2
CLOSE = 1.05
"""Where the highest good rate and the lowest bad one are this near, the search ends."""


@dataclass(frozen=True)
class Trial:
    """One rate that was tried."""

    rate: float
    p99_ms: float
    bad_share: float
    saturated: bool

    def meets(self, slo_ms: float) -> bool:
        return self.p99_ms <= slo_ms and self.bad_share < BAD_MAX and not self.saturated


@dataclass(frozen=True)
class Capacity:
    """`rate`: the highest that was met; None where even the lowest that was tried was too much.

    `limited`: the generator could not send more, so the path may do more.
    """

    rate: float | None
    limited: bool
    trials: Sequence[Trial]


def search(attempt: Callable[[float], Trial], start: float, slo_ms: float, *, steps: int) -> Capacity:
    """From `start` up or down by factors of √2 until it lies between two rates, then halved; `steps` trials at most."""
    low, high = 0.0, float("inf")
    trials: list[Trial] = []
    rate = start
    while len(trials) < steps and (low == 0.0 or high / low > CLOSE):
        trial = attempt(rate)
        trials.append(trial)
        if trial.meets(slo_ms):
            low = max(low, rate)
        else:
            high = min(high, rate)
        rate = (low * high) ** 0.5 if low and high < float("inf") else low * 2**0.5 if low else high / 2**0.5
    limited = any(trial.saturated and trial.p99_ms <= slo_ms for trial in trials)
    return Capacity(low or None, limited, trials)


def measured(
    bench: Bench, arm: Arm, cell: Cell, slo_ms: float, *, start: float, seconds: float, steps: int, until: float = float("inf")
) -> Capacity:
    """`cell` says what is asked; its rate is tried from `start` on. It has two trials, and more until `until`."""
    found: list[Figures] = []

    def attempt(rate: float) -> Trial:
        figures = bench.measure(arm, Cell(cell.workload, cell.tenants, rate=rate), seconds, settle_s=seconds / 5)
        found.append(figures)
        return Trial(rate, figures.p99_ms, figures.bad_share, figures.saturated)

    left = max(TRIALS_MIN, min(steps, int((until - time.monotonic()) / (seconds * 1.3)) if until < float("inf") else steps))
    return search(attempt, start, slo_ms, steps=left)
