"""The listing of files, its dates, and the windows of a search."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.post_office.listing import DUBAI, Listed, from_dubai, read_listing, to_dubai, windows
from ingestion.post_office.results import Transient

FILE = (
    '<File FileID="{}" FileName="a.xml" SenderID="S" ReceiverID="R" TransactionDate="{}" RecordCount="{}" IsDownloaded="{}"/>'
)


def one(date: str = "11/04/2026 10:44:03", count: str = "15", downloaded: str = "False") -> Listed:
    (found,) = read_listing(f"<Files>{FILE.format('F1', date, count, downloaded)}</Files>", 10).entries
    return found


@pytest.mark.parametrize("text", [None, "", " \n", "<Files></Files>", "<Files/>", '<?xml version="1.0"?>\n<Files/>'])
def test_nothing_is_said_in_many_ways(text: str | None) -> None:
    """An empty listing, an empty string and no string at all are all a listing of nothing."""
    assert read_listing(text, 10).entries == []


def test_an_entry_is_read() -> None:
    """Every attribute arrives in its type, the time as Dubai's."""
    assert one() == Listed("F1", "a.xml", "S", "R", datetime(2026, 4, 11, 6, 44, 3, tzinfo=UTC), 15, downloaded=False)


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1"])
def test_the_declaration_of_a_string_is_not_believed(encoding: str) -> None:
    """A string that calls itself utf-16, as .NET's do, or anything else, is read, also with a byte order mark."""
    text = f'\ufeff<?xml version="1.0" encoding="{encoding}"?><Files>{FILE.format("Fé", "", "", "")}</Files>'
    assert [found.file_id for found in read_listing(text, 10).entries] == ["Fé"]


@pytest.mark.parametrize("date", ["", "31/02/2026 10:00", "2026-04-11 10:44", "11/04/2026", "11/04/2026 25:00", "x"])
def test_a_bad_date_is_none(date: str) -> None:
    """A date that is none takes nothing away from its entry."""
    assert one(date=date).at is None


@pytest.mark.parametrize(("date", "minute"), [("11/04/2026 9:05", 5), ("1/4/2026 09:06:07", 6)])
def test_a_date_may_be_short(date: str, minute: int) -> None:
    """Seconds may be missing, and the hour and the day may be of one digit."""
    at = one(date=date).at
    assert at is not None
    assert (at.hour, at.minute, at.utcoffset()) == (9, minute, timedelta(hours=4))


@pytest.mark.parametrize(
    ("count", "downloaded", "expected"),
    [("3", "True", (3, True)), ("-1", "0", (None, False)), ("many", "perhaps", (None, None)), ("٣", "", (None, None))],
)
def test_bad_numbers_and_booleans_are_none(count: str, downloaded: str, expected: tuple[int | None, bool | None]) -> None:
    """Only digits are a number, and only True, False, 1 and 0 are booleans."""
    found = one(count=count, downloaded=downloaded)
    assert (found.records, found.downloaded) == expected


def test_unusable_ids_are_skipped_and_repeated_ones_collapse() -> None:
    """Each usable id comes once, in the order given, and the others are counted."""
    ids = ["b", "a", "b", "", "  ", "x&#10;y", "x&#133;y", "9" * 201, "{0-a} é", "a"]
    listing = read_listing(f"<Files>{''.join(FILE.format(i, '', '', '') for i in ids)}<File/><Other/></Files>", 10)
    assert [found.file_id for found in listing.entries] == ["b", "a", "{0-a} é"]
    assert listing.skipped == 6


def test_a_listing_is_cut_at_the_limit() -> None:
    """More files than the limit are cut off, and the listing says so; as many as the limit are not."""
    text = f"<Files>{''.join(FILE.format(n, '', '', '') for n in range(4))}</Files>"
    assert (len((cut := read_listing(text, 3)).entries), cut.cut) == (3, True)
    assert (len((whole := read_listing(text, 4)).entries), whole.cut) == (4, False)


@pytest.mark.parametrize(
    "text",
    [
        "<Files><File",
        "hello",
        "<html><body/></html>",
        '<!DOCTYPE Files [<!ENTITY a "a">]><Files>&a;</Files>',
        '<Files a="\ud800"/>',
    ],
)
def test_what_is_no_listing_is_asked_for_again(text: str) -> None:
    """A string that is cut off, or anything else, or has a DTD, is never taken for an empty listing."""
    with pytest.raises(Transient):
        read_listing(text, 10)


moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments, moments, st.floats(2, 100), st.integers(0, 40))
def test_windows_cover_the_time(since: datetime, until: datetime, days: float, overlap_hours: int) -> None:
    """Together they cover all of the time, none is over the limit, and each overlaps the one before by what was asked."""
    overlap = timedelta(hours=overlap_hours)
    found = list(windows(since, until, days=days, overlap=overlap))
    assert bool(found) == (since.replace(microsecond=0) < until)
    assert all(start < end and end - start <= timedelta(days=days) for start, end in found)
    assert all(later == end - overlap for (_, end), (later, _) in pairwise(found))
    if found:
        assert found[0][0] <= since
        assert found[-1][1] >= until
        assert all(end < found[-1][1] for _, end in found[:-1])


@pytest.mark.parametrize(("days", "overlap"), [(101, 1), (100.001, 1), (1, 24), (1, -1)])
def test_windows_that_would_be_refused_or_never_end(days: float, overlap: int) -> None:
    """Over 100 days is refused by the post office, and a window within its overlap gets nowhere: both are refused here."""
    now = datetime.now(UTC)
    with pytest.raises(ValueError, match="windows"):
        list(windows(now - timedelta(days=300), now, days=days, overlap=timedelta(hours=overlap)))


@given(moments)
def test_dates_come_back(at: datetime) -> None:
    """What is sent as a date is the same moment when it is read, whatever zone it was given in."""
    whole = at.replace(microsecond=0)
    assert from_dubai(to_dubai(at)) == whole
    assert from_dubai(to_dubai(at.astimezone(timezone(timedelta(hours=-7))))) == whole
    assert to_dubai(datetime(2026, 1, 1, 22, tzinfo=UTC)) == "02/01/2026 02:00:00"
    assert DUBAI.utcoffset(None) == timedelta(hours=4)
