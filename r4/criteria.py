"""One parameter of a search: from its name and value to how it is compared, and with what. Pure.

https://hl7.org/fhir/R4/search.html: names with modifiers (#modifiers), chains (#chaining) and _has (#has), values by the
parameter's type, with prefixes (#prefix), commas and escapes (#escaping).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from base.errors import Invalid
from r4.dates import EARLIEST, LATEST, parse_range
from r4.parameters import PARAMETERS, Parameter, ParamType, parameters_of
from r4.resource import is_id, is_type
from r4.texts import cap, normalise, sound

VALUES_MAX = 256
DEPTH_MAX = 4  # steps of one chain
_PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_pieces = re.compile(r"\\.?|[,|]|[^\\,|]+", re.DOTALL).findall
_number = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?").fullmatch
_LAST_CODE_POINT = "\U0010ffff"
_COLUMNS = ("_id", "_lastUpdated")


@dataclass(frozen=True, slots=True)
class Hop:
    """A step of a chain: from a `type`, by its reference `param`, to a `target`; `reverse` (_has) is walked the other way."""

    type: str
    param: str
    target: str
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of the question. `values` are its alternatives (a comma is OR), each a tuple of SQL arguments.

    `forms` says of each alternative how it is compared: the shape of the statement depends on all but the values.
    `type` is whose parameter it is: the searched one, or what `hops` lead to. `absent`: what has none of these is meant.
    """

    type: str
    param: str
    forms: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    hops: tuple[Hop, ...] = ()
    absent: bool = False


_Alternative = tuple[str, tuple[Any, ...]]


def criterion_of(type_name: str, name: str, text: str, base_url: str, *, depth: int = 0) -> Criterion | None:
    """None for a parameter that is not known. Raises Invalid."""
    if depth > DEPTH_MAX:
        raise Invalid(f"a chain has at most {DEPTH_MAX} steps", expression=name[:64])
    if name.startswith("_has:"):
        return _has(type_name, name, text, base_url, depth)
    first, dot, rest = name.partition(".")
    if dot:
        return _chain(type_name, first, rest, text, base_url, depth)
    bare, _, modifier = name.partition(":")
    if bare in _COLUMNS:
        if modifier:
            raise _unsupported(bare, modifier)
        return _ids(type_name, text) if bare == "_id" else _updated(type_name, text)
    parameter = parameters_of(type_name).get(bare)
    return None if parameter is None else _of_parameter(type_name, parameter, modifier, text, base_url)


def check_modifier(type_name: str, name: str) -> None:
    """Of a parameter that came without a value, and is otherwise left alone. Raises Invalid when it would never be taken."""
    bare, _, modifier = name.partition(":")
    parameter = parameters_of(type_name).get(bare)
    if modifier and "." not in name and (bare in _COLUMNS or (parameter and not _takes(parameter, modifier))):
        raise _unsupported(bare, modifier)


def _takes(parameter: Parameter, modifier: str) -> bool:
    if modifier == "missing" or (parameter.type is ParamType.REFERENCE and is_type(modifier)):
        return modifier == "missing" or _leads_to(parameter, modifier)
    return (parameter.type, modifier) in _READERS and _fits(parameter, modifier)


def _has(type_name: str, name: str, text: str, base_url: str, depth: int) -> Criterion | None:
    parts = name.split(":", 3)
    if len(parts) < 4 or not all(parts):
        raise Invalid("_has takes _has:Type:reference:parameter", expression="_has")
    _, source, param, rest = parts
    parameter = PARAMETERS.get(source, {}).get(param)
    if parameter is None or parameter.type is not ParamType.REFERENCE or not _leads_to(parameter, type_name):
        return None
    inner = criterion_of(source, rest, text, base_url, depth=depth + 1)
    return inner and replace(inner, hops=(Hop(source, param, type_name, reverse=True), *inner.hops))


def _chain(type_name: str, first: str, rest: str, text: str, base_url: str, depth: int) -> Criterion | None:
    bare, _, modifier = first.partition(":")
    parameter = parameters_of(type_name).get(bare)
    if parameter is None or parameter.type is not ParamType.REFERENCE:
        return None
    if modifier and (not is_type(modifier) or not _leads_to(parameter, modifier)):
        raise _unsupported(bare, modifier)
    wanted = re.split(r"[:.]", rest, maxsplit=1)[0]
    targets = [modifier] if modifier else [t for t in parameter.targets or PARAMETERS if _knows(t, wanted)]
    if len(targets) > 1:
        raise Invalid(f"say which type is meant: {bare}:{targets[0]}.{wanted[:40]}, for instance", expression=bare)
    inner = criterion_of(targets[0], rest, text, base_url, depth=depth + 1) if targets else None
    return inner and replace(inner, hops=(Hop(type_name, bare, targets[0]), *inner.hops))


def _leads_to(parameter: Parameter, type_name: str) -> bool:
    return not parameter.targets or type_name in parameter.targets


def _knows(type_name: str, param: str) -> bool:
    return param in parameters_of(type_name) or param in (*_COLUMNS, "_has")


def _of_parameter(type_name: str, parameter: Parameter, modifier: str, text: str, base_url: str) -> Criterion:
    name = parameter.name
    if modifier == "missing":
        if text not in ("true", "false"):
            raise Invalid(f"{name}:missing takes true or false", expression=name)
        # An element that has words and no code is there, too.
        forms = ("present", "worded") if parameter.type is ParamType.TOKEN and _fits(parameter, "text") else ("present",)
        return Criterion(type_name, name, forms, ((),) * len(forms), absent=text == "true")
    if modifier and not _takes(parameter, modifier):
        raise _unsupported(name, modifier)
    parts = _alternatives(name, text)
    if parameter.type is ParamType.REFERENCE and modifier != "identifier":
        return _with_values(type_name, name, [_reference(parameter, modifier, part, base_url) for part in parts])
    reader = _READERS[parameter.type, modifier]
    found = [reader(parameter, part) for part in parts]
    # What `:text`, `:of-type` and `:identifier` compare is indexed under a name of its own.
    indexed = f"{name}:{modifier}" if modifier in ("text", "of-type", "identifier") else name
    return replace(_with_values(type_name, indexed, found), absent=modifier == "not")


def _fits(parameter: Parameter, modifier: str) -> bool:
    """Whether the parameter's values have what the modifier looks at."""
    if parameter.computed == "sound":
        return not modifier
    if modifier == "text":
        return parameter.system is None
    return modifier != "of-type" or parameter.name == "identifier"


def _with_values(type_name: str, param: str, alternatives: Sequence[_Alternative]) -> Criterion:
    """Repeats the last alternative up to a power of two, so that few shapes of statement are ever prepared."""
    wanted = 1 << (len(alternatives) - 1).bit_length()
    padded = [*alternatives, *[alternatives[-1]] * (wanted - len(alternatives))]
    return Criterion(type_name, param, tuple(form for form, _ in padded), tuple(values for _, values in padded))


def _alternatives(name: str, text: str) -> list[str]:
    parts = [part for part in split_at(text, ",") if part]
    if not parts:
        raise Invalid("a list of values has no value", expression=name)
    if len(parts) > VALUES_MAX:
        raise Invalid(f"a parameter takes at most {VALUES_MAX} values; this one has {len(parts)}", expression=name)
    return parts


def split_at(text: str, separator: str) -> list[str]:
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


def _ids(type_name: str, text: str) -> Criterion:
    """Several are one value, with commas between: clients ask for many at once, and no id has a comma."""
    parts = _alternatives("_id", text)
    if not all(map(is_id, parts)):
        raise Invalid("an id has 1 to 64 letters, digits, - or .", expression="_id")
    return Criterion(type_name, "_id", ("id" if len(parts) == 1 else "ids",), ((",".join(parts),),))


def _updated(type_name: str, text: str) -> Criterion:
    found = [_range("_lastUpdated", part) for part in _alternatives("_lastUpdated", text)]
    return _with_values(type_name, "_lastUpdated", [(f"updated_{form}", values) for form, values in found])


def _token(parameter: Parameter, text: str) -> _Alternative:
    halves = [_unescaped(half) for half in split_at(text, "|")]
    if parameter.system is not None and parameter.type is ParamType.TOKEN:
        return _token_without_system(parameter, halves)
    if len(halves) > 2 or not any(halves):
        raise Invalid("a token is code, system|code, |code or system|", expression=parameter.name)
    code = cap(halves[-1])
    if len(halves) == 1:
        return "code", (code,)
    system = cap(halves[0])
    if not code:
        return "system", (system,)
    return "system_code", (code, system)


def _token_without_system(parameter: Parameter, halves: Sequence[str]) -> _Alternative:
    """Of an element that bears no system: it has none, or its binding implies one; that may be said, and must be right."""
    if len(halves) > 2 or not any(halves) or (len(halves) == 2 and not parameter.system):
        takes = "code or system|code" if parameter.system else "a code without a system, and no |"
        raise Invalid(f"{parameter.name} takes {takes}", expression=parameter.name)
    if len(halves) == 2 and halves[0] not in ("", parameter.system):
        return "nothing", ()
    return ("code", (cap(halves[-1]),)) if halves[-1] else ("present", ())


def _of_type(parameter: Parameter, text: str) -> _Alternative:
    parts = [_unescaped(part) for part in split_at(text, "|")]
    if len(parts) != 3 or not all(parts):
        raise Invalid("of-type takes system|code|value, all three", expression=parameter.name)
    return "system_code", (cap(parts[2]), cap(f"{parts[0]}|{parts[1]}"))


def _uri(_parameter: Parameter, text: str) -> _Alternative:
    return "code", (cap(_unescaped(text)),)


def _string(parameter: Parameter, text: str) -> _Alternative:
    if parameter.computed == "sound":
        codes = cap(sound(_unescaped(text)))
        return ("sound", (codes,)) if codes else ("nothing", ())
    return _prefix(parameter, text)


def _prefix(_parameter: Parameter, text: str) -> _Alternative:
    prefix = cap(normalise(_unescaped(text)))
    return "prefix", (prefix, prefix + _LAST_CODE_POINT)


def _exact(_parameter: Parameter, text: str) -> _Alternative:
    value = _unescaped(text)
    return "exact", (cap(normalise(value)), cap(value))


def _contains(_parameter: Parameter, text: str) -> _Alternative:
    """Three letters and more are found by their trigrams; less must be looked for along the parameter's values."""
    part = cap(normalise(_unescaped(text)))
    pattern = re.sub(r"([\\%_])", r"\\\1", part)
    return "within" if re.search(r"\w{3}", part) else "inside", (f"%{pattern}%",)


def _date(parameter: Parameter, text: str) -> _Alternative:
    return _range(parameter.name, text)


def _range(name: str, text: str) -> _Alternative:
    prefix, rest = _prefixed(text)
    # A raw + in a query is decoded to a space; in a date it can only have been the sign of a time zone.
    try:
        lower, upper = parse_range(rest.replace(" ", "+"))
    except ValueError:
        raise Invalid(
            "a date is yyyy, yyyy-mm, yyyy-mm-dd or a time with its zone, after an optional prefix", expression=name
        ) from None
    if prefix == "ap":
        margin = max((upper - lower) / 10, timedelta(days=1))
        lower, upper = lower - min(margin, lower - EARLIEST), upper + min(margin, LATEST - upper)
    return prefix, _BOUNDS[prefix](lower, upper)


def _prefixed(text: str) -> tuple[str, str]:
    return (text[:2], text[2:]) if text[:2] in _PREFIXES else ("eq", text)


_BOUNDS: dict[str, Any] = {
    # Which ends of the value's range [lower, upper) a prefix compares with.
    **dict.fromkeys(("eq", "ne", "ap"), lambda lower, upper: (lower, upper)),
    **dict.fromkeys(("gt", "le", "sa"), lambda _lower, upper: (upper,)),
    **dict.fromkeys(("ge", "lt", "eb"), lambda lower, _upper: (lower,)),
}


def _quantity(parameter: Parameter, text: str) -> _Alternative:
    """`[prefix]number|system|code`; a number is as precise as it is written: search.html#quantity."""
    prefix, rest = _prefixed(text)
    number, *unit = [_unescaped(part) for part in split_at(rest, "|")]
    if not _number(number) or len(unit) not in (0, 2):
        raise Invalid("a quantity is a number, or number|system|code, after an optional prefix", expression=parameter.name)
    value = Decimal(number)
    system, code = map(cap, unit or ("", ""))
    if prefix in ("eq", "ne", "ap"):
        half = abs(value) / 10 if prefix == "ap" else Decimal((0, (5,), int(value.as_tuple().exponent) - 1))
        return f"number_{prefix}", (value - half, value + half, system, code)
    return f"number_{prefix}", (value, system, code)


def _reference(parameter: Parameter, modifier: str, text: str, base_url: str) -> _Alternative:
    name, value = parameter.name, _unescaped(text)
    if base_url and value.startswith(f"{base_url}/fhir/"):
        value = value[len(base_url) + len("/fhir/") :]
    elif re.match(r"(https?|urn):", value):
        return ("reference", ("", cap(value))) if value.startswith("http") else ("nothing", ())
    value = re.sub(r"/_history/[^/]*$", "", value)
    kind, _, target_id = value.rpartition("/")
    if modifier:
        if kind and kind != modifier:
            raise Invalid(f"the reference is not to a {modifier}", expression=name)
        kind = modifier
    if not kind and len(parameter.targets) != 1:
        raise Invalid(f"say what type is meant: Type/id, or {name}:Type=id", expression=name)
    kind = kind or parameter.targets[0]
    if not is_type(kind) or not is_id(target_id) or value.startswith("/"):
        raise Invalid("a reference is Type/id, an id or a URL", expression=name)
    return ("reference", (kind, target_id)) if _leads_to(parameter, kind) else ("nothing", ())


_READERS: dict[tuple[ParamType, str], Any] = {
    (ParamType.TOKEN, ""): _token,
    (ParamType.TOKEN, "not"): _token,
    (ParamType.TOKEN, "text"): _prefix,
    (ParamType.TOKEN, "of-type"): _of_type,
    (ParamType.REFERENCE, "identifier"): _token,
    (ParamType.STRING, ""): _string,
    (ParamType.STRING, "exact"): _exact,
    (ParamType.STRING, "contains"): _contains,
    (ParamType.DATE, ""): _date,
    (ParamType.URI, ""): _uri,
    (ParamType.QUANTITY, ""): _quantity,
}


def modifiers_of(parameter: Parameter) -> tuple[str, ...]:
    """Those that it takes; a reference also takes its targets' names."""
    return ("missing", *(name for of, name in _READERS if of is parameter.type and name and _fits(parameter, name)))
