"""The standard `process_*` metrics, and what Python and the machine say: read at scrape."""

import gc
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import psutil

from base.version import VERSION
from metrics.accumulators import Kind, Labels, Merge

Samples = Iterable[tuple[Labels, float]]
Read = Callable[[], Samples]
Reading = tuple[Kind, Merge, str, Labels, Read]


class Pauses:
    """How long the garbage collector has stopped this process, in seconds.

    Python calls each member of `gc.callbacks`, which the whole process has in common: so there is one for all catalogues, put
    there when first asked for.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._began = 0.0

    def follow(self) -> "Pauses":
        if self._called not in gc.callbacks:
            gc.callbacks.append(self._called)
        return self

    def _called(self, phase: Literal["start", "stop"], _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = perf_counter()
        else:
            self.total_s += perf_counter() - self._began


PAUSES = Pauses()


def readings(data_dir: Path | None = None) -> dict[str, Reading]:
    """(kind, how it is merged, help, labels, how to read it) by name, for the calling process.

    `data_dir`: the folder whose disk is told of; while it is not there, the nearest one above it. What the system does not tell
    (a container without disks, macOS of a process' I/O) has no series.
    """
    return {**_of_the_process(), **_of_python(), **_of_the_machine(data_dir or Path("/"))}


def _of_the_process() -> dict[str, Reading]:
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
        "process_io_bytes_total": (
            "counter",
            "sum",
            "What it read from disks and wrote to them",
            ("direction",),
            _told(lambda: _read_and_written(process.io_counters())),
        ),
    }


def _of_python() -> dict[str, Reading]:
    pauses = PAUSES.follow()
    runs = (VERSION, platform.python_version())
    return {
        "sluice_gc_collections_total": (
            "counter",
            "sum",
            "How often Python looked for garbage, by the generation that it looked through",
            ("generation",),
            lambda: [((str(number),), float(each["collections"])) for number, each in enumerate(gc.get_stats())],
        ),
        "sluice_gc_pause_seconds_total": (
            "counter",
            "sum",
            "How long it did, and nothing else",
            (),
            _one(lambda: pauses.total_s),
        ),
        "sluice_build_info": ("gauge", "max", "1; what runs", ("version", "python"), lambda: [(runs, 1.0)]),
        "sluice_processes": ("gauge", "sum", "Processes that this scrape is the sum of", (), _one(lambda: 1.0)),
    }


def _of_the_machine(data_dir: Path) -> dict[str, Reading]:
    return {
        "sluice_machine_cpu_seconds_total": ("counter", "max", "CPU of all cores, by what it did", ("mode",), _told(_cpu)),
        "sluice_machine_memory_bytes": ("gauge", "max", "Memory; available: without swapping", ("state",), _told(_memory)),
        "sluice_machine_disk_bytes": (
            "gauge",
            "max",
            "The data folder's disk; free: for who is not root",
            ("state",),
            _told(lambda: _disk(data_dir)),
        ),
        "sluice_machine_disk_io_bytes_total": (
            "counter",
            "max",
            "What all disks read and wrote",
            ("direction",),
            _told(lambda: _read_and_written(psutil.disk_io_counters(nowrap=False))),
        ),
    }


def _one(read: Callable[[], float]) -> Read:
    return lambda: [((), float(read()))]


def _told(read: Callable[[], dict[str, float]]) -> Read:
    """By one label. Nothing where the system does not tell."""

    def samples() -> Samples:
        try:
            return [((label,), float(value)) for label, value in read().items()]
        except (AttributeError, NotImplementedError, OSError, psutil.Error):
            return []

    return samples


def _read_and_written(counters: Any) -> dict[str, float]:
    """Raises AttributeError for None: there are no disks."""
    return {"read": counters.read_bytes, "written": counters.write_bytes}


def _cpu() -> dict[str, float]:
    times = psutil.cpu_times()._asdict()
    known = {
        "user": times["user"] + times.get("nice", 0.0),
        "system": times["system"] + times.get("irq", 0.0) + times.get("softirq", 0.0),
        "idle": times["idle"],
        "iowait": times.get("iowait", 0.0),
    }
    # What guests use is in `user` already.
    return {**known, "other": times.get("steal", 0.0)}


def _memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {"total": memory.total, "available": memory.available}


def _disk(data_dir: Path) -> dict[str, float]:
    for folder in (data_dir, *data_dir.absolute().parents):
        with suppress(OSError):  # it is not there yet, or below a folder that is closed to us
            usage = psutil.disk_usage(str(folder))
            return {"total": usage.total, "free": usage.free}
    return {}
