"""The whole of a comparison: servers up, section after section, and the report. Read this first."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from statistics import median

from app.comparing import capacity, costs, results
from app.comparing.cells import CHANNEL, DIRECT, MIX, Cell
from app.comparing.generator import generator
from app.comparing.intervals import PAIRS_MIN
from app.comparing.machine import hidden, machine, warnings
from app.comparing.plans import Budget, Plan
from app.comparing.probing import check_answers, round_trip_ms
from app.comparing.proxy import SetDelay, proxied
from app.comparing.results import Json
from app.comparing.servers import Arm, CompareError, DatabaseCpu, served, warm, warmed_up
from app.comparing.stock import Stock
from app.comparing.switchback import Bench, Group, Section, rhythm_for, run_section
from app.comparing.verdicts import summary
from base.config import Config
from base.operations import BY_NAME

Tick = Callable[[str], None]


@dataclass
class Comparison:
    """`forced`: one server, whose requests say their path. `planted_s`: what makes its channels worse, in tests alone."""

    config: Config
    stock: Stock
    plan: Plan
    bench: Bench
    tick: Tick
    forced: bool = False
    planted_s: float = 0.0
    cells: list[Json] = field(default_factory=list)
    sections: list[Json] = field(default_factory=list)
    proxies: list[Json] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def run(self) -> Json:
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        conditions = machine(self.stock.version)
        round_trip = round_trip_ms(self.stock.url)
        operations = [BY_NAME[name] for name in self.plan.operations]
        with self._arms(self.stock.url) as arms, warmed_up(arms[-1].server, self.stock.holdings, self.stock.warm):
            check_answers(arms, self.stock.holdings, operations)
            budget = Budget(self.plan)
            fitted = self._costs(budget)
            levels = self._section("levels", arms, self._levels(), budget)
            self._section("rates", arms, self._rates(levels), budget)
            if self.plan.alone:
                self._section("alone", arms, [Group([Cell(name, 1, level) for name, level in self.plan.alone])], budget)
            self._parts(arms, budget)
            self._delays(budget)
            capacities = self._capacities(arms, levels, budget)
        judged = [
            (name, [results.at_load(cell) for cell in self.cells if cell["section"] == "levels" and cell["workload"] == name])
            for name in (MIX, *self.plan.operations)
        ]
        return {
            "made_at": made_at,
            "plan": self.plan.name,
            "seconds": self.plan.seconds,
            "forced": self.forced,
            "machine": conditions,
            "data": {"origin": self.stock.origin, "tenants": len(self.stock.holdings)},
            "hidden": hidden(conditions["cores"], round_trip, local=self.stock.postmaster is not None),
            "round_trip_ms": round(round_trip, 3),
            "summary": "\n".join([summary(judged), *results.cpu_words(self.cells)]),
            "verdicts": results.verdicts(self.cells),
            "cells": self.cells,
            "capacity": {"slo_ms": self.plan.slo_ms, "bad_max": capacity.BAD_MAX, "paths": capacities},
            "costs": fitted,
            "proxy": self.proxies,
            "sections": self.sections,
            "left_out": self.left_out,
            "warnings": warnings(conditions, self.sections),
        }

    @property
    def _cooldown_s(self) -> float:
        return self.plan.seconds + 900

    @contextmanager
    def _arms(self, url: str) -> Iterator[list[Arm]]:
        """Direct and channel, with every tenant warm."""
        with ExitStack() as stack:
            channel = stack.enter_context(served("channel", url, delay_s=self.planted_s, cooldown_s=self._cooldown_s))
            warm(channel, self.stock.holdings)
            if self.forced:
                yield [Arm(DIRECT, channel, DIRECT), Arm(CHANNEL, channel, CHANNEL)]
            else:
                yield [Arm(DIRECT, stack.enter_context(served("direct", url))), Arm(CHANNEL, channel)]

    def _costs(self, budget: Budget) -> list[Json]:
        seconds = max(budget.until("costs") - time.monotonic(), 0.2)
        self.tick("what a statement costs by the asks in it")
        config = replace(self.config, database_url=self.stock.url)
        operations = [BY_NAME[name] for name in self.plan.operations]
        times = costs.measured(config, self.stock.holdings, operations, seconds=seconds)
        return results.costs_of(times, costs.sharing(operations, self.stock.holdings))

    def _levels(self) -> list[Group]:
        tenants = len(self.stock.holdings)
        plan, lowest = self.plan, min(self.plan.levels)
        apart = [
            [Cell(name, tenants, level) for name in (MIX, *(plan.at_rest if level == lowest else plan.operations))]
            for level in plan.levels
        ]
        return [Group(cells) for cells in apart] if plan.levels_apart else [Group(list(chain(*apart)))]

    def _rates(self, levels: Section) -> list[Group]:
        """Shares of what direct did with the most in flight."""
        found = [self._rate(levels, MIX, share) for share in self.plan.rates]
        groups = [Group(found)]
        if self.plan.operation_rate is not None:
            groups.append(Group([self._rate(levels, name, self.plan.operation_rate) for name in self.plan.operations]))
        return groups

    def _rate(self, levels: Section, name: str, share: float) -> Cell:
        tenants = len(self.stock.holdings)
        return Cell(name, tenants, rate=max(round(_reached(levels, name) * share), 1), load=f"{share * 100:.0f} % of direct")

    def _parts(self, arms: Sequence[Arm], budget: Budget) -> None:
        """Direct, a queue alone, with batches, and with equal asks asked once, which is the channel."""
        with ExitStack() as stack:
            between = [
                Arm(part, stack.enter_context(served(part, self.stock.url, cooldown_s=self._cooldown_s)))
                for part in ("queue", "batches")
            ]
            for arm in between:
                warm(arm.server, self.stock.holdings)
            tenants, level = len(self.stock.holdings), self.plan.parts_level
            cells = [Cell(name, 1 if hot else tenants, level, hot=hot) for name, hot in self.plan.parts]
            self._section("parts", [arms[0], *between, arms[1]], [Group(cells)], budget)

    def _delays(self, budget: Budget) -> None:
        if not self.plan.delayed:
            return
        try:
            with proxied(self.stock.url) as (url, set_delay), self._arms(url) as arms:
                self.proxies = [self._real(url, set_delay, delay_ms) for delay_ms in self.plan.delays_ms]
                self._section("delays", arms, [self._delayed(set_delay, delay_ms) for delay_ms in self.plan.delays_ms], budget)
        except CompareError as error:
            budget.skip("delays")
            self.left_out.append(f"delays: {error}")

    def _real(self, url: str, set_delay: SetDelay, delay_ms: float) -> Json:
        """What a round trip through the proxy really takes."""
        set_delay(delay_ms)
        return {"delay_ms": delay_ms, "round_trip_ms": round(round_trip_ms(url), 3)}

    def _delayed(self, set_delay: SetDelay, delay_ms: float) -> Group:
        tenants = len(self.stock.holdings)
        cells = [Cell(name, tenants, level, delay_ms=delay_ms) for name, level in self.plan.delayed]
        return Group(cells, lambda: set_delay(delay_ms))

    def _capacities(self, arms: Sequence[Arm], levels: Section, budget: Budget) -> list[Json]:
        """Each path by turns and alone, until the time is up; the first search of each is always made."""
        until = budget.until("capacity")
        searches = [(name, arm) for name in self.plan.capacity for arm in arms]
        found: dict[tuple[str, str], list[capacity.Capacity]] = {(name, arm.name): [] for name, arm in searches}
        took = 0.0
        while took == 0.0 or time.monotonic() + took < until:
            began = time.monotonic()
            for number, (name, arm) in enumerate(searches):
                left = until - time.monotonic()
                by = time.monotonic() + max(left, 0.0) / (len(searches) - number) if took == 0.0 else until
                self.tick(f"capacity: {name}, {arm.name}")
                start = 0.5 * _reached(levels, name, arm.name)
                cell = Cell(name, len(self.stock.holdings), rate=start)
                search = capacity.measured(
                    self.bench, arm, cell, self.plan.slo_ms,
                    start=start, seconds=self.plan.trial_s, steps=self.plan.trials, until=by,
                )  # fmt: skip
                found[name, arm.name].append(search)
            took = time.monotonic() - began
        return [results.capacity_of(name, arm, searched) for (name, arm), searched in found.items()]

    def _section(self, name: str, arms: Sequence[Arm], groups: Sequence[Group], budget: Budget) -> Section:
        until = budget.until(name)
        rhythm = rhythm_for(until - time.monotonic(), blocks=len(groups) * len(arms))
        least = PAIRS_MIN if name in self.plan.judged else 1
        section = run_section(
            self.bench, name, arms, groups, rhythm, until=until, least=least, latest=budget.latest, tick=self.tick
        )
        self.cells += results.cells_of(section)
        self.sections.append(results.told(section))
        return section


def _reached(levels: Section, workload: str, arm: str = DIRECT) -> float:
    """Answers a second with the most in flight."""
    cell = max((cell for cell in levels.cells if cell.workload == workload), key=lambda cell: cell.in_flight or 0)
    return max(median([figures.goodput for figures in levels.figures(arm, cell)] or [0.0]), 2.0)


def compare(
    config: Config, stock: Stock, plan: Plan, *, forced: bool = False, planted_s: float = 0.0, tick: Tick = lambda _: None
) -> Json:
    """The report. Raises CompareError where there is nothing to compare."""
    with generator() as send:
        bench = Bench(send, stock.holdings, DatabaseCpu(stock.postmaster))
        return Comparison(config, stock, plan, bench, tick, forced, planted_s).run()
