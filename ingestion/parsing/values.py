"""From an element's text to a value: each kind of text is met here once. Pure.

A converter is made for one element, so that what it says of it names it: `Activity/Net is no amount`. It is given text that is
stripped and not empty, appends to `odd` what is worth a warning, and raises Aside where the claim cannot be taken.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any, TypeAlias

Odd: TypeAlias = list[str]
Convert: TypeAlias = Callable[[str, Odd], Any]
Converter: TypeAlias = Callable[[str], Convert]
"""Given an element's name, its conversion."""

DUBAI = timezone(timedelta(hours=4), "Asia/Dubai")
"""The Emirates know no daylight saving."""

ID_MAX = 120
"""Characters of what stands in keys: three of them, four bytes each, still fit an entry of a btree."""

TEXT_MAX = 65536
AMOUNT_LIMIT = Decimal(10**12)
"""numeric(14,2) ends below it."""

_NUMBER_MAX = 40  # longer text is not remembered, and no number of ours
_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MOMENT = re.compile(r"([0-9]{2})/([0-9]{2})/([0-9]{4}) ([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{2}))?")
_EMIRATES_ID = re.compile(r"[0-9]{3}-[0-9]{4}-[0-9]{7}-[0-9]")
_CENT = Decimal("0.01")
_ZERO = Decimal("0.00")
_FINEST = -20


class Aside(Exception):
    """This claim cannot be taken. The message names elements, never what stands in them."""


def words(limit: int = ID_MAX, *, at_most: int = ID_MAX) -> Converter:
    """Text over the schema's `limit` is odd, and over `at_most` refused."""

    def make(name: str) -> Convert:
        is_long = f"{name} is longer than {limit} characters"

        def convert(text: str, odd: Odd) -> str:
            if len(text) > limit:
                _refuse_beyond(at_most, text, name)
                odd.append(is_long)
            return text

        return convert

    return make


def ident(name: str) -> Convert:
    """Where the schema says that no space stands in it."""
    has_spaces = f"{name} holds a space, or what does not print"

    def convert(text: str, odd: Odd) -> str:
        if len(text) > ID_MAX:
            _refuse_beyond(ID_MAX, text, name)
        if " " in text or not text.isprintable():
            odd.append(has_spaces)
        return text

    return convert


def emirates_id(name: str) -> Convert:
    is_malformed = f"{name} is not of the form ddd-dddd-ddddddd-d"

    def convert(text: str, odd: Odd) -> str:
        if _EMIRATES_ID.fullmatch(text) is None:
            _refuse_beyond(ID_MAX, text, name)
            odd.append(is_malformed)
        return text

    return convert


def codes(*listed: str | int) -> Converter:
    """Unknown codes are kept. 03 is 3, for the schema's codes are integers, but where they are words."""
    known = {str(code): str(code) for code in listed}

    def make(name: str) -> Convert:
        is_unknown = f"{name} is none of the codes that are known"

        def convert(text: str, odd: Odd) -> str:
            code = known.get(text) or known.get(text.lstrip("+0"))
            if code is None:
                _refuse_beyond(ID_MAX, text, name)
                odd.append(is_unknown)
                return text
            return code

        return convert

    return make


def large_text(name: str) -> Convert:
    """What is too large for a row stays in the file."""
    is_large = f"{name} is longer than {TEXT_MAX} characters, and is left in the file"

    def convert(text: str, odd: Odd) -> str | None:
        if len(text) > TEXT_MAX:
            odd.append(is_large)
            return None
        return text

    return convert


def base64_size(_: str) -> Convert:
    """How many bytes it stands for."""

    def convert(text: str, _: Odd) -> int:
        digits = len(text) - sum(map(text.count, " \t\r\n="))
        return digits * 3 // 4

    return convert


def money(name: str) -> Convert:
    """xs:float to two places, halves away from zero."""

    def convert(text: str, _: Odd) -> Decimal:
        if len(text) > _NUMBER_MAX:
            raise Aside(f"{name} is no amount")
        try:
            return to_money(text)
        except ArithmeticError:
            raise Aside(f"{name} is no amount, or one of a trillion and more") from None

    return convert


def quantity(name: str) -> Convert:
    """As it is written, digits and all."""
    is_negative = f"{name} is negative"

    def convert(text: str, odd: Odd) -> Decimal:
        if len(text) > _NUMBER_MAX:
            raise Aside(f"{name} is no number")
        try:
            value = to_quantity(text)
        except ArithmeticError:
            raise Aside(f"{name} is no number, or out of all bounds") from None
        if value < 0:
            odd.append(is_negative)
        return value

    return convert


def moment(name: str) -> Convert:
    def convert(text: str, _: Odd) -> datetime:
        if len(text) > _NUMBER_MAX:
            raise Aside(f"{name} is no date and time")
        try:
            return to_moment(text)
        except ValueError:
            raise Aside(f"{name} is no date and time") from None

    return convert


def count(name: str) -> Convert:
    def convert(text: str, _: Odd) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise Aside(f"{name} is no count")
        return int(text)

    return convert


def one_of(meanings: dict[str, Any]) -> Converter:
    """Other than `codes`, nothing else will do."""

    def make(name: str) -> Convert:
        def convert(text: str, _: Odd) -> Any:
            if text not in meanings:
                raise Aside(f"{name} is none of {_listed(meanings)}")
            return meanings[text]

        return convert

    return make


@lru_cache(16384)
def to_money(text: str) -> Decimal:
    """ArithmeticError where it is none. Remembered, for amounts and times come again and again."""
    value = _number(text).quantize(_CENT, ROUND_HALF_UP) + _ZERO  # which makes 0.00 of -0.00
    if abs(value) >= AMOUNT_LIMIT:
        raise ArithmeticError
    return value


@lru_cache(1024)
def to_quantity(text: str) -> Decimal:
    value = _number(text)
    digits_after = value.as_tuple().exponent
    if abs(value) >= AMOUNT_LIMIT or not isinstance(digits_after, int) or digits_after < _FINEST:
        raise ArithmeticError
    return value.quantize(Decimal(1)) if digits_after > 0 else value


@lru_cache(16384)
def to_moment(text: str) -> datetime:
    """ValueError where it is none, or of another age: times far from ours overflow in other zones."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError
    day, month, year, hour, minute, second = match.groups("0")
    if not "1900" <= year < "2200":
        raise ValueError
    return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=DUBAI)


def _number(text: str) -> Decimal:
    """Narrower than Decimal's own reading, which takes underscores, NaN, and the digits of all scripts."""
    if _FLOAT.fullmatch(text) is None:
        raise ArithmeticError
    return Decimal(text)


def _refuse_beyond(at_most: int, text: str, name: str) -> None:
    if len(text) > at_most:
        raise Aside(f"{name} is longer than {at_most} characters")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
