"""A Parsed written as the XML that it is parsed from, by the schema's order; and Parsed values of all shapes."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

from hypothesis import strategies as st

from ingestion.claims import (
    Activity,
    Claim,
    Diagnosis,
    Encounter,
    Header,
    Line,
    Observation,
    Parsed,
    Remitted,
    Resubmission,
)

DUBAI = timezone(timedelta(hours=4))
Node = tuple[str, Any]
"""An element's name, and its text, or nodes; None: it is not there."""


def document_of(parsed: Parsed) -> bytes:
    root = "Claim.Submission" if parsed.kind == "submission" else "Remittance.Advice"
    claims = [("Claim", _claim(claim) if isinstance(claim, Claim) else _remitted(claim)) for claim in parsed.claims]
    return "".join(_written([(root, [("Header", _header(parsed.header)), *claims])])).encode()


def _written(nodes: Iterable[Node]) -> Iterator[str]:
    for name, content in nodes:
        if content is None:
            continue
        inner = "\n" + "".join(_written(content)) if isinstance(content, list) else escape(_text(content))
        yield f"<{name}>{inner}</{name}>\n"


def _text(value: Any) -> str:
    return value.strftime("%d/%m/%Y %H:%M") if isinstance(value, datetime) else str(value)


def _header(header: Header) -> list[Node]:
    return [
        ("SenderID", header.sender_id),
        ("ReceiverID", header.receiver_id),
        ("TransactionDate", header.transaction_date),
        ("RecordCount", header.record_count),
        ("DispositionFlag", "TEST" if header.is_test else "PRODUCTION"),
    ]


def _claim(claim: Claim) -> list[Node]:
    again = claim.resubmission
    return [
        ("ID", claim.id),
        ("IDPayer", claim.id_payer),
        ("MemberID", claim.member_id),
        ("PayerID", claim.payer_id),
        ("ProviderID", claim.provider_id),
        ("EmiratesIDNumber", claim.emirates_id),
        ("Gross", claim.gross),
        ("PatientShare", claim.patient_share),
        ("Net", claim.net),
        ("Encounter", claim.encounter and _encounter(claim.encounter)),
        *(("Diagnosis", [("Type", diagnosis.type), ("Code", diagnosis.code)]) for diagnosis in claim.diagnoses),
        *(("Activity", _activity(activity)) for activity in claim.activities),
        ("Resubmission", again and [("Type", again.type), ("Comment", again.comment), *_attached(again.attached_bytes)]),
        ("Contract", claim.package_name and [("PackageName", claim.package_name)]),
    ]


def _attached(size: int) -> list[Node]:
    whole, rest = divmod(size, 3)
    return [("Attachment", "QUJD" * whole + ["", "QQ==", "QUI="][rest])] if size else []


def _encounter(encounter: Encounter) -> list[Node]:
    return [
        ("FacilityID", encounter.facility_id),
        ("Type", encounter.type),
        ("PatientID", encounter.patient_id),
        ("Start", encounter.start),
        ("End", encounter.end),
        ("StartType", encounter.start_type),
        ("EndType", encounter.end_type),
        ("TransferSource", encounter.transfer_source),
        ("TransferDestination", encounter.transfer_destination),
    ]


def _common(activity: Activity | Line, activity_id: str) -> list[Node]:
    return [
        ("ID", activity_id),
        ("Start", activity.start),
        ("Type", activity.type),
        ("Code", activity.code),
        ("Quantity", activity.quantity),
        ("Net", activity.net),
    ]


def _activity(activity: Activity) -> list[Node]:
    return [
        *_common(activity, activity.id),
        ("Clinician", activity.clinician_id),
        ("PriorAuthorizationID", activity.prior_authorization),
        *(
            ("Observation", [("Type", seen.type), ("Code", seen.code), ("Value", seen.value), ("ValueType", seen.value_type)])
            for seen in activity.observations
        ),
    ]


def _remitted(claim: Remitted) -> list[Node]:
    return [
        ("ID", claim.id),
        ("IDPayer", claim.id_payer),
        ("ProviderID", claim.provider_id),
        ("DenialCode", claim.denial_code),
        ("PaymentReference", claim.payment_reference),
        ("DateSettlement", claim.date_settlement),
        ("Encounter", claim.facility_id and [("FacilityID", claim.facility_id)]),
        *(("Activity", _line(line)) for line in claim.lines),
    ]


def _line(line: Line) -> list[Node]:
    return [
        *_common(line, line.activity_id),
        ("List", line.list),
        ("Clinician", line.clinician_id),
        ("PriorAuthorizationID", line.prior_authorization),
        ("Gross", line.gross),
        ("PatientShare", line.patient_share),
        ("PaymentAmount", line.payment),
        ("DenialCode", line.denial_code),
    ]


_LETTERS = st.characters(codec="utf-8", categories=("L", "N", "P", "S"))
_IDS = st.text(_LETTERS, min_size=1, max_size=20)
_MAYBE = st.none() | _IDS
_COMMENTS = st.text(_LETTERS | st.just(" "), max_size=60).map(str.strip)
_MONEY = st.decimals(-10_000_000, 10_000_000, places=2).map(lambda amount: amount + Decimal("0.00"))
_SUBMITTED = st.decimals(0, 10_000_000, places=2).map(lambda amount: amount + Decimal("0.00"))
_TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)).map(  # noqa: DTZ001  # the zone is put in here
    lambda at: at.replace(second=0, microsecond=0, tzinfo=DUBAI)
)
_ACTIVITY_TYPES = st.sampled_from(["3", "4", "5", "6", "8", "9", "10"])
_ACTIVITIES = st.builds(
    Activity,
    id=_IDS,
    start=_TIMES,
    type=_ACTIVITY_TYPES,
    code=_IDS,
    quantity=st.decimals(0, 10_000, places=1),
    net=_SUBMITTED,
    clinician_id=_IDS,
    prior_authorization=_MAYBE,
    observations=st.lists(
        st.builds(Observation, type=st.sampled_from(["LOINC", "Universal Dental"]), code=_IDS, value=_MAYBE, value_type=_MAYBE),
        max_size=2,
    ).map(tuple),
)
_LINES = st.builds(
    Line,
    activity_id=_IDS,
    start=_TIMES,
    type=_ACTIVITY_TYPES,
    code=_IDS,
    quantity=st.decimals(0, 10_000, places=1),
    net=_MONEY,
    clinician_id=_IDS,
    payment=_MONEY,
    list=st.none() | _MONEY,
    gross=st.none() | _MONEY,
    patient_share=st.none() | _MONEY,
    prior_authorization=_MAYBE,
    denial_code=_MAYBE,
)
_ENCOUNTERS = st.builds(
    Encounter,
    facility_id=_IDS,
    type=st.sampled_from(["1", "3", "12", "42"]),
    patient_id=_IDS,
    start=_TIMES,
    end=st.none() | _TIMES,
    start_type=st.none() | st.sampled_from("1234567"),
    end_type=st.none() | st.sampled_from("12345678"),
    transfer_source=_MAYBE,
    transfer_destination=_MAYBE,
)
_CLAIMS = st.builds(
    Claim,
    id=_IDS,
    payer_id=_IDS,
    provider_id=_IDS,
    emirates_id=st.just("111-1111-1111111-1"),
    gross=_MONEY,
    patient_share=_MONEY,
    net=_MONEY,
    activities=st.lists(_ACTIVITIES, min_size=1, max_size=3, unique_by=lambda activity: activity.id).map(tuple),
    diagnoses=st.lists(st.builds(Diagnosis, type=st.sampled_from(["Principal", "Secondary"]), code=_IDS), max_size=2).map(
        tuple
    ),
    encounter=st.none() | _ENCOUNTERS,
    id_payer=_MAYBE,
    member_id=_MAYBE,
    resubmission=st.none()
    | st.builds(
        Resubmission,
        type=st.sampled_from(["correction", "internal complaint"]),
        comment=_COMMENTS,
        attached_bytes=st.integers(0, 10),
    ),
    package_name=_MAYBE,
)
_REMITTED = st.builds(
    Remitted,
    id=_IDS,
    id_payer=_IDS,
    payment_reference=_IDS | st.just(""),
    lines=st.lists(_LINES, min_size=1, max_size=3).map(tuple),
    provider_id=_MAYBE,
    facility_id=_MAYBE,
    date_settlement=st.none() | _TIMES,
    denial_code=_MAYBE,
)
_HEADERS = st.builds(
    Header,
    sender_id=_IDS,
    receiver_id=_IDS,
    transaction_date=_TIMES,
    record_count=st.integers(0, 9),
    is_test=st.booleans(),
)
FILES = st.builds(Parsed, st.just("submission"), _HEADERS, st.lists(_CLAIMS, min_size=1, max_size=3).map(tuple)) | st.builds(
    Parsed, st.just("remittance"), _HEADERS, st.lists(_REMITTED, min_size=1, max_size=3).map(tuple)
)
