"""What tests of the post office share: one that serves a few files, and requests to it as any SOAP client would make them."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import aiohttp
from lxml import etree

from simulator.claims import PLAIN, facilities, generate
from simulator.post_office import Behaviour, Box, Office, serving
from simulator.post_office_soap import NAMESPACE

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
ENVELOPE_12 = "http://www.w3.org/2003/05/soap-envelope"
SEARCH: dict[str, Any] = {
    "direction": 1,
    "callerLicense": "",
    "ePartner": "",
    "transactionID": 2,
    "TransactionStatus": 0,
    "transactionFileName": "",
    "transactionFromDate": "01/04/2026 00:00:00",
    "transactionToDate": "30/06/2026 23:59:59",
    "minRecordCount": -1,
    "maxRecordCount": -1,
}
"""All that was sent in the time in which generated files lie."""


@dataclass
class Reply:
    status: int
    body: bytes
    code: int | None = None
    parts: dict[str, str] | None = None

    @property
    def files(self) -> list[dict[str, str]]:
        """What a list lists."""
        assert self.parts is not None
        text = self.parts.get("xmlTransaction") or self.parts.get("foundTransactions") or "<Files/>"
        return [dict(file.attrib) for file in etree.fromstring(text).iterfind("File")]

    @property
    def ids(self) -> list[str]:
        return [file["FileID"] for file in self.files]

    @property
    def content(self) -> bytes:
        assert self.parts is not None
        return base64.b64decode(self.parts["file"])


@dataclass
class Simulated:
    office: Office
    box: Box
    """The first facility's."""
    session: aiohttp.ClientSession

    @property
    def received(self) -> list[str]:
        return list(self.box.received)

    async def post(self, body: str | bytes, **headers: str) -> Reply:
        async with self.session.post(
            self.office.url, data=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        ) as response:
            return Reply(response.status, await response.read())

    async def ask(self, operation: str, /, _box: Box | None = None, **arguments: Any) -> Reply:
        """By SOAP 1.1; a Reply without code and parts where the answer is no SOAP."""
        profile = (_box or self.box).profile
        given = {"login": profile.login, "pwd": profile.password} | arguments
        inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in given.items())
        asked = f'<{operation} xmlns="{NAMESPACE}">{inner}</{operation}>'
        body = f'<s:Envelope xmlns:s="{ENVELOPE}"><s:Body>{asked}</s:Body></s:Envelope>'
        action = f'"{NAMESPACE}{operation}"'
        reply = await self.post(body.encode(), Content_Type="text/xml; charset=utf-8", SOAPAction=action)
        return read(reply, operation) if reply.status == 200 else reply

    async def search(self, **arguments: Any) -> Reply:
        return await self.ask("SearchTransactions", **(SEARCH | arguments))

    async def news(self) -> Reply:
        return await self.ask("GetNewTransactions")

    async def download(self, file_id: str) -> Reply:
        return await self.ask("DownloadTransactionFile", fileId=file_id)

    async def acknowledge(self, file_id: str) -> Reply:
        return await self.ask("SetTransactionDownloaded", fieldId=file_id)


def read(reply: Reply, operation: str) -> Reply:
    """The answer of an operation. Raises XMLSyntaxError where it breaks off."""
    root = etree.fromstring(reply.body, etree.XMLParser(huge_tree=True))
    answer = root.find(f"*/{{{NAMESPACE}}}{operation}Response")
    assert answer is not None
    parts = {etree.QName(part).localname: part.text or "" for part in answer}
    return Reply(reply.status, reply.body, int(parts.pop(f"{operation}Result")), parts)


@asynccontextmanager
async def simulated(behaviour: Behaviour | None = None, *, claims: int = 60) -> AsyncIterator[Simulated]:
    """Two facilities; the first behaves as told, and has files of about ten claims each."""
    first, second = facilities(2)
    box = Box(first, generate(1, first, claims=claims, claims_per_file=10, mix=PLAIN), behaviour or Behaviour())
    boxes = {first.login: box, second.login: Box(second, generate(1, second, claims=10, mix=PLAIN))}
    timeout = aiohttp.ClientTimeout(total=20)
    async with serving(boxes) as office, aiohttp.ClientSession(timeout=timeout) as session:
        yield Simulated(office, box, session)
