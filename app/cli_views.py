"""The commands of the report views: how they are kept, and their refresh at once."""

from time import perf_counter
from typing import Annotated, Any

import asyncpg
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.cli_tools import Json, notices, on_database, settings, show
from base.errors import Invalid
from reporting.planning import wishes
from storage import views
from storage.views import REPORTS, State, View

views_cli = typer.Typer(no_args_is_help=True, help="The views that reports read.")
OneOrAll = Annotated[str | None, typer.Argument(metavar="[VIEW]", help="all, unless one is named: " + ", ".join(REPORTS))]


@views_cli.command("status")
def views_status(as_json: Json = False) -> None:
    """Each view: how it is kept, when it was computed, how far it is behind, and what came of its refreshes."""
    found: dict[str, State] = on_database(views.states)
    asked = wishes(settings())
    show([_told(state, asked[state.name].interval_s) for state in found.values()], as_json=as_json)


def _told(state: State, interval_s: float) -> dict[str, Any]:
    return {
        "view": state.name,
        "kept": "table" if state.incremental else "materialized view",
        "refreshed_at": state.refreshed_at,
        "age_s": round(state.age_s, 1),
        "rows": state.rows,
        "took_s": round(state.took_s, 3),
        "changes": state.waiting,
        "interval_s": interval_s,
        "refreshes": state.refreshed,
        "applied": state.applied,
        "failed": state.failed,
        "reason": state.reason,
    }


@views_cli.command("refresh")
def views_refresh(
    view: OneOrAll = None,
    full: Annotated[bool, typer.Option("--full", help="compute all anew, also where changes alone would do")] = False,
) -> None:
    """Brings views up to date at once, or after whoever is at it."""
    if view is not None and view not in REPORTS:
        raise Invalid(f"there is no view {view!r}; expected one of {', '.join(REPORTS)}")
    wanted = list(REPORTS.values()) if view is None else [REPORTS[view]]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())

    async def run(connection: asyncpg.Connection) -> None:
        with Progress(*columns, console=notices, transient=True, disable=not notices.is_terminal) as bar:
            for each in wanted:
                task = bar.add_task(f"{each.name}: waits for its turn")
                began = perf_counter()
                async with views.turn(connection, each, whole=True, wait=True):
                    bar.update(task, description=each.name)
                    told = await _brought_up(connection, each, full=full)
                bar.remove_task(task)
                notices.print(f"{each.name}: {told} in {perf_counter() - began:.1f} s", highlight=False)

    on_database(run)


async def _brought_up(connection: asyncpg.Connection, view: View, *, full: bool) -> str:
    """What was done, in words."""
    state = (await views.states(connection))[view.name]
    if not state.incremental:
        return f"{await views.refresh(connection, view):,} rows refreshed"
    if full or state.lost:
        return f"{await views.rebuild(connection, view):,} rows computed anew"
    keys = 0
    more = True
    while more:
        applied = await views.apply(connection, view)
        keys, more = keys + applied.keys, applied.more
    await views.prune(connection)
    return f"{keys:,} rows computed anew"
