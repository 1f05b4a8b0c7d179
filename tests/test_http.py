"""HTTP beneath FHIR: compression, indentation, what may be asked for, and what aiohttp refuses before we see it."""

import gzip
import threading
import zlib
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web

from handlers import encoding
from handlers.encoding import takes_gzip
from storage.embedded import Cluster
from tests.support import JSON, PATHS, Asker, Home, add_tenant, asking, build_home, diagnosed, encounter, patient, shown
from tests.test_bad_input import BROKEN_HTTP, Wire

DIGITS = rb'{"id":"o","valueQuantity":{"value":5.60},"x":[1e5,-0.0,12345678901234567890.10,"\u00e9\/",{},[]]}'
LONG = "Zürich \u00df " * 400


async def _fill(home: Home) -> None:
    number = {"url": "x:y", "valueDecimal": 5.25}
    home.keys["one"] = await add_tenant(
        home.database,
        "one",
        [
            patient("a", name=[{"family": "Ng"}], extension=[number]),
            patient("long", name=[{"family": LONG}]),
            *(patient(f"many-{count}", active=False, name=[{"family": f"{LONG}{count}"}]) for count in range(90)),
            encounter("e", "2024", subject={"reference": "Patient/long"}),
        ],
    )


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "http", _fill)


# Compression

LARGE = ("/patients/long", "/fhir/Patient?_count=3&active=false", "/reviews/e", "/fhir/Patient?active=false&_count=90")


@pytest.mark.parametrize("path", PATHS)
async def test_compressed(home: Home, path: str) -> None:
    """A client that takes gzip gets the same bytes in less of them, with headers that say so; another gets them as they are."""
    async with asking(home, path) as ask:
        for url in LARGE:
            plain, packed = await ask(url), await ask(url, Accept_Encoding="br, gzip")
            assert "Content-Encoding" not in plain.headers
            assert (packed.headers["Content-Encoding"], packed.headers["Content-Length"]) == ("gzip", str(len(packed.body)))
            assert gzip.decompress(packed.body) == plain.body
            assert len(packed.body) < len(plain.body) / 2
            assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
            own = {"Content-Length", "Content-Encoding"}
            rest = [{name: value for name, value in shown(reply)[1].items() if name not in own} for reply in (plain, packed)]
            assert rest[0] == rest[1]


@pytest.mark.parametrize("path", PATHS)
async def test_small_bodies_are_left(home: Home, path: str) -> None:
    """What is smaller than 1 KB is sent as it is, whoever asks, refusals too."""
    async with asking(home, path) as ask:
        for url in ("/patients/a", "/patients/zz", "/fhir/Patient?family=x"):
            plain, asked = await ask(url), await ask(url, Accept_Encoding="gzip")
            assert shown(plain) == shown(asked)
            assert {"Content-Encoding", "Vary"}.isdisjoint(asked.headers)


@pytest.mark.parametrize("path", PATHS)
async def test_compressed_head(home: Home, path: str) -> None:
    """HEAD has the headers of the compressed GET, length included, and no body."""
    async with asking(home, path) as ask:
        for url in LARGE:
            whole, head = [await ask(url, method=method, Accept_Encoding="gzip") for method in ("GET", "HEAD")]
            assert shown(head) == (*shown(whole)[:2], b"")


@pytest.mark.parametrize("path", PATHS)
async def test_compressed_validators(home: Home, path: str) -> None:
    """The ETag is the same and weak however the body travels, and a 304 has it, no body, and the same Vary."""
    async with asking(home, path) as ask:
        for url in LARGE[:3]:
            tag = (await ask(url, Accept_Encoding="gzip")).headers["ETag"]
            assert tag == (await ask(url)).headers["ETag"]
            assert tag.startswith('W/"')
            for accepted in ("gzip", "identity"):
                same = await ask(url, Accept_Encoding=accepted, If_None_Match=tag)
                assert (same.status, same.body, same.headers["ETag"]) == (304, b"", tag)
                assert (same.headers["Vary"], "Content-Encoding" in same.headers) == ("Accept-Encoding", False)


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("gzip", True), ("GZIP", True), ("x-gzip", True), ("*", True), ("gzip, deflate, br", True),
        ("br;q=1, gzip;q=0.8", True), ("gzip;q=0.001", True), ("gzip ; q=1", True),
        ("identity;q=0, gzip", True), ("identity;q=0.5, *;q=0.5", True),
        ("*;q=0, gzip", True), ("deflate, gzip;q=1.0, *;q=0.5", True), ("gzip;q=1;x=y", True),
        ("", False), ("identity", False), ("br", False), ("gzip;q=0", False), ("gzip;q=0.0", False), ("gzip;q=0.000", False),
        ("*;q=0", False), ("gzip;q=0, *", False), ("identity, gzip;q=0.5", False), ("identity;q=0", False), ("notgzip", False),
        ("gzip;q=x", False), ("gzip;q=nan", False), ("gzip;q=-1", False), ("gzip;q=7", False), (";;,,;q", False),
    ],
)  # fmt: skip
def test_who_takes_gzip(accepted: str, taken: bool) -> None:
    """Weights count: gzip is sent when it is taken at all, and no less gladly than the plain bytes."""
    assert takes_gzip(accepted) is taken


async def test_no_request_waits_for_compression(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of more than a quarter of a megabyte is compressed beside the event loop, a smaller one in it."""
    seen: dict[bool, set[bool]] = {True: set(), False: set()}
    real = zlib.compress

    def compress(body: bytes, *more: Any) -> bytes:
        seen[len(body) >= 262_144].add(threading.current_thread() is threading.main_thread())
        return real(body, *more)

    monkeypatch.setattr("handlers.encoding.zlib.compress", compress)
    async with asking(home, "direct") as ask:
        for url in LARGE:
            assert (await ask(url, Accept_Encoding="gzip")).status == 200
    assert seen == {True: {False}, False: {True}}


async def test_other_answers_are_compressed(home: Home) -> None:
    """Not entities alone: a scrape of the metrics is compressed, too."""
    async with asking(home, "direct") as ask:
        reply = await ask.once("/metrics", Accept_Encoding="gzip")
        assert (reply.status, reply.headers["Content-Encoding"]) == (200, "gzip")
        assert reply.headers["Vary"] == (await ask.once("/metrics")).headers["Vary"] == "Accept-Encoding"
        assert b"sluice_requests_total" in gzip.decompress(reply.body)


# Indentation


@pytest.mark.parametrize("path", PATHS)
async def test_pretty(home: Home, path: str) -> None:
    """`_pretty=true` indents a read, a search, a review and a refusal, and changes nothing else of them."""
    async with asking(home, path) as ask:
        for url in (
            "/patients/a",
            "/fhir/Patient/long",
            "/fhir/Patient?_id=a",
            "/reviews/e",
            "/patients/zz",
            "/fhir/Patient/a_b",
        ):
            mark = "&" if "?" in url else "?"
            plain, pretty = await ask(url), await ask(f"{url}{mark}_pretty=true")
            assert (pretty.status, pretty.headers["Content-Type"]) == (plain.status, JSON)
            assert b"\n  " in pretty.body
            assert b"\n" not in plain.body
            assert pretty.headers["Content-Length"] == str(len(pretty.body))
            # The links of a search keep it, so that the next page is indented, too.
            bare = msgspec.json.format(pretty.body, indent=-1).replace(b"&_pretty=true", b"").replace(b"_pretty=true&", b"")
            assert bare == plain.body
            head = await ask(f"{url}{mark}_pretty=true", method="HEAD")
            assert shown(head) == (*shown(pretty)[:2], b"")
            for other in ("false", "", "1", "TRUE"):
                assert b"\n" not in (await ask(f"{url}{mark}_pretty={other}")).body


@pytest.mark.parametrize("path", PATHS)
async def test_pretty_and_the_rest(home: Home, path: str) -> None:
    """An indented answer has the ETag of the plain one, is 304 by it, and is compressed like any other."""
    async with asking(home, path) as ask:
        plain, pretty = await ask("/patients/long"), await ask("/patients/long?_pretty=true")
        packed = await ask("/patients/long?_pretty=true", Accept_Encoding="gzip")
        assert pretty.headers["ETag"] == plain.headers["ETag"]
        assert gzip.decompress(packed.body) == pretty.body
        same = await ask("/patients/long?_pretty=true", If_None_Match=plain.headers["ETag"])
        assert (same.status, same.body) == (304, b"")


@pytest.mark.parametrize("path", PATHS)
async def test_pretty_form(home: Home, path: str) -> None:
    """In a posted search `_pretty` and `_format` count as they do in a URL."""
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    async with asking(home, path) as ask:
        pretty = await ask("/fhir/Patient/_search", method="POST", body=b"_id=a&_pretty=true", **form)
        assert (pretty.status, b"\n  " in pretty.body) == (200, True)
        refused = await ask("/fhir/Patient/_search", method="POST", body=b"_id=a&_format=xml", **form)
        assert diagnosed(refused, 406, "not-supported")


def test_digits_survive() -> None:
    """Indenting leaves every number and string as it was written."""
    response = web.Response(body=DIGITS, headers={"Content-Type": JSON})
    encoding.prettify(response)
    assert isinstance(response.body, bytes)
    assert response.body.count(b"\n") > 5
    assert msgspec.json.format(response.body, indent=-1) == DIGITS


async def test_pretty_refusals(home: Home) -> None:
    """What is refused before it is looked at is indented, too."""
    async with asking(home, "direct") as ask:
        for url, status in (("/patients/a", 401), ("/nowhere", 404)):
            reply = await ask.once(f"{url}?_pretty=true", None)
            assert (reply.status, b"\n  " in reply.body) == (status, True)


async def test_pretty_is_for_json(home: Home) -> None:
    """What is no JSON is left as it is."""
    async with asking(home, "direct") as ask:
        assert (await ask.once("/metrics?_pretty=true")).status == 200


# What may be asked for

FORMATS = {
    "json": 200, "application/json": 200, "application/fhir%2Bjson": 200, "application/fhir+json": 200, "text/json": 200,
    "application/fhir%20json": 200, "application/fhir+json;fhirVersion=4.0": 200,
    "application/fhir+json%3B+fhirVersion%3D4.0": 200,
    "application/json;fhirVersion=4.0.1": 200, "application/fhir+json;charset=utf-8": 200, "*/*": 200, "JSON": 200,
    "xml": 406, "application/fhir+xml": 406, "application/xml": 406, "text/xml": 406, "ttl": 406, "html": 406, "text/html": 406,
    "application/fhir+json;fhirVersion=3.0": 406, "application/json;fhirVersion=5.0": 406, "jsonx": 406, "x/json": 406,
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_format(home: Home, path: str) -> None:
    """`_format` goes before Accept, in every spelling of JSON; another format or version of FHIR is 406."""
    async with asking(home, path) as ask:
        for given, status in FORMATS.items():
            for accept in ("*/*", "text/html", "application/fhir+xml"):
                reply = await ask(f"/fhir/Patient/a?_format={given}", Accept=accept)
                assert reply.status == status, given
                assert reply.headers["Content-Type"] == JSON
                if status == 406:
                    assert diagnosed(reply, 406, "not-supported")
        for query in ("?_format=", "?family=_format", ""):
            assert (await ask(f"/fhir/Patient{query}", Accept="text/html")).status == 406
            assert (await ask(f"/fhir/Patient{query}", Accept="application/fhir+json")).status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_accepted_versions(home: Home, path: str) -> None:
    """Of JSON that is asked for with a version or a weight, those of R4 that are wanted at all are served."""
    served = (
        'application/fhir+json; fhirVersion="4.0"', "application/fhir+json;fhirversion=4.0.1;q=0.2", "application/json;q=0.001",
        "application/fhir+json;fhirVersion=3.0, application/fhir+json;fhirVersion=4.0", "application/fhir+xml;q=1, */*;q=0.1",
    )  # fmt: skip
    refused = (
        'application/fhir+json; fhirVersion="3.0"', "application/fhir+json;q=0.0", "application/json;q=0.00", "application/xml",
        "application/fhir+json;fhirVersion=4.0;q=0",
    )  # fmt: skip
    async with asking(home, path) as ask:
        for accept in served:
            assert (await ask("/patients/a", Accept=accept)).status == 200, accept
        for accept in refused:
            assert diagnosed(await ask("/patients/a", Accept=accept), 406, "not-supported"), accept


# What is refused before we see it


def _wire(ask: Asker) -> Wire:
    url = urlsplit(ask.server.url)
    return Wire(url.hostname or "", url.port or 0, ask.server.keys["one"])


@pytest.mark.parametrize("broken", ["garbage", "NUL in a header", "unknown method", "expectation", "two lengths"])
async def test_unreadable(home: Home, broken: str) -> None:
    """What aiohttp cannot read has a request id of its own, is counted, and does not tell what runs here."""
    async with asking(home, "direct") as ask:
        answers = [await _wire(ask).send(BROKEN_HTTP[broken]) for _ in range(2)]
        assert [(answer.refused, answer.headers["Server"]) for answer in answers] == [(True, "sluice")] * 2
        assert len({answer.headers["X-Request-ID"] for answer in answers}) == 2
        counted = ask.server.services.metrics.requests.children.items()
        unreadable = {labels: slot.value for labels, slot in counted if labels[3] == "unreadable"}
        assert unreadable == {("none", "none", str(answers[0].status), "unreadable"): 2}


async def test_expectation_keeps_its_request_id(home: Home) -> None:
    """Of a request that could be read, but for what it expects, the own request id is kept."""
    async with asking(home, "direct") as ask:
        answer = await _wire(ask).get(b"/patients/a", b"Expect: a-miracle", b"X-Request-ID: mine-1")
        assert (answer.status, answer.headers["X-Request-ID"]) == (417, "mine-1")
