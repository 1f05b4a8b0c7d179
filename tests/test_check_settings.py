"""What `sluice check` finds in settings and on the machine: each fault is really caused, and seen."""

import asyncio
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.checking.checks import Row, examine
from app.checking.machine import _unfit, needed, satisfies
from app.checking.scene import at_hand
from storage.embedded import Cluster
from storage.embedded.account import GATE
from tests.checking import BY_NAME, SECRET, away, found, says, scene_of, shown
from tests.processes import environment
from tests.support import served

ANY = "0.0.0.0"  # noqa: S104  # nothing is bound to it
OPEN = {"host": ANY, "base_url": "https://api.example"}
SETTINGS: list[tuple[str, dict[str, Any], str, str]] = [
    ("settings", {"port": "http"}, "failure", "SLUICE_PORT='http' cannot be used"),
    ("settings", {"port": "http", "queue_size": "many"}, "failure", "SLUICE_QUEUE_SIZE='many' cannot be used"),
    ("settings", {"replica_url": "mysql://u:geheim@h"}, "failure", "SLUICE_REPLICA_URL cannot be used; expected: URLs"),
    ("settings", {"SLUICE_SECRET_FILE": "/no/such/file"}, "failure", "SLUICE_SECRET_FILE=/no/such/file cannot be read"),
    (
        "settings",
        {"SLUICE_POOLSIZE": 3},
        "warning",
        "SLUICE_POOLSIZE is no setting, and has no effect → is SLUICE_POOL_SIZE meant?",
    ),
    ("settings", {"SLUICE_DATABASE_URL_FILES": 3}, "warning", "is SLUICE_DATABASE_URL_FILE meant?"),
    ("settings", {"SLUICE_PORT_FILE": "x"}, "warning", "SLUICE_PORT_FILE has no effect: only secrets are read from files"),
    ("settings", {"SLUICE_HOUSE_COLOUR": "red"}, "ok", "not ours: SLUICE_HOUSE_COLOUR"),
    ("together", {"host": ANY}, "warning", "SLUICE_BASE_URL is not https"),
    ("together", {"host": ANY}, "warning", "SLUICE_BASE_URL is unset"),
    ("together", OPEN, "ok", "none contradicts another"),
    ("together", {"database_url": "postgresql://127.0.0.1/x", "secret": ""}, "warning", "SLUICE_SECRET is unset"),
    ("together", {"secret": "short"}, "warning", "SLUICE_SECRET is short"),
    ("together", {"replica_url": "postgresql://127.0.0.1/x"}, "warning", "SLUICE_DATABASE_URL is unset, so the embedded"),
    ("together", {"database_url": "postgresql://h/x"}, "warning", "without TLS"),
    ("together", {"database_url": "postgresql://127.0.0.1,h:5433/x?sslmode=prefer"}, "warning", "without TLS"),
    ("together", {"database_url": "postgresql://h/x?sslmode=verify-full"}, "ok", "none contradicts"),
    ("together", {"queue_size": 9000}, "warning", "SLUICE_QUEUE_SIZE is above SLUICE_QUEUE_TOTAL"),
    ("together", {"pool_acquire_s": 20}, "warning", "SLUICE_POOL_ACQUIRE_S is above SLUICE_DEADLINE_S"),
    ("together", {"ingest_timeout_s": 400}, "warning", "SLUICE_INGEST_TIMEOUT_S is above SLUICE_POLL_TIMEOUT_S"),
    ("together", {"poll_interval_s": 10}, "warning", "SLUICE_POLL_INTERVAL_S is below SLUICE_POLL_TICK_S"),
    ("together", {"throttle_pool_wait_s": 1}, "warning", "SLUICE_THROTTLE_POOL_WAIT_S has no effect"),
    ("together", {"jwt_audience": "x"}, "warning", "SLUICE_JWT_AUDIENCE or SLUICE_JWT_TENANT_CLAIM has no effect"),
    ("together", {"channels": "off", "control_share": 0.5}, "warning", "SLUICE_CONTROL_SHARE has no effect"),
    ("together", {"view_freshness_s": "5,claims-by-payer=90"}, "warning", "90 s has no effect on claims-by-payer"),
    ("together", {"view_freshness_s": 5}, "ok", "none contradicts"),
    ("ports", {"host": "192.0.2.1"}, "failure", "sluice serve cannot listen on 192.0.2.1:0"),
]


@pytest.mark.parametrize(("check", "settings", "state", "words"), SETTINGS)
async def test_settings(check: str, settings: dict[str, Any], state: str, words: str, tmp_path: Path) -> None:
    """A setting that is misspelt, cannot be used or contradicts another is told of; no database is asked for it."""
    given = {"secret": SECRET, "data_dir": tmp_path / "none", "port": 8080 if "host" in settings else 0, **settings}
    if check == "ports":
        given["port"] = away()
        words = words.replace(":0", f":{given['port']}")
    with at_hand(environment(**given)) as scene:
        rows = await BY_NAME[check].run(scene)
    told_ = [(str(each.state), f"{each.found} → {each.remedy}") for each in rows]
    assert says(told_, state, words), told_
    assert "geheim" not in str(told_)


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o640, "ok"), (0o644, "warning"), (0o606, "warning")])
async def test_secret_files(mode: int, state: str, tmp_path: Path) -> None:
    """A file that holds a secret and that every user of the machine may read is told of."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(mode)
    told_ = await found("secret files", scene_of(SLUICE_SECRET_FILE=path, secret="", data_dir=tmp_path / "none"))
    assert [each for each, _ in told_] == [state]
    both = await found("secret files", scene_of(SLUICE_SECRET_FILE=path, secret="x", data_dir=tmp_path / "none"))
    assert says(both, "warning", "are both set; the file counts")


# The machine


@pytest.mark.parametrize(
    ("here", "wanted", "holds"),
    [
        ("3.14", ">=3.14", True),
        ("3.9", ">=3.14", False),
        ("3.14.0", "==3.14", True),
        ("3.13.9", ">=3.11,<3.14", True),
        ("3.14.0", ">=3.11,<3.14", False),
        ("19.0b2", ">=19", True),
        ("1.0", "", True),
    ],
)
def test_satisfies(here: str, wanted: str, holds: bool) -> None:
    """Versions are compared by their numbers."""
    assert satisfies(here, wanted) is holds


async def test_libraries(tmp_path: Path) -> None:
    """A library that is missing or too old is named, with what is needed."""
    assert says(await found("versions", scene_of(data_dir=tmp_path / "none")), "ok", "libraries as asked for")
    lines = ["a>=1", 'b>=2; extra == "tracing"', 'c>=3; extra == "dev"']
    assert [needed(lines, tracing=tracing) for tracing in (False, True)] == [lines[:1], lines[:2]]
    missing, old, fine = map(_unfit, ("no-such-library>=1", "aiohttp[speedups]>=999,<1000", "aiohttp>=3"))
    assert (missing and missing.found, old and old.found.endswith("needed: >=999,<1000"), fine) == (
        "no-such-library is missing",
        True,
        None,
    )


@contextmanager
def files_limited(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_open_files(tmp_path: Path) -> None:
    """A limit of open files that is below what queues and pools take is told of."""
    scene = scene_of(data_dir=tmp_path / "none", queue_total=1000, queue_size=10)
    with files_limited(900):
        assert says(await found("open files", scene), "warning", "900 may be open; with SLUICE_QUEUE_TOTAL requests waiting")
    with files_limited(2000):
        assert says(await found("open files", scene), "ok", "2,000 may be open")


async def test_ports_and_api_metrics(database: str) -> None:
    """A port that a Sluice has is fine, one that another program has is not; the API's metrics must be those."""
    async with served(database) as server:
        port = int(server.url.rsplit(":", 1)[1])
        assert says(await found("ports", scene_of(database, port=port)), "ok", f"sluice serve: it runs, on 127.0.0.1:{port}")
        for path, state, words in (
            ("metrics", "ok", "answers"),
            ("health/live", "warning", "is no /metrics of the API"),
        ):
            scene = scene_of(database, api_metrics_url=f"{server.url}/{path}")
            assert says(await found("api metrics", scene), state, words)
    assert says(await found("api metrics", scene), "warning", "SLUICE_API_METRICS_URL does not answer: ConnectError")
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as taken:
        other = taken.getsockname()[1]
        answer = asyncio.create_task(found("ports", scene_of(database, metrics_port=other)))
        loop = asyncio.get_running_loop()
        taken.setblocking(False)
        conversation, _ = await loop.sock_accept(taken)
        conversation.close()
        assert says(await answer, "failure", f"sluice worker: 127.0.0.1:{other} is in use by another program")


async def test_data_folder(cluster: Cluster, tmp_path: Path) -> None:
    """A folder that is not there is not made; one that others may read, or a full disk, is told of; its server is joined."""
    nothing = scene_of(data_dir=tmp_path / "none")
    assert says(await found("data folder", nothing), "warning", "yet → `sluice serve` makes a database there")
    assert says(await found("database", nothing), "skipped", "there is no database yet")
    assert not (tmp_path / "none").exists()
    usage = psutil.disk_usage(str(tmp_path))
    share = usage.free / usage.total
    for least, state, words in (
        (min(3 * share, 1.0), "failure" if share < 0.5 else "warning", "ingestion s"),
        (min(1.5 * share, 1.0), "warning", "ingestion slows down"),
    ):
        scene = scene_of(data_dir=tmp_path / "none", throttle_disk_free=least)
        assert says(await found("data folder", scene), state, words)
    password = cluster.data_dir / "password"
    given = environment(data_dir=cluster.data_dir)

    def look() -> list[Row]:
        with at_hand(given) as scene:
            assert scene.url == cluster.url
            return asyncio.run(examine(scene, [BY_NAME["data folder"], BY_NAME["database"], BY_NAME["login"]]))

    told_ = shown(await asyncio.to_thread(look))
    assert [each for each, _ in told_] == ["ok", "ok", "ok"]
    password.chmod(0o644)
    try:
        told_ = shown(await asyncio.to_thread(look))
    finally:
        password.chmod(0o600)
    assert says(told_, "failure", f"{password} is open to other users (mode 0644) → chmod 600 {password}")


def test_data_folder_of_another_postgresql() -> None:
    """A data folder whose server does not start is told of, with where its log is."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as place:
        Path(place).chmod(0o755)  # open to the account that runs PostgreSQL for root
        pgdata = Path(place) / "data" / "pgdata"
        pgdata.mkdir(parents=True)
        (pgdata.parent / GATE).touch()
        (pgdata / "PG_VERSION").write_text("9\n")
        (pgdata.parent / "password").write_text("x\n")
        with at_hand(environment(data_dir=pgdata.parent)) as scene:
            told_ = shown(asyncio.run(examine(scene, [BY_NAME["data folder"], BY_NAME["database"]])))
    assert says(told_, "failure", "is of PostgreSQL 9, and this Sluice brings PostgreSQL 18")
    assert says(told_, "skipped", "the embedded PostgreSQL does not start")


def test_every_check_is_seen_to_fail() -> None:
    """Each of them stands in a test that causes what it looks for."""
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_check*.py")]
    assert [name for name in BY_NAME if not any(f'"{name}"' in text for text in texts)] == []
