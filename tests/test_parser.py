"""What a document comes to: claims, remarks that say nothing of patients, or a refusal."""

from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from ingestion.claims import (
    Activity,
    Claim,
    Diagnosis,
    Encounter,
    Header,
    Line,
    NotClaims,
    Parsed,
    Remark,
    Remitted,
    Resubmission,
)
from ingestion.parsing.document import CHUNK_BYTES, children, read_prolog
from ingestion.parsing.parser import OtherKind, parse
from ingestion.parsing.remarks import ASIDE_MAX, KINDS_MAX, WARNINGS_MAX
from ingestion.parsing.tables import NAMESPACE
from ingestion.parsing.values import ID_MAX, TEXT_MAX
from tests.claim_text import submission
from tests.claims_xml import DUBAI, FILES, document_of

AT = datetime(2025, 2, 21, 9, 5, tzinfo=DUBAI)
HEADER = Header("DHA-F-0000001", "INS001", AT, 1, is_test=False)
ACTIVITY = Activity("A1", AT, "3", "85025", Decimal("1.0"), Decimal("30.00"), "DHA-P-00000001", "PA-1")
CLAIM = Claim(
    "C1",
    "INS001",
    "DHA-F-0000001",
    "111-1111-1111111-1",
    Decimal("55.00"),
    Decimal("5.00"),
    Decimal("50.00"),
    (ACTIVITY, msgspec.structs.replace(ACTIVITY, id="A2", net=Decimal("20.00"))),
    (Diagnosis("Principal", "E03.9"),),
    Encounter("DHA-F-0000001", "1", "MR1", AT, AT, "1", "1", "X", "Y"),
    "P-1",
    "M1",
    Resubmission("correction", "again", 3),
    "Gold",
)
LINE = Line("A1", AT, "3", "85025", Decimal(1), Decimal("30.00"), "DHA-P-00000001", Decimal("-30.00"), denial_code="PRCE-003")
REMITTED = Remitted("C1", "P-1", "REF-1", (LINE,), "DHA-F-0000001", "DHA-F-0000001", AT)
SUBMISSION = document_of(Parsed("submission", HEADER, (CLAIM,)))
ADVICE = document_of(Parsed("remittance", HEADER, (REMITTED,)))


def of(*claims: Claim) -> bytes:
    return document_of(Parsed("submission", msgspec.structs.replace(HEADER, record_count=len(claims)), claims))


def claim(**changes: Any) -> Claim:
    return msgspec.structs.replace(CLAIM, **changes)


def changed(document: bytes, old: str, new: str) -> Parsed:
    assert document.count(old.encode()) >= 1
    return parse(document.replace(old.encode(), new.encode(), 1))


def remarks(parsed: Parsed) -> list[tuple[str, str, str]]:
    return [(remark.severity, remark.reason, remark.claim_id) for remark in parsed.remarks]


@settings(max_examples=60, deadline=None)
@given(FILES)
def test_what_was_written_is_read(file: Parsed) -> None:
    """Whatever a file says by the schema comes back, each value in its field."""
    parsed = parse(document_of(file))
    assert (parsed.kind, parsed.header, parsed.claims) == (file.kind, file.header, file.claims)


def test_a_good_file_gives_no_remark() -> None:
    """What is by the schema and adds up is not remarked on."""
    assert parse(SUBMISSION) == Parsed("submission", HEADER, (CLAIM,))
    assert parse(ADVICE) == Parsed("remittance", HEADER, (REMITTED,))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<Claim.Submission>", '<?xml version="1.0" encoding="UTF-8"?><!-- <!DOCTYPE --><Claim.Submission\n>'),
        (
            "<Claim.Submission>",
            "\ufeff<Claim.Submission xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:schemaLocation='a'>",
        ),
        ("<Claim.Submission>", f'<Claim.Submission xmlns="{NAMESPACE}">'),
        ("<Code>E03.9</Code>", "<Code>E03<!-- of a kind -->.9<?skip it?></Code>"),
        ("<Code>E03.9</Code>", "<Code>\n<![CDATA[E03.9]]>\t</Code>"),
        ("21/02/2025 09:05", "21/02/2025 9:05"),
        ("21/02/2025 09:05", "21/02/2025 09:05:00"),
        ("21/02/2025 09:05", "21/02/2025 09:5"),
        ("<Type>3</Type>", "<Type>03</Type>"),
        ("<PatientShare>5.00", "<PatientShare>+5"),
    ],
)
def test_other_ways_of_writing_the_same(old: str, new: str) -> None:
    """A file that is only written otherwise gives equal claims, and no remark."""
    assert changed(SUBMISSION, old, new) == Parsed("submission", HEADER, (CLAIM,))


def test_a_prefix_for_the_root_alone() -> None:
    """Only the root may be in the schema's namespace."""
    document = SUBMISSION.replace(b"<Claim.Submission>", f'<t:Claim.Submission xmlns:t="{NAMESPACE}">'.encode())
    assert parse(document.replace(b"</Claim.Sub", b"</t:Claim.Sub")).claims == (CLAIM,)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("30", "30.00"),
        ("1.005", "1.01"),
        ("-1.005", "-1.01"),
        ("1e2", "100.00"),
        ("+.5", "0.50"),
        ("5.", "5.00"),
        ("-0.001", "0.00"),
        ("111.71999999999999", "111.72"),
        ("999999999999.99", "999999999999.99"),
    ],
)
def test_money_is_rounded_half_up(text: str, amount: str) -> None:
    """Every form of xs:float becomes two places, and minus nothing is nothing."""
    (remitted,) = changed(ADVICE, "-30.00", text).claims
    assert isinstance(remitted, Remitted)
    assert str(remitted.lines[0].payment) == amount


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<Net>30.00", "<Net>INF", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>NaN", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>1_0", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>٣", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>1,5", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>1e999999999", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>999999999999.995", "Activity/Net is no amount, or one of a trillion and more"),
        ("<Net>30.00", "<Net>" + "1" * 41, "Activity/Net is no amount"),
        ("<Net>30.00", "<Net>999999999990", "its activities' amounts add up to a trillion and more"),
        ("<Net>30.00", "<Net><b>30</b>", "Activity/Net holds elements"),
        ("<Gross>55.00</Gross>", "", "Claim/Gross is missing"),
        ("<Gross>55.00</Gross>", "<Gross> </Gross>", "Claim/Gross is missing"),
        ("<Quantity>1.0", "<Quantity>many", "Activity/Quantity is no number, or out of all bounds"),
        ("<Quantity>1.0", "<Quantity>1e-300", "Activity/Quantity is no number, or out of all bounds"),
        ("<Quantity>1.0", "<Quantity>1e12", "Activity/Quantity is no number, or out of all bounds"),
        ("<Start>21/02/2025 09:05", "<Start>2025-02-21T09:05", "Encounter/Start is no date and time"),
        ("<Start>21/02/2025 09:05", "<Start>31/02/2025 09:05", "Encounter/Start is no date and time"),
        ("<Start>21/02/2025 09:05", "<Start>21/02/2025 24:00", "Encounter/Start is no date and time"),
        ("<Start>21/02/2025 09:05", "<Start>21/02/0001 09:05", "Encounter/Start is no date and time"),
        ("<Start>21/02/2025 09:05", "<Start>" + "2" * 50, "Encounter/Start is no date and time"),
        ("<ID>A2</ID>", "<ID>A1</ID>", "Activity/ID is there twice in the claim"),
        ("<ID>A2</ID>", "", "Activity/ID is missing"),
        ("<ID>A2</ID>", f"<ID>{'A' * (ID_MAX + 1)}</ID>", f"Activity/ID is longer than {ID_MAX} characters"),
        ("<PayerID>INS001", "<PayerID>" + "I" * (ID_MAX + 1), f"Claim/PayerID is longer than {ID_MAX} characters"),
        ("<Comment>again", "<Comment>" + "x" * (TEXT_MAX + 1), f"Resubmission/Comment is longer than {TEXT_MAX} characters"),
        ("<Comment>again", "<Comment>ag\x7fain", "the claim holds control characters"),
        ("<Comment>again", "<Comment>ag&#x80;ain", "the claim holds control characters"),
        ("<Type>3</Type>", "<Type>" + "3" * (ID_MAX + 1) + "</Type>", f"Activity/Type is longer than {ID_MAX} characters"),
    ],
)
def test_a_bad_claim_is_put_aside_alone(old: str, new: str, reason: str) -> None:
    """Its reason names the element, it is known by its id, and the claims before and after it go in."""
    before, after = claim(id="C0", resubmission=None), claim(id="C9")
    document = of(before, CLAIM, after).decode()
    head, tail = document.split("<ID>C1</ID>")
    middle = "<ID>C1</ID>" + tail
    assert old in middle
    parsed = parse((head + middle.replace(old, new, 1)).encode())
    assert parsed.claims == (before, after)
    assert remarks(parsed) == [("aside", reason, "C1")]


@pytest.mark.parametrize("unreadable", ["", "<ID/>", f"<ID>{'x' * (ID_MAX + 1)}</ID>", "<ID>\x85</ID>"])
def test_a_claim_without_a_usable_id_is_put_aside_namelessly(unreadable: str) -> None:
    """An id that cannot be stored is not shown either."""
    (remark,) = changed(SUBMISSION, "<ID>C1</ID>", unreadable).remarks
    assert (remark.severity, remark.claim_id) == ("aside", "")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<MemberID>", "<VAT>784-SECRET<x/></VAT><MemberID>", "Claim/VAT is unknown, and skipped"),
        (
            "<Clinician>",
            "<OrderingClinician>SECRET</OrderingClinician><Clinician>",
            "Activity/OrderingClinician is unknown, and skipped",
        ),
        ("<ID>A1", '<ID secret="SECRET">A1', "attributes of ID are unknown, and skipped"),
        ("<Claim>", "<Batch>SECRET</Batch><Claim>", "Batch is unknown, and skipped"),
        ("<SenderID>", "<SoftwareVersion/><SenderID>", "Header/SoftwareVersion is unknown, and skipped"),
        ("<Gross>", "<Gross>55</Gross><Gross>", "Claim/Gross is there twice: the first counts"),
        ("<ID>C1</ID>\n<IDPayer>P-1</IDPayer>", "<IDPayer>P-1</IDPayer><ID>C1</ID>", "Claim/ID is out of the schema's order"),
        ("<RecordCount>1", "<RecordCount>2", "Header/RecordCount differs from the number of claims"),
        ("</Header>", "</Header><Header/>", "Header is there twice: the first counts"),
    ],
)
def test_odd_elements_are_warned_of_and_skipped(old: str, new: str, reason: str) -> None:
    """The claim goes in as if they were not there, and the warning says nothing of what they hold."""
    parsed = changed(SUBMISSION, old, new)
    assert parsed.claims == (CLAIM,)
    ((severity, said, _),) = remarks(parsed)
    assert (severity, said) == ("warning", reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"net": Decimal("49.99")}, "Claim/Net differs from the sum of its activities' Net"),
        ({"gross": Decimal("54.99")}, "Claim/Gross is less than PatientShare and Net together"),
        ({"diagnoses": ()}, "Claim/Diagnosis is missing"),
        ({"member_id": "M" * 31}, "Claim/MemberID is longer than 30 characters"),
        ({"payer_id": "INS 001"}, "Claim/PayerID holds a space, or what does not print"),
        ({"payer_id": "INS\n001"}, "Claim/PayerID holds a space, or what does not print"),
        ({"emirates_id": "784-1900-7654321"}, "Claim/EmiratesIDNumber is not of the form ddd-dddd-ddddddd-d"),
        (
            {"activities": (msgspec.structs.replace(ACTIVITY, type="7", net=CLAIM.net),)},
            "Activity/Type is none of the codes that are known",
        ),
        (
            {"activities": (msgspec.structs.replace(ACTIVITY, quantity=Decimal(-1), net=CLAIM.net),)},
            "Activity/Quantity is negative",
        ),
        ({"encounter": Encounter("F", "11", "MR1", AT)}, "Encounter/Type is none of the codes that are known"),
        ({"resubmission": Resubmission("Correction", "")}, "Resubmission/Type is none of the codes that are known"),
    ],
)
def test_odd_values_are_warned_of_and_kept(changes: dict[str, Any], reason: str) -> None:
    """The claim goes in with what it says, whatever codes, lengths and sums are wrong with it."""
    odd = claim(**changes)
    parsed = parse(of(odd))
    assert parsed.claims == (odd,)
    assert remarks(parsed) == [("warning", reason, "C1")]


def test_a_remittance_may_pay_an_activity_twice() -> None:
    """Payment and take-back in one file are two lines, and neither is lost."""
    twice = msgspec.structs.replace(REMITTED, lines=(LINE, LINE))
    parsed = parse(document_of(Parsed("remittance", HEADER, (twice,))))
    assert parsed.claims == (twice,)
    assert remarks(parsed) == [("warning", "Activity/ID is there twice in the claim: its payments are added up", "C1")]


def test_an_observation_too_large_for_a_row_stays_in_the_file() -> None:
    """Its value alone is left out: no money depends on it."""
    observation = (
        f"<Observation><Type>File</Type><Code>PDF</Code><Value>{'Q' * (TEXT_MAX + 1)}</Value></Observation></Activity>"
    )
    parsed = changed(SUBMISSION, "</Activity>", observation)
    (taken,) = parsed.claims
    assert isinstance(taken, Claim)
    assert taken.activities[0].observations[0].value is None
    assert "left in the file" in parsed.remarks[0].reason


def test_a_large_attachment_is_counted_only() -> None:
    """One of many megabytes, on many lines, is its count of bytes."""
    lines = ("QUJD" * 19 + "\r\n") * 200_000
    (taken,) = changed(SUBMISSION, "<Attachment>QUJD</Attachment>", f"<Attachment>{lines}QQ==</Attachment>").claims
    assert isinstance(taken, Claim)
    assert taken.resubmission == Resubmission("correction", "again", 19 * 3 * 200_000 + 1)


def test_a_test_file_says_so() -> None:
    """DispositionFlag TEST is known from the header."""
    assert changed(SUBMISSION, "PRODUCTION", "TEST").header.is_test


def test_a_header_behind_the_claims_is_read() -> None:
    """Order is no reason to lose a file."""
    start, end = SUBMISSION.index(b"<Header>"), SUBMISSION.index(b"</Header>") + len(b"</Header>")
    header = SUBMISSION[start:end]
    moved = SUBMISSION.replace(header, b"").replace(b"</Claim.Submission>", header + b"</Claim.Submission>")
    parsed = parse(moved)
    assert (parsed.header, parsed.claims) == (HEADER, (CLAIM,))
    assert remarks(parsed) == [("warning", "Header is out of the schema's order", "")]


LINE_AT_FAULT = SUBMISSION[: SUBMISSION.index(b"again")].count(b"\n") + 1
BROKEN = f"it is no well-formed XML, or cut off: line {LINE_AT_FAULT}"
ENTITIES = '<!DOCTYPE a [<!ENTITY a "SECRET">]>'


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "no XML element is at its beginning"),
        (b"SECRET", "no XML element is at its beginning"),
        ("<a/>".encode("utf-16"), "no XML element is at its beginning"),
        (b"<html><body>SECRET</body></html>", "its root is none that claims come in"),
        (b"<Claim.Submission/>", "Header is missing"),
        (SUBMISSION[: SUBMISSION.index(b"<Claim>")] + b"</Claim.Submission>", "Claim is missing"),
        (SUBMISSION.replace(b"<SenderID>DHA-F-0000001</SenderID>", b""), "Header/SenderID is missing"),
        (SUBMISSION.replace(b"PRODUCTION", b"SECRET"), "Header/DispositionFlag is none of TEST, PRODUCTION"),
        (SUBMISSION.replace(b"<RecordCount>1", b"<RecordCount>-1"), "Header/RecordCount is no count"),
        (SUBMISSION.replace(b"<RecordCount>1", b"<RecordCount>10000000000"), "Header/RecordCount is no count"),
        (SUBMISSION.replace(b"21/02/2025", b"SECRET", 1), "Header/TransactionDate is no date and time"),
        (SUBMISSION.replace(b"again", b"ag\x00ain"), BROKEN),
        (SUBMISSION.replace(b"again", b"ag&#1;ain"), BROKEN),
        (SUBMISSION.replace(b"again", b"ag\xff\xfein"), BROKEN),
        (SUBMISSION.replace(b"again", b"&nbsp;"), "it is no well-formed XML, or cut off"),
        (
            ENTITIES.encode() + SUBMISSION.replace(b"again", b"&a;"),
            "it has a document type, which is refused for what entities can do",
        ),
        (b"<!-- a -->\n" + ENTITIES.encode() + SUBMISSION, "it has a document type, which is refused for what entities can do"),
        (b"<?xml version='1.0' encoding='UTF-7'?>" + SUBMISSION, "it is written in an encoding that is not read here"),
        (b"<?xml version='1.0' SECRET?>" + SUBMISSION, "the XML declaration cannot be read"),
        (SUBMISSION.replace(b"Claim.Submission>", b"Remittance.Advice>"), "its claims are those of a Claim.Submission"),
        (ADVICE.replace(b"Remittance.Advice>", b"Claim.Submission>"), "its claims are those of a Remittance.Advice"),
        (SUBMISSION.replace(b"<Header>", b"<Box><Header>").replace(b"</Claim>", b"</Claim></Box>"), "Header is missing"),
    ],
)
def test_a_file_of_no_claims_is_refused(document: bytes, reason: str) -> None:
    """Each has its reason, which repeats nothing of the file."""
    with pytest.raises(NotClaims) as caught:
        parse(document)
    assert str(caught.value) == reason
    assert type(caught.value) is NotClaims


@pytest.mark.parametrize("root", ["Prior.Request", "Prior.Authorization", "Person.Register"])
def test_other_files_of_the_post_office_are_told_apart(root: str) -> None:
    """They are no claims, and nothing is wrong with them."""
    with pytest.raises(OtherKind) as caught:
        parse(f'<?xml version="1.0"?><t:{root} xmlns:t="{NAMESPACE}"><Header/></t:{root}>'.encode())
    assert caught.value.root == root


def test_one_strange_claim_does_not_condemn_the_file() -> None:
    """Only where no claim is of the root's sort is the file in the wrong root."""
    stranger = ADVICE[ADVICE.index(b"<Claim>") : ADVICE.index(b"</Claim>") + 8]
    parsed = parse(SUBMISSION.replace(b"</Claim.Submission>", stranger + b"</Claim.Submission>"))
    assert parsed.claims == (CLAIM,)
    assert Remark("aside", "the claim is one of a Remittance.Advice", "C1") in parsed.remarks


BOMB = b'<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%b">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (BOMB + b"]>" + SUBMISSION.replace(b"again", b"&j;"), "it has a document type"),
        (BOMB + b"]>" + SUBMISSION.replace(b"<Claim>", b'<Claim a="&j;">'), "it has a document type"),
        (b'<!DOCTYPE z SYSTEM "file:///etc/passwd">' + SUBMISSION, "it has a document type"),
        (SUBMISSION.replace(b"<Comment>", b"<a/>" * 1_500_000 + b"<Comment>"), "one of its elements holds too much"),
        (SUBMISSION.replace(b"<Comment>", b"<a" + b' a=""' * 1_000_000 + b"/><Comment>"), "one of its elements holds too much"),
        (SUBMISSION.replace(b"again", b"<a>" * 1_000_000 + b"</a>" * 1_000_000), "it is no well-formed XML, or cut off"),
    ],
    ids=["entities", "entities in an attribute", "external", "elements", "attributes", "depth"],
)
def test_bombs_go_off_nowhere(document: bytes, reason: str) -> None:
    """What would fill the memory or reach out is refused in less than a second of work."""
    began = process_time()
    with pytest.raises(NotClaims) as caught:
        parse(document)
    assert process_time() - began < 1
    assert str(caught.value).startswith(reason)


def test_remarks_are_bounded_and_say_what_they_left_out() -> None:
    """A file of nothing but trouble has so many remarks and no more, and the last ones count the rest."""
    head = SUBMISSION[: SUBMISSION.index(b"<Claim>")]
    body = SUBMISSION[SUBMISSION.index(b"<Claim>") :].removesuffix(b"</Claim.Submission>\n")
    odd = b"".join(body.replace(b"<Net>50.00", b"<X%d/><Net>50.01" % n) for n in range(WARNINGS_MAX + 7))
    parsed = parse(head + odd + b"<Claim/>" * (ASIDE_MAX + 5) + b"</Claim.Submission>")
    assert len(parsed.claims) == WARNINGS_MAX + 7
    assert len(parsed.remarks) == ASIDE_MAX + WARNINGS_MAX + KINDS_MAX + 2
    assert Remark("aside", "5 more claims are put aside") in parsed.remarks
    on_claims, kinds = 2 * (WARNINGS_MAX + 7), WARNINGS_MAX + 7 + 1  # Net and Gross of each; and RecordCount
    assert Remark("warning", f"{on_claims - WARNINGS_MAX + kinds - KINDS_MAX} more warnings") in parsed.remarks


def test_an_oddity_of_many_claims_is_said_once() -> None:
    """One remark per element, with the number of claims."""
    document = of(*(claim(id=f"C{n}") for n in range(5))).replace(b"<Gross>", b"<VAT/><Gross>")
    assert remarks(parse(document)) == [("warning", "Claim/VAT is unknown, and skipped, in 5 claims", "")]


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: SUBMISSION[:400] + tail))
def test_any_bytes_give_claims_or_a_refusal(document: bytes) -> None:
    """Nothing but NotClaims is raised, whatever comes."""
    with suppress(NotClaims):
        parse(document)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([SUBMISSION, ADVICE]),
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 40), st.binary(max_size=3)), min_size=1, max_size=8),
)
def test_damaged_files_give_claims_or_a_refusal(document: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    """Bytes taken out and put in anywhere raise nothing but NotClaims."""
    for place, length, patch in changes:
        at = place % len(document)
        document = document[:at] + patch + document[at + length :]
    with suppress(NotClaims):
        parse(document)


@pytest.mark.parametrize("document", [SUBMISSION.rstrip(), ADVICE.rstrip()])
def test_a_file_cut_off_anywhere_is_refused(document: bytes) -> None:
    """No byte may be missing at the end: half a file is never taken for a whole one."""
    for end in range(len(document)):
        with pytest.raises(NotClaims):
            parse(document[:end])


def test_claims_that_span_chunks_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the document is cut into chunks, the claims are the same."""
    claims = tuple(claim(id=f"C{n}") for n in range(8))
    document = of(*claims)
    for size in (1, 7, 64, 1000, 5000):
        monkeypatch.setattr("ingestion.parsing.document.CHUNK_BYTES", size)
        assert parse(document).claims == claims


def test_the_tree_holds_a_chunk_of_the_document_only() -> None:
    """Claims that were read are gone from the tree, so a file's memory is that of what it says."""
    document = of(*(claim(id=f"C{n}") for n in range(2000)))
    assert len(document) > 8 * CHUNK_BYTES
    sizes = [len(list(child.itersiblings())) for child in children(document, read_prolog(document))]
    assert len(sizes) == 2001
    assert max(sizes) < 400


@pytest.mark.parametrize(
    ("name", "claims", "said"),
    [
        ("claims-app_remit_min_ok", 1, []),
        ("claims-app_remit_multi_acts_ok", 1, [("warning", "Activity/List is out of the schema's order", "R-MULTI-1")]),
        ("claims-app_remit_missing_activity_err", 0, [("aside", "Claim/Activity is missing", "R-NO-ACT")]),
    ],
)
def test_files_that_others_made(shared_data: Path, name: str, claims: int, said: list[tuple[str, str, str]]) -> None:
    """Other people's test files are taken, warned of, and put aside as they are meant to be."""
    parsed = parse((shared_data / "post-office" / "xml" / f"{name}.xml").read_bytes())
    assert (len(parsed.claims), remarks(parsed)) == (claims, said)


def test_a_submission_under_the_root_of_a_remittance_is_refused(shared_data: Path) -> None:
    """A file that others made to be refused is refused."""
    with pytest.raises(NotClaims, match=r"its claims are those of a Claim\.Submission"):
        parse((shared_data / "post-office" / "xml" / "instahms_testRemittance_nonconformant.xml").read_bytes())


@pytest.mark.parametrize(("schema", "document"), [("ClaimSubmission", SUBMISSION), ("RemittanceAdvice", ADVICE)])
def test_these_tests_speak_of_files_by_the_schema(shared_data: Path, schema: str, document: bytes) -> None:
    """The files that are varied here are valid by the published schema."""
    etree.XMLSchema(etree.parse(shared_data / "post-office" / "xsd" / f"{schema}.xsd")).assertValid(etree.fromstring(document))


def test_a_claim_takes_little_time() -> None:
    """Under 400 µs each, several times what was measured: a quadratic reader would show."""
    document = of(*(claim(id=f"C{n}") for n in range(3000)))
    began = process_time()
    assert len(parse(document).claims) == 3000
    assert process_time() - began < 1.2


def test_negative_net_is_aside() -> None:
    """An activity is submitted for no less than nothing: what is taken back is said by a remittance."""
    parsed = changed(submission("c1", net="100.00"), "<Net>100.00</Net><Clinician>", "<Net>-1.00</Net><Clinician>")
    assert [remark.severity for remark in parsed.remarks] == ["aside"]
    assert parsed.claims == ()
