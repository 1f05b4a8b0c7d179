"""Slowing down, so that the API does not suffer. What is decided is a pure function of a reading."""

from collections.abc import Mapping
from dataclasses import dataclass

from base.config import Config

REASONS = ("api", "replica", "cpu", "disk")


@dataclass(frozen=True, slots=True)
class Reading:
    """How things stand; None: it cannot be told here."""

    pool_wait_s: float | None = None
    """What a request of the API waited for a connection, on average since the reading before."""
    replica_lag_s: float | None = None
    """Of the replica that is furthest behind."""
    cpu: float | None = None
    """The share of the machine's CPU that is used, by whomever."""
    disk_free: float | None = None
    """The free share of the disk that holds the data folder."""


@dataclass(frozen=True, slots=True)
class Brake:
    """How hard it is braked, by reason: 0 not at all, 1 as hard as may be."""

    by: Mapping[str, float]

    @property
    def hardest(self) -> float:
        return max(self.by.values(), default=0.0)

    @property
    def reason(self) -> str:
        """What brakes hardest; '' when nothing does."""
        return max(self.by, key=lambda name: self.by[name]) if self.hardest > 0 else ""

    @property
    def stopped(self) -> bool:
        """No further file is begun: a full disk would stop everybody.

        All else only slows down, for a replica that hangs or a machine that others keep busy must not stop it for good.
        """
        return self.by.get("disk", 0.0) >= 1.0

    def files(self, wanted: int) -> int:
        """How many files at once."""
        return 0 if self.stopped else max(1, round(wanted * (1.0 - self.hardest)))

    @property
    def pause_s(self) -> float:
        """Before each file: one at a time alone may still be too much for who waits. CPU is given away by being fewer."""
        return max(self.by.get("api", 0.0), self.by.get("replica", 0.0))


OPEN = Brake({})


def decide(reading: Reading, config: Config) -> Brake:
    """From its limit on a reading brakes, the harder the further it is beyond.

    Fully at twice the limit, at all of the CPU, and at half of what should be free of the disk.
    """
    cpu, free = config.throttle_cpu, config.throttle_disk_free
    return Brake(
        {
            "api": _between(reading.pool_wait_s, config.throttle_pool_wait_s, 2 * config.throttle_pool_wait_s),
            "replica": _between(reading.replica_lag_s, config.throttle_replica_lag_s, 2 * config.throttle_replica_lag_s),
            "cpu": _between(reading.cpu, cpu, 1.0) if cpu < 1 else 0.0,
            "disk": _between(None if reading.disk_free is None else -reading.disk_free, -free, -free / 2) if free else 0.0,
        }
    )


def _between(value: float | None, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, and a straight line between them."""
    return 0.0 if value is None else min(max((value - low) / (high - low), 0.0), 1.0)
