"""All checks, and how they are run: side by side, each with a limit."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from app.checking import machine, replicas, rights, schema, servers, settings, work
from app.checking.connecting import ERRORS, reason_of
from app.checking.findings import CannotExamineError, Check, Finding, Findings, State, failure, warning
from app.checking.scene import Scene, look

LIMIT_S = 10.0
_AT_ONCE = 4
"""Each has a connection or two: a server that has few left is not to be emptied by who looks at it."""

CHECKS: tuple[Check, ...] = (
    Check("settings", "every SLUICE_* variable can be used, and is one", settings.parsing),
    Check("secret files", "files named by SLUICE_*_FILE are closed to others", settings.secret_files),
    Check("together", "the settings do not contradict each other", settings.together),
    Check("versions", "Python and the libraries are those that were asked for", machine.versions),
    Check("open files", "the limit of open files is enough for pools and queues", machine.open_files),
    Check("ports", "the ports of the API and the worker are free, or ours", machine.ports),
    Check("data folder", "whose it is, who may read it, and room on its disk", machine.data_folder),
    Check("api metrics", "ingestion sees how long the API's requests wait", machine.api_metrics),
    Check("database", "it answers, its version, encoding and collation", servers.database),
    Check("pools", "the API, ingestion and reports get in, each with its role", servers.pools),
    Check("login", "who logs in is no superuser, and may see what metrics need", servers.login),
    Check("server", "PostgreSQL's settings: durability, vacuum, memory, limits", servers.server_settings),
    Check("connections", "max_connections is enough for all pools of all processes", servers.connections),
    Check("clock", "this machine and the database have the same time", servers.clock),
    Check("replicas", "each is one of this primary, is read, and follows", replicas.replicas),
    Check("migrations", "the database is at the level of this program", schema.migrations),
    Check("extensions", "those that are needed, and pg_stat_statements", schema.extensions),
    Check("rights", "each role may do what it needs, and no more", rights.rights),
    Check("indexes", "none is invalid", schema.indexes),
    Check("statistics", "the planner knows every large table", schema.statistics),
    Check("transactions", "none has been open for long, and rows are frozen in time", schema.transactions),
    Check("search index", "all that is stored can be found", work.search_index),
    Check("report views", "they are kept up to date", work.report_views),
    Check("facilities", "their passwords can be opened, they are polled, and it works", work.facilities),
    Check("keys", "somebody has a key, an operator too", work.keys),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One finding of one check."""

    check: Check
    finding: Finding

    @property
    def state(self) -> State:
        return self.finding.state


async def examine(scene: Scene, checks: Sequence[Check] = CHECKS, limit_s: float = LIMIT_S) -> list[Row]:
    """In the order of the checks, however long each takes."""
    scene, gate = await look(scene), asyncio.Semaphore(_AT_ONCE)

    async def run(check: Check) -> Findings:
        async with gate:
            return await _found(check, scene, limit_s)

    found = await asyncio.gather(*map(run, checks))
    return [Row(check, finding) for check, findings in zip(checks, found, strict=True) for finding in findings]


async def _found(check: Check, scene: Scene, limit_s: float) -> Findings:
    """Never raises: what a check did not foresee is told by its kind alone, for words may hold what nobody is to see."""
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await check.run(scene)
    except CannotExamineError as error:
        return [Finding(State.SKIPPED, str(error))]
    except asyncpg.InsufficientPrivilegeError as error:
        return [
            warning(
                f"the login may not look: {reason_of(error)}",
                "log in as the database's owner; for statistics: GRANT pg_read_all_stats TO the login",
            )
        ]
    except ERRORS as error:
        if limit.expired():
            return [
                failure(
                    f"no answer within {limit_s:g} s", "what keeps the database busy? pg_stat_activity, its locks, its disk"
                )
            ]
        return [
            failure(f"it broke off: {type(error).__name__}, {reason_of(error)}", "run it again; look into the server's log")
        ]
    except Exception as error:  # noqa: BLE001  # one check that fails must not keep others from being told
        return [failure(f"it broke off: {type(error).__name__}", "that is a fault of ours: please report it")]
