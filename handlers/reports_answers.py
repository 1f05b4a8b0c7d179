"""What the answers of all report routes have in common: who asks, how old the answer is, and whether the client has it already.

HTTP's times have whole seconds, and a report may be refreshed twice in one. Last-Modified is the second in which the refresh
was over, once that has come, and a client's time must not be before the refresh itself. The ETag has the refresh exactly.
"""

from datetime import UTC, datetime, time, timedelta
from email.utils import format_datetime, parsedate_to_datetime

from aiohttp import web

from base.identity import Identity
from handlers.exchange import EXCHANGE
from handlers.reports_query import DUBAI
from handlers.services import SERVICES, Services
from storage.reports import State

PRIVATE = {"Cache-Control": "private, no-cache"}


def who(request: web.Request) -> tuple[Services, Identity]:
    identity = request[EXCHANGE].identity
    assert identity is not None  # noqa: S101  # routing lets nobody in without
    return request.app[SERVICES], identity


def tenant_of(identity: Identity) -> int:
    return identity.tenant_id or 0


def time_text(moment: datetime) -> str:
    return moment.astimezone(DUBAI).isoformat()


class Freshness:
    """Since when an answer is as it is. `form` is json or csv: of one URL they are two representations."""

    def __init__(self, state: State, form: str, *, ages: bool) -> None:
        today = state.at.astimezone(DUBAI).date()
        self._since = max(state.refreshed_at, datetime.combine(today, time(), DUBAI)) if ages else state.refreshed_at
        day = f"-{today.toordinal():x}" if ages else ""
        self._etag = f'W/"{int(state.refreshed_at.timestamp() * 1_000_000):x}{day}-{form}"'
        self._at = state.at

    @property
    def headers(self) -> dict[str, str]:
        modified = format_datetime(self.last_modified.astimezone(UTC), usegmt=True)
        return {"ETag": self._etag, "Last-Modified": modified, "Vary": "Accept, Accept-Encoding", **PRIVATE}

    @property
    def last_modified(self) -> datetime:
        down = self._since.replace(microsecond=0)
        up = down if down == self._since else down + timedelta(seconds=1)
        return up if up <= self._at else down

    def is_known(self, request: web.Request) -> bool:
        """If-None-Match goes before If-Modified-Since, and an unreadable date counts for nothing (RFC 9110, 13.1)."""
        headers = request.headers
        if "If-None-Match" in headers:
            return has_etag(",".join(headers.getall("If-None-Match")), self._etag)
        try:
            since = parsedate_to_datetime(headers.get("If-Modified-Since", ""))
        except (ValueError, OverflowError):
            return False
        return since.tzinfo is not None and self._since <= since


def has_etag(header: str, etag: str) -> bool:
    """Weak comparison."""
    return any(part.strip().removeprefix("W/") in ("*", etag.removeprefix("W/")) for part in header.split(","))
