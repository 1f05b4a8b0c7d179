"""Versions and histories: from a request to the statement, and from its rows to a Bundle of type history.

The newest stands first (http.html#history), and pages are by that order: what comes in meanwhile stands before the first page,
and each version is shown once. A version's time is that at which its transaction wrote it, which may commit after a later one
did. So who follows changes by `_since` asks again from a while before the newest time that was seen (an import's transaction
takes seconds), and knows by the versions what is there already.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from aiohttp import web

from base.errors import NotFound, NotSupported
from handlers.answers import Answer, Pairs, Question, count_of, etag_of, id_of, is_strict, value_of
from handlers.cursors import Cursors
from r4.bundle import history, page_url
from r4.dates import LATEST
from r4.filters import Filters, parse_filters
from r4.search import COUNT_DEFAULT
from r4.types import RESOURCE_TYPES
from storage.asks import Rows
from storage.records import history_of_all, history_of_one, history_of_types
from storage.statements import Statement

VERSION_MAX = 2**31 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_is_number = re.compile(r"[1-9][0-9]{0,9}").fullmatch

Place = tuple[datetime, str, str, int]
"""Of a version in the order of its history: last_updated, type, id, version."""
_FIRST: Place = (LATEST, "~", "~", VERSION_MAX)  # no type or id begins with ~ or comes after it


def version_of(request: web.Request) -> int:
    """The version in the route. Raises NotFound for what can be none: a version's name is the server's to choose."""
    text = request.match_info["version"]
    if not _is_number(text) or int(text) > VERSION_MAX:
        raise NotFound("there is no such version of this resource")
    return int(text)


def history_question(request: web.Request, pairs: Pairs, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    """Of a resource, a type, or all. Raises Invalid, and NotSupported for a type that R4 does not have."""
    type_name, resource_id = _whose(request)
    filters = parse_filters(pairs, ("_since",) if type_name else ("_since", "_type"), strict=is_strict(request))
    count = count_of(value_of(pairs, "_count"), COUNT_DEFAULT)
    path = "/".join(filter(None, (type_name, resource_id, "_history")))
    query = [path, *filters.bound]
    place = _FIRST
    if cursor := value_of(pairs, "_cursor"):
        place = _opened(cursors.open(tenant_id, query, cursor, tuple[int, str, str, int]))

    def encode(answers: Sequence[Rows]) -> Answer:
        rows = _in_order(answers[0], resource_id, filters, place)
        shown = rows[:count]
        following = cursors.seal(tenant_id, query, _sealed(shown[-1])) if len(rows) > count else None
        self_url = page_url(base_url, path, filters.used, count)
        next_url = page_url(base_url, path, filters.used, count, following) if following else None
        body = history(base_url, (row[2:8] for row in shown), self_url=self_url, next_url=next_url)
        return Answer(body, etag_of([row[2:5] for row in shown], self_url, next_url))

    return Question((_part(type_name, resource_id, filters, place, count + 1),), encode)


def _whose(request: web.Request) -> tuple[str, str]:
    """Type and id, empty where the route has none; a route of one type has its name in the path."""
    named = request.path.split("/")[2:-1]
    if not named:
        return "", ""
    type_name = request.match_info.get("type", named[0])
    if type_name not in RESOURCE_TYPES:
        raise NotSupported("R4 has no resource type of this name")
    return type_name, id_of(request) if "id" in request.match_info else ""


def _part(type_name: str, resource_id: str, filters: Filters, place: Place, rows: int) -> tuple[Statement, tuple[Any, ...]]:
    if resource_id:
        return history_of_one(), (resource_id, type_name, filters.since, place[3], rows)
    if types := type_name or ",".join(filters.types):
        return history_of_types(), (types, filters.since, *place, rows)
    return history_of_all(), (filters.since, *place, rows)


def _in_order(rows: Rows, resource_id: str, filters: Filters, place: Place) -> Rows:
    """A resource's current version came in any case, which tells whether there is one."""
    if not resource_id:
        return sorted(rows, key=itemgetter(5, 2, 3, 4), reverse=True)
    if not rows:
        raise NotFound("there is no resource of this type and id")
    ours = [row for row in rows if row[4] < place[3] and row[5] >= filters.since]
    return sorted(ours, key=itemgetter(4), reverse=True)


def _sealed(row: Any) -> tuple[int, str, str, int]:
    return (row[5] - _EPOCH) // _MICROSECOND, row[2], row[3], row[4]


def _opened(sealed: tuple[int, str, str, int]) -> Place:
    return (_EPOCH + sealed[0] * _MICROSECOND, *sealed[1:])
