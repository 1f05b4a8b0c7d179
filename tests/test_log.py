"""What the log says, and what it must never say. CANARY stands for a patient's data."""

import asyncio
import gc
import io
import logging
import os
import re
import socket
from typing import Any, NoReturn

import pytest
import structlog

from base.log import about
from base.version import VERSION
from handlers import middleware
from tenants.direct import DirectLine
from tests.logged import Lines, named
from tests.support import Served, add_tenant, patient, served

CANARY = "Gro\u00dfmann-1979-06-11"
WRITER = {"service": "sluice", "component": "api", "process": os.getpid(), "version": VERSION}
log = structlog.get_logger()


def fail() -> NoReturn:
    patient_name = CANARY
    raise ValueError(f"no such patient: {patient_name}")


# Lines


def test_a_line(lines: Lines) -> None:
    """A line is one JSON object: when, what, and who wrote it; the facts of what it is about; and its own, which win."""
    with about(tenant="north", count=1):
        log.warning("thing.happened", count=3, text='two\nlines "quoted"', odd={1})
    log.info("thing.ended")
    line, after = lines()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert list(line)[:7] == ["timestamp", "level", "event", *WRITER]
    assert after == {**WRITER, "timestamp": after["timestamp"], "level": "info", "event": "thing.ended"}
    del line["timestamp"]
    assert line == {
        **WRITER,
        "event": "thing.happened",
        "level": "warning",
        "tenant": "north",
        "count": 3,
        "text": 'two\nlines "quoted"',
        "odd": "{1}",
    }


def test_level(lines: Lines, written: io.BytesIO) -> None:
    """What is below the level is not written."""
    log.debug("thing.considered")
    assert written.getvalue() == b""
    log.info("thing.happened")
    assert len(lines()) == 1


@pytest.mark.parametrize("as_flag", [True, False])
def test_exception(lines: Lines, written: io.BytesIO, as_flag: bool) -> None:
    """An exception is logged as its type and the places it passed, without message, source lines and variables."""
    try:
        fail()
    except ValueError as error:
        log.error("thing.failed", exc_info=True if as_flag else error)
    (line,) = lines()
    assert line["exception"] == "ValueError"
    assert [frame.partition(":")[0] for frame in line["frames"]] == ["test_log.py", "test_log.py"]
    assert line["frames"][-1].endswith(" fail")
    assert CANARY not in written.getvalue().decode()
    assert "Gro" not in written.getvalue().decode()


def test_group(lines: Lines, written: io.BytesIO) -> None:
    """Of a TaskGroup's error the log names what went wrong in its first task."""
    try:
        fail()
    except ValueError as error:
        log.error("thing.failed", exc_info=ExceptionGroup("g", [ExceptionGroup(CANARY, [error])]))
    (line,) = lines()
    assert line["exception"] == "ValueError"
    assert line["frames"][-1].endswith(" fail")
    assert b"Gro" not in written.getvalue()


def test_no_exception(lines: Lines) -> None:
    """`exc_info` where nothing was raised adds nothing."""
    log.error("thing.failed", exc_info=True)  # noqa: LOG014  # that is what is tested
    assert {"exception", "frames", "exc_info"}.isdisjoint(lines()[0])


# Libraries


def test_libraries(lines: Lines, written: io.BytesIO) -> None:
    """What a library logs is a line of ours: its words without values, its exception without message."""
    try:
        fail()
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", CANARY)
    logging.getLogger("aiohttp.access").info("GET /patients?name=%s", CANARY)
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("library.logged", "error", "aiohttp.server")
    assert (line["text"], line["exception"]) == ("Error handling request from %s", "ValueError")
    assert b"Gro" not in written.getvalue()


async def test_lost_exception(lines: Lines, written: io.BytesIO) -> None:
    """An exception that nobody fetched is reported by asyncio, and even then says nothing of a patient."""

    async def lose() -> None:
        fail()

    task = asyncio.create_task(lose())
    await asyncio.wait([task])
    del task
    gc.collect()
    (line,) = lines()
    assert (line["logger"], line["text"]) == ("asyncio", "Task exception was never retrieved")
    assert (line["exception"], line["frames"][-1].rpartition(" ")[2]) == ("ValueError", "fail")
    assert b"Gro" not in written.getvalue()


async def test_failed_callback(lines: Lines, written: io.BytesIO) -> None:
    """A callback that fails is named without the arguments that it had."""
    asyncio.get_running_loop().call_soon(lambda _text: fail(), CANARY)
    await asyncio.sleep(0)
    (line,) = lines()
    assert line["text"].startswith("Exception in callback test_failed_callback")
    assert line["exception"] == "ValueError"
    assert b"Gro" not in written.getvalue()


# Requests


async def answered(server: Served, lines: Lines, path: str, tenant: str | None = "one") -> list[dict[str, Any]]:
    """The request's own lines."""
    reply = await server.get(path, tenant)
    return [line for line in named(lines(), "request.answered") if line["request_id"] == reply.headers["X-Request-ID"]]


async def test_all(database: str, lines: Lines) -> None:
    """With SLUICE_ACCESS_LOG=all every request has one line: who, what, by which path, the outcome and the time."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, access_log="all") as server:
        (line,) = await answered(server, lines, "/patients/p")
        assert 0 < line.pop("took_ms") < 5000
        line.pop("timestamp"), line.pop("request_id")
        assert line == {
            **WRITER,
            "event": "request.answered",
            "level": "info",
            "method": "GET",
            "operation": "get_patient",
            "tenant": "one",
            "path": "direct",
            "status": 200,
        }
        (line,) = await answered(server, lines, "/nowhere", None)
        assert (line["operation"], line["tenant"], line["status"]) == ("none", "", 404)
        (line,) = await answered(server, lines, "/patients/p", None)
        assert line["status"] == 401


@pytest.mark.parametrize(
    ("mode", "drawn", "expected"),
    [("sample", 0.005, 1), ("sample", 0.02, 0), ("off", 0.0, 0), ("all", 0.99, 1)],
)
async def test_ordinary(
    database: str, lines: Lines, monkeypatch: pytest.MonkeyPatch, mode: str, drawn: float, expected: int
) -> None:
    """Of ordinary requests one in a hundred has a line, none with `off`, every one with `all`."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, access_log=mode) as server:
        monkeypatch.setattr("random.random", lambda: drawn)
        assert len(await answered(server, lines, "/patients/p")) == expected
        assert len(await answered(server, lines, "/patients/nobody")) == expected


@pytest.mark.parametrize("mode", ["sample", "off", "all"])
async def test_slow(database: str, lines: Lines, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A slow request has its line in every mode."""
    monkeypatch.setattr("random.random", lambda: 0.99)
    monkeypatch.setattr(middleware, "SLOW_S", 0.0)
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, access_log=mode) as server:
        assert len(await answered(server, lines, "/patients/p")) == 1


@pytest.mark.parametrize("mode", ["sample", "off", "all"])
async def test_error(database: str, lines: Lines, written: io.BytesIO, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """An error of ours has its place and its line in every mode, found by the request's id, and its words are nowhere."""
    monkeypatch.setattr("random.random", lambda: 0.99)
    monkeypatch.setattr(DirectLine, "submit", lambda *_: fail())
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, access_log=mode) as server:
        reply = await server.get("/patients/p", X_Request_ID="mine-1")
    (failed,) = named(lines(), "request.failed")
    assert (failed["request_id"], failed["exception"]) == ("mine-1", "ValueError")
    assert failed["frames"][-1].endswith(" fail")
    (line,) = named(lines(), "request.answered")
    assert (line["request_id"], line["status"]) == ("mine-1", 500)
    assert reply.status == 500
    assert b"Gro" not in written.getvalue() + reply.body


async def test_never(database: str, lines: Lines, written: io.BytesIO) -> None:
    """Neither a query string, nor an id, a key or a header, nor what could not be parsed, is ever in the log."""
    key = await add_tenant(database, "one", [patient("p")])
    name = CANARY.encode("unicode_escape").decode().replace("\\", "%5C")
    async with served(database, keys={"one": key}, access_log="all") as server:
        for path in (
            f"/patients?name={name}",
            f"/patients/{name}",
            f"/{name}",
            f"/patients?{name}=1",
            f"/patients?_cursor={name}",
        ):
            assert len(await answered(server, lines, path)) == 1
        await server.get("/patients", X_Request_ID=name, X_Sluice_Force=name, Accept=name)
        await asyncio.to_thread(speak, server.url, f"GET /patients?name={name} HTTP/9.9\r\n{name}\r\n\r\n")
        await asyncio.to_thread(speak, server.url, f"{name}\r\n\r\n")
    assert named(lines(), "request.refused")
    text = written.getvalue().decode()
    assert "Gro" not in text
    assert "1979" not in text
    assert key not in text


def speak(url: str, text: str) -> None:
    """Sends what no client would, and waits for the answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(text.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.0 400 ")
