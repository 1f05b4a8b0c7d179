"""A hospital group's people and their visits as FHIR R4, made up from a seed: the same seed gives the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random

import orjson
from faker import Faker

from simulator.people_catalogue import (
    BASE,
    CITIES,
    GULF_FAMILY,
    GULF_GIVEN,
    HOSPITALS,
    PAYERS,
    ROOMS,
    SPECIALTIES,
    TERMINOLOGY,
    Json,
    concept,
    identifier,
    reference,
)
from simulator.people_types import Hospital, Person
from simulator.people_visits import Visits

INSURED_SHARE = 0.75
PLACEHOLDER_SHARE = 0.15
PLACEHOLDERS = ("000-0000-0000000-0", "111-1111-1111111-1", "999-9999-9999999-9")
"""What is written for people without an Emirates ID: they say nothing of who it is."""

# Given and family names by Faker's locales; Filipino family names are mostly Spanish. The share of each group.
ORIGINS = (
    ("AE", None, None, 0.30),
    ("IN", "en_IN", "en_IN", 0.35),
    ("PH", "en_PH", "es_MX", 0.2),
    ("GB", "en_GB", "en_GB", 0.15),
)
LANGUAGES = {"AE": "ar", "IN": "hi", "PH": "fil", "GB": "en"}


def resources(seed: int, *, patients: int, practitioners: int, encounters: int, today: date) -> Iterator[bytes]:
    """Compact JSON without line ends, one resource each; what is referred to comes first, but for Condition.

    An insured patient is followed by the Coverage, an encounter by what belongs to it: Condition, Claim, ClaimResponse
    and ExplanationOfBenefit, for a share of the finished ones. Encounters lie in the two years before `today`, planned
    ones in the month after.
    """
    if encounters and not (patients and practitioners):
        raise ValueError("an encounter needs a patient and a practitioner")
    world = _World(seed, today)
    yield from map(orjson.dumps, world.organizations())
    yield from map(orjson.dumps, (world.practitioner(number) for number in range(practitioners)))
    for number in range(patients):
        yield from map(orjson.dumps, world.patient(number))
    visits = Visits(seed, today, world.random, world.hospitals, world.people, practitioners)
    for number in range(encounters):
        yield from map(orjson.dumps, visits.visit(number))


def luhn(text: str) -> bool:
    """Whether the digits of `text` pass the Luhn check, as every real Emirates ID does."""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def emirates_id(random: Random, born: date) -> str:
    """A placeholder, or a number that fails the Luhn check and so is nobody's."""
    if random.random() < PLACEHOLDER_SHARE:
        return random.choice(PLACEHOLDERS)
    stem = f"784-{born.year}-{random.randrange(10_000_000):07d}-"
    wrong = [digit for digit in "0123456789" if not luhn(stem + digit)]
    return stem + random.choice(wrong)


@dataclass
class _World:
    seed: int
    today: date
    hospitals: list[Hospital] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self._fakers = {}
        for locale in sorted({locale for _, *pair, _ in ORIGINS for locale in pair if locale}):
            self._fakers[locale] = Faker(locale)
            self._fakers[locale].seed_instance(self.seed)

    def organizations(self) -> Iterator[Json]:
        """The group's one to three hospitals with their rooms, and the payers."""
        for number in range(self.random.randint(1, len(HOSPITALS))):
            hospital = Hospital(f"org-{self.seed}-{number + 1}", HOSPITALS[number], f"DHA-F-{number + 1:07d}")
            self.hospitals.append(hospital)
            yield self._organization(hospital.id, hospital.name, "prov", identifier("dha-facility", hospital.licence))
            yield from self._rooms(hospital)
        for number, name in enumerate(PAYERS):
            licence = identifier("eclaimlink-payer", f"INS{number + 1:03d}")
            yield self._organization(f"payer-{self.seed}-{number + 1}", name, "ins", licence)

    def _organization(self, id_: str, name: str, kind: str, licence: Json) -> Json:
        return {
            "resourceType": "Organization",
            "id": id_,
            "identifier": [licence],
            "active": True,
            "type": [concept(f"{TERMINOLOGY}/organization-type", kind)],
            "name": name,
            "address": [self._address()],
        }

    def _rooms(self, hospital: Hospital) -> Iterator[Json]:
        for number, (name, kind) in enumerate(ROOMS, 1):
            room = f"loc-{hospital.id.removeprefix('org-')}-{number}"
            hospital.rooms.append(room)
            yield {
                "resourceType": "Location",
                "id": room,
                "identifier": [identifier("location", f"{hospital.licence}-{number}")],
                "status": "active",
                "name": f"{name}, {hospital.name}",
                "mode": "instance",
                "type": [concept(f"{TERMINOLOGY}/v3-RoleCode", kind)],
                "managingOrganization": reference("Organization", hospital.id),
            }

    def practitioner(self, number: int) -> Json:
        _, gender, names = self._somebody()
        specialty = SPECIALTIES[number % len(SPECIALTIES)]
        licence = identifier("dha-clinician", f"DHA-P-{number + 1:08d}", "MD")
        return {
            "resourceType": "Practitioner",
            "id": f"prac-{self.seed}-{number + 1}",
            "identifier": [licence],
            "active": self.random.random() < 0.95,
            "name": [names[0] | {"prefix": ["Dr."]}, *names[1:]],
            "telecom": [{"system": "email", "value": f"clinician{number + 1}@example.org", "use": "work"}],
            "gender": gender,
            "qualification": [{"identifier": [licence], "code": concept(f"{BASE}/cs/specialty", specialty, specialty)}],
            "communication": [concept("urn:ietf:bcp:47", "en", "English")],
        }

    def patient(self, number: int) -> Iterator[Json]:
        """The Patient, and the Coverage where there is one."""
        origin, gender, names = self._somebody()
        born = self.today - timedelta(days=self.random.randrange(3 * 365, 85 * 365))
        hospital = self.random.choice(self.hospitals)
        payer = self.random.randint(1, len(PAYERS)) if self.random.random() < INSURED_SHARE else None
        person = Person(f"pat-{self.seed}-{number + 1}", born, hospital, payer, f"cov-{self.seed}-{number + 1}")
        self.people.append(person)
        yield {
            "resourceType": "Patient",
            "id": person.id,
            "extension": [_nationality(origin)],
            "identifier": [
                identifier(f"mrn/{hospital.licence}", f"MRN{number + 1:07d}", "MR"),
                identifier("emirates-id", emirates_id(self.random, born), "NI"),
            ],
            "active": self.random.random() < 0.97,
            "name": names,
            "telecom": [
                {"system": "phone", "value": f"+971 50 000 {self.random.randrange(10_000):04d}", "use": "mobile"},
                {"system": "email", "value": f"patient{number + 1}@example.org", "use": "home"},
            ],
            "gender": gender,
            "birthDate": born.isoformat(),
            "address": [{"use": "home", **self._address()}],
            "communication": [{"language": concept("urn:ietf:bcp:47", LANGUAGES[origin]), "preferred": True}],
            "managingOrganization": reference("Organization", hospital.id, hospital.name),
        }
        if payer:
            yield self._coverage(person, payer, number)

    def _coverage(self, person: Person, payer: int, number: int) -> Json:
        member = f"M{payer}{number + 1:08d}"
        return {
            "resourceType": "Coverage",
            "id": person.coverage,
            "identifier": [identifier(f"member-id/INS{payer:03d}", member, "MB")],
            "status": "active",
            "subscriberId": member,
            "beneficiary": reference("Patient", person.id),
            "relationship": concept(f"{TERMINOLOGY}/subscriber-relationship", "self"),
            "period": {"start": (self.today - timedelta(days=3 * 365)).isoformat()},
            "payor": [reference("Organization", f"payer-{self.seed}-{payer}", PAYERS[payer - 1])],
            "class": [{"type": concept(f"{TERMINOLOGY}/coverage-class", "plan"), "value": self.random.choice("ABC")}],
        }

    def _somebody(self) -> tuple[str, str, list[Json]]:
        """Origin, gender, and the names: official in Latin script, for Gulf people the usual one in Arabic."""
        origin, given_of, family_of, _ = self.random.choices(ORIGINS, [share for *_, share in ORIGINS])[0]
        gender = self.random.choice(("male", "female"))
        if not given_of or not family_of:
            return origin, gender, self._gulf_names(gender)
        faker = self._fakers[given_of]
        given = faker.first_name_male() if gender == "male" else faker.first_name_female()
        return origin, gender, [_name(given, self._fakers[family_of].last_name())]

    def _gulf_names(self, gender: str) -> list[Json]:
        given, father = self.random.choice(GULF_GIVEN[gender]), self.random.choice(GULF_GIVEN["male"])
        family = self.random.choice(GULF_FAMILY)
        arabic = {"use": "usual", "text": f"{given[1]} {father[1]} {family[1]}"}
        return [_name(given[0], family[0], father[0]), arabic]

    def _address(self) -> Json:
        city, state = self.random.choice(CITIES)
        line = f"Building {self.random.randint(1, 180)}, Street {self.random.randint(1, 60)}"
        return {"line": [line], "city": city, "state": state, "country": "AE"}


def _name(given: str, family: str, *more: str) -> Json:
    return {"use": "official", "text": " ".join((given, *more, family)), "family": family, "given": [given, *more]}


def _nationality(country: str) -> Json:
    code = {"url": "code", "valueCodeableConcept": concept("urn:iso:std:iso:3166", country)}
    return {"url": "http://hl7.org/fhir/StructureDefinition/patient-nationality", "extension": [code]}
