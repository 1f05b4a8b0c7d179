"""The codes of the post office's files, and what FHIR says for them. What is not in these tables keeps its own code.

Where a resource is found by a code it is a dict, else text.
"""

from collections.abc import Set as AbstractSet

from ingestion.claims import Encounter
from ingestion.mapping.naming import Naming
from ingestion.mapping.pieces import Json, concept, concept_text, encoded

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
ICD_10 = "http://hl7.org/fhir/sid/icd-10-cm"
LOINC = "http://loinc.org"

CLASSES = {
    **dict.fromkeys(("1", "7", "8", "9", "10"), "AMB"),
    "2": "EMER",
    **dict.fromkeys(("3", "4"), "IMP"),
    **dict.fromkeys(("5", "6"), "SS"),
    **dict.fromkeys(("12", "13"), "HH"),
    **dict.fromkeys(("15", "41", "42"), "FLD"),
}
"""By type of encounter; any other is AMB."""
CODING_OF_CLASS = {code: {"system": f"{TERMINOLOGY}/v3-ActCode", "code": code} for code in CLASSES.values()}
STAYS = ("3", "4", "5", "6")
"""Types of encounter that go on until their end is said."""
NOT_DISCHARGED = "6"
_THROUGH_EMERGENCY = ("4", "6")

PRIORITIES = {start: concept_text(f"{TERMINOLOGY}/v3-ActPriority", code) for start, code in (("1", "EL"), ("2", "EM"))}
_SOURCES = {"3": "hosp-trans", "4": "born"}
_DISPOSITIONS = {"1": "home", "2": "aadvice", "3": "oth", "4": "other-hcf", "5": "exp", "7": "long", "8": "oth"}

ENTERED_IN_ERROR = concept(f"{TERMINOLOGY}/condition-ver-status", "entered-in-error")
MEMBER_NUMBER, MEDICAL_LICENCE, NATIONAL_NUMBER, RECORD_NUMBER = (
    concept(f"{TERMINOLOGY}/v2-0203", code) for code in ("MB", "MD", "NI", "MR")
)
NORMAL = concept(f"{TERMINOLOGY}/processpriority", "normal")
PLAN = concept(f"{TERMINOLOGY}/coverage-class", "plan")
SELF_PAY = concept(f"{TERMINOLOGY}/coverage-selfpay", "pay")

INFORMATION, RELATED = (concept_text(f"{TERMINOLOGY}/claiminformationcategory", code) for code in ("info", "related"))
PRIOR = concept_text(f"{TERMINOLOGY}/ex-relatedclaimrelationship", "prior")
WHOLE_PAYMENT, PART_PAYMENT = (concept_text(f"{TERMINOLOGY}/ex-paymenttype", code) for code in ("complete", "partial"))
SUBMITTED, BENEFIT, COPAY = (concept_text(f"{TERMINOLOGY}/adjudication", code) for code in ("submitted", "benefit", "copay"))

_DIAGNOSIS_TYPES = {"Principal": "principal", "Admitting": "admitting"}
_ACTIVITY_SYSTEMS = {"3": "http://www.ama-assn.org/go/cpt", "4": "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"}
_DRUG, _DENTAL = "5", "6"


def class_of(encounter: Encounter | None) -> str:
    return CLASSES.get(encounter.type, "AMB") if encounter else ""


def claim_type(encounter: Encounter | None, types: AbstractSet[str]) -> str:
    """`types`: of its activities."""
    if class_of(encounter) in ("IMP", "SS"):
        code = "institutional"
    elif types == {_DRUG}:
        code = "pharmacy"
    else:
        code = "oral" if types == {_DENTAL} else "professional"
    return concept_text(f"{TERMINOLOGY}/claim-type", code)


def admit_source(encounter: Encounter, naming: Naming) -> str:
    """Where from, by the type of the encounter and by how it started: one may say what the other does not."""
    start, found = encounter.start_type, []
    if encounter.type in _THROUGH_EMERGENCY:
        found.append(concept(f"{TERMINOLOGY}/admit-source", "emd"))
    if start in _SOURCES:
        found.append(concept(f"{TERMINOLOGY}/admit-source", _SOURCES[start]))
    elif start and start not in PRIORITIES:
        found.append(concept(naming.cs("encounter-start-type"), start))
    return _joined(found)


def discharge_disposition(end_type: str | None, naming: Naming) -> str:
    if not end_type or end_type == NOT_DISCHARGED:
        return ""
    code = _DISPOSITIONS.get(end_type)
    found = [concept(f"{TERMINOLOGY}/discharge-disposition", code)] if code else []
    if code in (None, "oth"):  # two of theirs are one `oth`
        found.append(concept(naming.cs("encounter-end-type"), end_type))
    return _joined(found)


def _joined(concepts: list[Json]) -> str:
    """One concept with the codings of all."""
    return encoded({"coding": [coding for each in concepts for coding in each["coding"]]}) if concepts else ""


def diagnosis_type(said: str, naming: Naming) -> str:
    code = _DIAGNOSIS_TYPES.get(said)
    return concept_text(f"{TERMINOLOGY}/ex-diagnosistype", code) if code else concept_text(naming.cs("diagnosis-type"), said)


def service(activity_type: str, code: str, naming: Naming) -> str:
    system = _ACTIVITY_SYSTEMS.get(activity_type)
    if system is None:
        system = naming.cs("dha-drug" if activity_type == _DRUG else f"activity-{activity_type}")
    return concept_text(system, code)


def denial(code: str | None, naming: Naming) -> str:
    return concept_text(naming.cs("denial-code"), code) if code else ""
