"""The server of one data folder: started, adopted, stopped. The caller holds the gate's lock."""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from storage.embedded.account import EmbeddedError, explained
from storage.embedded.folder import Folder

SILENCE_LIMIT_S = 60.0
RECOVERY_LIMIT_S = 900.0
STOP_LIMIT_S = 60.0
POLL_S = 0.005


@dataclass(frozen=True)
class Status:
    """What postmaster.pid says."""

    pid: int
    port: int
    word: str  # "starting", "ready", "stopping"; empty when not yet written


class Postmaster:
    """The server of a folder, whoever started it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        # The title of each of the server's processes carries it, so that what a kill -9 left behind can be found.
        self.name = f"sluice-{hashlib.sha256(os.fsencode(folder.data)).hexdigest()[:12]}"

    def ensure(self, settings: Mapping[str, str]) -> Status:
        """The running server, started if it is not. `settings` count only for the one who starts it."""
        with explained(self.folder.home):
            self.folder.prepare(quick=settings.get("fsync") == "off")
            status = self._running() or self._start(settings)
            self._check_answer(status)
            self._end_of_start(status)
            return status

    def stop(self) -> None:
        if status := self._live():
            self._end(status.pid)

    def _end(self, pid: int) -> None:
        """A fast shutdown; where that does not end, an immediate one, from which the next start recovers."""
        for number in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if _until(lambda: not _alive(pid), STOP_LIMIT_S):
                return
        raise EmbeddedError(f"PostgreSQL does not stop. See {self.folder.log}, then end the process {pid} by hand.")

    def _running(self) -> Status | None:
        """Adopt a server that is there, whoever left it; wait for the end of one that is stopping."""
        status = self._live()
        if status is None:
            return None
        ready = self._wait_until_ready(status.pid)
        if ready is None and _alive(status.pid):
            raise self.folder.failure(f"runs as process {status.pid}, but does not get ready", self.folder.log_tail(0))
        return ready

    def _start(self, settings: Mapping[str, str]) -> Status:
        self._sweep()
        self.folder.rotate_log()
        for port in self.folder.ports():
            self.folder.configure(port, settings)
            begin = self.folder.log.stat().st_size
            pid = self._spawn()
            if status := self._wait_until_ready(pid):
                return status
            if _alive(pid):
                self._end(pid)
                raise self.folder.failure("did not get ready", self.folder.log_tail(begin))
            # A command killed while it started the server may have let loose one that was quicker than ours.
            if status := self._running():
                return status
            if "could not bind" not in self.folder.log_tail(begin):
                break
        raise self.folder.failure("did not start", self.folder.log_tail(begin))

    def _spawn(self) -> int:
        """Start the server in a session of its own, nobody's child, its output in a file: its number."""
        # The shell exits at once, so that no process of ours is the parent that would have to reap it.
        script = 'exec "$@" </dev/null >>"$0" 2>&1 & echo $!'
        server = self.folder.programs / "postgres"
        words = ["-D", str(self.folder.data), "-c", f"cluster_name={self.name}"]
        return int(self.folder.account.run(["/bin/sh", "-c", script, self.folder.log, server, *words]).stdout)

    def _end_of_start(self, status: Status) -> None:
        """From now on the server starts itself again if it crashes."""
        if self.folder.starting.exists():
            self.folder.starting.unlink()
            os.kill(status.pid, signal.SIGHUP)

    def _sweep(self) -> None:
        """Clear what a killed server left. Its orphans hold the shared memory, and PostgreSQL would not start."""
        path = self.folder.data / "postmaster.pid"
        if not path.exists():
            return
        orphans = [pid for pid in psutil.pids() if self._is_orphan(pid)]
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _until(lambda: not any(map(_alive, orphans)), STOP_LIMIT_S)
        status = self._status()
        # PostgreSQL sees to a stale file itself, unless its number is in use again or was never written.
        if status is None or psutil.pid_exists(status.pid):
            path.unlink(missing_ok=True)

    def _is_orphan(self, pid: int) -> bool:
        return " ".join(_command_line(pid)).startswith(f"postgres: {self.name}: ")

    def _status(self) -> Status | None:
        try:
            lines = (self.folder.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            # The number is negative when a single-user server has the folder.
            return Status(abs(int(lines[0])), int(lines[3]), lines[7].strip() if len(lines) > 7 else "")
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def _live(self) -> Status | None:
        """The status, if its process is there and is a PostgreSQL of this folder rather than a later namesake."""
        status = self._status()
        if status is None or not _alive(status.pid):
            return None
        # Not by its working directory: root in a container may not see another account's.
        words = _command_line(status.pid)
        return status if words and Path(words[0]).name == "postgres" and str(self.folder.data) in words else None

    def _wait_until_ready(self, pid: int) -> Status | None:
        """The status when ready; None if the server died, or gave no sign of life for a minute.

        Recovery after a crash may take longer, and then a line of the log every ten seconds says how far it is; but
        one that crashes again and again, as on a full disk, writes its lines too.
        """
        last_call = time.monotonic() + RECOVERY_LIMIT_S
        size, deadline = -1, 0.0
        while _alive(pid):
            if (status := self._status()) and status.pid == pid and status.word == "ready":
                return status
            if (now_size := self.folder.log.stat().st_size) != size:
                size, deadline = now_size, min(time.monotonic() + SILENCE_LIMIT_S, last_call)
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_S)
        return None

    def _check_answer(self, status: Status) -> None:
        program = self.folder.programs / "pg_isready"
        if not self.folder.account.succeeds([program, "-q", "-h", "127.0.0.1", "-p", str(status.port), "-t", "10"]):
            raise self.folder.failure(f"runs as process {status.pid}, but does not answer", self.folder.log_tail(0))


def _until(done: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not: where nobody reaps, in many a container, it stays for ever."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
