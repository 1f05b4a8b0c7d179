"""One keep-alive connection: sends a rendered request, reads as little of the answer as counting needs."""

import asyncio
import time
from typing import NamedTuple, Protocol

HEAD_MAX = 65_536


class Answer(NamedTuple):
    """The head of a response; `path` is X-Sluice-Path, in lower case, or empty."""

    status: int
    length: int
    keep: bool
    path: bytes


class BadAnswerError(Exception):
    """An answer that cannot be read; its one argument is the kind of error that is counted."""


class Owner(Protocol):
    """Who has the connections; called back on the event loop."""

    def answered(self, connection: "Connection", answer: Answer) -> None: ...

    def failed(self, kind: str, due: float) -> None: ...


def parse_head(head: bytes) -> Answer:
    """`head` ends with the line end of its last header. Raises BadAnswerError."""
    head = head.lower()
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        raise BadAnswerError("malformed")
    status = int(head[9:12])
    if status < 200:
        raise BadAnswerError("interim")
    close = _value(head, b"\r\nconnection:")
    keep = close != b"close" if head[7:8] == b"1" else close == b"keep-alive"
    return Answer(status, _length(head, status), keep, _value(head, b"\r\nx-sluice-path:"))


def _length(head: bytes, status: int) -> int:
    if status in (204, 304):
        return 0
    length = _value(head, b"\r\ncontent-length:")
    if length.isdigit():
        return int(length)
    raise BadAnswerError("chunked" if b"\r\ntransfer-encoding:" in head else "unframed")


def _value(head: bytes, name: bytes) -> bytes:
    at = head.find(name)
    if at < 0:
        return b""
    at += len(name)
    return head[at : head.find(b"\r\n", at)].strip()


class Connection(asyncio.Protocol):
    """`due` and `sent_at` are of the request in flight, in `time.monotonic()`."""

    __slots__ = ("_answer", "_early", "_missing", "_owner", "_transport", "busy", "due", "gone", "open", "sent_at")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport
        self._answer: Answer | None = None
        self._early = b""
        self._missing = 0
        self.open = False
        self.busy = False
        self.due = self.sent_at = 0.0
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a TCP transport
        self.open = True

    def send(self, request: bytes, due: float, now: float) -> None:
        self.busy = True
        self.due = due
        self.sent_at = now
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.fail("unasked")
        elif self._answer is not None:
            self._missing -= len(data)
            self._settle()
        else:
            self._read_head(self._early + data if self._early else data)

    def _read_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._early = data
            if len(data) > HEAD_MAX:
                self.fail("malformed")
            return
        try:
            self._answer = parse_head(data[: end + 2])
        except BadAnswerError as error:
            self.fail(error.args[0])
            return
        self._early = b""
        self._missing = self._answer.length - (len(data) - end - 4)
        self._settle()

    def _settle(self) -> None:
        if self._missing < 0:
            self.fail("malformed")
        elif self._missing == 0 and (answer := self._answer) is not None:
            self._answer = None
            self.busy = False
            if not answer.keep:
                self.close()
            self._owner.answered(self, answer)

    def fail(self, kind: str) -> None:
        """Gives up on the request in flight, and on the connection."""
        if self.open:
            self.busy = False
            self._owner.failed(kind, self.due if kind != "unasked" else time.monotonic())
            self.close()

    def close(self) -> None:
        self.open = False
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # a peer that left is no surprise
        self.open = False
        if self.busy:
            self.busy = False
            self._owner.failed("closed", self.due)
        self.gone.set()
