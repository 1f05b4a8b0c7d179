"""FHIR resources of claims: each line of the mapping, and that what is made is what a reader of its JSON would make of it."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import pytest

from base.errors import Invalid
from ingestion.claims import Diagnosis, Event, Observation, Resubmission, from_document, to_document
from ingestion.mapping.from_claims import (
    Identifier,
    Ids,
    Naming,
    clinical,
    financial,
    mentioned,
    organization,
    patient,
    patient_identifiers,
    practitioner,
)
from ingestion.settling.history import Settled, settle
from r4.indexing import index, rank
from r4.resource import MAX_BYTES, Resource, made, split, stamp
from r4.review import money_meta
from storage.embedded import Cluster
from storage.resources import Batch, upsert
from tests.claim_makers import (
    ACTIVITY_TYPES,
    ENCOUNTER_TYPES,
    PAYER,
    PROVIDER,
    SENDER,
    VISITED,
    activity,
    claim,
    event,
    history,
    line,
    remitted,
    visit,
)
from tests.clients import check_valid
from tests.support import NOW, PATHS, Home, add_tenant, asking, build_home, connected
from tests.test_people import references
from tests.test_review import money_of, names

Json = dict[str, Any]
NAMING = Naming(b"a key of sixteen")
BASE = "https://fhir.example.ae"
HL7 = "http://terminology.hl7.org/CodeSystem"
ACT_CODE = f"{HL7}/v3-ActCode"


def id_of(identifier: Identifier) -> str:
    return NAMING.id_of(identifier.type, identifier.system or "", identifier.code)


def derived(settled: Settled, naming: Naming = NAMING) -> list[Resource]:
    ids = Ids("who", {identifier: id_of(identifier) for identifier in mentioned(settled, naming)})
    return [*clinical(settled, ids, naming), *financial(settled, ids, naming)]


def bodies(*events: Event, naming: Naming = NAMING) -> dict[str, list[Json]]:
    """By type, as they are served, digits and all."""
    found: dict[str, list[Json]] = {}
    for resource in derived(settle(events), naming):
        found.setdefault(resource.type, []).append(json.loads(served(resource), parse_float=Decimal))
    return found


def served(resource: Resource) -> bytes:
    return stamp(resource.type, resource.id, 1, NOW, resource.tail)


def of(kind: str, *events: Event) -> Json:
    (body,) = bodies(*events)[kind]
    return body


def coded(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def aed(value: str) -> Json:
    return {"value": Decimal(value), "currency": "AED"}


def amount(code: str, value: str, *, own: bool = False) -> Json:
    return {"category": coded(f"{BASE}/cs/adjudication" if own else f"{HL7}/adjudication", code), "amount": aed(value)}


def drawn(count: int, seed: int = 5) -> Iterator[Settled]:
    random = Random(seed)
    return (settle(history(random, number)) for number in range(count))


# What is made


MEMBERS: tuple[Json, ...] = (
    {},
    {"status": "finished", "period": {"start": "2026-01-01T00:00:00+04:00"}, "active": False, "x": None},
    {"net": [Decimal("64.80"), Decimal("0.00"), Decimal(-1), Decimal("1E-7")], "text": 'ü " \\ \t لا', "n": 7},
    {"a": msgspec.Raw(b'{"value":5.60}')},
)


@pytest.mark.parametrize("members", MEMBERS)
def test_made_as_split(members: Json) -> None:
    """A resource that is made equals what `split` makes of the same JSON: tail, hash, and document but for decimals."""
    own = made("Encounter", "e-1", members)
    read = split(served(own).replace(b'"versionId":"1","lastUpdated":"2026-01-02T03:04:05.678Z"', b""))
    assert (own.type, own.id, own.tail, own.sha256) == (read.type, read.id, read.tail, read.sha256)
    document = msgspec.json.decode(msgspec.json.Encoder(decimal_format="number").encode(own.document))
    assert document == {name: value for name, value in read.document.items() if name != "meta"}


def test_too_large_to_be_made() -> None:
    """What could not be kept is refused, as when it comes in."""
    with pytest.raises(Invalid, match="larger than 16 MiB"):
        made("Claim", "c", {"text": "x" * MAX_BYTES})


def test_found_as_when_read() -> None:
    """A made resource is found by the very rows, and has the rank, of its JSON when that is imported."""
    for settled in drawn(150):
        for resource in derived(settled):
            read = split(served(resource))
            for of_made, of_read in zip(*map(msgspec.structs.astuple, (index(resource), index(read))), strict=True):
                assert set(of_made) == set(of_read), resource.type
            assert rank(resource) == rank(read)


def test_every_resource_is_valid() -> None:
    """Whatever the codes, texts and amounts of a claim, its resources are valid FHIR by the standard's models."""
    for settled in drawn(60):
        for resource in derived(settled):
            check_valid(json.loads(served(resource)))
    for kind, make in (("Practitioner", practitioner), ("Organization", organization)):
        check_valid(json.loads(served(make("x", Identifier(kind, "urn:x", "y"), NAMING))))
    for identifiers in (patient_identifiers(claim(), NAMING), ()):
        check_valid(json.loads(served(patient("x", identifiers, NAMING))))


def test_same_bytes() -> None:
    """A claim gives the same bytes again, also from storage and in whatever order its files came; another key, other ids."""
    random = Random(3)
    for number in range(60):
        events = history(random, number)
        stored = [from_document(to_document(each)) for each in events]
        random.shuffle(stored)
        first, again = derived(settle(events)), derived(settle(stored))
        assert [(each.type, each.id, each.sha256) for each in first] == [(each.type, each.id, each.sha256) for each in again]
        assert len({(each.type, each.id) for each in first}) == len(first)
        other = derived(settle(events), Naming(b"another sixteen!"))
        assert {each.id for each in first}.isdisjoint(each.id for each in other)


def test_mentioned_is_referred_to() -> None:
    """The practitioners and organizations that are named are enough for all that the resources refer to."""
    for settled in drawn(100):
        wanted = {f"{identifier.type}/{id_of(identifier)}" for identifier in mentioned(settled, NAMING)}
        resources = derived(settled)
        own = {f"{resource.type}/{resource.id}" for resource in resources} | {"Patient/who"}
        assert {target for each in resources for target in references(json.loads(served(each)))} <= wanted | own


def test_ids_need_the_key() -> None:
    """Ids depend on the secret and on where the parts of a key end, are ids by FHIR, and a short secret is refused."""
    assert NAMING.id_of("Claim", "a", "bc") != NAMING.id_of("Claim", "ab", "c")
    assert NAMING.id_of("Claim", "a") != Naming(b"b key of sixteen").id_of("Claim", "a")
    assert len(NAMING.id_of("Claim", "a")) == 32
    assert "sixteen" not in repr(NAMING)
    for key in (b"", b"short", b"x" * 65):
        with pytest.raises(ValueError, match="a key has"):
            Naming(key)


def test_base() -> None:
    """Systems stand under the base that is given."""
    naming = Naming(b"a key of sixteen", "https://house.example/x")
    body = bodies(event(claim()), naming=naming)["Encounter"][0]
    assert body["identifier"][0]["system"] == "https://house.example/x/sid/claim-encounter"
    assert body["type"][0]["coding"][0]["system"] == "https://house.example/x/cs/encounter-type"


# Who


@pytest.mark.parametrize(
    "number",
    [*(f"{p}-{rest}" for p in ("000", "111", "222", "999") for rest in ("0000-0000000-0", "1234-1234567-1")),
     "784-1990-1234567", "784199012345671", "x784-1990-1234567-1", "784-1990-1234567-1\n", "٧٨٤-1990-1234567-1", ""],
)  # fmt: skip
def test_no_emirates_id(number: str) -> None:
    """A placeholder, or what has not the form, identifies nobody: the record number does, and without a visit nothing."""
    (only,) = patient_identifiers(claim(emirates_id=number), NAMING)
    assert only == Identifier("Patient", f"{BASE}/sid/mrn/{PROVIDER}", "MRN-1")
    assert patient_identifiers(claim(emirates_id=number, encounter=None), NAMING) == ()


def test_patient() -> None:
    """A patient is identifiers alone, typed, as printed, and in one order however they are given."""
    found = patient_identifiers(claim(), NAMING)
    assert [identifier.code for identifier in found] == ["784-1990-0000001-1", "MRN-1"]
    body = json.loads(served(patient("p", reversed(found), NAMING)))
    assert body["identifier"] == [
        {"type": coded(f"{HL7}/v2-0203", "NI"), "system": f"{BASE}/sid/emirates-id", "value": "784-1990-0000001-1"},
        {"type": coded(f"{HL7}/v2-0203", "MR"), "system": f"{BASE}/sid/mrn/{PROVIDER}", "value": "MRN-1"},
    ]
    assert patient("p", found, NAMING).tail == patient("p", reversed(found), NAMING).tail
    assert set(body) == {"resourceType", "id", "meta", "identifier"}


def test_mentioned() -> None:
    """Named are clinicians, of remitted lines too, the provider, the facility, the senders and the payer."""
    said = claim(encounter=visit(facility_id="DHA-F-0000002"))
    answer = remitted(line(activity(clinician_id="DHA-P-00000002"), "1.00"))
    found = mentioned(settle([event(said, sender_id="DHA-F-0000003"), event(answer, 9)]), NAMING)
    clinicians = {Identifier("Practitioner", f"{BASE}/sid/dha-clinician", f"DHA-P-0000000{n}") for n in (1, 2)}
    facilities = {Identifier("Organization", f"{BASE}/sid/dha-facility", f"DHA-F-000000{n}") for n in ("1", "2", "3")}
    payers = {Identifier("Organization", f"{BASE}/sid/eclaimlink-payer", code) for code in (PAYER, SENDER)}
    assert found == clinicians | facilities | payers


def test_practitioner_and_organization() -> None:
    """A clinician's licence is typed as one; an organization has its number."""
    body = json.loads(served(practitioner("x", NAMING.clinician("DHA-P-1"), NAMING)))
    licence = {"type": coded(f"{HL7}/v2-0203", "MD"), "system": f"{BASE}/sid/dha-clinician", "value": "DHA-P-1"}
    assert body["identifier"] == [licence]
    body = json.loads(served(organization("x", NAMING.payer("INS001"), NAMING)))
    assert body["identifier"] == [{"system": f"{BASE}/sid/eclaimlink-payer", "value": "INS001"}]


# Submissions


def test_coverage() -> None:
    """A coverage is the member's with a payer and a package, one for all claims that say the same."""
    body = of("Coverage", event(claim(package_name="Gold")))
    number = {"type": coded(f"{HL7}/v2-0203", "MB"), "system": f"{BASE}/sid/member-id/{PAYER}", "value": "M-1"}
    assert (body["identifier"], body["subscriberId"], body["status"]) == ([number], "M-1", "active")
    assert body["beneficiary"] == {"reference": "Patient/who"}
    assert body["payor"] == [{"reference": f"Organization/{id_of(NAMING.payer(PAYER))}"}]
    assert body["class"] == [{"type": coded(f"{HL7}/coverage-class", "plan"), "value": "Gold"}]
    assert of("Coverage", event(claim(package_name="Gold", id="C2"))) == body
    others = [claim(), claim(member_id="M-2"), claim(payer_id="INS002"), claim(member_id=None)]
    assert len({of("Coverage", event(other))["id"] for other in others} | {body["id"]}) == 5


def test_self_pay() -> None:
    """The word for no insurance is nobody's number."""
    body = of("Coverage", event(claim(member_id="SelfPay")))
    assert "identifier" not in body
    assert "subscriberId" not in body
    assert body["type"] == coded(f"{HL7}/coverage-selfpay", "pay")


CLASSES = dict(zip(ENCOUNTER_TYPES, ("AMB", "EMER", "IMP", "IMP", "SS", "SS", *("AMB",) * 4, "HH", "HH", *("FLD",) * 3, "AMB"),
                   strict=True))  # fmt: skip


@pytest.mark.parametrize("kind", ENCOUNTER_TYPES)
def test_encounter_class(kind: str) -> None:
    """The type keeps its own code and decides the class; through the emergency room is where the admitted came from."""
    body = of("Encounter", event(claim(encounter=visit(type=kind))))
    assert body["class"] == {"system": ACT_CODE, "code": CLASSES[kind]}
    assert body["type"] == [coded(f"{BASE}/cs/encounter-type", kind)]
    source = coded(f"{HL7}/admit-source", "emd") if kind in ("4", "6") else None
    assert body["hospitalization"].get("admitSource") == source


def test_encounter() -> None:
    """An encounter is known by provider and claim, is of its patient, facility and clinicians, and in Dubai's time."""
    activities = (activity(), activity("A2", clinician_id="DHA-P-00000002"), activity("A3"))
    facility = "DHA-F-0000002"
    body = of("Encounter", event(claim(activities=activities, encounter=visit(facility_id=facility))))
    assert body["identifier"] == [{"system": f"{BASE}/sid/claim-encounter", "value": f"{PROVIDER}|C1"}]
    assert body["period"] == {"start": "2026-02-28T01:15:00+04:00", "end": "2026-02-28T02:15:00+04:00"}
    assert body["subject"] == {"reference": "Patient/who"}
    assert body["serviceProvider"] == {"reference": f"Organization/{id_of(NAMING.facility(facility))}"}
    people = [id_of(NAMING.clinician(f"DHA-P-0000000{n}")) for n in (1, 2)]
    assert body["participant"] == [{"individual": {"reference": f"Practitioner/{who}"}} for who in people]


@pytest.mark.parametrize(
    ("kind", "ended", "end_type", "status"),
    [("1", True, "1", "finished"), ("1", False, None, "finished"), ("3", True, "1", "finished"),
     *((kind, False, None, "in-progress") for kind in "3456"), *((kind, True, "6", "in-progress") for kind in "13")],
)  # fmt: skip
def test_encounter_status(kind: str, ended: bool, end_type: str | None, status: str) -> None:
    """Who is not discharged, or stays and no end is told, is there still."""
    end = VISITED + timedelta(hours=1) if ended else None
    assert of("Encounter", event(claim(encounter=visit(type=kind, end=end, end_type=end_type))))["status"] == status


def test_ended_before_it_began() -> None:
    """An end before the start is left out, for FHIR allows none; the encounter is found by its start."""
    body = of("Encounter", event(claim(encounter=visit(end=VISITED - timedelta(minutes=1)))))
    assert body["period"] == {"start": "2026-02-28T01:15:00+04:00"}
    assert body["status"] == "finished"


@pytest.mark.parametrize(
    ("start", "priority", "sources"),
    [(None, None, []), ("1", "EL", []), ("2", "EM", []), ("3", None, ["hosp-trans"]), ("4", None, ["born"]),
     ("5", None, ["own 5"]), ("6", None, ["own 6"]), ("7", None, ["own 7"]), ("88", None, ["own 88"])],
)  # fmt: skip
def test_start_types(start: str | None, priority: str | None, sources: list[str]) -> None:
    """How it started is a priority or a source; what FHIR has no code for keeps its own."""
    for kind, before in (("3", []), ("4", ["emd"])):
        body = of("Encounter", event(claim(encounter=visit(type=kind, start_type=start))))
        assert body.get("priority") == (coded(f"{HL7}/v3-ActPriority", priority) if priority else None)
        found = body["hospitalization"].get("admitSource", {"coding": []})["coding"]
        own = [
            {"system": f"{BASE}/cs/encounter-start-type", "code": code[4:]}
            if code.startswith("own")
            else {"system": f"{HL7}/admit-source", "code": code}
            for code in [*before, *sources]
        ]
        assert found == own


@pytest.mark.parametrize(
    ("end", "codes"),
    [(None, None), ("1", ["home"]), ("2", ["aadvice"]), ("3", ["oth", "own 3"]), ("4", ["other-hcf"]), ("5", ["exp"]),
     ("6", None), ("7", ["long"]), ("8", ["oth", "own 8"]), ("99", ["own 99"])],
)  # fmt: skip
def test_end_types(end: str | None, codes: list[str] | None) -> None:
    """How it ended is a disposition; nothing is said of who was not discharged."""
    body = of("Encounter", event(claim(encounter=visit(end_type=end))))
    own = [
        {"system": f"{BASE}/cs/encounter-end-type", "code": code[4:]}
        if code.startswith("own")
        else {"system": f"{HL7}/discharge-disposition", "code": code}
        for code in codes or []
    ]
    assert body.get("hospitalization", {}).get("dischargeDisposition", {"coding": []})["coding"] == own


def test_transfers() -> None:
    """Where from and where to are identifiers of houses that need not be known."""
    body = of("Encounter", event(claim(encounter=visit(transfer_source="DHA-F-8", transfer_destination='"Home"'))))
    for name, value in (("origin", "DHA-F-8"), ("destination", '"Home"')):
        assert body["hospitalization"][name] == {"identifier": {"system": f"{BASE}/sid/dha-facility", "value": value}}


def test_diagnoses() -> None:
    """A diagnosis is a condition of the patient and the encounter, and stands in the claim with its type."""
    said = claim(diagnoses=tuple(Diagnosis(kind, f"J0{n}") for n, kind in enumerate(("Principal", "Secondary", "Admitting"))))
    found = bodies(event(said))
    kinds = [coded(f"{HL7}/ex-diagnosistype", "principal"), coded(f"{BASE}/cs/diagnosis-type", "Secondary"),
             coded(f"{HL7}/ex-diagnosistype", "admitting")]  # fmt: skip
    (encounter,) = found["Encounter"]
    for place, (condition, told, kind) in enumerate(
        zip(found["Condition"], found["Claim"][0]["diagnosis"], kinds, strict=True)
    ):
        code = coded("http://hl7.org/fhir/sid/icd-10-cm", f"J0{place}")
        assert told == {"sequence": place + 1, "diagnosisCodeableConcept": code, "type": [kind]}
        assert condition["code"] == code
        assert condition["subject"] == {"reference": "Patient/who"}
        assert condition["encounter"] == {"reference": f"Encounter/{encounter['id']}"}


def test_corrected_diagnoses() -> None:
    """A correction's diagnosis takes the place of the old one, and what it leaves out was entered in error."""
    wrong = claim(diagnoses=(Diagnosis("Principal", "J06.9"), Diagnosis("Secondary", "E11.9")))
    right = claim(diagnoses=(Diagnosis("Principal", "J45.909"),), resubmission=Resubmission("correction", ""))
    unheard = claim(diagnoses=(Diagnosis("Principal", "I10"),) * 3, resubmission=Resubmission("internal complaint", ""))
    before, after = (bodies(event(wrong), *more)["Condition"] for more in ((), (event(right, 5), event(unheard, 6))))
    assert [condition["id"] for condition in before] == [condition["id"] for condition in after]
    shown = [(body["code"]["coding"][0]["code"], body.get("verificationStatus")) for body in after]
    assert shown == [("J45.909", None), ("E11.9", coded(f"{HL7}/condition-ver-status", "entered-in-error"))]


def test_claim() -> None:
    """A claim has its number, parties, patient, coverage, team, gross and share, and the sum of its items."""
    activities = (activity(prior_authorization="AU1"), activity("A2", net=Decimal("0.10"), prior_authorization="AU1"))
    found = bodies(event(claim(activities=activities, net=Decimal("9.99"))))
    (body,) = found["Claim"]
    provider, payer = (id_of(each) for each in (NAMING.facility(PROVIDER), NAMING.payer(PAYER)))
    assert body["identifier"] == [{"system": f"{BASE}/sid/claim/{PROVIDER}", "value": "C1"}]
    assert (body["status"], body["use"], body["priority"]) == ("active", "claim", coded(f"{HL7}/processpriority", "normal"))
    assert body["created"] == "2026-03-02T00:30:00+04:00"
    assert body["patient"] == {"reference": "Patient/who"}
    assert body["provider"] == {"reference": f"Organization/{provider}"}
    assert body["insurer"] == {"reference": f"Organization/{payer}"}
    who = {"reference": f"Practitioner/{id_of(NAMING.clinician('DHA-P-00000001'))}"}
    assert body["careTeam"] == [{"sequence": 1, "provider": who}]
    coverage = {"reference": f"Coverage/{found['Coverage'][0]['id']}"}
    assert body["insurance"] == [{"sequence": 1, "focal": True, "coverage": coverage, "preAuthRef": ["AU1"]}]
    assert body["total"] == aed("64.90")
    assert [extension["valueMoney"] for extension in body["extension"]] == [aed("70.00"), aed("5.20")]


def test_items() -> None:
    """An item has its activity's place, id, day in Dubai, quantity and net, digits and all, and the encounter."""
    found = bodies(event(claim()))
    assert found["Claim"][0]["item"] == [
        {
            "extension": [{"url": f"{BASE}/StructureDefinition/activity-id", "valueString": "A1"}],
            "sequence": 1,
            "careTeamSequence": [1],
            "productOrService": coded("http://www.ama-assn.org/go/cpt", "99213"),
            "servicedDate": "2026-02-28",
            "quantity": {"value": Decimal("1.0")},
            "net": aed("64.80"),
            "encounter": [{"reference": f"Encounter/{found['Encounter'][0]['id']}"}],
        }
    ]
    (resource,) = (each for each in derived(settle([event(claim())])) if each.type == "Claim")
    assert b'"value":64.80,' in resource.tail
    assert b'"quantity":{"value":1.0}' in resource.tail


def test_codes_are_codes() -> None:
    """A code has no blanks at its ends and no two in a row, as FHIR has it, and where none is left there is no code."""
    (found,) = of("Claim", event(claim(activities=(activity(code="A  1\u00a0"),))))["item"]
    assert found["productOrService"]["coding"][0]["code"] == "A 1"
    (found,) = of("Claim", event(claim(activities=(activity(code="\u00a0"),))))["item"]
    assert found["productOrService"] == {"coding": [{"system": "http://www.ama-assn.org/go/cpt"}]}


SYSTEMS = ["http://www.ama-assn.org/go/cpt", "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets", f"{BASE}/cs/dha-drug",
           *(f"{BASE}/cs/activity-{n}" for n in (6, 8, 9, 10, 55))]  # fmt: skip


@pytest.mark.parametrize(("kind", "system"), [*zip(ACTIVITY_TYPES, SYSTEMS, strict=True)])
def test_services(kind: str, system: str) -> None:
    """Each type of activity has its system of codes."""
    (item,) = of("Claim", event(claim(activities=(activity(type=kind),))))["item"]
    assert item["productOrService"] == coded(system, "99213")


@pytest.mark.parametrize(
    ("visited", "kinds", "wanted"),
    [("3", "5", "institutional"), ("5", "6", "institutional"), ("1", "5", "pharmacy"), ("1", "55", "pharmacy"),
     ("2", "6", "oral"), ("1", "56", "professional"), ("12", "3", "professional"), (None, "5", "pharmacy"),
     (None, "3", "professional")],
)  # fmt: skip
def test_claim_types(visited: str | None, kinds: str, wanted: str) -> None:
    """Who stays makes a claim institutional; else drugs alone pharmacy, teeth alone oral, all other professional."""
    activities = tuple(activity(f"A{n}", type=kind) for n, kind in enumerate(kinds))
    said = claim(activities=activities, encounter=visit(type=visited) if visited else None)
    assert of("Claim", event(said))["type"] == coded(f"{HL7}/claim-type", wanted)


def test_no_encounter() -> None:
    """A claim without a visit has no encounter, nor do its items and conditions."""
    found = bodies(event(claim(encounter=None)), event(remitted(line(activity(), "1.00")), 9))
    assert "Encounter" not in found
    assert "Encounter/" not in str(found)


WARM = {"value": Decimal("37.20"), "unit": "Cel"}
OBSERVED = [
    (Observation("LOINC", "8310-5", "37.20", "Cel"), "http://loinc.org", {"valueQuantity": WARM}),
    (Observation("LOINC", "8310-5", "20260101", "Date"), "http://loinc.org", {"valueString": "20260101"}),
    (Observation("LOINC", "8310-5", "120/80"), "http://loinc.org", {"valueString": "120/80"}),
    (Observation("Text", "note", "12"), f"{BASE}/cs/observation-text", {"valueString": "12"}),
    (Observation("Universal Dental", "18"), f"{BASE}/cs/observation-universal-dental", {}),
    (Observation("File", "pdf", "JVBERi0x"), f"{BASE}/cs/observation-file", {}),
    (Observation("Text", "long", "x" * 9000), f"{BASE}/cs/observation-text", {"valueString": "x" * 1999 + "…"}),
]  # fmt: skip


@pytest.mark.parametrize(("observation", "system", "value"), OBSERVED)
def test_observations(observation: Observation, system: str, value: Json) -> None:
    """An observation is supporting information of its item: a quantity where it is one, else text, and not without end."""
    body = of("Claim", event(claim(activities=(activity(), activity("A2", observations=(observation,))))))
    code = {
        "sequence": 1,
        "category": coded(f"{HL7}/claiminformationcategory", "info"),
        "code": coded(system, observation.code),
    }
    assert body["supportingInfo"] == [{**code, **value}]
    assert [item.get("informationSequence") for item in body["item"]] == [None, [1]]


def test_resubmission() -> None:
    """A claim that was said again is related to itself before, tells why, and keeps its id and first day."""
    noted = (activity(observations=(Observation("Text", "t", "v"),)),)
    again = claim(activities=noted, resubmission=Resubmission("correction", "please"))
    before, after = of("Claim", event(claim())), of("Claim", event(claim()), event(again, 30))
    assert (after["id"], after["created"]) == (before["id"], before["created"])
    number = {"system": f"{BASE}/sid/claim/{PROVIDER}", "value": "C1"}
    prior = coded(f"{HL7}/ex-relatedclaimrelationship", "prior")
    assert after["related"] == [{"claim": {"identifier": number}, "relationship": prior}]
    assert after["supportingInfo"][0] == {
        "sequence": 1,
        "category": coded(f"{HL7}/claiminformationcategory", "related"),
        "code": coded(f"{BASE}/cs/resubmission-type", "correction"),
        "timingDate": "2026-04-01",
        "valueString": "please",
    }
    assert [information["sequence"] for information in after["supportingInfo"]] == [1, 2]
    assert after["item"][0]["informationSequence"] == [2]


# Remittances


def test_nothing_yet() -> None:
    """Before the submission nothing is made, and before the first remittance nothing that answers."""
    assert derived(settle([event(remitted(line(activity(), "1.00")))])) == []
    assert mentioned(settle([event(remitted(line(activity(), "1.00")))]), NAMING) == set()
    assert set(bodies(event(claim()))) == {"Coverage", "Encounter", "Condition", "Claim"}


def test_claim_response() -> None:
    """A remittance answers a claim: its numbers, sender, day, payment, and each line by its item."""
    answer = remitted(
        line(
            activity(),
            "50.00",
            patient_share=Decimal("5.00"),
            gross=Decimal("70.00"),
            list=Decimal("80.00"),
            denial_code="MNEC-003",
        ),
        date_settlement=VISITED + timedelta(days=30),
    )
    found = bodies(event(claim()), event(answer, 9))
    (body,) = found["ClaimResponse"]
    assert body["identifier"] == [
        {"system": f"{BASE}/sid/remittance", "value": "F9|C1"},
        {"system": f"{BASE}/sid/payer-claim/{SENDER}", "value": "P-77"},
    ]
    assert body["request"] == {"reference": f"Claim/{found['Claim'][0]['id']}"}
    assert body["patient"] == {"reference": "Patient/who"}
    assert body["insurer"] == {"reference": f"Organization/{id_of(NAMING.payer(SENDER))}"}
    assert (body["created"], body["outcome"]) == ("2026-03-11T00:30:00+04:00", "complete")
    assert (body["disposition"], body["use"], body["type"]) == ("PARTIALLY_PAID", "claim", found["Claim"][0]["type"])
    assert body["payment"] == {
        "type": coded(f"{HL7}/ex-paymenttype", "partial"),
        "amount": aed("50.00"),
        "date": "2026-03-30",
        "identifier": {"system": f"{BASE}/sid/payment-reference", "value": "PAY-1"},
    }
    paid = {**amount("benefit", "50.00"), "reason": coded(f"{BASE}/cs/denial-code", "MNEC-003")}
    asked = [amount("submitted", "64.80"), paid, amount("copay", "5.00"), amount("gross", "70.00", own=True)]
    assert body["item"] == [{"itemSequence": 1, "adjudication": [*asked, amount("list", "80.00", own=True)]}]


@pytest.mark.parametrize(("payments", "kind"), [(["64.80"], "complete"), (["64.79"], "partial"), (["-64.80"], "partial"),
                                                (["0.00"], "partial"), (["64.80", "-0.01"], "partial")])  # fmt: skip
def test_payment_type(payments: list[str], kind: str) -> None:
    """A payment is complete when it is all that its lines ask for."""
    lines = [line(activity(f"A{n}", net=Decimal("0.00") if n else Decimal("64.80")), paid) for n, paid in enumerate(payments)]
    body = of("ClaimResponse", event(claim()), event(remitted(*lines, payment_reference="", id_payer=""), 9))
    total = sum((Decimal(paid) for paid in payments), Decimal(0))
    assert body["payment"] == {"type": coded(f"{HL7}/ex-paymenttype", kind), "amount": aed(str(total))}
    assert len(body["identifier"]) == 1


def test_one_response_a_remittance() -> None:
    """Each remittance has a response of its own, also when one file says a claim twice; the explanation names the latest."""
    answers = [event(remitted(line(activity(), "30.00")), 9, 4), event(remitted(line(activity(), "34.80")), 9, 5)]
    found = bodies(event(claim()), *answers, event(remitted(line(activity(), "-64.80")), 20))
    responses = found["ClaimResponse"]
    assert len({body["id"] for body in responses}) == 3
    assert [body["disposition"] for body in responses] == ["PARTIALLY_PAID", "PAID", "TAKEN_BACK"]
    assert [body["payment"]["amount"] for body in responses] == [aed("30.00"), aed("34.80"), aed("-64.80")]
    assert found["ExplanationOfBenefit"][0]["claimResponse"] == {"reference": f"ClaimResponse/{responses[-1]['id']}"}


def test_partial_outcome() -> None:
    """An answer is partial when it omits what was submitted till then, and complete however little it pays."""
    both = (activity(), activity("A2"))
    added = claim(activities=(activity("A3"),), resubmission=Resubmission("correction", ""))
    events = [
        event(claim(activities=both)),
        event(remitted(line(both[0], "1.00")), 10),
        event(remitted(line(both[0], "0.00"), line(both[1], "0.00")), 20),
        event(added, 30),
    ]
    found = bodies(*events)
    assert [body["outcome"] for body in found["ClaimResponse"]] == ["partial", "complete"]
    assert found["ExplanationOfBenefit"][0]["outcome"] == "partial"
    assert bodies(*events[:3])["ExplanationOfBenefit"][0]["outcome"] == "complete"


def test_remitted_and_not_submitted() -> None:
    """A line of an activity that the claim has not is added, with its clinician."""
    stranger = activity("A9", clinician_id="DHA-P-00000009")
    body = of("ClaimResponse", event(claim()), event(remitted(line(stranger, "7.00"), denial_code="CLAI-012"), 9))
    assert "item" not in body
    (added,) = body["addItem"]
    assert added["extension"] == [{"url": f"{BASE}/StructureDefinition/activity-id", "valueString": "A9"}]
    assert added["provider"] == [{"reference": f"Practitioner/{id_of(NAMING.clinician('DHA-P-00000009'))}"}]
    assert added["adjudication"] == [amount("submitted", "64.80"), amount("benefit", "7.00")]
    assert body["adjudication"][0]["reason"] == coded(f"{BASE}/cs/denial-code", "CLAI-012")
    assert body["outcome"] == "partial"


def test_explanation() -> None:
    """What it came to: per item and in all, what is held, taken back, denied and overpaid, with the reason of a denial."""
    three = tuple(activity(f"A{n}", net=Decimal("10.00")) for n in (1, 2, 3))
    lines = (line(three[0], "11.00"), line(three[1], "6.00"), line(three[2], "0.00", denial_code="AUTH-001"))
    found = bodies(event(claim(activities=three)), event(remitted(*lines), 10), event(remitted(line(three[1], "-4.00")), 20))
    (body,) = found["ExplanationOfBenefit"]
    assert body["claim"] == {"reference": f"Claim/{found['Claim'][0]['id']}"}
    assert body["insurance"] == [{"focal": True, "coverage": found["Claim"][0]["insurance"][0]["coverage"]}]
    assert (body["created"], body["provider"]) == ("2026-03-22T00:30:00+04:00", found["Claim"][0]["provider"])
    assert body["insurer"] == found["Claim"][0]["insurer"]
    own = (("taken-back", "4.00"), ("denied", "10.00"), ("overpaid", "1.00"))
    totals = (("submitted", "30.00"), ("benefit", "12.00"), ("copay", "5.20"))
    assert body["total"] == [*(amount(*each) for each in totals), *(amount(*each, own=True) for each in own)]
    denied = {**amount("benefit", "0.00"), "reason": coded(f"{BASE}/cs/denial-code", "AUTH-001")}
    assert [item["adjudication"] for item in body["item"]] == [
        [amount("benefit", "10.00"), amount("overpaid", "1.00", own=True)],
        [amount("benefit", "2.00"), amount("taken-back", "4.00", own=True)],
        [denied, amount("denied", "10.00", own=True)],
    ]


def test_money_of_the_review() -> None:
    """Whatever happened to a claim, the money of its review is what is known of the claim, to the fils."""
    remitted_count = 0
    for settled in drawn(300, seed=8):
        resources = derived(settled)
        remitted_count += bool(settled.remittances)
        shown = money_of(money_meta((resource.type, served(resource)) for resource in resources))["AED"]
        amounts = settled.amounts
        parts = (amounts.net, amounts.held, amounts.taken_back, amounts.denied, amounts.pending)
        assert shown == dict(zip(("submitted", "paid", "taken-back", "denied", "pending"), parts, strict=True))
    assert 100 < remitted_count < 290


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    async def fill(home: Home) -> None:
        home.keys["one"] = await add_tenant(home.database, "one")
        async with connected(home.database) as connection, connection.transaction():
            tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = 'one'")
            await upsert(connection, tenant_id, Batch(_stored()), NOW)

    return build_home(cluster, template, "from_claims", fill)


def _stored() -> Sequence[Resource]:
    """A claim with its answers and all that they name, and another of the same patient."""
    story = [event(claim()), event(remitted(line(activity(), "30.00")), 9), event(remitted(line(activity(), "4.00")), 19)]
    both = [settle(story), settle([event(claim(id="C2"))])]
    found = {(each.type, each.id): each for settled in both for each in derived(settled)}
    for identifier in {each for settled in both for each in mentioned(settled, NAMING)}:
        make = practitioner if identifier.type == "Practitioner" else organization
        found[identifier.type, id_of(identifier)] = make(id_of(identifier), identifier, NAMING)
    found["Patient", "who"] = patient("who", patient_identifiers(claim(), NAMING), NAMING)
    return list(found.values())


@pytest.mark.parametrize("path", PATHS)
async def test_review_and_searches(home: Home, path: str) -> None:
    """From the encounter the review finds all of its claim and nothing of another; searches by encounter find money too."""
    found = bodies(event(claim()), event(remitted(line(activity(), "30.00")), 9), event(remitted(line(activity(), "4.00")), 19))
    encounter = found["Encounter"][0]["id"]
    own = {f"{kind}/{body['id']}" for kind, all_ in found.items() for body in all_}
    named = {("Patient", "who"), *((each.type, id_of(each)) for each in
             (NAMING.facility(PROVIDER), NAMING.clinician("DHA-P-00000001")))}  # fmt: skip
    async with asking(home, path) as ask:
        reply = await ask(f"/reviews/{encounter}")
        assert set(names(reply)) == own | {f"{kind}/{key}" for kind, key in named}
        for kind in ("Claim", "ExplanationOfBenefit", "Condition"):
            for query in (f"{kind}?encounter={encounter}", f"Encounter/{encounter}/{kind}"):
                assert names(await ask(f"/fhir/{query}")) == [f"{kind}/{body['id']}" for body in found[kind]]
        for query, kind in (
            (f"Claim?identifier={BASE}/sid/claim/{PROVIDER}|C1", "Claim"),
            (f"Encounter?identifier={BASE}/sid/claim-encounter|{PROVIDER}%5C%7CC1", "Encounter"),
            (f"ClaimResponse?identifier={BASE}/sid/remittance|F9%5C%7CC1", "ClaimResponse"),
        ):
            assert found[kind][0]["id"] in [name.split("/")[1] for name in names(await ask(f"/fhir/{query}"))]
