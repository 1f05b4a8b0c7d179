"""Reading by id: bytes, validators, refusals and keys, on both paths."""

import asyncio
import re

import pytest

from base.operations import BY_NAME, OPERATIONS, Kind
from storage.embedded import Cluster
from storage.tenancy import create_key, list_keys, revoke_key
from tests.support import (
    JSON,
    PATHS,
    Home,
    add_tenant,
    asking,
    build_home,
    connected,
    delete,
    diagnosed,
    encounter,
    patient,
    shown,
    store,
    until,
)  # fmt: skip


async def _fill(home: Home) -> None:
    database = home.database
    home.keys["one"] = await add_tenant(
        database,
        "one",
        [
            patient("a", name=[{"family": "Ng"}], birthDate="1980-02-03", extension=[{"url": "x:y", "valueDecimal": 5}]),
            patient("changed", active=False),
            patient("gone"),
            patient("only-here"),
            encounter("e", "2024-01-01", subject={"reference": "Patient/a"}),
            {"resourceType": "Practitioner", "id": "p", "active": True},
            {"resourceType": "Claim", "id": "c", "status": "active", "patient": {"reference": "Patient/a"}},
        ],
    )
    home.keys["two"] = await add_tenant(database, "two", [patient("a", active=True)])
    await delete(database, "one", ("Patient", "gone"))
    async with connected(database) as connection:
        await store(connection, "one", [patient("changed", active=True)])
        home.keys["reader"] = await create_key(connection, "one", ["read"])
        home.keys["warmer"] = await create_key(connection, "one", ["warm"])
        home.keys["operator"] = await create_key(connection, None, ["operate"])
        home.keys["operator-reader"] = await create_key(connection, None, ["operate", "read"])


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "entity", _fill)


READS = {"get_patient": "a", "get_encounter": "e", "get_practitioner": "p"}


@pytest.mark.parametrize("path", PATHS)
async def test_read(home: Home, path: str) -> None:
    """Rule 1: a read gives the stored bytes, and validators that agree with its meta, by either route and on either path."""
    async with asking(home, path) as ask:
        for name, resource_id in READS.items():
            replies = [await ask(route.replace("{id}", resource_id)) for route in BY_NAME[name].routes]
            for reply in replies:
                assert (reply.status, reply.path) == (200, path)
                assert reply.headers["Content-Type"] == JSON
                assert reply.headers["ETag"] == f'W/"{reply.json["meta"]["versionId"]}"' == 'W/"1"'
                assert reply.headers["Last-Modified"] == "Fri, 02 Jan 2026 03:04:05 GMT"
                assert reply.json["meta"]["lastUpdated"] == "2026-01-02T03:04:05.678Z"
                assert (reply.json["resourceType"], reply.json["id"]) == (BY_NAME[name].type, resource_id)
            assert shown(replies[0]) == shown(replies[1])


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_says_how_it_came(home: Home, path: str) -> None:
    """Each operation's answer has its request id, path, timing and ETag; a client's own request id is kept if it is one."""
    async with asking(home, path) as ask:
        for operation in OPERATIONS:
            for route in operation.routes:
                url = re.sub(r"\{compartment[^/]*", "Patient", route)
                url = url.replace("{id}", "e" if operation.kind is Kind.REVIEW else READS.get(operation.name, "p"))
                reply = await ask(url, method="POST" if url.endswith("/_search") else "GET", X_Request_ID="Req-1.x")
                assert (reply.status, reply.path) == (200, path), url
                assert reply.headers["X-Request-ID"] == "Req-1.x"
                assert reply.headers["ETag"].startswith('W/"')
                stages = [part.partition(";dur=")[0].strip() for part in reply.headers["Server-Timing"].split(",")]
                assert stages == ["queue", "pool", "query", "encode", "total"]
        given = [(await ask("/patients/a", X_Request_ID=name)).headers["X-Request-ID"] for name in ("", "a b", "x" * 65)]
        assert len(set(given)) == 3
        assert not {"", "a b", "x" * 65} & set(given)


@pytest.mark.parametrize("path", PATHS)
async def test_unchanged(home: Home, path: str) -> None:
    """Rule 4: If-None-Match in any spelling that clients use gives 304 with the ETag and no body; another tag the resource."""
    async with asking(home, path) as ask:
        for given in ('W/"1"', '"1"', "1", 'W/"7", W/"1"', '"x","1"', "*"):
            reply = await ask("/patients/a", If_None_Match=given)
            assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", 'W/"1"'), given
            assert (reply.path, "Content-Type" in reply.headers) == (path, False)
        for given in ('W/"2"', "11", '""', "W/", 'W/"1', "x" * 500):
            assert (await ask("/patients/a", If_None_Match=given)).status == (304 if given == 'W/"1' else 200), given
        listed = await ask("/patients?active=true")
        assert (await ask("/patients?active=true", If_None_Match=listed.headers["ETag"])).status == 304
        assert (await ask("/patients?active=false", If_None_Match=listed.headers["ETag"])).status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_unchanged_since(home: Home, path: str) -> None:
    """Rule 4: If-Modified-Since counts only without If-None-Match, and a date that is none counts for nothing."""
    at, before = "Fri, 02 Jan 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:04:04 GMT"
    async with asking(home, path) as ask:
        assert (await ask("/patients/a", If_Modified_Since=at)).status == 304
        assert (await ask("/patients/a", If_Modified_Since=before)).status == 200
        assert (await ask("/patients/a", If_Modified_Since=at, If_None_Match='W/"2"')).status == 200
        assert (await ask("/patients/a", If_Modified_Since=before, If_None_Match='W/"1"')).status == 304
        garbage = ("", "yesterday", "0", "Fri, 99 Foo 2026", "Fri, 02 Jan 99999 03:04:05 GMT", at.replace("GMT", "-0000"))
        for given in garbage:
            assert (await ask("/patients/a", If_Modified_Since=given)).status == 200, given


@pytest.mark.parametrize("path", PATHS)
async def test_changed(home: Home, path: str) -> None:
    """Rule 4: a changed resource has its next version's ETag, and the former one's no longer matches."""
    async with asking(home, path) as ask:
        reply = await ask("/patients/changed", If_None_Match='W/"1"')
        assert (reply.status, reply.headers["ETag"], reply.json["active"]) == (200, 'W/"2"', True)


@pytest.mark.parametrize("path", PATHS)
async def test_not_there(home: Home, path: str) -> None:
    """Rule 2: unknown is 404, deleted 410, an id that can be none 400; none is made 304 by a wildcard."""
    async with asking(home, path) as ask:
        for url in ("/patients/zz", "/encounters/a", "/practitioners/a", "/fhir/Patient/e", "/reviews/zz"):
            assert diagnosed(await ask(url, If_None_Match="*"), 404, "not-found")
        assert diagnosed(await ask("/patients/gone"), 410, "deleted")
        assert diagnosed(await ask("/patients/gone", If_None_Match="*"), 410, "deleted")
        for broken in ("a_b", "x" * 65, "%C3%BC", "a%2Fb", "a%20b", "%00", "a%27"):
            words = diagnosed(await ask(f"/patients/{broken}"), 400, "invalid")
            assert words == "an id has 1 to 64 letters, digits, - or ."


@pytest.mark.parametrize("path", PATHS)
async def test_head(home: Home, path: str) -> None:
    """Rule 5: HEAD gives the headers of GET, for answers and refusals, and no body."""
    async with asking(home, path) as ask:
        for url in (
            "/patients/a",
            "/fhir/Patient?active=true",
            "/reviews/e",
            "/patients/gone",
            "/patients/zz",
            "/fhir/Claim/c",
        ):
            whole, head = await ask(url), await ask(url, method="HEAD")
            assert shown(head) == (*shown(whole)[:2], b"")
            assert head.headers["Content-Length"] == str(len(whole.body))


@pytest.mark.parametrize("path", PATHS)
async def test_wrong_method(home: Home, path: str) -> None:
    """Rule 5: a method that a route does not take is 405, with those that it takes in Allow."""
    async with asking(home, path) as ask:
        for url in ("/patients/a", "/fhir/Patient/a", "/patients", "/reviews/e", "/fhir/Claim/c", "/fhir/Claim"):
            for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
                reply = await ask(url, method=method)
                assert diagnosed(reply, 405, "not-supported")
                assert set(reply.headers["Allow"].split(",")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", PATHS)
async def test_other_types(home: Home, path: str) -> None:
    """Rule 2: a name that is no type is 404; a type without channels is read and searched directly, for a warm tenant too."""
    async with asking(home, path) as ask:
        read, found = await ask("/fhir/Claim/c"), await ask("/fhir/Claim?patient=a")
        assert (read.path, found.path) == ("direct", "direct")
        assert read.headers["ETag"] == 'W/"1"'
        assert [entry["resource"] for entry in found.json["entry"]] == [read.json]
        for url in ("/fhir/Patients/a", "/fhir/Foo", "/fhir/patient/a"):
            assert diagnosed(await ask(url), 404, "not-supported")
        assert diagnosed(await ask("/fhir/Claim/zz"), 404, "not-found")
        forced = await ask.once("/fhir/Claim/c", X_Sluice_Force="channel")
        assert diagnosed(forced, 409, "conflict")


@pytest.mark.parametrize("path", PATHS)
async def test_tenants_are_apart(home: Home, path: str) -> None:
    """Rule 27: the same id in two tenants gives each its own; another tenant's id is unknown, and its ETag tells nothing."""
    async with asking(home, path) as ask:
        mine, theirs = await ask("/patients/a", "one"), await ask("/patients/a", "two")
        assert ("active" in mine.json, theirs.json["active"]) == (False, True)
        for given in ({}, {"If_None_Match": 'W/"1"'}, {"If_None_Match": "*"}):
            assert diagnosed(await ask("/patients/only-here", "two", **given), 404, "not-found")
        for url in ("/patients?_id=only-here", "/encounters?patient=a", "/encounters?subject=Patient/a"):
            assert "entry" not in (await ask(url, "two")).json
        assert diagnosed(await ask("/reviews/e", "two"), 404, "not-found")


@pytest.mark.parametrize("path", PATHS)
async def test_keys(home: Home, path: str) -> None:
    """Rule 9: no key, an unknown one and another scheme are 401 with a challenge; a key without the scope is 403."""
    async with asking(home, path) as ask:
        get = ask.once
        refused = [await get("/patients/a", None)]
        refused += [
            await get("/patients/a", None, Authorization=given)
            for given in ("Bearer", "Bearer ", "Bearer nope", "Basic b25lOnR3bw==", f"Token {home.keys['one']}", "Bearer \xff")
        ]
        for reply in refused:
            assert diagnosed(reply, 401, "login")
            assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert diagnosed(await get("/patients/a", "warmer"), 403, "forbidden")
        assert diagnosed(await get("/patients/a", "operator"), 403, "forbidden")
        assert diagnosed(await get("/patients/a", "operator-reader"), 403, "forbidden")
        assert (await get("/warm-up", "reader", "POST")).status == 403
        assert (await get("/patients/a", None, Authorization=f"bearer  {home.keys['one']} ")).status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_forcing_a_path(home: Home, path: str) -> None:
    """X-Sluice-Force is for keys that operate; what cannot be forced is refused."""
    async with asking(home, path) as ask:
        get = ask.once
        assert diagnosed(await get("/patients/a", "reader", X_Sluice_Force="direct"), 403, "forbidden")
        assert diagnosed(await get("/patients/a", X_Sluice_Force="sideways"), 400, "invalid")
        assert (await get("/patients/a", X_Sluice_Force="direct")).path == "direct"
        forced = await get("/patients/a", X_Sluice_Force="channel")
        if path == "channel":
            assert (forced.status, forced.path) == (200, "channel")
        else:
            assert diagnosed(forced, 409, "conflict")


@pytest.mark.parametrize("path", PATHS)
async def test_revoked(home: Home, path: str) -> None:
    """A revoked key is refused once the time for which keys are remembered is over, and not served meanwhile for ever."""
    async with connected(home.database) as connection:
        key = await create_key(connection, "one", ["read"])
        number = (await list_keys(connection, "one"))[-1]["key_id"]
        async with asking(Home(home.database, {**home.keys, "doomed": key}), path, key_ttl_s=0.05) as ask:
            assert (await ask.once("/patients/a", "doomed")).status == 200
            await revoke_key(connection, number)
            began = asyncio.get_running_loop().time()
            while (await ask.once("/patients/a", "doomed")).status == 200:
                assert asyncio.get_running_loop().time() < began + 0.05 + 1
            assert diagnosed(await ask.once("/patients/a", "doomed"), 401, "login")


async def test_metrics_count_the_path(home: Home) -> None:
    """What a header says of the path is what the metrics count."""
    async with asking(home, "channel") as ask:
        counted = ask.server.services.metrics.requests
        before = counted.child("get_patient", "channel", "200", "").value
        assert (await ask.once("/patients/a")).path == "channel"
        await until(lambda: counted.child("get_patient", "channel", "200", "").value == before + 1)
