"""The patients whose claims are made up: who insures them, and what they are known by. Nobody is real."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from simulator.claims_catalogue import PACKAGES, PLACEHOLDERS
from simulator.claims_text import false_emirates_id, pick
from simulator.claims_types import INSURERS, Mix

VISITS = 3
"""Claims of a patient, on average."""
_COMMON = 200


class Patient(NamedTuple):
    emirates_id: str
    mrn: str
    member: str
    payer: str
    receiver: str
    contract: str


class Patients:
    """`known`: pairs of Emirates ID and MRN that come first."""

    def __init__(self, random: Random, mix: Mix, receivers: Sequence[str], known: Iterable[tuple[str, str]] = ()) -> None:
        self._random = random
        self._mix = mix
        self._known = iter(known)
        self._count = 0
        self._of: dict[str, list[Patient]] = {receiver: [] for receiver in receivers}
        self._payers = [receiver for receiver in receivers if receiver.startswith("INS")] or list(INSURERS[:2])

    def draw(self, receiver: str) -> Patient:
        """One who is insured through `receiver`: somebody new, or somebody who was here before."""
        there = self._of[receiver]
        if there and self._random.random() > 1 / VISITS:
            return pick(self._random, there)
        patient = self._new(receiver)
        there.append(patient)
        return patient

    def _new(self, receiver: str) -> Patient:
        random = self._random
        self._count += 1
        emirates_id, mrn = next(self._known, None) or (self._emirates_id(), f"MRN{self._count:07}")
        payer = receiver if receiver.startswith("INS") else pick(random, self._payers)
        member = f"{payer[-3:]}-{random.randrange(10**8):08}"
        if random.random() < self._mix.self_paid:
            payer, member = "SelfPay", "SelfPay"
        contract = ""
        if member != "SelfPay" and random.random() < 0.2:
            contract = f"<Contract><PackageName>{pick(random, PACKAGES)}</PackageName></Contract>"
        return Patient(emirates_id, mrn, member, payer, receiver, contract)

    def _emirates_id(self) -> str:
        drawn = self._random.random()
        if drawn < self._mix.placeholder:
            return pick(self._random, PLACEHOLDERS)
        if drawn < self._mix.placeholder + self._mix.common:
            return false_emirates_id(Random(f"everywhere-{self._random.randrange(_COMMON)}"))
        return false_emirates_id(self._random)
