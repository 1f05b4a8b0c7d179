"""EXPLAIN, on connections like the API's and at all moments of their lives: what it says of plans, rows and pages."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from storage.connecting.pools import API_SETTINGS
from storage.embedded import Cluster
from tests.conftest import make_database
from tests.plan_cases import CASES, LOAD, TOTALS, Case
from tests.support import connect, connected

BIG, SMALL = 1, 3
ASKS = 8
MOMENTS = ("while_empty", "no_statistics", "after_analyze", "first", "seventh")
"""Of a statement on a connection: prepared before there was anything, before there were statistics, and since."""


@dataclass
class Plans:
    """What EXPLAIN said, by (case, moment, tenant) of a single ask and by (case, moment) of a batch.

    `generic`: (generic, custom) plans, by the name of the prepared statement.
    """

    single: dict[tuple[str, str, int], Any] = field(default_factory=dict)
    batch: dict[tuple[str, str], Any] = field(default_factory=dict)
    generic: dict[str, tuple[int, int]] = field(default_factory=dict)


async def explained(cluster: Cluster, template: str) -> Plans:
    url = await make_database(cluster, "plans", template)
    found = Plans()
    async with connected(url) as owner:
        early = await Explainer.open(url)
        await early.prepare()
        await owner.execute(LOAD)
        await early.explain_all(found, "while_empty")
        blind = await Explainer.open(url)
        await blind.prepare()
        await blind.explain_all(found, "no_statistics")
        await blind.connection.close()
        await owner.execute("ANALYZE")
        await early.explain_all(found, "after_analyze")
        await early.connection.close()
    late = await Explainer.open(url)
    await late.prepare(run=False)
    await late.explain_all(found, "first")
    for _ in range(5):
        await late.run_all()
    await late.explain_all(found, "seventh")
    found.generic = await late.plan_counts()
    await late.connection.close()
    return found


class Explainer:
    """One connection like the API's; every case is prepared on it as p0, p1, …, and its batch as b0, b1, …."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.cases = [*CASES.values(), *TOTALS.values()]
        self.types: dict[int, list[str]] = {}

    @classmethod
    async def open(cls, url: str) -> "Explainer":
        return cls(await connect(url, **API_SETTINGS))

    async def prepare(self, *, run: bool = True) -> None:
        for number, case in enumerate(self.cases):
            await self.connection.execute(f"PREPARE p{number} AS {case.statement.plain}")
            await self.connection.execute(f"PREPARE b{number} AS {case.statement.batch}")
            self.types[number] = await self.connection.fetchval(
                "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = $1", f"b{number}"
            )
        if run:
            await self.run_all()

    async def run_all(self) -> None:
        """Each case once, plain and batched: its plan is made now, if there was none.

        A batch without a bound takes seconds and is not looked at: of it only the plan is had, which counts as much.
        """
        for number, case in enumerate(self.cases):
            await self.connection.execute(self._plain(number, case, SMALL))
            batch = self._batch(number, case)
            await self.connection.execute(batch if case.statement.bounded else f"EXPLAIN {batch}")

    async def explain_all(self, found: Plans, moment: str) -> None:
        for number, case in enumerate(self.cases):
            for tenant in (BIG, SMALL):
                found.single[case.name, moment, tenant] = await self._explained(self._plain(number, case, tenant))
            if case.statement.bounded:
                found.batch[case.name, moment] = await self._explained(self._batch(number, case))

    async def plan_counts(self) -> dict[str, tuple[int, int]]:
        rows = await self.connection.fetch("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements")
        return {name: (generic, custom) for name, generic, custom in rows if name[1:].isdecimal()}

    async def _explained(self, execute: str) -> Any:
        text = await self.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {execute}")
        return json.loads(text)[0]["Plan"]

    def _plain(self, number: int, case: Case, tenant: int) -> str:
        return f"EXECUTE p{number}({', '.join(_literal(value) for value in (tenant, *case.values))})"

    def _batch(self, number: int, case: Case) -> str:
        """Half of the asks are the big tenant's."""
        columns = [[BIG, SMALL] * (ASKS // 2), *([value] * ASKS for value in case.values)]
        arrays = [f"ARRAY[{', '.join(map(_literal, column))}]" for column in columns]
        return f"EXECUTE b{number}({', '.join(f'{a}::{kind}' for a, kind in zip(arrays, self.types[number], strict=True))})"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else f"'{value.isoformat() if isinstance(value, datetime) else value}'"


def nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def scans(plan: Any) -> list[Any]:
    return [node for node in nodes(plan) if "Relation Name" in node]


def rows_touched(plan: Any) -> float:
    """Of tables, the ones that a filter threw away among them."""
    kept = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return float(sum(sum(scan.get(name, 0) for name in kept) * scan["Actual Loops"] for scan in scans(plan)))


def pages_touched(plan: Any) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
