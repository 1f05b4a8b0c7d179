"""EXPLAIN guards of applying changes: look-ups go by their keys, into the partition of their tenant, whatever is known of it.

Each statement is explained in a transaction that applies, with its settings: in a full database of which nothing is known yet,
and in the same once it is analysed.
"""

import asyncio
import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import asyncpg
import pytest

from storage import views
from storage.embedded import Cluster
from storage.views import REPORTS
from tests.claims import connected
from tests.conftest import make_database
from tests.explaining import nodes, rows_touched, scans

CLAIMS, KEYS, GROUPS = 5000, 40, 500
"""Of each of three tenants; keys that are computed anew; groups that a tenant's claims are in."""
ROWS_MAX = {"claims": 10, "groups": 2 * CLAIMS // GROUPS}
"""That may be touched for a key: a claim with its activities and lines; a group with all its claims."""
ANALYSED, PLANNED = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)", "EXPLAIN (FORMAT JSON)"
MOMENTS = ("unknown", "analysed")
_ROWS = f"generate_series(1, 3) t, generate_series(1, {CLAIMS}) n"
FILL = f"""
INSERT INTO claims.claim (tenant_id, provider_id, claim_id, submitted_at, facility_id, payer_id, net, remittance_count)
SELECT t, 'P', 'c' || n, '2026-05-01', 'F', 'I' || n % {GROUPS}, 1, 1 FROM {_ROWS};

INSERT INTO claims.activity
SELECT t, 'P', 'c' || n, 'a', 1, now(), '3', '1', 1, 1, 'D', NULL, now(), 0, 0, 0, 1, 0, 'PENDING' FROM {_ROWS};

INSERT INTO claims.remittance SELECT t, 'P', 'c' || n, 1, 'f', n, 'S', now(), now(), '', '', NULL, 0 FROM {_ROWS};

INSERT INTO claims.remittance_activity
SELECT t, 'P', 'c' || n, 1, 'f', n, 1, 'a', now(), '3', '1', 1, 1, NULL, NULL, NULL, 'D', NULL, 0, 'X' FROM {_ROWS};
"""
FULL = "INSERT INTO {table} SELECT * FROM {now}; UPDATE {table} SET {first} = {first} - 1;"
"""So that every row is written that is looked at."""
AMOUNTS = {"balance-amount": "pending_amount", "remittance-advice": "denied_amount", "claims-by-payer": "claim_amount"}
KEYS_OF: dict[str, list[list[Any]]] = {
    "claims": [["P"] * KEYS, [f"c{n}" for n in range(1, KEYS + 1)]],
    "groups": [[date(2026, 5, 1)] * KEYS, [f"I{n}" for n in range(1, KEYS + 1)], ["F"] * KEYS],
}


@pytest.fixture(scope="module")
def plans(cluster: Cluster, template: str) -> dict[tuple[str, str], Any]:
    return asyncio.run(explained(cluster, template))


async def explained(cluster: Cluster, template: str) -> dict[tuple[str, str], Any]:
    """By (what, moment)."""
    found: dict[tuple[str, str], Any] = {}
    url = await make_database(cluster, "view_plans", template)
    async with connected(url, {}) as owner, connected(url) as ingest:
        await owner.execute(FILL)
        await explain_whole(ingest, found, "unknown")  # before it takes long, and autovacuum looks
        async with owner.transaction():
            await owner.execute(views._SQL["whole_settings"])
            for view in REPORTS.values():
                await owner.execute(FULL.format(table=view.table, now=view.now, first=AMOUNTS[view.name]))
        await explain_by_key(ingest, found, "unknown")
        await owner.execute("ANALYZE")
        await explain_by_key(ingest, found, "analysed")
        await explain_whole(ingest, found, "analysed")
    return found


async def explain_by_key(connection: asyncpg.Connection, found: dict[tuple[str, str], Any], moment: str) -> None:
    for name, sql, values in await statements(connection):
        found[name, moment] = await explain(connection, "keys_settings", ANALYSED, sql, values)


async def explain_whole(connection: asyncpg.Connection, found: dict[tuple[str, str], Any], moment: str) -> None:
    for view in REPORTS.values():
        found[view.now, moment] = await explain(connection, "whole_settings", PLANNED, f"SELECT * FROM {view.now}", [])


async def statements(connection: asyncpg.Connection) -> list[tuple[str, str, list[Any]]]:
    """All that `apply` looks up by key, for the second tenant."""
    found = [("groups_now", views._SQL["groups_now"], [2, *KEYS_OF["claims"]])]
    for view in REPORTS.values():
        values = KEYS_OF["groups" if view.of_groups else "claims"]
        sql = views._SQL["apply"].format(**await views._names(connection, view))
        found.append((view.name, sql, [2, *values]))
        remove = views._SQL["remove"].format(**await views._names(connection, view))
        found.append((f"remove {view.name}", remove, [2, *(column[0] for column in values)]))
    return found


async def explain(connection: asyncpg.Connection, how: str, explaining: str, sql: str, values: list[Any]) -> Any:
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    await connection.execute(views._SQL[how])
    told = await connection.fetchval(f"{explaining} {sql}", *values)
    await transaction.rollback()
    return json.loads(told)[0]["Plan"]


def partitions(plan: Any) -> Iterator[str]:
    """Those of which anything was read or written."""
    for node in nodes(plan):
        if "Relation Name" in node and node["Actual Loops"]:
            yield node["Relation Name"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ["groups_now", *REPORTS, *(f"remove {name}" for name in REPORTS)])
def test_by_key(plans: dict[tuple[str, str], Any], name: str, moment: str) -> None:
    """No table is read through, no partition of another tenant is touched, and no more rows than the keys have."""
    plan = plans[name, moment]
    kinds = {scan["Node Type"] for scan in scans(plan)}
    assert kinds <= {"Index Scan", "Index Only Scan", "ModifyTable"}, kinds
    assert not {"Hash Join", "Merge Join"} & {node["Node Type"] for node in nodes(plan)}
    assert len({table.rpartition("_")[2] for table in partitions(plan) if table[-1].isdecimal()}) == 1
    keys = 1 if name.startswith("remove") else KEYS
    most = ROWS_MAX["groups" if name == "claims-by-payer" else "claims"]
    assert keys <= rows_touched(plan) <= keys * most


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("view", REPORTS.values(), ids=REPORTS)
def test_as_a_whole(plans: dict[tuple[str, str], Any], view: views.View, moment: str) -> None:
    """Nothing is computed anew for each row of something else."""
    assert "Nested Loop" not in {node["Node Type"] for node in nodes(plans[view.now, moment])}
