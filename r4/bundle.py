"""Searchset Bundles, put together from the stored bytes: no resource is parsed. https://hl7.org/fhir/R4/bundle.html."""

from collections.abc import Iterable, Sequence
from urllib.parse import quote, urlencode

import orjson

CONTENT_TYPE = "application/fhir+json;charset=utf-8"

Entry = tuple[str, str, bytes, str]
"""(type, id, body, search mode). Without an id, as an outcome is, it has no URL."""


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
    """`entry` is left out when there is none: FHIR's JSON knows no empty array. `meta` is JSON, or empty."""
    links = [{"relation": "self", "url": self_url}, *([{"relation": "next", "url": next_url}] if next_url else [])]
    parts = [b'{"resourceType":"Bundle",', b'"meta":%b,' % meta if meta else b"", b'"type":"searchset",']
    if total is not None:
        parts.append(b'"total":%d,' % total)
    parts += [b'"link":', orjson.dumps(links)]
    root = f'"fullUrl":"{base_url}/fhir/'.encode()
    listed = [
        b'{%b"resource":%b,"search":{"mode":"%b"}}'
        % (b'%b%b/%b",' % (root, kind.encode(), name.encode()) if name else b"", body, mode.encode())
        for kind, name, body, mode in entries
    ]
    if listed:
        parts += [b',"entry":[', b",".join(listed), b"]"]
    parts.append(b"}")
    return b"".join(parts)
