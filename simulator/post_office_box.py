"""A facility's mailbox: its files, who took them, and how it misbehaves."""

import asyncio
import base64
import os
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import get_args

from simulator.claims_types import FacilityProfile, GeneratedFile, Kind
from simulator.post_office_behaviour import WELL_BEHAVED, Behaviour, Fault, number_of

COPY = "-copy"
"""Follows a file's id where it is listed under two."""


class Spool:
    """Contents in base64, as answers carry them, in a file without a name: memory does not grow with them."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._end = 0

    def put(self, content: bytes) -> slice:
        encoded = base64.b64encode(content)
        os.pwrite(self._file, encoded, self._end)
        place = slice(self._end, self._end + len(encoded))
        self._end = place.stop
        return place

    def get(self, place: slice) -> bytes:
        return os.pread(self._file, place.stop - place.start, place.start)


@dataclass(slots=True)
class StoredFile:
    file_id: str
    name: str
    kind: Kind
    sender_id: str
    receiver_id: str
    at: datetime
    records: int
    place: slice
    spool: Spool
    available_at: float
    """By `time.monotonic()`."""
    is_taken: bool
    """Acknowledged by its receiver."""
    downloads: Counter[str] = field(default_factory=Counter)
    """By id, of which a file may have two."""
    acknowledged: dict[str, list[float]] = field(default_factory=dict)
    """By id, the times at which it was."""
    is_garbage: bool = False

    @property
    def base64(self) -> bytes:
        return self.spool.get(self.place)


class Box:
    """`files` whose sender is the facility are its sent ones, all others it has received."""

    def __init__(
        self, profile: FacilityProfile, files: Iterable[GeneratedFile] = (), behaviour: Behaviour = WELL_BEHAVED
    ) -> None:
        self.profile = profile
        self.sent: dict[str, StoredFile] = {}
        self.received: dict[str, StoredFile] = {}
        self.requests: Counter[str] = Counter()
        self.changed = asyncio.Event()
        """Set when the behaviour is another; then there is a new one."""
        self._spool = Spool()
        self.behave(behaviour)
        for file in files:
            self.add(file)

    def behave(self, behaviour: Behaviour) -> None:
        """From now on, with all counts and the random numbers new."""
        self.behaviour = behaviour
        self._random = Random(behaviour.seed)
        self._left = {name: getattr(behaviour, f"{name}_next") for name in get_args(Fault)}
        self.changed.set()
        self.changed = asyncio.Event()

    def hits(self, fault: Fault) -> bool:
        """Whether it happens now."""
        if self._left[fault] > 0:
            self._left[fault] -= 1
            return True
        share = getattr(self.behaviour, f"{fault}_share", 0)
        return bool(share) and self._random.random() < share

    def add(self, file: GeneratedFile, *, after_s: float = 0) -> StoredFile:
        """`after_s`: only from then on it can be listed and downloaded."""
        is_sent = file.sender_id == self.profile.licence
        stored = StoredFile(
            file.file_id,
            file.name,
            file.kind,
            file.sender_id,
            file.receiver_id,
            file.at,
            file.records,
            self._spool.put(file.document),
            self._spool,
            time.monotonic() + after_s if after_s else 0,
            is_taken=is_sent and number_of(file.file_id) % 10 < 7,
        )
        self.put(stored, is_sent=is_sent)
        return stored

    def put(self, stored: StoredFile, *, is_sent: bool) -> None:
        (self.sent if is_sent else self.received)[stored.file_id] = stored

    def files(self) -> Iterator[StoredFile]:
        """That are there by now."""
        now = time.monotonic()
        for held in (self.sent, self.received):
            yield from (file for file in held.values() if file.available_at <= now)

    def find(self, file_id: str) -> StoredFile | None:
        if self.behaviour.duplicates == "two_ids":
            file_id = file_id.removesuffix(COPY)
        found = self.received.get(file_id) or self.sent.get(file_id)
        return found if found is not None and found.available_at <= time.monotonic() else None

    def is_new(self, file: StoredFile, file_id: str) -> bool:
        """Whether it is to be fetched under that id."""
        return file_id not in file.acknowledged or self.behaviour.relist

    def is_garbage(self, file: StoredFile) -> bool:
        """Once it is, it remains so."""
        share = self.behaviour.garbage_share
        if not file.is_garbage:
            by_share = share and number_of(self.behaviour.seed, file.file_id) % 10_000 < share * 10_000
            file.is_garbage = bool(by_share) or (self._left["garbage"] > 0 and self.hits("garbage"))
        return file.is_garbage

    def acknowledge(self, file: StoredFile, file_id: str) -> None:
        file.acknowledged.setdefault(file_id, []).append(time.time())
        if file_id == file.file_id and file_id in self.received:
            file.is_taken = True
