"""A crowd: one tenant's people and ten years of their visits, made up from a seed, and what requests are made of.

All tenants of the search benchmark are alike but for their number, so this is made once; crowd_data.py stores it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from random import Random

import orjson

from r4.indexing import index, rank
from r4.resource import Resource, split
from simulator.people import resources
from simulator.people_catalogue import CASES, Json, draw
from simulator.people_types import Hospital, Person, Visit
from simulator.people_visits import Visits

SEED = 5
TODAY = date(2026, 6, 1)
DAYS = 3650
"""How far back visits go."""
CLASSES = {"AMB": 0.72, "EMER": 0.16, "IMP": 0.12}
STATUSES = {
    "finished": 0.90,
    "in-progress": 0.02,
    "cancelled": 0.04,
    "planned": 0.025,
    "onleave": 0.005,
    "entered-in-error": 0.01,
}
OPEN = ("in-progress", "planned")
CONDITION_EVERY = 5
SKEW = 1.3
"""Of the lognormal number of visits: a twentieth of the patients has a third of them."""
REGULAR = 20
"""Visits of one who fills a page."""


@dataclass(frozen=True)
class Size:
    """Of the data; all but the first are of each tenant."""

    tenants: int = 100
    patients: int = 2000
    encounters: int = 10_000
    practitioners: int = 100


@dataclass(frozen=True)
class Crowd:
    """One tenant's resources, in the order in which they come in, and lists to choose from for a request."""

    size: Size
    resources: tuple[Resource, ...]

    @classmethod
    def of(cls, size: Size, seed: int = SEED) -> "Crowd":
        return cls(size, tuple(split(raw) for raw in _raw(size, seed)))

    def of_type(self, kind: str) -> list[Json]:
        return [resource.document for resource in self.resources if resource.type == kind]

    def fingerprint(self) -> bytes:
        """Of every resource and of every row that it is found by."""
        digest = sha256(repr(self.size).encode())
        for resource in self.resources:
            digest.update(repr((resource.type, resource.id, resource.sha256, rank(resource), index(resource))).encode())
        return digest.digest()

    @cached_property
    def encounters(self) -> list[Json]:
        return self.of_type("Encounter")

    @cached_property
    def seen(self) -> list[Json]:
        """The patient of each encounter: who comes often stands here often."""
        patients = {patient["id"]: patient for patient in self.of_type("Patient")}
        return [patients[_patient_id(encounter)] for encounter in self.encounters]

    @cached_property
    def regulars(self) -> list[str]:
        """The ids of patients who fill a page; where there are none, of who comes most often."""
        visits = Counter(_patient_id(encounter) for encounter in self.encounters)
        return [key for key, count in visits.items() if count >= REGULAR] or [key for key, _ in visits.most_common(5)]

    @cached_property
    def clinicians(self) -> list[Json]:
        """The identifier of each encounter's practitioner."""
        identifiers = {f"Practitioner/{who['id']}": who["identifier"][0] for who in self.of_type("Practitioner")}
        return [identifiers[encounter["participant"][0]["individual"]["reference"]] for encounter in self.encounters]


class CrowdVisits(Visits):
    """Visits over ten years, hardly any of them open, a few patients coming again and again; no money."""

    def __init__(self, seed: int, hospitals: Sequence[Hospital], people: Sequence[Person], practitioners: int) -> None:
        random = Random(seed)
        super().__init__(seed, TODAY, random, hospitals, people, practitioners)
        self._up_to = list(accumulate(random.lognormvariate(0, SKEW) for _ in people))

    def _plan(self, number: int) -> Visit:
        random = self._random
        person = random.choices(self._people, cum_weights=self._up_to)[0]
        kind, status = draw(random, CLASSES), draw(random, STATUSES)
        start, end = self._period(kind, status)
        if status not in OPEN:
            # What is given is of the last two years. Nobody comes before being born, nor leaves so soon after that.
            reach = min(DAYS, (TODAY - person.born).days - 10)
            stay, end = end - start, self._now - timedelta(minutes=random.randrange(reach * 24 * 60))
            start = end - stay
        years = (start.date() - person.born).days // 365
        return Visit(
            key=f"{self._seed}-{number + 1}",
            person=person,
            practitioner=f"prac-{self._seed}-{random.randint(1, self._practitioners)}",
            kind=kind,
            status=status,
            case=random.choice([case for case in CASES[kind] if years >= case.min_age]),
            start=start,
            end=end,
            has_condition=number % CONDITION_EVERY == 0,
        )


def _raw(size: Size, seed: int) -> Iterator[bytes]:
    hospitals: dict[str, Hospital] = {}
    people: list[Person] = []
    for raw in resources(seed, patients=size.patients, practitioners=size.practitioners, encounters=0, today=TODAY):
        resource = orjson.loads(raw)
        kind = resource["resourceType"]
        if kind == "Coverage":
            continue
        yield raw
        if kind == "Organization":
            hospitals[f"Organization/{resource['id']}"] = Hospital(
                resource["id"], resource["name"], resource["identifier"][0]["value"]
            )
        elif kind == "Location":
            hospitals[resource["managingOrganization"]["reference"]].rooms.append(resource["id"])
        elif kind == "Patient":
            hospital = hospitals[resource["managingOrganization"]["reference"]]
            people.append(Person(resource["id"], date.fromisoformat(resource["birthDate"]), hospital, None, ""))
    visits = CrowdVisits(seed, list(hospitals.values()), people, size.practitioners)
    for number in range(size.encounters):
        yield from map(orjson.dumps, visits.visit(number))


def _patient_id(encounter: Json) -> str:
    reference: str = encounter["subject"]["reference"]
    return reference.removeprefix("Patient/")
