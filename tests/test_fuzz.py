"""Requests by chance: of the grammar that searches have, well and badly said, and of bytes that have no grammar at all.

`make test` sends the same ones each time; `make prove` sends many more, others each time.
"""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r4.criteria import modifiers_of
from r4.parameters import COMPARTMENTS, PARAMETERS, ParamType, parameters_of
from storage.embedded import Cluster
from tests.clients import check_body
from tests.conftest import PROVE
from tests.specimens import specimens
from tests.support import PATHS, Asker, Home, add_tenant, asking, build_home, cursor_of, delete, patient
from tests.test_bad_input import Answer, Wire

QUESTIONS = 20_000 if PROVE else 500
REQUESTS = 20_000 if PROVE else 300
LIMIT_S = 3600 if PROVE else 120
CANARY = "Kanarienvogel"
"""Stands in every value that may be refused: no refusal and no log line has it."""
OURS, THEIRS = "house-one", "house-two"
"""What every resource of a tenant is marked with."""


async def _fill(home: Home) -> None:
    """Two tenants with the same ids, and each with one that the other does not have."""
    for tenant, mark in (("one", OURS), ("two", THEIRS)):
        marked = [_marked(resource, mark) for resource in [*specimens(), patient(f"only-{tenant}"), patient("gone")]]
        home.keys[tenant] = await add_tenant(home.database, tenant, marked)
        await delete(home.database, tenant, ("Patient", "gone"))


def _marked(resource: dict[str, Any], mark: str) -> dict[str, Any]:
    """In its meta, which no part of a resource goes without."""
    meta = resource.get("meta", {})
    return {**resource, "meta": {**meta, "tag": [*meta.get("tag", []), {"system": "urn:houses", "code": mark}]}}


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "fuzz", _fill)


async def by_chance(strategy: st.SearchStrategy[Any], holds: Callable[[Any], Coroutine[Any, Any, None]], examples: int) -> None:
    """Runs a check of the server's loop on examples: Hypothesis itself is synchronous, so it gets a thread."""
    loop = asyncio.get_running_loop()
    every: Any = list(HealthCheck)

    @settings(max_examples=examples, derandomize=not PROVE, deadline=None, suppress_health_check=every, database=None)
    @given(strategy)
    def check(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(holds(example), loop).result(60)

    await asyncio.to_thread(check)


# The grammar.

KINDS = [*PARAMETERS, "Slot"]
IDS = ["full", "bare", "other", "gone", "only-one", "only-two", "none"]
DATES = [
    "2024", "2024-05", "2024-05-03", "2024-05-01T08:00Z", "2024-05-01T08:00:00Z", "2024-05-01T10:00:00.5+02:00", "1980",
    "0001", "9999-12-31", "9999-12-31T23:59:60Z",
]  # fmt: skip
PREFIXES = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"]
NUMBERS = ["5.60", "5.6|http://unitsofmeasure.org|h", "5||h", "0", "-1", "1e2", "5.60|x|y", "1e-9", "99999999999999999999"]
CODES = [
    "active", "female", "J45", "urn:codes|J45", "urn:codes|", "|male", "AMB", "true", "false", "urn:kinds|MR|Patient-1", "claim",
    "urn:numbers|Patient-1",
]  # fmt: skip
TEXTS = ["smith", "JONES", "Ad", "wien", "ring 1", "paid in", "ümläut", "Clinic", "a", "%", "_", "\\\\", "Since"]
LINKS = [
    "Patient/full", "full", "Practitioner/full", "Encounter/full/_history/1", "Organization/full", "{base}/fhir/Patient/full",
    "http://elsewhere.example/fhir/Patient/full", "urn:uuid:1b671a64-40d5-491e-99b0-da01ff1f3341", "#inside", "Device/d",
]  # fmt: skip
GOOD: dict[ParamType, list[str]] = {
    ParamType.TOKEN: CODES,
    ParamType.STRING: TEXTS,
    ParamType.DATE: [f"{prefix}{date}" for prefix in PREFIXES for date in DATES],
    ParamType.REFERENCE: LINKS,
    ParamType.URI: ["http://example.org/profile", "http://example.org/source", "urn:x"],
    ParamType.QUANTITY: [f"{prefix}{number}" for prefix in PREFIXES for number in NUMBERS],
}
BAD = [
    "", "\x00", ",", "|", "||", "|||", "$", "\\", "\\,", "\\|", "\\\\,", "'", "''", '"', "';--", "' OR '1'='1", "%", "_", "%%", "*", "(",
    "[", "\n", "\r\n", "\t", " ", "+", "\x1b", "\x7f", "\x85", "\ud800", "\udfff", "\ufeff", "\uffff", "\u202e", "\u0301",
    "\u0130", "\ufdfa", "\ufb03", "ß", "😀", "\U0010ffff", "١٩٨٠", "a" * 300, "ﷺ" * 60, "a," * 70, "\\" * 99, "9" * 400, "-",
    "NaN", "1e99", "1e-99", "0x10", "null", "undefined", "{{7*7}}", "${jndi:ldap://x}", "../..", "2013-02-30", "2013-13",
    "0000", "10000", "ge", "ap9999", "ap0001", "sa0001-01-01T00:00:00+14:00", "2024-05-01T08:00:00+99:99", "gege2024", "Patient/",
    "/full", "Patient/full/x", "Foo/full", "http://[::1", "urn:", "$everything", "_history", "; DROP TABLE fhir.resource",
    "pg_sleep(9)", "%s%n", "E'\\\\'", "$1", ":1",
]  # fmt: skip
NAMES = [
    "_has", "_has:", "_has:Encounter:patient:", "_text", "_content", "_filter", "_list", "_query", "_contained", "_type",
    "_since", "_at", "start", "end", "id", "_ID", "patient.", ".name", "a" * 300, "name:", ":exact", "::", "x-y", "'", "%", "$",
]  # fmt: skip
MODIFIERS = ["missing", "not", "text", "exact", "contains", "of-type", "identifier", "above", "iterate", "Patient", "x", ""]
CONTROLS = {
    "_count": ["0", "1", "2", "1000", "1001", "999999999", "-1", "1.5", "01", "+1"],
    "_total": ["none", "estimate", "accurate", "yes"],
    "_summary": ["true", "text", "data", "count", "false", "maybe"],
    "_elements": ["name", "status,subject", "Patient.name", "id", "deceased", "x" * 70, "-name", "a.b.c", ",,", "meta"],
    "_format": ["json", "application/fhir+json", "application/json;fhirVersion=4.0", "xml", "html"],
    "_pretty": ["true", "false", "1"],
    "_since": ["2024-01-01T00:00:00Z", "2026", "9999-12-31"],
    "_at": ["2026", "ge2026"],
    "start": ["2024", "2024-05-01"],
    "end": ["2024", "2024-12-31"],
    "_type": ["Patient", "Patient,Encounter", "Foo"],
}
CURSORS = 8  # those that are collected first: see cursors_of
HEADERS = {
    "Prefer": ["handling=strict", "handling=lenient", "return=minimal;handling=strict", "respond-async", "handling=x"],
    "Accept": [
        "application/fhir+json",
        "*/*",
        "text/html",
        "application/fhir+xml",
        "application/fhir+json;fhirVersion=3.0",
        "x",
    ],
    "If-None-Match": ['W/"1"', "1", "*", '"2"', "W/", ","],
    "If-Modified-Since": ["Fri, 02 Jan 2026 03:04:05 GMT", "yesterday", "0"],
    "Range": ["bytes=0-9", "bytes=-1", "rows=1-2"],
    "Accept-Encoding": ["gzip", "identity", "br", "gzip;q=0"],
    "X-Request-ID": ["of-mine", f"not one {CANARY}"],
    "If-Match": ['W/"1"', "*"],
    "Content-Encoding": ["gzip"],
    "Cookie": [f"key={CANARY}"],
}
FORM = "application/x-www-form-urlencoded"
BODIES = [FORM] * 6 + [
    f"{FORM};charset=UTF-8",
    "application/fhir+json",
    "text/plain",
    "multipart/form-data; boundary=x",
    "x",
    "",
]


@dataclass(frozen=True)
class Asked:
    """A request before it is written: `{base}` and `{cursor:n}` stand for what only the running server knows."""

    method: str
    path: str
    pairs: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    form: str | None = None
    """The media type of a body that has the second half of the pairs."""


bad_values = st.one_of(st.sampled_from(BAD), st.text(max_size=12)).map(lambda text: f"{CANARY}{text}")


@st.composite
def values(draw: st.DrawFn, kind: ParamType) -> str:
    """One, or several with what separates them; about half are all well said."""
    well = st.sampled_from(GOOD[kind])
    pieces = st.one_of(well, well, well, st.sampled_from([each for some in GOOD.values() for each in some]), bad_values)
    text = draw(pieces)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        text += draw(st.sampled_from([",", ",", "|", "$", "\\,", ""])) + draw(pieces)
    return text


@st.composite
def criteria(draw: st.DrawFn, kind: str, depth: int = 0) -> tuple[str, str]:
    """A name with modifiers, chains and _has, and a value; nothing keeps the parts from not fitting together."""
    table = parameters_of(kind)
    name = draw(st.sampled_from([*table, "_id", "_lastUpdated"]))
    of = table[name].type if name in table else ParamType.DATE if name == "_lastUpdated" else ParamType.TOKEN
    led = [other for other, row in table.items() if row.type is ParamType.REFERENCE]
    step = draw(st.integers(0, 11))
    if step == 0:
        return draw(st.one_of(st.sampled_from(NAMES), st.text(max_size=8))), draw(values(of))
    if step <= 2 and depth < 6 and led:
        name = draw(st.sampled_from([*led, *led, name]))
        target = draw(st.sampled_from([*(table[name].targets if name in table else ()), "Patient", "Foo"]))
        rest, value = draw(criteria(target if target in PARAMETERS else "Patient", depth + 1))
        return f"{name}{draw(st.sampled_from([f':{target}', f':{target}', '', ':x']))}.{rest}", value
    if step == 3 and depth < 6:
        source = draw(st.sampled_from(KINDS))
        params = [other for other, row in parameters_of(source).items() if kind in row.targets or not row.targets]
        rest, value = draw(criteria(source, depth + 1))
        return f"_has:{source}:{draw(st.sampled_from(params))}:{rest}", value
    if step <= 6:
        own = modifiers_of(table[name]) if name in table else ()
        name += ":" + draw(st.sampled_from([*own, *own, *MODIFIERS]))
    if name == "_id":
        return name, draw(st.one_of(st.sampled_from(IDS), st.lists(st.sampled_from(IDS)).map(",".join), bad_values))
    return name, draw(values(of)) if not name.endswith(":missing") else draw(st.sampled_from(["true", "false", "x", "TRUE"]))


@st.composite
def controls(draw: st.DrawFn, kind: str) -> tuple[str, str]:
    """What is no criterion."""
    name = draw(st.sampled_from([*CONTROLS, "_cursor", "_sort", "_sort", "_include", "_revinclude"]))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([name, f"{name}:x"])), draw(bad_values)
    if name == "_sort":
        keys = st.sampled_from([*parameters_of(kind), "_id", "_lastUpdated", "x"])
        some = draw(st.lists(st.tuples(st.sampled_from(["", "-"]), keys).map("".join), min_size=1, max_size=5))
        return name, ",".join(some)
    if name in ("_include", "_revinclude"):
        source = kind if name == "_include" else draw(st.sampled_from(KINDS))
        param = draw(st.sampled_from([*parameters_of(source), "*", "x"]))
        value = draw(
            st.sampled_from([f"{source}:{param}", f"{source}:{param}:Patient", f"{source}:{param}:", "*", param, source])
        )
        return name + draw(st.sampled_from(["", "", ":iterate", ":recurse"])), value
    if name == "_cursor":
        return name, draw(st.sampled_from(["{cursor:%d}" % number for number in range(CURSORS)])) + draw(
            st.sampled_from(["", "", "x"])
        )
    return name, draw(st.sampled_from(CONTROLS[name]))


@st.composite
def paths(draw: st.DrawFn, kind: str) -> str:
    """Of a search mostly; else of a read, a version, a history, everything, or of what says what there is."""
    ids = st.sampled_from([*IDS, *IDS, CANARY, f"{CANARY}_", "x" * 65, "%00", "%ED%A0%80", "a%2Fb"])
    owner = draw(st.sampled_from([*COMPARTMENTS, "Slot"]))
    of_own = {"Patient": "/patients", "Encounter": "/encounters", "Practitioner": "/practitioners"}.get(kind, f"/fhir/{kind}")
    many = [f"/fhir/{kind}", f"/fhir/{kind}", of_own, f"/fhir/{owner}/{draw(ids)}/{kind}"]
    version = draw(st.sampled_from(["1", "2", "0", "9", "x", "-1", "99999999999999999999"]))
    single = [
        f"/fhir/{kind}/{draw(ids)}", f"{of_own}/{draw(ids)}", f"/fhir/{kind}/{draw(ids)}/_history",
        f"/fhir/{kind}/{draw(ids)}/_history/{version}", f"/fhir/{kind}/_history", "/fhir/_history", "/fhir/metadata",
        f"/fhir/{draw(st.sampled_from(['Patient', 'Encounter', kind]))}/{draw(ids)}/$everything", f"/reviews/{draw(ids)}",
        f"/fhir/{kind}/$everything", "/fhir", "/fhir/", f"/fhir/{kind}/{draw(ids)}/*", "/fhir/Foo", "/fhir/Foo/full",
    ]  # fmt: skip
    return draw(st.sampled_from(single)) if draw(st.integers(0, 3)) == 0 else draw(st.sampled_from(many))


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    kind = draw(st.sampled_from(KINDS))
    pairs = draw(st.lists(criteria(kind), max_size=3)) + draw(st.lists(controls(kind), max_size=2))
    names = draw(st.lists(st.sampled_from(list(HEADERS)), max_size=2, unique=True))
    headers = [(name, draw(st.sampled_from(HEADERS[name]))) for name in names]
    path = draw(paths(kind))
    if draw(st.integers(0, 4)) == 0:
        return Asked("POST", f"{path}/_search", tuple(pairs), tuple(headers), draw(st.sampled_from(BODIES)))
    return Asked(draw(st.sampled_from(["GET"] * 12 + ["HEAD", "HEAD", "DELETE"])), path, tuple(pairs), tuple(headers))


# The server, and what must hold of each of its answers.


@dataclass
class Fuzzed:
    """`cursors` are of other lists and of the other tenant, and one of them perhaps of the list that is asked for."""

    ask: Asker
    wire: Wire
    cursors: list[str]

    async def send(self, asked: Asked, **more: str) -> Answer:
        headers = {**dict(asked.headers), **{name.replace("_", "-"): value for name, value in more.items()}}
        pairs = [(self._filled(name), self._filled(value)) for name, value in asked.pairs]
        half = len(pairs) // 2 if asked.form is not None else len(pairs)
        target = asked.path + ("?" + _encoded(pairs[:half]) if half else "")
        body = _encoded(pairs[half:]).encode() if asked.form is not None else None
        if body is not None:
            headers |= {"Content-Length": str(len(body)), "Content-Type": asked.form or ""}
        lines = [f"{asked.method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.wire.key}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return await self.wire.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))

    def _filled(self, text: str) -> str:
        text = text.replace("{base}", self.ask.server.services.config.base_url)
        return re.sub(r"\{cursor:(\d)\}", lambda found: self.cursors[int(found[1])], text)


def _encoded(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)


def _quoted(text: str) -> str:
    """As clients do; lone surrogates as the bytes that they would be."""
    return quote(text, safe=":,/|", errors="surrogatepass")


@asynccontextmanager
async def fuzzed(home: Home, path: str) -> AsyncIterator[Fuzzed]:
    async with asking(home, path, access_log="all") as ask:
        url = urlsplit(ask.server.url)
        yield Fuzzed(ask, Wire(url.hostname or "", url.port or 0, home.keys["one"]), await cursors_of(ask))


async def cursors_of(ask: Asker) -> list[str]:
    lists = ["/patients", "/encounters", "/fhir/Claim", "/patients?_sort=-birthdate", "/fhir/Coverage?_sort=type"]
    found = [cursor_of(await ask.once(f"{each}{'&' if '?' in each else '?'}_count=1")) for each in lists]
    found += [cursor_of(await ask.once(f"{each}?_count=1", "two")) for each in lists[:2]]
    return [*found, "A" * 40]


def check(answer: Answer, asked: Asked) -> None:
    """That it is no fault of the server's, of its form, valid by FHIR's models, of the tenant, and silent on values."""
    assert answer.status < 500
    if answer.headers.get("Content-Encoding") == "gzip" and answer.body:
        answer = replace(answer, body=gzip.decompress(answer.body))
    assert THEIRS.encode() not in answer.body
    if answer.status in (200, 304):
        _check_given(answer)
        return
    assert CANARY not in str(answer.headers)
    assert answer.refused
    if answer.body:
        assert CANARY.encode() not in answer.body
        for issue in check_body(answer.body)["issue"]:
            assert issue["severity"] == "error"
            assert issue["code"] in ("invalid", "not-found", "deleted", "not-supported", "too-long")
            assert issue["diagnostics"]
    assert (answer.status != 405) or asked.method != "GET"


def _check_given(answer: Answer) -> None:
    assert (answer.status == 304) <= (not answer.body)
    if not answer.body:
        return
    told = check_body(answer.body)
    entries = told.get("entry", [])
    assert "entry" not in told or entries
    resources = [entry["resource"] for entry in entries if "resource" in entry] if told["resourceType"] == "Bundle" else [told]
    for resource in resources:
        if resource["resourceType"] not in ("OperationOutcome", "CapabilityStatement"):
            assert OURS in {tag.get("code") for tag in resource["meta"]["tag"]}
    if told.get("type") == "searchset":
        _check_page(told)


def _check_page(page: dict[str, Any]) -> None:
    entries = page.get("entry", [])
    urls = [entry["fullUrl"] for entry in entries if entry["search"]["mode"] != "outcome"]
    assert len(set(urls)) == len(urls)
    links = {link["relation"]: dict(parse_qsl(urlsplit(link["url"]).query)) for link in page["link"]}
    assert sum(entry["search"]["mode"] == "match" for entry in entries) <= int(links["self"]["_count"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.timeout(LIMIT_S)
async def test_any_question(home: Home, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is asked in the grammar of searches: a valid answer out of the own tenant, or a refusal that repeats no value.

    By the channel it is the direct answer to the byte, and nothing fails or is repeated in the log.
    """
    async with fuzzed(home, path) as server:

        async def holds(asked: Asked) -> None:
            answer = await server.send(asked)
            check(answer, asked)
            if answer.headers.get("X-Sluice-Path") == "channel":
                direct = await server.send(asked, X_Sluice_Force="direct")
                assert (direct.status, direct.headers.get("ETag")) == (answer.status, answer.headers.get("ETag"))
                assert direct.body == answer.body

        await by_chance(questions(), holds, QUESTIONS)
    out, err = capfd.readouterr()
    assert out.count("request.answered") + err.count("request.answered") >= QUESTIONS
    assert "request.failed" not in out + err
    assert CANARY not in out + err
