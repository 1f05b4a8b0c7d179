"""Statements of searches: a page of matches in their order, with what is included, and how many there are.

Every index carries (rank, id), a resource's place in its type's default order. So a search by one value is one walk along an
index in the order of its answer, and a deep page costs what the first costs.

Rows: (n, tenant, mode, type, place, id, version, last_updated, keys, body). `mode` 0 is a match, 1 is included; (place, id) is
the order of the matches; `keys` are what a sorted list goes on from, null in the default order, where it is (place, id).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from r4.criteria import Criterion
from r4.search import Inclusion, Search, SortKey
from storage.searching import branches, ordered, sorting
from storage.searching.branches import At, Shape
from storage.searching.inclusions import INCLUDED_MAX, included
from storage.statements import Statement, statement_of

FIRST = (-(2**63), "")
"""What (rank, id) is above of: the beginning of every list in its default order."""
Place = tuple[Any, str]
"""Where a page begins after: the rank, or a sorted list's keys, and the id."""


def list_statement(search: Search) -> Statement:
    """A page of a search. Values: `list_values(search, place)`."""
    return _list_statement(search.type, branches.shape_of(search.criteria), search.sort, search.inclusions)


def list_values(search: Search, place: Place | None = None) -> tuple[Any, ...]:
    """Reads one row more than is shown: it tells whether there is a next page.

    Raises ValueError for a place that is none of this list.
    """
    begin: Sequence[Any] = place or FIRST
    if search.sort:
        begin = sorting.place_values(search.type, search.sort, place, with_criteria=bool(search.criteria))
    return (*_flat(search.criteria), *begin, search.count + 1)


def total_statement(search: Search) -> Statement:
    """How many match. Values: `total_values(search)`. Counting is bounded by nothing, so it never joins a batch."""
    return _total_statement(search.type, branches.shape_of(search.criteria))


def total_values(search: Search) -> tuple[Any, ...]:
    return _flat(search.criteria)


def _flat(criteria: Sequence[Criterion]) -> tuple[Any, ...]:
    ordered = branches.in_driving_order(criteria)
    return tuple(value for criterion in ordered for alternative in criterion.values for value in alternative)


@lru_cache(maxsize=1024)
def _list_statement(type_name: str, shape: Shape, sort: tuple[SortKey, ...], inclusions: tuple[Inclusion, ...]) -> Statement:
    place = {"rank": "bigint", "after": "text"}
    if sort:
        place = sorting.place_types(type_name, sort, with_criteria=bool(shape))
    bounded = sorting.is_bounded(sort, with_criteria=bool(shape)) if sort else branches.is_bounded(shape)
    return statement_of(
        f"list {type_name} {shape} {sort} {inclusions}",
        {**branches.value_types(shape), **place, "rows": "int"},
        lambda at: _page(type_name, shape, sort, inclusions, at),
        bounded=bounded and not any(inclusion.reverse or inclusion.iterate for inclusion in inclusions),
        pages=True,
    )


@lru_cache(maxsize=1024)
def _total_statement(type_name: str, shape: Shape) -> Statement:
    def text(at: At) -> str:
        found = branches.all_matches(type_name, shape, at)
        if not branches.is_once(shape):
            # The fence keeps DISTINCT from choosing an index by its order.
            found = f"SELECT DISTINCT rank, id FROM ({found} OFFSET 0) m"
        return f"SELECT {at['tenant']} AS tenant_id, count(*) AS total FROM ({found}) u"

    return statement_of(f"total {type_name} {shape}", branches.value_types(shape), text, bounded=False)


def _page(type_name: str, shape: Shape, sort: tuple[SortKey, ...], inclusions: tuple[Inclusion, ...], at: At) -> str:
    """OFFSET 0 keeps a body's look-up one by the primary key, also in a plan that was made while the table was empty."""
    matches = ordered.matches(type_name, sort, shape, at) if sort else _matches(type_name, shape, at)
    keys = "m.keys" if sort else "NULL::text[]"
    body = f"CROSS JOIN LATERAL (SELECT * FROM fhir.resource WHERE {branches.owned('m.id', type_name, at)} OFFSET 0) r"
    columns = f"r.tenant_id, 0 AS mode, r.type, m.rank AS place, r.id, r.version, r.last_updated, {keys} AS keys, r.body"
    if not inclusions:
        return f"SELECT {columns} FROM ({matches}) m\n{body}\nORDER BY m.rank, m.id"
    return (
        f"WITH m AS MATERIALIZED ({matches}),\n"
        f"shown AS MATERIALIZED (SELECT * FROM m ORDER BY rank, id LIMIT {at['rows']} - 1)\n"
        f"SELECT {columns} FROM m {body}\nUNION ALL\n"
        "(SELECT r.tenant_id, 1, r.type, 0, r.id, r.version, r.last_updated, NULL::text[], r.body\n"
        f"FROM ({included(inclusions, type_name, at)}) i CROSS JOIN LATERAL ("
        f"SELECT * FROM fhir.resource WHERE tenant_id = {at['tenant']} AND id = i.id AND type = i.type OFFSET 0) r\n"
        f"WHERE NOT r.deleted LIMIT {INCLUDED_MAX + 1})"
    )


def _matches(type_name: str, shape: Shape, at: At) -> str:
    """(rank, id) of a page's matches, in the type's default order."""
    limit = f"ORDER BY rank, id LIMIT {at['rows']}"
    leaps = branches.leapfrog(type_name, shape, at)
    if leaps is not None:
        long_ones = [_part(b, limit, at) for b in branches.long_ones(type_name, shape, at)]
        union = " UNION ALL ".join([f"({leaps})", *long_ones])
        return f"SELECT DISTINCT rank, id FROM ({union}) u {limit}" if long_ones else leaps
    adaptive = branches.few_or_walk(type_name, shape, at)
    if adaptive is None:
        parts = [_part(b, limit, at) for b in branches.branches(type_name, shape, at)]
        return parts[0] if len(parts) == 1 else f"SELECT DISTINCT rank, id FROM ({' UNION ALL '.join(parts)}) u {limit}"
    union = "\nUNION ALL ".join(f"SELECT {b.rank}, x.id FROM {b.source} x WHERE {b.where}" for b in adaptive.gathered)
    ordered = "(SELECT DISTINCT rank, id FROM few ORDER BY rank, id OFFSET 0)"
    is_few = f"(SELECT count(*) FROM few) <= {adaptive.limit}"
    few = _part(branches.Branch(ordered, is_few + adaptive.others, "x.rank"), limit, at)
    many = [_part(replace(b, where=f"NOT {is_few} AND {b.where}"), limit, at) for b in adaptive.walked]
    return (
        f"WITH few(rank, id) AS MATERIALIZED (SELECT * FROM ({union}) g LIMIT {adaptive.limit + 1})\n"
        f"SELECT DISTINCT rank, id FROM ({' UNION ALL '.join([few, *many])}) u {limit}"
    )


def _part(branch: branches.Branch, limit: str, at: At) -> str:
    return (
        f"(SELECT DISTINCT {branch.rank} AS rank, x.id FROM {branch.source} x\n"
        f"WHERE {branch.where} AND ({branch.rank}, x.id) > ({at['rank']}, {at['after']}) {limit})"
    )
