"""Pieces of FHIR's JSON.

What a resource is found by is made as dicts, for it is indexed; all else as text, which neither the encoder nor the index
walks again: most of a claim is amounts and codes. Codings are made once and shared, for documents are only read.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

Json = dict[str, Any]

MAX_TEXT = 2000
"""Of free text: as long as a comment may be."""

_GULF = timezone(timedelta(hours=4))
_encode = msgspec.json.Encoder(decimal_format="number").encode


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def rows(texts: Iterable[str]) -> msgspec.Raw:
    """A list."""
    return raw(f"[{','.join(texts)}]")


def encoded(value: Any) -> str:
    return _encode(value).decode()


def capped(text: str) -> str:
    return encoded(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")


@lru_cache(maxsize=1 << 14)
def concept(system: str, code: str) -> Json:
    """A CodeableConcept. FHIR has no blanks at the ends of a code, nor two in a row, and no empty one."""
    clean = " ".join(code.split())
    return {"coding": [{"system": system, "code": clean} if clean else {"system": system}]}


@lru_cache(maxsize=1 << 14)
def concept_text(system: str, code: str) -> str:
    return encoded(concept(system, code))


def identifier(system: str, value: str) -> Json:
    return {"system": system, "value": value}


def identifier_text(system: str, value: str) -> str:
    return f'{{"system":{encoded(system)},"value":{encoded(value)}}}'


def reference(kind: str, resource_id: str) -> Json:
    return {"reference": f"{kind}/{resource_id}"}


def aed(amount: Decimal) -> str:
    return f'{{"value":{amount!s},"currency":"AED"}}'


def amount_text(category: str, amount: Decimal, reason: str = "") -> str:
    """An adjudication, or a total; `category` and `reason` are concepts."""
    told = f',"reason":{reason}' if reason else ""
    return f'{{"category":{category},"amount":{{"value":{amount!s},"currency":"AED"}}{told}}}'


@lru_cache(maxsize=1 << 13)
def moment(at: datetime) -> str:
    """In Dubai's time: what was stored comes back in another zone. A file's claims have many in common."""
    return at.astimezone(_GULF).isoformat(timespec="seconds")


@lru_cache(maxsize=1 << 13)
def day(at: datetime) -> str:
    return at.astimezone(_GULF).date().isoformat()
