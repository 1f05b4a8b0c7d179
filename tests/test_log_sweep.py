"""The sweep: whatever goes wrong, nothing of a patient is in a line, a metric, a span or an error.

STORED stands in everything that the database holds of patients, ASKED in everything that clients ask for.
"""

import asyncio
import io
from collections import defaultdict
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import quote

import pytest

from base.config import Config
from base.tracing import tracing
from metrics.exposition import exposition
from simulator.post_office import Behaviour
from storage import asks
from tenants.direct import DirectLine
from tenants.registry import TenantRegistry
from tests.logged import Lines
from tests.polls import Clinics, clinics, files_of, polling
from tests.spans import collecting
from tests.support import Reply, Served, add_tenant, connected, encounter, patient, served
from tests.test_polling import Faulty

STORED, ASKED = "Zyxstored", "Qwvasked"
DAY = "1979-06-11"
PATHS = (
    "/patients/{}",
    "/patients?name={}",
    "/patients?birthdate={}",
    "/patients?{}=1",
    "/patients?_cursor={}",
    "/patients?_count={}",
    "/patients?_sort={}",
    "/patients?identifier={}|{}",
    "/patients?_format={}",
    "/encounters?date={}",
    "/encounters?patient={}",
    "/encounters?patient.name={}",
    "/encounters?_include={}",
    "/reviews/{}",
    "/fhir/Patient/{}",
    "/fhir/Patient/{}/$everything",
    "/fhir/Patient/{}/_history/{}",
    "/fhir/Patient/_history?_since={}",
    "/fhir/{}/x",
    "/fhir/Observation?code={}",
    "/fhir/Observation?_has:{}:x=1",
    "/reports/balance-amount?from={}",
    "/reports/remittance-advice?payer={}&format=csv",
    "/reports/claims/{}",
    "/{}",
    "/patients/{}%00",
)
TYPES: defaultdict[str, set[str]] = defaultdict(set)


def fail(*_: object, **__: object) -> NoReturn:
    name = STORED
    raise ValueError(f"{name} {ASKED} was born on {DAY}")


def people() -> list[dict[str, Any]]:
    name = [{"family": STORED, "given": [STORED]}]
    patients = [patient(f"{STORED}-{n}", name=name, birthDate=DAY, identifier=[{"value": STORED}]) for n in range(40)]
    subject = {"reference": f"Patient/{STORED}-1"}
    visits = [encounter(f"{STORED}-{n}", f"{DAY}T10:00:00Z", subject=subject) for n in range(40)]
    return [*patients, *visits]


async def everything(server: Served) -> list[Reply]:
    """Every question with what clients ask for, and what is stored, by GET and by POST; errors alone are given back."""
    words = (ASKED, quote(f"{ASKED}' \u00df\n"))
    found = [await server.get(path.replace("{}", word)) for path in PATHS for word in words]
    found += [await server.get(path.replace("{}", f"{STORED}-1")) for path in PATHS if "?" not in path]
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    found.append(await server.get("/fhir/Patient/_search", method="POST", body=f"name={ASKED}&x={ASKED}".encode(), **form))
    found.append(await server.get("/patients", X_Request_ID=ASKED + "/", X_Sluice_Force=ASKED, Accept=ASKED))
    found.append(await server.get("/patients", None, Authorization=f"Bearer {ASKED}"))
    found.append(await server.get(f"/patients/{ASKED}", method="PATCH", body=ASKED.encode()))
    found.append(await server.get(f"/patients/{ASKED * 2000}"))
    return found


def check_types(lines: list[dict[str, Any]]) -> None:
    """A field has one type in all lines, whoever writes them: an index of them takes its first for all."""
    for line in lines:
        for name, value in line.items():
            TYPES[name].add({int: "number", float: "number"}.get(type(value), type(value).__name__))
    assert {name: kinds for name, kinds in TYPES.items() if len(kinds - {"NoneType"}) > 1} == {}


@pytest.mark.parametrize("warm", [False, True])
async def test_api(database: str, lines: Lines, written: io.BytesIO, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    """A server under load that meets every kind of error, by both paths, tells nothing of patients, stored or asked for."""
    key = await add_tenant(database, "one", people())
    settings: dict[str, Any] = {
        "access_log": "all",
        "pool_size": 8,
        "pool_held_s": 0.05,
        "deadline_s": 1.0,
        "queue_size": 8,
        "tracing": "on",
    }
    async with collecting() as spans:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with served(database, keys={"one": key}, **settings) as server, connected(database) as owner:
            if warm:
                assert (await server.get("/warm-up", method="POST")).status == 201
            replies = await everything(server)
            many = [f"/patients/{STORED}-{n}" for n in range(40)]
            async with owner.transaction():  # refused, held long, expired
                await owner.execute("LOCK TABLE fhir.resource IN ACCESS EXCLUSIVE MODE")
                replies += await asyncio.gather(*map(server.get, many))
            await owner.execute("REVOKE SELECT ON fhir.resource, fhir.token, fhir.reference FROM sluice_api")
            replies += await everything(server)
            await owner.execute("GRANT SELECT ON fhir.resource, fhir.token, fhir.reference TO sluice_api")
            await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice api'")
            replies += await asyncio.gather(*map(server.get, many))
            planted: tuple[tuple[Any, str], ...] = ((asks, "hand_out"), (DirectLine, "submit"), (TenantRegistry, "submit"))
            for target, name in planted:
                with monkeypatch.context() as fault:
                    fault.setattr(target, name, fail)
                    replies += await asyncio.gather(*map(server.get, many[:5]))
            metrics = await server.get("/metrics", None)
        assert {429, 500, 504} <= {reply.status for reply in replies}
    assert {line["event"] for line in lines()} >= {"request.answered", "request.failed", "connection.held_long"}
    said = written.getvalue() + metrics.body + b"".join(spans.raw)
    for word in (STORED, ASKED, DAY, key):
        assert word.encode() not in said
    errors = b"".join(reply.body for reply in replies if reply.status >= 400)
    assert STORED.encode() not in errors
    assert key.encode() not in errors
    assert spans.named("batch" if warm else "query")
    check_types(lines())


def marked(of: str) -> dict[str, list[Any]]:
    """Files whose claims, members, patients and everything that cannot be read bear the marker."""
    ((licence, files),) = files_of(1, claims=24).items()
    document = bytes(files[0].document)
    odd = [
        document.replace(b"<Net>", b"<Net>" + of.encode()),
        document.replace(b"<Start>", b"<Start>" + of.encode()),
        document.replace(b"</Claim>", f"<{of}>{of}</Claim>".encode()),
        document.replace(b"<RecordCount>", b"<RecordCount>" + of.encode()),
        document.replace(b"Claim.Submission", b"Prior.Request").replace(b"<ID>", b"<ID>" + of.encode()),
        of.encode() * 100,
    ]
    ids = {b"<ID>C": f"<ID>{of}-C", b"<MemberID>": f"<MemberID>{of}", b"<PatientID>": f"<PatientID>{of}"}
    for old, new in ids.items():
        files = [replace(file, document=file.document.replace(old, new.encode())) for file in files]
    return {licence: [*files, *[_again(files[0], content, number) for number, content in enumerate(odd)]]}


def _again(file: Any, content: bytes, number: int) -> Any:
    return replace(file, file_id=f"odd-{number}", name=f"{STORED}-{number}.xml", document=content)


async def polls(of: Clinics) -> bytes:
    """Poll after poll, each with another trouble; the worker's metrics."""
    licence = of.licences[0]

    def once(_: Any, received: Any) -> None:
        if received.file_id == "odd-1":
            fail()

    behaviours: list[dict[str, Any]] = [
        {"error_next": 3, "error_status": 500, "ack_fail_next": 20},
        {"transient_next": 3},
        {"truncated_next": 3},
        {"cut_next": 3},
        {"garbage_next": 2},
        {"ack_lost_next": 2},
        {"login_failed": True},
    ]
    async with polling(of, loader=lambda real: Faulty(real, once)) as running:
        for how in behaviours:
            of.behave(licence, **how)
            await running.of(licence)
        await of.rows("UPDATE ops.facility SET state = 'active'")
        of.boxes[licence].behave(Behaviour())
        await of.rows("REVOKE INSERT ON claims.event FROM sluice_ingest")
        await running.of(licence)
        await of.rows("GRANT INSERT ON claims.event TO sluice_ingest")
        await running.of(licence)
        return exposition(running.poller.means.metrics.families, running.poller.means.metrics.snapshot())


async def test_worker(database: str, lines: Lines, written: io.BytesIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose post office, files and database all fail it tells nothing of what the files say, nor a password."""
    async with collecting() as spans, clinics(database, files=marked(STORED)) as of:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        opened = tracing(Config(tracing="on"), "worker")
        opened.__enter__()
        try:
            metrics = await polls(of)
            await spans.seen("poll")
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)
        assert await of.value("SELECT count(*) FROM claims.claim WHERE claim_id LIKE $1", STORED + "%") > 0
        passwords = [box.profile.password for box in of.boxes.values()]
        reasons = str([tuple(row) for row in await of.rows("SELECT reason FROM ops.poll_run")]).encode()
    assert {line["event"] for line in lines()} >= {
        "post_office.asked_again",
        "file.failed",
        "file.not_taken",
        "acknowledgement.owed",
        "facility.polled",
    }
    said = written.getvalue() + metrics + b"".join(spans.raw) + reasons
    for word in (STORED, DAY, *passwords, "784-"):
        assert word.encode() not in said
    check_types(lines())
