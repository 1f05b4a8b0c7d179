"""What the tests of `sluice check` share: how a check is run alone, and a database that is made as the handbook says."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from app.checking.checks import CHECKS, Row, examine
from app.checking.scene import Scene, at_hand
from storage.embedded import THROWAWAY, Cluster, throwaway
from storage.migrate import migrate
from tests.processes import environment
from tests.support import connected

SECRET = "geheim-und-lang-genug-fuer-alle"
BY_NAME = {check.name: check for check in CHECKS}

Told = list[tuple[str, str]]
"""States and what was found, with what to do."""


def scene_of(url: str = "", **settings: Any) -> Scene:
    given = environment(**{"database_url": url, "secret": SECRET, "port": 0, "metrics_port": 0, **settings})
    with at_hand(given) as scene:
        return scene


async def found(check: str, scene: Scene, **how: Any) -> Told:
    return shown(await examine(scene, [BY_NAME[check]], **how))


def shown(rows: Sequence[Row]) -> Told:
    return [(str(row.state), f"{row.finding.found} → {row.finding.remedy}") for row in rows]


def says(told_: Told, state: str, words: str) -> bool:
    return any(each == state and words in text for each, text in told_)


ONE_TENANT = """
    INSERT INTO ops.tenant (name) VALUES ('one');
    INSERT INTO ops.api_key (tenant_id, sha256, scopes) VALUES (1, '1', '{read}'), (NULL, '2', '{operate}');
"""


@dataclass(frozen=True)
class Well:
    cluster: Cluster
    url: str
    """By the login `sluice`, which is no superuser."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"database_url": self.url, "secret": SECRET, "port": 0, "metrics_port": 0, "queue_total": 100, "queue_size": 50}


@contextmanager
def made_well() -> Iterator[Well]:
    """A server with the settings of production; one tenant, its key and an operator's."""
    with throwaway({**THROWAWAY, "max_prepared_transactions": "2"}) as cluster:
        url = cluster.url.replace("//postgres:", "//sluice:").rsplit("/", 1)[0] + "/sluice"
        asyncio.run(_make(cluster, url))
        asyncio.run(_set(cluster, "on"))
        yield Well(cluster, url)
        asyncio.run(_set(cluster, "off"))  # its end need not wait for the disk


async def _set(cluster: Cluster, durable: str) -> None:
    async with connected(cluster.url) as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            await connection.execute(f"ALTER SYSTEM SET {name} = {durable}")
        await connection.execute("SELECT pg_reload_conf()")


async def _make(cluster: Cluster, url: str) -> None:
    password = cluster.url.split(":")[2].split("@")[0]
    async with connected(cluster.url) as connection:
        await connection.execute(f"CREATE ROLE sluice LOGIN CREATEROLE PASSWORD '{password}'")
        await connection.execute("GRANT pg_read_all_stats TO sluice")
        await connection.execute("CREATE DATABASE sluice OWNER sluice")
    await migrate(url)
    async with connected(url) as connection:
        await connection.execute(ONE_TENANT)
    async with connected(url.replace("//sluice:", "//postgres:")) as connection:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def away() -> int:
    """A port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])
