"""Facilities: their mailboxes, when they are polled, how polls went, and what was tried of their files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg
import msgspec

from base.errors import Conflict, Invalid, NotFound
from storage.queries import load

_SQL = load("facilities.sql")
_SCHEDULE = 0x5_1C_1CF  # advisory locks: numbers that are only ours
_FACILITY = 0x51CF


@dataclass(frozen=True, slots=True)
class Facility:
    """A facility that is polled; one licence belongs to one tenant."""

    facility_no: int
    tenant_id: int
    tenant: str
    licence: str
    url: str
    login: str
    password: bytes = field(repr=False)
    """Sealed: see ingestion/credentials.py."""
    since: datetime
    acknowledge: bool
    state: str
    """active, paused, stopped."""
    searched_until: datetime | None
    """Own submissions are in up to here."""
    batch_size: int
    """Files at once: adapts itself."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What is known of a listed file. `state` None: it is not in."""

    file_id: str
    state: str | None
    acknowledged: bool
    tries: int
    parked: bool


class Tally(msgspec.Struct):
    """What a poll did."""

    listed: int = 0
    """Files that were not in yet."""
    loaded: int = 0
    quarantined: int = 0
    failed: int = 0
    acknowledged: int = 0
    claims: int = 0


Row: TypeAlias = dict[str, Any]


# As operators manage them: with the owner's rights


async def add_facility(
    connection: asyncpg.Connection,
    tenant_id: int,
    licence: str,
    *,
    url: str,
    login: str,
    password: bytes,
    since: datetime,
    acknowledge: bool = True,
) -> int:
    """The new facility's number; `password` is sealed. Raises Conflict when the licence is somebody's already."""
    try:
        return int(
            await connection.fetchval(_SQL["add_facility"], tenant_id, licence, url, login, password, since, acknowledge)
        )
    except asyncpg.UniqueViolationError:
        raise Conflict(
            f"the licence {licence} is registered already, and belongs to one tenant; see `sluice facility list`"
        ) from None
    except asyncpg.CheckViolationError:
        raise Invalid("a facility's licence is not empty") from None


async def facility_of(connection: asyncpg.Connection, licence: str) -> Facility:
    row = await connection.fetchrow(_SQL["facility_by_licence"], licence)
    if row is None:
        raise NotFound(f"there is no facility {licence}; `sluice facility list` shows all")
    return Facility(**row)


async def facility_by_no(connection: asyncpg.Connection, facility_no: int) -> Facility | None:
    row = await connection.fetchrow(_SQL["facility_by_no"], facility_no)
    return None if row is None else Facility(**row)


async def active_facilities(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    """(number, licence) of those that are polled."""
    return [(row[0], row[1]) for row in await connection.fetch(_SQL["active_facilities"])]


async def list_facilities(connection: asyncpg.Connection) -> list[Row]:
    return [dict(row) for row in await connection.fetch(_SQL["list_facilities"])]


async def set_state(connection: asyncpg.Connection, facility: Facility, state: str) -> None:
    """`active` clears the reason, and has it polled at the next tick."""
    await connection.execute(_SQL["set_state"], facility.facility_no, state, "")


async def set_mailbox(connection: asyncpg.Connection, licence: str, *, url: str, login: str, password: bytes) -> None:
    """Another address, or another account; `password` is sealed. Unless it is paused, it is polled at the next tick."""
    await connection.execute(_SQL["set_mailbox"], licence, url, login, password)


async def status(connection: asyncpg.Connection) -> list[Row]:
    return [dict(row) for row in await connection.fetch(_SQL["status"])]


async def errors(connection: asyncpg.Connection, licence: str | None, rows_max: int) -> list[Row]:
    return [dict(row) for row in await connection.fetch(_SQL["errors"], licence, rows_max)]


async def retry(connection: asyncpg.Connection, facility: Facility, file_id: str) -> None:
    """The next poll tries the file as if it had never been tried."""
    if await connection.fetchval(_SQL["retry"], facility.facility_no, file_id) is None:
        raise NotFound(
            f"no file {file_id} of {facility.licence} was tried in vain; see `sluice ingest errors {facility.licence}`"
        )


# Who is due when: inside a transaction


async def lock_schedule(connection: asyncpg.Connection) -> None:
    """To the end of the transaction; other workers' ticks wait."""
    await connection.execute(_SQL["lock_schedule"], _SCHEDULE)


async def due_before(connection: asyncpg.Connection, until: datetime) -> list[tuple[int, datetime]]:
    """(facility_no, when it is due), longest first."""
    return [(row[0], row[1]) for row in await connection.fetch(_SQL["due"], until)]


async def last_start(connection: asyncpg.Connection, until: datetime, interval_s: float) -> tuple[datetime | None, int]:
    """When the latest poll starts that is planned; `until`: who is due before is not planned yet. And how many are active."""
    (row,) = await connection.fetch(_SQL["last_start"], until, interval_s)
    return row["last_start"], row["facilities"]


async def set_next_polls(connection: asyncpg.Connection, times: Sequence[tuple[int, datetime]]) -> None:
    await connection.execute(_SQL["set_next_polls"], [number for number, _ in times], [at for _, at in times])


# One poll


async def try_lock(connection: asyncpg.Connection, facility_no: int) -> bool:
    """For as long as this connection lives; nobody else polls the facility meanwhile."""
    return bool(await connection.fetchval(_SQL["lock_facility"], _FACILITY, facility_no))


async def stop(connection: asyncpg.Connection, facility: Facility, reason: str) -> None:
    """It is not polled again until somebody resumes it."""
    await connection.execute(_SQL["stop"], facility.facility_no, reason)


async def lose_runs(connection: asyncpg.Connection, facility_no: int, now: datetime) -> None:
    """Call it with the facility's lock: runs without an end are lost then."""
    await connection.execute(_SQL["lose_runs"], facility_no, now)


async def start_run(connection: asyncpg.Connection, facility_no: int, worker: str, now: datetime, job_id: int | None) -> int:
    """The new run's number. Call it with the facility's lock."""
    async with connection.transaction():
        await lose_runs(connection, facility_no, now)
        return int(await connection.fetchval(_SQL["start_run"], facility_no, worker, now, job_id))


async def finish_run(
    connection: asyncpg.Connection, run_id: int, now: datetime, outcome: str, reason: str, tally: Tally
) -> None:
    await connection.execute(_SQL["finish_run"], run_id, now, outcome, reason, *msgspec.structs.astuple(tally))


async def runs_of_jobs(connection: asyncpg.Connection, job_ids: Sequence[int]) -> dict[int, Row]:
    """The latest run of each job that has one."""
    rows = await connection.fetch(_SQL["runs_of_jobs"], list(job_ids))
    return {row["job_id"]: {name: value for name, value in row.items() if name != "job_id"} for row in rows}


async def forget_runs(connection: asyncpg.Connection, before: datetime) -> None:
    await connection.execute(_SQL["forget_runs"], before)


async def advance(connection: asyncpg.Connection, facility: Facility, until: datetime) -> None:
    await connection.execute(_SQL["advance"], facility.facility_no, until)


async def set_batch_size(connection: asyncpg.Connection, facility: Facility, size: int) -> None:
    await connection.execute(_SQL["set_batch_size"], facility.facility_no, size)


# One file


async def survey(connection: asyncpg.Connection, facility: Facility, file_ids: Sequence[str]) -> dict[str, Surveyed]:
    rows = await connection.fetch(_SQL["survey"], facility.tenant_id, facility.facility_no, list(file_ids))
    return {row["file_id"]: Surveyed(*row) for row in rows}


async def unfinished(connection: asyncpg.Connection, facility: Facility) -> list[tuple[str, str, bool]]:
    """(file_id, name, sent) of files that were tried, are not in and not parked: no listing need name them any more."""
    return [tuple(row) for row in await connection.fetch(_SQL["unfinished"], facility.tenant_id, facility.facility_no)]


async def count_try(
    connection: asyncpg.Connection, facility: Facility, file_id: str, *, name: str, sent: bool, now: datetime, reason: str = ""
) -> int:
    """How often it was tried, this time included; committed before the file is touched."""
    number = facility.facility_no
    return int(await connection.fetchval(_SQL["count_try"], number, file_id, name, sent, now, reason))


async def explain_try(connection: asyncpg.Connection, facility: Facility, file_id: str, reason: str) -> None:
    await connection.execute(_SQL["explain_try"], facility.facility_no, file_id, reason)


async def give_back_try(connection: asyncpg.Connection, facility: Facility, file_id: str) -> None:
    await connection.execute(_SQL["give_back_try"], facility.facility_no, file_id)


async def park(connection: asyncpg.Connection, facility: Facility, file_id: str, now: datetime) -> None:
    """It is not touched again until somebody says `retry`."""
    await connection.execute(_SQL["park"], facility.tenant_id, facility.facility_no, file_id, now)


async def forget_tries(connection: asyncpg.Connection, facility: Facility) -> None:
    await connection.execute(_SQL["forget_tries"], facility.tenant_id, facility.facility_no)


async def owed(connection: asyncpg.Connection, facility: Facility, rows_max: int) -> list[str]:
    """Files that are in, and whose acknowledgement is not known to have come through."""
    rows = await connection.fetch(_SQL["owed"], facility.tenant_id, facility.facility_no, rows_max)
    return [row["file_id"] for row in rows]


async def acknowledged(connection: asyncpg.Connection, facility: Facility, file_id: str, now: datetime) -> None:
    await connection.execute(_SQL["acknowledged"], facility.tenant_id, facility.facility_no, file_id, now)
