"""fhirclient, as it is published, against a running server: it validates strictly whatever it gets."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from fhirclient.client import FHIRClient
from fhirclient.models.bundle import Bundle
from fhirclient.models.encounter import Encounter
from fhirclient.models.operationoutcome import OperationOutcome
from fhirclient.models.organization import Organization
from fhirclient.models.patient import Patient
from fhirclient.models.practitioner import Practitioner
from fhirclient.server import FHIRNotFoundException, FHIRPermissionDeniedException, FHIRUnauthorizedException
from requests import HTTPError

from storage.tenancy import create_key
from tests.clients import TENANTS, Base, Json, check_included, watched, world_of
from tests.support import PATHS, Home, connected, patient, store

T = TypeVar("T")
pytestmark = pytest.mark.parametrize("path", PATHS)


@dataclass
class Client:
    """It blocks, so each step is done in a thread. It has no setting for a key: that is a header of its session."""

    base: Base
    smart: Any

    async def do(self, step: Callable[..., T]) -> T:
        return await asyncio.to_thread(step, self.smart.server)

    async def find(self, model: Any, struct: Json) -> list[Any]:
        """All that a search brings, page by page."""
        return await self.do(lambda server: list(model.where(struct=struct).perform_resources_iter(server)))

    async def ids(self, model: Any, struct: Json) -> list[str]:
        return sorted(found.id for found in await self.find(model, struct))

    def sign(self, bearer: str) -> None:
        self.smart.server.session.headers["Authorization"] = bearer


@asynccontextmanager
async def connecting(practice: Home, path: str, tenant: str = "made") -> AsyncIterator[Client]:
    async with watched(practice, path) as base:
        client = Client(base, FHIRClient(settings={"app_id": "tests", "api_base": base.url}))
        client.sign(base.bearer(tenant))
        yield client


def outcome_of(error: Any) -> Any:
    """What a refusal says, as its model."""
    return OperationOutcome(error.response.json())


def model_of(type_name: str) -> Any:
    return getattr(importlib.import_module(f"fhirclient.models.{type_name.lower()}"), type_name)


async def test_prepare(practice: Home, path: str) -> None:
    """It begins by reading the CapabilityStatement without credentials, and is ready; its types and base are ours."""
    world = await world_of(practice, "made")
    async with watched(practice, path) as base:
        client = Client(base, FHIRClient(settings={"app_id": "tests", "api_base": base.url}))
        assert await asyncio.to_thread(client.smart.prepare)
        assert [(each.target, "Authorization" in each.headers) for each in base.seen] == [("/fhir/metadata", False)]
        statement = await client.do(lambda server: server.capabilityStatement)
        assert (statement.fhirVersion, statement.implementation.url) == ("4.0.1", base.url)
        assert set(world) <= {each.type for each in statement.rest[0].resource}
        client.sign(base.bearer("made"))
        assert len(await client.find(Patient, {})) == len(world["Patient"])


@pytest.mark.parametrize("tenant", TENANTS)
async def test_all_pages(practice: Home, path: str, tenant: str) -> None:
    """Following the pages of every type brings all that is stored, each once and strictly valid."""
    world = await world_of(practice, tenant)
    async with connecting(practice, path, tenant) as client:
        for name, stored in world.items():
            assert await client.ids(model_of(name), {"_count": str(max(len(stored) // 5, 2))}) == sorted(stored)
            assert len(client.base.pages()) > (len(stored) > 2)


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("part", ["_summary=true", "_summary=text", "_summary=data", "_elements=subject,name"])
async def test_parts(practice: Home, path: str, tenant: str, part: str) -> None:
    """A part of a resource is still strictly valid, of every type: what is mandatory is there."""
    name, _, value = part.partition("=")
    async with connecting(practice, path, tenant) as client:
        for kind, stored in (await world_of(practice, tenant)).items():
            search = model_of(kind).where(struct={name: value, "_count": "200"})
            page = await client.do(lambda server, search=search: next(search.perform_iter(server)))
            assert len(page.entry) == min(len(stored), 200)
            assert {entry.resource.meta.tag[-1].code for entry in page.entry} == {"SUBSETTED"}


async def test_read(practice: Home, path: str) -> None:
    """A read is a valid resource of its type; unknown, deleted, without a key and not allowed are told apart."""
    async with connected(practice.database) as connection:
        warmer = await create_key(connection, "few", ["warm"])
    async with connecting(practice, path, "few") as client:
        found = await client.do(lambda server: Patient.read("stays", server))
        assert (found.id, found.relativePath()) == ("stays", "Patient/stays")
        with pytest.raises(FHIRNotFoundException) as unknown:
            await client.do(lambda server: Patient.read("none", server))
        assert outcome_of(unknown.value).issue[0].code == "not-found"
        with pytest.raises(HTTPError, match="410") as gone:
            await client.do(lambda server: Patient.read("gone", server))
        assert outcome_of(gone.value).issue[0].code == "deleted"
        for key, error in (("Bearer none", FHIRUnauthorizedException), (f"Bearer {warmer}", FHIRPermissionDeniedException)):
            client.sign(key)
            with pytest.raises(error) as refused:
                await client.do(lambda server: Patient.read("stays", server))
            assert outcome_of(refused.value).issue[0].severity == "error"


async def test_current_patient(practice: Home, path: str) -> None:
    """The patient that its settings name is read when it is asked for, and has a name to show."""
    stored = (await world_of(practice, "made"))["Patient"]["pat-7-16"]
    async with connecting(practice, path) as client:
        client.smart.patient_id = stored["id"]
        assert await asyncio.to_thread(client.smart.prepare)
        person = await client.do(lambda _: client.smart.patient)
        assert client.smart.human_name(person.name[0]).endswith(stored["name"][0]["family"])


async def test_structs(practice: Home, path: str) -> None:
    """Its search structures find what the database says: prefixes, either and both, missing, exact, and chains."""
    world = await world_of(practice, "made")
    people, visits = world["Patient"], world["Encounter"]
    some = people["pat-7-16"]
    family = some["name"][0]["family"]

    def born(key: str) -> str:
        return str(people[key]["birthDate"])

    def whose(key: str) -> Json:
        return people[visits[key]["subject"]["reference"].partition("/")[2]]

    of_people: list[tuple[Json, list[str]]] = [
        ({"birthdate": "ge1980"}, [key for key in people if born(key) >= "1980"]),
        ({"birthdate": {"$and": ["ge1980", "lt1990"]}}, [key for key in people if "1980" <= born(key) < "1990"]),
        ({"gender": {"$or": ["male", "female"]}}, list(people)),
        ({"family": {"$exact": family}}, [key for key in people if people[key]["name"][0]["family"] == family]),
        ({"deceased": {"$null": "true"}}, list(people)),
        ({"birthdate": {"$missing": "true"}}, []),
        ({"_id": f"{some['id']},none"}, [some["id"]]),
    ]
    of_visits: list[tuple[Json, list[str]]] = [
        ({"subject": {"$type": "Patient", "gender": "female"}}, [k for k in visits if whose(k)["gender"] == "female"]),
        ({"patient": {"birthdate": "lt1970"}}, [k for k in visits if whose(k)["birthDate"] < "1970"]),
        ({"subject": f"Patient/{some['id']}"}, [k for k in visits if whose(k) is some]),
        ({"status": "finished,planned"}, [k for k in visits if visits[k]["status"] in ("finished", "planned")]),
    ]
    async with connecting(practice, path) as client:
        for model, searches in ((Patient, of_people), (Encounter, of_visits)):
            for struct, expected in searches:
                assert await client.ids(model, struct) == sorted(expected), struct
    assert sum(bool(expected) for _, expected in of_people + of_visits) >= 9


async def test_legacy_operators(practice: Home, path: str) -> None:
    """Its operators are DSTU1's, `birthdate=>1980`: they are refused, with an outcome that names the parameter."""
    async with connecting(practice, path) as client:
        for operator in ("$gt", "$gte", "$lt", "$lte"):
            with pytest.raises(HTTPError, match="400") as refused:
                await client.find(Patient, {"birthdate": {operator: "1980"}})
            (issue,) = outcome_of(refused.value).issue
            assert (issue.code, issue.expression) == ("invalid", ["birthdate"])
        assert await client.find(Patient, {"birthdate": "ge1980"})


async def test_includes(practice: Home, path: str) -> None:
    """What is included comes with the pages, typed and each with its match; so does what leads to the matches."""
    world = await world_of(practice, "made")
    async with connecting(practice, path) as client:
        for struct in ({"_include": "Encounter:patient"}, {"_include": "Encounter:subject:Patient"}):
            found = await client.find(Encounter, struct)
            assert {type(each) for each in found} == {Encounter, Patient}
            assert sum(type(each) is Encounter for each in found) == len(world["Encounter"])
            for page in client.base.pages():
                check_included(page, world, "subject")
        search = Patient.where(struct={"_id": "pat-7-16"}).include("subject", Encounter, reverse=True)
        found = await client.do(lambda server: list(search.perform_resources_iter(server)))
        theirs = [key for key, each in world["Encounter"].items() if each["subject"]["reference"] == "Patient/pat-7-16"]
        assert sorted(each.id for each in found) == sorted([*theirs, "pat-7-16"])


async def test_resolved(practice: Home, path: str) -> None:
    """A reference resolves within the bundle by its full URL, without a request; else by a read of the other resource."""
    async with connecting(practice, path) as client:
        for struct, asked in (({"_include": "Encounter:patient"}, 0), ({}, 1)):
            bundle = await client.do(lambda server, struct=struct: next(Encounter.where(struct=struct).perform_iter(server)))
            visits = [entry.resource for entry in bundle.entry if entry.search.mode == "match"]
            assert len(visits) == 20
            client.base.seen.clear()
            for visit in visits:
                person = await client.do(lambda _, visit=visit: visit.subject.resolved(Patient))
                assert (type(person), f"Patient/{person.id}") == (Patient, visit.subject.reference)
            assert len(client.base.seen) == asked * len(visits)
        doctor = await client.do(lambda _: visits[0].participant[0].individual.resolved(Practitioner))
        house = await client.do(lambda _: visits[0].serviceProvider.resolved(Organization))
        assert (type(doctor), type(house)) == (Practitioner, Organization)


async def test_history(practice: Home, path: str) -> None:
    """A history and what was deleted in it are valid bundles, and a version is a valid resource."""
    async with connecting(practice, path, "few") as client, connected(practice.database) as connection:
        for active in (True, False):
            await store(connection, "few", [patient("changing", active=active)])
        history = await client.do(lambda server: Bundle.read_from("Patient/changing/_history", server))
        newest, before = [entry.resource for entry in history.entry][:2]
        assert (await client.do(lambda server: Patient.read("changing", server))).as_json() == newest.as_json()
        assert (newest.active, before.active) == (False, True)
        of_version = f"Patient/changing/_history/{before.meta.versionId}"
        assert (await client.do(lambda server: Patient.read_from(of_version, server))).as_json() == before.as_json()
        gone = await client.do(lambda server: Bundle.read_from("Patient/gone/_history", server))
        assert (gone.type, [entry.request.method for entry in gone.entry]) == ("history", ["DELETE", "PUT"])


@pytest.mark.parametrize("tenant", TENANTS)
async def test_everything(practice: Home, path: str, tenant: str) -> None:
    """$everything of any patient and any encounter is a valid bundle that has it first."""
    world = await world_of(practice, tenant)
    async with connecting(practice, path, tenant) as client:
        for name in ("Patient", "Encounter"):
            for key in list(world[name])[:: len(world[name]) // 12]:
                of_one = f"{name}/{key}/$everything"
                bundle = await client.do(lambda server, of_one=of_one: Bundle.read_from(of_one, server))
                assert (bundle.type, bundle.entry[0].resource.id) == ("searchset", key)
                assert bundle.entry[0].fullUrl == f"{client.base.url}/{name}/{key}"
