"""PostgreSQL for a fresh machine: the one behind every command while SLUICE_DATABASE_URL is unset.

Several commands at once share one server. Each holds a shared lock on `users.lock` for as long as it uses the server,
and whoever comes or goes holds the exclusive `gate.lock` meanwhile, so that nobody starts a server that another stops.
The last one out stops it. The kernel drops the locks of a process that is killed; its server stays, and the next
command adopts it. In the data folder: `pgdata`, `password`, `postgres.log` and the two locks.
"""

import fcntl
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from storage.embedded.account import GATE, EmbeddedError, explained, locked, open_ours, settle
from storage.embedded.folder import Folder
from storage.embedded.postmaster import Postmaster

__all__ = ["THROWAWAY", "Cluster", "EmbeddedError", "running", "throwaway"]

# Settings for data that nobody will miss: tests and benchmarks.
THROWAWAY = MappingProxyType(
    {"fsync": "off", "full_page_writes": "off", "shared_buffers": "128MB", "synchronous_commit": "off"}
)
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Cluster:
    """A running server. `url` is the superuser's and holds the password."""

    url: str = field(repr=False)
    data_dir: Path
    port: int
    pid: int


@contextmanager
def running(data_dir: Path, settings: Mapping[str, str] = NOTHING) -> Iterator[Cluster]:
    """Join the server of this data folder, or start it; the last one out stops it.

    `settings` are PostgreSQL's own and go over the defaults; they count only for the one who starts it. Blocks, for a
    second or two when the folder is new: from a running event loop call it in a thread. Raises EmbeddedError.
    """
    postmaster, users = _open(data_dir)
    joined_by = os.getpid()
    with users:
        try:
            yield _join(postmaster, users, settings)
        finally:
            # A forked child that unwinds this far must not leave in the name of its parent.
            if os.getpid() == joined_by:
                _leave(postmaster, users)


@contextmanager
def throwaway(settings: Mapping[str, str] = THROWAWAY) -> Iterator[Cluster]:
    """A server of one's own that is gone afterwards with its folder: the tests'."""
    # A folder of its own in an open place: pytest's are closed to the account that runs PostgreSQL for root.
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder, running(Path(folder), settings) as cluster:
        yield cluster


def _open(data_dir: Path) -> tuple[Postmaster, io.FileIO]:
    with explained(data_dir.absolute()):
        home, account = settle(data_dir)
        # The gate is what says that the folder is ours: it is made first.
        open_ours(home / GATE, account).close()
        return Postmaster(Folder(home, account)), open_ours(home / "users.lock", account)


def _join(postmaster: Postmaster, users: io.FileIO, settings: Mapping[str, str]) -> Cluster:
    with _gate(postmaster):
        fcntl.flock(users, fcntl.LOCK_SH)
        status = postmaster.ensure(settings)
    url = f"postgresql://postgres:{postmaster.folder.password()}@127.0.0.1:{status.port}/postgres"
    return Cluster(url=url, data_dir=postmaster.folder.home, port=status.port, pid=status.pid)


def _leave(postmaster: Postmaster, users: io.FileIO) -> None:
    with _gate(postmaster):
        try:
            # Granted only when nobody else shares it; and nobody joins while we hold the gate.
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            postmaster.stop()
        except BlockingIOError:
            pass
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)


def _gate(postmaster: Postmaster) -> AbstractContextManager[None]:
    return locked(postmaster.folder.home / GATE, postmaster.folder.account)
