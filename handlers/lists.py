"""A search: from its query to the statements, and from their rows to a page of a searchset."""

from collections.abc import Sequence
from operator import itemgetter

from aiohttp import web

from handlers.answers import Answer, Question, page
from handlers.cursors import Cursors
from r4.search import parse_search
from storage.asks import Rows
from storage.lists import FIRST, list_statement, list_values, total_statement, total_values


def list_question(request: web.Request, type_name: str, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    strict = "handling=strict" in request.headers.get("Prefer", "")
    search = parse_search(type_name, request.query.items(), strict=strict, base_url=base_url)
    query = [type_name, sorted(search.used)]
    after = FIRST
    if search.cursor:
        after = cursors.open(tenant_id, query, search.cursor, tuple[int, str])
    parts = [(list_statement(search), list_values(search, after))] if search.count else []
    if search.total:
        parts.append((total_statement(search), total_values(search)))

    def encode(answers: Sequence[Rows]) -> Answer:
        total = answers[-1][0][2] if search.total else None
        rows = sorted(answers[0], key=itemgetter(2, 3)) if search.count else []
        shown = rows[: search.count]
        cursor = cursors.seal(tenant_id, query, shown[-1][2:4]) if len(rows) > search.count > 0 else None
        entries = ((type_name, row[3], row[6], "match") for row in shown)
        return page(
            base_url, type_name, search.used, search.count, cursor, entries, total=total, state=[row[3:5] for row in shown]
        )

    return Question(tuple(parts), encode)
