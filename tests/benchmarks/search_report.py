"""What the search benchmark found, as tables: the figures, and the targets with a verdict on each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.table import Table

from tests.benchmarks.bench import Figures, Interval, between, median_of, ratio
from tests.benchmarks.probes import Probe
from tests.benchmarks.workloads import WORKLOADS

PATHS = ("channel", "direct")


@dataclass(frozen=True)
class Run(Figures):
    """One run of one workload on one path."""

    workload: str
    path: str
    round: int


@dataclass(frozen=True)
class Claim:
    """A target, and what was measured of it."""

    text: str
    found: Interval
    limit: float
    at_least: bool

    def verdict(self) -> str:
        """Open where the interval goes over the limit."""
        _, low, high = self.found
        met = [(end >= self.limit) == self.at_least or end == self.limit for end in (low, high)]
        return "met" if all(met) else "open" if any(met) else "MISSED"


class Found:
    """The rounds' figures by workload and path."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.workloads = [workload for workload in WORKLOADS if any(run.workload == workload.name for run in runs)]

    def of(self, workload: str, path: str, figure: Callable[[Run], float]) -> list[float]:
        return [figure(run) for run in self.runs if (run.workload, run.path) == (workload, path)]


def figures_table(found: Found, probes: Mapping[str, Probe]) -> Table:
    shown = Table("workload", title="medians, channel / direct; CPU in µs a request; entries: matches + included")
    for column in ("entries", "requests/s", "channel / direct", "p50 ms", "p99 ms", "server µs", "database µs"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name in (workload.name for workload in found.workloads):
        pairs = [
            " / ".join(_short(median_of(found.of(name, path, figure))[0]) for path in PATHS)
            for figure in (_per_second, _p50, _p99, _server, _database)
        ]
        rates = ratio(*(found.of(name, path, _per_second) for path in PATHS))
        shown.add_row(name, str(probes[name]), pairs[0], between(rates), *pairs[1:])
    return shown


def verdicts_table(found: Found) -> Table:
    shown = Table("target", title="median [95 % interval] of the rounds")
    for column in ("limit", "measured", "verdict"):
        shown.add_column(column, justify="right", no_wrap=True)
    for claim in claims(found):
        limit = f"{'≥' if claim.at_least else '≤'} {claim.limit:g}"
        shown.add_row(claim.text, limit, between(claim.found), claim.verdict())
    return shown


def claims(found: Found) -> Iterator[Claim]:
    names = {workload.name for workload in found.workloads}
    search = "Encounter?patient"
    if {search, "point read"} <= names:
        searched, read = (found.of(name, "channel", _per_second) for name in (search, "point read"))
        yield Claim(f"{search}, requests/s against the point read's", ratio(searched, read), 0.3, at_least=True)
        yield Claim(
            f"{search}, requests/s against direct's", ratio(searched, found.of(search, "direct", _per_second)), 1.4, True
        )
    yield from _deep_claims(found)
    for workload in found.workloads:
        if workload.p99_max_ms:
            for path in PATHS:
                slowest = median_of(found.of(workload.name, path, _p99))
                yield Claim(f"{workload.name}, {path}: p99 ms", slowest, workload.p99_max_ms, at_least=False)
    for name in (workload.name for workload in found.workloads):
        rates = ratio(*(found.of(name, path, _per_second) for path in PATHS))
        yield Claim(f"{name}, channel's requests/s against direct's", rates, 0.95, at_least=True)


def _deep_claims(found: Found) -> Iterator[Claim]:
    for _, group in groupby(found.workloads, key=lambda workload: workload.group):
        pages = list(group)
        if len(pages) == 2 and pages[1].deep:
            for path in PATHS:
                first, deep = (found.of(page.name, path, _p50) for page in pages)
                yield Claim(f"{pages[1].name}, {path}: p50 against the first's", ratio(deep, first), 1.5, at_least=False)


def _short(value: float) -> str:
    return f"{value:.{0 if value >= 20 else 1 if value >= 2 else 2}f}"


def _per_second(run: Run) -> float:
    return run.per_second


def _p50(run: Run) -> float:
    return run.p50_ms


def _p99(run: Run) -> float:
    return run.p99_ms


def _server(run: Run) -> float:
    return run.server_us


def _database(run: Run) -> float:
    return run.database_us
