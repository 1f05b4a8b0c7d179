"""Bundles taken apart: each entry as what is to be written, its references to other entries resolved. Pure.

https://hl7.org/fhir/R4/bundle.html, https://hl7.org/fhir/R4/http.html#transaction
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec

from base.errors import Invalid
from r4.indexing import cap
from r4.resource import Resource, is_id, is_type, split
from storage.resources import Identifier, Key

_PLAIN = ("collection", "searchset", "history")
_TOLD = ("batch", "transaction")  # their entries say what is to be done with them

Answers = Mapping[Identifier, Sequence[str]]
"""Ids of stored resources by identifier: none, one, or several."""

_LINK = re.compile(rb'"(reference|url|uri|valueUri|valueUrl)"(\s*:\s*)"(urn:(?:uuid|oid):[^"\\]+)"')
_CONDITIONAL = re.compile(rb'"reference"(\s*:\s*)("[A-Z][A-Za-z]*\?[^"]*")')


class Unresolved(Invalid):
    """A condition that nothing meets yet; what it looks for may still come in."""


class _Identity(msgspec.Struct):
    resourceType: Any = None  # noqa: N815  # FHIR's own names, here and below
    id: Any = None
    identifier: Any = None


class _Request(msgspec.Struct):
    method: str = ""
    url: str = ""
    ifNoneExist: str | None = None  # noqa: N815


class _RawEntry(msgspec.Struct):
    fullUrl: str = ""  # noqa: N815
    resource: msgspec.Raw | None = None
    request: _Request | None = None


class _RawBundle(msgspec.Struct):
    resourceType: str = ""  # noqa: N815
    type: str = ""
    entry: list[msgspec.Raw] = []


_identity = msgspec.json.Decoder(_Identity).decode
_raw_entry = msgspec.json.Decoder(_RawEntry).decode
_raw_bundle = msgspec.json.Decoder(_RawBundle).decode


@dataclass(frozen=True, slots=True)
class Entry:
    """`id` is None until a condition, the fullUrl or the content decides it; `raw` is empty where nothing is to be stored."""

    number: int
    method: str
    type: str
    id: str | None
    raw: bytes
    link: str
    condition: Identifier | None
    identity: _Identity


@dataclass(frozen=True, slots=True)
class Problem:
    number: int
    error: Invalid


@dataclass(frozen=True, slots=True)
class Write:
    """One entry's resource, or the key of what it deletes."""

    number: int
    resource: Resource | None
    delete: Key | None = None

    @property
    def key(self) -> Key | None:
        return (self.resource.type, self.resource.id) if self.resource else self.delete


@dataclass(frozen=True, slots=True)
class Bundle:
    kind: str
    entries: list[Entry]
    problems: list[Problem]

    @property
    def is_told(self) -> bool:
        return self.kind in _TOLD


def is_bundle(raw: bytes) -> bool:
    """Quick for what is none; what is no JSON is none either."""
    if b'"Bundle"' not in raw:
        return False
    try:
        return _identity(raw).resourceType == "Bundle"
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def parse(raw: bytes) -> Bundle:
    """Raises Invalid when the Bundle as a whole cannot be imported; entries that cannot are its `problems`."""
    try:
        bundle = _raw_bundle(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Invalid(f"not a Bundle: {error}") from None
    if bundle.type not in (*_PLAIN, *_TOLD):
        raise Invalid(f"Bundle.type is none of those that are imported: {', '.join((*_PLAIN, *_TOLD))}")
    parsed = Bundle(bundle.type, [], [])
    for number, raw_entry in enumerate(bundle.entry, 1):
        try:
            entry = _told(number, raw_entry) if parsed.is_told else _plain(number, raw_entry)
        except Invalid as error:
            parsed.problems.append(Problem(number, error))
        else:
            if entry is not None:
                parsed.entries.append(entry)
    return _latest(parsed) if parsed.kind == "history" else parsed


def questions(bundle: Bundle) -> set[Identifier]:
    """The identifiers that have to be looked up among what is stored, before `resolve`."""
    asked = {entry.condition for entry in bundle.entries if entry.condition is not None}
    if bundle.is_told:
        for entry in bundle.entries:
            for match in _CONDITIONAL.finditer(entry.raw):
                try:
                    asked.add(_condition_of(match[2]))
                except Invalid:
                    continue  # reported when the reference is resolved
    return asked


def resolve(bundle: Bundle, answers: Answers) -> Iterator[Write | Problem]:
    """What each entry comes to, the Bundle's own problems first. Each stands for itself; a transaction's caller takes all or none."""
    yield from bundle.problems
    targets = _Targets(bundle, answers)
    yield from targets.problems
    rewrite = targets.rewrite_told if bundle.is_told else targets.rewrite_plain
    for entry, resource_id in targets.writes:
        if entry.method == "DELETE":
            yield Write(entry.number, None, (entry.type, resource_id))
            continue
        try:
            yield Write(entry.number, _resource(entry, resource_id, rewrite(entry.raw)))
        except Invalid as error:
            yield Problem(entry.number, error)


class _Targets:
    """Which id each entry is written to, and so what links and conditions lead to."""

    def __init__(self, bundle: Bundle, answers: Answers) -> None:
        self.answers = answers
        self.problems: list[Problem] = []
        self.writes: list[tuple[Entry, str]] = []
        self._links: dict[str, bytes] = {}
        self._met: dict[Identifier, str] = {}  # conditions for which this Bundle itself makes a resource
        self._own: defaultdict[Identifier, set[str]] = defaultdict(set)
        for entry in bundle.entries:
            try:
                self._place(entry)
            except Invalid as error:
                self.problems.append(Problem(entry.number, error))

    def _place(self, entry: Entry) -> None:
        existing = self._existing(entry)
        resource_id = existing or entry.id or _id_of_link(entry.link)
        if entry.method == "DELETE":
            if resource_id is not None:  # a condition that nothing meets deletes nothing
                self.writes.append((entry, resource_id))
            return
        resource_id = resource_id or _id_of_content(entry)
        if entry.link:
            self._links[entry.link] = f"{entry.type}/{resource_id}".encode()
        for identifier in _identifiers(entry):
            self._own[identifier].add(resource_id)
        if existing is None or entry.method == "PUT":
            self.writes.append((entry, resource_id))
            if entry.condition is not None:
                self._met[entry.condition] = resource_id

    def _existing(self, entry: Entry) -> str | None:
        if entry.condition is None:
            return None
        if entry.condition in self._met:
            return self._met[entry.condition]
        found = self.answers[entry.condition]
        if len(found) > 1:
            raise Invalid("its condition is met by several resources")
        if found and entry.method == "PUT" and entry.id not in (None, found[0]):
            raise Invalid("its condition is met by a resource with another id")
        return found[0] if found else None

    def rewrite_plain(self, raw: bytes) -> bytes:
        return _LINK.sub(partial(self._link, strict=False), raw) if b'"urn:' in raw else raw

    def rewrite_told(self, raw: bytes) -> bytes:
        linked = _LINK.sub(partial(self._link, strict=True), raw) if b'"urn:' in raw else raw
        return _CONDITIONAL.sub(self._conditional, linked)

    def _link(self, match: re.Match[bytes], *, strict: bool) -> bytes:
        target = self._links.get(match[3].decode())
        if target is not None:
            return b'"%b"%b"%b"' % (match[1], match[2], target)
        if strict and match[1] == b"reference":
            raise Invalid("a reference leads to no entry of the Bundle")
        return match[0]

    def _conditional(self, match: re.Match[bytes]) -> bytes:
        condition = _condition_of(match[2])
        found = self._own.get(condition) or set(self.answers[condition])
        if not found:
            raise Unresolved(f"a conditional reference to {condition.type} is met by no resource")
        if len(found) > 1:
            raise Invalid(f"a conditional reference to {condition.type} is met by several resources")
        return b'"reference"%b"%b/%b"' % (match[1], condition.type.encode(), found.pop().encode())


def _told(number: int, raw: msgspec.Raw) -> Entry:
    entry = _decoded(raw)
    if entry.request is None:
        raise Invalid("has no request")
    method = entry.request.method
    if method not in ("PUT", "POST", "DELETE"):
        raise Invalid("request.method is not PUT, POST or DELETE")
    kind, resource_id, condition = _target(entry.request, method)
    identity = _Identity()
    if method != "DELETE":
        identity = _identity_of(entry)
        if identity.resourceType != kind:
            raise Invalid("request.url and the resource differ in type")
        if method == "PUT" and resource_id is None and identity.id is not None:
            resource_id = identity.id if isinstance(identity.id, str) else ""
    raw_resource = b"" if method == "DELETE" else bytes(entry.resource or b"")
    return Entry(number, method, kind, resource_id, raw_resource, _urn(entry.fullUrl), condition, identity)


def _plain(number: int, raw: msgspec.Raw) -> Entry | None:
    entry = _decoded(raw)
    if entry.resource is None and entry.request is not None and entry.request.method == "DELETE":
        kind, resource_id, _ = _target(entry.request, "DELETE")
        return Entry(number, "DELETE", kind, resource_id, b"", "", None, _Identity())
    identity = _identity_of(entry)
    if identity.resourceType == "OperationOutcome":
        return None
    resource_id = identity.id if isinstance(identity.id, str) else None
    link = _urn(entry.fullUrl)
    if resource_id is None and not link:
        raise Invalid("id is missing")
    return Entry(number, "PUT", str(identity.resourceType), resource_id, bytes(entry.resource or b""), link, None, identity)
