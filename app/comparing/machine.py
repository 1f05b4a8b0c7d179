"""Where it was measured: what an analyst must know before comparing these figures to others."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

BUSY = 0.4
"""Of all cores, by the load before: more blurs what is measured."""
LATE_MS = 3.0


_ALWAYS = "One server process was measured, without TLS, and with clients that keep their connections."


def machine(database_version: str) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "sluice": version("sluice"),
            "python": platform.python_version(),
            "postgresql": database_version.partition(" ")[0],
            **{name: version(name) for name in ("aiohttp", "asyncpg", "uvloop")},
        },
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def warnings(conditions: dict[str, Any], sections: Iterable[dict[str, Any]]) -> list[str]:
    """What makes these figures doubtful, if anything does."""
    found = []
    if conditions["load_before"] > BUSY * conditions["cores"]:
        found.append(
            f"Other programs ran before it began (load {conditions['load_before']:.1f} on {conditions['cores']} cores): "
            "these figures are blurred by them; measure again on a quiet machine."
        )
    found += [
        f"{one['section']}: the load generator was late by {one['late_p99_ms']:.1f} ms (p99); shorter latencies say little."
        for one in sections
        if one["late_p99_ms"] > LATE_MS
    ]
    found += [
        f"{one['section']}: {one['discarded']} slices were left out, for the load generator had no CPU left."
        for one in sections
        if one["discarded"]
    ]
    return found


def hidden(cores: int, round_trip_ms: float, *, local: bool) -> list[str]:
    """What these figures cannot show, whoever measured them."""
    if not local:
        return [
            f"A round trip to the database took {round_trip_ms:.2f} ms; its CPU could not be seen.",
            f"Server and load generator shared {cores} cores.",
            _ALWAYS,
        ]
    return [
        (
            f"Everything ran over loopback: a round trip to the database took {round_trip_ms:.2f} ms. In a data centre it "
            "takes 0.2 to 1 ms, which a statement for many pays once; the section on delays says what that changes."
        ),
        (
            f"Server, database, load generator and proxy shared {cores} cores. With cores of its own the database would answer "
            "several connections at once, which helps direct most; CPU a request is what does not depend on it."
        ),
        _ALWAYS,
    ]
