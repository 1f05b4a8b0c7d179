"""`make bench-search`: searches over 100 tenants with 10 000 encounters each, by channel and direct, turn by turn in one run.

What belongs together is measured side by side: each round asks every workload of a group on both paths, in changing order, and
a ratio is of two runs of one round. The load is a closed loop from a process of its own. A workload whose answers are not
200, are empty, or differ between the paths is left out and named. The data is stored once; see crowd_data.py.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import Progress

from base import log
from simulator.load import Load, render
from tests.benchmarks.bench import BadRunError, Server, measure, served, turned, warm_up
from tests.benchmarks.crowd_data import Stored, add_size, size_of, stored
from tests.benchmarks.probes import Probe, probe
from tests.benchmarks.search_report import PATHS, Found, Run, figures_table, verdicts_table
from tests.benchmarks.workloads import WORKLOADS, Workload

REQUESTS = 4000
"""Made for a round, and chosen from at random."""
SETTINGS = {
    "SLUICE_ACCESS_LOG": "sample",
    "SLUICE_BASE_URL": "http://localhost",  # so that both servers' answers are alike
    "SLUICE_COOLDOWN_S": "86400",
}


@dataclass(frozen=True)
class Plan:
    """How long and how much."""

    rounds: int
    seconds: float
    connections: int


class Bench:
    """The runs so far, and why a workload has none."""

    def __init__(self, stock: Stored, servers: Sequence[Server], plan: Plan) -> None:
        self._stock = stock
        self._servers = servers
        self._plan = plan
        self._runs: list[Run] = []
        self.probes: dict[str, Probe] = {}
        self.left_out: dict[str, str] = {}

    def run(self, workloads: Sequence[Workload], progress: Progress) -> list[Run]:
        for workload in progress.track(workloads, description="probing"):
            with self._leaving_out(workload):
                self.probes[workload.name] = probe(workload, self._servers, self._stock)
        asked = [workload for workload in workloads if workload.name in self.probes]
        bar = progress.add_task("measuring", total=len(asked) * self._plan.rounds)
        for _, group in groupby(asked, key=lambda workload: workload.group):
            side_by_side = list(group)
            for number in range(self._plan.rounds):
                for workload in turned(side_by_side, number):
                    with self._leaving_out(workload):
                        self._measure(workload, number)
                    progress.advance(bar)
        return [run for run in self._runs if run.workload not in self.left_out]

    @contextmanager
    def _leaving_out(self, workload: Workload) -> Iterator[None]:
        try:
            yield
        except BadRunError as error:
            self.left_out[workload.name] = str(error)

    def _measure(self, workload: Workload, number: int) -> None:
        if workload.name in self.left_out:
            return
        requests = self._requests(workload, number)
        for server in turned(self._servers, number):
            load = Load(
                "127.0.0.1", server.port, self._plan.connections, self._plan.seconds, warmup_s=0.0, timeout_s=30.0, seed=number
            )
            figures = measure(server, self._stock.cluster, load, requests)
            self._runs.append(Run(**asdict(figures), workload=workload.name, path=server.name, round=number))

    def _requests(self, workload: Workload, number: int) -> list[bytes]:
        """Of all tenants, mixed."""
        chance = Random(number)
        keys, place_of = self._stock.keys, self.probes[workload.name].place_of
        chosen = [chance.randrange(len(keys)) for _ in range(REQUESTS)]
        return [
            render("GET", workload.path(chance, self._stock.crowd) + place_of(who), {"Authorization": f"Bearer {keys[who]}"})
            for who in chosen
        ]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-search", description=__doc__)
    add_size(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", action="append", metavar="PART", help="of the names of workloads; may be given again")
    parser.add_argument("--json", type=Path, default=Path("build/searches.json"))
    return parser.parse_args()


def main() -> None:
    given = parsed()
    log.configure(level=logging.WARNING)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    said = given.json.with_suffix(".log")
    said.unlink(missing_ok=True)
    workloads = [workload for workload in WORKLOADS if any(part in workload.name for part in given.only or [""])]
    with ExitStack() as stack:
        stock = stack.enter_context(stored(given.data, size_of(given)))
        servers = [stack.enter_context(served(name, stock.url, SETTINGS, log=said)) for name in PATHS]
        warm_up(servers[0], stock.keys)
        bench = Bench(stock, servers, Plan(given.rounds, given.seconds, given.connections))
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        runs = bench.run(workloads, progress)
    entries = {name: asdict(replace(probed, places=())) for name, probed in bench.probes.items()}
    report = {
        "options": vars(given),
        "left_out": bench.left_out,
        "entries": entries,
        "runs": [asdict(run) for run in runs],
    }
    given.json.write_text(json.dumps(report, indent=1, default=str))
    show(bench, runs)
    print(f"every run: {given.json}; what the servers logged: {said}")


def show(bench: Bench, runs: Sequence[Run]) -> None:
    console = Console(width=170, emoji=False)  # `:date:` is none
    if runs:
        console.print(figures_table(Found(runs), bench.probes), verdicts_table(Found(runs)))
    for name, reason in bench.left_out.items():
        console.print(f"left out: {name}: {reason}")
    if any(run.generator_saturated for run in runs):
        console.print("In some runs the generator used over 80 % of a core: those servers could do more than is shown.")


if __name__ == "__main__":
    main()
