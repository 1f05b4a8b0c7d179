"""The standard `process_*` metrics, read at scrape."""

import os
from collections.abc import Callable, Iterable

import psutil

from metrics.accumulators import Kind, Labels, Merge

Read = Callable[[], Iterable[tuple[Labels, float]]]
Reading = tuple[Kind, Merge, str, Labels, Read]


def readings() -> dict[str, Reading]:
    """(kind, how it is merged, help, labels, how to read it) by name, for the calling process."""
    process = psutil.Process()
    return {
        "process_cpu_seconds_total": (
            "counter",
            "sum",
            "CPU used, user and system",
            (),
            _one(lambda: sum(process.cpu_times()[:2])),
        ),
        "process_resident_memory_bytes": ("gauge", "sum", "Memory in use", (), _one(lambda: process.memory_info().rss)),
        "process_virtual_memory_bytes": ("gauge", "sum", "Address space", (), _one(lambda: process.memory_info().vms)),
        "process_open_fds": ("gauge", "sum", "Open files and sockets", (), _one(process.num_fds)),
        "process_max_fds": ("gauge", "max", "How many may be open", (), _one(lambda: os.sysconf("SC_OPEN_MAX"))),
        "process_start_time_seconds": ("gauge", "max", "Last started, in seconds since 1970", (), _one(process.create_time)),
    }


def _one(read: Callable[[], float]) -> Read:
    return lambda: [((), float(read()))]
