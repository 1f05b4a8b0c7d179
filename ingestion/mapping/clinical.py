"""What submissions tell: Coverage, Encounter, Conditions and Claim."""

from collections.abc import Iterator

from ingestion.claims import Claim, Diagnosis, Encounter
from ingestion.mapping import codes
from ingestion.mapping.claim import claim
from ingestion.mapping.naming import Naming
from ingestion.mapping.pieces import Json, concept, identifier, identifier_text, moment, raw, reference
from ingestion.mapping.shared import About, Ids, about
from ingestion.settling.history import Settled
from r4.resource import Resource, made


def clinical(settled: Settled, ids: Ids, naming: Naming) -> list[Resource]:
    """Nothing before the submission has come. Claims of one patient may have one Coverage, and then give the same."""
    base = about(settled, ids, naming)
    if base is None:
        return []
    licences = dict.fromkeys([state.activity.clinician_id for state in settled.activities])
    team = {licence: reference("Practitioner", ids.of[naming.clinician(licence)]) for licence in licences if licence}
    resources = [_coverage(base, naming)]
    if visit := base.claim.encounter:
        resources.append(_encounter(base, visit, ids, team, naming))
    resources += _conditions(settled, base)
    resources.append(claim(settled, base, team, naming))
    return resources


def coverage(settled: Settled, ids: Ids, naming: Naming) -> Resource | None:
    """What claims share, beside who they speak of; None before the submission has come."""
    base = about(settled, ids, naming)
    return None if base is None else _coverage(base, naming)


def _coverage(base: About, naming: Naming) -> Resource:
    said = base.claim
    members: Json = {"status": "active"}
    if said.member_id and said.member_id.casefold() == "selfpay":
        members["type"] = codes.SELF_PAY  # the word is no number of a member
    elif said.member_id:
        number = identifier(naming.sid("member-id", said.payer_id), said.member_id)
        members["identifier"] = [{"type": codes.MEMBER_NUMBER, **number}]
        members["subscriberId"] = said.member_id
    members["beneficiary"] = base.patient
    members["payor"] = [base.payer]
    if said.package_name:
        members["class"] = [{"type": codes.PLAN, "value": said.package_name}]
    return made("Coverage", base.coverage_id, members)


def _encounter(base: About, visit: Encounter, ids: Ids, team: dict[str, Json], naming: Naming) -> Resource:
    said = base.claim
    members: Json = {
        "identifier": [identifier(naming.sid("claim-encounter"), f"{said.provider_id}|{said.id}")],
        "status": _status(visit),
        "class": codes.CODING_OF_CLASS[codes.class_of(visit)],
        "type": [concept(naming.cs("encounter-type"), visit.type)],
        "subject": base.patient,
        "period": _period(visit),
        "serviceProvider": base.provider,
    }
    if visit.facility_id != said.provider_id:
        members["serviceProvider"] = reference("Organization", ids.of[naming.facility(visit.facility_id)])
    if team:
        members["participant"] = [{"individual": clinician} for clinician in team.values()]
    if priority := codes.PRIORITIES.get(visit.start_type or ""):
        members["priority"] = raw(priority)
    if hospitalization := ",".join(_hospitalization(visit, naming)):
        members["hospitalization"] = raw(f"{{{hospitalization}}}")
    return made("Encounter", base.id, members)


def _status(visit: Encounter) -> str:
    goes_on = visit.end_type == codes.NOT_DISCHARGED or (visit.end is None and visit.type in codes.STAYS)
    return "in-progress" if goes_on else "finished"


def _period(visit: Encounter) -> Json:
    """Without an end that is before its start, which FHIR forbids."""
    start = {"start": moment(visit.start)}
    return {**start, "end": moment(visit.end)} if visit.end and visit.end >= visit.start else start


def _hospitalization(visit: Encounter, naming: Naming) -> Iterator[str]:
    for name, place in (("origin", visit.transfer_source), ("destination", visit.transfer_destination)):
        if place:
            yield f'"{name}":{{"identifier":{identifier_text(naming.sid("dha-facility"), place)}}}'
    if source := codes.admit_source(visit, naming):
        yield f'"admitSource":{source}'
    if disposition := codes.discharge_disposition(visit.end_type, naming):
        yield f'"dischargeDisposition":{disposition}'


def _conditions(settled: Settled, base: About) -> list[Resource]:
    """Each is known by its place, so that what a correction says takes the place of what was wrong."""
    said = base.claim.diagnoses
    found = [_condition(place, diagnosis, base) for place, diagnosis in enumerate(said, 1)]
    if settled.resubmission_count:
        left_out = sorted(_left_out(settled, len(said)).items())
        found += [_condition(place, diagnosis, base, wrong=True) for place, diagnosis in left_out]
    return found


def _left_out(settled: Settled, kept: int) -> dict[int, Diagnosis]:
    """What was said before and is no more, by place. Of resubmissions only a correction says anything of this."""
    found: dict[int, Diagnosis] = {}
    for step in settled.steps:
        content = step.event.content
        if isinstance(content, Claim) and (step.kind == "submission" or _corrects(content)):
            found.update(enumerate(content.diagnoses[kept:], kept + 1))
    return found


def _corrects(said: Claim) -> bool:
    return said.resubmission is not None and said.resubmission.type == "correction"


def _condition(place: int, diagnosis: Diagnosis, base: About, *, wrong: bool = False) -> Resource:
    members: Json = {
        "code": concept(codes.ICD_10, diagnosis.code),
        "subject": base.patient,
    }
    if wrong:
        members["verificationStatus"] = codes.ENTERED_IN_ERROR
    if base.visited:
        members["encounter"] = base.visited["encounter"][0]
    return made("Condition", f"{base.id}-{place}", members)
