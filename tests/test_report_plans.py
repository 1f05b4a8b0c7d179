"""EXPLAIN of every page of every report, on connections like those of the reports' pool."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest

from storage.connecting.pools import REPORT_SETTINGS
from storage.embedded import Cluster
from storage.report_tables import REPORTS, Report
from storage.reports import Page, place_of, select_page, settings_of
from tests.conftest import PROVE, make_database
from tests.report_rows import add_claims, fill_views
from tests.support import connect, connected

BIG, SMALL = 1, 2
BEFORE = {"timestamptz": "2026-02-14 00:00:00+04", "numeric": "50", "date": "2026-02-01", "text": "M"}
VALUES = {"payer": "INS001", "facility": "DHA-F-0000001", "status": ""}


def pages(report: Report) -> Iterator[Page]:
    """Every sort, up and down, first and later (not all at once in the short form), with no filter, with each, and with all."""
    status = {"status": report.statuses[0]} if report.statuses else {}
    given = {**VALUES, **status}
    filters = [{}, *({name: given[name]} for name in report.filters), {name: given[name] for name in report.filters}]
    ways = itertools.product(("", "-"), (False, True)) if PROVE else [("", True), ("-", False)]
    for name, wanted, (sign, later) in itertools.product(report.sorts, filters, list(ways)):
        sort = sign + name
        after: Sequence[str] = [BEFORE[kind] for kind in place_of(report, sort).values()] if later else ()
        yield Page(sort, filters=wanted, after=after, rows_max=21)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that were run."""
    if plan.get("Actual Loops", 0) > 0:
        yield plan
        for child in plan.get("Plans", ()):
            yield from nodes(child)


async def explain(
    connection: asyncpg.Connection, sql: str, values: Sequence[Any], tenant_id: int, settings: str, *, generic: bool
) -> Any:
    mode = "force_generic_plan" if generic else "force_custom_plan"
    await connection.execute(
        f"BEGIN READ ONLY; SET LOCAL sluice.tenant_id = '{tenant_id}'; SET LOCAL plan_cache_mode = {mode}; {settings};"
        f"PREPARE page AS {sql}"
    )
    literals = ", ".join(f"'{value}'" for value in values)
    found = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE page({literals})")
    await connection.execute("DEALLOCATE page; COMMIT")
    return json.loads(found)[0]["Plan"]


@pytest.mark.parametrize("incremental", [False, True], ids=["view", "table"])
async def test_pages(cluster: Cluster, template: str, *, incremental: bool) -> None:
    """Every page goes by an index, in one tenant's rows and one partition, and is in its order where an index has the order."""
    url = await make_database(cluster, f"report_plans_{incremental}", template)
    async with connected(url) as owner:
        await add_claims(owner, 3000)
        await fill_views(owner, incremental=incremental)
        await owner.execute("ANALYZE")
    connection = await connect(url, **REPORT_SETTINGS)
    moments = list(itertools.product((True, False), (BIG, SMALL))) if PROVE else [(True, BIG), (False, SMALL)]
    for report, (generic, tenant_id) in itertools.product(REPORTS, moments):
        for page in pages(report):
            selected = select_page(report, tenant_id, page)
            settings = settings_of(report, page)
            plan = await explain(connection, selected.json, selected.values, tenant_id, settings, generic=generic)
            case = (report.name, generic, tenant_id, page)
            run = list(nodes(plan))
            if not page.filters and (report.name != "claims-by-payer" or page.sort.endswith("month")):
                assert not [node for node in run if "Sort" in node["Node Type"]], case
            if page.filters and report.sorts[page.sort.removeprefix("-")] == report.day:
                assert not [node for node in run if "Sort" in node["Node Type"]], case
            scans = [node for node in run if "Relation Name" in node and node["Relation Name"] != "report_view"]
            assert len(scans) == 1, (case, plan)
            (scan,) = scans
            assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), (case, scan)
            assert "tenant_id = " in scan["Index Cond"], (case, scan)
            assert scan["Relation Name"].startswith("mv_") != incremental
            if page.sort == report.default_sort and len(page.filters or {}) < 2 and report.name != "claims-by-payer":
                assert scan["Actual Rows"] <= 21, case
                assert scan.get("Rows Removed by Filter", 0) == 0, (case, scan)
    await connection.close()
