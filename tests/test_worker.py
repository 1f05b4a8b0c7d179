"""Real `sluice worker` processes on a real PostgreSQL, and a post office over real HTTP."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from simulator.post_office import Behaviour
from tests.polls import SECRET, Clinics, clinics, files_of
from tests.processes import Running, running, sluice, total
from tests.support import connected
from tests.test_polling import asked, assert_all_in

# Quick turns, and no brake: the machine that runs the tests may be busy with others.
QUICK = {
    "secret": SECRET,
    "metrics_port": 0,
    "poll_tick_s": 1,
    "poll_heartbeat_s": 1,
    "poll_mode": "concurrent",
    "throttle_cpu": 1,
    "throttle_disk_free": 0,
}
OVERLAPPING = """
    SELECT count(*) FROM ops.poll_run a JOIN ops.poll_run b ON a.facility_no = b.facility_no AND a.run_id < b.run_id
    WHERE b.started_at < coalesce(a.finished_at, 'infinity') AND a.outcome IS DISTINCT FROM 'lost'
"""


@asynccontextmanager
async def working(url: str, **settings: Any) -> AsyncIterator[Running]:
    async with running("worker", **{**QUICK, "database_url": url, **settings}) as worker:
        await worker.seen(lambda: worker.logged("worker.started") or None)
        yield worker


async def polled(of: Clinics, times: int) -> None:
    """Until so many polls have ended well: a run's end is told to nobody else."""
    async with asyncio.timeout(30), connected(of.url) as connection:
        while await connection.fetchval("SELECT count(*) FROM ops.poll_run WHERE outcome = 'ok'") < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def scraped(worker: Running, path: str = "/metrics") -> str:
    port = worker.logged("worker.started")[0]["port"]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return await response.text()


def ran(worker: Running) -> list[str]:
    """Facilities by the order of their polls' ends."""
    return [line["facility"] for line in worker.logged("facility.polled")]


async def test_worker(database: str) -> None:
    """A worker polls what is due at its start, shows it on its port, and ends with 0 within seconds of SIGTERM."""
    async with clinics(database, 2) as of, working(database) as worker:
        await polled(of, 2)
        await assert_all_in(of)
        text = await scraped(worker)
        assert total(text, "sluice_facility_polls_total", outcome="ok") == 2
        assert total(text, "sluice_ingest_claims_total") == await of.value("SELECT sum(claims) FROM claims.file")
        assert total(text, "sluice_pool_connections", pool="ingest", state="idle") >= 1
        assert total(text, "process_resident_memory_bytes") > 0
        assert json.loads(await scraped(worker, "/health/ready")) == {"status": "ready"}
        assert json.loads(await scraped(worker, "/health/live")) == {"status": "live"}
        assert await asyncio.wait_for(worker.end(), 5) == 0
        assert not any("post-001" in line for line in worker.err)  # a password
        assert {(line["tenant"], line["facility"]) for line in worker.logged("facility.polled")} == {
            ("clinic", licence) for licence in of.licences
        }


async def test_two_workers(database: str) -> None:
    """Two workers share the facilities, poll each again and again, and never one twice at once."""
    async with clinics(database, 3, behaviour=Behaviour(slow_s=0.05, relist=True)) as of:
        async with working(database, poll_interval_s=1) as one, working(database, poll_interval_s=1) as other:
            await polled(of, 6)
            for worker in (one, other):
                await worker.seen(lambda: ran(worker) or None)  # noqa: B023  # awaited here
            assert await one.end() == await other.end() == 0
        assert await of.value(OVERLAPPING) == 0
        await assert_all_in(of)


async def test_killed(database: str) -> None:
    """A worker that is killed in the middle of a poll loses nothing: another takes it over, and what is in is in once."""
    async with clinics(database, files=files_of(1, claims=40, each=2)) as of:
        (licence,) = of.licences
        of.behave(licence, only=("DownloadTransactionFile",), slow_s=0.1)
        async with working(database) as first:
            await asked(lambda: sum(file.downloads.total() > 0 for file in of.boxes[licence].sent.values()) > 5)
            assert await first.end(signal.SIGKILL) == -signal.SIGKILL
        of.behave(licence)
        async with working(database):
            await polled(of, 1)
        assert [row["outcome"] for row in await of.rows("SELECT outcome FROM ops.poll_run ORDER BY run_id")] == ["lost", "ok"]
        await assert_all_in(of)


async def test_told_to_end(database: str) -> None:
    """A worker that is told to end in the middle of a poll ends at once, and the next one goes on without waiting."""
    async with clinics(database, files=files_of(1, claims=40, each=2)) as of:
        (licence,) = of.licences
        of.behave(licence, only=("DownloadTransactionFile",), slow_s=0.2)
        async with working(database, poll_heartbeat_s=600) as first:
            await asked(lambda: of.asked(licence, "DownloadTransactionFile") > 2)
            assert await asyncio.wait_for(first.end(), 5) == 0
        of.behave(licence)
        async with working(database, poll_heartbeat_s=600):
            await polled(of, 1)
        await assert_all_in(of)


async def test_hanging(database: str) -> None:
    """One facility that hangs does not keep the others from being polled, again and again."""
    async with clinics(database, 3) as of:
        of.behave(of.licences[0], hang=True)
        async with working(database, poll_interval_s=1, poll_timeout_s=20) as worker:
            await polled(of, 4)
            assert set(ran(worker)) == set(of.licences[1:])
            assert await asyncio.wait_for(worker.end(), 5) == 0


async def test_database_away(database: str) -> None:
    """A worker outlives the loss of all its connections, and goes on polling."""
    async with clinics(database) as of, working(database, poll_interval_s=1) as worker:
        await polled(of, 1)
        await of.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'sluice %' AND datname = current_database()"
        )
        await polled(of, await of.value("SELECT count(*) FROM ops.poll_run") + 1)
        assert await worker.end() == 0


async def test_poll_and_wait(database: str) -> None:
    """`facility poll --wait` polls now, tells how it went, and says so by its exit code."""
    async with clinics(database, 2) as of:
        await of.rows("UPDATE ops.facility SET next_poll_at = now() + interval '1 day'")
        first, second = of.licences
        async with working(database):
            done = await sluice("facility", "poll", first, "--wait", "--json", database_url=database)
            assert done.code == 0, done.err
            (row,) = json.loads(done.out)
            assert (row["facility"], row["outcome"], row["loaded"]) == (first, "ok", len(of.files[first]))
            assert of.boxes[second].requests.total() == 0
            of.behave(second, login_failed=True)
            done = await sluice("facility", "poll", "--wait", database_url=database)
            assert done.code == 1
            assert sorted(line.split("\t")[:2] for line in done.out.splitlines()) == [[first, "ok"], [second, "stopped"]]
        refused = await sluice("facility", "poll", second, database_url=database)
        assert (refused.code, refused.err) == (
            1,
            f"sluice: {second} is stopped; `sluice facility resume {second}` has it polled again\n",
        )


async def test_poll_after_a_running_one(database: str) -> None:
    """A poll that is asked for while one runs comes after it, and sees what has come meanwhile; asking twice is asking once."""
    async with clinics(database) as of:
        (licence,) = of.licences
        of.behave(licence, hang=True)
        async with working(database):
            await asked(lambda: of.asked(licence, "SearchTransactions"))
            jobs = [await sluice("facility", "poll", licence, "--json", database_url=database) for _ in range(2)]
            assert json.loads(jobs[0].out) == json.loads(jobs[1].out)
            of.behave(licence)
            await polled(of, 2)
        runs = await of.rows("SELECT job_id FROM ops.poll_run WHERE outcome = 'ok' ORDER BY run_id")
        assert runs[1]["job_id"] == json.loads(jobs[0].out)[0]["job"] != runs[0]["job_id"]
        assert await of.value(OVERLAPPING) == 0
