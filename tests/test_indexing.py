import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from r4.indexing import FINGERPRINT, RANK_LAST, Index, fingerprint, index, rank
from r4.parameters import EVERY_TYPE, ORDER, PARAMETERS, ParamType
from r4.resource import restored, stamp
from tests.importing import made

UCUM = "http://unitsofmeasure.org"


def indexed(kind: str, **members: Any) -> Index:
    return index(made(kind, "a", **members))


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def of(param: str, rows: list[Any]) -> list[Any]:
    """A parameter's rows, without its name."""
    return [row[1:] for row in rows if row[0] == param]


# Tokens


def test_tokens_by_shape() -> None:
    """A token is a code, a boolean, a Coding, every coding of a CodeableConcept, or an Identifier."""
    rows = indexed(
        "Encounter",
        status="finished",
        **{"class": {"system": "http://c", "code": "AMB", "display": "x"}},
        identifier=[{"system": "urn:x", "value": "7"}, {"value": "8"}, {"system": "urn:empty"}],
        type=[{"coding": [{"system": "s", "code": "1"}, {"code": "2"}, {"display": "none"}, "odd"]}, {"text": "t"}],
    ).tokens
    assert of("identifier", rows) == [("7", "urn:x"), ("8", ""), ("", "urn:empty")]
    assert of("status", rows) == [("finished", "")]
    assert of("class", rows) == [("AMB", "http://c")]
    assert of("type", rows) == [("1", "s"), ("2", "")]
    assert of("active", indexed("Patient", active=False).tokens) == [("false", "")]


def test_tokens_without_a_system() -> None:
    """What a ContactPoint calls its system is none, and a token whose element has none keeps none."""
    telecom = [{"system": "phone", "value": "030"}, {"system": "email", "value": "a@b.c"}, {"system": "phone"}]
    assert indexed("Practitioner", telecom=telecom, gender="male").tokens == [
        ("telecom", "030", ""),
        ("phone", "030", ""),
        ("telecom", "a@b.c", ""),
        ("email", "a@b.c", ""),
        ("gender", "male", ""),
    ]


def test_a_filtered_path_takes_what_has_the_value() -> None:
    """A phone is a ContactPoint whose system is phone, and no other."""
    telecom = [{"system": "fax", "value": "1"}, {"value": "2"}, {"system": ["phone"], "value": "3"}, "phone"]
    rows = indexed("Practitioner", telecom=[*telecom, {"system": "phone", "value": "4"}]).tokens
    assert of("phone", rows) == [("4", "")]


@pytest.mark.parametrize(
    ("members", "row"),
    [
        ({}, ("false", "absent")),
        ({"deceasedBoolean": None}, ("false", "absent")),
        ({"deceasedBoolean": False}, ("false", "")),
        ({"deceasedBoolean": True}, ("true", "")),
        ({"deceasedDateTime": "2015"}, ("true", "")),
        ({"deceasedBoolean": False, "deceasedDateTime": "2015"}, ("true", "")),
        ({"_deceasedDateTime": {"extension": []}}, ("false", "absent")),
    ],
)
def test_deceased(members: dict[str, Any], row: tuple[str, str]) -> None:
    """A patient is deceased by a time too, else is not, and the row of one of whom nothing is said shows that."""
    assert of("deceased", indexed("Patient", **members).tokens) == [row]


def test_identifiers_by_type() -> None:
    """An identifier that has a value is a row for each code of its type as well."""
    kind = {"coding": [{"system": "http://v2", "code": "MR"}, {"code": "X"}, {"system": "s"}, "odd"], "text": "Dog Tag"}
    rows = indexed("Basic", identifier=[{"type": kind, "system": "urn:x", "value": "7"}, {"type": kind, "system": "urn:y"}])
    assert of("identifier", rows.tokens) == [("7", "urn:x"), ("", "urn:y")]
    assert of("identifier:of-type", rows.tokens) == [("7", "http://v2|MR"), ("7", "|X")]
    assert rows.strings == [("identifier:text", "dog tag", "Dog Tag"), ("identifier:text", "tag", "")]


def test_texts_of_tokens() -> None:
    """`:text` looks at CodeableConcept.text, at every Coding.display, and at their later words."""
    concept = {"coding": [{"code": "1", "display": "Fièvre"}, {"display": "fever"}], "text": "High-grade Fever"}
    rows = indexed("Condition", code=concept).strings
    assert sorted(rows) == [
        ("code:text", "fever", ""),
        ("code:text", "fever", "fever"),
        ("code:text", "fievre", "Fièvre"),
        ("code:text", "grade", ""),
        ("code:text", "high-grade fever", "High-grade Fever"),
    ]
    for coding in ({"code": "AMB", "display": "Ambulatory"}, {"display": "Ambulatory"}):
        assert indexed("Encounter", **{"class": coding}).strings == [("class:text", "ambulatory", "Ambulatory")]


def test_every_type_has_its_meta_and_identifier() -> None:
    """Any type is found by its identifier, and by the tags, labels, profiles and source of its meta."""
    meta = {
        "versionId": "1",
        "profile": ["http://p", "http://q|1"],
        "tag": [{"system": "s", "code": "t"}],
        "security": [{"code": "R", "display": "restricted"}],
        "source": "http://x#1",
    }
    rows = indexed("Basic", meta=meta, identifier=[{"value": "7"}], status="x")
    assert sorted(rows.tokens) == [
        ("_profile", "http://p", ""),
        ("_profile", "http://q|1", ""),
        ("_security", "R", ""),
        ("_source", "http://x#1", ""),
        ("_tag", "t", "s"),
        ("identifier", "7", ""),
    ]
    assert rows.strings == [("_security:text", "restricted", "restricted")]
    assert of("_tag", indexed("Patient", meta=meta).tokens) == [("t", "s")]


# Strings


def test_names() -> None:
    """Each part of a name is a row; a later word of a family, given name or text is one too, that :exact cannot match."""
    name = {"use": "official", "family": "Carreño-Quiñones", "given": ["Ana María"], "prefix": ["Dr. h.c."], "suffix": ["MD"]}
    rows = indexed("Patient", name=[name]).strings
    assert of("name", rows) == [
        ("carreno-quinones", "Carreño-Quiñones"),
        ("quinones", ""),
        ("ana maria", "Ana María"),
        ("maria", ""),
        ("dr. h.c.", "Dr. h.c."),
        ("md", "MD"),
    ]
    assert of("family", rows) == [("carreno-quinones", "Carreño-Quiñones"), ("quinones", "")]
    assert of("given", rows) == [("ana maria", "Ana María"), ("maria", "")]


def test_addresses() -> None:
    """Each part of an address is a row, and some have parameters of their own."""
    address = {"use": "home", "line": ["1 Main St", "Flat 2"], "city": "Łódź", "postalCode": "90-001", "country": "PL"}
    rows = indexed("Location", address=address)
    assert of("address", rows.strings) == [
        ("1 main st", "1 Main St"),
        ("flat 2", "Flat 2"),
        ("lodz", "Łódź"),
        ("90-001", "90-001"),
        ("pl", "PL"),
    ]
    assert of("address-city", rows.strings) == [("lodz", "Łódź")]
    assert of("address-postalcode", rows.strings) == [("90-001", "90-001")]
    assert rows.tokens == [("address-use", "home", "")]


def test_a_plain_name_is_found_by_its_beginning_alone() -> None:
    """The name of an organization is one string, since a string matches from its beginning; its aliases are names."""
    rows = indexed("Organization", name="MOUNT AUBURN", alias=["The Mount"]).strings
    assert of("name", rows) == [("mount auburn", "MOUNT AUBURN"), ("the mount", "The Mount")]


def test_sounds_of_names() -> None:
    """A name is found by how all of a part sounds, and each of its words; what has no sound gives no row."""
    name = {"family": "Smith-Wright", "given": ["Zoë", "李"], "text": "Zoë Smith", "prefix": ["Dr."], "suffix": 5}
    assert of("phonetic", indexed("Practitioner", name=[name, "Knight", 7]).strings) == [
        ("sm0 rt", ""),
        ("sm0", ""),
        ("rt", ""),
        ("s", ""),
        ("s sm0", ""),
        ("nt", ""),
    ]
    assert of("phonetic", indexed("Organization", name="Mount Auburn").strings) == [("mnt abrn", ""), ("mnt", ""), ("abrn", "")]


def test_rows_are_not_repeated() -> None:
    """What stands in a resource twice is one row."""
    rows = indexed(
        "Encounter",
        identifier=[{"value": "7"}, {"value": "7"}],
        subject={"reference": "Patient/1"},
        participant=[{"individual": {"reference": "Practitioner/1"}}, {"individual": {"reference": "Practitioner/1"}}],
        location=[{"location": {"display": "x"}}, {"location": {"display": "y"}}],
        length=[{"value": 5}, {"value": 5.0}],
        reasonCode=[{"text": "fever"}, {"text": "fever"}],
    )
    assert rows.tokens == [("identifier", "7", "")]
    assert len(rows.references) == 3
    assert len(rows.quantities) == len(rows.strings) == 1


# Dates and quantities


def test_dates() -> None:
    """Dates are ranges in UTC, and a Period is open where it has no end or no start."""
    assert indexed("Patient", birthDate="1974-12").dates == [("birthdate", at(1974, 12, 1), at(1975, 1, 1))]
    assert indexed("Patient", birthDate="1974").dates == [("birthdate", at(1974, 1, 1), at(1975, 1, 1))]
    assert indexed("Procedure", performedDateTime="2020-01-01T00:00:00+01:00").dates == [
        ("date", at(2019, 12, 31, 23), at(2019, 12, 31, 23, 0, 1))
    ]
    assert indexed("Encounter", period={"start": "2020", "end": "2021"}).dates == [("date", at(2020, 1, 1), at(2022, 1, 1))]
    assert indexed("Encounter", period={"start": "2020"}).dates == [("date", at(2020, 1, 1), None)]
    assert indexed("Encounter", period={"end": "2020"}).dates == [("date", None, at(2021, 1, 1))]


def test_dates_of_several_paths_and_values() -> None:
    """A parameter has the dates of all its elements; an element with an extension alone is none."""
    stays = [{"period": {"start": "2020", "end": "2020"}}, {"period": {"start": "2021"}}]
    assert indexed("Encounter", location=stays).dates == [
        ("location-period", at(2020, 1, 1), at(2021, 1, 1)),
        ("location-period", at(2021, 1, 1), None),
    ]
    assert of("onset-date", indexed("Condition", onsetPeriod={"start": "2020"}).dates) == [(at(2020, 1, 1), None)]
    assert of("onset-date", indexed("Condition", onsetDateTime="2020").dates) == [(at(2020, 1, 1), at(2021, 1, 1))]
    assert (
        indexed("Patient", _birthDate={"extension": [{"url": "u", "valueDateTime": "1974-12-25T14:35:45-05:00"}]}).dates == []
    )


@pytest.mark.parametrize(
    ("digits", "exact"),
    [("56", "56"), ("5.60", "5.6"), ("-0.1", "-0.1"), ("1e3", "1000"), ("0.30000000000000004", "0.30000000000000004")],
)
def test_quantities(digits: str, exact: str) -> None:
    """A quantity has the digits of the JSON, and its unit in each of its forms."""
    length = b'{"value":%b,"unit":"minutes","system":"http://unitsofmeasure.org","code":"min"}' % digits.encode()
    rows = index(restored("Encounter", "a", b'{"length":%b}' % length)).quantities
    assert rows == [("length", Decimal(exact), UCUM, "min", "minutes")]
    bare = index(restored("Encounter", "a", b'{"length":{"value":%b,"unit":5}}' % digits.encode())).quantities
    assert bare == [("length", Decimal(exact), "", "", "")]


@pytest.mark.parametrize(
    "digits", ["1e20", "-1E+300", "1e-20", "1e400", "1e9999999999999999999", "9" * 5000, '"5"', "true", "null", "[5]", "{}"]
)
def test_quantities_beyond_measure_are_left_out(digits: str) -> None:
    """What no instrument shows, or is no number, is not indexed."""
    assert index(restored("Encounter", "a", b'{"length":{"value":%b}}' % digits.encode())).quantities == []


def test_quantities_beside_a_number_that_is_none() -> None:
    """A number that no machine number holds does not hide the others."""
    body = b'{"length":{"value":5.60},"extension":[{"url":"u","valueDecimal":1e999999999999999999999}]}'
    assert index(restored("Encounter", "a", body)).quantities == [("length", Decimal("5.60"), "", "", "")]


# References


def test_references() -> None:
    """Every relative reference is kept with the path of its element, but for those inside contained resources."""
    rows = indexed(
        "ExplanationOfBenefit",
        contained=[{"resourceType": "Coverage", "id": "c", "beneficiary": {"reference": "Patient/hidden"}}],
        patient={"reference": "Patient/1/_history/3", "display": "x"},
        item=[{"encounter": [{"reference": "Encounter/e.1"}]}, {"encounter": [{"reference": "Encounter/e-2"}]}],
        extension=[{"url": "u", "valueReference": {"reference": "Group/g"}}],
    )
    assert sorted(rows.references) == [
        ("extension.valueReference", "Group", "g"),
        ("item.encounter", "Encounter", "e-2"),
        ("item.encounter", "Encounter", "e.1"),
        ("patient", "Patient", "1"),
    ]


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ({"reference": "http://elsewhere/Practitioner/1"}, "http://elsewhere/Practitioner/1"),
        ({"reference": "https://x/" + "y" * 500}, "https://x/" + "y" * 390),
        ({"reference": "#c"}, ""),
        ({"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}, ""),
        ({"reference": "Practitioner?identifier=7"}, ""),
        ({"identifier": {"value": "7"}}, ""),
        ({"display": "Dr. X"}, ""),
        ({"type": "Practitioner"}, ""),
    ],
)
def test_references_that_lead_nowhere(reference: dict[str, Any], url: str) -> None:
    """A parameter's reference to another server is kept by its URL, and any other shows that it is there."""
    rows = indexed("Claim", provider=reference, referral=reference)
    assert rows.references == [("provider", "", url)]


@pytest.mark.parametrize(
    "reference", [{}, {"extension": [{"url": "u"}]}, {"reference": 5}, {"reference": ""}, "x", None, [[{}]]]
)
def test_no_reference(reference: Any) -> None:
    """An extension alone is no reference, nor is what is malformed."""
    assert indexed("Claim", provider=reference).references == []


def test_identifiers_of_references() -> None:
    """A reference's identifier is a token of every parameter that may lead there."""
    group = {"reference": "Group/1", "identifier": {"system": "s", "value": "g"}}
    assert indexed("Encounter", subject=group).tokens == [("subject:identifier", "g", "s")]
    for told in ({}, {"type": "Patient"}, {"reference": "Patient/1"}, {"reference": "#p"}):
        rows = indexed("Encounter", subject={**told, "identifier": {"value": "p"}}).tokens
        assert sorted(rows) == [("patient:identifier", "p", ""), ("subject:identifier", "p", "")]
    assert indexed("Encounter", subject={"identifier": "p"}).tokens == []


def test_references_of_any_depth() -> None:
    """Depth is no danger to the walk, and a path too long for an index is left out."""
    deep: Any = {"reference": "Patient/1"}
    for _ in range(300):
        deep = {"x": deep}
    assert indexed("Basic", a={"reference": "Patient/2"}, deep=deep).references == [("a", "Patient", "2")]


# Whatever comes


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
        {"identifier": {"type": {"coding": [{"code": "MR"}], "text": 5}, "value": 5}, "length": 5, "location": "x"},
        {
            "identifier": {"type": {"coding": {"code": "MR"}}},
            "type": {"coding": {"code": "x"}},
            "meta": {"tag": "", "profile": 5},
        },
    ],
)
def test_malformed_values_are_left_out(members: dict[str, Any]) -> None:
    """A value that its parameter does not take is not indexed, and harms nothing else."""
    rows = indexed("Encounter", **{"class": [], **members})
    assert (rows.dates, rows.references, rows.quantities, rows.strings) == ([], [], [], [])
    assert [row for row in rows.tokens if row[0] != "class"] == []


_ODD: list[Any] = [
    None,
    "",
    "x",
    5,
    5.5,
    True,
    [],
    {},
    [[]],
    [None],
    {"value": []},
    {"coding": [None, {"code": {}, "display": []}]},
]


@pytest.mark.parametrize("kind", [*PARAMETERS, "Basic"])
def test_nothing_is_refused(kind: str) -> None:
    """Whatever stands at the paths of a type, and in the members below, is walked without an error."""
    for odd in _ODD:
        for path in {path for row in PARAMETERS.get(kind, EVERY_TYPE).values() for path in row.paths}:
            for value in (
                odd,
                {"reference": odd, "identifier": odd, "type": odd, "start": odd, "family": odd, "system": "phone"},
            ):
                document: Any = value
                for member in reversed(path.split(".")):
                    document = {member.partition("[")[0]: document}
                index(made(kind, "a", **document))


@pytest.mark.parametrize(("kind", "param"), [(kind, param) for kind, table in PARAMETERS.items() for param in table])
def test_every_parameter_of_the_table_gives_rows(kind: str, param: str) -> None:
    """Each path of each row finds its value."""
    values: dict[ParamType, Any] = {
        ParamType.TOKEN: {"system": "s", "value": "v"},
        ParamType.STRING: "v",
        ParamType.DATE: "2020",
        ParamType.URI: "v",
        ParamType.QUANTITY: {"value": 1},
        ParamType.REFERENCE: {"reference": "#v", "identifier": {"value": "v"}},
    }
    row = PARAMETERS[kind][param]
    for path in row.paths:
        document: Any = values[row.type]
        for member in reversed(path.split(".")):
            name, _, wanted = member.partition("[")
            document = {name: {**document, "system": wanted[:-1].partition("=")[2]} if wanted else document}
        rows = indexed(kind, **document)
        everything = [*rows.tokens, *rows.strings, *rows.dates, *rows.quantities]
        assert param in {found[0] for found in everything} or (path, "", "") in rows.references
        if row.type is ParamType.REFERENCE:
            assert (f"{param}:identifier", "v", "") in rows.tokens
            assert (path, "", "") in rows.references


def test_malformed_strings_are_left_out() -> None:
    """A name that is no name is not indexed."""
    assert indexed("Patient", name=[5, None, {"family": 5, "given": [None, ""]}, ""]).strings == []


def test_long_values_are_cut() -> None:
    """What is indexed fits into an index, whatever its letters."""
    long = "𝔘" * 5000
    kind = {"coding": [{"system": long, "code": long}], "text": long}
    rows = indexed(
        "Encounter",
        identifier=[{"value": long, "system": "x" * 5000, "type": kind}],
        length={"value": 1, "unit": long, "code": long, "system": long},
        subject={"reference": "http://" + long},
    )
    texts = [text for row in (*rows.tokens, *rows.strings, *rows.references, *rows.quantities) for text in row]
    assert max(len(text.encode()) for text in texts if isinstance(text, str)) == 1000
    assert len(rows.tokens) == 2
    names = indexed("Patient", name=[{"text": "ﷺ" * 5000, "family": "ba" * 5000}]).strings
    assert max(len(value.encode()) for row in names for value in row) <= 1000


def test_a_stored_body_has_the_same_rows() -> None:
    """What is served is indexed as what came in was, its own version and time making no difference."""
    members = {
        "meta": {"tag": [{"code": "t"}]},
        "subject": {"reference": "Patient/1"},
        "period": {"start": "2020"},
        "length": {"value": 5.60},
    }
    came = made("Encounter", "a", **members)
    body = stamp("Encounter", "a", 3, at(2021, 1, 1), came.tail)
    assert index(restored("Encounter", "a", body)) == index(came)
    assert rank(restored("Encounter", "a", body)) == rank(came)


# The official examples


def _example(shared_data: Path, key: str) -> Index:
    kind, _, resource_id = key.partition("/")
    for line in (shared_data / "fhir/hl7-examples" / f"{kind}.ndjson").read_bytes().splitlines():
        if json.loads(line)["id"] == resource_id:
            return index(restored(kind, resource_id, line))
    raise LookupError(key)


@pytest.mark.parametrize(
    ("key", "table", "param", "rows"),
    [
        ("Encounter/emerg", "dates", "date", [(at(2017, 1, 31, 21, 15), None)]),  # its period is open
        ("Encounter/emerg", "references", "location.location", [("", "")]),  # five that have a display alone
        ("Encounter/home", "references", "location.location", [("", "")]),  # contained
        ("Encounter/f202", "quantities", "length", [(Decimal(56), UCUM, "min", "minutes")]),
        ("Claim/MED-00050", "tokens", "insurer:identifier", [("123456", "http://www.bindb.com/bin")]),
        ("Claim/MED-00050", "references", "patient", [("", "")]),
        ("ClaimResponse/R3500", "references", "request", [("", "http://www.BenefitsInc.com/fhir/oralhealthclaim/15476332402")]),
        ("ClaimResponse/R3500", "references", "requestor", [("Organization", "1")]),
        ("Patient/example", "dates", "birthdate", [(at(1974, 12, 25), at(1974, 12, 26))]),  # its _birthDate has a time
        ("Patient/ch-example", "tokens", "telecom", [("18337177888", "")]),  # of two, one without a value
        ("Patient/ch-example", "strings", "name", [("张无忌", "张无忌")]),
        ("Patient/ch-example", "strings", "phonetic", []),
        ("Patient/pat3", "tokens", "deceased", [("true", "")]),
        ("Patient/pat3", "tokens", "identifier:of-type", [("123457", "http://terminology.hl7.org/CodeSystem/v2-0203|MR")]),
        ("Patient/animal", "strings", "identifier:text", [("dog tag", "Dog Tag"), ("tag", "")]),
    ],
)
def test_official_examples(shared_data: Path, key: str, table: str, param: str, rows: list[Any]) -> None:
    """The standard's own examples are found by what they awkwardly hold."""
    assert of(param, getattr(_example(shared_data, key), table)) == rows


# The rank, and what rows depend on


def test_rank_of_encounters() -> None:
    """Encounters rank by their start, the newest first; without one they come last. Other types have no rank."""
    newer = rank(made("Encounter", "a", period={"start": "2020-01-01T00:00:00.000001Z"}))
    older = rank(made("Encounter", "a", period={"start": "2020"}))
    assert (newer, older) == (-1577836800000001, -1577836800000000)
    assert rank(made("Encounter", "a", period={"start": "1960-01-01"})) > 0
    assert rank(made("Encounter", "a", period={"start": "2020", "end": "soon"})) == older
    assert rank(made("Encounter", "a", period=[5, {"end": "2019"}, {"start": "2020"}])) == older
    assert rank(made("Encounter", "a")) == RANK_LAST
    assert rank(made("Encounter", "a", period={"end": "2020"})) == RANK_LAST
    assert rank(made("Encounter", "a", period={"start": "soon"})) == RANK_LAST
    assert rank(made("Patient", "a", period={"start": "2020"})) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ("name.text",)},
        {"type": ParamType.TOKEN},
        {"name": "called"},
        {"computed": "sound"},
        {"system": ""},
        {"targets": ("Patient",)},
    ],
)
def test_the_fingerprint_changes_with_the_rows(change: dict[str, Any]) -> None:
    """Whatever of the table decides rows is in its fingerprint."""
    row = PARAMETERS["Patient"]["name"]
    assert fingerprint({"Patient": {"name": replace(row, **change)}}, ORDER) != fingerprint({"Patient": {"name": row}}, ORDER)


def test_the_fingerprint_of_the_rest() -> None:
    """Ranks count too; what is only of use to a search, and the order of the table, do not."""
    tables = {**PARAMETERS, "": EVERY_TYPE}
    assert fingerprint(tables, {}) != fingerprint(tables, ORDER) == FINGERPRINT
    turned = {
        kind: {name: replace(row, common=True, single=True) for name, row in reversed(table.items())}
        for kind, table in reversed(tables.items())
    }
    assert fingerprint(turned, ORDER) == FINGERPRINT
