"""The database server: whether it is there, who logs in, and what it is set to."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg

from app.checking.connecting import ERRORS, no_connection
from app.checking.findings import CannotExamineError, Finding, Findings, bad_or, failure, ok, some, warning
from storage.connecting.addresses import place_of
from storage.connecting.pools import connections_taken
from storage.queries import load

if TYPE_CHECKING:
    from app.checking.scene import Scene

_SQL = load("check.sql")
_MOST = load("pools.sql")["connections_most"]
_NEEDS_VERSION = 180000
_MOST_SHARE = 0.8
_CLOCK_S, _CLOCK_FAR_S = 1.0, 60.0
_LEAST_BUFFERS = 128 * 1024 * 1024
ROLES = ("sluice_api", "sluice_ingest", "sluice_report")


async def database(scene: "Scene") -> Findings:
    if scene.why and not scene.servers:
        raise CannotExamineError(scene.why)
    away = [seen for seen in scene.servers if seen.error is not None]
    if not scene.url:
        told = [no_connection(seen.address.url, seen.error, "SLUICE_DATABASE_URL") for seen in away if seen.error is not None]
        return [*told, *_no_primary(scene)]
    async with scene.connected() as connection:
        (row,) = await connection.fetch(_SQL["server"])
    bad = []
    if row["number"] < _NEEDS_VERSION:
        bad.append(failure(f"PostgreSQL {row['version']}; 18 or later is needed", "upgrade the server, or name another one"))
    if row["encoding"] != "UTF8":
        bad.append(
            failure(
                f"its encoding is {row['encoding']}",
                "make the database anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            )
        )
    if row["moved"]:
        remedy = "REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION"
        bad.append(
            warning("the system's collation has changed since the database was made: text indexes may be out of order", remedy)
        )
    where = "the embedded one" if scene.is_embedded else place_of(scene.url)
    return bad_or(bad, f"{where}: PostgreSQL {row['version'].split()[0]}, {row['encoding']}, collation {row['collation']}")


def _no_primary(scene: "Scene") -> list[Finding]:
    there = [place_of(seen.address.url) for seen in scene.servers if seen.row is not None]
    if not there:
        return []
    return [failure(f"{some(there)}: takes no writes", "name the primary in SLUICE_DATABASE_URL, or promote a replica")]


async def pools(scene: "Scene") -> Findings:
    """Each as its pool logs in: by a URL of its own, or by the main one, with its role."""
    primary = scene.primary.row
    own = {"sluice_ingest": scene.config.ingest_database_url, "sluice_report": scene.config.report_database_url}
    settings = {"sluice_ingest": "SLUICE_INGEST_DATABASE_URL", "sluice_report": "SLUICE_REPORT_DATABASE_URL"}
    found = []
    for role in ROLES:
        if url := own.get(role, ""):
            found += await _own_login(scene, url, role, settings[role], primary["system"] if primary else 0)
        else:
            found += await _by_role(scene, role)
    return bad_or(found, "the API, ingestion and reports get in, each with its role")


async def _by_role(scene: "Scene", role: str) -> list[Finding]:
    try:
        async with scene.connected(role=role):
            return []
    except asyncpg.InvalidParameterValueError:  # there is no such role
        return [
            failure(f"the role {role} is missing", "run `sluice migrate`; after a restore, see docs/operations.md, “Backups”")
        ]
    except asyncpg.InsufficientPrivilegeError:
        return [failure(f"the login may not take on the role {role}", f"as an administrator: GRANT {role} TO the login")]
    except ERRORS as error:
        return [no_connection(scene.url, error, "SLUICE_DATABASE_URL")]


async def _own_login(scene: "Scene", url: str, role: str, setting: str, system: int) -> list[Finding]:
    try:
        async with scene.connected(url) as connection:
            (here,) = await connection.fetch(_SQL["identity"])
            (login,) = await connection.fetch(_SQL["login"])
            is_member = await connection.fetchval("SELECT pg_has_role(current_user, $1, 'USAGE')", role)
    except asyncpg.UndefinedObjectError:
        return [
            failure(f"{setting}: the role {role} is missing there", "it leads to another server, or `sluice migrate` is due")
        ]
    except ERRORS as error:
        return [no_connection(url, error, setting)]
    bad = []
    if login["superuser"] or login["bypasses"]:
        remedy = f"CREATE ROLE … LOGIN PASSWORD … IN ROLE {role}, and put that login into {setting}"
        bad.append(failure(f"{setting} logs in as a superuser: one tenant's statement could read all", remedy))
    elif not is_member:
        bad.append(failure(f"{setting}: its login is no member of {role}", f"as an administrator: GRANT {role} TO the login"))
    if here["system"] != system:
        bad.append(failure(f"{setting} leads to a server of another cluster", f"correct {setting}"))
    elif role == "sluice_ingest" and here["recovering"]:
        bad.append(failure(f"{setting} leads to a replica, which takes no writes", "name the primary"))
    async with scene.connected() as connection:
        (main,) = await connection.fetch(_SQL["identity"])
    if here["system"] == main["system"] and here["database"] != main["database"]:
        bad.append(
            failure(f"{setting} leads to the database {here['database']}, not to {main['database']}", f"correct {setting}")
        )
    return bad


async def login(scene: "Scene") -> Findings:
    if scene.is_embedded and scene.url:
        return [ok("the embedded PostgreSQL's own, of this machine alone")]
    async with scene.connected() as connection:
        (row,) = await connection.fetch(_SQL["login"])
    bad = []
    if row["superuser"]:
        found = f"{row['role']} is superuser: whoever gets hold of its password has the server"
        bad.append(warning(found, "make a login as docs/operations.md says (“From nothing to running”)"))
    elif not row["reads_stats"]:
        found = f"{row['role']} does not see what others do: no slow statements, no waits, no replica's timeline"
        bad.append(warning(found, f"as an administrator: GRANT pg_read_all_stats TO {row['role']}"))
    return bad_or(bad, f"{row['role']} is no superuser, and sees all statistics")


Holds = Callable[[str, int], bool]
SERVER_SETTINGS: tuple[tuple[str, Holds, Callable[[str, str], Finding], str, str], ...] = (
    ("fsync", lambda text, _: text != "on", failure, "a crash of the machine loses or tears the database", "fsync = on"),
    ("full_page_writes", lambda text, _: text != "on", failure, "a crash of the machine tears pages", "full_page_writes = on"),
    (
        "synchronous_commit",
        lambda text, _: text == "off",
        failure,
        "files are acknowledged to their post office that a crash then loses",
        "synchronous_commit = on",
    ),
    ("autovacuum", lambda text, _: text != "on", failure, "tables grow, and plans grow worse, without end", "autovacuum = on"),
    ("track_counts", lambda text, _: text != "on", failure, "autovacuum does nothing without it", "track_counts = on"),
    (
        "data_checksums",
        lambda text, _: text != "on",
        warning,
        "what a disk damages is not noticed",
        "pg_checksums --enable while the server is stopped",
    ),
    (
        "shared_buffers",
        lambda _, size: size < _LEAST_BUFFERS,
        warning,
        "under 128 MB, so that reads wait for the disk",
        "shared_buffers = a quarter of the machine's memory",
    ),
    (
        "idle_session_timeout",
        lambda text, _: text != "0",
        warning,
        "it ends the connections that pools keep open",
        "idle_session_timeout = 0",
    ),
    (
        "transaction_timeout",
        lambda text, _: text != "0",
        warning,
        "it may end imports and the refresh of a view",
        "transaction_timeout = 0",
    ),
)
"""Name; when by its text, or its bytes; how bad; why; what it should be."""


async def server_settings(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        rows = await connection.fetch(_SQL["settings"], [name for name, *_ in SERVER_SETTINGS])
        slots = await connection.fetchval(_SQL["slots"])
    found = {row["name"]: (row["setting"], row["bytes"] or 0) for row in rows}
    bad = [
        tell(f"{name} = {_shown(*found[name])}: {why}", f"ALTER SYSTEM or postgresql.conf: {remedy}")
        for name, holds, tell, why, remedy in SERVER_SETTINGS
        if name in found and holds(*found[name])
    ]
    if slots:
        found_slots = "max_slot_wal_keep_size = -1: the slot of a replica that is gone fills the disk"
        bad.append(warning(found_slots, "ALTER SYSTEM SET max_slot_wal_keep_size = '2GB'"))
    return bad_or(bad, f"{len(found)} looked at: durable, vacuumed, {_shown(*found['shared_buffers'])} of buffers")


def _shown(text: str, size: int) -> str:
    return f"{size / 1024**2:g} MB" if size else text


async def connections(scene: "Scene") -> Findings:
    """Of the primary; a replica has the API's pools and the reports' of each process."""
    taken = connections_taken(replace(scene.config, database_url=scene.url), scene.processes, scene.workers)
    async with scene.connected() as connection:
        most = await connection.fetchval(_MOST)
        now = await connection.fetchval(_SQL["connections_now"])
    ours = taken.get(scene.url) or max(taken.values(), key=lambda each: sum(each.values()))
    total = sum(ours.values())
    told = f"{total} of {most} for {_number(scene.processes, 'API process', 'es')} and {_number(scene.workers, 'worker', 's')}"
    if total > most * _MOST_SHARE:
        parts = ", ".join(f"{name} {number}" for name, number in ours.items())
        tell, much = (failure, "more than there are") if total > most else (warning, "more than 80 %")
        return [tell(f"{told} ({parts}): {much}", f"max_connections = {int(total / _MOST_SHARE) + 20}, or smaller pools")]
    if now > most * _MOST_SHARE:
        return [
            warning(
                f"{now} of {most} are in use now",
                "who has them? SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1",
            )
        ]
    return [ok(f"{told}; {now} in use now")]


def _number(count: int, name: str, plural: str) -> str:
    return f"{count} {name}{'' if count == 1 else plural}"


async def clock(scene: "Scene") -> Findings:
    """Half of the way there and back is taken off."""
    async with scene.connected() as connection:
        await connection.fetchval(_SQL["clock"])  # what it costs to prepare is no difference of clocks
        before = scene.clock()
        there = await connection.fetchval(_SQL["clock"])
        after = scene.clock()
    apart = abs(there - (before + after) / 2)
    remedy = "let both machines follow the same time server (chrony, systemd-timesyncd)"
    if apart > _CLOCK_FAR_S:
        return [failure(f"this machine and the database are {apart:.0f} s apart: tokens are refused, ages are wrong", remedy)]
    if apart > _CLOCK_S:
        return [warning(f"this machine and the database are {apart:.1f} s apart", remedy)]
    return [ok(f"this machine and the database are {apart * 1000:.0f} ms apart")]
