"""What the tests of the import share: a tenant, files, and what is stored afterwards."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from ingestion.fhir.files import BadLine
from ingestion.fhir.importing import Summary, import_paths
from r4.resource import Resource, split

Stored = dict[str, tuple[int, bytes]]
"""`Type/id` → version, body; of what is not deleted."""


@asynccontextmanager
async def connected(url: str, *, role: str = "sluice_ingest") -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings={"role": role} if role else {})
    try:
        yield connection
    finally:
        await connection.close()


async def make_tenant(url: str, name: str = "north") -> int:
    async with connected(url, role="") as connection:
        tenant_id: int = await connection.fetchval("INSERT INTO ops.tenant (name) VALUES ($1) RETURNING tenant_id", name)
        return tenant_id


def encoded(resource: dict[str, Any]) -> bytes:
    return json.dumps(resource, separators=(",", ":"), ensure_ascii=False).encode()


def resource(kind: str, resource_id: str, **members: Any) -> dict[str, Any]:
    return {"resourceType": kind, "id": resource_id, **members}


def made(kind: str, resource_id: str, **members: Any) -> Resource:
    return split(encoded(resource(kind, resource_id, **members)))


def write_lines(file: Path, lines: Iterable[dict[str, Any] | bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join((line if isinstance(line, bytes) else encoded(line)) + b"\n" for line in lines))
    return file


def bundle(kind: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def entry(method: str, url: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An entry of a batch or transaction; `full_url` and `if_none_exist` are put in their places."""
    made_of: dict[str, Any] = {"request": {"method": method, "url": url}}
    if body is not None:
        made_of["resource"] = body
    if "full_url" in more:
        made_of["fullUrl"] = more["full_url"]
    if "if_none_exist" in more:
        made_of["request"]["ifNoneExist"] = more["if_none_exist"]
    return made_of


async def imported(url: str, tenant_id: int, *paths: Path, strict: bool = False) -> tuple[Summary, list[BadLine]]:
    bad: list[BadLine] = []
    summary = await import_paths(url, tenant_id, paths, strict=strict, progress=lambda _: None, report=bad.append)
    assert summary.bad_lines == len(bad)
    return summary, bad


async def stored(url: str, tenant_id: int) -> Stored:
    async with connected(url) as connection:
        rows = await connection.fetch(
            "SELECT type, id, version, body FROM fhir.resource WHERE tenant_id = $1 AND NOT deleted", tenant_id
        )
    return {f"{row['type']}/{row['id']}": (row["version"], row["body"]) for row in rows}


async def rows_of(url: str, table: str, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    """All rows of one of fhir's tables, or some, sorted."""
    async with connected(url) as connection:
        return sorted(tuple(row) for row in await connection.fetch(f"SELECT {columns} FROM fhir.{table} WHERE {where}"))


async def genders_of(url: str, columns: str = "code") -> list[tuple[Any, ...]]:
    """Of the rows that patients are found by, those of the one parameter."""
    return await rows_of(url, "token", columns, "param = 'gender'")


async def refuse(url: str, resource_id: str) -> None:
    """Has the database refuse one resource, as it would for data that it cannot keep."""
    async with connected(url, role="") as connection:
        await connection.execute(f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '22P05'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON fhir.resource_patient FOR EACH ROW
                WHEN (NEW.id = '{resource_id}') EXECUTE FUNCTION refuse()
        """)
