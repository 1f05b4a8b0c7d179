"""What is measured: cells, each a question to the servers; and figures, what one slice of an arm's time said of a cell."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hdrh.histogram import HdrHistogram

from simulator.load import Result

MIX = "mix"
DIRECT, CHANNEL = "direct", "channel"


@dataclass(frozen=True)
class Cell:
    """`workload`: an operation's name, or the mix. `hot`: everybody asks for one and the same; else for one of many, at random.

    Either `in_flight` requests at any time, closed loop, which shows throughput; or `rate` a second, open loop, which
    shows latency from the due time. `delay_ms`: what the proxy adds to a round trip to the database; None is without it.
    """

    workload: str
    tenants: int
    in_flight: int | None = None
    rate: float | None = None
    load: str = ""
    """How the rate was found, such as `60 % of direct`."""
    hot: bool = False
    delay_ms: float | None = None

    def at(self) -> str:
        """The load in words."""
        return f"{self.in_flight} in flight" if self.rate is None else f"{self.rate:,.0f} a second ({self.load})"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at()}


@dataclass(frozen=True)
class Figures:
    """Times in ms, CPU in seconds (`database_s` None where its processes cannot be seen); `goodput` is answers 200 a second.

    `offered` are those due in the slice: `good`, `refused` (429, 503) or `failed` (any other answer, none, or never sent).
    """

    seconds: float
    offered: int
    good: int
    refused: int
    failed: int
    goodput: float
    p50_ms: float
    p99_ms: float
    server_s: float
    database_s: float | None
    generator_share: float
    late_p99_ms: float
    saturated: bool
    histogram: str

    @property
    def cpu_us(self) -> float:
        """Of server and database, for each good answer."""
        return (self.server_s + (self.database_s or 0.0)) / max(self.good, 1) * 1e6

    @property
    def bad_share(self) -> float:
        return (self.refused + self.failed) / max(self.offered, 1)


def figures_of(result: Result, server_s: float, database_s: float | None) -> Figures:
    good = result.statuses.get(200, 0)
    refused = result.statuses.get(429, 0) + result.statuses.get(503, 0)
    offered = result.requests + result.errors + result.dropped
    return Figures(
        seconds=result.seconds,
        offered=offered,
        good=good,
        refused=refused,
        failed=offered - good - refused,
        goodput=result.per_second * good / max(result.requests, 1),
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        server_s=server_s,
        database_s=database_s,
        generator_share=result.generator_cpu_share,
        late_p99_ms=result.late_p99_ms,
        saturated=result.saturated,
        histogram=result.histogram,
    )


def merged(figures: Sequence[Figures]) -> HdrHistogram:
    """All their latencies in one: quantiles are never averaged."""
    whole = HdrHistogram(1, 3_600_000_000, 3)
    for one in figures:
        whole.decode_and_add(one.histogram)
    return whole
