"""What is asked by chance: the grammar of searches, well and badly said, and bytes that have no grammar at all."""

from dataclasses import dataclass
from urllib.parse import quote

from hypothesis import strategies as st

from r4.criteria import modifiers_of
from r4.parameters import COMPARTMENTS, PARAMETERS, ParamType, parameters_of

CANARY = "Kanarienvogel"
"""Stands in every value that may be refused: no refusal and no log line has it."""

KINDS = [*PARAMETERS, "Slot"]
IDS = ["full", "bare", "other", "gone", "only-one", "only-two", "none"]
DATES = [
    "2024", "2024-05", "2024-05-03", "2024-05-01T08:00Z", "2024-05-01T08:00:00Z", "2024-05-01T10:00:00.5+02:00", "1980",
    "0001", "9999-12-31", "9999-12-31T23:59:60Z",
]  # fmt: skip
PREFIXES = ["", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"]
NUMBERS = ["5.60", "5.6|http://unitsofmeasure.org|h", "5||h", "0", "-1", "1e2", "5.60|x|y", "1e-9", "99999999999999999999"]
CODES = [
    "active", "female", "J45", "urn:codes|J45", "urn:codes|", "|male", "AMB", "true", "false", "urn:kinds|MR|Patient-1",
    "claim", "urn:numbers|Patient-1",
]  # fmt: skip
TEXTS = ["smith", "JONES", "Ad", "wien", "ring 1", "paid in", "ümläut", "Clinic", "a", "%", "_", "\\\\", "Since"]
LINKS = [
    "Patient/full", "full", "Practitioner/full", "Encounter/full/_history/1", "Organization/full", "{base}/fhir/Patient/full",
    "http://elsewhere.example/fhir/Patient/full", "urn:uuid:1b671a64-40d5-491e-99b0-da01ff1f3341", "#inside", "Device/d",
]  # fmt: skip
GOOD: dict[ParamType, list[str]] = {
    ParamType.TOKEN: CODES,
    ParamType.STRING: TEXTS,
    ParamType.DATE: [f"{prefix}{date}" for prefix in PREFIXES for date in DATES],
    ParamType.REFERENCE: LINKS,
    ParamType.URI: ["http://example.org/profile", "http://example.org/source", "urn:x"],
    ParamType.QUANTITY: [f"{prefix}{number}" for prefix in PREFIXES for number in NUMBERS],
}
BAD = [
    "", "\x00", ",", "|", "||", "|||", "$", "\\", "\\,", "\\|", "\\\\,", "'", "''", '"', "';--", "' OR '1'='1", "%", "_", "%%",
    "*", "(", "[", "\n", "\r\n", "\t", " ", "+", "\x1b", "\x7f", "\x85", "\ud800", "\udfff", "\ufeff", "\uffff", "\u202e",
    "\u0301", "\u0130",
    "\ufdfa", "\ufb03", "ß", "😀", "\U0010ffff", "١٩٨٠", "a" * 300, "ﷺ" * 60, "a," * 70, "\\" * 99, "9" * 400,
    "-", "NaN", "1e99", "1e-99", "0x10", "null", "undefined", "{{7*7}}", "${jndi:ldap://x}", "../..", "2013-02-30", "2013-13",
    "0000", "10000", "ge", "ap9999", "ap0001", "sa0001-01-01T00:00:00+14:00", "2024-05-01T08:00:00+99:99", "gege2024",
    "Patient/", "/full", "Patient/full/x", "Foo/full", "http://[::1", "urn:", "$everything", "_history", "pg_sleep(9)",
    "; DROP TABLE fhir.resource", "%s%n", "E'\\\\'", "$1", ":1",
]  # fmt: skip
NAMES = [
    "_has", "_has:", "_has:Encounter:patient:", "_text", "_content", "_filter", "_list", "_query", "_contained", "_type",
    "_since", "_at", "start", "end", "id", "_ID", "patient.", ".name", "a" * 300, "name:", ":exact", "::", "x-y", "'", "%", "$",
]  # fmt: skip
MODIFIERS = ["missing", "not", "text", "exact", "contains", "of-type", "identifier", "above", "iterate", "Patient", "x", ""]
CONTROLS = {
    "_count": ["0", "1", "2", "1000", "1001", "999999999", "-1", "1.5", "01", "+1"],
    "_total": ["none", "estimate", "accurate", "yes"],
    "_summary": ["true", "text", "data", "count", "false", "maybe"],
    "_elements": ["name", "status,subject", "Patient.name", "id", "deceased", "x" * 70, "-name", "a.b.c", ",,", "meta"],
    "_format": ["json", "application/fhir+json", "application/json;fhirVersion=4.0", "xml"],
    "_pretty": ["true", "false", "1"],
    "_since": ["2024-01-01T00:00:00Z", "2026", "9999-12-31"],
    "_at": ["2026", "ge2026"],
    "start": ["2024", "2024-05-01"],
    "end": ["2024", "2024-12-31"],
    "_type": ["Patient", "Patient,Encounter", "Foo"],
}
CURSORS = 12  # of them the running server makes its own
HEADERS = {
    "Prefer": ["handling=strict", "handling=lenient", "return=minimal;handling=strict", "respond-async", "handling=x"],
    "Accept": ["application/fhir+json", "*/*", "text/html, */*;q=0.1", "application/fhir+json;fhirVersion=3.0", "x"],
    "If-None-Match": ['W/"1"', "1", "*", '"2"', "W/", ","],
    "If-Modified-Since": ["Fri, 02 Jan 2026 03:04:05 GMT", "yesterday", "0"],
    "Range": ["bytes=0-9", "bytes=-1", "rows=1-2"],
    "Accept-Encoding": ["gzip", "identity", "br", "gzip;q=0"],
    "X-Request-ID": ["of-mine", f"not one {CANARY}"],
    "If-Match": ['W/"1"', "*"],
    "Content-Encoding": ["gzip"],
    "Cookie": [f"key={CANARY}"],
}
FORM = "application/x-www-form-urlencoded"
BODIES = [*[FORM] * 6, f"{FORM};charset=UTF-8", "application/fhir+json", "text/plain", "multipart/form-data; boundary=x", ""]
STEPS = ["plain"] * 5 + ["modifier", "modifier", "chain", "has", "junk"]
DEEPEST = 6  # of a chain: deeper than is allowed
MOSTLY = st.sampled_from([True, True, True, False])


@dataclass(frozen=True)
class Asked:
    """A request before it is written: `{base}` and `{cursor:n}` stand for what only the running server knows."""

    method: str
    path: str
    pairs: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    form: str | None = None
    """The media type of a body that has the second half of the pairs."""


bad_values = st.tuples(
    st.sampled_from([f"{CANARY}{{}}", f"{{}}{CANARY}", "{}"]), st.one_of(st.sampled_from(BAD), st.text(max_size=12))
).map(lambda pair: pair[0].replace("{}", pair[1]))


@st.composite
def values(draw: st.DrawFn, kind: ParamType) -> str:
    """One, or several with what separates them; most are well said."""
    well = st.sampled_from(GOOD[kind])
    anything = st.one_of(bad_values, bad_values, st.sampled_from([each for some in GOOD.values() for each in some]))
    text = draw(well if draw(MOSTLY) else anything)
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        text += draw(st.sampled_from([",", ",", ",", "|", "$", "\\,", ""])) + draw(well if draw(MOSTLY) else anything)
    return text


@st.composite
def criteria(draw: st.DrawFn, kind: str, depth: int = 0) -> tuple[str, str]:
    """A name with modifiers, chains and _has, and a value; nothing keeps the parts from not fitting together."""
    table = parameters_of(kind)
    step = draw(st.sampled_from(STEPS))
    led = [other for other, row in table.items() if row.type is ParamType.REFERENCE]
    if step == "chain" and depth < DEEPEST and led:
        return draw(_chain(kind, depth))
    if step == "has" and depth < DEEPEST:
        return draw(_has(kind, depth))
    if step == "junk":
        return draw(st.one_of(st.sampled_from(NAMES), st.text(max_size=8))), draw(values(ParamType.TOKEN))
    name = draw(st.sampled_from([*table, "_id", "_lastUpdated"]))
    if name == "_id":
        return name, draw(st.one_of(st.lists(st.sampled_from(IDS), min_size=1, max_size=9).map(",".join), bad_values))
    of = table[name].type if name in table else ParamType.DATE
    if step == "modifier":
        own = [*modifiers_of(table[name]), *table[name].targets] if name in table else []
        name += f":{draw(st.sampled_from([*own * 3, *MODIFIERS]))}"
        if name.endswith(":missing"):
            return name, draw(st.sampled_from(["true", "false", "true", "false", "x", "TRUE"]))
    return name, draw(values(of))


@st.composite
def _chain(draw: st.DrawFn, kind: str, depth: int) -> tuple[str, str]:
    table = parameters_of(kind)
    name = draw(st.sampled_from([*(other for other, row in table.items() if row.type is ParamType.REFERENCE), "name"]))
    target = draw(st.sampled_from([*(table[name].targets if name in table else ()), "Patient", "Foo"]))
    rest, value = draw(criteria(target if target in PARAMETERS else "Patient", depth + 1))
    return f"{name}{draw(st.sampled_from([f':{target}', f':{target}', '', ':x']))}.{rest}", value


@st.composite
def _has(draw: st.DrawFn, kind: str, depth: int) -> tuple[str, str]:
    sources = [
        (source, name)
        for source, table in PARAMETERS.items()
        for name, row in table.items()
        if row.type is ParamType.REFERENCE and kind in (row.targets or [kind])
    ]
    source, name = draw(st.sampled_from([*sources, ("Patient", "link"), ("Slot", "x")]))
    rest, value = draw(criteria(source, depth + 1))
    return f"_has:{source}:{name}:{rest}", value


@st.composite
def controls(draw: st.DrawFn, kind: str) -> tuple[str, str]:
    """What is no criterion."""
    name = draw(st.sampled_from(["_sort", "_sort", "_include", "_include", "_revinclude", "_cursor", *CONTROLS]))
    if draw(MOSTLY) is False and draw(MOSTLY) is False:
        return draw(st.sampled_from([name, f"{name}:x"])), draw(bad_values)
    if name == "_sort":
        keys = st.sampled_from([*parameters_of(kind), "_id", "_lastUpdated", "x"])
        some = draw(st.lists(st.tuples(st.sampled_from(["", "-"]), keys).map("".join), min_size=1, max_size=5))
        return name, ",".join(some)
    if name == "_cursor":
        return name, f"{{cursor:{draw(st.integers(0, CURSORS - 1))}}}{draw(st.sampled_from(['', '', 'x']))}"
    if name in CONTROLS:
        return name, draw(st.sampled_from(CONTROLS[name]))
    source = draw(st.sampled_from(KINDS if name == "_revinclude" else [kind, kind, kind, *KINDS]))
    led = [other for other, row in parameters_of(source).items() if row.type is ParamType.REFERENCE]
    param = draw(st.sampled_from([*led, *led, "*", "x"]))
    value = draw(st.sampled_from([*[f"{source}:{param}"] * 5, f"{source}:{param}:Patient", f"{source}:{param}:", "*", source]))
    return name + draw(st.sampled_from(["", "", ":iterate", ":recurse"])), value


@st.composite
def paths(draw: st.DrawFn, kind: str) -> str:
    """Of a search mostly; else of a read, a version, a history, everything, or of what says what there is."""
    ids = st.sampled_from([*["full"] * 12, *IDS, CANARY, f"{CANARY}_", "x" * 65, "%00", "%ED%A0%80", "a%2Fb"])
    own = {"Patient": "/patients", "Encounter": "/encounters", "Practitioner": "/practitioners"}.get(kind, f"/fhir/{kind}")
    owners = [owner for owner, kinds in COMPARTMENTS.items() if kind in kinds]
    what = draw(st.sampled_from(["search"] * 8 + ["compartment"] * 2 + ["single"] * 5 + ["wrong"]))
    if what == "compartment":
        return f"/fhir/{draw(st.sampled_from([*owners * 3, *COMPARTMENTS, 'Slot']))}/{draw(ids)}/{kind}"
    if what == "single":
        one = f"/fhir/{kind}/{draw(ids)}"
        version = f"{one}/_history/{draw(st.sampled_from(['1', '1', '1', '2', '0', 'x', '-1', '99999999999999999999']))}"
        everything = f"/fhir/{draw(st.sampled_from(['Patient', 'Encounter', kind]))}/{draw(ids)}/$everything"
        histories = [f"{one}/_history", f"/fhir/{kind}/_history", "/fhir/_history"]
        reads = [one, f"{own}/{draw(ids)}", f"/reviews/{draw(ids)}", "/fhir/metadata"]
        return draw(st.sampled_from([*reads, *histories, version, version, everything, everything]))
    if what == "wrong":
        return draw(st.sampled_from([f"/fhir/{kind}/$everything", "/fhir", "/fhir/", f"/fhir/{kind}/full/*", "/fhir/Foo/full"]))
    return draw(st.sampled_from([f"/fhir/{kind}", own]))


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    kind = draw(st.sampled_from(KINDS))
    pairs = draw(st.lists(criteria(kind), max_size=2)) + draw(st.lists(controls(kind), max_size=2))
    names = draw(st.lists(st.sampled_from(list(HEADERS)), max_size=2, unique=True))
    headers = tuple((name, draw(st.sampled_from(HEADERS[name]))) for name in names)
    method = draw(st.sampled_from(["GET"] * 12 + ["POST", "POST", "HEAD", "DELETE"]))
    path = draw(paths(kind))
    if method == "POST":
        form = draw(st.sampled_from(BODIES))
        return Asked(method, f"{path if kind in path else f'/fhir/{kind}'}/_search", tuple(pairs), headers, form)
    return Asked(method, path, tuple(pairs), headers)


# Bytes that have no grammar.

_bytes = st.binary(max_size=40)
_text = st.text(max_size=20).map(lambda text: quote(text, safe="").encode("ascii"))
_nasty = st.sampled_from(
    [
        b"%00", b"%ED%A0%80", b"%", b"%zz", b"\\", b",", b"|", b"||", b"'", b"a" * 300, b"-1", b"1e9", b"2013-02-30", b"ge",
        b"Patient/full", b"*", b"9999", b"sa9999-12-31", b"0001", b"eb0001-01-01T00:00:00%2B14:00", b"ap0001", b"ap9999",
    ]
)  # fmt: skip
_piece = st.one_of(_text, _nasty, _bytes.map(lambda raw: raw.translate(None, b" \r\n\x00#?&")))
_known = [
    b"_id", b"_lastUpdated", b"identifier", b"name", b"family", b"birthdate", b"gender", b"active", b"patient", b"subject",
    b"date", b"status", b"class", b"practitioner", b"_count", b"_cursor", b"_total", b"_format", b"_sort", b"_include",
]  # fmt: skip
_name = st.one_of(st.sampled_from(_known), _piece, st.tuples(st.sampled_from(_known), _piece).map(lambda pair: b"%b:%b" % pair))
_query = st.lists(st.tuples(_name, st.lists(_piece, max_size=3).map(b"".join)), max_size=4).map(
    lambda pairs: b"&".join(b"%b=%b" % pair for pair in pairs)
)
_root = st.sampled_from(
    [b"/patients", b"/practitioners", b"/encounters", b"/reviews", b"/fhir/Patient", b"/fhir/Encounter", b"/fhir/Claim", b""]
)
_targets = st.builds(
    lambda root, parts, query: (b"/".join([root, *parts]) or b"/") + (b"?" + query if query else b""),
    _root,
    st.lists(st.one_of(st.sampled_from([b"full", b"bare", b"$everything", b"_history"]), _piece), max_size=2),
    _query,
)
_headers = st.tuples(
    st.sampled_from(
        [b"Accept", b"If-None-Match", b"If-Modified-Since", b"Prefer", b"X-Request-ID", b"X-Sluice-Force", b"Range"]
    ),
    st.one_of(st.sampled_from([b'W/"1"', b"handling=strict", b"direct", b"channel", b"text/html"]), _bytes, _text),
).map(lambda pair: b"%b: %b" % (pair[0], pair[1].translate(None, b"\r\n")))
_methods = st.sampled_from(
    [b"GET"] * 8 + [b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"BREW", b"\xff"]
)
requests = st.tuples(_methods, _targets, st.lists(_headers, max_size=2))
"""Method, target and headers, as bytes."""
