"""Files of FHIR JSON as a stream of documents: one a line, or one a file; plain or gzip; in memory that stays bounded."""

import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
"""A Bundle may be larger than a resource, and is held in memory while it is taken apart."""

_NAMES = (".ndjson", ".json", ".ndjson.gz", ".json.gz")
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class BadLine:
    """What did not go in; `line` is 0 where the file as a whole is at fault, and the reason holds no patient's data."""

    file: Path
    line: int
    reason: str


class Document(msgspec.Struct, frozen=True, gc=False):
    line: int
    raw: bytes


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths`, and of folders those of FHIR JSON by name, in order, with all below."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, inner, names in os.walk(path):
            inner.sort()
            yield from (Path(folder, name) for name in sorted(names) if name.lower().endswith(_NAMES))


class Source:
    """One file, to be iterated over once: its documents, and what of it cannot be read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._raw: BinaryIO | None = None
        self._line = 0

    def position(self) -> int:
        """Bytes of the file read so far; of a gzip, the compressed ones."""
        return self._raw.tell() if self._raw is not None and not self._raw.closed else 0

    def __iter__(self) -> Iterator[Document | BadLine]:
        try:
            with self.file.open("rb") as self._raw:
                yield from self._documents(_unpacked(self._raw))
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "damaged gzip"
            yield BadLine(self.file, self._line, f"cannot be read on from here: {reason}")

    def _documents(self, stream: io.BufferedReader) -> Iterator[Document | BadLine]:
        lines = self._lines(stream)
        first = next(lines, None)
        if first is None:
            return
        if isinstance(first, Document) and not _is_json(first.raw):
            whole = first.raw + b"\n" + stream.read(MAX_DOCUMENT_BYTES)
            if _is_json(whole) or not _has_resource_lines(whole):
                yield self._one(first.line, whole)
                return
            # Lines after all, the first of which is bad.
            stream.seek(0)
            self._line = 0
            lines, first = self._lines(stream), None
        if first is not None:
            yield first
        yield from lines

    def _one(self, line: int, whole: bytes) -> Document | BadLine:
        if len(whole) > MAX_DOCUMENT_BYTES:
            return self._too_long(line)
        return Document(line, whole)

    def _lines(self, stream: io.BufferedReader) -> Iterator[Document | BadLine]:
        """Every line that is not blank, by its number."""
        while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
            self._line += 1
            if self._line == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)  # the mark is none of the line's
            if len(line) > MAX_DOCUMENT_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(1024 * 1024)  # skipped
                yield self._too_long(self._line)
            elif raw := line.strip():
                yield Document(self._line, raw)

    def _too_long(self, line: int) -> BadLine:
        return BadLine(self.file, line, f"longer than {MAX_DOCUMENT_BYTES // 1024 // 1024} MiB")


def _unpacked(raw: io.BufferedReader) -> io.BufferedReader:
    if raw.peek(2)[:2] != _GZIP:
        return raw
    return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)), 256 * 1024)


def _is_json(raw: bytes) -> bool:
    try:
        _decode_raw(raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _has_resource_lines(whole: bytes) -> bool:
    """Whether a text that is no JSON holds lines that are, each a resource."""
    lines = (line.strip() for line in io.BytesIO(whole))
    return any(line[:1] == b"{" and b'"resourceType"' in line and _is_json(line) for line in lines)
