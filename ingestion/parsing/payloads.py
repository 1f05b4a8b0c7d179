"""From a payload as it was downloaded to its XML document: raw, zip or gzip; UTF-8 or UTF-16. Pure, with bounded memory."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Protocol

from ingestion.claims import NotClaims

PACKED_MAX = 64 * 1024 * 1024
UNPACKED_MAX = 256 * 1024 * 1024
RATIO_MAX = 250
"""Claims pack 10 to 40 times smaller. Deflate can do 1032, and then it is a bomb."""

_RATIO_FREE = 1024 * 1024  # so much may come out of anything
_MEMBERS_MAX = 32
_CHUNK = 256 * 1024
_ZIP, _ZIP_EMPTY, _GZIP = b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b"
_ENTRY = b"PK\x01\x02"
_SPACE = b" \t\r\n"
_ENCRYPTED = 0x41  # bits of a member's flags: encrypted, strongly so
_UTF16_DECLARED = re.compile(
    rb"""<\?xml\s[^>]{0,80}?encoding\s*=\s*["'](?:utf-?16|ucs-?2|iso-10646-ucs-2)[^>]{0,80}\?>""", re.IGNORECASE
)
_DECLARATION = re.compile(r"<\?xml\s[^>]{0,200}\?>")
# All that zipfile raises of one archive or another.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def unpack(payload: bytes, *, packed_max: int = PACKED_MAX, unpacked_max: int = UNPACKED_MAX) -> bytes:
    """The XML document: without a byte order mark, space before it, or UTF-16. Raises NotClaims, whatever the bytes are."""
    if len(payload) > packed_max:
        raise NotClaims(f"it is larger than {packed_max} bytes")
    document = _document(payload, unpacked_max)
    if document.startswith((_ZIP, _ZIP_EMPTY, _GZIP)):
        raise NotClaims("it is an archive in an archive")
    document = _as_utf8(document)
    if not document:
        raise NotClaims("it is empty")
    if not document.startswith(b"<"):
        raise NotClaims("it is no XML")
    if len(document) > unpacked_max:
        raise NotClaims(f"it is larger than {unpacked_max} bytes when unpacked")
    return document


def _document(payload: bytes, unpacked_max: int) -> bytes:
    if payload.startswith((_ZIP, _ZIP_EMPTY)):
        return _from_zip(payload, unpacked_max)
    if payload.startswith(_GZIP):
        return _gathered(_from_gzip(payload), len(payload), unpacked_max)
    return payload


def _gathered(chunks: Iterator[bytes], packed: int, unpacked_max: int) -> bytes:
    document = io.BytesIO()
    for chunk in chunks:
        document.write(chunk)
        if document.tell() > unpacked_max:
            raise NotClaims(f"it is larger than {unpacked_max} bytes when unpacked")
        if document.tell() > max(_RATIO_FREE, RATIO_MAX * packed):
            raise NotClaims(f"it grows more than {RATIO_MAX} times when unpacked")
    return document.getvalue()  # which is no copy


def _from_gzip(payload: bytes) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    rest = payload
    try:
        while rest and not inflate.eof:
            yield inflate.decompress(rest, _CHUNK)
            rest = inflate.unconsumed_tail
    except zlib.error:
        raise NotClaims("the gzip is damaged") from None
    if not inflate.eof:
        raise NotClaims("the gzip is cut off")
    if inflate.unused_data.strip(b"\0"):
        raise NotClaims("more follows the gzip's end")


def _from_zip(payload: bytes, unpacked_max: int) -> bytes:
    if payload.count(_ENTRY) > _MEMBERS_MAX:  # counted before zipfile makes an object of each
        raise NotClaims(f"the zip has more than {_MEMBERS_MAX} members")
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive, archive.open(_member(archive.infolist())) as file:
            return _gathered(_chunks(file), len(payload), unpacked_max)
    except _BROKEN:
        raise NotClaims("the zip is damaged or cut off") from None


def _chunks(file: _Readable) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _member(members: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """The one that is XML by its name, or the only one."""
    if any(_is_trick(member.orig_filename) for member in members):
        raise NotClaims("a member's name in the zip leads out of it")
    files = [member for member in members if not member.is_dir()]
    wanted = [member for member in files if member.filename.lower().endswith(".xml")] or files
    if len(wanted) != 1:
        raise NotClaims(f"the zip has {len(wanted) or 'no'} members to choose from")
    if wanted[0].flag_bits & _ENCRYPTED:
        raise NotClaims("the zip is encrypted")
    if wanted[0].compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise NotClaims("the zip is packed by a method that is not read here")
    return wanted[0]


def _is_trick(name: str) -> bool:
    """Nothing is written by these names, but no honest sender makes them."""
    return name.startswith("/") or any(sign in name for sign in "\\\0:") or ".." in name.split("/")


def _as_utf8(document: bytes) -> bytes:
    encoding = _utf16(document)
    if encoding is None:
        document = document.removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
        # Text that was made in memory often says so, and was then written as UTF-8.
        declared = _UTF16_DECLARED.match(document)
        return document[declared.end() :].lstrip(_SPACE) if declared else document
    try:
        text = document.decode(encoding).lstrip("\ufeff \t\r\n")
        declaration = _DECLARATION.match(text)  # it says UTF-16, which is true no more
        return text[declaration.end() if declaration else 0 :].lstrip().encode()
    except UnicodeError:
        raise NotClaims("it is not the UTF-16 that it seems to be") from None


def _utf16(document: bytes) -> str | None:
    """By its mark; without one by the zero bytes of its first characters."""
    first, second = document[:1], document[1:2]
    if first + second in {b"\xff\xfe", b"\xfe\xff"}:
        return "utf-16"
    if second == b"\0" and first and first in b"<" + _SPACE:
        return "utf-16-le"
    if first == b"\0" and second and second in b"<" + _SPACE:
        return "utf-16-be"
    return None
