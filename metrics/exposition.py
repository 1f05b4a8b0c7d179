"""Snapshots as Prometheus' text, through aioprometheus' registry."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any

from aioprometheus.collectors import Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TextFormatter

from metrics.accumulators import Family, Labels, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Buckets = tuple[tuple[float, ...], list[float], float]
"""Bounds, a count for each and one beyond the last, and the sum."""


def exposition(families: Mapping[str, Family], snapshot: Snapshot) -> bytes:
    """The text that Prometheus scrapes."""
    registry = Registry()
    for name, samples in snapshot.items():
        _collector(families[name], samples, registry)
    return bytes(_Text().marshall(registry))


class _Text(TextFormatter):
    """As theirs, in less than half the time: a series' labels are written once, not anew for each of its buckets.

    Each gets what `_collector` hands over: the label pairs, and a number or Buckets.
    """

    def _format_counter(self, counter: Any, name: str, const_labels: object) -> list[str]:
        return self._format_gauge(counter, name, const_labels)

    def _format_gauge(self, gauge: Any, name: str, _const_labels: object) -> list[str]:
        pairs, value = gauge
        return [f"{name}{_braced(pairs)} {value}"]

    def _format_histogram(self, histogram: Any, name: str, _const_labels: object) -> list[str]:
        pairs, (bounds, counts, total) = histogram
        cumulative = list(accumulate(counts))
        head = "".join([f"{pair}," for pair in pairs if pair < "le"])
        tail = "".join([f",{pair}" for pair in pairs if pair > "le"])
        lines = [
            f'{name}_bucket{{{head}le="{bound}"{tail}}} {count}.0'  # as a float is written
            for bound, count in zip((*bounds, "+Inf"), cumulative, strict=True)
        ]
        series = _braced(pairs)
        return [*lines, f"{name}_sum{series} {float(total)}", f"{name}_count{series} {float(cumulative[-1])}"]


def _collector(family: Family, samples: list[tuple[Labels, Any]], registry: Registry) -> None:
    """Hands the samples over where aioprometheus asks for them: it is not fed value by value."""
    base = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[family.kind]
    values = [(_pairs(family, labels), _value(family, value)) for labels, value in samples]
    handed_over = type(base.__name__, (base,), {"get_all": lambda _self: values})
    handed_over(family.name, family.help, registry=registry)


def _value(family: Family, value: Any) -> float | Buckets:
    return value if family.kind != "histogram" else (family.bounds, value[:-1], value[-1])


def _braced(pairs: list[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _pairs(family: Family, values: Labels) -> list[str]:
    """`name="value"`, in the order of names."""
    return sorted(map(_pair, family.labels, values))


@lru_cache(maxsize=10_000)
def _pair(name: str, value: str) -> str:
    """Aioprometheus writes label values as they are; a quote in one would break the whole scrape."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'
