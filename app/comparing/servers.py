"""Servers in processes of their own: how they are started, asked, warmed up, and what CPU they have used."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from app.comparing.workloads import Holding
from base.errors import Problem


class CompareError(Problem):
    """What cannot be measured; the message says why."""


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process

    def ask(self, method: str, path: str, key: str, **headers: str) -> tuple[int, bytes]:
        """One request, of what is not measured."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {key}", **headers})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


@dataclass(frozen=True)
class Arm:
    """What is compared: a server, and the path that its requests are forced to go, if they are."""

    name: str
    server: Server
    force: str | None = None

    @property
    def path(self) -> str:
        """What X-Sluice-Path must say."""
        return "direct" if self.name == "direct" else "channel"


@contextmanager
def served(part: str, url: str, *, delay_s: float = 0.0, cooldown_s: float = 3600.0) -> Iterator[Server]:
    """One of server.PARTS. The settings are the environment's, but for those that a comparison needs.

    `cooldown_s`: longer than it takes, but no longer than a tenant may stay warm if it is ended by force.
    """
    ours = {
        "SLUICE_DATABASE_URL": url,
        "SLUICE_CHANNELS": "off" if part == "direct" else "on",
        "SLUICE_CONTROL_SHARE": "0",
        "SLUICE_COOLDOWN": "fixed",
        "SLUICE_COOLDOWN_S": str(cooldown_s),
        "SLUICE_HOST": "127.0.0.1",
        "SLUICE_REPORT_POOL_SIZE": "1",  # of several servers at once, and no report is asked for
        "SLUICE_BASE_URL": "http://localhost",  # so that all servers' answers are alike
    }
    with tempfile.TemporaryFile() as log, child_of("app.comparing.server", part, str(delay_s), log=log, env=ours) as child:
        port = child.stdout.readline() if child.stdout else b""
        if not port:
            log.seek(0)
            raise CompareError(f"the {part} server did not start: {log.read().decode(errors='replace').strip()[-500:]}")
        yield Server(int(port), psutil.Process(child.pid))


@contextmanager
def child_of(module: str, *words: str, log: Any = None, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A module of ours as a process that is spoken to by its standard streams, and ended when the block is left."""
    child = subprocess.Popen(  # this interpreter, and a module of ours
        [sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **(env or {})},
        start_new_session=True,  # a Ctrl-C in the terminal is ours to tell
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextmanager
def warmed_up(server: Server, holdings: Sequence[Holding], warm_before: frozenset[str]) -> Iterator[None]:
    """All tenants are warm meanwhile; who was cold before is cold again."""
    warm(server, holdings)
    try:
        yield
    finally:
        for holding in holdings:
            if holding.name not in warm_before:
                with contextlib.suppress(OSError):
                    server.ask("DELETE", "/warm-up", holding.key)


def warm(server: Server, holdings: Sequence[Holding]) -> None:
    for holding in holdings:
        status, body = server.ask("POST", "/warm-up", holding.key)
        if status not in (200, 201):
            raise CompareError(f"{holding.name} cannot be warmed up: {status} {_detail(body)}")


def _detail(body: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(body).get("detail", ""))
    return ""


class DatabaseCpu:
    """CPU seconds of all processes of a PostgreSQL on this machine. One that has ended is in its parent's count."""

    def __init__(self, postmaster: int | None) -> None:
        self._process = psutil.Process(postmaster) if postmaster else None

    def seconds(self) -> float | None:
        if self._process is None:
            return None
        spent = sum(self._process.cpu_times()[:4])
        for process in self._process.children():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent
