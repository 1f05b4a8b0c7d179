"""The operations: seven rows that have channels, and those that are always direct.

Routes, metric labels, the actors' queues, the load mix and parametrised tests all read this table.
To add an operation, add a row.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What an operation asks for; the dispatcher counts its slots by it."""

    READ = "read"
    LIST = "list"
    REVIEW = "review"
    VREAD = "vread"
    HISTORY = "history"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Operation:
    """One row: `type` is the FHIR type, None where the route says it; `routes` are aiohttp patterns."""

    name: str
    kind: Kind
    type: str | None
    routes: tuple[str, ...]
    channel: bool = True


def _lists(plural: str, type_name: str, *, compartments: bool = True) -> tuple[str, ...]:
    """A list's routes; those that end in _search take a posted form."""
    fhir = f"/fhir/{type_name}"
    within = (f"/fhir/{{compartment}}/{{id}}/{type_name}",) if compartments else ()
    return plural, f"{plural}/_search", fhir, f"{fhir}/_search", *within


OPERATIONS = (
    Operation("get_encounter", Kind.READ, "Encounter", ("/encounters/{id}", "/fhir/Encounter/{id}")),
    Operation("list_encounters", Kind.LIST, "Encounter", _lists("/encounters", "Encounter")),
    Operation("get_patient", Kind.READ, "Patient", ("/patients/{id}", "/fhir/Patient/{id}")),
    Operation("list_patients", Kind.LIST, "Patient", _lists("/patients", "Patient")),
    Operation("get_practitioner", Kind.READ, "Practitioner", ("/practitioners/{id}", "/fhir/Practitioner/{id}")),
    Operation("list_practitioners", Kind.LIST, "Practitioner", _lists("/practitioners", "Practitioner", compartments=False)),
    Operation("review", Kind.REVIEW, "Encounter", ("/reviews/{id}", "/fhir/Encounter/{id}/$everything")),
)
"""The operations that a warm tenant has a channel for."""

OTHERS = (
    Operation("vread", Kind.VREAD, None, ("/fhir/{type}/{id}/_history/{version}",), channel=False),
    Operation(
        "history",
        Kind.HISTORY,
        None,
        (
            "/fhir/_history",
            "/fhir/{type}/_history",
            # A type that has routes of its own is looked for there first, and `_history` would be taken for an id.
            *(f"/fhir/{name}/_history" for name in dict.fromkeys(operation.type for operation in OPERATIONS)),
            "/fhir/{type}/{id}/_history",
        ),
        channel=False,
    ),
    Operation("everything", Kind.EVERYTHING, "Patient", ("/fhir/Patient/{id}/$everything",), channel=False),
    Operation("read_other", Kind.READ, None, ("/fhir/{type}/{id}",), channel=False),
    Operation(
        "search_other",
        Kind.LIST,
        None,
        ("/fhir/{type}", "/fhir/{type}/_search", "/fhir/{compartment}/{id}/{type}"),
        channel=False,
    ),
)
"""Served directly, always. The last two are every other stored type's; their routes match the seven's too, and come last."""

BY_NAME = {operation.name: operation for operation in (*OPERATIONS, *OTHERS)}
