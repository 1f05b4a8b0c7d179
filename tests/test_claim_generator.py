"""Generated claims: valid, varied, repeatable; and what is said of their truth, by cases that were reckoned by hand."""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from lxml import etree

from simulator.claims import DUBAI, END, PLAIN, FacilityProfile, GeneratedFile, Live, facilities, generate
from simulator.claims_catalogue import DENIALS, ENCOUNTER_TYPES, END_TYPES, OBSERVATIONS, PLACEHOLDERS, START_TYPES
from simulator.claims_truth import ClaimTruth, truth, truth_of
from simulator.people import luhn

FACILITY = facilities(1)[0]
CLAIMS = 2500


@pytest.fixture(scope="module")
def files() -> list[GeneratedFile]:
    return list(generate(7, FACILITY, claims=CLAIMS))


@pytest.fixture(scope="module")
def roots(files: list[GeneratedFile]) -> dict[str, list[etree._Element]]:
    """By root, without TEST files."""
    found: dict[str, list[etree._Element]] = {"Claim.Submission": [], "Remittance.Advice": []}
    for file in files:
        if not file.is_test:
            root = etree.fromstring(file.document)
            found[str(root.tag)].append(root)
    return found


def texts(roots: list[etree._Element], path: str) -> Counter[str]:
    return Counter(element.text or "" for root in roots for element in root.iterfind(path))


def test_files_are_valid(files: list[GeneratedFile], shared_data: Path) -> None:
    """Every generated file meets the DHA's schema."""
    folder = shared_data / "post-office" / "xsd"
    schemas = {
        "submission": etree.XMLSchema(etree.parse(folder / "ClaimSubmission.xsd")),
        "remittance": etree.XMLSchema(etree.parse(folder / "RemittanceAdvice.xsd")),
    }
    live = Live(1, FACILITY, since=END)
    later = [file for minutes in range(9) for file in live.next(END + timedelta(minutes=minutes), 20)]
    for file in files + later:
        schemas[file.kind].assertValid(etree.fromstring(file.document))


def test_files_are_said_rightly(files: list[GeneratedFile]) -> None:
    """What is told beside a file is what stands in it."""
    for file in files:
        root = etree.fromstring(file.document)
        money = "PaymentAmount" if file.kind == "remittance" else "Net"
        assert root.findtext("Header/SenderID") == file.sender_id
        assert root.findtext("Header/ReceiverID") == file.receiver_id
        assert root.findtext("Header/TransactionDate") == f"{file.at:%d/%m/%Y %H:%M}"
        assert root.findtext("Header/RecordCount") == str(file.records) == str(len(root.findall("Claim")))
        assert (root.findtext("Header/DispositionFlag") == "TEST") == file.is_test
        assert len(root.findall("Claim/Activity")) == file.activities
        assert sum(Decimal(text or "") for text in root.xpath(f"Claim/Activity/{money}/text()")) * 100 == file.amount_fils
    assert len({file.file_id for file in files}) == len({file.name for file in files}) == len(files)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Files depend on the seed and the facility, and on nothing else."""

    def made(seed: int, facility: FacilityProfile = FACILITY) -> list[GeneratedFile]:
        return list(generate(seed, facility, claims=150))

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert [file.document for file in made(1)] != [file.document for file in made(1001)]  # whose ids are the same
    assert {file.file_id for file in made(1)} & {file.file_id for file in made(1, facilities(2)[1])}  # unique per facility only


def test_all_kinds_of_claims_come(roots: dict[str, list[etree._Element]]) -> None:
    """Encounters, activities, observations and resubmissions of every kind of the schema are among the claims."""
    submissions = roots["Claim.Submission"]
    assert texts(submissions, "Claim/Encounter/Type").keys() == ENCOUNTER_TYPES.keys()
    assert texts(submissions, "Claim/Encounter/StartType").keys() == START_TYPES.keys()
    assert texts(submissions, "Claim/Encounter/EndType").keys() == END_TYPES.keys()
    assert texts(submissions, "Claim/Activity/Type").keys() == {"3", "4", "5", "6", "8", "9", "10"}
    assert texts(submissions, "Claim/Activity/Observation/Type").keys() == {said[0] for said in OBSERVATIONS}
    assert texts(submissions, "Claim/Diagnosis/Type").keys() == {"Principal", "Secondary", "Admitting"}
    kinds = texts(submissions, "Claim/Resubmission/Type")
    assert kinds.keys() == {"correction", "internal complaint", "legacy", "reconciliation"}
    assert texts(submissions, "Claim/MemberID")["SelfPay"]
    claims = [claim for root in submissions for claim in root.iterfind("Claim")]
    assert max(len(claim.findall("Diagnosis")) for claim in claims) == 11
    assert any(claim.find("Encounter") is None for claim in claims)
    assert any(Decimal(activity.findtext("Net", "")) == 0 for claim in claims for activity in claim.iterfind("Activity"))


def test_all_kinds_of_answers_come(roots: dict[str, list[etree._Element]]) -> None:
    """Denials, part payments with and without a code, take-backs and overpayments are among the lines."""
    remittances = roots["Remittance.Advice"]
    lines = [line for root in remittances for line in root.iterfind("Claim/Activity")]
    kinds = Counter(
        (amount < 0, amount == 0, 0 < amount < net, amount > net, line.find("DenialCode") is not None)
        for line in lines
        for amount, net in [(Decimal(line.findtext("PaymentAmount", "")), Decimal(line.findtext("Net", "")))]
    )
    for negative, zero, part, over in [(True, False, False, False), (False, True, False, False), (False, False, True, False)]:
        assert kinds[negative, zero, part, over, True]
        assert kinds[negative, zero, part, over, False]
    assert kinds[False, False, False, True, False]
    assert len(texts(remittances, "Claim/Activity/DenialCode").keys() & DENIALS.keys()) > 20
    absent = Counter(
        name for root in remittances for claim in root.iterfind("Claim") for name in ABSENT if claim.find(name) is None
    )
    assert absent.keys() == set(ABSENT)
    assert any(line.find("Gross") is None for line in lines)


ABSENT = ("ProviderID", "DateSettlement", "Encounter")


def test_the_mix_is_what_was_asked_for(files: list[GeneratedFile], roots: dict[str, list[etree._Element]]) -> None:
    """3 activities, 2 diagnoses, 0.3 observations, 0.8 remittances a claim and 100 claims a file; and all odd cases."""
    expected = truth(files)
    assert expected.claims == CLAIMS
    assert expected.activities / CLAIMS == pytest.approx(3, abs=0.2)
    assert expected.remitted / CLAIMS == pytest.approx(0.8, abs=0.06)
    submissions = roots["Claim.Submission"]
    first = [root for root in submissions if root.find("Claim/Resubmission") is None]
    assert sum(len(root.findall("Claim")) for root in first) / len(first) == pytest.approx(100, abs=15)
    records = sum(len(root.findall("Claim")) for root in submissions)
    assert sum(texts(submissions, "Claim/Diagnosis/Type").values()) / records == pytest.approx(2, abs=0.2)
    assert sum(texts(submissions, "Claim/Activity/Observation/Type").values()) / records == pytest.approx(0.3, abs=0.1)
    assert expected.orphans > 5
    assert expected.repetitions > 2
    assert expected.files["test"] > 2
    tests = [etree.fromstring(file.document) for file in files if file.is_test and file.kind == "submission"]
    ids = texts(tests, "Claim/ID").keys()
    assert ids & texts(submissions, "Claim/ID").keys()  # some come again in earnest, and some never
    assert ids - texts(submissions, "Claim/ID").keys()
    assert set(expected.statuses) == {"PAID", "PARTIALLY_PAID", "REJECTED", "TAKEN_BACK", "PENDING", "CLOSED"}


def test_nobody_is_real(roots: dict[str, list[etree._Element]]) -> None:
    """Every Emirates ID is a placeholder or fails the Luhn check; patients come more than once."""
    ids = texts(roots["Claim.Submission"], "Claim/EmiratesIDNumber")
    assert set(PLACEHOLDERS) <= ids.keys()
    assert [one for one in ids.keys() - set(PLACEHOLDERS) if luhn(one)] == []
    assert len(ids) < CLAIMS / 2


def test_a_story_is_told_in_order(files: list[GeneratedFile], roots: dict[str, list[etree._Element]]) -> None:
    """No file is later than the end; of one claim no two files have the same time, so that their order is never in doubt."""
    assert max(file.at for file in files) <= END
    assert told_at_once([*roots["Claim.Submission"], *roots["Remittance.Advice"]]) == []


def told_at_once(roots: list[etree._Element]) -> list[str]:
    """Claims of which two files of the same time tell."""
    told: dict[str, list[str]] = {}
    for root in roots:
        at = root.findtext("Header/TransactionDate", "")
        for claim_id in {claim.findtext("ID", "") for claim in root.iterfind("Claim")}:
            told.setdefault(claim_id, []).append(at)
    return [claim for claim, times in told.items() if len(set(times)) < len(times)]


def test_known_patients_come_first() -> None:
    """Patients whom the caller names are those of the first claims."""
    known = [(f"111-1111-1111111-{digit}", f"OWN-{digit}") for digit in range(3)]
    file = next(iter(generate(1, FACILITY, claims=100, mix=PLAIN, known=known)))
    pairs = {
        (claim.findtext("EmiratesIDNumber"), claim.findtext("Encounter/PatientID"))
        for claim in etree.fromstring(file.document).iterfind("Claim")
    }
    assert set(known) <= pairs


def test_plain_claims_can_be_counted_on() -> None:
    """The plain mix is new claims and their one answer, exactly so many in a file."""
    files = list(generate(3, FACILITY, claims=1000, mix=PLAIN))
    expected = truth(files)
    assert [file.records for file in files if file.kind == "submission"] == [100] * 10
    assert (expected.submitted, expected.repetitions, expected.orphans, expected.files["test"]) == (1000, 0, 0, 0)
    assert expected.total.taken_back == 0
    assert expected.remitted == pytest.approx(800, abs=50)


def test_generating_is_quick() -> None:
    """3000 claims take less than a second of CPU, with all that follows on them."""
    began = time.process_time()
    for _ in generate(1, FACILITY, claims=3000):
        pass
    assert time.process_time() - began < 1


def test_live_files_are_dated_when_they_come() -> None:
    """A desk that goes on dates its files by the clock, and nothing follows within the same minute on what it follows."""
    live = Live(5, FACILITY, since=END)
    times = [END + timedelta(seconds=40 * tick) for tick in range(60)]
    made = [(now, file) for now in times for file in live.next(now, 10)]
    assert all(file.at == now.replace(second=0) for now, file in made)
    assert {file.kind for _, file in made} == {"submission", "remittance"}
    expected = truth(file for _, file in made)
    assert expected.total.held > 0
    assert expected.claims > 200
    assert told_at_once([etree.fromstring(file.document) for _, file in made if not file.is_test]) == []


# Hand-made cases. A submission is its day, its Resubmission's type or '', and nets by activity; a remittance its day, the day
# of settlement or None, and lines: activity, payment, denial code or ''.
Said = tuple[int, str, dict[str, str]]
Paid = tuple[int, int | None, list[tuple[str, str, str]]]
CASES: dict[str, tuple[list[Said], list[Paid], str]] = {
    "never answered": ([(1, "", {"a": "10", "b": "5.5"})], [], "15.50 0 0 0 15.50 0 PENDING"),
    "paid": ([(1, "", {"a": "10"})], [(2, 2, [("a", "10", "")])], "10 10 0 0 0 0 PAID"),
    "net 0": ([(1, "", {"a": "0"})], [(2, 2, [("a", "0", "")])], "0 0 0 0 0 0 CLOSED"),
    "denied": ([(1, "", {"a": "10"})], [(2, 2, [("a", "0", "MNEC-003")])], "10 0 0 10 0 0 REJECTED"),
    "denied, the rest pending": ([(1, "", {"a": "10", "b": "5"})], [(2, 2, [("a", "0", "X-1")])], "15 0 0 10 5 0 PENDING"),
    "paid in part with a code": ([(1, "", {"a": "10"})], [(2, 2, [("a", "4", "X-1")])], "10 4 0 0 6 0 PARTIALLY_PAID"),
    "denied, then paid": (
        [(1, "", {"a": "10"})],
        [(2, 2, [("a", "0", "X-1")]), (3, 3, [("a", "10", "")])],
        "10 10 0 0 0 0 PAID",
    ),
    "the latest line goes by its settlement": (
        [(1, "", {"a": "10"})],
        [(3, 5, [("a", "0", "X-1")]), (6, 4, [("a", "0", "")])],
        "10 0 0 10 0 0 REJECTED",
    ),
    "without a settlement it goes by its header": (
        [(1, "", {"a": "10"})],
        [(3, 5, [("a", "0", "X-1")]), (6, None, [("a", "0", "")])],
        "10 0 0 0 10 0 PENDING",
    ),
    "taken back": (
        [(1, "", {"a": "10"})],
        [(2, 2, [("a", "10", "")]), (3, 3, [("a", "-10", "PRCE-003")])],
        "10 0 10 0 0 0 TAKEN_BACK",
    ),
    "taken back in part": (
        [(1, "", {"a": "10"})],
        [(2, 2, [("a", "10", "")]), (3, 3, [("a", "-4", "")])],
        "10 6 4 0 0 0 PARTIALLY_PAID",
    ),
    "taken back and paid anew": (
        [(1, "", {"a": "10"})],
        [(2, 2, [("a", "10", "")]), (3, 3, [("a", "-10", ""), ("a", "7", "")])],
        "10 7 3 0 0 0 PARTIALLY_PAID",
    ),
    "more than was paid is taken back": (
        [(1, "", {"a": "10"})],
        [(2, 2, [("a", "4", "")]), (3, 3, [("a", "-9", "")])],
        "10 0 4 0 6 0 TAKEN_BACK",
    ),
    "overpaid is not netted": (
        [(1, "", {"a": "10", "b": "5"})],
        [(2, 2, [("a", "12.25", "")])],
        "15 10 0 0 5 2.25 PARTIALLY_PAID",
    ),
    "reopened": (
        [(1, "", {"a": "10"}), (3, "internal complaint", {"a": "10"})],
        [(2, 2, [("a", "0", "X-1")])],
        "10 0 0 0 10 0 PENDING",
    ),
    "taken back, then reopened": (
        [(1, "", {"a": "10"}), (4, "reconciliation", {"a": "10"})],
        [(2, 2, [("a", "10", "")]), (3, 3, [("a", "-10", "")])],
        "10 0 0 0 10 0 PENDING",
    ),
    "reopened and denied again": (
        [(1, "", {"a": "10"}), (3, "legacy", {"a": "10"})],
        [(2, 2, [("a", "0", "X-1")]), (4, 4, [("a", "0", "X-2")])],
        "10 0 0 10 0 0 REJECTED",
    ),
    "corrected by activity": (
        [(1, "", {"a": "10", "b": "5"}), (3, "correction", {"b": "7", "c": "1"})],
        [(2, 2, [("a", "10", ""), ("b", "0", "X-1")])],
        "18 10 0 0 8 0 PARTIALLY_PAID",
    ),
    "only a correction changes nets": (
        [(1, "", {"a": "10"}), (3, "internal complaint", {"a": "99"})],
        [],
        "10 0 0 0 10 0 PENDING",
    ),
    "said again without Resubmission": ([(1, "", {"a": "10"}), (3, "", {"a": "99"})], [], "10 0 0 0 10 0 PENDING"),
    "remitted before its submission": ([(5, "", {"a": "10"})], [(2, 2, [("a", "10", "")])], "10 10 0 0 0 0 PAID"),
}


def documents(submissions: list[Said], remittances: list[Paid], flag: str = "PRODUCTION") -> Iterator[tuple[str, bytes]]:
    header = "<Header><SenderID>A</SenderID><ReceiverID>{}</ReceiverID><TransactionDate>{:02}/01/2026 10:00</TransactionDate>"
    header += f"<DispositionFlag>{flag}</DispositionFlag></Header>"
    for number, (day, kind, nets) in enumerate(submissions):
        acts = "".join(f"<Activity><ID>{name}</ID><Net>{net}</Net></Activity>" for name, net in nets.items())
        more = f"<Resubmission><Type>{kind}</Type></Resubmission>" if kind else ""
        claim = f"<Claim><ID>C</ID><ProviderID>P</ProviderID>{acts}{more}</Claim>"
        yield f"s{number}", f"<Claim.Submission>{header.format('B', day)}{claim}</Claim.Submission>".encode()
    for number, (day, settled, lines) in enumerate(remittances):
        acts = "".join(
            f"<Activity><ID>{name}</ID><PaymentAmount>{amount}</PaymentAmount><DenialCode>{code}</DenialCode></Activity>"
            for name, amount, code in lines
        )
        date = f"<DateSettlement>{settled:02}/01/2026 09:00</DateSettlement>" if settled else ""
        claim = f"<Claim><ID>C</ID>{date}{acts}</Claim>"
        yield f"r{number}", f"<Remittance.Advice>{header.format('P', day)}{claim}</Remittance.Advice>".encode()


@pytest.mark.parametrize("case", CASES)
def test_truth_by_hand(case: str) -> None:
    """The truth of a claim is what was reckoned by hand from the rules, in whatever order its files come."""
    submissions, remittances, by_hand = CASES[case]
    *amounts, status = by_hand.split()
    said = list(documents(submissions, remittances))
    for order in (said, said[::-1]):
        found = truth_of(order)
        assert found.by_claim == {("P", "C"): ClaimTruth._make([*map(Decimal, amounts), status])}


def test_truth_counts() -> None:
    """Files by kind, claims once, lines and what they pay; TEST files only as files; what was never submitted as orphans."""
    submissions, remittances, _ = CASES["corrected by activity"]
    found = truth_of([*documents(submissions, remittances), *documents(submissions, remittances, "TEST")])
    assert found.files == {"submission": 2, "remittance": 1, "test": 3}
    assert (found.claims, found.submitted, found.activities, found.repetitions, found.orphans) == (1, 2, 3, 0, 0)
    assert (found.remitted, found.lines, found.paid) == (1, 2, Decimal(10))
    assert truth_of(documents([], remittances)).orphans == 1
    assert truth_of([]).total == ClaimTruth()


def test_times_without_a_zone_are_dubais() -> None:
    """A start and an end without a zone are taken as Asia/Dubai."""
    plain = list(generate(1, FACILITY, claims=20, end=datetime(2026, 5, 1)))  # noqa: DTZ001  # meant
    assert plain == list(generate(1, FACILITY, claims=20, end=datetime(2026, 5, 1, tzinfo=DUBAI)))
