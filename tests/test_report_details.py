"""What report routes show live: a claim, its files, control totals, denials; and ageing."""

import re
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from simulator.claims_truth import truth
from storage.embedded import Cluster
from tests.conftest import make_database
from tests.reporting import FILES, claim_path, fill_many, path_of, refused, reporting, rows_of
from tests.support import Home, Served, connected


async def copy_of(cluster: Cluster, home: Home, name: str) -> Home:
    """For a test that spoils it."""
    return Home(await make_database(cluster, name, home.database.rpartition("/")[2]), home.keys)


ODD = ("a/b", "a b", "ä%2Fb", "{x}", "a+b?c#d&e", "لا", "a\nb", "%")


async def test_odd_ids(cluster: Cluster, ledger: Home) -> None:
    """Links lead to claims and files whatever stands in their ids."""
    home = await copy_of(cluster, ledger, "report_odd")
    async with connected(home.database) as owner:
        for claim_id in ODD:
            await owner.execute(
                "INSERT INTO claims.claim (tenant_id, provider_id, claim_id, submitted_at, payer_id, facility_id)"
                " VALUES (1, $1, $1, now(), 'P', 'F')",
                claim_id,
            )
            await owner.execute(
                "INSERT INTO claims.event VALUES (1, $1, $1, 1, $1, 1, 'submission', now(), 'PENDING', 0, 0, 0, 0, '', 1.10)",
                claim_id,
            )
            await owner.execute(
                "UPDATE claims.file SET file_id = $1 WHERE (tenant_id, file_id) = (1, $2)",
                claim_id,
                FILES[ODD.index(claim_id)].file_id,
            )
        await owner.execute("REFRESH MATERIALIZED VIEW claims.mv_balance_amount_summary")
    async with reporting(home) as (server, _):
        rows = {row["claim_id"]: row for row in await rows_of(server, "/reports/balance-amount?_count=1000")}
        for claim_id in ODD:
            reply = await server.get(claim_path(rows[claim_id]))
            assert (reply.status, reply.json["claim"]["claim_id"]) == (200, claim_id)
            (event,) = reply.json["events"]
            assert event["file_id"] == claim_id
            assert b'"amount":1.10' in reply.body
            assert (await server.get(path_of(event["file"]))).body == FILES[ODD.index(claim_id)].document
        refused(await server.get("/reports/claims/DHA-F-0000001/%00"), 404)


async def test_claim(ledger: Home) -> None:
    """A claim's activities add up to it, its timeline ends in what it is, and each step leads to its file."""
    async with reporting(ledger) as (server, _):
        rows = await rows_of(server, "/reports/remittance-advice?_count=1000")
        documents = {file.file_id: file.document for file in FILES}
        for row in rows[::5]:
            found = (await server.get(claim_path(row))).json
            assert datetime.fromisoformat(found["as_of"]) <= datetime.now(UTC)
            claim, activities, events = found["claim"], found["activities"], found["events"]
            assert (claim["claim_id"], claim["provider_id"]) == (row["claim_id"], row["provider_id"])
            assert (claim["net"], claim["held"], claim["denied"]) == (
                row["total_remitted"],
                row["total_payment"],
                row["denied_amount"],
            )
            for amount in ("net", "held", "taken_back", "denied", "pending", "overpaid"):
                assert sum(Decimal(str(each[amount])) for each in activities) == Decimal(str(claim[amount]))
            assert len(activities) == row["activity_count"]
            assert [event["at"] for event in events] == sorted(event["at"] for event in events)
            assert all(events[-1][name] == claim[name] for name in ("status", "held", "taken_back", "denied", "pending"))
            told = [event for event in events if event["kind"] == "remittance"]
            assert len(told) == claim["remittance_count"] == len(found["remittances"])
            assert sorted(event["amount"] for event in told) == sorted(each["paid"] for each in found["remittances"])
            for each in found["remittances"]:
                assert sum(Decimal(str(line["payment"])) for line in each["lines"]) == Decimal(str(each["paid"]))
            file = await server.get(path_of(events[-1]["file"]))
            assert file.body == documents[events[-1]["file_id"]]
            assert file.headers["Content-Type"] == "application/xml"
            assert file.headers["X-Content-Type-Options"] == "nosniff"
            assert file.headers["Content-Disposition"].startswith("attachment; ")
            again = await server.get(path_of(events[-1]["file"]), If_None_Match=file.headers["Etag"])
            assert (again.status, again.body) == (304, b"")


Totals = dict[tuple[str, str], dict[str, Any]]


async def totals(server: Served, query: str = "") -> Totals:
    reply = await server.get(f"/reports/control-totals{query}")
    assert reply.status == 200, reply.body
    return {(row["of"], row["measure"]): row for row in reply.json["rows"]}


async def test_control_totals(ledger: Home) -> None:
    """Files, database and report agree with what the files say; and of a period with its own files alone."""
    expected = truth(FILES)
    async with reporting(ledger) as (server, _):
        found = await totals(server)
        assert {row["agrees"] for row in found.values()} == {True, None}
        assert found["submission", "claims"]["database"] == found["submission", "records"]["header"] == expected.submitted
        assert found["remittance", "claims"]["database"] == expected.remitted
        assert Decimal(str(found["remittance", "amount"]["parsed"])) == expected.paid
        assert found["submission", "files_test"]["parsed"] == expected.files["test"]
        assert found["submission", "files_loaded"]["parsed"] == expected.files["submission"]
        for measure in ("net", "held", "taken_back", "denied", "pending", "overpaid"):
            row = found["claim", measure]
            assert Decimal(str(row["report"])) == Decimal(str(row["database"])) == getattr(expected.total, measure)
        days = Counter(parsed_day(file.document) for file in FILES)
        day, number = days.most_common(1)[0]
        some = await totals(server, f"?from={day}&to={day}")
        files = [row["parsed"] for (_, measure), row in some.items() if measure in ("files_loaded", "files_test")]
        assert sum(files) == number
        assert {row["agrees"] for row in some.values()} == {True, None}


def parsed_day(document: bytes) -> date:
    found = re.search(rb"<TransactionDate>(\d+)/(\d+)/(\d+)", document)
    assert found is not None
    day, month, year = map(int, found.groups())
    return date(year, month, day)


LOSSES = {
    ("remittance", "amount"): "UPDATE claims.event SET amount = amount - 0.01",
    ("submission", "claims"): "DELETE FROM claims.event",
    ("claim", "pending"): "UPDATE claims.claim SET pending = pending - 0.01",
    ("submission", "records"): "UPDATE claims.file SET record_count = record_count + 2",
}


async def test_missing_fils(cluster: Cluster, ledger: Home) -> None:
    """Where something is lost the row says so, and how much; what was never counted is called unknown."""
    home = await copy_of(cluster, ledger, "report_losses")
    async with connected(home.database) as owner, reporting(home) as (server, _):
        for (of, measure), loss in LOSSES.items():
            table = re.findall(r"claims\.\w+", loss)[0]
            only = "state = 'loaded' AND kind = 'submission'" if table == "claims.file" else f"kind = '{of}'"
            only = "submitted_at IS NOT NULL" if table == "claims.claim" else only
            before = await totals(server)
            await owner.execute(
                f"{loss} WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE tenant_id = 1 AND {only} LIMIT 1)"
            )
            found = await totals(server)
            assert {key for key in found if found[key]["agrees"] != before[key]["agrees"]} >= {(of, measure)}
            assert found[of, measure]["agrees"] is False
            assert found[of, measure]["difference"] == {"records": 2, "claims": 1, "pending": -0.01}.get(measure, 0.01)
        await owner.execute("UPDATE claims.event SET amount = NULL WHERE tenant_id = 1 AND kind = 'submission'")
        found = await totals(server)
        assert found["submission", "amount_unknown"]["database"] > 0
        assert (found["submission", "amount"]["difference"], found["submission", "amount"]["agrees"]) == (None, None)


async def test_denials(ledger: Home) -> None:
    """By code, by clinician and by both they come to the same, which is what the activities say, also if paid in part."""
    async with connected(ledger.database) as owner, reporting(ledger) as (server, _):
        rows = await owner.fetch(
            "SELECT denial_code, clinician_id, a.claim_id, a.denied, a.held, payer_id,"
            " (coalesce(encounter_start, c.submitted_at) AT TIME ZONE 'Asia/Dubai')::date AS day"
            " FROM claims.activity a JOIN claims.claim c USING (tenant_id, provider_id, claim_id)"
            " WHERE tenant_id = 1 AND denial_code <> ''"
        )
        day = sorted(row["day"] for row in rows)[len(rows) // 2]
        payer = rows[0]["payer_id"]
        for query, kept in {
            "": rows,
            f"from={day}&": [row for row in rows if row["day"] >= day],
            f"to={day}&payer={payer}&": [row for row in rows if row["day"] <= day and row["payer_id"] == payer],
        }.items():
            for by, names in {"": (0, 1), "by=code": (0,), "by=clinician": (1,)}.items():
                found = (await server.get(f"/reports/denials?{query}{by}")).json["rows"]
                groups: dict[tuple[str, ...], list[Any]] = {}
                for row in kept:
                    groups.setdefault(tuple(row[name] for name in names), []).append(row)
                assert {
                    tuple((row["denial_code"], row["clinician_id"])[name] for name in names): (
                        row["activities"], row["claims"], str(Decimal(str(row["denied_amount"])).quantize(Decimal("0.01"))),
                        row["part_paid_activities"], str(Decimal(str(row["held_amount"])).quantize(Decimal("0.01"))),
                    )
                    for row in found
                } == {
                    key: (
                        len(members), len({row["claim_id"] for row in members}), str(sum(row["denied"] for row in members)),
                        sum(row["held"] > 0 for row in members), str(sum(row["held"] for row in members)),
                    )
                    for key, members in groups.items()
                }  # fmt: skip
        assert sum(row["held"] > 0 for row in rows) > 0


async def test_ageing(cluster: Cluster, template: str) -> None:
    """Each claim's pending amount stands in the one bucket of its age, and the last row is all payers'."""
    edges = {30: "0_30", 60: "31_60", 90: "61_90", 180: "91_180", 365: "181_365", 10**6: "over_365"}
    home = Home(await make_database(cluster, "report_ageing", template))
    await fill_many(home)
    async with connected(home.database) as owner, reporting(home) as (server, _):
        await owner.execute(
            "UPDATE claims.balance_amount_summary SET encounter_start = now() - age * interval '1 day', pending_amount = 7.01"
            " FROM unnest($1::int[]) WITH ORDINALITY AS old (age, n) WHERE tenant_id = 2 AND claim_id = 'C' || n",
            [30, 31, 60, 61, 90, 91, 180, 181, 365, 366, 1000, 0, -3],
        )
        rows = [row for row in await rows_of(server, "/reports/balance-amount?_count=1000", "two") if row["pending_amount"]]
        found = (await server.get("/reports/ageing", "two")).json["rows"]
        assert [row["is_total"] for row in found] == [False] * (len(found) - 1) + [True]
        for row in found:
            own = [each for each in rows if row["is_total"] or each["payer_id"] == row["payer_id"]]
            assert (row["claims"], row["pending_amount"]) == (
                len(own),
                pytest.approx(sum(each["pending_amount"] for each in own)),
            )
            for name in edges.values():
                inside = [each for each in own if next(n for edge, n in edges.items() if each["aging_days"] <= edge) == name]
                assert row[f"claims_{name}"] == len(inside)
                assert row[f"pending_{name}"] == pytest.approx(sum(each["pending_amount"] for each in inside))
