"""Which facility is polled when. Pure: plans from what is due, and the caller writes it down."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

BETWEEN_STARTS_S = 30.0


@dataclass(frozen=True, slots=True)
class Start:
    """A poll that is to start."""

    facility_no: int
    at: datetime
    next_at: datetime
    """When the facility's next poll is due."""


def spacing_s(mode: str, interval_s: float, facilities: int) -> float:
    """Seconds between two starts: 30, or less where that many facilities would not fit into the interval."""
    if mode == "concurrent" or facilities == 0:
        return 0.0
    return min(BETWEEN_STARTS_S, interval_s / facilities)


def plan(
    due: Sequence[tuple[int, datetime]],
    *,
    now: datetime,
    until: datetime,
    last_start: datetime | None,
    interval_s: float,
    gap_s: float,
) -> list[Start]:
    """Starts from `now` on and before `until`, `gap_s` apart, of (facility_no, when it is due), longest first.

    `last_start` is the latest that was planned before. Who finds no place before `until` stays due, and is first the next time.
    """
    gap, interval = timedelta(seconds=gap_s), timedelta(seconds=interval_s)
    earliest = now if last_start is None else max(now, last_start + gap)
    starts = []
    for facility_no, due_at in due:
        at = max(earliest, due_at)
        if at >= until:
            break
        starts.append(Start(facility_no, at, at + interval))
        earliest = at + gap
    return starts
