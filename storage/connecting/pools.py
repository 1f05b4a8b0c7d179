"""The three pools: who may what on their connections, how many there are, and whether the server has as many.

Each has a role of its own, or a URL whose login is a member of that role. A limit of an ALTER ROLE counts only for who logs in
by that name, so all limits are given with the connection.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import asyncpg
import structlog

from base.config import Config
from metrics.accumulators import Labels
from metrics.catalog import Catalogue
from storage.connecting.connections import Lender, PoolLimits
from storage.queries import load

log = structlog.get_logger()

Url = str | Callable[[], str]

_SQL = load("pools.sql")
_API_LEAST = 11  # a batch in each of the lanes' six slots, four statements of direct, and one for keys and warm-ups
_API_MORE = 1  # of an API process: it listens
_SERVER_MORE = 1  # of all processes of a server together: one looks for the metrics
_WATCH_MORE = 2  # with replicas: it looks at each server, and follows what has been written
_WORKER_MORE = 5  # of a worker: its jobs, its brakes, two that keep the views, one that looks for the metrics
_MOST = 0.8  # of what the server has; the rest is for migrations, operators, and who else there is

# Every statement of the API is an index walk with a LIMIT. These settings keep it one on any table, however skewed, and
# also on one that was empty when the statement was planned; a generic plan saves planning anew.
API_SETTINGS = {
    "role": "sluice_api",
    "application_name": "sluice api",
    "default_transaction_read_only": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_hashagg": "off",
    "enable_sort": "off",
    "enable_memoize": "off",
    "jit": "off",
    "search_path": "pg_catalog",
}

# Ingestion's: its transactions plan for themselves, and none holds its locks for long.
INGEST_SETTINGS = {
    "role": "sluice_ingest",
    "application_name": "sluice ingest",
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",
}

# Reports': what they read is one tenant's, named by `sluice.tenant_id` for each transaction.
REPORT_SETTINGS = {
    "role": "sluice_report",
    "application_name": "sluice report",
    "default_transaction_read_only": "on",
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",
    "search_path": "pg_catalog",
}


def api_lender(config: Config, metrics: Catalogue, hot: Sequence[str], url: Url = "") -> Lender:
    """All are kept open, with the hot statements prepared. A statement ends before its request's deadline does."""
    settings = {**API_SETTINGS, **_statement_timeout(max(config.deadline_s * 0.95, 0.05))}
    size = api_size(config)
    wait = metrics.pool_wait.child("api")
    return Lender("api", url or config.database_url, _limits(config, size, least=size), settings, wait=wait, hot=hot)


def report_lender(config: Config, metrics: Catalogue, url: Url = "") -> Lender:
    settings = {**_as_login(REPORT_SETTINGS, config.report_database_url), **_statement_timeout(config.report_timeout_s)}
    url = url or config.report_database_url or config.database_url
    wait = metrics.pool_wait.child("report")
    return Lender("report", url, _limits(config, config.report_pool_size), settings, wait=wait)


def ingest_lender(config: Config, metrics: Catalogue, url: Url = "") -> Lender:
    """A file waits for its turn as long as its poll lasts."""
    settings = {**_as_login(INGEST_SETTINGS, config.ingest_database_url), **_statement_timeout(config.ingest_timeout_s)}
    url = url or config.ingest_database_url or config.database_url
    limits = _limits(config, config.ingest_pool_size, acquire_s=max(config.pool_acquire_s, config.poll_timeout_s))
    return Lender("ingest", url, limits, settings, wait=metrics.pool_wait.child("ingest"))


def api_size(config: Config, processes: int = 1) -> int:
    """Connections of the API in each of so many processes on this machine."""
    return config.pool_size or automatic_size(_cores(), processes)


def automatic_size(cores: int, processes: int) -> int:
    """For each process.

    The usual rule: about two for each core that works on them and one more, whatever the number of processes, for more would
    only wait for each other in the server. But a process needs eleven for all that it may have in flight.
    """
    return max(_API_LEAST, math.ceil((2 * cores + 1) / processes))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))  # a container may have fewer than the machine
    except AttributeError:
        return os.cpu_count() or 1


def _limits(config: Config, size: int, *, least: int = 1, acquire_s: float | None = None) -> PoolLimits:
    return PoolLimits(
        size=size,
        least=least,
        acquire_s=config.pool_acquire_s if acquire_s is None else acquire_s,
        lifetime_s=config.pool_lifetime_s,
        idle_s=config.pool_idle_s,
        held_s=config.pool_held_s,
    )


def _statement_timeout(seconds: float) -> dict[str, str]:
    return {"statement_timeout": str(int(seconds * 1000))}


def _as_login(settings: Mapping[str, str], own_url: str) -> dict[str, str]:
    """Who logs in by a URL of its own is who it is meant to be."""
    return {name: value for name, value in settings.items() if name != "role" or not own_url}


def read_pools(metrics: Catalogue, lenders: Callable[[], Iterable[Lender]]) -> None:
    """The pools' gauges and counters are read of these at each scrape, summed by the pools' names."""

    def summed(values_of: Callable[[Lender], Mapping[Labels, float]]) -> Callable[[], list[tuple[Labels, float]]]:
        def read() -> list[tuple[Labels, float]]:
            sums: dict[Labels, float] = {}
            for lender in lenders():
                for labels, value in values_of(lender).items():
                    sums[lender.name, *labels] = sums.get((lender.name, *labels), 0) + value
            return list(sums.items())

        return read

    metrics.pool_connections.read = summed(lambda lender: {(state,): number for state, number in lender.counts().items()})
    metrics.pool_waiting.read = summed(lambda lender: {(): lender.waiting})
    metrics.pool_busy.read = summed(lambda lender: {(): lender.busy_s})
    metrics.pool_timeouts.read = summed(lambda lender: {(): lender.timeouts})
    metrics.pool_held_long.read = summed(lambda lender: {(): lender.held_long})


async def warn_if_too_many(config: Config, *, processes: int = 0, workers: int = 0) -> None:
    """At the start of so many processes of the API or workers: whether they could take more than most of what a server has."""
    for url, taken in connections_taken(config, processes, workers).items():
        try:
            connection = await asyncpg.connect(url, timeout=5)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            continue  # whoever needs it will say so
        try:
            most = await connection.fetchval(_SQL["connections_most"])
        finally:
            await connection.close()
        total = sum(taken.values())
        if total > most * _MOST:
            log.warning("pool.too_large", connections=total, server_has=most, taken=taken, remedy=_remedy(total, taken))


def connections_taken(config: Config, processes: int, workers: int) -> dict[str, dict[str, int]]:
    """By a server's URL: at most how many connections go there, by the setting that says so."""
    watching = (processes + workers) * _WATCH_MORE if config.replica_url else 0
    parts = [
        (config.database_url, "SLUICE_POOL_SIZE", processes * api_size(config, processes or 1)),
        (config.report_database_url or config.database_url, "SLUICE_REPORT_POOL_SIZE", processes * config.report_pool_size),
        (
            config.database_url,
            "others",
            processes * _API_MORE + bool(processes) * _SERVER_MORE + workers * _WORKER_MORE + watching,
        ),
        (config.ingest_database_url or config.database_url, "SLUICE_INGEST_POOL_SIZE", workers * config.ingest_pool_size),
        (config.database_url, "SLUICE_POLL_FACILITIES_MAX", workers * config.poll_facilities_max),  # one holds each one's lock
    ]
    urls: dict[tuple[str | int | None, ...], str] = {}
    found: dict[str, dict[str, int]] = {}
    for url, setting, number in parts:
        if number:
            found.setdefault(urls.setdefault(_server(url), url), {})[setting] = number
    return found


def _server(url: str) -> tuple[str | int | None, ...]:
    parts = urlsplit(url)
    return parts.hostname, parts.port, parts.query


def _remedy(total: int, taken: Mapping[str, int]) -> str:
    settings = [name for name in taken if name.startswith("SLUICE_")]
    enough = math.ceil(total / _MOST)
    return f"lower {' or '.join(settings)}, run fewer processes, or let the server have {enough} beside its reserved ones"
