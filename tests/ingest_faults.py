"""What tests of ingestion's faults share: files of these days, random moments, and all that must hold afterwards."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from random import Random
from typing import Any

import asyncpg

from ingestion.loader import Loader
from ingestion.mapping.from_claims import Naming
from simulator.claims import DUBAI, GeneratedFile, facilities, generate
from simulator.claims_truth import truth
from simulator.post_office_box import StoredFile
from storage.facilities import facility_of, lock_schedule
from tests.claims import Intake, assert_is_truth
from tests.polls import Clinics
from tests.processes import Running
from tests.support import connected
from tests.test_worker import OVERLAPPING

SEED = 20261122
Files = dict[str, list[GeneratedFile]]
"""By licence."""
_COMMITS = """
    SELECT f.licence, r.file_id, extract(epoch FROM max(pg_xact_commit_timestamp(r.xmin)))::float8
    FROM claims.remittance r JOIN ops.facility f USING (facility_no) GROUP BY 1, 2
"""
_TAKEN = """
    SELECT count(*), count(*) FILTER (WHERE acknowledged_at IS NOT NULL) FROM claims.file
"""
_BUSY = "SELECT (SELECT count(*) FROM jobs.queue) + (SELECT count(*) FROM ops.poll_run WHERE outcome IS NULL)"
_LEFT = "SELECT id, status::text, payload, attempts FROM jobs.queue"


@contextmanager
def told(**facts: Any) -> Iterator[None]:
    """Whatever fails says with which seed, and at which moment."""
    try:
        yield
    except BaseException as error:
        error.add_note("with " + ", ".join(f"{name} {value}" for name, value in facts.items()))
        raise


def recent(count: int, *, seed: int = SEED, claims: int, each: int) -> Files:
    """Of all kinds, and so young that a search which goes on where the last one ended finds them whenever they are added."""
    end = datetime.now(DUBAI).replace(second=0, microsecond=0) - timedelta(minutes=5)
    return {
        profile.licence: list(
            generate(seed, profile, claims=claims, claims_per_file=each, start=end - timedelta(hours=40), end=end)
        )
        for profile in facilities(count)
    }


def nothing(count: int) -> Files:
    return {profile.licence: [] for profile in facilities(count)}


def parts(files: Files, count: int) -> list[Files]:
    """As many, each with some files of every facility."""
    return [{licence: of[number::count] for licence, of in files.items()} for number in range(count)]


def give(of: Clinics, files: Mapping[str, Sequence[GeneratedFile]]) -> None:
    """They can be listed from now on."""
    for licence, more in files.items():
        of.files[licence].extend(more)
        for file in more:
            of.boxes[licence].add(file)


async def moment(of: Clinics, random: Random, requests: int) -> str:
    """Waits for a random request among the next so many, and a moment more; says for which."""
    begin, number, more_s = requested(of), random.randrange(requests), random.random() * 0.05
    await until(lambda: requested(of) >= begin + number)
    await asyncio.sleep(more_s)  # chance itself is what is tested
    return f"request {number} of {requests} and {more_s * 1000:.0f} ms"


def requested(of: Clinics) -> int:
    return sum(box.requests.total() for box in of.boxes.values())


async def until(holds: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """The simulator tells nobody that it was asked."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def until_so(holds: Callable[[], Awaitable[bool]], *, within_s: float = 60.0) -> None:
    """The database tells nobody; while it is away it does not hold."""
    async with asyncio.timeout(within_s):
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if await holds():
                    return
            await asyncio.sleep(0.05)


async def all_in(of: Clinics, *, less: Collection[str] = ()) -> None:
    """Until every file is in, and every received one is acknowledged, but for `less`."""
    ids = [
        (file_id, file_id in box.received)
        for box in of.boxes.values()
        for file_id in chain(box.sent, box.received)
        if file_id not in less
    ]
    wanted = (len(ids), sum(received for _, received in ids))

    async def are_in() -> bool:
        return tuple((await of.rows(_TAKEN))[0]) == wanted

    try:
        await until_so(are_in)
    except TimeoutError as error:
        error.add_note(f"(files, acknowledged): {tuple((await of.rows(_TAKEN))[0])}, wanted {wanted}")
        raise


async def at_rest(of: Clinics, *workers: Running) -> None:
    """Facilities are polled no more; no job stays in the queue and no run runs; then the workers end, with 0."""
    async with connected(of.url) as connection, connection.transaction():
        await lock_schedule(connection)  # or a tick that has begun would still queue some
        await connection.execute("UPDATE ops.facility SET state = 'paused'")

    async def is_idle() -> bool:
        return bool(await of.value(_BUSY) == 0)

    try:
        await until_so(is_idle, within_s=20)
    except TimeoutError as error:
        error.add_note(f"left: {await of.rows(_LEFT)}, {await of.rows('SELECT * FROM ops.poll_run WHERE outcome IS NULL')}")
        raise
    for worker in workers:
        assert worker.process.returncode is None, worker.err[-20:]
        assert await worker.end() == 0


async def assert_counted_once(of: Clinics, *, less: Collection[str] = ()) -> None:
    """Every claim of every file but `less` once, to the fils."""
    async with connected(of.url) as connection:
        facility = await facility_of(connection, of.licences[0])
    loader = Loader(Naming(key=bytes(32)))
    try:
        await assert_is_truth(
            Intake(of.url, facility, loader), truth(file for of in of.files.values() for file in of if file.file_id not in less)
        )
    finally:
        loader.close()


async def assert_acknowledged(of: Clinics, *, less: Collection[str] = (), copies: str = "") -> None:
    """Received files each under all its ids and after its commit, own ones never, nor `less`."""
    committed = {(row[0], row[1]): row[2] for row in await of.rows(_COMMITS)}
    assert committed
    for licence, box in of.boxes.items():
        assert not any(file.acknowledged for file in box.sent.values())
        for file_id, file in box.received.items():
            wanted = set() if file_id in less else {file_id, file_id + copies}
            assert file.acknowledged.keys() == wanted, (licence, file_id)
            # A copy's rows are those of whichever came first.
            after = min((committed[key] for one in wanted if (key := (licence, one)) in committed), default=0.0)
            assert after < first_acknowledged(file), (licence, file_id)


def first_acknowledged(file: StoredFile) -> float:
    return min(chain.from_iterable(file.acknowledged.values()), default=datetime.now(UTC).timestamp())


async def assert_nothing_stays(of: Clinics, *, parked: Collection[str] = (), locked: bool = True) -> None:
    """No try but of parked files, no run that runs, no job; no two runs of a facility at once; and no deadlock."""
    assert {row[0] for row in await of.rows("SELECT file_id FROM ops.file_try")} == set(parked)
    assert await of.value("SELECT count(*) FROM ops.file_try WHERE NOT parked") == 0
    assert await of.value(_BUSY) == 0, await of.rows(_LEFT)
    assert await of.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    if locked:
        assert await of.value(OVERLAPPING) == 0


async def assert_as_if_nothing_had_been(of: Clinics, *, less: Collection[str] = (), copies: str = "") -> None:
    """All of the above."""
    await assert_counted_once(of, less=less)
    await assert_acknowledged(of, less=less, copies=copies)
    await assert_nothing_stays(of, parked=less)
