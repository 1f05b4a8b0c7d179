"""A search, parsed: pure, from decoded query pairs to criteria of known form. SQL is made of it in storage/statements.py.

The rules are those of https://hl7.org/fhir/R4/search.html; an unknown parameter is left out (or refused when the client
asks for strict handling), an unsupported modifier and a malformed value are always refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from base.errors import Invalid
from r4.dates import parse_range
from r4.indexing import cap, normalise
from r4.parameters import Parameter, ParamType, parameters_of
from r4.resource import is_id, is_type

COUNT_DEFAULT = 20
COUNT_MAX = 1000
VALUES_MAX = 256
CRITERIA_MAX = 32
COMPARISONS_MAX = 64  # in one statement; each costs the database 30 KB as long as the statement is kept, and time to plan
_PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_IGNORED = {"_format", "_pretty", "_cursor", "_total", "_count"}
_pieces = re.compile(r"\\.?|[,|]|[^\\,|]+", re.DOTALL).findall
_LAST_CODE_POINT = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of the question. `values` are its alternatives (a comma is OR), each a tuple of SQL arguments.

    `forms` says of each alternative how it is compared: the shape of the statement depends on param and forms alone.
    """

    param: str
    forms: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Search:
    """`used` are the pairs that were understood, for the self link; `count` 0 asks for the total alone."""

    type: str
    criteria: tuple[Criterion, ...]
    count: int
    total: bool
    used: tuple[tuple[str, str], ...]
    cursor: str | None


def parse_search(type_name: str, pairs: Iterable[tuple[str, str]], *, strict: bool = False, base_url: str = "") -> Search:
    """Raises Invalid with the parameter's name as expression; no message repeats a value, for it may be a patient's."""
    criteria, used, controls = [], [], {}
    for name, value in pairs:
        if "\x00" in value or "\x00" in name:
            raise Invalid("a NUL character stands in the query", expression=name.replace("\x00", ""))
        if name in _IGNORED:
            controls[name] = value
            continue
        criterion = _criterion(type_name, name, value, strict=strict, base_url=base_url) if value else None
        if criterion is not None:
            criteria.append(criterion)
            used.append((name, value))
    if len(criteria) > CRITERIA_MAX:
        raise Invalid(f"a search takes at most {CRITERIA_MAX} parameters; this one has {len(criteria)}")
    if (comparisons := _comparisons(criteria)) > COMPARISONS_MAX:
        raise Invalid(f"a search combines at most {COMPARISONS_MAX} values, ids aside; this one has {comparisons} combinations")
    count = _count(controls.get("_count"))
    total = count == 0 or _total(controls.get("_total"))
    if total and count:
        used.append(("_total", controls["_total"]))
    return Search(type_name, tuple(criteria), count, total, tuple(used), controls.get("_cursor"))


def _comparisons(criteria: Sequence[Criterion]) -> int:
    """How many a statement has at most: for each alternative of one criterion, all of the others' are looked up."""
    sizes = [len(criterion.forms) for criterion in criteria]
    return max((size * (1 + sum(sizes) - size) for size in sizes), default=0)


def _count(text: str | None) -> int:
    if not text:
        return COUNT_DEFAULT
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Invalid(f"_count takes a whole number from 0 to {COUNT_MAX}", expression="_count")
    return min(int(text), COUNT_MAX)


def _total(text: str | None) -> bool:
    if text not in (None, "", "none", "estimate", "accurate"):
        raise Invalid("_total takes none, estimate or accurate", expression="_total")
    return text in ("estimate", "accurate")


def _criterion(type_name: str, name: str, text: str, *, strict: bool, base_url: str) -> Criterion | None:
    """None for a parameter that is left out."""
    bare, _, modifier = name.partition(":")
    if bare in ("_id", "_lastUpdated"):
        if modifier:
            raise _unsupported(bare, modifier)
        parts = _alternatives(name, text)
        return _ids(parts) if bare == "_id" else _with_values(bare, [_updated_values(name, part) for part in parts])
    parameter = parameters_of(type_name).get(bare)
    if parameter is None:
        if strict:
            raise Invalid(f"{type_name} has no search parameter of this name", expression=bare)
        return None
    parts = _alternatives(name, text)
    if parameter.type is ParamType.REFERENCE:
        return _with_values(bare, [_reference(parameter, modifier, part, base_url) for part in parts])
    readers = {ParamType.TOKEN: _token, ParamType.STRING: _string, ParamType.DATE: _date}
    return _with_values(bare, [readers[parameter.type](parameter, modifier, part) for part in parts])


def _with_values(param: str, alternatives: Sequence[tuple[str, tuple[Any, ...]]]) -> Criterion:
    """Repeats the last alternative up to a power of two, so that few shapes of statement are ever prepared."""
    wanted = 1 << (len(alternatives) - 1).bit_length()
    padded = [*alternatives, *[alternatives[-1]] * (wanted - len(alternatives))]
    return Criterion(param, tuple(form for form, _ in padded), tuple(values for _, values in padded))


def _alternatives(name: str, text: str) -> list[str]:
    parts = [part for part in _split(text, ",") if part]
    if not parts:
        raise Invalid("a list of values has no value", expression=name)
    if len(parts) > VALUES_MAX:
        raise Invalid(f"a parameter takes at most {VALUES_MAX} values; this one has {len(parts)}", expression=name)
    return parts


def _split(text: str, separator: str) -> list[str]:
    """At each separator that no backslash stands before; a backslash may itself be escaped."""
    parts = [""]
    for piece in _pieces(text):
        if piece == separator:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _unescaped(text: str) -> str:
    return re.sub(r"\\([,|$\\])", r"\1", text)


def _unsupported(param: str, modifier: str) -> Invalid:
    return Invalid(f"the modifier :{modifier[:40]} is not supported for {param}", expression=param)


def _ids(parts: Sequence[str]) -> Criterion:
    """Several are one value, with commas between: clients ask for many at once, and no id has a comma."""
    if not all(map(is_id, parts)):
        raise Invalid("an id has 1 to 64 letters, digits, - or .", expression="_id")
    return Criterion("_id", ("id" if len(parts) == 1 else "ids",), ((",".join(parts),),))


def _token(parameter: Parameter, modifier: str, text: str) -> tuple[str, tuple[Any, ...]]:
    if modifier:
        raise _unsupported(parameter.name, modifier)
    halves = [_unescaped(half) for half in _split(text, "|")]
    if len(halves) > 2 or not any(halves):
        raise Invalid("a token is code, system|code, |code or system|", expression=parameter.name)
    code = cap(halves[-1])
    if len(halves) == 1:
        return "code", (code,)
    system = cap(halves[0])
    if not code:
        return "system", (system,)
    return "system_code", (code, system)


def _string(parameter: Parameter, modifier: str, text: str) -> tuple[str, tuple[Any, ...]]:
    value = _unescaped(text)
    if modifier == "exact":
        return "exact", (cap(normalise(value)), cap(value))
    if modifier:
        raise _unsupported(parameter.name, modifier)
    prefix = cap(normalise(value))
    return "prefix", (prefix, prefix + _LAST_CODE_POINT)


def _date(parameter: Parameter, modifier: str, text: str) -> tuple[str, tuple[Any, ...]]:
    if modifier:
        raise _unsupported(parameter.name, modifier)
    return _range(parameter.name, text)


def _updated_values(name: str, text: str) -> tuple[str, tuple[Any, ...]]:
    form, values = _range(name, text)
    return f"updated_{form}", values


def _range(name: str, text: str) -> tuple[str, tuple[Any, ...]]:
    prefix, rest = (text[:2], text[2:]) if text[:2] in _PREFIXES else ("eq", text)
    # A raw + in a query is decoded to a space; in a date it can only have been the sign of a time zone.
    try:
        lower, upper = parse_range(rest.replace(" ", "+"))
        if prefix == "ap":
            margin = max((upper - lower) / 10, timedelta(days=1))
            lower, upper = lower - margin, upper + margin
    except (ValueError, OverflowError):
        raise Invalid(
            "a date is yyyy, yyyy-mm, yyyy-mm-dd or a time with its zone, after an optional prefix", expression=name
        ) from None
    return prefix, _BOUNDS[prefix](lower, upper)


_BOUNDS: dict[str, Any] = {
    # Which ends of the value's range [lower, upper) a prefix compares with.
    **dict.fromkeys(("eq", "ne", "ap"), lambda lower, upper: (lower, upper)),
    **dict.fromkeys(("gt", "le", "sa"), lambda _lower, upper: (upper,)),
    **dict.fromkeys(("ge", "lt", "eb"), lambda lower, _upper: (lower,)),
}


def _reference(parameter: Parameter, modifier: str, text: str, base_url: str) -> tuple[str, tuple[Any, ...]]:
    name, value = parameter.name, _unescaped(text)
    if base_url and value.startswith(f"{base_url}/fhir/"):
        value = value[len(base_url) + len("/fhir/") :]
    kind, _, target_id = value.rpartition("/")
    if modifier and ((parameter.targets and modifier not in parameter.targets) or not modifier[:1].isupper()):
        raise _unsupported(name, modifier)
    if modifier:
        if kind and kind != modifier:
            raise Invalid(f"the reference is not to a {modifier}", expression=name)
        kind = modifier
    if not kind and len(parameter.targets) != 1:
        raise Invalid(f"say what type is meant: Type/id, or {name}:Type=id", expression=name)
    kind = kind or parameter.targets[0]
    if not is_type(kind) or not is_id(target_id) or value.startswith("/"):
        raise Invalid("a reference is Type/id or an id", expression=name)
    if parameter.targets and kind not in parameter.targets:
        return "nothing", ()
    return "reference", (kind, target_id)
