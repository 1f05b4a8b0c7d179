"""The rows that a value gives, by its shape: shapes are told by members, as https://hl7.org/fhir/R4/datatypes.html has them.

Each `add_…` puts the rows of one value of a parameter in; a value that is not what its parameter takes gives none.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Context, Decimal
from typing import Any

from r4.dates import parse_range
from r4.resource import ID_PATTERN, TYPE_PATTERN
from r4.texts import cap, normalise, sound, words

Token = tuple[str, str, str]
"""param, code, system"""
String = tuple[str, str, str]
"""param, value, exact"""
Date = tuple[str, datetime | None, datetime | None]
"""param, lower, upper"""
Quantity = tuple[str, Decimal, str, str, str]
"""param, value, system, code, unit"""
Reference = tuple[str, str, str]
"""path, to_type, to_id"""

_STRING_PARTS = frozenset(  # of HumanName and Address
    ("text", "family", "given", "prefix", "suffix", "line", "city", "district", "state", "postalCode", "country")
)
_OF_MANY_WORDS = frozenset(("text", "family", "given"))
_SOUNDING_PARTS = ("family", "given", "text")
_MAX_MAGNITUDE = 19  # beyond 10^±20 nothing is measured in medicine
_digits = Context(prec=40, traps=[]).create_decimal

link_of = re.compile(rf"({TYPE_PATTERN})/({ID_PATTERN})(?:/_history/{ID_PATTERN})?").fullmatch


class Rows:
    """Rows under way, none twice. `present`: the parameters that have a value, and whether it is other than false."""

    __slots__ = ("dates", "present", "quantities", "references", "strings", "tokens")

    def __init__(self) -> None:
        self.tokens: dict[Token, None] = {}
        self.strings: dict[String, None] = {}
        self.dates: dict[Date, None] = {}
        self.references: dict[Reference, None] = {}
        self.quantities: dict[Quantity, None] = {}
        self.present: dict[str, bool] = {}


def add_token(param: str, rows: Rows, value: Any) -> None:
    """Codes, booleans, Coding, CodeableConcept and Identifier."""
    if type(value) is not dict:
        add_bare_token(param, rows, value)
        return
    codings = value.get("coding")
    if type(codings) is list:
        for coding in codings:
            if type(coding) is dict:
                _add_coded(param, rows, coding.get("code"), coding)
                _add_words(param, rows, coding.get("display"))
    elif "code" in value or "display" in value:
        _add_coded(param, rows, value.get("code"), value)
        _add_words(param, rows, value.get("display"))
    else:
        add_identifier(param, rows, value)
    if "text" in value:
        _add_words(param, rows, value["text"])


def add_bare_token(param: str, rows: Rows, value: Any) -> None:
    """Codes, booleans, URIs and ContactPoints: what a ContactPoint calls its system is no namespace."""
    if type(value) is dict:
        value = value.get("value")
    if type(value) is str:
        if value:
            rows.tokens[param, cap(value), ""] = None
    elif type(value) is bool:
        rows.tokens[param, "true" if value else "false", ""] = None


def add_identifier(param: str, rows: Rows, value: dict[str, Any]) -> None:
    """And by its type, https://hl7.org/fhir/R4/search.html#token: where it has one, and a value."""
    code, kind = value.get("value"), value.get("type")
    _add_coded(param, rows, code, value)
    if type(kind) is not dict:
        return
    _add_words(param, rows, kind.get("text"))
    codings = kind.get("coding")
    if type(code) is str and code and type(codings) is list:
        for coding in codings:
            if type(coding) is dict and type(coding.get("code")) is str and coding["code"]:
                system = _text(coding, "system")
                rows.tokens[f"{param}:of-type", cap(code), cap(f"{system}|{coding['code']}")] = None


def _add_coded(param: str, rows: Rows, code: Any, value: dict[str, Any]) -> None:
    system = _text(value, "system")
    coded = cap(code) if type(code) is str else ""
    if coded or system:
        rows.tokens[param, coded, cap(system)] = None


def _add_words(param: str, rows: Rows, text: Any) -> None:
    """For `:text`."""
    if type(text) is str and text:
        _add_text(f"{param}:text", rows, text, of_many=True)


def _text(value: dict[str, Any], member: str) -> str:
    found = value.get(member)
    return found if type(found) is str else ""


def add_string(param: str, rows: Rows, value: Any) -> None:
    """Strings, and the parts of HumanName and Address, each on its own."""
    if type(value) is str:
        _add_text(param, rows, value, of_many=param in _OF_MANY_WORDS)
    elif type(value) is dict:
        for part, texts in value.items():
            if part in _STRING_PARTS:
                for text in texts if type(texts) is list else (texts,):
                    if type(text) is str:
                        _add_text(param, rows, text, of_many=part in _OF_MANY_WORDS)


def _add_text(param: str, rows: Rows, text: str, *, of_many: bool) -> None:
    if not text:
        return
    value = normalise(text)
    rows.strings[param, cap(value), cap(text)] = None
    if of_many and (" " in value or "-" in value):
        # The second part of a double family name is found too; without `exact`, since it is not the whole.
        for word in words(value)[1:]:
            if word:
                rows.strings[param, cap(word), ""] = None


def add_sound(param: str, rows: Rows, value: Any) -> None:
    """Of a name or a string: how all of it sounds, and each of its words."""
    for text in _names(value):
        whole = sound(text)
        if whole:
            rows.strings[param, cap(whole), ""] = None
            if " " in whole:
                for word in whole.split(" "):
                    rows.strings[param, cap(word), ""] = None


def _names(value: Any) -> Iterator[str]:
    if type(value) is str:
        yield value
    elif type(value) is dict:
        for part in _SOUNDING_PARTS:
            texts = value.get(part)
            for text in texts if type(texts) is list else (texts,):
                if type(text) is str:
                    yield text


def add_presence(param: str, rows: Rows, value: Any) -> None:
    if value is not None:
        rows.present[param] = rows.present.get(param, False) or value is not False


def add_date(param: str, rows: Rows, value: Any) -> None:
    lower, upper = range_of(value)
    if lower is not None or upper is not None:
        rows.dates[param, lower, upper] = None


def range_of(value: Any) -> tuple[datetime | None, datetime | None]:
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


def add_quantity(param: str, rows: Rows, value: Any) -> None:
    if type(value) is not dict:
        return
    number = value.get("value")
    if type(number) not in (int, float, Decimal):
        return
    # A float's own text: it has the digits that stood in the JSON, as far as a float holds them.
    exact = _digits(str(number))
    if exact.is_finite() and abs(exact.adjusted()) <= _MAX_MAGNITUDE:
        system, code, unit = (cap(_text(value, member)) for member in ("system", "code", "unit"))
        rows.quantities[param, exact, system, code, unit] = None


def add_identifier_of(param: str, targets: tuple[str, ...], rows: Rows, value: Any) -> None:
    """A Reference's identifier, unless the Reference says that it leads to another type than `targets`."""
    identifier = value.get("identifier") if type(value) is dict else None
    if type(identifier) is dict:
        link = link_of(_text(value, "reference"))
        kind = link[1] if link else _text(value, "type")
        if not kind or not targets or kind in targets:
            _add_coded(f"{param}:identifier", rows, identifier.get("value"), identifier)


def add_link(path: str, rows: Rows, value: Any) -> None:
    """Of a Reference that leads to no `Type/id`, which all have in any case: that it is there, and its URL."""
    if type(value) is not dict:
        return
    target = _text(value, "reference")
    if target.startswith(("http://", "https://")):
        rows.references[path, "", cap(target)] = None
    elif target:
        if link_of(target) is None:
            rows.references[path, "", ""] = None
    elif _text(value, "display") or _text(value, "type") or type(value.get("identifier")) is dict:
        rows.references[path, "", ""] = None
