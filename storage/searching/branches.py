"""The walks of a search: which criterion drives, along which index, and how the others are looked up for each of its rows.

A branch is a source of rows called x, with a condition and the rank that its rows are ordered by. Alternatives of the
driving criterion are branches of their own; their union is what matches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from r4.criteria import Criterion, Hop
from r4.parameters import ORDER
from storage.searching.forms import LONG, Form, any_of, form_of, is_common, paths_condition, row_condition

Shape = tuple[Criterion, ...]
"""Criteria without their values, the driving one first: what a statement's text depends on."""
At = dict[str, str]
"""The placeholder of each value by its name: $3::text in a plain statement, ask.v0 in a batch."""

SELECTIVE = 4
"""Up to this weight few rows are walked, whatever is looked up beside."""
_IN_TURN = (5, 6)  # common values, whose indexes have them in the order of the answer
FEW, FEW_REFERRED = 1000, 400
"""Of what an index does not have in order at most so many rows are gathered; of `_has` each costs a look of its own."""
WALK = 8
"""The weight of the list itself, in its default order: what weighs more is looked up, and never walked along."""
_BY_ID = ("nothing", "id", "ids")
_WEIGHTS = {
    # Of a rare value, and of one that may be common.
    **dict.fromkeys(("code", "system_code"), (1, 6)),
    "reference": (2, 5),
    **dict.fromkeys(("exact", "sound"), (3, 3)),
    **dict.fromkeys(("prefix", "within", "inside", "eq"), (4, 4)),
}
_OVERLAPS = {"gt", "ge", "ap"}  # of a date: whose end is compared, and nothing says when it began


@dataclass(frozen=True, slots=True)
class Branch:
    """`source` is to be called x. Where no index has its rows in order `rank` is an expression: then none is walked for it.

    `there` is a condition, too, that may be left for the last: that what was reached by a reference is stored.
    """

    source: str
    where: str
    rank: str
    there: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A criterion with the placeholders of each alternative's arguments."""

    criterion: Criterion
    given: tuple[tuple[str, ...], ...]


def shape_of(criteria: Sequence[Criterion]) -> Shape:
    return tuple(Criterion(c.type, c.param, c.forms, (), c.hops, c.absent) for c in in_driving_order(criteria))


def in_driving_order(criteria: Sequence[Criterion]) -> Sequence[Criterion]:
    """The one that is likely to leave the fewest rows first."""
    if len(criteria) < 2:
        return criteria
    return sorted(
        criteria, key=lambda c: (weight(c), c.type, c.param, c.forms, c.absent, [(h.type, h.param, h.target) for h in c.hops])
    )


def weight(criterion: Criterion) -> int:
    """How many rows a walk along it may have to read; see WALK."""
    if criterion.absent:
        return WALK + 1
    heaviest = max(_form_weight(criterion, form) for form in criterion.forms)
    if not criterion.hops:
        return heaviest
    return min(heaviest + 1, SELECTIVE) if heaviest <= SELECTIVE else WALK - 1  # through a reference


def _form_weight(criterion: Criterion, form: str) -> int:
    if form in _BY_ID:
        return 0
    if _is_order(criterion) or form in ("present", "worded") or set(form.split("&")) <= {"ne", "updated_ne"}:
        return WALK + 1
    if form in _WEIGHTS:
        rare, common = _WEIGHTS[form]
        return common if is_common(criterion.type, criterion.param) else rare
    return WALK - 1


def _is_order(criterion: Criterion) -> bool:
    """Whether it is the date by which its type's list is ordered: then it bounds the ranks, whatever is walked."""
    return ORDER.get(criterion.type) == criterion.param and not criterion.hops


def _is_range(criterion: Criterion) -> bool:
    """Of a date: one, with as many prefixes as there are."""
    return not criterion.absent and len(criterion.forms) == 1 and criterion.forms[0] != "present"


def is_bounded(shape: Shape) -> bool:
    """Of a common value together with a system or with other criteria, many rows may be passed over before one is found."""
    if not shape:
        return True
    first = shape[0]
    if len(first.forms) > 1 or first.hops or weight(first) > _IN_TURN[-1] or not (_in_order(first) or first.forms == ("id",)):
        return False
    return weight(first) <= 2 or (len(shape) == 1 and first.forms[0] != "system_code")


def _in_order(criterion: Criterion) -> bool:
    return form_of(criterion, criterion.forms[0]).in_order


def value_types(shape: Shape) -> dict[str, str]:
    kinds = [kind for criterion in shape for form in criterion.forms for kind in form_of(criterion, form).arguments]
    return {f"v{number}": kind for number, kind in enumerate(kinds)}


def asked_of(shape: Shape, at: At) -> list[Asked]:
    numbers = iter(range(1_000_000))
    return [
        Asked(c, tuple(tuple(at[f"v{next(numbers)}"] for _ in form_of(c, form).arguments) for form in c.forms)) for c in shape
    ]


def owner(type_name: str, at: At) -> str:
    return f"x.tenant_id = {at['tenant']} AND x.type = '{type_name}'"


def owned(resource_id: str, type_name: str, at: At) -> str:
    return f"tenant_id = {at['tenant']} AND id = {resource_id} AND type = '{type_name}'"


# What is walked along.


def all_matches(type_name: str, shape: Shape, at: At) -> str:
    """(rank, id) of whatever matches, in no order, some perhaps twice: see `is_once`."""
    start = {**at, "rank": f"'{-(2**63)}'::bigint", "after": "''::text", "rows": "NULL::bigint"}
    if (leaps := leapfrog(type_name, shape, start)) is not None:
        return _union(long_ones(type_name, shape, at), f"({leaps})")
    asked = asked_of(shape, at)
    dates = [each for each in asked if _is_order(each.criterion) and _is_range(each.criterion)]
    if not dates or weight(shape[0]) < WALK:
        return _union(branches(type_name, shape, at))
    others = lookups([each for each in asked if each is not dates[0]], "x.id", "x.rank", at)
    return _union([replace(branch, where=branch.where + others) for branch in _driven(type_name, dates[0], at)])


def is_once(shape: Shape) -> bool:
    """Whether no match can be there twice: all there is, or a range of the date that each has once."""
    return not shape or (len(shape) == 1 and _is_order(shape[0]) and _is_range(shape[0]))


def _union(found: Sequence[Branch], *before: str) -> str:
    return "\nUNION ALL ".join([*before, *(f"SELECT {b.rank} AS rank, x.id FROM {b.source} x WHERE {b.where}" for b in found)])


def branches(type_name: str, shape: Shape, at: At) -> list[Branch]:
    return _branches(type_name, asked_of(shape, at), at)


@dataclass(frozen=True, slots=True)
class FewOrWalk:
    """`gathered`: what finds the few, up to `limit` of them; `walked`: what finds the page when there are more."""

    gathered: list[Branch]
    limit: int
    others: str
    walked: list[Branch]


def few(criterion: Criterion) -> int:
    """How many rows are gathered at most."""
    return FEW_REFERRED if any(hop.reverse for hop in criterion.hops) else FEW


def few_or_walk(type_name: str, shape: Shape, at: At) -> FewOrWalk | None:
    """Where nobody can tell how many a criterion leaves: what few meet is gathered, what many meet is soon found on a walk.

    None for what an index has in order, and for what nothing but a walk finds.
    """
    first = shape[0] if shape else None
    if first is None or not 0 < weight(first) < WALK or (_in_order(first) and not first.hops):
        return None
    asked = asked_of(shape, at)
    gathered = [replace(branch, rank="x.rank") for branch in _driven(type_name, asked[0], at)]
    others = f"{gathered[0].there}{lookups(asked[1:], 'x.id', 'x.rank', at)}"
    walked = _branches(type_name, asked[1:], at, looked_up=asked[:1])
    return FewOrWalk(gathered, few(first), others, walked)


def _branches(type_name: str, asked: Sequence[Asked], at: At, looked_up: Sequence[Asked] = ()) -> list[Branch]:
    """Along the first of the criteria; `looked_up` are looked up, whatever they are."""
    heaviness = weight(asked[0].criterion) if asked else WALK
    drivers, others = (asked[:1], asked[1:]) if heaviness < WALK else ([], asked)
    # Of few rows each is looked at; among many the window says where to begin and to end.
    window = "" if heaviness <= SELECTIVE else "".join(_window(each) for each in asked)
    found = [
        replace(branch, where=branch.where + branch.there + window + lookups([*others, *looked_up], "x.id", "x.rank", at))
        for branch in (_driven(type_name, drivers[0], at) if drivers else [_whole(type_name, at)])
    ]
    return found + (_long_ones(type_name, [*asked, *looked_up], at) if window else [])


def _whole(type_name: str, at: At) -> Branch:
    return Branch("fhir.resource", f"{owner(type_name, at)} AND NOT x.deleted", "x.rank")


def _driven(type_name: str, asked: Asked, at: At) -> list[Branch]:
    criterion = asked.criterion
    found = []
    for form, given in zip(criterion.forms, asked.given, strict=True):
        if criterion.hops:
            there = f" AND {_stored(type_name, 'x.id', at)}" if criterion.hops[0].reverse and type_name not in ORDER else ""
            found.append(Branch(f"({_reached(criterion, form, given, at)})", "true", "x.rank + 0", there))
        elif form == "within":
            source = f"fhir.within({at['tenant']}, '{type_name}', '{criterion.param}', {given[0]})"
            found.append(Branch(source, "true", "x.rank + 0"))
        else:
            found += _along(type_name, criterion, form, given, at)
    return found


def _along(type_name: str, criterion: Criterion, form: str, given: Sequence[str], at: At) -> list[Branch]:
    shown = form_of(criterion, form)
    source = f"fhir.{shown.table}"
    if form in ("id", "ids"):
        source = _rows_of(given[0] if form == "id" else any_of(given[0]), type_name, shown, at)
    where = f"{owner(type_name, at)} AND {row_condition(criterion, form, 'x', list(given))}"
    rank = "x.rank" if shown.in_order else "x.rank + 0"
    since = _overlaps_since(form, given)
    if shown.table != "date" or since is None:
        return [Branch(source, where, rank)]
    recent = f"{where} AND x.lower > {since} - {LONG} AND x.upper - x.lower <= {LONG}"
    return [Branch(source, recent, rank), Branch(source, f"{where} AND x.upper - x.lower > {LONG}", rank)]


def _overlaps_since(form: str, given: Sequence[str]) -> str | None:
    """The time after which an overlapping date ends; None for what need not overlap any."""
    place = 0
    for part in form.split("&"):
        if part in _OVERLAPS:
            return given[place]
        place += 2 if part in ("eq", "ne", "ap") else 1
    return None


def _window(asked: Asked) -> str:
    """The ranks between which all matches lie but the long ones: a rank is the negated start, in microseconds."""
    newest, oldest = _bounds(asked)
    return newest + oldest


def _bounds(asked: Asked) -> tuple[str, str]:
    """That a rank is no newer, and no older, than what matches."""
    criterion = asked.criterion
    newest = oldest = ""
    if not _is_order(criterion) or not _is_range(criterion):
        return newest, oldest
    given = list(asked.given[0])
    for part in criterion.forms[0].split("&"):
        first = given.pop(0)
        second = given.pop(0) if part in ("eq", "ne", "ap") else first
        if part in ("eq", "sa"):
            oldest += f" AND x.rank <= {_rank_of(first)}"
        elif part in _OVERLAPS:
            oldest += f" AND x.rank < {_rank_of(f'({first} - {LONG})')}"
        if part in ("eq", "ap", "lt", "le", "eb"):
            newest += f" AND x.rank > {_rank_of(second)}"
    return newest, oldest


def _rank_of(moment: str) -> str:
    """No date is beyond these bounds, but the infinities are: asyncpg takes the last moment of 9999 for one."""
    return f"(-greatest(least(extract(epoch FROM {moment}), 300000000000), -100000000000) * 1000000)::bigint"


def long_ones(type_name: str, shape: Shape, at: At) -> list[Branch]:
    return _long_ones(type_name, asked_of(shape, at), at)


def _long_ones(type_name: str, asked: Sequence[Asked], at: At) -> list[Branch]:
    """What the window leaves out: what began long before the time that it overlaps."""
    for each in asked:
        criterion = each.criterion
        if _window(each) and _overlaps_since(criterion.forms[0], each.given[0]) is not None:
            others = lookups([other for other in asked if other is not each], "x.id", "x.rank", at)
            where = (
                f"{owner(type_name, at)} AND {row_condition(criterion, criterion.forms[0], 'x', list(each.given[0]))}"
                f" AND x.upper - x.lower > {LONG}{_bounds(each)[0]}"
            )
            # Those that have not ended may be many; in the index they are one after the other, in the order of the list.
            return [
                Branch("fhir.date", f"{where} AND x.upper < 'infinity'{others}", "x.rank + 0"),
                Branch("fhir.date", f"{where} AND x.upper = 'infinity'{others}", "x.rank"),
            ]
    return []


def leapfrog(type_name: str, shape: Shape, at: At) -> str | None:
    """(rank, id) in order of what has two common values, found by leaps: each index in turn is entered where the other one is.

    However the values are spread, it reads no more than twice the rows of the rarer one. None when the shape is another.
    What the window leaves out is `long_ones`.
    """
    turns = [place for place, c in enumerate(shape) if weight(c) in _IN_TURN and len(c.forms) == 1 and not c.hops]
    asked = asked_of(shape, at)
    if len(turns) < 2 or turns[0] != 0:
        return None
    one, other = asked[0], asked[turns[1]]
    rest = [each for place, each in enumerate(asked) if place not in turns[:2]]
    window = "".join(_window(each) for each in asked)

    def step(each: Asked, place: str, more: str) -> str:
        criterion, form = each.criterion, each.criterion.forms[0]
        return (
            f"(SELECT x.rank, x.id FROM fhir.{form_of(criterion, form).table} x WHERE {owner(type_name, at)}"
            f" AND {row_condition(criterion, form, 'x', list(each.given[0]))}{window}"
            f" AND (x.rank, x.id) >= ({place}.rank, {place}.id){more} ORDER BY x.rank, x.id LIMIT 1)"
        )

    past = " AND NOT (w.hit AND x.rank = w.rank AND x.id = w.id)"
    return (
        f"WITH RECURSIVE walk(rank, id, hit) AS (\n"
        f'SELECT {at["rank"]}, {at["after"]} COLLATE "C", true UNION ALL\n'
        "SELECT b.rank, b.id, b.rank = a.rank AND b.id = a.id FROM walk w\n"
        f"CROSS JOIN LATERAL {step(one, 'w', past)} a\nCROSS JOIN LATERAL {step(other, 'a', '')} b)\n"
        f"SELECT x.rank, x.id FROM (SELECT rank, id FROM walk WHERE hit OFFSET 1) x"
        f" WHERE true{lookups(rest, 'x.id', 'x.rank', at)} LIMIT {at['rows']}"
    )


# What is looked up.


def lookups(asked: Sequence[Asked], resource_id: str, rank: str, at: At) -> str:
    return "".join(f"\nAND {_lookup(each, each.criterion.hops, resource_id, rank, at)}" for each in asked)


def _lookup(asked: Asked, hops: tuple[Hop, ...], resource_id: str, rank: str | None, at: At) -> str:
    """Whether a resource meets a criterion. Scalar subqueries, since EXISTS may be turned into a join from the wrong end.

    `rank` is the resource's own where it is known: then one look into an index tells.
    """
    if not hops:
        return _lookup_here(asked, resource_id, rank, at)
    hop, name = hops[0], f"h{len(hops)}"
    step = _references_to(hop, resource_id, at) if hop.reverse else _references_from(hop, resource_id, at)
    next_id, next_rank = (f"{name}.id", f"{name}.rank") if hop.reverse else (f"{name}.to_id", _rank_at(hop.target))
    there = "" if hop.reverse else _there(asked.criterion, hops[1:], hop.target, next_id, at)
    return (
        f"coalesce((SELECT true FROM ({step}) {name} WHERE {there}{_lookup(asked, hops[1:], next_id, next_rank, at)} LIMIT 1),"
        " false)"
    )


def _there(criterion: Criterion, hops: tuple[Hop, ...], type_name: str, resource_id: str, at: At) -> str:
    """That what a reference leads to is there, where nothing that is looked at next would tell."""
    if not (hops[0].reverse if hops else criterion.absent):
        return ""
    return f"{_stored(type_name, resource_id, at)} AND "


def _stored(type_name: str, resource_id: str, at: At) -> str:
    kept = f"SELECT * FROM fhir.resource WHERE {owned(resource_id, type_name, at)} OFFSET 0"
    return f"(SELECT true FROM ({kept}) e WHERE NOT e.deleted LIMIT 1)"


def _rank_at(type_name: str) -> str | None:
    return None if type_name in ORDER else "0"


def _lookup_here(asked: Asked, resource_id: str, rank: str | None, at: At) -> str:
    criterion = asked.criterion
    found = [
        f"(SELECT true FROM {_rows_of(resource_id, criterion.type, form_of(criterion, form), at, by_rank=rank is not None)} y"
        f" WHERE {row_condition(criterion, form, 'y', list(given))}{f' AND y.rank = {rank}' if rank else ''} LIMIT 1)"
        for form, given in zip(criterion.forms, asked.given, strict=True)
    ]
    if criterion.absent:
        return f"NOT coalesce({', '.join(found)}, false)"
    return found[0] if len(found) == 1 else f"coalesce({', '.join(found)}, false)"


def _rows_of(resource_id: str, type_name: str, form: Form, at: At, *, by_rank: bool = True) -> str:
    """What one resource has in a form's table. OFFSET 0: neither a range, which may be wide, nor an order chooses the index."""
    fence = "" if form.in_order and by_rank else " OFFSET 0"
    return f"(SELECT * FROM fhir.{form.table} WHERE {owned(resource_id, type_name, at)}{fence})"


# Chains.


def _references_from(hop: Hop, resource_id: str, at: At) -> str:
    """(to_id) of what a resource leads to."""
    return (
        f"SELECT z.to_id FROM fhir.reference z WHERE z.tenant_id = {at['tenant']} AND z.id = {resource_id}"
        f" AND z.type = '{hop.type}' AND z.to_type = '{hop.target}' AND {paths_condition('z', hop.type, hop.param)} OFFSET 0"
    )


def _references_to(hop: Hop, resource_id: str, at: At) -> str:
    """(rank, id) of those that lead to a resource."""
    return (
        f"SELECT z.rank, z.id FROM fhir.reference z WHERE z.tenant_id = {at['tenant']} AND z.to_type = '{hop.target}'"
        f" AND z.to_id = {resource_id} AND z.type = '{hop.type}' AND {paths_condition('z', hop.type, hop.param)} OFFSET 0"
    )


def _reached(criterion: Criterion, form: str, given: Sequence[str], at: At) -> str:
    """(rank, id) of the searched type's resources, walked from the chain's end: from what meets the criterion."""
    leaf = replace(criterion, hops=())
    parts = [
        f"SELECT x.rank, x.id FROM {b.source} x WHERE {b.where}"
        for b in _driven(criterion.type, Asked(replace(leaf, forms=(form,)), (tuple(given),)), at)
    ]
    text = " UNION ALL ".join(parts)
    for number, hop in enumerate(reversed(criterion.hops)):
        i, s = f"i{number}", f"s{number}"
        if hop.reverse:
            led_to = _references_from(hop, f"{i}.id", at)
            text = f"SELECT 0::bigint AS rank, {s}.to_id AS id FROM ({text}) {i} CROSS JOIN LATERAL ({led_to}) {s}"
            if hop.target in ORDER or hop is not criterion.hops[0]:
                text = (
                    f"SELECT o.rank, o.id FROM ({text}) t CROSS JOIN LATERAL"
                    f" (SELECT * FROM fhir.resource WHERE {owned('t.id', hop.target, at)} OFFSET 0) o WHERE NOT o.deleted"
                )
        else:
            text = f"SELECT {s}.rank, {s}.id FROM ({text}) {i} CROSS JOIN LATERAL ({_references_to(hop, f'{i}.id', at)}) {s}"
    return text
