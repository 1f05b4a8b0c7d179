"""What the tests of searching search in: a small hospital, by chance, from so few values that most questions find something."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from tests.support import NOW, Home, add_tenant, connected, delete, patient, store

Json = dict[str, Any]

FAMILIES = [
    "Müller", "Muller", "MULLER-Meier", "van der Berg", "García López", "Ng", "O'Brien", "Åström", "李", "Straße", "a_b",
    "50%", "x\\y", "pipe|name", "comma,name", "dollar$name", "Ngo", "N", "الخطيب", "Łuk",
]  # fmt: skip
LONG = "Zoë " + "€" * 380 + "‰" * 100
GIVENS = ["Ann", "ANN-Sofie", "Łukasz", "José", "Li", "محمد"]
SYSTEMS = ["http://a", "http://b|c", None]
CODES = ["1", "2", "x|y", "z,w", "A"]
WORDS = ["Acute pain", "pain", "Schmerz, akut", "Ödem"]
BIRTHS = ["1974", "1974-12", "1974-12-25", "1974-12-26", "1975-01-01", "2000-02-29", "2000-02", None]
STARTS = [
    "2013-03-10", "2013-03-11T00:30:00+01:00", "2013-03-10T23:30:00Z", "2013-03-10T23:30:00.250Z", "2013", "2014-01",
    "2012-12-31T23:00:00-05:00", "1990-05-05",
]  # fmt: skip
ENDS = ["2013-03-12", "2014-06", "2013-03-11T02:00:00+01:00", "9999-12-31", None, None]
LENGTHS = [{"value": 5}, {"value": 1.50, "unit": "hours", "system": "http://u", "code": "h"}, {"value": 90, "unit": "min"}]
CITIES = ["Al Ain", "Abu Dhabi", "Köln"]
MOMENTS = [NOW, NOW + timedelta(seconds=1), NOW + timedelta(days=40)]
SIZES = {
    "Organization": 10, "Location": 10, "Group": 2, "RelatedPerson": 3, "Practitioner": 24, "Patient": 60, "Account": 12,
    "Encounter": 90, "Condition": 40, "Coverage": 20, "Claim": 30, "ClaimResponse": 24, "ExplanationOfBenefit": 16,
    "Procedure": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    resource: Json
    updated: datetime

    @property
    def id(self) -> str:
        return str(self.resource["id"])

    @property
    def kind(self) -> str:
        return str(self.resource["resourceType"])

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.id}"


def _id(kind: str, number: int) -> str:
    return f"{kind[:2].lower()}{number}"


class _Maker:
    """By chance, always the same. What is None, or empty, is left out of what it makes."""

    def __init__(self) -> None:
        self.pick = random.Random(7)

    def some(self, values: list[Any], share: float = 0.8) -> Any:
        return self.pick.choice(values) if self.pick.random() < share else None

    def many(self, make: Callable[[], Any], most: int = 2) -> list[Any]:
        return [made for _ in range(self.pick.randint(0, most)) if (made := make()) is not None]

    def to(self, *kinds: str, share: float = 0.8) -> Json | None:
        """A reference: to what is there mostly, else to another server, to nobody, or by an identifier alone."""
        if self.pick.random() > share:
            return None
        chance, kind = self.pick.random(), self.pick.choice(kinds)
        if chance < 0.04:
            return {"reference": f"http://elsewhere/fhir/{kind}/1"}
        if chance < 0.08:
            return {"reference": f"{kind}/nobody"}
        target = {"reference": f"{kind}/{_id(kind, self.pick.randrange(min(SIZES[kind], 8)))}"}
        if chance < 0.3:
            return {**(target if chance < 0.2 else {}), "identifier": self.identifier()}
        return target

    def identifier(self) -> Json:
        made: Json = {"system": self.some(SYSTEMS), "value": self.pick.choice(CODES)}
        if self.pick.random() < 0.4:
            made["type"] = self.concept()
        return _full(made)

    def coding(self) -> Json:
        return _full({"system": self.some(SYSTEMS), "code": self.some(CODES, 0.9), "display": self.some(WORDS, 0.5)}) or {
            "code": "1"
        }

    def concept(self) -> Json:
        return _full({"coding": self.many(self.coding), "text": self.some(WORDS, 0.4)}) or {"text": "pain"}

    def period(self) -> Json | None:
        made = _full({"start": self.some(STARTS), "end": self.some(ENDS)})
        return made if made and not ("1990" not in made.get("start", "") and made.get("end", "3")[:4] <= "2013") else None

    def address(self) -> Json | None:
        return _full(
            {
                "use": self.some(["home", "work"], 0.5), "line": self.many(lambda: self.some(["Main St 5", "Weg 1"])),
                "city": self.some(CITIES), "state": self.some(["AZ", "DU"], 0.4), "postalCode": self.some(["1234", "9"], 0.4),
                "country": self.some(["AE", "DE"], 0.5),
            }
        )  # fmt: skip

    def name(self) -> Json:
        family, given = self.pick.choice([*FAMILIES, LONG]), [self.pick.choice(GIVENS) for _ in range(self.pick.randint(0, 2))]
        text = f"{self.pick.choice(GIVENS)} {self.pick.choice(FAMILIES)}" if self.pick.random() < 0.2 else None
        return _full(
            {"family": family, "given": given, "text": text, "prefix": ["Dr. med."] if self.pick.random() < 0.2 else []}
        )

    def contact(self) -> Json:
        return _full({"system": self.some(["phone", "email"]), "value": self.pick.choice(["050 123", "a@b.example", "+971-4"])})


def _full(made: Json) -> Json:
    return {member: value for member, value in made.items() if value not in (None, [], {})}


def _person(m: _Maker, *, sick: bool) -> Json:
    made: Json = {
        "name": [m.name(), *m.many(m.name, 1)], "identifier": m.many(m.identifier),
        "gender": m.some(["male", "female", "other"]),
        "active": m.some([True, False]), "address": m.many(m.address), "telecom": m.many(m.contact),
    }  # fmt: skip
    if not sick:
        return {**made, "communication": m.many(m.concept)}
    deaths: list[Json] = [{}, {}, {"deceasedBoolean": True}, {"deceasedBoolean": False}, {"deceasedDateTime": "2020-05-05"}]
    dead = m.pick.choice(deaths)
    return {
        **made, **dead, "birthDate": m.some(BIRTHS),
        "generalPractitioner": m.many(lambda: m.to("Practitioner", "Organization")),
        "communication": m.many(lambda: {"language": m.concept()}), "managingOrganization": m.to("Organization"),
        "link": m.many(lambda: {"other": m.to("Patient", share=1), "type": "seealso"}, 1),
    }  # fmt: skip


def _visit(m: _Maker) -> Json:
    return {
        "identifier": m.many(m.identifier), "status": m.pick.choice(["planned", "finished", "in-progress"]),
        "class": {"system": m.pick.choice(["act", "http://other"]), "code": m.pick.choice(["AMB", "IMP"])},
        "type": m.many(m.concept),
        "subject": m.to("Patient", "Patient", "Group"), "period": m.period(), "partOf": m.to("Encounter", share=0.3),
        "participant": m.many(
            lambda: _full({"individual": m.to("Practitioner", "RelatedPerson"), "type": m.many(m.concept, 1)}) or None
        ),
        "length": m.some(LENGTHS, 0.5),
        "location": m.many(lambda: _full({"location": m.to("Location", share=1), "period": m.period()}), 2),
        "serviceProvider": m.to("Organization"), "reasonCode": m.many(m.concept, 1),
        "account": m.many(lambda: m.to("Account"), 1),
        "diagnosis": m.many(lambda: {"condition": m.to("Condition", share=1)}, 1),
    }  # fmt: skip


def _bill(m: _Maker) -> Json:
    return {
        "identifier": m.many(m.identifier, 1), "status": m.pick.choice(["active", "cancelled"]), "use": "claim",
        "created": m.pick.choice(STARTS),
        "patient": m.to("Patient", share=1), "provider": m.to("Practitioner", "Organization"), "insurer": m.to("Organization"),
        "enterer": m.to("Practitioner", share=0.4), "payee": m.some([{"party": m.to("Patient", "Practitioner", share=1)}], 0.4),
        "item": m.many(lambda: {"encounter": m.many(lambda: m.to("Encounter"))}),
        "careTeam": m.many(lambda: {"provider": m.to("Practitioner", share=1)}, 1), "facility": m.to("Location"),
    }  # fmt: skip


MAKE: dict[str, Callable[[_Maker], Json]] = {
    "Organization": lambda m: {
        "name": m.some(FAMILIES), "alias": m.many(lambda: m.some(WORDS)), "active": m.some([True, False]),
        "partOf": m.to("Organization", share=0.6), "type": m.many(m.concept), "address": m.many(m.address),
    },
    "Location": lambda m: {
        "name": m.some(WORDS), "status": m.some(["active", "suspended"]), "partOf": m.to("Location", share=0.6),
        "managingOrganization": m.to("Organization"), "address": m.address(), "operationalStatus": m.some([m.coding()], 0.5),
    },
    "Group": lambda _: {"type": "person", "actual": True, "identifier": [{"value": "1"}]},
    "RelatedPerson": lambda m: {"patient": m.to("Patient", share=1), "active": True},
    "Practitioner": lambda m: _person(m, sick=False),
    "Patient": lambda m: _person(m, sick=True),
    "Account": lambda m: {
        "status": m.pick.choice(["active", "inactive"]), "name": m.some(WORDS), "servicePeriod": m.period(),
        "subject": m.many(lambda: m.to("Patient", "Practitioner")), "owner": m.to("Organization"),
        "type": m.some([m.concept()], 0.5),
    },
    "Encounter": _visit,
    "Condition": lambda m: {
        "identifier": m.many(m.identifier, 1), "subject": m.to("Patient", "Group", share=1), "encounter": m.to("Encounter"),
        "code": m.concept(),
        "category": m.many(m.concept), "severity": m.some([m.concept()]), "asserter": m.to("Practitioner", "Patient"),
        "stage": m.many(lambda: {"summary": m.concept()}, 1), "evidence": m.many(lambda: {"code": [m.concept()]}),
        "recordedDate": m.some(STARTS),
        **m.pick.choice([{"onsetDateTime": "2013"}, {"onsetPeriod": m.period()}, {"onsetString": "Kindheit"}]),
    },
    "Coverage": lambda m: {
        "status": "active", "beneficiary": m.to("Patient", share=1), "payor": m.many(lambda: m.to("Organization", "Patient")),
        "dependent": m.some(["1", "2"]), "class": m.many(lambda: {"type": m.concept(), "value": m.pick.choice(CODES)}),
        "policyHolder": m.to("Patient", "Organization"), "type": m.some([m.concept()]),
    },
    "Claim": lambda m: {**_bill(m), "priority": m.concept()},
    "ClaimResponse": lambda m: {
        **_bill(m), "request": m.to("Claim"), "outcome": m.pick.choice(["complete", "error"]),
        "requestor": m.to("Practitioner"),
        "disposition": m.some(WORDS), "payment": m.some([{"date": m.pick.choice(STARTS)}], 0.5),
    },
    "ExplanationOfBenefit": lambda m: {
        **_bill(m), "claim": m.to("Claim"), "disposition": m.some(WORDS),
        "insurance": m.many(lambda: {"coverage": m.to("Coverage", share=1)}),
    },
    "Procedure": lambda m: {
        "status": "completed", "subject": m.to("Patient", "Group"), "encounter": m.to("Encounter"), "code": m.concept(),
        "location": m.to("Location"),
        **m.pick.choice([{"performedDateTime": m.pick.choice(STARTS)}, {"performedPeriod": m.period()}]),
    },
}  # fmt: skip


def _meta(m: _Maker) -> Json:
    if m.pick.random() < 0.6:
        return {}
    return {
        "meta": _full(
            {
                "profile": m.many(lambda: m.some(["http://p/1", "http://p/2"]), 1),
                "tag": m.many(m.coding, 1),
                "source": m.some(["urn:s:1"]),
            }
        )
    }


@lru_cache(maxsize=1)
def generated() -> dict[str, list[Stored]]:
    maker = _Maker()
    made = {
        kind: [_full({"resourceType": kind, "id": _id(kind, n), **_meta(maker), **MAKE[kind](maker)}) for n in range(size)]
        for kind, size in SIZES.items()
    }
    return {kind: [Stored(each, MOMENTS[n % 3]) for n, each in enumerate(many)] for kind, many in made.items()}


async def fill(home: Home) -> None:
    """The tenant "one" has it all, and what was deleted; "two" has other things of the same ids."""
    home.keys["one"] = await add_tenant(home.database, "one")
    kin = [{"resourceType": "Practitioner", "id": "pr1", "name": [{"family": "Müller"}], "active": True}]
    home.keys["two"] = await add_tenant(home.database, "two", [patient("pa1", active=True, name=[{"family": "Ng"}]), *kin])
    async with connected(home.database) as connection:
        gone = [patient(f"gone{n}", gender="male", name=[{"family": "Müller"}], active=True) for n in range(3)]
        await store(connection, "one", gone)
        for moment in MOMENTS:
            for many in generated().values():
                await store(connection, "one", [each.resource for each in many if each.updated == moment], moment)
    await delete(home.database, "one", *(("Patient", f"gone{n}") for n in range(3)))
