"""Claims a minute, SOAP to committed FHIR resources: `python -m tests.benchmarks.ingest` (or `make bench-ingest`).

The simulated post office, the workers and the database share this machine, each in processes of its own. Printed are the
rate with its CPU by part and claim, the same without secondary indexes, the rate of a plain parse-and-COPY of the same files,
and what an API load beside it sees. A claim that is submitted anew counts anew.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from base.config import Config
from ingestion.claims import Claim
from ingestion.credentials import Vault
from ingestion.parsing.parser import parse
from simulator.claims import MIX, PLAIN, facilities, generate
from simulator.load import Load, Result, render, run_in_process
from simulator.people import resources
from storage.embedded import Cluster, running
from storage.facilities import add_facility
from storage.migrate import migrate
from storage.tenancy import create_key, create_tenant
from tests.benchmarks.bench import Server, database_s, served, warm_up
from tests.processes import SLUICE, environment, samples

SECRET = "a secret of the benchmark"
TENANTS = 4
API_RATE = 200.0
INDEXES = """
    SELECT format('%I.%I', n.nspname, i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_namespace n ON n.oid = i.relnamespace
    WHERE n.nspname IN ('fhir', 'claims') AND NOT x.indisprimary AND NOT x.indisunique AND NOT i.relispartition
        AND i.relname NOT LIKE '%\\_owner' AND i.relname NOT IN ('token_value', 'identity_resource')
"""
"""Secondary ones, but for those that the loader itself looks things up by: without them it would scan."""
DONE = """
    SELECT count(*) AS files, coalesce(sum(claims) FILTER (WHERE kind = 'submission'), 0)::bigint AS claims,
        coalesce(sum(claims) FILTER (WHERE kind = 'remittance'), 0)::bigint AS remitted
    FROM claims.file
"""


@dataclass
class Run:
    """One run of the workers over all that the post office has."""

    name: str
    claims: int = 0
    remitted: int = 0
    resources: int = 0
    seconds: float = 0.0
    worker_s: float = 0.0
    database_s: float = 0.0
    office_s: float = 0.0
    peak_mb: float = 0.0
    lag_p99_ms: float = 0.0
    deadlocks: int = 0
    memory_mb: list[float] = field(default_factory=list)

    @property
    def per_minute(self) -> float:
        return self.claims / self.seconds * 60

    def __str__(self) -> str:
        worker, database, office = (value / self.claims * 1e6 for value in (self.worker_s, self.database_s, self.office_s))
        return (
            f"{self.name}: {self.per_minute:,.0f} claims a minute ({self.claims:,} claims, {self.remitted:,} remittances,"
            f" {self.resources:,} resources, in {self.seconds:.1f} s)\n"
            f"  CPU a claim in µs: worker {worker:.0f}, database {database:.0f}, post office {office:.0f}; event-loop lag p99"
            f" {self.lag_p99_ms:.1f} ms; deadlocks {self.deadlocks}\n"
            f"  memory of the workers {', '.join(f'{size:.0f}' for size in self.memory_mb)} MB along the run,"
            f" {self.peak_mb:.0f} at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facilities", type=int, default=20)
    parser.add_argument("--claims", type=int, default=1000, help="a facility")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=5, help="facilities at once")
    parser.add_argument("--connections", type=int, default=4, help="of one worker")
    parser.add_argument(
        "--varied", action="store_true", help="all that traffic brings: smaller files, resubmissions, take-backs"
    )
    parser.add_argument("--shared-buffers", default="512MB", help="of the database")
    parser.add_argument("--only", choices=["all", "rate", "api"], default="all")
    asyncio.run(bench(parser.parse_args()))


async def bench(args: argparse.Namespace) -> None:
    settings = {"shared_buffers": args.shared_buffers}
    with (
        tempfile.TemporaryDirectory(prefix="sluice-") as folder,
        running(Path(folder), settings) as cluster,
        office(args) as post,
    ):
        if args.only != "api":
            plain = [await plain_copy(cluster, args, number) for number in range(args.rounds)]
            full = [await whole(cluster, args, post, f"round_{number}") for number in range(args.rounds)]
            told("all of it", full)
            if args.only == "all":
                told(
                    "without secondary indexes",
                    [await whole(cluster, args, post, f"bare_{number}", bare=True) for number in range(args.rounds)],
                )
            rate = statistics.median(run.per_minute for run in full)
            copied = statistics.median(plain)
            print(f"plain parse-and-COPY into four tables: {copied:,.0f} claims a minute; we do {rate / copied:.0%} of that")
        if args.only != "rate":
            await beside(cluster, args, post)


def told(name: str, runs: list[Run]) -> None:
    for run in runs:
        print(run, flush=True)
    rates = sorted(run.per_minute for run in runs)
    print(f"{name}: median {statistics.median(rates):,.0f} claims a minute ({rates[0]:,.0f} to {rates[-1]:,.0f})", flush=True)


@dataclass
class Post:
    url: str
    process: psutil.Process
    files: int


@contextlib.contextmanager
def office(args: argparse.Namespace) -> Iterator[Post]:
    """The simulated post office, with everything generated before it listens."""
    words = ["post-office", "--port", "0", "--facilities", str(args.facilities), "--claims", str(args.claims)]
    words += [] if args.varied else ["--plain"]
    child = subprocess.Popen([SLUICE, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment())
    try:
        assert child.stdout is not None
        first = child.stdout.readline()
        url = next(word for word in first.split() if word.startswith("http")).rstrip(",")
        state = json.loads(urllib.request.urlopen(url.rpartition("/")[0] + "/_admin/state").read())  # noqa: S310
        yield Post(url, psutil.Process(child.pid), count_files(state))
    finally:
        child.terminate()
        child.wait(20)


def count_files(state: Any) -> int:
    return sum(len(box["sent"]) + len(box["received"]) for box in state["facilities"].values())


async def prepared(cluster: Cluster, args: argparse.Namespace, post: Post, name: str) -> str:
    """A database with its facilities registered."""
    url = await emptied(cluster, name)
    await migrate(url)
    connection = await asyncpg.connect(url)
    vault = Vault.from_config(Config.from_mapping({"SLUICE_DATABASE_URL": url, "SLUICE_SECRET": SECRET}))
    tenants = [await create_tenant(connection, f"tenant-{number}") for number in range(TENANTS)]
    for number, profile in enumerate(facilities(args.facilities)):
        await add_facility(
            connection,
            tenants[number % TENANTS],
            profile.licence,
            url=post.url,
            login=profile.login,
            password=vault.seal(profile.password),
            since=await connection.fetchval("SELECT now() - interval '100 days'"),
            acknowledge=False,
        )
    await connection.close()
    return url


async def emptied(cluster: Cluster, name: str) -> str:
    connection = await asyncpg.connect(cluster.url)
    await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    return cluster.url.rsplit("/", 1)[0] + f"/{name}"


async def whole(cluster: Cluster, args: argparse.Namespace, post: Post, name: str, *, bare: bool = False) -> Run:
    url = await prepared(cluster, args, post, name)
    connection = await asyncpg.connect(url)
    if bare:
        for row in await connection.fetch(INDEXES):
            await connection.execute(f"DROP INDEX {row[0]}")
    run = Run("without secondary indexes" if bare else "all of it")
    with contextlib.ExitStack() as stack:
        before = database_s(cluster), spent_s([post.process])
        workers = [stack.enter_context(worker(url, args)) for _ in range(args.workers)]
        await finished(connection, post, workers, run)
        run.worker_s = sum(spent_s([process]) for process, _ in workers)
        run.database_s, run.office_s = database_s(cluster) - before[0], spent_s([post.process]) - before[1]
        run.lag_p99_ms = max(lag_p99_ms(scrape(port)) for _, port in workers)
    run.deadlocks = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    run.resources = await connection.fetchval("SELECT count(*) FROM fhir.resource")
    await connection.close()
    return run


async def finished(connection: asyncpg.Connection, post: Post, workers: list[tuple[psutil.Process, int]], run: Run) -> None:
    """Until every file is in; from the first poll's begin to the last file."""
    began: float | None = None
    share = 0.1
    while True:
        await asyncio.sleep(0.1)  # this process looks on, and has nobody to tell it
        row = (await connection.fetch(DONE))[0]
        if began is None and await connection.fetchval("SELECT EXISTS (SELECT FROM ops.poll_run)"):
            began = time.perf_counter()
        size = sum(process.memory_info().rss for process, _ in workers) / 1e6
        run.peak_mb = max(run.peak_mb, size)
        if row["files"] >= share * post.files:
            run.memory_mb.append(size)
            share += 0.1
        if row["files"] >= post.files:
            break
    run.seconds = time.perf_counter() - (began or 0)
    run.claims, run.remitted = row["claims"], row["remitted"]


@contextlib.contextmanager
def worker(url: str, args: argparse.Namespace) -> Iterator[tuple[psutil.Process, int]]:
    """A `sluice worker`, and the port of its metrics."""
    settings = {
        "database_url": url,
        "secret": SECRET,
        "poll_mode": "concurrent",
        "poll_tick_s": 1,
        "poll_interval_s": 86_400,
        "poll_timeout_s": 3600,
        "poll_facilities_max": args.at_once,
        "ingest_pool_size": args.connections,
        "throttle_cpu": 1,
        "throttle_disk_free": 0,
        "metrics_port": 0,
    }
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            [SLUICE, "worker"], stdout=subprocess.DEVNULL, stderr=log, text=True, env=environment(**settings)
        )
        try:
            yield psutil.Process(child.pid), port_of(child, log)
        finally:
            child.terminate()
            child.wait(20)


def port_of(child: subprocess.Popen[str], log: Any) -> int:
    while child.poll() is None:
        log.seek(0)
        for line in log:
            if line.startswith("{") and (said := json.loads(line))["event"] == "worker.started":
                return int(said["port"])
        time.sleep(0.05)
    log.seek(0)
    raise SystemExit(f"the worker did not start: {log.read()[-2000:]}")


def scrape(port: int) -> dict[str, float]:
    return samples(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())


def lag_p99_ms(found: dict[str, float]) -> float:
    """The upper bound of the bucket that holds it."""
    name = "sluice_event_loop_lag_seconds"
    total = found[f"{name}_count"]
    bounds = sorted(
        (float(series.split('le="')[1].split('"')[0]), value)
        for series, value in found.items()
        if series.startswith(f"{name}_bucket")
    )
    return next(bound for bound, count in bounds if count >= 0.99 * total) * 1e3


def spent_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def plain_copy(cluster: Cluster, args: argparse.Namespace, number: int) -> float:
    """Claims a minute, when files that are there already are only parsed, and their rows copied into four bare tables."""
    url = await emptied(cluster, f"plain_{number}")
    files = [
        file.document
        for profile in facilities(min(args.facilities, 4))
        for file in generate(0, profile, claims=args.claims, mix=MIX if args.varied else PLAIN)
    ]
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE claim (id text, payer text, provider text, net numeric);"
        "CREATE TABLE activity (claim text, id text, code text, net numeric);"
        "CREATE TABLE remitted (id text, payer text, reference text);"
        "CREATE TABLE line (claim text, id text, paid numeric)"
    )
    began, claims = time.perf_counter(), 0
    for document in files:
        rows: dict[str, list[Any]] = {"claim": [], "activity": [], "remitted": [], "line": []}
        for content in parse(document).claims:
            if isinstance(content, Claim):
                claims += 1
                rows["claim"].append((content.id, content.payer_id, content.provider_id, content.net))
                rows["activity"] += [(content.id, each.id, each.code, each.net) for each in content.activities]
            else:
                rows["remitted"].append((content.id, content.id_payer, content.payment_reference))
                rows["line"] += [(content.id, line.activity_id, line.payment) for line in content.lines]
        async with connection.transaction():
            for table, records in rows.items():
                await connection.copy_records_to_table(table, records=records)
    seconds = time.perf_counter() - began
    await connection.close()
    return claims / seconds * 60


async def beside(cluster: Cluster, args: argparse.Namespace, post: Post) -> None:
    """An API load on a tenant of its own: quiet, and with ingestion at full speed."""
    url = await prepared(cluster, args, post, "beside")
    connection = await asyncpg.connect(url)
    await create_tenant(connection, "reader")
    key = await create_key(connection, "reader", ["read", "warm"])
    await asyncio.to_thread(fill, url)
    ids = [row[0] for row in await connection.fetch("SELECT id FROM fhir.resource WHERE type = 'Patient'")]
    headers = {"Authorization": f"Bearer {key}"}
    requests = [render("GET", f"/patients/{each}", headers) for each in ids]
    requests += [render("GET", f"/encounters?patient={each}", headers) for each in ids]
    with served("channel", url) as server:
        warm_up(server, [key])
        quiet = measured(server, requests)
        run = Run("with an API load beside")
        with worker(url, args) as started:
            loads: list[Result] = []
            thread = threading.Thread(target=lambda: loads.append(measured(server, requests)))
            await finished(connection, replace(post, files=1), [started], Run(""))  # now it is at it
            thread.start()
            await finished(connection, post, [started], run)
            too_few = thread.is_alive()
            await asyncio.to_thread(thread.join)
    busy = loads[0]
    limit = max(3 * quiet.p99_ms, 50.0)
    print(
        f"API at {API_RATE:.0f} requests a second: p99 {quiet.p99_ms:.1f} ms quiet, {busy.p99_ms:.1f} ms with ingestion at"
        f" {run.per_minute:,.0f} claims a minute (limit {limit:.0f} ms); p50 {quiet.p50_ms:.1f} and {busy.p50_ms:.1f} ms;"
        f" answers {busy.statuses}, errors {busy.errors}"
    )
    if too_few:
        print("ingestion was done before the load was: take more claims")
    await connection.close()


def fill(url: str) -> None:
    """The tenant `reader` gets people to read of."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "people.ndjson"
        people = resources(1, patients=300, practitioners=20, encounters=600, today=datetime.now(UTC).date())
        file.write_bytes(b"\n".join(people))
        words = [str(SLUICE), "import", "reader", str(file)]
        subprocess.run(words, check=True, capture_output=True, env=environment(database_url=url))


def measured(server: Server, requests: list[bytes]) -> Result:
    return run_in_process(Load("127.0.0.1", server.port, connections=32, seconds=10, warmup_s=1, rate=API_RATE), requests)


if __name__ == "__main__":
    main()
