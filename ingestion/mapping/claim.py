"""The Claim: what is charged, for what, and who is to pay."""

import re
from collections.abc import Mapping
from decimal import Decimal

from ingestion.claims import Claim, Observation
from ingestion.mapping import codes
from ingestion.mapping.naming import Naming
from ingestion.mapping.pieces import (
    Json,
    aed,
    capped,
    concept_text,
    day,
    encoded,
    identifier,
    identifier_text,
    moment,
    raw,
    reference,
    rows,
)
from ingestion.mapping.shared import About
from ingestion.settling.history import ActivityState, Settled
from r4.resource import Resource, made

_MEASURED = ("LOINC", "Result", "Financial")
"""Types of observation whose value may be a quantity; elsewhere a number is a code."""
_FILE = "File"
_is_number = re.compile(r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?").fullmatch


def claim(settled: Settled, base: About, team: Mapping[str, Json], naming: Naming) -> Resource:
    """`team`: references to the clinicians, by licence, in their order in the care team."""
    said = base.claim
    information, told = _information(settled, said, naming)
    places = {licence: place for place, licence in enumerate(team, 1)}
    members = _head(base, naming)
    if settled.resubmission_count:  # a claim is said again under its own number
        number = identifier_text(naming.sid("claim", said.provider_id), said.id)
        members["related"] = raw(f'[{{"claim":{{"identifier":{number}}},"relationship":{codes.PRIOR}}}]')
    if team:
        members["careTeam"] = [{"sequence": place, "provider": team[licence]} for licence, place in places.items()]
    if information:
        members["supportingInfo"] = rows(information)
    if said.diagnoses:
        members["diagnosis"] = rows(_diagnoses(said, naming))
    members["insurance"] = [_insurance(settled, base)]
    if settled.activities:
        members["item"] = rows([_item(state, base, places, told, naming) for state in settled.activities])
    members["total"] = raw(aed(settled.amounts.net))
    return made("Claim", base.id, members, {"item": base.visited})


def _head(base: About, naming: Naming) -> Json:
    said = base.claim
    amounts = (("claim-gross", said.gross), ("claim-patient-share", said.patient_share))
    return {
        "extension": rows([f'{{"url":"{naming.url(name)}","valueMoney":{aed(amount)}}}' for name, amount in amounts]),
        "identifier": [identifier(naming.sid("claim", said.provider_id), said.id)],
        "status": "active",
        "type": base.type,
        "use": "claim",
        "patient": base.patient,
        "created": moment(base.submitted_at),
        "insurer": base.payer,
        "provider": base.provider,
        "priority": codes.NORMAL,
    }


def _diagnoses(said: Claim, naming: Naming) -> list[str]:
    return [
        f'{{"sequence":{place},"diagnosisCodeableConcept":{concept_text(codes.ICD_10, diagnosis.code)},'
        f'"type":[{codes.diagnosis_type(diagnosis.type, naming)}]}}'
        for place, diagnosis in enumerate(said.diagnoses, 1)
    ]


def _insurance(settled: Settled, base: About) -> Json:
    members: Json = {"sequence": 1, "focal": True, "coverage": reference("Coverage", base.coverage_id)}
    numbers = dict.fromkeys([state.activity.prior_authorization for state in settled.activities])
    if approved := [number for number in numbers if number]:
        members["preAuthRef"] = approved
    return members


def _item(state: ActivityState, base: About, places: Mapping[str, int], told: Mapping[int, list[int]], naming: Naming) -> str:
    activity = state.activity
    place = places.get(activity.clinician_id)
    by = f'"careTeamSequence":[{place}],' if place else ""
    told_by = f'"informationSequence":{told[state.ordinal]},' if state.ordinal in told else ""
    return (
        f'{{"extension":[{{"url":"{naming.url("activity-id")}","valueString":{encoded(activity.id)}}}],'
        f'"sequence":{state.ordinal},{by}{told_by}"productOrService":{codes.service(activity.type, activity.code, naming)},'
        f'"servicedDate":"{day(activity.start)}","quantity":{{"value":{activity.quantity!s}}},'
        f'"net":{aed(activity.net)}{base.in_item}}}'
    )


def _information(settled: Settled, said: Claim, naming: Naming) -> tuple[list[str], dict[int, list[int]]]:
    """And where it tells of an item, its sequences by the item's."""
    found: list[str] = []
    told: dict[int, list[int]] = {}
    if again := said.resubmission:
        kind = concept_text(naming.cs("resubmission-type"), again.type)
        when = f',"timingDate":"{day(settled.last_resubmission_at)}"' if settled.last_resubmission_at else ""
        comment = f',"valueString":{capped(again.comment)}' if again.comment else ""
        found.append(f'{{"sequence":1,"category":{codes.RELATED},"code":{kind}{when}{comment}}}')
    for state in settled.activities:
        for observation in state.activity.observations:
            sequence = len(found) + 1
            found.append(f'{{"sequence":{sequence},"category":{codes.INFORMATION},{_observed(observation, naming)}}}')
            told.setdefault(state.ordinal, []).append(sequence)
    return found, told


def _observed(observation: Observation, naming: Naming) -> str:
    kind, value, unit = observation.type, observation.value, observation.value_type
    system = codes.LOINC if kind == "LOINC" else naming.cs("observation-" + kind.lower().replace(" ", "-"))
    code = f'"code":{concept_text(system, observation.code)}'
    if not value or kind == _FILE:  # half a file is of no use, and a whole one is too large to be read with the claim
        return code
    if kind in _MEASURED and _is_number(value) and not _is_time(unit):
        return f'{code},"valueQuantity":{encoded({"value": Decimal(value), **({"unit": unit} if unit else {})})}'
    return f'{code},"valueString":{capped(value)}'


def _is_time(unit: str | None) -> bool:
    """Dates come as values too, in digits."""
    return unit is not None and ("date" in unit.lower() or "time" in unit.lower())
