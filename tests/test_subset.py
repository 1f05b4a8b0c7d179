import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given
from hypothesis import strategies as st

from base.errors import Invalid
from r4.elements import ELEMENTS
from r4.parameters import PARAMETERS
from r4.resource import split, stamp
from r4.subset import Subset, parse_subset, subset
from tests.test_resource import values

NOON = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)
TAG = b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED","display":"subsetted"}'
META = b'"meta":{"versionId":"7","lastUpdated":"2024-05-06T12:00:00.000Z"'
OTHER_TAG = TAG.replace(b'"SUBSETTED"', b'"REDACTED"')
MODES = [Subset("true"), Subset("text"), Subset("data")]
ASKED = [
    Subset(elements=names) for names in (("nothing",), ("contact", "performed"), ("contained",), ("text", "onset", "item"))
]


def served(raw: bytes) -> bytes:
    resource = split(raw)
    return stamp(resource.type, resource.id, 7, NOON, resource.tail)


def make(kind: str, *members: bytes, meta: bytes = b"") -> bytes:
    """A stored resource's served bytes; `meta` follows lastUpdated."""
    return b",".join([b'{"resourceType":"%b","id":"a",%b%b}' % (kind.encode(), META, meta), *members]) + b"}"


def names_of(body: bytes) -> set[str]:
    """Of what is left, less what is there always."""
    return set(json.loads(body)) - {"resourceType", "id", "meta"}


def tags_of(body: bytes) -> list[Any]:
    tags: list[Any] = json.loads(body)["meta"]["tag"]
    return tags


def fields(kind: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The top-level elements, by another's book: the name in JSON, its choice's or its own, and what is known of it."""
    return [
        (field.alias or name, str(extra.get("one_of_many") or field.alias or name), extra | {"must": field.is_required()})
        for name, field in get_fhir_model_class(kind).model_fields.items()
        if isinstance(extra := field.json_schema_extra, dict) and not name.endswith("__ext")
    ]


@pytest.mark.parametrize("kind", sorted(ELEMENTS))
def test_facts(kind: str) -> None:
    """What is mandatory, what is in the summary and what is a choice of types is as fhir.resources has it."""
    known = fields(kind)
    must = {
        base for _, base, known in known if known["must"] or "element_required" in known or known.get("one_of_many_required")
    }
    shown = {base for _, base, known in known if "summary_element_property" in known} - {"id", "meta", "implicitRules", "text"}
    assert ELEMENTS[kind].mandatory == must
    assert ELEMENTS[kind].summary == shown | must
    assert ELEMENTS[kind].choices == {base for _, base, known in known if "one_of_many" in known}


@pytest.mark.parametrize("kind", sorted(ELEMENTS))
def test_choices(kind: str) -> None:
    """A choice asked for by its base name brings all its types, with their extensions, and no element of another name."""
    known = fields(kind)
    body = make(kind, *(b'"%b":1,"_%b":2' % (name.encode(), name.encode()) for name, *_ in known if name not in ("id", "meta")))
    kept = names_of(subset(body, Subset(elements=("nothing",))))
    for asked in {base for _, base, known in known if "one_of_many" in known} - ELEMENTS[kind].mandatory:
        brought = {name for name, base, _ in known if base == asked}
        assert names_of(subset(body, Subset(elements=(asked,)))) == kept | brought | {f"_{name}" for name in brought}


def test_every_searched_type_has_facts() -> None:
    """No type that has search parameters of its own is without its facts."""
    assert set(PARAMETERS) <= set(ELEMENTS)


@pytest.mark.parametrize("wanted", [*MODES, *ASKED], ids=lambda each: each.summary + ",".join(("", *each.elements)))
def test_official_examples(shared_data: Path, wanted: Subset) -> None:
    """Every subset of every real resource is a valid one, smaller by whole elements only, and tagged."""
    files = sorted((shared_data / "fhir").glob("*/*.ndjson"))
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    assert len(lines) > 2900
    for line in lines:
        body = served(line)
        made = subset(body, wanted)
        whole, left = (msgspec.json.decode(each, type=dict[str, msgspec.Raw]) for each in (body, made))
        get_fhir_model_class(json.loads(line)["resourceType"]).model_validate(json.loads(made))
        assert list(left) == [name for name in whole if name in left]
        assert all(bytes(value) == bytes(whole[name]) for name, value in left.items() if name != "meta")
        assert tags_of(made)[-1] == json.loads(TAG)
        assert subset(made, wanted) == made


PATIENT = make(
    "Patient",
    b'"implicitRules":"urn:x"',
    b'"language":"en"',
    b'"text":{"status":"generated"}',
    b'"extension":[{"url":"urn:y","valueDecimal":5.60}]',
    b'"modifierExtension":[{"url":"urn:z"}]',
    b'"identifier":[ {"value":"1","extension":[{"url":"urn:own","valueDecimal":1.00}]} ]',
    b'"name":[{"family":"A\xc3\xa9"}]',
    b'"gender":"other"',
    b'"birthDate":"1970"',
    b'"_birthDate":{"extension":[{"url":"urn:t","valueDecimal":5.60}]}',
    b'"_deceasedDateTime":{"id":"x"}',
    b'"multipleBirthInteger":2',
    b'"contact":[{"gender":"male"}]',
)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Subset("true"), "identifier name gender birthDate _birthDate _deceasedDateTime"),
        (Subset("text"), "text"),
        (
            Subset("data"),
            "language extension identifier name gender birthDate _birthDate _deceasedDateTime multipleBirthInteger contact",
        ),
        (Subset(elements=("birthDate", "contact", "unheardOf")), "birthDate _birthDate contact"),
        (Subset(elements=("deceased", "multipleBirthInteger")), "_deceasedDateTime multipleBirthInteger"),
        (Subset(elements=("multipleBirth", "birth", "Name")), "multipleBirthInteger"),
        (Subset(elements=("extension",)), "extension"),
        (Subset("count", ("gender",)), "gender"),
    ],
)
def test_patient(wanted: Subset, names: str) -> None:
    """Each mode keeps the members that it is for, beside those that say how to understand the others."""
    assert names_of(subset(PATIENT, wanted)) == {*names.split(), "implicitRules", "modifierExtension"}


def test_count_alone_leaves_a_resource_whole() -> None:
    """A count is a search's; of a resource itself it takes nothing away."""
    assert subset(PATIENT, Subset("count")) == PATIENT


def test_kept_to_the_byte() -> None:
    """Digits, blanks, unknown extensions and letters are left as they are, in the order that they were in."""
    expected = make(
        "Patient",
        b'"implicitRules":"urn:x"',
        b'"modifierExtension":[{"url":"urn:z"}]',
        b'"identifier":[ {"value":"1","extension":[{"url":"urn:own","valueDecimal":1.00}]} ]',
        b'"name":[{"family":"A\xc3\xa9"}]',
        b'"birthDate":"1970"',
        b'"_birthDate":{"extension":[{"url":"urn:t","valueDecimal":5.60}]}',
        meta=b',"tag":[%b]' % TAG,
    )
    assert subset(PATIENT, Subset(elements=("birthDate", "name", "identifier"))) == expected


@pytest.mark.parametrize(
    ("kind", "members", "kept"),
    [
        ("Encounter", "status class length", "status class"),
        ("Encounter", "_status class length", "_status class"),
        ("Observation", "status code subject valueQuantity", "status code"),
        (
            "MedicationRequest",
            "medicationReference _medicationReference medications",
            "medicationReference _medicationReference",
        ),
        ("Appointment", "participant slot", "participant"),
    ],
)
@pytest.mark.parametrize("wanted", [Subset("text"), Subset(elements=("text",))])
def test_mandatory_elements_stay(kind: str, members: str, kept: str, wanted: Subset) -> None:
    """What a type must have is there, whether it was asked for or not."""
    body = make(kind, *(b'"%b":1' % name.encode() for name in members.split()))
    assert names_of(subset(body, wanted)) == set(kept.split())


def test_mandatory_but_not_in_the_summary() -> None:
    """A summary keeps what is mandatory also where R4 does not count it to the summary, so that it is valid."""
    assert names_of(subset(make("Appointment", b'"participant":[],"slot":[]'), Subset("true"))) == {"participant"}


def test_type_without_facts() -> None:
    """Of a type that is not in the table a summary is the whole resource, untagged; data and elements work as they can."""
    body = make("VisionPrescription", b'"text":{}', b'"status":"active"', b'"dateWritten":1', b'"_dateFor":2', b'"dated":3')
    assert "VisionPrescription" not in ELEMENTS
    assert subset(body, Subset("true")) == subset(body, Subset("text")) == body
    assert names_of(subset(body, Subset("data"))) == {"status", "dateWritten", "_dateFor", "dated"}
    assert names_of(subset(body, Subset(elements=("date",)))) == {"dateWritten", "_dateFor"}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (b"", b"[%b]" % TAG),
        (b',"tag":[ {"code":"x", "y":1.0} ]', b'[{"code":"x", "y":1.0},%b]' % TAG),
        (b',"tag":[]', b"[%b]" % TAG),
        (b',"tag":[%b]' % TAG, b"[%b]" % TAG),
        (b',"tag":[{"code":"SUBSETTED"}]', b'[{"code":"SUBSETTED"},%b]' % TAG),
        (b',"tag":[%b]' % OTHER_TAG, b"[%b,%b]" % (OTHER_TAG, TAG)),
        (b',"tag":[5,null,{"code":5}]', b'[5,null,{"code":5},%b]' % TAG),
        (b',"tag":null', b"[%b]" % TAG),
    ],
)
def test_tagged_once(tags: bytes, expected: bytes) -> None:
    """SUBSETTED comes behind the resource's own tags, and once, whatever stands in their place."""
    got = subset(make("Patient", b'"text":{}', meta=tags), Subset("data"))
    assert got == make("Patient", meta=b',"tag":' + expected)


def test_tag_already_there_is_kept_as_it_is() -> None:
    """A SUBSETTED in other words, which the resource was stored with, is enough, and meta is left to the byte."""
    meta = b',"tag":[ {"code":"SUBSETTED" ,"system":"http:\\/\\/terminology.hl7.org/CodeSystem/v3-ObservationValue"}]'
    assert subset(make("Patient", b'"text":{}', meta=meta), Subset("data")) == make("Patient", meta=meta)


def test_rest_of_meta_stays() -> None:
    """Of meta, only the tags are touched."""
    meta = b',"profile":[ "urn:p" ],"_source":{"extension":[{"url":"urn:e","valueDecimal":5.60}]}'
    got = subset(make("Patient", b'"text":{}', meta=meta), Subset("data"))
    assert got == make("Patient", meta=meta + b',"tag":[%b]' % TAG)


@pytest.mark.parametrize(
    ("reference", "asked", "kept"),
    [
        (b'{ "reference" : "#p" }', ("subject",), True),
        (b'"#p"', ("subject",), True),
        (b'{"reference":"Patient/p#p"}', ("subject",), False),
        (b'"\\"#p\\""', ("subject",), False),
        (b'{"reference":"#p"}', ("length",), False),
        (b'{"reference":"Patient/p"}', ("contained",), True),
    ],
)
def test_contained(reference: bytes, asked: tuple[str, ...], kept: bool) -> None:
    """Contained resources stay in their place when one of them is asked for or referred to, and only then."""
    body = make("Encounter", b'"contained":[{"resourceType":"Patient","id":"p"}]', b'"subject":' + reference, b'"length":{}')
    got = subset(body, Subset(elements=asked))
    assert (list(json.loads(got))[3] == "contained") is kept


WORDS = ["value", "effective", "note", "text", "valueQuantity", "valued", "unheardOf"]
POOL = [*WORDS, "status", "_status", "code", "_valueString", "effectiveDateTime", "effectively", "implicitRules", "extension",
        "modifierExtension", "language", "subject", "component", "ünknown"]  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(POOL), values),
    st.lists(st.sampled_from(WORDS), min_size=1),
)
def test_any_members(members: dict[str, str], asked: list[str]) -> None:
    """Whatever members a resource has, and whatever is asked of it, what is left is what is asked and must be, to the byte."""

    def stays(name: str) -> bool:
        base = name.removeprefix("_")
        choice = re.match("(value|effective)[A-Z]", base)
        return base in {*asked, "status", "code", "implicitRules", "modifierExtension"} or bool(choice and choice[1] in asked)

    texts = {name: b'"%b":%b' % (name.encode(), value.encode()) for name, value in members.items()}
    got = subset(make("Observation", *texts.values()), Subset(elements=tuple(asked)))
    expected = [text for name, text in texts.items() if stays(name)]
    assert got == make("Observation", *expected, meta=b',"tag":[%b]' % TAG)
    assert subset(got, Subset(elements=tuple(asked))) == got


@pytest.mark.parametrize(
    ("query", "expected", "used"),
    [
        ([], None, []),
        ([("_summary", ""), ("_elements", ""), ("name", "x")], None, []),
        ([("_elements", " , ")], None, []),
        ([("_summary", "false")], None, [("_summary", "false")]),
        ([("_summary", "true"), ("_summary", "true")], Subset("true"), [("_summary", "true")]),
        ([("_summary", "text"), ("_elements", "")], Subset("text"), [("_summary", "text")]),
        ([("_summary", "data")], Subset("data"), [("_summary", "data")]),
        ([("_summary", "count")], Subset("count"), [("_summary", "count")]),
        (
            [("_elements", "b,a"), ("_summary", "count")],
            Subset("count", ("b", "a")),
            [("_summary", "count"), ("_elements", "b,a")],
        ),
        (
            [("_summary", "false"), ("_elements", "a")],
            Subset("false", ("a",)),
            [("_summary", "false"), ("_elements", "a")],
        ),
        (
            [("_elements", "id,resourceType,name")],
            Subset(elements=("id", "resourceType", "name")),
            [("_elements", "id,resourceType,name")],
        ),
        (
            [("_elements", "Patient.name, name.family,"), ("_elements", "link.other.reference,Patient.link.type")],
            Subset(elements=("name", "link")),
            [("_elements", "name,link")],
        ),
    ],
)
def test_query(query: list[tuple[str, str]], expected: Subset | None, used: list[tuple[str, str]]) -> None:
    """A query says its subset, or none, and what of it was understood."""
    assert parse_subset(query) == (expected, tuple(used))


@pytest.mark.parametrize(
    ("query", "expression"),
    [
        ([("_summary", "SECRET")], "_summary"),
        ([("_summary", "True")], "_summary"),
        ([("_summary", "true\x00")], "_summary"),
        ([("_summary", "true"), ("_summary", "text")], "_summary"),
        ([("_elements", "name,SECRET[x]")], "_elements"),
        ([("_elements", "_birthDate")], "_elements"),
        ([("_elements", "SECRET..family")], "_elements"),
        ([("_elements", "Patient.")], "_elements"),
        ([("_elements", "name\x00")], "_elements"),
        ([("_elements", "na\nme")], "_elements"),
        ([("_elements", "ü")], "_elements"),
        ([("_elements", "1a")], "_elements"),
        ([("_elements", "a" * 65)], "_elements"),
        ([("_elements", ",".join(f"a{number}" for number in range(101)))], "_elements"),
        ([("_summary", "true"), ("_elements", "name")], "_elements"),
        ([("_elements", "name"), ("_summary", "data")], "_elements"),
    ],
)
def test_refused(query: list[tuple[str, str]], expression: str) -> None:
    """What cannot be meant is refused, in words that name the parameter and repeat nothing of it."""
    with pytest.raises(Invalid) as refused:
        parse_subset(query)
    assert refused.value.expression == expression
    assert "SECRET" not in str(refused.value)
    assert expression in str(refused.value)
