"""The search parameters, as a table of data: what is indexed on import, and what a search may ask for.

Paths are FHIRPath's plain part: members joined by dots, lists are walked through. The standard is
https://hl7.org/fhir/R4/searchparameter-registry.html.
"""

from dataclasses import dataclass
from enum import Enum


class ParamType(Enum):
    TOKEN = "token"  # noqa: S105
    STRING = "string"
    DATE = "date"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`targets`: the types that a reference may lead to; empty means any."""

    name: str
    type: ParamType
    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()


def _token(name: str, *paths: str) -> Parameter:
    return Parameter(name, ParamType.TOKEN, paths or (name,))


def _string(name: str, *paths: str) -> Parameter:
    return Parameter(name, ParamType.STRING, paths or (name,))


def _date(name: str, *paths: str) -> Parameter:
    return Parameter(name, ParamType.DATE, paths or (name,))


def _reference(name: str, path: str, *targets: str) -> Parameter:
    return Parameter(name, ParamType.REFERENCE, (path,), targets)


_IDENTIFIER = _token("identifier")
_STATUS = _token("status")
_ACTIVE = _token("active")
_GENDER = _token("gender")
_PERSON = (_IDENTIFIER, _string("name"), _string("family", "name.family"), _GENDER, _ACTIVE)
_PATIENT = _reference("patient", "patient", "Patient")
_ENCOUNTER = _reference("encounter", "encounter", "Encounter")
_SUBJECT = (_reference("subject", "subject", "Patient", "Group"), _reference("patient", "subject", "Patient"))

_TABLE: dict[str, tuple[Parameter, ...]] = {
    "Patient": (*_PERSON, _date("birthdate", "birthDate")),
    "Practitioner": _PERSON,
    "Encounter": (
        _IDENTIFIER,
        *_SUBJECT,
        _date("date", "period"),
        _STATUS,
        _token("class"),
        _reference("practitioner", "participant.individual", "Practitioner"),
    ),
    "Account": (
        _IDENTIFIER,
        _string("name"),
        _STATUS,
        _reference("subject", "subject"),
        _reference("patient", "subject", "Patient"),
    ),
    "Claim": (_IDENTIFIER, _STATUS, _PATIENT, _reference("encounter", "item.encounter", "Encounter")),
    "ClaimResponse": (_IDENTIFIER, _STATUS, _PATIENT, _reference("request", "request", "Claim")),
    "Condition": (_IDENTIFIER, *_SUBJECT, _ENCOUNTER),
    "Coverage": (_IDENTIFIER, _STATUS, _reference("patient", "beneficiary", "Patient")),
    "ExplanationOfBenefit": (
        _IDENTIFIER,
        _STATUS,
        _PATIENT,
        _reference("claim", "claim", "Claim"),
        _reference("encounter", "item.encounter", "Encounter"),
    ),
    "Location": (_IDENTIFIER, _string("name"), _STATUS),
    "Organization": (_IDENTIFIER, _string("name"), _ACTIVE),
    "Procedure": (_IDENTIFIER, _STATUS, *_SUBJECT, _date("date", "performedDateTime", "performedPeriod"), _ENCOUNTER),
}

PARAMETERS: dict[str, dict[str, Parameter]] = {
    kind: {parameter.name: parameter for parameter in rows} for kind, rows in _TABLE.items()
}
"""By type and name. A type that is not here can be stored and read, and searched by what every type has."""

EVERY_TYPE: dict[str, Parameter] = {"identifier": _IDENTIFIER}
"""What a type has that PARAMETERS does not list; `_id` and `_lastUpdated` are columns of the resource itself."""

ORDER: dict[str, str] = {"Encounter": "period"}
"""Types whose default order is by a date, the newest first, and the path of that date. All others go by id."""


def parameters_of(type_name: str) -> dict[str, Parameter]:
    return PARAMETERS.get(type_name, EVERY_TYPE)
