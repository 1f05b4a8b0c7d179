"""What a parameter's value means, type by type: strings, tokens, references, dates, quantities; and what none means."""

from typing import Any
from urllib.parse import quote

import pytest

from storage.embedded import Cluster
from tests.reading import reading
from tests.search_data import LONG, generated
from tests.search_model import Model
from tests.search_questions import PREFIXES
from tests.support import PATHS, Asker, Home, add_tenant, build_home, delete, diagnosed, encounter, ids, patient

MODEL = Model(generated())
MR = {"coding": [{"system": "http://v2", "code": "MR"}], "text": "Medical record number"}
PEOPLE = [
    patient(
        "full",
        name=[
            {"family": "Müller-Lüdenscheidt", "given": ["José", "Ann Kathrin"], "prefix": ["Dr."], "suffix": ["MBE"]},
            {"text": "Pepe der Große"},
        ],
        address=[
            {"text": "über allem", "line": ["Main St 5", "Flat 2"], "city": "Köln", "district": "Rhein", "state": "NRW",
             "postalCode": "50667", "country": "Germany", "use": "home"},
        ],
        birthDate="1974-12-25", gender="female", active=True,
        identifier=[{"system": "http://a", "value": "1", "type": MR}, {"value": "2"}],
        telecom=[{"system": "phone", "value": "050 1"}, {"system": "email", "value": "a@b.example"}],
        managingOrganization={"reference": "Organization/o", "identifier": {"system": "http://org", "value": "7"}},
        generalPractitioner=[{"identifier": {"value": "only"}}, {"reference": "http://else/fhir/Practitioner/d"}],
        meta={"profile": ["http://p|1"], "tag": [{"system": "http://t", "code": "x"}], "source": "urn:src",
              "security": [{"system": "http://s", "code": "R"}]},
    ),
    patient("year", name=[{"family": "berg"}], birthDate="1974", gender="male", active=False, deceasedBoolean=True),
    patient("month", name=[{"family": "van der Berg"}], birthDate="1974-12", deceasedBoolean=False),
    patient("dead", name=[{"family": "50%_off\\now", "given": ["x,y", "p|q", "d$e"]}], deceasedDateTime="2020-05-05"),
    patient("arab", name=[{"family": "الخطيب", "given": ["محمد علي"]}], birthDate="2000-02-29"),
    patient("mute", name=[{"extension": [{"url": "x:y", "valueCode": "unknown"}]}], _gender={"extension": [{"url": "x:y"}]},
            _birthDate={"extension": [{"url": "x:y", "valueCode": "unknown"}]},
            communication=[{"language": {"text": "Plattdeutsch"}}]),
]  # fmt: skip
EMERG: dict[str, Any] = {"period": {"start": "2017-02-01T07:15:00+10:00"}, "status": "in-progress"}
VISITS = [
    encounter("emerg", **EMERG, subject={"reference": "Patient/full"},
              length={"value": 90, "unit": "min", "code": "min", "system": "http://u"}),
    encounter("past", period={"end": "2015-05"}, subject={"reference": "Group/full"}, length={"value": 5.60, "unit": "h"}),
    encounter("zoned", period={"start": "2013-03-11T00:30:00+01:00", "end": "2013-03-11T00:45:00+01:00"}),
    encounter("always", period={"start": "1990-01-01", "end": "2030-12-31"},
              subject={"identifier": {"system": "http://a", "value": "1"}}),
    encounter("never", _period={"extension": [{"url": "x:y"}]}, subject={"reference": "Patient/gone", "display": "Gone"}),
]  # fmt: skip


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", [*PEOPLE, *VISITS, patient("gone")])
    await delete(home.database, "one", ("Patient", "gone"))


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "values", _fill)


async def find(ask: Asker, kind: str, query: str) -> set[str]:
    """The ids; `query` as a person writes it."""
    reply = await ask(f"/fhir/{kind}?{quote(query, safe='&=:,')}&_count=1000")
    names = ids(reply)
    assert len(names) == len(set(names))
    return set(names)


async def all_hold(home: Home, path: str, kind: str, answers: dict[str, set[str]]) -> None:
    async with reading(home, path) as ask:
        for query, expected in answers.items():
            assert await find(ask, kind, query) == expected, query


EVERYBODY = {person["id"] for person in PEOPLE}
STRINGS: dict[str, set[str]] = {
    # Prefix, without case and accents; contains; exact.
    "family=mul": {"full"}, "family=MÜLLER-lüd": {"full"}, "family=Lüdenscheidt": {"full"}, "family=ludens": {"full"},
    "family=denscheidt": set(), "family:contains=denscheidt": {"full"}, "family:contains=R-LU": {"full"},
    "family:exact=Müller-Lüdenscheidt": {"full"}, "family:exact=Müller": set(), "family:exact=Lüdenscheidt": set(),
    "family:exact=Muller-Lüdenscheidt": set(), "family:exact=müller-Lüdenscheidt": set(),
    # Every part of a name, and of an address.
    "name=jos": {"full"}, "name=kathrin": {"full"}, "name=dr.": {"full"}, "name=mbe": {"full"}, "name=pepe": {"full"},
    "name=grosse": {"full"}, "name=GROẞE": {"full"}, "given=kathrin": {"full"}, "given=mbe": set(), "family=pepe": set(),
    "address=main": {"full"}, "address=flat 2": {"full"}, "address=koln": {"full"}, "address=rhein": {"full"},
    "address=nrw": {"full"}, "address=5066": {"full"}, "address=ger": {"full"}, "address=uber": {"full"}, "address=home": set(),
    "address-city=köl": {"full"}, "address-city=rhein": set(), "address-country=germany": {"full"}, "address-state=N": {"full"},
    "address-postalcode=50667": {"full"}, "address-use=home": {"full"}, "address-use=work": set(),
    # The second part of a double name; names of several words.
    "family=berg": {"year", "month"}, "family=der b": set(), "family=van der": {"month"}, "family:contains=r b": {"month"},
    # What SQL's LIKE would take for a wildcard, and what FHIR escapes.
    "family=%": set(), "family=_": set(), "family=50%": {"dead"}, "family=50_": set(), "family=50%_off\\\\n": {"dead"},
    "family=50%_off\\n": {"dead"}, "family:contains=%": {"dead"}, "family:contains=_": {"dead"}, "family:contains=%_": {"dead"},
    "family:contains=_%": set(),
    "family:contains=\\\\": {"dead"}, "family:contains=f\\\\n": {"dead"}, "family:contains=%_off": {"dead"},
    "given=x\\,y": {"dead"}, "given=x,zz": {"dead"}, "given=p\\|q": {"dead"}, "given=d\\$e": {"dead"}, "given=d$e": {"dead"},
    "given:exact=x\\,y": {"dead"}, "given:exact=x": set(), "given:contains=\\,": {"dead"},
    # One, two and three letters, several words, and other scripts, anywhere within.
    "family:contains=b": {"year", "month"}, "family:contains=be": {"year", "month"}, "family:contains=ber": {"year", "month"},
    "family:contains=ff": {"dead"}, "name:contains=ann kath": {"full"}, "name:contains=nn": {"full"},
    "family:contains=zzz": set(),
    "family:contains=لخ": {"arab"}, "family:contains=خطي": {"arab"}, "family=الخ": {"arab"}, "given:contains=د ع": {"arab"},
    "name:contains=علي": {"arab"}, "family:contains=off,خ": {"dead", "arab"},
    # A comma is or, a repetition is and.
    "given=jos,zz": {"full"}, "given=jos&given=ann": {"full"}, "given=jos&given=zz": set(),
    "family=mul,berg": {"full", "year", "month"},
    # How it sounds.
    "phonetic=Miller": {"full"}, "phonetic=Burg": {"year", "month"}, "phonetic=Hose": set(), "phonetic=الخطيب": set(),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_strings(home: Home, path: str) -> None:
    """Rule 16: by prefix without case and accents, :contains anywhere, :exact as it is; no wildcards; commas (Rule 20)."""
    await all_hold(home, path, "Patient", STRINGS)


TOKENS: dict[str, set[str]] = {
    "identifier=1": {"full"}, "identifier=http://a|1": {"full"}, "identifier=http://b|1": set(), "identifier=|1": set(),
    "identifier=|2": {"full"}, "identifier=2": {"full"}, "identifier=http://a|": {"full"}, "identifier=http://b|": set(),
    "identifier=http://a|1,nobody": {"full"}, "identifier=1&identifier=2": {"full"}, "identifier=1&identifier=3": set(),
    "identifier:of-type=http://v2|MR|1": {"full"}, "identifier:of-type=http://v2|MR|2": set(),
    "identifier:of-type=http://v2|XX|1": set(),
    "identifier:text=medical": {"full"}, "identifier:text=record": {"full"}, "identifier:text=MED": {"full"},
    "identifier:text=1": set(),
    "identifier:not=1": EVERYBODY - {"full"}, "identifier:not=http://b|1": EVERYBODY,
    # What needs no system, and what takes none.
    "gender=male": {"year"}, "gender=http://hl7.org/fhir/administrative-gender|female": {"full"},
    "gender=http://x|female": set(),
    "gender=http://x|female,male": {"year"}, "gender=http://hl7.org/fhir/administrative-gender|": {"full", "year"},
    "gender=MALE": set(), "active=true": {"full"}, "active=false": {"year"}, "active=yes": set(), "phone=050 1": {"full"},
    "email=a@b.example": {"full"}, "phone=a@b.example": set(), "telecom=a@b.example": {"full"}, "telecom=050": set(),
    # What has no value has not the value that is not wanted.
    "gender:not=male": EVERYBODY - {"year"}, "gender:not=male,female": EVERYBODY - {"year", "full"},
    "gender:not=male&gender:not=female": EVERYBODY - {"year", "full"}, "active:not=true": EVERYBODY - {"full"},
    # Missing: no element, or nothing in it but extensions.
    "gender:missing=true": EVERYBODY - {"full", "year"}, "gender:missing=false": {"full", "year"},
    "birthdate:missing=true": {"dead", "mute"}, "name:missing=true": {"mute"}, "name:missing=false": EVERYBODY - {"mute"},
    "identifier:missing=false": {"full"}, "active:missing=true": EVERYBODY - {"full", "year"},
    "language:missing=false": {"mute"},
    "organization:missing=false": {"full"}, "general-practitioner:missing=false": {"full"}, "_tag:missing=false": {"full"},
    "_profile:missing=false": {"full"}, "deceased:missing=false": {"year", "month", "dead"},
    "death-date:missing=false": {"dead"},
    # R4's expression: whatever is there and not false is a death.
    "deceased=true": {"year", "dead"}, "deceased=false": EVERYBODY - {"year", "dead"}, "death-date=2020": {"dead"},
    "deceased:not=true": EVERYBODY - {"year", "dead"}, "language:text=platt": {"mute"}, "language=platt": set(),
    # Ids are taken as they are written.
    "_id=full": {"full"}, "_id=FULL": set(), "_id=full,year,nobody": {"full", "year"}, "_id=full&_id=year": set(),
    "_id=gone": set(),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_tokens(home: Home, path: str) -> None:
    """Rule 17: code, system|code, |code, system|; :not, :missing, :of-type, :text; deceased; ids as they are written."""
    await all_hold(home, path, "Patient", TOKENS)


@pytest.mark.parametrize("path", PATHS)
async def test_every_type_has_these(home: Home, path: str) -> None:
    """Rule 21: _lastUpdated with prefixes, _profile, _tag, _security and _source."""
    everybody = {"full", "year", "month", "dead", "arab", "mute"}
    await all_hold(home, path, "Patient", {
        "_lastUpdated=2026-01-02": everybody, "_lastUpdated=gt2026-01-02": set(), "_lastUpdated=ge2026-01-02": everybody,
        "_lastUpdated=lt2026-01-02T03:04:05.678Z": set(), "_lastUpdated=le2026-01-02T03:04:05.678Z": everybody,
        "_lastUpdated=2026-01-02T03:04:05.678Z": everybody, "_lastUpdated=ne2026": set(),
        "_lastUpdated=sa2025&_lastUpdated=eb2027": everybody,
        "_lastUpdated=ap2026-01-03": everybody, "_lastUpdated=2026-01-02T04:04:05%2B01:00".replace("%2B", "+"): everybody,
        "_profile=http://p|1": {"full"}, "_profile=http://p\\|1": {"full"}, "_profile=http://p": set(), "_tag=x": {"full"},
        "_tag=http://t|x": {"full"}, "_tag=http://t|": {"full"}, "_tag:not=x": everybody - {"full"},
        "_security=http://s|R": {"full"},
        "_security=U": set(), "_source=urn:src": {"full"}, "_source=urn": set(),
    })  # fmt: skip
    async with reading(home, path) as ask:
        assert await find(ask, "Goal", "_lastUpdated=2026&_tag=x&identifier=1") == set()


REFERENCES: dict[str, set[str]] = {
    "subject=Patient/full": {"emerg"}, "subject:Patient=full": {"emerg"}, "patient=full": {"emerg"},
    "patient=Patient/full": {"emerg"},
    "patient:Patient=full": {"emerg"}, "subject:Patient=Patient/full": {"emerg"}, "subject=Patient/full/_history/1": {"emerg"},
    "subject=Group/full": {"past"}, "subject:Group=full": {"past"}, "patient=Group/full": set(),
    "practitioner=Patient/full": set(),
    "subject=Device/full": set(), "patient=nobody": set(), "patient=Patient/FULL": set(), "patient=gone": {"never"},
    "patient=full,gone": {"emerg", "never"}, "patient=full&patient=gone": set(),
    "subject:identifier=http://a|1": {"always"}, "subject:identifier=1": {"always"}, "subject:identifier=http://b|1": set(),
    "patient:identifier=1": {"always"}, "subject=http://else/fhir/Patient/full": set(), "subject=urn:uuid:1": set(),
    # What the parameter's expression leaves out is not there for it.
    "subject:missing=true": {"zoned"}, "patient:missing=true": {"zoned", "past"},
    "patient:missing=false": {"emerg", "always", "never"},
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_references(home: Home, path: str) -> None:
    """Rule 18: a reference with its type, by a modifier, as this server's own URL; others' URLs; by identifier."""
    await all_hold(home, path, "Encounter", REFERENCES)
    async with reading(home, path) as ask:
        base = ask.server.services.config.base_url
        for spelling in (f"patient={base}/fhir/Patient/full", f"subject={quote(base, safe='')}%2Ffhir%2FPatient%2Ffull"):
            assert ids(await ask(f"/encounters?{spelling}")) == ["emerg"], spelling
        assert await find(ask, "Patient", "general-practitioner=http://else/fhir/Practitioner/d") == {"full"}
        assert await find(ask, "Patient", "general-practitioner:identifier=only") == {"full"}
        assert await find(ask, "Patient", "organization:identifier=http://org|7") == {"full"}
        for broken in ("patient=a_b", "patient=Patient/", "patient=/full", "patient=Patient/a/b", "patient:Patient=Group/full"):
            diagnosed(await ask(f"/encounters?{broken}"), 400, "invalid")
        for modifier in ("patient:Group=full", "patient:foo=full", "subject:Practitioner=d1", "status:identifier=x"):
            diagnosed(await ask(f"/encounters?{modifier}"), 400, "invalid")
        words = diagnosed(await ask("/encounters?subject=full"), 400, "invalid")
        assert "subject:Type=id" in words


DATES: dict[str, set[str]] = {
    "birthdate=1974-12": {"full", "month"}, "birthdate=1974-12-25": {"full"}, "birthdate=1974": {"full", "month", "year"},
    "birthdate=ne1974-12-25": {"month", "year", "arab"}, "birthdate=gt1974-12-25": {"month", "year", "arab"},
    "birthdate=lt1974-12-25": {"month", "year"}, "birthdate=ge1974-12-25": {"full", "month", "year", "arab"},
    "birthdate=sa1974-12-25": {"arab"}, "birthdate=eb1974-12-25": set(), "birthdate=eb1975": {"full", "month", "year"},
    "birthdate=2000-02": {"arab"}, "birthdate=ap2000-02-28": {"arab"}, "birthdate=ap1974-12-01": {"month", "year"},
    "birthdate=ge1974-12&birthdate=lt1975": {"full", "month", "year"}, "birthdate=1974-12-25T10:00Z": set(),
    "birthdate=le1974-12-24,2000": {"month", "year", "arab"}, "birthdate=ge0001": {"full", "month", "year", "arab"},
    "birthdate=le9999": {"full", "month", "year", "arab"}, "birthdate=ap9999": set(), "birthdate=ap0001": set(),
    "birthdate=sa9999-12-31": set(), "birthdate=9999-12-31": set(),
}  # fmt: skip
PERIODS: dict[str, set[str]] = {
    # Without an end it goes on for ever, without a start it always was.
    "date=ge2020": {"emerg", "always"}, "date=sa2020": set(), "date=2017-02": set(), "date=2017-01-31": set(),
    "date=gt2017-02": {"emerg", "always"},
    "date=lt2010": {"past", "always"}, "date=eb2016": {"past", "zoned"}, "date=le2013-03": {"past", "zoned", "always"},
    "date=sa2013": {"emerg"},
    "date=sa2017-01-31": set(), "date=sa2017-01-30": {"emerg"}, "date=ne2013-03-10": {"emerg", "past", "always"},
    # Corrected by the zone.
    "date=2013-03-10": {"zoned"}, "date=2013-03-11": set(), "date=ge2013-03-10T23:00:00Z": {"emerg", "past", "zoned", "always"},
    "date=sa2013-03-10T23:00:00Z": {"zoned", "emerg"}, "date=sa2013-03-11T00:29+01:00": {"zoned", "emerg"},
    "date=sa2013-03-11T00:31+01:00": {"emerg"},
    "date=ge2013-03-10T23:50Z&date=lt2013-03-10T23:59Z": {"past", "always"},
    # Two bounds, what overlaps them from long before among it.
    "date=ge2013-03-10&date=lt2013-03-11": {"past", "zoned", "always"},
    "date=ge2013-03-10&date=lt2013-03-11&date=gt2000": {"past", "zoned", "always"},
    "date=ge2013-03-10&date=eb2013-03-11": {"zoned"}, "date=sa2013-01-01&date=le2013-12": {"zoned"},
    "date:missing=true": {"never"},
    "date=ge9999": {"emerg"}, "date=le0001": {"past"}, "date=9999": set(), "date=ap2013-03-09": {"zoned", "past", "always"},
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_dates(home: Home, path: str) -> None:
    """Rule 19: a date is the range that its precision says: eq contains, gt lt ge le overlap, sa eb do not; open ends."""
    await all_hold(home, path, "Patient", DATES)
    await all_hold(home, path, "Encounter", PERIODS)


@pytest.mark.parametrize("path", PATHS)
async def test_every_two_prefixes(hospital: Home, path: str) -> None:
    """Rule 19: each of the nine prefixes, alone and with each other one on the same date, finds what the standard says."""
    dates = {
        ("Patient", "birthdate"): ("1974", "1974-12-25"),
        ("Encounter", "date"): ("2013-03-10", "2013-03-10T23:30:00Z"),
        ("Patient", "_lastUpdated"): ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06Z"),
    }
    async with reading(hospital, path) as ask:
        for (kind, name), (one, other) in dates.items():
            alone = [[(name, prefix + text)] for prefix in PREFIXES for text in (one, other)]
            both = [[(name, first + one), (name, second + other)] for first in PREFIXES[1:] for second in PREFIXES[1:]]
            for pairs in (*alone, *(both if path == "direct" else both[::7])):
                query = "&".join(f"{param}={value}" for param, value in pairs)
                assert await find(ask, kind, query) == set(MODEL.found(kind, pairs)), query


@pytest.mark.parametrize("path", PATHS)
async def test_times_with_a_plus(home: Home, path: str) -> None:
    """Rule 19: a zone's plus may come raw, as a space or escaped, colons may be escaped, the hour may stand without seconds."""
    async with reading(home, path) as ask:
        zones = ("2013-03-11T00:30:00%2B01:00", "2013-03-11T00:30:00+01:00", "2013-03-11T00%3A30:00%20%30%31:00")
        for text in (*zones, "2013-03-11T00:30+01:00", "2013-03-10T23:30Z", "2013-03-10T18:30-05:00"):
            assert ids(await ask(f"/encounters?date=ge{text}&date=lt2013-03-10T23:31Z&date=sa2012")) == ["zoned"], text


@pytest.mark.parametrize("path", PATHS)
async def test_quantities(home: Home, path: str) -> None:
    """A number is as precise as it is written, and its unit is compared where it is said, by code or as it is written."""
    await all_hold(home, path, "Encounter", {
        "length=90": {"emerg"}, "length=90.4": set(), "length=9e1": {"emerg"}, "length=5.6": {"past"}, "length=5.60": {"past"},
        "length=5.61": set(), "length=6": {"past"}, "length=6.0": set(), "length=gt5.6": {"emerg"},
        "length=ge5.6": {"past", "emerg"},
        "length=lt90": {"past"}, "length=le90": {"past", "emerg"}, "length=ne90": {"past"}, "length=ap85": {"emerg"},
        "length=sa6": {"emerg"},
        "length=eb6": {"past"}, "length=90|http://u|min": {"emerg"}, "length=90|http://x|min": set(),
        "length=90||min": {"emerg"},
        "length=5.6||h": {"past"}, "length=5.6||min": set(), "length=ge5&length=lt10": {"past"},
        "length=90,5.6": {"past", "emerg"},
        "length=-5": set(), "length:missing=true": {"zoned", "always", "never"},
    })  # fmt: skip


async def test_bodies_come_as_they_were(home: Home) -> None:
    """Rule 8: what is found comes as it was stored: its digits, what nobody knows, and no empty list."""
    async with reading(home, "direct") as ask:
        body = (await ask("/encounters?_id=past")).body
        assert b'"value":5.6' in body
        assert b"null" not in body
        assert b"[]" not in body


STRANGE = [
    "%", "_", "a_", "a%", "50%", "'", '";--', "O'Brien", "x\\\\y", "\\", "$1", "{}", "李", "e\u0301", "\U0001f600", " Ng",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_strange_values(hospital: Home, path: str) -> None:
    """Rule 16: what means something in SQL, in an URL or in Unicode is taken as it stands."""
    async with reading(hospital, path) as ask:
        for value in STRANGE:
            for name in ("family", "family:exact", "family:contains"):
                got = ids(await ask(f"/patients?{name}={quote(value)}&_count=1000"))
                assert got == MODEL.found("Patient", [(name, value)]), (name, value)


@pytest.mark.parametrize("path", PATHS)
async def test_long_values(hospital: Home, path: str) -> None:
    """A value longer than what is indexed is found by what is, whatever its letters weigh in UTF-8."""
    people = generated()["Patient"]
    have = [each.id for each in people if LONG in [name.get("family") for name in each.resource["name"]]]
    async with reading(hospital, path) as ask:
        for query in (
            f"family={LONG}",
            f"family:exact={LONG}",
            f"family:contains={LONG}",
            f"family=zoe {'€' * 100}",
            f"family=zoe {'€' * 380}{'‰' * 50}",
        ):
            assert await find(ask, "Patient", query) == set(have), query
        assert await find(ask, "Patient", f"family:exact={LONG.lower()}") == set()


BROKEN = {
    "Patient": [
        *(
            f"birthdate={text}"
            for text in (
                "23 May 2009", "2013-13-45", ">2000", "0000", "2013-02-30", "xx2013", "2013-1", "2013-01-01T25:00Z",
                "2013-01-01T10", "ge", "2000;2001", "२०१३", "2013-01-01T10:00:61Z", "10000", "2013-01-01T10:00+15:00",
            )
        ),
        "birthdate:exact=2000", "birthdate:missing=maybe", "birthdate:contains=2000", "_lastUpdated=yesterday",
        "_lastUpdated:not=2000", "_id=a_b", "_id=" + "x" * 65, "_id:exact=p1", "_id=" + "p1," * 256 + "p2", "_id=,",
        "name:not=x", "name:foo=x", "name:foo=", "name:of-type=x", "family:text=x", "family:missing=1", "family=,",
        "phonetic:exact=x",
        "phonetic:contains=x", "gender:exact=male", "gender:in=x", "gender:text=male", "gender=a|b|c", "active=|true",
        "active=x|true",
        "phone=tel|1", "telecom=phone|050 1", "email=|a@b.example", "deceased=|true", "active:missing=",
        "identifier=|", "identifier=a|b|c", "identifier:of-type=a|b", "identifier:of-type=a|b|", "identifier:of-type=|b|c",
        "identifier:above=1", "birthdate:missing=", "_profile:below=x", "_sort:asc=family", "_count:max=1", "_summary:x=true",
    ],
    "Encounter": [
        "date=now", "date=2013-03-10T23", "date:not=2013", "status:in=x", "status:of-type=a|b|c", "status:text=x", "length=x",
        "length=5|min",
        "length=5|a|b|c", "length=1e999", "length:exact=5", "patient:missing=x", "patient:exact=x", "patient:identifier=|",
        "subject:not=Patient/a",
        "class:contains=x",
    ],
}  # fmt: skip
HARMLESS = {"active:missing=", "birthdate:missing="}


@pytest.mark.parametrize("path", PATHS)
async def test_malformed(home: Home, path: str) -> None:
    """Rule 11: a malformed value or an unsupported modifier is refused, also when handling is lenient, and it is named."""
    async with reading(home, path) as ask:
        for kind, queries in BROKEN.items():
            for query in queries:
                reply = await ask(f"/fhir/{kind}?{quote(query, safe='=,|:')}", Prefer="handling=lenient")
                if query in HARMLESS:  # no value, and a modifier that there is
                    assert reply.status == 200, query
                    continue
                diagnosed(reply, 400, "invalid")
                (told,) = reply.json["issue"][0]["expression"]
                assert told.partition(":")[0] == query.partition("=")[0].partition(":")[0], query
        diagnosed(await ask("/patients?" + "&".join(["active=true"] * 33)), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_escaped_separators(hospital: Home, path: str) -> None:
    """Rule 20: a comma behind an escaped backslash separates; one behind a single backslash is part of the value."""
    async with reading(hospital, path) as ask:
        for value, meant in ((r"x\\y,Ng", [r"x\\y", "Ng"]), (r"zz\\,Müller", ["Müller"]), (r"comma\,name", [r"comma\,name"])):
            for name in ("family", "family:exact"):
                wanted = {each for one in meant for each in MODEL.found("Patient", [(name, one)])}
                assert await find(ask, "Patient", f"{name}={value}") == wanted != set(), (name, value)
        coded = MODEL.found("Patient", [("identifier", r"http://b\|c|x\|y")])
        assert (
            ids(await ask(f"/patients?identifier={quote('http://b' + chr(92) + '|c|x' + chr(92) + '|y')}&_count=1000"))
            == coded
            != []
        )
