"""What reports read: one tenant's rows, from one snapshot, on a connection of the reports' pool.

A statement says whose rows it wants twice: to the views, by `sluice.tenant_id`, without which they show nothing, and in its own
WHERE, so that one partition is entered and an index walked.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple, TypeAlias, TypeVar

from base.errors import Problem
from storage.connecting.connections import Connection
from storage.connecting.servers import Storage
from storage.failures import is_away, problem_of
from storage.queries import load
from storage.report_tables import Analysis, Kind, Report, Sort

T = TypeVar("T")
Row: TypeAlias = Any
"""A row of text: its JSON, then its place."""
Sink = Callable[[bytes], Awaitable[None]]

# Without their comments: COPY has its values put in as text, and none may come to stand in a comment.
SQL = {
    name: re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).rstrip().rstrip(";") for name, text in load("reports.sql").items()
}

EXPORT_S = 900.0
"""The longest that an export may take: its snapshot keeps the database from clearing up."""

_ROLLBACK_S = 2.0
_CONFLICT = "40001"  # a replica had to choose between this statement and what the primary sent

# A page goes by an index, whatever is known of a table: one that has just been filled is not analysed yet.
_BY_INDEX = "SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off"
# Of one whose rows an index has in their order.
_IN_ORDER = f"{_BY_INDEX}; SET LOCAL enable_sort = off"
# What is asked decides: few rows are sorted, of many the order is walked until the page is full.
_BY_VALUES = "SET LOCAL plan_cache_mode = force_custom_plan"
EXPORT_SETTINGS = f"SET LOCAL statement_timeout = {int(EXPORT_S * 1000)}"


class State(NamedTuple):
    """When a report's rows were computed, and the time of the snapshot."""

    refreshed_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Selected:
    """A SELECT whose columns are `columns`, and behind them `place`, which says where a page ends; as text, in JSON or CSV."""

    sql: str
    values: tuple[Any, ...]
    columns: Mapping[str, Kind]
    place: Mapping[str, str]
    """Expressions of the place, by what they are called in the SELECT, with their types."""

    @property
    def json(self) -> str:
        """A row's first column is its JSON, the others are its place. Digits are those that are stored."""
        members = ", ".join(f"'{name}', {name}" for name in self.columns)
        places = "".join(f", {name}::text" for name in self.place)
        return f"SELECT json_build_object({members})::text{places} FROM (\n{self.sql}\n) AS selected"

    @property
    def csv(self) -> str:
        cells = ", ".join(f"{_cell(name, kind)} AS {name}" for name, kind in self.columns.items())
        return f"SELECT {cells} FROM (\n{self.sql}\n) AS selected"


@dataclass(frozen=True, slots=True)
class Page:
    """What of a report is asked. `sort` is as the parameter has it, `after` a place; `rows_max` None: all."""

    sort: str
    since: datetime | None = None
    before: datetime | None = None
    filters: Mapping[str, str] | None = None
    """Values by parameter."""
    after: Sequence[str] = ()
    rows_max: int | None = None


def place_of(report: Report, sort: str) -> dict[str, str]:
    """Expressions that order the rows, with their SQL types."""
    first = report.sorts[sort.removeprefix("-")]
    return {**({first.expression: first.type} if first else {}), **report.key}


def settings_of(report: Report, page: Page) -> str:
    """For the transaction that reads it. Indexes are in the order of days, of all rows and of those that a filter names."""
    if not page.filters and page.since is None and page.before is None:
        return _IN_ORDER
    by_day = report.sorts[page.sort.removeprefix("-")] == report.day
    return f"{_IN_ORDER if by_day else _BY_INDEX}; {_BY_VALUES}"


def select_page(report: Report, tenant_id: int, page: Page) -> Selected:
    """Rows after a place, in the order of an index: no other order is offered."""
    place = place_of(report, page.sort)
    down = page.sort.startswith("-")
    values: list[Any] = [tenant_id]

    def value(given: Any, kind: str) -> str:
        values.append(given)
        # As text: a place comes as it was written down.
        return f"${len(values)}::text::{kind}" if isinstance(given, str) else f"${len(values)}::{kind}"

    where = ["tenant_id = $1::int"]
    where += [f"{report.filters[name]} = {value(given, 'text')}" for name, given in (page.filters or {}).items()]
    if page.since is not None:
        where.append(f"{report.day.expression} >= {value(_begin(report.day, page.since), report.day.type)}")
    if page.before is not None:
        where.append(f"{report.day.expression} < {value(_moment(report.day, page.before), report.day.type)}")
    if page.after:
        bounds = ", ".join(value(given, kind) for given, kind in zip(page.after, place.values(), strict=True))
        where.append(f"({', '.join(place)}) {'<' if down else '>'} ({bounds})")
    order = ", ".join(f"{expression}{' DESC' if down else ''}" for expression in place)
    limit = "" if page.rows_max is None else f"\nLIMIT {value(page.rows_max, 'int')}"
    named = {f"place_{n}": kind for n, kind in enumerate(place.values())}
    places = ", ".join(f"{expression} AS {name}" for expression, name in zip(place, named, strict=True))
    sql = (
        f"SELECT {', '.join(report.columns)}, {places}\nFROM {report.relation}\n"
        f"WHERE {' AND '.join(where)}\nORDER BY {order}{limit}"
    )
    return Selected(sql, tuple(values), report.columns, named)


def select_analysis(
    analysis: Analysis, tenant_id: int, since: datetime | None, before: datetime | None, given: Mapping[str, str]
) -> Selected:
    values = (tenant_id, since, before, given.get("payer"), given.get("facility"), given.get("by"))
    return Selected(SQL[analysis.statement], values, analysis.columns, {})


def _begin(column: Sort, since: datetime) -> datetime | date:
    """A column of dates holds months, by their first day: the month that the day is in counts as a whole."""
    return since.date().replace(day=1) if column.type == "date" else since


def _moment(column: Sort, before: datetime) -> datetime | date:
    return before.date() if column.type == "date" else before


def _cell(name: str, kind: Kind) -> str:
    """A spreadsheet takes text that begins with = + - @, tab or a line break for a formula: an apostrophe keeps it text."""
    if kind is Kind.TEXT:
        return f"CASE WHEN ascii({name}) IN (9, 10, 13, 43, 45, 61, 64) THEN '''' || {name} ELSE {name} END"
    if kind is Kind.TIME:
        return f"""to_char({name}, 'YYYY-MM-DD"T"HH24:MI:SSTZH:TZM')"""
    if kind is Kind.FLAG:
        return f"CASE {name} WHEN true THEN 'true' WHEN false THEN 'false' END"
    return name


@asynccontextmanager
async def snapshot(storage: Storage, tenant_id: int, patience_s: float, settings: str = "") -> AsyncIterator[Connection]:
    """A connection on which one tenant's rows are read, as they are at one moment; times are Asia/Dubai's.

    Whoever leaves, for whatever reason, leaves no transaction open. Raises what the database raises.
    """
    begin = (
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
        f" SET LOCAL sluice.tenant_id = '{tenant_id:d}';"
        f" SET LOCAL timezone = 'Asia/Dubai'; SET LOCAL datestyle = 'ISO'; {settings}"
    )
    async with storage.report(tenant_id, patience_s) as connection:
        try:
            await connection.raw.execute(begin, timeout=patience_s)
            yield connection
            await connection.raw.execute("COMMIT", timeout=patience_s)
        except BaseException:
            await _leave(connection)
            raise


async def _leave(connection: Connection) -> None:
    """Rolled back, or cut off: the lender makes another."""
    try:
        await connection.raw.execute("ROLLBACK", timeout=_ROLLBACK_S)
    except BaseException:  # noqa: BLE001  # also when cancelled once more: what is raised is what came first
        connection.raw.terminate()


async def read(
    storage: Storage, tenant_id: int, patience_s: float, work: Callable[[Connection], Awaitable[T]], settings: str = ""
) -> T:
    """What `work` reads in one snapshot; once more when the connection broke. Raises Problem, or an unknown error."""
    try:
        try:
            return await _read(storage, tenant_id, patience_s, work, settings)
        except Exception as error:
            if isinstance(error, Problem) or not (is_away(error) or getattr(error, "sqlstate", "") == _CONFLICT):
                raise
        return await _read(storage, tenant_id, patience_s, work, settings)
    except Problem:
        raise
    except Exception as error:  # whatever it was, it is told in the words of the house
        raise problem_of(error) from error


async def _read(
    storage: Storage, tenant_id: int, patience_s: float, work: Callable[[Connection], Awaitable[T]], settings: str
) -> T:
    async with snapshot(storage, tenant_id, patience_s, settings) as connection:
        return await work(connection)


async def state_of(connection: Connection, view: str) -> State:
    (row,) = await connection.fetch(SQL["state"], view)
    return State(*row)


async def copy_csv(connection: Connection, selected: Selected, sink: Sink) -> None:
    """All rows as CSV by RFC 4180, with a header; PostgreSQL writes them. No more is read while `sink` is at work."""

    async def write(lines: bytes) -> None:
        await sink(_with_returns(lines))

    # The statement has a limit of its own, but it does not count while the server waits for us to read.
    async with asyncio.timeout(EXPORT_S):
        await connection.raw.copy_from_query(selected.csv, *selected.values, output=write, format="csv", header=True)


def _with_returns(lines: bytes) -> bytes:
    """Lines end with CR LF. What stands between quotes stays; and whole lines come, so quotes come in pairs."""
    parts = lines.split(b'"')
    parts[::2] = [part.replace(b"\n", b"\r\n") for part in parts[::2]]
    return b'"'.join(parts)


class RawFile(NamedTuple):
    """A document as it came, packed by zlib; `kind` is None for what could not be read as claims."""

    name: str
    kind: str | None
    sha256: bytes
    body: bytes


async def claim_parts(
    connection: Connection, tenant_id: int, provider_id: str, claim_id: str
) -> tuple[datetime, dict[str, str]] | None:
    """The snapshot's time, and JSON texts: claim, activities, diagnoses, remittances, events. None: there is no such claim."""
    rows = await connection.fetch(SQL["claim"], tenant_id, provider_id, claim_id)
    if not rows:
        return None
    (parts,) = await connection.fetch(SQL["claim_parts"], tenant_id, provider_id, claim_id)
    return rows[0]["at"], {"claim": rows[0]["claim"], **dict(parts)}


async def raw_file(connection: Connection, tenant_id: int, licence: str, file_id: str) -> RawFile | None:
    rows = await connection.fetch(SQL["file"], tenant_id, licence, file_id)
    return RawFile(*rows[0]) if rows else None
