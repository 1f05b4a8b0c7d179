"""The listing of files that a post office gives as a string of XML, and its dates. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from lxml import etree

from ingestion.post_office.results import Transient

DUBAI = timezone(timedelta(hours=4))
DAYS_MAX = 100
"""A search of more is refused."""

_declaration = re.compile(r"\s*<\?xml[^>]*\?>")
_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_date = re.compile(r"\s*(\d{1,2})/(\d{1,2})/(\d{4})\s+(\d{1,2}):(\d{2})(?::(\d{2}))?\s*", re.ASCII)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a listing names it. Only file_id is sure: what could not be read of the rest is empty or None."""

    file_id: str
    name: str
    sender_id: str
    receiver_id: str
    at: datetime | None
    records: int | None
    downloaded: bool | None


@dataclass(frozen=True, slots=True)
class Listing:
    entries: list[Listed]
    """Each file once, in the order given."""
    skipped: int = 0
    """Entries whose file id cannot be used."""
    cut: bool = False
    """There were more than the limit."""


def read_listing(text: str | None, entries_max: int) -> Listing:
    """Raises Transient for what is no listing; None, blank text and an element without entries are empty ones."""
    if text is None or not text.strip():
        return Listing([])
    entries: dict[str, Listed] = {}
    skipped = 0
    for element in _parsed(text).iter("{*}File"):
        file_id = element.get("FileID", "")
        if not _is_usable(file_id, 200):
            skipped += 1
        elif file_id not in entries:
            if len(entries) == entries_max:
                return Listing(list(entries.values()), skipped, cut=True)
            entries[file_id] = _listed(file_id, element)
    return Listing(list(entries.values()), skipped)


def _parsed(text: str) -> etree._Element:
    # It stands in a string, whatever encoding its declaration names: .NET writes utf-16 there.
    text = _declaration.sub("", text.lstrip("\ufeff"), count=1)
    if "<!DOCTYPE" in text:
        raise Transient("its listing has a DTD")
    # The answer was capped already, and without a DTD there are no entities that could grow.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    try:
        root = etree.fromstring(text.encode(), parser)
        is_listing = etree.QName(root).localname == "Files"
    except (etree.XMLSyntaxError, ValueError):
        is_listing = False
    if not is_listing:
        raise Transient("its listing cannot be read")
    return root


def _listed(file_id: str, element: etree._Element) -> Listed:
    records = element.get("RecordCount", "").strip()
    return Listed(
        file_id=file_id,
        name=without_controls(element.get("FileName")),
        sender_id=without_controls(element.get("SenderID")),
        receiver_id=without_controls(element.get("ReceiverID")),
        at=from_dubai(element.get("TransactionDate", "")),
        records=int(records) if re.fullmatch(r"[0-9]{1,9}", records) else None,
        downloaded=_BOOLEANS.get(element.get("IsDownloaded", "").strip().lower()),
    )


def _is_usable(text: str, length_max: int) -> bool:
    return bool(text.strip()) and len(text) <= length_max and not _controls.search(text)


def without_controls(text: str | None, length_max: int = 255) -> str:
    return _controls.sub("", text or "").strip()[:length_max]


def from_dubai(text: str) -> datetime | None:
    """`dd/MM/yyyy HH:mm`, with or without seconds, local to Dubai; None for anything else."""
    if not (found := _date.fullmatch(text)):
        return None
    day, month, year, hour, minute, second = (int(part or 0) for part in found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=DUBAI)
    except ValueError:
        return None


def to_dubai(at: datetime) -> str:
    return at.astimezone(DUBAI).strftime("%d/%m/%Y %H:%M:%S")


def windows(
    since: datetime, until: datetime, *, days: float = 30, overlap: timedelta = timedelta(hours=1)
) -> Iterator[tuple[datetime, datetime]]:
    """Cuts the time in pieces to search one by one, none over `days`; each begins `overlap` before the end of the last.

    The ends are on whole seconds, outwards, for that is all that a search can say.
    """
    span = timedelta(days=days)
    if not timedelta() <= overlap < span <= timedelta(days=DAYS_MAX):
        raise ValueError(f"windows of more than their overlap and at most {DAYS_MAX} days")
    start, until = since.replace(microsecond=0), whole_second_after(until)
    while start < until:
        end = min(start + span, until)
        yield start, end
        start = end if end == until else end - overlap


def whole_second_after(at: datetime) -> datetime:
    return at if at.microsecond == 0 else at.replace(microsecond=0) + timedelta(seconds=1)
