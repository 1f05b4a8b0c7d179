"""What an import costs this process in CPU, per small resource: `python -m tests.benchmarks.import_cost [RESOURCES]`.

The database's own CPU is not in it: process_time counts this process alone.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from ingestion.fhir.importing import import_paths
from r4.indexing import index, rank
from r4.resource import split
from storage.embedded import THROWAWAY, running
from storage.migrate import migrate


def practitioner(number: int) -> bytes:
    """A Practitioner such as Synthea makes, of about 770 bytes."""
    synthea = "http://synthetichealth.github.io/synthea"
    resource = {
        "resourceType": "Practitioner",
        "id": f"ffb3f581-4467-35fb-94c5-{number:012}",
        "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-practitioner"]},
        "extension": [{"url": f"{synthea}/utilization-encounters-extension", "valueInteger": number % 500}],
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": f"{number:010}"}],
        "active": True,
        "name": [{"family": f"Fisher{number}", "given": ["Janette321"], "prefix": ["Dr."]}],
        "telecom": [
            {
                "extension": [{"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-direct", "valueBoolean": True}],
                "system": "email",
                "value": f"Janette321.Fisher{number}@example.com",
                "use": "work",
            }
        ],
        "address": [{"line": ["330 MOUNT AUBURN STREET"], "city": "CAMBRIDGE", "state": "MA", "country": "US"}],
        "gender": "female",
    }
    return json.dumps(resource, separators=(",", ":")).encode()


def write_file(file: Path, resources: int) -> None:
    with file.open("wb") as lines:
        for number in range(resources):
            lines.write(practitioner(number) + b"\n")


async def import_cost_us(url: str, file: Path, resources: int) -> tuple[float, float]:
    """Microseconds of our CPU, and of the clock, per resource."""
    connection = await asyncpg.connect(url)
    tenant_id = await connection.fetchval("INSERT INTO ops.tenant (name) VALUES ('cost') RETURNING tenant_id")
    await connection.close()
    cpu, clock = time.process_time(), time.perf_counter()
    await import_paths(url, tenant_id, [file], strict=False, progress=lambda _: None, report=print)
    return (time.process_time() - cpu) / resources * 1e6, (time.perf_counter() - clock) / resources * 1e6


def parsing_cost_us(resources: int) -> tuple[float, float]:
    """Microseconds per resource of `split`, and of its index and rank."""
    raws = [practitioner(number) for number in range(resources)]
    started = time.process_time()
    parsed = [split(raw) for raw in raws]
    halfway = time.process_time()
    for resource in parsed:
        index(resource)
        rank(resource)
    return (halfway - started) / resources * 1e6, (time.process_time() - halfway) / resources * 1e6


def main() -> None:
    resources = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    splitting, indexing = parsing_cost_us(min(resources, 20_000))
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "database", THROWAWAY) as cluster:
        asyncio.run(migrate(cluster.url))
        file = Path(folder) / "Practitioner.ndjson"
        write_file(file, resources)
        cpu, clock = asyncio.run(import_cost_us(cluster.url, file, resources))
    print(f"{resources} Practitioners: {cpu:.1f} µs of our CPU each, {clock:.1f} µs of the clock")
    print(f"of it split {splitting:.1f} µs, index and rank {indexing:.1f} µs")


if __name__ == "__main__":
    main()
