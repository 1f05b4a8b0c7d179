"""Who asks: the tenant and what its key allows."""

import hashlib
import secrets
from dataclasses import dataclass

SCOPES = ("read", "warm", "report", "operate")
DEFAULT_SCOPES = ("read", "warm", "report")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a key stands for; an operator's key has no tenant (tenant_id None)."""

    key_id: int
    tenant_id: int | None
    tenant: str
    exclusive: bool
    scopes: frozenset[str]


def new_key() -> str:
    """A random 256-bit key, as it is printed once and never stored."""
    return f"sluice_{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> bytes:
    """The only form in which a key is kept. A fast hash will do: 256 random bits cannot be guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
