"""What a question and an answer are, and what the kinds of questions share: ids, counts, pages of a Bundle."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson
from aiohttp import web

from base.errors import Invalid
from r4.bundle import Entry, page_url, searchset
from r4.resource import is_id
from r4.search import COUNT_MAX
from storage.asks import Rows
from storage.statements import Statement

Pairs = Sequence[tuple[str, str]]
"""A query, decoded; with a form's fields, where one was posted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 200's body and what names its state; `changed_at` is a resource's meta.lastUpdated."""

    body: bytes
    etag: str
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """`parts`: (statement, values) of each ask; `encode` takes their rows in the same order."""

    parts: tuple[tuple[Statement, tuple[Any, ...]], ...]
    encode: Callable[[Sequence[Rows]], Answer]


def id_of(request: web.Request) -> str:
    """The id in the route. Raises Invalid when it is none."""
    resource_id = request.match_info["id"]
    if not is_id(resource_id):
        raise Invalid("an id has 1 to 64 letters, digits, - or .", expression="id")
    return resource_id


def value_of(pairs: Pairs, name: str) -> str | None:
    """The first of this name."""
    return next((value for given, value in pairs if given == name), None)


def is_strict(request: web.Request) -> bool:
    """Whether what is not understood shall be refused (http.html#prefer)."""
    return "handling=strict" in ",".join(request.headers.getall("Prefer", ()))


def count_of(text: str | None, default: int) -> int:
    """Of a Bundle that takes no `_count=0`: what is asked, but no more than a page may have."""
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise Invalid(f"_count takes a whole number from 1 to {COUNT_MAX} here", expression="_count")
    return min(int(text), COUNT_MAX)


def page(
    base_url: str,
    path: str,
    used: Sequence[tuple[str, str]],
    count: int,
    cursor: str | None,
    entries: Iterable[Entry],
    *,
    state: Sequence[Any],
    total: int | None = None,
    meta: bytes = b"",
) -> Answer:
    """A Bundle and its ETag, a hash of `state`, what its entries are and in which version, and of its links.

    So the bodies need not be read for it.
    """
    self_url = page_url(base_url, path, used, count)
    next_url = page_url(base_url, path, used, count, cursor) if cursor else None
    body = searchset(base_url, entries, self_url=self_url, next_url=next_url, total=total, meta=meta)
    return Answer(body, etag_of(state, self_url, next_url, total))


def etag_of(*state: Any) -> str:
    """What a Bundle's bytes are made of, told apart."""
    return f'W/"{blake2b(orjson.dumps(state), digest_size=12).hexdigest()}"'
