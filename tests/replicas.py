"""A primary and its streaming replicas, real servers on loopback that a test may kill, hold back, promote and start again."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.embedded import THROWAWAY
from storage.embedded.account import GATE, open_ours, settle
from storage.embedded.folder import Folder
from storage.embedded.postmaster import Postmaster, Status
from storage.migrate import migrate
from tests.support import connected

SETTINGS = {**THROWAWAY, "shared_buffers": "64MB", "synchronous_commit": "on", "max_wal_size": "256MB"}
"""A commit outlives a kill -9 of the server; of the machine it need not."""


@dataclass
class Node:
    """One server, whatever its role. `url` stays the same from one start to the next."""

    name: str
    postmaster: Postmaster
    settings: Mapping[str, str]
    status: Status | None = field(default=None)

    @property
    def url(self) -> str:
        assert self.status is not None
        return f"postgresql://postgres:{self.postmaster.folder.password()}@127.0.0.1:{self.status.port}/postgres"

    @property
    def address(self) -> str:
        """As metrics name it."""
        assert self.status is not None
        return f"127.0.0.1:{self.status.port}"

    async def start(self) -> None:
        """In the role that its folder has: one that was a primary is one again."""
        self.status = await asyncio.to_thread(self.postmaster.ensure, self.settings)

    async def stop(self) -> None:
        await asyncio.to_thread(self.postmaster.stop)

    def kill(self) -> None:
        """SIGKILL to the server's first process; the others see it, and end."""
        assert self.status is not None
        os.kill(self.status.pid, signal.SIGKILL)

    async def run(self, sql: str, *values: Any) -> Any:
        async with connected(self.url) as connection:
            return await connection.fetchval(sql, *values)

    async def promote(self) -> None:
        """Returns when it takes writes."""
        assert await self.run("SELECT pg_promote(true, 30)")

    async def hold(self) -> None:
        """What comes is kept, and not replayed."""
        await self.run("SELECT pg_wal_replay_pause()")
        async with connected(self.url) as connection:
            while await connection.fetchval("SELECT pg_get_wal_replay_pause_state()") != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def resume(self) -> None:
        await self.run("SELECT pg_wal_replay_resume()")


@dataclass
class Servers:
    """`nodes[0]` began as the primary, the others as its replicas."""

    nodes: list[Node]

    @property
    def urls(self) -> dict[str, Any]:
        """The settings that name them."""
        return {"database_url": self.nodes[0].url, "replica_url": tuple(node.url for node in self.nodes[1:])}

    async def caught_up(self) -> None:
        """Until every replica has replayed what the primary has written."""
        lsn = await self.nodes[0].run("SELECT pg_current_wal_insert_lsn()")
        for node in self.nodes[1:]:
            async with asyncio.timeout(20), connected(node.url) as connection:
                # 40 bytes: the header of the page that the next record begins on.
                while await connection.fetchval("SELECT pg_last_wal_replay_lsn()") < lsn - 40:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)

    async def follow(self, node: Node, primary: Node) -> None:
        """A replica follows another primary from now on."""
        await node.run(f"ALTER SYSTEM SET primary_conninfo = '{_conninfo(primary)}'")
        await node.run("ALTER SYSTEM SET primary_slot_name = ''")
        await node.run("SELECT pg_reload_conf()")


@contextmanager
def migrated() -> Iterator[Node]:
    """A server that is stopped, for primaries to begin as copies of it: that takes a tenth of making one."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as place:
        node = _prepared(Path(place), "migrated", SETTINGS)
        try:
            asyncio.run(_fill(node))
        finally:
            node.postmaster.stop()
        yield node


@asynccontextmanager
async def stranger() -> AsyncIterator[Node]:
    """A server that takes no writes and waits for a primary, of another cluster than any other here."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as place:
        node = await asyncio.to_thread(_prepared, Path(place), "stranger", SETTINGS)
        folder = node.postmaster.folder
        try:
            await asyncio.to_thread(folder.prepare, quick=True)
            folder._write(folder.data / "standby.signal", "")
            await node.start()
            yield node
        finally:
            await node.stop()


async def _fill(node: Node) -> None:
    await node.start()
    await migrate(node.url)


@asynccontextmanager
async def servers(template: Node, replicas: int = 1, **settings: str) -> AsyncIterator[Servers]:
    """A primary and its replicas; all are gone afterwards, with their folders."""
    made: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="sluice-") as place:
        try:
            primary = await asyncio.to_thread(_prepared, Path(place), "first", {**SETTINGS, **settings})
            made.append(primary)
            await asyncio.to_thread(_begun_as, template, primary)
            await primary.start()
            for number in range(replicas):
                node = await asyncio.to_thread(_prepared, Path(place), f"replica_{number + 1}", {**SETTINGS, **settings})
                made.append(node)
                await asyncio.to_thread(_copied, primary, node)
                await node.start()
            yield Servers(made)
        finally:
            for node in made:
                await node.stop()


def _prepared(place: Path, name: str, settings: Mapping[str, str]) -> Node:
    place.chmod(0o755)  # the account that runs PostgreSQL for root enters here
    home, account = settle(place / name)
    open_ours(home / GATE, account).close()
    return Node(name, Postmaster(Folder(home, account)), settings)


def _conninfo(primary: Node) -> str:
    assert primary.status is not None
    return f"host=127.0.0.1 port={primary.status.port} user=postgres password={primary.postmaster.folder.password()}"


def _begun_as(template: Node, node: Node) -> None:
    source, folder = template.postmaster.folder, node.postmaster.folder
    folder._write(folder.home / "password", f"{source.password()}\n")
    done = folder.account.run(["cp", "-a", source.data, folder.data])
    assert done.returncode == 0, done.stderr


def _copied(primary: Node, node: Node) -> None:
    folder = node.postmaster.folder
    folder._write(folder.home / "password", f"{primary.postmaster.folder.password()}\n")
    options = ["-R", "-X", "stream", "-C", "-S", node.name, "-c", "fast", "--no-sync"]
    done = folder.account.run([folder.programs / "pg_basebackup", "-d", _conninfo(primary), "-D", folder.data, *options])
    assert done.returncode == 0, done.stderr
