"""fhirpy, as it is published, against a running server: what it finds is what the database says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest
from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import (
    AuthorizationError,
    ForbiddenError,
    MultipleResourcesFound,
    OperationOutcome,
    ResourceNotFound,
)
from fhirpy.base.resource import BaseReference
from fhirpy.base.searchset import Raw

from storage.tenancy import create_key
from tests.clients import TENANTS, Base, Json, check_included, watched, world_of
from tests.support import PATHS, Home, connected, patient, store

KINDS = (AsyncFHIRClient, SyncFHIRClient)
pytestmark = [pytest.mark.parametrize("path", PATHS), pytest.mark.parametrize("kind", KINDS)]


@dataclass
class Client:
    """A client of either kind; a step is awaited, or done in a thread."""

    base: Base
    fhirpy: Any

    async def do(self, step: Callable[..., Any]) -> Any:
        if isinstance(self.fhirpy, SyncFHIRClient):
            return await asyncio.to_thread(step, self.fhirpy)
        return await step(self.fhirpy)

    async def all(self, step: Callable[..., Any]) -> list[str]:
        """The ids of all that a searchset finds."""
        return [found.id for found in await self.do(lambda fhir: step(fhir).fetch_all())]


@asynccontextmanager
async def connecting(practice: Home, path: str, kind: Any, tenant: str = "made", **more: Any) -> AsyncIterator[Client]:
    async with watched(practice, path) as base:
        yield Client(base, kind(base.url, authorization=base.bearer(tenant), **more))


@pytest.mark.parametrize("tenant", TENANTS)
async def test_all_pages(practice: Home, path: str, kind: Any, tenant: str) -> None:
    """fetch_all follows every page of every type to all that is stored, each once, and count says how many that is."""
    world = await world_of(practice, tenant)
    async with connecting(practice, path, kind, tenant) as client:
        for name, stored in world.items():
            size = max(len(stored) // 5, 2)
            found = await client.all(lambda fhir, name=name, size=size: fhir.resources(name).limit(size))
            assert sorted(found) == sorted(stored)
            assert len(client.base.pages()) == -(-len(stored) // size)
            assert await client.do(lambda fhir, name=name: fhir.resources(name).count()) == len(stored)
        assert await client.all(lambda fhir: fhir.resources("Patient").search(_id="none")) == []
        assert await client.do(lambda fhir: fhir.resources("Slot").count()) == 0


async def test_one_or_few(practice: Home, path: str, kind: Any) -> None:
    """A limit is a page's size, first is the first or None, and get gives what there is exactly one of."""
    stored = (await world_of(practice, "made"))["Patient"]
    first, second = list(stored)[:2]
    async with connecting(practice, path, kind) as client:
        page = await client.do(lambda fhir: fhir.resources("Patient").limit(7).fetch())
        assert [each.id for each in page] == list(stored)[:7]
        assert (await client.do(lambda fhir: fhir.resources("Patient").first())).serialize() == stored[first]
        assert await client.do(lambda fhir: fhir.resources("Patient").search(_id="none").first()) is None
        found = await client.do(lambda fhir: fhir.resources("Patient").search(_id=second).get())
        assert found.serialize() == stored[second]
        with pytest.warns(DeprecationWarning, match="parameter `id`"):
            assert (await client.do(lambda fhir: fhir.resources("Patient").get(id=second))).id == second
        assert await client.do(lambda fhir: fhir.get("Patient", second)) == stored[second]
        with pytest.raises(MultipleResourcesFound):
            await client.do(lambda fhir: fhir.resources("Patient").get())
        with pytest.raises(ResourceNotFound):
            await client.do(lambda fhir: fhir.resources("Patient").search(_id="none").get())


async def test_refresh(practice: Home, path: str, kind: Any) -> None:
    """To refresh sends a bare version: unchanged is a 304 that leaves the resource as it is, changed is the new one."""
    async with connecting(practice, path, kind, "few") as client, connected(practice.database) as connection:
        known = await client.do(lambda fhir: fhir.resources("Patient").search(_id="changing").get())
        was = known.serialize()
        await client.do(lambda _: known.refresh())
        assert (client.base.seen[-1].status, known.serialize()) == (304, was)
        await store(connection, "few", [patient("changing", active=not was["active"])])
        await client.do(lambda _: known.refresh())
        assert (client.base.seen[-1].status, known.active) == (200, not was["active"])
        assert int(known.meta.versionId) == int(was["meta"]["versionId"]) + 1


async def test_elements(practice: Home, path: str, kind: Any) -> None:
    """Elements come as asked for, with what is mandatory, tagged as a part; a part can be read anew as a whole."""
    async with connecting(practice, path, kind) as client:
        found = await client.do(lambda fhir: fhir.resources("Patient").elements("name").fetch_all())
        assert {frozenset(each) for each in found} == {frozenset({"resourceType", "id", "meta", "name"})}
        assert {each.meta.tag[0].code for each in found} == {"SUBSETTED"}
        visits = await client.do(lambda fhir: fhir.resources("Encounter").elements("subject").limit(100).fetch_all())
        assert {frozenset(each) for each in visits} == {frozenset({"resourceType", "id", "meta", "status", "class", "subject"})}
        whole = await client.do(lambda _: visits[0].to_reference().to_resource())
        assert whole.serialize() == (await world_of(practice, "made"))["Encounter"][visits[0].id]


async def test_includes(practice: Home, path: str, kind: Any) -> None:
    """Inclusions, forward and back, bring beside each page what its matches lead to or what leads to them, and no more."""
    world = await world_of(practice, "made")
    async with connecting(practice, path, kind) as client:
        await client.all(lambda fhir: fhir.resources("Encounter").include("Encounter", "patient").limit(33))
        for page in client.base.pages():
            check_included(page, world, "subject")
        await client.all(lambda fhir: fhir.resources("Encounter").include("Encounter", "subject", "Group").limit(100))
        assert {entry["search"]["mode"] for page in client.base.pages() for entry in page["entry"]} == {"match"}
        await client.all(lambda fhir: fhir.resources("Patient").revinclude("Encounter", "patient").limit(13))
        for page in client.base.pages():
            _check_revincluded(page, world["Encounter"])


async def test_iterated_includes(practice: Home, path: str, kind: Any) -> None:
    """What is included is led on from only when iterate is said."""
    async with connecting(practice, path, kind) as client:
        for iterate, brought in ((True, {"Encounter", "Patient", "Organization"}), (False, {"Encounter", "Patient"})):
            await client.do(
                lambda fhir, iterate=iterate: (
                    fhir.resources("Encounter")
                    .include("Encounter", "patient")
                    .include("Patient", "organization", iterate=iterate)
                    .fetch()
                )
            )
            (page,) = client.base.pages()
            assert {entry["resource"]["resourceType"] for entry in page["entry"]} == brought


def _check_revincluded(page: Json, visits: dict[str, Json]) -> None:
    modes: dict[str, set[str]] = {"match": set(), "include": set()}
    for entry in page["entry"]:
        modes[entry["search"]["mode"]].add(entry["resource"]["id"])
    theirs = {key for key, visit in visits.items() if visit["subject"]["reference"].partition("/")[2] in modes["match"]}
    assert modes["include"] == theirs


async def test_all_includes(practice: Home, path: str, kind: Any) -> None:
    """The bare wildcard includes whatever a search parameter of the matches leads to, and stands in the self link."""
    world = await world_of(practice, "made")
    async with connecting(practice, path, kind) as client:
        await client.do(lambda fhir: fhir.resources("Patient").include("*").limit(100).fetch())
        (page,) = client.base.pages()
        check_included(page, world, "managingOrganization")
        assert "_include=%2A" in page["link"][0]["url"]


async def test_finds(practice: Home, path: str, kind: Any) -> None:
    """Chains, _has, modifiers, prefixes and raw parameters find what the database says, written as fhirpy writes them."""
    world = await world_of(practice, "made")
    people, visits = world["Patient"], world["Encounter"]
    doctor = world["Practitioner"]["prac-7-2"]
    some = people["pat-7-16"]
    number = f"{some['identifier'][0]['system']}|{some['identifier'][0]['value']}"
    payer = world["Organization"]["payer-7-1"]

    def whose(key: str) -> Json:
        return people[visits[key]["subject"]["reference"].partition("/")[2]]

    def seen_with(**members: Any) -> list[str]:
        theirs = [visit for visit in visits.values() if all(visit[name] == value for name, value in members.items())]
        return sorted({visit["subject"]["reference"].partition("/")[2] for visit in theirs})

    def patients(fhir: Any) -> Any:
        return fhir.resources("Patient")

    def encounters(fhir: Any) -> Any:
        return fhir.resources("Encounter")

    born = {key: each["birthDate"] for key, each in people.items()}
    inpatient = visits["enc-7-1"]["class"]
    searches: list[tuple[Callable[[Any], Any], list[str]]] = [
        (
            lambda f: patients(f).search(birthdate__ge="1980", birthdate__lt="1990"),
            [k for k in people if born[k].startswith("198")],
        ),
        (lambda f: patients(f).search(birthdate__lt=date(1980, 5, 6)), [k for k in people if born[k] < "1980-05-06"]),
        (lambda f: patients(f).search(_lastUpdated__lt=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)), []),
        (lambda f: patients(f).search(gender__not="male"), [k for k in people if people[k]["gender"] != "male"]),
        (lambda f: patients(f).search(gender__not=["male", "female"]), []),
        (lambda f: patients(f).search(gender="male,female"), list(people)),
        (lambda f: patients(f).search(deceased__missing=True), list(people)),
        (lambda f: patients(f).search(active=True), [k for k in people if people[k]["active"]]),
        (lambda f: patients(f).search(identifier=number), [some["id"]]),
        (lambda f: patients(f).search(identifier__of_type=_of_type(some)), [some["id"]]),
        (
            lambda f: patients(f).search(address_city__exact="Dubai"),
            [k for k in people if people[k]["address"][0]["city"] == "Dubai"],
        ),
        (
            lambda f: patients(f).search(organization=f.resource("Organization", id="org-7-2")),
            [k for k in people if people[k]["managingOrganization"]["reference"] == "Organization/org-7-2"],
        ),
        (lambda f: patients(f).has("Encounter", "patient", status="planned"), seen_with(status="planned")),
        (
            lambda f: patients(f).search(Raw(**{"_has:Encounter:patient:class": f"{inpatient['system']}|{inpatient['code']}"})),
            seen_with(**{"class": inpatient}),
        ),
        (
            lambda f: patients(f).has("Encounter", "patient", "Condition", "encounter", clinical_status="active"),
            sorted({whose(c["encounter"]["reference"].partition("/")[2])["id"] for c in _active(world["Condition"])}),
        ),
        (lambda f: encounters(f).search(patient=some["id"]), [k for k in visits if whose(k) is some]),
        (lambda f: encounters(f).search(patient__gender="female"), [k for k in visits if whose(k)["gender"] == "female"]),
        (
            lambda f: encounters(f).search(subject__Patient__birthdate__ge="1990", status="finished"),
            [k for k in visits if whose(k)["birthDate"] >= "1990" and visits[k]["status"] == "finished"],
        ),
        (
            lambda f: encounters(f).search(practitioner__Practitioner__family__exact=doctor["name"][0]["family"]),
            [k for k in visits if visits[k]["participant"][0]["individual"]["reference"] == "Practitioner/prac-7-2"],
        ),
        (
            lambda f: encounters(f).search(type__text="short"),
            [k for k in visits if visits[k]["type"][0]["text"] == "short stay"],
        ),
        (
            lambda f: f.resources("Coverage").search(payor__Organization__name=payer["name"].partition(" ")[0]),
            [k for k, each in world["Coverage"].items() if each["payor"][0]["reference"] == "Organization/payer-7-1"],
        ),
    ]
    async with connecting(practice, path, kind) as client:
        for place, (search, expected) in enumerate(searches):
            assert sorted(await client.all(search)) == sorted(expected), place
            assert await client.do(lambda fhir, search=search: search(fhir).count()) == len(expected), place
    assert sum(bool(expected) for _, expected in searches) > len(searches) - 3


async def test_general_practitioner(practice: Home, path: str, kind: Any) -> None:
    """Underscores become hyphens: a patient is found by the general practitioner, and along a chain by the name."""
    async with connecting(practice, path, kind, "few") as client:
        doctor = await client.do(lambda fhir: fhir.resources("Practitioner").get())
        for criteria in (
            {"general_practitioner": "Practitioner/doctor"},
            {"general_practitioner": doctor},
            {"general_practitioner__Practitioner__name": "ahm"},
            {"general_practitioner__Practitioner__family__exact": "Ahmadi"},
        ):
            assert await client.all(lambda fhir, given=criteria: fhir.resources("Patient").search(**given)) == ["stays"]
        with pytest.raises(OperationOutcome, match="say which type is meant"):
            await client.all(lambda fhir: fhir.resources("Patient").search(general_practitioner__name="ahm"))


def _of_type(person: Json) -> str:
    number = person["identifier"][0]
    (coding,) = number["type"]["coding"]
    return f"{coding['system']}|{coding['code']}|{number['value']}"


def _active(conditions: dict[str, Json]) -> list[Json]:
    return [each for each in conditions.values() if each["clinicalStatus"]["coding"][0]["code"] == "active"]


async def test_sort(practice: Home, path: str, kind: Any) -> None:
    """A sort orders over all pages, downwards and upwards, and the id decides between equals."""
    people = (await world_of(practice, "made"))["Patient"]
    by_birth = sorted(people, key=lambda key: people[key]["birthDate"])
    by_family = sorted(people, key=lambda key: (people[key]["gender"], people[key]["birthDate"], key))
    async with connecting(practice, path, kind) as client:
        found = await client.all(lambda fhir: fhir.resources("Patient").sort("-birthdate").limit(7))
        assert [people[key]["birthDate"] for key in found] == [people[key]["birthDate"] for key in reversed(by_birth)]
        assert sorted(found) == sorted(people)
        assert await client.all(lambda fhir: fhir.resources("Patient").sort("gender", "birthdate")) == by_family
        assert await client.all(lambda fhir: fhir.resources("Patient").sort("-_id")) == sorted(people, reverse=True)


async def test_posted_search(practice: Home, path: str, kind: Any) -> None:
    """A POST to _search with the parameters in the URL, an empty body, or a fetch give the same page."""
    asked = {"gender": ["female"], "birthdate": ["ge1980"], "_count": [9]}
    async with connecting(practice, path, kind) as client:
        posted = await client.do(lambda fhir: fhir.execute("Patient/_search", "post", params=asked))
        by_set = await client.do(lambda fhir: fhir.resources("Patient").execute("_search", "post", params=asked))
        got = await client.do(lambda fhir: fhir.execute("Patient", "get", params=asked))
        assert posted == by_set == got
        assert len(got["entry"]) == 9
        with pytest.raises(OperationOutcome) as refused:  # a form is what may stand in the body, JSON is not
            await client.do(lambda fhir: fhir.execute("Patient/_search", "post", data={"gender": "female"}))
        assert (client.base.seen[-1].status, _issue(refused.value)["code"]) == (415, "not-supported")


async def test_history(practice: Home, path: str, kind: Any) -> None:
    """The history of a resource has all its versions, the newest first, and each can be read; what is deleted has one."""
    async with connecting(practice, path, kind, "few") as client, connected(practice.database) as connection:
        for active in (True, False, True):
            await store(connection, "few", [patient("changing", active=active)])
        bundle = await client.do(lambda fhir: fhir.execute("Patient/changing/_history", "get"))
        versions = [entry.resource.meta.versionId for entry in bundle.entry]
        assert bundle.type == "history"
        assert versions == [str(number) for number in range(len(versions), 0, -1)]
        assert len(versions) >= 3
        assert await client.do(lambda fhir: fhir.get("Patient", "changing")) == bundle.entry[0].resource
        for entry in bundle.entry:
            of_version = f"Patient/changing/_history/{entry.resource.meta.versionId}"
            assert await client.do(lambda fhir, of_version=of_version: fhir.execute(of_version, "get")) == entry.resource
        gone = await client.do(lambda fhir: fhir.execute("Patient/gone/_history", "get"))
        assert [entry.request.method for entry in gone.entry] == ["DELETE", "PUT"]
        with pytest.raises(ResourceNotFound):
            await client.do(lambda fhir: fhir.execute("Patient/changing/_history/9999", "get"))


async def test_everything(practice: Home, path: str, kind: Any) -> None:
    """$everything of a patient has the patient and all visits; of an encounter the patient, the diagnoses and the claims."""
    world = await world_of(practice, "made")
    claim = next(iter(world["Claim"].values()))
    visit = world["Encounter"][claim["item"][0]["encounter"][0]["reference"].partition("/")[2]]
    person = visit["subject"]["reference"]
    async with connecting(practice, path, kind) as client:
        whole = await client.do(lambda fhir: fhir.execute(f"{person}/$everything", "get"))
        theirs = {f"Encounter/{key}" for key, each in world["Encounter"].items() if each["subject"]["reference"] == person}
        assert {person, *theirs, f"Claim/{claim['id']}"} <= _shown(whole)
        known = await client.do(lambda fhir: fhir.resources("Encounter").search(_id=visit["id"]).get())
        review = await client.do(lambda _: known.execute("$everything", "get"))
        conditions = {f"Condition/{key}" for key, c in world["Condition"].items() if c["encounter"] == _reference(visit)}
        assert {f"Encounter/{visit['id']}", person, f"Claim/{claim['id']}", *conditions} <= _shown(review)


def _reference(resource: Json) -> Json:
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def _shown(bundle: Json) -> set[str]:
    return {f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in bundle["entry"]}


@pytest.mark.parametrize("tenant", TENANTS)
async def test_references(practice: Home, path: str, kind: Any, tenant: str) -> None:
    """A reference out of any type of resource to any stored type resolves; one that leads nowhere is not found."""
    world = await world_of(practice, tenant)
    resolved: set[str] = set()
    async with connecting(practice, path, kind, tenant) as client:
        for name in world:
            page = await client.do(lambda fhir, name=name: fhir.resources(name).limit(40).fetch())
            for reference in {each.resource_type: each for found in page for each in _references(found)}.values():
                kind_of, key = reference.resource_type, reference.id
                if key in world.get(kind_of or "", {}):
                    found = await client.do(lambda _, reference=reference: reference.to_resource())
                    assert found.serialize() == world[kind_of][key]
                    resolved.add(kind_of)
                else:
                    with pytest.raises(ResourceNotFound):
                        await client.do(lambda _, reference=reference: reference.to_resource())
    assert resolved >= {"Patient", "Practitioner", "Organization", "Encounter", "Claim"}


def _references(value: object) -> list[Any]:
    if isinstance(value, BaseReference):
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [reference for member in members for reference in _references(member)]


async def test_refusals(practice: Home, path: str, kind: Any) -> None:
    """Each refusal is fhirpy's own exception, and the outcome that it bears names the parameter."""
    async with connected(practice.database) as connection:
        warmer = await create_key(connection, "few", ["warm"])
    async with connecting(practice, path, kind, "few") as client:
        for unknown in ("Patient/none", "Patient/gone", "Patients/stays", "Nothing/here/at/all"):
            with pytest.raises(ResourceNotFound):
                await client.do(lambda fhir, unknown=unknown: fhir.execute(unknown, "get"))
        assert [each.status for each in client.base.seen] == [404, 410, 404, 404]
        for param, value in (("birthdate", "23 May 2009"), ("gender:foo", "x"), ("_count", "-1"), ("_cursor", "x")):
            broken = Raw(**{param: value})
            with pytest.raises(OperationOutcome) as refused:
                await client.do(lambda fhir, broken=broken: fhir.resources("Patient").search(broken).fetch())
            issue = _issue(refused.value)
            assert (issue["code"], issue["expression"]) == ("invalid", [param.partition(":")[0]])
        with pytest.raises(OperationOutcome) as refused:
            await client.do(lambda fhir: fhir.resource("Patient", id="stays").save())
        assert (client.base.seen[-1].status, _issue(refused.value)["code"]) == (405, "not-supported")
        for key, error in (("Bearer nobody", AuthorizationError), (f"Bearer {warmer}", ForbiddenError)):
            with pytest.raises(error):
                await Client(client.base, kind(client.base.url, authorization=key)).do(
                    lambda fhir: fhir.get("Patient", "stays")
                )
        strict = Client(
            client.base, kind(client.base.url, client.base.bearer("few"), extra_headers={"Prefer": "handling=strict"})
        )
        with pytest.raises(OperationOutcome):
            await strict.do(lambda fhir: fhir.resources("Patient").search(unknown="x").fetch())
        assert len(await client.all(lambda fhir: fhir.resources("Patient").search(unknown="x"))) == 2


def _issue(error: OperationOutcome) -> Json:
    (issue,) = error.resource["issue"]
    return dict(issue)


async def test_capabilities(practice: Home, path: str, kind: Any) -> None:
    """The CapabilityStatement can be read without a key, and lists what a search may ask of a patient."""
    async with connecting(practice, path, kind) as client:
        anonymous = Client(client.base, kind(client.base.url))
        statement = await anonymous.do(lambda fhir: fhir.execute("metadata", "get"))
        (of_patient,) = [each for each in statement["rest"][0]["resource"] if each["type"] == "Patient"]
        assert {"birthdate", "name", "general-practitioner"} <= {param["name"] for param in of_patient["searchParam"]}
        await client.do(lambda fhir: fhir.resources("Patient").first())
