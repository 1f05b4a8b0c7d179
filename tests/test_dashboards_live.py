"""What the dashboards show: a real Prometheus scrapes a loaded system, and is asked every expression of every panel."""

import asyncio
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

from storage import collectors
from tests.asked import Asked, expressions, marks
from tests.prometheus import Prometheus, config_for, needs_prometheus, polled, ran, scraping
from tests.replicas import Node, servers
from tests.test_dashboards import SHOWN_WITHIN_S
from tests.watched import Watched, come_in, load, loaded, watched

# What need not have happened, for it is rare or needs other servers: these panels then show the 0 that they have instead.
RARE = {
    "ingestion: Polls that went wrong": "the simulated post office answers",
    "ingestion: Jobs": "the queue is empty between two turns",
    "system: Alerts firing": "the watchdog is not counted",
    "system: Left by the client": "no client goes away",
    "system: Share failed": "no request fails",
    "system: Share of dead rows": "no table has a thousand rows",
    "system: Waited in vain, held too long": "nobody waits in vain, or holds a connection for a minute",
    "reports: Waited in vain, held too long": "nobody waits in vain, or holds a connection for a minute",
    "system: Promotions": "the primary stays",
}


def drawn(samples: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The labels of what Grafana would draw: NaN is what a division by nothing gives."""
    return [sample["metric"] for sample in samples if not math.isnan(float(sample["value"][1]))]


def missing(series: list[dict[str, str]]) -> str:
    """Why a panel with these series shows too little; empty when it does not."""
    if not series:
        return "shows nothing"
    for label, sides in (("arm", {"treatment", "control"}), ("path", {"channel", "direct"})):
        found = {labels[label] for labels in series if label in labels}
        if found and not sides <= found:
            return f"shows {label} {found} alone"
    return ""


def is_rare(place: str) -> bool:
    return any(place.startswith(rare) for rare in RARE)


async def fault(prometheus: Prometheus, asked: Asked) -> str:
    """What is wrong with what a panel's expression shows; empty when nothing is."""
    series = drawn(await prometheus.ask(asked.expression))
    if series and is_rare(asked.place):
        return ""
    if asked.without_zero != asked.expression:
        series = drawn(await prometheus.ask(asked.without_zero))
    named = set(re.findall(r"{{(\w+)}}", asked.legend))
    if series and not any(named <= labels.keys() for labels in series):
        return f"its legend has {named}, its series {series[0].keys()}"
    return missing(series)


async def faults_of(prometheus: Prometheus, given: list[Asked], *, once_more: bool = False) -> dict[str, str]:
    """By place. `once_more`: after another scrape, for a busy machine loses one now and then."""
    if once_more and given:
        await prometheus.scrape_again()
    found = await asyncio.gather(*(fault(prometheus, asked) for asked in given))
    return {asked.place: said for asked, said in zip(given, found, strict=True) if said}


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the database, so that its counters grow between scrapes; a worker of its own process looks as ever."""
    monkeypatch.setattr(collectors, "Pace", lambda: PACE)


PACE = collectors.Pace(begin_s=0.1, every_s=0.5, tables_every_s=1.0)


@needs_prometheus
@pytest.mark.usefixtures("looks_often")
async def test_every_panel_shows_data(primary: Node, tmp_path: Path) -> None:
    """Every panel draws something of a loaded system, named as its legend says, and both sides where it draws arms or paths."""
    async with (
        servers(primary) as nodes,
        watched(nodes) as system,
        scraping(tmp_path, config_for(system.server.url, system.worker_url)) as prometheus,
    ):
        await prometheus.scrape_again()
        await load(system.server)
        await come_in(system)
        await prometheus.scrape_again()
        faults = await faults_of(prometheus, expressions())
        again = await faults_of(prometheus, [asked for asked in expressions() if asked.place in faults], once_more=True)
        assert again == {}
        await check_marks(prometheus, system)


async def check_marks(prometheus: Prometheus, system: Watched) -> None:
    """A warm-up is marked once; processes that have just begun are, with their version; the alert that always rings is not."""
    began = time.time()
    assert (await system.server.get("/warm-up", "cold", method="POST")).status == 201

    async def warm_ups() -> list[Any]:
        await prometheus.scrape_again()
        given = {"query": marks()["Warm-ups"], "start": str(began - 2), "end": str(time.time()), "step": "1"}
        return [value for found in (await prometheus.api("query_range", **given))["result"] for value in found["values"]]

    ((_, number),) = await polled(warm_ups)
    assert float(number) == 1
    young = await prometheus.ask(marks()["Deploys"])
    assert {sample["metric"]["job"] for sample in young} == {"sluice", "sluice-worker"}
    assert all(sample["metric"]["version"] and float(sample["value"][1]) > 0 for sample in young)
    (watchdog,) = await prometheus.ask('ALERTS{alertstate="firing",alertname="SluiceWatchdog"}')
    assert {"alertname", "severity"} <= watchdog["metric"].keys()
    marked = await prometheus.ask(marks()["Alerts"])
    assert "SluiceWatchdog" not in {sample["metric"]["alertname"] for sample in marked}


@pytest.mark.prove
@needs_prometheus
async def test_event_is_shown_within_30_s(database: str, tmp_path: Path) -> None:
    """By the true clock of the committed configuration a warm-up is on the dashboard 20 s later, and Grafana looks every 10."""
    async with loaded(database) as server, scraping(tmp_path, config_for(server.url, interval=None)) as prometheus:
        (shown,) = [found.expression for found in expressions() if found.place == "tenants: Tenants by state A"]

        async def warm(number: int) -> bool:
            found = {sample["metric"]["state"]: float(sample["value"][1]) for sample in await prometheus.ask(shown)}
            return found.get("warm") == number

        await polled(lambda: warm(1), within_s=30)
        assert (await server.get("/warm-up", "cold", method="POST")).status == 201
        began = time.monotonic()
        await polled(lambda: warm(2), within_s=20)
        assert time.monotonic() - began < SHOWN_WITHIN_S - 10


@needs_prometheus
async def test_scrape_is_sound(database: str) -> None:
    """Promtool finds nothing to say about the text that is scraped."""
    async with loaded(database) as server:
        scraped = await server.get("/metrics", None)
    assert await ran("promtool", "check", "metrics", given=scraped.body) == (0, "")
