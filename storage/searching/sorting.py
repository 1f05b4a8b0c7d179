"""The order of a list that is sorted by other than its default order, and the place in it where a page goes on.

What has no value comes last, whichever way a key goes; of several values the least counts when it ascends, and the greatest
when it descends. Equals stay in the list's default order, which is turned round when the last key descends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from r4.parameters import ORDER, Parameter, ParamType, parameters_of
from r4.search import SortKey
from storage.searching.forms import paths_condition, targets_condition

Keys = Sequence[str | None]
"""Of the last shown row, and its rank, as texts: what a cursor has."""

_TABLES = {
    ParamType.STRING: ("string", "{}.value", "text"),
    ParamType.TOKEN: ("token", "{}.code", "text"),
    ParamType.URI: ("token", "{}.code", "text"),
    ParamType.DATE: ("date", "{}.lower", "timestamptz"),
    ParamType.QUANTITY: ("quantity", "{}.value", "numeric"),
    ParamType.REFERENCE: ("reference", "({0}.to_type || '/' || {0}.to_id)", "text"),
}
_COLUMNS = {"_id": ("resource", "{}.id", "text"), "_lastUpdated": ("resource", "{}.last_updated", "timestamptz")}
_RANKS = -(2**63), 2**63 - 1
_TEXTS = "", "\U0010ffff"
# Without a zone asyncpg takes them for the infinities.
_MOMENTS = datetime.min, datetime.max  # noqa: DTZ901
_ENDS: dict[str, tuple[object, object]] = {"text": _TEXTS, "timestamptz": _MOMENTS, "numeric": (None, None)}
_TIME_FORMAT = "%Y%m%d%H%M%S%f"


@dataclass(frozen=True, slots=True)
class Key:
    """`value` and `counts` are of an alias: what is compared, and which rows of `table` count.

    `always`: every resource has it. `indexed`: an index has the values in order; `spread`: and few resources have the same.
    """

    descending: bool
    table: str
    value: str
    sql_type: str
    counts: str
    always: bool
    indexed: bool
    spread: bool


def keys_of(type_name: str, sort: Sequence[SortKey]) -> list[Key]:
    return [_key_of(type_name, key) for key in sort]


def _key_of(type_name: str, key: SortKey) -> Key:
    if key.param in _COLUMNS:
        return Key(key.descending, *_COLUMNS[key.param], "NOT {}.deleted", always=True, indexed=True, spread=True)
    parameter = parameters_of(type_name)[key.param]
    indexed = parameter.type not in (ParamType.QUANTITY, ParamType.REFERENCE) and parameter.computed != "sound"
    return Key(
        key.descending,
        *_TABLES[parameter.type],
        _counts(type_name, parameter),
        always=False,
        indexed=indexed,
        spread=indexed and parameter.type in (ParamType.STRING, ParamType.DATE),
    )


def _counts(type_name: str, parameter: Parameter) -> str:
    """That a row is of the parameter, and one of the values that are compared: no later word of a name, no mere hint."""
    if parameter.type is ParamType.REFERENCE:
        paths, targets = (condition("{0}", type_name, parameter.name) for condition in (paths_condition, targets_condition))
        return f"{paths} AND {targets} AND {{0}}.to_id <> ''"
    whole = " AND {0}.exact <> ''" if parameter.type is ParamType.STRING and not parameter.computed else ""
    return f"{{0}}.param = '{parameter.name}'{whole}"


def is_turned(sort: Sequence[SortKey]) -> bool:
    """Whether equals are in the list's order turned round."""
    return sort[-1].descending


def ties(type_name: str, sort: Sequence[SortKey]) -> tuple[str, ...]:
    """The columns that decide between equals. When something was written says nothing of the list's own order."""
    return ("rank", "id") if type_name in ORDER and not any(key.param in _COLUMNS for key in sort) else ("id",)


def is_bounded(sort: Sequence[SortKey], *, with_criteria: bool) -> bool:
    """One key that every resource has, and nothing that may be looked up in vain."""
    return len(sort) == 1 and sort[0].param in _COLUMNS and not with_criteria


# The place.


def is_walked(sort: Sequence[SortKey], keys: Sequence[Key]) -> bool:
    """Whether an index has the list in its order, or nearly so: what equals by the first key is then sorted by the others."""
    return keys[0].indexed if len(sort) == 1 else keys[0].spread


def place_types(type_name: str, sort: Sequence[SortKey], *, with_criteria: bool) -> dict[str, str]:
    """Of what a page begins after. `first`: it begins where the list does. What has no first key has a place of its own."""
    keys = keys_of(type_name, sort)
    along = len(keys) == 1 and is_walked(sort, keys)
    first = {} if along and not with_criteria else {"first": "boolean"}
    by_rank = along and not keys[0].always
    rank = {"rank": "bigint"} if by_rank or "rank" in ties(type_name, sort) else {}
    missing = {"rank_missing": "bigint", "after_missing": "text"} if by_rank else {}
    return {**first, **{f"k{number}": key.sql_type for number, key in enumerate(keys)}, **rank, "after": "text", **missing}


def place_values(
    type_name: str, sort: Sequence[SortKey], place: tuple[Keys, str] | None, *, with_criteria: bool
) -> tuple[object, ...]:
    """`place`: the last shown row's keys and id; None on the first page. Raises ValueError on keys that are none of ours."""
    keys = keys_of(type_name, sort)
    begin = _RANKS[is_turned(sort)], _TEXTS[is_turned(sort)]
    values: list[object] = [None for _ in keys]
    here = begin
    if place is None:
        values[0] = _ENDS[keys[0].sql_type][keys[0].descending]
    else:
        (*texts, rank), after = place
        if len(texts) != len(keys) or rank is None:
            raise ValueError("not as many keys as the list is sorted by")
        values = [_value(key, text) for key, text in zip(keys, texts, strict=True)]
        here = int(rank), after
    missing = here if values[0] is None else begin
    known = {"first": place is None, "rank": here[0], "after": here[1], "rank_missing": missing[0], "after_missing": missing[1]}
    known |= {f"k{number}": value for number, value in enumerate(values)}
    return tuple(known[name] for name in place_types(type_name, sort, with_criteria=with_criteria))


def _value(key: Key, text: str | None) -> object:
    if text is None or key.sql_type == "text":
        return text
    if key.sql_type == "numeric":
        return Decimal(text)
    return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC) if text else _MOMENTS[0]


def as_text(key: Key, name: str) -> str:
    """What `_value` reads. A date may begin with the beginning of time, and none with the end of it."""
    if key.sql_type == "timestamptz":
        return f"CASE {name} WHEN '-infinity' THEN '' ELSE to_char({name} AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') END"
    return name if key.sql_type == "text" else f"{name}::text"
