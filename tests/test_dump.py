"""Dumps of real processes: what a signal makes them write down, while they go on."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from simulator.post_office import Behaviour
from tests.polls import clinics
from tests.processes import Running, running
from tests.support import add_tenant, connected, patient
from tests.test_worker import working

MARKER = "Zyxwvutsrq"
Line = dict[str, Any]


async def dumped(process: Running, times: int = 1, by: int | None = None) -> list[Line]:
    """All lines that a signal brings, once so many dumps have ended."""
    before, known = len(process.logged("dump.ended")), len(process.err)
    os.kill(by or process.pid, signal.SIGUSR1)
    await process.seen(lambda: len(process.logged("dump.ended")) >= before + times or None)
    return [line for line in map(_read, process.err[known:]) if line and line["event"].startswith("dump.")]


def _read(text: str) -> Line | None:
    import json

    return json.loads(text) if text.startswith("{") else None


def named(lines: list[Line], event: str) -> list[Line]:
    return [line for line in lines if line["event"] == f"dump.{event}"]


@asynccontextmanager
async def asking(url: str, key: str, *paths: str) -> AsyncIterator[None]:
    """Requests that go on until the block is left."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def ask(path: str) -> None:
            async with session.get(url + path) as response:
                await response.read()

        tasks = [asyncio.create_task(ask(path)) for path in paths]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def locked(database: str) -> AsyncIterator[None]:
    """Whoever reads resources waits until the block is left."""
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE fhir.resource IN ACCESS EXCLUSIVE MODE")
        yield


async def test_api(database: str) -> None:
    """A dump of a server says its tasks and where they wait, its channels, lanes, direct line, and who holds what."""
    key = await add_tenant(database, "one", [patient(MARKER)])
    async with running("serve", database_url=database, control_share=0, deadline_s=100) as server:
        url = await server.url()
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
            async with session.post(f"{url}/warm-up") as response:
                assert response.status == 201
            others = [f"/fhir/Observation/{MARKER}"] * 3
            async with locked(database), asking(url, key, *[f"/patients/{MARKER}"] * 40, *others):
                while named(last := await dumped(server), "tenant")[0]["open"] < 40 or len(named(last, "connection")) < 5:
                    pass
                async with asking(url, key, *[f"/patients/{MARKER}"] * 7):
                    while named(last := await dumped(server), "tenant")[0]["open"] < 47:
                        pass
            async with session.get(f"{url}/patients/{MARKER}") as response:
                assert response.status == 200
        assert await server.end() == 0
    tenant = named(last, "tenant")[0]
    assert (tenant["tenant"], tenant["phase"], tenant["generation"]) == ("one", "warm", 1)
    assert tenant["waiting"] == tenant["channels"]["get_patient"] >= 7
    lanes = {line["lane"]: line for line in named(last, "lane")}
    assert (lanes["read"]["slots"], lanes["read"]["idle"], lanes["read"]["tenants"]) == (2, 0, 1)
    assert lanes["review"]["idle"] == 1
    assert named(last, "direct")[0]["running"] == 3
    pools = {line["pool"]: line for line in named(last, "pool")}
    assert pools["api"]["busy"] == len([line for line in named(last, "connection") if line["pool"] == "api"]) == 5
    held = named(last, "connection")
    assert {line["holder"] for line in held} == {"Dispatcher._slot", "DirectLine._answer"}
    assert all(line["at"].startswith("storage/asks.py:") and line["held_s"] >= 0 for line in held)
    assert {line["operation"] for line in held} == {"get_patient", "read_other"}
    tasks = {line["coroutine"]: line for line in named(last, "task")}
    assert tasks["DirectLine._answer"]["tasks"] == 3
    assert tasks["TenantRegistry.run"]["at"].startswith("tenants/registry.py:")
    assert "MainThread" in {line["thread"] for line in named(last, "thread")}
    assert last[-1]["event"] == "dump.ended"
    assert MARKER not in "".join(server.err)


async def test_stuck(database: str) -> None:
    """While the event loop is stuck a dump says where, and goes on when it turns; SIGUSR2 says it in plain text."""
    code = """
import sys, threading, time
import app.cli
from handlers import health
async def stick(request):
    print("sticking", file=sys.stderr, flush=True)
    end = time.monotonic() + 1.8
    while time.monotonic() < end:
        pass
health.live = stick
sys.argv = ["sluice", "serve"]
app.cli.main()
"""
    async with running_code(code, database_url=database) as server:
        url = await server.url()
        async with asking(url, "none", "/health/live"):
            await server.seen(lambda: "sticking" in server.err or None)
            os.kill(server.pid, signal.SIGUSR1)
            os.kill(server.pid, signal.SIGUSR2)
            (stuck,) = await server.seen(lambda: server.logged("dump.loop_stuck") or None)
            (main,) = [line for line in server.logged("dump.thread") if line["thread"] == "MainThread"]
            assert main["frames"][-1].endswith(" stick")
            assert not server.logged("dump.ended")
            await server.seen(lambda: server.logged("dump.ended") or None)
        assert any(line.strip().endswith("in stick") for line in server.err)
        assert stuck["level"] == "warning"
        assert await server.end() == 0


async def test_workers(database: str) -> None:
    """A parent passes both signals on to its processes, and nothing ends by them."""
    async with running("serve", "--workers", 2, database_url=database) as server:
        await server.url(2)
        lines = await dumped(server, 3)
        assert {(line["component"], line.get("worker")) for line in named(lines, "ended")} == {
            ("supervisor", None),
            ("api", 0),
            ("api", 1),
        }
        children = {line["worker"]: line["pid"] for line in named(lines, "process")}
        assert set(children) == {0, 1}
        os.kill(server.pid, signal.SIGUSR2)
        # Three write at once, piece by piece, into one pipe: lines mix, but not what is written in one go.
        await server.seen(lambda: "\n".join(server.err).count("Current thread 0x") >= 3 or None)
        assert not server.logged("worker.ended")
        assert await server.end() == 0


@pytest.mark.prove
async def test_starting(database: str) -> None:
    """A process that is just starting gets no signal, which would end it."""
    async with running("serve", "--workers", 2, database_url=database) as server:
        await server.url(2)
        children = {line["worker"]: line["pid"] for line in named(await dumped(server, 3), "process")}
        os.kill(children[0], signal.SIGKILL)
        await server.seen(lambda: server.logged("worker.ended") or None)
        while len(server.logged("server.started")) < 3:
            await dumped(server, 2)
        assert len(server.logged("worker.ended")) == 1
        assert await server.end() == 0


async def test_worker(database: str) -> None:
    """A worker says which facilities it polls and how far it is, what waits, and its pool."""
    async with clinics(database, 2, behaviour=Behaviour(slow_s=5.0)) as of, working(database) as worker:
        lines = await dumped(worker)
        while len(named(lines, "poll")) < 2:
            lines = await dumped(worker)
        assert {line["facility"] for line in named(lines, "poll")} == set(of.licences)
        assert {line["pool"] for line in named(lines, "pool")} == {"ingest"}
        assert named(lines, "brake")[-1]["stopped"] is False
        assert "Poller.poll" in {line["coroutine"] for line in named(lines, "task")}
        assert await worker.end() == 0


@asynccontextmanager
async def running_code(code: str, **settings: Any) -> AsyncIterator[Running]:
    """As `running`, of Python code that runs the command."""
    from tests.processes import _ended, environment

    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=pipe, stderr=pipe, env=environment(port=0, **settings)
    )
    run = Running(process)
    reading = asyncio.create_task(run.read())
    try:
        yield run
    finally:
        await _ended(process)
        await reading
