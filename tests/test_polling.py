import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg
import pytest

from ingestion.loader import Loaded, Received
from ingestion.polling.means import Loads
from ingestion.polling.poll import Busy, Ended
from ingestion.polling.taking import TRIES_MAX
from ingestion.polling.throttle import Brake
from simulator.claims_truth import truth
from storage import facilities
from storage.facilities import Facility
from tests.polls import Clinics, Polls, clinics, files_of, polling
from tests.processes import total
from tests.support import connected

OWED = "SELECT count(*) FROM claims.file WHERE acknowledged_at IS NULL AND NOT sent"
STATES = "SELECT state, count(*) FROM claims.file GROUP BY state"
RUNS = "SELECT outcome, reason, listed, loaded, failed, acknowledged, claims, finished_at FROM ops.poll_run ORDER BY run_id"


@dataclass
class Faulty:
    """The real loader behind a planted fault: nothing real fails for one file and always, or just when a test wants it."""

    real: Loads
    fault: Callable[[asyncpg.Connection, Received], "asyncio.Future[None] | None"] | None = None
    asked: list[str] = field(default_factory=list)

    async def load(self, connection: asyncpg.Connection, facility: Facility, received: Received) -> Loaded:
        self.asked.append(received.file_id)
        if self.fault is not None and (waits := self.fault(connection, received)) is not None:
            await waits
        return await self.real.load(connection, facility, received)


def failing_for(file_id: str) -> Callable[[Loads], Loads]:
    def fault(_: asyncpg.Connection, received: Received) -> None:
        if received.file_id == file_id:
            raise RuntimeError

    return lambda real: Faulty(real, fault)


async def assert_all_in(of: Clinics) -> None:
    """Every claim of every file once, to the fils; nothing owed, and every received file acknowledged once."""
    expected = [truth(files) for files in of.files.values()]
    net, held = await of.value("SELECT sum(net) FROM claims.claim"), await of.value("SELECT sum(held) FROM claims.claim")
    assert await of.value("SELECT count(*) FROM claims.claim") == sum(len(one.by_claim) for one in expected)
    assert (net, held) == (sum(one.total[0] for one in expected), sum(one.total[1] for one in expected))
    assert await of.value(OWED) == 0
    for box in of.boxes.values():
        assert all(file.acknowledged for file in box.received.values())
        assert not any(file.acknowledged for file in box.sent.values())


def broken(of: Clinics, licence: str) -> str:
    """The id of one submission."""
    return next(file.file_id for file in of.files[licence] if file.kind == "submission")


async def asked(times: Callable[[], int]) -> None:
    """The simulator tells nobody that it was asked."""
    async with asyncio.timeout(10):
        while not times():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_poll_takes_all(database: str) -> None:
    """A poll takes what was submitted and what was sent, each file once, and acknowledges what was sent to the facility."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        assert await polls.of(licence) == Ended("ok")
        await assert_all_in(of)
        files = of.files[licence]
        received = sum(file.kind == "remittance" for file in files)
        (run,) = await of.rows(RUNS)
        claims = sum(file.records for file in files)
        assert tuple(run)[:7] == ("ok", "", len(files), len(files), 0, received, claims)
        assert run["finished_at"] is not None


async def test_second_poll_fetches_nothing(database: str) -> None:
    """What is in is listed again within the overlap, and not downloaded again."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        await polls.of(licence)
        downloads = of.asked(licence, "DownloadTransactionFile")
        of.behave(licence, relist=True)
        async with connected(database) as connection:
            await connection.execute("UPDATE ops.facility SET searched_until = since + interval '2 days'")
        assert await polls.of(licence) == Ended("ok")
        assert of.asked(licence, "DownloadTransactionFile") == downloads == len(of.files[licence])
        assert (await of.rows(RUNS))[1]["listed"] == 0


@pytest.mark.parametrize("how", ["ack_fail_next", "ack_lost_next"])
async def test_acknowledgement_owed(database: str, how: str) -> None:
    """An acknowledgement that fails, or whose answer is lost, is no error of the poll: it is owed, and the next makes it."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, **{how: 1000})
        assert await polls.of(licence) == Ended("ok")
        assert await of.value(OWED) == len(of.boxes[licence].received)
        of.behave(licence)
        assert await polls.of(licence) == Ended("ok")
        assert of.asked(licence, "DownloadTransactionFile") == len(of.files[licence])
        await assert_all_in(of)


async def test_acknowledgement_of_what_is_gone(database: str) -> None:
    """An owed file that is neither listed any more nor known to the post office is settled, and not asked for for ever."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, ack_fail_next=100)
        await polls.of(licence)
        assert await of.value(OWED) == len(of.boxes[licence].received)
        of.boxes[licence].received.clear()
        of.behave(licence)
        assert await polls.of(licence) == Ended("ok")
        assert await of.value(OWED) == 0


async def test_no_acknowledge(database: str) -> None:
    """A facility that was registered so is never acknowledged anything."""
    async with clinics(database, acknowledge=False) as of, polling(of) as polls:
        (licence,) = of.licences
        assert await polls.of(licence) == Ended("ok")
        assert await polls.of(licence) == Ended("ok")
        assert of.asked(licence, "SetTransactionDownloaded") == 0
        assert of.asked(licence, "DownloadTransactionFile") == len(of.files[licence])


async def test_forgotten_acknowledgement(database: str) -> None:
    """What a post office lists again, though it was acknowledged, is acknowledged again, and counts once."""
    async with clinics(database) as of, polling(of) as polls:
        licence = of.licences[0]
        assert await polls.of(licence) == Ended("ok")
        (box,) = of.office.boxes.values()
        for file in box.received.values():
            file.acknowledged.clear()
        assert await polls.of(licence) == Ended("ok")
        await assert_all_in(of)


async def test_acknowledged_after_commit(database: str) -> None:
    """A received file whose load fails is not acknowledged, the others are."""
    files = files_of(1)
    (licence,) = files
    bad = next(file.file_id for file in files[licence] if file.kind == "remittance")
    async with clinics(database, files=files) as of, polling(of, loader=failing_for(bad)) as polls:
        assert (await polls.of(licence)).outcome == "partial"
        received = of.boxes[licence].received
        assert [file_id for file_id, file in received.items() if not file.acknowledged] == [bad]


async def test_garbage(database: str) -> None:
    """What is no claim file is quarantined, counted, and acknowledged."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, garbage_share=1.0)
        assert await polls.of(licence) == Ended("ok")
        assert [tuple(row) for row in await of.rows(STATES)] == [("quarantined", len(of.files[licence]))]
        assert await of.value("SELECT quarantined FROM ops.poll_run") == len(of.files[licence])
        assert await of.value(OWED) == 0


async def test_transient_failures(database: str) -> None:
    """A post office that fails now and then costs nothing but time: what one poll leaves out the next ones take."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, only=("DownloadTransactionFile",), transient_share=0.5, cut_share=0.2, seed=3)
        outcomes = [(await polls.of(licence)).outcome]
        assert outcomes == ["partial"]
        searched = await of.value("SELECT searched_until FROM ops.facility")
        assert searched is None or searched < await of.value("SELECT now() - interval '1 day'")
        of.behave(licence)
        assert await polls.of(licence) == Ended("ok")
        assert await of.value("SELECT searched_until > now() - interval '1 minute' FROM ops.facility")
        assert await of.value("SELECT count(*) FROM ops.file_try") == 0
        await assert_all_in(of)


async def test_listing_fails(database: str) -> None:
    """A post office that gives no listing makes the poll fail, and the facility stays active."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, error_share=1.0)
        assert (await polls.of(licence)).outcome == "failed"
        assert await of.value("SELECT state FROM ops.facility") == "active"


async def test_login_refused(database: str) -> None:
    """A refused login stops the facility after one request, and says why; it is polled again when it is resumed."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, login_failed=True)
        ended = await polls.of(licence)
        assert (ended.outcome, ended.reason) == ("stopped", "SearchTransactions: result code -1: login failed")
        assert of.boxes[licence].requests.total() == 1
        assert tuple((await of.rows("SELECT state, reason FROM ops.facility"))[0]) == ("stopped", ended.reason)
        assert await polls.poller.poll(await of.number(licence)) is None
        assert of.boxes[licence].requests.total() == 1
        of.behave(licence)
        async with connected(database) as connection:
            await facilities.set_state(connection, await facilities.facility_of(connection, licence), "active")
        assert await polls.of(licence) == Ended("ok")
        await assert_all_in(of)


async def test_hanging_facility(database: str) -> None:
    """A facility that hangs ends by its time, while another's poll is through."""
    async with clinics(database, 2) as of, polling(of, timeout_s=1.0) as polls:
        hanging, other = of.licences
        of.behave(hanging, hang=True)
        first = asyncio.create_task(polls.of(hanging))
        assert await polls.of(other) == Ended("ok")
        assert not first.done()
        assert (await first).outcome == "timeout"
        of.behave(hanging)
        assert await polls.of(hanging) == Ended("ok")
        await assert_all_in(of)


async def test_parked(database: str) -> None:
    """A file that failed three times is parked, told of and left alone, until somebody has it tried anew."""
    files = files_of(1)
    (licence,) = files
    bad = next(file.file_id for file in files[licence] if file.kind == "submission")
    async with clinics(database, files=files) as of:
        async with polling(of, loader=failing_for(bad)) as polls:
            assert [(await polls.of(licence)).outcome for _ in range(TRIES_MAX + 2)] == [*["partial"] * TRIES_MAX, "ok", "ok"]
            file = of.boxes[licence].sent[bad]
            assert file.downloads.total() == TRIES_MAX
            async with connected(database) as connection:
                (error,) = await facilities.errors(connection, licence, 10)
                assert (error["severity"], error["file_id"]) == ("parked", bad)
                assert error["reason"] == "tried 3 times in vain: RuntimeError"
                # Its window is behind us now, and no listing need name it.
                await connection.execute("UPDATE ops.facility SET searched_until = now()")
                await facilities.retry(connection, await facilities.facility_of(connection, licence), bad)
        async with polling(of) as polls:
            assert await polls.of(licence) == Ended("ok")
        await assert_all_in(of)


async def test_tried_alone(database: str) -> None:
    """A file that was tried before goes when no other is on its way, so that it takes no innocent one with it."""
    files = files_of(1)
    (licence,) = files
    bad = next(file.file_id for file in files[licence] if file.kind == "submission")
    loaders = []

    def remembered(real: Loads) -> Loads:
        loaders.append(Faulty(real))
        return loaders[0]

    async with clinics(database, files=files) as of, polling(of, loader=remembered) as polls:
        async with connected(database) as connection:
            facility = await facilities.facility_of(connection, licence)
            await facilities.count_try(connection, facility, bad, name="x", sent=True, now=facility.since)
        assert await polls.of(licence) == Ended("ok")
        submissions = [file.file_id for file in files[licence] if file.kind == "submission"]
        window = loaders[0].asked[: len(submissions)]
        assert bad in window
        assert window.index(bad) == max(window.index(it) for it in window if it in submissions[: submissions.index(bad) + 1])


async def test_database_hangs_up(database: str) -> None:
    """A connection that breaks in the middle of a load is mended within the poll, and is not held against the file."""
    hung_up: list[int] = []

    async def hang_up() -> None:
        await of.rows("SELECT pg_terminate_backend($1, 5000)", hung_up[0])

    def once(connection: asyncpg.Connection, _: Received) -> "asyncio.Future[None] | None":
        if hung_up:
            return None
        hung_up.append(connection.get_server_pid())
        return asyncio.ensure_future(hang_up())

    async with clinics(database) as of, polling(of, loader=lambda real: Faulty(real, once)) as polls:
        assert await polls.of(of.licences[0]) == Ended("ok")
        await assert_all_in(of)
    assert len(hung_up) == 1


async def test_cancelled(database: str) -> None:
    """A poll that is cut short leaves no try, no transaction and no lock behind, and the next one takes all."""
    began = asyncio.Event()

    def stuck(_: asyncpg.Connection, received: Received) -> "asyncio.Future[None] | None":
        loading.append(received.file_id)
        if len(loading) == polls.poller.means.lender.size:  # nobody is just counting a try
            began.set()
        return None if released else asyncio.get_running_loop().create_future()

    released: list[bool] = []
    loading: list[str] = []
    async with clinics(database) as of, polling(of, loader=lambda real: Faulty(real, stuck)) as polls:
        (licence,) = of.licences
        first = asyncio.create_task(polls.of(licence))
        await began.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await of.value("SELECT coalesce(sum(tries), 0) FROM ops.file_try") == 0
        assert polls.poller.means.budget.held == 0
        released.append(True)
        assert await polls.of(licence) == Ended("ok")
        assert [row["outcome"] for row in await of.rows(RUNS)] == ["partial", "ok"]
        await assert_all_in(of)


async def test_one_poll_at_a_time(database: str) -> None:
    """A facility that is being polled is not polled by another; a run that has lost its worker is marked by the next."""
    async with clinics(database) as of, polling(of) as polls:
        number = await of.number(of.licences[0])
        async with connected(database) as connection:
            assert await facilities.try_lock(connection, number)
            await facilities.start_run(connection, number, "gone", await of.value("SELECT now()"), None)
            with pytest.raises(Busy):
                await polls.poller.poll(number)
        assert await polls.of(of.licences[0]) == Ended("ok")
        assert [row["outcome"] for row in await of.rows(RUNS)] == ["lost", "ok"]


async def test_lock_lost(database: str) -> None:
    """Who loses the lock stops at once, for another may poll now."""
    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        of.behave(licence, hang=True)
        first = asyncio.create_task(polls.of(licence))
        await asked(of.boxes[licence].requests.total)
        await of.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'sluice facility lock' AND datname = current_database()"
        )
        with pytest.raises(ConnectionError):
            await first
        of.behave(licence)
        assert await polls.of(licence) == Ended("ok")


async def test_metrics(database: str) -> None:
    """Files, claims, stages and polls are counted by facility, and no label says anything of a patient."""
    from metrics.exposition import exposition

    async with clinics(database) as of, polling(of) as polls:
        (licence,) = of.licences
        await polls.of(licence)
        metrics = polls.poller.means.metrics
        text = exposition(metrics.families, metrics.snapshot()).decode()
    files = of.files[licence]
    assert total(text, "sluice_ingest_files_total", facility=licence, outcome="loaded") == len(files)
    assert total(text, "sluice_ingest_claims_total", facility=licence) == sum(file.records for file in files)
    assert total(text, "sluice_facility_polls_total", facility=licence, outcome="ok") == 1
    for stage in ("list", "download", "load", "acknowledge"):
        assert total(text, "sluice_ingest_stage_duration_seconds_count", stage=stage) > 0


async def test_batch_size_adapts(database: str) -> None:
    """Files at once grow while all is well, and halve when the post office fails; the facility remembers."""
    async with clinics(database, files=files_of(1, claims=60, each=2)) as of, polling(of) as polls:
        (licence,) = of.licences
        await polls.of(licence)
        assert await of.value("SELECT batch_size FROM ops.facility") == polls.poller.means.files_max
        async with connected(database) as connection:
            await connection.execute("DELETE FROM claims.file; UPDATE ops.facility SET searched_until = NULL")
        of.behave(licence, only=("DownloadTransactionFile",), error_share=1.0)
        await polls.of(licence)
        assert await of.value("SELECT batch_size FROM ops.facility") == 1


async def test_stopped_by_a_full_disk(database: str) -> None:
    """While the brake is full on no file is begun; when it is let go the poll goes on."""
    brake = [Brake({"disk": 1.0})]
    async with clinics(database) as of, polling(of, brake=lambda: brake[0]) as polls:
        (licence,) = of.licences
        first: asyncio.Task[Ended] = asyncio.create_task(polls.of(licence))
        await asked(lambda: of.asked(licence, "SearchTransactions"))
        assert of.asked(licence, "DownloadTransactionFile") == 0
        brake[0] = Brake({})
        assert await first == Ended("ok")
        await assert_all_in(of)


async def test_other_tenants_facility_stays(database: str) -> None:
    """Nothing of one facility's poll is another's: of two, only the polled one is asked."""
    async with clinics(database, 2) as of, polling(of) as polls:
        assert isinstance(polls, Polls)
        first, second = of.licences
        await polls.of(first)
        assert of.boxes[second].requests.total() == 0
