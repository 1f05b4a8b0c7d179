"""What a resource is found by: rows for fhir.token, fhir.string, fhir.date and fhir.reference, and its rank.

The paths are taken once per type from the table of search parameters. A value that is not what its parameter takes is
left out: the resource is kept as it came, and not found by that value.
"""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from r4.dates import parse_range
from r4.parameters import ORDER, ParamType, parameters_of
from r4.resource import ID_PATTERN, TYPE_PATTERN, Resource

RANK_LAST = 2**63 - 1
"""The rank of a resource that has no date where its type is ordered by one."""

_MAX_CHARACTERS = 400
_MAX_UTF8_BYTES = 1000  # two of them fit into one entry of an index, which may have 2704 bytes

_reference = re.compile(rf"({TYPE_PATTERN})/({ID_PATTERN})(?:/_history/{ID_PATTERN})?").fullmatch
_words = re.compile(r"[\s\-]+").split
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Shapes are told by members: https://hl7.org/fhir/R4/datatypes.html (HumanName, Address, ContactPoint).
_STRING_PARTS = frozenset(
    ("text", "family", "given", "prefix", "suffix", "line", "city", "district", "state", "postalCode", "country")
)
_OF_MANY_WORDS = frozenset(("text", "family", "given"))
_CONTACT_SYSTEMS = frozenset(("phone", "fax", "email", "pager", "url", "sms", "other"))

Token = tuple[str, str, str]
"""param, code, system"""
String = tuple[str, str, str]
"""param, value, exact"""
Date = tuple[str, datetime | None, datetime | None]
"""param, lower, upper"""
Reference = tuple[str, str, str]
"""path, to_type, to_id"""
Row = TypeVar("Row", Token, Date)  # a String and a Reference have the shape of a Token


class Index(msgspec.Struct, frozen=True, gc=False):
    """Rows without repetition; `lower` and `upper` are None where a period is open."""

    tokens: list[Token]
    strings: list[String]
    dates: list[Date]
    references: list[Reference]


def index(resource: Resource) -> Index:
    """Everything that `resource` is found by, but for its rank."""
    document = resource.document
    paths = _paths(resource.type)
    return Index(
        _rows(document, paths[ParamType.TOKEN], _tokens),
        _rows(document, paths[ParamType.STRING], _strings),
        _rows(document, paths[ParamType.DATE], _dates),
        _references(document) if b'"reference"' in resource.tail else [],
    )


def rank(resource: Resource) -> int:
    """Its place in its type's default order, smallest first; see fhir.resource in the migration."""
    name = ORDER.get(resource.type)
    if name is None:
        return 0
    path = parameters_of(resource.type)[name].paths[0]
    for value in _at(resource.document, tuple(path.split("."))):
        lower = _range(value.get("start") if type(value) is dict else value)[0]
        if lower is not None:
            return -((lower - _EPOCH) // _MICROSECOND)
    return RANK_LAST


def normalise(text: str) -> str:
    """Without accents and case, as strings are compared."""
    if text.isascii():
        return text.lower()
    letters = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()


def cap(text: str) -> str:
    """As much of a value as is indexed; a search has to cut what it looks for in the same way."""
    short = text[:_MAX_CHARACTERS]
    return short if short.isascii() else short.encode()[:_MAX_UTF8_BYTES].decode(errors="ignore")


_Path = tuple[str, tuple[str, ...]]
"""A parameter's name, and the members that lead to its values."""


@lru_cache(maxsize=256)
def _paths(type_name: str) -> dict[ParamType, tuple[_Path, ...]]:
    table = parameters_of(type_name).values()
    return {
        kind: tuple((row.name, tuple(path.split("."))) for row in table if row.type is kind for path in row.paths)
        for kind in ParamType
    }


def _rows(document: dict[str, Any], paths: tuple[_Path, ...], rows_of: Callable[[str, Any], list[Row]]) -> list[Row]:
    found: list[Row] = []
    for param, path in paths:
        for value in _at(document, path):
            found += rows_of(param, value)
    return list(dict.fromkeys(found))


def _at(document: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
    """The values at a path, lists walked through."""
    nodes: list[Any] = [document]
    for member in path:
        reached: list[Any] = []
        for node in nodes:
            value = node.get(member) if type(node) is dict else None
            if type(value) is list:
                reached += value
            elif value is not None:
                reached.append(value)
        nodes = reached
    return nodes


def _tokens(param: str, value: Any) -> list[Token]:
    """Codes, booleans, and Coding, CodeableConcept, Identifier and ContactPoint by their shape."""
    if type(value) is str:
        return [(param, cap(value), "")] if value else []
    if type(value) is bool:
        return [(param, "true" if value else "false", "")]
    if type(value) is not dict:
        return []
    codings = value.get("coding")
    if type(codings) is list:
        return [row for coding in codings if type(coding) is dict for row in _token(param, coding.get("code"), coding)]
    return _token(param, value["code"] if "code" in value else value.get("value"), value)


def _token(param: str, code: Any, value: dict[str, Any]) -> list[Token]:
    system = value.get("system")
    # What a ContactPoint calls its system is no namespace: https://hl7.org/fhir/R4/search.html#token
    named = cap(system) if type(system) is str and system not in _CONTACT_SYSTEMS else ""
    coded = cap(code) if type(code) is str else ""
    return [(param, coded, named)] if coded or named else []


def _strings(param: str, value: Any) -> list[String]:
    """Strings, and the parts of HumanName and Address, each on its own."""
    if type(value) is str:
        return _string(param, value, of_many=param in _OF_MANY_WORDS)
    if type(value) is not dict:
        return []
    rows: list[String] = []
    for part, texts in value.items():
        if part in _STRING_PARTS:
            for text in texts if type(texts) is list else (texts,):
                if type(text) is str:
                    rows += _string(param, text, of_many=part in _OF_MANY_WORDS)
    return rows


def _string(param: str, text: str, *, of_many: bool) -> list[String]:
    if not text:
        return []
    value = normalise(text)
    rows = [(param, cap(value), cap(text))]
    if of_many and (" " in value or "-" in value):
        # The second part of a double family name is found too; without `exact`, since it is not the whole.
        rows += [(param, cap(word), "") for word in _words(value)[1:] if word]
    return rows


def _dates(param: str, value: Any) -> list[Date]:
    lower, upper = _range(value)
    return [] if lower is None and upper is None else [(param, lower, upper)]


def _range(value: Any) -> tuple[datetime | None, datetime | None]:
    """Of a date or a Period; None where a period is open, twice None for what is neither."""
    try:
        if type(value) is str:
            return parse_range(value)
        if type(value) is not dict:
            return None, None
        start, end = value.get("start"), value.get("end")
        lower = None if start is None else parse_range(start)[0]
        upper = None if end is None else parse_range(end)[1]
    except (ValueError, TypeError):  # TypeError: a start or end that is no text
        return None, None
    return (None, None) if lower and upper and lower >= upper else (lower, upper)


def _references(document: dict[str, Any]) -> list[Reference]:
    """Every `{"reference": "Type/id"}` but in contained resources; of any depth, so without recursion."""
    found: dict[Reference, None] = {}
    nodes: list[tuple[str, Any]] = [("", document)]
    while nodes:
        path, node = nodes.pop()
        for member, value in node.items():
            if type(value) is str:
                if member == "reference" and (match := _reference(value)) and path and len(path) <= _MAX_CHARACTERS:
                    found[cap(path), match[1], match[2]] = None
            elif member != "contained":
                below = f"{path}.{member}" if path else member
                nodes += [(below, inner) for inner in _objects(value)]
    return list(found)


def _objects(value: Any) -> list[dict[str, Any]]:
    """Those that stand here; FHIR has no lists in lists."""
    if type(value) is dict:
        return [value]
    if type(value) is not list:
        return []
    return [item for item in value if type(item) is dict]
