"""HTTP for zeep: answers with a limit, no redirects, nothing logged."""

import logging
import re
import zlib
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from lxml import etree
from zeep.transports import AsyncTransport

from ingestion.post_office.limits import Limits
from ingestion.post_office.results import TooLarge, Transient

# Their debug lines hold bodies, and zeep reports a value that it cannot convert together with that value.
for _name, _level in (("zeep", logging.CRITICAL), ("httpx", logging.WARNING), ("httpcore", logging.WARNING)):
    logging.getLogger(_name).setLevel(_level)

_encoding = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)")
_ENCODINGS = {b"utf-8", b"us-ascii", b"iso-8859-1", b"windows-1252"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as much of `requests.Response` as zeep looks at."""

    status_code: int
    content: bytes
    retry_after: str | None
    headers: dict[str, str] = field(default_factory=dict)
    """Empty, so that whatever the content claims to be is read as XML."""
    encoding: str = "utf-8"


def make_http_client(limits: Limits) -> httpx.AsyncClient:
    """Blocks for some 20 ms: certificates are loaded (those of SSL_CERT_FILE, where that is set)."""
    tls = httpx.create_ssl_context()
    # The post office's Diffie-Hellman keys are too short for OpenSSL's default; who it is is verified all the same.
    tls.set_ciphers("DEFAULT:@SECLEVEL=1")
    timeout = httpx.Timeout(limits.read_s, connect=limits.connect_s, pool=None)
    pool = httpx.Limits(max_connections=limits.connections, max_keepalive_connections=limits.connections // 2)
    # A proxy of the environment is used, but never for this machine: plain HTTP is allowed there alone.
    near = dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]"))
    # Facilities share the client: what the server lets one remember is nothing to another.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(verify=tls, timeout=timeout, limits=pool, cookies=no_cookies, follow_redirects=False, mounts=near)


class CappedTransport(AsyncTransport):
    def __init__(self, client: httpx.AsyncClient, limits: Limits) -> None:
        # Without a client of its own for WSDL files none can be fetched from anywhere; ours is a file.
        super().__init__(client=client, wsdl_client=client)  # type: ignore[no-untyped-call]
        client.headers = httpx.Headers({"User-Agent": "Sluice", "Accept-Encoding": "gzip"})
        self._bytes_max = limits.answer_bytes

    async def post_xml(self, address: str, envelope: etree._Element, headers: dict[str, str]) -> Answer:
        message = etree.tostring(envelope, xml_declaration=True, encoding="utf-8")
        async with self.client.stream("POST", address, content=message, headers=headers) as response:
            retry_after = response.headers.get("Retry-After")
            if response.status_code not in (200, 500):  # the body of any other would say nothing more
                return Answer(response.status_code, b"", retry_after)
            return Answer(response.status_code, await self._content(response), retry_after)

    async def _content(self, response: httpx.Response) -> bytes:
        unpack = _unpacking(response.headers.get("Content-Encoding", ""))
        if int(response.headers.get("Content-Length", 0)) > self._bytes_max:
            raise self._too_large()
        parts, size = [], 0
        async for chunk in response.aiter_raw():
            part = _unpacked(unpack, chunk, self._bytes_max - size + 1) if unpack else chunk
            size += len(part)
            if size > self._bytes_max:
                raise self._too_large()
            parts.append(part)
        if unpack and not unpack.eof:
            raise Transient("its answer is cut off")
        return b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"its answer is larger than {self._bytes_max} bytes")


def _unpacking(encoding: str) -> Any:
    """Ours and not httpx's, which unpacks a whole chunk whatever that grows to."""
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(wbits=31)
    raise Transient("its answer is compressed in a way that was not asked for")


def _unpacked(unpack: Any, chunk: bytes, bytes_max: int) -> bytes:
    try:
        part: bytes = unpack.decompress(chunk, bytes_max)
    except zlib.error:
        raise Transient("its answer cannot be unpacked") from None
    return part


def check_plain(content: bytes) -> None:
    """Before it is parsed as a huge tree, which lifts the parser's own limit on entities: it must have none.

    An encoding in which `<!DOCTYPE` would not be found by its bytes is refused too.
    """
    head = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip()
    declared = _encoding.match(head)
    if not head.startswith(b"<") or b"\0" in head or (declared and declared[1].lower() not in _ENCODINGS):
        raise Transient("its answer is no XML in an encoding that we take")
    if b"<!DOCTYPE" in content:
        raise Transient("its answer has a DTD")
