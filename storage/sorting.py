"""Pages of a list that is sorted by other than its default order: keys, and where a page goes on.

Every key is a text that sorts as its values do; what has no value comes last, whichever way the key goes, and the id decides
between equals. Of several values the least counts when a key ascends, and the greatest when it descends.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from r4.parameters import ParamType, parameters_of
from r4.search import SortKey
from storage.branches import SELECTIVE, At, Shape, asked_of, branches, lookups, owned, owner, weight
from storage.forms import paths_condition, targets_condition

Keys = Sequence[str | None]
_VALUES = {
    # The table, and the least or greatest value as a text that sorts alike.
    ParamType.STRING: ("string", "{pick}(y.value)"),
    ParamType.TOKEN: ("token", "{pick}(y.code)"),
    ParamType.URI: ("token", "{pick}(y.code)"),
    ParamType.REFERENCE: ("reference", "{pick}(y.to_type || '/' || y.to_id)"),
    ParamType.QUANTITY: ("quantity", "to_char({pick}(y.value) + 1e20, 'FM000000000000000000000.000000000000')"),
}
_WALKED = {ParamType.STRING: ("string", "value"), ParamType.DATE: ("date", "lower")}
_LAST_CODE_POINT = "\U0010ffff"
_TIME_FORMAT = "%Y%m%d%H%M%S%f"
# Without a zone asyncpg takes them for the infinities.
_FIRST_MOMENT, _LAST_MOMENT = datetime.min, datetime.max  # noqa: DTZ901


def is_walked(type_name: str, sort: Sequence[SortKey], shape: Shape) -> bool:
    """Whether an index in the order of the only key is walked along, the criteria looked up; else the matches are sorted."""
    key = sort[0]
    if len(sort) > 1 and (len(sort) > 2 or sort[1] != SortKey("_id", False)):
        return False
    if shape and weight(shape[0]) <= SELECTIVE:
        return False
    parameter = parameters_of(type_name).get(key.param)
    return key.param == "_lastUpdated" or (parameter is not None and parameter.type in _WALKED and not parameter.computed)


def is_bounded(sort: Sequence[SortKey], shape: Shape) -> bool:
    """A key that every resource has, and nothing that may be looked up in vain."""
    return not shape and sort[0].param == "_lastUpdated" and is_walked("", sort, shape)


def place_types(type_name: str, sort: Sequence[SortKey], shape: Shape) -> dict[str, str]:
    """Of what a page begins after: the keys and the id."""
    if is_walked(type_name, sort, shape):
        types = {"k0": "timestamptz" if _is_time(type_name, sort[0]) else "text", "after": "text"}
        return types if sort[0].param == "_lastUpdated" else {**types, "after_missing": "text"}
    return {**{f"k{number}": "text" for number in range(len(sort))}, "after": "text"}


def place_values(type_name: str, sort: Sequence[SortKey], shape: Shape, place: tuple[Keys, str] | None) -> tuple[object, ...]:
    """`place`: the last shown row's keys and id; None on the first page. Raises ValueError on keys that are none of ours."""
    if not is_walked(type_name, sort, shape):
        keys, after = place or ([None] * len(sort), "")
        if len(keys) != len(sort):
            raise ValueError("not as many keys as the list is sorted by")
        return (*keys, after)
    time, down = _is_time(type_name, sort[0]), sort[0].descending
    if place is None:
        first: object = (_LAST_MOMENT if down else _FIRST_MOMENT) if time else (_LAST_CODE_POINT if down else "")
        place, key = ([""], ""), first
    else:
        given = place[0][0]
        key = None if given is None else _moment(given) if time else given
    if sort[0].param == "_lastUpdated":
        return (key, place[1])
    return (key, place[1], "") if key is not None else (None, "", place[1])


def _moment(key: str) -> datetime:
    return datetime.strptime(key, _TIME_FORMAT).replace(tzinfo=UTC) if key else _FIRST_MOMENT


def _is_time(type_name: str, key: SortKey) -> bool:
    parameter = parameters_of(type_name).get(key.param)
    return key.param == "_lastUpdated" or (parameter is not None and parameter.type is ParamType.DATE)


def matches(type_name: str, sort: Sequence[SortKey], shape: Shape, at: At) -> str:
    """(rank: the place in the page, id, keys) of a page's matches."""
    text = _walk(type_name, sort[0], shape, at) if is_walked(type_name, sort, shape) else _gather(type_name, sort, shape, at)
    return f"SELECT row_number() OVER () AS rank, id, keys FROM ({text}) s"


def _walk(type_name: str, key: SortKey, shape: Shape, at: At) -> str:
    """Along the key's index, then, as long as the page is not full, what has no value, in the order of ids."""
    asked = asked_of(shape, at)
    others = lookups(asked, "x.id", "x.rank", at)
    table, column, of_param, least = "resource", "x.last_updated", "NOT x.deleted", ""
    parameter = parameters_of(type_name).get(key.param)
    if parameter is not None:
        table, name = _WALKED[parameter.type]
        column, of_param = f"x.{name}", _counted("x", type_name, key.param)
        least = _no_other(type_name, key, table, name, at)
    begins = (
        f"{column} <= {at['k0']} AND ({column} < {at['k0']} OR x.id > {at['after']})"
        if key.descending
        else f"({column}, x.id) > ({at['k0']}, {at['after']})"
    )
    down = " DESC" if key.descending else ""
    shown = _time_text(column) if _is_time(type_name, key) else column
    walked = (
        f"(SELECT DISTINCT {column} AS v, x.id, ARRAY[{shown}] AS keys FROM fhir.{table} x WHERE {owner(type_name, at)}"
        f" AND {of_param} AND {begins}{least}{others} ORDER BY v{down}, x.id LIMIT {at['rows']})"
    )
    if parameter is None:
        return f"SELECT id, keys FROM {walked} w"
    missing = (
        f"(SELECT x.id, ARRAY[NULL::text] AS keys FROM fhir.resource x WHERE {owner(type_name, at)} AND NOT x.deleted"
        f" AND x.id > {at['after_missing']}"
        f" AND (SELECT true FROM (SELECT * FROM fhir.{table} WHERE {owned('x.id', type_name, at)} OFFSET 0) y"
        f" WHERE {_counted('y', type_name, key.param)} LIMIT 1) IS NULL{others} ORDER BY x.id LIMIT {at['rows']})"
    )
    return f"SELECT id, keys FROM {walked} w UNION ALL SELECT id, keys FROM {missing} m LIMIT {at['rows']}"


def _no_other(type_name: str, key: SortKey, table: str, column: str, at: At) -> str:
    """That of a resource's several values this one counts."""
    before = ">" if key.descending else "<"
    return (
        f" AND (SELECT true FROM (SELECT * FROM fhir.{table} WHERE {owned('x.id', type_name, at)} OFFSET 0) y"
        f" WHERE {_counted('y', type_name, key.param)} AND y.{column} {before} x.{column} LIMIT 1) IS NULL"
    )


def _counted(alias: str, type_name: str, param: str) -> str:
    """That a row is of the parameter, and one of the values that a list is sorted by: no later word of a name, no mere hint."""
    parameter = parameters_of(type_name)[param]
    if parameter.type is ParamType.REFERENCE:
        paths, targets = paths_condition(alias, type_name, param), targets_condition(alias, type_name, param)
        return f"{paths} AND {targets} AND {alias}.to_id <> ''"
    whole = f" AND {alias}.exact <> ''" if parameter.type is ParamType.STRING and not parameter.computed else ""
    return f"{alias}.param = '{param}'{whole}"


def _gather(type_name: str, sort: Sequence[SortKey], shape: Shape, at: At) -> str:
    union = "\nUNION ALL ".join(
        f"SELECT {b.rank} AS rank, x.id FROM {b.source} x WHERE {b.where}" for b in branches(type_name, shape, at)
    )
    keys = ", ".join(f"{_key(type_name, key, at)} AS k{number}" for number, key in enumerate(sort))
    order = ", ".join(f"k{number} IS NULL, k{number}{' DESC' if key.descending else ''}" for number, key in enumerate(sort))
    keyed = f"SELECT x.id, {keys} FROM (SELECT DISTINCT rank, id FROM ({union}) u) x"
    names = ", ".join(f"k{number}" for number in range(len(sort)))
    return (
        f"SELECT id, ARRAY[{names}] AS keys FROM ({keyed} OFFSET 0) g\n"
        f"WHERE {at['after']} = '' OR {_after(sort, at)} ORDER BY {order}, id LIMIT {at['rows']}"
    )


def _after(sort: Sequence[SortKey], at: At) -> str:
    """That a row comes after the place: by the first key, or equal by it and after by the next, and so on to the id."""
    text = f"id > {at['after']}"
    for number, key in reversed(list(enumerate(sort))):
        mine, place = f"k{number}", at[f"k{number}"]
        beyond = f"{mine} {'<' if key.descending else '>'} {place}"
        text = f"({beyond} OR ({mine} IS NULL AND {place} IS NOT NULL) OR ({mine} IS NOT DISTINCT FROM {place} AND {text}))"
    return text


def _key(type_name: str, key: SortKey, at: At) -> str:
    if key.param == "_id":
        return "x.id"
    if key.param == "_lastUpdated":
        return _aggregate("resource", _time_text("max(y.last_updated)"), "true", type_name, at)
    pick = "max" if key.descending else "min"
    parameter = parameters_of(type_name)[key.param]
    if parameter.type is ParamType.DATE:
        table, value = "date", _time_text(f"{pick}(y.lower)")
    else:
        table, value = _VALUES[parameter.type][0], _VALUES[parameter.type][1].format(pick=pick)
    return _aggregate(table, value, _counted("y", type_name, key.param), type_name, at)


def _aggregate(table: str, value: str, of_param: str, type_name: str, at: At) -> str:
    rows = f"(SELECT * FROM fhir.{table} WHERE {owned('x.id', type_name, at)} OFFSET 0)"
    return f'(SELECT {value} COLLATE "C" FROM {rows} y WHERE {of_param})'


def _time_text(moment: str) -> str:
    """Sorts as the moments do; an open beginning comes first. None begins at the end of time."""
    return f"CASE {moment} WHEN '-infinity' THEN '' ELSE to_char({moment} AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') END"
