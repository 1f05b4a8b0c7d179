"""What narrows a history, an $everything or a review: `_since`, `_type`, `start` and `end`. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from base.errors import Invalid
from r4.dates import EARLIEST, LATEST, parse_range
from r4.search import FORMATS
from r4.types import RESOURCE_TYPES

# What says how an answer is shown, not what is in it.
_CONTROLS = {"_count", "_cursor", "_summary", "_elements", *FORMATS}


@dataclass(frozen=True, slots=True)
class Filters:
    """`since`: last changed then or later. `types`: empty is any. [start, end): when it was that a resource tells of.

    `used` are the pairs that were understood, for the links.
    """

    since: datetime = EARLIEST
    types: tuple[str, ...] = ()
    start: datetime = EARLIEST
    end: datetime = LATEST
    used: tuple[tuple[str, str], ...] = ()

    @property
    def dated(self) -> bool:
        return self.start > EARLIEST or self.end < LATEST

    @property
    def bound(self) -> list[tuple[str, str]]:
        """What a cursor is bound to: how a page is written may change from one to the next."""
        return sorted(pair for pair in self.used if pair[0] not in FORMATS)

    def let_pass(self, type_name: str, last_updated: datetime) -> bool:
        return last_updated >= self.since and (not self.types or type_name in self.types)


NONE = Filters()


def parse_filters(pairs: Iterable[tuple[str, str]], taken: Collection[str], *, strict: bool = False) -> Filters:
    """`taken` are the names that count here; another is left out, or refused when `strict`. One given twice narrows further.

    Raises Invalid with the parameter's name as expression; no message repeats a value.
    """
    found = NONE
    for name, value in pairs:
        if name in taken and value:
            found = replace(_READERS[name](found, name, value), used=(*found.used, (name, value)))
        elif name in FORMATS and value:
            found = replace(found, used=(*found.used, (name, value)))
        elif strict and name not in taken and name not in _CONTROLS:
            raise Invalid("there is no parameter of this name here", expression=name)
    if found.start >= found.end:
        raise Invalid("end is before start", expression="end")
    return found


def _since(found: Filters, name: str, text: str) -> Filters:
    return replace(found, since=max(found.since, _range(name, text)[0]))


def _start(found: Filters, name: str, text: str) -> Filters:
    return replace(found, start=max(found.start, _range(name, text)[0]))


def _end(found: Filters, name: str, text: str) -> Filters:
    """With all of the day, month or year that is named."""
    return replace(found, end=min(found.end, _range(name, text)[1]))


def _types(found: Filters, name: str, text: str) -> Filters:
    """Repeated or with commas: any of them (operation-patient-everything)."""
    wanted = [part for part in text.split(",") if part]
    if not wanted or not RESOURCE_TYPES.issuperset(wanted):
        raise Invalid("_type takes names of R4's resource types, with commas between", expression=name)
    return replace(found, types=tuple(dict.fromkeys((*found.types, *wanted))))


def _range(name: str, text: str) -> tuple[datetime, datetime]:
    # A raw + in a query is decoded to a space; in a date it can only have been the sign of a time zone.
    try:
        return parse_range(text.replace(" ", "+"))
    except ValueError:
        raise Invalid(f"{name} takes yyyy, yyyy-mm, yyyy-mm-dd or a time with its zone", expression=name) from None


_READERS = {"_since": _since, "_type": _types, "start": _start, "end": _end}
