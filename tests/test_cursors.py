"""Paging: every match once and in order, and cursors that are good for one tenant and one query."""

from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from handlers.cursors import Cursors
from storage.embedded import Cluster
from tests.support import (
    PATHS,
    Home,
    add_tenant,
    asking,
    build_home,
    connected,
    cursor_of,
    diagnosed,
    encounter,
    following,
    ids,
    patient,
    store,
    walk,
)  # fmt: skip

CANARY = "Canarynamethatnobodyhas"


async def _fill(home: Home) -> None:
    """Encounters on few days, so that many share a rank and the id decides; and one that has no date."""
    people = [patient(f"p{n:03}", name=[{"family": f"{CANARY}{n % 7}"}], active=n % 2 == 0, gender="female") for n in range(50)]
    visits = [encounter(f"e{n:02}", f"2024-01-{n % 5 + 1:02}", subject={"reference": "Patient/p001"}) for n in range(30)]
    undated = encounter("e99", subject={"reference": "Patient/p001"})
    for tenant in ("one", "two"):
        home.keys[tenant] = await add_tenant(home.database, tenant, [*people, *visits, undated])


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "cursors", _fill)


VISITS = [*sorted((f"e{n:02}" for n in range(30)), key=lambda name: (-(int(name[1:]) % 5), name)), "e99"]
PEOPLE = [f"p{n:03}" for n in range(50)]


@pytest.mark.parametrize("count", [1, 7, 31, 1000])
@pytest.mark.parametrize("path", PATHS)
async def test_walk(home: Home, path: str, count: int) -> None:
    """Rule 14: following next gives each match once, in order: the newest first, ids among equals, undated last; else by id."""
    async with asking(home, path) as ask:
        pages = await walk(ask, f"/encounters?_count={count}")
        assert [name for page in pages for name in page] == VISITS
        assert {len(page) for page in pages[:-1]} <= {count}
        found = await walk(ask, f"/fhir/Patient?active=true&family={CANARY.lower()}&_count={count}")
        assert [name for page in found for name in page] == PEOPLE[::2]


@pytest.mark.parametrize("path", PATHS)
async def test_several_drivers(home: Home, path: str) -> None:
    """Rule 14: alternatives that find the same resource show it once, also over pages."""
    async with asking(home, path) as ask:
        for query in ("gender=female,male", f"family={CANARY},{CANARY}1", "_id=p001,p000,p001", "active=true,false"):
            pages = await walk(ask, f"/patients?{query}&_count=3")
            names = [name for page in pages for name in page]
            assert names == sorted(set(names)) == (["p000", "p001"] if query.startswith("_id") else PEOPLE)


@pytest.mark.parametrize("path", PATHS)
async def test_counts(home: Home, path: str) -> None:
    """Rules 12 and 13: _count is kept or capped, 0 gives the total alone; a total counts all matches, on every page alike."""
    async with asking(home, path) as ask:
        assert len(ids(await ask("/patients"))) == 20
        assert len(ids(await ask("/patients?_count="))) == 20
        whole = await ask("/patients?_count=123456789")
        assert len(ids(whole)) == 50
        assert "_count=1000" in whole.json["link"][0]["url"]
        assert "total" not in whole.json
        none = await ask("/patients?_count=0")
        assert (none.json["total"], "entry" in none.json, len(none.json["link"])) == (50, False, 1)
        for total in ("accurate", "estimate"):
            first = await ask(f"/patients?active=true&_total={total}&_count=10")
            second = await ask(following(first) or "")
            assert [reply.json["total"] for reply in (first, second)] == [25, 25]
        assert "total" not in (await ask("/patients?_total=none")).json
        for broken in ("-1", "abc", "1.5", "1e3", "%D9%A1", "1234567890", " 1"):
            assert diagnosed(await ask(f"/patients?_count={broken}".replace(" ", "%20")), 400, "invalid")
        assert diagnosed(await ask("/patients?_total=yes"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_next_keeps_the_question(home: Home, path: str) -> None:
    """Rules 10 and 14: next carries every parameter that was understood, and its count, under the base; self shows the same."""
    async with asking(home, path) as ask:
        query = [("active", "true"), ("family", f"{CANARY}1,{CANARY}2"), ("family", CANARY[:3]), ("_total", "accurate")]
        reply = await ask(f"/patients?{urlencode([*query, ('unknown', 'x'), ('gender', '')])}&_count=2")
        base = ask.server.services.config.base_url
        for link in reply.json["link"]:
            assert link["url"].startswith(f"{base}/fhir/Patient?")
            pairs = parse_qsl(urlsplit(link["url"]).query)
            assert [pair for pair in pairs if pair[0] != "_cursor"] == [*query, ("_count", "2")]


@pytest.mark.parametrize("path", PATHS)
async def test_cursor_stands_a_changed_count(home: Home, path: str) -> None:
    """Rule 12: a client may take the next link's query with another _count, order and format."""
    async with asking(home, path) as ask:
        first = await ask("/patients?active=true&gender=female&_count=2")
        cursor = cursor_of(first)
        for query in ("gender=female&active=true", "active=true&gender=female&_format=json&_pretty=true&unknown=x&family="):
            assert ids(await ask(f"/fhir/Patient?_cursor={cursor}&_count=3&{query}")) == ["p004", "p006", "p008"], query


@pytest.mark.parametrize("path", PATHS)
async def test_cursor_is_of_one_query_and_tenant(home: Home, path: str) -> None:
    """Rule 14: a cursor of another tenant, type or query is refused in words that do not repeat it."""
    async with asking(home, path) as ask:
        cursor = cursor_of(await ask("/patients?active=true&_count=2"))
        for tenant, url in (
            ("two", f"/patients?active=true&_cursor={cursor}"),
            ("one", f"/patients?active=false&_cursor={cursor}"),
            ("one", f"/patients?_cursor={cursor}"),
            ("one", f"/patients?active=true&gender=female&_cursor={cursor}"),
            ("one", f"/patients?active=true&_total=accurate&_cursor={cursor}"),
            ("one", f"/patients?active=true&_sort=family&_cursor={cursor}"),
            ("one", f"/patients?active:not=true&_cursor={cursor}"),
            ("one", f"/patients?active=true&_summary=true&_cursor={cursor}"),
            ("one", f"/fhir/Patient/p001/Patient?active=true&_cursor={cursor}"),
            ("one", f"/practitioners?active=true&_cursor={cursor}"),
            ("one", f"/reviews/e01?_cursor={cursor}"),
        ):
            reply = await ask(url, tenant)
            words = diagnosed(reply, 400, "invalid")
            assert reply.json["issue"][0]["expression"] == ["_cursor"]
            assert cursor not in words


@pytest.mark.parametrize("path", PATHS)
async def test_tampered_cursor(home: Home, path: str) -> None:
    """Rule 14: any other text than a cursor that was given is refused: changed, cut, lengthened, filled up, or never one."""
    async with asking(home, path) as ask:
        cursor = cursor_of(await ask("/patients?_count=2"))
        changed = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))]
        texts = [*changed, cursor[:-1], cursor + "A", cursor + "=", cursor[:9] + "!" + cursor[9:], cursor * 99, "x", "%00", "é"]
        for text in texts:
            assert diagnosed(await ask.once(f"/patients?_cursor={text.replace('é', '%C3%A9')}"), 400, "invalid"), text
        assert ids(await ask(f"/patients?_cursor={cursor}&_count=1")) == ["p002"]


@pytest.mark.parametrize("path", PATHS)
async def test_inserts_between_pages(home: Home, path: str) -> None:
    """Rule 14: what comes in between two pages neither repeats nor drops a match: it is shown if it is behind the place."""
    tenant = f"growing-{path}"
    home.keys[tenant] = await add_tenant(home.database, tenant, [patient(f"m{n}") for n in range(9)])
    async with asking(home, path) as ask, connected(home.database) as connection:
        seen, step, number = [], "/patients?_count=2", 0
        while step:
            reply = await ask(step, tenant)
            seen += ids(reply)
            step = following(reply) or ""
            await store(connection, tenant, [patient(f"a{number}"), patient(f"z{number}")])
            number += 1
            if number > 3:
                break
        while step:
            reply = await ask(step, tenant)
            seen += ids(reply)
            step = following(reply) or ""
        assert seen == [*(f"m{n}" for n in range(9)), *(f"z{n}" for n in range(4))]


async def test_cursor_is_the_same_everywhere(home: Home) -> None:
    """The same place gives the same cursor on both paths, in another process, and at another time; it shows no name."""
    cursors = set()
    for path in PATHS:
        async with asking(home, path) as ask:
            cursors.add(cursor_of(await ask(f"/patients?family={CANARY}&_count=2")))
    assert len(cursors) == 1


def test_seal() -> None:
    """A cursor opens for the tenant and the query that it was made for, and with its own secret only."""
    cursors, query = Cursors(b"secret"), ["Patient", [["family", CANARY]]]
    cursor = cursors.seal(1, query, [0, CANARY])
    assert cursors.open(1, query, cursor, tuple[int, str]) == (0, CANARY)
    assert CANARY not in cursor
    for other, tenant, asked in ((Cursors(b"other"), 1, query), (cursors, 2, query), (cursors, 1, ["Patient", []])):
        with pytest.raises(Exception, match="not one of this list"):
            other.open(tenant, asked, cursor, tuple[int, str])
