"""What a report's URL asks for. What cannot be understood is refused, in words that say what could be."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from base.errors import Invalid, NotAcceptable
from handlers.cursors import Cursors
from storage.report_tables import Analysis, Report
from storage.reports import Page, place_of

DUBAI = ZoneInfo("Asia/Dubai")
COUNT, COUNT_MAX = 20, 1000
LONGEST = 200
"""Characters of a value: no id is longer."""

FORMATS = {"json": "json", "application/json": "json", "csv": "csv", "text/csv": "csv"}
_ALWAYS = ("format", "_pretty")
_YEARS = range(1900, 2200)
_is_day = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII).fullmatch
_is_count = re.compile(r"\d{1,9}", re.ASCII).fullmatch
_GROUPINGS = ("code", "clinician")

Parameters = dict[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A page, or an export; `query` is what its cursor is bound to, `parameters` what its links repeat."""

    page: Page
    query: Sequence[object]
    parameters: Parameters


def parameters_of(request: web.Request, allowed: Iterable[str]) -> Parameters:
    """Each once. Raises Invalid for one that is unknown, said twice, or no text that could be looked up."""
    allowed = (*allowed, *_ALWAYS)
    found: Parameters = {}
    for name, value in request.query.items():
        if name not in allowed:
            raise Invalid(f"there is no such parameter here; there are {', '.join(allowed)}", expression=_shown(name))
        if name in found:
            raise Invalid(f"{name} is said twice", expression=name)
        if name != "_cursor" and len(value) > LONGEST:
            raise Invalid(f"{name} has at most {LONGEST} characters", expression=name)
        if not is_text(value):
            raise Invalid(f"{name} holds characters that are no text", expression=name)
        found[name] = value
    return found


def is_text(value: str) -> bool:
    """Whether the database can hold it: no NUL, and nothing that was no UTF-8."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _shown(name: str) -> str:
    return name[:50] if name.isascii() and name.isprintable() else "query"


def asked_of(report: Report, parameters: Parameters, tenant_id: int, cursors: Cursors, *, all_rows: bool) -> Asked:
    """`all_rows` where no count says otherwise. Raises Invalid."""
    sort = parameters.get("sort") or report.default_sort
    if sort.removeprefix("-") not in report.sorts:
        raise Invalid(f"it can be sorted by {', '.join(report.sorts)}, each with - before it for descending", expression="sort")
    since, before = days_of(parameters)
    filters = {name: parameters[name] for name in report.filters if parameters.get(name)}
    if "status" in filters and filters["status"] not in report.statuses:
        raise Invalid(f"status is one of {', '.join(report.statuses)}", expression="status")
    said = sorted((name, parameters.get(name, "")) for name in ("from", "to", *report.filters))
    query = ["report", report.name, sort, said]
    count = count_of(parameters)
    after: Sequence[str] = ()
    if "_cursor" in parameters:
        after = cursors.open(tenant_id, query, parameters["_cursor"], list[str])
        if len(after) != len(place_of(report, sort)):  # a secret that others share
            raise Invalid("this cursor is not one of this list; begin again without it", expression="_cursor")
    rows_max = count if count is not None or all_rows else COUNT
    return Asked(Page(sort, since, before, filters, after, rows_max), query, parameters)


def count_of(parameters: Mapping[str, str]) -> int | None:
    """Raises Invalid. More than the most is the most, as in lists."""
    if "_count" not in parameters:
        return None
    if not _is_count(parameters["_count"]) or int(parameters["_count"]) < 1:
        raise Invalid(f"_count is a whole number from 1 to {COUNT_MAX}", expression="_count")
    return min(int(parameters["_count"]), COUNT_MAX)


def days_of(parameters: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """The instants at which the days begin and are over, in Dubai. Raises Invalid."""
    first, last = _day(parameters, "from"), _day(parameters, "to")
    if first and last and first > last:
        raise Invalid("from is after to", expression="from")
    return _midnight(first) if first else None, _midnight(last + timedelta(days=1)) if last else None


def _day(parameters: Mapping[str, str], name: str) -> date | None:
    given = parameters.get(name)
    if not given:
        return None
    try:
        found = date.fromisoformat(given) if _is_day(given) else None
    except ValueError:
        found = None
    if found is None or found.year not in _YEARS:
        raise Invalid(f"{name} is a day like 2026-04-30, of the years {_YEARS[0]} to {_YEARS[-1]}", expression=name)
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), DUBAI)


def grouping_of(analysis: Analysis, parameters: Mapping[str, str]) -> Parameters:
    """An analysis' own parameters. Raises Invalid."""
    given = {name: parameters[name] for name in analysis.parameters if parameters.get(name)}
    if given.get("by", _GROUPINGS[0]) not in _GROUPINGS:
        raise Invalid(f"by is {' or '.join(_GROUPINGS)}; without it both are told apart", expression="by")
    return given


def format_of(request: web.Request, parameters: Mapping[str, str]) -> str:
    """`json` or `csv`: the parameter goes before Accept. Raises NotAcceptable."""
    if given := parameters.get("format"):
        if given.lower() not in FORMATS:
            raise NotAcceptable("format is json or csv", expression="format")
        return FORMATS[given.lower()]
    found = _accepted(",".join(request.headers.getall("Accept", ["*/*"])) or "*/*")
    if found is None:
        raise NotAcceptable("reports are application/json or text/csv")
    return found


@lru_cache(maxsize=256)
def _accepted(accept: str) -> str | None:
    """RFC 9110, 12.5.1. What is named more closely goes first among those that are taken equally gladly, then JSON."""
    ranges = [_range_of(given) for given in accept.lower().split(",")]
    json, csv = (_gladness(ranges, kind) for kind in ("application/json", "text/csv"))
    if max(json[0], csv[0]) <= 0:
        return None
    return "csv" if csv > json else "json"


def _range_of(given: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in given.split(";"))
    try:
        return kind, next((float(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    except ValueError:
        return kind, 0.0


def _gladness(ranges: Iterable[tuple[str, float]], kind: str) -> tuple[float, int]:
    """The weight of the range that names it most closely, and how closely."""
    names = ("*/*", kind.split("/", maxsplit=1)[0] + "/*", kind)
    closest, weight = max(((names.index(given), weight) for given, weight in ranges if given in names), default=(0, 0.0))
    return weight, closest


def link_of(base_url: str, path: str, parameters: Mapping[str, str], cursor: str) -> str:
    return f"{base_url}{path}?{urlencode({**parameters, '_cursor': cursor})}"
