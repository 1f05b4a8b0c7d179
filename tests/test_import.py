import asyncio
import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ingestion.fhir import chunks as fhir_chunks
from ingestion.fhir import files as fhir_files
from ingestion.fhir.files import BadLine
from ingestion.fhir.importing import Progress, import_paths
from tests.benchmarks.import_cost import write_file
from tests.conftest import PROVE
from tests.importing import (
    bundle,
    connected,
    encoded,
    entry,
    genders_of,
    imported,
    make_tenant,
    refuse,
    resource,
    rows_of,
    stored,
    write_lines,
)


async def test_again_changes_nothing(database: str, tmp_path: Path) -> None:
    """The same content, imported again, leaves the version; changed content is the next version."""
    tenant_id = await make_tenant(database)
    file = write_lines(tmp_path / "a.ndjson", [resource("Patient", "a"), resource("Patient", "b")])
    first, _ = await imported(database, tenant_id, file)
    again, _ = await imported(database, tenant_id, file)
    write_lines(file, [resource("Patient", "a", active=True), resource("Patient", "b")])
    changed, _ = await imported(database, tenant_id, file)
    assert (first.counts.created, again.counts.unchanged, changed.counts.updated, changed.counts.unchanged) == (2, 2, 1, 1)
    versions = {key: version for key, (version, _) in (await stored(database, tenant_id)).items()}
    assert versions == {"Patient/a": 2, "Patient/b": 1}


async def test_bytes_are_kept(database: str, tmp_path: Path) -> None:
    """Digits, escapes, unknown elements, blanks and letters of any alphabet are served as they came."""
    tenant_id = await make_tenant(database)
    members = (
        '"_birthDate":{"extension":[{"url":"u","valueDecimal":5.60}]},"n":[1e3,-0.0,123456789012345678901234567890,1e999],'
        '"unknown":{"b":1,"a": [ ] },"name":[{"text":"Zo\\u00eb Ångström 李 𝔘 \\"\\/"}]'
    ).encode()
    file = write_lines(tmp_path / "a.ndjson", [b'{"resourceType":"Patient","id":"a",%b}' % members])
    await imported(database, tenant_id, file)
    _, body = (await stored(database, tenant_id))["Patient/a"]
    assert body.endswith(b'Z"},' + members + b"}")


async def test_files_and_folders(database: str, tmp_path: Path) -> None:
    """NDJSON, single resources and Bundles, plain or gzip, are taken from folders by name and from files by any name."""
    tenant_id = await make_tenant(database)
    folder = tmp_path / "in"
    write_lines(folder / "b" / "two.NDJSON", [resource("Patient", "a"), b"", b"  ", resource("Patient", "b")])
    (folder / "one.json").write_text(json.dumps(resource("Patient", "c", active=True), indent=2))
    (folder / "packed.ndjson.gz").write_bytes(gzip.compress(encoded(resource("Patient", "d")) + b"\r\n"))
    (folder / "packed.json").write_bytes(gzip.compress(json.dumps(resource("Patient", "e"), indent=1).encode()))
    write_lines(folder / "marked.json", [b"\xef\xbb\xbf" + encoded(resource("Patient", "f"))])
    write_lines(
        folder / "bundle.ndjson", [bundle("collection", {"resource": resource("Patient", "g")}), resource("Patient", "h")]
    )
    write_lines(folder / "README.md", [b"no FHIR"])
    (folder / "empty.json").touch()
    named = write_lines(tmp_path / "by-its-name", [resource("Patient", "i")])
    summary, bad = await imported(database, tenant_id, folder, named)
    assert bad == []
    assert sorted(await stored(database, tenant_id)) == [f"Patient/{letter}" for letter in "abcdefghi"]
    assert (summary.files, summary.counts.created, summary.rolled_back) == (8, 9, False)


async def test_bad_lines(database: str, tmp_path: Path) -> None:
    """A bad line is reported with file, line and reason, and without its content; the rest goes in."""
    tenant_id = await make_tenant(database)
    lines: list[dict[str, Any] | bytes] = [
        resource("Patient", "a"),
        b'{"resourceType":"Patient","id":"SECRET',
        {"resourceType": "Patient", "name": "SECRET"},
        b"SECRET",
        b"",
        resource("Patient", "b"),
        resource("SECRET/", "c"),
        b'{"resourceType":"B\\u0075ndle","id":"a"}',
    ]
    file = write_lines(tmp_path / "a.ndjson", lines)
    _, bad = await imported(database, tenant_id, file, tmp_path / "none.ndjson")
    assert [(line.file.name, line.line) for line in bad] == [
        ("a.ndjson", 2),
        ("a.ndjson", 3),
        ("a.ndjson", 4),
        ("a.ndjson", 7),
        ("a.ndjson", 8),
        ("none.ndjson", 0),
    ]
    assert [line.reason.split(":")[0] for line in bad] == [
        "not JSON",
        "id is missing",
        "not JSON",
        "resourceType is missing or is no type's name",
        "a Bundle that cannot be taken apart",
        "cannot be read on from here",
    ]
    assert "SECRET" not in str(bad)
    assert sorted(await stored(database, tenant_id)) == ["Patient/a", "Patient/b"]


async def test_strict(database: str, tmp_path: Path) -> None:
    """With one bad line, strict puts nothing in and still reports every bad line; with none, it puts in all."""
    tenant_id = await make_tenant(database)
    good = write_lines(tmp_path / "a.ndjson", [resource("Patient", str(n)) for n in range(3)])
    file = write_lines(tmp_path / "b.ndjson", [b"bad", resource("Patient", "z"), b"worse"])
    summary, bad = await imported(database, tenant_id, good, file, strict=True)
    assert ([line.line for line in bad], summary.rolled_back, summary.counts.total) == ([1, 3], True, 0)
    assert await stored(database, tenant_id) == {}
    summary, bad = await imported(database, tenant_id, good, strict=True)
    assert (bad, summary.rolled_back, summary.counts.created) == ([], False, 3)
    assert len(await stored(database, tenant_id)) == 3


@pytest.mark.parametrize("strict", [False, True])
async def test_what_the_database_refuses(database: str, tmp_path: Path, strict: bool) -> None:
    """A resource that the database does not take is reported as a bad line, and its chunk goes in without it."""
    tenant_id = await make_tenant(database)
    await refuse(database, "p7")
    file = write_lines(tmp_path / "a.ndjson", [resource("Patient", f"p{n}") for n in range(30)])
    summary, bad = await imported(database, tenant_id, file, strict=strict)
    assert bad == [BadLine(file, 8, "the database does not take it (SQLSTATE 22P05)")]
    assert len(await stored(database, tenant_id)) == summary.counts.created == (0 if strict else 29)


async def test_a_resource_twice(database: str, tmp_path: Path) -> None:
    """A resource that stands in the files twice is written twice, in their order."""
    tenant_id = await make_tenant(database)
    write_lines(tmp_path / "a.ndjson", [resource("Patient", "a", gender="male"), resource("Patient", "a", gender="female")])
    for folder in ("2", "3", "1"):
        write_lines(tmp_path / "b" / folder / "b.ndjson", [resource("Patient", "a", gender=folder)])
    summary, _ = await imported(database, tenant_id, tmp_path)
    assert (summary.counts.created, summary.counts.updated) == (1, 4)
    assert await genders_of(database) == [("3",)]


async def test_chunks(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are committed one by one, and progress is told of by the bytes that were read."""
    monkeypatch.setattr(fhir_chunks, "CHUNK_RESOURCES", 100)
    tenant_id = await make_tenant(database)
    file = write_lines(tmp_path / "a.ndjson", [resource("Patient", str(n), text="x" * 2000) for n in range(1000)])
    seen: list[Progress] = []
    await import_paths(database, tenant_id, [file], strict=False, progress=seen.append, report=print)
    assert [told.resources for told in seen[:-1]] == list(range(100, 1001, 100))
    done = [told.bytes_done for told in seen]
    assert done == sorted(done)
    assert 0 < done[0] < done[5] < done[-1] == seen[-1].bytes_total == file.stat().st_size
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM fhir.resource") == 10


async def test_statistics(database: str, tmp_path: Path) -> None:
    """After an import the planner knows the tables."""
    tenant_id = await make_tenant(database)
    encounter = resource("Encounter", "a", length={"value": 5})
    await imported(database, tenant_id, write_lines(tmp_path / "a.ndjson", [resource("Patient", "a"), encounter]))
    async with connected(database) as connection:
        for table in ("resource_patient", "token_patient", "quantity_encounter"):
            assert await connection.fetchval("SELECT reltuples FROM pg_class WHERE relname = $1", table) == 1


async def test_two_imports_at_once(database: str, tmp_path: Path) -> None:
    """Two imports of the same resources, in different order, end with one state, and every version in the history."""
    tenant_id = await make_tenant(database)
    ids = [str(n) for n in range(3000)]
    one = write_lines(tmp_path / "one.ndjson", [resource("Patient", n, gender="male") for n in ids])
    two = write_lines(tmp_path / "two.ndjson", [resource("Patient", n, gender="female") for n in reversed(ids)])
    results = await asyncio.gather(imported(database, tenant_id, one), imported(database, tenant_id, two))
    assert [bad for _, bad in results] == [[], []]
    assert sum(summary.counts.created for summary, _ in results) == len(ids)
    assert sum(summary.counts.updated for summary, _ in results) == len(ids)
    assert await rows_of(database, "history", "version") == [(1,)] * len(ids)
    tokens = dict(await genders_of(database, "id, code"))
    for key, (version, body) in (await stored(database, tenant_id)).items():
        assert version == 2
        assert json.loads(body)["gender"] == tokens[key.removeprefix("Patient/")]


async def test_long_lines(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line or a document longer than any may be is passed over in pieces, and reported."""
    monkeypatch.setattr(fhir_files, "MAX_DOCUMENT_BYTES", 2 * 1024 * 1024)
    tenant_id = await make_tenant(database)
    long = encoded(resource("Patient", "long", text="x" * 5_000_000))
    lines = write_lines(tmp_path / "a.ndjson", [resource("Patient", "a"), long, resource("Patient", "b")])
    first = write_lines(tmp_path / "b.ndjson", [long, resource("Patient", "c")])
    spread = tmp_path / "c.json"
    spread.write_text(json.dumps(resource("Patient", "long", text="x" * 5_000_000), indent=1))
    _, bad = await imported(database, tenant_id, lines, first, spread)
    assert bad == [BadLine(file, line, "longer than 2 MiB") for file, line in ((lines, 2), (first, 1), (spread, 1))]
    assert sorted(await stored(database, tenant_id)) == ["Patient/a", "Patient/b", "Patient/c"]


async def test_a_deadlock_is_tried_again(database: str, tmp_path: Path) -> None:
    """When the database ends a deadlock at the import's cost, the chunk is written again."""
    tenant_id = await make_tenant(database)
    file = write_lines(tmp_path / "a.ndjson", [resource("Patient", "a"), resource("Patient", "b")])
    await imported(database, tenant_id, file)
    write_lines(file, [resource("Patient", "a", active=True), resource("Patient", "b", active=True)])
    async with connected(database, role="") as other:
        await other.execute("SET deadlock_timeout = '1min'")
        async with other.transaction():
            await other.execute("UPDATE fhir.resource SET rank = rank WHERE id = 'b'")
            importing = asyncio.create_task(imported(database, tenant_id, file))
            while not await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                await other.execute("SELECT pg_sleep(0.01)")
            await other.execute("UPDATE fhir.resource SET rank = rank WHERE id = 'a'")
    summary, bad = await importing
    assert (summary.counts.updated, bad) == (2, [])


@pytest.mark.parametrize("damage", ["cut off", "broken"])
async def test_damaged_gzip(database: str, tmp_path: Path, damage: str) -> None:
    """What can be read of a damaged gzip goes in, and the rest is reported as one bad line."""
    tenant_id = await make_tenant(database)
    lines = b"".join(encoded(resource("Patient", str(n), text=f"{n * 7919}")) + b"\n" for n in range(20000))
    packed = bytearray(gzip.compress(lines))
    if damage == "cut off":
        del packed[-len(packed) // 4 :]
    else:
        packed[-len(packed) // 4 :] = random.Random(1).randbytes(len(packed) // 4)
    file = tmp_path / "a.ndjson.gz"
    file.write_bytes(packed)
    summary, bad = await imported(database, tenant_id, file)
    assert len(bad) in (1, 2)  # the line at which it breaks may come out as a part
    assert bad[-1].reason == "cannot be read on from here: damaged gzip"
    assert 5000 < summary.counts.created < 20000


def _without_ours(body: bytes) -> Any:
    document = json.loads(body, parse_float=str)
    meta = document.setdefault("meta", {})
    for name in ("versionId", "lastUpdated"):
        meta.pop(name, None)
    return document


async def test_real_data(database: str, shared_data: Path) -> None:
    """All of the real data reads back equal but for versionId and lastUpdated, and a second import changes nothing."""
    tenant_id = await make_tenant(database)
    summary, bad = await imported(database, tenant_id, shared_data / "fhir")
    again, _ = await imported(database, tenant_id, shared_data / "fhir")
    assert (bad, again.counts.unchanged) == ([], summary.counts.total)
    kept = await stored(database, tenant_id)
    lines = [line for file in (shared_data / "fhir").glob("*/*.ndjson") for line in file.read_bytes().splitlines()]
    for line in lines:
        document = json.loads(line)
        version, body = kept[f"{document['resourceType']}/{document['id']}"]
        assert version == 1
        assert _without_ours(body) == _without_ours(line)
    assert len(kept) == len(lines)


async def test_review_of_real_data(database: str, shared_data: Path) -> None:
    """What an Encounter refers to, and what refers to it, is all in fhir.reference."""
    tenant_id = await make_tenant(database)
    await imported(database, tenant_id, shared_data / "fhir" / "synthea")
    encounter = "120de2e7-0af1-cbce-3199-6dbaaf9b60ca"
    async with connected(database) as connection:
        to = await connection.fetch("SELECT path, to_type FROM fhir.reference WHERE type = 'Encounter' AND id = $1", encounter)
        of = await connection.fetch(
            "SELECT type, path FROM fhir.reference WHERE to_type = 'Encounter' AND to_id = $1", encounter
        )
        claims = await connection.fetch("SELECT DISTINCT path FROM fhir.reference WHERE to_type = 'Claim'")
    assert {tuple(row) for row in to} == {
        ("subject", "Patient"),
        ("participant.individual", "Practitioner"),
        ("location.location", "Location"),
        ("serviceProvider", "Organization"),
    }
    assert {tuple(row) for row in of} >= {
        ("Claim", "item.encounter"),
        ("Condition", "encounter"),
        ("ExplanationOfBenefit", "item.encounter"),
    }
    assert {row["path"] for row in claims} >= {"claim"}


async def test_a_database_that_is_away(database: str, tmp_path: Path) -> None:
    """A failure that is no resource's fault ends the import; it is not taken for a bad line."""
    tenant_id = await make_tenant(database)
    async with connected(database, role="") as connection:
        await connection.execute("REVOKE INSERT ON fhir.resource FROM sluice_ingest")
    file = write_lines(tmp_path / "a.ndjson", [resource("Patient", "a")])
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await imported(database, tenant_id, file)


_has_peak = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
_PEAK = """
import asyncio, sys
from pathlib import Path
from ingestion.fhir.importing import import_paths
url, tenant_id, file = sys.argv[1:]
asyncio.run(import_paths(url, int(tenant_id), [Path(file)], strict=False, progress=lambda _: None, report=print))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


async def _peak_mib(database: str, tenant_id: int, file: Path) -> float:
    """The highest memory of a process of its own that imports a file; its ru_maxrss would begin with its parent's."""
    arguments = ("-c", _PEAK, database, str(tenant_id), str(file))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return int(output.splitlines()[-1]) / 1024


async def _peak_of_resources_mib(database: str, folder: Path, resources: int) -> float:
    tenant_id = await make_tenant(database, f"of-{resources}")
    file = folder / f"{resources}.ndjson"
    write_file(file, resources)
    peak = await _peak_mib(database, tenant_id, file)
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT count(*) FROM fhir.resource WHERE tenant_id = $1", tenant_id) == resources
    return peak


@_has_peak
async def test_memory_stays_flat(database: str, tmp_path: Path) -> None:
    """Three times as many resources take no more memory."""
    few, many = await asyncio.gather(*(_peak_of_resources_mib(database, tmp_path, size) for size in (10_000, 30_000)))
    assert many - few < 5


@_has_peak
async def test_what_waits_takes_no_memory(database: str, tmp_path: Path) -> None:
    """Bundles that wait for others are read again; they are not kept."""
    tenant_id = await make_tenant(database)
    waiting = resource("Basic", "b", author={"reference": "Practitioner?identifier=404"}, text="x" * 1_000_000)
    line = bundle("transaction", entry("PUT", "Basic/b", waiting))
    files = [write_lines(tmp_path / f"{number}.ndjson", [line] * number) for number in (5, 60)]
    few, many = await asyncio.gather(*(_peak_mib(database, tenant_id, file) for file in files))
    assert many - few < 10


@_has_peak
@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PROVE, reason="a million resources: make prove")
async def test_a_million_resources(database: str, tmp_path: Path) -> None:
    """A million resources go in with the memory that ten thousand take."""
    few = await _peak_of_resources_mib(database, tmp_path, 10_000)
    many = await _peak_of_resources_mib(database, tmp_path, 1_000_000)
    print(f"peak memory: {few:.0f} MiB at 10 000 resources, {many:.0f} MiB at 1 000 000")
    assert many - few < 10
