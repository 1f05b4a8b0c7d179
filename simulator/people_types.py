"""What the makers of people and of their visits tell each other."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from simulator.people_catalogue import Case


@dataclass
class Hospital:
    id: str
    name: str
    licence: str
    rooms: list[str] = field(default_factory=list)


class Person(NamedTuple):
    """A patient; `payer` is None for one who pays for himself, and then `coverage` is no one's id."""

    id: str
    born: date
    hospital: Hospital
    payer: int | None
    coverage: str


@dataclass
class Visit:
    """What the resources of one encounter have in common."""

    key: str
    person: Person
    practitioner: str
    kind: str
    status: str
    case: Case
    start: datetime
    end: datetime
    has_condition: bool

    @property
    def encounter(self) -> str:
        return f"enc-{self.key}"
