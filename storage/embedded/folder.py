"""The data folder of the embedded PostgreSQL: its making, its password, its settings, its log."""

import contextlib
import io
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from storage.embedded.account import (
    Account,
    EmbeddedError,
    disk_full,
    find_programs,
    free_bytes,
    major_version,
    open_ours,
)

PORT_TRIES = 5
LOG_MAX_BYTES = 10_000_000
# What PostgreSQL needs to begin: a segment of WAL and a little more.
FULL_BELOW_BYTES = 17_000_000

DEFAULTS = {
    "hot_standby": "on",
    "jit": "off",
    "listen_addresses": "127.0.0.1",
    "log_timezone": "UTC",
    "max_connections": "200",
    "max_slot_wal_keep_size": "2GB",  # the slot of a dead replica must not fill the disk
    "max_wal_senders": "10",
    "max_wal_size": "4GB",
    "random_page_cost": "1.1",
    "shared_buffers": "512MB",
    "shared_preload_libraries": "pg_stat_statements",
    "timezone": "UTC",
    "unix_socket_directories": "",  # a deep data folder makes a path that is too long for a socket
    "wal_compression": "on",
    "wal_level": "replica",
    "wal_retrieve_retry_interval": "200ms",  # at the default 5s a promotion once took that long
}


class Folder:
    """The folder `home`, everything in it owned by `account`. Whoever changes it holds the gate's lock."""

    def __init__(self, home: Path, account: Account) -> None:
        self.home = home
        self.account = account
        self.programs = find_programs(account)
        self.data = home / "pgdata"
        self.log = home / "postgres.log"
        self.starting = self.data / "starting.conf"

    def prepare(self, *, quick: bool) -> None:
        """See that there is a cluster of our version; `quick` makes it without waiting for the disk."""
        if not self.data.exists():
            self._initialise(quick=quick)
        self._check_version()

    def password(self) -> str:
        """The superuser's, made before the cluster is."""
        path = self.home / "password"
        if path.exists():
            return path.read_text(encoding="utf-8").strip()
        if self.data.exists():
            raise EmbeddedError(
                f"{path} is missing, and without it nobody gets into the database. Put it back from a copy; or, if the "
                f"data may go, move {self.home} away and run the command again."
            )
        password = secrets.token_urlsafe(24)
        self._write(path, f"{password}\n")
        return password

    def _initialise(self, *, quick: bool) -> None:
        """Run initdb in a sibling and rename it when whole, so that a kill in the middle leaves nothing half made."""
        self.password()
        for leftover in self.home.glob("pgdata.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="pgdata.new-", dir=self.home))
        self.account.own(new)
        self._initdb(new, quick=quick)
        with (new / "postgresql.conf").open("a", encoding="utf-8") as file:
            # A file rather than words on the command line: pg_basebackup takes it along to a replica.
            file.write("\ninclude_if_exists = 'sluice.conf'  # written anew at each start\n")
            file.write("include_if_exists = 'starting.conf'  # there only until the server is ready\n")
        new.rename(self.data)
        _sync_folder(self.home)

    def _initdb(self, folder: Path, *, quick: bool) -> None:
        options = ["-A", "scram-sha-256", "-U", "postgres", "-E", "UTF8", "--locale=C"]
        # Rounds of hashing slow down who guesses passwords; what may be lost need not be guarded so, and hundreds connect.
        options += ["--no-sync", "-c", "scram_iterations=1"] if quick else []
        options += [f"--pwfile={self.home / 'password'}", "-D", str(folder)]
        done = self.account.run([self.programs / "initdb", *options])
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise self.failure("could not make its data folder", done.stdout + done.stderr)

    def _check_version(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            found = "an unknown version"
        if found != major_version():
            raise EmbeddedError(
                f"The data folder {self.data} is of PostgreSQL {found}, and this Sluice brings PostgreSQL "
                f"{major_version()}. To keep the data, dump it with the Sluice that made it (pg_dumpall) and load it "
                f"here; to do without it, move {self.home} away and run the command again."
            )

    def configure(self, port: int, settings: Mapping[str, str]) -> None:
        values = {**DEFAULTS, **settings, "port": str(port)}
        text = "".join(f"{name} = '{_quoted(value)}'\n" for name, value in values.items())
        self._write(self.data / "sluice.conf", text)
        # On a full disk it would crash and start again without end, and without a word in the log.
        self._write(self.starting, "restart_after_crash = off\n")

    def ports(self) -> Iterator[int]:
        """The port of last time if it is free, then any free ones: one may be taken before PostgreSQL has it."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.data / "sluice.conf").read_text(encoding="utf-8")
            if (last := re.search(r"^port = '(\d+)'", text, re.MULTILINE)) and _free_port(int(last[1])):
                yield int(last[1])
        for _ in range(PORT_TRIES):
            yield _free_port(0)

    def rotate_log(self) -> None:
        open_ours(self.log, self.account).close()
        if self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
            open_ours(self.log, self.account).close()

    def _write(self, path: Path, text: str) -> None:
        """All of it or nothing, whenever we are killed."""
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with open_ours(new, self.account) as file, io.BufferedRandom(file) as buffer:
            buffer.write(text.encode())
            buffer.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def log_tail(self, begin: int) -> str:
        with self.log.open("rb") as file:
            file.seek(max(begin, self.log.stat().st_size - 4000))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-20:])

    def failure(self, what: str, output: str) -> EmbeddedError:
        full = "No space left on device" in output or "quota exceeded" in output
        # Shared memory can run out too, and that is not the disk. On a full disk the log is the first thing unwritten.
        if (full and "shared memory segment" not in output) or free_bytes(self.home) < FULL_BELOW_BYTES:
            return disk_full(self.home, output)
        return EmbeddedError(
            f"PostgreSQL {what}. Its last words:\n{output.strip()}\nThe whole log is {self.log}. Mend what it names "
            "and run the command again, or set SLUICE_DATABASE_URL to a PostgreSQL of your own."
        )


def _free_port(wanted: int) -> int:
    """The wanted port of the loopback, any for 0; 0 if it is taken."""
    with socket.socket() as probe:
        # As PostgreSQL does: connections of the last server that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
        port: int = probe.getsockname()[1]
        return port


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
