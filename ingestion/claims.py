"""What the post office's files say, as frozen values: claims that were submitted, and what was remitted for them.

The names are the schema's (DHA v2.0), in snake case. Money and quantities are Decimal, money with two places; times carry
their zone, Asia/Dubai.
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

import msgspec

from base.errors import Invalid


class NotClaims(Invalid):
    """A file that cannot be read as claims at all. The message says why, and repeats nothing of the file."""


class _Value(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Kept as arrays in claims.event: a new field goes to the end, with a default."""


class Observation(_Value, frozen=True):
    type: str
    code: str
    value: str | None = None
    value_type: str | None = None


class Activity(_Value, frozen=True):
    id: str
    start: datetime
    type: str
    code: str
    quantity: Decimal
    net: Decimal
    clinician_id: str
    prior_authorization: str | None = None
    observations: tuple[Observation, ...] = ()


class Diagnosis(_Value, frozen=True):
    type: str
    code: str


class Encounter(_Value, frozen=True):
    facility_id: str
    type: str
    patient_id: str
    """The facility's medical record number."""
    start: datetime
    end: datetime | None = None
    start_type: str | None = None
    end_type: str | None = None
    transfer_source: str | None = None
    transfer_destination: str | None = None


class Resubmission(_Value, frozen=True):
    type: str
    comment: str
    attached_bytes: int = 0
    """The attachment itself stays in the file."""


class Claim(_Value, frozen=True, tag="c"):
    id: str
    payer_id: str
    provider_id: str
    emirates_id: str
    gross: Decimal
    patient_share: Decimal
    net: Decimal
    activities: tuple[Activity, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    encounter: Encounter | None = None
    id_payer: str | None = None
    member_id: str | None = None
    resubmission: Resubmission | None = None
    package_name: str | None = None


class Line(_Value, frozen=True):
    """What was remitted for one activity; a negative payment takes back."""

    activity_id: str
    start: datetime
    type: str
    code: str
    quantity: Decimal
    net: Decimal
    clinician_id: str
    payment: Decimal
    list: Decimal | None = None
    gross: Decimal | None = None
    patient_share: Decimal | None = None
    prior_authorization: str | None = None
    denial_code: str | None = None


class Remitted(_Value, frozen=True, tag="r"):
    """What one remittance says of one claim."""

    id: str
    id_payer: str
    payment_reference: str
    lines: tuple[Line, ...]
    provider_id: str | None = None
    facility_id: str | None = None
    date_settlement: datetime | None = None
    denial_code: str | None = None


class Header(msgspec.Struct, frozen=True):
    sender_id: str
    receiver_id: str
    transaction_date: datetime
    record_count: int
    is_test: bool
    """DispositionFlag TEST: stored, and counted for no money."""


class Remark(msgspec.Struct, frozen=True):
    """What was odd about a file (claim_id ''), or about a claim; `aside`: the claim was not taken.

    `reason` names elements and says nothing of what stands in them.
    """

    severity: Literal["warning", "aside"]
    reason: str
    claim_id: str = ""


Kind: TypeAlias = Literal["submission", "remittance"]


class Parsed(msgspec.Struct, frozen=True):
    """A file. `claims` are all Claim, or all Remitted, in the file's order, without those put aside."""

    kind: Kind
    header: Header
    claims: tuple[Claim, ...] | tuple[Remitted, ...]
    remarks: tuple[Remark, ...] = ()


class Event(_Value, frozen=True):
    """What a file said of a claim: a member of the claim's history."""

    at: datetime
    """The header's TransactionDate."""
    facility_no: int
    file_id: str
    n: int
    """The claim's place in its file."""
    sender_id: str
    content: Claim | Remitted


_encode = msgspec.msgpack.Encoder(decimal_format="string").encode
_decode = msgspec.msgpack.Decoder(Event).decode


def to_document(event: Event) -> bytes:
    """As claims.event keeps it."""
    return _encode(event)


def from_document(document: bytes) -> Event:
    return _decode(document)
