"""What the page draws, put together at each look: no I/O, and time is passed in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from handlers.console import comparison
from handlers.console.figures import Samples, Window, added_up, growth, has_fallen, number, quantile, told_quantile
from metrics.accumulators import LATENCY_BOUNDS, SIZE_BOUNDS, Labels, Snapshot
from tenants.registry import Standing

TICK_S = 2.0
WINDOW_S = 300.0
STEP_S = 10.0
POINTS = int(WINDOW_S / TICK_S)
TENANTS_MAX = 50
"""Rows; who has most to do comes first when there are more, and the page says how many are left out."""

_GROWING = (
    "sluice_request_duration_seconds", "sluice_requests_total", "sluice_batch_size", "sluice_channel_messages_total",
    "sluice_pool_wait_seconds", "sluice_pool_timeouts_total", "sluice_event_loop_lag_seconds",
    "sluice_tenant_mismatch_total", "sluice_dispatcher_restarts_total", "process_cpu_seconds_total",
)  # fmt: skip
_NEVER_FALLS = "sluice_requests_total"
_REFUSED = {"429", "503", "504"}

Tick = dict[str, Any]
Counters = Mapping[str, Samples]
Attached = Sequence[tuple[str, Standing, float]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a process runs."""

    channels: bool
    control_share: float
    pool_sizes: Mapping[str, int]
    """Of one process."""


class Recorder:
    """Counters as they were over the last minutes, and the points of the plots."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._seen: Window[Counters] = Window(WINDOW_S, STEP_S)
        self._latest: tuple[float, Counters] | None = None
        self._points: list[Tick] = []

    @property
    def points(self) -> list[Tick]:
        return self._points

    def tick(self, at: float, epoch_ms: int, snapshot: Snapshot, attached: Attached) -> Tick:
        """`at` in seconds by a clock that never goes back. All but `point` are of the last minutes, as long as is known."""
        counters = {name: _by_labels(snapshot, name) for name in _GROWING}
        latest = self._latest
        if latest and (at - latest[0] > WINDOW_S or has_fallen(counters[_NEVER_FALLS], latest[1][_NEVER_FALLS])):
            self._seen.clear()  # nobody watched for long, or a process began anew
            self._points, latest = [], None
        since, before = self._seen.before(at - WINDOW_S) or (at, counters)
        grown = {name: growth(counters[name], before[name]) for name in _GROWING}
        point = self._point(at, epoch_ms, counters, latest or (at, counters))
        self._points = [*self._points, point][-POINTS:]
        self._seen.add(at, counters)
        self._latest = (at, counters)
        span_s = at - since
        return {
            "at": epoch_ms,
            "span_s": round(span_s),
            "point": point,
            "answers": _answers(grown["sluice_requests_total"]),
            "server": _server(snapshot, grown, span_s),
            "tenants": self._tenants(at, snapshot, counters, attached),
            "comparison": comparison.compared(
                grown["sluice_request_duration_seconds"],
                channels=self._facts.channels,
                control_share=self._facts.control_share,
            ),
            "batches": comparison.batches(list(grown["sluice_batch_size"].values()), SIZE_BOUNDS),
            "pools": self._pools(snapshot, grown),
        }

    def _point(self, at: float, epoch_ms: int, counters: Counters, latest: tuple[float, Counters]) -> Tick:
        """Rates since the last look, medians and p99 of the last ten seconds: a single look has too few requests for them."""
        name = "sluice_request_duration_seconds"
        elapsed = at - latest[0]
        now = comparison.by_path(growth(counters[name], latest[1][name]))
        _, before = self._seen.before(at - STEP_S) or latest
        recent = comparison.by_path(growth(counters[name], before[name]))
        point: Tick = {"t": epoch_ms}
        for path in ("channel", "direct"):
            quantiles = (told_quantile(recent[path], LATENCY_BOUNDS, share) for share in (0.5, 0.99))
            point[path] = _rounded(number(now[path]) / elapsed, 1) if elapsed else None
            point[f"{path}_p50"], point[f"{path}_p99"] = (_rounded(value, 3, times=1000) for value in quantiles)
        both = comparison.figures(added_up(recent.values(), LATENCY_BOUNDS))
        return point | {"p50": both["p50"], "p99": both["p99"]}

    def _tenants(self, at: float, snapshot: Snapshot, counters: Counters, attached: Attached) -> Tick:
        depths: Counter[str] = Counter()
        for (tenant, _), depth in snapshot.get("sluice_channel_depth", ()):
            depths[tenant] += round(depth)
        rates = self._rates(at, counters)
        rows: list[Tick] = [
            {
                "name": name,
                "state": standing.state.value,
                "left_s": round(left_s, 1),
                "generation": standing.generation,
                "depth": depths.get(name),
                "rate": rates[-1].get(name) if rates else None,
                "rates": [round(rate.get(name, 0.0), 1) for rate in rates],
            }
            for name, standing, left_s in attached
        ]
        busiest = sorted(rows, key=lambda row: (row["depth"] or 0, row["rate"] or 0), reverse=True)[:TENANTS_MAX]
        shown = sorted(busiest, key=lambda row: row["name"])
        return {"rows": shown, "number": len(rows), "waiting": sum(depths.values())}

    def _rates(self, at: float, counters: Counters) -> list[dict[str, float]]:
        """Of each tenant, requests a second through its channels: a step of the window after the other, the latest last."""
        name = "sluice_channel_messages_total"
        steps = [*((then, seen[name]) for then, seen in self._seen.entries() if then < at), (at, counters[name])]
        if len(steps) > 2 and at - steps[-2][0] < STEP_S / 2:
            del steps[-2]  # too short to say anything
        found = []
        for (began, before), (ended, after) in pairwise(steps):
            sums: Counter[str] = Counter()
            for (tenant, _), messages in growth(after, before).items():
                sums[tenant] += messages
            found.append({tenant: round(messages / (ended - began), 1) for tenant, messages in sums.items()})
        return found

    def _pools(self, snapshot: Snapshot, grown: Counters) -> list[Tick]:
        counts: dict[str, dict[str, int]] = {}
        for (pool, state), value in snapshot.get("sluice_pool_connections", ()):
            counts.setdefault(pool, {})[state] = round(value)
        waiting = _by_labels(snapshot, "sluice_pool_waiting")
        sizes = self._facts.pool_sizes
        # The API keeps all its connections open or wanted: so its pool says how many processes, and servers, there are.
        times = max(round(sum(counts.get("api", {}).values()) / sizes["api"]), 1)
        return [
            {
                "name": pool,
                "size": sizes.get(pool, 0) * times,
                **states,
                "waiting": round(waiting.get((pool,), 0)),
                "timeouts": round(grown["sluice_pool_timeouts_total"].get((pool,), 0)),
                "wait_p99": _p99_ms(grown["sluice_pool_wait_seconds"].get((pool,))),
            }
            for pool, states in counts.items()
        ]


def _answers(requests: Samples) -> Tick:
    """Without the console's own. Who left before the answer is neither good nor bad."""
    found: Counter[str] = Counter()
    for (operation, _, outcome, _), value in requests.items():
        if operation != "console" and outcome.isdecimal():
            kind = "refused" if outcome in _REFUSED else "failed" if outcome.startswith("5") else "answered"
            found[kind] += round(value)
    return {kind: found[kind] for kind in ("answered", "refused", "failed")}


def _server(snapshot: Snapshot, grown: Counters, span_s: float) -> Tick:
    # Looked at a few times a second, so that in five minutes there are too few for the rule of requests.
    lag = quantile(grown["sluice_event_loop_lag_seconds"].get((), [0.0]), LATENCY_BOUNDS, 0.99)
    return {
        "mismatches": round(sum(grown["sluice_tenant_mismatch_total"].values())),
        "restarts": round(sum(grown["sluice_dispatcher_restarts_total"].values())),
        "lag_p99": _rounded(lag, 2, times=1000),
        "cpu": _per_second(sum(grown["process_cpu_seconds_total"].values()), span_s),
        "memory_mb": round(_total(snapshot, "process_resident_memory_bytes") / 1e6),
    }


def _p99_ms(histogram: Sequence[float] | None) -> float | None:
    if histogram is None:
        return None
    return _rounded(told_quantile(added_up([histogram], LATENCY_BOUNDS), LATENCY_BOUNDS, 0.99), 2, times=1000)


def _per_second(amount: float, span_s: float) -> float | None:
    return round(amount / span_s, 2) if span_s else None


def _by_labels(snapshot: Snapshot, name: str) -> dict[Labels, Any]:
    return {tuple(labels): value for labels, value in snapshot.get(name, ())}


def _total(snapshot: Snapshot, name: str) -> float:
    return float(sum(value for _, value in snapshot.get(name, ())))


def _rounded(value: float | None, digits: int, *, times: float = 1.0) -> float | None:
    return None if value is None else round(value * times, digits)
