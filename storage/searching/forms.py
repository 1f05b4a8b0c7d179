"""How one form of a criterion compares, as text of SQL: its table, its arguments' types, its condition on a row.

The condition is of (alias, arguments). Names come from our own tables, values are placeholders.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from r4.criteria import Criterion
from r4.parameters import ParamType, parameter_of, parameters_of

LONG = "interval '31 days'"
"""What covers more is in the index date_long; all else that overlaps a time began at most this before it."""


@dataclass(frozen=True, slots=True)
class Form:
    """`in_order`: its index has the matches of one value in the order of the type's list, (rank, id)."""

    table: str
    arguments: tuple[str, ...]
    condition: Callable[..., str]
    in_order: bool = False


def form_of(criterion: Criterion, name: str) -> Form:
    """`name` may be several of dates with & between: all of them, of one row."""
    if name == "present":
        return Form(_TABLES[parameter_of(criterion.type, criterion.param).type], (), lambda _x: "true")
    return _of_name(name)


@lru_cache(maxsize=1024)
def _of_name(name: str) -> Form:
    if "&" not in name:
        return _FORMS[name]
    parts = [_FORMS[part] for part in name.split("&")]

    def condition(x: str, *given: str) -> str:
        left = list(given)
        texts = [part.condition(x, *[left.pop(0) for _ in part.arguments]) for part in parts]
        return " AND ".join(texts)

    return Form(parts[0].table, tuple(kind for part in parts for kind in part.arguments), condition)


def row_condition(criterion: Criterion, name: str, alias: str, given: list[str]) -> str:
    """That a row of the form's table is of the criterion's parameter and compares as the form says."""
    form = form_of(criterion, name)
    text = form.condition(alias, *given)
    if form.table == "reference":
        if name == "present":
            text = targets_condition(alias, criterion.type, criterion.param)
        return f"{text} AND {paths_condition(alias, criterion.type, criterion.param)}"
    if form.table == "resource":
        return f"NOT {alias}.deleted AND {text}"
    if name == "present" and parameter_of(criterion.type, criterion.param).computed == "present":
        text = f"{alias}.system = ''"  # a row without the element says so there: r4/indexing.py
    param = f"{criterion.param}:text" if name == "worded" else criterion.param
    return f"{alias}.param = '{param}' AND {text}"


def paths_condition(alias: str, type_name: str, param: str) -> str:
    """That a reference stands at one of the parameter's paths."""
    paths = parameter_of(type_name, param).paths
    return f"{alias}.path = '{paths[0]}'" if len(paths) == 1 else f"{alias}.path IN {paths}"


def targets_condition(alias: str, type_name: str, param: str) -> str:
    """That a reference leads to one of the parameter's types: others stand at the same path. Of a URL nobody knows."""
    targets = parameter_of(type_name, param).targets
    return f"{alias}.to_type IN {('', *targets)}" if targets else "true"


def is_common(type_name: str, param: str) -> bool:
    """Whether one value of a parameter may be a large share of a tenant's resources."""
    row = parameters_of(type_name).get(param.partition(":")[0])
    return row is not None and row.common


_TABLES = {
    ParamType.TOKEN: "token",
    ParamType.URI: "token",
    ParamType.STRING: "string",
    ParamType.DATE: "date",
    ParamType.REFERENCE: "reference",
    ParamType.QUANTITY: "quantity",
}
_TIME = ("timestamptz",)
_RANGE = ("timestamptz", "timestamptz")


def _date_forms() -> dict[str, Form]:
    """The nine prefixes over [lower, upper) of the target; search.html#prefix. `eq` contains, gt/lt/ge/le overlap."""

    def form(arguments: tuple[str, ...], text: str) -> Form:
        return Form("date", arguments, lambda x, a, b="": text.format(lo=f"{x}.lower", hi=f"{x}.upper", a=a, b=b))

    return {
        # The one in the middle follows from the others; by it the walk along the index ends.
        "eq": form(_RANGE, "{lo} >= {a} AND {lo} < {b} AND {hi} <= {b}"),
        "ne": form(_RANGE, "NOT ({lo} >= {a} AND {hi} <= {b})"),
        "ap": form(_RANGE, "{lo} < {b} AND {hi} > {a}"),
        "gt": form(_TIME, "{hi} > {a}"),
        "ge": form(_TIME, "{hi} > {a}"),
        "lt": form(_TIME, "{lo} < {a}"),
        "le": form(_TIME, "{lo} < {a}"),
        "sa": form(_TIME, "{lo} >= {a}"),
        "eb": form(_TIME, "{hi} <= {a}"),
    }


def _updated_forms() -> dict[str, Form]:
    """`_lastUpdated` is an instant, kept to the millisecond, in a column of the resource itself."""
    conditions = {
        "eq": (_RANGE, "{lo} >= {a} AND {lo} < {b}"),
        "ne": (_RANGE, "NOT ({lo} >= {a} AND {lo} < {b})"),
        "ap": (_RANGE, "{lo} >= {a} AND {lo} < {b}"),
        **dict.fromkeys(("gt", "sa", "ge"), (_TIME, "{lo} >= {a}")),
        **dict.fromkeys(("lt", "eb", "le"), (_TIME, "{lo} < {a}")),
    }

    def form(arguments: tuple[str, ...], text: str) -> Form:
        return Form("resource", arguments, lambda x, a, b="": text.format(lo=f"{x}.last_updated", a=a, b=b))

    return {f"updated_{prefix}": form(*condition) for prefix, condition in conditions.items()}


def _number_forms() -> dict[str, Form]:
    """A quantity's value; `s` and `c`, where they are not empty, are its unit's system and code."""
    conditions = {
        **dict.fromkeys(("eq", "ap"), "{v} >= {a} AND {v} < {b}"),
        "ne": "NOT ({v} >= {a} AND {v} < {b})",
        **dict.fromkeys(("gt", "sa"), "{v} > {a}"),
        "ge": "{v} >= {a}",
        **dict.fromkeys(("lt", "eb"), "{v} < {a}"),
        "le": "{v} <= {a}",
    }

    def form(text: str) -> Form:
        numbers = 2 if "{b}" in text else 1

        def condition(x: str, *given: str) -> str:
            (a, *more), (s, c) = given[:numbers], given[numbers:]
            value = text.format(v=f"{x}.value", a=a, b=more[0] if more else "")
            return f"{value} AND ({s} = '' OR {x}.system = {s}) AND ({c} = '' OR {x}.code = {c} OR {x}.unit = {c})"

        return Form("quantity", ("numeric",) * numbers + ("text", "text"), condition)

    return {f"number_{prefix}": form(text) for prefix, text in conditions.items()}


def any_of(list_text: str) -> str:
    return f"ANY (string_to_array({list_text}, ','))"


_FORMS: dict[str, Form] = {
    "worded": Form("string", (), lambda _x: "true"),
    "nothing": Form("resource", (), lambda _x: "false", in_order=True),
    "id": Form("resource", ("text",), lambda x, a: f"{x}.id = {a}"),
    "ids": Form("resource", ("text",), lambda x, a: f"{x}.id = {any_of(a)}"),
    "code": Form("token", ("text",), lambda x, a: f"{x}.code = {a}", in_order=True),
    "system_code": Form("token", ("text", "text"), lambda x, a, b: f"{x}.code = {a} AND {x}.system = {b}", in_order=True),
    "system": Form("token", ("text",), lambda x, a: f"{x}.system = {a}"),
    "prefix": Form("string", ("text", "text"), lambda x, a, b: f"{x}.value >= {a} AND {x}.value < {b}"),
    "exact": Form("string", ("text", "text"), lambda x, a, b: f"{x}.value = {a} AND {x}.exact = {b}"),
    "sound": Form("string", ("text",), lambda x, a: f"{x}.value = {a}"),
    "within": Form("string", ("text",), lambda x, a: f"{x}.value LIKE {a}"),
    "inside": Form("string", ("text",), lambda x, a: f"{x}.value LIKE {a}"),
    "reference": Form("reference", ("text", "text"), lambda x, a, b: f"{x}.to_type = {a} AND {x}.to_id = {b}", in_order=True),
    **_date_forms(),
    **_updated_forms(),
    **_number_forms(),
}
