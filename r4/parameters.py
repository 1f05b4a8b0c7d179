"""The search parameters, as a table of data: what is indexed on import, what a search may ask for, what /fhir/metadata says.

Paths are FHIRPath's plain part: members joined by dots, lists are walked through; `telecom[system=phone]` takes those
that have this value. The standard is https://hl7.org/fhir/R4/searchparameter-registry.html.
"""

from dataclasses import dataclass
from enum import Enum


class ParamType(Enum):
    TOKEN = "token"  # noqa: S105
    STRING = "string"
    DATE = "date"
    REFERENCE = "reference"
    URI = "uri"
    QUANTITY = "quantity"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`targets`: the types that a reference may lead to; empty means any.

    `system` is a token's: None where each value bears its own, "" where values have none and take no `|` (booleans and
    ContactPoints), else the code system that the element's binding implies. `common`: one value may be a large share of a
    tenant's resources. `single`: a resource has at most one value. `computed`: the value is not at a path but made of what is
    there: "present" is true unless the element is absent or false, "sound" is how the words sound.
    """

    name: str
    type: ParamType
    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()
    system: str | None = None
    common: bool = False
    single: bool = False
    computed: str = ""


def _token(name: str, *paths: str, system: str | None = None, common: bool = False, computed: str = "") -> Parameter:
    return Parameter(name, ParamType.TOKEN, paths or (name,), system=system, common=common, computed=computed)


def _code(name: str, system: str, path: str = "") -> Parameter:
    """Of an element whose type is `code`: its system is implied, and it has few values."""
    return _token(name, path or name, system=f"http://hl7.org/fhir/{system}", common=True)


def _string(name: str, *paths: str, computed: str = "") -> Parameter:
    return Parameter(name, ParamType.STRING, paths or (name,), computed=computed)


def _date(name: str, *paths: str, single: bool = True) -> Parameter:
    return Parameter(name, ParamType.DATE, paths or (name,), single=single)


def _reference(name: str, path: str, *targets: str, common: bool = False) -> Parameter:
    return Parameter(name, ParamType.REFERENCE, tuple(path.split(" | ")), targets, common=common)


def _uri(name: str, path: str) -> Parameter:
    return Parameter(name, ParamType.URI, (path,), common=True)


_IDENTIFIER = _token("identifier")
_ACTIVE = _token("active", system="", common=True)
_PHONETIC = _string("phonetic", "name", computed="sound")
_ADDRESS = (
    _string("address"),
    _string("address-city", "address.city"),
    _string("address-country", "address.country"),
    _string("address-postalcode", "address.postalCode"),
    _string("address-state", "address.state"),
    _code("address-use", "address-use", "address.use"),
)
_PERSON = (
    _IDENTIFIER,
    _string("name"),
    _string("family", "name.family"),
    _string("given", "name.given"),
    _PHONETIC,
    _code("gender", "administrative-gender"),
    _ACTIVE,
    *_ADDRESS,
    _token("telecom", system=""),
    _token("phone", "telecom[system=phone]", system=""),
    _token("email", "telecom[system=email]", system=""),
)
_ANY_PROVIDER = ("Practitioner", "PractitionerRole", "Organization")
_PATIENT = _reference("patient", "patient", "Patient")
_ENCOUNTER = _reference("encounter", "encounter", "Encounter")
_ITEM_ENCOUNTER = _reference("encounter", "item.encounter", "Encounter")
_SUBJECT = (_reference("subject", "subject", "Patient", "Group"), _reference("patient", "subject", "Patient"))
_FINANCIAL = _code("status", "fm-status")
_USE = _code("use", "claim-use")
_OUTCOME = _code("outcome", "remittance-outcome")
_CREATED = _date("created")
_ENTERER = _reference("enterer", "enterer", "Practitioner", "PractitionerRole")
_FACILITY = _reference("facility", "facility", "Location", common=True)
_INSURER = _reference("insurer", "insurer", "Organization", common=True)
_PROVIDER = _reference("provider", "provider", *_ANY_PROVIDER, common=True)
_CARE_TEAM = _reference("care-team", "careTeam.provider", *_ANY_PROVIDER)
_PAYEE = _reference("payee", "payee.party", *_ANY_PROVIDER, "Patient", "RelatedPerson")
_ENDPOINT = _reference("endpoint", "endpoint", "Endpoint")
_DEVICES = tuple(
    _reference(f"{name}-udi", f"{path}.udi", "Device")
    for name, path in (
        ("item", "item"),
        ("detail", "item.detail"),
        ("subdetail", "item.detail.subDetail"),
        ("procedure", "procedure"),
    )
)

_TABLE: dict[str, tuple[Parameter, ...]] = {
    "Patient": (
        *_PERSON,
        _date("birthdate", "birthDate"),
        _date("death-date", "deceasedDateTime"),
        _token("deceased", "deceasedBoolean", "deceasedDateTime", system="", common=True, computed="present"),
        _reference("general-practitioner", "generalPractitioner", *_ANY_PROVIDER, common=True),
        _token("language", "communication.language", common=True),
        _reference("link", "link.other", "Patient", "RelatedPerson"),
        _reference("organization", "managingOrganization", "Organization", common=True),
    ),
    "Practitioner": (*_PERSON, _token("communication", common=True)),
    "Encounter": (
        _IDENTIFIER,
        *_SUBJECT,
        _date("date", "period"),
        _code("status", "encounter-status"),
        _token("class", common=True),
        _token("type", common=True),
        _reference("practitioner", "participant.individual", "Practitioner", common=True),
        _reference("participant", "participant.individual", "Practitioner", "PractitionerRole", "RelatedPerson", common=True),
        _token("participant-type", "participant.type", common=True),
        _reference("account", "account", "Account"),
        _reference("appointment", "appointment", "Appointment"),
        _reference("based-on", "basedOn", "ServiceRequest"),
        _reference("diagnosis", "diagnosis.condition", "Condition", "Procedure"),
        _reference("episode-of-care", "episodeOfCare", "EpisodeOfCare"),
        Parameter("length", ParamType.QUANTITY, ("length",), single=True),
        _reference("location", "location.location", "Location", common=True),
        _date("location-period", "location.period", single=False),
        _reference("part-of", "partOf", "Encounter"),
        _token("reason-code", "reasonCode"),
        _reference(
            "reason-reference", "reasonReference", "Condition", "Observation", "Procedure", "ImmunizationRecommendation"
        ),
        _reference("service-provider", "serviceProvider", "Organization", common=True),
        _token("special-arrangement", "hospitalization.specialArrangement"),
    ),
    "Account": (
        _IDENTIFIER,
        _string("name"),
        _code("status", "account-status"),
        _token("type", common=True),
        _date("period", "servicePeriod"),
        _reference("owner", "owner", "Organization", common=True),
        _reference("subject", "subject"),
        _reference("patient", "subject", "Patient"),
    ),
    "Claim": (
        _IDENTIFIER, _FINANCIAL, _USE, _CREATED, _PATIENT, _ITEM_ENCOUNTER, _PROVIDER, _INSURER, _FACILITY, _ENTERER,
        _CARE_TEAM, _PAYEE, _token("priority", common=True), *_DEVICES,
    ),
    "ClaimResponse": (
        _IDENTIFIER, _FINANCIAL, _USE, _CREATED, _PATIENT, _INSURER, _OUTCOME,
        _string("disposition"),
        _date("payment-date", "payment.date"),
        _reference("request", "request", "Claim"),
        _reference("requestor", "requestor", *_ANY_PROVIDER, common=True),
    ),
    "Condition": (
        _IDENTIFIER,
        *_SUBJECT,
        _ENCOUNTER,
        _token("code"),
        _token("category", common=True),
        _token("clinical-status", "clinicalStatus", common=True),
        _token("verification-status", "verificationStatus", common=True),
        _token("severity", common=True),
        _token("body-site", "bodySite"),
        _token("stage", "stage.summary"),
        _token("evidence", "evidence.code"),
        _reference("evidence-detail", "evidence.detail"),
        _date("onset-date", "onsetDateTime", "onsetPeriod"),
        _string("onset-info", "onsetString"),
        _date("abatement-date", "abatementDateTime", "abatementPeriod"),
        _string("abatement-string", "abatementString"),
        _date("recorded-date", "recordedDate"),
        _reference("asserter", "asserter", "Practitioner", "PractitionerRole", "Patient", "RelatedPerson"),
    ),
    "Coverage": (
        _IDENTIFIER,
        _FINANCIAL,
        _token("type", common=True),
        _reference("beneficiary", "beneficiary", "Patient"),
        _reference("patient", "beneficiary", "Patient"),
        _reference("payor", "payor", "Organization", "Patient", "RelatedPerson", common=True),
        _reference("policy-holder", "policyHolder", "Patient", "RelatedPerson", "Organization"),
        _reference("subscriber", "subscriber", "Patient", "RelatedPerson"),
        _string("dependent"),
        _token("class-type", "class.type", common=True),
        _string("class-value", "class.value"),
    ),
    "ExplanationOfBenefit": (
        _IDENTIFIER, _CREATED, _PATIENT, _ITEM_ENCOUNTER, _PROVIDER, _FACILITY, _ENTERER, _CARE_TEAM, _PAYEE,
        _code("status", "explanationofbenefit-status"),
        _string("disposition"),
        _reference("claim", "claim", "Claim"),
        _reference("coverage", "insurance.coverage", "Coverage"),
        *_DEVICES,
    ),
    "Location": (
        _IDENTIFIER,
        _string("name", "name", "alias"),
        _code("status", "location-status"),
        *_ADDRESS,
        _ENDPOINT,
        _token("operational-status", "operationalStatus", common=True),
        _token("type", common=True),
        _reference("organization", "managingOrganization", "Organization", common=True),
        _reference("partof", "partOf", "Location"),
    ),
    "Organization": (
        _IDENTIFIER,
        _string("name", "name", "alias"),
        _PHONETIC,
        _ACTIVE,
        *_ADDRESS,
        _ENDPOINT,
        _reference("partof", "partOf", "Organization"),
        _token("type", common=True),
    ),
    "Procedure": (
        _IDENTIFIER,
        _code("status", "event-status"),
        *_SUBJECT,
        _date("date", "performedDateTime", "performedPeriod"),
        _ENCOUNTER,
        _token("code"),
        _token("category", common=True),
        _reference("location", "location", "Location", common=True),
    ),
}  # fmt: skip

EVERY_TYPE: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        _IDENTIFIER,
        _uri("_profile", "meta.profile"),
        _token("_security", "meta.security", common=True),
        _uri("_source", "meta.source"),
        _token("_tag", "meta.tag", common=True),
    )
}
"""What every type has, for those few without an `identifier` find nothing by it. `_id` and `_lastUpdated` are columns."""

PARAMETERS: dict[str, dict[str, Parameter]] = {
    kind: {**{parameter.name: parameter for parameter in rows}, **EVERY_TYPE} for kind, rows in _TABLE.items()
}
"""By type and name. A type that is not here can be stored and read, and searched by what every type has."""

ORDER: dict[str, str] = {"Encounter": "date"}
"""Types whose default order is by a date, the newest first, and the parameter of that date. All others go by id."""

COMPARTMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    # https://hl7.org/fhir/R4/compartmentdefinition.html, of the types in the table above.
    "Patient": {
        "Account": ("subject",),
        "Claim": ("patient", "payee"),
        "ClaimResponse": ("patient",),
        "Condition": ("patient", "asserter"),
        "Coverage": ("policy-holder", "subscriber", "beneficiary", "payor"),
        "Encounter": ("patient",),
        "ExplanationOfBenefit": ("patient", "payee"),
        "Patient": ("link",),
        "Procedure": ("patient",),
    },
    "Practitioner": {
        "Claim": ("enterer", "provider", "payee", "care-team"),
        "ClaimResponse": ("requestor",),
        "Condition": ("asserter",),
        "Encounter": ("practitioner", "participant"),
        "ExplanationOfBenefit": ("enterer", "provider", "payee", "care-team"),
        "Patient": ("general-practitioner",),
    },
    "Encounter": {
        "Claim": ("encounter",),
        "Condition": ("encounter",),
        "ExplanationOfBenefit": ("encounter",),
        "Procedure": ("encounter",),
    },
}
"""By the compartment's type and the type searched in it: the parameters of which one leads to the compartment's resource."""


def parameters_of(type_name: str) -> dict[str, Parameter]:
    return PARAMETERS.get(type_name, EVERY_TYPE)


def parameter_of(type_name: str, name: str) -> Parameter:
    """By its name, or by several joined by `|`: a reference by any of them, as a compartment has it."""
    table = parameters_of(type_name)
    if "|" not in name:
        return table[name]
    paths = {path: None for each in name.split("|") for path in table[each].paths}
    return Parameter(name, ParamType.REFERENCE, tuple(paths))
