"""What a load is, and what it measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

Requests = Callable[[Random], bytes] | Sequence[bytes]
"""Rendered requests to choose from at random, or a function that makes the next one."""

SATURATED_SHARE = 0.8
"""A generator that used more of its core than this measured itself: discard the run."""


@dataclass(frozen=True)
class Load:
    """What to send. `rate` in requests per second is open loop; None is closed loop: as fast as answers come."""

    host: str
    port: int
    connections: int
    seconds: float
    warmup_s: float = 1.0
    rate: float | None = None
    poisson: bool = True
    seed: int = 0
    timeout_s: float = 10.0
    """How long one answer may take, and how long the backlog may after the end."""
    backlog: int = 65_536
    """Open loop: requests that may be due and wait for a connection; more are dropped."""
    tick_s: float = 0.0001
    """Open loop: arrivals this close to the last wake-up share one. A longer tick costs less CPU and more lateness."""

    def __post_init__(self) -> None:
        if self.connections < 1 or self.seconds <= 0 or self.warmup_s < 0 or self.timeout_s <= 0:
            raise ValueError("a load needs a connection, seconds and a timeout above 0, and no negative warm-up")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("a rate is above 0; None is closed loop")


@dataclass(frozen=True)
class Result:
    """Times count from when a request was due: its place in the schedule (open), or its sending (closed).

    `requests` are those due in the measured window and answered, `per_second` the answers that came within it.
    Neither errors nor dropped requests have a latency, so read these figures beside the quantiles.
    """

    requests: int
    seconds: float
    per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    mean_ms: float
    late_p99_ms: float
    """Open loop: from due to noticed, the generator's own share of a latency. Milliseconds mean that it was starved."""
    statuses: dict[int, int]
    errors: int
    error_kinds: dict[str, int]
    dropped: int
    generator_cpu_s: float
    generator_cpu_share: float
    saturated: bool
    paths: dict[str, int]
    """Answers by their X-Sluice-Path."""
    histogram: str
    """HdrHistogram's own encoding, in microseconds: decode and add to merge runs."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
