"""What is asked for: each operation's requests and asks, made of what the tenants have stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlencode

from app.comparing.cells import MIX, Cell
from base.operations import BY_NAME, OPERATIONS, Kind, Operation
from r4.dates import EARLIEST
from r4.search import parse_search
from simulator.load import render
from storage.searching.lists import list_statement, list_values
from storage.statements import Statement, read_statement, review_statement

WEIGHTS = {Kind.READ: 20, Kind.LIST: 12, Kind.REVIEW: 4}
"""The mix: each operation comes as often as its kind has here. A front end reads more than it lists, and reviews seldom."""
REQUESTS = 2000
"""Made of a workload, and chosen from at random."""
_REVIEW_ROWS = 101


@dataclass(frozen=True)
class Holding:
    """What a tenant has: ids by type, and of people the family names, as often as they occur."""

    tenant_id: int
    name: str
    key: str
    ids: Mapping[str, Sequence[str]]
    families: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Wanted:
    """One question: an id, or the query of a list."""

    operation: Operation
    id: str = ""
    query: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        route = self.operation.routes[0].format(id=self.id)
        return f"{route}?{urlencode(self.query)}" if self.query else route

    def ask(self) -> tuple[Statement, tuple[Any, ...]]:
        """The statement and its values, as the server makes them of the path."""
        kind = self.operation.type or ""
        if self.operation.kind is Kind.READ:
            return read_statement(kind), (self.id,)
        if self.operation.kind is Kind.REVIEW:
            return review_statement(), (self.id, EARLIEST, "", -1, "", "", _REVIEW_ROWS)
        search = parse_search(kind, self.query)
        return list_statement(search), list_values(search)


def wanted(operation: Operation, holding: Holding, chance: Random) -> Wanted:
    kind = operation.type or ""
    if operation.kind is not Kind.LIST:
        return Wanted(operation, id=chance.choice(holding.ids[kind]))
    if kind in holding.families:
        return Wanted(operation, query=(("family", chance.choice(holding.families[kind])),))
    return Wanted(operation, query=(("patient", chance.choice(holding.ids["Patient"])),))


def requests_of(cell: Cell, holdings: Sequence[Holding], *, force: str | None = None) -> list[bytes]:
    """`force` is the path that X-Sluice-Force asks for, if any. The questions are the same on every path."""
    chance = Random(cell.workload)
    draw = _hot(cell, holdings) if cell.hot else _any(cell, holdings)
    made = []
    for _ in range(1 if cell.hot else REQUESTS):
        holding, found = draw(chance)
        headers = {"Authorization": f"Bearer {holding.key}"} | ({"X-Sluice-Force": force} if force else {})
        made.append(render("GET", found.path, headers))
    return made


def _any(cell: Cell, holdings: Sequence[Holding]) -> Callable[[Random], tuple[Holding, Wanted]]:
    operations = OPERATIONS if cell.workload == MIX else (BY_NAME[cell.workload],)
    weights = [WEIGHTS[operation.kind] for operation in operations]

    def draw(chance: Random) -> tuple[Holding, Wanted]:
        holding = holdings[chance.randrange(cell.tenants)]
        return holding, wanted(chance.choices(operations, weights)[0], holding, chance)

    return draw


def _hot(cell: Cell, holdings: Sequence[Holding]) -> Callable[[Random], tuple[Holding, Wanted]]:
    found = wanted(BY_NAME[cell.workload], holdings[0], Random(cell.workload))
    return lambda _: (holdings[0], found)
