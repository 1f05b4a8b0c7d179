"""Who asks: the tenant and what its key allows."""

import hashlib
import re
import secrets
from dataclasses import dataclass

SCOPES = ("read", "warm", "report", "operate")
DEFAULT_SCOPES = ("read", "warm", "report")
is_tenant_name = re.compile(r"[a-z0-9][a-z0-9-]{0,62}").fullmatch
"""As ops.tenant checks it."""

_TOKEN_GIVES = {
    "read": "system/*.rs or user/*.rs does, but no scope of one patient or one type, for reads cannot be kept to it here",
    "warm": "sluice/warm does",
    "report": "sluice/report does",
    "operate": "no token does, it takes a key",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a key or a token stands for; a token has no key_id, and an operator's key no tenant_id."""

    key_id: int | None
    tenant_id: int | None
    tenant: str
    exclusive: bool
    scopes: frozenset[str]

    def without(self, scope: str) -> str:
        """The words for one who may not do what `scope` allows."""
        if self.key_id is None:
            return f"this token does not give the scope {scope}: {_TOKEN_GIVES[scope]}"
        return f"this key does not have the scope {scope}"


def new_key() -> str:
    """A random 256-bit key, as it is printed once and never stored."""
    return f"sluice_{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> bytes:
    """The only form in which a key is kept. A fast hash will do: 256 random bits cannot be guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
