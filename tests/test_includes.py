"""_include and _revinclude: what a page brings beside its matches."""

from itertools import pairwise
from typing import Any

import pytest

from r4.search import INCLUSIONS_MAX
from storage.embedded import Cluster
from storage.searching.inclusions import DEPTH_MAX, INCLUDED_MAX
from tests.reading import reading
from tests.search_data import generated
from tests.search_model import Model
from tests.support import (
    PATHS,
    Asker,
    Home,
    add_tenant,
    build_home,
    bundle_of,
    delete,
    diagnosed,
    encounter,
    following,
    ids,
    included,
    patient,
    self_pairs,
)

MODEL = Model(generated())


def ref(name: str) -> dict[str, str]:
    return {"reference": name}


def _place(number: int) -> dict[str, Any]:
    above = {"partOf": ref(f"Location/l{number + 1}")} if number < 8 else {}
    return {"resourceType": "Location", "id": f"l{number}", "name": f"L{number}", "status": "active", **above}


DATA = [
    *(_place(number) for number in range(9)),
    {"resourceType": "Organization", "id": "o", "name": "O"},
    {"resourceType": "Practitioner", "id": "d"},
    {"resourceType": "Group", "id": "g", "type": "person", "actual": True},
    patient("a", managingOrganization=ref("Organization/o"), link=[{"other": ref("Patient/b"), "type": "refer"}]),
    patient("b", managingOrganization=ref("Organization/o"), link=[{"other": ref("Patient/a"), "type": "refer"}]),
    patient("gone"),
    encounter("e1", "2024-01-09", subject=ref("Patient/a"), participant=[{"individual": ref("Practitioner/d")}],
              location=[{"location": ref("Location/l0")}], partOf=ref("Encounter/e2")),
    encounter("e2", "2024-01-08", subject=ref("Patient/a"), participant=[{"individual": ref("Practitioner/d")}]),
    encounter("e3", "2024-01-07", subject=ref("Group/g"), participant=[{"individual": ref("RelatedPerson/nobody")}]),
    encounter("e4", "2024-01-06", subject=ref("Patient/gone")),
    encounter("e5", "2024-01-05", subject=ref("http://else/fhir/Patient/a"), partOf=ref("Encounter/e5")),
    encounter("e6", "2024-01-04", subject=ref("Patient/nobody")),
    {"resourceType": "Condition", "id": "c1", "subject": ref("Patient/a"), "encounter": ref("Encounter/e1")},
    {"resourceType": "Condition", "id": "c2", "subject": ref("Patient/gone"), "encounter": ref("Encounter/e4")},
]  # fmt: skip


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", DATA)
    home.keys["two"] = await add_tenant(home.database, "two", [patient("nobody"), patient("gone"), patient("a")])
    crowd = [encounter(f"e{n:04}", "2024-01-01", subject=ref(f"Patient/{'p' if n % 5 else 'q'}")) for n in range(1300)]
    home.keys["crowd"] = await add_tenant(home.database, "crowd", [patient("p"), patient("q"), *crowd])
    await delete(home.database, "one", ("Patient", "gone"))


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "includes", _fill)


LOCATIONS = [f"Location/l{number}" for number in range(9)]
BROUGHT = {
    "Encounter?_id=e1&_include=Encounter:patient": ["Patient/a"],
    "Encounter?_include=Encounter:patient": ["Patient/a"],
    "Encounter?_include=Encounter:patient:Patient": ["Patient/a"],
    "Encounter?_include=Encounter:patient:Group": [],
    "Encounter?_include=Encounter:subject": ["Group/g", "Patient/a"],
    "Encounter?_include=Encounter:subject:Group": ["Group/g"],
    "Encounter?_include=Encounter:practitioner": ["Practitioner/d"],
    "Encounter?_include=Encounter:participant": ["Practitioner/d"],
    "Encounter?_include=Encounter:patient&_include=Encounter:practitioner": ["Patient/a", "Practitioner/d"],
    "Encounter?_id=e1&_include=Encounter:*": ["Encounter/e2", "Location/l0", "Patient/a", "Practitioner/d"],
    "Encounter?_id=e1&_include=*": ["Encounter/e2", "Location/l0", "Patient/a", "Practitioner/d"],
    "Encounter?_id=e1&_include=Encounter:*:Location": ["Location/l0"],
    # A match is never an include too, nor what it leads to twice.
    "Encounter?_include=Encounter:part-of": [],
    "Encounter?_id=e1,e2&_include=Encounter:part-of": [],
    "Encounter?_id=e5&_include=Encounter:part-of": [],
    "Encounter?_id=e1&_include=Encounter:part-of": ["Encounter/e2"],
    "Encounter?_id=e1,e2&_include=Encounter:patient&_include=Encounter:subject&_include=Encounter:*:Patient": ["Patient/a"],
    # What is not there, was deleted, or is another server's or tenant's, is left out silently.
    "Encounter?_id=e4,e5,e6&_include=Encounter:patient": [],
    # The other way.
    "Patient?_id=a&_revinclude=Encounter:patient": ["Encounter/e1", "Encounter/e2"],
    "Patient?_id=a&_revinclude=Encounter:subject:Patient": ["Encounter/e1", "Encounter/e2"],
    "Patient?_id=a&_revinclude=Encounter:subject:Group": [],
    "Patient?_id=b&_revinclude=Encounter:patient": [],
    "Patient?_id=a&_revinclude=Condition:patient&_revinclude=Patient:link": ["Condition/c1", "Patient/b"],
    "Patient?_id=a&_revinclude=Patient:link": ["Patient/b"],
    "Patient?_revinclude=Patient:link": [],
    "Group?_revinclude=Encounter:subject": ["Encounter/e3"],
    "Patient?_id=a&_revinclude=Encounter:*": ["Encounter/e1", "Encounter/e2"],
    # Again, only where it is asked.
    "Encounter?_id=e1&_include=Encounter:patient&_include=Patient:organization": ["Patient/a"],
    "Encounter?_id=e1&_include=Encounter:patient&_include:iterate=Patient:organization": ["Organization/o", "Patient/a"],
    "Encounter?_id=e1&_include:iterate=Patient:organization": [],
    "Encounter?_id=e1&_include=Encounter:patient&_include=Patient:link": ["Patient/a"],
    "Encounter?_id=e1&_include=Encounter:patient&_include:iterate=Patient:link": ["Patient/a", "Patient/b"],
    "Patient?_id=a&_include:iterate=Patient:link": ["Patient/b"],
    "Encounter?_id=e2&_include=Encounter:patient&_revinclude:iterate=Condition:patient": ["Condition/c1", "Patient/a"],
    "Encounter?_id=e4&_include=Encounter:patient&_revinclude:iterate=Condition:patient": [],
    "Encounter?_id=e5&_include:iterate=Encounter:part-of": [],
    # In so many steps, and no more.
    "Encounter?_id=e1&_include=Encounter:location&_include:iterate=Location:partof": LOCATIONS[:DEPTH_MAX],
    "Location?_id=l0&_include=Location:partof": ["Location/l1"],
    "Location?_id=l0&_include:iterate=Location:partof": LOCATIONS[1 : DEPTH_MAX + 1],
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_brought(home: Home, path: str) -> None:
    """Rule 23: what the matches lead to and what leads to them, each once, never a match; again only by :iterate."""
    async with reading(home, path) as ask:
        for question, expected in BROUGHT.items():
            reply = await ask(f"/fhir/{question}")
            assert included(reply) == expected, question
            bundle_of(reply)


@pytest.mark.parametrize("path", PATHS)
async def test_refused_and_dropped(home: Home, path: str) -> None:
    """Rule 23: a malformed inclusion is refused; one that can bring nothing is dropped, or refused when handling is strict."""
    async with reading(home, path) as ask:
        for value in (
            "Encounter", "Encounter:", ":patient", "Encounter:patient:", "Encounter:patient:Patient:x", "encounter:patient",
            "**",
            "Encounter:patient:patient", "Encounter::Patient", ":", "Encounter:patient:*", "Encounter patient",
        ):  # fmt: skip
            for name in ("_include", "_revinclude", "_include:iterate"):
                reply = await ask(f"/fhir/Encounter?{name}={value.replace(' ', '%20')}")
                diagnosed(reply, 400, "invalid")
                assert reply.json["issue"][0]["expression"] == [name.partition(":")[0]]
        diagnosed(await ask("/encounters?_revinclude=*"), 400, "invalid")
        for name in ("_include:recurse", "_include:missing", "_revinclude:x"):
            diagnosed(await ask(f"/encounters?{name}=Encounter:patient"), 400, "invalid")
        for dropped in (
            "_include=Encounter:unknown", "_include=Encounter:status", "_include=Patient:link",
            "_include=Encounter:patient:Group",
            "_include=Unknown:patient", "_revinclude=Encounter:patient", "_revinclude=Claim:encounter:Patient",
            "_revinclude=Patient:family",
        ):  # fmt: skip
            reply = await ask(f"/encounters?{dropped}")
            assert (included(reply), self_pairs(reply)) == ([], [("_count", "20")]), dropped
            diagnosed(await ask(f"/encounters?{dropped}", Prefer="handling=strict"), 400, "invalid")
        assert len(ids(await ask("/encounters?_include=&_revinclude=", Prefer="handling=strict"))) == 6
        many = "&".join(["_include=Encounter:patient"] * INCLUSIONS_MAX)
        assert included(await ask(f"/encounters?{many}")) == ["Patient/a"]
        diagnosed(await ask(f"/encounters?{many}&_include=Encounter:patient"), 400, "invalid")


async def _pages(ask: Asker, url: str, tenant: str = "one") -> list[tuple[list[str], list[str]]]:
    """Each page's matches, and what it brings."""
    pages, step = [], url
    while step:
        reply = await ask(step, tenant)
        pages.append((ids(reply), included(reply)))
        step = following(reply) or ""
        assert len(pages) < 50
    return pages


@pytest.mark.parametrize("path", PATHS)
async def test_pages(home: Home, path: str) -> None:
    """Rule 14: each page brings what its own matches need, again if need be; includes do not count (Rules 12 and 13)."""
    async with reading(home, path) as ask:
        pages = await _pages(ask, "/encounters?_include=Encounter:patient&_include=Encounter:part-of&_count=1&_total=accurate")
        assert [match for matches, _ in pages for match in matches] == ["e1", "e2", "e3", "e4", "e5", "e6"]
        assert [brought for _, brought in pages] == [["Encounter/e2", "Patient/a"], ["Patient/a"], [], [], [], []]
        reply = await ask("/encounters?_include=Encounter:patient&_count=2&_total=accurate")
        assert (reply.json["total"], len(reply.json["entry"])) == (6, 3)
        sizes = [len(matches) for matches, _ in await _pages(ask, "/encounters?_include=Encounter:*&_sort=status&_count=4")]
        assert sizes == [4, 2]
        none = await ask("/encounters?_include=Encounter:patient&_count=0")
        assert (none.json["total"], "entry" in none.json) == (6, False)


@pytest.mark.parametrize("path", PATHS)
async def test_next_keeps_inclusions(home: Home, path: str) -> None:
    """Rule 14: next carries inclusions, order, subset and total; another inclusion is another list."""
    inclusions = "_include=Encounter:patient&_revinclude:iterate=Condition:patient"
    asked = f"{inclusions}&_sort=-status&_total=accurate&_elements=status&_count=2"
    async with reading(home, path) as ask:
        first = await ask(f"/encounters?{asked}")
        for link in first.json["link"]:
            rest = sorted(part for part in link["url"].partition("?")[2].split("&") if not part.startswith("_cursor="))
            assert rest == sorted(asked.split("&"))
        second = await ask(following(first) or "")
        assert (second.json["total"], ids(second)) == (6, ["e4", "e3"])
        cursor = (following(first) or "").rpartition("_cursor=")[2]
        diagnosed(await ask(f"/encounters?{asked.replace(':iterate', '')}&_cursor={cursor}"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_too_many(home: Home, path: str) -> None:
    """Rule 23: more than a page may bring is cut off, and an OperationOutcome entry says so; the Bundle stays valid."""
    async with reading(home, path) as ask:
        reply = await ask("/patients?_revinclude=Encounter:patient", "crowd")
        bundle = bundle_of(reply)
        *entries, last = bundle["entry"]
        assert (ids(reply), len(included(reply)), len(entries)) == (["p", "q"], INCLUDED_MAX, INCLUDED_MAX + 2)
        assert (last["search"], last["resource"]["resourceType"]) == ({"mode": "outcome"}, "OperationOutcome")
        assert "fullUrl" not in last
        (issue,) = last["resource"]["issue"]
        assert (issue["severity"], issue["code"]) == ("warning", "incomplete")
        assert included(reply) == sorted(included(reply))
        fewer = await ask("/patients?_revinclude=Encounter:patient&_id=q", "crowd")
        assert (len(included(fewer)), len(bundle_of(fewer)["entry"])) == (260, 261)
        for matches, brought in await _pages(ask, "/encounters?_include=Encounter:patient&_count=1000", "crowd"):
            assert brought == ["Patient/p", "Patient/q"]
            assert len(matches) in (1000, 300)


@pytest.mark.parametrize("path", PATHS)
async def test_includes_are_the_models(hospital: Home, path: str) -> None:
    """Rule 23: each way that there is from visits, and several at once, page by page."""
    ways = ["Encounter:*", "Encounter:location", "Encounter:participant", "Encounter:part-of"]
    back = ["Condition:encounter", "Claim:encounter", "Procedure:encounter", "Encounter:part-of"]
    again = ["Location:partof", "Patient:*", "Organization:partof", "Condition:subject"]
    sets = [
        *(((name, value),) for name, values in (("_include", ways), ("_revinclude", back)) for value in values),
        *((("_include", one), ("_include:iterate", other)) for one, other in pairwise([*ways[:1], *again])),
        *(
            (("_revinclude", one), ("_revinclude:iterate", other), ("_include:iterate", "Claim:*"))
            for one, other in pairwise(back)
        ),
    ]
    async with reading(hospital, path) as ask:
        for inclusions in sets:
            url = "/encounters?_count=13&" + "&".join(f"{name}={value}" for name, value in inclusions)
            for matches, brought in (await _pages(ask, url))[:3]:
                assert len(brought) == len(set(brought))
                assert set(brought) == MODEL.included("Encounter", matches, inclusions), inclusions
