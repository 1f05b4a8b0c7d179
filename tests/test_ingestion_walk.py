"""What docs/ingestion.md tells a newcomer to type, typed: a post office, a worker and a server as real processes."""

import asyncio
import itertools
import json
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base.config import describe
from metrics.catalog import Metrics, WorkerMetrics
from storage import claims as store
from tests.claims import Intake, intake
from tests.processes import SLUICE, Done, Running, environment, running, sluice, total
from tests.support import connected
from tests.test_cli import check_error
from tests.test_metrics import PROMISED_OF_WORKERS, check_promised
from tests.test_worker import scraped

PAGE = Path(__file__).parents[1] / "docs" / "ingestion.md"
TYPED = ".venv/bin/sluice"
GO_ON = {"post-office": "--port=0", "worker": "", "serve": "--port=0"}
"""Commands that run until they are told to end, and what the test adds to them: ports that are free."""
QUIET = {"secret": "a secret of the tests", "metrics_port": 0, "throttle_cpu": 1, "throttle_disk_free": 0}


def terminals() -> list[list[str]]:
    """The lines to type, of each terminal."""
    section = PAGE.read_text(encoding="utf-8").partition("## From nothing to claims")[2].partition("\n## ")[0]
    return [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where it is typed: `.venv/bin/sluice` is there, as in a checkout."""
    place = Path(tempfile.mkdtemp(prefix="sluice-walk-"))
    (place / ".venv").symlink_to(SLUICE.parents[1])
    yield place
    shutil.rmtree(place)


@dataclass
class Walk:
    """Lines typed one after the other; what goes on is left running until the end."""

    folder: Path
    database: str
    running: dict[str, Running]
    done: dict[str, Done]
    """By the line, without the path of the command."""

    async def type(self, line: str, stack: AsyncExitStack) -> None:
        words = shlex.split(line)
        if words[0] == TYPED and words[1] in GO_ON:
            more = [GO_ON[words[1]]] if GO_ON[words[1]] else []
            files = [str(self.folder / word) if word.endswith(".sh") else word for word in words[1:]]
            process = running(*files, *more, database_url=self.database, **QUIET)
            self.running[words[1]] = await stack.enter_async_context(process)
            await self._is_up(words[1])
        else:
            self.done[line.removeprefix(f"{TYPED} ")] = await self._run(await self._at_its_port(line))

    async def _is_up(self, command: str) -> None:
        process = self.running[command]
        if command == "post-office":
            await process.seen(lambda: "To register all with a tenant: " in "\n".join(process.out) or None)
        else:
            event = "worker.started" if command == "worker" else "server.started"
            await process.seen(lambda: process.logged(event) or None)

    async def _at_its_port(self, line: str) -> str:
        return line.replace("http://127.0.0.1:8080", await self.running["serve"].url()) if "8080" in line else line

    async def _run(self, line: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", line),
            cwd=self.folder,
            env=environment(database_url=self.database, **QUIET),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 0, (line, err)
        return Done(0, out.decode(), err.decode())


async def test_walk(database: str, folder: Path) -> None:
    """Every line of the page works as it is typed, and in the end claims are in, looked at, and read as FHIR."""
    walk = Walk(folder, database, {}, {})
    async with AsyncExitStack() as stack:
        for line in itertools.chain.from_iterable(terminals()):
            await walk.type(line, stack)
        await check(walk)


async def check(walk: Walk) -> None:
    assert [line.partition(" ")[0] for line in walk.done] == ["tenant", "sh", "facility", "ingest", "ingest", "key", "curl"]
    assert list(walk.running) == ["post-office", "worker", "serve"]
    facilities = json.loads(walk.done["ingest status --json"].out)
    assert [(row["tenant"], row["state"], row["outcome"], row["owed"], row["parked"]) for row in facilities] == [
        ("my-hospital", "active", "ok", 0, 0)
    ] * 3
    async with connected(walk.database) as connection:
        claims = await connection.fetchval("SELECT count(*) FROM claims.claim WHERE submitted_at IS NOT NULL")
        assert claims >= 500  # of 600, for TEST files are among them
        assert sum(row["claims"] for row in facilities) == await connection.fetchval("SELECT sum(claims) FROM claims.file")
        errors = {line.split("\t")[2] for line in walk.done["ingest errors"].out.splitlines()}
        assert errors <= {"warning", "aside"}
        await check_claim(connection, read(walk))
    check_metrics(await scraped(walk.running["worker"]), claims)
    assert [await process.end() for process in walk.running.values()] == [0, 0, 0]
    assert not any("post-00" in line for process in walk.running.values() for line in process.err)  # passwords


def read(walk: Walk) -> Any:
    """What curl got."""
    return json.loads(next(done.out for line, done in walk.done.items() if line.startswith("curl")))


async def check_claim(connection: Any, bundle: Any) -> None:
    """Its amount is the database's, and its patient comes with it."""
    claim, patient = (entry["resource"] for entry in bundle["entry"])
    assert (claim["resourceType"], claim["patient"]["reference"]) == ("Claim", f"Patient/{patient['id']}")
    number = claim["identifier"][0]
    net = await connection.fetchval(
        "SELECT net FROM claims.claim WHERE claim_id = $1 AND provider_id = $2",
        number["value"],
        number["system"].rpartition("/")[2],
    )
    assert claim["total"] == {"value": float(net), "currency": "AED"}


def check_metrics(text: str, claims: int) -> None:
    """A worker's scrape has all that is promised, with kinds and labels, and every number is one."""
    check_promised(text, PROMISED_OF_WORKERS, may_lack=["sluice_jobs"])  # no job may be in the queue just now
    assert total(text, "sluice_ingest_claims_total") >= claims
    assert total(text, "sluice_facility_polls_total", outcome="ok") >= 3
    for stage in (
        "list",
        "download",
        "load",
        "acknowledge",
        "parse",
        "settle",
        "identify",
        "derive",
        "claims",
        "resources",
        "finish",
    ):
        assert total(text, "sluice_ingest_stage_duration_seconds_count", stage=stage) > 0, stage


def test_page() -> None:
    """Operators' pages name every metric of a worker, its settings and the pools', and every state that the tables know."""
    page = PAGE.read_text(encoding="utf-8") + PAGE.with_name("operations.md").read_text(encoding="utf-8")
    own = WorkerMetrics().families.keys() - Metrics().families.keys()
    ours = "POLL|INGEST|THROTTLE|API_METRICS|METRICS|IDENTIFIER|POOL|REPORT|REPLICA|VIEW"
    settings = {name for name, _, _ in describe() if re.match(f"SLUICE_({ours})", name)}
    schema = (Path(store.__file__).parent / "sql" / "migrations" / "0005_claims.sql").read_text(encoding="utf-8")
    listed = re.findall(r"CHECK \((?:state|severity) IN \(([^)]*)\)\)", schema)
    words = set(re.findall(r"[a-z]+", " ".join(listed))) | {"ok", "partial", "failed", "timeout", "lost"}
    assert {name for name in own | settings if name not in page} == set()
    assert {word for word in words if not re.search(rf"[`*]{word}[`*]", page)} == set()
    assert len(listed) == 3


# What is typed wrongly

ADD = "facility add clinic DHA-F-0000009 --login l --password-file {good} --url https://office.example"
WRONG: list[tuple[str, dict[str, Any], str]] = [
    (ADD.replace("good", "empty"), {}, "empty is empty; it holds the password alone"),
    (ADD.replace("good", "binary"), {}, "binary is no UTF-8"),
    (
        ADD.replace("https://office", "http://office"),
        {},
        "a post office's URL begins with https:// (http:// on this machine only)",
    ),
    (ADD.replace("office.example", "l:geheim@office.example"), {}, "and holds no password"),
    (ADD.replace("clinic", "nobody"), {}, "there is no tenant nobody; `sluice tenant create nobody` makes it"),
    (ADD.replace("0000009", "0000001"), {}, "the licence DHA-F-0000001 is registered already, and belongs to one tenant"),
    (ADD, {"secret": ""}, "SLUICE_SECRET is not set: facilities' passwords are encrypted with it"),
    ("worker", {"secret": ""}, "SLUICE_SECRET is not set"),
    ("worker", {"poll_mode": "often"}, "SLUICE_POLL_MODE='often' cannot be used; expected: one of staggered, concurrent"),
    ("worker", {"metrics_port": "{port}"}, "cannot listen on 127.0.0.1:{port}: "),
    ("post-office --port {port}", {}, "cannot listen on 127.0.0.1:{port}: Address already in use; see --host and --port"),
    ("facility poll nowhere", {}, "there is no facility nowhere; `sluice facility list` shows all"),
    ("facility pause nowhere", {}, "there is no facility nowhere;"),
    ("ingest errors nowhere", {}, "there is no facility nowhere;"),
    (
        "ingest retry DHA-F-0000001 f",
        {},
        "no file f of DHA-F-0000001 was tried in vain; see `sluice ingest errors DHA-F-0000001`",
    ),
]


async def test_typed_wrongly(database: str, tmp_path: Path) -> None:
    """What an operator gets wrong is told in one line that says how to set it right, exit code 1, and nothing is changed."""
    given = {name: tmp_path / name for name in ("good", "empty", "binary")}
    for path, content in zip(given.values(), (b"geheim\n", b"\n", b"\xff\xfe\xff"), strict=True):
        path.write_bytes(content)
    async with intake(database) as taken:
        with closing(socket.create_server(("127.0.0.1", 0))) as port_taken:
            places = {**given, "port": port_taken.getsockname()[1]}
            for done, (words, _, expected) in zip(await typed(database, places), WRONG, strict=True):
                check_error(done, expected.format(**places))
                assert "geheim" not in done.err, words
        assert await registered(taken) == ["DHA-F-0000001"]


async def typed(database: str, places: dict[str, Any]) -> list[Done]:
    def settings(more: dict[str, Any]) -> dict[str, Any]:
        return {**QUIET, "database_url": database, **{name: str(value).format(**places) for name, value in more.items()}}

    commands = [sluice(*words.format(**places).split(), **settings(more)) for words, more, _ in WRONG]
    return list(await asyncio.gather(*commands))


async def registered(taken: Intake) -> list[str]:
    return [row["licence"] for row in await taken.rows("SELECT licence FROM ops.facility WHERE tenant_id = $1")]
