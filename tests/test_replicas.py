"""Reads spread over replicas that are real servers: who is read, who is not, and that nobody misses what was announced."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.database import database as at_primary
from base.config import Config
from base.errors import ServerBusy
from ingestion.fhir.importing import import_paths
from simulator.claims import facilities, generate
from storage.connecting.addresses import Address, addresses_of
from storage.connecting.servers import Spread, Storage
from storage.connecting.watch import end_of_record, find_primary
from storage.failures import problem_of, worth_another_try
from tests.claims import intake
from tests.polls import END
from tests.replicas import Node, Servers, servers, stranger
from tests.support import Reply, Served, add_tenant, connected, patient, served, store, until

PEOPLE = [patient(f"p{n}", active=True) for n in range(8)]
PATIENT_S = 60.0  # a limit on lag that no test reaches


@pytest.fixture(scope="module")
def group(primary: Node) -> Iterator[Servers]:
    """A primary and two replicas for all tests here, each of which leaves them as they were."""
    with asyncio.Runner() as runner:
        made = servers(primary, 2)
        yield runner.run(made.__aenter__())
        runner.run(made.__aexit__(None, None, None))


@asynccontextmanager
async def api(group: Servers, *names: str, **settings: Any) -> AsyncIterator[Served]:
    """Tenants with people, the first of them warm; the replicas have replayed all of it, and are read."""
    primary = group.nodes[0].url
    keys = {name: await add_tenant(primary, name, PEOPLE) for name in names}
    await group.caught_up()
    given = {"replica_lag_s": PATIENT_S, "deadline_s": 5.0, "pool_size": 8, **settings}
    async with served(primary, keys=keys, replica_url=group.urls["replica_url"], **given) as server:
        await until(lambda: states(server) == ["primary", "replica", "replica"])
        await server.get("/warm-up", names[0], "POST")
        await until(lambda: ready(server) == 2)
        yield server


def spread(server: Served) -> Spread:
    assert isinstance(server.services.storage, Spread)
    return server.services.storage


def states(server: Served) -> list[str]:
    return [place.server.state for place in spread(server)._places]


def ready(server: Served) -> int:
    """Replicas that are read by those of whom nothing was announced."""
    storage = spread(server)
    needed = storage._floors.needed(())
    return 0 if needed is None else sum(place.server.lsn >= needed for place in storage._replicas)


def reads(server: Served) -> list[int]:
    """Of the API's pool, by server."""
    return [int(place.reads["api"].value) for place in spread(server)._places]


async def read_by(server: Served, tenant: str, times: int = 10) -> tuple[list[int], list[Reply]]:
    """How many reads went to each server, keys not counted."""
    await server.get("/patients/p0", tenant)  # the key is known now
    before = reads(server)
    replies = [await server.get(f"/patients/p{n % 8}", tenant) for n in range(times)]
    assert {reply.status for reply in replies} == {200}
    return [after - first for first, after in zip(before, reads(server), strict=True)], replies


async def change(server: Served, tenant: str, folder: Path, *, active: bool) -> None:
    """By an import, which announces it."""
    path = folder / f"{tenant}.ndjson"
    path.write_text("".join(json.dumps({**person, "active": active}) + "\n" for person in PEOPLE), encoding="utf-8")
    async with connected(server.database) as connection:
        tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = $1", tenant)
    await import_paths(
        server.database, tenant_id, [path], strict=False, progress=lambda _now: None, report=lambda bad: pytest.fail(str(bad))
    )


def is_active(reply: Reply) -> bool:
    assert reply.status == 200, reply.body
    return bool(reply.json["active"])


@asynccontextmanager
async def held(*nodes: Node) -> AsyncIterator[None]:
    for node in nodes:
        await node.hold()
    try:
        yield
    finally:
        for node in nodes:
            await node.resume()


async def test_reads_are_spread(group: Servers) -> None:
    """By both paths replicas are read in turns, the primary is not; what is written goes to the primary alone."""
    async with api(group, "spread-warm", "spread-cold", key_ttl_s=60.0) as server:
        for tenant, path in (("spread-warm", "channel"), ("spread-cold", "direct")):
            times, replies = await read_by(server, tenant)
            assert times == [0, 5, 5]
            assert {reply.path for reply in replies} == {path}
        assert (await server.get("/warm-up", "spread-cold", "POST")).status == 201
        scrape = (await server.get("/metrics", None)).body.decode()
        names = [node.address for node in group.nodes]
        assert f'sluice_database_servers{{server="{names[0]}",state="primary"}} 1.0' in scrape
        assert f'sluice_database_servers{{server="{names[1]}",state="replica"}} 1.0' in scrape
        assert f'sluice_database_replica_lag_seconds{{server="{names[2]}"}}' in scrape
        assert "postgres" not in "".join(line for line in scrape.splitlines() if line.startswith("sluice_database"))


async def test_one_that_lags_is_not_read(group: Servers) -> None:
    """A replica that is further behind than the limit is left out until it has caught up; without any the primary is read."""
    primary, first, second = group.nodes
    async with api(group, "lag", key_ttl_s=60.0, replica_lag_s=0.3) as server:
        async with held(first):
            async with connected(primary.url) as connection:
                await store(connection, "lag", [patient("more")])
            await until(lambda: states(server) == ["primary", "lagging", "replica"])
            assert (await read_by(server, "lag"))[0] == [0, 0, 10]
            async with held(second):
                async with connected(primary.url) as connection:
                    await store(connection, "lag", [patient("yet-more")])
                await until(lambda: states(server) == ["primary", "lagging", "lagging"])
                assert (await read_by(server, "lag"))[0] == [10, 0, 0]
        await until(lambda: states(server) == ["primary", "replica", "replica"])
        assert (await read_by(server, "lag"))[0] == [0, 5, 5]


async def test_an_idle_primary_is_not_ahead(group: Servers) -> None:
    """Where the primary's next record would begin on a new page, a replica that has replayed all is not behind."""
    async with api(group, "idle") as server:
        watch = spread(server)._watch
        switched = end_of_record(await group.nodes[0].run("SELECT pg_switch_wal() + 1"))
        await until(lambda: all(each.lsn >= switched for each in watch.servers))
        await until(lambda: all(watch.lag_s(each) == 0 for each in watch.servers))


@pytest.mark.parametrize("how", ["import", "file"])
async def test_nobody_misses_what_was_announced(group: Servers, tmp_path: Path, how: str) -> None:
    """While replicas hold back, a tenant that was written to reads the new state, others go on reading replicas."""
    changed, other = f"changed-{how}", f"other-{how}"
    async with api(group, changed, other, key_ttl_s=60.0) as server:
        async with held(*group.nodes[1:]):
            ask = await _change(server, changed, tmp_path, how)
            await until(lambda: ready(server) == 2)  # whatever was announced, of others nothing was
            async with asyncio.timeout(2):
                while not await ask(changed):
                    pass
            # In batches of both tenants, too.
            await server.get("/warm-up", other, "POST")
            for _ in range(5):
                tenants = [other if n % 3 else changed for n in range(60)]
                replies = await asyncio.gather(*(server.get(f"/patients/p{n % 8}", name) for n, name in enumerate(tenants)))
                seen = {(name, is_active(reply)) for name, reply in zip(tenants, replies, strict=True)}
                assert seen == {(other, True), (changed, how == "file")}
            assert all([await ask(changed) for _ in range(30)])
            assert (await read_by(server, other))[0] == [0, 5, 5]
            assert (await read_by(server, changed))[0] == [10, 0, 0]
        floor = spread(server)._floors.known([_number(server, changed)])
        await until(lambda: all(place.server.lsn >= floor for place in spread(server)._places))
        assert (await read_by(server, changed))[0] == [0, 5, 5]
        assert await ask(changed)


def _number(server: Served, tenant: str) -> int:
    return next(a.tenant.tenant_id for a in server.services.registry._lifecycle.actors() if a.tenant.name == tenant)


async def _change(server: Served, tenant: str, folder: Path, how: str) -> Any:
    """What asks whether the new state is seen."""
    if how == "import":
        await change(server, tenant, folder, active=False)

        async def ask(name: str) -> bool:
            return not is_active(await server.get("/patients/p3", name))

        return ask
    async with intake(server.database, tenant=tenant) as taken:
        (profile,) = facilities(1)
        submission = next(iter(generate(7, profile, claims=3, claims_per_file=3, end=END)))
        loaded = await taken.load(submission)
        assert loaded.claims > 0

    async def count(name: str) -> bool:
        return bool((await server.get("/fhir/Claim?_summary=count", name)).json["total"] == loaded.claims)

    return count


async def test_what_was_missed_while_nobody_listened(group: Servers) -> None:
    """After the listening connection broke, everybody reads at least what there was when listening began again."""
    primary = group.nodes[0]
    async with api(group, "deaf", key_ttl_s=60.0) as server, held(*group.nodes[1:]), connected(primary.url) as connection:
        floor = spread(server)._floors._all
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice listener'"
        )
        await store(connection, "deaf", [patient("p1", active=False)])  # announced to nobody
        await until(lambda: spread(server)._floors._all > floor and spread(server)._floors._listening)
        assert not any([is_active(await server.get("/patients/p1", "deaf")) for _ in range(10)])
        assert (await read_by(server, "deaf"))[0] == [10, 0, 0]


async def test_a_replica_killed(group: Servers) -> None:
    """When a replica is killed under load no read fails, and once it is back it is read again."""
    async with api(group, "killed-warm", "killed-cold", key_ttl_s=60.0) as server:
        stop = asyncio.Event()

        async def load(tenant: str) -> list[int]:
            found = []
            while not stop.is_set():
                found.append((await server.get("/patients/p2", tenant)).status)
            return found

        async with asyncio.TaskGroup() as tasks:
            loads = [tasks.create_task(load(("killed-warm", "killed-cold")[n % 2])) for n in range(8)]
            await until(lambda: min(reads(server)[1:]) > 50)
            group.nodes[2].kill()
            await until(lambda: states(server)[2] == "away")
            before = reads(server)
            await until(lambda: reads(server)[1] > before[1] + 50)
            assert reads(server)[2] == before[2]
            stop.set()
        statuses = [status for each in loads for status in each.result()]
        assert set(statuses) == {200}, (len(statuses), [status for status in statuses if status != 200])
        await group.nodes[2].start()
        await until(lambda: ready(server) == 2)
        assert (await read_by(server, "killed-cold"))[0] == [0, 5, 5]


async def test_what_replay_cancels_is_asked_again(group: Servers) -> None:
    """A read that its replica cancels, because it is in the way of what has to be replayed, is nobody's fault."""
    primary, replica, _ = group.nodes
    await replica.run("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await replica.run("SELECT pg_reload_conf()")
    await primary.run("CREATE TABLE public.in_the_way AS SELECT 1 AS x")
    await group.caught_up()
    running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    async with connected(replica.url) as reader, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(_caught(reader, "SELECT pg_sleep(20) FROM public.in_the_way"))
        async with connected(replica.url) as other:
            while not await other.fetchval(running):
                pass
        await primary.run("DROP TABLE public.in_the_way")
    error = reading.result()
    assert getattr(error, "sqlstate", None) == "40001"
    assert worth_another_try(error)
    assert isinstance(problem_of(error), ServerBusy)


async def _caught(connection: asyncpg.Connection, sql: str) -> BaseException:
    try:
        await connection.fetch(sql)
    except asyncpg.PostgresError as error:
        return error
    raise AssertionError


async def test_one_server_is_not_watched(database: str) -> None:
    """With one server nothing is routed, and no connection is there that looks at it."""
    async with served(database) as server:
        assert type(server.services.storage) is Storage
        async with connected(database) as connection:
            found = await connection.fetch("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
        assert {row[0] for row in found} <= {"sluice api", "sluice report", "sluice listener", ""}


async def test_a_server_of_another_cluster(group: Servers) -> None:
    """A replica that is none of the primary's, though it be named as one, is never read."""
    primary = group.nodes[0].url
    key = await add_tenant(primary, "strict", PEOPLE)
    async with (
        stranger() as node,
        served(primary, keys={"strict": key}, replica_url=(node.url,), key_ttl_s=60.0) as server,
    ):
        assert states(server) == ["primary", "stale"]
        assert (await read_by(server, "strict"))[0][1] == 0


async def test_a_broken_connection(group: Servers) -> None:
    """From the moment that a connection broke nobody is sent to its server, until it has answered again."""
    async with api(group, "broken") as server:
        storage = spread(server)
        with suppress(ConnectionResetError):
            async with storage.read([0]) as connection:
                place = next(place for place in storage._places if connection.backend in place.api.backends())
                raise ConnectionResetError
        assert place.server.state == "away"
        assert all(storage._place_for([0]) is not place for _ in range(10))
        await until(lambda: ready(server) == 2)


async def test_who_waits_where_a_server_is_lost(group: Servers) -> None:
    """Who waits for a connection to a server that is lost gets one elsewhere, long before he would have to give up."""
    async with api(group, "waits") as server:
        storage = spread(server)
        primary, *replicas = storage._places
        taken = [(place, await place.api.take(1)) for place in replicas for _ in range(place.api.size)]

        async def reading() -> bool:
            async with storage.read([0], 10) as connection:
                return connection.backend in primary.api.backends()

        waiting = asyncio.create_task(reading())
        await until(lambda: any(place.api._waiters for place in replicas))
        for place in replicas:
            storage.suspect(place)
        assert await asyncio.wait_for(waiting, 5)
        for place, connection in taken:
            place.api.give_back(connection)


async def test_commands_find_the_primary(group: Servers) -> None:
    """Whatever stands where, commands work at the server that takes writes; without one they say which were asked."""
    primary, first, second = (node.url for node in group.nodes)
    given = Config(database_url=first, replica_url=(second, primary))

    def resolved(config: Config) -> Config:
        with at_primary(config) as found:
            return found

    assert await asyncio.to_thread(resolved, given) == replace(given, database_url=primary, replica_url=(first, second))
    hosts = ",".join(node.address for node in reversed(group.nodes))
    several = primary.replace(group.nodes[0].address, hosts) + "?target_session_attrs=read-write"
    found = await asyncio.to_thread(resolved, Config(database_url=several))
    assert found.database_url == primary
    with pytest.raises(ServerBusy, match=r"none of 127.0.0.1:\d+, 127.0.0.1:\d+ is a primary.*SLUICE_REPLICA_URL"):
        await find_primary(addresses_of([first, second]), 0.3)


def test_addresses() -> None:
    """A URL of several hosts stands for each, whoever routes; a name holds no login; a server named twice counts once."""
    login = "postgresql://u:p%2Cw@"
    assert addresses_of([f"{login}a,b:6000,[::1]/db?target_session_attrs=any&sslmode=disable", f"{login}b:6000/db"]) == [
        Address("a:5432", f"{login}a:5432/db?sslmode=disable"),
        Address("b:6000", f"{login}b:6000/db?sslmode=disable"),
        Address("[::1]:5432", f"{login}[::1]:5432/db?sslmode=disable"),
    ]
    assert "p%2Cw" not in repr(addresses_of([f"{login}a/db"]))
