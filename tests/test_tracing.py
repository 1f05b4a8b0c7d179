"""Spans as a collector receives them: of requests by both paths, batches, errors, and a worker's polls."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

from base import tracing
from base.config import Config
from tenants.direct import DirectLine
from tests.logged import Lines
from tests.polls import clinics, polling
from tests.processes import environment
from tests.spans import Spans, Told, collecting
from tests.support import Served, add_tenant, connected, patient, served, until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MARKER = "Zyxwvutsrq"
GET = "GET /patients/{id}"


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spans]:
    """Named by the standard variables; spans are sent at once."""
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield collector


@pytest.fixture
async def key(database: str) -> str:
    return await add_tenant(database, "one", [patient(f"{MARKER}-{n}", name=[{"family": MARKER}]) for n in range(20)])


async def warm(server: Served, collector: Spans) -> None:
    assert (await server.get("/warm-up", method="POST")).status == 201
    await collector.seen("POST /warm-up")
    collector.spans.clear()


def one(spans: list[Told]) -> Told:
    (span,) = spans
    return span


# The trees


async def test_direct(database: str, key: str, collector: Spans) -> None:
    """A direct request is a server span: its wait in the line and its query are below it, in that order."""
    async with served(database, keys={"one": key}, tracing="on") as server:
        reply = await server.get(f"/patients/{MARKER}-1")
        span = one(await collector.seen(GET))
    assert (span.kind, span.parent, span.failed) == (2, "", False)
    assert collector.below(span) == ["queue", "query"]
    assert span.facts == {
        "http.request.method": "GET",
        "http.route": "/patients/{id}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "sluice.request_id": reply.headers["X-Request-ID"],
        "sluice.operation": "get_patient",
        "sluice.tenant": "one",
        "sluice.path": "direct",
        "sluice.arm": "none",
        "sluice.rows": 1,
        "sluice.shared": False,
    }
    query = one(collector.named("query"))
    assert (query.kind, query.facts["db.system.name"]) == (3, "postgresql")
    assert all(span.began <= each.began <= each.ended <= span.ended for each in collector.children(span))
    assert abs(span.ended / 1e9 - time.time()) < 60
    assert collector.resources[0]["service.name"] == "sluice"


async def test_channel(database: str, key: str, collector: Spans) -> None:
    """A channel's request has its wait in the channel and the batch below it, and the batch has the query."""
    async with served(database, keys={"one": key}, tracing="on") as server:
        await warm(server, collector)
        assert (await server.get(f"/patients/{MARKER}-1")).path == "channel"
        span = one(await collector.seen(GET))
    assert collector.below(span) == ["queue", "batch"]
    batch = one(collector.named("batch"))
    assert collector.below(batch) == ["query"]
    assert batch.facts == {"sluice.operation": "get_patient", "sluice.batch.size": 1, "sluice.rows": 1}
    assert batch.links == ((span.trace, span.own),)
    assert (span.facts["sluice.path"], span.facts["sluice.arm"]) == ("channel", "treatment")


async def test_batch(database: str, key: str, collector: Spans) -> None:
    """A batch is one span, linked to every request that it answers; it is the first one's child, and each other links to it."""
    async with served(database, keys={"one": key}, tracing="on", pool_size=8) as server:
        await warm(server, collector)
        paths = [f"/patients/{MARKER}-{number}" for number in range(20)]
        replies = await asyncio.gather(*map(server.get, paths))
        assert {reply.path for reply in replies} == {"channel"}
        requests = {span.own: span for span in await collector.seen(GET, 20)}
    batches = collector.named("batch")
    assert sum(batch.facts["sluice.batch.size"] for batch in batches) == 20
    assert max(batch.facts["sluice.batch.size"] for batch in batches) > 1
    assert sorted(own for batch in batches for _, own in batch.links) == sorted(requests)
    of_request = {own: batch for batch in batches for _, own in batch.links}
    for own, request in requests.items():
        batch = of_request[own]
        if batch.parent == own:
            assert collector.below(request) == ["queue", "batch"]
        else:
            assert collector.below(request) == ["queue", "batched"]
            (batched,) = [each for each in collector.children(request) if each.name == "batched"]
            assert batched.links == ((batch.trace, batch.own),)
        assert (request.trace, request.own) in batch.links


async def test_error(database: str, key: str, collector: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours is one of its span, too, without a word of it."""

    def fail(*_: object) -> NoReturn:
        raise ValueError(f"no such patient: {MARKER}")

    async with served(database, keys={"one": key}, tracing="on") as server:
        monkeypatch.setattr(DirectLine, "submit", fail)
        assert (await server.get(f"/patients/{MARKER}-1")).status == 500
        span = one(await collector.seen(GET))
    assert (span.failed, span.facts["http.response.status_code"], span.facts["error.type"]) == (True, 500, "500")
    assert MARKER.encode() not in b"".join(collector.raw)


async def test_failed_batch(database: str, key: str, collector: Spans) -> None:
    """A statement that the database refuses fails its batch and the requests in it; a missing patient fails nothing."""
    async with served(database, keys={"one": key}, tracing="on") as server, connected(database) as connection:
        await warm(server, collector)
        assert (await server.get(f"/patients/{MARKER}-none")).status == 404
        assert not one(await collector.seen(GET)).failed
        collector.spans.clear()
        await connection.execute("REVOKE SELECT ON fhir.resource FROM sluice_api")
        assert (await server.get(f"/patients/{MARKER}-1")).status == 500
        span = one(await collector.seen(GET))
    batch = one(collector.named("batch"))
    assert (span.failed, batch.failed, batch.facts["error.type"]) == (True, True, "InsufficientPrivilegeError")
    assert (collector.below(span), collector.below(batch)) == (["queue", "batch"], ["query"])
    assert MARKER.encode() not in b"".join(collector.raw)


async def test_cancelled(database: str, key: str, collector: Spans) -> None:
    """A client that left has its span, which says so."""
    async with (
        served(database, keys={"one": key}, tracing="on") as server,
        connected(database) as connection,
        connection.transaction(),
    ):
        await connection.execute("LOCK TABLE fhir.resource IN ACCESS EXCLUSIVE MODE")
        asking = asyncio.create_task(server.get(f"/patients/{MARKER}-1"))
        await until(lambda: server.services.direct.standing()["running"])
        asking.cancel()
        span = one(await collector.seen(GET))
    assert (span.failed, span.facts["error.type"]) == (True, "cancelled")


# Whose trace it is


async def test_continued(database: str, key: str, collector: Spans) -> None:
    """A client's trace goes on here, if it is sampled; what is no traceparent begins a trace of its own."""
    async with served(database, keys={"one": key}, tracing="on") as server:
        await server.get("/patients/none", traceparent=f"00-{TRACE}-{SPAN}-00")
        await server.get("/patients/none", traceparent=f"00-{TRACE}-{SPAN}-01", tracestate=f"x={MARKER}", baggage=MARKER)
        span = one(await collector.seen(GET))
        assert (span.trace, span.parent) == (TRACE, SPAN)
        odd = [
            "",
            "00",
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE}-{SPAN}-01-x",
        ]
        for header in [*odd, f"00-{TRACE.upper()}-{SPAN}-01"]:
            assert (await server.get("/patients/none", traceparent=header)).status == 404
        await collector.seen(GET, 8)
    assert {span.parent for span in collector.named(GET)[1:]} == {""}
    assert TRACE not in {span.trace for span in collector.named(GET)[1:]}
    assert MARKER.encode() not in b"".join(collector.raw)


async def test_sampler(database: str, key: str, collector: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard variables draw the sample; a client that has sampled its own trace has it here, too, batch and all."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    async with served(database, keys={"one": key}, tracing="on") as server:
        assert (await server.get("/warm-up", method="POST")).status == 201
        replies = [server.get(f"/patients/{MARKER}-{number}") for number in range(8)]
        await asyncio.gather(*replies, server.get("/patients/none", traceparent=f"00-{TRACE}-{SPAN}-01"))
        await collector.seen(GET)
        await collector.seen("batch")
    assert {span.trace for span in collector.spans} == {TRACE}
    assert len(collector.named("batch")[0].links) == 1


async def test_unasked(database: str, key: str, collector: Spans) -> None:
    """No span is of a probe of health or of a scrape."""
    async with served(database, keys={"one": key}, tracing="on") as server:
        for path in ("/metrics", "/health/live", "/health/ready"):
            assert (await server.get(path, None)).status == 200
        await server.get("/nowhere", None)
        assert (await collector.seen("GET"))[0].facts["http.response.status_code"] == 404
    assert {span.name for span in collector.spans} == {"GET"}


async def test_lines(database: str, key: str, collector: Spans, lines: Lines) -> None:
    """A log line says which trace and span it is of."""
    async with served(database, keys={"one": key}, tracing="on", access_log="all") as server:
        await server.get("/patients/none")
        span = one(await collector.seen(GET))
        (line,) = [line for line in lines() if line["event"] == "request.answered"]
    assert (line["trace_id"], line["span_id"]) == (span.trace, span.own)
    structlog.get_logger().info("thing.happened")
    assert "trace_id" not in lines()[-1]


# Trouble


async def test_away(database: str, key: str, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that hangs costs requests nothing but a few lines, and holds up the end by seconds at most."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
        monkeypatch.setattr(tracing, "_CLOSE_S", 0.2)
        async with served(database, keys={"one": key}, tracing="on") as server:
            for _ in range(100):
                assert (await server.get(f"/patients/{MARKER}-1")).status == 200
            began = time.monotonic()
        assert time.monotonic() - began < 3
    assert len([line for line in lines() if line["event"] == "library.logged"]) < 5


async def test_gone(database: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the collector's address: requests are answered as ever."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr(tracing, "_CLOSE_S", 0.2)
    async with served(database, keys={"one": key}, tracing="on") as server:
        for _ in range(20):
            assert (await server.get(f"/patients/{MARKER}-1")).status == 200


def test_missing(tmp_path: Path) -> None:
    """Without the extra, `on` is an error that says what to install, by each command that would trace; `off` needs nothing."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()  # one that has no SDK
    for words in (["serve", "--workers", "2"], ["worker"]):
        settings = environment(
            tracing="on", secret="x" * 32, database_url="postgresql://127.0.0.1:1/x", PYTHONPATH=str(tmp_path), port=0
        )
        done = subprocess.run(
            [sys.executable, "-c", "from app.cli import main; main()", *words],
            env=settings,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert 'pip install "sluice[tracing]"' in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not tracing.is_on(Config(tracing="off"))


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is off neither the API nor the worker imports OpenTelemetry; OTEL_SDK_DISABLED goes before the setting."""
    code = """
import sys, app.main, app.worker, base.config
app.main.create_app(base.config.Config())
print([name for name in sys.modules if "opentelemetry" in name])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\n"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not tracing.is_on(Config(tracing="on"))


# A worker


async def test_poll(database: str, collector: Spans) -> None:
    """A poll is a trace: its listings and its files, each with its download, its load in stages, and its acknowledgement."""
    async with clinics(database) as of:
        with contextlib.ExitStack() as opened:
            opened.enter_context(tracing.tracing(Config(tracing="on"), "worker"))
            async with polling(of) as poller:
                await poller.of(of.licences[0])
            poll = one(await collector.seen("poll"))
            await asyncio.to_thread(opened.close)
    assert (poll.parent, poll.failed) == ("", False)
    assert poll.facts.items() >= {"sluice.tenant": "clinic", "sluice.facility": of.licences[0], "sluice.outcome": "ok"}.items()
    assert poll.facts["sluice.poll"] == await of.value("SELECT max(run_id) FROM ops.poll_run")
    assert {span.trace for span in collector.spans} == {poll.trace}
    below = collector.below(poll)
    assert set(below) == {"list", "file"}
    files = collector.named("file")
    assert sorted(span.facts["sluice.file"] for span in files) == sorted(file.file_id for file in of.files[of.licences[0]])
    for file in files:
        stages = ["download", "load", "acknowledge"] if file.facts["sluice.state"] == "loaded" else ["download", "load"]
        assert collector.below(file) in (stages, stages[:2])
        (load,) = [span for span in collector.children(file) if span.name == "load"]
        assert collector.below(load)[0] == "parse"
        assert collector.below(load)[-1] == "finish"
