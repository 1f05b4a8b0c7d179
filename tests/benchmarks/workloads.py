"""What the search benchmark asks, as a table: each row makes the path of one request from a seeded random and the crowd.

Every path finds something; the values come from the data, as often as the data has them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any
from urllib.parse import quote

from tests.benchmarks.crowd import TODAY, Crowd

PAGE = 10
"""Entries of the pages whose place in their list is what is measured."""

Path = Callable[[Random, Crowd], str]


@dataclass(frozen=True)
class Workload:
    """`group`: what is measured side by side, so that it can be compared. `deep`: the path is gone on with near its end."""

    name: str
    group: str
    path: Path
    deep: bool = False
    includes: bool = False
    p99_max_ms: float | None = None


def _fixed(query: str) -> Path:
    return lambda _chance, _crowd: f"/fhir/{query}"


def _read(chance: Random, crowd: Crowd) -> str:
    return f"/fhir/Encounter/{chance.choice(crowd.encounters)['id']}"


def _of_patient(more: str = "") -> Path:
    return lambda chance, crowd: f"/fhir/Encounter?patient={chance.choice(crowd.regulars)}{more}"


def _family(chance: Random, crowd: Crowd) -> str:
    name: str = chance.choice(crowd.seen)["name"][0]["family"]
    return name


def _named(before: str, begin: int = 0, end: int | None = None, after: str = "") -> Path:
    """A part of the family name of somebody who comes, the more often the likelier."""
    return lambda chance, crowd: f"/fhir/{before}={quote(_family(chance, crowd)[begin:end].strip())}{after}"


def _by_clinician(chance: Random, crowd: Crowd) -> str:
    identifier = chance.choice(crowd.clinicians)
    return f"/fhir/Encounter?practitioner.identifier={quote(identifier['system'])}%7C{identifier['value']}"


def _since(before: str, latest: date, days: int, after: str = "") -> Path:
    """A day of the `days` before `latest`."""
    return lambda chance, _crowd: f"/fhir/{before}=ge{latest - timedelta(days=chance.randrange(days))}{after}"


def _month(chance: Random, crowd: Crowd) -> str:
    """The month of some encounter."""
    first = date.fromisoformat(_day(chance.choice(crowd.encounters))).replace(day=1)
    return f"/fhir/Encounter?date=ge{first}&date=lt{(first + timedelta(days=31)).replace(day=1)}"


def _day(encounter: dict[str, Any]) -> str:
    start: str = encounter["period"]["start"]
    return start[:10]


def _pages(group: str, query: str) -> tuple[Workload, Workload]:
    path = _fixed(f"{query}{'&' if '?' in query else '?'}_count={PAGE}")
    return Workload(f"{query}, first page", group, path), Workload(f"{query}, deep page", group, path, deep=True)


_SLOWEST_MS = 250

WORKLOADS: tuple[Workload, ...] = (
    Workload("point read", "reads", _read),
    Workload("Encounter?patient", "reads", _of_patient()),
    *_pages("pages", "Encounter"),
    *_pages("pages by change", "Encounter?_sort=-_lastUpdated"),
    *_pages("pages by date", "Encounter?_sort=date"),
    *_pages("pages by name", "Patient?_sort=family"),
    Workload("Encounter?patient.name", "chains", _named("Encounter?patient.name", 0, 4), p99_max_ms=_SLOWEST_MS),
    Workload("Encounter?practitioner.identifier", "chains", _by_clinician, p99_max_ms=_SLOWEST_MS),
    Workload(
        "Encounter?patient.birthdate&status",
        "chains",
        _since("Encounter?patient.birthdate", date(2005, 1, 1), 20_000, "&status=in-progress"),
        p99_max_ms=_SLOWEST_MS,
    ),
    Workload(
        "Patient?_has:Encounter:patient:status",
        "_has",
        _fixed("Patient?_has:Encounter:patient:status=in-progress"),
        p99_max_ms=_SLOWEST_MS,
    ),
    Workload(
        "Patient?_has:Encounter:patient:date",
        "_has",
        _since("Patient?_has:Encounter:patient:date", TODAY - timedelta(days=1), 365),
        p99_max_ms=_SLOWEST_MS,
    ),
    Workload(
        "Encounter?patient, _include of two",
        "includes",
        _of_patient("&_include=Encounter:patient&_include=Encounter:practitioner"),
        includes=True,
        p99_max_ms=_SLOWEST_MS,
    ),
    Workload(
        "Patient?family, _revinclude",
        "includes",
        _named("Patient?family", after="&_revinclude=Encounter:patient"),
        includes=True,
        p99_max_ms=_SLOWEST_MS,
    ),
    Workload("Encounter?date, a month", "filters", _month),
    Workload("Encounter?status&class", "filters", _fixed("Encounter?status=in-progress&class=AMB")),
    Workload("Patient?gender&active", "filters", _fixed("Patient?gender=female&active=true")),
    Workload("Patient?name", "filters", _named("Patient?name", 0, 4)),
    Workload("Patient?name:contains", "filters", _named("Patient?name:contains", 1, 5)),
    Workload("Encounter?status, with total", "totals", _fixed("Encounter?status=finished&_total=accurate&_count=20")),
)
