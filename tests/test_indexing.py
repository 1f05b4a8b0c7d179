from datetime import UTC, datetime
from typing import Any

import pytest

from r4.indexing import RANK_LAST, Index, cap, index, normalise, rank
from tests.importing import made


def indexed(kind: str, **members: Any) -> Index:
    return index(made(kind, "a", **members))


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def test_tokens_by_shape() -> None:
    """A token is a code, a boolean, a Coding, every coding of a CodeableConcept, or an Identifier."""
    assert indexed(
        "Encounter",
        status="finished",
        **{"class": {"system": "http://c", "code": "AMB", "display": "x"}},
        identifier=[{"system": "urn:x", "value": "7"}, {"value": "8"}, {"system": "urn:empty"}],
    ).tokens == [
        ("identifier", "7", "urn:x"),
        ("identifier", "8", ""),
        ("identifier", "", "urn:empty"),
        ("status", "finished", ""),
        ("class", "AMB", "http://c"),
    ]
    assert indexed("Patient", active=False, gender="male").tokens == [("gender", "male", ""), ("active", "false", "")]
    concept = {"coding": [{"system": "s", "code": "1"}, {"code": "2"}, {"display": "none"}, "odd"], "text": "t"}
    assert indexed("Procedure", status=concept).tokens == [("status", "1", "s"), ("status", "2", "")]


def test_contact_points_have_no_system() -> None:
    """A telephone number is a token of no system, though its element is called so."""
    assert indexed("Patient", identifier={"system": "phone", "value": "030"}).tokens == [("identifier", "030", "")]


def test_types_without_a_table_have_their_identifier() -> None:
    """Any type is found by its identifier."""
    assert indexed("Basic", identifier=[{"value": "7"}], status="x").tokens == [("identifier", "7", "")]


def test_names() -> None:
    """Each part of a name is a row; a later word of a family, given name or text is one too, that :exact cannot match."""
    name = {"use": "official", "family": "Carreño-Quiñones", "given": ["Ana María"], "prefix": ["Dr. h.c."], "suffix": ["MD"]}
    assert indexed("Patient", name=[name]).strings == [
        ("name", "carreno-quinones", "Carreño-Quiñones"),
        ("name", "quinones", ""),
        ("name", "ana maria", "Ana María"),
        ("name", "maria", ""),
        ("name", "dr. h.c.", "Dr. h.c."),
        ("name", "md", "MD"),
        ("family", "carreno-quinones", "Carreño-Quiñones"),
        ("family", "quinones", ""),
    ]


def test_a_plain_name_is_found_by_its_beginning_alone() -> None:
    """The name of an organization is one string, since a string matches from its beginning."""
    assert indexed("Organization", name="MOUNT AUBURN").strings == [("name", "mount auburn", "MOUNT AUBURN")]


@pytest.mark.parametrize(
    ("text", "normal"),
    [("Ångström", "angstrom"), ("STRASSE", "strasse"), ("Straße", "strasse"), ("İzmir", "izmir"), ("ﬁx", "fix"), ("李", "李")],
)
def test_normalise(text: str, normal: str) -> None:
    """Case and accents make no difference, and to normalise twice is to normalise once."""
    assert normalise(text) == normalise(normalise(text)) == normal


def test_rows_are_not_repeated() -> None:
    """What stands in a resource twice is one row."""
    rows = indexed(
        "Encounter",
        identifier=[{"value": "7"}, {"value": "7"}],
        subject={"reference": "Patient/1"},
        participant=[{"individual": {"reference": "Practitioner/1"}}, {"individual": {"reference": "Practitioner/1"}}],
    )
    assert rows.tokens == [("identifier", "7", "")]
    assert len(rows.references) == 2


def test_dates() -> None:
    """Dates are ranges in UTC, and a Period is open where it has no end or no start."""
    assert indexed("Patient", birthDate="1974-12").dates == [("birthdate", at(1974, 12, 1), at(1975, 1, 1))]
    assert indexed("Procedure", performedDateTime="2020-01-01T00:00:00+01:00").dates == [
        ("date", at(2019, 12, 31, 23), at(2019, 12, 31, 23, 0, 1))
    ]
    assert indexed("Encounter", period={"start": "2020", "end": "2021"}).dates == [("date", at(2020, 1, 1), at(2022, 1, 1))]
    assert indexed("Encounter", period={"start": "2020"}).dates == [("date", at(2020, 1, 1), None)]
    assert indexed("Encounter", period={"end": "2020"}).dates == [("date", None, at(2021, 1, 1))]


@pytest.mark.parametrize(
    "members",
    [
        {"period": "23 May 2009"},
        {"period": {"start": "2013-13-45"}},
        {"period": {"start": 2013}},
        {"period": {"start": "2014", "end": "2013"}},
        {"period": {}},
        {"period": [[{"start": "2013"}]]},
        {"period": 5, "status": 5, "class": ["x", [], None, {"code": 5, "system": 7}], "identifier": "", "subject": 1},
        {"subject": {"reference": 5}},
        {"identifier": [{"value": 5}], "status": {"coding": "x"}},
    ],
)
def test_malformed_values_are_left_out(members: dict[str, Any]) -> None:
    """A value that its parameter does not take is not indexed, and harms nothing else."""
    rows = indexed("Encounter", **{"class": [], **members})
    assert (rows.dates, rows.references, [row for row in rows.tokens if row[0] != "class"]) == ([], [], [])


def test_malformed_strings_are_left_out() -> None:
    """A name that is no name is not indexed."""
    assert indexed("Patient", name=[5, None, {"family": 5, "given": [None, ""]}, ""]).strings == []


def test_references() -> None:
    """Every relative reference is kept with the path of its element; contained, local and foreign ones are not."""
    rows = indexed(
        "ExplanationOfBenefit",
        contained=[{"resourceType": "Coverage", "id": "c", "beneficiary": {"reference": "Patient/hidden"}}],
        patient={"reference": "Patient/1/_history/3", "display": "x"},
        insurance=[{"coverage": {"reference": "#c"}}],
        provider={"reference": "http://elsewhere/Practitioner/1"},
        facility={"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"},
        claim={"reference": "Claim?identifier=7"},
        item=[{"encounter": [{"reference": "Encounter/e.1"}]}, {"encounter": [{"reference": "Encounter/e-2"}]}],
        extension=[{"url": "u", "valueReference": {"reference": "Group/g"}}],
    )
    assert sorted(rows.references) == [
        ("extension.valueReference", "Group", "g"),
        ("item.encounter", "Encounter", "e-2"),
        ("item.encounter", "Encounter", "e.1"),
        ("patient", "Patient", "1"),
    ]


def test_references_of_any_depth() -> None:
    """Depth is no danger to the walk, and a path too long for an index is left out."""
    deep: Any = {"reference": "Patient/1"}
    for _ in range(300):
        deep = {"x": deep}
    assert indexed("Basic", a={"reference": "Patient/2"}, deep=deep).references == [("a", "Patient", "2")]


def test_long_values_are_cut() -> None:
    """What is indexed fits into an index, whatever its letters."""
    rows = indexed("Patient", identifier=[{"value": "𝔘" * 5000, "system": "x" * 5000}], name=[{"text": "ﷺ" * 5000}])
    (_, code, system), (_, value, exact) = rows.tokens[0], rows.strings[0]
    assert len(code.encode()) + len(system.encode()) <= 2000
    assert max(len(value.encode()), len(exact.encode())) <= 1000
    assert cap("x" * 400) == "x" * 400


def test_rank_of_encounters() -> None:
    """Encounters rank by their start, the newest first; without one they come last. Other types have no rank."""
    newer = rank(made("Encounter", "a", period={"start": "2020-01-01T00:00:00.000001Z"}))
    older = rank(made("Encounter", "a", period={"start": "2020"}))
    assert (newer, older) == (-1577836800000001, -1577836800000000)
    assert rank(made("Encounter", "a", period={"start": "1960-01-01"})) > 0
    assert rank(made("Encounter", "a", period={"start": "2020", "end": "soon"})) == older
    assert rank(made("Encounter", "a")) == RANK_LAST
    assert rank(made("Encounter", "a", period={"end": "2020"})) == RANK_LAST
    assert rank(made("Encounter", "a", period={"start": "soon"})) == RANK_LAST
    assert rank(made("Patient", "a", period={"start": "2020"})) == 0
