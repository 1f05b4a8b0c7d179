"""The simulated post office: faithful to its WSDL, and misbehaving as told."""

import asyncio
import base64
import gzip
import io
import re
import shlex
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import zeep
from lxml import etree
from zeep.transports import AsyncTransport

from ingestion.post_office.client import Limits, open_post_office
from simulator.claims import END, PLAIN, FacilityProfile, GeneratedFile, facilities, generate
from simulator.post_office import Behaviour, Box
from simulator.post_office_behaviour import misbehaving
from simulator.post_office_soap import WSDL
from tests.processes import running, sluice
from tests.simulated import ENVELOPE, ENVELOPE_12, SEARCH, Simulated, simulated

BINDING = "{http://www.eClaimLink.ae/}ValidateTransactionsSoap"


@pytest.fixture(params=["ours", "real"])
def wsdl(request: pytest.FixtureRequest) -> Path:
    """Ours, and the one that the service publishes."""
    if request.param == "ours":
        return WSDL
    folder: Path = request.getfixturevalue("shared_data")
    return folder / "post-office" / "wsdl" / "instahms_dhaEClaimWebServices.wsdl"


@pytest.mark.parametrize("binding", ["", "12"])
async def test_a_client_of_the_wsdl_does_all_it_can(wsdl: Path, binding: str) -> None:
    """A zeep client of our WSDL and of the real one calls all seven operations by SOAP 1.1 and 1.2, and parses every answer."""
    async with simulated() as post, httpx.AsyncClient() as http:
        client = await asyncio.to_thread(
            zeep.AsyncClient, str(wsdl), transport=AsyncTransport(client=http, wsdl_client=httpx.Client())
        )
        service = zeep.proxy.AsyncServiceProxy(client, client.wsdl.bindings[BINDING + binding], address=post.office.url)
        who = {"login": post.box.profile.login, "pwd": post.box.profile.password}
        news = await service.GetNewTransactions(**who)
        assert news.GetNewTransactionsResult == 0
        ids = [file.attrib["FileID"] for file in etree.fromstring(news.xmlTransaction)]
        assert ids == post.received != []
        file = await service.DownloadTransactionFile(**who, fileId=ids[0])
        assert etree.fromstring(file.file).tag == "Remittance.Advice"
        assert file.fileName == post.box.received[ids[0]].name
        assert (await service.SetTransactionDownloaded(**who, fieldId=ids[0])).SetTransactionDownloadedResult == 0
        found = await service.SearchTransactions(**who, **SEARCH)
        assert [one.get("FileID") for one in etree.fromstring(found.foundTransactions)] == list(post.box.sent)
        sent = await service.UploadTransaction(**who, fileContent=b"<Claim.Submission/>", fileName="a.xml")
        assert sent.UploadTransactionResult == -2
        assert zipfile.is_zipfile(io.BytesIO(sent.errorReport))
        assert (await service.GetNewPriorAuthorizationTransactions(**who)).GetNewPriorAuthorizationTransactionsResult == 2
        assert (
            await service.CheckForNewPriorAuthorizationTransactions(**who)
        ).CheckForNewPriorAuthorizationTransactionsResult == 2


@pytest.mark.parametrize("soap", ["1.1", "1.2"])
async def test_our_client_takes_everything(soap: Any) -> None:
    """The client of ingestion lists, finds, downloads and acknowledges all files of a box that fails now and then."""
    behaviour = Behaviour(transient_next=1, error_next=1, cut_next=1, truncated_next=1, ack_fail_next=1)
    limits = Limits(backoff_s=0.001, backoff_max_s=0.002, attempts=8)
    async with simulated(behaviour) as post, open_post_office(limits, soap=soap) as client:
        profile = post.box.profile
        mailbox = client.mailbox(post.office.url, profile.login, profile.password, profile.licence)
        period = {"start": END - timedelta(days=95), "end": END}
        sent = [one for status in (1, 2) for one in await mailbox.search(direction=1, kind=2, status=status, **period)]
        assert {one.file_id for one in sent} == set(post.box.sent)
        new = await mailbox.new()
        made = {file.file_id: file.document for file in generate_again(post.box)}
        for one in [*sent, *new]:
            assert (await mailbox.download(one.file_id)).content == made[one.file_id]
        for one in new:
            await mailbox.acknowledge(one.file_id)
        assert await mailbox.new() == []
        assert {entry.outcome for entry in post.office.log} == {"0", "-4", "error", "cut", "truncated"}


async def test_the_wsdl_is_served_with_the_address() -> None:
    """`?WSDL` is our WSDL, and both ports lead to this server."""
    async with simulated() as post, post.session.get(post.office.url + "?WSDL") as response:
        root = etree.fromstring(await response.read())
        assert root.xpath("//*[local-name()='address']/@location") == [post.office.url] * 2
        assert len(root.xpath("//*[local-name()='portType']/*[local-name()='operation']")) == 7


async def test_a_file_is_listed_until_it_is_acknowledged() -> None:
    """GetNewTransactions lists what was received and not acknowledged; acknowledging concerns one facility only."""
    async with simulated() as post:
        first, *rest = post.received
        listed = (await post.news()).files[0]
        file = post.box.received[first]
        assert listed == {
            "FileID": first,
            "FileName": file.name,
            "SenderID": file.sender_id,
            "ReceiverID": post.box.profile.licence,
            "TransactionDate": f"{file.at:%d/%m/%Y %H:%M}:00",
            "RecordCount": str(file.records),
            "IsDownloaded": "False",
        }
        await post.download(first)
        assert (await post.news()).ids == post.received
        assert (await post.acknowledge(first)).code == 0
        assert (await post.news()).ids == rest
        assert (await post.search(direction=2, transactionID=8, TransactionStatus=2)).ids == [first]
        assert (await post.search(direction=2, transactionID=8, TransactionStatus=1)).ids == rest
        other = post.office.boxes["facility-002"]
        assert not any(file.acknowledged for file in other.received.values())


async def test_every_file_can_be_downloaded_as_it_was_made() -> None:
    """What is downloaded is byte for byte what was generated, sent or received; nobody gets another's."""
    async with simulated() as post:
        made = {file.file_id: file.document for file in generate_again(post.box)}
        for file_id in [*post.box.sent, *post.box.received]:
            assert (await post.download(file_id)).content == made[file_id]
        other = post.office.boxes["facility-002"]
        only_theirs = other.sent.keys() - post.box.sent.keys()
        assert [(await post.download(file_id)).code for file_id in only_theirs] == [-6] * len(only_theirs)


def generate_again(box: Box) -> Iterator[GeneratedFile]:
    return generate(1, box.profile, claims=60, claims_per_file=10, mix=PLAIN)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"direction": 3}, -3),
        ({"transactionID": 1}, -3),
        ({"transactionID": 0}, -3),
        ({"TransactionStatus": 7}, -3),
        ({"transactionFromDate": "yesterday"}, -3),
        ({"transactionFromDate": "02/06/2026 00:00", "transactionToDate": "01/06/2026 00:00"}, -3),
        ({"transactionFromDate": "01/01/2026 00:00:00"}, -5),
        ({"transactionID": -1, "transactionFromDate": "", "transactionToDate": ""}, -10),
        ({"transactionID": -1}, 0),
        ({"transactionFromDate": "2026-04-01 00:00", "transactionToDate": "2026-06-30 23:59"}, 0),
        ({"transactionFromDate": "", "transactionToDate": ""}, 0),
    ],
)
async def test_search_arguments_are_looked_at(arguments: dict[str, Any], code: int) -> None:
    """Bad values are -3, more than 100 days -5, no criteria -10; both ways to write a date are taken."""
    async with simulated() as post:
        assert (await post.search(**arguments)).code == code


async def test_search_keeps_to_its_arguments() -> None:
    """Direction, kind, period, partner, licence, file name and counts each narrow what is found."""
    async with simulated() as post:
        sent, received = list(post.box.sent.values()), list(post.box.received.values())
        assert (await post.search()).ids == [file.file_id for file in sent]
        assert (await post.search(transactionID=8)).ids == []
        assert (await post.search(direction=2, transactionID=2 | 8)).ids == [file.file_id for file in received]
        assert (await post.search(direction=2, transactionID=-1)).ids == [file.file_id for file in received]
        day = sent[2].at
        period = {"transactionFromDate": f"{day:%d/%m/%Y %H:%M}", "transactionToDate": f"{day:%d/%m/%Y %H:%M:%S}"}
        assert (await post.search(**period)).ids == [sent[2].file_id]
        partner = sent[0].receiver_id
        assert (await post.search(ePartner=partner)).ids == [file.file_id for file in sent if file.receiver_id == partner]
        assert (await post.search(callerLicense=post.box.profile.licence)).ids == [file.file_id for file in sent]
        assert (await post.search(callerLicense="DHA-F-9999999")).ids == []
        assert (await post.search(transactionFileName=sent[1].name[:-4].lower())).ids == [sent[1].file_id]
        few = min(file.records for file in received)
        wanted = [file.file_id for file in received if file.records <= few]
        assert (await post.search(direction=2, transactionID=8, maxRecordCount=few)).ids == wanted
        assert (await post.search(minRecordCount=11)).ids == []
        both = [set((await post.search(TransactionStatus=status)).ids) for status in (1, 2)]
        assert both[0] | both[1] == set(post.box.sent)
        assert not both[0] & both[1]


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("GetNewTransactions", {"pwd": "wrong"}, -1),
        ("GetNewTransactions", {"login": "nobody"}, -1),
        ("DownloadTransactionFile", {"fileId": "unknown"}, -6),
        ("DownloadTransactionFile", {"fileId": " "}, -3),
        ("SetTransactionDownloaded", {"fieldId": "unknown"}, -6),
        ("SetTransactionDownloaded", {"fileId": "misnamed"}, -3),
        ("UploadTransaction", {"fileName": "a.xml"}, -3),
        ("UploadTransaction", {"fileContent": base64.b64encode(b"<Person.Register/>").decode(), "fileName": "a.xml"}, -7),
        ("UploadTransaction", {"fileContent": "!", "fileName": "a.xml"}, -2),
    ],
)
async def test_result_codes(operation: str, arguments: dict[str, Any], code: int) -> None:
    """What is asked wrongly is answered by the code of the real service."""
    async with simulated() as post:
        assert (await post.ask(operation, **arguments)).code == code


async def test_what_is_uploaded_arrives() -> None:
    """A remittance that a payer uploads is listed to the facility, and TEST files to nobody."""
    async with simulated() as post:
        original = next(iter(post.box.received.values()))
        document = base64.b64decode(original.base64)
        payer = Box(FacilityProfile(original.sender_id, "payer", "secret"))
        post.office.boxes["payer"] = payer
        before = post.received
        for content in (document, document.replace(b"PRODUCTION", b"TEST")):
            given: dict[str, Any] = {"fileContent": base64.b64encode(content).decode(), "fileName": "ra.xml"}
            assert (await post.ask("UploadTransaction", payer, **given)).code == 0
        (new,) = [file_id for file_id in (await post.news()).ids if file_id not in before]
        assert (await post.download(new)).content == document
        assert list(payer.sent) == [new]
        assert (await post.search(direction=1, transactionID=8, TransactionStatus=1)).ids == []
        assert (await post.acknowledge(new)).code == 0
        assert payer.sent[new].is_taken


ASK = "<{0} xmlns='http://www.eClaimLink.ae/'><login>x</login></{0}>"
PROPER = f"<e:Envelope xmlns:e='{ENVELOPE}'><e:Body>{ASK}</e:Body></e:Envelope>"


@pytest.mark.parametrize(
    ("body", "content_type", "action", "status"),
    [
        ("<", "text/xml", "GetNewTransactions", 500),
        (f"<!DOCTYPE a>{PROPER}", "text/xml", "GetNewTransactions", 500),
        (PROPER, "text/xml", "SearchTransactions", 500),
        (PROPER, "application/json", "GetNewTransactions", 415),
        (f"<e:Envelope xmlns:e='{ENVELOPE_12}'><e:Body>{ASK}</e:Body></e:Envelope>", "text/xml", "GetNewTransactions", 500),
        (f"<e:Envelope xmlns:e='{ENVELOPE}'><e:Body/></e:Envelope>", "text/xml", "GetNewTransactions", 500),
        (f"<e:Envelope xmlns:e='{ENVELOPE_12}'><e:Body/></e:Envelope>", "application/soap+xml", "", 400),
        (
            f"<e:Envelope xmlns:e='{ENVELOPE}'><e:Body>{ASK}</e:Body></e:Envelope>",
            "application/json",
            "GetNewTransactions",
            415,
        ),
    ],
)
async def test_what_is_no_request_is_a_fault(body: str, content_type: str, action: str, status: int) -> None:
    """Broken XML, a document type, a wrong version, action or content type are answered by a soap:Fault."""
    async with simulated() as post:
        text = body.replace("{0}", "GetNewTransactions")
        headers = {"SOAPAction": f'"http://www.eClaimLink.ae/{action}"'} if action else {}
        reply = await post.post(text, Content_Type=content_type, **headers)
        assert reply.status == status
        envelope = ENVELOPE_12 if content_type == "application/soap+xml" else ENVELOPE
        assert etree.fromstring(reply.body).find(f"{{{envelope}}}Body/{{{envelope}}}Fault") is not None


async def test_what_is_a_request_is_answered() -> None:
    """The request that those faults were made of is answered."""
    async with simulated() as post:
        text = PROPER.replace("{0}", "GetNewTransactions")
        action = '"http://www.eClaimLink.ae/GetNewTransactions"'
        assert (await post.post(text, Content_Type="text/xml", SOAPAction=action)).status == 200


async def test_a_number_that_is_none_is_a_fault() -> None:
    """The schema's ints are ints."""
    async with simulated() as post:
        assert (await post.search(direction="one")).status == 500


async def outcome(post: Simulated, file_id: str) -> str:
    """How a download ends: ok, its code, its HTTP status, cut, truncated."""
    try:
        reply = await post.download(file_id)
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
        return "cut"
    except etree.XMLSyntaxError:
        return "truncated"
    return str(reply.status) if reply.code is None else "ok" if reply.code == 0 else str(reply.code)


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (Behaviour(error_next=2), ["503", "503", "ok"]),
        (Behaviour(error_next=1, error_status=502), ["502", "ok", "ok"]),
        (Behaviour(transient_next=1), ["-4", "ok", "ok"]),
        (Behaviour(truncated_next=1), ["truncated", "ok", "ok"]),
        (Behaviour(cut_next=2), ["cut", "cut", "ok"]),
        (Behaviour(login_failed=True), ["-1", "-1", "-1"]),
        (Behaviour(error_next=1, only=("GetNewTransactions",)), ["ok", "ok", "ok"]),
        (Behaviour(error_share=1, only=("DownloadTransactionFile",)), ["503", "503", "503"]),
    ],
)
async def test_the_next_requests_are_hit(behaviour: Behaviour, expected: list[str]) -> None:
    """So many requests of the operations that were named fail in the way that was told, and then no more."""
    async with simulated(behaviour) as post:
        file_id = post.received[0]
        assert [await outcome(post, file_id) for _ in range(3)] == expected
        logged = [entry.outcome for entry in post.office.log]
        names = {"ok": "0", "503": "error", "502": "error"}
        assert logged == [names.get(one, one) for one in expected]


async def test_shares_are_drawn_by_the_seed() -> None:
    """A share of requests is hit, the same ones for the same seed."""

    async def run(seed: int) -> list[str]:
        async with simulated(Behaviour(transient_share=0.5, seed=seed)) as post:
            return [await outcome(post, post.received[0]) for _ in range(24)]

    first = await run(1)
    assert 4 < first.count("-4") < 20
    assert await run(1) == first
    assert await run(2) != first


async def test_one_who_hangs_is_let_go() -> None:
    """A hanging facility answers when its behaviour changes; the others answer meanwhile."""
    async with simulated(Behaviour(hang=True)) as post:
        waiting = asyncio.create_task(post.news())
        other = post.office.boxes["facility-002"]
        while not any(entry.outcome == "hang" for entry in post.office.log):
            assert (await post.ask("CheckForNewPriorAuthorizationTransactions", other)).code == 2
        assert not waiting.done()
        post.box.behave(Behaviour())
        assert (await waiting).ids == post.received


async def test_slow_is_slow() -> None:
    """An answer comes no earlier than it was told to."""
    async with simulated(Behaviour(slow_s=0.1, only=("GetNewTransactions",))) as post:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await post.news()
        assert 0.1 <= loop.time() - began < 5


@pytest.mark.parametrize(("empty", "code", "said"), [("files", 0, "<Files></Files>"), ("code_2", 2, None), ("null", 0, None)])
async def test_nothing_new_is_said_in_three_ways(empty: Any, code: int, said: str | None) -> None:
    """An empty list, code 2, or code 0 without a list."""
    async with simulated(Behaviour(empty=empty)) as post:
        for file_id in post.received:
            await post.acknowledge(file_id)
        reply = await post.news()
        assert (reply.code, (reply.parts or {}).get("xmlTransaction")) == (code, said)


async def test_garbage_remains_garbage() -> None:
    """The next files have content that is no document, each the same at every download; the others are whole."""
    async with simulated(Behaviour(garbage_next=3)) as post:
        first = [(await post.download(file_id)).content for file_id in post.received]
        again = [(await post.download(file_id)).content for file_id in post.received]
        assert first == again
        broken = 0
        for content in first:
            try:
                broken += etree.fromstring(content).tag != "Remittance.Advice"
            except etree.XMLSyntaxError:
                broken += 1
        assert broken == 3
        assert sum(file.is_garbage for file in post.box.received.values()) == 3


async def test_duplicates_are_listed_twice() -> None:
    """Under the same id, or under two that both can be downloaded and acknowledged, each for itself."""
    async with simulated(Behaviour(duplicates="same_id")) as post:
        assert sorted((await post.news()).ids) == sorted(post.received * 2)
        post.box.behave(Behaviour(duplicates="two_ids"))
        first = post.received[0]
        assert {first, f"{first}-copy"} <= set((await post.news()).ids)
        assert (await post.download(f"{first}-copy")).content == (await post.download(first)).content
        await post.acknowledge(f"{first}-copy")
        assert first in (await post.news()).ids
        assert f"{first}-copy" not in (await post.news()).ids
        assert len((await post.search()).ids) == 2 * len(post.box.sent)


async def test_lists_may_repeat_and_stop_short() -> None:
    """Acknowledged files are listed again where that was told, and a search may find less than there is."""
    async with simulated(Behaviour(relist=True, search_limit=2)) as post:
        await post.acknowledge(post.received[0])
        assert (await post.news()).ids == post.received
        assert (await post.search()).ids == list(post.box.sent)[:2]


async def test_acknowledgements_fail_or_are_lost() -> None:
    """One that fails is not done; one that is lost is done, and its answer never comes."""
    async with simulated(Behaviour(ack_fail_next=1, ack_lost_next=1)) as post:
        first = post.received[0]
        with pytest.raises(aiohttp.ClientConnectionError):
            await post.acknowledge(first)
        assert first in (await post.news()).ids
        assert (await post.acknowledge(first)).code == 0
        post.box.behave(Behaviour(ack_lost_next=1))
        second = post.received[1]
        with pytest.raises(aiohttp.ClientConnectionError):
            await post.acknowledge(second)
        assert second not in (await post.news()).ids
        assert len(post.box.received[second].acknowledged[second]) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packing", ["raw", "zip", "gzip"])
async def test_packings(packing: Any, encoding: Any) -> None:
    """A document comes raw, in a zip or a gzip, in three encodings, and says the same."""
    async with simulated(Behaviour(packing=packing, encoding=encoding), claims=20) as post:
        file_id = next(iter(post.box.sent))
        reply = await post.download(file_id)
        content = reply.content
        if packing == "zip":
            assert (reply.parts or {})["fileName"].endswith(".zip")
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(archive.namelist()[0])
        elif packing == "gzip":
            content = gzip.decompress(content)
        assert content.startswith({"utf-8": b"<?", "utf-8-sig": b"\xef\xbb\xbf<?", "utf-16": b"\xff\xfe<\0?\0"}[encoding])
        assert f'encoding="{encoding.removesuffix("-sig")}"' in content.decode(encoding)[:60]
        plain = etree.fromstring(base64.b64decode(post.box.sent[file_id].base64))
        assert etree.tostring(etree.fromstring(content), encoding="unicode") == etree.tostring(plain, encoding="unicode")


async def test_mixed_packings_and_huge_files() -> None:
    """Mixed: files of every packing; huge: the document is as long as told, and says the same."""
    async with simulated(Behaviour(packing="mixed", encoding="mixed"), claims=300) as post:
        starts = {(await post.download(file_id)).content[:2] for file_id in post.received}
        assert {b"PK", b"\x1f\x8b"} < starts
        post.box.behave(Behaviour(huge_bytes=3_000_000))
        content = (await post.download(post.received[0])).content
        assert len(content) > 3_000_000
        assert etree.fromstring(content).tag == "Remittance.Advice"


async def test_files_come_when_they_are_due() -> None:
    """A file with a time is neither listed nor found before it, and then both."""
    async with simulated() as post:
        box = Box(post.box.profile)
        post.office.boxes[box.profile.login] = post.box = box
        files = list(generate(9, box.profile, claims=20))
        for file in files:
            box.add(file, after_s=3600)
        late = next(file for file in files if file.kind == "remittance").file_id
        assert (await post.news()).ids == (await post.search()).ids == []
        assert (await post.download(late)).code == -6
        for stored in (*box.sent.values(), *box.received.values()):
            stored.available_at -= 3600
        assert late in (await post.news()).ids
        assert (await post.download(late)).code == 0


async def test_a_test_can_tell_and_ask_it_by_http() -> None:
    """The admin routes change a behaviour and tell what was downloaded, acknowledged and in which order."""
    async with simulated() as post:
        base = post.office.url.rpartition("/")[0]
        url = f"{base}/_admin/facilities/{post.box.profile.login}/behaviour"
        async with post.session.put(url, json={"transient_next": 1}) as response:
            assert response.status == 204
        first = post.received[0]
        assert [(await post.download(first)).code for _ in range(3)] == [-4, 0, 0]
        await post.acknowledge(first)
        async with post.session.get(f"{base}/_admin/state?log") as response:
            state = await response.json()
        file = state["facilities"][post.box.profile.login]["received"][first]
        assert file["downloads"] == {first: 2}
        assert len(file["acknowledged"][first]) == 1
        assert [(entry["operation"], entry["file_id"], entry["outcome"]) for entry in state["log"]] == [
            ("DownloadTransactionFile", first, "-4"),
            ("DownloadTransactionFile", first, "0"),
            ("DownloadTransactionFile", first, "0"),
            ("SetTransactionDownloaded", first, "0"),
        ]
        for body, where, status in (({"unknown": 1}, url, 400), ({}, url.replace("facility", "nobody"), 404)):
            async with post.session.put(where, json=body) as response:
                assert response.status == status


def test_some_misbehave_and_some_do_not() -> None:
    """Among ten facilities all kinds of trouble come, and some give none; what they do is a Behaviour that can be told."""
    behaviours = [misbehaving(number) for number in range(10)]
    assert behaviours.count(Behaviour()) == 2
    assert len(set(map(repr, behaviours))) == 9


# The command


async def test_the_command_serves_facilities(tmp_path: Path) -> None:
    """`sluice post-office` serves what it generated, writes a script that registers all facilities, and ends at Ctrl-C."""
    script = tmp_path / "register the facilities.sh"
    words = ("post-office", "--facilities", 2, "--claims", 150, "--port", 0, "--write-commands", script)
    async with running(*words) as command:
        url = await command.seen(lambda: next((line.split()[6][:-1] for line in command.out if "is up at" in line), None))
        async with aiohttp.ClientSession() as session:
            async with session.get(url.rpartition("/")[0] + "/_admin/state") as response:
                state = (await response.json())["facilities"]
            assert [box["licence"] for box in state.values()] == ["DHA-F-0000001", "DHA-F-0000002"]
            assert all(box["sent"] and box["received"] for box in state.values())
        assert command.process.returncode is None
        told = tmp_path / "sluice"
        told.write_text('#!/bin/sh\necho "$* $(cat "${10}")"\n')
        told.chmod(0o700)
        assert script.stat().st_mode & 0o777 == 0o700
        script.write_text(re.sub("(?m)^sluice=.*$", f"sluice={shlex.quote(str(told))}", script.read_text()))
        run = [str(script), "a tenant"]
        done = await asyncio.to_thread(lambda: subprocess.run(run, capture_output=True, check=True, text=True))
        lines = [re.sub(r"--password-file \S+ ", "", line) for line in done.stdout.splitlines()]
        assert lines == [
            f"facility add a tenant {one.licence} --url {url} --login {one.login} {one.password}" for one in facilities(2)
        ]
        assert await command.end(signal.SIGINT) == 0
        assert "Traceback" not in "\n".join(command.err)


async def test_the_command_goes_on_making_files() -> None:
    """With `--every`, each facility gets new files, dated now, while it runs."""
    async with running("post-office", "--facilities", 2, "--claims", 10, "--port", 0, "--every", 0.05) as command:
        url = await command.seen(lambda: next((line.split()[6][:-1] for line in command.out if "is up at" in line), None))
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            counts: list[int] = []
            while len(counts) < 2 or max(counts) < counts[0] + 4:
                async with session.get(url.rpartition("/")[0] + "/_admin/state") as response:
                    state = (await response.json())["facilities"]
                counts.append(min(len(box["sent"]) for box in state.values()))


async def test_the_command_tells_of_a_taken_port() -> None:
    """A port that is in use is one line on standard error, before anything is generated."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = await sluice("post-office", "--facilities", 1000, "--claims", 100000, "--port", port)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"sluice: cannot listen on 127.0.0.1:{port}: Address already in use; see --host and --port\n"
