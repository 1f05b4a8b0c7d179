"""What the database holds beside its rows: migrations, extensions, indexes, statistics, and transactions that hold it up."""

from importlib.metadata import version
from typing import TYPE_CHECKING

import asyncpg

from app.checking.findings import CannotExamineError, Finding, Findings, bad_or, failure, ok, some, warning
from storage.migrate import MigrationError, migrations_missing
from storage.queries import load

if TYPE_CHECKING:
    from app.checking.scene import Scene

_SQL = load("check.sql")
NEEDED = ("btree_gin", "pg_trgm")
_UNKNOWN_BYTES = 1_000_000
_OLD, _VERY_OLD = 2, 1_500_000_000
"""Times autovacuum_freeze_max_age, from which on vacuum is behind; and transactions, from which on the end is near (2^31)."""


async def migrations(scene: "Scene") -> Findings:
    try:
        async with scene.connected() as connection:
            missing = await migrations_missing(connection)
            queue = None if missing else await connection.fetchval("SELECT value FROM ops.fact WHERE name = 'pgqueuer'")
    except MigrationError as error:
        found, _, remedy = str(error).partition("; ")
        return [failure(found, remedy or "see docs/operations.md")]
    if missing:
        names = [f"{migration.version:04} {migration.name}" for migration in missing]
        return [failure(f"not applied: {some(names)}", "run `sluice migrate`; `sluice serve` does so at its start, too")]
    if queue != version("pgqueuer"):
        return [
            warning(
                f"the job queue's tables are of pgqueuer {queue}, and {version('pgqueuer')} is installed",
                "run `sluice migrate`",
            )
        ]
    return [ok("at this version")]


async def require_migrated(connection: asyncpg.Connection) -> None:
    """Raises CannotExamineError where a check would ask for tables that are not there."""
    try:
        missing = await migrations_missing(connection)
    except MigrationError:
        return  # it is newer, or changed: what is asked for is most likely there
    if missing:
        raise CannotExamineError("the database is not at this version")


async def extensions(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        rows = await connection.fetch(_SQL["extensions"], [*NEEDED, "pg_stat_statements"])
        # Who may not see shared_preload_libraries sees whether it has settings of its own.
        loaded = await connection.fetchval("SELECT current_setting('pg_stat_statements.max', true) IS NOT NULL")
    bad: list[Finding] = []
    for row in rows:
        if row["name"] in NEEDED and not row["made"]:
            remedy = (
                "run `sluice migrate`"
                if row["available"]
                else "install PostgreSQL's contrib package on the server, then `sluice migrate`"
            )
            bad.append(failure(f"{row['name']} is missing", remedy))
    statements = next(row for row in rows if row["name"] == "pg_stat_statements")
    if not loaded:
        remedy = "shared_preload_libraries = 'pg_stat_statements', and a restart of the server"
        bad.append(warning("pg_stat_statements is not loaded: nobody sees which statements are slow", remedy))
    elif not statements["made"]:
        remedy = "as an administrator, in this database: CREATE EXTENSION pg_stat_statements"
        bad.append(warning("pg_stat_statements is loaded, and not made here: nobody sees which statements are slow", remedy))
    return bad_or(bad, f"{', '.join(NEEDED)}, pg_stat_statements")


async def indexes(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        rows = await connection.fetch(_SQL["invalid_indexes"])
    names = [f"{row['name']} (of {row['of_table']})" for row in rows]
    remedy = f"REINDEX INDEX CONCURRENTLY {rows[0]['name'] if rows else ''}, or DROP it if it was never wanted"
    return bad_or([failure(f"invalid, no plan uses it: {some(names)}", remedy)] if names else [], "all are valid")


async def statistics(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        rows = await connection.fetch(_SQL["never_analyzed"], _UNKNOWN_BYTES)
    names = [row["name"] for row in rows]
    found = f"never analysed, so plans go wrong: {some(names)}"
    return bad_or(
        [warning(found, "ANALYZE, as after a restore or an upgrade")] if names else [], "every large table is analysed"
    )


async def transactions(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        rows = await connection.fetch(_SQL["long_transactions"], scene.busy_s)
        (oldest,) = await connection.fetch(_SQL["oldest_transaction"])
    bad = [
        warning(
            f"{row['name']} ({row['what']}) has been open for {row['age_s']:.0f} s: nothing is vacuumed meanwhile",
            _end_of(row["name"]),
        )
        for row in rows[:3]
    ]
    return bad_or(
        [*bad, *wraparound(oldest["age"], oldest["freeze"])], f"none is open for long; the oldest row is {oldest['age']:,} old"
    )


def _end_of(name: str) -> str:
    if name.startswith("process"):
        return f"look what it does (pg_stat_activity); SELECT pg_terminate_backend({name.removeprefix('process ')}) ends it"
    return "Sluice prepares none: SELECT gid FROM pg_prepared_xacts, then COMMIT or ROLLBACK PREPARED"


def wraparound(age: int, freeze: int) -> list[Finding]:
    """At 2^31 transactions PostgreSQL takes no writes any more; autovacuum begins to see to it at `freeze`."""
    remedy = (
        "is autovacuum on, and does anything hold it up: an old transaction, a slot of a replica that is gone? VACUUM FREEZE"
    )
    if age > _VERY_OLD:
        return [failure(f"{age:,} transactions since the oldest row was frozen; at 2,147,483,648 writing ends", remedy)]
    if age > freeze * _OLD:
        return [warning(f"{age:,} transactions since the oldest row was frozen: vacuum is behind", remedy)]
    return []
