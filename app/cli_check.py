"""`sluice check`: settings, database, versions and rights, before anybody relies on them."""

import asyncio
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.checking.findings import CannotExamineError
from app.cli_tools import Json, notices, show
from base.errors import Conflict

if TYPE_CHECKING:
    from app.checking.checks import Row
    from app.checking.scene import Scene

_SHOWN = 70
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "bold red"), "skipped": ("–", "dim")}


def check(
    as_json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="a warning fails, too")] = False,
    statements: Annotated[
        bool, typer.Option("--statements", help="only the slowest statements, by pg_stat_statements, without values")
    ] = False,
    processes: Annotated[int, typer.Option(min=0, max=1000, help="of the API, on all machines together")] = 1,
    workers: Annotated[int, typer.Option(min=0, max=1000, help="of ingestion, on all machines together")] = 1,
) -> None:
    """Examines settings, database, versions and rights; changes nothing. Exit code 1 when something fails."""
    from app.checking.checks import examine
    from app.checking.scene import at_hand

    waiting = notices.status("looks at settings, machine and database") if notices.is_terminal else nullcontext()
    with waiting, at_hand(os.environ, processes=processes, workers=workers) as scene:
        slow = asyncio.run(_slowest(scene)) if statements else []
        rows = [] if statements else asyncio.run(examine(scene))
    if statements:
        on_terminal = sys.stdout.isatty() and not as_json
        slow = [_brief(row) for row in slow] if on_terminal else slow
        show(slow, as_json=as_json)
        return
    show_rows(rows, as_json=as_json)
    bad = {"failure", "warning"} if strict else {"failure"}
    if any(row.state in bad for row in rows):
        raise typer.Exit(1)


async def _slowest(scene: "Scene") -> list[dict[str, Any]]:
    from app.checking.scene import look
    from app.checking.statements import slowest

    try:
        return await slowest(await look(scene))
    except asyncpg.UndefinedTableError:
        raise Conflict("there is no pg_stat_statements in this database; `sluice check` says how to have it") from None
    except asyncpg.ObjectNotInPrerequisiteStateError:
        raise Conflict("pg_stat_statements is not loaded; `sluice check` says how to have it") from None
    except CannotExamineError as error:
        raise Conflict(f"{error}; see `sluice check`") from None


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """A statement's name, or how it begins."""
    brief = row["name"] or textwrap.shorten(row["statement"], _SHOWN)
    return {**{name: value for name, value in row.items() if name != "name"}, "statement": brief}


def show_rows(rows: "Sequence[Row]", *, as_json: bool) -> None:
    """In colour on a terminal; elsewhere a plain line a finding: state, check, what was found, what to do."""
    if as_json or not sys.stdout.isatty():
        show([_told(row, whole=as_json) for row in rows], as_json=as_json)
    else:
        Console(highlight=False).print(_table(rows))
    notices.print(_summary(rows), highlight=False)


def _told(row: "Row", *, whole: bool) -> dict[str, Any]:
    told = {"state": str(row.state), "check": row.check.name, "found": row.finding.found, "remedy": row.finding.remedy}
    return {**told, "examines": row.check.examines} if whole else told


def _table(rows: "Sequence[Row]") -> Table:
    """A check's name stands once; those that could not be examined share a line for each reason."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before, skipped = "", dict[str, list[str]]()
    for row in rows:
        if row.state == "skipped":
            skipped.setdefault(row.finding.found, []).append(row.check.name)
            continue
        mark, style = _MARKS[row.state]
        words = Text(row.finding.found, style="" if row.state == "ok" else style.removeprefix("bold "))
        if row.finding.remedy:
            words.append(f"\n→ {row.finding.remedy}", style="default")
        table.add_row(Text(mark, style=style), "" if row.check.name == before else row.check.name, words)
        before = row.check.name
    for why, names in skipped.items():
        mark, style = _MARKS["skipped"]
        table.add_row(
            Text(mark, style=style),
            Text("the others", style=style),
            Text(f"{why}; not examined: {', '.join(names)}", style=style),
        )
    return table


def _summary(rows: "Sequence[Row]") -> Text:
    """How many findings there are of each kind."""
    counts = Counter(str(row.state) for row in rows)
    words = [("failure", "failures"), ("warning", "warnings"), ("ok", "ok"), ("skipped", "not examined")]
    told = [
        f"{counts[state]} {state if counts[state] == 1 and state != 'skipped' else many}"
        for state, many in words
        if counts[state]
    ]
    worst = next((state for state in ("failure", "warning") if counts[state]), "ok")
    return Text(", ".join(told), style=_MARKS[worst][1])
