"""$everything of a patient, and that every reference within stored data leads somewhere."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from r4.dates import EARLIEST, LATEST
from storage.connecting.pools import API_SETTINGS
from storage.embedded import Cluster
from storage.records import everything_statement
from tests.explaining import _literal, nodes, rows_touched
from tests.importing import imported
from tests.support import (
    NOW,
    Asker,
    Home,
    Reply,
    add_tenant,
    asking,
    build_home,
    bundle_of,
    connect,
    connected,
    cursor_of,
    delete,
    diagnosed,
    encounter,
    following,
    patient,
    store,
)
from tests.test_review import claim, names, ref

Json = dict[str, Any]
LATER = NOW + timedelta(days=40)


def condition(key: str, whose: str, recorded: str | None = None, **more: Any) -> Json:
    dated = {"recordedDate": recorded} if recorded else {}
    return {"resourceType": "Condition", "id": key, "subject": ref(f"Patient/{whose}"), **dated, **more}


def coverage(key: str, whose: str, **more: Any) -> Json:
    return {
        "resourceType": "Coverage", "id": key, "status": "active", "beneficiary": ref(f"Patient/{whose}"),
        "payor": [ref("Organization/payer")], **more,
    }  # fmt: skip


def observation(key: str, *members: str, **more: Any) -> Json:
    return {
        "resourceType": "Observation", "id": key, "status": "final", "code": {"text": "x"},
        "hasMember": [ref(name) for name in members], **more,
    }  # fmt: skip


PAYEE = {"payee": {"type": {"text": "x"}, "party": ref("Patient/a")}}


def _world() -> list[Json]:
    """A patient `a` with all that is theirs, and things that are near and must stay out."""
    return [
        patient(
            "a",
            generalPractitioner=[ref("Practitioner/gp"), ref("Organization/house")],
            link=[{"other": ref("Patient/twin"), "type": "seealso"}],
            birthDate="1980-01-01",
        ),
        patient("twin", link=[{"other": ref("Patient/a"), "type": "seealso"}]),
        patient("b"),
        patient("lonely"),
        patient("gone"),
        encounter("e1", "2024-01-10", subject=ref("Patient/a"), participant=[{"individual": ref("Practitioner/dr")}]),
        encounter("e2", "2024-03-10", subject=ref("Patient/a"), serviceProvider=ref("Organization/house"),
                  location=[{"location": ref("Location/gone")}]),
        encounter("of-b", "2024-01-10", subject=ref("Patient/b"), participant=[{"individual": ref("Practitioner/of-b")}]),
        condition("c1", "a", "2024-01-10", encounter=ref("Encounter/e1"), asserter=ref("Practitioner/dr")),
        condition("c2", "a"),
        condition("of-gone", "gone"),
        # Twice theirs, by two elements; and once only by the less common one.
        claim("both", "e1", None, "Coverage/mine") | PAYEE,
        claim("payee", None, None, "Coverage/of-b") | PAYEE | {"patient": ref("Patient/b")},
        coverage("mine", "a"),
        coverage("of-b", "b"),
        # What a list of theirs names may be another's, or nobody's.
        observation("group", "Observation/of-b", "Observation/nobodys", "Observation/nowhere", subject=ref("Patient/a")),
        observation("of-b", subject=ref("Patient/b")),
        observation("nobodys", "Observation/too-far"),
        observation("too-far"),
        observation("elsewhere", subject=ref("https://other.example/fhir/Patient/a")),
        observation("contained", subject=ref("#p")) | {"contained": [{"resourceType": "Patient", "id": "p"}]},
        {"resourceType": "Location", "id": "gone"},
        {"resourceType": "Procedure", "id": "gone", "status": "completed", "subject": ref("Patient/a")},
        *({"resourceType": kind, "id": key} for kind, key in
          (("Practitioner", "gp"), ("Practitioner", "dr"), ("Practitioner", "of-b"), ("Practitioner", "nobodys"))),
        *({"resourceType": "Organization", "id": key, "name": "x"} for key in ("house", "payer", "org", "nobodys")),
    ]  # fmt: skip


THEIRS = [
    "Claim/both", "Claim/payee", "Condition/c1", "Condition/c2", "Coverage/mine", "Encounter/e1", "Encounter/e2",
    "Observation/group",
]  # fmt: skip
NAMED = [
    "Observation/nobodys",
    "Organization/house",
    "Organization/org",
    "Organization/payer",
    "Practitioner/dr",
    "Practitioner/gp",
]
WHOLE = ["Patient/a", *THEIRS, *NAMED]
URL = "/fhir/Patient/a/$everything"


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", _world())
    home.keys["two"] = await add_tenant(home.database, "two", [patient("a", active=True), condition("foreign", "a")])
    await delete(home.database, "one", ("Patient", "gone"), ("Procedure", "gone"), ("Location", "gone"))


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "everything", _fill)


async def walk(ask: Asker, url: str, tenant: str = "one") -> list[str]:
    found: list[str] = []
    step: str | None = url
    while step is not None:
        reply = await ask(step, tenant)
        assert reply.status == 200, reply.body
        found += names(reply)
        step = following(reply)
    return found


async def test_what_is_in_it(home: Home) -> None:
    """Rule 26: the patient is the match, then what refers to them, then what these name and is no other's; each once."""
    async with asking(home, "direct") as ask:
        reply = await ask(URL)
        assert names(reply) == WHOLE
        modes = [entry["search"]["mode"] for entry in bundle_of(reply)["entry"]]
        assert modes == ["match", *["include"] * (len(WHOLE) - 1)]
        assert [link["relation"] for link in reply.json["link"]] == ["self"]
        for entry in reply.json["entry"]:
            name = entry["fullUrl"].rpartition("/fhir/")[2]
            assert entry["resource"] == (await ask(f"/fhir/{name}")).json
        assert names(await ask("/fhir/Patient/lonely/$everything")) == ["Patient/lonely"]


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 14, 15, 16])
async def test_pages(home: Home, count: int) -> None:
    """Rules 12 and 14: the pages together are the whole in its order, none with more than was asked for."""
    async with asking(home, "direct") as ask:
        reply, pages = await ask(f"{URL}?_count={count}"), 1
        found = names(reply)
        while step := following(reply):
            reply = await ask(step)
            assert 1 <= len(names(reply)) <= count
            found, pages = found + names(reply), pages + 1
        assert found == WHOLE
        assert pages == -(-len(WHOLE) // count)


async def test_types(home: Home) -> None:
    """`_type` names, with commas or again, what comes beside the patient; a name that is none is refused."""
    async with asking(home, "direct") as ask:
        for query, kinds in (
            ("_type=Encounter", ["Encounter"]),
            ("_type=Organization,Encounter", ["Encounter", "Organization"]),
            ("_type=Practitioner&_type=Claim,", ["Practitioner", "Claim"]),
            ("_type=Patient", []),
            ("_type=Goal", []),
            ("_type=", [name.partition("/")[0] for name in WHOLE]),
        ):
            wanted = ["Patient/a", *(name for name in WHOLE[1:] if name.partition("/")[0] in kinds)]
            for count in (2, 1000):
                assert await walk(ask, f"{URL}?{query}&_count={count}") == wanted
        for value in ("Foo", "encounter", "Encounter,Foo", ","):
            refused = await ask(f"{URL}?_type={value}")
            assert diagnosed(refused, 400, "invalid")
            assert refused.json["issue"][0]["expression"] == ["_type"]


async def test_since(home: Home) -> None:
    """`_since` leaves what has changed then or later, whichever way it belongs here; and the patient."""
    home.keys["moving"] = await add_tenant(home.database, "moving", _world())
    async with connected(home.database) as connection:
        changed = [
            condition("c2", "a", "2024-02-02"),
            {"resourceType": "Practitioner", "id": "dr", "active": True},
            condition("c9", "a"),
        ]
        await store(connection, "moving", changed, LATER)
    await delete(home.database, "moving", ("Procedure", "gone"), ("Location", "gone"))
    async with asking(home, "direct") as ask:
        wanted = ["Patient/a", "Condition/c2", "Condition/c9", "Practitioner/dr"]
        for since in ("2026-02", LATER.isoformat(timespec="milliseconds"), f"2026-01-03&_since={LATER.date()}"):
            assert await walk(ask, f"{URL}?_since={since}", "moving") == wanted
            assert await walk(ask, f"{URL}?_since={since}&_count=2", "moving") == wanted
        assert await walk(ask, f"{URL}?_since=2027", "moving") == ["Patient/a"]
        assert len(await walk(ask, f"{URL}?_since=2026-01-02", "moving")) == len(WHOLE) + 1
        both = await walk(ask, f"{URL}?_since=2026-02&_type=Practitioner", "moving")
        assert both == ["Patient/a", "Practitioner/dr"]


async def test_dates(home: Home) -> None:
    """`start` and `end` leave what tells of a time between them, their last day included, and what tells of no time."""
    undated = {"Condition/c2", "Coverage/mine", "Observation/group", *NAMED}
    async with asking(home, "direct") as ask:
        for query, dated in (
            ("start=2024-01-10", {"Encounter/e1", "Encounter/e2", "Condition/c1"}),
            ("start=2024-01-11", {"Encounter/e1", "Encounter/e2"}),  # without an end they go on
            ("end=2024-01-10", {"Claim/both", "Claim/payee", "Encounter/e1", "Condition/c1"}),
            ("end=2024-01-09", {"Claim/both", "Claim/payee"}),
            ("end=2024", {"Claim/both", "Claim/payee", "Encounter/e1", "Encounter/e2", "Condition/c1"}),
            ("start=2024-01-10&end=2024-01-10", {"Encounter/e1", "Condition/c1"}),
            ("start=2024-01-01&end=2024-01-01", {"Claim/both", "Claim/payee"}),
            ("start=1970&end=1971", set()),
        ):
            wanted = ["Patient/a", *(name for name in WHOLE[1:] if name in undated | dated)]
            for count in (3, 1000):
                assert await walk(ask, f"{URL}?{query}&_count={count}") == wanted, query
        for query in ("start=x", "end=2024-13", "start=gt2024", "end=10:00", "start=2025&end=2024", "_since=now", "_count=0"):
            refused = await ask(f"{URL}?{query}")
            assert diagnosed(refused, 400, "invalid")
            assert refused.json["issue"][0]["expression"] == [query.rpartition("=")[0].rpartition("&")[2]]


async def test_links(home: Home) -> None:
    """Rules 10 and 11: self and next say what was understood; the rest is left out, or refused when the client is strict."""
    async with asking(home, "direct", base_url="https://base.example") as ask:
        pairs = [("_since", "2020"), ("_type", "Encounter,Condition"), ("start", "2020-01-01"), ("end", "2030")]
        query = "&".join(f"{name}={value}" for name, value in pairs)
        for link in bundle_of(await ask(f"{URL}?{query}&_count=1&unknown=x&_since="))["link"]:
            assert link["url"].startswith(f"https://base.example{URL}?")
            shown = parse_qsl(urlsplit(link["url"]).query)
            assert [pair for pair in shown if pair[0] != "_cursor"] == [*pairs, ("_count", "1")]
        assert (await ask(f"{URL}?unknown=x")).body == (await ask(URL)).body
        assert "_format=json&" in (following(await ask(f"{URL}?_format=json&_count=1", Accept="text/html")) or "")
        refused = await ask(f"{URL}?unknown=x", Prefer="handling=strict")
        assert diagnosed(refused, 400, "invalid")
        assert refused.json["issue"][0]["expression"] == ["unknown"]
        assert (await ask(f"{URL}?{query}&_format=json", Prefer="handling=strict")).status == 200


async def test_not_there(home: Home) -> None:
    """Rule 2: of an unknown patient 404, of a deleted one 410, also while others refer to them."""
    async with asking(home, "direct") as ask:
        for given in ({}, {"If_None_Match": "*"}):
            for url in ("/fhir/Patient/zz/$everything", "/fhir/Patient/e1/$everything"):
                assert diagnosed(await ask(url, **given), 404, "not-found")
            assert diagnosed(await ask("/fhir/Patient/gone/$everything", **given), 410, "deleted")
        assert diagnosed(await ask("/fhir/Patient/a_b/$everything"), 400, "invalid")


async def test_tenants_are_apart(home: Home) -> None:
    """Rule 27: the same patient's id in two tenants has each tenant's own around it, and a cursor stays with its tenant."""
    async with asking(home, "direct") as ask:
        assert names(await ask(URL, "two")) == ["Patient/a", "Condition/foreign"]
        assert diagnosed(await ask("/fhir/Patient/b/$everything", "two"), 404, "not-found")
        cursor = cursor_of(await ask(f"{URL}?_type=Encounter&_count=1"))
        for tenant, url in (
            ("two", f"{URL}?_type=Encounter"),
            ("one", f"{URL}?_type=Condition"),
            ("one", f"{URL}?"),
            ("one", f"{URL}?_type=Encounter&_since=2020"),
            ("one", "/fhir/Patient/b/$everything?_type=Encounter"),
            ("one", "/fhir/Encounter/a/$everything?_type=Encounter"),
        ):
            reply = await ask(f"{url}&_cursor={cursor}", tenant)
            assert diagnosed(reply, 400, "invalid")
            assert reply.json["issue"][0]["expression"] == ["_cursor"]


async def test_unchanged(home: Home) -> None:
    """Rule 4: its ETag holds as long as nothing in it changes."""
    home.keys["calm"] = await add_tenant(home.database, "calm", _world())
    async with asking(home, "direct") as ask, connected(home.database) as connection:
        first = await ask(URL, "calm")
        assert (await ask(URL, "calm", If_None_Match=first.headers["ETag"])).status == 304
        await store(connection, "calm", [observation("too-far", status="amended")])
        assert (await ask(URL, "calm", If_None_Match=first.headers["ETag"])).status == 304
        await store(connection, "calm", [{"resourceType": "Practitioner", "id": "dr", "active": True}])
        assert (await ask(URL, "calm", If_None_Match=first.headers["ETag"])).status == 200


async def test_inserts_while_paging(home: Home) -> None:
    """Rule 14: what comes in between pages neither repeats nor drops anything; behind the place it is shown."""
    start = [patient("a"), *(condition(f"m{n}", "a", encounter=ref("Encounter/e")) for n in range(7)), encounter("e")]
    home.keys["growing"] = await add_tenant(home.database, "growing", start)
    async with asking(home, "direct") as ask, connected(home.database) as connection:
        found, step, number = [], f"{URL}?_count=2", 0
        while step:
            reply = await ask(step, "growing")
            found += names(reply)
            step = following(reply) or ""
            if number < 3:
                await store(connection, "growing", [condition(f"a{number}", "a"), condition(f"z{number}", "a")])
            number += 1
        # The first came in when the patient and m0 had been shown.
        assert found == [
            "Patient/a",
            *(f"Condition/m{n}" for n in range(7)),
            *(f"Condition/z{n}" for n in range(3)),
            "Encounter/e",
        ]


async def test_methods(home: Home) -> None:
    """Rule 5: HEAD is GET without its body; another method is 405 with Allow; it is direct, for a warm tenant too."""
    async with asking(home, "channel") as ask:
        whole, head = await ask.once(URL), await ask.once(URL, method="HEAD")
        assert (whole.status, whole.path) == (200, "direct")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(whole.body)))
        for method in ("POST", "PUT", "DELETE"):
            refused = await ask.once(URL, method=method)
            assert diagnosed(refused, 405, "not-supported")
            assert set(refused.headers["Allow"].split(",")) == {"GET", "HEAD"}
        assert ask.server.services.metrics.requests.child("everything", "direct", "200", "cold").value > 0


async def test_references_that_lead_to_no_type(home: Home) -> None:
    """Rows of references to other servers, which have no type here, add nothing to a patient's or an encounter's everything."""
    home.keys["outside"] = await add_tenant(home.database, "outside", _world())
    urls = (URL, "/fhir/Encounter/e1/$everything", f"{URL}?_type=Encounter&_count=1")
    async with asking(home, "direct") as ask, connected(home.database) as connection:
        before = [(await ask(url, "outside")).body for url in urls]
        await connection.execute("""
            INSERT INTO fhir.reference SELECT r.tenant_id, r.type, r.id, 0, 'x', '', to_id
            FROM fhir.resource r JOIN ops.tenant t USING (tenant_id),
                unnest(ARRAY['https://other.example/fhir/Patient/a', 'a', 'e1', '']) to_id
            WHERE t.name = 'outside'
        """)
        await connection.execute("""
            INSERT INTO fhir.resource SELECT tenant_id, '', id, 0, 1, last_updated, false, '', '{}'
            FROM fhir.resource JOIN ops.tenant t USING (tenant_id) WHERE type = 'Patient' AND t.name = 'outside'
        """)
        assert [(await ask(url, "outside")).body for url in urls] == before


# A patient with much, and what the database reads for it.

MANY = 10_000
DAY = (datetime(2020, 1, 3, tzinfo=UTC), datetime(2020, 1, 4, tzinfo=UTC))
LOAD = r"""
INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, 3) n;
CREATE TABLE source AS SELECT n, k, CASE WHEN n <= 2000 THEN 'much' ELSE 'p' || n / 20 END AS p
FROM generate_series(1, 8000) n, unnest(ARRAY['Encounter', 'Claim', 'ExplanationOfBenefit', 'Condition', 'Procedure']) k;
INSERT INTO fhir.resource SELECT 1, k, k || n, 0, 1, '2026-01-01', false, '\x00',
    convert_to('{"resourceType":"' || k || '","id":"' || k || n || '"}', 'UTF8')
FROM (SELECT n, k FROM source UNION ALL SELECT n, 'Practitioner' FROM generate_series(0, 49) n) s;
INSERT INTO fhir.resource SELECT 1, 'Patient', p, 0, 1, '2026-01-01', false, '\x00',
    convert_to('{"resourceType":"Patient","id":"' || p || '"}', 'UTF8') FROM (SELECT DISTINCT p FROM source) s;
INSERT INTO fhir.reference SELECT 1, k, k || n, 0, 'subject', 'Patient', p FROM source;
INSERT INTO fhir.reference SELECT 1, k, k || n, 0, 'payee.party', 'Patient', p FROM source WHERE k = 'Claim';
INSERT INTO fhir.reference SELECT 1, k, k || n, 0, 'provider', 'Practitioner', 'Practitioner' || n % 50 FROM source;
INSERT INTO fhir.reference SELECT 1, k, k || n, 0, 'encounter', 'Encounter', 'Encounter' || n
FROM source WHERE k <> 'Encounter';
INSERT INTO fhir.date SELECT 1, k, k || n, 0, 'date', '2020-01-01'::timestamptz + n * interval '1 h',
    '2020-01-01'::timestamptz + (n + 1) * interval '1 h' FROM source;
ANALYZE;
"""


@pytest.fixture(scope="module")
def crowded(cluster: Cluster, template: str) -> Home:
    async def fill(home: Home) -> None:
        home.keys["t1"] = await add_tenant(home.database, "first")
        async with connected(home.database) as connection:
            await connection.execute(LOAD)

    return build_home(cluster, template, "crowded", fill)


async def test_much(crowded: Home) -> None:
    """Rule 26: of 10 000 resources a page brings a thousand and says where it goes on, until every one was there once."""
    async with asking(crowded, "direct") as ask:
        first = await ask("/fhir/Patient/much/$everything", "t1")
        assert len(names(first)) == 1000
        assert following(first)
        found = await walk(ask, "/fhir/Patient/much/$everything", "t1")
        kinds = sorted(("Encounter", "Claim", "ExplanationOfBenefit", "Condition", "Procedure"))
        theirs = [f"{kind}/{name}" for kind in kinds for name in sorted(f"{kind}{n}" for n in range(1, MANY // 5 + 1))]
        assert found == ["Patient/much", *theirs, *sorted(f"Practitioner/Practitioner{n}" for n in range(50))]


def _place(*values: Any, kind: int = -1, after: tuple[str, str] = ("", ""), rows: int = 21) -> tuple[Any, ...]:
    return (*(values or ("much", EARLIEST, "", False, EARLIEST, LATEST)), kind, *after, rows)


OWN = MANY + MANY // 5  # their references: a claim has two
PAGES = {
    # Values, and how many rows are read at most: each reference to the patient, and what the page shows and looks at.
    "first": (_place(), OWN + 50),
    "deep": (_place(kind=1, after=("Procedure", "Procedure1500")), OWN + 50),
    "little": (_place("p300", EARLIEST, "", False, EARLIEST, LATEST, rows=1001), 2000),
    "few of a type": (_place("much", EARLIEST, "Condition", False, EARLIEST, LATEST), OWN + 50),
    # All that theirs lead to has to be known, once each.
    "what they name": (_place(kind=2, after=("Practitioner", "Practitioner3")), OWN + 5 * MANY),
    "few dates": (_place("much", EARLIEST, "", True, *DAY), OWN + 9 * MANY),
}


@pytest.fixture(scope="module")
def plans(crowded: Home) -> dict[str, Any]:
    async def explained() -> dict[str, Any]:
        connection = await connect(crowded.database, **API_SETTINGS)
        await connection.execute(f"PREPARE everything AS {everything_statement().plain}")
        found = {}
        for name, (values, _) in PAGES.items():
            text = f"EXECUTE everything({', '.join(_literal(value) for value in (1, *values))})"
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {text}")
            found[name] = json.loads(plan)[0]["Plan"]
        await connection.close()
        return found

    return asyncio.run(explained())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_bounded(plans: dict[str, Any], name: str) -> None:
    """A page reads what is the patient's, and of that no more than it must; it reads no table through."""
    kinds = {node["Node Type"] for node in nodes(plans[name])}
    assert not kinds & {"Seq Scan", "Bitmap Heap Scan", "Hash", "Hash Join", "Merge Join"}
    assert rows_touched(plans[name]) <= PAGES[name][1]


# References.


def references(value: object) -> Iterator[str]:
    """All of a resource; of any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


async def test_references_resolve(home: Home, shared_data: Path) -> None:
    """Every reference by type and id in the shared data is read at its place under the base, if its target is stored."""
    home.keys["shared"] = await add_tenant(home.database, "shared")
    async with connected(home.database) as connection:
        tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = 'shared'")
        _, bad = await imported(home.database, tenant_id, shared_data / "fhir")
        assert not bad
        rows = await connection.fetch("SELECT type, id, body FROM fhir.resource WHERE tenant_id = $1", tenant_id)
    stored = {f"{row['type']}/{row['id']}": row["body"] for row in rows}
    wanted = set(itertools.chain.from_iterable(references(json.loads(body)) for body in stored.values()))
    relative = sorted(name for name in wanted if name.count("/") == 1 and name[0].isupper())
    assert len({name.partition("/")[0] for name in relative}) > 5
    async with asking(home, "direct") as ask:
        for name in relative:
            reply: Reply = await ask(f"/fhir/{name}", "shared")
            assert (reply.status, reply.body if name in stored else b"") == (
                (200, stored[name]) if name in stored else (404, b"")
            )
