"""`sluice compare` measures what is there: planted stalls, delays and equal paths come out as what they are."""

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from aiohttp import web
from typer.testing import CliRunner

from app.cli import cli
from app.comparing.cells import Cell
from app.comparing.comparison import compare
from app.comparing.generator import Send, generator
from app.comparing.intervals import PAIRS_MIN
from app.comparing.page import page
from app.comparing.plans import QUICK
from app.comparing.probing import round_trip_ms
from app.comparing.proxy import proxied
from app.comparing.results import at_load, cells_of
from app.comparing.server import PARTS
from app.comparing.servers import Arm, CompareError, DatabaseCpu, Server
from app.comparing.stock import _fill, _scratch, stocked
from app.comparing.switchback import Bench, Group, Rhythm, run_section
from app.comparing.tables import capacity_text, sentences
from app.comparing.verdicts import Judgement
from app.comparing.workloads import Holding
from base.config import Config
from base.operations import OPERATIONS
from storage.embedded import Cluster
from storage.tenancy import list_keys, list_tenants
from tests.conftest import make_database
from tests.processes import Done, running, total
from tests.support import add_tenant, patient, served

Json = dict[str, Any]
HOLDINGS = [Holding(1, "one", "key", {"Patient": ["p1", "p2"]}, {})]
SIZE = {"patients": 6, "practitioners": 2, "encounters": 6}
TINY = replace(
    QUICK,
    name="tiny",
    seconds=100.0,  # to the end; the sections below have a few of them
    shares={"costs": 0.2, "levels": 4, "rates": 0.5, "parts": 0.5, "capacity": 1, "rest": 93},
    judged=("levels",),
    levels=(4,),
    operations=("get_patient",),
    at_rest=("get_patient",),
    alone=(),
    parts=(("get_patient", True),),
    parts_level=8,
    delayed=(),
    capacity=("mix",),
    trial_s=0.2,
    trials=1,
)


@contextmanager
def answering(
    *, takes_s: float = 0.0, stall_s: float = 0.0, period_s: float = 2.0, statuses: tuple[int, ...] = (200,), path: str = ""
) -> Iterator[Server]:
    """A real aiohttp server, in a thread of its own; its loop stands still for `stall_s` in each period."""
    ready, port, turns = threading.Event(), 0, cycle(statuses)
    loop = asyncio.new_event_loop()

    async def answer(_: web.Request) -> web.Response:
        if takes_s:
            await asyncio.sleep(takes_s)
        return web.Response(body=b"{}", status=next(turns), headers={"X-Sluice-Path": path} if path else {})

    async def stall() -> None:
        while True:
            await asyncio.sleep(period_s - stall_s)
            time.sleep(stall_s)  # noqa: ASYNC251  # the whole loop shall stand still

    async def serve() -> None:
        nonlocal port
        app = web.Application()
        app.router.add_get("/{any:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        ready.set()
        try:
            await (stall() if stall_s else asyncio.Event().wait())
        finally:
            await runner.cleanup()

    task = loop.create_task(serve())

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        yield Server(port, psutil.Process())
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


@pytest.fixture(scope="module")
def send() -> Iterator[Send]:
    with generator() as send:
        yield send


def test_a_stall_is_seen(send: Send) -> None:
    """A server that stands still for 200 ms every 2 s has a p99 near 200 ms at an open load, though its median is small."""
    with answering(stall_s=0.2) as server:
        bench = Bench(send, HOLDINGS, DatabaseCpu(None))
        found = bench.measure(Arm("direct", server), Cell("get_patient", 1, rate=300.0, load="fixed"), 2.0)
    assert 140 <= found.p99_ms <= 400
    assert found.p50_ms < 100
    assert found.offered == found.good


def test_equal_paths_show_no_difference(send: Send) -> None:
    """Two arms that are one server are called alike."""
    cell = Cell("get_patient", 1, in_flight=4)
    with answering(takes_s=0.015) as server:
        bench = Bench(send, HOLDINGS, DatabaseCpu(None))
        arms = [Arm("direct", server), Arm("channel", server)]
        rhythm = Rhythm(block_s=0.1, settle_s=0.02)
        section = run_section(bench, "alike", arms, [Group([cell])], rhythm, until=0.0, least=PAIRS_MIN)
    (found,) = cells_of(section)
    assert at_load(found).judgement is Judgement.NONE
    assert found["ratios"]["channel"]["throughput"]["judgement"] == "no difference shown"


def test_a_bad_answer_is_no_throughput(send: Send) -> None:
    """Refused and failed answers are counted beside the goodput, never in it."""
    with answering(takes_s=0.02, statuses=(200, 503, 500, 429)) as server:
        bench = Bench(send, HOLDINGS, DatabaseCpu(None))
        found = bench.measure(Arm("direct", server), Cell("get_patient", 1, in_flight=8), 0.25)
    assert found.offered >= 25  # one after the other there would be 12
    assert found.offered == found.good + found.refused + found.failed
    assert found.refused == pytest.approx(2 * found.failed, abs=2)
    assert found.good == pytest.approx(found.failed, abs=2)
    assert found.bad_share == pytest.approx(0.75, abs=0.05)
    assert found.goodput == pytest.approx(found.good / 0.25, rel=0.4)


def test_the_other_path_is_not_measured(send: Send) -> None:
    """Where a channel's requests were answered directly, nothing is compared."""
    bench = Bench(send, HOLDINGS, DatabaseCpu(None))
    with answering(path="direct") as server:
        assert bench.measure(Arm("direct", server), Cell("get_patient", 1, in_flight=1), 0.05).good
        with pytest.raises(CompareError, match="another path"):
            bench.measure(Arm("channel", server), Cell("get_patient", 1, in_flight=1), 0.05)


async def test_the_proxy_delays(cluster: Cluster) -> None:
    """A round trip through the proxy takes its delay longer than through one that holds nothing back."""
    taken = {}
    with proxied(cluster.url) as (url, set_delay):
        for delay_ms in (0.0, 0.5, 2.0):
            set_delay(delay_ms)
            taken[delay_ms] = await asyncio.to_thread(round_trip_ms, url, times=100, of=min)
    for delay_ms in (0.5, 2.0):
        assert delay_ms * 0.95 <= taken[delay_ms] - taken[0.0] <= delay_ms * 1.4 + 0.35


@dataclass(frozen=True)
class Compared:
    """A miniature of the demo, the report on it, and what stood in the database afterwards."""

    report: Json
    keys: list[Json]
    tenants: list[Json]


@pytest.fixture(scope="module")
def compared(cluster: Cluster, template: str) -> Compared:
    """With a delay planted before each statement of the channels."""

    async def make() -> str:
        url = await make_database(cluster, "compared", template)
        await _fill(url, SIZE)
        return url

    async def left(url: str) -> tuple[list[Json], list[Json]]:
        connection = await asyncpg.connect(url)
        try:
            return await list_keys(connection), await list_tenants(connection)
        finally:
            await connection.close()

    url = asyncio.run(make())
    config = Config(database_url=url)
    with stocked(config) as stock:
        report = compare(config, stock, TINY, planted_s=0.02)
    return Compared(report, *asyncio.run(left(url)))


def test_a_worse_channel_is_called_worse(compared: Compared) -> None:
    """A channel with a delay planted before its statements is judged worse, with an interval below 1, and the words say so."""
    (cell,) = [c for c in compared.report["cells"] if c["section"] == "levels" and c["workload"] == "get_patient"]
    ratio = cell["ratios"]["channel"]["throughput"]
    assert ratio["high"] < 1
    assert ratio["judgement"] == "worse"
    assert compared.report["summary"].startswith("At 4 in flight channels do not pay. The mix: 0.")
    assert any("not worth it at 4 in flight" in line for line in sentences(compared.report))
    assert all(figures["refused"] == figures["failed"] == 0 for figures in cell["arms"].values())


def test_every_section_is_there(compared: Compared) -> None:
    """The miniature has what a long run has: levels, rates, the parts of a channel, capacity and costs."""
    report = compared.report
    assert [section["section"] for section in report["sections"]] == ["levels", "rates", "parts"]
    (parts,) = [cell for cell in report["cells"] if cell["section"] == "parts"]
    assert list(parts["arms"]) == ["direct", "queue", "batches", "channel"]
    assert {path["arm"] for path in report["capacity"]["paths"]} == {"direct", "channel"}
    assert [cost["operation"] for cost in report["costs"]] == ["get_patient"]
    assert report["costs"][0]["largest"] == 128
    assert {"processor", "cores", "versions"} <= set(report["machine"])
    figures = parts["arms"]["channel"]
    assert figures["server_us"] > 0
    assert figures["database_us"] is not None
    assert figures["offered"] == figures["good"] > 0


def test_nothing_is_left_behind(compared: Compared) -> None:
    """Its keys are revoked, and tenants that were cold are cold again."""
    assert compared.keys
    assert all(key["revoked_at"] for key in compared.keys)
    assert not any(tenant["warm"] for tenant in compared.tenants)


@pytest.mark.parametrize(
    ("part", "batched", "shared"), [("queue", False, False), ("batches", True, False), ("channel", True, True)]
)
async def test_the_parts_of_a_channel(database: str, part: str, *, batched: bool, shared: bool) -> None:
    """A queue alone never puts two asks in a statement, batches never ask equal asks once, and the channel does both."""
    key = await add_tenant(database, "one", [patient("p1"), patient("p2")])
    async with served(database, keys={"one": key}, make_dispatcher=PARTS[part]) as server:
        await server.get("/warm-up", method="POST")
        replies = await asyncio.gather(*(server.get(f"/patients/p{1 + number % 2}") for number in range(80)))
        scrape = (await server.get("/metrics")).body.decode()
    assert {(reply.status, reply.path) for reply in replies} == {(200, "channel")}
    asks, statements = (total(scrape, f"sluice_batch_size_{kind}", operation="get_patient") for kind in ("sum", "count"))
    assert (asks > statements) is batched
    assert (total(scrape, "sluice_request_duration_seconds_count", source="shared") > 0) is shared


class _Seen(HTMLParser):
    """Attributes, and the text of each table's fields and of the scripts with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.fields: list[str] = []
        self.scripts: dict[str, str] = {}
        self._open: list[str] = []
        self._script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._script = dict(attrs).get("id") or "" if tag == "script" else ""
        self._open.append(tag)
        if tag == "td":
            self.fields.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = ""
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = data
        elif "td" in self._open:
            self.fields[-1] += data


def test_the_page_stands_alone(compared: Compared) -> None:
    """Nothing in the page leads out of it, and its policy lets the browser load nothing."""
    text = page(compared.report)
    seen = _Seen(text)
    assert not [found for found in seen.attributes if found[1] in ("src", "href", "srcset", "data", "action")]
    assert (
        "meta",
        "content",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:",
    ) in (seen.attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "color-scheme: light dark" in style
    assert "light-dark(" in style


def test_the_page_shows_the_figures(compared: Compared) -> None:
    """The page's numbers are the report's: its copy of the JSON, its tables and its plots."""
    report = json.loads(json.dumps(compared.report))
    seen = _Seen(page(compared.report))
    assert json.loads(seen.scripts["report"]) == report
    for cell in report["cells"]:
        for arm in cell["arms"].values():
            assert f"{arm['goodput']:,.0f}" in seen.fields
            assert f"{arm['p99_ms']:.2f}" in seen.fields
            assert f"{arm['good']:,}" in seen.fields
    plots = json.loads(seen.scripts["figures"])
    for bar in plots.get("capacity", {"data": []})["data"]:
        (path,) = [one for one in report["capacity"]["paths"] if f"${one['arm']}" == bar["marker"]["color"]]
        assert bar["y"] == [path["rate"]]
    assert all(capacity_text(path) in seen.fields for path in report["capacity"]["paths"])
    assert set(plots) | {"capacity"} == {"throughput", "latency", "capacity", "parts", "costs", "cpu"}
    assert all(f'id="{name}"' in page(compared.report) for name in plots)


def test_the_page_cannot_be_broken_by_its_data(compared: Compared) -> None:
    """What a report holds is shown, never run."""
    evil = {**compared.report, "summary": "</script><script>alert(1)</script>"}
    assert "<script>alert" not in page(evil)


async def test_a_scratch_database_is_dropped(cluster: Cluster) -> None:
    """A database that is made for the data is gone afterwards."""
    async with _scratch(cluster.url) as url:
        name = url.rpartition("/")[2]
        connection = await asyncpg.connect(url)
        await connection.close()
    connection = await asyncpg.connect(cluster.url)
    try:
        assert not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--html", "/nowhere/at/all.html"], "cannot be written"), (["--baseline", "--forced"], "leave --forced away")],
)
def test_bad_options(words: list[str], told: str) -> None:
    """What cannot be done is said at once, not after twenty minutes."""
    result = CliRunner().invoke(cli, ["compare", *words])
    assert result.exit_code == 2
    assert told in re.sub(r"[\s│]+", " ", result.output)


async def _compare(*words: Any, data_dir: Path) -> Done:
    async with running("compare", *words, data_dir=data_dir) as run:
        code = await run.process.wait()
    return Done(code, "\n".join(run.out), "\n".join(run.err))


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_quick_from_end_to_end(tmp_path: Path) -> None:
    """`sluice compare --quick` on a fresh machine ends in time with a verdict for every operation, and its page is whole."""
    html = tmp_path / "report.html"
    began = time.monotonic()
    done = await asyncio.wait_for(_compare("--quick", "--json", "--html", html, data_dir=tmp_path / "data"), 240)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert time.monotonic() - began < 220
    assert {cell["workload"] for cell in report["cells"]} >= {"mix", *(operation.name for operation in OPERATIONS)}
    assert [one["delay_ms"] for one in report["proxy"]] == [0.0, 0.5, 2.0]
    assert report["left_out"] == []
    assert len(report["verdicts"]) > len(OPERATIONS)
    assert json.loads(_Seen(html.read_text()).scripts["report"]) == report


@pytest.mark.prove
@pytest.mark.timeout(200)
@pytest.mark.parametrize("words", [["--forced"], ["--baseline"]])
async def test_the_other_forms(tmp_path: Path, words: list[str]) -> None:
    """One server with forced paths gives a verdict as well; the baseline names a bottleneck at every load."""
    done = await asyncio.wait_for(_compare("--quick", "--minutes", "0.5", "--json", *words, data_dir=tmp_path / "data"), 150)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    if words == ["--baseline"]:
        assert all(cell["bottleneck"] and cell["because"] for cell in report["cells"])
        assert all(list(cell["arms"]) == ["direct"] for cell in report["cells"])
    else:
        assert report["forced"]
        assert report["summary"]
