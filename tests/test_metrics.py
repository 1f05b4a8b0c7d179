import asyncio
import itertools
import math
import re
from time import perf_counter
from typing import Any

import msgspec
import pytest

from base.identity import key_hash
from base.operations import OPERATIONS
from metrics.accumulators import LATENCY_BOUNDS, Distribution, Family, merged
from metrics.catalog import FirstComers, Metrics, WorkerMetrics
from metrics.exposition import exposition
from metrics.loop_lag import watch_loop
from metrics.process import readings
from tenants.places import MOST, OTHER
from tests.processes import samples, total
from tests.support import Served, add_tenant, connected, patient, served, until

# What the design promises of the API's process: name, kind, labels.
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
    "sluice_pool_connections": ("gauge", "pool,state"),
    "sluice_pool_wait_seconds": ("histogram", "pool"),
    "sluice_pool_busy_seconds_total": ("counter", "pool"),
    "sluice_event_loop_lag_seconds": ("histogram", ""),
    "process_cpu_seconds_total": ("counter", ""),
    "process_resident_memory_bytes": ("gauge", ""),
    "process_virtual_memory_bytes": ("gauge", ""),
    "process_open_fds": ("gauge", ""),
    "process_max_fds": ("gauge", ""),
    "process_start_time_seconds": ("gauge", ""),
}
# And of a worker's: scraped from a real one in test_ingestion_walk.py.
PROMISED_OF_WORKERS = {
    "sluice_ingest_files_total": ("counter", "facility,outcome"),
    "sluice_ingest_claims_total": ("counter", "facility"),
    "sluice_ingest_stage_duration_seconds": ("histogram", "stage"),
    "sluice_facility_polls_total": ("counter", "facility,outcome"),
    "sluice_facilities_polling": ("gauge", ""),
    "sluice_ingest_throttle": ("gauge", "reason"),
    "sluice_ingest_held_bytes": ("gauge", ""),
    "sluice_jobs": ("gauge", "entrypoint,status"),
    **{
        name: row
        for name, row in PROMISED.items()
        if name.startswith(("process_", "sluice_pool_", "sluice_event_loop_lag_seconds"))
    },
}
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


async def test_promised(database: str) -> None:
    """Every metric promised of the API is there from the start, with its kind and its labels, and is a number."""
    async with served(database) as server:
        text = await scraped(server)
    found = kinds(text)
    assert {name: found.get(name) for name in PROMISED} == {name: kind for name, (kind, _) in PROMISED.items()}
    promised = {name: {",".join(sorted(labels.split(",")))} for name, (_, labels) in PROMISED.items()}
    assert {name: labels_of(text, name) for name in PROMISED} == promised
    assert all(math.isfinite(value) for value in samples(text).values())


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


def test_scrape_is_quick() -> None:
    """A scrape of a server whose hundred places are taken takes less than 50 ms."""
    metrics = Metrics()
    metrics.add_process()
    metrics.channel_depth.read = lambda: [((f"t{n}", o.name), 1.0) for n in range(MOST + 1) for o in OPERATIONS]
    for number in range(MOST):
        for operation in OPERATIONS:
            metrics.channel_messages.child(f"t{number}", operation.name).add()
    took = []
    for _ in range(5):
        began = perf_counter()
        text = exposition(metrics.families, metrics.snapshot())
        took.append(perf_counter() - began)
    assert len(text.splitlines()) > 3000
    print(f"{min(took) * 1e3:.1f} ms for {len(text.splitlines())} lines")
    assert min(took) < 0.05


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


def test_process() -> None:
    """The process' own numbers are those of this process, in seconds and bytes."""
    read = {name: next(iter(row[3]()))[1] for name, row in readings().items()}
    assert 0 < read["process_cpu_seconds_total"] < 3600
    assert 10e6 < read["process_resident_memory_bytes"] < read["process_virtual_memory_bytes"]
    assert 3 <= read["process_open_fds"] < read["process_max_fds"]


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
