"""The CapabilityStatement, made of the tables that the server itself goes by: what it says is what works. Pure.

https://hl7.org/fhir/R4/capabilitystatement.html.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from r4.criteria import modifiers_of
from r4.parameters import COMPARTMENTS, EVERY_TYPE, PARAMETERS, Parameter, ParamType, parameters_of
from r4.search import COUNT_MAX, CRITERIA_MAX, INCLUSIONS_MAX, SORT_MAX, inclusions_of
from r4.types import RESOURCE_TYPES

RELEASED = "2026-11-22"
"""When what is said here last changed."""

INTERACTIONS = ("read", "vread", "history-instance", "history-type", "search-type")
"""Of every type."""
SYSTEM_INTERACTIONS = ("history-system",)
OPERATIONS = {"Patient": ("everything",), "Encounter": ("everything",)}

_ROOT = "http://hl7.org/fhir"
_INDIVIDUAL = frozenset(
    ("address", "address-city", "address-country", "address-postalcode", "address-state", "address-use", "birthdate", "email",
     "family", "gender", "given", "phone", "phonetic", "telecom")
)  # fmt: skip
_CLINICAL = {
    "Condition": ("code", "identifier", "patient"),
    "Encounter": ("date", "identifier", "patient", "type"),
    "Procedure": ("code", "date", "encounter", "identifier", "patient"),
}
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_SECURITY_SERVICE = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_COLUMNS = (
    ("_id", "token", "Ids with commas between; no modifiers."),
    ("_lastUpdated", "date", "Prefixes eq, ne, gt, lt, ge, le, sa, eb, ap; no modifiers."),
)
_WORDS = f"""Whose data is answered depends on the key alone: every tenant has this statement. Nothing is written over HTTP.

A search takes GET [type], POST [type]/_search and GET [compartment]/[id]/[type]. Beside its parameters it takes _sort \
(by any of them, {SORT_MAX} keys), _count (at most {COUNT_MAX}), _total, _summary, _elements, _include and _revinclude \
({INCLUSIONS_MAX}, with :iterate; Type:parameter may have :Target behind it), chains by references \
(patient.name, subject:Patient.name) and _has. At most {CRITERIA_MAX} parameters. What is not known is left out, as the self \
link shows, and refused under Prefer: handling=strict; a modifier or value that is not understood is always refused.

Types without search parameters of their own are found by those that every type has, listed at rest.searchParam."""


def capability_statement(
    base_url: str, version: str, *, cors: bool = False, tokens: bool = False, endpoints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """`tokens`: bearer tokens of issuers are taken beside keys; `endpoints`: where the first issuer gives them, if known."""
    return {
        "resourceType": "CapabilityStatement",
        "url": f"{base_url}/fhir/metadata",
        "version": version,
        "name": "Sluice",
        "title": "Sluice, a FHIR R4 server for many tenants",
        "status": "active",
        "experimental": False,
        "date": RELEASED,
        "description": "Reads, histories and searches of FHIR R4 resources; the data comes in by import.",
        "kind": "instance",
        "software": {"name": "Sluice", "version": version, "releaseDate": RELEASED},
        "implementation": {"description": "Sluice", "url": f"{base_url}/fhir"},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "documentation": _WORDS,
                "security": _security(cors=cors, tokens=tokens, endpoints=endpoints or {}),
                "resource": _resources(),
                "interaction": _codes(SYSTEM_INTERACTIONS),
                "searchParam": [*_of_all(), _has()],
                "compartment": [f"{_ROOT}/CompartmentDefinition/{name.lower()}" for name in COMPARTMENTS],
            }
        ],
    }


def definition_of(type_name: str, param: str) -> str | None:
    """The canonical URL of R4's own definition; None where R4 has none, or it is not known here."""
    if param.startswith("_"):
        return f"{_ROOT}/SearchParameter/Resource-{param[1:]}"
    if type_name not in PARAMETERS:
        return None
    owner = type_name
    if type_name in ("Patient", "Practitioner") and param in _INDIVIDUAL:
        owner = "individual"
    elif param in _CLINICAL.get(type_name, ()):
        owner = "clinical"
    return f"{_ROOT}/SearchParameter/{owner}-{param}"


def words_of(parameter: Parameter) -> str:
    """What a client may put behind the parameter's name, and before its values."""
    parts = []
    if parameter.computed == "sound":
        parts.append("By sound (metaphone).")
    if parameter.type in (ParamType.DATE, ParamType.QUANTITY):
        parts.append("Prefixes eq, ne, gt, lt, ge, le, sa, eb, ap.")
    if parameter.system:
        parts.append(f"Codes of {parameter.system}.")
    elif parameter.system == "":
        parts.append("Without a system.")
    if parameter.type is ParamType.REFERENCE:
        parts.append(f"To {', '.join(parameter.targets) or 'any type'}.")
    modifiers = [f":{modifier}" for modifier in modifiers_of(parameter)]
    if parameter.type is ParamType.REFERENCE:
        modifiers.append(":Type")
    return " ".join([*parts, f"Modifiers {', '.join(modifiers)}."])


def _security(*, cors: bool, tokens: bool, endpoints: Mapping[str, str]) -> dict[str, Any]:
    security: dict[str, Any] = {"cors": cors}
    if endpoints:
        uris = [{"url": name, "valueUri": uri} for name, uri in endpoints.items()]
        security["extension"] = [{"url": _OAUTH_URIS, "extension": uris}]
    if tokens:
        coding = {"system": _SECURITY_SERVICE, "code": "SMART-on-FHIR", "display": "SMART-on-FHIR"}
        security["service"] = [{"coding": [coding], "text": "Bearer tokens with SMART's scopes, beside keys"}]
    security["description"] = "Authorization: Bearer KEY. The key says which tenant asks; this statement alone needs none."
    return security


def _codes(codes: Iterable[str]) -> list[dict[str, str]]:
    return [{"code": code} for code in codes]


@lru_cache(maxsize=1)
def _resources() -> list[dict[str, Any]]:
    """Equal for every server, and some work to make."""
    return [_resource(name) for name in sorted(RESOURCE_TYPES)]


def _resource(type_name: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "type": type_name,
        "interaction": _codes(INTERACTIONS),
        "versioning": "versioned",
        "readHistory": True,
        "updateCreate": False,
        "conditionalRead": "full-support",
        "referencePolicy": ["literal"],
    }
    for member, reverse in (("searchInclude", False), ("searchRevInclude", True)):
        if found := inclusions_of(type_name, reverse=reverse):
            said[member] = found
    if type_name in PARAMETERS:
        own = [_search_param(type_name, row) for row in parameters_of(type_name).values() if row.name not in EVERY_TYPE]
        said["profile"] = f"{_ROOT}/StructureDefinition/{type_name}"
        said["searchParam"] = sorted([*own, *_of_all(type_name)], key=lambda row: str(row["name"]))
    if type_name in OPERATIONS:
        said["operation"] = [
            {"name": name, "definition": f"{_ROOT}/OperationDefinition/{type_name}-{name}"} for name in OPERATIONS[type_name]
        ]
    return said


def _of_all(type_name: str = "") -> Sequence[dict[str, str]]:
    columns = [
        {"name": name, "definition": str(definition_of("", name)), "type": kind, "documentation": words}
        for name, kind, words in _COLUMNS
    ]
    return [*columns, *(_search_param(type_name, row) for row in EVERY_TYPE.values())]


def _search_param(type_name: str, row: Parameter) -> dict[str, str]:
    definition = definition_of(type_name, row.name)
    said = {"name": row.name, **({"definition": definition} if definition else {}), "type": row.type.value}
    return {**said, "documentation": words_of(row)}


def _has() -> dict[str, str]:
    words = "_has:Type:reference:parameter, of what refers to the resource; the parameter may be a chain or another _has."
    return {"name": "_has", "type": "special", "documentation": words}
