"""What tests of report routes share: a database with two tenants' claims that bear the same ids, and walks over reports."""

import csv
import io
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from handlers.reports_csv import EXPORTS, Exports
from ingestion.claims import Claim, Event, Remitted
from ingestion.parsing.parser import parse
from simulator.claims import GeneratedFile, facilities, generate
from storage.tenancy import create_key
from tests.claims import intake
from tests.money_views import Histories
from tests.report_rows import add_claims, fill_views
from tests.support import Home, Reply, Served, connected, served

REPORTS = ("balance-amount", "remittance-advice", "claims-by-payer")
FILES = tuple(generate(7, facilities(1)[0], claims=60, claims_per_file=20))
"""The first tenant has all of them, the other the submissions alone, under the same file ids."""
LICENCES = {"one": "DHA-F-0000001", "two": "DHA-F-0000002"}


def is_submission(file: GeneratedFile) -> bool:
    return b"<Claim.Submission" in file.document


async def fill_ledger(home: Home) -> None:
    for tenant, licence in LICENCES.items():
        async with intake(home.database, licence, tenant) as taken:
            await taken.load_all(file for file in FILES if tenant == "one" or is_submission(file))
    async with connected(home.database) as owner:
        await fill_views(owner, incremental=False)
        for tenant in LICENCES:
            home.keys[tenant] = await create_key(owner, tenant, ["report"])
        home.keys["reader"] = await create_key(owner, "one", ["read", "warm", "operate"])


async def fill_many(home: Home, number: int = 200) -> None:
    """By SQL, with equal sort values; both ways of keeping are full, and the tables are read."""
    async with connected(home.database) as owner:
        await add_claims(owner, number)
        if number <= 1000:
            await fill_views(owner, incremental=False)
        await fill_views(owner, incremental=True)
        for tenant_id, tenant in enumerate(("one", "two"), 1):
            home.keys[tenant] = await create_key(owner, f"tenant-{tenant_id}", ["report", "operate"])


def histories_of(files: Iterable[GeneratedFile]) -> Histories:
    """As money_views wants them."""
    found: dict[tuple[str, str], list[Event]] = {}
    for file in files:
        parsed = parse(file.document)
        header = parsed.header
        said: tuple[Claim | Remitted, ...] = () if header.is_test else parsed.claims
        for n, content in enumerate(said, 1):
            of = content.provider_id if isinstance(content, Claim) else content.provider_id or content.facility_id
            event = Event(header.transaction_date, 1, file.file_id, n, header.sender_id, content)
            found.setdefault((of or header.receiver_id, content.id), []).append(event)
    return found


@asynccontextmanager
async def reporting(home: Home, *, narrow: bool = False, **settings: Any) -> AsyncIterator[tuple[Served, Exports]]:
    """A server, and its count of exports. `narrow`: the machine keeps little between the database, the server and a client."""
    exports: list[Exports] = []

    @web.middleware
    async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
        exports.append(request.app[EXPORTS])
        if narrow and request.transport is not None:
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        return await handler(request)

    async with served(home.database, keys=home.keys, watch=look, **{"pool_size": 8, **settings}) as server:
        await server.get("/health/live", None)
        if narrow:
            async with server.services.storage.report(1) as connection:  # which is the next to be lent again
                pipe = connection.raw._transport.get_extra_info("socket")  # type: ignore[attr-defined]
                pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        yield server, exports[0]


def path_of(url: str) -> str:
    """As a client of this server follows a link."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


async def walk(server: Served, url: str, tenant: str = "one") -> list[list[dict[str, Any]]]:
    """The rows of each page, to the end."""
    pages: list[list[dict[str, Any]]] = []
    step: str | None = url
    while step is not None:
        reply = await server.get(step, tenant)
        assert reply.status == 200, reply.body
        pages.append(reply.json["rows"])
        step = path_of(reply.json["next"]) if reply.json["next"] else None
        assert len(pages) < 200
    return pages


async def rows_of(server: Served, url: str, tenant: str = "one") -> list[dict[str, Any]]:
    return [row for page in await walk(server, url, tenant) for row in page]


def claim_path(row: dict[str, Any]) -> str:
    """The way to a row's claim, as the page's template has it."""
    return f"/reports/claims/{quote(row['provider_id'], safe='')}/{quote(row['claim_id'], safe='')}"


def table_of(reply: Reply) -> list[dict[str, str]]:
    """A CSV's rows."""
    assert reply.status == 200, reply.body
    return list(csv.DictReader(io.StringIO(reply.body.decode(), newline="")))


def refused(reply: Reply, status: int) -> str:
    """Checks that it is a problem+json, and returns its words."""
    assert reply.status == status, (reply.status, reply.body)
    assert reply.headers["Content-Type"] == "application/problem+json"
    return str(reply.json["detail"])
