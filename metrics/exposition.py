"""Snapshots as Prometheus' text, through aioprometheus' registry."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from aioprometheus.collectors import Counter, Gauge, Histogram, Registry
from aioprometheus.renderer import render

from metrics.accumulators import Family, Labels, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(families: Mapping[str, Family], snapshot: Snapshot) -> bytes:
    """The text that Prometheus scrapes."""
    registry = Registry()
    for name, samples in snapshot.items():
        _collector(families[name], samples, registry)
    content: bytes = render(registry, [CONTENT_TYPE])[0]
    return content


def _collector(family: Family, samples: list[tuple[Labels, Any]], registry: Registry) -> None:
    """Hands the samples over where aioprometheus asks for them: it is not fed value by value."""
    base = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[family.kind]
    values = [(_labels(family, labels), _value(family, value)) for labels, value in samples]
    handed_over = type(base.__name__, (base,), {"get_all": lambda _self: values})
    handed_over(family.name, family.help, registry=registry)


def _value(family: Family, value: Any) -> Any:
    if family.kind != "histogram":
        return value
    *counts, total = value
    cumulative = list(accumulate(counts))
    bounds: tuple[float | str, ...] = (*family.bounds, float("inf"))
    return {**dict(zip(bounds, cumulative, strict=True)), "sum": total, "count": cumulative[-1]}


def _labels(family: Family, values: Labels) -> dict[str, str]:
    return {name: _escaped(value) for name, value in zip(family.labels, values, strict=True)}


def _escaped(value: str) -> str:
    """Aioprometheus writes label values as they are; a quote in one would break the whole scrape."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
