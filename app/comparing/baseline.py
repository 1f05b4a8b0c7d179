"""`sluice compare --baseline`: what direct alone does at each load, and what holds it back."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median

import psutil

from app.comparing import results
from app.comparing.bottleneck import Strain, bottleneck
from app.comparing.cells import DIRECT, MIX, Cell, Figures, merged
from app.comparing.generator import generator
from app.comparing.machine import hidden, machine, warnings
from app.comparing.plans import Plan
from app.comparing.probing import check_answers, round_trip_ms
from app.comparing.results import Json
from app.comparing.servers import Arm, DatabaseCpu, Server, served
from app.comparing.stock import Stock
from app.comparing.switchback import ROUNDS_WANTED, Bench, Section
from base.operations import BY_NAME

LEVELS = (1, 16, 64, 256)
STAGES = ("queue", "pool", "query", "encode")
_SLICE_S = (0.3, 3.0)
Stages = dict[str, tuple[float, float]]
"""Sum in seconds and count, by stage."""


def baseline(stock: Stock, plan: Plan, *, tick: Callable[[str], None] = lambda _: None) -> Json:
    """Each workload at each load, in turn, until the plan's time is up."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    conditions = machine(stock.version)
    round_trip = round_trip_ms(stock.url)
    with generator() as send, served(DIRECT, stock.url) as server:
        arm = Arm(DIRECT, server)
        check_answers([arm], stock.holdings, [BY_NAME[name] for name in plan.operations])
        levels = sorted({*plan.levels, *(LEVELS if plan.levels_apart else ())})
        cells = [Cell(name, len(stock.holdings), level) for level in levels for name in (MIX, *plan.operations)]
        bench = Bench(send, stock.holdings, DatabaseCpu(stock.postmaster))
        section, strains = _measured(bench, arm, cells, plan.seconds, tick)
    found = [_cell(cell, strains[of]) for of, cell in zip(cells, results.cells_of(section), strict=True)]
    return {
        "made_at": made_at,
        "summary": "\n".join(
            f"The mix at {cell['at']}: {cell['arms'][DIRECT]['goodput']:,.0f} a second, held back by {cell['bottleneck']}."
            for cell in found
            if cell["workload"] == MIX
        ),
        "plan": f"baseline, {plan.name}",
        "seconds": plan.seconds,
        "machine": conditions,
        "data": {"origin": stock.origin, "tenants": len(stock.holdings)},
        "hidden": hidden(conditions["cores"], round_trip, local=stock.postmaster is not None),
        "round_trip_ms": round(round_trip, 3),
        "cells": found,
        "sections": [results.told(section)],
        "warnings": warnings(conditions, [results.told(section)]),
    }


def _measured(
    bench: Bench, arm: Arm, cells: list[Cell], seconds: float, tick: Callable[[str], None]
) -> tuple[Section, dict[Cell, list[Strain]]]:
    section = Section("baseline", [arm.name], cells, stopped="time")
    strains: dict[Cell, list[Strain]] = {cell: [] for cell in cells}
    shortest, longest = _SLICE_S
    slice_s = min(max(seconds / (ROUNDS_WANTED * len(cells)) - 0.2, shortest), longest)
    until, took = time.monotonic() + seconds, 0.0
    while not section.rounds or time.monotonic() + took < until:
        began = time.monotonic()
        found = {}
        for cell in cells:
            tick(f"{cell.workload} at {cell.at()}")
            found[arm.name, cell], strain = _strained(bench, arm, cell, slice_s)
            strains[cell].append(strain)
        took = time.monotonic() - began
        section.block_s.append(took / len(cells))
        section.rounds.append(found)  # a saturated generator is named as the bottleneck
    return section, strains


def _strained(bench: Bench, arm: Arm, cell: Cell, slice_s: float) -> tuple[Figures, Strain]:
    bench.measure(arm, cell, 0.1)
    before, busy_before, at = stages(arm.server), _busy_s(), time.monotonic()
    figures = bench.measure(arm, cell, slice_s)
    busy_s, took, after = _busy_s() - busy_before, time.monotonic() - at, stages(arm.server)
    return figures, Strain(
        in_flight=cell.in_flight or 0,
        server_cores=figures.server_s / figures.seconds,
        database_cores=None if figures.database_s is None else figures.database_s / figures.seconds,
        generator_share=figures.generator_share,
        machine_cores=min(busy_s / took, float(psutil.cpu_count() or 1)),
        cores=psutil.cpu_count() or 1,
        stages_ms={stage: _mean_ms(before[stage], after[stage]) for stage in STAGES},
        total_ms=merged([figures]).get_mean_value() / 1e3,
    )


def stages(server: Server) -> Stages:
    """What the server has counted of its direct requests until now."""
    status, body = server.ask("GET", "/metrics", "")
    found: Stages = {}
    for stage in STAGES:
        sums = {"sum": 0.0, "count": 0.0}
        for line in body.decode().splitlines() if status == 200 else ():
            name, _, rest = line.partition("{")
            kind = name.removeprefix("sluice_stage_duration_seconds_")
            if kind in sums and f'path="{DIRECT}"' in rest and f'stage="{stage}"' in rest:
                sums[kind] += float(line.rpartition(" ")[2])
        found[stage] = sums["sum"], sums["count"]
    return found


def _mean_ms(before: tuple[float, float], after: tuple[float, float]) -> float:
    return (after[0] - before[0]) / max(after[1] - before[1], 1.0) * 1000


def _busy_s() -> float:
    """CPU seconds of the whole machine that were not idle."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))


def _cell(cell: Json, strains: list[Strain]) -> Json:
    """With what its median round was strained by."""
    known = [strain.database_cores for strain in strains if strain.database_cores is not None]
    whole = Strain(
        in_flight=strains[0].in_flight,
        server_cores=median(strain.server_cores for strain in strains),
        database_cores=median(known) if known else None,
        generator_share=median(strain.generator_share for strain in strains),
        machine_cores=median(strain.machine_cores for strain in strains),
        cores=strains[0].cores,
        stages_ms={stage: median(strain.stages_ms[stage] for strain in strains) for stage in STAGES},
        total_ms=median(strain.total_ms for strain in strains),
    )
    named = bottleneck(whole)
    return {**cell, "strain": results.rounded(asdict(whole)), "bottleneck": named.name, "because": named.because}
