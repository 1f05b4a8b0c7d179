"""A part of a resource, as `_summary` and `_elements` ask for it. https://hl7.org/fhir/R4/search.html#summary.

It is made of the served bytes, top-level member by top-level member: what is kept is kept to the byte. An element goes with
what stands beside it for its extensions (`_birthDate`), and a choice of types by its base name (`deceased`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from base.errors import Invalid
from r4.elements import ELEMENTS

SUMMARIES = ("true", "text", "data", "count", "false")
ELEMENTS_MAX = 100
"""More than any type has. A question cannot grow without end, nor what is remembered of it."""

_ALWAYS = ("resourceType", "id", "meta", "implicitRules", "modifierExtension")
"""Without the last two, what is kept could mean something else."""
_SUBSETTED = msgspec.Raw(
    b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED","display":"subsetted"}'
)

_is_path = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}(\.[A-Za-z][A-Za-z0-9]{0,63})*").fullmatch
_leads_inside = re.compile(rb'(?<!\\)"#').search  # a string that begins with #, which a quote within a string does not open
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Subset:
    """`count` is a search's that shows no resources; a resource itself is whole under it, or what `elements` make of it."""

    summary: str = "false"
    elements: tuple[str, ...] = ()


class _Tag(msgspec.Struct):
    system: str = ""
    code: str = ""


class _Kept(msgspec.Struct, frozen=True):
    """The members that a subset keeps: those of these names, and those that this finds to be of a choice of types."""

    names: frozenset[str]
    choices: re.Pattern[str]


def parse_subset(pairs: Iterable[tuple[str, str]]) -> tuple[Subset | None, tuple[tuple[str, str], ...]]:
    """Of a query's pairs: the subset, None when whole resources are wanted, and what was understood, for the self link.

    Raises Invalid for an unknown summary, an impossible element's name, and the two together, which no text of R4 explains.
    """
    summaries: dict[str, None] = {}
    elements: dict[str, None] = {}
    for name, value in pairs:
        if name == "_summary" and value:
            summaries[_summary(value)] = None
        elif name == "_elements":
            elements.update(dict.fromkeys(_element(path.strip()) for path in value.split(",") if path.strip()))
    if len(summaries) > 1:
        raise Invalid("_summary is given twice, with two values", expression="_summary")
    summary = next(iter(summaries), "false")
    if elements and summary not in ("count", "false"):
        raise Invalid("_summary and _elements do not go together: leave one of them out", expression="_elements")
    if len(elements) > ELEMENTS_MAX:
        raise Invalid(f"_elements names more than {ELEMENTS_MAX} elements", expression="_elements")
    used = [("_summary", each) for each in summaries] + ([("_elements", ",".join(elements))] if elements else [])
    return Subset(summary, tuple(elements)) if elements or summary != "false" else None, tuple(used)


def subset(body: bytes, subset: Subset) -> bytes:
    """What `subset` leaves of a resource's served bytes, tagged as SUBSETTED; the bytes as they are when it is to be whole."""
    members = _members(body)
    left: dict[str, Any]
    if subset.summary == "data":
        left = {name: value for name, value in members.items() if name != "text"}
    else:
        kept = _kept(bytes(members["resourceType"]), subset)
        if kept is None:
            return body
        left = _left(members, kept)
    left["meta"] = _tagged(members.get("meta"))
    return _encode(left)


def _summary(value: str) -> str:
    if value not in SUMMARIES:
        raise Invalid(f"_summary is one of {', '.join(SUMMARIES)}", expression="_summary")
    return value


def _element(path: str) -> str:
    """The top-level element that a path leads through: `name` of `name`, `name.family` and `Patient.name`."""
    if _is_path(path) is None:
        raise Invalid("_elements is a list of elements' names with commas between them", expression="_elements")
    first, *others = path.split(".")
    return others[0] if others and first[0].isupper() else first


@lru_cache(maxsize=256)
def _kept(resource_type: bytes, subset: Subset) -> _Kept | None:
    """What to keep of a type, whose name comes as JSON; None is everything."""
    facts = ELEMENTS.get(msgspec.json.decode(resource_type, type=str))
    if subset.elements:
        wanted = {*_ALWAYS, *subset.elements, *(facts.mandatory if facts else ())}
    elif facts is None or subset.summary not in ("true", "text"):
        return None
    else:
        wanted = {*_ALWAYS, *(facts.summary if subset.summary == "true" else ("text", *facts.mandatory))}
    # Of a type without facts, any name may be that of a choice.
    choices = sorted(wanted & facts.choices if facts else subset.elements)
    return _Kept(
        frozenset([*wanted, *(f"_{name}" for name in wanted)]),
        re.compile(rf"_?(?:{'|'.join(choices)})[A-Z]" if choices else "(?!)"),
    )


def _left(members: dict[str, msgspec.Raw], kept: _Kept) -> dict[str, Any]:
    names, is_choice = kept.names, kept.choices.match
    left = {name: value for name, value in members.items() if name in names or is_choice(name)}
    if "contained" in members and "contained" not in left and any(map(_leads_inside, left.values())):
        # A reference to a contained resource would lead nowhere without it.
        return {name: value for name, value in members.items() if name in left or name == "contained"}
    return left


def _tagged(meta: msgspec.Raw | None) -> dict[str, Any]:
    members: dict[str, Any] = _members(meta) if meta else {}
    try:
        tags = _items(members.get("tag", b"[]"))
    except msgspec.ValidationError:  # no list, which R4 does not allow
        tags = []
    if not any(map(_is_subsetted, tags)):
        members["tag"] = [*tags, _SUBSETTED]
    return members


def _is_subsetted(tag: msgspec.Raw) -> bool:
    try:
        coding = msgspec.json.decode(tag, type=_Tag)
    except msgspec.ValidationError:
        return False
    return coding.code == "SUBSETTED" and coding.system.endswith("/CodeSystem/v3-ObservationValue")
