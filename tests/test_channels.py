"""Actors, dispatcher and the warm-up endpoint on a real PostgreSQL.

Where a statement must take long, a lock on its table holds it until the test lets go: no sleeps.
"""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from base.errors import Invalid
from base.operations import BY_NAME
from storage import asks as asks_module
from storage.asks import Ask, settle
from storage.connecting.connections import Connection
from storage.connecting.servers import Storage
from storage.statements import read_statement
from storage.warmth import Warmth, warmth_of
from tenants import dispatcher as dispatcher_module
from tests.support import Reply, Served, add_tenant, connected, encounter, patient, served, until

PEOPLE = [patient(f"p{n}", name=[{"family": f"F{n}"}]) for n in range(80)]


@asynccontextmanager
async def held(database: str, *tables: str) -> AsyncIterator[None]:
    """Statements that touch these tables wait until this is left."""
    async with connected(database) as connection, connection.transaction():
        for table in tables:
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def warm(server: Served, *tenants: str) -> None:
    for tenant in tenants or ("one",):
        reply = await server.get("/warm-up", tenant, method="POST")
        assert reply.status in (200, 201), reply.body


def ask_of(tenant_id: int, resource_id: str) -> Ask:
    return Ask(BY_NAME["get_patient"], tenant_id, "", read_statement("Patient"), (resource_id,), 10.0)


def batches(server: Served, operation: str) -> int:
    return sum(server.services.metrics.batch_size.child(operation).counts)


def transition(server: Served, name: str) -> float:
    return float(server.services.metrics.tenant_transitions.child(name).value)


async def waiting(server: Served, number: int) -> None:
    """Until so many asks have come in, on whichever path."""
    await until(lambda: len(server.services.deadlines) >= number)


class Silence:
    """Collects what the event loop would log as forgotten."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> list[dict[str, Any]]:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.said.append(context))
        return self.said

    def __exit__(self, *_: object) -> None:
        gc.collect()
        asyncio.get_running_loop().set_exception_handler(None)


async def test_warm_up_and_its_end(database: str) -> None:
    """201 makes the actor and reads go through its channels; 200 extends it; DELETE ends it, and again changes nothing."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        assert (await server.get("/warm-up")).json["state"] == "cold"
        assert (await server.get("/patients/p1")).path == "direct"
        first = await server.get("/warm-up", method="POST")
        again = await server.get("/warm-up", method="POST")
        assert (first.status, again.status) == (201, 200)
        assert first.json["generation"] == again.json["generation"] == 1
        assert again.json["cools_at"] > first.json["cools_at"]
        assert (await server.get("/patients/p1")).path == "channel"
        for _ in range(2):
            reply = await server.get("/warm-up", method="DELETE")
            assert (reply.status, reply.json["state"]) == (200, "cold")
        assert (await server.get("/patients/p1")).path == "direct"
        assert (await server.get("/warm-up", method="POST")).json["generation"] == 2
        assert [transition(server, name) for name in ("warm_up", "extend", "evict")] == [2, 1, 1]


async def test_double_warm_up(database: str) -> None:
    """A hundred warm-ups at once make one actor with one set of probes, and a hundred identical answers."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        replies = await asyncio.gather(*(server.get("/warm-up", method="POST") for _ in range(100)))
        assert sorted(reply.status for reply in replies) == [200] * 99 + [201]
        assert len({reply.body for reply in replies}) == 1
        assert transition(server, "warm_up") == 1
        assert batches(server, "get_patient") == 1


async def test_failed_warm_up(database: str) -> None:
    """A warm-up whose probe fails leaves the tenant cold everywhere, and the next one may succeed."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, deadline_s=0.3) as server:
        async with held(database, "fhir.resource_practitioner"):
            assert (await server.get("/warm-up", method="POST")).status == 504
        assert (await server.get("/warm-up")).json["state"] == "cold"
        async with connected(database) as connection:
            assert await connection.fetchval("SELECT count(*) FROM ops.warm_tenant WHERE warm_until > now()") == 0
        assert (await server.get("/warm-up", method="POST")).status == 201


async def test_warm_up_in_its_own_time(database: str) -> None:
    """The cooldown ends the actor by itself, and a request afterwards is answered directly."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, cooldown_s=0.2) as server:
        await warm(server)
        await until(lambda: transition(server, "cooldown") == 1)
        assert (await server.get("/warm-up")).json["state"] == "cold"
        reply = await server.get("/patients/p1")
        assert (reply.status, reply.path) == (200, "direct")


async def test_idle_cooldown(database: str) -> None:
    """Counted from the last request, the cooldown does not end a tenant that is busy, and does end one that is idle."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, cooldown_s=0.3, cooldown="idle") as server:
        await warm(server)
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.9
        while loop.time() < end:
            assert (await server.get("/patients/p1")).path == "channel"
        await until(lambda: transition(server, "cooldown") == 1)


@pytest.mark.parametrize("ending", ["asked for", "in its time"])
async def test_cooldown_against_enqueue(database: str, ending: str) -> None:
    """What waits or runs when its tenant cools is answered, once and rightly; what comes later goes direct."""
    key = await add_tenant(database, "one", PEOPLE)
    cooldown_s = 600.0 if ending == "asked for" else 0.5
    async with served(database, keys={"one": key}, cooldown_s=cooldown_s) as server:
        async with held(database, "fhir.resource_patient"):
            pass
        await warm(server)
        async with held(database, "fhir.resource_patient"):
            before = [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(80)]
            await waiting(server, 80)
            if ending == "asked for":
                state = (await server.get("/warm-up", method="DELETE")).json["state"]
            else:
                await until(lambda: transition(server, "cooldown") == 1)
                state = (await server.get("/warm-up")).json["state"]
            assert state == "cooling"
            late = asyncio.create_task(server.get("/patients/p7"))
            await waiting(server, 81)
        replies = await asyncio.gather(*before)
        assert [reply.json["id"] for reply in replies] == [f"p{n}" for n in range(80)]
        assert {reply.path for reply in replies} == {"channel"}
        assert ((await late).status, (await late).path) == (200, "direct")
        assert (await server.get("/warm-up")).json["state"] == "cold"


async def test_warm_up_while_cooling(database: str) -> None:
    """A warm-up while the old actor drains makes the next generation, which answers at once what comes to it."""
    key = await add_tenant(database, "one", [*PEOPLE, encounter("e1")])
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        async with held(database, "fhir.token_patient"):
            old = asyncio.create_task(server.get("/patients?gender=female"))
            await waiting(server, 1)
            assert (await server.get("/warm-up", method="DELETE")).json["state"] == "cooling"
            assert (await server.get("/warm-up", method="POST")).json["generation"] == 2
            reply = await server.get("/encounters/e1")
            assert (reply.status, reply.path) == (200, "channel")
            assert not old.done()
        assert (await old).path == "channel"


async def test_random_commands_end_in_the_last(database: str) -> None:
    """However warm-ups, cool-downs and reads interleave, no read fails, and the last command holds, in the row too."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        chance = random.Random(7)
        for _ in range(15):
            commands = [chance.choice(["POST", "DELETE", "GET"]) for _ in range(8)]
            tasks = []
            for command in commands:
                path = "/patients/p3" if command == "GET" else "/warm-up"
                tasks.append(asyncio.create_task(server.get(path, method=command)))
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            replies = await asyncio.gather(*tasks)
            assert {reply.status for reply in replies} <= {200, 201}
            last = chance.choice(["POST", "DELETE"])
            await server.get("/warm-up", method=last)
            expected = "warm" if last == "POST" else "cold"
            assert (await server.get("/warm-up")).json["state"] == expected
            async with connected(database) as connection:
                warm_row = await connection.fetchval("SELECT warm_until > now() FROM ops.warm_tenant")
            assert bool(warm_row) == (last == "POST")


async def test_disconnect_mid_batch(database: str) -> None:
    """Clients that leave take nothing from the others, and nothing is logged as forgotten."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        with Silence() as said:
            async with held(database, "fhir.resource_patient"):
                tasks = [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(60)]
                await waiting(server, 60)
                for task in tasks[::3]:
                    task.cancel()
                await until(lambda: len(server.services.deadlines) == 40)
            staying = [task for n, task in enumerate(tasks) if n % 3]
            replies = await asyncio.gather(*staying)
            assert [reply.json["id"] for reply in replies] == [f"p{n}" for n in range(60) if n % 3]
            await asyncio.gather(*tasks, return_exceptions=True)
            del tasks, staying
            gc.collect()
        assert said == []


async def test_all_leave_before_dispatch(database: str) -> None:
    """Asks whose clients have all left cost no statement."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        async with held(database, "fhir.resource_patient"):
            busy = [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(2)]
            await waiting(server, 2)  # one by one, these take both slots of reads
            await until(lambda: server.services.registry._dispatcher.waiting == 0)
            sent = batches(server, "get_patient")
            leaving = [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(10, 40)]
            await waiting(server, 32)
            for task in leaving:
                task.cancel()
            await until(lambda: len(server.services.deadlines) == 2)
        await asyncio.gather(*busy)
        await until(lambda: server.services.registry._dispatcher.waiting == 0)
        assert batches(server, "get_patient") <= sent + 1  # the two first may have been one batch or two


async def test_equal_asks_share(database: str) -> None:
    """Equal asks in one batch are asked once, one leaving takes nothing from the others, and only sharers are called shared."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        async with held(database, "fhir.resource_patient"):
            first = [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(2)]
            await waiting(server, 2)
            await until(lambda: server.services.registry._dispatcher.waiting == 0)
            same = [asyncio.create_task(server.get("/patients/p9")) for _ in range(20)]
            await waiting(server, 22)
            same[0].cancel()
            await until(lambda: len(server.services.deadlines) == 21)
        replies = await asyncio.gather(*first, *same[1:])
        assert all(reply.status == 200 for reply in replies)
        shared = server.services.metrics.request_duration.child("get_patient", "channel", "treatment", "shared")
        assert sum(shared.counts) == 18


async def test_poison_is_isolated(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ask that the database cannot take is told so; its 63 neighbours are answered, within 2·log2(64)+1 statements."""
    await add_tenant(database, "one", PEOPLE)
    statements = 0
    fetch = Connection.fetch

    async def counting(self: Connection, sql: str, *values: Any, **options: Any) -> Any:
        nonlocal statements
        statements += sql in (read_statement("Patient").plain, read_statement("Patient").batch)
        return await fetch(self, sql, *values, **options)

    async with served(database) as server:
        monkeypatch.setattr(Connection, "fetch", counting)
        asks = [ask_of(1, "bad\x00id" if n == 41 else f"p{n}") for n in range(64)]
        await settle(server.services.storage, asks)
        assert isinstance(asks[41].future.exception(), Invalid)
        assert [ask.rows[0][2] for n, ask in enumerate(asks) if n != 41] == [f"p{n}" for n in range(64) if n != 41]
        assert statements <= 13


async def test_missing_and_repeated_ids(database: str) -> None:
    """Over random lists of ids, found, missing, deleted and repeated, channel and direct answer the same bytes."""
    keys = {name: await add_tenant(database, name, PEOPLE[:40] if name == "one" else PEOPLE[20:]) for name in ("one", "two")}
    async with served(database, keys=keys) as server:
        await warm(server, "one", "two")
        chance = random.Random(3)
        asked = [(chance.choice(["one", "two"]), f"/patients/p{chance.randrange(100)}") for _ in range(400)]

        async def answers(force: str) -> list[tuple[int, bytes]]:
            replies = await asyncio.gather(*(server.get(path, tenant, X_Sluice_Force=force) for tenant, path in asked))
            assert {reply.path for reply in replies} == {force}
            return [(reply.status, reply.body) for reply in replies]

        assert await answers("channel") == await answers("direct")
        assert max(server.services.metrics.batch_size.child("get_patient").counts[3:]) > 0


def _random_load(server: Served, number: int) -> Any:
    chance = random.Random(number)
    paths = ["/patients/p{n}", "/patients?_count=3", "/patients?family=f{n}", "/encounters?patient=p{n}", "/reviews/e{n}"]

    async def one() -> tuple[str, Reply]:
        tenant = chance.choice(list(server.keys))
        return tenant, await server.get(chance.choice(paths).format(n=chance.randrange(10)), tenant)

    return asyncio.gather(*(one() for _ in range(300)))


async def _tagged_tenants(database: str) -> dict[str, str]:
    """Tenants with the same ids, each resource saying whose it is."""
    keys = {}
    for name in ("one", "two", "three", "four"):
        tag = {"meta": {"tag": [{"code": f"of-{name}"}]}}
        people = [patient(f"p{n}", name=[{"family": f"F{n}"}], **tag) for n in range(10)]
        visits = [encounter(f"e{n}", "2025-01-01", subject={"reference": f"Patient/p{n}"}, **tag) for n in range(10)]
        keys[name] = await add_tenant(database, name, [*people, *visits])
    return keys


async def test_no_foreign_rows(database: str) -> None:
    """Under mixed load of tenants with equal ids, nobody sees a row of another."""
    keys = await _tagged_tenants(database)
    async with served(database, keys=keys) as server:
        await warm(server, *keys)
        for tenant, reply in await _random_load(server, 1):
            assert reply.status == 200
            others = [name for name in keys if name != tenant]
            assert not any(f"of-{name}".encode() in reply.body for name in others)
            assert f"of-{tenant}".encode() in reply.body


@pytest.mark.parametrize("bug", ["rows of other tenants", "answers handed out in another order"])
async def test_a_planted_mix_up_is_caught(database: str, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    """When batches mix up tenants, their requests fail with 500, it is counted, and the operation is direct from then on."""
    keys = await _tagged_tenants(database)
    async with served(database, keys=keys) as server:
        await warm(server, *keys)
        if bug == "rows of other tenants":
            columns = asks_module._columns
            monkeypatch.setattr(asks_module, "_columns", lambda groups: [columns(groups)[0][::-1], *columns(groups)[1:]])
        else:
            hand_out = asks_module.hand_out
            monkeypatch.setattr(asks_module, "hand_out", lambda asks, rows: hand_out(asks[::-1], rows))
        replies = await asyncio.gather(*(server.get("/patients/p1", tenant) for tenant in keys))
        monkeypatch.undo()
        for tenant, reply in zip(keys, replies, strict=True):
            assert reply.status == 500 or f"of-{tenant}".encode() in reply.body
        assert 500 in {reply.status for reply in replies}
        assert server.services.metrics.tenant_mismatch.child().value >= 1
        after = await server.get("/patients/p1", "one")
        assert (after.status, after.path) == (200, "direct")
        assert (await server.get("/encounters/e1", "one")).path == "channel"


async def test_slow_lists_do_not_hold_reads(database: str) -> None:
    """While lists take for ever, the same tenant's reads are answered."""
    key = await add_tenant(database, "one", [*PEOPLE, encounter("e1")])
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        async with held(database, "fhir.token_encounter"):
            slow = [asyncio.create_task(server.get(f"/encounters?status=finished&_count={n}")) for n in range(1, 30)]
            await waiting(server, 29)
            replies = await asyncio.gather(*(server.get(f"/patients/p{n}") for n in range(40)))
            assert {(reply.status, reply.path) for reply in replies} == {(200, "channel")}
            assert not any(task.done() for task in slow)
        assert {reply.status for reply in await asyncio.gather(*slow)} == {200}


async def test_full_queue(database: str) -> None:
    """A full channel answers 429, a full server 503, both with Retry-After, at once and without spilling to direct."""
    keys = {name: await add_tenant(database, name, PEOPLE) for name in ("one", "two")}
    async with served(database, keys=keys, queue_size=20, queue_total=30) as server:
        await warm(server, "one", "two")
        async with held(database, "fhir.resource_patient"):
            tasks = []
            for _ in range(2):  # fills both slots, one batch after the other
                tasks.append(asyncio.create_task(server.get("/patients/p1")))
                await waiting(server, len(tasks))
                await until(lambda: server.services.registry._dispatcher.waiting == 0)
            tasks += [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(20)]
            await waiting(server, 22)
            busy = await server.get("/patients/p1")
            tasks += [asyncio.create_task(server.get(f"/patients/p{n}", "two")) for n in range(10)]
            await waiting(server, 32)
            full = await server.get("/patients/p1", "two")
            for reply, status in ((busy, 429), (full, 503)):
                assert (reply.status, reply.path) == (status, "channel")
                assert reply.headers["Retry-After"] == "1"
                assert reply.json["resourceType"] == "OperationOutcome"
                assert float(reply.headers["Server-Timing"].rpartition("=")[2]) < 5
        assert {reply.status for reply in await asyncio.gather(*tasks)} == {200}


async def test_expired_deadline(database: str) -> None:
    """An ask whose deadline passes in the queue is answered 504 in time, and never reaches the database."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, deadline_s=0.4) as server:
        await warm(server)
        loop = asyncio.get_running_loop()
        async with held(database, "fhir.resource_patient"):
            began = loop.time()
            tasks = [asyncio.create_task(server.get(f"/patients/p{n}")) for n in range(40)]
            replies = await asyncio.gather(*tasks)
            took = loop.time() - began
        assert {reply.status for reply in replies} == {504}
        assert took < 0.4 + 0.25  # 50 ms, and what 40 requests of a busy machine take
        assert (await server.get("/patients/p1")).status == 200


async def test_dispatcher_crash(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher that crashes answers what it had taken with 503 and starts again; nothing hangs."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        crashed = False

        def crash_once(self: Any, ask: Any, limits: Any) -> float:
            nonlocal crashed
            if not crashed and ask.values == ("p9",):
                crashed = True
                raise RuntimeError("planted")
            return original(self, ask, limits)

        original = dispatcher_module.Dispatcher._cost
        monkeypatch.setattr(dispatcher_module.Dispatcher, "_cost", crash_once)
        async with held(database, "fhir.resource_patient"):
            tasks = []
            for n in range(2):  # fills both slots, one batch after the other
                tasks.append(asyncio.create_task(server.get(f"/patients/p{n}")))
                await waiting(server, len(tasks))
                await until(lambda: server.services.registry._dispatcher.waiting == 0)
            tasks += [asyncio.create_task(server.get(f"/patients/p{n}")) for n in (8, 9)]
            await waiting(server, 4)
        assert sorted(reply.status for reply in await asyncio.gather(*tasks)) in ([200, 200, 200, 503], [200, 200, 503, 503])
        replies = await asyncio.gather(*(server.get(f"/patients/p{n}") for n in range(40)))
        assert {reply.status for reply in replies} == {200}
        assert server.services.metrics.dispatcher_restarts.child().value == 1
        assert (await server.get("/warm-up", method="DELETE")).json["state"] == "cold"


async def _order(server: Served, noisy: str, quiet: list[str], database: str, path: str) -> list[str]:
    """In which order tenants' requests were answered, noisy's 200 having come first."""
    order: list[str] = []

    async def one(tenant: str, number: int) -> None:
        reply = await server.get(path.format(n=number), tenant)
        assert reply.status == 200
        order.append(tenant)

    async with held(database, "fhir.resource_patient"):
        tasks = [asyncio.create_task(one(noisy, n)) for n in range(200)]
        await waiting(server, 200)
        tasks += [asyncio.create_task(one(tenant, n)) for n, tenant in enumerate(quiet)]
        await waiting(server, 200 + len(quiet))
    await asyncio.gather(*tasks)
    return order


@pytest.mark.parametrize("path", ["direct", "channel"])
async def test_noisy_neighbour(database: str, path: str) -> None:
    """Behind 200 requests of a noisy tenant, quiet ones are answered in the first rounds, on both paths."""
    names = ["noisy", *(f"quiet-{n}" for n in range(5))]
    keys = {name: await add_tenant(database, name, [patient(f"p{n}") for n in range(80)]) for name in names}
    async with served(database, keys=keys) as server:
        if path == "channel":
            await warm(server, *names)
        order = await _order(server, "noisy", names[1:], database, "/patients?_count={n}&_id=p1")
        last = max(place for place, tenant in enumerate(order) if tenant != "noisy")
        assert last < 100


async def test_fairness_is_what_does_it(database: str) -> None:
    """With turns off, the quiet ones wait behind the noisy one: the test above can fail."""
    names = ["noisy", *(f"quiet-{n}" for n in range(5))]
    keys = {name: await add_tenant(database, name, [patient(f"p{n}") for n in range(80)]) for name in names}
    async with served(database, keys=keys) as server:
        await warm(server, *names)
        server.services.registry._dispatcher._fair = False
        order = await _order(server, "noisy", names[1:], database, "/patients?_count={n}&_id=p1")
        assert min(place for place, tenant in enumerate(order) if tenant != "noisy") > 100


async def test_control_arm(database: str) -> None:
    """A share of a warm tenant's requests goes direct for comparison and is labelled so; a cold tenant's are in no arm."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, control_share=0.5) as server:
        await server.get("/patients/p1")
        await warm(server)
        paths = [(await server.get("/patients/p1")).path for _ in range(60)]
        assert 10 < paths.count("direct") < 50
        counted = server.services.metrics.request_duration.children
        arms = {
            labels[1:3]: sum(slot.counts) for labels, slot in counted.items() if labels[0] == "get_patient" and any(slot.counts)
        }
        assert arms == {
            ("direct", "none"): 1,
            ("direct", "control"): paths.count("direct"),
            ("channel", "treatment"): paths.count("channel"),
        }


async def test_force(database: str) -> None:
    """With scope operate a request may force its path; to a channel that is not there it is a 409."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        assert (await server.get("/patients/p1", X_Sluice_Force="channel")).status == 409
        await warm(server)
        for path in ("channel", "direct"):
            assert (await server.get("/patients/p1", X_Sluice_Force=path)).path == path
        assert (await server.get("/patients/p1", X_Sluice_Force="sideways")).status == 400


async def test_exclusive_tenants_share_no_statement(database: str) -> None:
    """An exclusive tenant's asks are never in one statement with another's; its own may be together."""
    keys = {name: await add_tenant(database, name, PEOPLE, exclusive=name == "alone") for name in ("alone", "two", "three")}
    async with served(database, keys=keys) as server:
        await warm(server, *keys)
        seen: list[set[int]] = []

        async def noting(storage: Any, asks: Any) -> Any:
            seen.append({ask.tenant_id for ask in asks})
            return await settle(storage, asks)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server.services.registry._dispatcher, "_settle", noting)
            for _ in range(20):  # on a busy machine they may come one by one
                await asyncio.gather(*(server.get(f"/patients/p{n}", tenant) for n in range(30) for tenant in keys))
                if any(len(tenants) > 1 for tenants in seen):
                    break
        assert any(len(tenants) > 1 for tenants in seen)
        assert all(1 not in tenants or tenants == {1} for tenants in seen)


async def test_channels_off(database: str) -> None:
    """With channels off a warm-up is a 409, also where the row says warm, and requests are direct."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        await warm(server)
    async with served(database, keys={"one": key}, channels="off") as server:
        reply = await server.get("/warm-up", method="POST")
        assert (reply.status, reply.headers["Content-Type"].partition(";")[0]) == (409, "application/problem+json")
        assert (await server.get("/patients/p1")).path == "direct"


async def test_restored_at_start(database: str) -> None:
    """A process that starts takes over who is warm, with the generation and the time that is left."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}, cooldown_s=100.0) as server:
        before = (await server.get("/warm-up", method="POST")).json
    async with served(database, keys={"one": key}, cooldown_s=100.0) as server:
        assert (await server.get("/warm-up")).json == before
        assert (await server.get("/patients/p1")).path == "channel"
        actor = server.services.registry._lifecycle.warm(1)
        assert actor is not None
        assert 90 < actor.cools_at - asyncio.get_running_loop().time() <= 100


async def test_other_processes_follow(database: str) -> None:
    """A warm-up in one process warms the tenant in the others, an extension and a cool-down are followed too."""
    key = await add_tenant(database, "one", PEOPLE)
    keys = {"one": key}
    async with served(database, keys=keys) as server, served(database, keys=keys) as other:
        following = other.services.registry
        await warm(server)
        await until(lambda: following.standing(1).state.value == "warm")
        assert (await other.get("/patients/p1")).path == "channel"
        extended = (await server.get("/warm-up", method="POST")).json["cools_at"]
        await until(lambda: str(following.standing(1).cools_at).startswith(extended[:19].replace("T", " ")))
        await other.get("/warm-up", method="DELETE")
        await until(lambda: server.services.registry.standing(1).state.value == "cold")


async def test_cooled_while_restored(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant that cools down while the rows are on their way, which still say warm, stays cold."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        await warm(server)
        registry = server.services.registry
        read, go = asyncio.Event(), asyncio.Event()

        async def slowly(storage: Storage, tenant_ids: Sequence[int] | None = None) -> list[Warmth]:
            rows = await warmth_of(storage, tenant_ids)
            if tenant_ids is None:  # no real network can be told to be slow just here
                read.set()
                await go.wait()
            return rows

        monkeypatch.setattr("tenants.registry.warmth_of", slowly)
        restoring = asyncio.create_task(registry.restore())
        await read.wait()
        await server.get("/warm-up", method="DELETE")
        go.set()
        await restoring
        assert registry.standing(1).state.value == "cold"
        assert (await server.get("/patients/p1")).path == "direct"


async def test_listener_lost(database: str) -> None:
    """What another process does while the listener is away is caught up with when it is back."""
    key = await add_tenant(database, "one", PEOPLE)
    async with served(database, keys={"one": key}) as server:
        async with connected(database) as connection:
            await connection.execute("SELECT ops.warm(1, 600)")
            await until(lambda: server.services.registry.standing(1).state.value == "warm")
            await _end_backends(connection, "sluice listener")
            await connection.execute("SELECT ops.cool(1)")
        await until(lambda: server.services.registry.standing(1).state.value == "cold")


async def _end_backends(connection: asyncpg.Connection, application: str) -> None:
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", application)
