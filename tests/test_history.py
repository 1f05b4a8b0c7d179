"""Versions and histories: of a resource, a type and all, against a log of what was written."""

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from fhir.resources.R4B import get_fhir_model_class

from base.operations import OPERATIONS
from r4.dates import EARLIEST, LATEST
from r4.resource import split
from storage.connecting.pools import API_SETTINGS
from storage.embedded import Cluster
from storage.records import history_of_all, history_of_one, history_of_types, vread_statement
from storage.resources import Batch, upsert
from storage.statements import Statement
from tests.conftest import make_database
from tests.explaining import _literal, nodes, pages_touched, rows_touched
from tests.support import (
    NOW,
    Asker,
    Home,
    Reply,
    add_tenant,
    asking,
    build_home,
    connect,
    connected,
    cursor_of,
    diagnosed,
    following,
)

Json = dict[str, Any]
Change = tuple[str, str, Json | None]
"""(type, id, members), None for a deletion."""

BASE = "https://base.example/fhir"
HOUR = timedelta(hours=1)
KINDS = ("Patient", "Practitioner", "Organization", "Location", "Device")
"""Two that have partitions of their own, and three that share one; a few members make each of them valid."""


@dataclass(frozen=True)
class Written:
    """A version, as it was written: `body` None is a deletion."""

    at: datetime
    type: str
    id: str
    version: int
    body: Json | None

    @property
    def name(self) -> str:
        return f"{self.type}/{self.id}"

    @property
    def shown(self) -> tuple[str, int]:
        return self.name, self.version


@dataclass
class Log:
    """What a tenant's history has to say: what is written goes here and into the database at once."""

    database: str
    tenant: str
    versions: list[Written] = field(default_factory=list)

    async def write(self, at: datetime, *changes: Change) -> None:
        """Each must really change something."""
        made = [split(json.dumps({"resourceType": t, "id": i, **members}).encode()) for t, i, members in changes if members]
        gone = [(t, i) for t, i, members in changes if members is None]
        async with connected(self.database) as connection, connection.transaction():
            tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = $1", self.tenant)
            await upsert(connection, tenant_id, Batch(made, gone), at)
        for type_name, resource_id, members in changes:
            version = 1 + sum((v.type, v.id) == (type_name, resource_id) for v in self.versions)
            self.versions.append(Written(at, type_name, resource_id, version, members))

    def newest_first(self, *, since: datetime = EARLIEST, types: Sequence[str] = (), name: str = "") -> list[tuple[str, int]]:
        return [v.shown for v in self.versions_of(since=since, types=types, name=name)]

    def versions_of(self, *, since: datetime = EARLIEST, types: Sequence[str] = (), name: str = "") -> list[Written]:
        found = [v for v in self.versions if v.at >= since and (not types or v.type in types) and name in ("", v.name)]
        return sorted(found, key=lambda v: (v.at, v.type, v.id, v.version), reverse=True)


async def _written(database: str, tenant: str, seed: int) -> Log:
    """A few resources that change again and again, many in the same moment, one even four times; and one that is quiet."""
    log, pick = Log(database, tenant), random.Random(seed)
    await log.write(NOW, ("Device", "quiet", {"language": f"{tenant}-quiet"}))
    resources = [(kind, f"r{n}") for kind in KINDS for n in range(4)]
    alive: set[tuple[str, str]] = set()
    for step in range(24):
        changes: list[Change] = []
        for resource in pick.sample(resources, 6):
            deleted = resource in alive and pick.random() < 0.3
            changes.append((*resource, None if deleted else {"language": f"{tenant}-{step}"}))
            (alive.discard if deleted else alive.add)(resource)
        await log.write(NOW + step // 3 * HOUR, *changes)
    for number in range(4):
        await log.write(NOW + 9 * HOUR, ("Location", "restless", {"language": f"{tenant}-{number}"}))
    return log


@dataclass
class World:
    home: Home
    logs: dict[str, Log]


@pytest.fixture(scope="module")
def world(cluster: Cluster, template: str) -> World:
    logs: dict[str, Log] = {}

    async def fill(home: Home) -> None:
        for number, tenant in enumerate(("one", "two")):
            home.keys[tenant] = await add_tenant(home.database, tenant)
            logs[tenant] = await _written(home.database, tenant, number)

    return World(build_home(cluster, template, "history", fill), logs)


def bundle_of(reply: Reply) -> Json:
    """The history, valid as FHIR's models and as bdl-2, bdl-3 and bdl-4 want it."""
    assert reply.status == 200, reply.body
    bundle: Json = reply.json
    get_fhir_model_class("Bundle").model_validate(bundle)
    assert bundle["type"] == "history"
    assert bundle.get("entry") != []
    for entry in bundle.get("entry", ()):
        assert {"fullUrl", "request", "response"} <= set(entry) <= {"fullUrl", "request", "response", "resource"}
    return bundle


def versions_of(reply: Reply) -> list[tuple[str, int]]:
    """(Type/id, version) in their order."""
    return [
        (entry["request"]["url"], int(entry["response"]["etag"].removeprefix('W/"').removesuffix('"')))
        for entry in bundle_of(reply).get("entry", ())
    ]


async def walk(ask: Asker, url: str, tenant: str = "one") -> list[tuple[str, int]]:
    """All versions, page after page."""
    found: list[tuple[str, int]] = []
    step: str | None = url
    while step is not None:
        reply = await ask(step, tenant)
        found += versions_of(reply)
        step = following(reply)
        assert len(found) < 1000
    return found


def instant(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# One version.


async def test_vread(world: World) -> None:
    """Rule 3: each version is read with its own bytes, ETag and Last-Modified; the current one as a read gives it."""
    written = [version for version in world.logs["one"].versions if version.body]
    assert {version.version for version in written} >= {1, 2, 3}
    async with asking(world.home, "direct") as ask:
        for version in written:
            reply = await ask(f"/fhir/{version.name}/_history/{version.version}")
            assert (reply.status, reply.headers["ETag"]) == (200, f'W/"{version.version}"')
            assert reply.json["meta"] == {"versionId": str(version.version), "lastUpdated": instant(version.at)}
            assert reply.headers["Last-Modified"] == version.at.strftime("%a, %d %b %Y %H:%M:%S GMT")
            assert {name: reply.json[name] for name in version.body or ()} == version.body
            current = await ask(f"/fhir/{version.name}")
            if current.headers.get("ETag") == reply.headers["ETag"]:
                assert current.body == reply.body


async def test_vread_not_there(world: World) -> None:
    """Rule 3: a version that is not there, or can be none, is 404; one that is a deletion is 410, whatever came after it."""
    log = world.logs["one"]
    deletions = [version for version in log.versions if version.body is None]
    assert any(later.version > gone.version and later.name == gone.name for gone in deletions for later in log.versions)
    async with asking(world.home, "direct") as ask:
        for version in deletions:
            assert diagnosed(await ask(f"/fhir/{version.name}/_history/{version.version}"), 410, "deleted")
        for text in ("2", "0", "-1", "01", "x", "1.0", "%D9%A1", "2147483648", "9" * 30, "1%20", "%00"):
            assert diagnosed(await ask(f"/fhir/Device/quiet/_history/{text}"), 404, "not-found"), text
        assert diagnosed(await ask("/fhir/Device/zz/_history/1"), 404, "not-found")
        assert diagnosed(await ask("/fhir/Location/quiet/_history/1"), 404, "not-found")
        assert diagnosed(await ask("/fhir/Foo/quiet/_history/1"), 404, "not-supported")
        assert diagnosed(await ask("/fhir/Device/a_b/_history/1"), 400, "invalid")


async def test_vread_unchanged(world: World) -> None:
    """Rule 4: a version is unchanged for who has it; what is not there matches nothing."""
    async with asking(world.home, "direct") as ask:
        for given in ('W/"1"', "1", "*", 'W/"7", "1"'):
            reply = await ask("/fhir/Device/quiet/_history/1", If_None_Match=given)
            assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", 'W/"1"')
        assert (await ask("/fhir/Device/quiet/_history/1", If_None_Match='W/"2"')).status == 200
        assert diagnosed(await ask("/fhir/Device/quiet/_history/2", If_None_Match="*"), 404, "not-found")


# Histories.


async def test_what_is_said_of_a_version(world: World) -> None:
    """Rule 10: an entry has its resource, what was done to it and the answer to that; a deletion has no resource."""
    async with asking(world.home, "direct", base_url="https://base.example") as ask:
        entries = bundle_of(await ask("/fhir/_history?_count=1000"))["entry"]
        for version, entry in zip(world.logs["one"].versions_of(), entries, strict=True):
            assert entry["fullUrl"] == f"{BASE}/{version.name}"
            assert entry["request"] == {"method": "PUT" if version.body else "DELETE", "url": version.name}
            status = "204 No Content" if version.body is None else "201 Created" if version.version == 1 else "200 OK"
            told = {"status": status, "etag": f'W/"{version.version}"', "lastModified": instant(version.at)}
            assert entry["response"] == told
            assert ("resource" in entry) == (version.body is not None)
            if version.body:
                assert entry["resource"] == (await ask(f"/fhir/{version.name}/_history/{version.version}")).json


@pytest.mark.parametrize("count", [1, 2, 7, 20, 1000])
async def test_walk(world: World, count: int) -> None:
    """Rule 14: every level shows each version once, the newest first, deletions among them, however many make a page."""
    log = world.logs["one"]
    async with asking(world.home, "direct") as ask:
        assert await walk(ask, f"/fhir/_history?_count={count}") == log.newest_first()
        for kind in KINDS:
            assert await walk(ask, f"/fhir/{kind}/_history?_count={count}") == log.newest_first(types=[kind])
        for name in sorted({version.name for version in log.versions}):
            assert await walk(ask, f"/fhir/{name}/_history?_count={count}") == log.newest_first(name=name)
        for types in (["Device", "Patient"], ["Practitioner", "Location", "Organization"], KINDS, ["Basic", "Device"]):
            found = await walk(ask, f"/fhir/_history?_type={','.join(types)}&_count={count}")
            assert found == log.newest_first(types=types)


async def test_since(world: World) -> None:
    """`_since` leaves what was written then or later, at every level; a date counts from its beginning."""
    log = world.logs["one"]
    local = f"{(NOW + 5 * HOUR).replace(tzinfo=None).isoformat(timespec='milliseconds')}+02:00"
    moments = {
        instant(NOW + 3 * HOUR): NOW + 3 * HOUR,
        quote(local): NOW + 3 * HOUR,
        local: NOW + 3 * HOUR,  # its + is read as a space
        instant(NOW + 3 * HOUR + timedelta(milliseconds=1)): NOW + 4 * HOUR,
        "2026-01-02": NOW,
        "2026-01-03": NOW + 99 * HOUR,
        f"2026&_since={instant(NOW + 6 * HOUR)}": NOW + 6 * HOUR,
        f"{instant(NOW + 6 * HOUR)}&_since=2026": NOW + 6 * HOUR,
    }
    async with asking(world.home, "direct") as ask:
        for text, since in moments.items():
            assert await walk(ask, f"/fhir/_history?_since={text}&_count=9") == log.newest_first(since=since)
            for kind in ("Patient", "Device"):
                found = await walk(ask, f"/fhir/{kind}/_history?_since={text}&_count=3")
                assert found == log.newest_first(since=since, types=[kind])
            for name in ("Patient/r1", "Device/quiet"):
                found = await walk(ask, f"/fhir/{name}/_history?_since={text}&_count=2")
                assert found == log.newest_first(since=since, name=name)


async def test_malformed(world: World) -> None:
    """Rule 11: a malformed value is refused with its parameter's name, and is not repeated."""
    async with asking(world.home, "direct") as ask:
        for level in ("/fhir/_history", "/fhir/Patient/_history", "/fhir/Patient/r1/_history"):
            for query in ("_since=yesterday", "_since=2026-13", "_since=ge2026", "_since=%00", "_count=0", "_count=-1"):
                name, _, value = query.partition("=")
                reply = await ask(f"{level}?{query}")
                words = diagnosed(reply, 400, "invalid")
                assert reply.json["issue"][0]["expression"] == [name]
                assert len(value) < 3 or value not in words
        for value in ("Foo", "patient", "Patient,Foo", ",", "Patient;Device", "*"):
            reply = await ask(f"/fhir/_history?_type={value}")
            assert diagnosed(reply, 400, "invalid")
            assert reply.json["issue"][0]["expression"] == ["_type"]


async def test_not_understood(world: World) -> None:
    """Rules 10 and 11: what is not understood is left out of self, or refused when asked for; an empty value is none."""
    async with asking(world.home, "direct") as ask:
        for level, query in (
            ("/fhir/_history", "_at=2026"),
            ("/fhir/Patient/_history", "_list=x"),
            ("/fhir/Patient/_history", "_type=Device"),
            ("/fhir/Device/quiet/_history", "unknown=1"),
        ):
            plain = await ask(f"{level}?_count=5")
            assert (await ask(f"{level}?{query}&_count=5&_since=")).body == plain.body
            refused = await ask(f"{level}?{query}", Prefer="respond-async, handling=strict")
            assert diagnosed(refused, 400, "invalid")
            assert refused.json["issue"][0]["expression"] == [query.partition("=")[0]]
        strict = "/fhir/_history?_since=2026&_type=Device&_count=5&_format=json&_pretty=true"
        assert (await ask(strict, Prefer="handling=strict")).status == 200


async def test_links(world: World) -> None:
    """Rules 10 and 12: self and next carry, under the base, all that was understood and the count, which is capped."""
    async with asking(world.home, "direct", base_url="https://base.example") as ask:
        for path, pairs in (
            ("_history", [("_since", "2026-01-01"), ("_type", "Device,Patient")]),
            ("Patient/_history", [("_since", "2026-01-01T00:00:00+01:00")]),
            ("Patient/r1/_history", [("_since", "2026")]),
        ):
            query = "&".join(f"{name}={quote(value)}" for name, value in pairs)
            links = bundle_of(await ask(f"/fhir/{path}?{query}&_count=1&x=y"))["link"]
            assert [link["relation"] for link in links] == ["self", "next"]
            for link in links:
                assert link["url"].startswith(f"{BASE}/{path}?")
                shown = parse_qsl(urlsplit(link["url"]).query)
                assert [pair for pair in shown if pair[0] != "_cursor"] == [*pairs, ("_count", "1")]
        cursor = cursor_of(await ask("/fhir/_history?_count=1&_format=json"))
        pretty = await ask(f"/fhir/_history?_count=1&_pretty=true&_cursor={cursor}&_format=json", Accept="text/html")
        assert "_pretty=true&" in (following(pretty) or "")
        assert "_format=json&" in (following(pretty) or "")
        default, capped = await ask("/fhir/_history"), await ask("/fhir/_history?_count=5000")
        assert (len(versions_of(default)), default.json["link"][0]["url"]) == (20, f"{BASE}/_history?_count=20")
        assert capped.json["link"] == [{"relation": "self", "url": f"{BASE}/_history?_count=1000"}]


async def test_unknown_and_deleted(world: World) -> None:
    """Rule 2: a deleted resource's history is read on; one that never was is 404, and a type that is none too."""
    last = {version.name: version for version in world.logs["one"].versions}
    gone = [version for version in last.values() if version.body is None]
    assert gone
    async with asking(world.home, "direct") as ask:
        for version in gone:
            assert (await ask(f"/fhir/{version.name}")).status == 410
            assert versions_of(await ask(f"/fhir/{version.name}/_history"))[0] == version.shown
        for url in ("/fhir/Patient/zz/_history", "/fhir/Device/r9/_history", "/fhir/Patient/quiet/_history"):
            assert diagnosed(await ask(url), 404, "not-found")
        for url in ("/fhir/Foo/_history", "/fhir/patient/_history", "/fhir/Foo/x/_history"):
            assert diagnosed(await ask(url), 404, "not-supported")
        assert diagnosed(await ask("/fhir/Patient/a_b/_history"), 400, "invalid")
        assert versions_of(await ask("/fhir/Basic/_history")) == []
        assert "entry" not in (await ask("/fhir/Basic/_history")).json


async def test_cursor_is_of_one_history_and_tenant(world: World) -> None:
    """Rules 14 and 27: a cursor of another tenant, level, type, id or `_since` is refused; another count is welcome."""
    async with asking(world.home, "direct") as ask:
        cursor = cursor_of(await ask("/fhir/Patient/_history?_since=2026&_count=2"))
        for tenant, url in (
            ("two", "/fhir/Patient/_history?_since=2026"),
            ("one", "/fhir/Patient/_history?_since=2025"),
            ("one", "/fhir/Patient/_history?"),
            ("one", "/fhir/Device/_history?_since=2026"),
            ("one", "/fhir/_history?_since=2026"),
            ("one", "/fhir/_history?_since=2026&_type=Patient"),
            ("one", "/fhir/Patient/r1/_history?_since=2026"),
            ("one", "/fhir/Patient?"),
            ("one", "/fhir/Patient/r1/$everything?_since=2026"),
        ):
            reply = await ask(f"{url}&_cursor={cursor}", tenant)
            assert diagnosed(reply, 400, "invalid")
            assert reply.json["issue"][0]["expression"] == ["_cursor"]
        for broken in (cursor[:-1], cursor + "A", "x", cursor.swapcase()):
            assert diagnosed(await ask(f"/fhir/Patient/_history?_since=2026&_cursor={broken}"), 400, "invalid")
        rest = await ask(f"/fhir/Patient/_history?_cursor={cursor}&_count=5&_since=2026")
        assert versions_of(rest) == world.logs["one"].newest_first(types=["Patient"])[2:7]


async def test_tenants_are_apart(world: World) -> None:
    """Rule 27: the same ids in two tenants have each their own versions, and what one has alone the other cannot ask for."""
    home, logs = world.home, world.logs
    await logs["two"].write(NOW, ("Medication", "alone", {"language": "x"}))
    async with asking(home, "direct") as ask:
        for tenant, other in (("one", "two"), ("two", "one")):
            assert f"{other}-".encode() not in (await ask("/fhir/_history?_count=1000", tenant)).body
            assert await walk(ask, "/fhir/_history?_count=50", tenant) == logs[tenant].newest_first()
            for version in logs[tenant].versions_of(types=["Patient"]):
                reply = await ask(f"/fhir/{version.name}/_history/{version.version}", tenant)
                assert (version.body or {"language": ""})["language"] == (reply.json.get("language", ""))
        for url in ("/fhir/Medication/alone/_history", "/fhir/Medication/alone/_history/1"):
            assert (await ask(url, "two")).status == 200
            assert diagnosed(await ask(url, If_None_Match="*"), 404, "not-found")
        assert versions_of(await ask("/fhir/Medication/_history")) == []


async def test_unchanged_history(world: World) -> None:
    """Rule 4: a history has an ETag, which holds until there is a new version of what it shows."""
    home = world.home
    home.keys["moving"] = await add_tenant(home.database, "moving")
    log = Log(home.database, "moving")
    await log.write(NOW, ("Patient", "a", {"language": "x"}), ("Device", "g", {"language": "x"}))
    async with asking(home, "direct") as ask:
        for url in ("/fhir/_history", "/fhir/Patient/_history", "/fhir/Patient/a/_history"):
            first = await ask(url, "moving")
            assert (await ask(url, "moving", If_None_Match=first.headers["ETag"])).status == 304
            await log.write(NOW, ("Patient", "a", {"language": f"{len(log.versions)}"}))
            assert (await ask(url, "moving", If_None_Match=first.headers["ETag"])).status == 200


async def test_changes_while_paging(world: World) -> None:
    """Rule 14: what is written between two pages, also to what they show, neither repeats nor drops a version."""
    home = world.home
    home.keys["growing"] = await add_tenant(home.database, "growing")
    log = Log(home.database, "growing")
    for number in range(3):
        await log.write(NOW + number * HOUR, *((kind, f"r{n}", {"language": f"{number}"}) for kind in KINDS for n in range(3)))
    before = {
        "/fhir/_history": log.newest_first(),
        "/fhir/Device/_history": log.newest_first(types=["Device"]),
        "/fhir/Patient/_history": log.newest_first(types=["Patient"]),
        "/fhir/Patient/r1/_history": log.newest_first(name="Patient/r1"),
    }
    seen: dict[str, list[tuple[str, int]]] = {url: [] for url in before}
    steps: dict[str, str | None] = {url: f"{url}?_count=2" for url in before}
    number = 10
    async with asking(home, "direct") as ask:
        while any(steps.values()):
            for url, step in steps.items():
                if step:
                    reply = await ask(step, "growing")
                    seen[url] += versions_of(reply)
                    steps[url] = following(reply)
            number += 1
            await log.write(
                NOW + number * HOUR,
                ("Patient", "r1", {"language": f"{number}"}),
                ("HealthcareService", f"s{number}", {"language": "x"}),
                ("Device", "r2", None if number % 2 else {"language": f"{number}"}),
            )
    assert seen == before


async def test_following_changes(world: World) -> None:
    """Who asks again and again from a while before what was seen learns of creations, updates, deletions and late ones."""
    home = world.home
    home.keys["followed"] = await add_tenant(home.database, "followed")
    log = Log(home.database, "followed")
    copy: dict[tuple[str, int], Any] = {}
    newest = NOW

    async def follow(ask: Asker) -> list[tuple[str, int]]:
        nonlocal newest
        news: list[tuple[str, int]] = []
        step: str | None = f"/fhir/_history?_since={instant(newest - HOUR)}&_count=2"
        while step is not None:
            reply = await ask(step, "followed")
            for version, entry in zip(versions_of(reply), bundle_of(reply).get("entry", ()), strict=True):
                newest = max(newest, datetime.fromisoformat(entry["response"]["lastModified"]))
                if version not in copy:
                    copy[version] = entry.get("resource")
                    news.append(version)
            step = following(reply)
        return sorted(news)

    async with asking(home, "direct") as ask:
        assert await follow(ask) == []
        await log.write(NOW, ("Patient", "a", {"active": True}), ("Patient", "b", {"active": True}))
        assert await follow(ask) == [("Patient/a", 1), ("Patient/b", 1)]
        await log.write(NOW + HOUR, ("Patient", "a", {"active": False}), ("Device", "g", {"language": "x"}))
        assert await follow(ask) == [("Device/g", 1), ("Patient/a", 2)]
        await log.write(NOW + 2 * HOUR, ("Patient", "a", None))
        assert await follow(ask) == [("Patient/a", 3)]
        # It began before the deletion did, and was committed after it.
        await log.write(NOW + HOUR, ("Patient", "b", {"active": False}))
        assert await follow(ask) == [("Patient/b", 2)]
        assert await follow(ask) == []
    assert copy["Patient/a", 3] is None
    assert copy["Patient/a", 2]["active"] is False
    assert set(copy) == {version.shown for version in log.versions}


async def test_routes(world: World) -> None:
    """Every type has its routes, those with channels too: always direct, for GET and HEAD, and with a key that may read."""
    types = {str(operation.type) for operation in OPERATIONS}
    urls = (
        "/fhir/_history",
        *(f"/fhir/{kind}/_history" for kind in sorted(types | {"Device"})),
        "/fhir/Patient/r1/_history",
        "/fhir/Practitioner/r1/_history",
        "/fhir/Device/quiet/_history",
        "/fhir/Device/quiet/_history/1",
        "/fhir/Patient/r1/_history/1",
    )
    async with asking(world.home, "channel") as ask:
        for url in urls:
            whole = await ask.once(url)
            assert (whole.status, whole.path) == (200, "direct"), url
            head = await ask.once(url, method="HEAD")
            assert (head.status, head.body, head.headers["ETag"]) == (200, b"", whole.headers["ETag"])
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                refused = await ask.once(url, method=method)
                assert diagnosed(refused, 405, "not-supported")
                assert set(refused.headers["Allow"].split(",")) == {"GET", "HEAD"}
            assert diagnosed(await ask.once(url, None), 401, "login")
        counted = ask.server.services.metrics.requests
        assert counted.child("history", "direct", "200", "cold").value > 0
        assert counted.child("vread", "direct", "200", "cold").value > 0


# What the database reads for them.

PAGE = 20
BIG, SMALL = 1, 3
LOAD = r"""
INSERT INTO ops.tenant (name) SELECT 't' || n FROM generate_series(1, 9) n;
CREATE TABLE source AS
SELECT 1 AS t, n, k FROM generate_series(1, 20000) n, unnest(ARRAY['Patient', 'Condition', 'Procedure', 'Goal']) k
UNION ALL SELECT t, n, k FROM generate_series(1, 9) t, generate_series(1, 30) n, unnest(ARRAY['Location', 'Encounter']) k
UNION ALL SELECT t, n, k FROM generate_series(2, 9) t, generate_series(1, 30) n, unnest(ARRAY['Patient', 'Condition']) k;
ALTER TABLE source ADD after interval;
UPDATE source SET after = CASE k WHEN 'Goal' THEN n * interval '1 s' ELSE n / 16000 * interval '1 h' END;
INSERT INTO fhir.resource SELECT t, k, k || n, 0, 2, '2026-01-01'::timestamptz + after, false, '\x00', repeat('x', 400)::bytea
FROM source;
INSERT INTO fhir.history SELECT t, k, k || n, 1, '2025-01-01'::timestamptz + after, false, repeat('x', 400)::bytea FROM source;
INSERT INTO fhir.history SELECT 1, 'Patient', 'busy', n, '2024-01-01'::timestamptz + n * interval '1 h', false,
    repeat('x', 400)::bytea FROM generate_series(1, 2000) n;
INSERT INTO fhir.resource VALUES (1, 'Patient', 'busy', 0, 2001, '2026-01-01', false, '\x00', 'x');
"""
"""A big tenant: most of three types was written at one moment, all of another one by one, and Locations are rare."""

FIRST = (LATEST, "~", "~", 2**31 - 1)
PLACES = {
    "first": FIRST,
    "within": (datetime(2026, 1, 1, tzinfo=UTC), "Condition", "Condition7000", 2),
    "former": (datetime(2025, 1, 1, tzinfo=UTC), "Patient", "Patient3000", 1),
}
TYPES = ("Patient", "Condition", "Procedure", "Goal", "Location", "Device", "Condition,Location,Patient")
CASES: dict[str, tuple[Statement, tuple[Any, ...], int]] = {
    # The statement, its values, and how many walks it makes.
    "vread": (vread_statement(), ("Condition7", "Condition", 1), 1),
    "one, first": (history_of_one(), ("busy", "Patient", EARLIEST, 2**31 - 1, PAGE + 1), 1),
    "one, deep": (history_of_one(), ("busy", "Patient", EARLIEST, 101, PAGE + 1), 1),
    **{f"all, {name}": (history_of_all(), (EARLIEST, *place, PAGE + 1), 4) for name, place in PLACES.items()},
    **{
        f"{types}, {name}": (history_of_types(), (types, EARLIEST, *place, PAGE + 1), 4 * len(types.split(",")))
        for types in TYPES
        for name, place in PLACES.items()
    },
    "since": (history_of_all(), (datetime(2026, 1, 1, 1, tzinfo=UTC), *FIRST, PAGE + 1), 4),
}
MOMENTS = ("while_empty", "no_statistics", "analyzed")
Plans = dict[tuple[str, str, int], Any]
"""What EXPLAIN said, by (case, moment, tenant)."""


@pytest.fixture(scope="module")
def plans(cluster: Cluster, template: str) -> Plans:
    """Of a plan made while all was empty, of one made without statistics, and of one made with them."""

    async def explained() -> Plans:
        url = await make_database(cluster, "history_plans", template)
        found: Plans = {}
        async with connected(url) as owner:
            early, blind = await connect(url, **API_SETTINGS), await connect(url, **API_SETTINGS)
            await _prepare(early)
            await owner.execute(LOAD)
            await _prepare(blind)
            for moment, connection in zip(MOMENTS, (early, blind, early), strict=True):
                if moment == "analyzed":
                    await owner.execute("ANALYZE")
                for number, (name, (_, values, _)) in enumerate(CASES.items()):
                    for tenant in (BIG, SMALL):
                        text = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {_execution(number, tenant, values)}"
                        found[name, moment, tenant] = json.loads(await connection.fetchval(text))[0]["Plan"]
            await early.close()
            await blind.close()
        return found

    return asyncio.run(explained())


async def _prepare(connection: Any) -> None:
    """And runs each once: its plan is made now."""
    for number, (statement, values, _) in enumerate(CASES.values()):
        await connection.execute(f"PREPARE p{number} AS {statement.plain}")
        await connection.execute(_execution(number, SMALL, values))


def _execution(number: int, tenant: int, values: Sequence[Any]) -> str:
    return f"EXECUTE p{number}({', '.join(_literal(value) for value in (tenant, *values))})"


def executed(plan: Any) -> Iterator[Any]:
    """The nodes that did something."""
    return (node for node in nodes(plan) if node["Actual Loops"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_histories_are_index_walks(plans: Plans, name: str, moment: str) -> None:
    """A page of a history costs what a page is: no level walks over a tenant's rows, the first page as little as a deep one."""
    walks = CASES[name][2]
    for tenant in (BIG, SMALL):
        plan = plans[name, moment, tenant]
        kinds = {node["Node Type"] for node in nodes(plan)}
        assert not kinds & {"Seq Scan", "Bitmap Heap Scan", "Hash", "Hash Join", "Merge Join", "Materialize"}
        # What each walk brings, and what the page looks up.
        assert rows_touched(plan) <= (walks + 1) * (PAGE + 1), tenant
        assert pages_touched(plan) <= 4 * plan["Actual Rows"] + 20 * walks, tenant
        sorts = [node for node in executed(plan) if node["Node Type"] in ("Sort", "Incremental Sort")]
        assert all(node["Plans"][0]["Actual Rows"] <= walks * (PAGE + 1) for node in sorts)


def test_a_type_opens_its_partitions_alone(plans: Plans) -> None:
    """A version, and the history of a type, are looked for where that type is kept."""
    for name, partition in (("Patient, first", "patient"), ("Location, within", "other"), ("vread", "other")):
        touched = {node["Relation Name"] for node in executed(plans[name, "analyzed", BIG]) if "Relation Name" in node}
        assert {relation.rpartition("_")[2] for relation in touched} == {partition}
