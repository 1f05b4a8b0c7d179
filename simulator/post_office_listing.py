"""Lists of files: who asked for what by SearchTransactions, and how files are written in a list."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from simulator.claims_text import DUBAI
from simulator.post_office_behaviour import Behaviour
from simulator.post_office_box import COPY, Box, StoredFile
from simulator.post_office_soap import Call

BITS = {"submission": 2, "remittance": 8}
_ALL_BITS = 2 | 4 | 8 | 16 | 32
_MOST = timedelta(days=100)
_FORMATS = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d")
Listed = tuple[StoredFile, str]
"""A file, and the id under which it is listed."""


@dataclass(frozen=True, slots=True)
class Refused:
    code: int
    message: str


def listed(box: Box, files: Iterable[StoredFile]) -> list[Listed]:
    """Each once, or twice where the box's behaviour says so."""
    again = {"none": None, "same_id": "", "two_ids": COPY}[box.behaviour.duplicates]
    one = [(file, file.file_id) for file in files]
    return one if again is None else one + [(file, file_id + again) for file, file_id in one]


def new_files(box: Box) -> list[Listed]:
    """Received, and not acknowledged."""
    there = (file for file in box.files() if file.file_id in box.received)
    return [(file, file_id) for file, file_id in listed(box, there) if box.is_new(file, file_id)]


def document(box: Box, files: Iterable[Listed]) -> str:
    rows = "".join(
        f'<File FileID="{escape(file_id)}" FileName="{escape(file.name)}" SenderID="{escape(file.sender_id)}"'
        f' ReceiverID="{escape(file.receiver_id)}" TransactionDate="{file.at:%d/%m/%Y %H:%M:%S}" RecordCount="{file.records}"'
        f' IsDownloaded="{is_downloaded(box, file, file_id)}"/>'
        for file, file_id in files
    )
    return f"<Files>{rows}</Files>"


def is_downloaded(box: Box, file: StoredFile, file_id: str) -> bool:
    """By whom it was sent to."""
    return file_id in file.acknowledged if file.file_id in box.received else file.is_taken


def search(box: Box, call: Call) -> list[Listed] | Refused:
    """What SearchTransactions finds. Raises SoapFault where a number is none."""
    direction, kinds, status = call.number("direction"), call.number("transactionID"), call.number("TransactionStatus")
    if direction not in (1, 2) or status not in (0, 1, 2) or not (kinds == -1 or (kinds > 0 and not kinds & ~_ALL_BITS)):
        return Refused(-3, "direction, transactionID or TransactionStatus is not a known value")
    if kinds == -1 and not any(map(call.text, ("ePartner", "transactionFileName", "transactionFromDate", "transactionToDate"))):
        return Refused(-10, "no search criteria")
    period = _period(call.text("transactionFromDate"), call.text("transactionToDate"))
    if isinstance(period, Refused):
        return period
    held = box.sent if direction == 1 else box.received
    is_wanted = _filter(call, direction, kinds, period)
    candidates = listed(box, (file for file in box.files() if file.file_id in held and is_wanted(file)))
    found = [one for one in candidates if status == 0 or is_downloaded(box, *one) == (status == 2)]
    return _limited(found, box.behaviour)


def _limited(found: list[Listed], behaviour: Behaviour) -> list[Listed]:
    return found[: behaviour.search_limit] if behaviour.search_limit else found


def _filter(call: Call, direction: int, kinds: int, period: tuple[datetime, datetime]) -> Callable[[StoredFile], bool]:
    start, end = period
    own, partner, name = call.text("callerLicense"), call.text("ePartner"), call.text("transactionFileName").lower()
    least, most = call.number("minRecordCount"), call.number("maxRecordCount")

    def is_wanted(file: StoredFile) -> bool:
        ours, theirs = (file.sender_id, file.receiver_id) if direction == 1 else (file.receiver_id, file.sender_id)
        return (
            (kinds == -1 or bool(kinds & BITS[file.kind]))
            and start <= file.at <= end
            and own in ("", ours)
            and partner in ("", theirs)
            and name in file.name.lower()
            and (least == -1 or file.records >= least)
            and (most == -1 or file.records <= most)
        )

    return is_wanted


def _period(start: str, end: str) -> tuple[datetime, datetime] | Refused:
    """Without dates it has no bounds; with one of them it ends now, or begins a hundred days before its end."""
    if not start and not end:
        return datetime.min.replace(tzinfo=DUBAI), datetime.max.replace(tzinfo=DUBAI)
    last = _date(end) if end else datetime.now(DUBAI)
    first = _date(start) if start else last and last - _MOST
    if first is None or last is None or first > last:
        return Refused(-3, "transactionFromDate or transactionToDate is no date, or they are the wrong way round")
    return (first, last) if last - first <= _MOST else Refused(-5, "the range of dates is over 100 days")


def _date(text: str) -> datetime | None:
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=DUBAI)
        except ValueError:
            continue
    return None
