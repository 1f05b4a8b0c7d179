"""A resource as it is kept: type, id, and the rest of its bytes as they came.

What is served is put together again by `stamp`, here and in SQL (fhir.stamp): nothing in between re-encodes a number,
orders members anew or drops what it does not know.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Context
from functools import lru_cache
from typing import Any

import msgspec

from base.errors import Invalid

MAX_BYTES = 16 * 1024 * 1024
"""No resource may be larger."""

TYPE_PATTERN = r"[A-Z][A-Za-z]{0,63}"
ID_PATTERN = r"[A-Za-z0-9\-.]{1,64}"

_is_type = re.compile(TYPE_PATTERN).fullmatch
_is_id = re.compile(ID_PATTERN).fullmatch
_has_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_document = msgspec.json.Decoder().decode
_encoded = msgspec.json.Encoder(decimal_format="number").encode
_number = Context(prec=40, traps=[]).create_decimal
_SERVERS_OWN = ("versionId", "lastUpdated")


class Resource(msgspec.Struct, frozen=True, gc=False):
    """`tail` follows `meta.lastUpdated` in the served bytes, `sha256` is over it, and `document` is for indexing."""

    type: str
    id: str
    tail: bytes
    sha256: bytes
    document: dict[str, Any]


def split(raw: bytes, *, as_id: str | None = None) -> Resource:
    """Takes one resource's JSON apart. `as_id` is the id of a resource that came without one, or with a client's own.

    Raises Invalid, in words that repeat nothing of the resource, when it cannot be kept or served.
    """
    if len(raw) > MAX_BYTES:
        raise Invalid(f"larger than {MAX_BYTES // 1024 // 1024} MiB")
    members, document = _decoded(raw)
    kind = document.get("resourceType")
    if type(kind) is not str or _is_type(kind) is None:
        raise Invalid("resourceType is missing or is no type's name", expression="resourceType")
    resource_id = _checked_id(document.get("id") if as_id is None else as_id)
    tail = _tail(members)
    return Resource(kind, resource_id, tail, hashlib.sha256(tail).digest(), document)


def made(type_name: str, resource_id: str, members: dict[str, Any], sought: dict[str, Any] | None = None) -> Resource:
    """A resource of our own making, as `split` takes its JSON apart; Decimals keep their digits.

    `members`: in the order in which they are served, without resourceType, id and meta; the document shares them. What nothing
    is found by may be encoded already (msgspec.Raw); of a member that is found by a part of it, `sought` has that part.
    """
    tail = b"}," + _encoded(members)[1:] if members else b"}}"
    if len(tail) > MAX_BYTES:
        raise Invalid(f"larger than {MAX_BYTES // 1024 // 1024} MiB")
    document = {"resourceType": type_name, "id": resource_id, **members}
    if sought:
        document |= sought
    return Resource(type_name, resource_id, tail, hashlib.sha256(tail).digest(), document)


def restored(type_name: str, resource_id: str, body: bytes) -> Resource:
    """What is served, for indexing anew."""
    return Resource(type_name, resource_id, body, b"", _document_of(body))


def stamp(type_name: str, resource_id: str, version: int, last_updated: datetime, tail: bytes) -> bytes:
    """The bytes that are served; fhir.stamp in SQL makes the same."""
    updated = last_updated.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    meta = f'{{"versionId":"{version}","lastUpdated":"{updated}Z"'
    return f'{{"resourceType":"{type_name}","id":"{resource_id}","meta":{meta}'.encode() + tail


def to_milliseconds(moment: datetime) -> datetime:
    """As precise as a body says it, so that the column and the body agree."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def is_type(text: str) -> bool:
    return _is_type(text) is not None


def is_id(text: str) -> bool:
    return _is_id(text) is not None


def _checked_id(value: Any) -> str:
    if value is None:
        raise Invalid("id is missing", expression="id")
    if type(value) is not str or _is_id(value) is None:
        raise Invalid("id is not 1 to 64 letters, digits, '-' and '.'", expression="id")
    return value


def _decoded(raw: bytes) -> tuple[dict[str, msgspec.Raw], dict[str, Any]]:
    """The members' bytes by name, and all of it decoded: only the latter looks whether strings are UTF-8."""
    try:
        members = _members(raw)
        document = _document_of(raw)
    except msgspec.ValidationError:
        raise Invalid("not a JSON object") from None
    except msgspec.DecodeError as error:
        raise Invalid(f"not JSON: {error}") from None  # it tells the place, and nothing of what stands there
    except UnicodeError:
        raise Invalid("not UTF-8") from None
    except RecursionError:
        raise Invalid("nested too deeply") from None
    if b"\\u0000" in raw and _has_nul(raw):
        raise Invalid("holds a NUL character")
    return members, document


def _document_of(raw: bytes) -> Any:
    """Of what `_members` has taken, which has looked for lone surrogates already."""
    try:
        return _document(raw)
    except msgspec.ValidationError:
        return json.loads(raw.decode(), parse_int=_number, parse_float=_number)  # there is one that no machine number holds


def _tail(members: dict[str, msgspec.Raw]) -> bytes:
    parts: list[Any] = []
    for name, value in _meta(members.get("meta")).items():
        if name not in _SERVERS_OWN:
            parts += (_key(name), value)
    parts.append(b"}")
    for name, value in members.items():
        if name not in ("resourceType", "id", "meta"):
            parts += (_key(name), value)
    parts.append(b"}")
    return b"".join(parts)


def _meta(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    if raw is None:
        return {}
    try:
        return _members(raw)
    except msgspec.ValidationError:
        raise Invalid("meta is not an object", expression="meta") from None


@lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
    return b"," + msgspec.json.encode(name) + b":"
