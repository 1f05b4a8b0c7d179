"""The visits of generated people, and what each leads to: a condition, and money."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta, timezone
from random import Random

from simulator.people_catalogue import (
    BASE,
    CASES,
    CLASSES,
    ICD_10,
    PAYERS,
    ROOM_OF,
    TERMINOLOGY,
    Json,
    concept,
    draw,
    identifier,
    moment,
    reference,
)
from simulator.people_money import claim, claim_response, explanation, services
from simulator.people_types import Hospital, Person, Visit

GULF = timezone(timedelta(hours=4))
CLASS_SHARES = {"AMB": 0.6, "EMER": 0.15, "IMP": 0.12, "SS": 0.08, "HH": 0.05}
STATUS_SHARES = {"finished": 0.84, "in-progress": 0.06, "planned": 0.05, "cancelled": 0.05}
CONDITION_SHARE = 0.9
CLAIM_SHARE = 0.85


class Visits:
    def __init__(
        self,
        seed: int,
        today: date,
        random: Random,
        hospitals: Sequence[Hospital],
        people: Sequence[Person],
        practitioners: int,
    ) -> None:
        self._seed = seed
        self._now = datetime.combine(today, time(), GULF)
        self._random = random
        self._hospitals = hospitals
        self._people = people
        self._practitioners = practitioners

    def visit(self, number: int) -> Iterator[Json]:
        """The Encounter and all that belongs to it alone."""
        visit = self._plan(number)
        yield self._encounter(visit)
        if visit.has_condition:
            yield self._condition(visit)
        if visit.status == "finished" and visit.person.payer and self._random.random() < CLAIM_SHARE:
            yield from self._money(visit, visit.person.payer)

    def _plan(self, number: int) -> Visit:
        random = self._random
        # Some come often and many seldom.
        person = self._people[int(random.random() ** 1.5 * len(self._people))]
        kind, status = draw(random, CLASS_SHARES), draw(random, STATUS_SHARES)
        start, end = self._period(kind, status)
        age = (start.date() - person.born).days // 365
        case = random.choice([case for case in CASES[kind] if age >= case.min_age])
        return Visit(
            key=f"{self._seed}-{number + 1}",
            person=person,
            practitioner=f"prac-{self._seed}-{random.randint(1, self._practitioners)}",
            kind=kind,
            status=status,
            case=case,
            start=start,
            end=end,
            has_condition=status == "finished" and random.random() < CONDITION_SHARE,
        )

    def _period(self, kind: str, status: str) -> tuple[datetime, datetime]:
        _, _, shortest_h, longest_h = CLASSES[kind]
        stay = timedelta(minutes=round(self._random.uniform(shortest_h, longest_h) * 60))
        if status == "planned":
            start = self._now + timedelta(minutes=self._random.randrange(8 * 60, 30 * 24 * 60))
            return start, start + stay
        if status == "in-progress":
            return self._now - stay * self._random.random(), self._now
        end = self._now - timedelta(minutes=self._random.randrange(720 * 24 * 60))
        return end - stay, end

    def _encounter(self, visit: Visit) -> Json:
        display, type_code, _, _ = CLASSES[visit.kind]
        hospital = visit.person.hospital
        resource: Json = {
            "resourceType": "Encounter",
            "id": visit.encounter,
            "identifier": [identifier(f"encounter/{hospital.licence}", f"V{visit.key}", "VN")],
            "status": visit.status,
            "class": {"system": f"{TERMINOLOGY}/v3-ActCode", "code": visit.kind, "display": display},
            "type": [concept(f"{BASE}/cs/encounter-type", type_code, display)],
            "priority": concept(f"{TERMINOLOGY}/v3-ActPriority", "EM" if visit.kind == "EMER" else "EL"),
            "subject": reference("Patient", visit.person.id),
            "participant": [_attender(visit)],
            "period": _open_period(visit),
            "reasonCode": [concept(ICD_10, visit.case.code, visit.case.display)],
            "serviceProvider": reference("Organization", hospital.id, hospital.name),
        }
        if visit.has_condition:
            use = concept(f"{TERMINOLOGY}/diagnosis-role", "AD" if visit.kind == "IMP" else "billing")
            resource["diagnosis"] = [{"condition": reference("Condition", f"con-{visit.key}"), "use": use}]
        if visit.kind in ROOM_OF:
            room = hospital.rooms[ROOM_OF[visit.kind]]
            resource["location"] = [{"location": reference("Location", room), "status": _room_status(visit.status)}]
        if visit.kind == "IMP" and visit.status == "finished":
            home = concept(f"{TERMINOLOGY}/discharge-disposition", "home", "Home")
            resource["hospitalization"] = {"dischargeDisposition": home}
        return resource

    def _condition(self, visit: Visit) -> Json:
        return {
            "resourceType": "Condition",
            "id": f"con-{visit.key}",
            "identifier": [identifier("condition", f"C{visit.key}")],
            "clinicalStatus": concept(f"{TERMINOLOGY}/condition-clinical", self._random.choice(("active", "resolved"))),
            "verificationStatus": concept(f"{TERMINOLOGY}/condition-ver-status", "confirmed"),
            "category": [concept(f"{TERMINOLOGY}/condition-category", "encounter-diagnosis")],
            "code": concept(ICD_10, visit.case.code, visit.case.display),
            "subject": reference("Patient", visit.person.id),
            "encounter": reference("Encounter", visit.encounter),
            "onsetDateTime": moment(visit.start),
            "recordedDate": moment(visit.end),
            "recorder": reference("Practitioner", visit.practitioner),
        }

    def _money(self, visit: Visit, payer: int) -> Iterator[Json]:
        """The Claim, and the payer's answer unless it is still awaited `today`."""
        submitted = visit.end + timedelta(days=self._random.randint(1, 7))
        answered = submitted + timedelta(days=self._random.randint(8, 45))
        if submitted >= self._now:
            return
        lines = services(visit, self._random)
        insurer = reference("Organization", f"payer-{self._seed}-{payer}", PAYERS[payer - 1])
        yield claim(visit, lines, insurer, submitted)
        if answered < self._now:
            yield claim_response(visit, lines, insurer, answered)
            yield explanation(visit, lines, insurer, answered)


def _attender(visit: Visit) -> Json:
    return {
        "type": [concept(f"{TERMINOLOGY}/v3-ParticipationType", "ATND", "attender")],
        "individual": reference("Practitioner", visit.practitioner),
    }


def _open_period(visit: Visit) -> Json:
    start = {"start": moment(visit.start)}
    return start if visit.status == "in-progress" else start | {"end": moment(visit.end)}


def _room_status(status: str) -> str:
    return {"in-progress": "active", "planned": "planned"}.get(status, "completed")
