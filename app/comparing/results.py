"""From sections of slices to the report: plain dicts and lists, which the table, the JSON and the page all show."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from app.comparing.capacity import Capacity
from app.comparing.cells import CHANNEL, DIRECT, MIX, Cell, Figures, merged
from app.comparing.costs import Times
from app.comparing.costs_fit import fit
from app.comparing.intervals import Interval, interval_of
from app.comparing.switchback import Section
from app.comparing.verdicts import AtLoad, Judgement, cost_sentence, judge, sentence

Json = dict[str, Any]
_PERCENTILES = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99)


def cells_of(section: Section) -> list[Json]:
    """Each cell with every arm's figures, and each arm's ratios to direct."""
    return [
        {
            "section": section.name,
            **cell.to_dict(),
            "arms": {arm: _arm(found) for arm in section.arms if (found := section.figures(arm, cell))},
            "ratios": {arm: _ratios(section, arm, cell) for arm in section.arms if arm != DIRECT},
        }
        for cell in section.cells
    ]


def told(section: Section) -> Json:
    """How it went; the generator's lateness is the worst slice's."""
    late = [figures.late_p99_ms for found in section.rounds for figures in found.values()]
    return {
        "section": section.name,
        "rounds": len(section.rounds),
        "block_s": round(statistics.median(section.block_s), 2),
        "discarded": section.discarded,
        "stopped": section.stopped,
        "late_p99_ms": rounded(max(late, default=0.0)),
    }


def _arm(found: Sequence[Figures]) -> Json:
    """Sums over the rounds, quantiles of all their latencies together, and the median of the rounds' throughputs."""
    whole = merged(found)
    good = max(sum(figures.good for figures in found), 1)
    database = [figures.database_s for figures in found]
    return {
        "goodput": rounded(statistics.median(figures.goodput for figures in found)),
        "p50_ms": rounded(whole.get_value_at_percentile(50) / 1e3),
        "p99_ms": rounded(whole.get_value_at_percentile(99) / 1e3),
        "offered": sum(figures.offered for figures in found),
        "good": sum(figures.good for figures in found),
        "refused": sum(figures.refused for figures in found),
        "failed": sum(figures.failed for figures in found),
        "server_us": rounded(sum(figures.server_s for figures in found) / good * 1e6),
        "database_us": None if None in database else rounded(sum(filter(None, database)) / good * 1e6),
        "generator_share": rounded(max(figures.generator_share for figures in found)),
        "distribution": _distribution(whole),
    }


def _distribution(whole: Any) -> list[list[float]]:
    """(percentile, ms), as far as there are ten latencies beyond."""
    count = whole.get_total_count()
    known = [percent for percent in _PERCENTILES if count * (100 - percent) / 100 >= 10]
    return [[percent, rounded(whole.get_value_at_percentile(percent) / 1e3)] for percent in known]


def _ratios(section: Section, arm: str, cell: Cell) -> Json:
    """Throughput in closed loop, latency in open; CPU in both."""
    found = {"cpu": interval_json(section.ratios(arm, cell, lambda figures: figures.cpu_us), lower_is_better=True)}
    if cell.rate is None:
        found["throughput"] = interval_json(section.ratios(arm, cell, lambda figures: figures.goodput))
    else:
        found["p50"] = interval_json(section.ratios(arm, cell, lambda figures: figures.p50_ms), lower_is_better=True)
        found["p99"] = interval_json(section.ratios(arm, cell, lambda figures: figures.p99_ms), lower_is_better=True)
    return found


def interval_json(values: Sequence[float], *, lower_is_better: bool = False) -> Json | None:
    if not values:
        return None
    interval = interval_of(values)
    judgement = judge(interval, lower_is_better=lower_is_better).value
    shown = rounded(asdict(interval))
    return {**shown, "judgement": judgement}


def at_load(cell: Json, arm: str = CHANNEL) -> AtLoad:
    """A cell of the report, as verdicts.py takes it."""
    is_latency = cell["rate"] is not None
    ratio = cell["ratios"][arm]["p99" if is_latency else "throughput"]
    interval = ratio and Interval(ratio["middle"], ratio["low"], ratio["high"], ratio["pairs"])
    bad = [_bad(cell["arms"].get(name)) for name in (DIRECT, arm)]
    return AtLoad(cell["at"], interval, is_latency, *bad)


def _bad(arm: Json | None) -> float:
    return (arm["refused"] + arm["failed"]) / max(arm["offered"], 1) if arm else 0.0


def verdicts(cells: Iterable[Json]) -> list[Json]:
    """A sentence for each operation, and for each of what else was asked about: one tenant, a delay, the parts of a channel."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for cell in cells:
        for arm in cell["ratios"]:
            groups.setdefault((named(cell), arm), []).append(cell)
    return [
        {
            "name": name,
            "arm": arm,
            "section": found[0]["section"],
            "sentence": sentence(name, [at_load(cell, arm) for cell in found], arm=ARMS[arm]),
        }
        for (name, arm), found in groups.items()
    ]


def cpu_words(cells: Sequence[Json]) -> list[str]:
    """What an answer costs, of the mix with the most in flight: it hardly depends on what else the machine does."""
    found = [cell for cell in cells if cell["section"] == "levels" and cell["workload"] == MIX]
    for cell in sorted(found, key=lambda cell: cell["in_flight"], reverse=True)[:1]:
        ratio = cell["ratios"][CHANNEL]["cpu"]
        if ratio and ratio["judgement"] in (Judgement.BETTER.value, Judgement.WORSE.value):
            interval = f"{ratio['middle']:.2f} × [{ratio['low']:.2f}, {ratio['high']:.2f}]"
            return [f"An answer of the mix by channel costs {interval} the CPU of direct's, at {cell['at']}."]
    return []


ARMS = {
    "direct": "direct",
    "queue": "a queue alone",
    "batches": "queue and batches",
    "channel": "channel",
}


def named(cell: Json) -> str:
    """The question in words, without its load."""
    words = [cell["workload"]]
    if cell["section"] == "alone":
        words.append("one tenant alone")
    if cell["section"] == "parts":
        words.append("all for one and the same" if cell["hot"] else "each for another")
    if cell["delay_ms"] is not None:
        words.append(f"database {cell['delay_ms']:g} ms further away")
    return ", ".join(words)


def costs_of(times: Times, shares: Mapping[str, bool]) -> list[Json]:
    """`shares`: whether an operation's asks may share a statement at all."""
    found = []
    for name, by_size in times.items():
        fitted = fit(by_size)
        medians = {size: statistics.median(taken) for size, taken in by_size.items()}
        most = max(medians)
        found.append(
            {
                "operation": name,
                "points": [[size, rounded(median)] for size, median in medians.items()],
                **rounded(asdict(fitted)),
                "measured_gain": rounded(medians[min(medians)] / (medians[most] / most)),
                "largest": most,
                "can_pay": fitted.can_pay,
                "shares": shares[name],
                "sentence": cost_sentence(name, fitted.gain, can_pay=fitted.can_pay, shares=shares[name]),
            }
        )
    return found


def capacity_of(workload: str, arm: str, found: Sequence[Capacity]) -> Json:
    """The median of the searches, and the lowest and highest; None where not even the lowest rate tried was met."""
    rates = [capacity.rate for capacity in found if capacity.rate is not None]
    return {
        "workload": workload,
        "arm": arm,
        "rate": rounded(statistics.median(rates)) if rates else None,
        "lowest": rounded(min(rates, default=None)),
        "highest": rounded(max(rates, default=None)),
        "tried_from": rounded(min(trial.rate for capacity in found for trial in capacity.trials)),
        "searches": len(found),
        "limited": any(capacity.limited for capacity in found),
        "trials": [rounded(asdict(trial)) for one in found for trial in one.trials],
    }


def rounded(value: Any) -> Any:
    """Four figures of each float, wherever it is: more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
