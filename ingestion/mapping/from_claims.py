"""FHIR R4 resources of what is known of a claim. Pure.

Who is spoken of is named here by identifier; which resource has the identifier is decided by the caller, who then gives the
ids back (`Ids`). `clinical` and `financial` are made anew whenever the claim changes: the same claim gives the same bytes.
"""

import re
from collections.abc import Iterable, Iterator

from ingestion.claims import Claim, Remitted
from ingestion.mapping.clinical import clinical, coverage
from ingestion.mapping.codes import MEDICAL_LICENCE, NATIONAL_NUMBER, RECORD_NUMBER
from ingestion.mapping.financial import financial
from ingestion.mapping.naming import Naming
from ingestion.mapping.pieces import Json
from ingestion.mapping.shared import Ids
from ingestion.settling.history import Settled
from r4.resource import Resource, made
from storage.resources import Identifier

__all__ = [
    "Identifier",
    "Ids",
    "Naming",
    "clinical",
    "coverage",
    "financial",
    "mentioned",
    "organization",
    "patient",
    "patient_identifiers",
    "practitioner",
]

_is_emirates_id = re.compile(r"[0-9]{3}-[0-9]{4}-[0-9]{7}-[0-9]").fullmatch
_PLACEHOLDERS = ("000-", "111-", "222-", "999-")


def patient_identifiers(claim: Claim, naming: Naming) -> tuple[Identifier, ...]:
    """The Emirates ID, unless it stands for people who have none, then the facility's record number.

    Without either the patient is local to the claim.
    """
    found = []
    if _is_emirates_id(claim.emirates_id) and not claim.emirates_id.startswith(_PLACEHOLDERS):
        found.append(naming.emirates_id(claim.emirates_id))
    visit = claim.encounter
    if visit and visit.patient_id and visit.facility_id:
        found.append(naming.record_number(visit.facility_id, visit.patient_id))
    return tuple(found)


def mentioned(settled: Settled, naming: Naming) -> set[Identifier]:
    """The practitioners and organizations that the claim's resources lead to; none before its submission has come."""
    claim = settled.claim
    if claim is None:
        return set()
    clinicians = {state.activity.clinician_id for state in settled.activities}
    facilities = {claim.provider_id, claim.encounter.facility_id if claim.encounter else ""}
    payers = {claim.payer_id}
    if settled.submission:
        facilities.add(settled.submission.sender_id)
    for step in settled.remittances:
        payers.add(step.event.sender_id)
        if isinstance(step.event.content, Remitted):
            clinicians.update([line.clinician_id for line in step.event.content.lines])
    return set(_identifiers(clinicians, facilities, payers, naming))


def _identifiers(
    clinicians: Iterable[str], facilities: Iterable[str], payers: Iterable[str], naming: Naming
) -> Iterator[Identifier]:
    yield from (naming.clinician(licence) for licence in clinicians if licence)
    yield from (naming.facility(licence) for licence in facilities if licence)
    yield from (naming.payer(licence) for licence in payers if licence)


def patient(resource_id: str, identifiers: Iterable[Identifier], naming: Naming) -> Resource:
    """Claims have no name, gender or birth date."""
    ordered = sorted(identifiers, key=lambda identifier: (identifier.system or "", identifier.code))
    members = {"identifier": [_patients(identifier, naming) for identifier in ordered]} if ordered else {}
    return made("Patient", resource_id, members)


def _patients(identifier: Identifier, naming: Naming) -> Json:
    kind = NATIONAL_NUMBER if identifier.system == naming.sid("emirates-id") else RECORD_NUMBER
    return {"type": kind, "system": identifier.system, "value": identifier.code}


def practitioner(resource_id: str, identifier: Identifier, naming: Naming) -> Resource:  # noqa: ARG001  # as patient
    members = {"identifier": [{"type": MEDICAL_LICENCE, "system": identifier.system, "value": identifier.code}]}
    return made("Practitioner", resource_id, members)


def organization(resource_id: str, identifier: Identifier, naming: Naming) -> Resource:  # noqa: ARG001  # as patient
    return made("Organization", resource_id, {"identifier": [{"system": identifier.system, "value": identifier.code}]})
