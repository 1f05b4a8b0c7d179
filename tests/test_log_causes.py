"""What a line was written because of: the request, the batch, the poll, the file or the refresh whose id it carries."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from base.errors import ServerBusy
from base.log import about
from metrics.catalog import Metrics
from simulator.post_office import Behaviour
from storage.asks import NAMED_MAX
from storage.connecting.connections import Lender, PoolLimits
from storage.views import REPORTS
from tenants.dispatcher import Dispatcher
from tests.logged import Lines, named
from tests.polls import clinics, polling
from tests.support import Served, add_tenant, connected, patient, served, until
from tests.test_polling import failing_for
from tests.test_view_refresh import SOON, claim, upkeep
from tests.view_books import books

LIMITS = PoolLimits(size=1, least=0, acquire_s=0.3)


@asynccontextmanager
async def locked(database: str) -> AsyncIterator[None]:
    """Whoever reads resources waits until the block is left."""
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE fhir.resource IN ACCESS EXCLUSIVE MODE")
        yield


def asking(server: Served, *ids: str, **headers: Any) -> list["asyncio.Task[Any]"]:
    return [asyncio.ensure_future(server.get("/patients/p", X_Request_ID=one, **headers)) for one in ids]


async def held(lines: Lines, number: int) -> list[dict[str, Any]]:
    await until(lambda: len(named(lines(), "connection.held_long")) >= number)
    return named(lines(), "connection.held_long")


# Requests


async def test_direct(database: str, lines: Lines) -> None:
    """What a pool says of a connection bears the id of the request that has it, also of one that had to wait for another."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}, pool_size=8, pool_held_s=0.05, deadline_s=1) as server:
        async with locked(database):  # direct has one connection here: the second waits until the first is given up
            first = asking(server, "first-1")
            await until(lambda: server.services.direct.standing()["running"] == 1)
            await asyncio.sleep(0.5)  # its deadline is to be that much later, so that it outlives the first
            second = asking(server, "second-1")
            await until(lambda: "second-1" in {line["request_id"] for line in named(lines(), "connection.held_long")})
        await asyncio.gather(*first, *second)
    told = {line["request_id"]: line for line in await held(lines, 2)}  # each may be told of twice: it is tried again
    assert list(told) == ["first-1", "second-1"]
    one = told["first-1"]
    assert (one["tenant"], one["operation"], one["holder"]) == ("one", "get_patient", "DirectLine._answer")


async def test_batch(database: str, lines: Lines) -> None:
    """A batch's line bears the ids of its first ten requests, and how many they are; a lone one's bears its own."""
    key = await add_tenant(database, "one", [patient("p")])
    ids = [f"batched-{number}" for number in range(NAMED_MAX + 5)]
    async with served(database, keys={"one": key}, pool_size=8, pool_held_s=0.05) as server:
        assert (await server.get("/warm-up", method="POST")).status == 201
        async with locked(database):
            alone = asking(server, "alone-1")
            await until(lambda: server.services.storage.api.lent == 1)
            rest = asking(server, *ids)
            one, batch = await held(lines, 2)
        assert {reply.status for reply in await asyncio.gather(*alone, *rest)} == {200}
    assert one["request_id"] == "alone-1"
    assert (len(batch["request_ids"]), batch["asks"], batch["operation"]) == (NAMED_MAX, NAMED_MAX + 5, "get_patient")
    assert set(batch["request_ids"]) < set(ids)
    assert {"request_id", "tenant"}.isdisjoint(batch)


async def test_dispatcher(database: str, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher that crashes says whose asks it had, whether it was answering them or still forming the batch."""

    def fail(*_: object) -> NoReturn:
        raise ValueError

    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}) as server:
        assert (await server.get("/warm-up", method="POST")).status == 201
        monkeypatch.setattr(Dispatcher, "_learn", fail)
        monkeypatch.setattr(Dispatcher, "_settled", fail)
        (reply,) = await asyncio.gather(*asking(server, "answering-1"))
        monkeypatch.undo()
        assert reply.status == 200
        monkeypatch.setattr(Dispatcher, "_end_turn", fail)
        async with locked(database):  # each slot answers one first, which is nobody's line any more
            busy = []
            for number in (1, 2):
                busy += asking(server, f"before-{number}")
                await until(lambda number=number: server.services.storage.api.lent == number)
            busy += asking(server, "forming-1", "forming-2")
            await until(lambda: server.services.registry._dispatcher.waiting == 2)
        assert sorted(reply.status for reply in await asyncio.gather(*busy)) == [200, 200, 503, 503]
    answering, forming = named(lines(), "dispatcher.crashed")
    assert answering["request_id"] == "answering-1"
    assert sorted(forming["request_ids"]) == ["forming-1", "forming-2"]


async def test_warm_up(database: str, lines: Lines) -> None:
    """What a request's own task says, such as a warm-up's, bears the request's id; the next request's lines bear the next's."""
    key = await add_tenant(database, "one", [patient("p")])
    async with served(database, keys={"one": key}) as server:
        await server.get("/warm-up", method="POST", X_Request_ID="warm-1")
        await server.get("/warm-up", method="DELETE", X_Request_ID="cool-1")
    (up,), (down,) = named(lines(), "tenant.warmed_up"), named(lines(), "tenant.cooled_down")
    assert (up["request_id"], down["request_id"]) == ("warm-1", "cool-1")


async def backend_of(lender: Lender) -> int:
    """Of a connection, once one can be had."""
    while True:
        with suppress(ServerBusy):
            async with lender.lend() as connection:
                return connection.backend


async def test_opening(database: str, lines: Lines) -> None:
    """A connection that cannot be opened is told with the id of who waits for it; what it does later is nobody's any more."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = f"postgresql://127.0.0.1:{closed.getsockname()[1]}/x"
    urls = [away]
    lender = Lender("test", lambda: urls[0], LIMITS, {}, wait=Metrics().pool_wait.child("api"))
    try:
        with about(request_id="waiting-1"):
            with pytest.raises(ServerBusy, match="away"):
                async with lender.lend():
                    pass
            urls[0] = database
            backend = await backend_of(lender)
        known = named(lines(), "database.connection_failed")
        lender.limits = replace(LIMITS, least=1)
        urls[0] = away
        with about(request_id="stranger-1"):
            async with connected(database) as other:
                await other.execute("SELECT pg_terminate_backend($1)", backend)
            await until(lambda: len(named(lines(), "database.connection_failed")) > len(known))
    finally:
        await lender.close()
    assert {line["request_id"] for line in known} == {"waiting-1"}
    assert not any("request_id" in line for line in named(lines(), "database.connection_failed")[len(known) :])


# A worker's work


async def test_poll(database: str, lines: Lines) -> None:
    """Every line of a poll bears its job, its number, tenant and facility, and every line of a file or a call those, too."""
    behaviour = Behaviour(only=("DownloadTransactionFile",), error_next=1, ack_fail_next=9)
    async with clinics(database, 2, behaviour=behaviour) as of:
        bad = of.files[of.licences[0]][0].file_id
        async with polling(of, loader=failing_for(bad)) as polls:

            async def poll(job: int, licence: str) -> None:
                with about(job=job):
                    await polls.of(licence)

            await asyncio.gather(*[poll(number, licence) for number, licence in enumerate(of.licences, 11)])
        runs = {row["job_id"] or row["run_id"]: row for row in await of.rows("SELECT * FROM ops.poll_run")}
    found = [line for line in lines() if line["event"] != "migration.applied"]
    assert {line["event"] for line in found} == {
        "post_office.asked_again",
        "file.failed",
        "file.not_taken",
        "acknowledgement.owed",
        "facility.polled",
    }
    assert len(runs) == 2
    assert {(line["job"], line["facility"], line["tenant"]) for line in found} == {
        (number, licence, "clinic") for number, licence in enumerate(of.licences, 11)
    }
    assert len({(line["poll"], line["facility"]) for line in found}) == len({line["poll"] for line in found}) == 2
    assert all(line.get("file") for line in found if line["event"] != "facility.polled")
    assert all(isinstance(line["call"], int) for line in named(found, "post_office.asked_again"))
    assert {line["file"] for line in named(found, "file.failed")} == {bad}
    assert not any("file" in line for line in named(found, "facility.polled"))


async def test_refresh(database: str, lines: Lines) -> None:
    """Every try at a view has an id of its own, and its lines bear it, also when it fails."""
    async with books(database) as of, connected(database) as owner:
        await of.tell(1, claim(1))
        await owner.execute(f"REVOKE MAINTAIN ON {REPORTS['remittance-advice'].matview} FROM sluice_ingest")
        async with upkeep(database, SOON):
            await until(lambda: named(lines(), "view.failed") and len(named(lines(), "view.refreshed")) >= 2)
    found = [*named(lines(), "view.refreshed"), *named(lines(), "view.failed")]
    assert len({line["refresh"] for line in found}) == len(found)
    assert {(line["action"], bool(line["view"])) for line in found} == {("refresh", True)}
