"""A timer finer than the event loop's, whose milliseconds would show in every latency of an open loop."""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0) if hasattr(os, "O_NONBLOCK") else 0
_ABSOLUTE = 1


class Alarm(Protocol):
    """Calls back once, at or after a time of `time.monotonic()`; setting it again forgets the time before."""

    def set(self, at: float) -> None: ...

    def close(self) -> None: ...


def alarm(callback: Callable[[], None]) -> Alarm:
    if sys.platform == "linux":
        try:
            return _TimerFd(callback)
        except (OSError, AttributeError):  # a C library or a sandbox without timerfd
            return _LoopTimer(callback)
    return _LoopTimer(callback)


class _LoopTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0.0, at - time.monotonic()), self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class _TimerFd:
    """Linux's timerfd (timerfd_create(2)); Python has it in `os` from 3.13 only."""

    def __init__(self, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime: Any = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = (ctypes.c_long * 4)()  # interval s, ns; value s, ns
        self._spec_at = ctypes.byref(self._spec)
        self._callback = callback
        self._armed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._fired)

    def set(self, at: float) -> None:
        self._armed = True
        seconds = int(at)
        self._spec[2] = seconds
        self._spec[3] = int((at - seconds) * 1e9) or 1
        self._settime(self._fd, _ABSOLUTE, self._spec_at, None)

    def _fired(self) -> None:
        # The fd stays readable until it is read or set anew, and most callbacks set it: that spares the read.
        self._armed = False
        self._callback()
        if not self._armed:
            os.read(self._fd, 8)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
