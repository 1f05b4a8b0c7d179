"""The limits of calls to a post office, all in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    connect_s: float = 10.0
    read_s: float = 60.0
    """Without a single byte."""
    call_s: float = 180.0
    """An operation with all its attempts and the pauses between them."""
    attempts: int = 3
    backoff_s: float = 1.0
    """The first pause is at most this long, and the bound doubles."""
    backoff_max_s: float = 30.0
    answer_bytes: int = 64 * 1024 * 1024
    """Of an HTTP answer, unpacked. A file in it is smaller by a quarter."""
    entries: int = 100_000
    """Of a listing."""
    connections: int = 64


DEFAULT_LIMITS = Limits()
