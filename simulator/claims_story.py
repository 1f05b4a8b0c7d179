"""A claim from its visit to its last remittance: what each file will say of it. XML is made here, and kept in pieces."""

from dataclasses import dataclass, field
from random import Random

from simulator import claims_catalogue as catalogue
from simulator.claims_people import Patient
from simulator.claims_text import moment, money, pick, weighted
from simulator.claims_types import Mix

_ACTIVITY_COUNTS = weighted(catalogue.ACTIVITY_COUNTS)
_DIAGNOSIS_COUNTS = weighted(catalogue.DIAGNOSIS_COUNTS)
_ACTIVITY_TYPES = weighted(catalogue.ACTIVITY_TYPES)
_ENCOUNTER_TYPES = weighted(catalogue.ENCOUNTER_TYPES)
_START_TYPES = weighted(catalogue.START_TYPES)
_END_TYPES = weighted(catalogue.END_TYPES)
_QUANTITIES = ("1", "1.0", "1", "2", "1.00", "3", "0.5", "10")
_PRICES = (4500, 8000, 11172, 10819, 15000, 6480, 25050, 3333, 9990, 120000)
CLINICIANS = 40


@dataclass(slots=True)
class Act:
    """An activity, and what was paid for it until now."""

    id: str
    what: str
    """Start, Type, Code and Quantity."""
    net: int
    clinician: str
    authorization: str
    observations: str
    share: int
    """The patient's."""
    paid: int = 0
    denied: bool = False

    @property
    def is_short(self) -> bool:
        return self.paid < self.net


@dataclass(slots=True)
class Story:
    id: str
    patient: Patient
    at: int
    """Of the last file that told of it, in minutes."""
    encounter: str
    diagnoses: str
    acts: list[Act]
    id_payer: str
    net_error: int = 0
    rounds: int = 0
    """Resubmissions."""
    step: str = "answer"
    """What its next remittance is: answer, rest, take_back."""
    settled: int = 0
    is_closed: bool = False
    acts_left_out: frozenset[str] = field(default=frozenset())


class Stories:
    """Draws new ones."""

    def __init__(self, random: Random, licence: str, mix: Mix) -> None:
        self._random = random
        self._licence = licence
        self._mix = mix
        self._count = 0

    def new(self, claim_id: str, patient: Patient, at: int) -> Story:
        """Of a visit that had ended by `at`."""
        random = self._random
        self._count += 1
        kind = pick(random, _ENCOUNTER_TYPES)
        hours = random.randrange(30, 200) if kind in catalogue.STAYS else random.randrange(1, 6)
        start = at - int(random.random() * 20 * 1440) - 60 * hours - 60
        has_encounter = random.random() >= self._mix.no_encounter
        return Story(
            claim_id,
            patient,
            at,
            self._encounter(kind, patient, start, start + 60 * hours) if has_encounter else "",
            self._diagnoses(),
            self._acts(start, hours),
            f"{patient.receiver[:3]}-{self._count:08}",
            net_error=700 if random.random() < self._mix.differing_net else 0,
        )

    def _encounter(self, kind: str, patient: Patient, start: int, end: int) -> str:
        random = self._random
        start_type = pick(random, _START_TYPES) if random.random() < 0.9 else ""
        end_type = pick(random, _END_TYPES) if random.random() < 0.9 else ""
        ends = end_type != "6" and random.random() < 0.95
        parts = [
            f"<Encounter><FacilityID>{self._licence}</FacilityID><Type>{kind}</Type><PatientID>{patient.mrn}</PatientID>",
            f"<Start>{moment(start)}</Start>",
            f"<End>{moment(end)}</End>" if ends else "",
            f"<StartType>{start_type}</StartType>" if start_type else "",
            f"<EndType>{end_type}</EndType>" if end_type else "",
            f"<TransferSource>{pick(random, catalogue.PLACES)}</TransferSource>" if start_type == "3" else "",
            f"<TransferDestination>{pick(random, catalogue.PLACES)}</TransferDestination>" if end_type in {"4", "7"} else "",
            "</Encounter>\n",
        ]
        return "".join(parts)

    def _diagnoses(self) -> str:
        random = self._random
        codes = random.sample(catalogue.DIAGNOSES, pick(random, _DIAGNOSIS_COUNTS))
        second = "Admitting" if random.random() < 0.05 else "Secondary"
        types = ("Principal", second, *("Secondary",) * 9)
        pairs = zip(types, codes, strict=False)
        return "".join(f"<Diagnosis><Type>{type_}</Type><Code>{code}</Code></Diagnosis>\n" for type_, code in pairs)

    def _acts(self, start: int, hours: int) -> list[Act]:
        random = self._random
        first = "6" if random.random() < 0.02 else "5" if random.random() < 0.05 else ""  # all dental, or all drugs
        count = pick(random, _ACTIVITY_COUNTS)
        clinician = int(random.random() * CLINICIANS)
        return [
            self.act(
                number, start + int(random.random() * hours * 60), first or pick(random, _ACTIVITY_TYPES), clinician, count
            )
            for number in range(1, count + 1)
        ]

    def act(self, number: int, start: int, type_: str, clinician: int = 0, of: int = 1) -> Act:
        random = self._random
        code = pick(random, catalogue.ACTIVITY_CODES[type_])
        net = 0 if random.random() < 0.06 else int(pick(random, _PRICES) * (0.5 + random.random()))
        authorized = random.random() < 0.15
        observed = random.random() < self._mix.observations / (3 * 1.3)
        amount = pick(random, _QUANTITIES)
        return Act(
            f"A{self._count}-{number}",
            f"<Start>{moment(start)}</Start><Type>{type_}</Type><Code>{code}</Code><Quantity>{amount}</Quantity>",
            net,
            f"<Clinician>DHA-P-{(clinician + (number > 4)) % CLINICIANS + 1:08}</Clinician>",
            f"<PriorAuthorizationID>PA{random.randrange(10**7):07}</PriorAuthorizationID>" if authorized else "",
            self._observations() if observed else "",
            net // 10 if of > 2 else 0,
        )

    def _observations(self) -> str:
        random = self._random
        count = 1 if random.random() < 0.92 else random.randrange(2, 9)
        return "".join(map(_observation, (pick(random, catalogue.OBSERVATIONS) for _ in range(count))))


def _observation(said: tuple[str, str, str | None, str | None]) -> str:
    type_, code, value, value_type = said
    rest = f"<Value>{value}</Value>" if value is not None else ""
    rest += f"<ValueType>{value_type}</ValueType>" if value_type is not None else ""
    return f"<Observation><Type>{type_}</Type><Code>{code}</Code>{rest}</Observation>"


def claim_xml(story: Story, licence: str, resubmission: str = "") -> str:
    """As it is submitted now."""
    patient = story.patient
    acts = [act for act in story.acts if act.id not in story.acts_left_out]
    net = sum(act.net for act in acts)
    share = sum(act.share for act in acts)
    activities = "".join(
        f"<Activity><ID>{act.id}</ID>{act.what}<Net>{money(act.net)}</Net>{act.clinician}{act.authorization}{act.observations}"
        "</Activity>\n"
        for act in acts
    )
    return (
        f"<Claim><ID>{story.id}</ID>{f'<IDPayer>{story.id_payer}</IDPayer>' if resubmission else ''}"
        f"<MemberID>{patient.member}</MemberID><PayerID>{patient.payer}</PayerID><ProviderID>{licence}</ProviderID>"
        f"<EmiratesIDNumber>{patient.emirates_id}</EmiratesIDNumber><Gross>{money(net + share + story.net_error)}</Gross>"
        f"<PatientShare>{money(share)}</PatientShare><Net>{money(net + story.net_error)}</Net>\n"
        f"{story.encounter}{story.diagnoses}{activities}{resubmission}{patient.contract}</Claim>\n"
    )
