"""Statements of searches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from r4.parameters import parameters_of
from r4.search import Criterion, Search
from storage.statements import Statement, statement_of

FIRST = (-(2**63), "")
"""What (rank, id) is above of: the beginning of every list."""


def list_statement(search: Search) -> Statement:
    """A page of a search. Values: `list_values(search, after)`."""
    return _list_statement(search.type, _shape(search.criteria))


def list_values(search: Search, after: tuple[int, str] = FIRST) -> tuple[Any, ...]:
    """Reads one row more than is shown: it tells whether there is a next page."""
    return (*_flat(search.criteria), *after, search.count + 1)


def total_statement(search: Search) -> Statement:
    """How many match. Values: `total_values(search)`. Counting is bounded by nothing, so it never joins a batch."""
    return _total_statement(search.type, _shape(search.criteria))


def total_values(search: Search) -> tuple[Any, ...]:
    return _flat(search.criteria)


def _flat(criteria: Sequence[Criterion]) -> tuple[Any, ...]:
    return tuple(value for criterion in _ordered(criteria) for alternative in criterion.values for value in alternative)


# (param, forms), the driving one first.
Shape = tuple[tuple[str, tuple[str, ...]], ...]


def _shape(criteria: Sequence[Criterion]) -> Shape:
    return tuple((criterion.param, criterion.forms) for criterion in _ordered(criteria))


def _ordered(criteria: Sequence[Criterion]) -> list[Criterion]:
    """The one that is likely to leave the fewest rows drives the walk; the others are looked up for each of its rows."""
    return sorted(criteria, key=lambda criterion: (_weight(criterion.param, criterion.forms), criterion.param, criterion.forms))


# Parameters of which one value may be a large share of a tenant's resources.
_COMMON = {"gender", "active", "status", "class", "practitioner"}


def _weight(param: str, forms: tuple[str, ...]) -> int:
    return max(_form_weight(param, form) for form in forms)


def _form_weight(param: str, form: str) -> int:
    if form in _BY_ID:
        return 0
    if form in ("code", "system_code"):
        return 5 if param in _COMMON else 1
    if form == "reference":
        return 3 if param in _COMMON else 2
    return {"exact": 3, "prefix": 4, "eq": 4}.get(form, 6)


_SELECTIVE = 2  # up to this weight few rows are walked, whatever is looked up beside
_BY_ID = {"nothing", "id", "ids"}
_IN_ORDER = {"nothing", "code", "system_code", "reference"}  # their index has the matches in the order of the list


def _bounded(shape: Shape) -> bool:
    """Of a common value together with a system or with other criteria, many rows may be passed over before one is found."""
    if not shape:
        return True
    param, forms = shape[0]
    if len(forms) > 1 or forms[0] not in _IN_ORDER | {"id"}:
        return False
    return _weight(param, forms) <= _SELECTIVE or (len(shape) == 1 and forms[0] != "system_code")


@lru_cache(maxsize=1024)
def _list_statement(type_name: str, shape: Shape) -> Statement:
    types = {**_value_types(shape), "rank": "bigint", "after": "text", "rows": "int"}
    return statement_of(
        f"list {type_name} {shape}", types, lambda at: _page(type_name, shape, at), bounded=_bounded(shape), pages=True
    )


def _value_types(shape: Shape) -> dict[str, str]:
    kinds = [kind for _, forms in shape for form in forms for kind in _FORMS[form].arguments]
    return {f"v{number}": kind for number, kind in enumerate(kinds)}


@lru_cache(maxsize=1024)
def _total_statement(type_name: str, shape: Shape) -> Statement:

    def text(at: dict[str, str]) -> str:
        branches = _branches(type_name, shape, at)
        union = "\nUNION ALL ".join(
            f"SELECT {rank} AS rank, x.id FROM {source} x WHERE {where}" for source, where, rank in branches
        )
        return f"SELECT {at['tenant']} AS tenant_id, count(*) AS total FROM (SELECT DISTINCT rank, id FROM ({union}) m) u"

    return statement_of(f"total {type_name} {shape}", _value_types(shape), text, bounded=False)


def _page(type_name: str, shape: Shape, at: dict[str, str]) -> str:
    """The text of one page: the matches' (rank, id) in order, then their bodies.

    OFFSET 0 keeps a body's look-up one by the primary key, also in a plan that was made while the table was empty.
    """
    limit = f"ORDER BY rank, id LIMIT {at['rows']}"
    branches = [
        f"(SELECT DISTINCT {rank} AS rank, x.id FROM {source} x\n"
        f"WHERE {where} AND ({rank}, x.id) > ({at['rank']}, {at['after']}) {limit})"
        for source, where, rank in _branches(type_name, shape, at)
    ]
    matches = (
        branches[0] if len(branches) == 1 else f"(SELECT DISTINCT rank, id FROM ({' UNION ALL '.join(branches)}) u {limit})"
    )
    return (
        f"SELECT r.tenant_id, r.rank, r.id, r.version, r.last_updated, r.body FROM {matches} m\n"
        f"CROSS JOIN LATERAL (SELECT * FROM fhir.resource WHERE {_owned('m.id', type_name, at)} OFFSET 0) r\n"
        "ORDER BY m.rank, m.id"
    )


def _owner(type_name: str, at: dict[str, str]) -> str:
    return f"x.tenant_id = {at['tenant']} AND x.type = '{type_name}'"


def _owned(resource_id: str, type_name: str, at: dict[str, str]) -> str:
    return f"tenant_id = {at['tenant']} AND id = {resource_id} AND type = '{type_name}'"


def _branches(type_name: str, shape: Shape, at: dict[str, str]) -> list[tuple[str, str, str]]:
    """(source, condition, rank) of each alternative of the driving criterion, the other criteria looked up for its rows.

    The source is to be called x. Where no index has the matches in their order, the rank is an expression: else an index that
    is in that order might be walked through for them.
    """
    if not shape:
        return [("fhir.resource", f"{_owner(type_name, at)} AND NOT x.deleted", "x.rank")]
    values = _numbered(shape, at)
    (param, forms), *others = shape
    lookups = "".join(f"\nAND {_lookup(type_name, *other, values[place], at)}" for place, other in enumerate(others, 1))
    return [
        (
            _looked_at(_asked_id(form, given), type_name, form, at)
            if given and form in _BY_ID
            else f"fhir.{_FORMS[form].table}",
            f"{_owner(type_name, at)} AND {_condition('x', type_name, param, form, given)}{lookups}",
            "x.rank" if form in _IN_ORDER else "x.rank + 0",
        )
        for form, given in zip(forms, values[0], strict=True)
    ]


def _asked_id(form: str, given: list[str]) -> str:
    return given[0] if form == "id" else _any_of(given[0])


def _any_of(list_text: str) -> str:
    return f"ANY (string_to_array({list_text}, ','))"


def _numbered(shape: Shape, at: dict[str, str]) -> list[list[list[str]]]:
    """The placeholders of each criterion's each alternative."""
    numbers = iter(range(1_000_000))
    return [[[at[f"v{next(numbers)}"] for _ in _FORMS[form].arguments] for form in forms] for _, forms in shape]


def _lookup(type_name: str, param: str, forms: tuple[str, ...], values: list[list[str]], at: dict[str, str]) -> str:
    """Whether the resource x meets a further criterion.

    A scalar subquery, since EXISTS may be turned into a join that begins at the wrong end.
    """
    found = [
        f"(SELECT true FROM {_looked_at('x.id', type_name, form, at)} y WHERE {_condition('y', type_name, param, form, given)}"
        " AND y.rank = x.rank LIMIT 1)"
        for form, given in zip(forms, values, strict=True)
    ]
    return found[0] if len(found) == 1 else f"coalesce({', '.join(found)}, false)"


def _looked_at(resource_id: str, type_name: str, form: str, at: dict[str, str]) -> str:
    """What one resource has in a form's table. OFFSET 0: neither a range, which may be wide, nor an order chooses the index."""
    fence = "" if form in _IN_ORDER else " OFFSET 0"
    return f"(SELECT * FROM fhir.{_FORMS[form].table} WHERE {_owned(resource_id, type_name, at)}{fence})"


@dataclass(frozen=True, slots=True)
class _Form:
    """How one form compares: its table, the SQL types of its arguments, and the condition's text of (alias, arguments)."""

    table: str
    arguments: tuple[str, ...]
    condition: Callable[..., str]


def _condition(alias: str, type_name: str, param: str, form: str, given: list[str]) -> str:
    table, text = _FORMS[form].table, _FORMS[form].condition(alias, *given)
    if table == "reference":
        return f"{text} AND {_paths(alias, type_name, param)}"
    return f"{alias}.param = '{param}' AND {text}" if table != "resource" else f"NOT {alias}.deleted AND {text}"


def _paths(alias: str, type_name: str, param: str) -> str:
    paths = parameters_of(type_name)[param].paths
    return " OR ".join(f"{alias}.path = '{path}'" for path in paths) if len(paths) == 1 else f"{alias}.path IN {paths}"


_TIME = ("timestamptz",)
_RANGE = ("timestamptz", "timestamptz")


def _date_forms(table: str, prefix: str, lower: str, upper: str) -> dict[str, _Form]:
    """The nine prefixes over [lower, upper) of the target; search.html#prefix. `eq` contains, gt/lt/ge/le overlap."""

    def form(arguments: tuple[str, ...], text: str) -> _Form:
        return _Form(table, arguments, lambda x, a, b="": text.format(lo=f"{x}.{lower}", hi=f"{x}.{upper}", a=a, b=b))

    return {
        # The one in the middle follows from the others; by it the walk along the index ends.
        f"{prefix}eq": form(_RANGE, "{lo} >= {a} AND {lo} < {b} AND {hi} <= {b}"),
        f"{prefix}ne": form(_RANGE, "NOT ({lo} >= {a} AND {hi} <= {b})"),
        f"{prefix}ap": form(_RANGE, "{lo} < {b} AND {hi} > {a}"),
        f"{prefix}gt": form(_TIME, "{hi} > {a}"),
        f"{prefix}ge": form(_TIME, "{hi} > {a}"),
        f"{prefix}lt": form(_TIME, "{lo} < {a}"),
        f"{prefix}le": form(_TIME, "{lo} < {a}"),
        f"{prefix}sa": form(_TIME, "{lo} >= {a}"),
        f"{prefix}eb": form(_TIME, "{hi} <= {a}"),
    }


def _updated_forms() -> dict[str, _Form]:
    """`_lastUpdated` is an instant, kept to the millisecond, in a column of the resource itself."""
    conditions = {
        "eq": (_RANGE, "{lo} >= {a} AND {lo} < {b}"),
        "ne": (_RANGE, "NOT ({lo} >= {a} AND {lo} < {b})"),
        "ap": (_RANGE, "{lo} >= {a} AND {lo} < {b}"),
        **dict.fromkeys(("gt", "sa", "ge"), (_TIME, "{lo} >= {a}")),
        **dict.fromkeys(("lt", "eb", "le"), (_TIME, "{lo} < {a}")),
    }

    def form(arguments: tuple[str, ...], text: str) -> _Form:
        return _Form("resource", arguments, lambda x, a, b="": text.format(lo=f"{x}.last_updated", a=a, b=b))

    return {f"updated_{prefix}": form(*condition) for prefix, condition in conditions.items()}


_FORMS: dict[str, _Form] = {
    "nothing": _Form("resource", (), lambda _x: "false"),
    "id": _Form("resource", ("text",), lambda x, a: f"{x}.id = {a}"),
    "ids": _Form("resource", ("text",), lambda x, a: f"{x}.id = {_any_of(a)}"),
    "code": _Form("token", ("text",), lambda x, a: f"{x}.code = {a}"),
    "system_code": _Form("token", ("text", "text"), lambda x, a, b: f"{x}.code = {a} AND {x}.system = {b}"),
    "system": _Form("token", ("text",), lambda x, a: f"{x}.system = {a}"),
    "prefix": _Form("string", ("text", "text"), lambda x, a, b: f"{x}.value >= {a} AND {x}.value < {b}"),
    "exact": _Form("string", ("text", "text"), lambda x, a, b: f"{x}.value = {a} AND {x}.exact = {b}"),
    "reference": _Form("reference", ("text", "text"), lambda x, a, b: f"{x}.to_type = {a} AND {x}.to_id = {b}"),
    **_date_forms("date", "", "lower", "upper"),
    **_updated_forms(),
}
