"""What a download carries: a document as it is, packed, in another encoding, far too long, or no document at all."""

import base64
import gzip
import io
import zipfile
from random import Random

from simulator.post_office_behaviour import number_of
from simulator.post_office_box import Box, StoredFile

_PACKINGS = ("raw", "zip", "gzip")
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


def content(box: Box, file: StoredFile) -> tuple[str, bytes]:
    """The file's name, and its content in base64."""
    behaviour = box.behaviour
    if box.is_garbage(file):
        return file.name, base64.b64encode(_garbage(file))
    packing, encoding = behaviour.packing, behaviour.encoding
    if packing == "mixed":
        packing = _PACKINGS[number_of(file.file_id, "packing") % 3]  # type: ignore[assignment]
    if encoding == "mixed":
        encoding = _ENCODINGS[number_of(file.file_id, "encoding") % 3]  # type: ignore[assignment]
    if packing == "raw" and encoding == "utf-8" and not behaviour.huge_bytes:
        return file.name, file.base64
    document = _encoded(base64.b64decode(file.base64) + b" " * behaviour.huge_bytes, encoding)
    return file.name.replace(".xml", ".zip") if packing == "zip" else file.name, base64.b64encode(
        _packed(document, packing, file)
    )


def _encoded(document: bytes, encoding: str) -> bytes:
    if encoding == "utf-8":
        return document
    text = document.decode()
    return (text.replace('encoding="utf-8"', 'encoding="utf-16"', 1) if encoding == "utf-16" else text).encode(encoding)


def _packed(document: bytes, packing: str, file: StoredFile) -> bytes:
    if packing == "gzip":
        return gzip.compress(document, 6, mtime=0)
    if packing == "raw":
        return document
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(file.name), document, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _garbage(file: StoredFile) -> bytes:
    """Noise, an error page, or a document that breaks off."""
    number = number_of(file.file_id, "garbage")
    if number % 3 == 0:
        return b"\x01" + Random(number).randbytes(5000)
    if number % 3 == 1:
        return b"<html><body><h1>Service Unavailable</h1></body></html>"
    document = base64.b64decode(file.base64)
    return document[: len(document) // 2]
