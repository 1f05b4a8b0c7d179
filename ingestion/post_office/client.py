"""The client of a post office: one for a process, and a mailbox for each facility.

Whatever fails is a PostOfficeError: Transient, after the attempts were used up; LoginRefused; Refused; TooLarge.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
import structlog

from base.config import is_trustworthy
from base.log import about
from ingestion.post_office.limits import DEFAULT_LIMITS, Limits
from ingestion.post_office.listing import Listed, read_listing, to_dubai, whole_second_after, windows, without_controls
from ingestion.post_office.results import (
    LoginRefused,
    PostOfficeError,
    Refused,
    TooLarge,
    Transient,
    pause_s,
)
from ingestion.post_office.soap import Soap
from ingestion.post_office.transport import make_http_client

__all__ = [
    "Limits",
    "Listed",
    "LoginRefused",
    "Mailbox",
    "Payload",
    "PostOffice",
    "PostOfficeError",
    "Refused",
    "TooLarge",
    "Transient",
    "open_post_office",
    "windows",
]

log = structlog.get_logger()
T = TypeVar("T")
_calls = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Payload:
    name: str
    content: bytes


@asynccontextmanager
async def open_post_office(
    limits: Limits = DEFAULT_LIMITS, *, soap: Literal["1.1", "1.2"] = "1.1"
) -> AsyncIterator["PostOffice"]:
    client = await asyncio.to_thread(make_http_client, limits)
    async with client:
        yield PostOffice(await asyncio.to_thread(Soap, client, limits, soap), limits)


class PostOffice:
    """Opened by open_post_office."""

    def __init__(self, soap: Soap, limits: Limits) -> None:
        self._soap = soap
        self._limits = limits

    def mailbox(self, url: str, login: str, password: str, licence: str = "") -> "Mailbox":
        """The licence is what a search names as its caller. Raises Refused for an address that a password must not go to."""
        if not _is_address(url):
            raise Refused("its address must begin with https:// (http:// on a loopback address only), without credentials")
        return Mailbox(self._soap, self._limits, url, {"login": login, "pwd": password}, licence)


class Mailbox:
    """A facility's; may be asked many things at once. After a refused login it asks nothing any more."""

    def __init__(self, soap: Soap, limits: Limits, url: str, credentials: dict[str, str], licence: str) -> None:
        self._soap = soap
        self._limits = limits
        self._service = soap.service(url)
        self._credentials = credentials
        self._licence = licence
        self._login_refused = False

    async def new(self) -> list[Listed]:
        """What others sent to this login and is not acknowledged yet. Cut at the limit: the rest comes when these are done."""
        listing = await self._ask(
            "GetNewTransactions", lambda answer: read_listing(answer.xmlTransaction, self._limits.entries)
        )
        if listing.skipped or listing.cut:
            log.warning("listing.read_in_part", skipped=listing.skipped, cut=listing.cut)
        return listing.entries

    async def search(self, *, direction: int, kind: int, start: datetime, end: datetime, status: int) -> list[Listed]:
        """One window of at most 100 days. Raises TooLarge when it holds more than the limit: ask for a shorter one.

        direction: 1 sent, 2 received. kind: 2 submissions, 8 remittances, -1 all. status: 1 not yet downloaded by the
        receiver, 2 downloaded.
        """
        listing = await self._ask(
            "SearchTransactions",
            lambda answer: read_listing(answer.foundTransactions, self._limits.entries),
            direction=direction,
            callerLicense=self._licence,
            ePartner="",
            transactionID=kind,
            TransactionStatus=status,
            transactionFileName="",
            transactionFromDate=to_dubai(start),
            transactionToDate=to_dubai(whole_second_after(end)),
            minRecordCount=-1,
            maxRecordCount=-1,
        )
        if listing.cut:
            raise TooLarge(f"SearchTransactions: more than {self._limits.entries} files in one window")
        if listing.skipped:
            log.warning("listing.read_in_part", skipped=listing.skipped, cut=False)
        return listing.entries

    async def download(self, file_id: str) -> Payload:
        return await self._ask("DownloadTransactionFile", _payload, fileId=file_id)

    async def acknowledge(self, file_id: str) -> None:
        """Only after what was downloaded is committed: it is not listed again."""
        await self._ask("SetTransactionDownloaded", lambda _: None, fieldId=file_id)

    async def _ask(self, operation: str, read: Callable[[Any], T], **arguments: Any) -> T:
        problem: PostOfficeError
        try:
            # A call has an id, which each of its attempts' lines bears.
            with about(call=next(_calls)):
                async with asyncio.timeout(self._limits.call_s) as timeout:
                    return await self._persist(operation, read, arguments, timeout.when() or 0.0)
        except TimeoutError:
            problem = Transient(f"not done within {self._limits.call_s:g} s")
        except PostOfficeError as error:
            problem = error
        self._login_refused |= isinstance(problem, LoginRefused)
        problem.operation = operation
        raise problem

    async def _persist(self, operation: str, read: Callable[[Any], T], arguments: dict[str, Any], deadline: float) -> T:
        attempt = 0
        while True:
            attempt += 1
            if self._login_refused:
                raise LoginRefused("not asked, for the login failed before")
            try:
                return await self._soap.call(self._service, operation, self._credentials | arguments, read)
            except Transient as problem:
                wait_s = pause_s(attempt, problem.retry_after_s, self._limits)
                if attempt == self._limits.attempts or asyncio.get_running_loop().time() + wait_s > deadline:
                    raise
                log.info("post_office.asked_again", operation=operation, attempt=attempt, reason=problem.reason)
            await asyncio.sleep(wait_s)


def _payload(answer: Any) -> Payload:
    if not answer.file:
        raise Transient("its answer has no file, or one that is no base64")
    return Payload(without_controls(answer.fileName), answer.file)


def _is_address(url: str) -> bool:
    try:
        httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return is_trustworthy(url) and "@" not in urlsplit(url).netloc
