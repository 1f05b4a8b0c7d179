"""What a process is doing right now, as log lines, at a signal and while it goes on.

SIGUSR1: where each thread is; then, as soon as the event loop turns, every task and where it waits, the queues, and who holds
which connection. If the loop does not turn within a second a line says so: then the threads' lines say why. SIGUSR2: where each
thread is, written in plain text by `faulthandler`, which needs nothing of Python to run: for a process that answers nothing.

Names, numbers and lines of code; never a value, which may be a patient's.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any

import structlog

from base.log import FRAMES_MAX
from storage.connecting.holders import who

log = structlog.get_logger()

Line = tuple[str, Mapping[str, Any]]
"""Event and facts."""
State = Callable[[], Iterable[Line]]

_STUCK_S = 1.0
_GROUPS_MAX = 500
_NAMES_MAX = 5


class _Dumper:
    """Listens with a thread of its own: a signal's handler may have interrupted the log itself, and must not write."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.state: State = tuple
        self.pass_on: Callable[[signal.Signals], None] = lambda _name: None
        self._told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        threading.Thread(target=self._listen, name="dump", daemon=True).start()

    def tell(self, number: int, _frame: object) -> None:
        with contextlib.suppress(BlockingIOError):  # told so often that it has enough to do
            os.write(self._tell, bytes([number]))

    def _listen(self) -> None:
        while told := os.read(self._told, 1):
            name = signal.Signals(told[0])
            self.pass_on(name)
            if name is signal.SIGUSR1:
                try:
                    self._dump()
                except Exception as error:  # the next signal is to be heard, too
                    log.error("dump.failed", exc_info=error)

    def _dump(self) -> None:
        _write("dump.began", {})
        for facts in _threads():
            _write("dump.thread", facts)
        loop, turned = self.loop, threading.Event()
        if loop is None:  # it starts, or ends
            _write("dump.ended", {"took_s": 0.0})
            return
        loop.call_soon_threadsafe(self._dump_loop, turned)
        if not turned.wait(_STUCK_S):
            _write("dump.loop_stuck", {"waited_s": _STUCK_S})

    def _dump_loop(self, turned: threading.Event) -> None:
        turned.set()
        began = perf_counter()
        try:
            for event, facts in (*_tasks(), *self.state()):
                _write(event, facts)
        except Exception as error:  # a dump must not end what it shows
            log.error("dump.failed", exc_info=error)
        _write("dump.ended", {"took_s": round(perf_counter() - began, 3)})


def _write(event: str, facts: Mapping[str, Any]) -> None:
    log.warning(event, **facts)  # a worker with a display writes no less than warnings


_dumper: _Dumper | None = None
"""Signals are the process', and so is this."""


def listen() -> None:
    """Call once, at the start of a process: from here on the two signals end it no more."""
    global _dumper  # noqa: PLW0603  # see there
    if not hasattr(signal, "SIGUSR1") or _dumper is not None:
        return
    _dumper = _Dumper()
    signal.signal(signal.SIGUSR1, _dumper.tell)
    signal.signal(signal.SIGUSR2, _dumper.tell)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is no file
        faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True, chain=True)


@contextlib.contextmanager
def dumping(state: State, pass_on: Callable[[signal.Signals], None] = lambda _name: None) -> Iterator[None]:
    """Within a running event loop: what it shows beside its tasks. `pass_on` is called with each signal, in a thread."""
    if _dumper is None:
        yield
        return
    _dumper.loop, _dumper.state, _dumper.pass_on = asyncio.get_running_loop(), state, pass_on
    try:
        yield
    finally:
        _dumper.loop, _dumper.state, _dumper.pass_on = None, tuple, lambda _name: None


def _threads() -> Iterator[dict[str, Any]]:
    """Innermost last, as exceptions' frames are."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  # Python's own way to look at threads
        if ident != threading.get_ident():
            if frame.f_code is _Dumper.tell.__code__ and frame.f_back is not None:  # what the signal has interrupted
                frame = frame.f_back  # noqa: PLW2901  # see there
            frames = traceback.extract_stack(frame, FRAMES_MAX)
            places = [f"{each.filename.rsplit('/', 1)[-1]}:{each.lineno} {each.name}" for each in frames]
            yield {"thread": names.get(ident, ""), "frames": places}


def _tasks() -> Iterator[Line]:
    """Those that run the same coroutine and wait at the same place are one line."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for task in asyncio.all_tasks():
        found = who(task)
        groups[found["holder"], found["at"]].append(task.get_name())
    most = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (coroutine, at), names in most[:_GROUPS_MAX]:
        yield "dump.task", {"coroutine": coroutine, "at": at, "tasks": len(names), "names": sorted(names)[:_NAMES_MAX]}
    if left := most[_GROUPS_MAX:]:
        yield "dump.task", {"coroutine": "others", "at": "", "tasks": sum(len(names) for _, names in left), "names": []}
