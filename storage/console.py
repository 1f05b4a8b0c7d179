"""What the console shows of the database's own books: how facilities are polled, how the report views are kept."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from base.config import VIEWS
from storage.connecting.servers import Storage
from storage.failures import problem_of
from storage.queries import load

_SQL = load("console.sql")
PATIENCE_S = 1.0
"""For a connection: requests come first."""
LIMIT_S = 3.0
FACILITIES_MAX = 1000
PROBLEMS_SINCE = timedelta(days=1)
_FAILED = ("failed", "timeout", "stopped", "lost")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Books:
    """Rows as the page takes them, at `at` by the database's clock; moments are milliseconds since 1970, as browsers count."""

    at: int
    facilities: list[Row]
    views: list[Row]


async def books(storage: Storage, poll_interval_s: float) -> Books:
    """Raises ServerBusy or Expired when the database is away, slow, or has no connection to spare."""
    since = datetime.now(UTC) - PROBLEMS_SINCE
    try:
        async with asyncio.timeout(LIMIT_S), storage.latest(PATIENCE_S) as connection:
            facilities = await connection.fetch(_SQL["facilities"], since, FACILITIES_MAX)
            views = {row["name"]: dict(row) for row in await connection.fetch(_SQL["views"])}
    except Exception as error:
        raise problem_of(error) from error
    now = views[VIEWS[0]]["now"]
    return Books(
        int(now.timestamp() * 1000),
        [_facility(dict(row), poll_interval_s) for row in facilities],
        [_view(views[name]) for name in VIEWS],
    )


def _facility(row: Mapping[str, Any], poll_interval_s: float) -> Row:
    shown = {
        name: row[name] for name in ("licence", "tenant", "outcome", "loaded", "claims", "problems", "parked", "is_running")
    }
    return shown | {
        "health": _health(row, poll_interval_s),
        "why": row["reason"] or row["why"] or "",
        "finished_at": _epoch(row["finished_at"]),
        "next_poll_at": _epoch(row["next_poll_at"]),
    }


def _health(row: Mapping[str, Any], poll_interval_s: float) -> str:
    """By the rule of sluice_facilities (storage/sql/collectors.sql), and `stopped` for itself: somebody must do something."""
    if row["state"] != "active":
        return str(row["state"])
    if row["outcome"] in _FAILED:
        return "failing"
    began = max(filter(None, (row["started_at"], row["created_at"])))
    if not row["is_running"] and began < row["now"] - timedelta(seconds=2 * poll_interval_s):
        return "overdue"
    return "ok"


def _view(row: Mapping[str, Any]) -> Row:
    shown = {name: row[name] for name in ("name", "rows", "took_s", "refreshed", "applied", "failed", "reason")}
    return shown | {
        "way": "by changes" if row["incremental"] else "as a whole",
        "refreshed_at": _epoch(row["refreshed_at"]),
        "behind_since": _epoch(row["current_at"]) if row["is_behind"] else None,
    }


def _epoch(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
