"""A search: from its query to the statements, and from their rows to a page of a searchset."""

from collections.abc import Sequence
from operator import itemgetter

from aiohttp import web

from base.errors import Invalid, NotFound
from handlers.answers import Answer, Pairs, Question, id_of, is_strict, page
from handlers.cursors import Cursors
from r4.outcome import outcome
from r4.parameters import COMPARTMENTS
from r4.search import FORMATS, Search, parse_search
from r4.subset import Subset, subset
from storage.asks import Rows
from storage.searching.inclusions import INCLUDED_MAX
from storage.searching.lists import list_statement, list_values, total_statement, total_values

_TRUNCATED = outcome(
    "incomplete", f"more than {INCLUDED_MAX} resources would be included; ask for fewer matches a page", severity="warning"
)


def list_question(
    request: web.Request, pairs: Pairs, type_name: str, tenant_id: int, base_url: str, cursors: Cursors
) -> Question:
    """Raises Invalid, or NotFound for a compartment that has none of the type."""
    path, compartment = type_name, None
    if "compartment" in request.match_info:
        path, compartment = _compartment(request, type_name)
    search = parse_search(type_name, pairs, strict=is_strict(request), base_url=base_url, compartment=compartment)
    query = [path, sorted(pair for pair in search.used if pair[0] not in FORMATS)]
    parts = [(list_statement(search), _values(search, tenant_id, query, cursors))] if search.count else []
    if search.total:
        parts.append((total_statement(search), total_values(search)))

    def encode(answers: Sequence[Rows]) -> Answer:
        total = answers[-1][0][2] if search.total else None
        rows = answers[0] if search.count else []
        matches = sorted((row for row in rows if row[2] == 0), key=itemgetter(4, 5))
        included = sorted((row for row in rows if row[2] == 1), key=itemgetter(3, 5))
        shown = matches[: search.count]
        last = shown[-1] if shown else None
        cursor = None
        if last is not None and len(matches) > search.count:
            cursor = cursors.seal(tenant_id, query, (last[8] if search.sort else last[4], last[5]))
        entries = [(row[3], row[5], _body(row[9], search.subset), "match") for row in shown]
        entries += [(row[3], row[5], row[9], "include") for row in included[:INCLUDED_MAX]]
        if len(included) > INCLUDED_MAX:
            entries.append(("", "", _TRUNCATED, "outcome"))
        state = [row[3:7] for row in (*shown, *included)]
        return page(base_url, path, search.used, search.count, cursor, entries, total=total, state=state)

    return Question(tuple(parts), encode)


def _body(body: bytes, wanted: Subset | None) -> bytes:
    return body if wanted is None else subset(body, wanted)


def _values(search: Search, tenant_id: int, query: Sequence[object], cursors: Cursors) -> tuple[object, ...]:
    """Of the page that the cursor leads to."""
    if not search.cursor:
        return list_values(search)
    kind = tuple[list[str | None], str] if search.sort else tuple[int, str]
    place = cursors.open(tenant_id, query, search.cursor, kind)
    try:
        return list_values(search, place)
    except ValueError:
        raise Invalid("this cursor is not one of this list; begin again without it", expression="_cursor") from None


def _compartment(request: web.Request, type_name: str) -> tuple[str, tuple[str, str]]:
    """The path, and which parameters lead to what: https://hl7.org/fhir/R4/compartmentdefinition.html."""
    kind = request.match_info["compartment"]
    params = COMPARTMENTS.get(kind, {}).get(type_name)
    if params is None:
        raise NotFound(f"the compartment of a {kind} is not searched for {type_name} here")
    target = f"{kind}/{id_of(request)}"
    return f"{target}/{type_name}", ("|".join(params), target)
