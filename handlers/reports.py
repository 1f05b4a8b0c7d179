"""The reports that are read page by page, and those that are computed as a whole: one handler each, a row of data a route."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import orjson
from aiohttp import web

from handlers.reports_answers import PRIVATE, Freshness, tenant_of, time_text, who
from handlers.reports_claims import CLAIM_PATH, CLAIM_ROUTE, CLAIM_TEMPLATE, FILE_PATH, FILE_ROUTE, claim, file
from handlers.reports_csv import EXPORTS, Exports, export
from handlers.reports_query import asked_of, days_of, format_of, grouping_of, link_of, parameters_of
from metrics.catalog import Metrics
from storage.connecting.connections import Connection
from storage.report_tables import ANALYSES, REPORTS, Analysis, Report
from storage.reports import Row, State, read, select_analysis, select_page, settings_of, state_of

BY_PATH: dict[str, Report] = {f"/reports/{report.name}": report for report in REPORTS}
ANALYSIS_BY_PATH: dict[str, Analysis] = {f"/reports/{analysis.name}": analysis for analysis in ANALYSES}
NAMES = {
    **{path: f"report_{path.rpartition('/')[2].replace('-', '_')}" for path in (*BY_PATH, *ANALYSIS_BY_PATH)},
    CLAIM_PATH: "report_claim",
    FILE_PATH: "report_file",
}
"""What metrics call each route."""

ROWS_MAX = 1000
"""Of an analysis in JSON: as CSV there are all."""


def begin_at_zero(metrics: Metrics) -> None:
    """The series of every report are there before it is asked, so that the first one is an increase."""
    for name in NAMES.values():
        metrics.report_duration.child(name)


def add_routes(app: web.Application, connections: int) -> None:
    """`connections`: how many reports have for themselves."""
    app[EXPORTS] = Exports(connections)
    for path in BY_PATH:
        app.router.add_get(path, page)
    for path in ANALYSIS_BY_PATH:
        app.router.add_get(path, analysis)
    app.router.add_get(CLAIM_ROUTE, claim)
    app.router.add_get(FILE_ROUTE, file)


async def page(request: web.Request) -> web.StreamResponse:
    """Raises the Problem that the answer is, if it is one."""
    services, identity = who(request)
    report, tenant_id = BY_PATH[request.path], tenant_of(identity)
    parameters = parameters_of(request, ("from", "to", *report.filters, "sort", "_count", "_cursor"))
    form = format_of(request, parameters)
    asked = asked_of(report, parameters, tenant_id, services.cursors, all_rows=form == "csv")
    if form == "csv":
        return await export(request, report.name, select_page(report, tenant_id, asked.page), report.name, ages=report.ages)
    count = asked.page.rows_max or 0
    # A row beyond the page says that there is a next one.
    selected = select_page(report, tenant_id, replace(asked.page, rows_max=count + 1))
    settings = settings_of(report, asked.page)

    async def work(connection: Connection) -> tuple[State, Freshness, list[Row] | None]:
        state = await state_of(connection, report.name)
        freshness = Freshness(state, form, ages=report.ages)
        known = freshness.is_known(request)
        return state, freshness, None if known else await connection.fetch(selected.json, *selected.values)

    state, freshness, rows = await read(services.storage, tenant_id, services.config.pool_acquire_s, work, settings)
    if rows is None:
        return web.Response(status=304, headers=freshness.headers)
    base_url = services.config.base_url
    following = None
    if len(rows) > count:
        cursor = services.cursors.seal(tenant_id, asked.query, list(rows[count - 1])[1:])
        following = link_of(base_url, request.path, parameters, cursor)
    after = {"next": following, **({"claim": base_url + CLAIM_TEMPLATE} if "claim_id" in report.key else {})}
    body = _body({"refreshed_at": time_text(state.refreshed_at)}, [row[0] for row in rows[:count]], after)
    return web.Response(body=body, content_type="application/json", headers=freshness.headers)


async def analysis(request: web.Request) -> web.StreamResponse:
    """All rows at once; in JSON at most ROWS_MAX of them, and how many more there are."""
    services, identity = who(request)
    asked, tenant_id = ANALYSIS_BY_PATH[request.path], tenant_of(identity)
    parameters = parameters_of(request, asked.parameters)
    form = format_of(request, parameters)
    selected = select_analysis(asked, tenant_id, *days_of(parameters), grouping_of(asked, parameters))
    # What is read from the tables themselves is of this moment; only what comes from a report alone can be known already.
    view, is_live = asked.view or REPORTS[0].name, asked.is_live
    if form == "csv":
        return await export(request, asked.name, selected, None if is_live else view, ages=asked.ages)

    async def work(connection: Connection) -> tuple[State, Freshness, list[Row] | None]:
        state = await state_of(connection, view)
        freshness = Freshness(state, form, ages=asked.ages)
        known = not is_live and freshness.is_known(request)
        return state, freshness, None if known else await connection.fetch(selected.json, *selected.values)

    state, freshness, rows = await read(services.storage, tenant_id, services.config.pool_acquire_s, work)
    headers = {"Vary": "Accept, Accept-Encoding", **PRIVATE} if is_live else freshness.headers
    if rows is None:
        return web.Response(status=304, headers=headers)
    times = {"as_of": time_text(state.at)} if is_live else {}
    times |= {"refreshed_at": time_text(state.refreshed_at)} if asked.view else {}
    body = _body(times, [row[0] for row in rows[:ROWS_MAX]], {"left_out": max(len(rows) - ROWS_MAX, 0)})
    return web.Response(body=body, content_type="application/json", headers=headers)


def _body(before: dict[str, str], rows: Sequence[str], after: Mapping[str, object]) -> bytes:
    """Digits are those that PostgreSQL wrote; only blanks are taken away."""
    head, tail = orjson.dumps(before).decode()[:-1], orjson.dumps(after).decode()[1:]
    return msgspec.json.format(f'{head}, "rows": [{", ".join(rows)}], {tail}'.encode(), indent=-1)
