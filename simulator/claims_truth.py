"""What a database must hold after files were taken in: read from their bytes, and reckoned as plainly as can be.

It shares no code with ingestion, so that the two can be compared. Money is reckoned in fils.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from lxml import etree

from simulator.claims_types import GeneratedFile

Key = tuple[str, str]
"""Provider, claim id."""
NONE = Decimal("0.00")


class ClaimTruth(NamedTuple):
    net: Decimal = NONE
    held: Decimal = NONE
    taken_back: Decimal = NONE
    denied: Decimal = NONE
    pending: Decimal = NONE
    overpaid: Decimal = NONE
    status: str = ""
    """Of one claim; empty for sums."""


@dataclass
class Truth:
    files: Counter[str] = field(default_factory=Counter)
    """By kind: submission, remittance, test."""
    claims: int = 0
    """Submitted, each once."""
    activities: int = 0
    """Of those claims, each once."""
    submitted: int = 0
    """Claim elements in submissions, resubmissions and repetitions among them."""
    repetitions: int = 0
    remitted: int = 0
    """Claim elements in remittances."""
    lines: int = 0
    """Activity elements in remittances."""
    paid: Decimal = NONE
    """The sum of those lines."""
    orphans: int = 0
    """Claims that were remitted and never submitted."""
    by_claim: dict[Key, ClaimTruth] = field(default_factory=dict)
    """Of submitted claims."""

    @property
    def total(self) -> ClaimTruth:
        """Of all claims."""
        names = ("net", "held", "taken_back", "denied", "pending", "overpaid")
        sums = (sum((getattr(claim, name) for claim in self.by_claim.values()), NONE) for name in names)
        return ClaimTruth._make([*sums, ""])

    @property
    def statuses(self) -> Counter[str]:
        return Counter(claim.status for claim in self.by_claim.values())


class _Said(NamedTuple):
    """A submission's word on a claim, in the order in which they count."""

    at: datetime
    file_id: str
    place: int
    resubmission: str
    nets: dict[str, int]


class _Line(NamedTuple):
    settled: datetime
    at: datetime
    file_id: str
    place: int
    activity: str
    amount: int
    is_denied: bool


def truth(files: Iterable[GeneratedFile]) -> Truth:
    """Of all files together, in whatever order; the same file twice counts once for each time."""
    return truth_of((file.file_id, file.document) for file in files)


def truth_of(documents: Iterable[tuple[str, bytes]]) -> Truth:
    """As `truth`, of file ids and XML documents."""
    found = Truth()
    said: defaultdict[Key, list[_Said]] = defaultdict(list)
    lines: defaultdict[Key, list[_Line]] = defaultdict(list)
    for file_id, document in documents:
        root = etree.fromstring(document)
        if root.findtext("Header/DispositionFlag") == "TEST":
            found.files["test"] += 1
        elif root.tag == "Claim.Submission":
            found.files["submission"] += 1
            _read_submission(root, file_id, said, found)
        else:
            found.files["remittance"] += 1
            _read_remittance(root, file_id, lines, found)
    _reckon(found, said, lines)
    return found


def _read_submission(root: etree._Element, file_id: str, said: dict[Key, list[_Said]], found: Truth) -> None:
    at = _time(root.findtext("Header/TransactionDate", ""))
    for place, claim in enumerate(root.findall("Claim")):
        nets = {activity.findtext("ID", ""): _fils(activity.findtext("Net", "")) for activity in claim.findall("Activity")}
        key = (claim.findtext("ProviderID", ""), claim.findtext("ID", ""))
        said[key].append(_Said(at, file_id, place, claim.findtext("Resubmission/Type", ""), nets))
        found.submitted += 1


def _read_remittance(root: etree._Element, file_id: str, lines: dict[Key, list[_Line]], found: Truth) -> None:
    at = _time(root.findtext("Header/TransactionDate", ""))
    receiver = root.findtext("Header/ReceiverID", "")
    for place, claim in enumerate(root.findall("Claim")):
        provider = claim.findtext("ProviderID") or claim.findtext("Encounter/FacilityID") or receiver
        day = claim.findtext("DateSettlement")
        settled = _time(day) if day else at
        key = (provider, claim.findtext("ID", ""))
        found.remitted += 1
        for activity in claim.findall("Activity"):
            amount = _fils(activity.findtext("PaymentAmount", ""))
            is_denied = bool(activity.findtext("DenialCode"))
            lines[key].append(_Line(settled, at, file_id, place, activity.findtext("ID", ""), amount, is_denied))
            found.lines += 1
            found.paid += _dirhams(amount)


def _reckon(found: Truth, said: dict[Key, list[_Said]], lines: dict[Key, list[_Line]]) -> None:
    for key, words in said.items():
        nets: dict[str, int] = {}
        reopened_at: datetime | None = None
        for number, word in enumerate(sorted(words)):
            if number and not word.resubmission:
                found.repetitions += 1
                continue
            if number:
                reopened_at = word.at
            if not number or word.resubmission == "correction":
                nets.update(word.nets)
        found.by_claim[key] = _claim(nets, sorted(lines.get(key, ())), reopened_at)
        found.activities += len(nets)
    found.claims = len(said)
    found.orphans = len(lines.keys() - said.keys())


def _claim(nets: dict[str, int], lines: list[_Line], reopened_at: datetime | None) -> ClaimTruth:
    held = taken_back = denied = overpaid = 0
    for activity, net in nets.items():
        own = [line for line in lines if line.activity == activity]
        plus = sum(line.amount for line in own if line.amount > 0)
        minus = -sum(line.amount for line in own if line.amount < 0)
        held_here = min(max(plus - minus, 0), net)
        held += held_here
        overpaid += max(plus - minus - net, 0)
        if not own or (reopened_at is not None and reopened_at > own[-1].settled):
            continue  # nothing is known of what is not held, or what was known is open again
        taken_back += min(plus, net) - held_here
        if own[-1].is_denied and plus == 0:
            denied += net
    net = sum(nets.values())
    return ClaimTruth(
        net=_dirhams(net),
        held=_dirhams(held),
        taken_back=_dirhams(taken_back),
        denied=_dirhams(denied),
        pending=_dirhams(net - held - taken_back - denied),
        overpaid=_dirhams(overpaid),
        status=_status(net, held, taken_back, denied),
    )


def _status(net: int, held: int, taken_back: int, denied: int) -> str:
    if net == 0:
        return "CLOSED"
    if held == net:
        return "PAID"
    if held:
        return "PARTIALLY_PAID"
    if denied == net:
        return "REJECTED"
    return "TAKEN_BACK" if taken_back else "PENDING"


def _fils(text: str) -> int:
    return int((Decimal(text) * 100).to_integral_value())


def _dirhams(fils: int) -> Decimal:
    return Decimal(fils).scaleb(-2)


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%d/%m/%Y %H:%M")  # noqa: DTZ007  # all are of one clock
