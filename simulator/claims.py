"""Claims of a facility and what was remitted for them, as files of the DHA's schemas: the same seed gives the same bytes.

What the files together come to is said by `claims_truth.py`, from their bytes alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from simulator.claims_desk import Desk
from simulator.claims_text import DUBAI, to_minutes
from simulator.claims_types import INSURERS, MIX, PLAIN, FacilityProfile, GeneratedFile, Kind, Mix

__all__ = [
    "DUBAI",
    "INSURERS",
    "MIX",
    "PLAIN",
    "FacilityProfile",
    "GeneratedFile",
    "Kind",
    "Live",
    "Mix",
    "facilities",
    "generate",
]

END = datetime(2026, 6, 30, 12, 0, tzinfo=DUBAI)
SPAN = timedelta(days=90)
_SUBMITTING = 0.6
"""The share of the time in which new claims go out; the rest is for what comes of them."""


def facilities(count: int, *, first: int = 1) -> list[FacilityProfile]:
    """Licences DHA-F-0000001 and on, each with a login and a password of its own."""
    return [
        FacilityProfile(f"DHA-F-{number:07}", f"facility-{number:03}", f"post-{number:03}-{number * 7919 % 9973:04}")
        for number in range(first, first + count)
    ]


def generate(
    seed: int,
    facility: FacilityProfile,
    *,
    claims: int,
    claims_per_file: int = 100,
    start: datetime | None = None,
    end: datetime = END,
    mix: Mix = MIX,
    payers: Sequence[str] = INSURERS,
    known: Iterable[tuple[str, str]] = (),
) -> Iterator[GeneratedFile]:
    """Files of `claims` new claims and of what follows, dated from `start` (90 days before) to `end`, roughly in that order.

    `payers` are the receivers of submissions. `known` are patients to begin with, as pairs of Emirates ID and MRN.
    Memory does not grow with `claims`, but for the patients.
    """
    first, last = to_minutes(start or end - SPAN), to_minutes(end)
    if last - first < 1440:
        raise ValueError("files need a day at least")
    desk = Desk(seed, facility, mix, payers, str(first // 1440), known)
    at, left = first, claims
    while left:
        size = min(left, _size(desk, claims_per_file, varies=mix.size_varies))
        yield from desk.submit(at, size)
        yield from _followed(desk, claims_per_file, last, least=claims_per_file)
        left -= size
        at = max(at + 1, first + int((last - first) * _SUBMITTING * (claims - left) / claims))
    while any(desk.waiting.values()):
        yield from _followed(desk, claims_per_file, last, least=1)


def _size(desk: Desk, claims_per_file: int, *, varies: bool) -> int:
    return max(1, int(claims_per_file * (0.5 + desk.random.random()))) if varies else claims_per_file


def _followed(desk: Desk, most: int, last: int, *, least: int) -> Iterator[GeneratedFile]:
    """Files of everything of which as many as `least` wait."""
    for waiting in [key for key, stories in desk.waiting.items() if len(stories) >= least]:
        batch = desk.waiting[waiting][:most]
        told = max(story.at for story in batch)
        at = told + int((last - told) * (0.1 + 0.2 * desk.random.random()))
        if at <= told + 1:  # no time is left
            del desk.waiting[waiting][:most]
        else:
            yield from desk.follow_up(waiting, at, most)


class Live:
    """Files that are made when they are due, and dated so."""

    def __init__(
        self,
        seed: int,
        facility: FacilityProfile,
        *,
        since: datetime,
        mix: Mix = MIX,
        payers: Sequence[str] = INSURERS,
        known: Iterable[tuple[str, str]] = (),
    ) -> None:
        """`known` as in `generate`."""
        mix = replace(mix, early=0)  # it would be dated a day before
        self._desk = Desk(seed, facility, mix, payers, str(to_minutes(since)), known)
        self._is_turn_of_new = True

    def next(self, now: datetime, claims: int) -> list[GeneratedFile]:
        """By turns new claims, and what follows on older ones; a story goes on two minutes later at the earliest."""
        at = to_minutes(now)
        self._is_turn_of_new = not self._is_turn_of_new
        if self._is_turn_of_new:
            for waiting in sorted(self._desk.waiting, key=lambda key: -len(self._desk.waiting[key])):
                if files := list(self._desk.follow_up(waiting, at, claims)):
                    return files
        return list(self._desk.submit(at, claims))
