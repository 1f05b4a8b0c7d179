"""Whatever dies, hangs or lies while claims come in: every claim once to the fils, every file acknowledged by the rule.

`make test` runs the short forms, `make prove` the long ones. Chance has a fixed seed, which a failure tells.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Literal

import aiohttp
import psutil
import pytest

from ingestion.polling.poll import Ended
from ingestion.polling.taking import TRIES_MAX
from simulator.claims import DUBAI, facilities, generate
from simulator.post_office import Behaviour
from simulator.post_office_box import COPY
from storage import facilities as store
from storage.embedded import THROWAWAY, Cluster, running, throwaway
from storage.migrate import migrate
from tests.conftest import PROVE, database_url, make_database
from tests.ingest_faults import (
    SEED,
    Files,
    all_in,
    assert_acknowledged,
    assert_as_if_nothing_had_been,
    assert_counted_once,
    assert_nothing_stays,
    at_rest,
    give,
    moment,
    nothing,
    parts,
    recent,
    told,
    until,
    until_so,
)
from tests.polls import Clinics, clinics, polling
from tests.processes import Running, environment
from tests.processes import running as process
from tests.support import connected
from tests.test_worker import QUICK, working

pytestmark = pytest.mark.timeout(1200 if PROVE else 120)
KILLS = 20 if PROVE else 3
OFTEN = {"poll_interval_s": 1, "poll_timeout_s": 30}
_numbers = count(1)


@pytest.fixture(scope="module")
def stamped() -> Iterator[Cluster]:
    """A server that knows when each transaction was committed, with a migrated template."""
    with throwaway({**THROWAWAY, "track_commit_timestamp": "on"}) as cluster:

        async def make() -> None:
            await migrate(await make_database(cluster, "migrated"))

        asyncio.run(make())
        yield cluster


@pytest.fixture
async def database(stamped: Cluster) -> AsyncIterator[str]:
    name = f"faults_{next(_numbers)}"
    yield await make_database(stamped, name, "migrated")
    async with connected(database_url(stamped, "postgres")) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


# Something is killed


async def test_worker_killed(database: str) -> None:
    """A worker that is killed at random moments loses nothing: another takes over, and what is in is in once."""
    random = Random(SEED)
    batches = parts(recent(3, claims=(20 if PROVE else 8) * KILLS, each=4), KILLS)
    async with clinics(database, 3, files=nothing(3)) as of, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(working(database, **OFTEN)) for _ in range(2)]
        for number, batch in enumerate(batches):
            with told(seed=SEED, kill=number):
                give(of, batch)
                at = await moment(of, random, 2 * sum(map(len, batch.values())))
                victim = await _polling_one(of, workers)
                with told(killed_at=at):
                    assert await victim.end(signal.SIGKILL) == -signal.SIGKILL
                    workers.remove(victim)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(all_in(of))
                        new = group.create_task(stack.enter_async_context(working(database, **OFTEN)))
                    workers.append(new.result())
        await at_rest(of, *workers)
        await assert_as_if_nothing_had_been(of)
        lost = await of.value("SELECT count(*) FROM ops.poll_run WHERE outcome = 'lost'")
        print(f"{KILLS} kills, {lost} of them in the middle of polls")
        assert lost >= 1


async def _polling_one(of: Clinics, workers: list[Running]) -> Running:
    names = [row[0] for row in await of.rows("SELECT worker FROM ops.poll_run WHERE outcome IS NULL")]
    return next((worker for worker in workers if any(name.endswith(f":{worker.pid}") for name in names)), workers[0])


@pytest.mark.parametrize("everything", [True, False] if PROVE else [True])
async def test_database_killed(everything: bool) -> None:
    """A database that is killed and started again has all that was acknowledged, and the worker goes on by itself.

    With `everything` all its processes die at once, else the first alone, and the others as soon as they see it.
    """
    random, kills = Random(SEED + everything), 5 if PROVE else 1
    # Durable, as a real one: nothing may depend on a shutdown in order. Only the long form waits for the disk.
    settings = {"shared_buffers": "32MB", "track_commit_timestamp": "on"} | ({} if PROVE else {"fsync": "off"})
    batches = parts(recent(3, claims=(30 if PROVE else 15) * kills, each=5), kills)
    async with AsyncExitStack() as stack:
        cluster = await _entered(stack, throwaway(settings))
        await migrate(cluster.url)
        of = await stack.enter_async_context(clinics(cluster.url, 3, files=nothing(3)))
        worker = await stack.enter_async_context(working(cluster.url, **OFTEN))
        for number, batch in enumerate(batches):
            give(of, batch)
            at = await moment(of, random, 2 * sum(map(len, batch.values())))
            with told(seed=SEED, kill=number, killed_at=at):
                await asyncio.to_thread(_kill_database, cluster, everything)
                again = await _entered(stack, running(cluster.data_dir, settings))
                assert again.port == cluster.port
                cluster = again
                await all_in(of)
        await at_rest(of, worker)
        await assert_as_if_nothing_had_been(of)
        assert "deadlock detected" not in (cluster.data_dir / "postgres.log").read_text()


def _kill_database(cluster: Cluster, everything: bool) -> None:
    first = psutil.Process(cluster.pid)
    processes = [first, *first.children(recursive=True)] if everything else [first]
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            while one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                pass


async def _entered(stack: AsyncExitStack, context: Any) -> Cluster:
    """It blocks for seconds."""
    cluster: Cluster = await asyncio.to_thread(context.__enter__)
    stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
    return cluster


async def test_post_office_killed(database: str) -> None:
    """A post office that is killed, and then lists everything anew as if nothing had been acknowledged, is counted once."""
    random, kills = Random(SEED), 5 if PROVE else 1
    order = ("--facilities", 2, "--claims", 400 if PROVE else 60, "--seed", SEED)
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(process("post-office", *order, "--port", 0))
        today = datetime.now(DUBAI).replace(hour=0, minute=0, second=0, microsecond=0)
        url = await office.seen(lambda: next((line.split()[6].strip(",") for line in office.out if " is up at " in line), None))
        of = await stack.enter_async_context(clinics(database, 2, files=nothing(2)))
        files = {one.licence: list(generate(SEED, one, claims=int(order[3]), end=today)) for one in facilities(2)}
        give(of, files)  # what is expected; nobody asks this one for them
        await of.rows("UPDATE ops.facility SET url = $1, since = $2", url, today.replace(year=today.year - 1))
        worker = await stack.enter_async_context(working(database, **OFTEN))
        total = sum(map(len, files.values()))
        for number in range(kills):
            wanted = random.randrange(1, total) * (number + 1) // kills
            await until_so(lambda: _has_files(of, wanted))  # noqa: B023  # awaited here
            with told(seed=SEED, kill=number, files=wanted):
                await office.end(signal.SIGKILL)
                port = url.split(":")[2].partition("/")[0]
                office = await stack.enter_async_context(process("post-office", *order, "--port", port))
        await all_in(of)
        await at_rest(of, worker)
        await assert_counted_once(of)
        await assert_nothing_stays(of)
        state = await _state(url)
        began = min(entry["at"] for entry in state["log"])  # what was acknowledged before, the last one has forgotten
        taken = await of.rows(
            "SELECT licence, file_id, extract(epoch FROM acknowledged_at)::float8"
            " FROM claims.file JOIN ops.facility USING (facility_no) WHERE NOT sent"
        )
        for box in state["facilities"].values():
            assert not any(file["acknowledged"] for file in box["sent"].values())
            before = {file_id for licence, file_id, at in taken if licence == box["licence"] and at < began}
            now = {file_id for file_id, file in box["received"].items() if file["acknowledged"]}
            assert box["received"].keys() <= before | now


async def _has_files(of: Clinics, wanted: int) -> bool:
    return bool(await of.value("SELECT count(*) FROM claims.file") >= wanted)


async def _state(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url.rpartition("/")[0] + "/_admin/state?log") as response:
        return await response.json()


async def test_deadly_file(database: str) -> None:
    """A file that kills its worker is parked after three tries, not acknowledged; all others are in, and it is once retried."""
    random = Random(SEED)
    files = recent(3, claims=20 if PROVE else 10, each=5)
    often = Counter(file.file_id for of in files.values() for file in of)  # post offices know nothing of each other's ids
    chosen = [random.choice([file for file in of if often[file.file_id] == 1]) for of in files.values()][: 3 if PROVE else 1]
    deadly = {file.file_id for file in chosen}
    async with clinics(database, 3, files=files) as of:
        deaths, lives = 0, False
        with told(seed=SEED, deadly=sorted(deadly)):
            while not lives:
                async with _deadly(database, deadly) as one:
                    lives = await _survives(of, one, deadly)
                    if not lives:
                        deaths += 1
                        assert await one.process.wait() == -signal.SIGKILL, one.err[-20:]
                        assert deaths <= TRIES_MAX * len(deadly)
            print(f"{len(deadly)} deadly files, {deaths} deaths")
            assert deaths >= TRIES_MAX
            tried = await of.rows("SELECT file_id, tries, parked FROM ops.file_try")
            assert {tuple(row) for row in tried} == {(file_id, TRIES_MAX, True) for file_id in deadly}
            assert await of.value("SELECT count(*) FROM ops.ingest_error WHERE severity = 'parked'") == len(deadly)
            await assert_as_if_nothing_had_been(of, less=deadly)
            async with connected(database) as connection:
                for file in chosen:
                    licence = next(licence for licence, own in files.items() if file in own)
                    await store.retry(connection, await store.facility_of(connection, licence), file.file_id)
            await of.rows("UPDATE ops.facility SET state = 'active', next_poll_at = now()")
            async with working(database, **OFTEN) as healthy:
                await all_in(of)
                await at_rest(of, healthy)
            await assert_as_if_nothing_had_been(of)


async def _survives(of: Clinics, one: Running, deadly: set[str]) -> bool:
    """Until it is dead, or what is deadly is parked and all else is in; then it is ended."""

    async def are_parked() -> bool:
        return bool(await of.value("SELECT count(*) FROM ops.file_try WHERE parked") == len(deadly))

    async def take_all() -> None:
        await all_in(of, less=deadly)
        await until_so(are_parked)

    ended, taken = asyncio.create_task(one.process.wait()), asyncio.create_task(take_all())
    await asyncio.wait((ended, taken), return_when=asyncio.FIRST_COMPLETED)
    if taken.done():
        await taken
        await at_rest(of, one)
        await ended
        return True
    taken.cancel()
    await asyncio.gather(taken, return_exceptions=True)
    return False


@asynccontextmanager
async def _deadly(url: str, file_ids: set[str]) -> AsyncIterator[Running]:
    settings = environment(**{**QUICK, **OFTEN, "database_url": url}) | {"DEADLY": " ".join(file_ids)}
    pipe, root = asyncio.subprocess.PIPE, Path(__file__).parents[1]
    words = (sys.executable, "-m", "tests.deadly_worker")
    one = Running(await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe, env=settings, cwd=root))
    reading = asyncio.create_task(one.read())
    try:
        yield one
    finally:
        if one.process.returncode is None:
            os.kill(one.pid, signal.SIGKILL)
        await one.process.wait()
        await reading


# The post office misbehaves

ASKED = ("SearchTransactions", "GetNewTransactions", "DownloadTransactionFile", "SetTransactionDownloaded")
LOADING = ("DownloadTransactionFile",)
WAYS: dict[str, dict[str, Any]] = {
    "cut mid-download": {"only": LOADING, "cut_share": 0.6},
    "cut": {"cut_share": 0.3},
    "truncated": {"truncated_share": 0.3},
    "5xx": {"error_share": 0.3},
    "-4": {"transient_share": 0.3},
    "slow": {"only": LOADING, "slow_s": 0.1},
    "all at once": {
        "cut_share": 0.1,
        "truncated_share": 0.1,
        "error_share": 0.1,
        "transient_share": 0.1,
        "slow_s": 0.01,
        "packing": "mixed",
        "encoding": "mixed",
    },
}
SHORT = ("cut mid-download", "all at once")


@pytest.mark.parametrize("seed", range(10 if PROVE else 1))
@pytest.mark.parametrize("way", WAYS if PROVE else SHORT)
async def test_misbehaving(database: str, way: str, seed: int) -> None:
    """However the post office misbehaves, polls that go on take every file at last, while it still does, and park none."""
    files = recent(1, seed=SEED + seed, claims=30, each=5)
    async with clinics(database, 1, files=files) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, seed=SEED + seed, **WAYS[way])
        with told(seed=SEED + seed):
            for _ in range(100):
                ended = await polls.of(licence)
                assert ended.outcome in ("ok", "partial", "failed")
                if ended == Ended("ok") and await of.value(OWED) == 0:
                    break
            await assert_as_if_nothing_had_been(of)


OWED = "SELECT count(*) FROM claims.file WHERE acknowledged_at IS NULL AND NOT sent"


@pytest.mark.parametrize("seed", range(10 if PROVE else 1))
async def test_acknowledgement_lost(database: str, seed: int) -> None:
    """A file whose acknowledgement fails, or is done and its answer lost, is fetched and counted once, acknowledged at last."""
    random = Random(SEED + seed)
    files = recent(1, seed=SEED + seed, claims=30, each=5)
    async with clinics(database, 1, files=files) as of, polling(of) as polls:
        (licence,) = of.licences
        box = of.boxes[licence]
        for _ in range(4):
            of.behave(licence, ack_fail_next=random.randrange(6), ack_lost_next=random.randrange(6))
            with told(seed=SEED + seed, behaviour=box.behaviour):
                assert await polls.of(licence) == Ended("ok")
        of.behave(licence)
        with told(seed=SEED + seed):
            assert await polls.of(licence) == Ended("ok")
            assert {file.downloads.total() for file in (*box.sent.values(), *box.received.values())} == {1}
            assert await of.value(OWED) == 0
            await assert_as_if_nothing_had_been(of)


@pytest.mark.parametrize("how", ["same_id", "two_ids"])
async def test_listed_twice(database: str, how: Literal["same_id", "two_ids"]) -> None:
    """A file that is listed twice, under its id or under two, and again after it was acknowledged, counts once."""
    files = recent(1, claims=60 if PROVE else 20, each=5)
    async with clinics(database, 1, files=files, behaviour=Behaviour(duplicates=how, relist=True)) as of, polling(of) as polls:
        for _ in range(3):
            assert await polls.of(of.licences[0]) == Ended("ok")
        await assert_as_if_nothing_had_been(of, copies=COPY if how == "two_ids" else "")


async def test_listed_to_two_workers(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that take the same files at once, as if no lock held them apart, count each file once."""

    async def always(*_: Any) -> bool:
        return True

    monkeypatch.setattr(store, "try_lock", always)
    files = recent(1, claims=200 if PROVE else 40, each=5)
    async with clinics(database, 1, files=files) as of, polling(of) as one, polling(of) as other:
        (licence,) = of.licences
        await asyncio.gather(one.of(licence), other.of(licence))
        assert any(file.downloads.total() > 1 for file in of.boxes[licence].received.values())
        assert await one.of(licence) == Ended("ok")
        await assert_counted_once(of)
        await assert_acknowledged(of)
        await assert_nothing_stays(of, locked=False)


# One hangs


async def test_one_hangs(database: str) -> None:
    """One facility of a hundred that hangs keeps no other from being polled again and again, and is whole when it answers."""
    number, rounds = (100, 3) if PROVE else (12, 2)
    files: Files = recent(number, claims=20 if PROVE else 5, each=5)
    async with clinics(database, number, files=files) as of:
        hanging, *others = of.licences
        of.behave(hanging, hang=True)
        settings = {"poll_interval_s": 1, "poll_timeout_s": 10 if PROVE else 3}
        async with working(database, **settings) as worker, working(database, **settings) as second:

            async def are_polled() -> bool:
                done = await of.rows(
                    "SELECT licence FROM ops.poll_run r JOIN ops.facility f USING (facility_no) WHERE outcome = 'ok'"
                    " GROUP BY 1 HAVING count(*) >= $1",
                    rounds,
                )
                return {row[0] for row in done} == set(others)

            await until_so(are_polled, within_s=300)
            await until(lambda: of.asked(hanging, "SearchTransactions") > 0)
            number_of_it = await of.number(hanging)
            assert await of.value("SELECT count(*) FROM claims.file WHERE facility_no = $1", number_of_it) == 0
            of.behave(hanging)
            await all_in(of)
            await at_rest(of, worker, second)
        await assert_as_if_nothing_had_been(of)
