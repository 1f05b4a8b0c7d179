"""The schemas as tables (DHA v2.0), and the one reader that all of them drive. Pure.

Fields stand in the schema's order. https://eclaimlink.ae/dhd: ClaimSubmission, RemittanceAdvice, CommonTypes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lxml.etree import _Element as Element

from ingestion.claims import Activity, Claim, Diagnosis, Encounter, Header, Line, Observation, Remitted, Resubmission
from ingestion.parsing.values import (
    TEXT_MAX,
    Aside,
    Convert,
    Converter,
    Odd,
    base64_size,
    codes,
    count,
    emirates_id,
    ident,
    large_text,
    moment,
    money,
    one_of,
    quantity,
    words,
)

NAMESPACE = "http://www.eclaimlink.ae/DHD/ValidationSchema"
"""Elements have none by the schema; some senders put them into it."""

_SPACE = " \t\r\n"  # what XML calls so: other spaces are characters


class Field(NamedTuple):
    element: str
    field: str
    kind: "Converter | Structure"
    required: bool = False
    many: bool = False
    blank: str | None = None
    """What stands for an element that is there and empty."""


class _Slot(NamedTuple):
    order: int
    place: int
    convert: Convert
    inner: "Structure | None"
    blank: str | None
    many: bool
    name: str


class Structure:
    """An element that holds elements: its fields compiled, so that one look-up per child says what is to be done."""

    def __init__(self, name: str, make: Callable[..., Any], *fields: Field, **defaults: Any) -> None:
        self._name = name
        self._make = make
        self._places = list(getattr(make, "__struct_fields__", [field.field for field in fields]))
        self._required = [(self._place(field), f"{name}/{field.element} is missing") for field in fields if field.required]
        self._repeating = [self._place(field) for field in fields if field.many]
        self._defaults = [(self._places.index(field), default) for field, default in defaults.items()]
        self._blank = [None] * len(self._places)
        self._slots: dict[Any, _Slot] = {}  # by tag, which is text here: comments are not in the tree
        for order, field in enumerate(fields):
            self._slots[field.element] = self._slots[f"{{{NAMESPACE}}}{field.element}"] = self._slot(field, order)
        self.elements = frozenset(field.element for field in fields)
        self.required = frozenset(field.element for field in fields if field.required)

    def _place(self, field: Field) -> int:
        return self._places.index(field.field)

    def _slot(self, field: Field, order: int) -> _Slot:
        name = f"{self._name}/{field.element}"
        inner = field.kind if isinstance(field.kind, Structure) else None
        convert = _never if isinstance(field.kind, Structure) else field.kind(name)
        return _Slot(order, self._place(field), convert, inner, field.blank, field.many, name)

    def read(self, element: Element, odd: Odd) -> Any:
        """The value that `element` holds; into `odd` goes what deserves a warning. Raises Aside."""
        values: list[Any] = self._blank.copy()
        slots = self._slots
        last = 0
        for child in element:
            slot = slots.get(child.tag)
            if slot is None:
                odd.append(f"{self._name}/{local_name(child)} is unknown, and skipped")
                continue
            order, place, convert, inner, blank, many, name = slot
            if order < last:
                odd.append(f"{name} is out of the schema's order")
            else:
                last = order
            if inner is not None:
                value = inner.read(child, odd)
            elif len(child):
                raise Aside(f"{name} holds elements")
            else:
                text = child.text
                value = convert(text, odd) if text and (text := text.strip(_SPACE)) else blank
            if values[place] is None:
                values[place] = [value] if many else value
            elif many:
                values[place].append(value)
            else:
                odd.append(f"{name} is there twice: the first counts")
        return self._made(values)

    def _made(self, values: list[Any]) -> Any:
        for place, is_missing in self._required:
            if values[place] is None:
                raise Aside(is_missing)
        for place in self._repeating:
            values[place] = tuple(values[place] or ())
        for place, default in self._defaults:
            if values[place] is None:
                values[place] = default
        return self._make(*values)


def local_name(element: Element) -> str:
    """Cut, for whoever writes a file may give his elements any name."""
    return str(element.tag).rpartition("}")[2][:40]


def _never(_: str, __: Odd) -> Any:
    raise AssertionError


def _alone(value: Any) -> Any:
    """An element that holds one field is that field."""
    return value


_ENCOUNTER_TYPE = codes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 41, 42)
_ACTIVITY_TYPE = codes(3, 4, 5, 6, 8, 9, 10)

HEADER = Structure(
    "Header",
    Header,
    Field("SenderID", "sender_id", ident, required=True),
    Field("ReceiverID", "receiver_id", ident, required=True),
    Field("TransactionDate", "transaction_date", moment, required=True),
    Field("RecordCount", "record_count", count, required=True),
    Field("DispositionFlag", "is_test", one_of({"TEST": True, "PRODUCTION": False}), required=True),
)

_OBSERVATION = Structure(
    "Observation",
    Observation,
    Field(
        "Type",
        "type",
        codes("LOINC", "Text", "File", "Universal Dental", "Financial", "Grouping", "ERX", "Result"),
        required=True,
    ),
    Field("Code", "code", words(25), required=True),
    Field("Value", "value", large_text),
    Field("ValueType", "value_type", words(25)),
)

_ACTIVITY = Structure(
    "Activity",
    Activity,
    Field("ID", "id", words(30), required=True),
    Field("Start", "start", moment, required=True),
    Field("Type", "type", _ACTIVITY_TYPE, required=True),
    Field("Code", "code", ident, required=True),
    Field("Quantity", "quantity", quantity, required=True),
    Field("Net", "net", money, required=True),
    Field("Clinician", "clinician_id", ident, required=True),
    Field("PriorAuthorizationID", "prior_authorization", words(50)),
    Field("Observation", "observations", _OBSERVATION, many=True),
)

_ENCOUNTER = Structure(
    "Encounter",
    Encounter,
    Field("FacilityID", "facility_id", ident, required=True),
    Field("Type", "type", _ENCOUNTER_TYPE, required=True),
    Field("PatientID", "patient_id", words(30), required=True),
    Field("Start", "start", moment, required=True),
    Field("End", "end", moment),
    Field("StartType", "start_type", codes(1, 2, 3, 4, 5, 6, 7)),
    Field("EndType", "end_type", codes(1, 2, 3, 4, 5, 6, 7, 8)),
    Field("TransferSource", "transfer_source", words(100)),
    Field("TransferDestination", "transfer_destination", words(100)),
)

_DIAGNOSIS = Structure(
    "Diagnosis",
    Diagnosis,
    Field("Type", "type", codes("Principal", "Secondary", "Admitting"), required=True),
    Field("Code", "code", ident, required=True),
)

_RESUBMISSION = Structure(
    "Resubmission",
    Resubmission,
    Field("Type", "type", codes("correction", "internal complaint", "legacy", "reconciliation"), required=True),
    Field("Comment", "comment", words(2000, at_most=TEXT_MAX), required=True, blank=""),
    Field("Attachment", "attached_bytes", base64_size),
    attached_bytes=0,
)

CLAIM = Structure(
    "Claim",
    Claim,
    Field("ID", "id", words(), required=True),
    Field("IDPayer", "id_payer", words(50)),
    Field("MemberID", "member_id", words(30)),
    Field("PayerID", "payer_id", ident, required=True),
    Field("ProviderID", "provider_id", ident, required=True),
    Field("EmiratesIDNumber", "emirates_id", emirates_id, required=True),
    Field("Gross", "gross", money, required=True),
    Field("PatientShare", "patient_share", money, required=True),
    Field("Net", "net", money, required=True),
    Field("Encounter", "encounter", _ENCOUNTER),
    Field("Diagnosis", "diagnoses", _DIAGNOSIS, many=True),  # without one: odd, and no money depends on it
    Field("Activity", "activities", _ACTIVITY, required=True, many=True),
    Field("Resubmission", "resubmission", _RESUBMISSION),
    Field("Contract", "package_name", Structure("Contract", _alone, Field("PackageName", "package_name", words(100)))),
)

_LINE = Structure(
    "Activity",
    Line,
    Field("ID", "activity_id", words(30), required=True),
    Field("Start", "start", moment, required=True),
    Field("Type", "type", _ACTIVITY_TYPE, required=True),
    Field("Code", "code", ident, required=True),
    Field("Quantity", "quantity", quantity, required=True),
    Field("Net", "net", money, required=True),
    Field("List", "list", money),
    Field("Clinician", "clinician_id", ident, required=True),
    Field("PriorAuthorizationID", "prior_authorization", words(50)),
    Field("Gross", "gross", money),
    Field("PatientShare", "patient_share", money),
    Field("PaymentAmount", "payment", money, required=True),
    Field("DenialCode", "denial_code", ident),
)

REMITTED = Structure(
    "Claim",
    Remitted,
    Field("ID", "id", words(), required=True),
    Field("IDPayer", "id_payer", words(50), required=True, blank=""),
    Field("ProviderID", "provider_id", ident),
    Field("DenialCode", "denial_code", ident),
    Field("PaymentReference", "payment_reference", words(25), required=True, blank=""),
    Field("DateSettlement", "date_settlement", moment),
    Field("Encounter", "facility_id", Structure("Encounter", _alone, Field("FacilityID", "facility_id", ident))),
    Field("Activity", "lines", _LINE, required=True, many=True),
)
