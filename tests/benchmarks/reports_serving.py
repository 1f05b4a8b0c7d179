"""What the benchmark of reports asks of servers: our own processes, loads beside each other, and what /metrics says."""

import asyncio
import json
import subprocess
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import asyncpg
import psutil

from simulator.load import Load, Result, render, run_in_process
from storage.report_tables import Report
from tests.benchmarks.bench import Server
from tests.benchmarks.reports_data import Stored
from tests.benchmarks.reports_rows import DAYS, END, PAYERS
from tests.processes import SLUICE, environment, samples

USERS = 50
"""Each asks once a second."""
READS_PER_S = 50
"""Of readers: a page each 20 ms."""
_FHIR = """
SELECT type, id FROM fhir.resource WHERE tenant_id = $1 AND NOT deleted AND type IN ('Patient', 'Practitioner', 'Encounter')
"""


@contextmanager
def started(word: str, url: str, log: Path, **settings: Any) -> Iterator[Server]:
    """`sluice serve` or `sluice worker` with its default settings, unless said."""
    port = {"serve": "port", "worker": "metrics_port"}[word]
    with log.open("w+", encoding="utf-8") as said:
        child = subprocess.Popen(
            [SLUICE, word],
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
            env=environment(**{"database_url": url, "secret": "a secret of the benchmark", port: 0, **settings}),
        )
        try:
            event = {"serve": "server.started", "worker": "worker.started"}[word]
            yield Server(word, _port_of(child, log, event), psutil.Process(child.pid))
        finally:
            child.terminate()
            child.wait(30)


def _port_of(child: subprocess.Popen[str], log: Path, event: str) -> int:
    while child.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("{") and (said := json.loads(line))["event"] == event:
                return int(said["port"])
        time.sleep(0.05)
    raise SystemExit(f"it did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def scrape(port: int) -> dict[str, float]:
    return samples(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())


@dataclass(frozen=True)
class Pool:
    """What the API's connections did in a while."""

    seconds: float
    busy_s: float
    size: int
    wait_p99_ms: float
    """The upper bound of the bucket that holds it."""

    @property
    def busy_per_s(self) -> float:
        return self.busy_s / self.seconds

    @property
    def share(self) -> float:
        return self.busy_per_s / self.size


class PoolWatch:
    """Begins when it is made."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._before = scrape(port)

    def over(self, seconds: float) -> Pool:
        """`seconds`: for which there was load."""
        now = scrape(self._port)
        more = {name: value - self._before.get(name, 0.0) for name, value in now.items()}
        mine = 'pool="api"'
        size = sum(value for name, value in now.items() if name.startswith("sluice_pool_connections{") and mine in name)
        busy = sum(value for name, value in more.items() if name.startswith("sluice_pool_busy_seconds_total{") and mine in name)
        waits = {
            float(name.split('le="')[1].split('"')[0]): value
            for name, value in more.items()
            if name.startswith("sluice_pool_wait_seconds_bucket{") and mine in name
        }
        total = waits[float("inf")]
        p99 = min(bound for bound, count in waits.items() if count >= 0.99 * total)
        return Pool(seconds, busy, round(size), p99 * 1e3)


async def api_requests(found: Stored) -> list[bytes]:
    """All seven operations, as often each, by users of all tenants."""
    chance = Random(1)
    connection = await asyncpg.connect(found.url)
    paths: list[tuple[str, str]] = []
    for tenant_id, key in zip(found.tenants, found.keys, strict=True):
        ids: dict[str, list[str]] = {"Patient": [], "Practitioner": [], "Encounter": []}
        for kind, name in await connection.fetch(_FHIR, tenant_id):
            ids[kind].append(name)
        for _ in range(40):
            patient, practitioner, encounter = (chance.choice(names) for names in ids.values())
            paths += [(key, f"/patients/{patient}"), (key, f"/practitioners/{practitioner}"), (key, f"/encounters/{encounter}")]
            paths += [(key, "/patients?_count=10"), (key, "/practitioners"), (key, f"/encounters?patient={patient}")]
            paths.append((key, f"/reviews/{encounter}"))
    await connection.close()
    return [render("GET", path, {"Authorization": f"Bearer {key}"}) for key, path in paths]


class Pages:
    """Pages of one report of the large tenant, by all that it can be filtered and sorted by, from its begin and further on."""

    def __init__(self, report: Report, facilities: Sequence[str]) -> None:
        self.report = report
        self._facilities = facilities
        self._random = Random(report.name)

    @classmethod
    async def of(cls, report: Report, found: Stored) -> "Pages":
        connection = await asyncpg.connect(found.url)
        sql = "SELECT licence FROM ops.facility WHERE tenant_id = $1 ORDER BY licence"
        licences = [row[0] for row in await connection.fetch(sql, found.tenants[0])]
        await connection.close()
        return cls(report, licences)

    def plain(self) -> str:
        """As most ask: the latest, of all or of one payer."""
        return f"/reports/{self.report.name}{self._random.choice(['', *(f'?payer={payer}' for payer in PAYERS)])}"

    def varied(self) -> str:
        chance = self._random
        sort = chance.choice([*self.report.sorts]) if chance.random() < 0.5 else self.report.default_sort
        asked = {"sort": f"-{sort}" if not sort.startswith("-") and chance.random() < 0.5 else sort}
        asked |= {"_count": chance.choice(("20", "20", "20", "100"))}
        values = {"payer": PAYERS, "facility": self._facilities, "status": self.report.statuses}
        for name in self.report.filters:
            if chance.random() < 0.3:
                asked[name] = chance.choice(values[name])
        if chance.random() < 0.4:
            first = END - timedelta(days=chance.randrange(DAYS))
            asked |= {"from": str(first), "to": str(min(first + timedelta(days=chance.choice((0, 6, 30, 90))), date.max))}
        return f"/reports/{self.report.name}?{urlencode(asked)}"


async def page_requests(pages: Pages, port: int, key: str, count: int = 120, deep: int = 3) -> list[bytes]:
    """So many varied ones, and the pages after them."""
    headers = {"Authorization": f"Bearer {key}"}
    paths = []
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(count):
            path: str | None = pages.varied()
            for _ in range(deep):
                if path is None:
                    break
                paths.append(path)
                path = await _next(session, port, path)
    return [render("GET", path, headers) for path in paths]


async def _next(session: aiohttp.ClientSession, port: int, path: str) -> str | None:
    async with session.get(f"http://127.0.0.1:{port}{path}") as response:
        assert response.status == 200, (path, await response.text())
        following = (await response.json())["next"]
    if following is None:
        return None
    url = urlsplit(following)
    return f"{url.path}?{url.query}"


class Beside:
    """API users and readers of reports at the same time; each generator is a process of its own."""

    def __init__(self, port: int, users: Sequence[bytes], plain: dict[str, list[bytes]]) -> None:
        self._port = port
        self._users = users
        self._plain = plain

    async def run(self, seconds: float, reports: Collection[str]) -> dict[str, Result]:
        """By report, and `api`. A page is asked for each 20 ms, of these reports in turn."""
        loads = {"api": (Load("127.0.0.1", self._port, USERS, seconds, rate=USERS, timeout_s=30), self._users)}
        for name in reports:
            load = Load("127.0.0.1", self._port, 8, seconds, rate=READS_PER_S / len(reports), poisson=False, timeout_s=30)
            loads[name] = load, self._plain[name]
        results = await asyncio.gather(*[asyncio.to_thread(run_in_process, *each) for each in loads.values()])
        return dict(zip(loads, results, strict=True))
