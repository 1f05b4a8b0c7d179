"""Brings a database to this version: numbered SQL files, each in its own transaction, under one advisory lock."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import structlog

from storage import jobs
from storage.connecting.addresses import place_of

log = structlog.get_logger()

MIGRATIONS = Path(__file__).parent / "sql" / "migrations"
_LOCK = 0x5_1C1CE  # any number that is only ours
_REWORDED = {2: {"4710a42fe915cee7fd0406bea56dafc0ccdd955bc8d651c6a65af059f3de9c86"}}
"""Former texts of migrations, by their SHA-256, that differ from today's in a comment alone: who applied one has applied it."""
_NEEDS_VERSION = 180000  # RETURNING old and new values
_APPLIED = "SELECT version, name, sha256 FROM public.sluice_migration"


class MigrationError(Exception):
    """The database cannot be brought to this version; the message says what to do."""


@dataclass(frozen=True)
class Migration:
    version: int
    name: str
    sql: str = field(repr=False)

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()


def migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The files `NNNN_name.sql`, by number."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_(\w+)", path.stem)
        if match is None:
            raise MigrationError(f"{path.name} is no migration's name; expected 0001_what_it_does.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("migrations are numbered 0001, 0002 and so on; one number is missing or there twice")
    return found


async def migrate(url: str, wanted: list[Migration] | None = None) -> list[Migration]:
    """Applies what is missing and returns it; safe to run twice and side by side.

    Raises MigrationError when the database cannot be reached, is newer than this program, older than PostgreSQL 18, or
    holds a migration whose text has changed since it was applied.
    """
    connection = await _connect(url)
    try:
        if connection.get_server_version() < (_NEEDS_VERSION // 10000, 0):
            raise MigrationError(f"PostgreSQL 18 or later is needed; this is {connection.get_server_version()[0]}")
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        applied = await _apply(connection, migrations() if wanted is None else wanted)
        if wanted is None:
            await jobs.ensure(connection)
        return applied
    finally:
        await connection.close()  # and the lock with it


async def migrations_missing(connection: asyncpg.Connection) -> list[Migration]:
    """What `migrate` would apply; nothing is changed. Raises MigrationError as it does, of what is in the database."""
    wanted = migrations()
    if await connection.fetchval("SELECT to_regclass('public.sluice_migration')") is None:
        return wanted
    return _missing(wanted, await connection.fetch(_APPLIED))


async def _connect(url: str) -> asyncpg.Connection:
    """Every command comes by here first, so this is where it is said that the database is not to be had."""
    try:
        return await asyncpg.connect(url, timeout=10)
    except ValueError:  # its words may repeat a part of the password
        raise MigrationError(
            "this is no URL of a database; expected: SLUICE_DATABASE_URL=postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with % codes for special characters"
        ) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error).partition("\n")[0] or "no answer within 10 s"
        where = place_of(url).partition("/")[0]
        raise MigrationError(f"no connection to the database at {where}: {reason}; see SLUICE_DATABASE_URL") from None


async def _apply(connection: asyncpg.Connection, wanted: list[Migration]) -> list[Migration]:
    await connection.execute("""
        CREATE TABLE IF NOT EXISTS public.sluice_migration (
            version int PRIMARY KEY, name text NOT NULL, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
    """)
    missing = _missing(wanted, await connection.fetch(_APPLIED))
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO public.sluice_migration (version, name, sha256) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.sha256,
            )
        log.info("migration.applied", number=migration.version, name=migration.name)
    return missing


def _missing(wanted: list[Migration], rows: Sequence[asyncpg.Record]) -> list[Migration]:
    applied = {row["version"]: row for row in rows}
    _check(wanted, applied)
    return [migration for migration in wanted if migration.version not in applied]


def _check(wanted: list[Migration], applied: Mapping[int, asyncpg.Record]) -> None:
    known = {migration.version: migration for migration in wanted}
    if newer := sorted(set(applied) - set(known)):
        raise MigrationError(
            f"the database has migration {newer[-1]}, which this version of Sluice does not know; upgrade Sluice"
        )
    for version, row in applied.items():
        if known[version].sha256 != row["sha256"] and row["sha256"].hex() not in _REWORDED.get(version, ()):
            raise MigrationError(
                f"migration {version:04} was changed after it was applied; put the file back and write a new migration instead"
            )
