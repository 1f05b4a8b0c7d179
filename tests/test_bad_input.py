"""Bad input: a 4xx OperationOutcome that names what is wrong, quickly, and never a 500."""

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import pytest
from multidict import CIMultiDict

from storage.embedded import Cluster
from tests.reading import reading
from tests.support import PATHS, Home, add_tenant, asking, build_home, diagnosed, encounter, patient

CANARY = "Kanarienvogel"
QUICK_MS = 5.0


async def _fill(home: Home) -> None:
    for tenant in ("one", "two"):
        home.keys[tenant] = await add_tenant(
            home.database,
            tenant,
            [
                patient("a", name=[{"family": "Ng"}], birthDate="1980"),
                encounter("e", "2024", subject={"reference": "Patient/a"}),
            ],
        )


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "bad_input", _fill)


@dataclass
class Wire:
    """Speaks to the server in bytes."""

    host: str
    port: int
    key: str

    async def send(self, raw: bytes) -> "Answer":
        """One answer to whatever is sent; the server may close before it has read all."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(raw)
            async with asyncio.timeout(10):
                return await _answer(reader, has_body=not raw.startswith(b"HEAD "))
        finally:
            writer.transport.abort()

    async def get(self, target: bytes, *headers: bytes, method: bytes = b"GET") -> "Answer":
        """A request with the tenant's key; `target` and `headers` stand as they are."""
        lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: x", b"Authorization: Bearer %b" % self.key.encode(), *headers]
        return await self.send(b"\r\n".join(lines) + b"\r\n\r\n")


@dataclass
class Answer:
    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def refused(self) -> bool:
        """Whether it is an OperationOutcome with a client's fault and words for it."""
        if not 400 <= self.status < 500 or self.headers.get("Content-Type") != "application/fhir+json;charset=utf-8":
            return False
        if not self.body:
            return True  # of a HEAD
        told = orjson.loads(self.body)
        return told["resourceType"] == "OperationOutcome" and len(told["issue"][0]["diagnostics"]) > 10


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    if status == 100:
        return await _answer(reader, has_body=has_body)
    headers = CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in head[1:] if line))
    length = int(headers.get("Content-Length", "0")) if has_body and status != 304 else 0
    return Answer(status, headers, await reader.readexactly(length))


@asynccontextmanager
async def wired(home: Home, path: str, **settings: Any) -> AsyncIterator[Wire]:
    async with asking(home, path, **settings) as ask:
        url = urlsplit(ask.server.url)
        yield Wire(url.hostname or "", url.port or 0, home.keys["one"])


REFUSALS = {
    "/patients/a_b": ("invalid", "id"),
    "/patients/%00": ("invalid", "id"),
    "/patients/%ED%A0%80": ("invalid", "id"),
    "/patients/%FF": ("invalid", "id"),
    "/patients/..%2Fa": ("invalid", "id"),
    "/patients/" + "x" * 65: ("invalid", "id"),
    "/reviews/a%20b": ("invalid", "id"),
    "/fhir/Claim/a_b": ("invalid", "id"),
    "/patients?birthdate=x": ("invalid", "birthdate"),
    "/patients?birthdate=%00": ("invalid", "birthdate"),
    "/patients?family=a%00b": ("invalid", "family"),
    "/patients?fam%00ily=a": ("invalid", "family"),
    "/patients?birthdate=%ED%A0%80": ("invalid", "birthdate"),
    "/patients?_id=%ED%A0%80": ("invalid", "_id"),
    "/patients?_count=x": ("invalid", "_count"),
    "/patients?_count=%F0%9D%9F%99": ("invalid", "_count"),
    "/patients?_total=x": ("invalid", "_total"),
    "/patients?_cursor=x": ("invalid", "_cursor"),
    "/patients?_cursor=" + "A" * 5000: ("invalid", "_cursor"),
    "/patients?name:foo=x": ("invalid", "name"),
    "/patients?gender=||": ("invalid", "gender"),
    "/patients?_lastUpdated=x": ("invalid", "_lastUpdated"),
    "/encounters?subject=a": ("invalid", "subject"),
    "/encounters?patient=%2F": ("invalid", "patient"),
    "/patients?_format=xml": ("not-supported", "_format"),
}


@pytest.mark.parametrize("path", PATHS)
async def test_refusals_say_where(home: Home, path: str) -> None:
    """Rule 9: a refusal names the element or parameter that is wrong."""
    async with reading(home, path) as ask:
        for url, (code, expression) in REFUSALS.items():
            reply = await ask(url)
            assert diagnosed(reply, 406 if code == "not-supported" else 400, code), url
            assert reply.json["issue"][0]["expression"] == [expression], url


@pytest.mark.parametrize("path", PATHS)
async def test_refusals_are_quick(home: Home, path: str) -> None:
    """The server takes less than 5 ms for a refusal: it is one before the database is asked."""
    took: dict[str, list[float]] = {url: [] for url in [*REFUSALS, "/patients/zz"]}
    async with reading(home, path) as ask:
        for _ in range(9):
            for url, times in took.items():
                timing = (await ask.once(url)).headers["Server-Timing"]
                times.append(float(timing.rpartition("total;dur=")[2]))
    assert {url: times for url, times in took.items() if statistics.median(times) >= QUICK_MS} == {}


@pytest.mark.parametrize("path", PATHS)
async def test_accept(home: Home, path: str) -> None:
    """Rule 6: what accepts no JSON of FHIR 4.0 is 406; what is absent, general or has JSON among others is served."""
    served = (
        "*/*", "application/*", "application/json", "application/fhir+json", "application/fhir+json;fhirVersion=4.0",
        "text/html, application/fhir+json;q=0.1", "application/fhir+xml,application/json", "APPLICATION/FHIR+JSON", "",
    )  # fmt: skip
    refused = ("application/fhir+xml", "text/html", "application/fhir+json;fhirVersion=3.0", "*/*;q=0", "nonsense", ";;,,;x")
    async with reading(home, path) as ask:
        for accept in served:
            assert (await ask("/patients/a", Accept=accept)).status == 200, accept
        for accept in refused:
            reply = await ask("/patients/a", Accept=accept)
            assert reply.status == (200 if accept == ";;,,;x" else 406), accept
        for given in ("json", "application/fhir%2Bjson", "application/fhir+json", ""):
            accept = "text/html" if given else "*/*"
            assert (await ask(f"/patients/a?_format={given}", Accept=accept)).status == 200


LONG_URLS = [8_200, 10_000, 20_000, 100_000, 1_000_000]


@pytest.mark.parametrize("length", LONG_URLS)
@pytest.mark.parametrize("path", PATHS)
async def test_oversized_urls(home: Home, path: str, length: int) -> None:
    """Rule 9: a URL of any length is refused as too long, in its path or its query."""
    async with wired(home, path) as wire:
        for head in (b"/patients/", b"/patients?family=", b"/nope/", b"/patients?_id=" + b"a," * 3000):
            answer = await wire.get(head + b"x" * length)
            assert answer.refused, answer
            assert answer.status in (414, 431)
            assert orjson.loads(answer.body)["issue"][0]["code"] == "too-long"


@pytest.mark.parametrize("path", PATHS)
async def test_oversized_headers(home: Home, path: str) -> None:
    """Headers of a size that is still read do no harm; larger and more numerous ones are refused."""
    async with wired(home, path) as wire:
        for name in (b"Accept", b"X-Request-ID", b"If-None-Match", b"Prefer", b"Cookie", b"X-Other"):
            assert (await wire.get(b"/patients/a", b"%b: %b" % (name, b"x" * 10_000))).status in (200, 406)
            answer = await wire.get(b"/patients/a", b"%b: %b" % (name, b"x" * 100_000))
            assert (answer.status, answer.refused) == (431, True)
        many = await wire.get(b"/patients/a", *(b"X-%d: y" % n for n in range(300)))
        assert many.refused or many.status == 200
        assert (await wire.get(b"/patients/a", *(b"X-%d: y" % n for n in range(50_000)))).refused


BROKEN_HTTP = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /patients/a\r\n\r\n",
    "HTTP/9.9": b"GET /patients/a HTTP/9.9\r\nHost: x\r\n\r\n",
    "NUL in the URL": b"GET /patients/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in a header": b"GET /patients/a HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "space in the URL": b"GET /patients/a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "no colon": b"GET /patients/a HTTP/1.1\r\nHost x\r\n\r\n",
    "space before the colon": b"GET /patients/a HTTP/1.1\r\nHost : x\r\n\r\n",
    "folded header": b"GET /patients/a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "unknown method": b"QUUX /patients/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "method in small letters": b"get /patients/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "length that is none": b"GET /patients/a HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "length below nothing": b"GET /patients/a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /patients/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST /patients HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "empty target": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "other target": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "expectation": b"GET /patients/a HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\n\r\n",
}


@pytest.mark.parametrize("broken", BROKEN_HTTP)
async def test_broken_http(home: Home, broken: str) -> None:
    """What is no request, or half of one, is refused as everything else is."""
    async with wired(home, "direct") as wire:
        answer = await wire.send(BROKEN_HTTP[broken])
        assert answer.refused, answer


TARGETS = [
    b"http://elsewhere.example/patients/a", b"https://x/patients/a?_format=json", b"//x/patients/a", b"http://[::1/patients",
    b"http://x:99999999/patients", b"http://", b"http:///", b"/patients/a#x", b"/patients/%", b"/patients/%zz",
    b"/patients/%E0%80", b"/patients?%", b"/patients?%=%", b"/patients?family=%zz", b"/patients?family=%ED%A0%80",
    b"/patients?%ED%A0%80=x", b"/patients?birthdate=%FF", b"/patients?name:%ED%A0%80=x", b"/patients?_cursor=%ED%A0%80",
    b"/patients?_format=%ED%A0%80", b"/patients?family=\xff\xfe", b"/patients/\xff", b"/%ED%A0%80", b"/fhir/%ED%A0%80/a",
    b"/fhir/%00", b"/fhir//a", b"/fhir/Patient//", b"/patients?" + b"&" * 4000, b"/patients?" + b"a=b&" * 1500,
    b"/patients?_id=" + b"a," * 255 + b"a", b"/..", b"/./patients", b"/patients/a/../a", b"/%2e%2e/%2e%2e/etc/passwd",
    b"/patients/{id}", b"/fhir/{type}/{id}", b"/reviews/e?_cursor=%00", b"/patients;x=1", b"/patients?family=%EF%BF%BF",
    b"/patients?family=" + quote("\U0010ffff" * 100).encode(), b"/patients?family=%CC%81", b"/patients?_id=a&_id=%C0%80",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_strange_targets(home: Home, path: str) -> None:
    """Absolute URLs, broken percent-encoding, lone surrogates and raw bytes are answered or refused."""
    async with wired(home, path) as wire:
        for target in TARGETS:
            answer = await wire.get(target)
            assert answer.refused or answer.status == 200, (target, answer)


@pytest.mark.parametrize("path", PATHS)
async def test_strange_headers(home: Home, path: str) -> None:
    """A header's value may be any bytes: what cannot be understood counts for nothing or is refused."""
    values = (b"", b"\xff\xfe", b"\xed\xa0\x80", b"\x01", b'"', b",,,", b"W/", b"=" * 99, b"9" * 400, b"1 Jan 1 00:00:00 +9999")
    names = (
        b"Accept", b"If-None-Match", b"If-Modified-Since", b"Prefer", b"X-Request-ID", b"X-Sluice-Force", b"Host", b"Cookie",
        b"Content-Type", b"Content-Encoding", b"Accept-Encoding", b"Range", b"Upgrade", b"Connection", b"X-Forwarded-For",
    )  # fmt: skip
    async with wired(home, path) as wire:
        for name in names:
            for value in values:
                answer = await wire.get(b"/patients/a", b"%b: %b" % (name, value))
                assert answer.refused or answer.status in (200, 304), (name, value, answer)


DATES = [
    "Mon, 01 Jan 2024 00:00:00 +99999999999999999",
    "1 Jan 9999999999 00:00:00 GMT",
    "Mon, 01 Jan 2024 00:00:00 -2400",
    "1 Jan 99999999999999999999",
    "Mon, 32 Jan 2024 25:61:61",
    "a" * 5000,
    ":",
    "0 0 0 0",
    "1 Jan 0000 00:00:00 +0100",
]


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("path", PATHS)
async def test_strange_dates(home: Home, path: str, date: str) -> None:
    """Rule 4: If-Modified-Since that no calendar knows counts for nothing."""
    async with reading(home, path) as ask:
        assert (await ask("/patients/a", If_Modified_Since=date)).status == 200


MANY = ",".join(["a"] * 256)
WIDE = [
    "&".join([f"_id={MANY}"] * 15),
    "&".join([f"gender={MANY}"] * 14),
    f"_id={MANY}&gender={MANY}&family={MANY}&identifier={MANY}",
    "&".join(["birthdate=ne1001,ne1002,ne1003,ne1004"] * 32),
    "&".join(["birthdate=ne1001"] * 32),
    f"family={','.join(['a'] * 64)}",
    f"family={','.join(['a'] * 65)}",
    f"gender={','.join(['a'] * 8)}&active={','.join(['a'] * 8)}",
    f"_id={MANY}&" + "&".join(["_lastUpdated=ne1001"] * 31),
]


@pytest.mark.parametrize("query", WIDE, ids=lambda query: query[:20])
@pytest.mark.parametrize("path", PATHS)
async def test_wide_questions_cost_little(home: Home, path: str, query: str) -> None:
    """A search as wide as a URL holds is answered or refused within half a second, whatever it multiplies."""
    async with reading(home, path) as ask:
        for _ in range(3):
            reply = await ask.once(f"/patients?{query}")
            assert reply.status in (200, 400), reply
            assert float(reply.headers["Server-Timing"].rpartition("total;dur=")[2]) < 500


CANARIES = [
    *(
        f"/patients?{query}"
        for query in (
            f"birthdate={CANARY}", f"_id={CANARY}_", f"family={CANARY}%00", f"_count={CANARY}", f"_total={CANARY}",
            f"_cursor={CANARY}", f"identifier={CANARY}|{CANARY}|", f"_format={CANARY}", f"gender:not={CANARY}",
            f"unknown={CANARY}", f"family={CANARY * 900}", f"family={CANARY}", f"birthdate=ge{CANARY},1980",
        )
    ),
    f"/encounters?subject={CANARY}", f"/encounters?patient={CANARY}/{CANARY}", f"/encounters?patient={CANARY}_",
    f"/fhir/{CANARY}/a", f"/fhir/{CANARY}", f"/reviews/{CANARY}", f"/reviews/{CANARY}_", f"/{CANARY}", f"/patients/{CANARY}",
    f"/patients/{CANARY}_",
]  # fmt: skip


async def test_values_are_not_repeated(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    """What stands in a query or a path is in no log line and in no refusal, whatever goes wrong with it."""
    async with asking(home, "direct", access_log="all") as ask:
        for url in CANARIES:
            reply = await ask.once(url, Prefer="handling=strict", If_None_Match=CANARY, X_Request_ID=f"{CANARY} x")
            told = reply.body if reply.status >= 400 else b""
            assert CANARY.encode() not in told, (url, reply)
            assert CANARY not in str(reply.headers), (url, reply)
        wire = Wire("127.0.0.1", urlsplit(ask.server.url).port or 0, home.keys["one"])
        for raw in (
            f"GET /patients?family={CANARY} {CANARY} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET /patients?family={CANARY} HTTP/1.1\r\nHost: x\r\n{CANARY}\r\n\r\n",
            f"GET /patients?family={CANARY * 9999} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"{CANARY} /patients HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            assert CANARY.encode() not in (await wire.send(raw.encode())).body
    out, err = capfd.readouterr()
    assert "request.answered" in out + err
    assert CANARY not in out + err
