"""`make bench-reports`: a million claims, their reports kept up to date and read, while 50 users ask the API.

Each figure is printed with its target. The database, `sluice serve` and `sluice worker` run as they do in production, each load
comes from a process of its own, open loop, and latencies count from when a request was due. The data is made once; see
reports_data.py.
"""

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import aiohttp
import asyncpg
from rich.console import Console

from base import log
from simulator.load import Load, Result, render, run_in_process
from storage import views
from storage.report_tables import REPORTS as PAGED
from storage.views import REPORTS, View
from tests.benchmarks.bench import Server, database_s, server_s, warm_up
from tests.benchmarks.reports_changes import Changes, Watcher, ingesting
from tests.benchmarks.reports_data import DATA, Stored, stored
from tests.benchmarks.reports_figures import Figure, shown
from tests.benchmarks.reports_serving import USERS, Beside, Pages, PoolWatch, api_requests, page_requests, started

REFRESH_MAX_S = 30.0
BLOCKED_MAX_MS = 300.0
VISIBLE_MAX_S = 2.0
PAGE_P99_MAX_MS = 300.0
BUSY_SHARE_MAX = 0.05
BUSY_MAX = 0.25
WAIT_P99_MAX_MS = 5.0
START_S = 2.0
"""Until the generators' processes ask."""
CHANGING_S = 12.0
"""For one claim of a hundred to change."""
MADE_MAX_S = 300.0
BATCH = 1000
"""Claims that change together."""
ANALYSES = {
    "control totals of a month": "/reports/control-totals?from=2026-03-01&to=2026-03-31",
    "denials of a month": "/reports/denials?from=2026-03-01&to=2026-03-31",
    "denials of all time by code": "/reports/denials?by=code",
    "ageing": "/reports/ageing",
}
PARTS = ("refresh", "pages", "table", "visible", "deadlocks")


class Bench:
    """The figures so far, and what they are taken of."""

    def __init__(self, found: Stored, api: Server, owner: asyncpg.Connection, seconds: float, console: Console) -> None:
        self.figures: list[Figure] = []
        self._found = found
        self._api = api
        self._owner = owner
        self._seconds = seconds
        self._console = console
        self._beside: Beside
        self._changes: Changes
        self._quiet: dict[str, Result] = {}
        self._varied: dict[str, list[bytes]] = {}
        self._took: dict[str, float] = {}

    async def prepare(self) -> None:
        """As materialised views, and nothing left to be done."""
        warm_up(self._api, [self._found.keys[0], self._found.keys[2]])  # the others' users are answered directly
        self._changes = await Changes.of(self._found.url, self._found.tenants[0])
        key = self._found.keys[0]
        plain = {}
        for report in PAGED:
            pages = await Pages.of(report, self._found)
            plain[report.name] = [render("GET", pages.plain(), {"Authorization": f"Bearer {key}"}) for _ in range(200)]
            self._varied[report.name] = await page_requests(pages, self._api.port, key)
        self._beside = Beside(self._api.port, await api_requests(self._found), plain)

    def note(self, what: str, value: float, unit: str, limit: float | None = None, more: str = "") -> None:
        figure = Figure(what, value, unit, limit, more)
        self.figures.append(figure)
        self._console.print(f"{what}: {value:,.2f} {unit} {figure.verdict} {more}", highlight=False)

    async def refresh(self) -> None:
        """Each view as a whole: quiet, beside API users and readers, after no changes and after 1 %."""
        async with ingesting(self._found.url) as connection:
            for name, view in REPORTS.items():
                spent = database_s(self._found.cluster)
                self._took[name] = await self._timed(connection, view, views.refresh)
                spent = database_s(self._found.cluster) - spent
                self.note(f"refresh {name}, nobody else", self._took[name], "s", REFRESH_MAX_S, f"{spent:.1f} s of CPU")
            await self.calm("materialised")
            for name, view in REPORTS.items():
                async with self._readers(f"refresh of {name}", 3 * self._took[name] + CHANGING_S, [name]):
                    took = await self._timed(connection, view, views.refresh)
                    self.note(f"refresh {name}, nothing changed, {USERS} users", took, "s", REFRESH_MAX_S)
                    changed = await self._change(connection, 0.01)
                    took = await self._timed(connection, view, views.refresh)
                    self.note(f"refresh {name}, {changed:,} claims changed, {USERS} users", took, "s", REFRESH_MAX_S)

    async def table(self) -> None:
        """Each view computed anew into its table, and then changes alone."""
        async with ingesting(self._found.url) as connection:
            for name, view in REPORTS.items():
                async with self._readers(f"rebuild of {name}", max(self._seconds, 3 * self._took.get(name, 0.0)), [name]):
                    took = await self._timed(connection, view, views.rebuild)
                    self.note(f"rebuild {name}, {USERS} users", took, "s")
            async with self._readers("apply of all", self._seconds * 2):
                took_s: dict[str, list[float]] = {name: [] for name in REPORTS}
                for _ in range(5):
                    await self._changes.make(connection, self._changes.change(self._changes.choose(BATCH)))
                    for name, view in REPORTS.items():
                        took_s[name].append(await self._timed(connection, view, views.apply))
            for name, each in took_s.items():
                more = f"worst {max(each):.2f}"
                self.note(f"apply {BATCH} changes to {name}", statistics.median(each), "s", more=more)

    async def visible(self, times: int, folder: Path) -> None:
        """From the commit of a thousand changes until the routes show them, through a worker that is told of it."""
        settings = {"view_freshness_s": "0.5", "throttle_cpu": 1, "throttle_disk_free": 0}
        with started("worker", self._found.url, folder / "worker.log", **settings):
            async with ingesting(self._found.url) as connection, aiohttp.ClientSession() as session:
                watcher = Watcher(session, self._api.port, self._found.keys[0])
                await self._kept_by_table()
                seen: dict[str, list[float]] = {name: [] for name in REPORTS}
                users = asyncio.create_task(self._beside.run(times * 1.5, ()))
                for _ in range(times):
                    for name, took in (await self._shown(connection, watcher)).items():
                        seen[name].append(took)
                api = (await users)["api"]
        for name, each in seen.items():
            more = f"worst; median {statistics.median(each):.2f} of {times}"
            self.note(f"{BATCH} changed claims shown by {name}", max(each), "s", VISIBLE_MAX_S, more)
        self.note("API p99 meanwhile", api.p99_ms, "ms", more=_answers(api))

    async def deadlocks(self, folder: Path) -> None:
        """Two who load, the worker's refreshes and changes, readers and users, side by side."""
        before = await self._deadlocks()
        mixed = "0.5,claims-by-payer=86400,remittance-advice=86400"
        with started(
            "worker", self._found.url, folder / "worker.log", view_freshness_s=mixed, view_interval_s=5, throttle_cpu=1
        ):
            writing = [asyncio.create_task(self._write(self._seconds * 2)) for _ in range(2)]
            async with self._readers("all at once", self._seconds * 2):
                files = sum(await asyncio.gather(*writing))
        self.note("deadlocks", await self._deadlocks() - before, "", 0, f"{files} files of 200 claims by two writers")

    async def pages(self, kept: str) -> None:
        """Of the large tenant, one report after the other, beside API users."""
        key = {"Authorization": f"Bearer {self._found.keys[0]}"}
        users = asyncio.create_task(self._beside.run(self._seconds, ()))
        for report in PAGED:
            load = Load("127.0.0.1", self._api.port, 8, self._seconds / 3, warmup_s=0.2, rate=25, poisson=False, timeout_s=30)
            result = await asyncio.to_thread(run_in_process, load, self._varied[report.name])
            more = f"{kept}; p50 {result.p50_ms:.0f}, worst {result.max_ms:.0f}; {_answers(result)}"
            self.note(f"page of {report.name}, p99", result.p99_ms, "ms", PAGE_P99_MAX_MS, more)
        await users
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._api.port}", headers=key) as session:
            for what, path in ANALYSES.items():
                took = [await _asked(session, path) for _ in range(5)]
                more = f"{kept}; median {statistics.median(took) * 1e3:.0f} of 5"
                self.note(f"{what}, worst", max(took) * 1e3, "ms", more=more)
            await self._export(session, kept)

    async def _export(self, session: aiohttp.ClientSession, kept: str) -> None:
        began, lines = time.perf_counter(), 0
        async with session.get("/reports/balance-amount?format=csv") as response:
            async for chunk in response.content.iter_any():
                lines += chunk.count(b"\n")
        self.note("CSV of balance-amount", lines / (time.perf_counter() - began), "rows/s", more=f"{kept}; {lines:,} rows")

    async def calm(self, kept: str) -> None:
        """What everything else is held against: users and readers, and nothing else going on; and users alone for the pool."""
        watch = PoolWatch(self._api.port)
        before = server_s(self._api), database_s(self._found.cluster)
        api = (await self._beside.run(self._seconds, ()))["api"]
        after = server_s(self._api), database_s(self._found.cluster)
        pool = watch.over(self._seconds + 1)
        self.note(f"API pool's time in use, {USERS} users", pool.share, "", BUSY_SHARE_MAX, f"{pool.size} connections")
        self.note(f"API pool's busy connection-seconds a second, {USERS} users", pool.busy_per_s, "", BUSY_MAX)
        self.note(f"wait for an API connection p99, {USERS} users", pool.wait_p99_ms, "ms", WAIT_P99_MAX_MS)
        spent = ", ".join(f"{(b - a) / api.requests * 1e6:.0f} µs" for a, b in zip(before, after, strict=True))
        self.note(
            "API p99, users alone", api.p99_ms, "ms", more=f"p50 {api.p50_ms:.1f}; CPU a request {spent} (server, database)"
        )
        self._quiet = await self._beside.run(self._seconds, tuple(REPORTS))
        for name, result in self._quiet.items():
            more = f"{kept}; worst {result.max_ms:.0f}; {_answers(result)}"
            self.note(f"{name} p99, nothing else going on", result.p99_ms, "ms", more=more)

    @asynccontextmanager
    async def _readers(self, during: str, seconds: float, reports: Collection[str] = tuple(REPORTS)) -> AsyncIterator[None]:
        """Users and readers for so long at least; what they saw is noted beside what they saw when nothing went on."""
        watch = PoolWatch(self._api.port)
        running = asyncio.create_task(self._beside.run(seconds, reports))
        await asyncio.sleep(START_S)
        yield
        late = running.done()
        results = await running
        if late:
            self._console.print(f"the {during} went on after its readers had left: give them more --seconds")
        for name, result in results.items():
            quiet = self._quiet[name]
            if name == "api":
                more = f"p50 {result.p50_ms:.0f}; without p99 {quiet.p99_ms:.0f}; {_answers(result)}"
                self.note(f"{during}: API p99", result.p99_ms, "ms", more=more)
            else:
                more = f"p99 {result.p99_ms:.0f}; without worst {quiet.max_ms:.0f}, p99 {quiet.p99_ms:.0f}; {_answers(result)}"
                self.note(f"{during}: longest answer of {name}", result.max_ms, "ms", BLOCKED_MAX_MS, more)
        pool = watch.over(seconds + 1)
        more = f"{pool.busy_per_s:.2f} connection-seconds a second; wait p99 {pool.wait_p99_ms:g} ms"
        self.note(f"{during}: API pool's time in use", pool.share, "", more=more)

    async def _timed(self, connection: asyncpg.Connection, view: View, work: Callable[..., Awaitable[object]]) -> float:
        """Seconds, in our turn."""
        async with views.turn(connection, view, whole=True, wait=True):
            began = time.perf_counter()
            await work(connection, view)
            return time.perf_counter() - began

    async def _change(self, connection: asyncpg.Connection, share: float) -> int:
        claims = await self._owner.fetchval("SELECT count(*) FROM claims.claim")
        batches = max(1, round(int(claims) * share / BATCH))
        for _ in range(batches):
            await self._changes.make(connection, self._changes.change(self._changes.choose(BATCH)))
        return batches * BATCH

    async def _kept_by_table(self) -> None:
        """The worker has made tables of all views."""
        async with asyncio.timeout(MADE_MAX_S):
            while await self._unmade():  # noqa: ASYNC110  # the worker tells nobody
                await asyncio.sleep(0.2)

    async def _unmade(self) -> bool:
        return any(not state.incremental or state.waiting for state in (await views.states(self._owner)).values())

    async def _shown(self, connection: asyncpg.Connection, watcher: Watcher) -> dict[str, float]:
        keys = self._changes.choose(BATCH)
        change = self._changes.change(keys)
        await change.read(connection)
        before = await watcher.group_of(change.claims[0])
        await self._changes.make(connection, change)
        return await watcher.seen(change, before)

    async def _write(self, seconds: float) -> int:
        """Files of 200 claims; the claims of two writers overlap."""
        files, end = 0, time.perf_counter() + seconds
        async with ingesting(self._found.url) as connection:
            while time.perf_counter() < end:
                await self._changes.make(connection, self._changes.change(self._changes.choose(200, among=5000)))
                files += 1
        return files

    async def _deadlocks(self) -> int:
        sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        await self._owner.execute("SELECT pg_stat_clear_snapshot()")
        return int(await self._owner.fetchval(sql))


async def _asked(session: aiohttp.ClientSession, path: str) -> float:
    began = time.perf_counter()
    async with session.get(path) as response:
        assert response.status == 200, await response.text()
        await response.read()
    return time.perf_counter() - began


def _answers(result: Result) -> str:
    """Only what is not as it should be."""
    bad = {status: count for status, count in result.statuses.items() if status != 200} | result.error_kinds
    return f"{result.requests} answers" + (f", of which {bad}" if bad else "")


async def run(found: Stored, given: argparse.Namespace, api: Server, console: Console) -> list[Figure]:
    owner = await asyncpg.connect(found.url)
    bench = Bench(found, api, owner, given.seconds, console)
    await bench.prepare()
    if "refresh" in given.parts:
        await bench.refresh()
    else:
        await bench.calm("as they were")
    if "pages" in given.parts:
        await bench.pages("materialised view" if "refresh" in given.parts else "as they were")
    if "table" in given.parts:
        await bench.table()
        if "pages" in given.parts:
            await bench.pages("table")
    if "visible" in given.parts:
        await bench.visible(given.times, given.json.parent)
    if "deadlocks" in given.parts:
        await bench.deadlocks(given.json.parent)
    await owner.close()
    return bench.figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-reports", description=__doc__)
    parser.add_argument("--claims", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=12.0, help="of a run of users and readers")
    parser.add_argument("--times", type=int, default=20, help="that changes are made and looked for")
    parser.add_argument("--only", dest="parts", action="append", choices=PARTS, help="may be given again")
    parser.add_argument("--keep", type=Path, default=DATA, help="where PostgreSQL keeps the data from run to run (%(default)s)")
    parser.add_argument("--json", type=Path, default=Path("build/reports.json"))
    given = parser.parse_args()
    given.parts = given.parts or PARTS
    log.configure(level=logging.WARNING)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    console = Console(width=190, emoji=False)
    with ExitStack() as stack:
        found = stack.enter_context(stored(given.keep, given.claims))
        api = stack.enter_context(started("serve", found.url, given.json.parent / "serve.log"))
        figures = asyncio.run(run(found, given, api, console))
    given.json.write_text(json.dumps({"options": vars(given), "figures": [asdict(figure) for figure in figures]}, default=str))
    console.print(shown(figures))
    missed = sum(figure.verdict == "MISS" for figure in figures)
    console.print(
        f"{missed} of {sum(figure.limit is not None for figure in figures)} targets missed; every figure: {given.json}"
    )


if __name__ == "__main__":
    main()
