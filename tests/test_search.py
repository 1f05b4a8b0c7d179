"""Search as a whole: what any question finds, the Bundle that it comes in, and the ways to ask it."""

import asyncio
import random
from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import strategies as st

from storage.connecting.connections import Connection
from storage.searching import branches, lists
from tests.conftest import PROVE
from tests.reading import reading
from tests.search_data import Stored, generated
from tests.search_model import Model
from tests.search_questions import PREFIXES, Question, Questioner, prove
from tests.support import (
    NOW,
    PATHS,
    Asker,
    Home,
    Reply,
    add_tenant,
    bundle_of,
    diagnosed,
    encounter,
    following,
    ids,
    included,
    self_pairs,
    shown,
)

EXAMPLES = 6000 if PROVE else 200
KINDS = {
    "channel": ["Patient", "Practitioner", "Encounter"],
    "direct": ["Account", "Claim", "ClaimResponse", "Condition", "Coverage", "Encounter", "ExplanationOfBenefit", "Location",
               "Organization", "Patient", "Practitioner", "Procedure", "Group"],
}  # fmt: skip
"""Types that have no channel are asked directly by both."""
FORM = "application/x-www-form-urlencoded"
MODEL = Model(generated())


async def walked(ask: Asker, question: Question, count: int) -> list[str]:
    """All pages' matches, each page checked: its size, what it brings beside its matches, and the total."""
    names: list[str] = []
    totals: set[int | None] = set()
    step: str | None = question.url(count)
    while step is not None:
        reply = await ask(step)
        page, beside = ids(reply), included(reply)
        assert len(page) <= count
        assert len(beside) == len(set(beside)), question
        assert set(beside) == MODEL.included(question.kind, page, question.inclusions), question
        totals.add(reply.json.get("total"))
        names, step = names + page, following(reply)
        assert len(names) <= len(generated()[question.kind]), question
    assert totals == ({len(names)} if question.total else {None})
    return names


@pytest.fixture(params=[branches.FEW, 2])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many are gathered before a list is walked instead: the data is small, and both ways are to be gone."""
    monkeypatch.setattr(branches, "FEW", request.param)
    monkeypatch.setattr(branches, "FEW_REFERRED", request.param)
    lists._list_statement.cache_clear()
    yield request.param
    lists._list_statement.cache_clear()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.timeout(1800 if PROVE else 120)
async def test_search_is_the_model(hospital: Home, few: int, path: str) -> None:
    """Any parameters, modifiers, prefixes, chains and sort keys: the pages hold what the model finds, in order, each once."""
    if few == 2 and path == "channel" and not PROVE:
        pytest.skip("the statements are those of direct")

    async def holds(pick: random.Random) -> None:
        question = Questioner(MODEL, pick).question(pick.choice(KINDS[path]))
        expected = MODEL.found(question.kind, question.pairs, sort=question.sort, compartment=question.compartment)
        count = pick.randint(1, 5) if len(expected) <= 12 else pick.choice([13, 40, 1000])
        assert await walked(ask, question, count) == expected, question

    async with reading(hospital, path) as ask:
        await prove(st.randoms(use_true_random=True), holds, EXAMPLES)


STARTS, ENDS = ("", "1990", "2013-01-05", "2013-11-20"), ("", "1990-06", "2013-12-05", "2014-02")
VISITS = [
    encounter(f"{start}to{end}", period={name: day for name, day in (("start", start), ("end", end)) if day})
    for start, end in product(STARTS, ENDS)
    if (start or end) and start <= (end or "9")
]
"""Short and long ones, some without a start, some without an end."""


async def test_two_bounds_of_a_date(database: str) -> None:
    """Any two prefixes of the date by which a list is ordered find what both mean, alone and beside two common values."""
    home = Home(database, {"one": await add_tenant(database, "one", VISITS)})
    model = Model({"Encounter": [Stored(visit, NOW) for visit in VISITS]})
    async with reading(home, "direct") as ask:
        for one, other in combinations_with_replacement(PREFIXES[1:], 2):
            for day, other_day in product(("1990", "2013", "2013-11-25T10:00:00Z"), repeat=2):
                dates = [("date", f"{one}{day}"), ("date", f"{other}{other_day}")]
                expected = model.found("Encounter", dates)
                for beside in ([], [("status", "finished"), ("class", "AMB")]):
                    question = Question("Encounter", [*dates, *beside], total=True)
                    assert await walked(ask, question, 7) == expected, question


def test_model_sees_something() -> None:
    """The questions find nothing, one, some and many: the comparison is not one of empty lists."""
    sizes = []
    for seed in range(200):
        pick = random.Random(seed)
        question = Questioner(MODEL, pick).question(pick.choice(KINDS["direct"]))
        sizes.append(len(MODEL.found(question.kind, question.pairs, sort=question.sort, compartment=question.compartment)))
    assert [sum(low <= size <= high for size in sizes) > 15 for low, high in ((0, 0), (1, 1), (2, 9), (10, 99))] == [True] * 4


@pytest.mark.parametrize("path", PATHS)
async def test_bundle(hospital: Home, path: str) -> None:
    """Rule 10: a searchset is a valid Bundle: unique absolute URLs, each entry's mode, no empty arrays, no id of its own."""
    async with reading(hospital, path) as ask:
        base = ask.server.services.config.base_url
        for url in (
            "/patients?_count=50",
            "/fhir/Encounter?_count=50&_include=Encounter:*&_revinclude=Condition:encounter",
            "/practitioners?_sort=family",
            "/fhir/Patient?_count=0",
        ):
            bundle = bundle_of(await ask(url))
            assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "searchset")
            assert not {"id", "timestamp", "meta"} & set(bundle)
            modes = [entry["search"]["mode"] for entry in bundle.get("entry", [])]
            assert modes == sorted(modes, reverse=True)
            assert set(modes) <= {"match", "include"}
            urls = [entry["fullUrl"] for entry in bundle.get("entry", [])]
            resources = [entry["resource"] for entry in bundle.get("entry", [])]
            assert urls == [f"{base}/fhir/{resource['resourceType']}/{resource['id']}" for resource in resources]
            assert len(urls) == len(set(urls))
        for url in ("/patients?family=zz", "/patients?_id=nobody", "/fhir/Goal", "/encounters?patient=Group/gr0"):
            assert "entry" not in bundle_of(await ask(url)), url


USED = {
    # What is asked, and what of it the self link shows.
    "": [],
    "unknown=1&family=&birthdate=&=&&active&unknown:exact=x&unknown.family=x&_has:Encounter:unknown:status=x": [],
    "family=x&unknown=1&gender:not=male": [("family", "x"), ("gender:not", "male")],
    "_sort=unknown": [],
    "_sort=family,unknown,-birthdate,": [("_sort", "family,-birthdate")],
    "_sort=family&_sort=given": [("_sort", "given")],
    "_include=Patient:organization:Patient&_include=Patient:nothing&_revinclude=Claim:facility": [],
    "_include=Encounter:patient&_include:iterate=Encounter:account": [("_include:iterate", "Encounter:account")],
    "_revinclude=Encounter:patient&_include=Patient:link": [("_revinclude", "Encounter:patient"), ("_include", "Patient:link")],
    "_summary=false&_total=none": [("_summary", "false")],
    "_summary=true&_total=accurate": [("_summary", "true"), ("_total", "accurate")],
    "_elements=name,%20birthDate": [("_elements", "name,birthDate")],
    "_format=json&_pretty=true": [("_format", "json"), ("_pretty", "true")],
    "organization:Organization.name=m": [("organization:Organization.name", "m")],
}


@pytest.mark.parametrize("path", PATHS)
async def test_self_shows_what_was_used(hospital: Home, path: str) -> None:
    """Rule 10: the self link shows the parameters that were used, with the count, and none that were left out."""
    async with reading(hospital, path) as ask:
        for query, used in USED.items():
            assert sorted(self_pairs(await ask(f"/patients?{query}"))) == sorted([*used, ("_count", "20")]), query
        for name in ("count", "true"):
            assert ("_summary", name) in self_pairs(await ask(f"/patients?_summary={name}"))
        assert ("_count", "1000") in self_pairs(await ask("/patients?_count=5000"))
        assert ("_count", "0") in self_pairs(await ask("/patients?_summary=count"))
        visits = self_pairs(await ask("/encounters?_include=*&_count=1"))
        assert visits == [("_include", "*"), ("_count", "1")]


@pytest.mark.parametrize("path", PATHS)
async def test_left_out(hospital: Home, path: str) -> None:
    """Rule 11: an unknown or empty parameter is left out of the search; strict handling refuses the unknown, and says where."""
    async with reading(hospital, path) as ask:
        everything = ids(await ask("/patients?_count=1000"))
        for query in (
            "unknown=1",
            "family=",
            "birthdate=",
            "name:exact=",
            "_sort=unknown",
            "unknown:exact=x",
            "=",
            "&&",
            "active",
        ):
            assert ids(await ask(f"/patients?{query}&_count=1000")) == everything, query
        assert ids(await ask("/patients?family=&_pretty=true&_count=1000", Prefer="handling=strict")) == everything
        for query in (
            "unknown=secret",
            "_sort=secret",
            "_include=Patient:secret",
            "organization.secret=x",
            "_has:Claim:secret:use=x",
        ):
            reply = await ask(f"/patients?{query}", Prefer="return=minimal; handling=strict")
            assert "secret" not in diagnosed(reply, 400, "invalid"), query
            assert len(reply.json["issue"][0]["expression"]) == 1
        for query in ("patient=unknown", "class=none", "status=none", "practitioner=Practitioner/none", "subject=Group/none"):
            assert ids(await ask(f"/encounters?{query}", Prefer="handling=strict")) == [], query


@pytest.mark.parametrize("path", PATHS)
async def test_posted(hospital: Home, path: str) -> None:
    """Rule 15: POST _search finds what GET finds, from form and URL merged; its links are URLs to GET."""
    async with reading(hospital, path) as ask:

        async def post(url: str, body: bytes = b"", kind: str = FORM, **headers: str) -> Reply:
            return await ask(url, method="POST", body=body, Content_Type=kind, **headers)

        query = [("family", "M"), ("gender:not", "female"), ("family:contains", "ü,é"), ("_sort", "-family"), ("_count", "2")]
        wanted = await ask(f"/patients?{urlencode(query)}")
        assert len(ids(wanted)) == 2
        form = urlencode(query).encode()
        for url, body in (
            ("/patients/_search", form),
            ("/fhir/Patient/_search", form),
            (f"/fhir/Patient/_search?{urlencode(query[:2])}", urlencode(query[2:]).encode()),
        ):
            reply = await post(url, body)
            assert reply.body == wanted.body, url
            assert ids(await ask(following(reply) or "")) == ids(await ask(following(wanted) or ""))
        for kind in ("application/octet-stream", "text/plain", FORM):
            assert (await post(f"/fhir/Patient/_search?{urlencode(query)}", b"", kind)).body == wanted.body
        assert (await post("/fhir/Patient/_search", form, f"{FORM}; charset=UTF-8")).body == wanted.body
        for kind in ("application/json", "application/fhir+json", "text/plain", "multipart/form-data; boundary=x"):
            diagnosed(await post("/fhir/Patient/_search", b'{"family": "x"}', kind), 415, "not-supported")
        diagnosed(await post("/fhir/Patient/_search", b"family=" + b"x" * 70_000), 413, "too-long")
        for broken in (b"family=\xff", b"family=%FF", b"&".join(b"a=b" for _ in range(300))):
            diagnosed(await post("/fhir/Patient/_search", broken), 400, "invalid")
        claims = await post("/fhir/Claim/_search", b"status=active&_count=1000")
        assert claims.body == (await ask("/fhir/Claim?status=active&_count=1000")).body


@pytest.mark.parametrize("path", PATHS)
async def test_compartments(hospital: Home, path: str) -> None:
    """Rule 15: a compartment finds what a search by its patient finds, under its own links; what it does not have is 404."""
    async with reading(hospital, path) as ask:
        whole = await ask("/fhir/Patient/pa1/Encounter?_count=1000")
        assert ids(whole) == ids(await ask("/encounters?patient=pa1&_count=1000")) != []
        base = ask.server.services.config.base_url
        first = await ask("/fhir/Patient/pa1/Encounter?_count=1&status:not=planned")
        assert first.json["link"][0]["url"] == f"{base}/fhir/Patient/pa1/Encounter?status:not=planned&_count=1"
        assert (following(first) or "").startswith("/fhir/Patient/pa1/Encounter?")
        rest = ids(await ask((following(first) or "").replace("_count=1", "_count=1000")))
        assert ids(first) + rest == ids(await ask("/encounters?patient=pa1&status:not=planned&_count=1000"))
        for kind in ("Condition", "Claim"):
            names = ids(await ask(f"/fhir/Patient/pa1/{kind}?_count=1000&_sort=_id"))
            assert names == MODEL.found(kind, [], sort="_id", compartment="Patient/pa1") != []
        assert ids(await ask("/fhir/Patient/unknown/Encounter")) == []
        for url in ("/fhir/Patient/pa1/Organization", "/fhir/Group/gr0/Encounter", "/fhir/Location/lo0/Encounter"):
            diagnosed(await ask(url), 404, "not-found")
        diagnosed(await ask("/fhir/Patient/pa1/Patients"), 404, "not-supported")
        diagnosed(await ask("/fhir/Patient/p_1/Encounter"), 400, "invalid")
        cursor = (following(first) or "").rpartition("_cursor=")[2]
        for url in ("/encounters?status:not=planned", "/fhir/Patient/pa2/Encounter?status:not=planned"):
            diagnosed(await ask(f"{url}&_cursor={cursor}"), 400, "invalid")


def sent_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements for resources, as they are sent."""
    sent: list[str] = []
    fetch = Connection.fetch

    async def counting(self: Connection, sql: str, *values: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        if "fhir." in sql:
            sent.append(sql)
        return await fetch(self, sql, *values, timeout=timeout)

    monkeypatch.setattr(Connection, "fetch", counting)
    return sent


TOGETHER = [
    [f"encounters?patient=pa{n}&_include=Encounter:patient&_count={n + 1}" for n in range(8)],
    [f"encounters?practitioner=pr{n}&_count=2" for n in range(8)],
    [f"encounters?patient=pa{n}&status=planned&date=ge201{n}&_include=Encounter:*" for n in range(8)],
    [f"patients?_id=pa{n}" for n in range(8)],
    [f"patients?identifier={system}1&_count={n}" for n in (1, 2, 20) for system in ("", "http://a|", "|", "http://b\\|c|")],
    [f"practitioners?gender={gender}&_count={n}" for n in (1, 5, 9) for gender in ("male", "female", "other", "none")],
    [f"{kind}?_count={n}" for n in range(1, 5) for kind in ("patients", "encounters", "practitioners")],
    [f"patients?_sort=-_lastUpdated&_count={n}" for n in range(1, 9)],
]


async def test_batches(hospital: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks that share a statement, of two tenants, and the pages after them, are answered as each is alone."""
    sent = sent_by(monkeypatch)
    async with reading(hospital, "channel") as ask:
        for urls in TOGETHER:
            asked = [(f"/{url}", tenant) for url in urls for tenant in ("one", "two")]
            for _ in range(2):
                sent.clear()
                together = await asyncio.gather(*(ask.once(url, tenant) for url, tenant in asked))
                assert any("WITH ORDINALITY" in sql for sql in sent), urls[0]
                alone = [await ask.once(url, tenant, X_Sluice_Force="direct") for url, tenant in asked]
                assert [shown(reply) for reply in together] == [shown(reply) for reply in alone], urls[0]
                steps = [(following(reply), tenant) for reply, (_, tenant) in zip(alone, asked, strict=True)]
                asked = [(step, tenant) for step, tenant in steps if step] or asked


@pytest.mark.parametrize("path", PATHS)
async def test_one_page_is_two_statements(hospital: Home, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries a page has, and whatever comes beside them: one statement for it, and one for the total."""
    sent = sent_by(monkeypatch)
    async with reading(hospital, path) as ask:
        for query, statements in (
            ("", 1),
            ("_count=1&_include=Encounter:*", 1),
            ("_include=Encounter:*&_revinclude=Condition:encounter&_include:iterate=Patient:organization&_sort=status", 1),
            ("_include=Encounter:*&_revinclude=Claim:encounter&_total=accurate&patient.family=M&_elements=status", 2),
            ("_count=0", 1),
        ):
            sent.clear()
            assert len(ids(await ask.once(f"/encounters?{quote(query, safe='&=:')}"))) in (0, 1, 10, 20)
            assert len(sent) == statements, query
