import json
from collections import Counter
from datetime import date
from random import Random

import asyncpg
import pytest
from fhir.resources.R4B import get_fhir_model_class

from simulator.load import render
from storage.migrate import migrate
from storage.resources import Batch, upsert
from tests.benchmarks.bench import ratio
from tests.benchmarks.crowd import CONDITION_EVERY, DAYS, STATUSES, TODAY, Crowd, Size
from tests.benchmarks.crowd_fill import fill
from tests.benchmarks.search_report import Claim
from tests.benchmarks.workloads import WORKLOADS
from tests.support import NOW, connected
from tests.test_people import references

SMALL = Size(tenants=3, patients=60, encounters=400, practitioners=10)


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    return Crowd.of(SMALL)


def test_same_seed_same_crowd(crowd: Crowd) -> None:
    """The fingerprint is of the rows: the same for the same seed, another for another one."""
    assert crowd.fingerprint() == Crowd.of(SMALL).fingerprint() != Crowd.of(SMALL, seed=9).fingerprint()


def test_crowd_is_whole(crowd: Crowd) -> None:
    """The counts are those asked for, every resource is valid, and what is referred to is there."""
    counts = Counter(resource.type for resource in crowd.resources)
    assert (counts["Patient"], counts["Encounter"], counts["Practitioner"]) == (60, 400, 10)
    assert counts["Condition"] == 400 / CONDITION_EVERY
    there = {f"{resource.type}/{resource.id}" for resource in crowd.resources}
    assert len(there) == len(crowd.resources)
    for resource in crowd.resources:
        get_fhir_model_class(resource.type).model_validate_json(json.dumps(resource.document))
        assert set(references(resource.document)) <= there


def test_visits_are_skewed_and_spread() -> None:
    """The statuses have their shares, the visits lie in ten years and in their patients' lives, and some come very often."""
    crowd = Crowd.of(Size(patients=500, encounters=3000))
    found = Counter(encounter["status"] for encounter in crowd.encounters)
    assert {status: found[status] / 3000 for status in STATUSES} == pytest.approx(STATUSES, abs=0.02)
    years = Counter(encounter["period"]["start"][:4] for encounter in crowd.encounters)
    assert min(years[str(TODAY.year - back)] for back in range(1, DAYS // 365)) > 200
    for encounter, patient in zip(crowd.encounters, crowd.seen, strict=True):
        assert date.fromisoformat(encounter["period"]["start"][:10]) >= date.fromisoformat(patient["birthDate"])
    often = Counter(patient["id"] for patient in crowd.seen)
    assert sum(count for _, count in often.most_common(25)) > 3000 / 4
    assert all(often[regular] >= 20 for regular in crowd.regulars)


async def test_every_tenant_has_what_an_import_makes(database: str, crowd: Crowd) -> None:
    """Each tenant has the rows that one has who imports the same, and every index is there again."""
    advanced: Counter[str] = Counter()
    wholes = {}

    def advance(what: str, more: int, whole: int) -> None:
        advanced[what] += more
        wholes[what] = whole

    await migrate(database)
    async with connected(database) as owner:
        before = await _indexes(owner)
        await fill(database, crowd, "a version", advance)
        assert await _indexes(owner) == before
        assert advanced == wholes
        async with owner.transaction():
            await upsert(owner, 4, Batch(crowd.resources), NOW)
        for table in ("token", "string", "date", "reference", "quantity"):
            *filled, imported = [await _rows(owner, f"fhir.{table}", tenant) for tenant in (1, 2, 3, 4)]
            assert filled == [imported] * 3
        kept = "(SELECT tenant_id, type, id, rank, version, sha256, deleted FROM fhir.resource)"
        bodies = "fhir.resource"
        assert [await _rows(owner, kept, tenant) for tenant in (1, 2, 3)] == [await _rows(owner, kept, 4)] * 3
        assert [await _rows(owner, bodies, tenant) for tenant in (2, 3)] == [await _rows(owner, bodies, 1)] * 2
        assert await owner.fetchval("SELECT cardinality(keys) FROM public.crowd WHERE version = 'a version'") == 3


async def _indexes(owner: asyncpg.Connection) -> set[tuple[str, ...]]:
    return {tuple(row) for row in await owner.fetch("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'fhir'")}


async def _rows(owner: asyncpg.Connection, source: str, tenant: int) -> Counter[str]:
    rows = await owner.fetch(f"SELECT (to_jsonb(x) - 'tenant_id')::text AS row FROM {source} x WHERE tenant_id = $1", tenant)
    return Counter(row["row"] for row in rows)


def test_workloads_ask_what_can_be_sent(crowd: Crowd) -> None:
    """Every workload makes requests of its own name, the same for the same seed."""
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
    for workload in WORKLOADS:
        paths = [workload.path(Random(seed), crowd) for seed in (1, 1, 2)]
        assert paths[0] == paths[1]
        assert all(render("GET", path, {}).startswith(b"GET /fhir/") for path in paths)


@pytest.mark.parametrize(
    ("found", "at_least", "verdict"),
    [
        ((2.0, 1.6, 2.2), True, "met"),
        ((1.6, 1.2, 2.2), True, "open"),
        ((1.2, 1.0, 1.4), True, "MISSED"),
        ((1.2, 1.0, 1.4), False, "met"),
        ((1.6, 1.2, 2.2), False, "open"),
        ((2.0, 1.6, 2.2), False, "MISSED"),
    ],
)
def test_verdicts(found: tuple[float, float, float], at_least: bool, verdict: str) -> None:
    """A target is met or missed when all of the interval says so."""
    assert Claim("", found, 1.5, at_least).verdict() == verdict


def test_ratio_is_of_pairs() -> None:
    """A ratio is the median of the rounds' own, so that a slow round does not count against one side."""
    assert ratio([10, 1, 100], [5, 0.5, 50]) == (2, 2, 2)
