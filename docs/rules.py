"""What of FHIR R4's rules is kept, rule by rule: the words of docs/fhir.md, and which tests prove them."""

from dataclasses import dataclass

from handlers.middleware import LONGEST_URL
from handlers.posted import LONGEST_FORM
from r4.criteria import DEPTH_MAX, VALUES_MAX
from r4.search import (
    COMPARISONS_MAX,
    COUNT_DEFAULT,
    COUNT_MAX,
    CRITERIA_MAX,
    HOPS_MAX,
    INCLUSIONS_MAX,
    SORT_MAX,
)  # fmt: skip
from r4.subset import ELEMENTS_MAX
from storage.searching.inclusions import DEPTH_MAX as ITERATIONS_MAX
from storage.searching.inclusions import INCLUDED_MAX


@dataclass(frozen=True, slots=True)
class Rule:
    """Line breaks in its words mean nothing. `limits`: what is deliberately not done, or only so far.

    `tests`: files in tests/, without test_ and .py.
    """

    number: int
    title: str
    how: str
    tests: tuple[str, ...]
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A request by curl. `{patient}` and `{encounter}` stand for ids; `form` is posted."""

    words: str
    path: str
    header: str = ""
    form: str = ""
    key: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is an example of `what`, and what to do `instead`. `lenient`: refused only when handling is strict."""

    what: str
    instead: str
    path: str
    status: int
    code: str
    method: str = "GET"
    lenient: bool = False


EXAMPLES = (
    Example("What this server can do; needs no key", "metadata", key=False),
    Example("One patient; its ETag is its version", "Patient/{patient}"),
    Example("Again, only if it changed: 304 without a body if not", "Patient/{patient}", header='If-None-Match: W/"1"'),
    Example("By parts of a name and a year of birth, 50 a page", "Patient?name=smith&birthdate=1980&_count=50"),
    Example(
        "A day's finished visits, the newest first, with patients and practitioners",
        "Encounter?status=finished&date=2024-05-01&_sort=-date&_include=Encounter:patient&_include=Encounter:practitioner",
    ),
    Example("Visits of patients by a property of theirs, and patients by a property of their visits",
            "Encounter?patient.family=smith"),
    Example("", "Patient?_has:Encounter:patient:date=ge2024-05-01"),
    Example("All of one patient's visits, in three ways", "Encounter?patient={patient}"),
    Example("", "Patient/{patient}/Encounter"),
    Example("", "Encounter/_search", form="patient=Patient/{patient}"),
    Example("How many there are, and nothing else", "Encounter?patient={patient}&_summary=count"),
    Example("What changed since then, of one type or of all", "Encounter/_history?_since=2024-05-01T00:00:00Z"),
    Example("An older version", "Patient/{patient}/_history/1"),
    Example("An encounter with all around it, and a patient", "Encounter/{encounter}/$everything"),
    Example("", "Patient/{patient}/$everything?_since=2024-05-01"),
    Example("A typing error is ignored, and the self link shows it; this refuses it", "Patient?familly=smith",
            header="Prefer: handling=strict"),
)  # fmt: skip

RULES = (
    Rule(
        1,
        "Reading",
        """A read answers 200 with `application/fhir+json;charset=utf-8`, `ETag: W/"<versionId>"` and `Last-Modified`; both
        agree with the body's `meta`.""",
        ("entity", "capability"),
    ),
    Rule(
        2,
        "What is not there",
        """An unknown id is 404 `not-found`, a deleted resource 410 `deleted`, a type that R4 does not have 404
        `not-supported`, and an id that can be none 400 `invalid`: always an OperationOutcome.""",
        ("entity", "bad_input"),
    ),
    Rule(
        3,
        "Versions",
        """`GET [type]/[id]/_history/[vid]` gives that version with its own ETag; an unknown one is 404, that of a deletion 410.
        `_history` of a resource, of a type and of the whole server has the versions, the newest first, deletions among them; it
        takes `_since` and `_count`, and of the whole server `_type`.""",
        ("history",),
        """A history has no total and takes no `_at`. A version has the time at which its transaction wrote it, and may be seen
        after a later one: who follows changes asks `_since` some seconds before the newest time that was seen, and knows by the
        versions what is there already.""",
    ),
    Rule(
        4,
        "Conditional reads",
        """`If-None-Match` takes `W/"1"`, `"1"`, `1`, lists and `*`: 304 with the ETag and without a body when it matches.
        `If-Modified-Since` counts only without it, and a date that is none counts for nothing. Searches have ETags, too.
        Another tenant's ETag tells nothing.""",
        ("entity", "jwt"),
    ),
    Rule(
        5,
        "Methods",
        """HEAD gives GET's headers without a body; a method that a path does not take is 405 with `Allow`.""",
        ("entity", "http"),
        """PUT, PATCH, DELETE and POST of resources are not taken: data comes in by `sluice import`.""",
    ),
    Rule(
        6,
        "Formats",
        """`Accept` may be `application/fhir+json`, `application/json`, `*/*` or absent, with `fhirVersion=4.0`. `_format`
        goes before it, and its `+` may arrive as a space. `_pretty=true` indents. Bodies of 1 KB and more are compressed
        for who takes gzip.""",
        ("http", "bad_input"),
        """JSON of R4 alone: XML, Turtle and other versions are 406.""",
    ),
    Rule(
        7,
        "CapabilityStatement",
        """`GET /fhir/metadata` needs no key and is the same for all tenants. It is made of the tables that searches go by,
        and a test walks every interaction, parameter, modifier, inclusion, operation and compartment in it.""",
        ("metadata", "capability"),
        """`mode=terminology` is 404: no terminology is served.""",
    ),
    Rule(
        8,
        "JSON as it came",
        """Decimals keep their digits (5.60), unknown extensions and `_birthDate` survive to the byte, there is no null and no
        empty array; of `meta` alone `versionId` and `lastUpdated` are the server's.""",
        ("import", "resource"),
    ),
    Rule(
        9,
        "Refusals",
        """400, 401 (with `WWW-Authenticate`), 403, 404, 405, 406, 409, 410, 413, 414, 415, 429 and 503 (with `Retry-After`),
        504: each an OperationOutcome whose `expression` names the parameter at fault, and whose words repeat nothing that
        was sent.""",
        ("bad_input", "entity", "faults"),
    ),
    Rule(
        10,
        "Searchsets",
        """`fullUrl` is absolute and unique, `search.mode` says match, include or outcome, and the self link shows the
        parameters that were really used.""",
        ("search", "cursors", "includes", "client_fhirpy", "client_fhirclient", "client_others"),
        """No `Bundle.id` and no timestamp, so that equal questions have equal answers and ETags.""",
    ),
    Rule(
        11,
        "Unknown and malformed",
        """An unknown parameter is left out, and refused under `Prefer: handling=strict`. A modifier that the parameter does
        not take and a malformed value are 400 in any case. An empty value is as if it were not there.""",
        ("search", "search_values", "bad_input", "capability"),
        f"""A search takes {CRITERIA_MAX} parameters, {VALUES_MAX} values of one and {COMPARISONS_MAX} combinations of values,
        a URL {LONGEST_URL} and a form {LONGEST_FORM} bytes; more is 400, 414 or 413.""",
    ),
    Rule(
        12,
        "Page sizes",
        f"""`_count` is {COUNT_DEFAULT} unless said, and never exceeded by matches; 0 is the same as `_summary=count`. The next
        link keeps it.""",
        ("cursors", "summaries"),
        f"""More than {COUNT_MAX} is taken as {COUNT_MAX}.""",
    ),
    Rule(
        13,
        "Totals",
        """`total` counts all matches, is there when `_total=accurate` or `estimate` or `_summary=count` asks for it, and is
        the same on every page.""",
        ("cursors", "search", "includes"),
        """Counting takes time, so that it is not done unasked. An estimate is the accurate number.""",
    ),
    Rule(
        14,
        "Paging",
        """Follow `next` until there is none: each match comes once and in order, also while data comes in. Deep pages cost
        what the first does. The cursor stands in the query string; a changed one, another tenant's or another query's is
        400.""",
        ("cursors", "sorting", "includes"),
        """There is no `previous`, `first` or `last`.""",
    ),
    Rule(
        15,
        "Three ways to ask",
        """`POST [type]/_search` with a form, parameters in the URL merged, and the compartment `GET Patient/[id]/[type]`
        answer what GET answers; self and next are URLs for GET.""",
        ("search", "http", "capability"),
        """A body that is no form is 415; an empty one may be called anything. A search over all types is not taken.""",
    ),
    Rule(
        16,
        "Strings",
        r"""Without case and accents, from the beginning; `:contains` anywhere, `:exact` to the letter and whole. `name` and
        `address` look at every part, and the second part of a double family name is found. `%`, `_` and `\` are letters
        like any others. `phonetic` goes by sound.""",
        ("search_values", "search", "indexing", "capability"),
        """`phonetic` is metaphone: made for English, and nothing for other than Latin letters. What stands after the 400th
        character of a value is not looked at.""",
    ),
    Rule(
        17,
        "Tokens",
        """`code`, `system|code`, `|code` and `system|`; gender, status and active need no system, telecoms and booleans take
        none. `:not` finds what has no value, too; `:missing`, `:text` and `:of-type` (system|code|value) as R4 has them.
        `deceased=true` is true of `deceasedDateTime`.""",
        ("search_values", "search", "indexing", "capability"),
        """Codes are compared with their case, whatever their code system says. No terminology: `:above`, `:below`, `:in` and
        `:not-in` are 400.""",
    ),
    Rule(
        18,
        "References",
        """`Patient/1`, `1` where one type alone is possible, a URL of this server, `subject:Patient=1` and `patient=1` are
        the same; another server's by its URL; `:identifier` by the reference's own identifier.""",
        ("search_values", "chains", "search", "indexing", "capability"),
        """A bare id that could be of several types is 400. References inside contained resources are not followed. References
        to a version lead to the resource.""",
    ),
    Rule(
        19,
        "Dates and quantities",
        """A date is the range that its precision says: `eq` contains, `ge`, `gt`, `le` and `lt` overlap, `sa` and `eb` do not,
        `ne` is not contained, `ap` lies around by a tenth or a day. Open periods are endless. Zones are corrected; without one
        it is UTC. A `+` that arrives as a space is a `+`. A quantity (`length=5.6|http://unitsofmeasure.org|h`) is as precise
        as it is written, and takes the same prefixes.""",
        ("dates", "search_values", "search", "capability"),
        """Quantities are compared without converting units.""",
    ),
    Rule(
        20,
        "And, or, escapes",
        r"""A comma is or, a repeated parameter is and; `\,`, `\|`, `\$` and `\\` stand for themselves.""",
        ("search_values", "search"),
    ),
    Rule(
        21,
        "What every type has",
        """`_id`, `_lastUpdated`, `_profile`, `_tag`, `_security`, `_source` and `identifier`, of any type, also of those
        without parameters of their own.""",
        ("search_values", "search", "capability"),
        """`_text`, `_content`, `_list`, `_filter`, `_query`, `_contained` and `_containedType` are unknown parameters.""",
    ),
    Rule(
        22,
        "Sorting",
        f"""`_sort` takes up to {SORT_MAX} parameters with commas between, `-` for downwards. What has no value comes last.
        Equals stay in the list's own order, turned round when the last key goes downwards. Of several values the least counts
        upwards, the greatest downwards; of a name the whole. What cannot be sorted by is left out, or 400 when handling is
        strict.""",
        ("sorting", "search", "capability"),
        """First by a reference, a quantity or how a name sounds, or by a code and more, all matches are sorted for each page:
        narrow such a search. To find what has no value, the last pages look through the list.""",
    ),
    Rule(
        23,
        "Inclusions",
        """`_include` and `_revinclude`, with a `:Target`, with `*` for all parameters, and with `:iterate`. What is included
        is never a match too, and comes once; what does not resolve is left out.""",
        ("includes", "search", "capability"),
        f"""{INCLUSIONS_MAX} of them; `:iterate` goes {ITERATIONS_MAX} steps; {INCLUDED_MAX} included resources a page, and an
        OperationOutcome entry says when there would be more.""",
    ),
    Rule(
        24,
        "Parts of resources",
        """`_summary` (true, text, data, count, false) and `_elements` leave mandatory elements in, tag `meta` as SUBSETTED, and
        do not touch what is included. They work on reads, too.""",
        ("summaries", "subset"),
        f"""`_elements` names top-level elements, {ELEMENTS_MAX} at most. `_summary=text` does not go with `_include`, nor
        `_summary` with `_elements`. Of rare types, whose definition is not known here, `_summary=true` is the whole.""",
    ),
    Rule(
        25,
        "Chains",
        """`patient.name`, `subject:Patient.family`, `_has:Encounter:patient:status`, of any depth and mixed, with modifiers
        at the end.""",
        ("chains", "search"),
        f"""{DEPTH_MAX} steps each, {HOPS_MAX} in a search. Where several types are possible the type must be said.""",
    ),
    Rule(
        26,
        "$everything",
        """Of an Encounter: the encounter, what it refers to, what refers to it, and of its claims the responses, benefits and
        coverage, with the money in `Bundle.meta`. Of a Patient: the patient, what refers to them, and what these lead to. A
        searchset, paged like any other; `_since`, `_type` and `_count` narrow both, `start` and `end` that of a patient.""",
        ("review", "everything"),
        """Who is asked for is always there. Other patients, and what is theirs, are not in a patient's.""",
    ),
    Rule(
        27,
        "Tenants",
        """Ids, ETags, cursors and totals of one tenant say nothing of another. A tenant that asks too much gets 429 with
        `Retry-After` at once, the others do not wait. No log line and no metric has what was searched for.""",
        ("entity", "channels", "cursors", "jwt", "faults", "log"),
    ),
)

ABSENT = {
    "Condition": ("abatement-age", "onset-age"),
    "Location": ("near",),
    "Procedure": (
        "based-on", "instantiates-canonical", "instantiates-uri", "part-of", "performer", "reason-code", "reason-reference",
    ),
}  # fmt: skip
"""Of R4's own parameters those that are not here; of the types that are not named, all are."""

REFUSED = (
    Refusal(
        "PUT, PATCH, DELETE and POST of a resource", "`sluice import`", "Patient/{patient}", 405, "not-supported", "DELETE"
    ),
    Refusal("the base itself: a search over all types, a batch", "ask each type", "?_type=Patient", 404, "not-found"),
    Refusal("XML, Turtle, other versions of FHIR", "JSON of R4", "Patient?_format=xml", 406, "not-supported"),
    Refusal("a name that is no type of R4", "", "Patientt", 404, "not-supported"),
    Refusal(
        "`:above`, `:below`, `:in`, `:not-in`, and whatever modifier the tables below do not name",
        "",
        "Condition?code:below=J45",
        400,
        "invalid",
    ),
    Refusal("a malformed date, number, token or cursor", "", "Patient?birthdate=2013-13-45", 400, "invalid"),
    Refusal("`_count` that is no number", "0 to 1000", "Patient?_count=-1", 400, "invalid"),
    Refusal("a bare id where several types are possible", "`subject=Patient/1`", "Encounter?subject=1", 400, "invalid"),
    Refusal("a chain where several types are possible", "`subject:Patient.active`", "Claim?payee.active=true", 400, "invalid"),
    Refusal("`_text`, `_content`, `_filter`, `_list`, `_query`", "", "Patient?_text=cough", 400, "invalid", lenient=True),
    Refusal("any other parameter that is not below", "", "Observation?code=1", 400, "invalid", lenient=True),
    Refusal("a sort key that is none", "", "Patient?_sort=nothing", 400, "invalid", lenient=True),
    Refusal("an inclusion that can bring nothing", "", "Patient?_include=Claim:patient", 400, "invalid", lenient=True),
)
