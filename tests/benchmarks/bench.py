"""What the benchmarks share: servers and what they spend, one run of a load, and medians with their intervals."""

import contextlib
import http.client
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import psutil

from simulator.load import Load, run_in_process
from storage.embedded import Cluster

T = TypeVar("T")
Interval = tuple[float, float, float]
"""A median, and the ends of its 95 % interval."""
NOTHING: Mapping[str, str] = MappingProxyType({})


class BadRunError(Exception):
    """A run whose figures say nothing; the message is why."""


@dataclass(frozen=True)
class Figures:
    """One run: CPU in microseconds a request."""

    per_second: float
    p50_ms: float
    p99_ms: float
    server_us: float
    database_us: float
    generator_saturated: bool

    @property
    def cpu_us(self) -> float:
        return self.server_us + self.database_us


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    process: psutil.Process


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes


@contextmanager
def served(name: str, url: str, settings: Mapping[str, str] = NOTHING, *, log: Path | None = None) -> Iterator[Server]:
    """One of variants.py in a process of its own; `channel` is the one that has channels. What it logs goes to `log`."""
    ours = {
        "SLUICE_DATABASE_URL": url,
        "SLUICE_CONTROL_SHARE": "0",
        "SLUICE_CHANNELS": "on" if name == "channel" else "off",
        **settings,
    }
    with contextlib.ExitStack() as stack:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.variants", name],
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(log.open("ab")) if log else None,
            text=True,
            env={**os.environ, **ours},
        )
        try:
            assert child.stdout is not None
            port = child.stdout.readline()
            if not port:
                raise SystemExit(f"the {name} server did not start: see {log or 'above'}")
            yield Server(name, int(port), psutil.Process(child.pid))
        finally:
            child.terminate()
            child.wait(20)


class Client:
    """One connection to a server, for what is not measured."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def ask(self, path: str, key: str, *, method: str = "GET", **headers: str) -> Reply:
        self._connection.request(method, path, headers={"Authorization": f"Bearer {key}", **headers})
        response = self._connection.getresponse()
        return Reply(response.status, response.read())


def warm_up(server: Server, keys: Sequence[str]) -> None:
    client = Client(server)
    for key in keys:
        reply = client.ask("/warm-up", key, method="POST")
        assert reply.status in (200, 201), reply


def measure(server: Server, cluster: Cluster, load: Load, requests: Sequence[bytes]) -> Figures:
    """Raises BadRunError where an answer was not 200, or none came."""
    run_in_process(Load(load.host, load.port, connections=load.connections, seconds=0.2, warmup_s=0.0), requests[:500])
    before = server_s(server), database_s(cluster)
    result = run_in_process(load, requests)
    after = server_s(server), database_s(cluster)
    if set(result.statuses) != {200} or result.errors:
        raise BadRunError(f"{server.name}: answers {result.statuses}, errors {result.error_kinds}")
    server_us, database_us = ((late - early) / result.requests * 1e6 for early, late in zip(before, after, strict=True))
    return Figures(result.per_second, result.p50_ms, result.p99_ms, server_us, database_us, result.saturated)


def server_s(server: Server) -> float:
    times = server.process.cpu_times()
    return times.user + times.system


def database_s(cluster: Cluster) -> float:
    """CPU of all its processes. One that has ended is in the postmaster's count of its children."""
    postmaster = psutil.Process(cluster.pid)
    spent = 0.0
    for process in postmaster.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent + sum(postmaster.cpu_times()[:4])


def turned(items: Sequence[T], number: int) -> list[T]:
    """Another order each round, so that none always comes after the same one."""
    order = [*items[number % len(items) :], *items[: number % len(items)]]
    return order if number % 2 else order[::-1]


def median_of(values: Sequence[float]) -> Interval:
    """The median with its 95 % interval, by bootstrap."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def ratio(ones: Sequence[float], others: Sequence[float]) -> Interval:
    """The median of the rounds' ratios with its interval, over the pairs."""
    return median_of([one / other for one, other in zip(ones, others, strict=True)])


def spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    digits = 0 if middle >= 20 else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def between(interval: Interval) -> str:
    middle, low, high = interval
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
