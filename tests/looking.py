"""A collector that looks when a test says so, and what a scrape then says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg

from metrics.catalog import Metrics, WorkerMetrics
from metrics.exposition import exposition
from storage.collectors import Collector, Pace


@dataclass
class Looking:
    metrics: Metrics | WorkerMetrics
    collector: Collector

    async def look(self) -> str:
        """At everything, also what is looked at seldom; the scrape."""
        self.collector.hasten()
        await self.collector.look()
        return self.scrape()

    def scrape(self) -> str:
        return exposition(self.metrics.families, self.metrics.snapshot()).decode()


@asynccontextmanager
async def looking(
    url: str, metrics: Metrics | WorkerMetrics | None = None, *, poll_interval_s: float = 1800.0, pace: Pace | None = None
) -> AsyncIterator[Looking]:
    """By the URL's login; a worker's, unless other metrics are given."""
    metrics = metrics or WorkerMetrics()
    interval_s = poll_interval_s if isinstance(metrics, WorkerMetrics) else None
    collector = Collector(metrics, partial(asyncpg.connect, url), poll_interval_s=interval_s, pace=pace)
    try:
        yield Looking(metrics, collector)
    finally:
        collector.close()
