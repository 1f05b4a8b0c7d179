"""What the post office knows: its boxes, and who asked for what."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from simulator.post_office_box import Box, StoredFile
from simulator.post_office_soap import Call

_LOG_MAX = 200_000


class Entry(NamedTuple):
    """What was asked; `at` by time.time()."""

    at: float
    login: str
    operation: str
    file_id: str
    outcome: str
    """A result code, or what went wrong: error, hang, cut, truncated, lost."""


@dataclass
class Office:
    boxes: dict[str, Box]
    """By login."""
    log: deque[Entry] = field(default_factory=lambda: deque(maxlen=_LOG_MAX))
    """In the order in which answers were decided; the oldest are forgotten."""
    url: str = ""
    """Of the service, once `serving` has it."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, call: Call, outcome: str) -> None:
        file_id = call.text("fileId") or call.text("fieldId")
        self.log.append(Entry(time.time(), call.text("login"), call.operation, file_id, outcome))

    def state(self, *, with_log: bool = False) -> dict[str, Any]:
        """As JSON has it: facilities by login, with their files, downloads and acknowledgements."""
        found: dict[str, Any] = {"facilities": {login: _box(box) for login, box in self.boxes.items()}}
        return found | {"log": [entry._asdict() for entry in self.log]} if with_log else found


def _box(box: Box) -> dict[str, Any]:
    return {
        "licence": box.profile.licence,
        "behaviour": msgspec.to_builtins(box.behaviour),
        "requests": dict(box.requests),
        "sent": {file_id: _file(file) for file_id, file in box.sent.items()},
        "received": {file_id: _file(file) for file_id, file in box.received.items()},
    }


def _file(file: StoredFile) -> dict[str, Any]:
    return {
        "kind": file.kind,
        "records": file.records,
        "downloads": dict(file.downloads),
        "acknowledged": file.acknowledged,
        "garbage": file.is_garbage,
    }
