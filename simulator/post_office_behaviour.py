"""How a facility's post office misbehaves: told at the start, or while it runs."""

from hashlib import blake2b
from typing import Literal

import msgspec

Operation = Literal[
    "GetNewTransactions",
    "SearchTransactions",
    "DownloadTransactionFile",
    "SetTransactionDownloaded",
    "UploadTransaction",
    "GetNewPriorAuthorizationTransactions",
    "CheckForNewPriorAuthorizationTransactions",
]


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares are of requests, `next` counts the requests that are still to be hit."""

    only: tuple[Operation, ...] = ()
    """Keeps slow, hang, error, transient, truncated and cut to these; all, unless said."""
    slow_s: float = 0
    hang: bool = False
    """No answer until the behaviour changes."""
    error_share: float = 0
    error_next: int = 0
    error_status: int = 503
    transient_share: float = 0
    """Result -4."""
    transient_next: int = 0
    login_failed: bool = False
    """Result -1."""
    empty: Literal["files", "code_2", "null"] = "files"
    """How GetNewTransactions says that there is nothing: an empty list, code 2, or nothing at all."""
    truncated_share: float = 0
    """The XML breaks off, in an answer that is whole for HTTP."""
    truncated_next: int = 0
    cut_share: float = 0
    """The connection ends in the middle of an answer."""
    cut_next: int = 0
    garbage_share: float = 0
    """Of files: their content is none, however often they are downloaded."""
    garbage_next: int = 0
    duplicates: Literal["none", "same_id", "two_ids"] = "none"
    """Everything is listed twice: under its id, or the second time under another, whose content is the same."""
    huge_bytes: int = 0
    """So many blanks follow every document."""
    relist: bool = False
    """Acknowledged files are listed as new."""
    search_limit: int = 0
    """SearchTransactions finds so many at most, and does not say so; 0: all."""
    ack_fail_next: int = 0
    ack_fail_code: int = -4
    ack_lost_next: int = 0
    """Done, and the connection ends before the answer."""
    packing: Literal["raw", "zip", "gzip", "mixed"] = "raw"
    encoding: Literal["utf-8", "utf-8-sig", "utf-16", "mixed"] = "utf-8"
    seed: int = 0


WELL_BEHAVED = Behaviour()
Fault = Literal["error", "transient", "truncated", "cut", "garbage", "ack_fail", "ack_lost"]


def number_of(*parts: object) -> int:
    """The same for the same parts, in every process."""
    return int.from_bytes(blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest())


def misbehaving(number: int) -> Behaviour:
    """The behaviour of facility `number` of a post office where eight of ten misbehave."""
    seed = number + 1
    return (
        Behaviour(empty="null"),
        Behaviour(slow_s=1.5, empty="code_2"),
        Behaviour(error_share=0.2, seed=seed),
        Behaviour(transient_share=0.2, packing="mixed", encoding="mixed", seed=seed),
        Behaviour(),
        Behaviour(truncated_share=0.1, cut_share=0.1, seed=seed),
        Behaviour(duplicates="two_ids", relist=True),
        Behaviour(garbage_share=0.05, duplicates="same_id", seed=seed),
        Behaviour(),
        Behaviour(ack_fail_next=5, ack_lost_next=5, huge_bytes=2_000_000),
    )[number % 10]
