"""Search against a model in plain Python: which resources match, and in which order, for any combination of parameters."""

import asyncio
import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.embedded import Cluster
from tests.conftest import PROVE
from tests.support import NOW, Reply, add_tenant, connected, encounter, patient, store
from tests.test_cursors import following, ids
from tests.test_entity import PATHS, Asker, Home, asking, build_home, diagnosed

EXAMPLES = 3000 if PROVE else 120
Pair = tuple[str, str]
Json = dict[str, Any]

# The data: few values of each kind, so that any combination of parameters finds something now and then.

FAMILIES = [
    "Müller", "Muller", "MULLER-Meier", "van der Berg", "García López", "Ng", "O'Brien", "Åström", "李", "Straße", "a_b",
    "50%", "x\\y", "pipe|name", "comma,name", "dollar$name", "Ngo", "N",
]  # fmt: skip
LONG = "Zoë " + "€" * 380 + "ü" * 100
GIVENS = ["Ann", "ANN-Sofie", "Łukasz", "José", "Li"]
SYSTEMS = ["http://a", "http://b|c", None]
CODES = ["1", "2", "x|y", "z,w", "A"]
BIRTHS = ["1974", "1974-12", "1974-12-25", "1974-12-26", "1975-01-01", "2000-02-29", "2000-02", None]
STARTS = [
    "2013-03-10", "2013-03-11T00:30:00+01:00", "2013-03-10T23:30:00Z", "2013-03-10T23:30:00.250Z", "2013", "2014-01",
    "2012-12-31T23:00:00-05:00",
]  # fmt: skip
ENDS = ["2013-03-12", "2014-06", "2013-03-11T02:00:00+01:00", None, None]
MOMENTS = [NOW, NOW + timedelta(seconds=1), NOW + timedelta(days=40)]


def _person(pick: random.Random, kind: str, key: str) -> Json:
    name: Json = {"family": pick.choice([*FAMILIES, LONG]), "given": pick.sample(GIVENS, pick.randint(0, 2))}
    if pick.random() < 0.2:
        name["text"] = f"{pick.choice(GIVENS)} {pick.choice(FAMILIES)}"
    if pick.random() < 0.2:
        name["prefix"] = ["Dr. med."]
    identifiers = [
        {**({"system": system} if (system := pick.choice(SYSTEMS)) else {}), "value": pick.choice(CODES)}
        for _ in range(pick.randint(0, 2))
    ]
    person: Json = {"resourceType": kind, "id": key, "name": [{k: v for k, v in name.items() if v}], "identifier": identifiers}
    person |= {"gender": pick.choice(["male", "female", "other"])} if pick.random() < 0.8 else {}
    person |= {"active": pick.random() < 0.5} if pick.random() < 0.8 else {}
    person |= {"birthDate": birth} if kind == "Patient" and (birth := pick.choice(BIRTHS)) else {}
    return {member: value for member, value in person.items() if value != []}


def _visit(pick: random.Random, key: str) -> Json:
    period = {"start": pick.choice([*STARTS, None]), "end": pick.choice(ENDS)}
    if period["start"] and period["end"] and span(period["start"])[0] >= span(period["end"])[1]:
        del period["end"]
    more: Json = {"period": {end: at for end, at in period.items() if at}}
    more["status"] = pick.choice(["planned", "finished", "in-progress"])
    code, system = pick.choice([("AMB", "act"), ("IMP", "act"), ("AMB", "http://other")])
    more["class"] = {"system": system, "code": code}
    if pick.random() < 0.9:
        more["subject"] = {"reference": pick.choice(["Patient/p1", "Patient/p2", "Group/p1"])}
    people = pick.sample(["Practitioner/d1", "Practitioner/d2", "RelatedPerson/d1"], pick.randint(0, 2))
    more["participant"] = [{"individual": {"reference": name}} for name in people]
    return encounter(key, **{member: value for member, value in more.items() if value})


@dataclass(frozen=True)
class Stored:
    resource: Json
    updated: datetime

    @property
    def id(self) -> str:
        return str(self.resource["id"])


def _generated() -> dict[str, list[Stored]]:
    pick = random.Random(7)
    made = {
        "Patient": [_person(pick, "Patient", f"p{n}") for n in range(90)],
        "Practitioner": [_person(pick, "Practitioner", f"d{n}") for n in range(30)],
        "Encounter": [_visit(pick, f"e{n}") for n in range(120)],
    }
    return {kind: [Stored(each, MOMENTS[n % 3]) for n, each in enumerate(many)] for kind, many in made.items()}


# The model.


def plain(text: str) -> str:
    """Without accents and case."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def span(text: str) -> tuple[datetime, datetime]:
    """[lower, upper) of what a date covers."""
    day, _, time = text.partition("T")
    year, month, date = (int(part) for part in [*day.split("-"), "0", "0"][:3])
    lower = datetime(year, month or 1, date or 1, tzinfo=UTC)
    if not time:
        if date:
            return lower, lower + timedelta(days=1)
        ends = (year + 1, 1) if not month or month == 12 else (year, month + 1)
        return lower, datetime(*ends, 1, tzinfo=UTC)
    clock = time.removesuffix("Z").split("+")[0].split("-")[0]
    at = datetime.fromisoformat(text)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    fine = len(clock.partition(".")[2])
    width = timedelta(minutes=1) if clock.count(":") == 1 else timedelta(seconds=1)
    return at, at + (timedelta(microseconds=10 ** (6 - fine)) if fine else width)


FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def target(value: Any) -> tuple[datetime, datetime] | None:
    """What a resource's date or period covers; None when it says nothing."""
    if isinstance(value, str):
        return span(value)
    if not value:
        return None
    lower = span(value["start"])[0] if "start" in value else FOREVER[0]
    return lower, span(value["end"])[1] if "end" in value else FOREVER[1]


def dated(covered: tuple[datetime, datetime] | None, text: str) -> bool:
    """https://hl7.org/fhir/R4/search.html#prefix."""
    if covered is None:
        return False
    prefix, rest = (text[:2], text[2:]) if text[:1].isalpha() else ("eq", text)
    (low, high), (lower, upper) = covered, span(rest)
    margin = max((upper - lower) / 10, timedelta(days=1))
    contained = lower <= low and high <= upper
    return {
        "eq": contained,
        "ne": not contained,
        "gt": high > upper,
        "ge": high > lower,
        "lt": low < lower,
        "le": low < upper,
        "sa": low >= upper,
        "eb": high <= lower,
        "ap": low < upper + margin and high > lower - margin,
    }[prefix]


def alternatives(text: str, separator: str = ",") -> list[str]:
    """Split where no backslash stands before; then without the backslashes."""
    parts, escaped = [""], False
    for letter in text:
        if letter == separator and not escaped:
            parts.append("")
            continue
        parts[-1] += letter
        escaped = letter == "\\" and not escaped
    return parts


def literal(text: str) -> str:
    out, at = "", 0
    while at < len(text):
        at += text[at] == "\\" and text[at + 1 : at + 2] in (",", "|", "$", "\\")
        out += text[at]
        at += 1
    return out


def token(codings: list[tuple[str | None, str]], text: str) -> bool:
    halves = [literal(half) for half in alternatives(text, "|")]
    if len(halves) == 1:
        return any(code == halves[0] for _, code in codings)
    system, code = halves
    return any((system or None) == have and (not code or code == had) for have, had in codings)


def spoken(names: list[Json], parts: tuple[str, ...]) -> list[tuple[str, bool]]:
    """(text, whether it falls into words) of the parts of names."""
    found = []
    for name in names:
        for part in parts:
            texts = name.get(part, [])
            found += [(text, part in ("family", "given", "text")) for text in ([texts] if isinstance(texts, str) else texts)]
    return found


def named(texts: list[tuple[str, bool]], value: str, *, exact: bool) -> bool:
    if exact:
        return any(text == value for text, _ in texts)
    for text, of_words in texts:
        words = plain(text).replace("-", " ").split()[1:] if of_words else []
        if any(each.startswith(plain(value)) for each in (plain(text), *words)):
            return True
    return False


NAME_PARTS = ("text", "family", "given", "prefix", "suffix")


def one_matches(stored: Stored, name: str, value: str) -> bool:  # noqa: PLR0911  # one for each kind of parameter
    """Whether a resource meets one alternative of one parameter."""
    resource, (param, _, modifier) = stored.resource, name.partition(":")
    if param == "_id":
        return stored.id == value
    if param == "_lastUpdated":
        return dated((stored.updated, stored.updated + timedelta(milliseconds=1)), value)
    if param == "identifier":
        return token([(each.get("system"), each["value"]) for each in resource.get("identifier", [])], value)
    if param in ("name", "family"):
        parts = NAME_PARTS if param == "name" else ("family",)
        return named(spoken(resource.get("name", []), parts), literal(value), exact=modifier == "exact")
    if param in ("birthdate", "date"):
        return dated(target(resource.get("birthDate" if param == "birthdate" else "period")), value)
    if param == "class":
        return token([(resource["class"]["system"], resource["class"]["code"])], value)
    if param in ("gender", "status"):
        return token([(None, resource[param])] if param in resource else [], value)
    if param == "active":
        return "active" in resource and value == str(resource["active"]).lower()
    return referred(resource, param, modifier, value)


def referred(resource: Json, param: str, modifier: str, value: str) -> bool:
    kind = modifier or {"patient": "Patient", "practitioner": "Practitioner", "subject": ""}[param]
    wanted = value if "/" in value else f"{kind}/{value}"
    if param == "practitioner":
        return any(each["individual"]["reference"] == wanted for each in resource.get("participant", [])) and wanted.startswith(
            "Practitioner/"
        )
    told = resource.get("subject", {}).get("reference")
    return bool(told == wanted and (param == "subject" or wanted.startswith("Patient/")))


def model(data: list[Stored], pairs: list[Pair], kind: str) -> list[str]:
    """The ids that match, in the order of the list."""
    found = [
        each
        for each in data
        if all(any(one_matches(each, name, part) for part in alternatives(value) if part) for name, value in pairs if value)
    ]

    def place(stored: Stored) -> tuple[Any, ...]:
        start = stored.resource.get("period", {}).get("start") if kind == "Encounter" else None
        return (0 if start else 1, -span(start)[0].timestamp() if start else 0, stored.id)

    return [each.id for each in sorted(found, key=place)]


# What is asked.

PREFIXES = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"]


def escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\,|$" else letter for letter in text)


def _either(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One value, or up to three with commas between."""
    return st.one_of(values, st.lists(values, min_size=1, max_size=3).map(",".join))


def _typed(text: str) -> st.SearchStrategy[str]:
    """What someone types who looks for a text: a beginning of it or of its second word, with or without case and accents."""
    starts = [text, text[:1], text[:3], text[-4:], *text.replace("-", " ").split()[1:]]
    return st.sampled_from([case for start in starts for case in (start, start.upper(), plain(start))]).map(escaped)


_SYSTEMS = [None, "", *(escaped(system) for system in SYSTEMS if system), "http://none"]
_tokens = st.tuples(st.sampled_from(_SYSTEMS), st.sampled_from([*map(escaped, CODES), "a", "3"])).map(
    lambda pair: pair[1] if pair[0] is None else f"{pair[0]}|{pair[1]}"
)
_names = st.sampled_from([*FAMILIES, *GIVENS, "Dr. med.", "zz"]).flatmap(_typed)


def _dates(*texts: str) -> st.SearchStrategy[str]:
    return st.builds("{}{}".format, st.sampled_from(PREFIXES), st.sampled_from(texts))


def _asked(values: st.SearchStrategy[str], *names: str) -> st.SearchStrategy[Pair]:
    return st.tuples(st.sampled_from(names), _either(values))


_ANY = [
    _asked(st.sampled_from([f"{kind}{n}" for kind in "pde" for n in (1, 2, 30)]), "_id"),
    _asked(
        _dates("2026", "2026-01-02", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06Z", "2026-02-11T03:04Z"), "_lastUpdated"
    ),
]
_PERSON = [
    *_ANY,
    _asked(st.one_of(_tokens, st.just("http://a|")), "identifier"),
    _asked(_names, "name", "family", "name:exact", "family:exact"),
    _asked(st.sampled_from(FAMILIES).map(escaped), "family:exact"),
    _asked(st.sampled_from(["male", "female", "MALE", "|male", "x|male"]), "gender"),
    _asked(st.sampled_from(["true", "false"]), "active"),
]
ASKED = {
    "Patient": [*_PERSON, _asked(_dates("1974", "1974-12", "1974-12-25", "2000-02-29", "1975-01-01T00:00Z"), "birthdate")],
    "Practitioner": _PERSON,
    "Encounter": [
        *_ANY,
        _asked(_dates("2013", "2013-03", "2013-03-10", "2013-03-10T23:30:00Z", "2013-03-11T00:30+01:00", "2014"), "date"),
        _asked(st.sampled_from(["planned", "finished", "in-progress", "|planned"]), "status"),
        _asked(st.sampled_from(["AMB", "IMP", "act|AMB", "http://other|", "|AMB", "http://other|AMB"]), "class"),
        _asked(st.sampled_from(["p1", "Patient/p1", "Patient/p2", "Patient/none"]), "patient"),
        _asked(st.sampled_from(["Patient/p1", "Group/p1"]), "subject"),
        _asked(st.sampled_from(["p1", "Patient/p2"]), "subject:Patient"),
        _asked(st.sampled_from(["d1", "Practitioner/d2"]), "practitioner"),
    ],
}


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one")
    home.keys["two"] = await add_tenant(home.database, "two", [patient("p1", active=True)])
    async with connected(home.database) as connection:
        for moment in MOMENTS:
            for many in _generated().values():
                await store(connection, "one", [each.resource for each in many if each.updated == moment], moment)


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "search", _fill)


async def found(ask: Asker, kind: str, pairs: list[Pair], count: int) -> list[str]:
    """All pages' ids; each page is no longer than it may be."""
    names: list[str] = []
    step: str | None = f"/fhir/{kind}?{urlencode([*pairs, ('_count', str(count))], quote_via=quote)}"
    while step is not None:
        reply = await ask(step)
        page = ids(reply)
        assert len(page) <= count
        names, step = names + page, following(reply)
    return names


async def prove(ask: Asker, strategy: st.SearchStrategy[Any], holds: Callable[..., Any]) -> None:
    """Runs a property of coroutines beside the server's loop: hypothesis itself is synchronous."""
    loop = asyncio.get_running_loop()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def check(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(holds(ask, example), loop).result(30)

    await asyncio.to_thread(check)


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.timeout(900 if PROVE else 120)
async def test_search_is_the_model(home: Home, path: str, kind: str) -> None:
    """For any one to three parameters, alternatives and prefixes, the pages hold just what the model finds, in its order."""
    data = _generated()[kind]

    async def holds(ask: Asker, example: tuple[list[Pair], int]) -> None:
        pairs, count = example
        assert await found(ask, kind, pairs, count) == model(data, pairs, kind)

    async with asking(home, path) as ask:
        pairs = st.lists(st.one_of(ASKED[kind]), min_size=1, max_size=3)
        await prove(ask, st.tuples(pairs, st.sampled_from([13, 40, 1000])), holds)


@pytest.mark.parametrize("path", PATHS)
async def test_every_prefix(home: Home, path: str) -> None:
    """Each prefix with each precision, at the ends of what the data covers, finds what the standard's table says."""
    data = _generated()
    dates = {
        ("Patient", "birthdate"): ("1974", "1974-12", "1974-12-25", "2000-02-29", "1975-01-01T00:00Z"),
        ("Encounter", "date"): ("2013", "2013-03-10", "2013-03-10T23:30:00Z", "2013-03-11T00:30:00+01:00", "2013-03-12"),
        ("Patient", "_lastUpdated"): ("2026", "2026-01-02", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06Z"),
    }
    async with asking(home, path) as ask:
        for (kind, name), texts in dates.items():
            for pair in [(name, prefix + text) for prefix in PREFIXES for text in texts]:
                assert await found(ask, kind, [pair], 1000) == model(data[kind], [pair], kind), pair


@pytest.mark.parametrize("kind", ASKED)
async def test_total_is_the_model(home: Home, kind: str) -> None:
    """The total of any search is the number of what the model finds."""
    data = _generated()[kind]

    async def holds(ask: Asker, pairs: list[Pair]) -> None:
        reply = await ask(f"/fhir/{kind}?{urlencode([*pairs, ('_count', '0')], quote_via=quote)}")
        assert reply.json["total"] == len(model(data, pairs, kind))

    async with asking(home, "direct") as ask:
        await prove(ask, st.lists(st.one_of(ASKED[kind]), max_size=3), holds)


def test_model_sees_something() -> None:
    """The model finds nothing, something and much in the data: the comparison is not one of empty lists."""
    data = _generated()
    asked = {
        "Patient": [
            ("family", "mull"),
            ("family", "meier"),
            ("birthdate", "1974-12"),
            ("identifier", "|1"),
            ("gender", "male"),
        ],
        "Practitioner": [("name:exact", "José"), ("active", "true")],
        "Encounter": [("date", "ge2013-03"), ("class", "http://other|"), ("patient", "p1"), ("practitioner", "d1")],
    }
    sizes = [len(model(data[kind], [pair], kind)) for kind, pairs in asked.items() for pair in pairs]
    assert min(sizes) > 0
    assert max(sizes) > 40
    assert model(data["Patient"], [("birthdate", "sa2000-03")], "Patient") == []


def bundle_of(reply: Reply) -> Json:
    """Validated by the standard's own models."""
    assert reply.status == 200, reply.body
    get_fhir_model_class("Bundle").model_validate(reply.json)
    return dict(reply.json)


@pytest.mark.parametrize("path", PATHS)
async def test_bundle(home: Home, path: str) -> None:
    """A searchset is a valid Bundle: absolute URLs, each a match, no empty arrays, no id and no time of its own."""
    async with asking(home, path) as ask:
        base = ask.server.services.config.base_url
        for url in ("/patients?_count=50", "/fhir/Encounter?_count=50", "/practitioners", "/fhir/Patient?_count=0"):
            bundle = bundle_of(await ask(url))
            assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "searchset")
            assert not {"id", "timestamp", "meta"} & set(bundle)
            for entry in bundle.get("entry", []):
                resource = entry["resource"]
                assert entry["fullUrl"] == f"{base}/fhir/{resource['resourceType']}/{resource['id']}"
                assert entry["search"] == {"mode": "match"}
        for url in ("/patients?family=zz", "/patients?_id=nobody", "/fhir/Claim", "/encounters?patient=Group/p1"):
            assert "entry" not in bundle_of(await ask(url)), url


STRANGE = [
    "%",
    "_",
    "a_",
    "a%",
    "50%",
    "'",
    '";--',
    "O'Brien",
    "x\\\\y",
    "\\",
    "$1",
    "{}",
    "李",
    "e\u0301",
    "\U0001f600",
    " Ng",
]


@pytest.mark.parametrize("path", PATHS)
async def test_strange_values(home: Home, path: str) -> None:
    """What means something in SQL, in an URL or in Unicode is taken as it stands."""
    data = _generated()["Patient"]
    async with asking(home, path) as ask:
        for value in STRANGE:
            for name in ("family", "family:exact"):
                got = ids(await ask(f"/patients?{name}={quote(value)}&_count=1000"))
                assert got == model(data, [(name, value)], "Patient"), (name, value)


@pytest.mark.parametrize("path", PATHS)
async def test_long_values(home: Home, path: str) -> None:
    """A value longer than what is indexed is found by what is, whatever its letters weigh in UTF-8."""
    have = [each.id for each in _generated()["Patient"] if each.resource["name"][0]["family"] == LONG]
    async with asking(home, path) as ask:
        for query in (
            f"family={LONG}",
            f"family:exact={LONG}",
            f"family=zoe {'€' * 100}",
            f"family=zoe {'€' * 380}{'u' * 50}",
        ):
            assert ids(await ask(f"/patients?{quote(query, safe='=:')}&_count=1000")) == sorted(have), query
        assert ids(await ask(f"/patients?{quote(f'family:exact={LONG.lower()}', safe='=:')}")) == []


@pytest.mark.parametrize("path", PATHS)
async def test_references(home: Home, path: str) -> None:
    """A reference is written with its type, as a modifier or as this server's own URL; ambiguous ones are refused."""
    async with asking(home, path) as ask:
        base = ask.server.services.config.base_url
        spellings = (
            "patient=p1", "patient=Patient/p1", "subject=Patient/p1", "subject:Patient=p1", "patient:Patient=p1",
            f"patient={base}/fhir/Patient/p1", f"subject={quote(base)}%2Ffhir%2FPatient%2Fp1",
        )  # fmt: skip
        answers = {tuple(ids(await ask(f"/encounters?{spelling}&_count=1000"))) for spelling in spellings}
        assert len(answers) == 1
        assert answers != {()}
        for empty in ("patient=Group/p1", "practitioner=Patient/p1", "practitioner=RelatedPerson/d1", "patient=none"):
            assert ids(await ask(f"/encounters?{empty}")) == [], empty
        for broken in ("subject=p1", "patient=a_b", "patient=Patient/", "patient=/p1", "patient=http://else/fhir/Patient/p1"):
            assert diagnosed(await ask(f"/encounters?{broken}"), 400, "invalid")
        for modifier in ("patient:Group=p1", "patient:foo=p1", "subject:Practitioner=d1", "subject:identifier=x|y"):
            assert diagnosed(await ask(f"/encounters?{modifier}"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_left_out(home: Home, path: str) -> None:
    """An unknown or empty parameter is left out of the search and of the self link; strict handling refuses the unknown."""
    async with asking(home, path) as ask:
        everything = ids(await ask("/patients?_count=1000"))
        for query in (
            "unknown=1",
            "family=",
            "birthdate=",
            "name:foo=",
            "_sort=family",
            "unknown:exact=x",
            "=",
            "&&",
            "active",
        ):
            reply = await ask(f"/patients?{query}&_count=1000")
            assert ids(reply) == everything, query
            assert reply.json["link"][0]["url"].endswith("/fhir/Patient?_count=1000")
        words = diagnosed(await ask("/patients?unknown=secret", Prefer="return=minimal; handling=strict"), 400, "invalid")
        assert "secret" not in words
        assert ids(await ask("/patients?family=&_pretty=true&_count=1000", Prefer="handling=strict")) == everything


BROKEN = {
    "Patient": [
        *(
            f"birthdate={text}"
            for text in (
                "23 May 2009", "2013-13-45", ">2000", "0000", "2013-02-30", "xx2013", "2013-1", "2013-01-01T25:00Z",
                "2013-01-01T10", "ge", "2000;2001", "२०१३", "2013-01-01T10:00:61Z", "10000", "2013-01-01T10:00+15:00",
            )
        ),
        "birthdate:exact=2000", "birthdate:missing=true", "_lastUpdated=yesterday", "_lastUpdated:not=2000",
        "_id=a_b", "_id=" + "x" * 65, "_id:exact=p1", "_id=" + "p1," * 256 + "p2", "_id=,",
        "name:contains=x", "family:foo=x", "family=,", "gender:not=male", "active:missing=true",
        "identifier=|", "identifier=a|b|c", "identifier:of-type=a|b|c",
    ],
    "Encounter": ["date=now", "date=2013-03-10T23", "status:in=x", "class:text=x", "patient:missing=true"],
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_malformed(home: Home, path: str) -> None:
    """A malformed value or an unsupported modifier is refused, also when handling is lenient, and the parameter is named."""
    async with asking(home, path) as ask:
        for kind, queries in BROKEN.items():
            for query in queries:
                reply = await ask(f"/fhir/{kind}?{quote(query, safe='=,|:')}", Prefer="handling=lenient")
                assert diagnosed(reply, 400, "invalid"), query
                (told,) = reply.json["issue"][0]["expression"]
                assert told.partition(":")[0] == query.partition("=")[0].partition(":")[0]
        assert diagnosed(await ask("/patients?" + "&".join(["active=true"] * 33)), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_escaped_separators(home: Home, path: str) -> None:
    """A comma behind an escaped backslash separates; one behind a single backslash is part of the value."""
    async with asking(home, path) as ask:
        both = ids(await ask(f"/patients?family:exact={quote('x' + chr(92) * 2 + 'y,Ng')}&_count=1000"))
        ends = ids(await ask(f"/patients?family={quote('zz' + chr(92) * 2 + ',Ng')}&_count=1000"))
        single = ids(await ask(f"/patients?family:exact={quote('comma' + chr(92) + ',name')}&_count=1000"))
        data = _generated()["Patient"]
        families = {each.id: each.resource["name"][0]["family"] for each in data}
        assert both == sorted(name for name, family in families.items() if family in ("x\\y", "Ng"))
        assert ends == model(data, [("family", "Ng")], "Patient")
        assert single == sorted(name for name, family in families.items() if family == "comma,name")


@pytest.mark.parametrize("path", PATHS)
async def test_times_with_a_plus(home: Home, path: str) -> None:
    """A zone's plus may come raw, as a space or escaped, and the hour may stand without seconds."""
    async with asking(home, path) as ask:
        spellings = ("2013-03-11T00:30:00%2B01:00", "2013-03-11T00:30:00+01:00", "2013-03-11T00:30:00%20%30%31:00")
        answers = {tuple(ids(await ask(f"/encounters?date=ge{text}"))) for text in spellings}
        assert len(answers) == 1
        assert answers != {()}
