"""A million claims for the benchmark of reports, in a folder where later runs find them.

Four tenants, of which one has most; each also has people and visits that its API users ask for. It is made anew when how it is
made has changed, or a migration.
"""

import asyncio
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType

import asyncpg

from simulator.people import resources
from storage.copying import copy
from storage.embedded import Cluster, running
from storage.facilities import add_facility
from storage.migrate import migrate, migrations
from storage.tenancy import create_key, create_tenant
from storage.views import REPORTS
from tests.benchmarks import reports_rows
from tests.benchmarks.crowd_data import LOADING
from tests.benchmarks.reports_rows import TABLES, Book, Lines, Provider
from tests.processes import SLUICE, environment

DATA = Path(tempfile.gettempdir()) / "sluice-reports"
SHARES = MappingProxyType({"large": 0.60, "middle": 0.25, "small": 0.10, "least": 0.05})
FACILITIES = MappingProxyType({"large": 22, "middle": 10, "small": 5, "least": 3})
SCOPES = ("read", "warm", "report", "operate")
SEED = 11
RUN = 200
"""Claims of one provider that lie together."""
WRITERS = 2
PEOPLE = MappingProxyType({"patients": 300, "practitioners": 20, "encounters": 600})
"""Of each tenant, for the API."""
_NOTHING: Lines = {}
_CHECKS = {
    "an activity's amounts": "SELECT count(*) FROM claims.activity WHERE net <> held + taken_back + denied + pending",
    "a claim's sums": """
        SELECT count(*) FROM claims.claim c FULL JOIN (
            SELECT tenant_id, provider_id, claim_id, sum(net) AS net, sum(held) AS held, sum(taken_back) AS taken_back,
                   sum(denied) AS denied, sum(pending) AS pending
            FROM claims.activity GROUP BY 1, 2, 3
        ) a USING (tenant_id, provider_id, claim_id)
        WHERE (c.net, c.held, c.taken_back, c.denied, c.pending)
            IS DISTINCT FROM (a.net, a.held, a.taken_back, a.denied, a.pending)""",
    "a claim's status": """
        SELECT count(*) FROM claims.claim WHERE status <> CASE WHEN held = net THEN 'PAID' WHEN held > 0 THEN 'PARTIALLY_PAID'
            WHEN taken_back > 0 THEN 'TAKEN_BACK' WHEN denied = net THEN 'REJECTED' ELSE 'PENDING' END""",
    "what was paid": """
        SELECT count(*) FROM (SELECT tenant_id, sum(paid) AS paid, count(*) AS rows FROM claims.remittance GROUP BY 1) r
        JOIN (SELECT tenant_id, sum(amount) AS paid, sum(claims) AS rows FROM claims.file
              WHERE kind = 'remittance' GROUP BY 1) f USING (tenant_id)
        JOIN (SELECT tenant_id, sum(payment) AS paid FROM claims.remittance_activity GROUP BY 1) l USING (tenant_id)
        JOIN (SELECT tenant_id, sum(held + overpaid) AS paid FROM claims.claim GROUP BY 1) c USING (tenant_id)
        WHERE (r.paid, r.rows) <> (f.paid, f.rows) OR r.paid <> l.paid OR r.paid <> c.paid""",
}


@dataclass(frozen=True)
class Stored:
    """The data in a running server; keys and numbers of the tenants, in the order of SHARES."""

    cluster: Cluster
    url: str
    keys: list[str]
    tenants: list[int]
    seconds: float


@contextmanager
def stored(data: Path, claims: int) -> Iterator[Stored]:
    """With PostgreSQL as the product runs it; the data is made first if it is not there as it should be."""
    wanted = _version(claims)
    with running(data) as cluster:
        found = asyncio.run(_found(cluster, claims, wanted))
    if found is None:
        with running(data, LOADING) as cluster:
            asyncio.run(_fill(cluster, claims, wanted))
        os.sync()  # else the disk would still be writing while something is measured
    with running(data) as cluster:
        found = asyncio.run(_found(cluster, claims, wanted))
        assert found is not None
        yield found


def _version(claims: int) -> str:
    sources = [Path(file).read_text(encoding="utf-8") for file in (__file__, reports_rows.__file__)]
    known = [claims, *sources, *(migration.sha256.hex() for migration in migrations())]
    return sha256(json.dumps(known).encode()).hexdigest()


def _database(claims: int) -> str:
    return f"reports_{claims}"


def _url(cluster: Cluster, claims: int) -> str:
    return f"{cluster.url.rsplit('/', 1)[0]}/{_database(claims)}"


async def _found(cluster: Cluster, claims: int, wanted: str) -> Stored | None:
    """None where there is none, or a stale one, or one whose making was broken off."""
    url = _url(cluster, claims)
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.InvalidCatalogNameError:
        return None
    try:
        row = await connection.fetchrow("SELECT keys, tenants, seconds FROM public.made WHERE version = $1", wanted)
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()
    return None if row is None else Stored(cluster, url, row["keys"], row["tenants"], row["seconds"])


async def _fill(cluster: Cluster, claims: int, wanted: str) -> None:
    began = time.monotonic()
    owner = await asyncpg.connect(cluster.url)
    await owner.execute(f"DROP DATABASE IF EXISTS {_database(claims)} WITH (FORCE)")
    await owner.execute(f"CREATE DATABASE {_database(claims)}")
    await owner.close()
    url = _url(cluster, claims)
    await migrate(url)
    connection = await asyncpg.connect(url)
    tenants = [await create_tenant(connection, name) for name in SHARES]
    keys = [await create_key(connection, name, SCOPES) for name in SHARES]
    await _copy_claims(connection, url, tenants, claims)
    for name in SHARES:
        await asyncio.to_thread(_people, url, name)
    await _as_autovacuum_would(connection)
    await _checked(connection)
    await connection.execute("CREATE TABLE public.made (version text, keys text[], tenants int[], seconds float)")
    await connection.execute("INSERT INTO public.made VALUES ($1, $2, $3, $4)", wanted, keys, tenants, time.monotonic() - began)
    await connection.execute("CHECKPOINT")
    await connection.close()


async def _copy_claims(connection: asyncpg.Connection, url: str, tenants: list[int], claims: int) -> None:
    providers: list[Provider] = []
    for tenant_id, name in zip(tenants, SHARES, strict=True):
        each = round(claims * SHARES[name] / FACILITIES[name])
        for _ in range(FACILITIES[name]):
            licence = f"DHA-F-{len(providers) + 1:07}"
            number = await _add_facility(connection, tenant_id, licence)
            providers.append(Provider(tenant_id, number, licence, each))
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        shares = [(url, providers[number::WRITERS]) for number in range(WRITERS)]
        await asyncio.to_thread(pool.starmap, copy_providers, shares, 1)


async def _add_facility(connection: asyncpg.Connection, tenant_id: int, licence: str) -> int:
    """Nobody polls it."""
    await add_facility(
        connection,
        tenant_id,
        licence,
        url="http://127.0.0.1:1/",
        login=licence,
        password=b"sealed",
        since=datetime(2026, 1, 1, tzinfo=UTC),
        acknowledge=False,
    )
    sql = "UPDATE ops.facility SET state = 'paused' WHERE licence = $1 RETURNING facility_no"
    return int(await connection.fetchval(sql, licence))


def copy_providers(url: str, providers: list[Provider]) -> None:
    """In a process of its own."""
    asyncio.run(_copy_providers(url, providers))


async def _copy_providers(url: str, providers: list[Provider]) -> None:
    """In turn, as their files come."""
    connection = await asyncpg.connect(url)
    for turn in zip_longest(*[Book(provider, SEED).chunks(RUN) for provider in providers], fillvalue=_NOTHING):
        for table in (*TABLES, "file"):
            lines = [line for rows in turn for line in rows.get(table, ())]
            await copy(connection, table, "".join(f"{line}\n" for line in lines).encode(), "claims")
    await connection.close()


def _people(url: str, tenant: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "people.ndjson"
        file.write_bytes(b"\n".join(resources(list(SHARES).index(tenant), today=reports_rows.END, **PEOPLE)))
        words = [str(SLUICE), "import", tenant, str(file)]
        subprocess.run(words, check=True, capture_output=True, env=environment(database_url=url))


async def _as_autovacuum_would(connection: asyncpg.Connection) -> None:
    await connection.execute("VACUUM (ANALYZE)")
    for view in REPORTS.values():
        await connection.execute(f"REFRESH MATERIALIZED VIEW {view.matview}")
        await connection.execute(f"VACUUM (ANALYZE) {view.matview}")
        await connection.execute(
            "UPDATE ops.report_view SET done = pg_current_snapshot(), current_at = now(),"
            f" rows = (SELECT count(*) FROM {view.matview}) WHERE name = $1",
            view.name,
        )


async def _checked(connection: asyncpg.Connection) -> None:
    for what, sql in _CHECKS.items():
        wrong = await connection.fetchval(sql)
        if wrong:
            raise SystemExit(f"{what}: {wrong:,} rows of the made data are wrong")
