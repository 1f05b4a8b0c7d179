"""`sluice compare`: whether channels are worth it, for whom and when, measured here and now."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli_tools import Json, notices, settings


def compare(
    quick: Annotated[bool, typer.Option("--quick", help="2 minutes instead of 20, with wider intervals")] = False,
    minutes: Annotated[float | None, typer.Option(min=0.5, max=600, help="another limit of time")] = None,
    forced: Annotated[
        bool, typer.Option("--forced", help="one server, whose requests say their path, instead of two; they share its loop")
    ] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="direct alone at each load, and what holds it back; no verdict")
    ] = False,
    slo_ms: Annotated[float, typer.Option(min=1, max=10_000, help="the p99 that capacity is measured at")] = 50.0,
    as_json: Json = False,
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, help="a report with plots, in one file that stands alone")
    ] = None,
) -> None:
    """Channel against direct: throughput, latency, capacity and CPU, with a verdict in a sentence.

    Starts servers of its own on the embedded database, or the one of SLUICE_DATABASE_URL, and asks for what the demo's tenants
    have stored; where there is no demo, for data that it makes in a throwaway database. Let nothing else run meanwhile.
    """
    from dataclasses import replace

    from app.comparing.baseline import baseline as measure_baseline
    from app.comparing.comparison import compare as measure
    from app.comparing.plans import FULL, QUICK
    from app.comparing.stock import stocked

    if forced and baseline:
        raise typer.BadParameter("--baseline has one path alone; leave --forced away")
    if html is not None and not os.access(html if html.exists() else html.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"{html} cannot be written: is its folder there, and yours?")
    plan = replace(QUICK if quick else FULL, slo_ms=slo_ms).with_minutes(minutes)
    config = settings()
    with stocked(config) as stock:
        notices.print(f"asking for what {stock.origin} have; {plan.seconds / 60:g} minutes at most", highlight=False)
        with _bar(plan.seconds) as tick:
            report = (
                measure_baseline(stock, plan, tick=tick) if baseline else measure(config, stock, plan, forced=forced, tick=tick)
            )
    _show(report, as_json=as_json)
    if html is not None:
        from app.comparing.page import page

        html.write_text(page(report), encoding="utf-8")
        notices.print(f"the report with its plots: {html}", highlight=False)


@contextmanager
def _bar(seconds: float) -> Iterator[Callable[[str], None]]:
    """Time on standard error; what is being done beside it."""
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=notices, refresh_per_second=2) as progress:
        task, began = progress.add_task("starting", total=seconds), time.monotonic()
        yield lambda text: progress.update(task, description=text, completed=min(time.monotonic() - began, seconds))
        progress.update(task, description="done", completed=seconds)


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    """Sentences first; tables on a terminal, lines with tabs elsewhere."""
    from app.comparing.tables import plain, sentences, tables

    if as_json:
        print(json.dumps(report))
        return
    if sys.stdout.isatty():
        console = Console(emoji=False)
        console.print(*tables(report), *sentences(report), sep="\n", highlight=False)
        return
    for line in sentences(report):
        print(line)
    for table in tables(report, whole_lines=True):
        print(f"\n{table.title}")
        print("\n".join(plain(table)))
