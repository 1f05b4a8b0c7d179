"""What a worker does, on a terminal: the facilities that it polls now, and what came in since it started."""

import contextlib
from collections.abc import Iterator
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ingestion.polling.braking import Brakes
from ingestion.polling.poll import Poller
from metrics.catalog import WorkerMetrics


@contextlib.contextmanager
def showing(console: Console | None, metrics: WorkerMetrics, poller: Poller, brakes: Brakes) -> Iterator[None]:
    """Nothing without a console: the log tells it then."""
    if console is None:
        yield
        return
    began = monotonic()
    with Live(
        console=console, refresh_per_second=4, get_renderable=lambda: _table(metrics, poller, brakes, monotonic() - began)
    ):
        yield


def _table(metrics: WorkerMetrics, poller: Poller, brakes: Brakes, up_s: float) -> Table:
    table = Table("facility", "to take", "in", "failed", "acknowledged", "claims", box=None, show_footer=False)
    for licence, tally in list(poller.running.items()):
        cells = (tally.listed, tally.loaded + tally.quarantined, tally.failed, tally.acknowledged, tally.claims)
        table.add_row(licence, *(f"{number:,}" for number in cells))
    claims = _total(metrics.claims.snapshot())
    braked = f"; slowed down for {brakes.now.reason}" if brakes.now.reason else ""
    table.caption = (
        f"{_total(metrics.polls.snapshot()):,.0f} polls, {_total(metrics.files.snapshot()):,.0f} files, {claims:,.0f} claims, "
        f"{claims / max(up_s, 1) * 60:,.0f} a minute{braked}"
    )
    table.caption_justify = "left"
    return table


def _total(samples: list[tuple[tuple[str, ...], float]]) -> float:
    return sum(value for _, value in samples)
