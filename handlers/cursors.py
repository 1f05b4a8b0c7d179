"""Paging cursors: where a list goes on, encrypted and bound to who asked what.

AES-SIV (RFC 5297) takes no nonce: the same place gives the same cursor on both paths and in every process. Sort
values can be a patient's data, hence encryption and not a signature. The tenant and the query, without `_count`, are
bound in as associated data: another tenant's cursor, or one of another query, does not decrypt.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha512
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from base.errors import Invalid

_LONGEST = 4096


class Cursors:
    def __init__(self, secret: bytes) -> None:
        self._cipher = AESSIV(sha512(secret).digest())

    def seal(self, tenant_id: int, query: Sequence[Any], place: Sequence[Any]) -> str:
        """`place`: the sort values of a page's last row, numbers and strings."""
        sealed = self._cipher.encrypt(msgspec.json.encode(place), self._bound_to(tenant_id, query))
        return _text(sealed)

    def open(self, tenant_id: int, query: Sequence[Any], cursor: str, kind: Any) -> Any:
        """The place, of the type `kind`. Raises Invalid when the cursor was not made here for this tenant and query."""
        try:
            return msgspec.json.decode(self._cipher.decrypt(_sealed(cursor), self._bound_to(tenant_id, query)), type=kind)
        except (InvalidTag, ValueError, msgspec.DecodeError):
            raise Invalid("this cursor is not one of this list; begin again without it", expression="_cursor") from None

    def _bound_to(self, tenant_id: int, query: Sequence[Any]) -> list[bytes]:
        return [b"%d" % tenant_id, msgspec.json.encode(query)]


def _sealed(cursor: str) -> bytes:
    """Raises ValueError. The decoder alone would let pass characters that are no base64, and bits that are left over."""
    sealed = urlsafe_b64decode(cursor[:_LONGEST].encode("ascii") + b"=" * (-len(cursor) % 4))
    if _text(sealed) != cursor:
        raise ValueError("not as it was made here")
    return sealed


def _text(sealed: bytes) -> str:
    return urlsafe_b64encode(sealed).rstrip(b"=").decode()
