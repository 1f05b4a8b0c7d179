"""What the console reckons, without a server: figures, comparison, findings, and the recorder that puts them together."""

import random
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import pytest

from handlers.console import comparison
from handlers.console.comparison import LEAST, compared, judge
from handlers.console.figures import (
    Window,
    added_up,
    growth,
    has_fallen,
    mean,
    number,
    quantile,
    quantile_interval,
    told_quantile,
)
from handlers.console.findings import findings
from handlers.console.snapshot import STEP_S, TENANTS_MAX, WINDOW_S, Facts, Recorder
from metrics.accumulators import LATENCY_BOUNDS, SIZE_BOUNDS, Distribution
from metrics.catalog import Metrics
from tenants.phase import Phase
from tenants.registry import Standing

FACTS = Facts(channels=True, control_share=0.05, pool_sizes={"api": 11, "report": 5})


def histogram(values: Sequence[float], bounds: tuple[float, ...] = LATENCY_BOUNDS) -> list[float]:
    found = Distribution(bounds)
    for value in values:
        found.observe(value)
    return found.snapshot()


def latencies(middle_s: float, many: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [chance.lognormvariate(0, 0.5) * middle_s for _ in range(many)]


def durations(channel: Sequence[float] = (), control: Sequence[float] = (), operation: str = "get_patient") -> Any:
    return {
        (operation, "channel", "treatment", "database"): histogram(channel),
        (operation, "direct", "control", "database"): histogram(control),
    }


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_are_near(share: float) -> None:
    """A quantile of a histogram lies in the bucket of the true one; the mean is exact."""
    values = latencies(0.004, 20_000)
    found = quantile(histogram(values), LATENCY_BOUNDS, share)
    true = statistics.quantiles(values, n=1000)[round(share * 1000) - 1]
    place = bisect_left(LATENCY_BOUNDS, true)
    assert found is not None
    assert LATENCY_BOUNDS[place - 1] <= found <= LATENCY_BOUNDS[place]
    assert mean(histogram(values)) == pytest.approx(statistics.fmean(values))


def test_quantiles_of_little() -> None:
    """No request has no quantile; beyond the last bound it is that bound; a p99 takes a thousand requests to be told."""
    assert quantile(histogram([]), LATENCY_BOUNDS, 0.5) is None
    assert mean(histogram([])) is None
    assert quantile(histogram([100.0]), LATENCY_BOUNDS, 0.5) == LATENCY_BOUNDS[-1]
    assert told_quantile(histogram([0.001] * 999), LATENCY_BOUNDS, 0.99) is None
    assert told_quantile(histogram([0.001] * 1000), LATENCY_BOUNDS, 0.99) is not None


def test_intervals_hold_the_truth() -> None:
    """A median's 95 % interval holds the median of what the requests were drawn from about so often."""
    held = 0
    for seed in range(200):
        found = quantile_interval(histogram(latencies(0.004, 200, seed)), LATENCY_BOUNDS, 0.5)
        assert found is not None
        held += found[0] <= 0.004 <= found[1]
    assert held >= 180


@pytest.mark.parametrize(
    ("channel_s", "control_s", "judgement", "words"),
    [
        (0.002, 0.004, "better", "The channel is faster"),
        (0.004, 0.002, "worse", "The channel is slower at this load"),
        (0.004, 0.004, "none", "No difference shown"),
    ],
)
def test_judges(channel_s: float, control_s: float, judgement: str, words: str) -> None:
    """What is planted twice as fast is judged faster, twice as slow slower, the same alike; the ratio is near the true one."""
    found = compared(durations(latencies(channel_s, 3000), latencies(control_s, 1500, 2)))
    assert found["verdict"]["judgement"] == judgement
    assert found["verdict"]["text"].startswith(words)
    ratio, low, high = found["verdict"]["ratio"]
    assert low <= ratio <= high
    assert ratio == pytest.approx(control_s / channel_s, rel=0.15)
    by_name = {one["name"]: one for one in found["operations"]}
    assert (by_name["get_patient"]["judgement"], by_name["review"]["judgement"]) == (judgement, "unknown")


def test_tail_is_judged_for_itself() -> None:
    """A channel whose median is better and whose p99 is worse is not called faster without that being said."""
    quick = latencies(0.002, 3000)
    slow_end = [*quick, *[0.5] * 150]
    control = latencies(0.004, 3000, 2)
    texts = [compared(durations(channel, control))["verdict"]["text"] for channel in (slow_end, quick, quick[:900])]
    assert [text.startswith("The channel is faster") for text in texts] == [True] * 3
    assert "But the p99 is worse" in texts[0]
    assert "The p99 is better, too" in texts[1]
    assert texts[2].endswith("Too few requests to tell the p99.")


def test_same_is_seldom_told_apart() -> None:
    """Of a hundred comparisons of two arms that are the same, at most two say that there is a difference."""
    wrong = [
        judge(histogram(latencies(0.004, 2000, seed)), histogram(latencies(0.004, 100, seed + 1000)))["judgement"] != "none"
        for seed in range(100)
    ]
    assert sum(wrong) <= 2


def test_says_that_it_cannot_tell() -> None:
    """Without requests, with too few, without a control arm or channels it says which, and judges nothing."""
    few = durations(latencies(0.002, 5000), latencies(0.004, LEAST - 1))
    cases = [
        (compared({}), "nothing to compare"),
        (compared(few), f"5,000 through channels and {LEAST - 1} direct for comparison. It takes {LEAST} of each"),
        (compared(durations(latencies(0.002, 500)), control_share=0.0), "SLUICE_CONTROL_SHARE is 0"),
        (compared({}, channels=False), "SLUICE_CHANNELS"),
    ]
    for found, words in cases:
        assert found["verdict"]["judgement"] == "unknown"
        assert words in found["verdict"]["text"]


def test_others_are_not_judged() -> None:
    """What cold tenants asked directly is shown and counted, and changes no verdict."""
    both = durations(latencies(0.002, 500), latencies(0.002, 500, 2))
    cold = {("get_patient", "direct", "none", "database"): histogram([2.0] * 5000)}
    found = compared(both | cold)
    assert found["arms"]["other"]["n"] == 5000
    assert found["verdict"] == compared(both)["verdict"]
    assert number(comparison.by_path(both | cold)["direct"]) == 5500


def test_spread_adds_up() -> None:
    """The shares of the buckets are per cent of each arm, over one range for both."""
    found = compared(durations([0.001] * 30 + [0.009] * 70, [0.05] * 10))["spread"]
    assert len(found["ms"]) == len(found["channel"]) == len(found["control"])
    assert sum(found["channel"]) == pytest.approx(100)
    assert (min(found["ms"]), max(found["ms"])) == (1.0, pytest.approx(64.0))
    assert compared({})["spread"] == {"ms": []}


def test_batches() -> None:
    """The mean is of requests a statement; a lone one is a statement of one."""
    found = comparison.batches([histogram([1, 1, 1, 5], SIZE_BOUNDS)], SIZE_BOUNDS)
    assert (found["n"], found["mean"], found["alone"], found["shares"][3]) == (4, 2.0, 75.0, 25.0)
    assert comparison.batches([], SIZE_BOUNDS)["mean"] is None


def test_growth() -> None:
    """What is new or began anew counts from nothing, and a counter that fell is noticed."""
    assert growth({("a",): 5.0, ("b",): 2.0, ("c",): 1.0}, {("a",): 3.0, ("c",): 4.0}) == {
        ("a",): 2.0,
        ("b",): 2.0,
        ("c",): 1.0,
    }
    assert growth({(): [4.0, 1.0, 9.0]}, {(): [1.0, 1.0, 5.0]}) == {(): [3.0, 0.0, 4.0]}
    assert has_fallen({("a",): 2.0}, {("a",): 3.0})
    assert has_fallen({}, {("a",): 1.0})
    assert not has_fallen({("a",): 3.0, ("b",): 1.0}, {("a",): 3.0})
    assert added_up([[1, 2, 3], [1, 0, 1]], (1.0,)) == [2, 2, 4]


def test_window() -> None:
    """It keeps an entry a step, as far back as it is long, and finds the newest that is old enough."""
    window: Window[int] = Window(30, 10)
    assert window.before(0) is None
    for at in range(100):
        assert window.add(float(at), at) == (at % 10 == 0)
    assert [at for at, _ in window.entries()] == [60, 70, 80, 90]
    assert window.before(75.0) == (70.0, 70)
    assert window.before(80.0) == (80.0, 80)
    assert window.before(5.0) == (60.0, 60)


def tick(recorder: Recorder, metrics: Metrics, at: float, attached: Any = ()) -> dict[str, Any]:
    return recorder.tick(at, int(at * 1000), metrics.snapshot(), attached)


def test_recorder_rates() -> None:
    """Requests a second are those since the last look, by path; counts are those of the window."""
    metrics, recorder = Metrics(), Recorder(FACTS)
    tick(recorder, metrics, 0.0)
    for _ in range(2):
        for _ in range(300):
            metrics.request_duration.child("get_patient", "channel", "treatment", "database").observe(0.002)
        for _ in range(50):
            metrics.request_duration.child("get_patient", "direct", "control", "database").observe(0.004)
            metrics.requests.child("get_patient", "direct", "503", "busy").add()
        metrics.requests.child("console", "none", "503", "").add(7)
        metrics.requests.child("get_patient", "none", "cancelled", "").add(7)
        found = tick(recorder, metrics, recorder.points[-1]["t"] / 1000 + 2.0)
    assert (found["point"]["channel"], found["point"]["direct"]) == (150.0, 25.0)
    assert found["point"]["channel_p50"] == pytest.approx(2, rel=0.2)
    assert found["point"]["direct_p50"] == pytest.approx(4, rel=0.25)
    assert (found["comparison"]["arms"]["channel"]["n"], found["answers"]["refused"], found["answers"]["failed"]) == (
        600,
        100,
        0,
    )
    assert (found["span_s"], len(recorder.points)) == (4, 3)


def test_recorder_begins_anew() -> None:
    """After a restart of a process, or longer than the window without a look, no figure mixes what was before and after."""
    metrics, recorder = Metrics(), Recorder(FACTS)
    metrics.requests.child("get_patient", "direct", "200", "cold").add(1000)
    tick(recorder, metrics, 0.0)
    assert tick(recorder, Metrics(), 2.0)["answers"]["answered"] == 0
    metrics.requests.child("get_patient", "direct", "200", "cold").add(5)
    found = tick(recorder, metrics, 3.0 + WINDOW_S)
    assert (found["answers"]["answered"], found["span_s"], len(recorder.points)) == (0, 0, 1)


def test_recorder_tenants() -> None:
    """Each tenant has its own rate and depth; of very many the busiest are shown, by name, and all are counted."""
    metrics, recorder = Metrics(), Recorder(FACTS)
    warm = Standing(Phase.WARM, 1)
    names = [f"t{n:03}" for n in range(TENANTS_MAX + 10)]
    attached = [(name, warm, 60.0) for name in names]
    metrics.channel_depth.read = lambda: [((names[-1], "review"), 3), ((names[-1], "get_patient"), 4)]
    tick(recorder, metrics, 0.0, attached)
    metrics.channel_messages.child(names[5], "review").add(200)
    found = tick(recorder, metrics, STEP_S, attached)["tenants"]
    by_name = {row["name"]: row for row in found["rows"]}
    assert (found["number"], len(found["rows"]), found["waiting"]) == (TENANTS_MAX + 10, TENANTS_MAX, 7)
    assert list(by_name) == sorted(by_name)
    assert (by_name[names[-1]]["depth"], by_name[names[5]]["rate"], by_name[names[5]]["left_s"]) == (7, 20.0, 60.0)
    metrics.channel_messages.children.clear()  # it cooled, and warms up again
    metrics.channel_messages.child(names[5], "review").add(10)
    again = tick(recorder, metrics, 2 * STEP_S, attached)["tenants"]
    assert {row["name"]: row for row in again["rows"]}[names[5]]["rates"] == [20.0, 1.0]


def test_recorder_pools() -> None:
    """A pool's size is that of all processes; what was waited for in vain is counted over the window."""
    metrics, recorder = Metrics(), Recorder(FACTS)
    metrics.pool_connections.read = lambda: [
        (("api", "idle"), 20),
        (("api", "busy"), 2),
        (("api", "missing"), 0),
        (("report", "idle"), 1),
    ]
    metrics.pool_waiting.read = lambda: [(("api",), 4)]
    vain = metrics.pool_timeouts.child("api")
    vain.add(5)
    tick(recorder, metrics, 0.0)
    vain.add(2)
    api, report = tick(recorder, metrics, 2.0)["pools"]
    assert (api["size"], api["busy"], api["waiting"], api["timeouts"]) == (22, 2, 4, 2)
    assert report["size"] == 10


WELL: dict[str, Any] = {
    "database": "",
    "answers": {"answered": 10, "refused": 0, "failed": 0},
    "server": {"mismatches": 0, "restarts": 0, "lag_p99": 3.0},
    "pools": [{"name": "api", "timeouts": 0, "wait_p99": 1.0}],
}
BOOKS: dict[str, Any] = {
    "at": 10_000_000,
    "facilities": [{"licence": "F1", "health": "ok"}, {"licence": "F2", "health": "paused"}],
    "views": [{"name": "balance-amount", "reason": "", "behind_since": 9_990_000}],
}


def _server(**figures: Any) -> dict[str, Any]:
    return {"server": WELL["server"] | figures}


def _answers(**figures: int) -> dict[str, Any]:
    return {"answers": WELL["answers"] | figures}


def _pool(**figures: Any) -> dict[str, Any]:
    return {"pools": [WELL["pools"][0] | figures]}


def _facilities(*healths: str) -> dict[str, Any]:
    return {"facilities": [{"licence": f"F{n}", "health": health} for n, health in enumerate(healths, 1)]}


def _view(**figures: Any) -> dict[str, Any]:
    return {"views": [BOOKS["views"][0] | figures]}


@pytest.mark.parametrize(
    ("change", "books", "weight", "words"),
    [
        ({"database": "the database is away"}, BOOKS, "bad", "the database is away"),
        (_answers(failed=2), {}, "bad", "2 requests failed (500)"),
        (_answers(refused=1), {}, "look", "1 request was refused (429, 503, 504)"),
        (_server(mismatches=1), {}, "bad", "1 batch was thrown away: rows of nobody who asked"),
        (_server(restarts=2), {}, "look", "the dispatcher was started again 2 times"),
        (_server(lag_p99=150.0), {}, "look", "the event loop runs 150 ms late (p99)"),
        (_pool(timeouts=3, wait_p99=900.0), {}, "bad", "3 waits for a connection of api ended in vain"),
        (_pool(wait_p99=900.0), {}, "look", "a connection of api is waited for, 900 ms (p99)"),
        ({}, _facilities("failing"), "look", "facility F1 failed at the last poll"),
        ({}, _facilities("overdue", "ok", "overdue"), "look", "2 facilities are overdue for a poll"),
        ({}, _facilities("stopped"), "bad", "facility F1 is stopped"),
        ({}, _view(reason="QueryCanceledError"), "look", "the last refresh of balance-amount failed: QueryCanceledError"),
        ({}, _view(behind_since=9_400_000), "look", "balance-amount lacks changes of 10 minutes"),
    ],
)
def test_findings(change: dict[str, Any], books: dict[str, Any], weight: str, words: str) -> None:
    """Each trouble is told once, in words, and nothing when all is well; what was not read yet is no trouble."""
    (found,) = findings(WELL | change, BOOKS | books)
    assert (found["weight"], found["text"]) == (weight, words)
    assert findings(WELL, BOOKS) == findings(WELL, {}) == []


def test_worst_comes_first() -> None:
    """What is bad stands above what only needs a look."""
    books = BOOKS | {"facilities": [{"licence": "F1", "health": "failing"}, {"licence": "F2", "health": "stopped"}]}
    found = findings(WELL | {"answers": {"answered": 0, "refused": 5, "failed": 1}}, books)
    assert [one["weight"] for one in found] == ["bad", "bad", "look", "look"]
