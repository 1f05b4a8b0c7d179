"""The report routes over a real server: rows, pages, refusals, and that nobody sees another tenant's."""

import asyncio
import itertools
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import msgspec
import pytest

from handlers.reports import NAMES
from handlers.reports_answers import Freshness
from handlers.reports_query import DUBAI
from storage.embedded import Cluster
from storage.report_tables import REPORTS as TABLES
from storage.report_tables import Report
from storage.reports import State
from tests.money_views import balance_amount_summary, claim_summary_payerwise, remittance_advice_summary
from tests.reporting import (
    FILES,
    LICENCES,
    REPORTS,
    claim_path,
    fill_many,
    histories_of,
    is_submission,
    path_of,
    refused,
    reporting,
    rows_of,
    walk,
)
from tests.support import Home, Served, build_home, connected, until

WITH_IDS = {"balance-amount", "remittance-advice"}


@pytest.fixture(scope="module")
def many(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "report_many", fill_many)


def written(value: Any) -> str:
    """A value as the answer has it."""
    if isinstance(value, datetime):
        value = value.astimezone(DUBAI)
    return msgspec.json.Encoder(decimal_format="number").encode(value).decode()


async def raw_rows(server: Served, report: str, tenant: str = "one") -> list[dict[str, str]]:
    """All rows of a report, each value as it was written."""
    reply = await server.get(f"/reports/{report}?_count=1000", tenant)
    found = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
    rows = msgspec.json.decode(found["rows"], type=list[dict[str, msgspec.Raw]])
    return [{name: bytes(value).decode() for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("tenant", LICENCES)
async def test_rows(ledger: Home, tenant: str) -> None:
    """Rows are what the model computes from the files, to the last fils and digit."""
    histories = histories_of(file for file in FILES if tenant == "one" or is_submission(file))
    today = datetime.now(DUBAI).date()
    made = balance_amount_summary(histories, today), remittance_advice_summary(histories), claim_summary_payerwise(histories)
    async with reporting(ledger) as (server, _):
        for report, table, expected in zip(REPORTS, TABLES, made, strict=True):
            rows = await raw_rows(server, report, tenant)
            for row in rows:
                assert tuple(row) == tuple(table.columns)
            as_written = [{name: written(value) for name, value in row.items()} for row in expected]
            assert sorted(rows, key=sorted_by) == sorted(as_written, key=sorted_by)
            assert len(rows) == len(expected) >= (tenant == "one")


async def test_way_to_the_claim(ledger: Home) -> None:
    """The two claim reports say beside their rows how a row's claim is found."""
    async with reporting(ledger) as (server, _):
        for report in REPORTS:
            page = (await server.get(f"/reports/{report}?_count=1")).json
            assert ("claim" in page) == (report in WITH_IDS)
            if report in WITH_IDS:
                (row,) = page["rows"]
                url = page["claim"].format(**{name: quote(str(value), safe="") for name, value in row.items()})
                assert url == server.url + claim_path(row)
                assert (await server.get(path_of(url))).json["claim"]["claim_id"] == row["claim_id"]


def sorted_by(row: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(row.items())


def order_of(report: Report, sort: str) -> Callable[[dict[str, Any]], Any]:
    """What a sort promises of a row."""
    name = sort.removeprefix("-")

    def key(row: dict[str, Any]) -> Any:
        first = [row[name] or row["submitted_at"]] if name == "encounter_start" else [row[name]]
        return (*(first if report.sorts[name] else []), *(row[column] for column in report.key))

    return key


@pytest.mark.parametrize("kept", ["view", "table"])
async def test_walks(many: Home, kept: str) -> None:
    """Of every sort, up and down, the pages together are all rows in that order, none twice, also where values are equal."""
    async with connected(many.database) as owner:
        await owner.execute("UPDATE ops.report_view SET incremental = $1", kept == "table")
    async with reporting(many) as (server, _):
        for report in TABLES:
            whole = (await server.get(f"/reports/{report.name}?_count=1000")).json
            assert whole["next"] is None
            for name, sign in itertools.product(report.sorts, ("", "-")):
                pages = await walk(server, f"/reports/{report.name}?sort={quote(sign + name)}&_count=37")
                rows = [row for page in pages for row in page]
                assert [len(page) for page in pages[:-1]] == [37] * (len(pages) - 1)
                assert rows == sorted(whole["rows"], key=order_of(report, name), reverse=bool(sign))


def day_of(row: dict[str, Any]) -> date:
    text = row.get("date_settlement") or row.get("encounter_start") or row.get("submitted_at") or row["month"]
    return date.fromisoformat(text[:10])


async def test_filters(many: Home) -> None:
    """Each filter leaves the rows that it names; days are Dubai's, both included, and of a month all count."""
    async with reporting(many) as (server, _):
        for report in TABLES:
            rows = await rows_of(server, f"/reports/{report.name}?_count=1000")
            first, last = (date(2026, 2, 3), date(2026, 2, 27))
            among = (first.replace(day=1) if report.name == "claims-by-payer" else first, last)
            wanted = [row for row in rows if among[0] <= day_of(row) <= among[1]]
            given = {name: wanted[0][column] for name, column in report.filters.items()}
            days = f"from={first}&to={last}"
            assert await rows_of(server, f"/reports/{report.name}?{days}&_count=13") == wanted
            assert 0 < len(wanted) < len(rows)
            for name, column in report.filters.items():
                found = await rows_of(server, f"/reports/{report.name}?{name}={quote(given[name])}&_count=29")
                assert found == [row for row in rows if row[column] == given[name]]
            query = "&".join(f"{name}={quote(given[name])}" for name in report.filters)
            left = [row for row in wanted if all(row[column] == given[name] for name, column in report.filters.items())]
            assert await rows_of(server, f"/reports/{report.name}?{query}&{days}&_count=3") == left != []
            assert await rows_of(server, f"/reports/{report.name}?payer=INS999") == []


async def test_tenants(ledger: Home) -> None:
    """Two tenants with the same ids: each route shows each its own, and neither a cursor nor a link leads to the other's."""
    async with reporting(ledger) as (server, _):
        for report in REPORTS:
            one, two = [await rows_of(server, f"/reports/{report}?_count=1000", tenant) for tenant in LICENCES]
            assert one != two
            cursor = (await server.get(f"/reports/{report}?_count=1")).json["next"]
            assert "cursor" in refused(await server.get(path_of(cursor), "two"), 400)
        for analysis in ("control-totals", "denials", "ageing"):
            assert (await server.get(f"/reports/{analysis}")).json["rows"] != (
                await server.get(f"/reports/{analysis}", "two")
            ).json["rows"]
        assert (await server.get("/reports/denials", "two")).json["rows"] == []
        remitted_row = (await rows_of(server, "/reports/remittance-advice"))[0]
        remitted = claim_path(remitted_row)
        assert (await server.get(remitted)).json["remittances"]
        own = await server.get(remitted, "two")
        assert own.json["remittances"] == []
        assert {event["facility"] for event in own.json["events"]} == {LICENCES["two"]}
        file = path_of((await server.get(remitted)).json["events"][-1]["file"])
        assert (await server.get(file)).status == 200
        assert refused(await server.get(file, "two"), 404) == refused(await server.get(f"{file}x", "two"), 404)
        only_one = next(each for each in FILES if not is_submission(each)).file_id
        assert (await server.get(f"/reports/files/{LICENCES['one']}/{only_one}")).status == 200
        for licence in LICENCES.values():
            refused(await server.get(f"/reports/files/{licence}/{only_one}", "two"), 404)


async def test_views_alone(ledger: Home) -> None:
    """What a report's connection can read is one tenant's, also if the statement names none; and nothing, until one is set."""
    async with reporting(ledger) as (server, _), server.services.storage.report(1) as connection:
        named = "SELECT relname FROM pg_class WHERE relnamespace = 'report'::regnamespace AND relname <> 'state'"
        views = await connection.raw.fetch(named)
        assert len(views) == 11
        for (view,) in views:
            async with connection.raw.transaction():
                await connection.raw.execute("SET LOCAL sluice.tenant_id = '2'")
                found = await connection.raw.fetch(f"SELECT DISTINCT tenant_id FROM report.{view}")
            assert [row["tenant_id"] for row in found] == ([] if view.startswith("remittance") else [2])
            with pytest.raises(asyncpg.PostgresError):
                await connection.raw.fetch(f"SELECT * FROM report.{view}")
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
                await connection.raw.fetch(f"SELECT * FROM claims.{view}")


async def test_scope(ledger: Home) -> None:
    """Every route wants the scope `report`, and a key."""
    async with reporting(ledger) as (server, _):
        for path in NAMES:
            url = re.sub(r"{\w+}", "x", path)
            refused(await server.get(url, None), 401)
            assert "report" in refused(await server.get(url, "reader"), 403)
            assert (await server.get(url, method="POST")).status in (401, 403, 405)


REFUSALS = {
    "colour=red": "payer, facility",
    "sort=claim": "pending_amount",
    "sort=--claim_id": "pending_amount",
    "from=2026-02-30": "2026-04-30",
    "from=20260201": "2026-04-30",
    "to=0001-01-01": "2026-04-30",
    "to=9999-12-31": "2026-04-30",
    "from=2026-04-02&to=2026-04-01": "after",
    "payer=a&payer=b": "twice",
    "payer=%00": "payer",
    "payer=" + "x" * 201: "200",
    "status=Paid": "PARTIALLY_PAID",
    "_count=0": "1 to 1000",
    "_count=-1": "1 to 1000",
    "_count=x": "1 to 1000",
    "_count=%D9%A1": "1 to 1000",
    "_cursor=x": "cursor",
    "_cursor=" + "A" * 5000: "cursor",
}


async def test_refusals(ledger: Home) -> None:
    """What cannot be understood is 400, in words that say what can be; a cursor is good for its own list alone."""
    async with reporting(ledger) as (server, _):
        for query, words in REFUSALS.items():
            assert words in refused(await server.get(f"/reports/balance-amount?{query}"), 400), query
        cursor = (await server.get("/reports/balance-amount?_count=1")).json["next"].partition("_cursor=")[2]
        for url in ("balance-amount?payer=INS001&", "balance-amount?sort=claim_id&", "remittance-advice?"):
            assert "cursor" in refused(await server.get(f"/reports/{url}_cursor={cursor}"), 400)
        assert (await server.get(f"/reports/balance-amount?_count=3&_cursor={cursor}")).status == 200
        assert "code or clinician" in refused(await server.get("/reports/denials?by=payer"), 400)
        assert "from, to" in refused(await server.get("/reports/control-totals?payer=x"), 400)
        assert "format" in refused(await server.get("/reports/claims/a/b?x=1"), 400)
        assert (await server.get("/reports/balance-amount?_count=5000")).json["next"] is None


async def test_not_modified(ledger: Home) -> None:
    """A client that has the refresh already is told so, by time and by ETag; after another refresh it is not."""
    async with connected(ledger.database) as owner, reporting(ledger) as (server, _):
        for path in [*(f"/reports/{report}" for report in REPORTS), "/reports/ageing"]:
            view = path.rpartition("/")[2].replace("ageing", "balance-amount")
            at = datetime.now(UTC).replace(microsecond=400_000) - timedelta(
                days=3 if view != "balance-amount" else 0, seconds=2
            )
            await owner.execute("UPDATE ops.report_view SET refreshed_at = $1 WHERE name = $2", at, view)
            first = await server.get(path)
            assert first.headers["Cache-Control"] == "private, no-cache"
            assert "Accept" in first.headers["Vary"].split(", ")
            modified, etag = first.headers["Last-Modified"], first.headers["Etag"]
            known = await server.get(path, If_Modified_Since=modified)
            assert (known.status, known.body, known.headers["Last-Modified"]) == (304, b"", modified)
            assert (await server.get(path, If_None_Match=etag, If_Modified_Since="Mon, 01 Jan 2001 00:00:00 GMT")).status == 304
            assert (await server.get(path, Accept="text/csv", If_None_Match=etag)).status == 200
            assert (await server.get(path, Accept="text/csv", If_Modified_Since=modified)).status == 304
            await owner.execute(
                "UPDATE ops.report_view SET refreshed_at = refreshed_at + interval '900 ms' WHERE name = $1", view
            )
            assert (await server.get(path, If_Modified_Since=modified)).status == 200
            assert (await server.get(path, If_None_Match=etag)).status == 200
            assert (await server.get(path, If_Modified_Since="nonsense")).status == 200


@pytest.mark.parametrize(
    ("refreshed", "now", "ages", "shown"),
    [
        ("2026-03-01 10:00:00.2", "2026-03-01 10:00:00.9", False, "2026-03-01 10:00:00"),
        ("2026-03-01 10:00:00.2", "2026-03-01 10:00:01", False, "2026-03-01 10:00:01"),
        ("2026-03-01 10:00:00", "2026-03-01 10:00:00", False, "2026-03-01 10:00:00"),
        ("2026-03-01 10:00:00.2", "2026-03-01 20:00:00", True, "2026-03-01 20:00:00"),
        ("2026-03-01 10:00:00.2", "2026-03-01 19:59:59", True, "2026-03-01 10:00:01"),
    ],
)
def test_last_modified(refreshed: str, now: str, shown: str, *, ages: bool) -> None:
    """Never in the future, not before the refresh where that can be; and where rows have an age not before Dubai's midnight."""
    state = State(*(datetime.fromisoformat(f"{text}+00:00") for text in (refreshed, now)))
    assert Freshness(state, "json", ages=ages).last_modified == datetime.fromisoformat(f"{shown}+00:00")


OURS = "FROM pg_stat_activity WHERE application_name = 'sluice report' AND datname = current_database()"


async def test_lost_connection(ledger: Home) -> None:
    """Connections that the server closes are made anew, and the page that met them comes all the same."""
    async with connected(ledger.database) as owner, reporting(ledger, report_pool_size=1) as (server, _):
        assert (await server.get("/reports/balance-amount")).status == 200
        await owner.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
        assert (await server.get("/reports/balance-amount")).status == 200


async def test_leaving(ledger: Home) -> None:
    """Who leaves while a report is computed leaves no transaction and no statement behind; who stays too long is told so."""
    held = f"SELECT count(*) {OURS} AND state <> 'idle'"
    async with connected(ledger.database) as owner, reporting(ledger, report_timeout_s=1.0, report_pool_size=1) as (server, _):
        async with owner.transaction():
            await owner.execute("LOCK TABLE claims.balance_amount_summary")
            asked = asyncio.create_task(server.get("/reports/balance-amount"))
            async with connected(ledger.database) as watcher, asyncio.timeout(5):
                while await watcher.fetchval(f"{held} AND wait_event_type = 'Lock'") == 0:
                    pass
                asked.cancel()
                while await watcher.fetchval(held) > 0:
                    pass
            refused(await server.get("/reports/balance-amount"), 504)
        lender = server.services.storage.reports
        await until(lambda: lender.counts()["busy"] == 0)
        assert await owner.fetchval(held) == 0
        assert (await server.get("/reports/balance-amount")).status == 200


async def test_counted(ledger: Home) -> None:
    """Reports are counted by name, whoever's they are and whatever claim they are of."""
    async with reporting(ledger) as (server, _):
        for path in NAMES:
            await server.get(re.sub(r"{\w+}", "x", path))
        text = (await server.get("/metrics", None)).body.decode()
        names = set(re.findall(r'sluice_requests_total{operation="(report\w+)"', text))
        assert names == set(NAMES.values())
        assert len(names) == 8


async def test_pretty(ledger: Home) -> None:
    """`_pretty` indents, and changes no digit."""
    async with reporting(ledger) as (server, _):
        reply = await server.get("/reports/balance-amount?_pretty=true&_count=1")
        assert b'\n  "rows": [' in reply.body
        assert re.search(rb'"initial_net": \d+\.\d\d,', reply.body)
        assert isinstance(server.session, aiohttp.ClientSession)
