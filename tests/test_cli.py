"""The `sluice` command, by its real processes."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import psutil
import pytest

from base.config import Config, describe
from simulator.people import resources
from storage.connecting.pools import api_size
from tests.processes import LIMIT_S, SLUICE, Done, Running, environment, running, sluice, total
from tests.support import Served, add_tenant, connected, patient, served, until

BACKLOG = 40
FIRST = ["harbour-hospital", "oasis-clinics", "palm-polyclinic"]
REQUESTS = 9


# The demo


@dataclass(frozen=True)
class Answer:
    """What `curl` printed; `headers` is empty where it was not asked for them."""

    status: int
    headers: str
    body: Any


@dataclass(frozen=True)
class Demo:
    """A demo that ran from its start to its end."""

    printed: str
    notices: str
    answers: list[Answer]
    facilities: list[dict[str, Any]]
    """As `sluice ingest status` showed them."""
    offices: list[int]
    """How the facilities' post offices answered, at the addresses that are registered."""
    code: int
    left: list[str]

    @property
    def keys(self) -> dict[str, str]:
        return dict(re.findall(r"^  ([a-z-]+) +(?:warm|cold) +(sluice_\S+)$", self.printed, re.MULTILINE))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A place that is open to the account that runs PostgreSQL for root, as pytest's own is not."""
    place = Path(tempfile.mkdtemp(prefix="sluice-demo-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def demo(folder: Path) -> Demo:
    """The first one of an empty data folder, ended as by Ctrl-C."""
    return asyncio.run(run_demo(folder / "data", signal.SIGINT))


async def run_demo(data: Path, by: signal.Signals) -> Demo:
    async with running("demo", data_dir=data, control_share=0, throttle_cpu=1) as process:
        await process.seen(lambda: "To paste:" in process.out or None)
        await process.seen(lambda: sum(line.startswith("curl ") for line in process.out) == REQUESTS or None)
        printed = "\n".join(process.out)
        lines = [line for line in process.out if line.startswith("curl ")]
        answers = await asyncio.to_thread(lambda: [paste(line, data.parent) for line in lines])
        (status,) = [line for line in process.out if line.endswith(" ingest status")]
        shown = await asyncio.to_thread(
            lambda: subprocess.run(["sh", "-c", f"{status} --json"], check=True, capture_output=True)
        )
        await process.seen(lambda: any("facilities are polled" in line for line in process.err) or None)
        offices = await reached(data)
        code = await process.end(by)
    return Demo(printed, "\n".join(process.err), answers, json.loads(shown.stdout), offices, code, using(data))


async def reached(data: Path) -> list[int]:
    rows = json.loads((await sluice("facility", "list", "--json", data_dir=data)).out)
    async with aiohttp.ClientSession() as session:
        return [(await session.get(f"{row['url']}?WSDL")).status for row in rows]


def paste(line: str, folder: Path) -> Answer:
    """Runs a line as it was printed; a setting of curl's own adds the status."""
    (folder / ".curlrc").write_text('write-out = "\\n%{http_code}"\n')
    done = subprocess.run(["sh", "-c", line], check=True, capture_output=True, env={**os.environ, "CURL_HOME": str(folder)})
    text, _, status = done.stdout.decode().rpartition("\n")
    headers, _, body = text.rpartition("\r\n\r\n")
    return Answer(int(status), headers, body if body.startswith("month,") else json.loads(body))


def using(data: Path) -> list[str]:
    """The processes that have anything to do with a data folder."""
    return [name for _, name in processes_of(data)]


def processes_of(data: Path) -> list[tuple[psutil.Process, str]]:
    """By what they were called with, or told by SLUICE_DATA_DIR; with their command lines."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if str(data) in command or process.environ().get("SLUICE_DATA_DIR") == str(data):
                found.append((process, command))
    return found


def test_demo_names(demo: Demo) -> None:
    """From nothing, the demo prints three tenants with their keys, the URLs, and requests to paste."""
    assert list(demo.keys) == FIRST
    assert len(set(demo.keys.values())) == 3
    url = re.search(r"Sluice is up at (http://127\.0\.0\.1:\d+)\.", demo.printed)
    assert url is not None
    assert f"FHIR base {url[1]}/fhir " in demo.printed
    assert f"metrics {url[1]}/metrics " in demo.printed
    assert len(demo.answers) == REQUESTS


def test_demo_requests(demo: Demo) -> None:
    """Every request does, pasted as it is printed, what the line above it says."""
    channel, direct, search, review, warm_up, _, balance, by_payer, claim = demo.answers
    assert [answer.status for answer in demo.answers] == [200, 200, 200, 200, 201, 200, 200, 200, 200]
    assert "X-Sluice-Path: channel" in channel.headers
    assert "X-Sluice-Path: direct" in direct.headers
    assert channel.body["id"] == "pat-1-1"
    assert channel.body == direct.body
    shown = [(entry["search"]["mode"], entry["resource"]) for entry in search.body["entry"]]
    visited = {resource["subject"]["reference"] for mode, resource in shown if mode == "match"}
    assert [mode for mode, _ in shown].count("match") == 2
    assert {f"Patient/{resource['id']}" for mode, resource in shown if mode == "include"} == visited
    assert (warm_up.body["tenant"], warm_up.body["state"], len(warm_up.body["channels"])) == ("oasis-clinics", "warm", 7)
    check_review(review.body)
    pending = [row["pending_amount"] for row in balance.body["rows"]]
    assert len(pending) == 2
    assert pending == sorted(pending, reverse=True)
    assert len(by_payer.body.splitlines()) > 1
    assert claim.body["claim"]["held"] > 0
    assert {event["kind"] for event in claim.body["events"]} >= {"submission", "remittance"}


def check_review(bundle: Any) -> None:
    found = [(entry["search"]["mode"], entry["resource"]["resourceType"]) for entry in bundle["entry"]]
    assert found[0] == ("match", "Encounter")
    assert {"Patient", "Practitioner", "Claim", "ClaimResponse"} <= {kind for mode, kind in found if mode == "include"}
    money = json.dumps(bundle["meta"]["extension"])
    assert all(f'"{amount}"' in money for amount in ("submitted", "paid", "pending"))
    assert '"currency": "AED"' in money


def test_demo_claims(demo: Demo) -> None:
    """Claims come in: a review shows one with all that was paid for it, of a person who was imported."""
    entries = [entry["resource"] for entry in demo.answers[5].body["entry"]]
    by_type = {resource["resourceType"]: resource for resource in entries}
    assert {"Claim", "ClaimResponse", "ExplanationOfBenefit", "Coverage", "Practitioner"} <= by_type.keys()
    assert "Harbour Hospital, day clinic" in [each.get("name") for each in entries if each["resourceType"] == "Organization"]
    assert by_type["Patient"]["id"].startswith("pat-1-")
    assert by_type["Encounter"]["subject"] == {"reference": f"Patient/{by_type['Patient']['id']}"}
    (money,) = demo.answers[5].body["meta"]["extension"]
    amounts = {each["url"]: each["valueMoney"] for each in money["extension"]}
    assert amounts["paid"]["value"] > 0
    assert amounts["submitted"] == by_type["Claim"]["total"]
    assert [(row["tenant"], row["state"]) for row in demo.facilities] == [(name, "active") for name in FIRST]
    assert demo.facilities[0]["claims"] > 0
    assert demo.offices == [200] * 3


def test_demo_ends(demo: Demo) -> None:
    """Ctrl-C ends the demo with exit code 0 and leaves no process behind."""
    assert (demo.code, demo.left) == (0, [])


async def test_demo_again(demo: Demo, folder: Path) -> None:
    """A second demo of the same data folder has the first one's keys and data; SIGTERM ends it as Ctrl-C does."""
    again = await run_demo(folder / "data", signal.SIGTERM)
    assert again.keys == demo.keys
    assert all(re.search(rf"^{name} .* resources", demo.notices, re.MULTILINE) for name in FIRST)
    assert "resources" not in again.notices
    for same in (0, 1, 3):  # what a search finds first is what came in last
        assert again.answers[same].body == moved(demo, again, demo.answers[same].body)
    assert [answer.status for answer in again.answers] == [200] * REQUESTS
    test_demo_claims(again)
    assert (again.code, again.left) == (0, [])


@pytest.mark.usefixtures("demo")
async def test_demo_killed(folder: Path) -> None:
    """When the demo is killed, its post office, its worker and the database end by themselves."""
    data = folder / "data"
    async with running("demo", data_dir=data) as process:
        await process.seen(lambda: any("facilities are polled" in line for line in process.err) or None)
        there = processes_of(data)
        process.process.kill()
    assert all(any(part in name for _, name in there) for part in ("sluice demo", "demo_claims", "demo_worker", "postgres"))
    _, left = await asyncio.to_thread(psutil.wait_procs, [each for each, _ in there], timeout=LIMIT_S)
    assert left == []


def moved(first: Demo, again: Demo, body: Any) -> Any:
    """A body of the first demo, with the links of the second: it has another port."""
    ports = [re.findall(r"is up at http://127\.0\.0\.1:(\d+)", run.printed)[0] for run in (first, again)]
    return json.loads(json.dumps(body).replace(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"))


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
async def test_demo_stopped_early(folder: Path, ctrl_c: Any) -> None:
    """A demo that is told to end while it prepares its data leaves no server running, also where Ctrl-C is ignored."""
    data = folder / "early"
    before = signal.signal(signal.SIGINT, ctrl_c)  # a child ignores what its parent did
    async with running("demo", data_dir=data) as process:
        signal.signal(signal.SIGINT, before)
        await process.seen(lambda: process.logged("migration.applied") or None)
        assert using(data)
        assert await process.end() == 130
    assert using(data) == []
    assert "Traceback" not in "\n".join(process.err)


# Help and errors


@pytest.mark.parametrize("command", [[], ["serve"], ["worker"]])
async def test_help(command: list[str]) -> None:
    """Help lists every setting, with its default, and every command."""
    done = await sluice(*command, "--help", COLUMNS=80)
    for name, default, text in describe():
        assert f"{name} ({default}): " in done.out if default else f"{name}: " in done.out
        assert " ".join(text.split()) in " ".join(done.out.split())
    commands = ["serve", "worker", "demo", "import", "migrate", "tenant", "key", "facility", "ingest", "post-office"]
    assert command or all(f"│ {name} " in done.out for name in commands)


@pytest.mark.parametrize(
    ("group", "commands"),
    [("facility", ["add", "mailbox", "list", "poll", "pause", "resume"]), ("ingest", ["status", "errors", "retry"])],
)
async def test_help_of_ingestion(group: str, commands: list[str]) -> None:
    """Each command of facilities and of what came in is listed with what it does."""
    done = await sluice(group, "--help", COLUMNS=80)
    assert done.code == 0
    assert all(re.search(rf"│ {name} +\w", done.out) for name in commands)


ERRORS: list[tuple[str, dict[str, str], str]] = [
    ("tenant list", {"port": "http"}, "SLUICE_PORT='http' cannot be used; expected: a whole number"),
    ("serve --port 70000", {}, "SLUICE_PORT='70000' cannot be used; expected: a whole number from 0 to 65535"),
    ("key create nobody", {}, "there is no tenant nobody; `sluice tenant create nobody` makes it"),
    ("key list nobody", {}, "there is no tenant nobody;"),
    ("key revoke 7", {}, "there is no key 7 that could be revoked; `sluice key list` shows all"),
    ("key create --operator --scope admin", {}, "unknown scope admin; there are read, warm, report, operate"),
    ("serve", {"host": "192.0.2.1"}, "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
    ("migrate", {"database_url": "postgresql://127.0.0.1:1/x"}, "no connection to the database at 127.0.0.1:1: "),
    ("serve", {"database_url": "postgresql://127.0.0.1:1/x"}, "see SLUICE_DATABASE_URL"),
    ("tenant list", {"database_url": "mysql://u:geheim@h/x"}, "expected: SLUICE_DATABASE_URL=postgresql://"),
]


async def test_errors(database: str) -> None:
    """What the user can set right is one line on standard error that says how, exit code 1, and no traceback."""
    settings = {"database_url": database, "port": 0}
    commands = [sluice(*words.split(), **{**settings, **more}) for words, more, _ in ERRORS]
    for done, (_, _, expected) in zip(await asyncio.gather(*commands), ERRORS, strict=True):
        check_error(done, expected)
        assert "geheim" not in done.err


def check_error(done: Done, expected: str) -> None:
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"sluice: [^\n]+\n", done.err), done.err
    assert expected in done.err


async def test_port_in_use(database: str) -> None:
    """A port that is in use is told before anything is begun, and by several workers, too, who share theirs."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        words = ("serve", "serve --workers 2", "demo")
        commands = [sluice(*each.split(), database_url=database, port=port) for each in words]
        for done in await asyncio.gather(*commands):
            check_error(done, f"cannot listen on 127.0.0.1:{port}: Address already in use; another port is chosen by --port")


async def test_newer_database(database: str) -> None:
    """A database that a newer Sluice has migrated is told so."""
    async with connected(database) as connection:
        await connection.execute("INSERT INTO public.sluice_migration (version, name, sha256) VALUES (9999, 'x', '')")
    words = ("migrate", "serve", "tenant list")
    for done in await asyncio.gather(*(sluice(*each.split(), database_url=database, port=0) for each in words)):
        check_error(done, "upgrade Sluice")


async def test_error_of_a_task(database: str) -> None:
    """What went wrong in one of several tasks at the start is told as one line, too."""
    async with connected(database) as connection:
        await connection.execute("DROP FUNCTION ops.cool")
    check_error(await sluice("serve", database_url=database, port=0), "function ops.cool(unknown) does not exist")


# Tenants and keys


async def test_tenants(database: str) -> None:
    """What was created is listed: as JSON, and without a terminal as plain lines that no width cuts off."""
    longest = "x" * 63
    assert (await sluice("tenant", "create", "--exclusive", longest, database_url=database)).code == 0
    created = await sluice("tenant", "create", "north", database_url=database)
    assert (created.code, created.out) == (0, "")
    assert created.err == "tenant north is number 2; `sluice key create north` makes it a key\n"
    rows = json.loads((await sluice("tenant", "list", "--json", database_url=database)).out)
    assert [(row["name"], row["exclusive"], row["warm"], row["keys"]) for row in rows] == [
        ("north", False, False, 0),
        (longest, True, False, 0),
    ]
    lines = (await sluice("tenant", "list", database_url=database, COLUMNS=20)).out.splitlines()
    assert [line.split("\t")[:3] for line in lines] == [["2", "north", "False"], ["1", longest, "True"]]


async def test_list_on_a_terminal(database: str) -> None:
    """On a terminal a list is a table with a header."""
    await add_tenant(database, "north")
    leader, follower = os.openpty()
    command = await asyncio.create_subprocess_exec(
        SLUICE, "tenant", "list", stdout=follower, env=environment(database_url=database, COLUMNS=100)
    )
    assert await command.wait() == 0
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    os.close(follower)
    assert "tenant_id" in shown
    assert "│ north" in shown


async def test_tenant_names(database: str) -> None:
    """A name that is taken and one that cannot be are refused, and say why."""
    await add_tenant(database, "north")
    check_error(await sluice("tenant", "create", "north", database_url=database), "there is a tenant north already")
    bad = ["North", "x" * 64, ""]
    for done in await asyncio.gather(*(sluice("tenant", "create", name, database_url=database) for name in bad)):
        check_error(done, "1 to 63 lower-case letters, digits and -")
    check_error(await sluice("tenant", "create", "--", "-a", database_url=database), "begins with no -")


async def test_fresh_database(folder: Path) -> None:
    """The first command of all prepares the database, and even then prints the key alone."""
    done = await sluice("key", "create", "--operator", data_dir=folder / "fresh")
    assert done.code == 0
    assert re.fullmatch(r"sluice_[\w-]{43}\n", done.out), done.out
    assert using(folder / "fresh") == []


async def test_keys(database: str) -> None:
    """A new key has the scopes that were asked for, the three without `operate` unless said; an operator's has no tenant."""
    await add_tenant(database, "north")
    words = [["north"], ["north", "--scope", "read", "--scope", "operate"], ["--operator"]]
    made = [await sluice("key", "create", *more, database_url=database) for more in words]
    assert all(re.fullmatch(r"sluice_[\w-]{43}\n", done.out) and done.err == "" for done in made)
    rows = json.loads((await sluice("key", "list", "--json", database_url=database)).out)
    assert [(row["tenant"], sorted(row["scopes"])) for row in rows[1:]] == [
        ("north", ["read", "report", "warm"]),
        ("north", ["operate", "read"]),
        (None, ["operate"]),
    ]
    lines = (await sluice("key", "list", "north", database_url=database)).out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["north"] * 3
    async with served(database, keys={"said": made[1].out.strip()}) as server:
        statuses = [(await server.get(path, "said")).status for path in ("/patients/p", "/warm-up")]
    assert statuses == [404, 403]


@pytest.mark.parametrize("words", [[], ["north", "--operator"]])
async def test_whose_key(database: str, words: list[str]) -> None:
    """A key is a tenant's or the operator's: to say neither or both is a wrong use."""
    done = await sluice("key", "create", *words, database_url=database, COLUMNS=100)
    assert (done.code, done.out) == (2, "")
    assert "say either a tenant or --operator" in done.err


async def test_keys_of_a_running_server(database: str) -> None:
    """A server refuses a revoked and a rotated key within SLUICE_KEY_TTL_S; the rotated one's follower works at once."""
    key = await add_tenant(database, "north", [patient("p")])
    async with running("serve", database_url=database, key_ttl_s=0.5) as server, aiohttp.ClientSession() as session:
        url = await server.url() + "/patients/p"
        assert await status_of(session, url, key) == 200
        follower = (await sluice("key", "rotate", 1, database_url=database)).out.strip()
        assert await seconds_until_refused(session, url, key) < 0.7
        assert await status_of(session, url, follower) == 200
        assert (await sluice("key", "revoke", 2, database_url=database)).code == 0
        assert await seconds_until_refused(session, url, follower) < 0.7
    rows = json.loads((await sluice("key", "list", "--json", database_url=database)).out)
    assert rows[0]["scopes"] == rows[1]["scopes"]
    assert all(row["revoked_at"] for row in rows)


async def status_of(session: aiohttp.ClientSession, url: str, key: str) -> int:
    async with session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status


async def seconds_until_refused(session: aiohttp.ClientSession, url: str, key: str) -> float:
    began = perf_counter()
    async with asyncio.timeout(10):
        while await status_of(session, url, key) != 401:
            pass
    return perf_counter() - began


# Import


async def test_import_reads_back(database: str, shared_data: Path) -> None:
    """Every resource of the real data is read back over HTTP as it was imported, but for the server's part of meta."""
    keys = {}
    for name in ("synthea", "hl7-examples"):
        keys[name] = await add_tenant(database, name)
        done = await sluice("import", name, shared_data / "fhir" / name, database_url=database)
        assert done.code == 0, done.err
        given = [
            load(line) for path in (shared_data / "fhir" / name).glob("*.ndjson") for line in path.read_bytes().splitlines()
        ]
        assert f"\n{len(given):,} resources from " in done.err
        async with served(database, keys=keys) as server:
            places = asyncio.Semaphore(16)
            assert await asyncio.gather(*(read(server, name, resource, places) for resource in given)) == given


def load(text: bytes) -> Any:
    """Numbers as they are written; meta without what the server decides, and not at all when nothing is left of it."""
    resource = json.loads(text, parse_float=str, parse_int=str)
    meta = resource.pop("meta", {})
    kept = {name: value for name, value in meta.items() if name not in ("versionId", "lastUpdated")}
    return {**resource, **({"meta": kept} if kept else {})}


async def read(server: Served, tenant: str, resource: Any, places: asyncio.Semaphore) -> Any:
    async with places:
        return load((await server.get(f"/fhir/{resource['resourceType']}/{resource['id']}", tenant)).body)


@pytest.mark.parametrize(("strict", "kept"), [(False, [200, 200]), (True, [404, 404])])
async def test_import_bad_lines(database: str, tmp_path: Path, strict: bool, kept: list[int]) -> None:
    """A bad line is named by file, line and reason, with exit code 1; the rest goes in, or with --strict nothing does."""
    key = await add_tenant(database, "one")
    file = tmp_path / "a.ndjson"
    lines = [patient("a"), {"resourceType": "Patient", "id": "Gro\u00dfmann"}, patient("c")]
    file.write_text("\n".join(map(json.dumps, lines)))
    done = await sluice("import", "one", file, *(["--strict"] if strict else []), database_url=database)
    assert done.code == 1
    assert re.search(rf"^{re.escape(str(file))}:2: \S", done.err, re.MULTILINE)
    assert "Gro" not in done.err
    assert re.search(r"from 1 files in [\d.]+ s; 1 bad lines$", done.err, re.MULTILINE)
    assert ("nothing was put in: --strict" in done.err) == strict
    async with served(database, keys={"one": key}) as server:
        assert [(await server.get(f"/patients/{name}")).status for name in "ac"] == kept


async def test_import_again(database: str, tmp_path: Path) -> None:
    """The same import again changes nothing, and says so."""
    await add_tenant(database, "one")
    file = tmp_path / "a.ndjson"
    file.write_bytes(b"\n".join(resources(1, patients=10, practitioners=2, encounters=20, today=date(2026, 1, 2))))
    first = await sluice("import", "one", file, database_url=database)
    again = await sluice("import", "one", file, database_url=database)
    assert (first.code, again.code) == (0, 0)
    assert "Patient: 10 created\n" in first.err
    assert "Patient: 10 unchanged\n" in again.err


# Several workers


async def asked(url: str, key: str, times: int, path: str = "/patients/p", method: str = "GET") -> dict[str, list[int]]:
    """The statuses by the process that answered; each request is a connection of its own, for the kernel deals those out."""
    found: dict[str, list[int]] = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for _ in range(times):
            async with session.request(method, url + path, headers={"Authorization": f"Bearer {key}"}) as response:
                worker = response.headers["X-Request-ID"].partition("-")[0]
                found.setdefault(worker, []).append(response.status)
    return found


async def scraped(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as response:
        return await response.text()


async def test_workers_share(database: str) -> None:
    """Two workers answer on one port, and a scrape of either counts what both have answered."""
    key = await add_tenant(database, "one", [patient("p")])
    async with running("serve", "--workers", 2, database_url=database) as server:
        url = await server.url(2)
        found = await asked(url, key, 60)
        assert [set(statuses) for statuses in found.values()] == [{200}, {200}]
        for _ in range(10):  # of both workers, by all likelihood
            text = await scraped(url)
            assert total(text, "sluice_requests_total", operation="get_patient", outcome="200") == 60
            assert total(text, "sluice_request_duration_seconds_count", operation="get_patient") == 60
            assert total(text, "sluice_pool_connections", pool="api") == 2 * api_size(Config(), 2)
        assert await server.end() == 0


async def test_workers_follow(database: str) -> None:
    """A warm-up in one worker makes the tenant warm in the other, and a cool-down cold."""
    key = await add_tenant(database, "one", [patient("p")])
    async with running("serve", "--workers", 2, database_url=database, control_share=0) as server:
        url = await server.url(2)
        await asked(url, key, 1, "/warm-up", "POST")
        await all_at(url, key, "channel")
        await asked(url, key, 1, "/warm-up", "DELETE")
        await all_at(url, key, "direct")


async def all_at(url: str, key: str, path: str) -> None:
    """Until ten connections in a row, of both workers, are answered by this path."""
    headers, in_a_row, workers = {"Authorization": f"Bearer {key}"}, 0, set[str]()
    async with asyncio.timeout(10), aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while in_a_row < 10 or len(workers) < 2:
            async with session.get(url + "/patients/p", headers=headers) as response:
                in_a_row = in_a_row + 1 if response.headers["X-Sluice-Path"] == path else 0
                workers = workers | {response.headers["X-Request-ID"].partition("-")[0]} if in_a_row else set()


async def test_worker_killed(database: str) -> None:
    """A worker that is killed is started again, and no worker outlives SIGTERM to the parent, which ends with 0."""
    key = await add_tenant(database, "one", [patient("p")])
    async with running("serve", "--workers", 2, database_url=database) as server:
        url = await server.url(2)
        killed, other = psutil.Process(server.pid).children()
        killed.kill()
        await server.url(3)
        children = psutil.Process(server.pid).children()
        assert other in children
        assert len(children) == 2
        assert len(await asked(url, key, 40)) == 2
        assert await server.end() == 0
        assert [child for child in children if child.is_running()] == []
    assert [line["exit_code"] for line in server.logged("worker.ended")] == [-9]
    assert_clean(server)


async def test_parent_killed(database: str, folder: Path) -> None:
    """When the parent is killed, its workers end by themselves and give the port back."""
    # It leaves the folder of its workers' sockets behind.
    async with running("serve", "--workers", 2, database_url=database, TMPDIR=folder) as server:
        url = await server.url(2)
        children = psutil.Process(server.pid).children()
        await server.end(signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, children, timeout=10)
        assert [child for child in children if child.is_running()] == []
        socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))).close()


# The end


def assert_clean(server: Running) -> None:
    """Nothing but our log's lines is on standard error, none of them of a task that was forgotten."""
    assert [line for line in server.err if not line.startswith('{"')] == []
    assert server.logged("library.logged") == []


@pytest.mark.parametrize("path", ["channel", "direct"])
async def test_backlog_is_answered(database: str, path: str) -> None:
    """SIGTERM with requests waiting: all are answered, then the server ends with exit code 0 and nothing to complain about."""
    key = await add_tenant(database, "one", [patient(f"p{n}") for n in range(BACKLOG)])
    settings = {"control_share": 0, "PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": ""}  # any text turns it on
    async with running("serve", database_url=database, **settings) as server:
        url = await server.url()
        if path == "channel":
            await asked(url, key, 1, "/warm-up", "POST")
        sent: list[str] = []
        session = aiohttp.ClientSession(trace_configs=[noting(sent)])
        # Left from the last to the first: the lock is given back, then the answers come.
        async with session, asyncio.TaskGroup() as group, locked(database):
            waiting = [group.create_task(answer(session, f"{url}/patients/p{n}", key)) for n in range(BACKLOG)]
            await all_wait(session, sent, url, path)
            server.process.send_signal(signal.SIGTERM)
            await refused(url)
        assert [task.result() for task in waiting] == [(200, path)] * BACKLOG
        assert await server.process.wait() == 0
    assert_clean(server)


@asynccontextmanager
async def locked(database: str) -> AsyncIterator[None]:
    """While it is open, nobody reads a patient."""
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE fhir.resource_patient IN ACCESS EXCLUSIVE MODE")
        yield


def noting(sent: list[str]) -> aiohttp.TraceConfig:
    """Notes every request whose last byte has left."""
    trace = aiohttp.TraceConfig()

    async def note(_session: object, _context: object, parameters: aiohttp.TraceRequestHeadersSentParams) -> None:
        sent.append(str(parameters.url))

    trace.on_request_headers_sent.append(note)
    return trace


async def answer(session: aiohttp.ClientSession, url: str, key: str) -> tuple[int, str]:
    async with session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
        await response.read()
        return response.status, response.headers["X-Sluice-Path"]


async def all_wait(session: aiohttp.ClientSession, sent: list[str], url: str, path: str) -> None:
    """Until the server has all that was sent: whatever is answered to a newcomer came after it."""
    await until(lambda: len(sent) == BACKLOG)
    async with session.get(url + "/health/live") as response:
        assert response.status == 200
    counted = total(await scraped(url), "sluice_channel_messages_total", tenant="one")
    assert counted == (BACKLOG if path == "channel" else 0)


async def refused(url: str) -> None:
    """Until nobody listens there any more."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                return
            writer.close()
