"""What several resources of one claim have in common."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from ingestion.claims import Claim
from ingestion.mapping.codes import claim_type
from ingestion.mapping.naming import Naming
from ingestion.mapping.pieces import Json, raw, reference
from ingestion.settling.history import Settled
from storage.resources import Identifier


class Ids(msgspec.Struct, frozen=True, gc=False):
    """Ids of who the claim speaks of: the patient's, and by identifier those of practitioners and organizations."""

    patient: str
    of: Mapping[Identifier, str]


class About(msgspec.Struct, frozen=True, gc=False):
    """A claim, and what more than one of its resources have.

    Its Claim, Encounter and ExplanationOfBenefit have one id, `id`: types have their ids each to itself.
    """

    claim: Claim
    submitted_at: datetime
    id: str
    coverage_id: str
    type: msgspec.Raw
    patient: Json
    provider: Json
    payer: Json
    visited: Json
    """`{"encounter": [a reference]}`, or nothing: what is found by it of items."""
    in_item: str
    """The same as the end of an item's text."""


def about(settled: Settled, ids: Ids, naming: Naming) -> About | None:
    """None before the submission has come."""
    claim, submission = settled.claim, settled.submission
    if claim is None or submission is None:
        return None
    claim_id = naming.id_of("Claim", claim.provider_id, claim.id)
    insured = (ids.patient, claim.payer_id, claim.member_id or "", claim.package_name or "")
    visited = claim.encounter is not None
    return About(
        claim,
        submission.at,
        claim_id,
        naming.id_of("Coverage", *insured),
        raw(claim_type(claim.encounter, {state.activity.type for state in settled.activities})),
        reference("Patient", ids.patient),
        reference("Organization", ids.of[naming.facility(claim.provider_id)]),
        reference("Organization", ids.of[naming.payer(claim.payer_id)]),
        {"encounter": [reference("Encounter", claim_id)]} if visited else {},
        f',"encounter":[{{"reference":"Encounter/{claim_id}"}}]' if visited else "",
    )
