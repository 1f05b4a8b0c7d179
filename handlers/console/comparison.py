"""Channel against direct, of the requests of a span of time. Pure.

What is compared are the two arms of warm tenants, drawn at random: the same tenants, minutes and mix of operations. Whatever
else went direct is of other tenants, at other times of their day; it is shown, and not judged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from base.operations import OPERATIONS
from handlers.console.figures import Histogram, added_up, mean, number, quantile, quantile_interval, told_quantile
from metrics.accumulators import LATENCY_BOUNDS, Labels

LEAST = 50
"""Requests of each arm, from which on a median is judged."""
NEGLIGIBLE = 0.03
"""A difference below this is none, however certain it is: as `sluice compare` has it."""

Durations = Mapping[Labels, Histogram]
"""By (operation, path, arm, source): sluice_request_duration_seconds."""
Which = Callable[[str, str, str], bool]

_ARMS: dict[str, Which] = {
    "channel": lambda _operation, _path, arm: arm == "treatment",
    "control": lambda _operation, _path, arm: arm == "control",
    "other": lambda _operation, path, arm: path == "direct" and arm == "none",
}
_PATHS: dict[str, Which] = {
    "channel": lambda _operation, path, _arm: path == "channel",
    "direct": lambda _operation, path, _arm: path == "direct",
}


def compared(durations: Durations, *, channels: bool = True, control_share: float = 0.05) -> dict[str, Any]:
    """What the page shows of a span: figures by arm and by operation, the shares of each bucket, and a verdict in words."""
    arms = {name: chosen(durations, which) for name, which in _ARMS.items()}
    judged = judge(arms["channel"], arms["control"])
    return {
        "verdict": judged | {"text": sentence(judged, channels=channels, control_share=control_share)},
        "arms": {name: figures(histogram) for name, histogram in arms.items()},
        "spread": spread({name: arms[name] for name in ("channel", "control")}),
        "operations": [_operation(durations, operation.name) for operation in OPERATIONS],
    }


def chosen(durations: Durations, which: Which) -> list[float]:
    found = (histogram for (operation, path, arm, _), histogram in durations.items() if which(operation, path, arm))
    return added_up(found, LATENCY_BOUNDS)


def by_path(durations: Durations) -> dict[str, list[float]]:
    return {name: chosen(durations, which) for name, which in _PATHS.items()}


def figures(histogram: Histogram) -> dict[str, Any]:
    """Milliseconds; a quantile is None where too few requests lie beyond it."""
    return {
        "n": number(histogram),
        "mean": _ms(mean(histogram)),
        "p50": _ms(told_quantile(histogram, LATENCY_BOUNDS, 0.5)),
        "p99": _ms(told_quantile(histogram, LATENCY_BOUNDS, 0.99)),
    }


def spread(histograms: Mapping[str, Histogram]) -> dict[str, list[float]]:
    """`ms`: the upper bounds of the buckets that hold anything, and those between; of each arm the per cent that lie there."""
    held = [place for place in range(len(LATENCY_BOUNDS)) if any(one[place] for one in histograms.values())]
    if not held:
        return {"ms": []}
    first, last = held[0], held[-1] + 1
    shares = {
        name: [round(100 * count / max(number(one), 1), 2) for count in one[first:last]] for name, one in histograms.items()
    }
    return {"ms": [round(bound * 1000, 3) for bound in LATENCY_BOUNDS[first:last]], **shares}


def judge(channel: Histogram, control: Histogram) -> dict[str, Any]:
    """`ratio` of the medians, direct to channel, with its interval: above 1 the channel is faster. `tail` is the p99's."""
    found: dict[str, Any] = {"channel": figures(channel), "control": figures(control), "ratio": None}
    found["judgement"], found["tail"] = "unknown", "unknown"
    if min(number(channel), number(control)) >= LEAST:
        found["judgement"], found["ratio"] = _judged_at(0.5, channel, control)
        found["tail"], _ = _judged_at(0.99, channel, control)
    return found


def _judged_at(share: float, channel: Histogram, control: Histogram) -> tuple[str, list[float] | None]:
    """The ratio's interval is made of both quantiles' own: wider than need be, it rather sees too few differences."""
    ours, theirs = (quantile_interval(one, LATENCY_BOUNDS, share) for one in (channel, control))
    if ours is None or theirs is None:
        return "unknown", None
    ratio = (quantile(control, LATENCY_BOUNDS, share) or 0.0) / (quantile(channel, LATENCY_BOUNDS, share) or 1.0)
    low, high = theirs[0] / ours[1], theirs[1] / ours[0]
    shown_ratio = [round(value, 2) for value in (ratio, low, high)]
    if low <= 1 <= high or abs(ratio - 1) < NEGLIGIBLE:
        return "none", shown_ratio
    return ("better" if ratio > 1 else "worse"), shown_ratio


def sentence(judged: Mapping[str, Any], *, channels: bool, control_share: float) -> str:
    channel, control, judgement = judged["channel"], judged["control"], judged["judgement"]
    if not channels:
        return "Channels are off on this server (SLUICE_CHANNELS): every request goes direct."
    if not channel["n"]:
        return "No request has gone through a channel, so there is nothing to compare."
    if judgement == "unknown" and not control_share:
        return "No warm tenant's request goes direct (SLUICE_CONTROL_SHARE is 0), so there is nothing to compare with."
    if judgement == "unknown":
        counts = f"{channel['n']:,} through channels and {control['n']:,} direct for comparison"
        return f"Too few requests to tell: {counts}. It takes {LEAST} of each."
    ratio, low, high = judged["ratio"]
    words = {"better": "The channel is faster", "worse": "The channel is slower at this load", "none": "No difference shown"}
    medians = (
        f"a median of {shown(channel['p50'])} against {shown(control['p50'])} direct ({ratio:.2f} × [{low:.2f}, {high:.2f}])"
    )
    return f"{words[judgement]}: {medians}. {_tail(judged)}"


def _tail(judged: Mapping[str, Any]) -> str:
    tail, judgement = judged["tail"], judged["judgement"]
    if tail == "unknown":
        return "Too few requests to tell the p99."
    p99s = f"{shown(judged['channel']['p99'])} against {shown(judged['control']['p99'])}"
    if tail == "none":
        return f"At the p99 no difference is shown: {p99s}."
    return f"The p99 is {tail}, too: {p99s}." if tail == judgement else f"But the p99 is {tail}: {p99s}."


def shown(ms: float) -> str:
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms"


def _operation(durations: Durations, name: str) -> dict[str, Any]:
    arms = [
        chosen(durations, lambda operation, _path, arm, wanted=wanted: operation == name and arm == wanted)  # type: ignore[misc]
        for wanted in ("treatment", "control")
    ]
    return {"name": name, **judge(*arms)}


def batches(sizes: Sequence[Histogram], bounds: Sequence[float]) -> dict[str, Any]:
    """Statements by how many requests each answered: the mean, the per cent that answered one alone, and of each bucket."""
    together = added_up(sizes, bounds)
    count = number(together)
    shares = [round(100 * one / max(count, 1), 1) for one in together[: len(bounds)]]
    return {
        "n": count,
        "mean": None if not count else round(together[-1] / count, 2),
        "alone": shares[0] if count else None,
        "shares": shares,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
