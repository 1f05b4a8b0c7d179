"""Of each type with search parameters of its own one resource that has them all, and one that has as little as it may.

What a parameter's value is, is read here by its path alone: nothing of the indexing is used.
"""

from collections.abc import Iterator
from typing import Any

from r4.parameters import Parameter
from tests.support import encounter

Json = dict[str, Any]
_FULL = "full"


def ref(target: str) -> Json:
    """A reference that is followed, and found by its identifier, too."""
    return {"reference": target, "identifier": {"system": "urn:refs", "value": target.replace("/", "-")}}


def concept(code: str, *, system: str = "urn:codes") -> Json:
    return {"coding": [{"system": system, "code": code, "display": f"Shown {code}"}], "text": f"Words of {code}"}


def _identifier(value: str) -> list[Json]:
    return [{"system": "urn:numbers", "value": value, "type": concept("MR", system="urn:kinds")}]


def _coding(code: str) -> Json:
    return {"system": "urn:codes", "code": code, "display": f"Shown {code}"}


_META: Json = {
    "profile": ["http://example.org/profile"],
    "source": "http://example.org/source",
    "security": [_coding("R")],
    "tag": [_coding("tagged")],
}
_ADDRESS: Json = {
    "use": "home", "line": ["Ring 1"], "city": "Wien", "state": "Vienna", "postalCode": "1010", "country": "Austria",
}  # fmt: skip
_PERSON: Json = {
    "active": True,
    "name": [{"family": "Smith-Jones", "given": ["Ada", "May"]}],
    "telecom": [{"system": "phone", "value": "555-1"}, {"system": "email", "value": "ada@example.org"}],
    "gender": "female",
    "address": [_ADDRESS],
}
_PERIOD: Json = {"start": "2024-05-01T08:00:00Z", "end": "2024-05-01T09:00:00Z"}
_UDI = [ref("Device/d")]
_ITEM: Json = {
    "sequence": 1,
    "productOrService": concept("visit"),
    "encounter": [ref("Encounter/full")],
    "udi": _UDI,
    "detail": [
        {
            "sequence": 1,
            "productOrService": concept("part"),
            "udi": _UDI,
            "subDetail": [{"sequence": 1, "productOrService": concept("piece"), "udi": _UDI}],
        }
    ],
}
_BILL: Json = {
    "status": "active",
    "type": concept("professional"),
    "use": "claim",
    "patient": ref("Patient/full"),
    "created": "2024-05-03",
    "enterer": ref("Practitioner/full"),
    "insurer": ref("Organization/full"),
    "provider": ref("Organization/full"),
    "facility": ref("Location/full"),
    "careTeam": [{"sequence": 1, "provider": ref("Practitioner/team")}],
    "procedure": [{"sequence": 1, "procedureCodeableConcept": concept("cut"), "udi": _UDI}],
    "item": [_ITEM],
}

_MEMBERS: dict[str, Json] = {
    "Patient": {
        **_PERSON,
        "birthDate": "1980-05-03",
        "deceasedDateTime": "2024-05-03",
        "generalPractitioner": [ref("Practitioner/full")],
        "communication": [{"language": concept("de")}],
        "link": [{"other": ref("Patient/bare"), "type": "seealso"}],
        "managingOrganization": ref("Organization/full"),
    },
    "Practitioner": {**_PERSON, "communication": [concept("de")]},
    "Encounter": {
        "subject": ref("Patient/full"),
        "period": _PERIOD,
        "type": [concept("checkup")],
        "class": _coding("AMB"),
        "participant": [{"type": [concept("ATND")], "individual": ref("Practitioner/full")}],
        "account": [ref("Account/full")],
        "appointment": [ref("Appointment/a")],
        "basedOn": [ref("ServiceRequest/s")],
        "diagnosis": [{"condition": ref("Condition/full")}, {"condition": ref("Procedure/full")}],
        "episodeOfCare": [ref("EpisodeOfCare/e")],
        "length": {"value": 5.60, "unit": "h", "system": "http://unitsofmeasure.org", "code": "h"},
        "location": [{"location": ref("Location/full"), "period": _PERIOD}],
        "partOf": ref("Encounter/bare"),
        "reasonCode": [concept("cough")],
        "reasonReference": [ref("Condition/full"), ref("Observation/o")],
        "serviceProvider": ref("Organization/full"),
        "hospitalization": {"specialArrangement": [concept("wheel")]},
    },
    "Account": {
        "status": "active",
        "name": "Household account",
        "type": concept("PBILLACCT"),
        "servicePeriod": _PERIOD,
        "owner": ref("Organization/full"),
        "subject": [ref("Patient/full"), ref("Practitioner/full")],
    },
    "Claim": {
        **_BILL,
        "provider": ref("Practitioner/provider"),
        "payee": {"type": concept("other"), "party": ref("Patient/payee")},
        "priority": concept("normal"),
        "insurance": [{"sequence": 1, "focal": True, "coverage": ref("Coverage/full")}],
    },
    "ClaimResponse": {
        "status": "active",
        "type": concept("professional"),
        "use": "claim",
        "patient": ref("Patient/full"),
        "created": "2024-05-03",
        "insurer": ref("Organization/full"),
        "outcome": "complete",
        "disposition": "Paid in full",
        "payment": {"type": concept("complete"), "date": "2024-05-04", "amount": {"value": 10.50, "currency": "EUR"}},
        "request": ref("Claim/full"),
        "requestor": ref("Practitioner/full"),
    },
    "Condition": {
        "subject": ref("Patient/full"),
        "encounter": ref("Encounter/full"),
        "code": concept("J45"),
        "category": [concept("encounter-diagnosis")],
        "clinicalStatus": concept("active"),
        "verificationStatus": concept("confirmed"),
        "severity": concept("mild"),
        "bodySite": [concept("lung")],
        "stage": [{"summary": concept("one")}],
        "evidence": [{"code": [concept("wheeze")], "detail": [ref("Observation/o"), ref("Encounter/full")]}],
        "onsetDateTime": "2024-05-01",
        "abatementDateTime": "2024-05-09",
        "recordedDate": "2024-05-02",
        "asserter": ref("Practitioner/full"),
    },
    "Coverage": {
        "status": "active",
        "type": concept("EHCPOL"),
        "beneficiary": ref("Patient/full"),
        "payor": [ref("Organization/full"), ref("Patient/payor")],
        "policyHolder": ref("Patient/holder"),
        "subscriber": ref("Patient/subscriber"),
        "dependent": "Child one",
        "class": [{"type": concept("group"), "value": "Group seven"}],
    },
    "ExplanationOfBenefit": {
        **_BILL,
        "payee": {"type": concept("provider"), "party": ref("Practitioner/payee")},
        "outcome": "complete",
        "disposition": "Paid in full",
        "claim": ref("Claim/full"),
        "insurance": [{"focal": True, "coverage": ref("Coverage/full")}],
    },
    "Location": {
        "status": "active",
        "name": "Main clinic",
        "address": _ADDRESS,
        "endpoint": [ref("Endpoint/e")],
        "operationalStatus": _coding("O"),
        "type": [concept("HOSP")],
        "managingOrganization": ref("Organization/full"),
        "partOf": ref("Location/bare"),
    },
    "Organization": {
        "active": True,
        "name": "General hospital",
        "address": [_ADDRESS],
        "endpoint": [ref("Endpoint/e")],
        "partOf": ref("Organization/bare"),
        "type": [concept("prov")],
    },
    "Procedure": {
        "status": "completed",
        "subject": ref("Patient/full"),
        "performedDateTime": "2024-05-02T09:00:00Z",
        "encounter": ref("Encounter/full"),
        "code": concept("80146002"),
        "category": concept("387713003"),
        "location": ref("Location/full"),
    },
}  # fmt: skip
# A choice of types has one value: what else a type's parameters look at stands in a second resource.
_OTHERWISE: dict[str, Json] = {
    "Condition": {"onsetString": "Since spring", "abatementString": "By autumn", "asserter": ref("Patient/asserter")}
}
_MANDATORY: dict[str, tuple[str, ...]] = {
    "Account": ("status",),
    "Claim": ("status", "type", "use", "patient", "created", "provider", "priority", "insurance"),
    "ClaimResponse": ("status", "type", "use", "patient", "created", "insurer", "outcome"),
    "Condition": ("subject",),
    "Coverage": ("status", "beneficiary", "payor"),
    "ExplanationOfBenefit": ("status", "type", "use", "patient", "created", "insurer", "provider", "outcome", "insurance"),
    "Procedure": ("status", "subject"),
}


def _elsewhere(value: Any) -> Any:
    """The same, but what it refers to is nothing that is stored, and its codes are others."""
    if isinstance(value, list):
        return [_elsewhere(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: "Patient/stranger" if name == "reference" else _elsewhere(each) for name, each in value.items()}


def specimens() -> list[Json]:
    """As they are stored: `full` and `bare` of every type, and `other` of those that have choices."""
    made = []
    for kind, members in _MEMBERS.items():
        begin: Json = encounter(_FULL) if kind == "Encounter" else {"resourceType": kind, "id": _FULL}
        made.append({**begin, "meta": _META, "identifier": _identifier(f"{kind}-1"), **members})
        least = {name: _elsewhere(members[name]) for name in _MANDATORY.get(kind, ())}
        bare: Json = encounter("bare") if kind == "Encounter" else {"resourceType": kind, "id": "bare"}
        made.append({**bare, **least})
        if kind in _OTHERWISE:
            made.append({"resourceType": kind, "id": "other", **least, **_OTHERWISE[kind]})
    return made


def values_of(parameter: Parameter, resource: Json) -> list[Any]:
    """What stands at a parameter's paths."""
    return [value for path in parameter.paths for value in _at(resource, path.split("."))]


def _at(value: Any, steps: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _at(each, steps)
    elif not steps:
        yield value
    elif isinstance(value, dict):
        name, _, wanted = steps[0].rstrip("]").partition("[")
        member, _, only = wanted.partition("=")
        found = value.get(name, [])
        listed = found if isinstance(found, list) else [found]
        yield from _at([each for each in listed if not wanted or each.get(member) == only], steps[1:])
