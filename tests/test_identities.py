"""Who a claim speaks of: by identifier, whatever came first, and what was imported wins."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ingestion.fhir.importing import import_paths
from simulator.claims import facilities, generate
from storage.resources import Identifier
from tests.claim_text import submission
from tests.claims import BASE, Intake, intake

MRN = f"{BASE}/sid/mrn/DHA-F-0000001"
EMIRATES = f"{BASE}/sid/emirates-id"
SOMEBODY, OTHER, NOBODY = "784-1990-1234567-0", "784-1991-7654321-0", "999-9999-9999999-9"


async def patients(taken: Intake) -> dict[str, set[tuple[str, str]]]:
    """Identifiers of each patient that is there."""
    rows = await taken.rows("SELECT id, body FROM fhir.resource WHERE tenant_id = $1 AND type = 'Patient' AND NOT deleted")
    return {
        row["id"]: {(each["system"], each["value"]) for each in json.loads(row["body"]).get("identifier", [])} for row in rows
    }


async def subjects(taken: Intake) -> dict[str, str]:
    """Whose each claim is, as its Claim says."""
    rows = await taken.rows("SELECT body FROM fhir.resource WHERE tenant_id = $1 AND type = 'Claim' AND NOT deleted")
    claims = [json.loads(row["body"]) for row in rows]
    return {claim["identifier"][0]["value"]: claim["patient"]["reference"].partition("/")[2] for claim in claims}


async def brought(taken: Intake, tmp_path: Path, *resources: dict[str, Any]) -> None:
    """An import."""
    file = tmp_path / "import.ndjson"
    file.write_text("".join(json.dumps(resource) + "\n" for resource in resources))
    summary = await import_paths(
        taken.url, taken.tenant_id, [file], strict=True, progress=lambda _: None, report=lambda bad: pytest.fail(str(bad))
    )
    assert not summary.bad_lines


def person(number: str, system: str = EMIRATES, resource_id: str = "imported") -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": resource_id,
        "identifier": [{"system": system, "value": number}],
        "name": [{"family": "Placeholder"}],
    }


async def test_one_patient_of_two_numbers(database: str) -> None:
    """An Emirates ID that comes with a known record number belongs to that patient, who gains it."""
    async with intake(database) as taken:
        await taken.load(("1", submission("c1", emirates_id=NOBODY, mrn="m1")))
        await taken.load(("2", submission("c2", emirates_id=SOMEBODY, mrn="m1")))
        await taken.load(("3", submission("c3", emirates_id=SOMEBODY, mrn="m2")))
        assert list((await patients(taken)).values()) == [{(EMIRATES, SOMEBODY), (MRN, "m1"), (MRN, "m2")}]
        assert len(set((await subjects(taken)).values())) == 1


async def test_two_people_with_one_record_number(database: str) -> None:
    """Two Emirates IDs are two patients, also where a record number says otherwise."""
    async with intake(database) as taken:
        await taken.load(("1", submission("c1", emirates_id=SOMEBODY, mrn="m1")))
        await taken.load(("2", submission("c2", emirates_id=OTHER, mrn="m1")))
        whose = await subjects(taken)
        assert whose["c1"] != whose["c2"]
        assert len(await patients(taken)) == 2


async def test_nobody_is_matched_by_a_placeholder(database: str) -> None:
    """Placeholders never join two patients; without an encounter the patient is the claim's own."""
    async with intake(database) as taken:
        await taken.load(("1", submission("c1", emirates_id=NOBODY, mrn="m1")))
        await taken.load(("2", submission("c2", emirates_id=NOBODY, mrn="m2")))
        await taken.load(("3", submission("c3", emirates_id=NOBODY, mrn=None)))
        await taken.load(("4", submission("c4", emirates_id=NOBODY, mrn=None)))
        assert len(set((await subjects(taken)).values())) == 4
        assert sorted(map(len, (await patients(taken)).values())) == [0, 0, 1, 1]


async def test_imported_before(database: str, tmp_path: Path) -> None:
    """A claim of somebody who was imported is theirs, and changes nothing of what was imported."""
    async with intake(database) as taken:
        await brought(taken, tmp_path, person(SOMEBODY))
        await taken.load(("1", submission("c1", emirates_id=SOMEBODY, mrn="m1")))
        await taken.load(("2", submission("c2", emirates_id=NOBODY, mrn="m1")))
        assert await subjects(taken) == {"c1": "imported", "c2": "imported"}
        assert await patients(taken) == {"imported": {(EMIRATES, SOMEBODY)}}


async def test_imported_after(database: str, tmp_path: Path) -> None:
    """An import takes over what ingestion made for the same person: nothing refers to that any more, later claims included."""
    async with intake(database) as taken:
        await taken.load(("1", submission("c1", emirates_id=SOMEBODY, mrn="m1")))
        made = (await subjects(taken))["c1"]
        await brought(taken, tmp_path, person(SOMEBODY))
        await taken.load(("2", submission("c2", emirates_id=NOBODY, mrn="m1")))
        assert await subjects(taken) == {"c1": "imported", "c2": "imported"}
        assert (await patients(taken)).keys() == {"imported"}
        assert await taken.value("SELECT count(*) FROM fhir.reference WHERE tenant_id = $1 AND to_id = $2", made) == 0
        before = await taken.value("SELECT sum(version) FROM fhir.resource WHERE tenant_id = $1")
        await brought(taken, tmp_path, person(SOMEBODY))
        assert await taken.value("SELECT sum(version) FROM fhir.resource WHERE tenant_id = $1") == before


async def test_import_joins_two(database: str, tmp_path: Path) -> None:
    """Who was two patients by two numbers is one when an import says that both are theirs."""
    async with intake(database) as taken:
        await taken.load(("1", submission("c1", emirates_id=SOMEBODY, mrn="m1")))
        await taken.load(("2", submission("c2", emirates_id=NOBODY, mrn="m2")))
        both = person(SOMEBODY)
        both["identifier"].append({"system": MRN, "value": "m2"})
        await brought(taken, tmp_path, both)
        assert set((await subjects(taken)).values()) == {"imported"}
        assert (await patients(taken)).keys() == {"imported"}


async def test_imported_while_loading(database: str, tmp_path: Path) -> None:
    """Imports beside files of the same people: in the end nobody is there twice."""
    files = list(generate(5, facilities(1)[0], claims=120, claims_per_file=10))
    async with intake(database) as taken:
        await taken.load_all(files[:4])
        known = await taken.rows("SELECT code FROM claims.identity WHERE tenant_id = $1 AND system = $2", EMIRATES)
        people = [person(row["code"], resource_id=f"p{n}") for n, row in enumerate(known)]
        await asyncio.gather(taken.load_all(files[4:], at_once=3), brought(taken, tmp_path, *people))
        found = await patients(taken)
        numbers = [code for identifiers in found.values() for system, code in identifiers if system == EMIRATES]
        assert len(numbers) == len(set(numbers))
        assert {f"p{n}" for n in range(len(known))} <= found.keys()
        assert set((await subjects(taken)).values()) <= found.keys()


async def test_practitioners_are_shared(database: str) -> None:
    """A clinician's licence is one Practitioner for all of a tenant's facilities."""
    async with intake(database) as one, intake(database, "DHA-F-0000002") as two:
        await one.load(("1", submission("c1")))
        await two.load(("1", submission("c2")))
        rows = await one.rows("SELECT code FROM claims.identity WHERE tenant_id = $1 AND type = 'Practitioner'")
        assert len(rows) == 1
        assert await one.value("SELECT count(*) FROM fhir.resource WHERE tenant_id = $1 AND type = 'Practitioner'") == 1


def test_identifier_is_whole() -> None:
    """Two types with one system and code are two identifiers."""
    assert Identifier("Patient", "s", "c") != Identifier("Practitioner", "s", "c")
