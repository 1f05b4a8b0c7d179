"""Reports as CSV: whole, safe to open, from one snapshot, and never in the way of others."""

import asyncio
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote, urlsplit

import aiohttp
import asyncpg
import pytest

from storage.embedded import Cluster
from tests.conftest import PROVE, make_database
from tests.reporting import REPORTS, fill_many, path_of, refused, reporting, rows_of, table_of
from tests.support import Home, Served, build_home, connected, until

MANY = 50_000 if PROVE else 6_000
_WIDE = 1700
END = b"\r\n0\r\n\r\n"
"""Of chunks: what comes before it is whole."""
OURS = "FROM pg_stat_activity WHERE application_name = 'sluice report' AND datname = current_database()"


@pytest.fixture(scope="module")
def some(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "report_csv", fill_many)


@pytest.fixture(scope="module")
def large(cluster: Cluster, template: str) -> Home:
    """More than fits into what the machine keeps between a database, a server and a client that does not read."""

    async def fill(home: Home) -> None:
        await fill_many(home, MANY)
        async with connected(home.database) as owner:
            await owner.execute(
                "UPDATE claims.balance_amount_summary SET payer_id = payer_id || repeat('x', $1) WHERE tenant_id = 1", _WIDE
            )

    return build_home(cluster, template, "report_csv_large", fill)


def shown(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


async def test_is_the_report(some: Home) -> None:
    """A CSV has the rows and columns of the JSON, all of them, in its order, line by line as RFC 4180 has it."""
    async with reporting(some) as (server, _):
        for report in (*(f"{name}?" for name in REPORTS), "balance-amount?sort=pending_amount&payer=INS002&from=2026-02-01&"):
            rows = await rows_of(server, f"/reports/{report}")
            reply = await server.get(f"/reports/{report}format=csv")
            found = table_of(reply)
            assert [list(row) for row in found] == [list(row) for row in rows]
            assert [[as_number(value) for value in row.values()] for row in found] == [
                [as_number(shown(value)) for value in row.values()] for row in rows
            ]
            assert reply.body.count(b"\r\n") == reply.body.count(b"\n") == len(rows) + 1
            assert reply.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
            assert re.fullmatch(r'attachment; filename="[a-z-]+\.csv"', reply.headers["Content-Disposition"])
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert re.search(rb",100\.00,50\.00,", reply.body)


def as_number(text: str) -> float | str:
    """JSON says 50.00 as this client reads it: 50.0."""
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else text


async def test_analyses(some: Home) -> None:
    """What is computed as a whole has a CSV of the same rows."""
    async with reporting(some) as (server, _):
        for name in ("control-totals", "denials", "ageing"):
            rows = (await server.get(f"/reports/{name}")).json["rows"]
            found = table_of(await server.get(f"/reports/{name}", Accept="text/csv"))
            assert [[as_number(value) for value in row.values()] for row in found] == [
                [as_number(shown(value)) for value in row.values()] for row in rows
            ]


async def test_count_and_cursor(some: Home) -> None:
    """It goes on where a page has ended, and `_count` ends it."""
    async with reporting(some) as (server, _):
        whole = table_of(await server.get("/reports/balance-amount?format=csv"))
        first = await server.get("/reports/balance-amount?_count=80")
        rest = path_of(first.json["next"])
        assert table_of(await server.get(f"{rest}&format=csv".replace("_count=80&", ""))) == whole[80:]
        assert table_of(await server.get(f"{rest}&format=csv")) == whole[80:160]


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1")
PLAIN = ('a"b', "a,b", "a\nb", "a\r\nb", "'a", " =1", "a=1", "1", "", "\\N", "\\.", "$1", "لا")


async def test_formulas(cluster: Cluster, some: Home) -> None:
    """Text that a spreadsheet would take for a formula stays text; all other text, and every number, comes as it is."""
    url = await make_database(cluster, "report_formulas", some.database.rpartition("/")[2])
    async with connected(url) as owner, reporting(Home(url, some.keys)) as (server, _):
        await owner.execute("DELETE FROM claims.balance_amount_summary WHERE tenant_id = 1")
        for text in FORMULAS + PLAIN:
            await owner.execute(
                "INSERT INTO claims.balance_amount_summary"
                " (tenant_id, provider_id, claim_id, payer_id, facility_id, submitted_at, pending_amount)"
                " VALUES (1, $1, $1, $1, $1, now(), -7.50)",
                text,
            )
        rows = table_of(await server.get("/reports/balance-amount?format=csv&sort=claim_id"))
        expected = {**{text: f"'{text}" for text in FORMULAS}, **{text: text for text in PLAIN}}
        found = sorted((row["claim_id"], row["provider_id"], row["payer_id"], row["facility_id"]) for row in rows)
        assert found == sorted((text,) * 4 for text in expected.values())
        assert {row["pending_amount"] for row in rows} == {"-7.50"}
        for text in FORMULAS + PLAIN:
            if text:
                (row,) = table_of(
                    await server.get(f"/reports/balance-amount?format=csv&payer={quote(text)}&facility={quote(text)}")
                )
                assert row["claim_id"] == expected[text]
        for hostile in ("' OR '1'='1", "\n) TO STDOUT; --", "\\' OR 1=1 --", "$2", "1) --\n"):
            reply = await server.get(f"/reports/balance-amount?format=csv&payer={quote(hostile)}&facility=%0A{quote(hostile)}")
            assert table_of(reply) == []
            assert table_of(await server.get(f"/reports/ageing?format=csv&payer={quote(hostile)}"))[0]["claims"] == "0"
            assert table_of(await server.get(f"/reports/denials?format=csv&payer={quote(hostile)}")) == []


ACCEPTED = {
    "text/csv": "csv",
    "TEXT/CSV;charset=utf-8": "csv",
    "text/csv, */*": "csv",
    "text/csv;q=0.4, application/json;q=0.5": "json",
    "text/csv;q=0, */*": "json",
    "application/json": "json",
    "text/*": "csv",
    "application/*": "json",
    "*/*": "json",
    "": "json",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "json",
    "application/xml": "406",
    "text/html": "406",
    "text/csv;q=0": "406",
}


async def test_format(some: Home) -> None:
    """`format` goes before Accept; without either it is JSON, and what is neither is refused."""
    async with reporting(some) as (server, _):
        for accept, form in ACCEPTED.items():
            reply = await server.get("/reports/claims-by-payer", Accept=accept)
            kind = reply.headers["Content-Type"]
            assert (form if reply.status == 200 else str(reply.status)) == form, accept
            assert kind.startswith({"csv": "text/csv", "json": "application/json", "406": "application/problem+json"}[form]), (
                accept
            )
        assert (await server.get("/reports/ageing?format=json", Accept="text/csv")).json["rows"]
        assert table_of(await server.get("/reports/ageing?format=CSV", Accept="text/html"))
        refused(await server.get("/reports/ageing?format=xml"), 406)
        head = await server.get("/reports/balance-amount?format=csv", method="HEAD")
        assert (head.status, head.body) == (200, b"")


@asynccontextmanager
async def dawdling(server: Served, report: str = "balance-amount") -> AsyncIterator[socket.socket]:
    """A client that asks for an export, and reads nothing."""
    asking = socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port))
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    asking.setblocking(False)
    lines = f"GET /reports/{report}?format=csv HTTP/1.1", "Host: x", f"Authorization: Bearer {server.keys['one']}"
    await asyncio.get_running_loop().sock_sendall(asking, "\r\n".join((*lines, "", "")).encode())
    try:
        yield asking
    finally:
        asking.close()


async def read_all(asking: socket.socket) -> tuple[int, bytes]:
    """To the end, whatever that is: how much there was, and the last of it."""
    size, last = 0, b""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while not last.endswith(END) and (chunk := await loop.sock_recv(asking, 65536)):
            size, last = size + len(chunk), (last + chunk)[-1000:]
    return size, last


async def test_half_of_the_pool(large: Home) -> None:
    """Half of the connections are for exports, and one more is told to come again, while pages are served."""
    async with reporting(large, narrow=True, report_pool_size=4) as (server, exports):
        async with dawdling(server), dawdling(server):
            await until(lambda: exports.running == 2)
            more = await server.get("/reports/claims-by-payer?format=csv")
            refused(more, 503)
            assert more.headers["Retry-After"] == "1"
            assert (await server.get("/reports/balance-amount?_count=3")).status == 200
        await until(lambda: exports.running == 0)
        assert (await server.get("/reports/claims-by-payer?format=csv")).status == 200


async def test_who_leaves(large: Home) -> None:
    """A client that leaves in the middle leaves neither transaction nor connection behind."""
    async with reporting(large, narrow=True, report_pool_size=2) as (server, exports), connected(large.database) as owner:
        for _ in range(3):
            async with dawdling(server):
                await until(lambda: exports.running == 1)
            await until(lambda: exports.running == 0)
        lender = server.services.storage.reports
        await until(lambda: lender.counts()["busy"] == 0)
        assert await owner.fetchval(f"SELECT count(*) {OURS} AND state <> 'idle'") == 0
        assert len(table_of(await server.get("/reports/balance-amount?format=csv"))) == MANY


async def test_who_stalls(large: Home) -> None:
    """A client that stops reading is cut off after a while, and its place is another's."""
    async with reporting(large, narrow=True, report_pool_size=2) as (server, exports):
        exports.stall_s = 0.2
        async with dawdling(server) as asking:
            await until(lambda: exports.running == 1)
            await until(lambda: exports.running == 0)
            assert not (await read_all(asking))[1].endswith(END)
        text = (await server.get("/metrics", None)).body.decode()
        assert 'sluice_requests_total{operation="report_balance_amount",outcome="200",path="none",reason="expired"} 1' in text


async def test_broken_off(large: Home) -> None:
    """An export that the database breaks off is broken off for the client too: it never looks whole."""
    async with reporting(large, narrow=True) as (server, exports), connected(large.database) as owner:
        url = f"{server.url}/reports/balance-amount?format=csv"
        async with server.session.get(url, headers=server.headers("one")) as response:
            assert (response.status, exports.running) == (200, 1)
            await stuck(owner)
            await owner.execute(f"SELECT pg_terminate_backend(pid) {OURS} AND state = 'active'")
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert (await server.get("/reports/balance-amount?_count=3")).status == 200


async def stuck(owner: asyncpg.Connection) -> None:
    """Until the database waits for its reader."""
    async with asyncio.timeout(5):
        while not await owner.fetchval(f"SELECT count(*) {OURS} AND wait_event = 'ClientWrite'"):
            pass


async def test_one_snapshot(large: Home) -> None:
    """What changes while it is read does not show: the last row is as old as the first."""
    async with reporting(large, narrow=True) as (server, _), connected(large.database) as owner:
        async with dawdling(server) as asking:
            await stuck(owner)
            await owner.execute("UPDATE claims.balance_amount_summary SET overpaid_amount = 1.23 WHERE tenant_id = 1")
            size, last = await read_all(asking)
        assert size > MANY * _WIDE
        assert last.endswith(END)
        assert b",0.00," in last
        assert b",1.23," not in last


async def test_memory(large: Home) -> None:
    """However many rows there are and however slowly they are read, only a little of them is in memory."""
    async with reporting(large, narrow=True) as (server, _), connected(large.database) as owner, dawdling(server) as asking:
        tracemalloc.start()
        try:
            await stuck(owner)
            size, last = await read_all(asking)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert last.endswith(END)
    print(f"{peak / 1e6:.1f} MB at most, of {size / 1e6:.0f}")
    assert size > MANY * _WIDE
    assert peak < 3_000_000


async def test_shared_with_pages(some: Home) -> None:
    """A page of another origin may read an export, where it may read anything."""
    async with reporting(some, cors_origins=("https://app.example",)) as (server, _):
        reply = await server.get("/reports/claims-by-payer?format=csv", Origin="https://app.example")
        assert reply.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "Origin" in reply.headers["Vary"]
        other = await server.get("/reports/claims-by-payer?format=csv", Origin="https://other.example")
        assert "Access-Control-Allow-Origin" not in other.headers
