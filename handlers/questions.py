"""From a request to the statements that answer it, and from their rows to the bytes of the answer: a pair of functions a kind.

Nothing here knows which path the rows come by, so that both give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from base.errors import Deleted, Invalid, NotFound, NotSupported
from base.operations import Kind, Operation
from handlers.answers import Answer, Pairs, Question, id_of
from handlers.cursors import Cursors
from handlers.everything import everything_question, review_question
from handlers.lists import list_question
from handlers.records import history_question, version_of
from r4.subset import Subset, parse_subset, subset
from r4.types import RESOURCE_TYPES
from storage.asks import Rows
from storage.records import vread_statement
from storage.statements import Statement, read_statement


def question_of(
    request: web.Request, pairs: Pairs, operation: Operation, tenant_id: int, base_url: str, cursors: Cursors
) -> Question:
    """`pairs`: the query, with a posted form merged in. Raises Invalid, or NotSupported for a type that R4 does not have."""
    if operation.kind in _OTHERS:
        return _OTHERS[operation.kind](request, pairs, tenant_id, base_url, cursors)
    type_name = operation.type or request.match_info["type"]
    if type_name not in RESOURCE_TYPES:
        raise NotSupported("R4 has no resource type of this name")
    if operation.kind is Kind.READ:
        return _read(read_statement(type_name), (id_of(request),), pairs)
    if operation.kind is Kind.VREAD:
        return _read(vread_statement(), (id_of(request), type_name, version_of(request)), pairs)
    return list_question(request, pairs, type_name, tenant_id, base_url, cursors)


_OTHERS = {Kind.REVIEW: review_question, Kind.EVERYTHING: everything_question, Kind.HISTORY: history_question}
"""The kinds that are not of one given type."""


def _read(statement: Statement, values: tuple[Any, ...], pairs: Pairs) -> Question:
    wanted = subset_of(pairs)
    if wanted is None:
        return Question(((statement, values),), _encode_read)

    def encode(answers: Sequence[Rows]) -> Answer:
        answer = _encode_read(answers)
        return replace(answer, body=subset(answer.body, wanted))

    return Question(((statement, values),), encode)


def subset_of(pairs: Pairs) -> Subset | None:
    """What of a single resource is wanted; None for all of it."""
    wanted, _ = parse_subset(pairs) if pairs else (None, ())
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
