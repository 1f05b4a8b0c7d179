"""The client of a post office, against servers that answer well, badly, slowly and never."""

import asyncio
import base64
import gzip
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from ingestion.post_office.client import (
    LoginRefused,
    Payload,
    Refused,
    TooLarge,
    Transient,
    open_post_office,
)
from tests import odd_post_office as odd
from tests.odd_post_office import (
    FILES,
    LIMITS,
    LOGIN,
    PASSWORD,
    Handler,
    answer,
    answering,
    asking,
    envelope,
    failure,
    fault,
    listing,
    status,
)

NOW = datetime(2026, 4, 11, 12, tzinfo=UTC)


@pytest.mark.parametrize("soap", ["1.1", "1.2"])
async def test_every_operation(soap: Literal["1.1", "1.2"]) -> None:
    """List, search, download and acknowledge work, in both versions of SOAP."""
    answers = (
        listing(FILES, 0, soap),
        answer("SearchTransactions", 0, soap, foundTransactions=FILES),
        answer("DownloadTransactionFile", 1, soap, fileName="a.xml", file=base64.b64encode(b"\0content").decode()),
        answer("SetTransactionDownloaded", 0, soap),
    )
    async with asking(*answers, soap=soap) as (mailbox, asked):
        assert [found.file_id for found in await mailbox.new()] == ["F1", "F2"]
        found = await mailbox.search(direction=1, kind=2, start=NOW - timedelta(days=30), end=NOW, status=1)
        assert [listed.file_id for listed in found] == ["F1", "F2"]
        assert await mailbox.download("F1") == Payload("a.xml", b"\0content")
        await mailbox.acknowledge("F1")
    assert len(asked.bodies) == 4
    assert [b"fieldId>F1</" in body for body in asked.bodies] == [False, False, False, True]


@pytest.mark.parametrize(
    "body", [listing("<Files></Files>"), listing(None, 2), listing(None), listing(""), listing("<Files/>", 1)]
)
async def test_nothing_new(body: bytes) -> None:
    """An empty mailbox is an empty list in whichever way it says so."""
    async with asking(body) as (mailbox, asked):
        assert await mailbox.new() == []
    assert len(asked.bodies) == 1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(listing(None, -4), id="-4"),
        pytest.param(status(500), id="500"),
        pytest.param(status(500, b"<html><body>Server Error"), id="500 html"),
        pytest.param(status(503, b"<html/>"), id="503"),
        pytest.param(status(408), id="408"),
        pytest.param(status(429, Retry_After="0"), id="429"),
        pytest.param(odd.hang_up, id="hangs up"),
        pytest.param(odd.cut_off, id="cut off"),
        pytest.param(listing(FILES)[:-60], id="half an envelope"),
        pytest.param(listing(FILES[:-20]), id="half a listing"),
        pytest.param(envelope(""), id="no body"),
        pytest.param(envelope("<x/>"), id="another answer"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage \xff\x00", id="garbage"),
        pytest.param(b"<html/>", id="another document"),
        pytest.param(listing(FILES).decode().replace("utf-8", "utf-16").encode("utf-16"), id="utf-16"),
        pytest.param(answer("GetNewTransactions", "zero", xmlTransaction=FILES), id="a code that is no number"),
        pytest.param(answer("SearchTransactions", 0, foundTransactions=FILES), id="to another question"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b "c">]>' + listing(FILES)[38:], id="dtd"),
        pytest.param(odd.gzipped(listing(FILES), cut=-4), id="half a gzip"),
        pytest.param(status(200, listing(FILES), Content_Encoding="gzip"), id="no gzip"),
        pytest.param(status(200, listing(FILES), Content_Encoding="br"), id="unknown packing"),
        pytest.param(fault("Server"), id="the server's fault"),
        pytest.param(status(500, fault("Server.userException")), id="the server's fault with 500"),
    ],
)
async def test_what_may_pass_is_asked_again(bad: bytes | Handler) -> None:
    """After two bad answers the good third one counts; after three it is given up, and nothing of a bad one is believed."""
    async with asking(bad, bad, listing(FILES), bad) as (mailbox, asked):
        assert len(await mailbox.new()) == 2
        assert len(asked.bodies) == 3
        assert isinstance(await failure(mailbox), Transient)
        assert len(asked.bodies) == 6


@pytest.mark.parametrize("inside", ["", "<file/>", "<file>abc</file>", "<file>%%%</file>"])
async def test_a_download_without_a_file(inside: str) -> None:
    """A success without a file, or with one that is no base64, is never taken for an empty file."""
    result = "<DownloadTransactionFileResult>0</DownloadTransactionFileResult>"
    body = envelope(
        f'<DownloadTransactionFileResponse xmlns="http://www.eClaimLink.ae/">{result}{inside}</DownloadTransactionFileResponse>'
    )
    async with asking(body) as (mailbox, asked):
        with pytest.raises(Transient):
            await mailbox.download("F1")
    assert len(asked.bodies) == 3


@pytest.mark.parametrize("code", [-2, -3, -5, -6, -7, -8, -10, -99])
async def test_what_is_refused_is_asked_once(code: int) -> None:
    """A code that would come again is not asked for again, and the error names it."""
    async with asking(listing(None, code)) as (mailbox, asked):
        error = await failure(mailbox)
    assert isinstance(error, Refused)
    assert (error.code, error.operation, len(asked.bodies)) == (code, "GetNewTransactions", 1)


@pytest.mark.parametrize("soap", ["1.1", "1.2"])
async def test_faults_say_whose_they_are(soap: Literal["1.1", "1.2"]) -> None:
    """A fault of the caller is asked for once, with whatever HTTP status; one of the server three times."""
    ours, theirs = ("Client", "Server") if soap == "1.1" else ("Sender", "Receiver")
    for given, kind, times in (
        (fault(ours, soap), Refused, 1),
        (status(500, fault(ours, soap)), Refused, 1),
        (status(400, fault(ours, soap)), Refused, 1),
        (fault(theirs, soap), Transient, 3),
        (status(500, fault(theirs, soap)), Transient, 3),
    ):
        async with asking(given, soap=soap) as (mailbox, asked):
            assert type(await failure(mailbox)) is kind
            assert len(asked.bodies) == times


async def test_a_refused_login_is_never_hammered() -> None:
    """After one refused login the mailbox asks nothing any more, also not for those that were already waiting."""
    async with asking(listing(None, -4), listing(None, -1), limits=replace(LIMITS, backoff_s=0.02)) as (mailbox, asked):
        assert isinstance(await failure(mailbox), LoginRefused)
        for operation in (mailbox.download("F1"), mailbox.acknowledge("F1"), mailbox.new()):
            with pytest.raises(LoginRefused):
                await operation
    assert len(asked.bodies) == 2


async def test_nobody_is_there() -> None:
    """A post office that is down is transient."""
    async with answering(b"") as gone:
        pass
    async with open_post_office(LIMITS) as office:
        assert isinstance(await failure(office.mailbox(gone.url, LOGIN, PASSWORD)), Transient)


@pytest.mark.parametrize("answers", [odd.say_nothing, odd.endless(pause_s=0.01)])
async def test_the_slow_are_left(answers: Handler) -> None:
    """One that says nothing is left after read_s, and one that goes on and on after call_s: within the call's time in all."""
    clock = asyncio.get_running_loop().time
    async with asking(answers, limits=replace(LIMITS, read_s=0.1, call_s=0.5)) as (mailbox, asked):
        start = clock()
        assert isinstance(await failure(mailbox), Transient)
        assert clock() - start < 1.5
    assert len(asked.bodies) == (3 if answers is odd.say_nothing else 1)


async def test_a_long_wait_is_handed_on() -> None:
    """A Retry-After that the call has no time for is not waited for: it is in the error, for whoever polls."""
    async with asking(status(503, Retry_After="1000")) as (mailbox, asked):
        error = await failure(mailbox)
    assert isinstance(error, Transient)
    assert (error.retry_after_s, len(asked.bodies)) == (1000.0, 1)


async def test_large_answers_are_refused() -> None:
    """An answer over the limit is refused: by its length, while it comes, and when it grows in unpacking, asked for once."""
    large = b" " * 1_000_001
    for given in (large, odd.endless(), odd.gzipped(large)):
        async with asking(given) as (mailbox, asked):
            assert isinstance(await failure(mailbox), TooLarge)
        assert len(asked.bodies) == 1


async def test_a_bomb_is_not_unpacked() -> None:
    """200 MB in 200 KB of gzip take no more memory than the limit, some times over."""
    bomb = gzip.compress(bytes(200_000_000), 1)
    async with asking(status(200, bomb, Content_Encoding="gzip")) as (mailbox, _):
        tracemalloc.start()
        assert isinstance(await failure(mailbox), TooLarge)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 12_000_000


async def test_packed_and_large_answers_are_read() -> None:
    """A gzip answer is read; so is a file of 12 MB, longer than what the parser takes by default, and one of half a listing."""
    content = bytes(range(256)) * 48_000
    body = answer("DownloadTransactionFile", 0, fileName="a\nb", file=base64.b64encode(content).decode())
    async with asking(odd.gzipped(listing(FILES)), body, limits=replace(LIMITS, answer_bytes=20_000_000)) as (mailbox, asked):
        assert len(await mailbox.new()) == 2
        assert await mailbox.download("F1") == Payload("ab", content)
    assert asked.headers[0]["Accept-Encoding"] == "gzip"


async def test_a_search_with_too_much_says_so() -> None:
    """What a listing has over the limit is left for the next time; a search, which would say the same again, is refused."""
    many = "<Files>" + "".join(f'<File FileID="{n}"/>' for n in range(4)) + "</Files>"
    async with asking(listing(many), answer("SearchTransactions", 0, foundTransactions=many)) as (mailbox, _):
        assert len(await mailbox.new()) == 3
        with pytest.raises(TooLarge, match="SearchTransactions"):
            await mailbox.search(direction=1, kind=2, start=NOW, end=NOW, status=1)


async def test_mailboxes_do_not_mix() -> None:
    """Mailboxes of two servers that are asked at once get each their own files, with their own credentials."""
    other = listing('<Files><File FileID="one"/></Files>')
    async with answering(other) as one, answering(listing(FILES)) as two, open_post_office(LIMITS) as office:
        boxes = [office.mailbox(asked.url, f"login-{asked.url}", "") for asked in (one, two)] * 10
        found = await asyncio.gather(*(box.new() for box in boxes))
    assert [entry.file_id for entries in found for entry in entries] == ["one", "F1", "F2"] * 10
    for asked in (one, two):
        assert len(asked.bodies) == 10
        assert all(f"login-{asked.url}".encode() in body for body in asked.bodies)
