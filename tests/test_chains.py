"""Chains and _has: searching by what a resource leads to, and by what leads to it."""

from typing import Any
from urllib.parse import quote

import pytest

from r4.criteria import DEPTH_MAX
from r4.search import HOPS_MAX
from storage.embedded import Cluster
from storage.searching import branches, lists
from tests.reading import reading
from tests.search_data import generated
from tests.search_model import Model
from tests.support import (
    PATHS,
    Asker,
    Home,
    add_tenant,
    build_home,
    delete,
    diagnosed,
    encounter,
    ids,
    patient,
    self_pairs,
    walk,
)

MODEL = Model(generated())


def ref(name: str) -> dict[str, str]:
    return {"reference": name}


DATA: list[dict[str, Any]] = [
    {"resourceType": "Organization", "id": "clinic", "name": "Clinic", "partOf": ref("Organization/trust")},
    {"resourceType": "Organization", "id": "trust", "name": "Trust", "identifier": [{"value": "t"}]},
    {"resourceType": "Practitioner", "id": "doc", "name": [{"family": "House"}], "gender": "male"},
    {"resourceType": "Practitioner", "id": "same", "name": [{"family": "Wilson"}]},
    {"resourceType": "Group", "id": "same", "type": "person", "actual": True, "identifier": [{"value": "g"}]},
    patient("same", name=[{"family": "Smith"}], gender="female", birthDate="1980",
            managingOrganization=ref("Organization/clinic"), generalPractitioner=[ref("Practitioner/doc")]),
    patient("other", name=[{"family": "Smith"}, {"family": "Jones"}], gender="male",
            link=[{"other": ref("Patient/same"), "type": "refer"}]),
    patient("gone", name=[{"family": "Smith"}], gender="female"),
    encounter("e1", "2024-01-01", subject=ref("Patient/same"), participant=[{"individual": ref("Practitioner/doc")}],
              status="planned"),
    encounter("e2", "2024-01-02", subject=ref("Patient/other"), partOf=ref("Encounter/e1")),
    encounter("e3", "2024-01-03", subject=ref("Group/same")),
    encounter("e4", "2024-01-04", subject=ref("Patient/gone")),
    encounter("e5", "2024-01-05", subject=ref("Patient/nobody")),
    encounter("e6", "2024-01-06", subject=ref("http://else/fhir/Patient/same"),
              participant=[{"individual": ref("Practitioner/same")}]),
    encounter("e7", "2024-01-07", subject={"identifier": {"value": "x"}}),
    {"resourceType": "Condition", "id": "c1", "subject": ref("Patient/same"), "encounter": ref("Encounter/e1"),
     "code": {"text": "Cough"}},
]  # fmt: skip


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", DATA)
    # What another tenant has of the same ids must not meet anything here.
    others = [patient("nobody", name=[{"family": "Smith"}]), patient("same", name=[{"family": "Zorn"}]), *DATA[:2]]
    home.keys["two"] = await add_tenant(home.database, "two", [*others, encounter("e9", subject=ref("Patient/same"))])
    await delete(home.database, "one", ("Patient", "gone"))


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "chains", _fill)


async def find(ask: Asker, question: str, tenant: str = "one") -> list[str]:
    return sorted(ids(await ask(f"/fhir/{quote(question, safe='/?&=:,$')}", tenant)))


FORWARD = {
    "Encounter?patient.family=smi": ["e1", "e2"],
    "Encounter?patient.name=smith&patient.family=jones": ["e2"],
    "Encounter?subject:Patient.family=Smith": ["e1", "e2"],
    "Encounter?subject.family=Smith": ["e1", "e2"],  # a Group has no family: there is but one it can be
    "Encounter?subject:Group.identifier=g": ["e3"],
    "Encounter?patient:Patient.birthdate=ge1980": ["e1"],
    "Encounter?patient.gender=male,female": ["e1", "e2"],
    "Encounter?patient.gender:not=male": ["e1"],
    "Encounter?patient.gender:not=nothing": ["e1", "e2"],
    "Encounter?patient.birthdate:missing=true": ["e2"],
    "Encounter?patient._id=same": ["e1"],
    "Encounter?patient._lastUpdated=2026": ["e1", "e2"],
    "Encounter?patient._id=nobody": [],
    "Encounter?patient._id=gone": [],
    "Encounter?patient.organization.name=clin": ["e1"],
    "Encounter?patient.organization.partof.name=trust": ["e1"],
    "Encounter?patient.organization.partof:Organization.identifier=t": ["e1"],
    "Encounter?patient.organization.partof.name=clinic": [],
    "Encounter?patient.link:Patient.gender=female": ["e2"],
    "Encounter?part-of.patient.family=smith": ["e2"],
    "Encounter?practitioner.family=house&patient.family=smith&status=planned": ["e1"],
    "Encounter?practitioner.family=wilson": ["e6"],
    "Encounter?participant.gender=male": ["e1"],
    "Encounter?patient.general-practitioner:Practitioner.family:contains=ous": ["e1"],
    "Encounter?patient.organization=Organization/clinic": ["e1"],
    "Encounter?patient.organization=clinic": ["e1"],
    "Patient?organization.partof=trust": ["same"],
}  # fmt: skip
BACKWARD = {
    "Patient?_has:Encounter:patient:status=planned": ["same"],
    "Patient?_has:Encounter:patient:status=planned,finished": ["other", "same"],
    "Patient?_has:Encounter:patient:status:not=planned": ["other"],
    "Patient?_has:Encounter:patient:date=sa2024-01-01": ["other"],
    "Patient?_has:Encounter:patient:practitioner=doc": ["same"],
    "Patient?_has:Encounter:patient:practitioner.family=house": ["same"],
    "Patient?_has:Encounter:subject:_id=e2": ["other"],
    "Patient?_has:Encounter:patient:_has:Condition:encounter:code:text=cough": ["same"],
    "Patient?_has:Encounter:patient:_has:Encounter:part-of:_id=e2": ["same"],
    "Patient?_has:Patient:link:gender=male": ["same"],
    "Patient?_has:Encounter:patient:status=planned&_has:Encounter:patient:status=finished": [],
    "Patient?_has:Encounter:patient:status=planned&family=smith&gender=female": ["same"],
    "Group?_has:Encounter:subject:date=ge2024": ["same"],
    "Practitioner?_has:Encounter:practitioner:patient.family=smith": ["doc"],
    "Practitioner?_has:Encounter:practitioner:status=finished": ["same"],
    "Practitioner?_has:Patient:general-practitioner:birthdate=1980": ["doc"],
    "Encounter?_has:Condition:encounter:_lastUpdated=2026": ["e1"],
    "Encounter?patient._has:Condition:patient:code:text=cough": ["e1"],
    "Organization?_has:Patient:organization:_has:Encounter:patient:status=planned": ["clinic"],
    "Patient/same/Encounter?practitioner.family=house": ["e1"],
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_forward(home: Home, path: str) -> None:
    """Rule 25: a chain finds by what a reference leads to, if it is there, in as many steps as are said."""
    async with reading(home, path) as ask:
        for question, expected in FORWARD.items():
            assert await find(ask, question) == expected, question
        assert await find(ask, "Encounter?patient.family=zorn", "two") == ["e9"]
        assert await find(ask, "Encounter?patient.family=zorn") == []


@pytest.mark.parametrize("path", PATHS)
async def test_backward(home: Home, path: str) -> None:
    """Rule 25: _has finds by what leads to a resource, nested and with chains; each _has may be met by another one."""
    async with reading(home, path) as ask:
        for question, expected in BACKWARD.items():
            assert await find(ask, question) == expected, question


@pytest.mark.parametrize("few", [branches.FEW, 2])
async def test_few_and_many(hospital: Home, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chain finds, in its order, over pages, does not depend on whether there are few or many to be looked through."""
    monkeypatch.setattr(branches, "FEW", few)
    monkeypatch.setattr(branches, "FEW_REFERRED", few)
    lists._list_statement.cache_clear()
    try:
        async with reading(hospital, "direct") as ask:
            for kind, name, value in (
                ("Encounter", "patient.gender", "female,male"),
                ("Encounter", "patient.family", "m,g"),
                ("Encounter", "practitioner.active", "true"),
                ("Encounter", "location-period", "ge2013"),
                ("Patient", "_has:Encounter:patient:status", "finished"),
                ("Patient", "_has:Encounter:patient:practitioner.gender:not", "male"),
                ("Patient", "family", "m,l,z"),
                ("Patient", "name:contains", "an"),
                ("Patient", "name:contains", "ann"),
                ("Patient", "birthdate", "ge1974"),
            ):
                expected = MODEL.found(kind, [(name, value)])
                assert len(expected) > 4, name
                pages = await walk(ask, f"/fhir/{kind}?{name}={value}&_count=4")
                assert [each for page in pages for each in page] == expected, name
    finally:
        lists._list_statement.cache_clear()


@pytest.mark.parametrize("path", PATHS)
async def test_ambiguous(home: Home, path: str) -> None:
    """Rule 18: a chain, or a bare id, that could be of several types is refused, in words that say how to ask."""
    async with reading(home, path) as ask:
        for question, hint in {
            "Encounter?subject.identifier=g": "subject:Patient.identifier",
            "Encounter?subject._id=same": "subject:Patient._id",
            "Account?subject.name=x": "subject:",
            "Patient?general-practitioner.name=x": "general-practitioner:Practitioner.name",
            "Encounter?subject=same": "subject:Type=id",
            "Patient?general-practitioner=doc": "general-practitioner:Type=id",
            "Patient?_has:Encounter:patient:subject=same": "subject:Type=id",
        }.items():
            reply = await ask(f"/fhir/{question}")
            assert hint in diagnosed(reply, 400, "invalid"), question
            assert len(reply.json["issue"][0]["expression"]) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_and_malformed(home: Home, path: str) -> None:
    """Rule 25: a chain of unknown parts is dropped, or refused when handling is strict; a malformed one is refused always."""
    dropped = (
        "patient.unknown=x", "unknown.family=x", "status.family=x", "patient.organization.unknown=x",
        "_has:Encounter:unknown:status=x",
        "_has:Unknown:patient:status=x", "_has:Encounter:status:status=x", "_has:Encounter:practitioner:status=x",
        "_id.family=x",
        "_has:Condition:encounter:unknown=x", "subject:Group.family=x", "_has=x",
    )  # fmt: skip
    refused = (
        "patient:Group.family=x", "patient:foo.family=x", "subject:identifier.family=x", "patient.family:foo=x",
        "patient.birthdate=x",
        "_has:Encounter=x", "_has:Encounter:patient=x", "_has::patient:status=x",
        "_has:Condition:encounter:code:foo=x",
        "patient.gender:exact=x", "patient.organization=a_b", "_has:Condition:encounter:recorded-date=x", "patient._id:not=a",
    )  # fmt: skip
    async with reading(home, path) as ask:
        for query in dropped:
            reply = await ask(f"/fhir/Encounter?{query}")
            assert len(ids(reply)) == 7, query
            assert self_pairs(reply) == [("_count", "20")], query
            diagnosed(await ask(f"/fhir/Encounter?{query}", Prefer="handling=strict"), 400, "invalid")
        for query in refused:
            diagnosed(await ask(f"/fhir/Encounter?{query}"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_length_is_limited(home: Home, path: str) -> None:
    """A chain, and all chains of a search together, have a limit; up to it they are answered."""
    deep = "part-of." * DEPTH_MAX
    async with reading(home, path) as ask:
        assert await find(ask, f"Encounter?{deep}status=planned") == []
        diagnosed(await ask(f"/encounters?{deep}part-of.status=planned"), 400, "invalid")
        assert await find(ask, f"Patient?{'_has:Patient:link:' * DEPTH_MAX}gender=male") == []
        diagnosed(await ask(f"/patients?{'_has:Patient:link:' * (DEPTH_MAX + 1)}gender=male"), 400, "invalid")
        many = "&".join(["patient.family=smith"] * HOPS_MAX)
        assert await find(ask, f"Encounter?{many}") == ["e1", "e2"]
        diagnosed(await ask(f"/encounters?{many}&patient.family=smith"), 400, "invalid")
