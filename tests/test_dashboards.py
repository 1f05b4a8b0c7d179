"""The dashboards: current, well formed, and with data in every panel when a real Prometheus scrapes a loaded server."""

import asyncio
import json
import math
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import promql_parser
import pytest

from grafana import build
from metrics.catalog import Metrics
from tests.support import Served, add_tenant, encounter, patient, served

GRAFANA = Path(build.__file__).parent
CONFIG = GRAFANA / "prometheus.yml"
FLOOD = 200  # requests at once: far more than may wait

Found = TypeVar("Found")

# What Grafana puts in place of its variables; the windows are as long as the test's few scrapes need.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1m", "$interval": "1m", "$operation": ".*"}

_program = shutil.which("prometheus") and shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(not _program, reason="Prometheus is not installed (Debian's package `prometheus`)")


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def committed() -> Iterator[tuple[str, dict[str, Any]]]:
    """(dashboard's name, panel) of all."""
    for file in sorted(build.FOLDER.glob("*.json")):
        for panel in panels(json.loads(file.read_text(encoding="utf-8"))):
            yield file.stem, panel


def expressions() -> list[tuple[str, str]]:
    """(where it stands, the expression with its variables put in), of every panel."""
    return [
        (f"{name}: {panel['title']} {target['refId']}", substituted(target["expr"]))
        for name, panel in committed()
        for target in panel.get("targets", ())
    ]


def substituted(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    if "$" in expression:
        raise ValueError(f"a variable that this test does not know: {expression}")
    return expression


def test_committed_is_current() -> None:
    """The committed JSON is what the code makes."""
    assert build.faults(build.FOLDER) == []


def test_check_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` ends with 1 and says which file is missing, differs, or is made by no code."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    file = tmp_path / "channel-against-direct.json"
    with pytest.raises(SystemExit, match=f"{file.name} is missing"):
        build.main(["--check"])
    build.main([])
    build.main(["--check"])
    file.write_text(file.read_text().replace("p99", "p98", 1))
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(SystemExit, match=f"{file.name} is not what the code makes\nold.json is made by no code\nrun: "):
        build.main(["--check"])


def test_panels_say_what_they_show() -> None:
    """Every panel has a title, a description and options; every one that draws a unit, a legend and a tooltip too."""
    for _, panel in committed():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["options"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert all(target["legendFormat"] for target in panel["targets"])
        if panel["type"] in ("timeseries", "heatmap"):
            assert {"legend", "tooltip"} <= panel["options"].keys()


def test_panels_stand_apart() -> None:
    """No two panels share a number or a cell of the grid."""
    for file in build.FOLDER.glob("*.json"):
        everything = json.loads(file.read_text(encoding="utf-8"))["panels"]
        cells = [cell for panel in everything for cell in _cells(panel["gridPos"])]
        assert len({panel["id"] for panel in everything}) == len(everything)
        assert len(set(cells)) == len(cells)
        assert max(column for column, _ in cells) == 23


def _cells(at: dict[str, int]) -> list[tuple[int, int]]:
    return [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]


@pytest.mark.parametrize(("place", "expression"), expressions())
def test_expression_parses(place: str, expression: str) -> None:
    """Each panel's expression is PromQL, of metrics that the catalogue has."""
    assert place
    promql_parser.parse(expression)
    metrics = Metrics()
    metrics.add_process()
    asked = set(re.findall(r"\b(?:sluice|process)_\w+", expression))
    assert {name for name in asked if re.sub("_(bucket|sum|count)$", "", name) not in metrics.families} == set()


@dataclass
class Prometheus:
    """A running one; `url` is its own."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of the answer now."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return list(answer["data"]["result"])

    async def scrape_again(self) -> None:
        """Waits until a scrape that began from now on is in: one may be under way, so for two more."""
        before = await self._scrapes()

        async def two_more() -> bool:
            return await self._scrapes() >= before + 2

        await polled(two_more)

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/-/ready") as response:
            return response.status == 200

    async def _scrapes(self) -> float:
        found = await self.ask('sum(sum_over_time(up{job="sluice"}[5m]))')
        return float(found[0]["value"][1]) if found else 0.0


async def polled(look: Callable[[], Awaitable[Found]], *, within_s: float = 15.0) -> Found:
    """What `look` finds, as soon as it is something: another process gives no signal to wait for."""
    async with asyncio.timeout(within_s):
        while not (found := await look()):  # noqa: ASYNC110  # nothing of another process can be awaited
            await asyncio.sleep(0.02)
    return found


async def ran(program: str, *arguments: str, given: bytes | None = None) -> tuple[int | None, str]:
    """A program's exit code and all that it said."""
    pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=pipe, stdout=pipe, stderr=both)
    said, _ = await process.communicate(given)
    return process.returncode, said.decode()


def config_for(target: str) -> str:
    """The committed configuration, for a server under test and with fast scrapes."""
    text = CONFIG.read_text(encoding="utf-8")
    changes = {"127.0.0.1:8080": target, "scrape_interval: 10s": "scrape_interval: 250ms", "timeout: 5s": "timeout: 250ms"}
    for said, instead in changes.items():
        assert text.count(said) == 1
        text = text.replace(said, instead)
    return text


@asynccontextmanager
async def scraping(folder: Path, server: Served) -> AsyncIterator[Prometheus]:
    """A Prometheus on a free port of the loopback that scrapes this server."""
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(config_for(server.url.removeprefix("http://")), encoding="utf-8")
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0")
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec("prometheus", *options, stdout=sink, stderr=sink)
    try:
        async with aiohttp.ClientSession() as session:
            prometheus = Prometheus(await _address(process, log), session)
            await polled(prometheus.ready)
            yield prometheus
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    """It says in its log which port it was given: no port is guessed that somebody else may take meanwhile."""

    async def said() -> re.Match[str] | None:
        text = await asyncio.to_thread(log.read_text, encoding="utf-8")
        if process.returncode is not None:
            raise RuntimeError(text)
        return re.search(r'msg="Listening on" address=(\S+)', text)

    found = await polled(said)
    assert found is not None
    return f"http://{found[1]}"


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
async def loaded(database: str) -> AsyncIterator[Served]:
    """A server with a warm and a cold tenant that has answered all of `load` once."""
    keys = {name: await add_tenant(database, name, RESOURCES) for name in ("warm", "cold")}
    async with served(database, keys=keys, control_share=0.5, queue_size=16) as server:
        assert (await server.get("/warm-up", "warm", method="POST")).status == 201
        await load(server)
        yield server


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


@needs_prometheus
async def test_every_panel_shows_data(database: str, tmp_path: Path) -> None:
    """Every panel draws something of a loaded server, and both sides where it draws arms or paths."""
    async with loaded(database) as server, scraping(tmp_path, server) as prometheus:
        await prometheus.scrape_again()
        await load(server)
        await prometheus.scrape_again()
        faults = {place: missing(drawn(await prometheus.ask(expression))) for place, expression in expressions()}
        assert {place: fault for place, fault in faults.items() if fault} == {}


@needs_prometheus
async def test_scrape_is_sound(database: str) -> None:
    """Promtool finds nothing to say about the text that is scraped."""
    async with loaded(database) as server:
        scraped = await server.get("/metrics", None)
    assert await ran("promtool", "check", "metrics", given=scraped.body) == (0, "")


@needs_prometheus
async def test_config_is_sound() -> None:
    """Promtool takes the committed configuration."""
    code, said = await ran("promtool", "check", "config", str(CONFIG))
    assert (code, "SUCCESS" in said) == (0, True), said
