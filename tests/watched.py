"""Everything that dashboards show, running: a server and a worker with a post office on one database, and load on it all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from base.identity import DEFAULT_SCOPES
from simulator.post_office import Behaviour
from storage.tenancy import create_key
from tests.polls import Clinics, clinics, files_of
from tests.processes import Running
from tests.prometheus import polled
from tests.replicas import Servers
from tests.reporting import REPORTS
from tests.support import Served, add_tenant, connected, encounter, patient, served
from tests.test_worker import working

FLOOD = 200  # requests at once: far more than may wait
ENTITIES = (
    "/patients/p1", "/patients", "/encounters/e1", "/encounters?patient=p1", "/practitioners/d1", "/practitioners",
    "/reviews/e1",
)  # fmt: skip
PATIENT = {"reference": "Patient/p1"}
RESOURCES = (
    *(patient(f"p{number}") for number in range(30)),
    *(encounter(f"e{number}", "2024-01-01", subject=PATIENT) for number in range(30)),
    {"resourceType": "Practitioner", "id": "d1"},
)
SLOW = Behaviour(slow_s=0.05, garbage_next=1)
"""A file takes part of a scrape's interval, so that scrapes see some of them come, and the first is none."""


@dataclass
class Watched:
    """What is to be watched, and where it is scraped."""

    server: Served
    worker: Running
    office: Clinics

    @property
    def worker_url(self) -> str:
        return f"http://127.0.0.1:{self.worker.logged('worker.started')[0]['port']}"


async def load(server: Served) -> None:
    """Both arms and both paths of every operation, refusals by both paths, and each error that a client can make."""
    for path in ENTITIES:
        await asyncio.gather(*(server.get(path, "warm") for _ in range(20)), server.get(path, "cold"))
    for force in ("channel", "direct"):
        flood = await asyncio.gather(*(server.get("/reviews/e1", "warm", X_Sluice_Force=force) for _ in range(FLOOD)))
        assert {200, 429} == {reply.status for reply in flood}
    wrong = [await server.get("/patients/p1", None), await server.get("/patients?_count=x", "warm")]
    wrong += [await server.get("/patients/nobody", "warm"), await server.get("/no/such/route", "warm")]
    assert [reply.status for reply in wrong] == [401, 400, 404, 404]


@asynccontextmanager
async def loaded(database: str, **settings: Any) -> AsyncIterator[Served]:
    """A server with a warm and a cold tenant that has answered all of `load` once."""
    keys = {name: await add_tenant(database, name, RESOURCES) for name in ("warm", "cold")}
    async with served(database, keys=keys, control_share=0.5, queue_size=16, **settings) as server:
        assert (await server.get("/warm-up", "warm", method="POST")).status == 201
        await load(server)
        yield server


@asynccontextmanager
async def watched(nodes: Servers) -> AsyncIterator[Watched]:
    """The same with replicas, and a worker whose two facilities' files wait for `come_in`."""
    database, replicas = nodes.nodes[0].url, nodes.urls["replica_url"]
    async with clinics(database, 2, files=files_of(2, each=2), behaviour=SLOW) as office:
        await office.rows("UPDATE ops.facility SET next_poll_at = now() + interval '1 day'")
        async with (
            loaded(database, replica_url=replicas) as server,
            working(database, poll_interval_s=1, view_interval_s=1) as worker,
        ):
            async with connected(database) as connection:
                server.keys["clinic"] = await create_key(connection, "clinic", DEFAULT_SCOPES)
            yield Watched(server, worker, office)


async def come_in(system: Watched) -> None:
    """Every file that the post office has, polls without news after that, and reports of what came in."""
    office = system.office
    await office.rows("UPDATE ops.facility SET next_poll_at = now()")
    files = sum(map(len, office.files.values()))

    async def taken() -> bool:
        return bool(await office.value("SELECT count(*) >= $1 FROM claims.file", files))

    await polled(taken, within_s=40)
    ended = "SELECT count(*) >= 2 * $1 + (SELECT count(*) FROM ops.poll_run WHERE outcome IS NULL) FROM ops.poll_run"

    async def again() -> bool:
        return bool(await office.value(ended, len(office.licences)))

    await polled(again, within_s=40)
    for report in REPORTS:
        for form in ("json", "csv"):
            assert (await system.server.get(f"/reports/{report}?format={form}", "clinic")).status == 200
    assert (await system.server.get("/reports/balance-amount?_count=x", "clinic")).status == 400
