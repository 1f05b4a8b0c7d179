"""Habits of other widely used clients: forms, compartments, full URLs, a `next` taken apart, and patience."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.clients import Base, check_body, watched, world_of
from tests.support import PATHS, Asker, Home, Reply, asking, following, ids, until
from tests.test_channels import held
from tests.test_people import references

FORM = "application/x-www-form-urlencoded"
pytestmark = pytest.mark.parametrize("path", PATHS)


async def pages_of(base: Base, url: str) -> list[list[str]]:
    """The ids of each page, to the end."""
    pages: list[list[str]] = []
    step: str | None = url
    while step is not None:
        reply = await base.ask.once(step, "made")
        pages.append(ids(reply))
        step = following(reply)
    return pages


async def test_query_of_next_alone(practice: Home, path: str) -> None:
    """The query of `next`, sent to the type's URL with `_count=1000` added, gives all the rest; so does a larger count."""
    searches = ("Patient?birthdate=ge1950&_count=7", "Encounter?status=finished&_sort=date&_count=11", "Claim?_count=1")
    async with watched(practice, path) as base:
        for search in searches:
            kind = search.partition("?")[0]
            first = await base.ask.once(f"/fhir/{search}", "made")
            taken = urlsplit(following(first) or "").query
            everything = [key for page in await pages_of(base, f"/fhir/{search}0") for key in page]
            for more in (1000, 10_000_000):
                rest = await base.ask.once(f"/fhir/{kind}?{taken}&_count={more}", "made")
                assert following(rest) is None
                assert ids(first) + ids(rest) == everything
            assert len(everything) > len(ids(first)) == int(search.rpartition("=")[2])


FORMS = [
    ("Patient", [("gender", "female"), ("birthdate", "ge1960"), ("birthdate", "lt2000")]),
    ("Patient", [("name", "al rimali,يوسف,UREN"), ("_sort", "-birthdate"), ("_count", "3")]),
    ("Patient", [("identifier", "https://fhir.example.ae/sid/emirates-id|111-1111-1111111-1"), ("_total", "accurate")]),
    ("Encounter", [("date", "ge2025-09-02T21:42:00+04:00"), ("_include", "Encounter:patient"), ("_count", "5")]),
    ("Encounter", [("patient.name", "a,b"), ("_elements", "status")]),
    ("Practitioner", []),
    ("Condition", [("code:text", "hernia")]),
]


@pytest.mark.parametrize("kind", [FORM, f"{FORM}; charset=UTF-8"])
async def test_posted_forms(practice: Home, path: str, kind: str) -> None:
    """A form posted to _search, in part or in whole, gives the same bytes as the GET, and goes on by GET."""
    async with watched(practice, path) as base:
        for name, fields in FORMS:
            got = await base.ask.once(f"/fhir/{name}?{urlencode(fields)}", "made")
            assert ids(got)
            for split in {0, len(fields) // 2, len(fields)}:
                query, body = urlencode(fields[:split]), urlencode(fields[split:]).encode()
                posted = await base.ask(f"/fhir/{name}/_search?{query}", "made", "POST", body=body, Content_Type=kind)
                assert (posted.status, posted.body) == (got.status, got.body)
                assert posted.headers["ETag"] == got.headers["ETag"]
            if following(got):
                assert ids(await base.ask.once(following(got) or "", "made"))


async def test_compartments(practice: Home, path: str) -> None:
    """`/Patient/a/Encounter` has what a search by the patient has, under its own URL, over pages and with more criteria."""
    visits = (await world_of(practice, "made"))["Encounter"]
    often, theirs = Counter(visit["subject"]["reference"] for visit in visits.values()).most_common(1)[0]
    by_doctor = [key for key, visit in visits.items() if "Practitioner/prac-7-2" in references(visit)]
    async with watched(practice, path) as base:
        for more in ("_count=1000", "status=finished", "_count=1", "_sort=date&_count=2"):
            own = await pages_of(base, f"/fhir/{often}/Encounter?{more}")
            assert own == await pages_of(base, f"/fhir/Encounter?patient={often}&{more}")
            assert own[0]
        assert sum(map(len, own)) == theirs > 2
        reply = await base.ask.once(f"/fhir/{often}/Encounter?_count=1", "made")
        assert {urlsplit(link["url"]).path for link in reply.json["link"]} == {f"/fhir/{often}/Encounter"}
        seen = await base.ask.once("/fhir/Practitioner/prac-7-2/Encounter?_count=1000", "made")
        assert sorted(ids(seen)) == sorted(by_doctor) != []
        assert ids(await base.ask.once("/fhir/Patient/nobody/Encounter", "made")) == []


async def test_full_urls(practice: Home, path: str) -> None:
    """A reference with the base before it is the fullUrl of what it leads to; read there, it is the entry's own bytes."""
    async with watched(practice, path) as base:
        page = await base.ask.once("/fhir/Encounter?_include=Encounter:*&_include:iterate=Patient:*&_count=9", "made")
        by_url = {entry["fullUrl"]: entry["resource"] for entry in page.json["entry"]}
        assert len(by_url) == len(page.json["entry"])
        led = {f"{base.url}/{reference}" for each in by_url.values() for reference in references(each)}
        assert len(led) > 15
        assert led - set(by_url) == set()
        for url, resource in by_url.items():
            read = await base.ask.once(urlsplit(url).path, "made")
            assert read.json == resource
            assert read.body in page.body


async def test_links_are_absolute(practice: Home, path: str) -> None:
    """Every link is absolute under the one base, whatever the Host header says, and self asks the same again."""
    async with watched(practice, path) as base:
        for query in ("name=a&_count=3", "birthdate=ge1980&gender=female&_total=accurate&_count=2", "_count=0"):
            page = await base.ask.once(f"/patients?{query}", "made", Host="elsewhere.example")
            links = {link["relation"]: urlsplit(link["url"]) for link in page.json["link"]}
            assert {f"{url.scheme}://{url.netloc}{url.path}" for url in links.values()} == {f"{base.url}/Patient"}
            assert dict(parse_qsl(links["self"].query)) == dict(parse_qsl(query))
            again = await base.ask.once(f"{links['self'].path}?{links['self'].query}", "made")
            assert again.body == page.body


@pytest.mark.parametrize(("limits", "status"), [({"queue_size": 5}, 429), ({"queue_total": 5}, 503)])
async def test_patience(practice: Home, path: str, limits: dict[str, int], status: int) -> None:
    """A client that waits for as long as Retry-After says, when it is told 429 or 503, gets its answer in the end."""
    free = asyncio.Event()
    told: list[tuple[int, int]] = []

    async def patiently(ask: Asker, url: str) -> Reply:
        while (reply := await ask.once(url, "made")).status in (429, 503):
            assert check_body(reply.body)["issue"][0]["code"] in ("throttled", "transient")
            told.append((reply.status, int(reply.headers["Retry-After"])))
            await free.wait()
        return reply

    urls = [f"/fhir/Patient/pat-7-{number}" for number in range(1, 61)]
    async with asking(practice, path, **limits) as ask, AsyncExitStack() as stack:
        await stack.enter_async_context(held(practice.database, "fhir.resource_patient"))
        tasks = [asyncio.create_task(patiently(ask, url)) for url in urls]
        await until(lambda: len(told) + len(ask.server.services.deadlines) >= len(urls))
        assert len(told) > len(urls) / 2
        assert set(told) == {(status, 1)}
        await stack.aclose()
        free.set()
        replies = await asyncio.gather(*tasks)
    assert [(reply.status, reply.path, reply.json["id"]) for reply in replies] == [(200, path, url[14:]) for url in urls]
