"""EXPLAIN guards of loading: its look-ups go by their keys, whatever the planner knows of the tables.

Each statement is explained in a transaction that loads, with the settings of one: in an empty database, in a full one of which
nothing is known yet, and in the same once it is analysed.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from storage import claims, resources
from storage.embedded import Cluster
from tests.claims import connected
from tests.conftest import make_database
from tests.explaining import nodes, pages_touched, rows_touched, scans

TENANT, LOADED, KEYS = 1, 20_000, 40
"""A tenant's claims, and how many a file speaks of: half of them are there already."""
ROWS_MAX, PAGES_MAX = 5, 40
"""That a statement may touch for each key, of tables; claims have two events each, and inserts go into every index."""
MOMENTS = ("empty", "unknown", "analysed")
STAGES = {"sluice_stage", "claim_stage", "activity_stage"}
"""What the file itself brings is read through."""
READ_THROUGH = {"Seq Scan", "Bitmap Heap Scan", "Hash Join", "Merge Join", "Materialize"}
NOW = datetime(2026, 6, 1, tzinfo=UTC)

_SYSTEM = "https://fhir.example.ae/sid/emirates-id"
_ROWS = f"generate_series(1, {LOADED}) n"
FILL = f"""
INSERT INTO claims.claim (tenant_id, provider_id, claim_id, submitted_at, net)
SELECT {TENANT}, 'P', 'c' || n, now(), 1 FROM {_ROWS};

INSERT INTO claims.activity
SELECT {TENANT}, 'P', 'c' || n, 'a', 1, now(), '3', '1', 1, 1, 'D', NULL, now(), 0, 0, 0, 1, 0, 'PENDING' FROM {_ROWS};

INSERT INTO claims.event
SELECT {TENANT}, 'P', 'c' || n, 1, 'f' || n / 100, e * 1000 + n % 100, 'submission', now(), 'PENDING', 0, 0, 0, 1,
    convert_to(repeat('x', 300), 'UTF8')
FROM {_ROWS}, generate_series(0, 1) e;

INSERT INTO claims.identity SELECT {TENANT}, 'Patient', '{_SYSTEM}', 'c' || n, 'p' || n, true FROM {_ROWS};

INSERT INTO fhir.resource
SELECT {TENANT}, kind, 'p' || n, 0, 1, now(), false, '\\x01', convert_to(repeat('x', 300), 'UTF8')
FROM {_ROWS}, unnest(ARRAY['Patient', 'Claim']) kind;

INSERT INTO fhir.token
SELECT {TENANT}, kind, 'p' || n, 0, 'identifier', 'c' || n, '{_SYSTEM}' FROM {_ROWS}, unnest(ARRAY['Patient', 'Claim']) kind;

INSERT INTO fhir.string SELECT {TENANT}, 'Patient', 'p' || n, 0, 'name', 'smith', 'Smith' FROM {_ROWS};

INSERT INTO fhir.date SELECT {TENANT}, 'Patient', 'p' || n, 0, 'birthdate', now(), now() FROM {_ROWS};

INSERT INTO fhir.reference SELECT {TENANT}, 'Patient', 'p' || n, 0, 'link', 'Patient', 'p1' FROM {_ROWS};
"""


def numbers() -> list[int]:
    """From the midst of those that are there, and beyond them."""
    return [LOADED // 2 + n * 7 for n in range(KEYS // 2)] + [LOADED + n for n in range(1, KEYS // 2 + 1)]


_IDS = [f"c{n}" for n in numbers()]
_PLACES = [f"p{n}" for n in numbers()]
_KEYS = (["P"] * KEYS, _IDS)
_NAMES = (["Patient"] * KEYS, [_SYSTEM] * KEYS, _IDS)

STATEMENTS: dict[str, tuple[dict[str, str], tuple[Any, ...]]] = {
    "claims_add": (claims._SQL, _KEYS),
    "claims_lock": (claims._SQL, _KEYS),
    "claims_history": (claims._SQL, _KEYS),
    "claims_write": (claims._SQL, ()),
    "activities_write": (claims._SQL, ()),
    "identities_find": (claims._SQL, _NAMES),
    "identities_add": (claims._SQL, (*_NAMES, _PLACES, [True] * KEYS)),
    "identities_lock": (claims._SQL, ("Patient", _PLACES)),
    "identities_of": (claims._SQL, ("Patient", _PLACES)),
    "identities_held": (claims._SQL, ("Patient", _SYSTEM, _PLACES)),
    "identifiers_find": (resources._SQL, (["Patient"] * KEYS, _IDS, [_SYSTEM] * KEYS)),
    "resources_insert": (resources._SQL, (NOW,)),
    "resources_lock": (resources._SQL, ()),
    **{f"{table}_remove": (resources._SQL, ("Patient", _PLACES)) for table in ("token", "string", "date", "reference")},
}
"""Whose file each is in, and its values after the tenant."""


@dataclass
class Plans:
    """By (statement, moment)."""

    found: dict[tuple[str, str], Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def plans(cluster: Cluster, template: str) -> Plans:
    return asyncio.run(explained(cluster, template))


async def explained(cluster: Cluster, template: str) -> Plans:
    url = await make_database(cluster, "loader_plans", template)
    plans = Plans()
    async with connected(url, {}) as owner, connected(url) as loading:
        await owner.execute("INSERT INTO ops.tenant (name) VALUES ('clinic')")
        await explain_all(loading, plans, "empty")
        await owner.execute(FILL)
        await explain_all(loading, plans, "unknown")
        await owner.execute("ANALYZE")
        await explain_all(loading, plans, "analysed")
    return plans


async def explain_all(connection: asyncpg.Connection, plans: Plans, moment: str) -> None:
    """Each in a transaction of its own, as a load begins it, which then comes to nothing."""
    for name, (sql, values) in STATEMENTS.items():
        transaction = connection.transaction()
        await transaction.start()
        await claims.begin(connection, TENANT)
        await stage(connection)
        told = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql[name]}", TENANT, *values)
        plans.found[name, moment] = json.loads(told)[0]["Plan"]
        await transaction.rollback()


async def stage(connection: asyncpg.Connection) -> None:
    """What the file brings, as `upsert` and `write_claims` stage it."""
    await connection.execute(resources._SQL["stage_make"])
    staged = [(n, "Patient", place, 0, False, b"2", b"}") for n, place in enumerate(_PLACES)]
    await connection.copy_records_to_table("sluice_stage", records=staged)
    rows = [(TENANT, "P", claim_id, NOW, 1, 0, 0, 0, 1, 0, "PENDING", 0, 0) for claim_id in _IDS]
    columns = [
        "tenant_id",
        "provider_id",
        "claim_id",
        "submitted_at",
        "net",
        "held",
        "taken_back",
        "denied",
        "pending",
        "overpaid",
        "status",
    ]
    counted = ["resubmission_count", "remittance_count"]
    await connection.copy_records_to_table("claim_stage", records=rows, columns=[*columns, *counted])
    activities = [
        (TENANT, "P", claim_id, "a", 1, NOW, "3", "1", 1, 2, "D", None, NOW, 0, 0, 0, 2, 0, "PENDING", None, None)
        for claim_id in _IDS
    ]
    await connection.copy_records_to_table("activity_stage", records=activities)


def tables(plan: Any) -> Iterator[Any]:
    """Nodes of the plan that read what is stored, or join it."""
    return (node for node in nodes(plan) if node.get("Relation Name") not in STAGES)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", STATEMENTS)
def test_by_key(plans: Plans, name: str, moment: str) -> None:
    """Nothing that is stored is read through, hashed or merged, at any moment in a database's life."""
    assert not {node["Node Type"] for node in tables(plans.found[name, moment])} & READ_THROUGH


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", STATEMENTS)
def test_touches_its_keys(plans: Plans, name: str, moment: str) -> None:
    """What a statement touches grows with the keys that it was asked for, and not with what is stored."""
    plan = plans.found[name, moment]
    assert rows_touched(plan) <= ROWS_MAX * KEYS
    assert pages_touched(plan) <= PAGES_MAX * KEYS


@pytest.mark.parametrize("name", STATEMENTS)
def test_finds_what_is_there(plans: Plans, name: str) -> None:
    """The keys of these guards are found: half are there, and in the full database each of those is looked at."""
    assert rows_touched(plans.found[name, "analysed"]) >= KEYS // 2
    assert scans(plans.found[name, "analysed"])
