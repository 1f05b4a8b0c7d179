"""Blocks of a few seconds of one arm, then another's, in random order (switchback): so the machine's drift hits all alike.

A block's beginning is dropped, and a moment before each of its slices. The blocks of a round are paired: what is compared
is the ratio of two arms within a round, never two medians.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from app.comparing.cells import DIRECT, Cell, Figures, figures_of
from app.comparing.generator import Send
from app.comparing.intervals import PAIRS_MIN, is_enough, ratios_of
from app.comparing.servers import Arm, CompareError, DatabaseCpu
from app.comparing.workloads import Holding, requests_of
from simulator.load import Load

BLOCK_S = 6.5
"""What a block is planned for: between 5 and 8 s."""
BLOCK_MIN_S = 0.3
LEAD_SHARE = 0.1
SETTLE_S = 0.06
OVERHEAD_S = 0.06
"""Of a slice: its connections are made, its latencies are sorted."""
SLICE_MIN_S = 0.12
ROUNDS_WANTED = PAIRS_MIN
OPEN_CONNECTIONS = 256
TIMEOUT_S = 5.0

T = TypeVar("T")
Figure = Callable[[Figures], float]


@dataclass(frozen=True)
class Rhythm:
    """Seconds of a block, whatever the number of its slices. Its beginning is dropped, and a moment before each slice."""

    block_s: float
    settle_s: float = SETTLE_S

    @property
    def lead_s(self) -> float:
        return LEAD_SHARE * self.block_s

    def slice_s(self, slices: int) -> float:
        return max((self.block_s - self.lead_s) / slices - self.settle_s - OVERHEAD_S, SLICE_MIN_S)


def rhythm_for(seconds: float, *, blocks: int) -> Rhythm:
    """For rounds of `blocks`: enough of them first, then blocks of the planned length."""
    return Rhythm(max(min(BLOCK_S, seconds / (ROUNDS_WANTED * blocks)), BLOCK_MIN_S))


def hurried(rhythm: Rhythm, *, round_s: float, blocks: int, left_s: float, rounds: int) -> Rhythm:
    """Shorter blocks, where rounds of `round_s` are too long for those that are wanted: a busy machine takes longer between."""
    wanted = ROUNDS_WANTED - rounds
    if wanted <= 0 or round_s * wanted <= left_s:
        return rhythm
    excess_s = (round_s - left_s / wanted) / blocks
    return replace(rhythm, block_s=max(rhythm.block_s - excess_s, min(rhythm.block_s, BLOCK_MIN_S)))


@dataclass(frozen=True)
class Group:
    """Cells whose slices share a block; `prepare` is called before each of its blocks."""

    cells: Sequence[Cell]
    prepare: Callable[[], None] = lambda: None


@dataclass
class Section:
    """What was measured together: of each round the figures by arm and cell.

    `discarded`: slices whose generator was saturated, which say nothing of a server; their pairs are left out.
    """

    name: str
    arms: Sequence[str]
    cells: Sequence[Cell]
    rounds: list[dict[tuple[str, Cell], Figures]] = field(default_factory=list)
    block_s: list[float] = field(default_factory=list)
    discarded: int = 0
    stopped: str = ""

    def figures(self, arm: str, cell: Cell) -> list[Figures]:
        """Of the rounds that have all arms' figures of the cell, in their order."""
        return [found[arm, cell] for found in self.rounds if all((other, cell) in found for other in self.arms)]

    def ratios(self, arm: str, cell: Cell, figure: Figure) -> list[float]:
        """Of the arm to direct, a pair a round."""
        return ratios_of(*(map(figure, self.figures(name, cell)) for name in (arm, DIRECT)))

    def is_enough(self) -> bool:
        """Whether every arm's ratio in every cell lies within ± 5 %."""
        others = [arm for arm in self.arms if arm != DIRECT]
        return is_enough(self.ratios(arm, cell, leading(cell)) for arm in others for cell in self.cells)


def leading(cell: Cell) -> Figure:
    """What a cell is there to show: throughput in closed loop, latency in open."""
    return (lambda figures: figures.goodput) if cell.rate is None else (lambda figures: figures.p50_ms)


class Bench:
    """Measures slices: the load generator, who is asked for what, and whose CPU is read."""

    def __init__(self, send: Send, holdings: Sequence[Holding], database: DatabaseCpu, *, port_host: str = "127.0.0.1") -> None:
        self._send = send
        self._holdings = holdings
        self._database = database
        self._host = port_host
        self._seed = 0
        self._requests: dict[tuple[str, int, bool, str | None], list[bytes]] = {}

    def measure(self, arm: Arm, cell: Cell, seconds: float, *, settle_s: float = 0.0) -> Figures:
        """One slice; what is sent in the `settle_s` before it is not counted."""
        self._seed += 1
        requests = self._requests_of(cell, arm.force)
        if settle_s:
            self._send(self._load(arm, cell, settle_s), requests)
        before = arm.server.cpu_s(), self._database.seconds()
        result = self._send(self._load(arm, cell, seconds), requests)
        server_s, database_s = arm.server.cpu_s() - before[0], self._database.seconds()
        spent = None if database_s is None or before[1] is None else database_s - before[1]
        if not result.statuses and not result.errors:
            raise CompareError(f"{arm.name} gave no answer at all to {cell.workload}")
        if set(result.paths) - {arm.path}:
            raise CompareError(f"{arm.name} was answered by another path: {result.paths}")
        return figures_of(result, server_s, spent)

    def _requests_of(self, cell: Cell, force: str | None) -> list[bytes]:
        """Made once, and chosen from anew in each slice."""
        asked = cell.workload, cell.tenants, cell.hot, force
        found = self._requests.get(asked)
        if found is None:
            found = self._requests[asked] = requests_of(cell, self._holdings, force=force)
        return found

    def _load(self, arm: Arm, cell: Cell, seconds: float) -> Load:
        return Load(
            self._host,
            arm.server.port,
            connections=cell.in_flight or OPEN_CONNECTIONS,
            seconds=seconds,
            warmup_s=0.0,
            rate=cell.rate,
            seed=self._seed,
            timeout_s=TIMEOUT_S,
        )


def run_section(
    bench: Bench,
    name: str,
    arms: Sequence[Arm],
    groups: Sequence[Group],
    rhythm: Rhythm,
    *,
    until: float,
    least: int = 1,
    latest: float = float("inf"),
    tick: Callable[[str], None] = lambda _: None,
) -> Section:
    """Round after round until every interval is within ± 5 %, or `until` (of `time.monotonic()`).

    Where there are fewer than `least` rounds by then, it goes on for them until `latest`.
    """
    section = Section(name, [arm.name for arm in arms], [cell for group in groups for cell in group.cells])
    chance = Random(name)
    while True:
        began = time.monotonic()
        found: dict[tuple[str, Cell], Figures] = {}
        for group in _shuffled(groups, chance):
            for arm in _shuffled(arms, chance):
                group.prepare()
                at = time.monotonic()
                found |= _block(bench, arm, _shuffled(group.cells, chance), rhythm)
                section.block_s.append(time.monotonic() - at)
                tick(f"{name}, round {len(section.rounds) + 1}: {arm.name}")
        section.discarded += sum(figures.saturated for figures in found.values())
        section.rounds.append({key: figures for key, figures in found.items() if not figures.saturated})
        now = time.monotonic()
        if section.is_enough():
            section.stopped = "precise"
            return section
        blocks, rounds = len(groups) * len(arms), len(section.rounds)
        if now + (now - began) > (latest if rounds < least else until):
            section.stopped = "time"
            return section
        rhythm = hurried(rhythm, round_s=now - began, blocks=blocks, left_s=until - now, rounds=rounds)


def _block(bench: Bench, arm: Arm, cells: Sequence[Cell], rhythm: Rhythm) -> dict[tuple[str, Cell], Figures]:
    found: dict[tuple[str, Cell], Figures] = {}
    for cell in cells:
        if not found:
            bench.measure(arm, cell, rhythm.lead_s)
        found[arm.name, cell] = bench.measure(arm, cell, rhythm.slice_s(len(cells)), settle_s=rhythm.settle_s)
    return found


def _shuffled(items: Sequence[T], chance: Random) -> list[T]:
    return chance.sample(items, len(items))
