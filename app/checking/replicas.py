"""Whether each replica is one of this primary, can be read, and follows."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import asyncpg

from app.checking.connecting import no_connection
from app.checking.findings import CannotExamineError, Finding, Findings, failure, ok, warning
from storage.connecting.pools import api_size
from storage.connecting.watch import end_of_record
from storage.queries import load

if TYPE_CHECKING:
    from app.checking.scene import Scene, Seen

_SQL = load("check.sql")
_WRITTEN = load("watch.sql")["written"]
_MOST = load("pools.sql")["connections_most"]
_MOST_SHARE = 0.8
_PATIENCE_S = 3.0
_PAUSE_S = 0.02
_REPLAYED = "SELECT pg_last_wal_replay_lsn()"


async def replicas(scene: "Scene") -> Findings:
    others = [seen for seen in scene.servers if seen.address.url != scene.url]
    if not scene.url and len(scene.servers) < 2:
        raise CannotExamineError(scene.why)
    if not others:
        return [ok("one server, and no replica is named")]
    found = await asyncio.gather(*(_replica(scene, seen) for seen in others))
    told = [finding for each in found for finding in each]
    if scene.url and any(seen.row and seen.row["recovering"] for seen in others):
        told += await _unprotected(scene)
    return told


async def _replica(scene: "Scene", seen: "Seen") -> list[Finding]:
    name, row = seen.address.name, seen.row
    if row is None:
        return [no_connection(seen.address.url, seen.error or OSError(), "SLUICE_REPLICA_URL (or SLUICE_DATABASE_URL)")]
    primary = scene.primary.row
    if primary is None or row["system"] != primary["system"]:
        return [failure(f"{name} is of another cluster: nothing is read there", "correct SLUICE_REPLICA_URL")]
    if not row["recovering"]:
        if row["started_at"] == primary["started_at"]:
            return [warning(f"{name} is the primary by another name, and is read as one server", "name it once")]
        return [failure(f"{name} takes writes beside the primary: an old one that came back", "make it a replica, or stop it")]
    return await _following(scene, seen)


async def _following(scene: "Scene", seen: "Seen") -> list[Finding]:
    name, patience_s = seen.address.name, min(_PATIENCE_S, scene.config.replica_lag_s)
    async with scene.connected() as primary, scene.connected(seen.address.url) as replica:
        lag_s = await _lag(primary, replica, patience_s)
        bad = await _fitness(scene, name, replica)
    if lag_s is None:
        remedy = "does it stream? there: SELECT * FROM pg_stat_wal_receiver; its disk, its network, a replay that is paused"
        return [
            failure(
                f"{name} is more than {patience_s:g} s behind; SLUICE_REPLICA_LAG_S says from when on it is not read", remedy
            ),
            *bad,
        ]
    return bad or [ok(f"{name} is a replica of this primary, {lag_s * 1000:.0f} ms behind")]


async def _lag(primary: asyncpg.Connection, replica: asyncpg.Connection, patience_s: float) -> float | None:
    """Seconds until it has replayed what the primary has written by now; None: not in time."""
    wanted, began = end_of_record(await primary.fetchval(_WRITTEN)), monotonic()
    while (waited := monotonic() - began) <= patience_s:
        if end_of_record(await replica.fetchval(_REPLAYED) or 0) >= wanted:
            return waited
        await asyncio.sleep(_PAUSE_S)
    return None


async def _fitness(scene: "Scene", name: str, replica: asyncpg.Connection) -> list[Finding]:
    bad = []
    if await replica.fetchval("SELECT current_setting('hot_standby_feedback')") != "on":
        found = f"{name}: hot_standby_feedback is off: long reports hold up its replay, or are cancelled"
        bad.append(warning(found, "there: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf()"))
    taken = scene.processes * (api_size(scene.config, scene.processes) + scene.config.report_pool_size + 1) + scene.workers
    most = await replica.fetchval(_MOST)
    if taken > most * _MOST_SHARE:
        found = f"{name}: {taken} of {most} connections would be taken, more than 80 %"
        bad.append(failure(found, f"there: max_connections = {int(taken / _MOST_SHARE) + 20}, or smaller pools"))
    return bad


async def _unprotected(scene: "Scene") -> list[Finding]:
    async with scene.connected() as connection:
        (row,) = await connection.fetch(
            "SELECT current_setting('synchronous_standby_names') AS names, current_setting('synchronous_commit') AS way"
        )
    if row["names"] and row["way"] != "local":
        return []
    found = "replication is asynchronous: files that were acknowledged last are lost with the primary"
    return [
        warning(found, "synchronous_standby_names (Patroni: synchronous_mode); docs/operations.md, “Synchronous replication”")
    ]
