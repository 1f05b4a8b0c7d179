"""What the commands of facilities do."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from base.config import is_trustworthy
from base.errors import Conflict, Invalid
from ingestion.credentials import Vault
from storage import facilities
from storage.jobs import SCHEMA
from storage.tenancy import tenant_id_of

BACK = timedelta(days=100)
"""Own submissions are looked for from so long ago, unless said: a post office searches no further in one go."""
_LOOK_S = 0.2
_WORKERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice jobs' AND datname = current_database()"
_WAITING = f"SELECT id FROM {SCHEMA}.queue WHERE id = ANY($1) AND status IN ('queued', 'picked')"
_FIRST = {"facility": "", "outcome": "skipped", "reason": "it is not polled any more"}


def check_url(url: str) -> str:
    if not is_trustworthy(url) or "@" in urlsplit(url).netloc:
        raise Invalid("a post office's URL begins with https:// (http:// on this machine only), and holds no password")
    return url


def read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Invalid(f"{path} is no UTF-8") from None
    if not password:
        raise Invalid(f"{path} is empty; it holds the password alone")
    return password


async def add(
    connection: asyncpg.Connection,
    vault: Vault,
    *,
    tenant: str,
    licence: str,
    url: str,
    login: str,
    password: str,
    since: datetime | None,
    acknowledge: bool,
) -> None:
    tenant_id = await tenant_id_of(connection, tenant)
    await facilities.add_facility(
        connection,
        tenant_id,
        licence.strip(),
        url=check_url(url),
        login=login,
        password=vault.seal(password),
        since=since or datetime.now(UTC) - BACK,
        acknowledge=acknowledge,
    )


async def change_mailbox(
    connection: asyncpg.Connection, vault: Vault, licence: str, *, url: str | None, login: str | None, password: str | None
) -> None:
    """What is None stays as it is. Raises NotFound for an unknown licence."""
    there = await facilities.facility_of(connection, licence)
    await facilities.set_mailbox(
        connection,
        licence,
        url=there.url if url is None else check_url(url),
        login=there.login if login is None else login,
        password=there.password if password is None else vault.seal(password),
    )


async def change_state(connection: asyncpg.Connection, licence: str, state: str) -> None:
    await facilities.set_state(connection, await facilities.facility_of(connection, licence), state)


async def enqueue(connection: asyncpg.Connection, licence: str | None) -> dict[int, str]:
    """Licences by the jobs that poll them: one facility's, or all active ones'."""
    from ingestion.polling.jobs import enqueue_now

    if licence is None:
        wanted = await facilities.active_facilities(connection)
    else:
        facility = await facilities.facility_of(connection, licence)
        if facility.state != "active":
            raise Conflict(f"{licence} is {facility.state}; `sluice facility resume {licence}` has it polled again")
        wanted = [(facility.facility_no, licence)]
    return {await enqueue_now(connection, number): name for number, name in wanted}


async def outcomes(
    connection: asyncpg.Connection, jobs: dict[int, str], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """How each job's poll went, when all are through; `progress` gets how many are, and how many workers there are."""
    waiting = set(jobs)
    while waiting:
        waiting = {row["id"] for row in await connection.fetch(_WAITING, list(waiting))}
        progress(len(jobs) - len(waiting), await connection.fetchval(_WORKERS))
        if waiting:
            await asyncio.sleep(_LOOK_S)
    runs = await facilities.runs_of_jobs(connection, list(jobs))
    return [runs.get(job) or {**_FIRST, "facility": licence} for job, licence in jobs.items()]
