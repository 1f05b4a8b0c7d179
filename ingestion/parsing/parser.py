"""From a document to claims. Pure, and it holds no more of the document's tree than what it is just reading.

A file that is no claim file raises NotClaims. A bad claim is put aside with its reason, and the file's others go in.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lxml.etree import _Element as Element

from ingestion.claims import Header, Kind, NotClaims, Parsed
from ingestion.parsing.checks import check_claim, check_remitted, look_closer
from ingestion.parsing.document import Prolog, children, read_prolog
from ingestion.parsing.remarks import Remarks
from ingestion.parsing.tables import CLAIM, HEADER, NAMESPACE, REMITTED, Structure, local_name
from ingestion.parsing.values import ID_MAX, Aside, Odd


class OtherKind(NotClaims):
    """A file of the post office that says nothing of claims: nothing is wrong with it."""

    def __init__(self, root: str) -> None:
        super().__init__(f"a {root} says nothing of claims")
        self.root = root


class _Sort(NamedTuple):
    """What a root means; `other` is what its claims are taken for where they are none of its own."""

    kind: Kind
    claim: Structure
    check: Callable[[Any], Iterator[str]]
    other: Structure
    other_root: str


_SORTS = {
    "Claim.Submission": _Sort("submission", CLAIM, check_claim, REMITTED, "Remittance.Advice"),
    "Remittance.Advice": _Sort("remittance", REMITTED, check_remitted, CLAIM, "Claim.Submission"),
}
_OTHER_ROOTS = {"Prior.Request", "Prior.Authorization", "Person.Register"}
_ATTRIBUTE = re.compile(rb"=[ \t\r\n]*[\"']")  # the padding of base64 is none
_CLAIM = {"Claim", f"{{{NAMESPACE}}}Claim"}
_HEADER = {"Header", f"{{{NAMESPACE}}}Header"}


def parse(document: bytes) -> Parsed:
    """`document` as `payloads.unpack` gives it. Raises NotClaims, of other files of the post office OtherKind."""
    prolog = read_prolog(document)
    if prolog.root in _OTHER_ROOTS:
        raise OtherKind(prolog.root)
    if prolog.root not in _SORTS:
        raise NotClaims("its root is none that claims come in")
    reading = _Reading(_SORTS[prolog.root], _needs_closer_look(document, prolog))
    for child in children(document, prolog):
        reading.take(child)
    return reading.parsed()


def _needs_closer_look(document: bytes, prolog: Prolog) -> bool:
    """Whether a claim can hold attributes or control characters at all: asked once a file, not once an element."""
    has_attributes = _ATTRIBUTE.search(document, max(document.find(b">", prolog.end), 0))
    return bool(has_attributes) or not document.isascii() or b"\x7f" in document or b"&#" in document


class _Reading:
    """A file, as far as it was read."""

    def __init__(self, sort: _Sort, closer: bool) -> None:
        self._sort = sort
        self._closer = closer
        self._header: Header | None = None
        self._claims: list[Any] = []
        self._count = self._strangers = 0
        self._remarks = Remarks()

    def take(self, child: Element) -> None:
        if child.tag in _CLAIM:
            self._take_claim(child)
        elif child.tag in _HEADER:
            self._take_header(child)
        else:
            self._remarks.of_elements([f"{local_name(child)} is unknown, and skipped"])

    def _take_header(self, element: Element) -> None:
        if self._header is not None:
            self._remarks.of_elements(["Header is there twice: the first counts"])
            return
        odd: Odd = ["Header is out of the schema's order"] if self._count else []
        try:
            if self._closer:
                look_closer(element, odd)
            self._header = HEADER.read(element, odd)
        except Aside as reason:
            raise NotClaims(str(reason)) from None
        self._remarks.of_elements(odd)

    def _take_claim(self, element: Element) -> None:
        self._count += 1
        odd: Odd = []
        try:
            if self._closer:
                look_closer(element, odd)
            claim = self._sort.claim.read(element, odd)
            for reason in self._sort.check(claim):
                self._remarks.of_claim(reason, claim.id)
        except Aside as reason:
            self._put_aside(element, str(reason))
            return
        self._claims.append(claim)
        if odd:
            self._remarks.of_elements(odd, claim.id)

    def _put_aside(self, element: Element, reason: str) -> None:
        if self._is_stranger(element):
            self._strangers += 1
            reason = f"the claim is one of a {self._sort.other_root}"
        self._remarks.aside(reason, _id_of(element))

    def _is_stranger(self, element: Element) -> bool:
        """Whether it has all that only the other sort of claim must have, and nothing that only its own must have."""
        names = {local_name(child) for child in element}
        own, other = self._sort.claim, self._sort.other
        return (other.required - own.elements) <= names and not (own.required - other.elements) & names

    def parsed(self) -> Parsed:
        if self._header is None:
            raise NotClaims("Header is missing")
        if not self._count:
            raise NotClaims("Claim is missing")
        if self._strangers == self._count:
            raise NotClaims(f"its claims are those of a {self._sort.other_root}")
        if self._header.record_count != self._count:
            self._remarks.of_elements(["Header/RecordCount differs from the number of claims"])
        return Parsed(self._sort.kind, self._header, tuple(self._claims), self._remarks.all())


def _id_of(element: Element) -> str:
    """The id of a claim that cannot be read, where that much can be."""
    for child in element:
        if local_name(child) == "ID":
            text = (child.text or "").strip()
            return text if len(text) <= ID_MAX and text.isprintable() else ""
    return ""
