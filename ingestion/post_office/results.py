"""What a post office's answers mean: go on, ask again, or stop. Pure.

No message here holds anything that was sent or answered, for both carry credentials or patients' data.
"""

import random
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from ingestion.post_office.limits import Limits


class PostOfficeError(Exception):
    """A call that failed; `operation` is filled in by the mailbox."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.operation = ""

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}" if self.operation else self.reason


class Transient(PostOfficeError):
    """It may work later. `retry_after_s`: the post office named a time."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class LoginRefused(PostOfficeError):
    """The facility stops: asking again may lock its account."""


class Refused(PostOfficeError):
    """Asking the same again would get the same answer. `code`: the result code, where that is what refused."""

    def __init__(self, reason: str, *, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class TooLarge(PostOfficeError):
    """The answer is larger than the limits allow."""


EMPTY = 2
"""The result code which says that nothing is there."""

RESULTS: dict[int, tuple[type[PostOfficeError] | None, str]] = {
    0: (None, "done"),
    1: (None, "done, with warnings"),
    EMPTY: (None, "nothing is there"),
    3: (None, "no approved drugs"),
    4: (None, "grouped by default"),
    -1: (LoginRefused, "login failed"),
    -2: (Refused, "validation errors"),
    -3: (Refused, "a parameter is empty or invalid"),
    -4: (Transient, "unexpected error"),
    -5: (Refused, "the range of dates is over 100 days"),
    -6: (Refused, "there is no such file"),
    -7: (Refused, "the transaction is not supported"),
    -10: (Refused, "there are no search criteria"),
}

_RETRIED_STATUS = {408, 429, *range(500, 600)}
_OUR_FAULTS = {"Client", "Sender", "VersionMismatch", "MustUnderstand", "DataEncodingUnknown"}


def check_result(code: int | None) -> None:
    """Raises what the result code of an answer stands for, if it is no success."""
    if code is None:
        raise Transient("its answer has no result code")
    kind, meaning = RESULTS.get(code, (None if code >= 0 else Refused, "unknown to us"))
    reason = f"result code {code}: {meaning}"
    if kind is Refused:
        raise Refused(reason, code=code)
    if kind is not None:
        raise kind(reason)


def of_status(status: int, retry_after: str | None, now: datetime) -> PostOfficeError | None:
    """What an HTTP status means; None for 200, and for 500, which SOAP sends its faults with."""
    if status in (200, 500):
        return None
    if status in _RETRIED_STATUS:
        return Transient(f"it answered HTTP {status}", retry_after_s=_seconds(retry_after, now))
    hint = ", which leads elsewhere: give the address where it is now" if 300 <= status < 400 else ""
    return Refused(f"it answered HTTP {status}{hint}")


def of_fault(code: str | None) -> PostOfficeError:
    """A SOAP fault: the caller's is final, the server's and any unknown one is not."""
    kind = (code or "").strip().rpartition(":")[2].partition(".")[0]
    if kind in _OUR_FAULTS:
        return Refused(f"SOAP fault {kind}")
    return Transient(f"SOAP fault {kind if kind in ('Server', 'Receiver') else 'of an unknown kind'}")


def of_connection(error: httpx.RequestError) -> PostOfficeError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(f"its certificate is not trusted: {cause.verify_message}")
    return Transient(f"no answer came ({type(error).__name__})")


def pause_s(attempt: int, retry_after_s: float | None, limits: Limits) -> float:
    """The wait after an attempt (from 1): anything up to a bound that doubles, so that many do not come back at once."""
    bound = min(limits.backoff_max_s, limits.backoff_s * 2 ** (attempt - 1))
    return (retry_after_s or 0.0) + random.uniform(0, bound)  # noqa: S311  # jitter guards nothing


def _seconds(retry_after: str | None, now: datetime) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds or a date."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
