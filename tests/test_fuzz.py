"""Requests by chance: of the grammar that searches have, well and badly said, and of bytes that have no grammar at all.

`make test` sends the same ones each time; `make prove` sends many more, others each time.
"""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.embedded import Cluster
from tests.clients import check_body
from tests.conftest import PROVE
from tests.fuzzing import CANARY, CURSORS, Asked, questions, requests
from tests.specimens import specimens
from tests.support import PATHS, Asker, Home, add_tenant, asking, build_home, cursor_of, delete, patient
from tests.test_bad_input import Answer, Wire

QUESTIONS = 20_000 if PROVE else 1000
REQUESTS = 20_000 if PROVE else 300
LIMIT_S = 3600 if PROVE else 120
OWN = (b"/warm-up", b"/reports", b"/metrics", b"/health", b"/console")
"""What answers in its own way."""
OURS, THEIRS = "house-one", "house-two"
"""What every resource of a tenant is marked with."""


async def _fill(home: Home) -> None:
    """Two tenants with the same ids, and each with one that the other does not have."""
    for tenant, mark in (("one", OURS), ("two", THEIRS)):
        marked = [_marked(resource, mark) for resource in [*specimens(), patient(f"only-{tenant}"), patient("gone")]]
        home.keys[tenant] = await add_tenant(home.database, tenant, marked)
        await delete(home.database, tenant, ("Patient", "gone"))


def _marked(resource: dict[str, Any], mark: str) -> dict[str, Any]:
    """In its meta, which no part of a resource goes without."""
    meta = resource.get("meta", {})
    return {**resource, "meta": {**meta, "tag": [*meta.get("tag", []), {"system": "urn:houses", "code": mark}]}}


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "fuzz", _fill)


async def by_chance(strategy: st.SearchStrategy[Any], holds: Callable[[Any], Coroutine[Any, Any, None]], examples: int) -> None:
    """Runs a check of the server's loop on examples: Hypothesis itself is synchronous, so it gets a thread."""
    loop = asyncio.get_running_loop()
    every: Any = list(HealthCheck)

    @settings(max_examples=examples, derandomize=not PROVE, deadline=None, suppress_health_check=every, database=None)
    @given(strategy)
    def check(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(holds(example), loop).result(60)

    await asyncio.to_thread(check)


# The server, and what must hold of each of its answers.


@dataclass
class Fuzzed:
    """`cursors` are of other lists and of the other tenant, and one of them perhaps of the list that is asked for."""

    ask: Asker
    wire: Wire
    cursors: list[str]

    async def send(self, asked: Asked, **more: str) -> Answer:
        headers = {**dict(asked.headers), **{name.replace("_", "-"): value for name, value in more.items()}}
        pairs = [(self._filled(name), self._filled(value)) for name, value in asked.pairs]
        half = len(pairs) // 2 if asked.form is not None else len(pairs)
        target = asked.path + ("?" + _encoded(pairs[:half]) if half else "")
        body = _encoded(pairs[half:]).encode() if asked.form is not None else None
        if body is not None:
            headers |= {"Content-Length": str(len(body)), "Content-Type": asked.form or ""}
        lines = [f"{asked.method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.wire.key}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return await self.wire.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))

    def _filled(self, text: str) -> str:
        text = text.replace("{base}", self.ask.server.services.config.base_url)
        return re.sub(r"\{cursor:(\d+)\}", lambda found: self.cursors[int(found[1])], text)


def _encoded(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)


def _quoted(text: str) -> str:
    """As clients do; lone surrogates as the bytes that they would be."""
    return quote(text, safe=":,/|", errors="surrogatepass")


@asynccontextmanager
async def fuzzed(home: Home, path: str) -> AsyncIterator[Fuzzed]:
    async with asking(home, path, access_log="all") as ask:
        url = urlsplit(ask.server.url)
        yield Fuzzed(ask, Wire(url.hostname or "", url.port or 0, home.keys["one"]), await cursors_of(ask))


async def cursors_of(ask: Asker) -> list[str]:
    lists = [
        "/patients?_count=1", "/encounters?_count=1", "/fhir/Claim?_count=1", "/patients?_sort=-birthdate&_count=1",
        "/fhir/Coverage?_sort=type&_count=1", "/fhir/_history?_count=1", "/fhir/Patient/_history?_count=1",
        "/reviews/full?_count=1", "/fhir/Patient/full/$everything?_count=1",
    ]  # fmt: skip
    found = [cursor_of(await ask.once(each)) for each in lists]
    found += [cursor_of(await ask.once(each, "two")) for each in lists[:2]]
    assert len({*found, "A" * 40}) == CURSORS
    return [*found, "A" * 40]


def check(answer: Answer, asked: Asked) -> None:
    """That it is no fault of the server's, of its form, valid by FHIR's models, of the tenant, and silent on values."""
    assert answer.status < 500
    if answer.headers.get("Content-Encoding") == "gzip" and answer.body:
        answer = replace(answer, body=gzip.decompress(answer.body))
    assert THEIRS.encode() not in answer.body
    if answer.status in (200, 304):
        _check_given(answer)
        return
    assert CANARY not in str(answer.headers)
    assert answer.refused
    if answer.body:
        assert CANARY.encode() not in answer.body
        for issue in check_body(answer.body)["issue"]:
            assert issue["severity"] == "error"
            assert issue["code"] in ("invalid", "not-found", "deleted", "not-supported", "too-long")
            assert issue["diagnostics"]
    assert (answer.status != 405) or asked.method != "GET"


def _check_given(answer: Answer) -> None:
    assert (answer.status == 304) <= (not answer.body)
    if not answer.body:
        return
    told = check_body(answer.body)
    entries = told.get("entry", [])
    assert "entry" not in told or entries
    resources = [entry["resource"] for entry in entries if "resource" in entry] if told["resourceType"] == "Bundle" else [told]
    for resource in resources:
        if resource["resourceType"] not in ("OperationOutcome", "CapabilityStatement"):
            assert OURS in {tag.get("code") for tag in resource["meta"]["tag"]}
    if told.get("type") == "searchset":
        _check_page(told)
    if told.get("type") == "history":
        versions = [(entry["fullUrl"], entry["response"]["etag"]) for entry in entries]
        assert len(set(versions)) == len(versions)


def _check_page(page: dict[str, Any]) -> None:
    entries = page.get("entry", [])
    urls = [entry["fullUrl"] for entry in entries if entry["search"]["mode"] != "outcome"]
    assert len(set(urls)) == len(urls)
    links = {link["relation"]: dict(parse_qsl(urlsplit(link["url"]).query)) for link in page["link"]}
    assert sum(entry["search"]["mode"] == "match" for entry in entries) <= int(links["self"]["_count"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.timeout(LIMIT_S)
async def test_any_question(home: Home, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is asked in the grammar of searches: a valid answer out of the own tenant, or a refusal that repeats no value.

    By the channel it is the direct answer to the byte, and nothing fails or is repeated in the log.
    """
    async with fuzzed(home, path) as server:

        async def holds(asked: Asked) -> None:
            answer = await server.send(asked)
            check(answer, asked)
            if answer.headers.get("X-Sluice-Path") == "channel":
                direct = await server.send(asked, X_Sluice_Force="direct")
                assert (direct.status, direct.headers.get("ETag")) == (answer.status, answer.headers.get("ETag"))
                assert direct.body == answer.body

        await by_chance(questions(), holds, QUESTIONS)
    out, err = capfd.readouterr()
    assert "request.answered" in out + err
    assert "request.failed" not in out + err
    assert CANARY not in out + err


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.timeout(LIMIT_S)
async def test_any_bytes(home: Home, path: str) -> None:
    """Whatever stands in the method, the URL and the headers: an answer that is not the server's fault, within its form."""
    async with fuzzed(home, path) as server:

        async def holds(request: tuple[bytes, bytes, list[bytes]]) -> None:
            method, target, headers = request
            answer = await server.wire.get(target, *headers, method=method)
            assert answer.status < 500, answer
            assert answer.status in (200, 304) or answer.refused or target.startswith(OWN), answer

        await by_chance(requests, holds, REQUESTS)
