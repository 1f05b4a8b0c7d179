"""From a real fault to the operator's webhook, and back: Sluice, PostgreSQL, Prometheus and Alertmanager are real processes."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from metrics.catalog import Metrics
from storage import collectors
from storage.embedded import Cluster
from tests import alertmanager, prometheus
from tests.alert_rules import ALERTS, alerts, rules
from tests.alertmanager import Receiver, Told, alerting, needs_alertmanager, receiving
from tests.polls import clinics
from tests.processes import running
from tests.prometheus import Prometheus, needs_prometheus, polled, scraping
from tests.replicas import Node, servers
from tests.support import add_tenant, connected, patient, served
from tests.test_worker import QUICK as QUICK_WORKER

FOLLOWING = {rule.alert for rule in alerts() if rule.labels.get("follows") == "database"}
"""What nobody is told of while the database is away."""

RINGING = 'ALERTS{alertstate="firing",severity!="none"}'
OF_THE_MACHINE = {
    "SluiceMachineCpuHigh",
    "SluiceMachineMemoryHigh",
    "SluiceDiskFull",
    "SluiceDiskFilling",
    "SluiceEventLoopLag",
}
"""What may truly ring on a machine that runs the tests."""

TOLD_WITHIN_S = 300.0
"""An operator is told within five minutes of trouble."""


@asynccontextmanager
async def watched(
    folder: Path, api: str, worker: str = "", *, rules: Path = ALERTS / "rules" / "*.yml", quick: bool = False
) -> AsyncIterator[tuple[Prometheus, Receiver]]:
    """Prometheus and Alertmanager as committed, but for addresses; `quick`: and but for their intervals."""
    async with receiving() as receiver:
        config = alertmanager.config_for(receiver, alertmanager.QUICK if quick else {})
        async with alerting(folder, config) as manager:
            config = prometheus.config_for(
                api, worker, alertmanager=manager.url, rules=(rules,), interval="250ms" if quick else None
            )
            # What rang before Alertmanager was found, seconds after the start, is told again after a minute.
            flags = ("--rules.alert.resend-delay=1s",) if quick else ()
            async with scraping(folder, config, *flags) as found:
                yield found, receiver


def quick_rules(folder: Path) -> Path:
    """The committed rules with a second and a half for a minute, where they wait."""
    place = folder / "rules"
    place.mkdir()
    for file in (ALERTS / "rules").glob("*.yml"):
        text = re.sub(r"^ {8}for: (\d+)m$", _seconds, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        text = text.replace("[1m])[10m:10s]", "[1s])[10m:1s]")
        (place / file.name).write_text(text, encoding="utf-8")
    return place / "*.yml"


def _seconds(minutes: re.Match[str]) -> str:
    return f"        for: {int(minutes[1]) * 1500}ms"


def selectors() -> set[str]:
    """What rules select of the API's metrics by labels that are there without a fault."""
    own = Metrics()
    own.add_process()
    found = {match for rule in rules() for match in re.findall(r"(\w+)(\{[^}]+\})", rule.expression)}
    faults = re.compile("outcome|_database_servers|job=")
    return {
        name + labels
        for name, labels in found
        if re.sub("_(bucket|count)$", "", name) in own.families and not faults.search(name + labels)
    }


@needs_prometheus
async def test_selectors(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever labels a rule asks for are there on a real server: a misspelt one would be silent for ever."""
    monkeypatch.setattr(collectors, "Pace", partial(collectors.Pace, begin_s=0.01, every_s=0.1))
    key = await add_tenant(database, "one", [patient("p1")])
    async with served(database, keys={"one": key}) as server, scraping(tmp_path, prometheus.config_for(server.url)) as found:
        assert (await server.get("/patients/p1")).status == 200
        assert (await server.get("/reports/balance-amount")).status == 200
        await polled(partial(found.ask, "sluice_database_up == 1"))
        await found.scrape_again()
        assert len(selectors()) > 10
        assert [selector for selector in sorted(selectors()) if not await found.ask(selector)] == []


async def allow(cluster: Cluster, database: str, *, connections: bool) -> None:
    """Whether PostgreSQL takes connections to this one database; those that there are end when it does not."""
    name = database.rsplit("/", 1)[1]
    async with connected(cluster.url) as connection:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {connections}')
        if not connections:
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)


@needs_prometheus
@needs_alertmanager
async def test_chain(cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away is told to who is on duty, with a link into the runbook; its return is, no consequence is."""
    monkeypatch.setattr(collectors, "Pace", partial(collectors.Pace, begin_s=0.01, every_s=0.1))
    async with (
        served(database) as server,
        watched(tmp_path, server.url, rules=quick_rules(tmp_path), quick=True) as (found, told),
    ):
        await polled(partial(found.ask, "sluice_database_up == 1"))
        await told.hear("SluiceWatchdog")
        await allow(cluster, database, connections=False)
        fired = await told.hear("SluiceDatabaseAway")
        assert fired.receiver == "wake"
        assert fired.alert["annotations"]["runbook_url"] == "docs/operations.md#sluicedatabaseaway"
        await polled(partial(found.ask, 'ALERTS{alertname="SluicePoolMissing",alertstate="firing"}'))
        await allow(cluster, database, connections=True)
        await told.hear("SluiceDatabaseAway", "resolved")
        assert not FOLLOWING & {each.name for each in told.told}


@asynccontextmanager
async def asked(url: str, key: str) -> AsyncIterator[None]:
    """Ten requests a second of one tenant, whatever is answered."""

    async def ask(session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/patients/p1", headers={"Authorization": f"Bearer {key}"}) as response:
            await response.read()

    async def go_on() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                await asyncio.gather(ask(session), asyncio.sleep(0.1), return_exceptions=True)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def said(told: Told, since: float) -> None:
    print(f"{told.name} {told.status} to {told.receiver} {told.at - since:.1f} s after the fault, {told.alert['annotations']}")


@pytest.mark.prove
@pytest.mark.timeout(1200)
@needs_prometheus
@needs_alertmanager
async def test_killed_database(primary: Node, tmp_path: Path) -> None:
    """PostgreSQL is killed under load: who is on duty knows within 5 minutes by one message, and of its return by another."""
    async with servers(primary, replicas=0) as cluster:
        (node,) = cluster.nodes
        key = await add_tenant(node.url, "one", [patient("p1")])
        async with running("serve", database_url=node.url) as server:
            url = await server.url()
            async with watched(tmp_path, url) as (found, told), asked(url, key):
                await polled(partial(found.ask, "sluice_database_up == 1 and on () sluice:requests:rate5m > 1"), within_s=120)
                assert {sample["metric"]["alertname"] for sample in await found.ask(RINGING)} <= OF_THE_MACHINE
                node.kill()
                killed_at = monotonic()
                fired = await told.hear("SluiceDatabaseAway", within_s=TOLD_WITHIN_S)
                said(fired, killed_at)
                assert fired.receiver == "wake"
                assert fired.alert["annotations"]["runbook_url"] == "docs/operations.md#sluicedatabaseaway"
                # What follows of it rings in Prometheus by then, and nobody is told.
                following = 'ALERTS{alertname="SluiceErrorsNow",alertstate="firing"}'
                await polled(partial(found.ask, following), within_s=TOLD_WITHIN_S)
                await node.start()
                back_at = monotonic()
                said(await told.hear("SluiceDatabaseAway", "resolved", within_s=TOLD_WITHIN_S), back_at)
                assert not FOLLOWING & {each.name for each in told.told}


@pytest.mark.prove
@pytest.mark.timeout(1200)
@needs_prometheus
@needs_alertmanager
async def test_held_connections(primary: Node, tmp_path: Path) -> None:
    """A table that is locked for good, and with it all of the API's connections, is told within 5 minutes."""
    async with servers(primary, replicas=0) as cluster:
        (node,) = cluster.nodes
        key = await add_tenant(node.url, "one", [patient("p1")])
        async with running("serve", database_url=node.url, control_share=0.5) as server:
            url = await server.url()
            async with watched(tmp_path, url) as (found, told), connected(node.url) as locker:
                await polled(partial(found.ask, "sluice_database_up == 1"), within_s=60)
                async with crowd(url, key):
                    await locker.execute("BEGIN")
                    await locker.execute("LOCK fhir.resource IN ACCESS EXCLUSIVE MODE")
                    locked_at = monotonic()
                    for name, receiver in HELD.items():
                        fired = await told.hear(name, within_s=TOLD_WITHIN_S - (monotonic() - locked_at))
                        said(fired, locked_at)
                        assert fired.receiver == receiver
                    saturated = 'ALERTS{alertname="SluicePoolSaturated",alertstate="firing"}'
                    await polled(partial(found.ask, saturated), within_s=TOLD_WITHIN_S - (monotonic() - locked_at))


HELD = {"SluiceErrorsNow": "wake", "SluiceLockWaits": "tell"}


@asynccontextmanager
async def crowd(url: str, key: str) -> AsyncIterator[None]:
    """Of a warm tenant: ten clients of each kind of request, that ask again as soon as they are answered."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        async with session.post(f"{url}/warm-up") as response:
            assert response.status == 201
        paths = ("/patients/p1", "/patients", "/reviews/e1")
        clients = [asyncio.create_task(_client(session, url + path)) for path in paths for _ in range(10)]
        try:
            yield
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _client(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        async with session.get(url) as response:
            await response.read()


@pytest.mark.prove
@pytest.mark.timeout(1200)
@needs_prometheus
@needs_alertmanager
async def test_failing_facility(database: str, tmp_path: Path) -> None:
    """A facility's post office that answers nothing but errors is told within 5 minutes, by its name."""
    async with clinics(database, 2) as of, served(database) as server:
        failing, _ = of.licences
        of.behave(failing, error_share=1.0)
        since = monotonic()
        settings = {**QUICK_WORKER, "database_url": database, "poll_interval_s": 30}
        async with running("worker", **settings) as worker:
            started = await worker.seen(lambda: worker.logged("worker.started") or None)
            async with watched(tmp_path, server.url, f"http://127.0.0.1:{started[0]['port']}") as (_, told):
                fired = await told.hear("SluiceFacilityFailing", within_s=TOLD_WITHIN_S)
                said(fired, since)
                assert "The last poll of 1 facilities failed." in fired.alert["annotations"]["description"]
