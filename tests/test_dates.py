from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r4.dates import EARLIEST, LATEST, parse_range


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("2012", at(2012, 1, 1), at(2013, 1, 1)),
        ("2012-02", at(2012, 2, 1), at(2012, 3, 1)),
        ("2012-12", at(2012, 12, 1), at(2013, 1, 1)),
        ("2012-02-29", at(2012, 2, 29), at(2012, 3, 1)),
        ("2012-12-31", at(2012, 12, 31), at(2013, 1, 1)),
        ("2012-02-29T10:20", at(2012, 2, 29, 10, 20), at(2012, 2, 29, 10, 21)),
        ("2012-02-29T10:20:30", at(2012, 2, 29, 10, 20, 30), at(2012, 2, 29, 10, 20, 31)),
        ("2012-02-29T10:20:30Z", at(2012, 2, 29, 10, 20, 30), at(2012, 2, 29, 10, 20, 31)),
        ("2012-03-01T00:20:30+01:00", at(2012, 2, 29, 23, 20, 30), at(2012, 2, 29, 23, 20, 31)),
        ("2012-02-29T23:20-03:30", at(2012, 3, 1, 2, 50), at(2012, 3, 1, 2, 51)),
        ("2012-02-29T10:20:30.5Z", at(2012, 2, 29, 10, 20, 30, 500000), at(2012, 2, 29, 10, 20, 30, 600000)),
        ("2012-02-29T10:20:30.999Z", at(2012, 2, 29, 10, 20, 30, 999000), at(2012, 2, 29, 10, 20, 31)),
        ("2012-02-29T10:20:30.1234567Z", at(2012, 2, 29, 10, 20, 30, 123456), at(2012, 2, 29, 10, 20, 30, 123457)),
        ("2016-12-31T23:59:60Z", at(2017, 1, 1), at(2017, 1, 1, 0, 0, 1)),
        ("0001", EARLIEST, at(2, 1, 1)),
        ("0001-01-01T00:00:00+14:00", EARLIEST, at(1, 1, 1, 0, 0, 0, 1)),
        ("9999", at(9999, 1, 1), LATEST),
        ("9999-12", at(9999, 12, 1), LATEST),
        ("9999-12-31", at(9999, 12, 31), LATEST),
        ("9999-12-31T23:59:59-14:00", at(9999, 12, 31, 23, 59, 59, 999998), LATEST),
    ],
)
def test_ranges(text: str, lower: datetime, upper: datetime) -> None:
    """A date covers what its precision says, zone-corrected, up to the limits of the calendar."""
    assert parse_range(text) == (lower, upper)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "0000",
        "10000",
        "2013-13",
        "2013-13-45",
        "2013-02-29",
        "23 May 2009",
        "2013-5-3",
        "20130503",
        "2013-W05",
        "2013-05-03 10:00",
        "2013-05-03T",
        "2013-05-03T10",
        "2013-05-03T24:00",
        "2013-05-03T10:60",
        "2013-05-03T10:00:61",
        "2013-05-03T10:00:00.",
        "2013-05-03T10:00:00+15:00",
        "2013-05-03T10:00:00+14:01",
        "2013-05-03T10:00:00+01:60",
        "2013-05-03T10:00:00 01:00",
        "2013-05-03Z",
        "2013-05-03\n",
        ">2013",
        "٢٠١٣",
    ],
)
def test_malformed(text: str) -> None:
    """What is no date of FHIR's is refused."""
    with pytest.raises(ValueError, match=r"."):
        parse_range(text)


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_any_moment(moment: datetime, zone_minutes: int) -> None:
    """A moment written in any zone is the beginning of its own microsecond."""
    sign, minutes = "-" if zone_minutes < 0 else "+", abs(zone_minutes)
    text = f"{moment.isoformat(timespec='microseconds')}{sign}{minutes // 60:02}:{minutes % 60:02}"
    lower, upper = parse_range(text)
    assert lower == moment.replace(tzinfo=UTC) - timedelta(minutes=zone_minutes)
    assert upper - lower == timedelta(microseconds=1)
