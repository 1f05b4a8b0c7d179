"""`make bench`: the bare handler, the shell, plain asyncpg, direct and channel, turn by turn in one run.

Point reads of a 0.8 KB Patient by a random id, keys checked, logs and metrics on, control arm off. Every figure is a
median over the rounds with its spread; every ratio is of the two runs of one round, for the machine's speed drifts
between rounds.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from simulator.load import Load, render
from storage.embedded import throwaway
from storage.migrate import migrate
from storage.tenancy import create_key, create_tenant
from tests.benchmarks.bench import Figures, between, measure, ratio, served, spread, turned, warm_up
from tests.benchmarks.variants import VARIANTS

TENANTS = (1, 10, 100)
CONNECTIONS = (1, 16, 64, 256)
PATIENTS = 1000  # of each tenant
_FILL = """
INSERT INTO fhir.resource (tenant_id, type, id, rank, version, last_updated, sha256, body)
SELECT t, 'Patient', 'p' || n, 0, 1, now(), '',
       fhir.stamp('Patient', 'p' || n, 1, now(), convert_to('},"text":"' || repeat('x', 670) || '"}', 'UTF8'))
FROM generate_series(1, $1::int) t, generate_series(1, $2::int) n
"""


@dataclass(frozen=True)
class Cell(Figures):
    """One run of one variant."""

    variant: str
    tenants: int
    connections: int


async def prepare(url: str) -> list[str]:
    """Tenants with patients; returns their keys."""
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        keys = []
        for number in range(max(TENANTS)):
            await create_tenant(connection, f"bench-{number:03}")
            keys.append(await create_key(connection, f"bench-{number:03}", ["read", "warm", "operate"]))
        await connection.execute(_FILL, max(TENANTS), PATIENTS)
        await connection.execute("VACUUM ANALYZE")
        return keys
    finally:
        await connection.close()


def requests_of(keys: Sequence[str], seed: int) -> list[bytes]:
    chance = random.Random(seed)
    chosen = [(chance.choice(keys), chance.randrange(1, PATIENTS + 1)) for _ in range(20_000)]
    return [render("GET", f"/patients/p{number}", {"Authorization": f"Bearer {key}"}) for key, number in chosen]


def run(variants: Sequence[str], *, rounds: int, seconds: float, cells: Sequence[tuple[int, int]]) -> list[Cell]:
    found = []
    with ExitStack() as stack:
        cluster = stack.enter_context(throwaway({}))
        keys = asyncio.run(prepare(cluster.url))
        servers = [stack.enter_context(served(name, cluster.url)) for name in variants]
        for server in servers:
            if server.name == "channel":
                warm_up(server, keys)
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        turns = sum(_rounds(connections, rounds) for _, connections in cells) * len(servers)
        task = progress.add_task("measuring", total=turns)
        for tenants, connections in cells:
            for number in range(_rounds(connections, rounds)):
                requests = requests_of(keys[:tenants], number)
                for server in turned(servers, number):
                    load = Load("127.0.0.1", server.port, connections=connections, seconds=seconds, warmup_s=0.0)
                    figures = measure(server, cluster, load, requests)
                    found.append(Cell(**asdict(figures), variant=server.name, tenants=tenants, connections=connections))
                    progress.advance(task)
    return found


def _rounds(connections: int, rounds: int) -> int:
    """One connection's p50 is compared within a tenth, so it gets more pairs."""
    return rounds * 3 if connections == 1 else rounds


def table(cells: Sequence[Cell]) -> Table:
    shown = Table(title="medians (smallest – largest); CPU in µs a request")
    for column in (
        "tenants",
        "connections",
        "variant",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "server",
        "database",
        "server + database",
    ):
        shown.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for (tenants, connections, variant), group in _grouped(cells).items():
        figures = [
            [f.per_second for f in group], [f.p50_ms for f in group], [f.p99_ms for f in group],
            [f.server_us for f in group], [f.database_us for f in group], [f.cpu_us for f in group],
        ]  # fmt: skip
        shown.add_row(str(tenants), str(connections), variant, *(spread(values) for values in figures))
    return shown


def _grouped(cells: Sequence[Cell]) -> dict[tuple[int, int, str], list[Cell]]:
    groups: dict[tuple[int, int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.tenants, cell.connections, cell.variant), []).append(cell)
    return groups


_RATIOS: tuple[tuple[str, str, str, Callable[[Cell], float]], ...] = (
    ("channel", "direct", "requests/s", lambda cell: cell.per_second),
    ("channel", "direct", "p50", lambda cell: cell.p50_ms),
    ("channel", "direct", "p99", lambda cell: cell.p99_ms),
    ("channel", "direct", "CPU", lambda cell: cell.cpu_us),
    ("channel", "shell", "CPU", lambda cell: cell.cpu_us),
    ("direct", "plain", "CPU", lambda cell: cell.cpu_us),
)


def ratios_table(cells: Sequence[Cell]) -> Table:
    shown = Table(title="ratios of the pairs: median [95 % interval]")
    asked = [row for row in _RATIOS if {row[0], row[1]} <= {cell.variant for cell in cells}]
    for column in ("tenants", "connections", *(f"{one} / {other}, {name}" for one, other, name, _ in asked)):
        shown.add_column(column, justify="right")
    for tenants, connections in dict.fromkeys((cell.tenants, cell.connections) for cell in cells):
        here = [cell for cell in cells if (cell.tenants, cell.connections) == (tenants, connections)]
        found = [ratio(*([figure(c) for c in here if c.variant == name] for name in pair)) for *pair, _, figure in asked]
        shown.add_row(str(tenants), str(connections), *map(between, found))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--tenants", type=lambda text: tuple(map(int, text.split(","))), default=TENANTS)
    parser.add_argument("--connections", type=lambda text: tuple(map(int, text.split(","))), default=CONNECTIONS)
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    given = parser.parse_args()
    cells = run(
        given.variants.split(","),
        rounds=given.rounds,
        seconds=given.seconds,
        cells=[(tenants, connections) for tenants in given.tenants for connections in given.connections],
    )
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    console = Console(width=170)
    console.print(table(cells), ratios_table(cells))
    if any(cell.generator_saturated for cell in cells):
        console.print("In some runs the generator used over 80 % of a core: those servers could do more than is shown.")
    console.print(f"every run: {given.json}")


if __name__ == "__main__":
    main()
