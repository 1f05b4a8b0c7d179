"""The client and the simulator, which were written from the same WSDL and not from each other."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from msgspec import convert

from ingestion.post_office.client import Listed, LoginRefused, Mailbox, PostOfficeError, Refused, Transient, open_post_office
from ingestion.post_office.listing import DUBAI
from simulator.claims_types import FacilityProfile, GeneratedFile, Kind
from simulator.post_office import Behaviour, Box, serving
from tests.odd_post_office import LIMITS

AT = datetime(2026, 4, 11, 10, 44, 3, tzinfo=DUBAI)
PROFILE = FacilityProfile("DHA-F-0000001", "clinic", "a <password> & more")
SENT, SUBMISSIONS = 1, 2


def file(file_id: str, kind: Kind, *, days: int = 0) -> GeneratedFile:
    sender, receiver = (PROFILE.licence, "INS001") if kind == "submission" else ("INS001", PROFILE.licence)
    document = f"<{file_id}>é</{file_id}>".encode() * 100
    at = AT + timedelta(days=days)
    return GeneratedFile(file_id, f"{file_id}.xml", kind, sender, receiver, at, 7, document, False, 0, 0)


@pytest.fixture
def box() -> Box:
    files = [file("S1", "submission"), file("S2", "submission", days=40), file("R1", "remittance"), file("R2", "remittance")]
    return Box(PROFILE, files)


@pytest.fixture
async def mailbox(box: Box) -> AsyncIterator[Mailbox]:
    async with serving({PROFILE.login: box}) as served, open_post_office(LIMITS) as office:
        yield office.mailbox(served.url, PROFILE.login, PROFILE.password, PROFILE.licence)


async def sent(mailbox: Mailbox, start: datetime, end: datetime) -> list[str]:
    found: list[Listed] = []
    for status in (1, 2):
        found += await mailbox.search(direction=SENT, kind=SUBMISSIONS, start=start, end=end, status=status)
    return sorted(listed.file_id for listed in found)


async def test_a_remittance_is_taken(mailbox: Mailbox, box: Box) -> None:
    """What is new is listed with all that is known of it, downloaded whole, and gone from the list when acknowledged."""
    first, second = await mailbox.new()
    assert first == Listed("R1", "R1.xml", "INS001", PROFILE.licence, AT, 7, downloaded=False)
    payload = await mailbox.download(first.file_id)
    assert (payload.name, payload.content) == ("R1.xml", file("R1", "remittance").document)
    await mailbox.acknowledge(first.file_id)
    assert await mailbox.new() == [second]
    assert [len(box.received[file_id].acknowledged) for file_id in ("R1", "R2")] == [1, 0]


async def test_own_submissions_are_found_in_their_window(mailbox: Mailbox) -> None:
    """A search finds what was sent between its two ends, both of them included, and nothing else."""
    assert await sent(mailbox, AT, AT) == ["S1"]
    assert await sent(mailbox, AT - timedelta(days=50), AT + timedelta(days=50)) == ["S1", "S2"]
    assert await sent(mailbox, AT + timedelta(seconds=1), AT + timedelta(days=39)) == []


@pytest.mark.parametrize("empty", ["files", "code_2", "null"])
async def test_an_empty_mailbox(mailbox: Mailbox, box: Box, empty: str) -> None:
    """Nothing new is an empty list, in each of the three ways."""
    box.received.clear()
    box.behave(Behaviour(empty=empty))  # type: ignore[arg-type]
    assert await mailbox.new() == []


@pytest.mark.parametrize("fault", ["error_next", "transient_next", "truncated_next", "cut_next"])
async def test_two_faults_are_outlived(mailbox: Mailbox, box: Box, fault: str) -> None:
    """A fault that comes twice costs two more requests, one that comes a third time the call; the next call is well again."""
    box.behave(convert({fault: 2}, Behaviour))
    assert (await mailbox.download("R1")).content == file("R1", "remittance").document
    assert box.requests["DownloadTransactionFile"] == 3
    box.behave(convert({fault: 3}, Behaviour))
    with pytest.raises(Transient):
        await mailbox.download("R1")
    assert len(await mailbox.new()) == 2


async def test_a_lost_acknowledgement_is_repeated(mailbox: Mailbox, box: Box) -> None:
    """When the answer to an acknowledgement is lost it is sent again, and the file stays acknowledged."""
    box.behave(Behaviour(ack_lost_next=1))
    await mailbox.acknowledge("R1")
    assert box.requests["SetTransactionDownloaded"] == 2
    assert [listed.file_id for listed in await mailbox.new()] == ["R2"]


async def test_files_listed_twice_come_once(mailbox: Mailbox, box: Box) -> None:
    """A listing with every file twice gives each once."""
    box.behave(Behaviour(duplicates="same_id"))
    assert [listed.file_id for listed in await mailbox.new()] == ["R1", "R2"]


async def test_what_is_refused(mailbox: Mailbox, box: Box) -> None:
    """No such file, and too long a time, are refused at the first request; so is a login, and then nothing more is asked."""
    with pytest.raises(Refused, match="-6"):
        await mailbox.download("R9")
    with pytest.raises(Refused, match="-5"):
        await mailbox.search(direction=SENT, kind=SUBMISSIONS, start=AT, end=AT + timedelta(days=101), status=1)
    box.behave(Behaviour(login_failed=True))
    for _ in range(2):
        with pytest.raises(LoginRefused):
            await mailbox.new()
    assert box.requests.total() == 3


@pytest.mark.parametrize(("login", "password"), [("clinic", "wrong"), ("nobody", PROFILE.password)])
async def test_a_wrong_login(box: Box, login: str, password: str) -> None:
    """A wrong password or login is a refused login."""
    async with serving({PROFILE.login: box}) as served, open_post_office(LIMITS, soap="1.2") as office:
        with pytest.raises(LoginRefused):
            await office.mailbox(served.url, login, password).new()


async def test_one_that_hangs_is_left_alone(box: Box) -> None:
    """While one facility hangs another is answered, over the same client."""
    other = Box(FacilityProfile("DHA-F-0000002", "other", ""), [])
    box.behave(Behaviour(hang=True))
    limits = type(LIMITS)(read_s=0.05, call_s=0.2, backoff_s=0.001)
    async with serving({PROFILE.login: box, "other": other}) as served, open_post_office(limits) as office:
        hanging = office.mailbox(served.url, PROFILE.login, PROFILE.password)
        with pytest.raises(PostOfficeError):
            await hanging.new()
        assert await office.mailbox(served.url, "other", "").new() == []
