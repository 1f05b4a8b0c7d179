"""What the tests of other people's clients share: people enough for many pages, and a server whose every answer is checked."""

import json
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from fhir.resources.R4B import get_fhir_model_class

from ingestion.fhir.importing import import_paths
from simulator.people import resources
from tests.conftest import DATA
from tests.support import Asker, Home, add_tenant, asking, connected, delete, patient
from tests.test_people import references

Json = dict[str, Any]
World = dict[str, dict[str, Json]]
"""What a tenant has: by type and id, in the order of their ids."""

has_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared test data is not beside this checkout")
TENANTS = ("made", pytest.param("real", marks=has_data))
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


async def fill(home: Home) -> None:
    """The tenants `made` of generated people, `few` of single cases, and `real`, where its data is at hand."""
    made = resources(7, patients=130, practitioners=12, encounters=300, today=date(2026, 6, 1))
    home.keys["made"] = await add_tenant(home.database, "made", map(json.loads, made))
    few = [
        patient("changing", active=False),
        patient("gone"),
        patient("stays", generalPractitioner=[{"reference": "Practitioner/doctor"}]),
        {"resourceType": "Practitioner", "id": "doctor", "name": [{"family": "Ahmadi"}]},
    ]
    home.keys["few"] = await add_tenant(home.database, "few", few)
    await delete(home.database, "few", ("Patient", "gone"))
    if DATA.is_dir():
        home.keys["real"] = await add_tenant(home.database, "real")
        await _import(home)


async def _import(home: Home) -> None:
    def ignore(_: object) -> None: ...

    async with connected(home.database) as connection:
        tenant_id = await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = 'real'")
    summary = await import_paths(home.database, tenant_id, [DATA / "fhir"], strict=True, progress=ignore, report=ignore)
    assert not summary.rolled_back


_worlds: dict[str, World] = {}


async def world_of(home: Home, tenant: str) -> World:
    """Read once: nobody writes to `made` and `real`."""
    key = home.keys[tenant]
    if key not in _worlds:
        _worlds[key] = await _read(home, tenant)
    return _worlds[key]


async def _read(home: Home, tenant: str) -> World:
    found: World = defaultdict(dict)
    async with connected(home.database) as connection:
        rows = await connection.fetch(
            "SELECT type, id, body FROM fhir.resource JOIN ops.tenant USING (tenant_id)"
            ' WHERE name = $1 AND NOT deleted ORDER BY type, id COLLATE "C"',
            tenant,
        )
    for row in rows:
        found[row["type"]][row["id"]] = orjson.loads(row["body"])
    return dict(found)


@dataclass(frozen=True)
class Seen:
    """A request as it came, its answer as it was sent, and whether the direct one to the same was equal."""

    method: str
    target: str
    headers: dict[str, str]
    status: int
    path: str
    sent: bytes
    agreed: bool

    @property
    def body(self) -> bytes:
        return zlib.decompress(self.sent, 31) if self.sent.startswith(b"\x1f\x8b") else self.sent

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Base:
    """A FHIR server as its clients know it, and what they asked so far."""

    ask: Asker
    seen: list[Seen] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.ask.server.url}/fhir"

    def bearer(self, tenant: str) -> str:
        return f"Bearer {self.ask.server.keys[tenant]}"

    def pages(self) -> list[Json]:
        """The searchsets with entries since the last call."""
        found = [each.json for each in self.seen if each.status == 200 and "entry" in each.json]
        self.seen.clear()
        return found


@asynccontextmanager
async def watched(home: Home, path: str) -> AsyncIterator[Base]:
    """Every answer is asked for a second time, directly, and must be equal; and it must be valid by FHIR's models."""
    every: list[Seen] = []
    base: Base | None = None

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if base is not None and "X-Sluice-Force" not in request.headers:
            every.append(await _seen(base.ask, request, response))
            base.seen.append(every[-1])
        return response

    with pytest.MonkeyPatch.context() as patch:
        for name in _PROXIES:  # requests would take them
            patch.delenv(name, raising=False)
        async with asking(home, path, watch=watch) as ask:
            base = Base(ask)
            yield base
    assert path in {each.path for each in every}
    assert [each.target for each in every if not each.agreed] == []
    for each in every:
        assert each.body or each.status == 304, each.target
        if each.body:
            check_body(each.body)


async def _seen(ask: Asker, request: web.Request, response: web.StreamResponse) -> Seen:
    assert isinstance(response, web.Response)
    sent = response.body if isinstance(response.body, bytes) else b""
    path = response.headers.get("X-Sluice-Path", "none")
    agreed = True
    if path == "channel" and not request.body_exists:
        kept = {name.replace("-", "_"): value for name, value in request.headers.items() if name != "Host"}
        again = await ask.once(request.raw_path, None, request.method, **kept, X_Sluice_Force="direct")
        answer = (again.status, again.path, again.headers.get("ETag"), again.body)
        agreed = answer == (response.status, "direct", response.headers.get("ETag"), sent)
    return Seen(request.method, request.raw_path, dict(request.headers), response.status, path, sent, agreed)


_valid: set[bytes] = set()


def check_body(body: bytes) -> Json:
    """Validates what was answered, and returns it. Of a Bundle each resource is looked at by itself, and once."""
    told: Json = orjson.loads(body)
    entries = told.get("entry", ())
    for entry in entries:
        if "resource" in entry:
            check_valid(entry["resource"])
    aside = {"resourceType": "Basic", "code": {"text": "looked at by itself"}}
    shell = [{**entry, "resource": aside} if "resource" in entry else entry for entry in entries]
    check_valid({**told, "entry": shell} if entries else told)
    return told


def check_valid(resource: Json) -> None:
    """By FHIR's models; what was found valid once is not looked at again."""
    text = orjson.dumps(resource)
    if text not in _valid:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        _valid.add(text)


def check_included(page: Json, world: World, param: str) -> None:
    """That beside a page's matches stands what `param` of them leads to, each once, and nothing else."""
    entries = page["entry"]
    matches = [entry["resource"] for entry in entries if entry["search"]["mode"] == "match"]
    wanted = {reference for match in matches for reference in references(match[param])}
    there = {reference for reference in wanted if reference.partition("/")[2] in world.get(reference.partition("/")[0], ())}
    shown = [entry["fullUrl"].partition("/fhir/")[2] for entry in entries if entry["search"]["mode"] == "include"]
    assert sorted(shown) == sorted(there)
    assert len({entry["fullUrl"] for entry in entries}) == len(entries)
