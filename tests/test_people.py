import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from simulator.people import PLACEHOLDERS, emirates_id, luhn, resources
from simulator.people_catalogue import CASES

TODAY = date(2026, 6, 1)
FHIR_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")

Json = dict[str, Any]
World = dict[str, list[Json]]


def made(seed: int = 7, patients: int = 60, practitioners: int = 10, encounters: int = 240) -> list[bytes]:
    counts = {"patients": patients, "practitioners": practitioners, "encounters": encounters}
    return list(resources(seed, today=TODAY, **counts))


@pytest.fixture(scope="module")
def world() -> World:
    by_type: World = defaultdict(list)
    for line in made():
        resource = json.loads(line, parse_float=Decimal)
        by_type[resource["resourceType"]].append(resource)
    return by_type


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from [member] if name == "reference" else references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def fils(resource: Json, category: str) -> Decimal:
    (total,) = (t["amount"]["value"] for t in resource["total"] if t["category"]["coding"][0]["code"] == category)
    return Decimal(total)


def test_same_seed_same_bytes() -> None:
    """The seed decides every byte, and another seed gives other resources with other ids."""
    first, again, other = made(7), made(7), made(8)
    assert first == again
    assert {json.loads(line)["id"] for line in first}.isdisjoint(json.loads(line)["id"] for line in other)


def test_every_resource_is_valid() -> None:
    """Every generated resource is valid FHIR R4B by the published models, and on one compact line."""
    for line in made():
        resource = json.loads(line)
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        assert FHIR_ID.fullmatch(resource["id"])
        assert b"\n" not in line
        assert b": " not in re.sub(rb'"[^"]*"', b"", line)


def test_counts(world: World) -> None:
    """As many patients, practitioners and encounters come as were asked for, each with an id of its own."""
    assert [len(world[kind]) for kind in ("Patient", "Practitioner", "Encounter")] == [60, 10, 240]
    ids = [(kind, resource["id"]) for kind, all_ in world.items() for resource in all_]
    assert len(ids) == len(set(ids))
    assert {len([o for o in world["Organization"] if o["id"].startswith("org-")])} <= {1, 2, 3}


def test_none_asked_for() -> None:
    """Without patients there are still hospitals, and encounters of nobody are refused."""
    assert {json.loads(line)["resourceType"] for line in made(1, 0, 0, 0)} == {"Organization", "Location"}
    with pytest.raises(ValueError, match="a patient"):
        made(1, 0, 5, 1)


def test_references_lead_somewhere(world: World) -> None:
    """No reference dangles."""
    known = {f"{kind}/{resource['id']}" for kind, all_ in world.items() for resource in all_}
    assert set(references(dict(world))) <= known


def test_a_review_hangs_together(world: World) -> None:
    """An explanation, its response, its claim, coverage and encounter are all of one patient and one hospital."""
    by_reference = {f"{kind}/{resource['id']}": resource for kind, all_ in world.items() for resource in all_}
    assert len(world["ExplanationOfBenefit"]) > 50
    for explanation in world["ExplanationOfBenefit"]:
        claim = by_reference[explanation["claim"]["reference"]]
        response = by_reference[explanation["claimResponse"]["reference"]]
        assert response["request"] == explanation["claim"]
        (encounter,) = {by_reference[item["encounter"][0]["reference"]]["id"] for item in claim["item"]}
        visit = by_reference[f"Encounter/{encounter}"]
        coverage = by_reference[claim["insurance"][0]["coverage"]["reference"]]
        assert explanation["insurance"][0]["coverage"] == claim["insurance"][0]["coverage"]
        assert visit["status"] == "finished"
        assert explanation["patient"] == response["patient"] == claim["patient"] == visit["subject"]
        assert coverage["beneficiary"] == visit["subject"]
        assert coverage["payor"][0] == claim["insurer"] == response["insurer"] == explanation["insurer"]
        assert claim["provider"]["reference"] == visit["serviceProvider"]["reference"]
        assert visit["period"]["end"] <= claim["created"] < response["created"] < f"{TODAY}"


def test_money_adds_up(world: World) -> None:
    """A claim's total is the sum of its items in AED, and what was paid is the sum of the items' benefits."""
    claims = {claim["id"]: claim for claim in world["Claim"]}
    for claim in claims.values():
        assert all(item["net"]["value"] == item["unitPrice"]["value"] * item["quantity"]["value"] for item in claim["item"])
        assert claim["total"] == {"value": sum(item["net"]["value"] for item in claim["item"]), "currency": "AED"}
    for answer in (*world["ClaimResponse"], *world["ExplanationOfBenefit"]):
        amounts: Counter[str] = Counter()
        for item in answer["item"]:
            for adjudication in item["adjudication"]:
                amounts[adjudication["category"]["coding"][0]["code"]] += adjudication["amount"]["value"]
        assert amounts["submitted"] == fils(answer, "submitted") == claims[f"clm-{answer['id'][4:]}"]["total"]["value"]
        assert amounts["benefit"] == fils(answer, "benefit") <= amounts["submitted"]
        assert answer.get("payment", {"amount": {"value": 0}})["amount"]["value"] == amounts["benefit"]


def test_variety(world: World) -> None:
    """Classes, statuses, outcomes and scripts all occur, and most visits are finished."""
    visits = world["Encounter"]
    assert {visit["class"]["code"] for visit in visits} == {"AMB", "EMER", "IMP", "SS", "HH"}
    statuses = Counter(visit["status"] for visit in visits)
    assert set(statuses) == {"finished", "in-progress", "planned", "cancelled"}
    assert statuses["finished"] > 0.75 * len(visits)
    assert {response["disposition"] for response in world["ClaimResponse"]} == {"Paid in full", "Paid in part", "Rejected"}
    assert len(world["ClaimResponse"]) < len(world["Claim"]) < len(visits)
    assert 0 < len(world["Coverage"]) < len(world["Patient"])
    texts = "".join(name["text"] for patient in world["Patient"] for name in patient["name"])
    assert re.search("[\u0600-\u06ff]", texts)
    assert not re.search("[\u0400-\u04ff]", texts)


def test_periods() -> None:
    """A visit lies in the two years before today and has ended, unless it is in progress or planned."""
    today = datetime.fromisoformat(f"{TODAY}T00:00:00+04:00")
    # Many, for few are as near to an end of the two years as their stay is long.
    for visit in (json.loads(line) for line in made(encounters=4000) if b'"resourceType":"Encounter"' in line):
        start = datetime.fromisoformat(visit["period"]["start"])
        if visit["status"] == "in-progress":
            assert "end" not in visit["period"]
            assert today - timedelta(days=10) < start <= today
            continue
        end = datetime.fromisoformat(visit["period"]["end"])
        assert start < end
        if visit["status"] == "planned":
            assert today < start < today + timedelta(days=31)
        else:
            assert today - timedelta(days=730) <= start < end <= today


def test_luhn() -> None:
    """The check knows the textbook number from its neighbours."""
    assert luhn("7992-7398-713")
    assert not any(luhn(f"7992-7398-71{digit}") for digit in "012456789")


def test_no_emirates_id_can_be_anyones(world: World) -> None:
    """Every generated Emirates ID is a placeholder or fails the check that real ones pass."""
    of_patients = [
        identifier["value"]
        for patient in world["Patient"]
        for identifier in patient["identifier"]
        if identifier["system"].endswith("/emirates-id")
    ]
    assert len(of_patients) == len(world["Patient"])
    random = Random(1)
    drawn = [emirates_id(random, date(1980, 5, 5)) for _ in range(3000)]
    for value in of_patients + drawn:
        assert re.fullmatch(r"\d{3}-\d{4}-\d{7}-\d", value)
        assert value in PLACEHOLDERS or (value.startswith("784-") and not luhn(value))
    assert set(PLACEHOLDERS) < set(drawn)


def test_typical_sizes(world: World) -> None:
    """Patients and encounters are as large as real ones."""
    for kind in ("Patient", "Encounter"):
        sizes = sorted(len(json.dumps(resource, default=float, separators=(",", ":"))) for resource in world[kind])
        assert 700 < sizes[len(sizes) // 2] < 1500


def test_every_age_has_a_case() -> None:
    """There is a reason to come for an infant in every class."""
    assert all(any(case.min_age == 0 for case in cases) for cases in CASES.values())
