"""A search, parsed: pure, from decoded query pairs to criteria of known form. SQL is made of it in storage/searching/lists.py.

The rules are those of https://hl7.org/fhir/R4/search.html; an unknown parameter is left out (or refused when the client
asks for strict handling), an unsupported modifier and a malformed value are always refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter

from base.errors import Invalid
from r4.criteria import Criterion, check_modifier, criterion_of
from r4.parameters import ORDER, PARAMETERS, Parameter, ParamType, parameters_of
from r4.resource import is_type
from r4.subset import Subset, parse_subset

COUNT_DEFAULT = 20
COUNT_MAX = 1000
CRITERIA_MAX = 32
COMPARISONS_MAX = 64  # in one statement; each costs the database 30 KB as long as the statement is kept, and time to plan
HOPS_MAX = 8  # of all chains of a search; each is a join
SORT_MAX = 4
INCLUSIONS_MAX = 16
CONTROLS = ("_count", "_total", "_sort", "_include", "_revinclude", "_summary", "_elements", "_cursor", "_format", "_pretty")
"""What is no criterion, but says how the answer is to look."""
FORMATS = ("_format", "_pretty")
"""Those that do not change what is in it."""


@dataclass(frozen=True, slots=True)
class SortKey:
    param: str
    descending: bool


@dataclass(frozen=True, slots=True)
class Inclusion:
    """`_include`: what `param` of a `type` leads to, a `target` alone if one is named; `reverse` is `_revinclude`.

    `*` as param is every reference parameter of the type. `iterate`: also of what was included.
    """

    type: str
    param: str
    target: str
    reverse: bool
    iterate: bool


@dataclass(frozen=True, slots=True)
class Search:
    """`used` are the pairs that were understood, for the self link; `count` 0 asks for the total alone.

    No `sort` is the type's default order. No `subset` is whole resources.
    """

    type: str
    criteria: tuple[Criterion, ...]
    count: int
    total: bool
    used: tuple[tuple[str, str], ...]
    cursor: str | None
    sort: tuple[SortKey, ...] = ()
    inclusions: tuple[Inclusion, ...] = ()
    subset: Subset | None = None


def parse_search(
    type_name: str,
    pairs: Iterable[tuple[str, str]],
    *,
    strict: bool = False,
    base_url: str = "",
    compartment: tuple[str, str] | None = None,
) -> Search:
    """`compartment`: the reference parameters (joined by `|`), and the Type/id that one of them leads to.

    Raises Invalid with the parameter's name as expression; no message repeats a value, for it may be a patient's.
    """
    criteria: list[Criterion] = []
    used: list[tuple[str, str]] = []
    controls: list[tuple[str, str]] = []
    if compartment is not None:
        name, target = compartment
        kind, _, target_id = target.partition("/")
        criteria.append(Criterion(type_name, name, ("reference",), ((kind, target_id),)))
    for name, value in pairs:
        if "\x00" in value or "\x00" in name:
            raise Invalid("a NUL character stands in the query", expression=name.replace("\x00", ""))
        if name.partition(":")[0] in CONTROLS:
            controls.append((name, value))
        elif not value:
            check_modifier(type_name, name)
        elif (criterion := criterion_of(type_name, name, value, base_url)) is not None:
            criteria.append(criterion)
            used.append((name, value))
        elif strict:
            raise Invalid(f"{type_name} has no such search parameter", expression=name[:64])
    _check_size(criteria)
    return _controlled(type_name, _merged(criteria) if len(criteria) > 1 else criteria, used, controls, strict=strict)


def _check_size(criteria: Sequence[Criterion]) -> None:
    if len(criteria) > CRITERIA_MAX:
        raise Invalid(f"a search takes at most {CRITERIA_MAX} parameters; this one has {len(criteria)}")
    if (hops := sum(len(criterion.hops) for criterion in criteria)) > HOPS_MAX:
        raise Invalid(f"the chains of a search have at most {HOPS_MAX} steps; this one's have {hops}")
    # For each alternative of the criterion that is walked along, all of the others' are looked up.
    sizes = [len(criterion.forms) for criterion in criteria]
    comparisons = max((size * (1 + sum(sizes) - size) for size in sizes), default=0)
    if comparisons > COMPARISONS_MAX:
        raise Invalid(f"a search combines at most {COMPARISONS_MAX} values, ids aside; this one has {comparisons} combinations")


def _merged(criteria: Sequence[Criterion]) -> list[Criterion]:
    """Bounds of one single-valued date made one criterion, so that the index is read between them."""
    merged: dict[object, Criterion] = {}
    for number, criterion in enumerate(criteria):
        parameter = parameters_of(criterion.type).get(criterion.param)
        dated = criterion.param == "_lastUpdated" or (parameter and parameter.single and parameter.type is ParamType.DATE)
        mergeable = dated and len(criterion.forms) == 1 and not criterion.hops and criterion.forms[0] != "present"
        key = criterion.param if mergeable else number
        merged[key] = _both(merged[key], criterion) if key in merged else criterion
    return list(merged.values())


def _both(one: Criterion, other: Criterion) -> Criterion:
    """In an order of their own, so that few shapes of statement are ever made."""
    parts = sorted([*_parts(one), *_parts(other)], key=itemgetter(0))
    form = "&".join(part[0] for part in parts)
    return replace(one, forms=(form,), values=(tuple(value for part in parts for value in part[1]),))


def _parts(criterion: Criterion) -> list[tuple[str, tuple[object, ...]]]:
    forms, values = criterion.forms[0].split("&"), list(criterion.values[0])
    taken = []
    for form in forms:
        size = 2 if form.removeprefix("updated_") in ("eq", "ne", "ap") else 1
        taken.append((form, tuple(values[:size])))
        del values[:size]
    return taken


def _controlled(
    type_name: str,
    criteria: Sequence[Criterion],
    used: list[tuple[str, str]],
    controls: Sequence[tuple[str, str]],
    *,
    strict: bool,
) -> Search:
    """With what says how the answer is to look. Of a control that may stand only once the last counts."""
    sort: tuple[SortKey, ...] = ()
    kept = ""
    inclusions: list[Inclusion] = []
    for name, value in controls:
        bare, _, modifier = name.partition(":")
        if modifier and (bare not in ("_include", "_revinclude") or modifier != "iterate"):
            raise Invalid(f"the modifier :{modifier[:40]} is not supported for {bare}", expression=bare)
        if bare == "_sort" and value:
            sort, kept = _sort(type_name, value, strict=strict)
        elif bare in ("_include", "_revinclude") and value:
            inclusion = _inclusion(type_name, bare, value, iterate=bool(modifier), strict=strict)
            inclusions += [inclusion] if inclusion else []
            used += [(name, value)] if inclusion else []
    if len(inclusions) > INCLUSIONS_MAX:
        raise Invalid(f"a search takes at most {INCLUSIONS_MAX} inclusions", expression="_include")
    last = dict(controls)
    subset, subset_used = parse_subset((name, value) for name, value in controls if name in ("_summary", "_elements"))
    if inclusions and subset is not None and subset.summary == "text":
        raise Invalid("_include and _summary=text do not go together", expression="_summary")
    count = 0 if subset is not None and subset.summary == "count" else _count(last.get("_count"))
    total = count == 0 or _total(last.get("_total"))
    used += [("_sort", kept)] * bool(kept)
    used += subset_used
    if total and count:
        used.append(("_total", last["_total"]))
    used += [(name, last[name]) for name in FORMATS if last.get(name)]
    return Search(
        type_name,
        tuple(criteria),
        count,
        total,
        tuple(used),
        last.get("_cursor"),
        () if _is_default(type_name, sort) else sort,
        tuple(dict.fromkeys(inclusions)),
        subset,
    )


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


def _sort(type_name: str, text: str, *, strict: bool) -> tuple[tuple[SortKey, ...], str]:
    """The keys, and what was kept of the text. What stands after `_id` decides nothing."""
    keys: dict[str, SortKey] = {}
    for part in text.split(","):
        param = part.removeprefix("-")
        if param in parameters_of(type_name) or param in ("_id", "_lastUpdated"):
            keys.setdefault(param, SortKey(param, part.startswith("-")))
        elif strict:
            raise Invalid(f"{type_name} cannot be sorted by this", expression="_sort")
    if len(keys) > SORT_MAX:
        raise Invalid(f"_sort takes at most {SORT_MAX} keys", expression="_sort")
    kept = list(keys.values())
    ends = next((place for place, key in enumerate(kept, 1) if key.param == "_id"), len(kept))
    return tuple(kept[:ends]), ",".join(f"{'-' if key.descending else ''}{key.param}" for key in kept)


def _is_default(type_name: str, sort: tuple[SortKey, ...]) -> bool:
    if not sort:
        return True
    first = [SortKey(ORDER[type_name], True)] if type_name in ORDER else []
    by_id = [SortKey("_id", False)]
    return list(sort) == [*first, *by_id] or (bool(first) and list(sort) == first)


def _inclusion(type_name: str, name: str, text: str, *, iterate: bool, strict: bool) -> Inclusion | None:
    """None for one that cannot bring anything, which is refused when handling is strict."""
    parts = [type_name, "*"] if (name, text) == ("_include", "*") else text.split(":")
    if not 2 <= len(parts) <= 3 or not is_type(parts[0]) or not all(parts):
        raise Invalid(f"{name} takes Type:parameter or Type:parameter:Target", expression=name)
    source, param, target = (*parts, "")[:3]
    if target and not is_type(target):
        raise Invalid(f"{name} takes Type:parameter or Type:parameter:Target", expression=name)
    found = Inclusion(source, param, target, name == "_revinclude", iterate)
    if reference_parameters(found) and (iterate or _applies_to(found, type_name)):
        return found
    if strict:
        raise Invalid(f"{name} of this type and parameter brings nothing to a search of {type_name}", expression=name)
    return None


def reference_parameters(inclusion: Inclusion) -> list[Parameter]:
    """Those that the inclusion follows; none when its type has no such parameter, or it never leads to the target."""
    table = PARAMETERS.get(inclusion.type, {})
    named = table.values() if inclusion.param == "*" else [table[inclusion.param]] if inclusion.param in table else []
    return [
        parameter
        for parameter in named
        if parameter.type is ParamType.REFERENCE
        and (not inclusion.target or not parameter.targets or inclusion.target in parameter.targets)
    ]


def _applies_to(inclusion: Inclusion, type_name: str) -> bool:
    if not inclusion.reverse:
        return inclusion.type == type_name
    if inclusion.target and inclusion.target != type_name:
        return False
    return any(not p.targets or type_name in p.targets for p in reference_parameters(inclusion))


def inclusions_of(type_name: str, *, reverse: bool) -> list[str]:
    """Every `_include`, or every `_revinclude`, that may bring something to a search of a type; without :Target."""
    if not reverse:
        followed = _followed(type_name) if type_name in PARAMETERS else ()
        return ["*", *(f"{type_name}:{param}" for param in followed)] if followed else []
    named = [Inclusion(source, param, "", reverse, iterate=False) for source in PARAMETERS for param in _followed(source)]
    return [f"{each.type}:{each.param}" for each in named if _applies_to(each, type_name)]


@lru_cache(maxsize=64)
def _followed(type_name: str) -> tuple[str, ...]:
    named = sorted(row.name for row in PARAMETERS[type_name].values() if row.type is ParamType.REFERENCE)
    return ("*", *named) if named else ()
