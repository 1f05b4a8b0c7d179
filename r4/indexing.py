"""What a resource is found by: rows for fhir.token, string, date, reference and quantity, and its rank.

The table of search parameters is compiled once per type into a tree that goes along the paths, so that a resource is walked
by the members that it has. A value that is not what its parameter takes is left out: the resource is kept as it came, and
not found by that value.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import msgspec

from r4 import shapes
from r4.parameters import EVERY_TYPE, ORDER, PARAMETERS, Parameter, ParamType, parameters_of
from r4.resource import Resource
from r4.shapes import Date, Quantity, Reference, Rows, String, Token
from r4.texts import cap, normalise, sound

__all__ = ["FINGERPRINT", "RANK_LAST", "Index", "cap", "fingerprint", "index", "normalise", "rank", "sound"]

INDEX_VERSION = 1
"""Counted up when this code makes other rows of the same table: what is stored then has to be indexed anew."""

RANK_LAST = 2**63 - 1
"""The rank of a resource that has no date where its type is ordered by one."""

ABSENT = "absent"
"""The system of a computed "present" that is false because there is no element at all."""

_MAX_PATH = 400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_step = re.compile(r"(\w+)(?:\[(\w+)=(\w+)\])?").fullmatch

_Add = Callable[[Rows, Any], None]


class Index(msgspec.Struct, frozen=True, gc=False):
    """Rows without repetition; a date's `lower` and `upper` are None where a period is open."""

    tokens: list[Token]
    strings: list[String]
    dates: list[Date]
    references: list[Reference]
    quantities: list[Quantity]


def index(resource: Resource) -> Index:
    """Everything that `resource` is found by, but for its rank."""
    rows, tree = Rows(), _tree(resource.type)
    _walk(tree, resource.document, rows)
    for param in _presences(resource.type):
        there = rows.present.get(param)
        rows.tokens[param, "true" if there else "false", ABSENT if there is None else ""] = None
    if b'"reference"' in resource.tail:
        _add_references(resource.document, rows)
    return Index([*rows.tokens], [*rows.strings], [*rows.dates], [*rows.references], [*rows.quantities])


def rank(resource: Resource) -> int:
    """Its place in its type's default order, smallest first; see fhir.resource in the migration."""
    name = ORDER.get(resource.type)
    if name is None:
        return 0
    nodes: list[Any] = [resource.document]
    for member in parameters_of(resource.type)[name].paths[0].split("."):
        nodes = [value for node in nodes if type(node) is dict for value in _listed(node.get(member))]
    for value in nodes:
        lower = shapes.range_of(value.get("start") if type(value) is dict else value)[0]
        if lower is not None:
            return -((lower - _EPOCH) // _MICROSECOND)
    return RANK_LAST


def _listed(value: Any) -> list[Any]:
    return value if type(value) is list else [value]


class _Node(msgspec.Struct):
    """What is done with a value at a path, and with its members; `filtered`: if a member has this value."""

    adds: list[_Add] = []
    filtered: list[tuple[str, str, "_Node"]] = []
    members: dict[str, "_Node"] = {}

    def at(self, step: str) -> "_Node":
        match = _step(step)
        if match is None:
            raise ValueError(f"{step} is no step of a path")
        below = self.members.setdefault(match[1], _Node())
        if match[2] is not None:
            below.filtered.append((match[2], match[3], _Node()))
            below = below.filtered[-1][2]
        return below


def _walk(node: _Node, value: Any, rows: Rows) -> None:
    for item in value if type(value) is list else (value,):
        for add in node.adds:
            add(rows, item)
        if type(item) is dict:
            _walk_members(node, item, rows)


def _walk_members(node: _Node, value: dict[str, Any], rows: Rows) -> None:
    if members := node.members:
        for member, inner in value.items():
            below = members.get(member)
            if below is not None:
                _walk(below, inner, rows)
    for member, wanted, below in node.filtered:
        if value.get(member) == wanted:
            _walk(below, value, rows)


@lru_cache(maxsize=256)
def _tree(type_name: str) -> _Node:
    root, linked = _Node(), set()
    for row in parameters_of(type_name).values():
        for path in row.paths:
            node = root
            for step in path.split("."):
                node = node.at(step)
            node.adds.append(_add_of(row))
            if row.type is ParamType.REFERENCE and path not in linked:
                linked.add(path)  # which several parameters may have
                node.adds.append(partial(shapes.add_link, path))
    return root


def _add_of(row: Parameter) -> _Add:
    if row.type is ParamType.REFERENCE:
        return partial(shapes.add_identifier_of, row.name, row.targets)
    by_type: dict[ParamType, Callable[[str, Rows, Any], None]] = {
        ParamType.TOKEN: shapes.add_token if row.system is None else shapes.add_bare_token,
        ParamType.STRING: shapes.add_string,
        ParamType.DATE: shapes.add_date,
        ParamType.URI: shapes.add_bare_token,
        ParamType.QUANTITY: shapes.add_quantity,
    }
    computed = {"sound": shapes.add_sound, "present": shapes.add_presence}
    return partial(computed.get(row.computed) or by_type[row.type], row.name)


@lru_cache(maxsize=256)
def _presences(type_name: str) -> tuple[str, ...]:
    return tuple(row.name for row in parameters_of(type_name).values() if row.computed == "present")


def _add_references(document: dict[str, Any], rows: Rows) -> None:
    """Every `{"reference": "Type/id"}` but in contained resources; of any depth, so without recursion."""
    nodes: list[tuple[str, Any]] = [("", document)]
    while nodes:
        path, node = nodes.pop()
        for member, value in node.items():
            if type(value) is str:
                if member == "reference" and (match := shapes.link_of(value)) and path and len(path) <= _MAX_PATH:
                    rows.references[cap(path), match[1], match[2]] = None
            elif type(value) is dict:
                if member != "contained":
                    nodes.append((f"{path}.{member}" if path else member, value))
            elif type(value) is list and member != "contained":
                below = f"{path}.{member}" if path else member
                nodes += [(below, inner) for inner in value if type(inner) is dict]


def fingerprint(tables: Mapping[str, Mapping[str, Parameter]], order: Mapping[str, str]) -> str:
    """Of all that decides which rows a resource has."""
    decides = [
        (kind, row.name, row.type.value, row.paths, row.targets, row.system is None, row.computed)
        for kind, table in sorted(tables.items())
        for row in sorted(table.values(), key=lambda row: row.name)
    ]
    return hashlib.sha256(repr((INDEX_VERSION, decides, sorted(order.items()))).encode()).hexdigest()


FINGERPRINT = fingerprint({**PARAMETERS, "": EVERY_TYPE}, ORDER)
"""What is stored by another has to be indexed anew."""
