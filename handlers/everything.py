"""$everything of a patient, and of an encounter, which is the review: a searchset of the one and all that is around it.

The one who was asked for stands first, always: nothing narrows that away. In their cursors and rows it has the kind 0.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from aiohttp import web

from base.errors import Deleted, NotFound
from handlers.answers import Answer, Pairs, Question, count_of, id_of, is_strict, page, value_of
from handlers.cursors import Cursors
from r4.filters import Filters, parse_filters
from r4.review import money_meta
from r4.search import COUNT_MAX
from storage.asks import Rows
from storage.records import everything_statement
from storage.statements import review_statement


@dataclass(frozen=True, slots=True)
class _Asked:
    """`place`: (kind, type, id) of the last one that was shown."""

    type: str
    id: str
    filters: Filters
    count: int
    place: tuple[int, str, str]
    seal: Any

    def in_order(self, rows: Rows) -> Rows:
        found = sorted(rows, key=itemgetter(2, 3, 4))
        if not found or found[0][2] != 0:
            raise NotFound(f"there is no {self.type.lower()} of this id")
        if found[0][7]:
            raise Deleted(f"this {self.type.lower()} was deleted")
        return found

    def page(self, base_url: str, rows: Rows, *, state: Sequence[Any], meta: bytes = b"") -> Answer:
        left = [row for row in rows if row[2:5] > self.place]
        shown = left[: self.count]
        following = self.seal(shown[-1][2:5]) if len(left) > self.count else None
        entries = ((row[3], row[4], row[8], "include" if row[2] else "match") for row in shown)
        path = f"{self.type}/{self.id}/$everything"
        return page(base_url, path, self.filters.used, self.count, following, entries, state=state, meta=meta)


def everything_question(request: web.Request, pairs: Pairs, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    asked = _asked(request, pairs, "Patient", ("_since", "_type", "start", "end"), tenant_id, cursors)
    filters = asked.filters

    def encode(answers: Sequence[Rows]) -> Answer:
        rows = asked.in_order(answers[0])
        return asked.page(base_url, rows, state=[row[3:6] for row in rows])

    values = (asked.id, filters.since, ",".join(filters.types), filters.dated, filters.start, filters.end)
    return Question(((everything_statement(), (*values, *asked.place, asked.count + 1)),), encode)


def review_question(request: web.Request, pairs: Pairs, tenant_id: int, base_url: str, cursors: Cursors) -> Question:
    asked = _asked(request, pairs, "Encounter", ("_since", "_type"), tenant_id, cursors)
    filters = asked.filters

    def encode(answers: Sequence[Rows]) -> Answer:
        rows = asked.in_order(answers[0])
        meta = money_meta((row[3], row[8]) for row in rows if row[2] == 1)
        # What tells of the money came whole, and is narrowed only now.
        wanted = [row for row in rows if row[2] != 1 or filters.let_pass(row[3], row[6])]
        return asked.page(base_url, wanted, state=[row[3:6] for row in rows], meta=meta)

    values = (asked.id, filters.since, ",".join(filters.types), *asked.place, asked.count + 1)
    return Question(((review_statement(), values),), encode)


def _asked(
    request: web.Request, pairs: Pairs, type_name: str, taken: Collection[str], tenant_id: int, cursors: Cursors
) -> _Asked:
    resource_id = id_of(request)
    filters = parse_filters(pairs, taken, strict=is_strict(request))
    count = count_of(value_of(pairs, "_count"), COUNT_MAX)
    query = ["review" if type_name == "Encounter" else "everything", resource_id, *filters.bound]
    place: tuple[int, str, str] = (-1, "", "")
    if cursor := value_of(pairs, "_cursor"):
        place = cursors.open(tenant_id, query, cursor, tuple[int, str, str])
    return _Asked(type_name, resource_id, filters, count, place, lambda last: cursors.seal(tenant_id, query, last))
