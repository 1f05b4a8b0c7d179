"""Bundles, put together from the stored bytes: no resource is parsed. https://hl7.org/fhir/R4/bundle.html."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import orjson

CONTENT_TYPE = "application/fhir+json;charset=utf-8"

Entry = tuple[str, str, bytes, str]
"""(type, id, body, search mode). Without an id, as an outcome is, it has no URL."""

Version = tuple[str, str, int, datetime, bool, bytes]
"""(type, id, version, last_updated, deleted, body)."""


def page_url(base_url: str, path: str, used: Sequence[tuple[str, str]], count: int, cursor: str | None = None) -> str:
    """The absolute URL of a page: what was understood of the question, how many a page, and where it goes on."""
    pairs = [*used, ("_count", str(count)), *([("_cursor", cursor)] if cursor else [])]
    return f"{base_url}/fhir/{path}?{urlencode(pairs, quote_via=quote, safe=':,/')}"


def searchset(
    base_url: str,
    entries: Iterable[Entry],
    *,
    self_url: str,
    next_url: str | None = None,
    total: int | None = None,
    meta: bytes = b"",
) -> bytes:
    """`meta` is JSON, or empty."""
    root = f'"fullUrl":"{base_url}/fhir/'.encode()
    listed = [
        b'{%b"resource":%b,"search":{"mode":"%b"}}'
        % (b'%b%b/%b",' % (root, kind.encode(), name.encode()) if name else b"", body, mode.encode())
        for kind, name, body, mode in entries
    ]
    return _bundle("searchset", listed, self_url, next_url, total=total, meta=meta)


def history(base_url: str, versions: Iterable[Version], *, self_url: str, next_url: str | None = None) -> bytes:
    """What was done, as http.html#history has it: a deletion has no resource, and ids being the client's all else is a PUT."""
    root = f'{{"fullUrl":"{base_url}/fhir/'.encode()
    return _bundle("history", [_done(root, version) for version in versions], self_url, next_url)


def _done(root: bytes, version: Version) -> bytes:
    type_name, resource_id, number, last_updated, deleted, body = version
    name = f"{type_name}/{resource_id}".encode()
    method, status = (b"DELETE", b"204 No Content") if deleted else (b"PUT", b"201 Created" if number == 1 else b"200 OK")
    shown = b"" if deleted else b'"resource":%b,' % body
    updated = last_updated.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds").encode()
    return (
        b'%b%b",%b"request":{"method":"%b","url":"%b"},"response":{"status":"%b","etag":"W/\\"%d\\"","lastModified":"%bZ"}}'
    ) % (root, name, shown, method, name, status, number, updated)


def _bundle(
    kind: str, entries: Sequence[bytes], self_url: str, next_url: str | None, *, total: int | None = None, meta: bytes = b""
) -> bytes:
    """`entry` is left out when there is none: FHIR's JSON knows no empty array."""
    links = [{"relation": "self", "url": self_url}, *([{"relation": "next", "url": next_url}] if next_url else [])]
    parts = [b'{"resourceType":"Bundle",', b'"meta":%b,' % meta if meta else b"", b'"type":"%b",' % kind.encode()]
    if total is not None:
        parts.append(b'"total":%d,' % total)
    parts += [b'"link":', orjson.dumps(links)]
    if entries:
        parts += [b',"entry":[', b",".join(entries), b"]"]
    parts.append(b"}")
    return b"".join(parts)
