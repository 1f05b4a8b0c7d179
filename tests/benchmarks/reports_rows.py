"""Two years of a provider's claims as the text that COPY takes: what they ask for, what was paid, and what is known of them.

The rows are what ingestion would have left: an activity's amounts go by the money rules, a claim's are the sums of its own, a
file's those of its claims. All is chosen by a seed. Amounts are in fils here, and written with two places.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from itertools import accumulate
from random import Random
from typing import NamedTuple

END = date(2026, 11, 1)
DAYS = 730
"""Encounters begin on one of the so many days before END."""
PAYERS = tuple(f"INS{number:03}" for number in range(1, 21))
CODES = ("AUTH-001", "AUTH-005", "BENX-005", "CLAI-012", "CODE-010", "ELIG-001", "MNEC-003", "MNEC-005", "NCOV-003", "PRCE-002")
CLINICIANS = 25
"""Of each provider."""
ACTIVITIES = (1, 2, 3, 3, 4, 5)
FATES = {
    "waiting": (0.36, "waiting", "waiting"),
    "paid": (0.37, "paid", "paid"),
    "short": (0.10, "short", "paid"),
    "denied": (0.06, "denied", "denied"),
    "mixed": (0.06, "denied", "paid"),
    "returned": (0.02, "returned", "returned"),
    "again": (0.03, "again", "again"),
}
"""How many claims come to it, and what becomes of a claim's first activity and of the others."""
TABLES = ("claim", "activity", "event", "remittance", "remittance_activity")

_DAY = [str(END + timedelta(days=number - DAYS)) for number in range(DAYS + 200)]
_MINUTE = [f"{minute // 60:02}:{minute % 60:02}:00+04" for minute in range(1440)]
_FATES_UP_TO = list(accumulate(weight for weight, _, _ in FATES.values()))
_PAYERS_UP_TO = list(accumulate(1 / rank for rank in range(1, len(PAYERS) + 1)))
_NULL = r"\N"

Lines = dict[str, list[str]]
"""Rows by their table."""


@dataclass(frozen=True)
class Provider:
    """One facility, and how many claims it made."""

    tenant_id: int
    facility_no: int
    licence: str
    claims: int


class Activity(NamedTuple):
    """What was asked for, what came of it in each remittance, and what is known of it now."""

    key: str
    said: str
    """Its start, type, code and quantity, as COPY takes them."""
    net: int
    clinician: str
    code: str
    came: tuple[tuple[int, bool], ...]
    """Each remittance's payment, and whether a denial code stands beside it."""
    held: int
    taken_back: int
    denied: int
    status: str

    @property
    def known(self) -> str:
        """Held, taken back, denied and pending."""
        return _known(self.net, self.held, self.taken_back, self.denied)


@dataclass
class File:
    """What a file holds."""

    kind: str
    at: str
    claims: int = 0
    activities: int = 0
    amount: int = 0


class Book:
    """The claims of one provider, in the order of their keys."""

    def __init__(self, provider: Provider, seed: int) -> None:
        self._provider = provider
        self._random = Random(seed * 1009 + provider.facility_no)
        self._files: dict[str, File] = {}
        self._rows: Lines = {}

    def chunks(self, size: int) -> Iterator[Lines]:
        """So many claims each; the files come last."""
        for begin in range(0, self._provider.claims, size):
            self._rows = {table: [] for table in TABLES}
            for number in range(begin, min(begin + size, self._provider.claims)):
                self._claim(number)
            yield self._rows
        yield {"file": [self._file(file_id, file) for file_id, file in self._files.items()]}

    def _claim(self, number: int) -> None:
        chance = self._random.random
        licence = self._provider.licence
        _, first, others = FATES[self._random.choices(tuple(FATES), cum_weights=_FATES_UP_TO)[0]]
        day = min(number * DAYS // self._provider.claims + int(chance() * 14), DAYS - 1)
        begun = f"{_DAY[day]} {_MINUTE[int(chance() * 1440)]}"
        sent = day + 1 + int(chance() * 20)
        key = f"{self._provider.tenant_id}\t{licence}\t{licence[-4:]}-{number:08}"
        count = ACTIVITIES[int(chance() * len(ACTIVITIES))]
        activities = [
            self._activity(f"{key}\t{ordinal}", begun, others if ordinal > 1 else first) for ordinal in range(1, count + 1)
        ]
        turns = len(activities[0].came)
        paid = [sent + 15 + 40 * turn + int(chance() * 20) for turn in range(turns)]
        resent = paid[1] - 10 if first == "again" else None
        payer = self._random.choices(PAYERS, cum_weights=_PAYERS_UP_TO)[0]
        self._submit(key, activities, sent, "submission")
        if resent is not None:
            self._submit(key, activities, resent, "resubmission")
        for turn, at in enumerate(paid):
            self._remit(key, activities, turn, at, payer, number)
        visit = "\t".join([_NULL] * 3 if chance() < 0.1 else ["1", begun, begun])
        asker = "SelfPay" if chance() < 0.03 else f"M{number}"
        self._write(key, f"{_at(sent)}\t{licence}\t{payer}\t{asker}\t{visit}", activities, sent, resent, paid, number)

    def _activity(self, key: str, begun: str, fate: str) -> Activity:
        chance = self._random.random
        net = 500 + int(chance() * chance() * 80000)
        half = net // 2
        came: tuple[tuple[int, bool], ...]
        came, held, back, denied, status = {
            "waiting": ((), 0, 0, 0, "PENDING"),
            "paid": (((net, False),), net, 0, 0, "FULLY_PAID"),
            "short": (((half, True),), half, 0, 0, "PARTIALLY_PAID"),
            "denied": (((0, True),), 0, 0, net, "REJECTED"),
            "returned": (((net, False), (-net, False)), 0, net, 0, "TAKEN_BACK"),
            "again": (((0, True), (net, False)), net, 0, 0, "FULLY_PAID"),
        }[fate]
        said = f"{begun}\t3\t{99000 + int(chance() * 500)}\t1"
        clinician = f"DHA-P-{self._provider.facility_no:04}{int(chance() * CLINICIANS):04}"
        return Activity(key, said, net, clinician, CODES[int(chance() * len(CODES))], came, held, back, denied, status)

    def _submit(self, key: str, activities: list[Activity], day: int, kind: str) -> None:
        net = sum(activity.net for activity in activities)
        place = self._place("S", "submission", day, len(activities), net)
        self._rows["event"].append(
            f"{key}\t{place}\t{kind}\t{_at(day)}\tPENDING\t{_known(net, 0, 0, 0)}\t\\\\x00\t{_text(net)}"
        )

    def _remit(self, key: str, activities: list[Activity], turn: int, day: int, payer: str, number: int) -> None:
        paid = sum(activity.came[turn][0] for activity in activities)
        place = self._place("R", "remittance", day, len(activities), paid)
        at = _at(day)
        for line, activity in enumerate(activities, 1):
            payment, coded = activity.came[turn]
            self._rows["remittance_activity"].append(
                f"{key}\t{place}\t{line}\t{line}\t{activity.said}\t{_text(activity.net)}\t\\N\t\\N\t\\N\t{activity.clinician}\t\\N"
                f"\t{_text(payment)}\t{activity.code if coded else _NULL}"
            )
        self._rows["remittance"].append(
            f"{key}\t{place}\t{payer}\t{at}\t{at}\tREF{number}-{turn}\tP{number}\t\\N\t{_text(paid)}"
        )
        status, known = _standing(activities)
        self._rows["event"].append(f"{key}\t{place}\tremittance\t{at}\t{status}\t{known}\t\\\\x00\t{_text(paid)}")

    def _write(
        self, key: str, said: str, activities: list[Activity], sent: int, resent: int | None, paid: list[int], number: int
    ) -> None:
        last = _at(paid[-1]) if paid else _NULL
        for ordinal, activity in enumerate(activities, 1):
            code = activity.code if activity.came and activity.came[-1][1] else _NULL
            self._rows["activity"].append(
                f"{activity.key}\t{ordinal}\t{activity.said}\t{_text(activity.net)}\t{activity.clinician}\t\\N"
                f"\t{_at(resent or sent)}\t{activity.known}\t0.00\t{activity.status}\t{code}\t{last}"
            )
        net = sum(activity.net for activity in activities)
        status, known = _standing(activities)
        again = f"1\t{_at(resent)}" if resent else f"0\t{_NULL}"
        payment = f"REF{number}-{len(paid) - 1}\tP{number}" if paid else f"{_NULL}\t{_NULL}"
        self._rows["claim"].append(
            f"{key}\t{said}\t{_text(net + 2000)}\t20.00\t{_text(net)}\t{known}\t0.00\t{status}"
            f"\t{_at(paid[-1] if paid else sent)}\t{again}\t{len(paid)}\t{_at(paid[0]) if paid else _NULL}"
            f"\t{last}\t{last}\t{payment}"
        )

    def _place(self, letter: str, kind: str, day: int, activities: int, amount: int) -> str:
        """The facility's number, the file and the claim's place in it: each facility sends and receives one file a day."""
        file_id = f"{letter}-{self._provider.licence[-4:]}-{_DAY[day]}"
        file = self._files.get(file_id)
        if file is None:
            file = self._files[file_id] = File(kind, _at(day))
        file.claims += 1
        file.activities += activities
        file.amount += amount
        return f"{self._provider.facility_no}\t{file_id}\t{file.claims}"

    def _file(self, file_id: str, file: File) -> str:
        provider = self._provider
        mark = sha256(f"{provider.licence} {file_id}".encode()).hexdigest()
        return (
            f"{provider.tenant_id}\t{provider.facility_no}\t{file_id}\t{file_id}.xml\t{file.kind}\tloaded"
            f"\t{'t' if file.kind == 'submission' else 'f'}\t{provider.licence}\tDHA\t{file.at}\t{file.claims}\t{file.claims}"
            f"\t{file.activities}\t0\t0\t{_text(file.amount)}\t{file.claims * 900}\t\\\\x{mark}\t\\\\x00\t{file.at}\t{file.at}"
        )


def _standing(activities: list[Activity]) -> tuple[str, str]:
    """A claim's status, and its four amounts."""
    net = held = back = denied = 0
    for activity in activities:
        net, held = net + activity.net, held + activity.held
        back, denied = back + activity.taken_back, denied + activity.denied
    if held:
        status = "PAID" if held == net else "PARTIALLY_PAID"
    else:
        status = "TAKEN_BACK" if back else "REJECTED" if denied == net else "PENDING"
    return status, _known(net, held, back, denied)


def _known(net: int, held: int, taken_back: int, denied: int) -> str:
    return f"{_text(held)}\t{_text(taken_back)}\t{_text(denied)}\t{_text(net - held - taken_back - denied)}"


def _text(fils: int) -> str:
    return f"{'-' if fils < 0 else ''}{abs(fils) // 100}.{abs(fils) % 100:02}"


def _at(day: int) -> str:
    return f"{_DAY[day]} 09:00:00+04"
