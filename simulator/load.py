"""Load for an HTTP server, closed or open loop, cheap enough to saturate one from the other core.

`run` sends from this process; `run_in_process` from one of its own, which is the honest way: a generator that shares
the server's loop or core measures itself.
"""

import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from hdrh.histogram import HdrHistogram

from simulator.load_driver import Closed, Open, Tally
from simulator.load_types import SATURATED_SHARE, Load, Requests, Result

__all__ = ["Load", "LoadError", "Requests", "Result", "render", "run", "run_in_process"]

HOUR_US = 3_600_000_000
ROOT = Path(__file__).resolve().parent.parent


class LoadError(Exception):
    """The generator's process failed; the message is the end of what it said."""


def render(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """One HTTP/1.1 request. Host and Content-Length are added where they are missing and needed.

    Raises ValueError for HEAD, whose answers announce a body that does not come, and for what breaks out of its line.
    """
    if method == "HEAD":
        raise ValueError("HEAD cannot be sent")
    given = {"Host": "localhost"} if "host" not in map(str.lower, headers) else {}
    given |= headers
    if body or method in ("POST", "PUT", "PATCH"):
        given["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    if any("\r" in line or "\n" in line for line in lines) or " " in path:
        raise ValueError("a path has no spaces, and no header a line break")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


async def run(load: Load, requests: Requests) -> Result:
    """Sends from this process. Raises OSError where the server cannot be reached at all."""
    driver = Closed(load, requests) if load.rate is None else Open(load, requests, load.rate)
    return _result(await driver.run())


def run_in_process(load: Load, requests: Requests, *, cpu: int | None = None) -> Result:
    """Sends from a process of its own, pinned to core `cpu` where the system can; blocks until it is done.

    A callable must be importable, as for pickle. Raises LoadError.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.run(  # this interpreter, and a module of ours
        [sys.executable, "-m", "simulator.load_child"],
        input=pickle.dumps((load, requests, cpu)),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if child.returncode:
        raise LoadError(child.stderr.decode(errors="replace").strip()[-2000:])
    result: Result = pickle.loads(child.stdout)  # noqa: S301  # from the process that we started
    return result


def _result(tally: Tally) -> Result:
    (began, cpu_before, answers_before), (ended, cpu_after, answers_after) = tally.marks
    seconds, cpu_s = ended - began, cpu_after - cpu_before
    histogram = _histogram(tally.latencies)
    return Result(
        requests=len(tally.latencies),
        seconds=seconds,
        per_second=(answers_after - answers_before) / seconds,
        p50_ms=_quantile_ms(histogram, 50),
        p90_ms=_quantile_ms(histogram, 90),
        p99_ms=_quantile_ms(histogram, 99),
        p999_ms=_quantile_ms(histogram, 99.9),
        max_ms=max(tally.latencies, default=0.0) * 1e3,
        mean_ms=sum(tally.latencies) / max(1, len(tally.latencies)) * 1e3,
        late_p99_ms=_quantile_ms(_histogram(tally.late), 99),
        statuses=dict(sorted(tally.statuses.items())),
        errors=tally.error_kinds.total(),
        error_kinds=dict(tally.error_kinds),
        dropped=tally.dropped,
        generator_cpu_s=cpu_s,
        generator_cpu_share=cpu_s / seconds,
        saturated=cpu_s / seconds > SATURATED_SHARE,
        paths={name.decode("ascii", "replace"): count for name, count in tally.paths.items()},
        histogram=histogram.encode().decode("ascii"),
    )


def _histogram(seconds: Iterable[float]) -> HdrHistogram:
    """Filled after the run and value by value, since one record costs a microsecond."""
    histogram = HdrHistogram(1, HOUR_US, 3)
    for microseconds, count in Counter(max(1, round(value * 1e6)) for value in seconds).items():
        histogram.record_value(microseconds, count)
    return histogram


def _quantile_ms(histogram: HdrHistogram, percent: float) -> float:
    return float(histogram.get_value_at_percentile(percent)) / 1e3 if histogram.get_total_count() else 0.0
