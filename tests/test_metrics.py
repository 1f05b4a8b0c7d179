import asyncio
import gc
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import msgspec
import psutil
import pytest

from app.workers import still_said
from base.identity import key_hash
from base.operations import OPERATIONS
from handlers.reports import NAMES
from metrics.accumulators import LATENCY_BOUNDS, Distribution, Family, Labels, merged
from metrics.catalog import FirstComers, Metrics, WorkerMetrics
from metrics.exposition import exposition
from metrics.loop_lag import watch_loop
from metrics.process import readings
from tenants.places import MOST, OTHER
from tests.looking import looking
from tests.processes import samples, total
from tests.support import Home, Served, add_tenant, connected, patient, served, until

# What the design promises of the API's process and of a worker's: name, kind, labels.
PROMISED_OF_BOTH = {
    "sluice_pool_connections": ("gauge", "pool,state"),
    "sluice_pool_wait_seconds": ("histogram", "pool"),
    "sluice_pool_waiting": ("gauge", "pool"),
    "sluice_pool_busy_seconds_total": ("counter", "pool"),
    "sluice_pool_timeouts_total": ("counter", "pool"),
    "sluice_pool_held_long_total": ("counter", "pool"),
    "sluice_event_loop_lag_seconds": ("histogram", ""),
    "sluice_database_up": ("gauge", ""),
    "sluice_database_deadlocks_total": ("counter", ""),
    "sluice_database_locks": ("gauge", "mode"),
    "sluice_database_lock_waiting": ("gauge", ""),
    "sluice_database_lock_wait_seconds": ("gauge", ""),
    "sluice_database_sessions": ("gauge", "state"),
    "sluice_database_connections_max": ("gauge", ""),
    "sluice_database_longest_transaction_seconds": ("gauge", ""),
    "sluice_database_running_slow": ("gauge", ""),
    "sluice_database_statements_total": ("counter", "role"),
    "sluice_database_statement_seconds_total": ("counter", "role"),
    "sluice_database_slow_statements": ("gauge", "role"),
    "sluice_database_transactions_total": ("counter", "outcome"),
    "sluice_database_blocks_total": ("counter", "source"),
    "sluice_database_temporary_bytes_total": ("counter", ""),
    "sluice_database_bytes": ("gauge", ""),
    "sluice_database_table_bytes": ("gauge", "table"),
    "sluice_database_rows": ("gauge", "table,state"),
    "sluice_database_transaction_age": ("gauge", ""),
    "sluice_gc_collections_total": ("counter", "generation"),
    "sluice_gc_pause_seconds_total": ("counter", ""),
    "sluice_machine_cpu_seconds_total": ("counter", "mode"),
    "sluice_machine_memory_bytes": ("gauge", "state"),
    "sluice_machine_disk_bytes": ("gauge", "state"),
    "sluice_machine_disk_io_bytes_total": ("counter", "direction"),
    "sluice_build_info": ("gauge", "version,python"),
    "sluice_processes": ("gauge", ""),
    "process_cpu_seconds_total": ("counter", ""),
    "process_resident_memory_bytes": ("gauge", ""),
    "process_virtual_memory_bytes": ("gauge", ""),
    "process_open_fds": ("gauge", ""),
    "process_max_fds": ("gauge", ""),
    "process_start_time_seconds": ("gauge", ""),
    "process_io_bytes_total": ("counter", "direction"),
}
PROMISED = {
    "sluice_request_duration_seconds": ("histogram", "operation,path,arm,source"),
    "sluice_requests_total": ("counter", "operation,path,outcome,reason"),
    "sluice_stage_duration_seconds": ("histogram", "operation,path,stage"),
    "sluice_batch_size": ("histogram", "operation"),
    "sluice_channel_messages_total": ("counter", "tenant,operation"),
    "sluice_channel_depth": ("gauge", "tenant,operation"),
    "sluice_tenant_transitions_total": ("counter", "transition"),
    "sluice_tenants": ("gauge", "state"),
    "sluice_tenant_mismatch_total": ("counter", ""),
    "sluice_dispatcher_restarts_total": ("counter", ""),
    "sluice_report_duration_seconds": ("histogram", "report"),
    **PROMISED_OF_BOTH,
}
# Scraped from a real worker in test_ingestion_walk.py.
PROMISED_OF_WORKERS = {
    "sluice_ingest_files_total": ("counter", "facility,outcome"),
    "sluice_ingest_claims_total": ("counter", "facility"),
    "sluice_ingest_stage_duration_seconds": ("histogram", "stage"),
    "sluice_facility_polls_total": ("counter", "facility,outcome"),
    "sluice_facilities_polling": ("gauge", ""),
    "sluice_ingest_throttle": ("gauge", "reason"),
    "sluice_ingest_held_bytes": ("gauge", ""),
    "sluice_jobs": ("gauge", "entrypoint,status"),
    "sluice_facilities": ("gauge", "state"),
    "sluice_view_refresh_duration_seconds": ("histogram", "view,outcome"),
    "sluice_view_skipped_total": ("counter", "view,reason"),
    "sluice_view_age_seconds": ("gauge", "view"),
    "sluice_view_freshness_seconds": ("gauge", "view"),
    "sluice_view_rows": ("gauge", "view"),
    **PROMISED_OF_BOTH,
}
WITHOUT_A_DISK = {"sluice_machine_disk_io_bytes_total", "process_io_bytes_total"}
"""What some systems do not tell."""
KNOWN, ASKING, WARM = 10_000, 300, 150


def families(*given: Family) -> dict[str, Family]:
    return {family.name: family for family in given}


# Several processes as one


@pytest.mark.parametrize(("merge", "expected"), [("sum", 5.0), ("max", 3.0), ("last", 2.0)])
def test_merged_numbers(merge: Any, expected: float) -> None:
    """A gauge of several processes is their sum, the largest or the last, as its row in the catalogue says."""
    known = families(Family("g", "gauge", "", ("a",), merge))
    together = merged(known, [{"g": [(("x",), 3.0)]}, {"g": [(("x",), 2.0), (("y",), 1.0)]}])
    assert together == {"g": [(("x",), expected), (("y",), 1.0)]}


def test_merged_histograms() -> None:
    """Histograms are added bucket by bucket, also when a snapshot has come as JSON from another process."""
    one, other = (Metrics() for _ in range(2))
    one.pool_wait.child("api").observe(0.001)
    other.pool_wait.child("api").observe(0.001)
    other.pool_wait.child("api").observe(100.0)
    sent = msgspec.json.decode(msgspec.json.encode(other.snapshot()))
    text = exposition(one.families, merged(one.families, [one.snapshot(), sent])).decode()
    assert total(text, "sluice_pool_wait_seconds_count") == 3
    assert total(text, "sluice_pool_wait_seconds_bucket", le="0.001") == 2
    assert total(text, "sluice_pool_wait_seconds_sum") == pytest.approx(100.002)


def test_merged_is_empty_of_nothing() -> None:
    """A process whose siblings are all away shows its own numbers."""
    metrics = Metrics()
    metrics.requests.child("none", "direct", "200", "").add(2)
    assert merged(metrics.families, [metrics.snapshot()]) == metrics.snapshot()


def test_snapshot_is_a_copy() -> None:
    """What is counted after a snapshot does not change it."""
    metrics = Metrics()
    metrics.pool_wait.child("api").observe(0.001)
    before = msgspec.json.encode(metrics.snapshot())
    snapshot = metrics.snapshot()
    metrics.pool_wait.child("api").observe(0.001)
    assert msgspec.json.encode(snapshot) == before


# The text


def test_escaped() -> None:
    r"""Quotes, backslashes and line breaks in a label's value are written as \", \\ and \n, and break no line."""
    family = Family("m_total", "counter", "Help", ("a", "b"))
    family.child('say "hi"', "c:\\new\nline").add()
    lines = exposition(families(family), {"m_total": family.snapshot()}).decode().splitlines()
    assert lines == [
        "# HELP m_total Help",
        "# TYPE m_total counter",
        r'm_total{a="say \"hi\"",b="c:\\new\nline"} 1.0',
    ]


def test_buckets() -> None:
    """Buckets are cumulative, a bound belongs to its own, and the last one is the count."""
    family = Family("h", "histogram", "Help", bounds=(1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        family.child().observe(value)
    text = exposition(families(family), {"h": family.snapshot()}).decode()
    assert samples(text) == {
        'h_bucket{le="1.0"}': 2,
        'h_bucket{le="2.0"}': 4,
        'h_bucket{le="+Inf"}': 5,
        "h_sum": 14.0,
        "h_count": 5,
    }


def test_bounds() -> None:
    """Latencies are told apart in equal steps from a quarter of a millisecond to four seconds."""
    steps = [after / before for before, after in itertools.pairwise(LATENCY_BOUNDS)]
    assert steps == pytest.approx([math.sqrt(2)] * len(steps), rel=1e-4)
    assert (LATENCY_BOUNDS[0], LATENCY_BOUNDS[-1]) == (0.00025, 4.096)


def test_wrong_labels() -> None:
    """A series with too few or too many labels is refused where it is made."""
    with pytest.raises(ValueError, match="sluice_pool_wait_seconds has the labels"):
        Metrics().pool_wait.child()
    with pytest.raises(ValueError, match="has the labels"):
        Metrics().pool_wait.child("api", "more")


def kinds(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def labels_of(text: str, name: str) -> set[str]:
    """The names of labels that its series carry, sorted."""
    found = re.findall(rf"^{name}(?:_bucket|_sum|_count)?(?:\{{(.*)\}})? \S+$", text, re.MULTILINE)
    return {",".join(label for label in re.findall(r'(\w+)="', series) if label != "le") for series in found}


# The server's


async def scraped(server: Served) -> str:
    reply = await server.get("/metrics", None)
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return reply.body.decode()


async def looked(server: Served) -> str:
    """The first scrape after the database was looked at."""
    async with asyncio.timeout(10):
        while "\nsluice_database_bytes " not in (text := await scraped(server)):  # noqa: ASYNC110  # as a client can tell
            await asyncio.sleep(0.05)
    return text


def check_promised(text: str, promised: dict[str, tuple[str, str]], *, may_lack: Iterable[str] = ()) -> None:
    """Everything is there, with its kind and its labels, and every number is one."""
    found = kinds(text)
    assert {name: found.get(name) for name in promised} == {name: kind for name, (kind, _) in promised.items()}
    for name, (_, labels) in promised.items():
        some = labels_of(text, name)
        assert some == {",".join(sorted(labels.split(",")))} or (not some and name in {*may_lack, *WITHOUT_A_DISK}), name
    assert all(math.isfinite(value) for value in samples(text).values())


async def test_promised(database: str) -> None:
    """Every metric promised of the API is there when its database was looked at, with its kind and labels, and is a number."""
    async with served(database) as server:
        check_promised(await looked(server), PROMISED)


@pytest.mark.parametrize("catalogue", [Metrics, WorkerMetrics])
def test_catalogue(catalogue: type[Metrics | WorkerMetrics]) -> None:
    """Every metric has a help text and a name that says its unit, and counters end in _total."""
    metrics = catalogue()
    metrics.add_process()
    for family in metrics.families.values():
        assert re.match(r"(sluice|process)_[a-z_]+$", family.name)
        assert family.help
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.kind != "histogram" or family.name.endswith(("_seconds", "_size"))


def test_first_comers() -> None:
    """The first facilities keep their names in metrics, and all that come after are one."""
    names = FirstComers(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


async def test_counted(database: str) -> None:
    """A request is counted once, by its operation, path and outcome; only answers that were asked for are timed."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}) as server:
        await server.get("/patients/p")
        await server.get("/warm-up", method="POST")
        for path in ("/patients/p", "/patients/nobody", "/patients?_count=-1"):
            await server.get(path)
        text = await scraped(server)
    by = {
        (operation, path, outcome): total(text, "sluice_requests_total", operation=operation, path=path, outcome=outcome)
        for operation, path, outcome in (
            ("get_patient", "direct", "200"),
            ("get_patient", "channel", "200"),
            ("get_patient", "channel", "404"),
        )
    }
    assert list(by.values()) == [1, 1, 1]
    assert total(text, "sluice_requests_total", operation="list_patients", outcome="400", reason="invalid") == 1
    assert total(text, "sluice_request_duration_seconds_count") == 3
    for stage in ("queue", "pool", "query", "encode"):
        assert total(text, "sluice_stage_duration_seconds_count", stage=stage) == 3
    assert total(text, "sluice_channel_messages_total", tenant="one", operation="get_patient") == 2
    assert total(text, "sluice_tenant_transitions_total", transition="warm_up") == 1
    assert total(text, "sluice_tenants", state="warm") == 1


async def test_begin_at_zero(database: str) -> None:
    """The series of what is asked every day are there before the first request, so that it is an increase."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}) as server:
        await scraped(server)
        before = set(samples(await scraped(server)))
        for path in ("/patients/p", "/patients/nobody"):
            await server.get(path)
        await server.get("/warm-up", method="POST")
        for path in ("/patients/p", "/patients/nobody"):
            await server.get(path)
        born = set(samples(await scraped(server))) - before
    assert {series for series in born if 'tenant="one"' not in series and 'operation="none"' not in series} == set()


async def test_stages_make_the_whole(database: str) -> None:
    """A request's stages add up to no more than the whole, and to most of it."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}) as server:
        for _ in range(50):
            await server.get("/patients/p")
        text = await scraped(server)
    whole, parts = (total(text, f"sluice_{name}_duration_seconds_sum") for name in ("request", "stage"))
    assert whole / 2 < parts < whole


async def test_bounded(database: str) -> None:
    """With 10 000 tenants known and 300 asking, 150 of them warm, a hundred have names and the rest are one."""
    keys = await crowd(database)
    async with served(database, keys=keys) as server:
        names = list(keys)
        await warm_up(server, names[:MOST])
        await ask(server, [names[0], names[-1]])
        await looked(server)
        await scraped(server)  # from the second one on, scrapes are counted, too
        before = samples(await scraped(server))
        await warm_up(server, names[MOST:WARM])
        await ask(server, names)
        text = await scraped(server)
        assert set(samples(text)) - set(before) == set()
        assert set(re.findall(r'tenant="([^"]*)"', text)) == {*names[:MOST], OTHER}
        assert total(text, "sluice_tenants", state="warm") == WARM
        assert total(text, "sluice_channel_messages_total", tenant=OTHER) == WARM - MOST
        assert len(samples(text)) < 5000
        assert all(math.isfinite(value) for value in samples(text).values())


async def test_place_is_given_back(database: str) -> None:
    """A tenant that cools down leaves its place, with its series, to the next one that warms up."""
    keys = await crowd(database, known=MOST + 1, asking=MOST + 1)
    *first, last = keys
    async with served(database, keys=keys) as server:
        await warm_up(server, first)
        await server.get("/warm-up", first[0], method="DELETE")
        await warm_up(server, [last])
        assert set(re.findall(r'tenant="([^"]*)"', await scraped(server))) == {*first[1:], last, OTHER}


async def crowd(url: str, *, known: int = KNOWN, asking: int = ASKING) -> dict[str, str]:
    """Makes tenants, and keys for the first of them."""
    keys = {f"t{number}": f"key-{number}" for number in range(1, asking + 1)}
    async with connected(url) as connection:
        await connection.execute("INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, $1) n", known)
        await connection.execute(
            "INSERT INTO ops.api_key (tenant_id, sha256, scopes) "
            "SELECT number, hash, '{read,warm}' FROM unnest($1::bytea[]) WITH ORDINALITY x (hash, number)",
            [key_hash(key) for key in keys.values()],
        )
    return keys


async def warm_up(server: Served, tenants: list[str]) -> None:
    replies = await asyncio.gather(*(server.get("/warm-up", tenant, method="POST") for tenant in tenants))
    assert {reply.status for reply in replies} == {201}


async def ask(server: Served, tenants: list[str]) -> None:
    replies = await asyncio.gather(*(server.get("/patients/nobody", tenant) for tenant in tenants))
    assert {reply.status for reply in replies} == {404}


async def test_bounded_worker(database: str) -> None:
    """A worker has as many series with 300 facilities and one tenant as with 10 000 of each."""
    metrics = WorkerMetrics()
    metrics.add_process()
    async with looking(database, metrics) as worker:
        poll_all(metrics, 300)
        before = set(samples(await worker.look()))
        await crowd(database)
        poll_all(metrics, KNOWN)
        text = await worker.look()
    assert set(samples(text)) == before
    assert len(before) < 5000
    assert len(set(re.findall(r'facility="([^"]*)"', text))) == 201
    assert total(text, "sluice_database_rows", table="ops.tenant", state="live") == KNOWN


def poll_all(metrics: WorkerMetrics, facilities: int) -> None:
    """Each brings files of every kind, and polls that go in every way."""
    for number in range(facilities):
        label = metrics.labels.label(f"DHA-F-{number:07}")
        metrics.claims.child(label).add(5)
        for outcome in ("loaded", "test", "duplicate", "ignored", "quarantined", "failed", "parked"):
            metrics.files.child(label, outcome).add()
        for outcome in ("ok", "partial", "failed", "timeout", "stopped"):
            metrics.polls.child(label, outcome).add()


def test_facility_begins_at_zero() -> None:
    """A facility's series are there from its first poll on, before anything of it fails; so are those of all without a name."""
    metrics = WorkerMetrics()
    for number in range(202):
        metrics.labels.label(f"DHA-F-{number:07}")
    before = samples(exposition(metrics.families, metrics.snapshot()).decode())
    assert len([series for series in before if 'facility="other"' in series]) == 7 + 1 + 5
    poll_all(metrics, 202)
    assert set(samples(exposition(metrics.families, metrics.snapshot()).decode())) == set(before)


def busy_api() -> Metrics:
    """All of the hundred places are taken."""
    metrics = Metrics()
    metrics.add_process()
    metrics.channel_depth.read = lambda: [((f"t{n}", o.name), 1.0) for n in range(MOST + 1) for o in OPERATIONS]
    for number, operation in itertools.product(range(MOST), OPERATIONS):
        metrics.channel_messages.child(f"t{number}", operation.name).add()
    for report in NAMES.values():
        metrics.report_duration.child(report).observe(0.1)
    return metrics


def busy_worker() -> WorkerMetrics:
    metrics = WorkerMetrics()
    metrics.add_process()
    poll_all(metrics, 300)
    return metrics


@pytest.mark.parametrize(("make", "processes"), [(busy_api, 1), (busy_api, 4), (busy_worker, 1)])
async def test_scrape_is_quick(database: str, make: Callable[[], Metrics | WorkerMetrics], processes: int) -> None:
    """A scrape of all series that there can be takes less than 20 ms of the loop, of four processes too."""
    metrics = make()
    async with looking(database, metrics) as process:
        await process.look()
    said = [msgspec.json.encode(make().snapshot()) for _ in range(processes - 1)]
    took = []
    for _ in range(25):
        began = thread_time()  # what others do on this machine meanwhile is none of the loop's time
        snapshot = metrics.snapshot()
        text = exposition(
            metrics.families, merged(metrics.families, [snapshot, *map(msgspec.json.decode, said)]) if said else snapshot
        )
        took.append(thread_time() - began)
    assert len(text.splitlines()) > 2500
    assert b"\nsluice_database_bytes " in text
    print(f"{min(took) * 1e3:.1f} ms for {len(text.splitlines())} lines")
    assert min(took) < 0.02


@pytest.mark.prove
def test_cost() -> None:
    """What observes and counts takes at most 3 % of the CPU of the cheapest request that there is, on both paths."""
    words = [sys.executable, "-m", "tests.benchmarks.metrics_cost", "--rounds", "4", "--most", "0.03"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


async def test_report_duration(ledger: Home) -> None:
    """An answered report is timed under its name, whose series was there before; a refused one is not."""
    async with served(ledger.database, keys=ledger.keys) as server:
        before = await scraped(server)
        for path, status in (
            ("/reports/claims-by-payer", 200),
            ("/reports/claims-by-payer?format=csv", 200),
            ("/reports/claims-by-payer?_count=-1", 400),
            ("/reports/claims/nobody/nothing", 404),
        ):
            assert (await server.get(path)).status == status, path
        text = await scraped(server)
    count = "sluice_report_duration_seconds_count"
    assert {series for series in samples(text) if series.startswith(count)} == {
        f'{count}{{report="{name}"}}' for name in NAMES.values()
    }
    assert total(before, count) == 0
    assert total(text, count) == total(text, count, report="report_claims_by_payer") == 2
    assert 0 < total(text, "sluice_report_duration_seconds_sum") < 10


def test_long_silent() -> None:
    """Of a process that has long said nothing its counts go on to count, and how things stood with it is forgotten."""
    metrics = Metrics()
    metrics.requests.child("none", "direct", "200", "").add(2)
    metrics.pool_wait.child("api").observe(1)
    metrics.pool_connections.child("api", "busy").add(3)
    said = metrics.snapshot()
    assert still_said(metrics, 100.0, said, 129.0) == said
    kept = {name for name, found in still_said(metrics, 100.0, said, 131.0).items() if found}
    assert {"sluice_requests_total", "sluice_pool_wait_seconds"} <= kept
    assert "sluice_pool_connections" not in kept


# What is measured of the process


async def test_loop_lag() -> None:
    """A loop that is blocked shows as lag, and the watch ends when it is told, without waiting for its timer."""
    lag, stop = Distribution(LATENCY_BOUNDS), asyncio.Event()
    watch = asyncio.create_task(watch_loop(lag, stop, every_s=0.01))
    await asyncio.sleep(0)  # it waits
    began = perf_counter()
    while perf_counter() - began < 0.05:
        pass
    await until(lambda: sum(lag.counts) > 0)
    assert lag.total > 0.035
    stop.set()
    await watch
    long = asyncio.create_task(watch_loop(lag, stop, every_s=60))
    async with asyncio.timeout(1):
        await long


def read_process(data_dir: Path | None = None) -> dict[str, dict[Labels, float]]:
    return {name: dict(row[4]()) for name, row in readings(data_dir).items()}


def test_process() -> None:
    """The process' own numbers are those of this process, in seconds and bytes."""
    read = {name: found.get((), math.nan) for name, found in read_process().items()}
    assert 0 < read["process_cpu_seconds_total"] < 3600
    assert 10e6 < read["process_resident_memory_bytes"] < read["process_virtual_memory_bytes"]
    assert 3 <= read["process_open_fds"] < read["process_max_fds"]


def test_garbage() -> None:
    """A look for garbage is counted by its generation, its time once, however many catalogues ask."""
    for _ in range(3):
        before = read_process()
    began = perf_counter()
    gc.collect()
    took = perf_counter() - began
    after = read_process()
    of = {
        name: {key: after[name][key] - before[name][key] for key in after[name]}
        for name in after
        if name.startswith("sluice_gc")
    }
    assert of["sluice_gc_collections_total"]["2",] == 1
    assert 0 < of["sluice_gc_pause_seconds_total"][()] <= took


def test_machine(tmp_path: Path) -> None:
    """The machine's numbers are those of the system: CPU that passes, memory, and the disk that the data folder will be on."""
    read = read_process(tmp_path / "not" / "yet")
    cpu, memory, disk = (read[f"sluice_machine_{name}"] for name in ("cpu_seconds_total", "memory_bytes", "disk_bytes"))
    assert set(cpu) == {(mode,) for mode in ("user", "system", "idle", "iowait", "other")}
    system = psutil.cpu_times()._asdict()
    within = 10.0 * (os.cpu_count() or 1)  # of what passes meanwhile
    assert cpu["idle",] == pytest.approx(system["idle"], abs=within)
    all_of_it = sum(seconds for mode, seconds in system.items() if not mode.startswith("guest"))  # which is in `user`
    assert sum(cpu.values()) == pytest.approx(all_of_it, abs=within)
    assert 0 < memory["available",] < memory["total",]
    usage = shutil.disk_usage(tmp_path)
    assert disk["total",] == usage.total
    assert disk["free",] == pytest.approx(usage.free, rel=0.2)
    assert list(read["sluice_build_info"].values()) == [1.0]


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell what a process reads and writes")
def test_io() -> None:
    """What this process read from disks and wrote to them is what the system says."""
    process = psutil.Process()
    before, read, after = process.io_counters(), read_process()["process_io_bytes_total"], process.io_counters()
    assert before.read_bytes <= read["read",] <= after.read_bytes
    assert before.write_bytes <= read["written",] <= after.write_bytes


async def test_pool_is_measured(database: str) -> None:
    """While connections are lent they are counted as busy, and their time is added up."""
    async with served(database, pool_size=7) as server:
        async with server.services.storage.latest() as connection:
            await connection.fetch("SELECT pg_sleep(0.01)")
            await until(lambda: server.services.storage.api.counts()["busy"] == 1)  # what is warm is restored beside it
            busy = await scraped(server)
        idle = await scraped(server)
    assert [total(busy, "sluice_pool_connections", pool="api", state=state) for state in ("busy", "idle", "missing")] == [
        1,
        6,
        0,
    ]
    assert [total(idle, "sluice_pool_connections", pool="api", state=state) for state in ("busy", "idle", "missing")] == [
        0,
        7,
        0,
    ]
    assert total(idle, "sluice_pool_busy_seconds_total") - total(busy, "sluice_pool_busy_seconds_total") > 0.01
