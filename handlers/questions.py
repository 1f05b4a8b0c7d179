"""From a request to the statements that answer it, and from their rows to the bytes of the answer: a pair of functions a kind.

Nothing here knows which path the rows come by, so that both give equal bytes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from aiohttp import web

from base.errors import Deleted, Invalid, NotFound, NotSupported
from base.operations import Kind, Operation
from handlers.cursors import Cursors
from r4.bundle import Entry, page_url, searchset
from r4.resource import is_id
from r4.review import money_meta
from r4.search import COUNT_MAX, parse_search
from r4.types import RESOURCE_TYPES
from storage.asks import Rows
from storage.statements import (
    FIRST,
    Statement,
    list_statement,
    list_values,
    read_statement,
    review_statement,
    total_statement,
    total_values,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A 200's body and what names its state; `changed_at` is a resource's meta.lastUpdated."""

    body: bytes
    etag: str
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """`parts`: (statement, values) of each ask; `encode` takes their rows in the same order."""

    parts: tuple[tuple[Statement, tuple[Any, ...]], ...]
    encode: Callable[[Sequence[Rows]], Answer]


def question_of(request: web.Request, operation: Operation, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    """Raises Invalid, or NotSupported for a type that R4 does not have."""
    type_name = operation.type or request.match_info["type"]
    if type_name not in RESOURCE_TYPES:
        raise NotSupported("R4 has no resource type of this name")
    if operation.kind is Kind.READ:
        return _read(type_name, _id_of(request))
    if operation.kind is Kind.LIST:
        return _list(request, type_name, tenant_id, base_url, cursors)
    return _review(request, tenant_id, base_url, cursors)


def _id_of(request: web.Request) -> str:
    resource_id = request.match_info["id"]
    if not is_id(resource_id):
        raise Invalid("an id has 1 to 64 letters, digits, - or .", expression="id")
    return resource_id


def _read(type_name: str, resource_id: str) -> Question:
    return Question(((read_statement(type_name), (resource_id,)),), _encode_read)


def _encode_read(answers: Sequence[Rows]) -> Answer:
    rows = answers[0]
    if not rows:
        raise NotFound("there is no resource of this type and id")
    _, _, _, version, last_updated, deleted, body = rows[0]
    if deleted:
        raise Deleted("this resource was deleted")
    return Answer(body, f'W/"{version}"', last_updated)


def _list(request: web.Request, type_name: str, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
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
        return _page(
            base_url, type_name, search.used, search.count, cursor, entries, total=total, state=[row[3:5] for row in shown]
        )

    return Question(tuple(parts), encode)


def _review(request: web.Request, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    encounter_id = _id_of(request)
    count = _review_count(request.query.get("_count"))
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
        return _page(base_url, path, (), count, following, entries, state=[row[3:6] for row in rows], meta=meta)

    return Question(((review_statement(), (encounter_id, *place, count + 1)),), encode)


def _review_count(text: str | None) -> int:
    if not text:
        return COUNT_MAX
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise Invalid(f"_count takes a whole number from 1 to {COUNT_MAX} here", expression="_count")
    return min(int(text), COUNT_MAX)


def _page(
    base_url: str,
    path: str,
    used: Sequence[tuple[str, str]],
    count: int,
    cursor: str | None,
    entries: Iterable[Entry],
    *,
    state: Sequence[Any],
    total: int | None = None,
    meta: bytes = b"",
) -> Answer:
    """A Bundle and its ETag, a hash of its entries' versions and its links: the body need not be read for it."""
    self_url = page_url(base_url, path, used, count)
    next_url = page_url(base_url, path, used, count, cursor) if cursor else None
    body = searchset(base_url, entries, self_url=self_url, next_url=next_url, total=total, meta=meta)
    digest = blake2b(repr((state, self_url, next_url, total)).encode(), digest_size=12).hexdigest()
    return Answer(body, f'W/"{digest}"')
