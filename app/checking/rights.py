"""Whether each role may do what it needs, and no more: by what PostgreSQL itself says, however the right was come by."""

from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import asyncpg

from app.checking.findings import Finding, Findings, bad_or, failure, some
from app.checking.servers import ROLES
from storage.queries import load

if TYPE_CHECKING:
    from app.checking.scene import Scene

_SQL = load("check.sql")
SCHEMAS = ("ops", "fhir", "claims", "jobs", "report", "public")

_READ = ("SELECT",)
_WRITE = ("SELECT", "INSERT", "UPDATE", "DELETE")
_KEEP = (*_WRITE, "MAINTAIN")
TABLES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("sluice_api", "fhir", "*", _READ),
    ("sluice_api", "ops", "tenant", _READ),
    ("sluice_api", "ops", "warm_tenant", _READ),
    ("sluice_ingest", "fhir", "*", _KEEP),
    ("sluice_ingest", "claims", "*_now", _READ),
    ("sluice_ingest", "claims", "mv_*", ("SELECT", "MAINTAIN")),
    ("sluice_ingest", "claims", "change", ("SELECT", "INSERT", "DELETE", "MAINTAIN")),
    ("sluice_ingest", "claims", "*_summary*", (*_KEEP, "TRUNCATE")),
    ("sluice_ingest", "claims", "*", _KEEP),
    ("sluice_ingest", "jobs", "*", _WRITE),
    ("sluice_ingest", "ops", "tenant", _READ),
    ("sluice_ingest", "ops", "warm_tenant", _READ),
    ("sluice_ingest", "ops", "fact", ("SELECT", "INSERT", "UPDATE")),
    ("sluice_ingest", "ops", "poll_run", _WRITE),
    ("sluice_ingest", "ops", "file_try", _WRITE),
    ("sluice_ingest", "ops", "ingest_error", _WRITE),
    ("sluice_ingest", "ops", "facility", ("SELECT", "UPDATE")),
    ("sluice_ingest", "ops", "report_view", ("SELECT", "UPDATE")),
    ("sluice_report", "report", "*", _READ),
)
"""Role, schema, tables, what it may, as migrations grant it. The first that fits counts; where none does it may do nothing."""
USES = {"sluice_api": {"ops", "fhir"}, "sluice_ingest": {"ops", "fhir", "claims", "jobs"}, "sluice_report": {"report"}}
FUNCTIONS = {
    "sluice_api": {"ops.warm", "ops.cool", "ops.key_owner", "ops.cursor_secret", "ops.console_*"},
    "sluice_ingest": {"ops.identity_secret"},
    "sluice_report": set[str](),
}
_MISSING = "run `sluice migrate` as the database's owner; or as an administrator: "


async def rights(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        kinds = await connection.fetch(_SQL["roles"], list(ROLES))
        there = [row["name"] for row in kinds]
        tables = await connection.fetch(_SQL["table_rights"], there, list(SCHEMAS))
        schemas = await connection.fetch(_SQL["schema_rights"], there, list(SCHEMAS))
        functions = await connection.fetch(_SQL["function_rights"], there, list(SCHEMAS))
    bad = [failure(f"the role {role} is missing", "run `sluice migrate`") for role in ROLES if role not in there]
    powers = [finding for row in kinds for finding in _powers(row)]
    mighty = {row["name"] for row in kinds if row["superuser"]}  # they may all: that says nothing more
    bad += powers
    bad += _of_tables(row for row in tables if row["role"] not in mighty)
    bad += _of_schemas(row for row in schemas if row["role"] not in mighty)
    bad += _of_functions(row for row in functions if row["role"] not in mighty)
    return bad_or(bad, f"{', '.join(ROLES)}: what each needs, and no more")


def allowed(role: str, schema: str, table: str) -> frozenset[str]:
    for whose, where, pattern, what in TABLES:
        if (whose, where) == (role, schema) and fnmatchcase(table, pattern):
            return frozenset(what)
    return frozenset()


def _powers(row: asyncpg.Record) -> list[Finding]:
    role = row["name"]
    held = [
        ("superuser", "SUPERUSER"),
        ("bypasses", "BYPASSRLS"),
        ("creates_roles", "CREATEROLE"),
        ("creates_databases", "CREATEDB"),
    ]
    bad = [failure(f"{role} is {word}", f"ALTER ROLE {role} NO{word}") for column, word in held if row[column]]
    bad += [failure(f"{role} is a member of {other}", f"REVOKE {other} FROM {role}") for other in row["member_of"]]
    return bad


def _of_tables(rows: Iterable[asyncpg.Record]) -> list[Finding]:
    lacks, exceeds = defaultdict[tuple[str, str], list[str]](list), defaultdict[tuple[str, str], list[str]](list)
    for row in rows:
        role, name = row["role"], f"{row['schema']}.{row['name']}"
        may = allowed(role, row["schema"], row["name"])
        # A part is written and read by way of its table.
        if (missing := may - set(row["held"] or ())) and not row["is_part"]:
            lacks[role, ", ".join(sorted(missing))].append(name)
        if more := set(row["touched"] or ()) - may:
            exceeds[role, ", ".join(sorted(more))].append(name)
    bad = [
        failure(f"{role} lacks {what} on {some(names)}", _granted(role, what, names)) for (role, what), names in lacks.items()
    ]
    bad += [
        failure(
            f"{role} has {what} on {some(names)}, and should not", f"REVOKE {what} ON {some(names)} FROM {role}, or from PUBLIC"
        )
        for (role, what), names in exceeds.items()
    ]
    return bad


def _granted(role: str, what: str, names: list[str]) -> str:
    return f"{_MISSING}GRANT {what} ON {some(names)} TO {role}"


def _of_schemas(rows: Iterable[asyncpg.Record]) -> list[Finding]:
    bad = []
    for row in rows:
        role, schema = row["role"], row["schema"]
        if row["creates"]:
            remedy = f"REVOKE CREATE ON SCHEMA {schema} FROM {role}, or from PUBLIC"
            bad.append(failure(f"{role} may make tables in {schema}, and should not", remedy))
        if row["uses"] and schema not in {*USES[role], "public"}:
            remedy = f"REVOKE USAGE ON SCHEMA {schema} FROM {role}, or from PUBLIC"
            bad.append(failure(f"{role} gets into the schema {schema}, and should not", remedy))
        elif not row["uses"] and schema in USES[role]:
            bad.append(
                failure(f"{role} does not get into the schema {schema}", f"{_MISSING}GRANT USAGE ON SCHEMA {schema} TO {role}")
            )
    return bad


def _of_functions(rows: Iterable[asyncpg.Record]) -> list[Finding]:
    bad = []
    for row in rows:
        role, name = row["role"], row["name"]
        may = any(fnmatchcase(name, pattern) for pattern in FUNCTIONS[role])
        if row["held"] and not may:
            bad.append(
                failure(f"{role} may call {name}, and should not", f"REVOKE EXECUTE ON FUNCTION {name} FROM {role}, PUBLIC")
            )
        elif may and not row["held"]:
            bad.append(failure(f"{role} may not call {name}", f"{_MISSING}GRANT EXECUTE ON FUNCTION {name} TO {role}"))
    return bad
