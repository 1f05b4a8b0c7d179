"""From a request to the statements that answer it, and from their rows to the bytes of the answer: a pair of functions a kind.

Nothing here knows which path the rows come by, so that both give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

from aiohttp import web

from base.errors import Deleted, Invalid, NotFound, NotSupported
from base.operations import Kind, Operation
from handlers.answers import Answer, Pairs, Question, count_of, id_of, page
from handlers.cursors import Cursors
from handlers.lists import list_question
from r4.review import money_meta
from r4.search import COUNT_MAX
from r4.subset import Subset, parse_subset, subset
from r4.types import RESOURCE_TYPES
from storage.asks import Rows
from storage.statements import read_statement, review_statement


def question_of(
    request: web.Request, pairs: Pairs, operation: Operation, tenant_id: int, base_url: str, cursors: Cursors
) -> Question:
    """`pairs`: the query, with a posted form merged in. Raises Invalid, or NotSupported for a type that R4 does not have."""
    type_name = operation.type or request.match_info["type"]
    if type_name not in RESOURCE_TYPES:
        raise NotSupported("R4 has no resource type of this name")
    if operation.kind is Kind.READ:
        return _read(type_name, id_of(request), pairs)
    if operation.kind is Kind.LIST:
        return list_question(request, pairs, type_name, tenant_id, base_url, cursors)
    return _review(request, tenant_id, base_url, cursors)


def _read(type_name: str, resource_id: str, pairs: Pairs) -> Question:
    wanted = subset_of(pairs)

    def encode(answers: Sequence[Rows]) -> Answer:
        answer = _encode_read(answers)
        return answer if wanted is None else replace(answer, body=subset(answer.body, wanted))

    return Question(((read_statement(type_name), (resource_id,)),), encode)


def subset_of(pairs: Pairs) -> Subset | None:
    """What of a single resource is wanted; None for all of it."""
    wanted, _ = parse_subset(pairs)
    if wanted is not None and wanted.summary == "count":
        raise Invalid("_summary=count is for searches", expression="_summary")
    return wanted


def _encode_read(answers: Sequence[Rows]) -> Answer:
    rows = answers[0]
    if not rows:
        raise NotFound("there is no resource of this type and id")
    _, _, _, version, last_updated, deleted, body = rows[0]
    if deleted:
        raise Deleted("this resource was deleted")
    return Answer(body, f'W/"{version}"', last_updated)


def _review(request: web.Request, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    encounter_id = id_of(request)
    count = count_of(request.query.get("_count"), COUNT_MAX)
    query = ["review", encounter_id]
    place: tuple[int, str, str] = (-1, "", "")
    if cursor := request.query.get("_cursor"):
        place = cursors.open(tenant_id, query, cursor, tuple[int, str, str])

    def encode(answers: Sequence[Rows]) -> Answer:
        rows = sorted(answers[0], key=itemgetter(2, 3, 4))
        if not rows or rows[0][2] != 0:
            raise NotFound("there is no encounter of this id")
        if rows[0][7]:
            raise Deleted("this encounter was deleted")
        left = [row for row in rows if row[2:5] > place]
        shown = left[:count]
        following = cursors.seal(tenant_id, query, shown[-1][2:5]) if len(left) > count else None
        entries = ((row[3], row[4], row[8], "include" if row[2] else "match") for row in shown)
        meta = money_meta((row[3], row[8]) for row in rows if row[2] == 1)
        path = f"Encounter/{encounter_id}/$everything"
        return page(base_url, path, (), count, following, entries, state=[row[3:6] for row in rows], meta=meta)

    return Question(((review_statement(), (encounter_id, *place, count + 1)),), encode)
