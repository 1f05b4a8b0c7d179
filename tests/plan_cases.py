"""The statements whose plans are looked at, and data as skewed as real data is, in which they are asked.

One tenant has 20 000 resources of each type, nearly all with the same status, gender, name and doctor; eight have twenty.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from r4.dates import EARLIEST
from r4.parameters import COMPARTMENTS
from r4.search import Search, parse_search
from storage.searching.lists import list_statement, list_values, total_statement, total_values
from storage.statements import Statement, read_statement, review_statement

PAGE = 20
LISTS = {
    "Patient": [
        "",
        "_id=Patient19990",
        "_id=Patient19990,Patient5,Patient6",
        "_lastUpdated=2026-01-01T00:01:40Z",
        "identifier=id19990",
        "identifier=http://a|id19990",
        "identifier=|id19990",
        "identifier=http://a|",
        "identifier=id19990,id6",
        "name=smi",
        "family:exact=Jones",
        "family=jon,smi",
        *(f"birthdate={prefix}1960-05-05" for prefix in ("", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")),
        "gender=female",
        "gender=male",
        "gender=x|female",
        "active=true",
        "identifier=id19990&gender=female",
        "identifier=id19990&name=smi",
        "identifier=id19990&family:exact=Smith",
        "identifier=id19990&birthdate=ge1950",
        "identifier=id19990&_lastUpdated=ge2026",
        "_id=Patient19990&_lastUpdated=ge2026",
        "identifier=id19990&_id=Patient19990",
        "gender=male&active=true",
        "gender=male&active=true&name=jones",
        "gender=female&active=true",
        "gender:not=female",
        "birthdate=1960-05-05&gender=female&name=smith",
        "birthdate=ge1960-05-05&birthdate=lt1960-05-15",
        "family=smith&birthdate=1960-05",
        "family:contains=one",
        "family:contains=mit",
        "family:contains=ne",
        "family:contains=one&gender=male",
        "_has:Encounter:patient:status=planned",
        "_has:Encounter:patient:status=finished",
        "_has:Encounter:patient:practitioner=Practitioner1",
        "_has:Encounter:patient:identifier=id19990",
        "_revinclude=Encounter:patient",
        "_id=Patient4000&_revinclude=Encounter:patient&_include:iterate=Encounter:practitioner",
        "_sort=birthdate",
        "_sort=-birthdate",
        "_sort=family",
        "_sort=-family",
        "_sort=_lastUpdated",
        "_sort=-_lastUpdated",
        "_sort=-_id",
        "_sort=gender",
        "_sort=-gender",
        "_sort=family,given",
        "_sort=-birthdate,family",
        "_sort=family&gender=male&active=true",
        "_sort=family&family:contains=one",
        "_sort=birthdate&gender=female",
        "_sort=-birthdate&name=jones",
    ],
    "Encounter": [
        "",
        "patient=Patient4000",
        "subject=Patient/Patient4000",
        "patient=Patient4000,Patient6",
        "patient=Group/Patient4000",
        "practitioner=Practitioner1",
        "practitioner=Practitioner1&status=planned",
        "practitioner=Practitioner1&date=1970-01-01",
        "patient=Patient4000&status=finished",
        "patient=Patient4000&date=ge1970",
        "patient=Patient4000&practitioner=Practitioner1",
        "date=1970-01-05",
        "date=ge1970",
        "status=finished",
        "status=planned",
        "class=AMB",
        "class=act|AMB",
        "class=foo|AMB",
        "status=planned&class=AMB",
        "status=finished&class=AMB",
        "status=finished&class=AMB&practitioner=Practitioner1",
        "date=ge1970-02-01&date=lt1970-02-02",
        "date=1970-02-01&status=finished",
        "date=ge1970-02-01&date=lt1970-02-02&practitioner=Practitioner1",
        "date=ge1970-02-01&date=lt1970-02-02&status=planned&class=AMB",
        "date=ge1970-02-01&date=lt1970-02-02&status=finished",
        "date=ge1970-02-01&identifier=id1001",
        "patient.name=jones",
        "patient.name=smith",
        "patient.identifier=id4000",
        "patient.gender=male",
        "patient.gender=female&status=finished",
        "practitioner.identifier=id1",
        "_include=Encounter:patient&_include=Encounter:practitioner",
        "_include=Encounter:*&_revinclude=Claim:encounter",
        "patient=Patient4000&_include=Encounter:patient&_revinclude=Claim:encounter&_include:iterate=Claim:patient",
        "status=finished&_include=Encounter:patient&_sort=-_lastUpdated",
        "_sort=date",
        "_sort=date&status=finished",
        "_sort=_lastUpdated&patient=Patient4000",
        "_sort=-status",
        "_sort=date,status",
        "_sort=date&date=ge1970-02-01&date=lt1970-02-02&practitioner=Practitioner1",
        "_id=Encounter19990&status=finished&date=ge1970&patient=Patient4997&identifier=id19990",
    ],
    "Practitioner": ["", "identifier=id190", "name=smi", "active=true"],
    "Claim": ["", "patient=Patient4", "encounter=Encounter19990", "status=active"],
    "Organization": ["", "name=smi"],
}
COMPARTMENT = ("Encounter", "Patient/Patient4000")
DEEP: dict[str, tuple[Any, str]] = {
    # Where a page in the middle of the big tenant's list begins: what is ordered by, and the id.
    "Patient?": (0, "Patient5000"),
    "Patient?gender=female": (0, "Patient5000"),
    "Patient?gender=female&active=true": (0, "Patient5000"),
    "Patient?name=smi": (0, "Patient5000"),
    "Patient?_sort=birthdate": (["19770518000000000000", "0"], "Patient10000"),
    "Patient?_sort=-birthdate": (["19770518000000000000", "0"], "Patient10000"),
    "Patient?_sort=family": (["smith", "0"], "Patient5000"),
    "Patient?_sort=-family": (["smith", "0"], "Patient5000"),
    "Patient?_sort=gender": (["female", "0"], "Patient5000"),
    "Patient?_sort=_lastUpdated": (["20260101024640000000", "0"], "Patient10000"),
    "Patient?_sort=-_lastUpdated": (["20260101024640000000", "0"], "Patient10000"),
    "Patient?_sort=-_id": (["Patient5000", "0"], "Patient5000"),
    "Patient?_sort=-birthdate,family": (["19770518000000000000", "smith", "0"], "Patient10000"),
    "Encounter?": (-10000 * 600_000_000, "Encounter10000"),
    "Encounter?status=finished": (-10000 * 600_000_000, "Encounter10000"),
    "Encounter?status=finished&class=AMB": (-10000 * 600_000_000, "Encounter10000"),
    "Encounter?practitioner=Practitioner1": (-10001 * 600_000_000, "Encounter10001"),
    "Encounter?patient.name=smith": (-10000 * 600_000_000, "Encounter10000"),
    "Encounter?_sort=date": (["19700311104000000000", "-6000000000000"], "Encounter10000"),
    "Encounter?_sort=-status": (["finished", "-6000000000000"], "Encounter10000"),
    "Encounter?_include=Encounter:patient&_include=Encounter:practitioner": (-10000 * 600_000_000, "Encounter10000"),
}
COUNTED = [
    "Patient?identifier=id19990",
    "Patient?name=jones",
    "Patient?gender=male&active=true",
    "Encounter?patient=Patient4000",
    "Encounter?date=ge1970-02-01&date=lt1970-02-02",
    "Encounter?status=planned",
    "Encounter?patient.name=jones",
]

EMPTY_TABLES = ("Organization",)
LOAD = r"""
INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, 9) n;
CREATE TABLE source AS
SELECT 1 AS t, n, k, CASE k WHEN 'Encounter' THEN -n::bigint * 600000000 ELSE 0 END AS rank
FROM generate_series(1, 20000) n, unnest(ARRAY['Patient', 'Encounter']) k
UNION ALL SELECT t, n, k, CASE k WHEN 'Encounter' THEN -n::bigint * 600000000 ELSE 0 END
FROM generate_series(1, 9) t, generate_series(1, 20) n, unnest(ARRAY['Patient', 'Encounter', 'Practitioner', 'Claim']) k
WHERE t > 1 OR k IN ('Practitioner', 'Claim');

INSERT INTO fhir.resource SELECT t, k, k || n, rank, 1, '2026-01-01'::timestamptz + n * interval '1 s', false, '\x00',
    repeat('x', 800)::bytea
FROM source;

INSERT INTO fhir.token SELECT t, k, k || n, rank, p,
    CASE p WHEN 'gender' THEN CASE WHEN n % 1000 = 0 THEN 'male' ELSE 'female' END
        WHEN 'active' THEN 'true' ELSE 'id' || n END,
    CASE p WHEN 'identifier' THEN 'http://a' ELSE '' END
FROM source, unnest(ARRAY['identifier', 'gender', 'active']) p WHERE k IN ('Patient', 'Practitioner');

INSERT INTO fhir.token SELECT t, k, k || n, rank, p,
    CASE p WHEN 'status' THEN CASE WHEN n % 1000 = 0 THEN 'planned' ELSE 'finished' END
        WHEN 'class' THEN 'AMB' ELSE 'id' || n END,
    CASE p WHEN 'identifier' THEN 'http://a' WHEN 'class' THEN 'act' ELSE '' END
FROM source, unnest(ARRAY['identifier', 'status', 'class']) p WHERE k = 'Encounter';

INSERT INTO fhir.string SELECT t, k, k || n, rank, p, lower(name), name
FROM (SELECT *, CASE WHEN n % 1000 = 0 THEN 'Jones' ELSE 'Smith' END AS name FROM source) s,
    unnest(ARRAY['name', 'family']) p
WHERE k IN ('Patient', 'Practitioner');

INSERT INTO fhir.date SELECT t, k, k || n, rank, CASE k WHEN 'Patient' THEN 'birthdate' ELSE 'date' END,
    lower, lower + CASE WHEN k = 'Patient' THEN interval '1 day' WHEN n % 500 = 0 THEN interval '60 days'
        WHEN n % 10 = 1 THEN interval 'infinity' ELSE interval '30 min' END
FROM (SELECT *, CASE k WHEN 'Patient' THEN '1950-01-01'::timestamptz + n * interval '1 day'
    ELSE '1970-01-01'::timestamptz + n * interval '10 min' END AS lower FROM source) s
WHERE k IN ('Patient', 'Encounter');

INSERT INTO fhir.reference SELECT t, k, k || n, rank, path, to_type,
    to_type || CASE path WHEN 'subject' THEN n / 4 ELSE n % 2 END
FROM source, (VALUES ('subject', 'Patient'), ('participant.individual', 'Practitioner')) p (path, to_type)
WHERE k = 'Encounter';

INSERT INTO fhir.reference SELECT t, k, k || n, rank, 'item.encounter', 'Encounter', 'Encounter' || 19980 + n
FROM source WHERE k = 'Claim';
"""
# No temporary table: making one would have every connection plan anew.


@dataclass(frozen=True)
class Case:
    """A statement with the values of one ask. `types`: those whose partitions it may touch; none is all of them."""

    name: str
    types: frozenset[str]
    statement: Statement
    values: tuple[Any, ...]


def searched(question: str) -> Search:
    kind, _, query = question.partition("?")
    return parse_search(kind, [*parse_qsl(query), ("_count", str(PAGE))])


def _types(search: Search) -> frozenset[str]:
    if search.inclusions:
        return frozenset()
    hops = [hop for criterion in search.criteria for hop in criterion.hops]
    return frozenset([search.type, *(kind for hop in hops for kind in (hop.type, hop.target))])


def _list(name: str, search: Search, place: tuple[Any, str] | None = None) -> Case:
    return Case(name, _types(search), list_statement(search), list_values(search, place))


def _cases() -> list[Case]:
    cases = [Case("review", frozenset(), review_statement(), ("Encounter19990", EARLIEST, "", -1, "", "", 1001))]
    for kind, queries in LISTS.items():
        cases.append(Case(f"{kind}/id", frozenset([kind]), read_statement(kind), (f"{kind}7",)))
        cases += [_list(f"{kind}?{query}", searched(f"{kind}?{query}")) for query in queries]
    cases += [_list(f"deep {question}", searched(question), place) for question, place in DEEP.items()]
    kind, target = COMPARTMENT
    params = "|".join(COMPARTMENTS["Patient"][kind])
    return [*cases, _list("compartment", parse_search(kind, (), compartment=(params, target)))]


CASES = {case.name: case for case in _cases()}
TOTALS = {
    f"total {question}": Case(f"total {question}", _types(search), total_statement(search), total_values(search))
    for question in COUNTED
    for search in [searched(question)]
}
