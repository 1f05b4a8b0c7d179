"""_summary and _elements, on searches and reads; the subset itself is test_subset.py's."""

from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from storage.embedded import Cluster
from tests.reading import reading
from tests.support import (
    JSON,
    PATHS,
    Home,
    add_tenant,
    build_home,
    bundle_of,
    diagnosed,
    encounter,
    following,
    ids,
    patient,
    self_pairs,
)

TAG = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
TEXT = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Ann Müller</div>'}
DATA = [
    patient("a", text=TEXT, name=[{"family": "Müller"}], gender="female", birthDate="1980", photo=[{"title": "x"}],
            contact=[{"name": {"family": "X"}}], meta={"tag": [{"system": "http://t", "code": "x"}]}),
    *(patient(f"p{n}", text=TEXT, name=[{"family": "Ng"}], photo=[{"title": "x"}]) for n in range(5)),
    encounter("e", "2024", text=TEXT, subject={"reference": "Patient/a"}, priority={"text": "high"}),
]  # fmt: skip
SUBSETS = {
    "_summary=true": ({"name", "gender", "birthDate"}, {"status", "class", "subject"}),
    "_summary=text": ({"text"}, {"text", "status", "class"}),
    "_summary=data": (
        {"name", "gender", "birthDate", "photo", "contact"},
        {"status", "class", "subject", "period", "priority"},
    ),
    "_elements=gender": ({"gender"}, {"status", "class"}),
    "_elements=name,subject": ({"name"}, {"status", "class", "subject"}),
    "_elements=Patient.name.family,Encounter.priority": ({"name"}, {"status", "class", "priority"}),
    "_elements=nothing": (set(), {"status", "class"}),
    "_elements=gender&_elements=birthDate": ({"gender", "birthDate"}, {"status", "class"}),
}
ALWAYS = {"resourceType", "id", "meta"}


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", DATA)


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "summaries", _fill)


def tags(resource: dict[str, Any]) -> list[str]:
    return [tag["code"] for tag in resource["meta"].get("tag", []) if tag["system"] == TAG]


@pytest.mark.parametrize("path", PATHS)
async def test_subsets(home: Home, path: str) -> None:
    """Rule 24: a search and a read give the same subset, mandatory elements kept, tagged SUBSETTED, of the whole's ETag."""
    async with reading(home, path) as ask:
        for query, (of_patient, of_visit) in SUBSETS.items():
            for kind, key, kept in (("Patient", "a", of_patient), ("Encounter", "e", of_visit)):
                reply = await ask(f"/fhir/{kind}/{key}?{query}")
                assert set(reply.json) == ALWAYS | kept, (kind, query)
                assert tags(reply.json) == ["SUBSETTED"]
                assert reply.headers["ETag"] == 'W/"1"'
                assert reply.headers["Content-Type"] == JSON
                get_fhir_model_class(kind).model_validate(reply.json)
                found = await ask(f"/fhir/{kind}?_id={key}&{query}")
                (entry,) = bundle_of(found)["entry"]
                assert entry["resource"] == reply.json
        assert {tag["code"] for tag in (await ask("/patients/a?_summary=data")).json["meta"]["tag"]} == {"x", "SUBSETTED"}


@pytest.mark.parametrize("path", PATHS)
async def test_whole(home: Home, path: str) -> None:
    """Rule 24: _summary=false and an empty _elements give the whole resource, without a tag."""
    async with reading(home, path) as ask:
        whole = await ask("/patients/a")
        for query in ("_summary=false", "_summary=", "_elements=", "_elements=,"):
            assert (await ask(f"/patients/a?{query}")).body == whole.body, query
            (entry,) = (await ask(f"/patients?_id=a&{query}")).json["entry"]
            assert entry["resource"] == whole.json


@pytest.mark.parametrize("path", PATHS)
async def test_count(home: Home, path: str) -> None:
    """Rule 12: _summary=count is _count=0: the total, no entry, and self as the only link."""
    async with reading(home, path) as ask:
        for query in (
            "_summary=count",
            "_count=0",
            "_summary=count&_count=3",
            "_count=0&_total=none",
            "_summary=count&_elements=name",
        ):
            for url in ("/patients", "/fhir/Patient", "/patients?family=ng&_include=Patient:organization&_sort=family"):
                reply = await ask(f"{url}{'&' if '?' in url else '?'}{query}")
                bundle = bundle_of(reply)
                assert bundle["total"] == (5 if "family" in url else 6), (url, query)
                assert "entry" not in bundle
                assert [link["relation"] for link in bundle["link"]] == ["self"]
        diagnosed(await ask("/patients/a?_summary=count"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_includes_stay_whole(home: Home, path: str) -> None:
    """Rule 24: a subset is the matches': what is included stays as it is; _include and _summary=text do not go together."""
    async with reading(home, path) as ask:
        whole = (await ask("/patients/a")).json
        for query in ("_elements=status", "_summary=true", "_summary=data"):
            match, brought = bundle_of(await ask(f"/encounters?{query}&_include=Encounter:patient"))["entry"]
            assert tags(match["resource"]) == ["SUBSETTED"]
            assert brought["resource"] == whole, query
            match, visit = bundle_of(await ask(f"/patients?_id=a&{query}&_revinclude=Encounter:patient"))["entry"]
            assert (tags(match["resource"]), tags(visit["resource"])) == (["SUBSETTED"], [])
        for name in ("_include=Encounter:patient", "_revinclude=Condition:encounter", "_include:iterate=Patient:link"):
            reply = await ask(f"/encounters?_summary=text&{name}")
            diagnosed(reply, 400, "invalid")
            assert reply.json["issue"][0]["expression"] == ["_summary"]
        assert ids(await ask("/encounters?_summary=text&_include=Encounter:status")) == ["e"]  # it was dropped


@pytest.mark.parametrize("path", PATHS)
async def test_pages_keep_it(home: Home, path: str) -> None:
    """Rule 24: the next page has the same subset."""
    async with reading(home, path) as ask:
        for query in ("_elements=name", "_summary=true"):
            first = await ask(f"/patients?{query}&_count=2&_sort=-family")
            second = await ask(following(first) or "")
            assert tuple(query.split("=")) in self_pairs(second)
            for reply in (first, second):
                assert {tuple(tags(entry["resource"])) for entry in reply.json["entry"]} == {("SUBSETTED",)}


@pytest.mark.parametrize("path", PATHS)
async def test_refused(home: Home, path: str) -> None:
    """Rule 24: an unknown summary, a name that is none, and both at once are refused, on searches and reads."""
    async with reading(home, path) as ask:
        for query in ("_summary=yes", "_summary=TRUE", "_elements=na me", "_elements=-name", "_summary=true&_elements=name",
                      "_summary=true&_summary=text", "_summary:x=true",
                      "_elements=" + ",".join(f"e{n}" for n in range(101))):  # fmt: skip
            for url in ("/patients", "/patients/a"):
                if query.startswith("_summary:") and url.endswith("/a"):
                    continue
                diagnosed(await ask(f"{url}?{query.replace(' ', '%20')}"), 400, "invalid")
