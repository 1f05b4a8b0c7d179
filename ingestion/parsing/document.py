"""A document's root, and the root's children one after another, in memory that stays bounded. Pure.

Nothing is looked up outside of the document, and a document type is refused: with it go entities, and bombs made of them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, cast

from lxml import etree
from lxml.etree import _Element as Element

from ingestion.claims import NotClaims

CHUNK_BYTES = 256 * 1024
NODES_MAX = 400_000
"""Elements and attributes of one child of the root: as a tree they take far more memory than as text."""

_PROLOG_BYTES_MAX = 64 * 1024
_DECLARATION = re.compile(
    rb"""<\?xml\s+version\s*=\s*["']1\.[0-9]["']
         (?:\s+encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["'])?
         (?:\s+standalone\s*=\s*["'](?:yes|no)["'])?\s*\?>""",
    re.VERBOSE,
)
_BETWEEN = re.compile(rb"(?:[ \t\r\n]+|<!--.*?-->|<\?.*?\?>)*+", re.DOTALL)
_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]{0,60}:)?([A-Za-z_][\w.-]{0,60})(?=[\s/>])")
# Of each of these an ASCII character is its one byte, so what the patterns above saw is what the parser will see.
_ENCODINGS = {"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "windows-1252", "windows-1256"}


class Prolog(NamedTuple):
    encoding: str
    root: str
    """Without its namespace."""
    end: int
    """Where the root element's attributes begin."""


def read_prolog(document: bytes) -> Prolog:
    start = 3 if document.startswith(b"\xef\xbb\xbf") else 0
    encoding = "utf-8"
    if document.startswith(b"<?xml", start):
        declaration = _DECLARATION.match(document, start)
        if declaration is None:
            raise NotClaims("the XML declaration cannot be read")
        start = declaration.end()
        encoding = (declaration[1] or b"utf-8").decode().lower()
    if encoding not in _ENCODINGS:
        raise NotClaims("it is written in an encoding that is not read here")
    between = _BETWEEN.match(document, start, start + _PROLOG_BYTES_MAX)
    at = between.end() if between else start
    if document.startswith(b"<!DOCTYPE", at):
        raise NotClaims("it has a document type, which is refused for what entities can do")
    root = _ROOT.match(document, at)
    if root is None:
        raise NotClaims("no XML element is at its beginning")
    return Prolog(encoding, root[1].decode("ascii", "replace"), root.end())


def children(document: bytes, prolog: Prolog) -> Iterator[Element]:
    """Each child of the root, complete; it is gone from the tree when a later one is asked for. Raises NotClaims."""
    parser = etree.XMLPullParser(
        events=("start",),
        tag=f"{{*}}{prolog.root}",
        encoding=prolog.encoding,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
        huge_tree=True,  # attachments are long texts; what takes memory is bounded here, by NODES_MAX
    )
    root: Element | None = None
    nodes = 0
    try:
        for start in range(0, len(document), CHUNK_BYTES):
            chunk = document[start : start + CHUNK_BYTES]
            parser.feed(chunk)
            if root is None:
                root = _first(parser)
            complete = len(root) - 1 if root is not None else 0  # the last may go on in the next chunk
            if root is not None and complete > 0:
                yield from root[:complete]
                del root[:complete]
                nodes = 0
            nodes += chunk.count(b"<") + chunk.count(b"=") if complete <= 0 else 0
            if nodes > NODES_MAX:
                raise NotClaims("one of its elements holds too much")
        yield from parser.close()
    except etree.XMLSyntaxError as error:
        line = f": line {error.lineno}" if error.lineno else ""
        raise NotClaims(f"it is no well-formed XML, or cut off{line}") from None


def _first(parser: "etree.XMLPullParser") -> Element | None:
    for _, element in parser.read_events():
        return cast("Element", element)
    return None
