"""Bundles taken apart into entries, and what each says is to be done. Pure.

https://hl7.org/fhir/R4/bundle.html, https://hl7.org/fhir/R4/http.html#transaction
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from base.errors import Invalid
from r4.indexing import cap
from r4.resource import is_id, is_type
from storage.resources import Identifier

_PLAIN = ("collection", "searchset", "history")
_TOLD = ("batch", "transaction")  # their entries say what is to be done with them


class Identity(msgspec.Struct):
    resourceType: Any = None  # noqa: N815  # FHIR's own names, here and below
    id: Any = None
    identifier: Any = None


class _Request(msgspec.Struct):
    method: str = ""
    url: str = ""
    ifNoneExist: str | None = None  # noqa: N815


class _RawEntry(msgspec.Struct):
    fullUrl: str = ""  # noqa: N815
    resource: msgspec.Raw = msgspec.Raw()
    request: _Request | None = None

    def has_resource(self) -> bool:
        return memoryview(self.resource).nbytes > 0


class _RawBundle(msgspec.Struct):
    resourceType: str = ""  # noqa: N815
    type: str = ""
    entry: list[msgspec.Raw] = []


_identity = msgspec.json.Decoder(Identity).decode
_raw_entry = msgspec.json.Decoder(_RawEntry).decode
_raw_bundle = msgspec.json.Decoder(_RawBundle).decode

_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


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
    identity: Identity


class Unresolved(Invalid):
    """A condition that nothing meets yet; what it looks for may still come in."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an entry, or with number 0 the whole Bundle, does not go in; `waits`: something else may change that.

    Not the error itself, which would hold all that its frames held, the Bundle's bytes among it.
    """

    number: int
    reason: str
    waits: bool

    @classmethod
    def of(cls, number: int, error: Invalid) -> "Problem":
        return cls(number, str(error), isinstance(error, Unresolved))


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
        return bool(_identity(raw).resourceType == "Bundle")
    except _UNREADABLE:
        return False


def parse(raw: bytes) -> Bundle:
    """Raises Invalid when the Bundle as a whole cannot be imported; entries that cannot are its `problems`."""
    try:
        bundle = _raw_bundle(raw)
    except _UNREADABLE as error:
        raise Invalid(f"not a Bundle: {_why(error)}") from None
    if bundle.type not in (*_PLAIN, *_TOLD):
        raise Invalid(f"Bundle.type is none of those that are imported: {', '.join((*_PLAIN, *_TOLD))}")
    parsed = Bundle(bundle.type, [], [])
    for number, raw_entry in enumerate(bundle.entry, 1):
        try:
            entry = _told(number, raw_entry) if parsed.is_told else _plain(number, raw_entry)
        except Invalid as error:
            parsed.problems.append(Problem.of(number, error))
        else:
            if entry is not None:
                parsed.entries.append(entry)
    return _latest(parsed) if parsed.kind == "history" else parsed


def _told(number: int, raw: msgspec.Raw) -> Entry:
    """An entry that says what is to be done with it."""
    entry = _decoded(raw)
    if entry.request is None:
        raise Invalid("has no request")
    method = entry.request.method
    if method not in ("PUT", "POST", "DELETE"):
        raise Invalid("request.method is not PUT, POST or DELETE")
    kind, resource_id, condition = _target(entry.request)
    if method == "DELETE":
        return Entry(number, method, kind, resource_id, b"", "", condition, Identity())
    identity = _identity_of(entry)
    if identity.resourceType != kind:
        raise Invalid("request.url and the resource differ in type")
    if method == "PUT":
        own = _own_id(identity)
        if condition is None and own != resource_id:
            raise Invalid("request.url and the resource differ in id")
        resource_id = own
    return Entry(number, method, kind, resource_id, bytes(entry.resource), _urn(entry.fullUrl), condition, identity)


def _plain(number: int, raw: msgspec.Raw) -> Entry | None:
    """An entry that is a resource; a history's may be its deletion."""
    entry = _decoded(raw)
    if not entry.has_resource() and entry.request is not None and entry.request.method == "DELETE":
        kind, resource_id, _ = _target(entry.request)
        return Entry(number, "DELETE", kind, resource_id, b"", "", None, Identity())
    identity = _identity_of(entry)
    if identity.resourceType == "OperationOutcome":
        return None
    kind, own, link = str(identity.resourceType), _own_id(identity), _urn(entry.fullUrl)
    if own is None and not link:
        raise Invalid("id is missing", expression="id")
    return Entry(number, "PUT", kind, own, bytes(entry.resource), link, None, identity)


def _decoded(raw: msgspec.Raw) -> _RawEntry:
    try:
        return _raw_entry(raw)
    except _UNREADABLE as error:
        raise Invalid(f"not an entry: {_why(error)}") from None


def _identity_of(entry: _RawEntry) -> Identity:
    if not entry.has_resource():
        raise Invalid("has no resource")
    try:
        return _identity(entry.resource)
    except _UNREADABLE as error:
        raise Invalid(f"not a resource: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What msgspec says tells the place, and nothing of what stands there; what Unicode's error says does."""
    return str(error) if isinstance(error, msgspec.DecodeError) else "not UTF-8, or nested too deeply"


def _own_id(identity: Identity) -> str | None:
    if identity.id is None:
        return None
    if not isinstance(identity.id, str) or not is_id(identity.id):
        raise Invalid("id is not 1 to 64 letters, digits, '-' and '.'", expression="id")
    return identity.id


def _target(request: _Request) -> tuple[str, str | None, Identifier | None]:
    """Type, id and condition of `Type`, `Type/id` and `Type?identifier=…`, whichever the method takes."""
    url = request.url.removeprefix("/")
    if request.method == "POST":
        kind, query = url, (request.ifNoneExist or "").rpartition("?")[2]
    else:
        kind, _, query = url.partition("?")
    if query or request.method == "POST":
        resource_id = None
    else:
        kind, _, resource_id = url.partition("/")
        if not is_id(resource_id):
            raise Invalid("request.url is not Type/id, and not Type?identifier=system|value")
    if not is_type(kind):
        raise Invalid("request.url does not begin with a type's name")
    return kind, resource_id, _condition(kind, query) if query else None


def _condition(kind: str, query: str) -> Identifier:
    name, _, value = query.partition("=")
    value = unquote(value)
    system, bar, code = value.rpartition("|")
    if name != "identifier" or not code or "&" in query or "|" in system:
        raise Invalid("a condition is not identifier=system|value")
    return Identifier(kind, cap(system) if bar else None, cap(code))


def condition_of(quoted: bytes) -> Identifier:
    """Of a conditional reference, as the JSON string that it is."""
    try:
        kind, _, query = msgspec.json.decode(quoted, type=str).partition("?")
    except _UNREADABLE:
        raise Invalid("a conditional reference cannot be read") from None
    return _condition(kind, query)


def _urn(full_url: str) -> str:
    return full_url if full_url.startswith(("urn:uuid:", "urn:oid:")) else ""


def _latest(history: Bundle) -> Bundle:
    """The first of each resource's entries: a history begins with what is newest."""
    first: dict[tuple[str, str | None], Entry] = {}
    for entry in history.entries:
        first.setdefault((entry.type, entry.id or entry.link), entry)
    return Bundle(history.kind, list(first.values()), history.problems)
