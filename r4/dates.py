"""FHIR's dates as the ranges of time that they cover.

`2012` is a whole year and `2012-03-01T12:00:00Z` a second: https://hl7.org/fhir/R4/search.html#date.
Import and search share this.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

_DATE = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2})(?:T"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?)?"
    r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})?)?)?)?"
)
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
_WIDEST_ZONE = timedelta(hours=14)
_SECOND = timedelta(seconds=1)


@lru_cache(maxsize=4096)  # the dates of what is written together are few
def parse_range(text: str) -> tuple[datetime, datetime]:
    """The range [lower, upper) in UTC that a date or time covers by its precision; without a zone it is UTC already.

    Raises ValueError when it is none. What a zone moves beyond the years 1 to 9999 is cut off there.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("not a date as FHIR writes it")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if hour is not None:
        return _range_of_time(
            datetime(int(year), int(month), int(day), int(hour), int(minute), tzinfo=_zone(zone)), second, fraction
        )
    lower = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
    if day is not None:
        return lower, _moved(lower, timedelta(days=1))
    if month is not None and month != "12":
        return lower, lower.replace(month=lower.month + 1)
    return lower, LATEST if lower.year == 9999 else datetime(lower.year + 1, 1, 1, tzinfo=UTC)


def _range_of_time(minute: datetime, second: str | None, fraction: str | None) -> tuple[datetime, datetime]:
    if second is None:
        return _not_empty(_in_utc(minute, timedelta()), _in_utc(minute, timedelta(minutes=1)))
    seconds = int(second)
    if seconds > 60:  # 60 is the leap second
        raise ValueError("second is not from 0 to 60")
    offset = timedelta(seconds=seconds)
    if fraction is None:
        return _not_empty(_in_utc(minute, offset), _in_utc(minute, offset + _SECOND))
    offset += timedelta(microseconds=int(fraction[:6].ljust(6, "0")))
    width = timedelta(microseconds=10 ** max(0, 6 - len(fraction)))
    return _not_empty(_in_utc(minute, offset), _in_utc(minute, offset + width))


def _not_empty(lower: datetime, upper: datetime) -> tuple[datetime, datetime]:
    """Both ends may have been cut off at the same end of time, and the database has no difference of two infinities."""
    return min(lower, LATEST - datetime.resolution), max(upper, EARLIEST + datetime.resolution)


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[4:]))
    if offset > _WIDEST_ZONE or text[4] > "5":
        raise ValueError("no zone is further than 14 hours from UTC")
    return timezone(-offset if text[0] == "-" else offset)


def _in_utc(moment: datetime, offset: timedelta) -> datetime:
    zone = moment.utcoffset() or timedelta()
    return _moved(moment.replace(tzinfo=UTC), offset - zone)


def _moved(moment: datetime, offset: timedelta) -> datetime:
    try:
        return moment + offset
    except OverflowError:
        return LATEST if offset > timedelta() else EARLIEST
