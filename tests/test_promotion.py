"""The primary killed and a replica promoted under load: nothing of ours is started again, nothing acknowledged is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from time import perf_counter

import asyncpg
import pytest

from base.config import Config
from base.errors import ServerBusy
from metrics.catalog import WorkerMetrics
from storage.connecting.opening import primary_of
from storage.connecting.pools import ingest_lender
from storage.connecting.servers import Spread
from storage.warmth import warm
from tests.conftest import PROVE
from tests.ingest_faults import (
    SEED,
    all_in,
    assert_as_if_nothing_had_been,
    at_rest,
    give,
    moment,
    nothing,
    parts,
    recent,
    told,
)
from tests.polls import Clinics, clinics
from tests.replicas import Node, Servers, servers
from tests.support import Served, add_tenant, patient, served, until
from tests.test_worker import working

pytestmark = pytest.mark.timeout(600 if PROVE else 120)
REPLICAS = 2 if PROVE else 1
ROUNDS = 5 if PROVE else 1
RESUMED_S = 5.0
PEOPLE = [patient(f"p{n}") for n in range(20)]
OFTEN = {"poll_interval_s": 1, "poll_timeout_s": 30}
WARM = "SELECT max(warm_until) FROM ops.warm_tenant"


@dataclass
class Load:
    """Requests at a fixed rate, whatever becomes of them: 200 reads a second by both paths, ten warm-ups."""

    server: Served
    reads: dict[int, int] = field(default_factory=dict)
    writes: list[tuple[float, int]] = field(default_factory=list)
    """When each was answered, and how."""
    ready: list[int] = field(default_factory=list)
    in_flight: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tick, at = 0, loop.time()
            while not self._stop.is_set():
                for tenant in ("warm", "cold"):
                    tasks.create_task(self._read(f"/patients/p{tick % 20}", tenant))
                if tick % 10 == 0:
                    tasks.create_task(self._write())
                tick, at = tick + 1, at + 0.01
                await asyncio.sleep(at - loop.time())  # the rate itself

    def stop(self) -> None:
        self._stop.set()

    async def _read(self, path: str, tenant: str) -> None:
        self.in_flight += 1
        try:
            status = (await self.server.get(path, tenant)).status
        finally:
            self.in_flight -= 1
        self.reads[status] = self.reads.get(status, 0) + 1

    async def _write(self) -> None:
        status = (await self.server.get("/warm-up", "third", "POST")).status
        self.writes.append((perf_counter(), status))
        self.ready.append((await self.server.get("/health/ready", None)).status)

    @property
    def read(self) -> int:
        return sum(self.reads.values())

    def written_since(self, moment_s: float) -> float | None:
        """How long after it the first write succeeded."""
        return next((at - moment_s for at, status in self.writes if at > moment_s and status in (200, 201)), None)


@asynccontextmanager
async def loaded(group: Servers, primary: Node) -> AsyncIterator[Load]:
    others = tuple(node.url for node in group.nodes if node is not primary)
    keys = {name: await add_tenant(primary.url, name, PEOPLE) for name in ("warm", "cold", "third")}
    async with served(primary.url, keys=keys, replica_url=others, key_ttl_s=1.0, deadline_s=5.0) as server:
        await server.get("/warm-up", "warm", "POST")
        load = Load(server)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run())
            await until(lambda: load.read > 50)
            yield load
            load.stop()
            await running


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_promotion_under_load(primary: Node, number: int) -> None:
    """Reads go on, at most those in flight fail; writes go on within 5 s at the new primary, and never at the old one again."""
    async with servers(primary, REPLICAS) as group:
        old, new, *others = group.nodes
        async with loaded(group, old) as load:
            storage = load.server.services.storage
            assert isinstance(storage, Spread)
            # From now on one tenant reads the replica, and the other the primary.
            await new.hold()
            await old.run("SELECT pg_notify('sluice_changed', tenant_id || ' Patient') FROM ops.tenant WHERE name = 'cold'")
            of_primary = storage._places[0].reads["api"]
            begin = of_primary.value
            await until(lambda: of_primary.value > begin + 20 and load.in_flight > 1)
            in_flight = load.in_flight
            old.kill()
            before = load.read
            await until(lambda: load.read > before + 100)  # half a second without any primary
            asked_at = perf_counter()
            await new.promote()
            await until(lambda: load.written_since(asked_at) is not None, within_s=10)
            resumed_s = load.written_since(asked_at) or 0.0
            for node in others:
                await group.follow(node, new)
            await until(lambda: _states(storage)[1:] == ["primary", *["replica"] * len(others)], within_s=10)
            await old.start()
            await until(lambda: _states(storage)[0] == "stale")
            kept, writes = await old.run(WARM), len(load.writes)
            await until(lambda: len(load.writes) > writes + 5)
            assert await old.run(WARM) == kept
            assert await new.run(WARM) > kept
        failed = load.read - load.reads[200]
        print(
            f"round {number}: {load.read} reads, {failed} failed {load.reads}, {in_flight} in flight at the kill; "
            f"writes {resumed_s * 1000:.0f} ms after the promotion was asked for"
        )
        assert failed <= in_flight
        assert resumed_s < RESUMED_S
        assert set(load.ready) == {200}
        assert {status for _, status in load.writes} <= {200, 201, 503}
        assert [status for _, status in load.writes][-5:] == [200] * 5


async def test_two_primaries(primary: Node) -> None:
    """When a replica is promoted beside a primary that lives, all goes to the new one, and what is under way is broken off.

    Nothing goes back to the old one when the new one is away.
    """
    async with servers(primary) as group:
        old, new = group.nodes
        config, metrics = Config(**group.urls), WorkerMetrics()
        async with primary_of(config, metrics) as found, served(old.url, replica_url=(new.url,)) as server:
            lender = ingest_lender(config, metrics, found.url)
            found.moved.append(partial(lender.move, at_once=True))
            await lender.open()
            try:
                async with lender.lend() as connection:
                    guest = await found.connect()
                    await connection.raw.execute("BEGIN")
                    await new.promote()
                    await until(lambda: connection.raw.is_closed() and guest.is_closed())
                    with pytest.raises(asyncpg.InterfaceError):
                        await connection.raw.execute("COMMIT")
                async with lender.lend() as connection:
                    assert connection.raw.get_settings().application_name == "sluice ingest"
                    assert f":{await connection.raw.fetchval('SELECT inet_server_port()')}" in new.address
            finally:
                await lender.close()
            storage = server.services.storage
            assert isinstance(storage, Spread)
            await until(lambda: _states(storage) == ["stale", "primary"])
            await warm(storage, await _tenant(new), 60)
            new.kill()
            await until(lambda: _states(storage) == ["stale", "away"])
            with pytest.raises(ServerBusy, match="no primary"):
                await warm(storage, 1, 60)
            with pytest.raises(ConnectionError):
                await found.connect()
            assert await old.run("SELECT count(*) FROM ops.warm_tenant") == 0
            reads = sum(place.reads["api"].value for place in storage._places)
            assert (await server.get("/health/ready", None)).status == 503
            assert sum(place.reads["api"].value for place in storage._places) == reads


async def _tenant(node: Node) -> int:
    await add_tenant(node.url, "only")
    return int(await node.run("SELECT tenant_id FROM ops.tenant"))


def _states(storage: Spread) -> list[str]:
    return [place.server.state for place in storage._places]


@pytest.mark.prove
async def test_the_worker_goes_on(primary: Node) -> None:
    """With synchronous replication every claim is in the new primary once, and nothing was acknowledged that is not."""
    random = Random(SEED)
    batches = parts(recent(2, claims=60 if PROVE else 16, each=4), 2)
    async with servers(primary, REPLICAS, track_commit_timestamp="on") as group:
        old, new, *others = group.nodes
        await old.run("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (*)'")
        await old.run("SELECT pg_reload_conf()")
        async with (
            clinics(old.url, 2, files=nothing(2)) as of,
            working(old.url, replica_url=",".join(node.url for node in group.nodes[1:]), **OFTEN) as worker,
        ):
            give(of, batches[0])
            await until(lambda: _acknowledged(of) > 0, within_s=30)
            with told(seed=SEED, killed_at=await moment(of, random, sum(map(len, batches[0].values())))):
                acknowledged = _acknowledged(of)
                old.kill()
                await new.promote()
                for node in others:
                    await group.follow(node, new)
                of.url = new.url
                give(of, batches[1])
                await old.start()
                await all_in(of)
                await at_rest(of, worker)
                await assert_as_if_nothing_had_been(of)
            assert await old.run("SELECT count(*) FROM claims.file") < await new.run("SELECT count(*) FROM claims.file")
            assert len(worker.logged("database.promoted")) == 1
            print(f"{acknowledged} files were acknowledged when the primary was killed, {_acknowledged(of)} are in the end")


def _acknowledged(of: Clinics) -> int:
    return sum(bool(file.acknowledged) for box in of.boxes.values() for file in box.received.values())
