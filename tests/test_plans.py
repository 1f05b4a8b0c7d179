"""EXPLAIN guards: how much the database reads for each statement, on data as skewed as real data is.

One tenant has 20 000 resources of each type, nearly all with the same status, gender, name and doctor; eight have twenty. Every
statement is explained as the API's connections run it: from a plan made while the tables were empty, from one made before there
were statistics, from the first once there are, and on a new connection at its first and its seventh execution.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import asyncpg
import pytest

from r4.dates import EARLIEST
from r4.search import parse_search
from storage.connections import API_SETTINGS
from storage.embedded import Cluster
from storage.hot import hot_statements
from storage.lists import list_statement, list_values, total_statement, total_values
from storage.statements import Statement, read_statement, review_statement
from tests.conftest import make_database
from tests.support import connect, connected

PAGE = 20
ROWS_MAX = 6 * (PAGE + 1)
PAGES_MAX = 12 * (PAGE + 1)
"""What a bounded statement may touch for one ask, in rows and in pages of 8 KB, in a tenant of any size."""

BIG, SMALL = 1, 3
ASKS = 8
MOMENTS = ("while_empty", "no_statistics", "after_analyze", "first", "seventh")
LISTS = {
    "Patient": [
        "",
        "_id=Patient19990",
        "_id=Patient19990,Patient5,Patient6",
        "_lastUpdated=2026-01-01T00:01:40Z",
        "identifier=id19990",
        "identifier=http://a|id19990",
        "identifier=|id19990",
        "identifier=http://a|",
        "identifier=id19990,id6",
        "name=smi",
        "family:exact=Jones",
        "family=jon,smi",
        *(f"birthdate={prefix}1960-05-05" for prefix in ("", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")),
        "gender=female",
        "gender=male",
        "gender=x|female",
        "active=true",
        "identifier=id19990&gender=female",
        "identifier=id19990&name=smi",
        "identifier=id19990&family:exact=Smith",
        "identifier=id19990&birthdate=ge1950",
        "identifier=id19990&_lastUpdated=ge2026",
        "_id=Patient19990&_lastUpdated=ge2026",
        "identifier=id19990&_id=Patient19990",
        "gender=male&active=true",
        "gender=male&active=true&name=jones",
        "gender=female&active=true",
        "gender:not=female",
        "birthdate=1960-05-05&gender=female&name=smith",
        "birthdate=ge1960-05-05&birthdate=lt1960-05-15",
        "family=smith&birthdate=1960-05",
        "family:contains=one",
        "family:contains=mit",
        "family:contains=ne",
        "family:contains=one&gender=male",
        "_has:Encounter:patient:status=planned",
        "_has:Encounter:patient:status=finished",
        "_has:Encounter:patient:practitioner=Practitioner1",
        "_has:Encounter:patient:identifier=id19990",
        "_revinclude=Encounter:patient",
        "_id=Patient4000&_revinclude=Encounter:patient&_include:iterate=Encounter:practitioner",
        "_sort=birthdate",
        "_sort=-birthdate",
        "_sort=family",
        "_sort=-family",
        "_sort=_lastUpdated",
        "_sort=-_lastUpdated",
        "_sort=-_id",
        "_sort=gender",
        "_sort=-gender",
        "_sort=family,given",
        "_sort=-birthdate,family",
        "_sort=family&gender=male&active=true",
        "_sort=family&family:contains=one",
        "_sort=birthdate&gender=female",
        "_sort=-birthdate&name=jones",
    ],
    "Encounter": [
        "",
        "patient=Patient4000",
        "subject=Patient/Patient4000",
        "patient=Patient4000,Patient6",
        "patient=Group/Patient4000",
        "practitioner=Practitioner1",
        "practitioner=Practitioner1&status=planned",
        "practitioner=Practitioner1&date=1970-01-01",
        "patient=Patient4000&status=finished",
        "patient=Patient4000&date=ge1970",
        "patient=Patient4000&practitioner=Practitioner1",
        "date=1970-01-05",
        "date=ge1970",
        "status=finished",
        "status=planned",
        "class=AMB",
        "class=act|AMB",
        "class=foo|AMB",
        "status=planned&class=AMB",
        "status=finished&class=AMB",
        "status=finished&class=AMB&practitioner=Practitioner1",
        "date=ge1970-02-01&date=lt1970-02-02",
        "date=1970-02-01&status=finished",
        "date=ge1970-02-01&date=lt1970-02-02&practitioner=Practitioner1",
        "date=ge1970-02-01&date=lt1970-02-02&status=planned&class=AMB",
        "patient.name=jones",
        "patient.name=smith",
        "patient.identifier=id4000",
        "patient.gender=male",
        "patient.gender=female&status=finished",
        "practitioner.identifier=id1",
        "_include=Encounter:patient&_include=Encounter:practitioner",
        "_include=Encounter:*&_revinclude=Claim:encounter",
        "patient=Patient4000&_include=Encounter:patient&_revinclude=Claim:encounter&_include:iterate=Claim:patient",
        "status=finished&_include=Encounter:patient&_sort=-_lastUpdated",
        "_sort=date",
        "_sort=date&status=finished",
        "_sort=_lastUpdated&patient=Patient4000",
        "_sort=-status",
        "_sort=date,status",
        "_sort=date&date=ge1970-02-01&date=lt1970-02-02&practitioner=Practitioner1",
        "_id=Encounter19990&status=finished&date=ge1970&patient=Patient4997&identifier=id19990",
    ],
    "Practitioner": ["", "identifier=id190", "name=smi", "active=true"],
    "Claim": ["", "patient=Patient4", "encounter=Encounter19990", "status=active"],
    "Organization": ["", "name=smi"],
}
BOUNDED = {
    *(f"{kind}?" for kind in LISTS),
    "Patient?_id=Patient19990",
    "Patient?identifier=id19990",
    "Patient?identifier=http://a|id19990",
    "Patient?gender=female",
    "Patient?gender=male",
    "Patient?active=true",
    "Patient?identifier=id19990&gender=female",
    "Encounter?patient=Patient4000",
    "Encounter?practitioner=Practitioner1",
    "Encounter?patient=Patient4000&status=finished",
    "Encounter?patient=Patient4000&date=ge1970",
    "Encounter?status=finished",
    "Encounter?status=planned",
    "Encounter?class=AMB",
    "Claim?encounter=Encounter19990",
}
UNBOUNDED = {
    "Patient?gender=x|female",
    "Patient?name=smi",
    "Patient?gender=male&active=true",
    "Encounter?class=foo|AMB",
    "Encounter?practitioner=Practitioner1&status=planned",
}

EMPTY_TABLES = ("Organization",)
LOAD = r"""
INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, 9) n;
CREATE TABLE source AS
SELECT 1 AS t, n, k, CASE k WHEN 'Encounter' THEN -n::bigint * 600000000 ELSE 0 END AS rank
FROM generate_series(1, 20000) n, unnest(ARRAY['Patient', 'Encounter']) k
UNION ALL SELECT t, n, k, CASE k WHEN 'Encounter' THEN -n::bigint * 600000000 ELSE 0 END
FROM generate_series(1, 9) t, generate_series(1, 20) n, unnest(ARRAY['Patient', 'Encounter', 'Practitioner', 'Claim']) k
WHERE t > 1 OR k IN ('Practitioner', 'Claim');

INSERT INTO fhir.resource SELECT t, k, k || n, rank, 1, '2026-01-01'::timestamptz + n * interval '1 s', false, '\x00',
    repeat('x', 800)::bytea
FROM source;

INSERT INTO fhir.token SELECT t, k, k || n, rank, p,
    CASE p WHEN 'gender' THEN CASE WHEN n % 1000 = 0 THEN 'male' ELSE 'female' END
        WHEN 'active' THEN 'true' ELSE 'id' || n END,
    CASE p WHEN 'identifier' THEN 'http://a' ELSE '' END
FROM source, unnest(ARRAY['identifier', 'gender', 'active']) p WHERE k IN ('Patient', 'Practitioner');

INSERT INTO fhir.token SELECT t, k, k || n, rank, p,
    CASE p WHEN 'status' THEN CASE WHEN n % 1000 = 0 THEN 'planned' ELSE 'finished' END
        WHEN 'class' THEN 'AMB' ELSE 'id' || n END,
    CASE p WHEN 'identifier' THEN 'http://a' WHEN 'class' THEN 'act' ELSE '' END
FROM source, unnest(ARRAY['identifier', 'status', 'class']) p WHERE k = 'Encounter';

INSERT INTO fhir.string SELECT t, k, k || n, rank, p, lower(name), name
FROM (SELECT *, CASE WHEN n % 1000 = 0 THEN 'Jones' ELSE 'Smith' END AS name FROM source) s,
    unnest(ARRAY['name', 'family']) p
WHERE k IN ('Patient', 'Practitioner');

INSERT INTO fhir.date SELECT t, k, k || n, rank, CASE k WHEN 'Patient' THEN 'birthdate' ELSE 'date' END,
    lower, lower + CASE WHEN k = 'Patient' THEN interval '1 day' WHEN n % 500 = 0 THEN interval '60 days' ELSE interval '30 min' END
FROM (SELECT *, CASE k WHEN 'Patient' THEN '1950-01-01'::timestamptz + n * interval '1 day'
    ELSE '1970-01-01'::timestamptz + n * interval '10 min' END AS lower FROM source) s
WHERE k IN ('Patient', 'Encounter');

INSERT INTO fhir.reference SELECT t, k, k || n, rank, path, to_type,
    to_type || CASE path WHEN 'subject' THEN n / 4 ELSE n % 2 END
FROM source, (VALUES ('subject', 'Patient'), ('participant.individual', 'Practitioner')) p (path, to_type)
WHERE k = 'Encounter';

INSERT INTO fhir.reference SELECT t, k, k || n, rank, 'item.encounter', 'Encounter', 'Encounter' || 19980 + n
FROM source WHERE k = 'Claim';
"""
# No temporary table: making one would have every connection plan anew.


@dataclass(frozen=True)
class Case:
    """A statement with the values of one ask. `type`: the one whose partitions it may touch; None is the review's."""

    name: str
    type: str | None
    statement: Statement
    values: tuple[Any, ...]
    page: int = PAGE


def _cases() -> list[Case]:
    cases = [Case("review", None, review_statement(), ("Encounter19990", EARLIEST, "", -1, "", "", 1001))]
    for kind, queries in LISTS.items():
        cases.append(Case(f"{kind}/id", kind, read_statement(kind), (f"{kind}7",)))
        for query in queries:
            search = parse_search(kind, [*parse_qsl(query), ("_count", str(PAGE))])
            cases.append(Case(f"{kind}?{query}", kind, list_statement(search), list_values(search)))
    return cases


CASES = {case.name: case for case in _cases()}
TOTALS = {
    f"total {kind}?{query}": Case(f"total {kind}?{query}", kind, total_statement(search), total_values(search))
    for kind, query in (
        ("Patient", "identifier=id19990"),
        ("Patient", "name=jones"),
        ("Encounter", "patient=Patient4000"),
        ("Encounter", "date=ge1970-02-01&date=lt1970-02-02"),
        ("Encounter", "status=planned"),
        ("Encounter", "patient.name=jones"),
    )
    for search in [parse_search(kind, parse_qsl(query))]
}


@dataclass
class Plans:
    """What EXPLAIN said, by (case, moment, tenant) of a single ask and by (case, moment) of a batch.

    `generic`: (generic, custom) plans, by the name of the prepared statement.
    """

    single: dict[tuple[str, str, int], Any] = field(default_factory=dict)
    batch: dict[tuple[str, str], Any] = field(default_factory=dict)
    generic: dict[str, tuple[int, int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def plans(cluster: Cluster, template: str) -> Plans:
    async def explained() -> Plans:
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

    return asyncio.run(explained())


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
        """Each case once, plain and batched: its plan is made now, if there was none."""
        for number, case in enumerate(self.cases):
            await self.connection.execute(self._plain(number, case, SMALL))
            await self.connection.execute(self._batch(number, case))

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


@pytest.mark.parametrize("name", [*CASES, *TOTALS])
def test_no_table_is_read_through(plans: Plans, name: str) -> None:
    """Every search form goes by an index, at any moment in a connection's life and in a tenant of any size."""
    for moment in MOMENTS:
        for tenant in (BIG, SMALL):
            kinds = {node["Node Type"] for node in nodes(plans.single[name, moment, tenant])}
            assert not kinds & {"Seq Scan", "Bitmap Heap Scan", "Hash", "Hash Join", "Merge Join", "Materialize"}, (
                moment,
                tenant,
            )


@pytest.mark.parametrize("name", [name for name, case in [*CASES.items(), *TOTALS.items()] if case.type])
def test_one_partition_is_touched(plans: Plans, name: str) -> None:
    """A statement for one type reads that type's partitions alone."""
    kind = str({**CASES, **TOTALS}[name].type)
    partition = "other" if kind in EMPTY_TABLES else kind.lower()
    for moment in MOMENTS:
        relations = {scan["Relation Name"] for scan in scans(plans.single[name, moment, BIG])}
        assert relations
        assert all(relation.endswith(f"_{partition}") for relation in relations), (moment, relations)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.statement.bounded])
@pytest.mark.parametrize("moment", MOMENTS)
def test_bounded_is_bounded(plans: Plans, name: str, moment: str) -> None:
    """What is called bounded touches a few rows for each that it brings, in a tenant of any size, alone and in a batch."""
    if (name, moment) == ("review", "while_empty"):
        pytest.xfail("an index in another order looks as good for an encounter's references, until the first ANALYZE")
    for tenant in (BIG, SMALL):
        plan = plans.single[name, moment, tenant]
        assert rows_touched(plan) <= ROWS_MAX, tenant
        assert pages_touched(plan) <= PAGES_MAX, tenant
    batch = plans.batch[name, moment]
    assert rows_touched(batch) <= ASKS * ROWS_MAX
    assert pages_touched(batch) <= ASKS * PAGES_MAX
    assert not {node["Node Type"] for node in nodes(batch)} & {"Seq Scan", "Hash Join", "Merge Join", "Hash"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.statement.bounded])
@pytest.mark.parametrize("moment", MOMENTS)
def test_bounded_sorts_no_more_than_a_page(plans: Plans, name: str, moment: str) -> None:
    """A bounded walk is in the order of its answer: nothing is sorted but what is shown."""
    for plan in (plans.single[name, moment, BIG], plans.batch[name, moment]):
        sorts = [node for node in nodes(plan) if node["Node Type"] in ("Sort", "Incremental Sort")]
        assert all(node["Plans"][0]["Actual Rows"] <= PAGE + 1 for node in sorts), sorts


def test_what_may_be_batched() -> None:
    """The hot shapes are bounded; those that may walk far before they find a page's worth are not."""
    assert {name for name in BOUNDED if not CASES[name].statement.bounded} == set()
    assert {name for name in UNBOUNDED if CASES[name].statement.bounded} == set()
    assert not any(case.statement.bounded for case in TOTALS.values())


@pytest.mark.parametrize("name", sorted(UNBOUNDED))
def test_unbounded_is_rightly_so(plans: Plans, name: str) -> None:
    """The shapes that are kept out of batches do walk far in the big tenant: the guard would see it."""
    assert rows_touched(plans.single[name, "seventh", BIG]) > ROWS_MAX


def test_plans_are_generic(plans: Plans) -> None:
    """No execution plans anew: all executions, the first as the seventh, are of one generic plan."""
    assert plans.generic
    assert {name for name, (generic, custom) in plans.generic.items() if custom or generic < 5} == set()


def test_hot_statements_are_guarded() -> None:
    """What every connection prepares as it opens is among what is explained here."""
    guarded = {text for case in CASES.values() for text in (case.statement.plain, case.statement.batch)}
    assert set(hot_statements()) <= guarded


def test_a_day_is_a_walk_over_that_day(plans: Plans) -> None:
    """A search by one day reads that day's part of the index, once there are statistics."""
    for moment in ("after_analyze", "first", "seventh"):
        assert pages_touched(plans.single["Patient?birthdate=1960-05-05", moment, BIG]) < 20
