"""What is to be done about a report view, and when to look again. Pure.

A view that is kept as a materialised view is refreshed once an interval, if something changed. It is kept by its table, and
what changed alone is computed, where a refresh takes over a tenth of its interval, or where it may not be an interval behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from base.config import VIEWS, Config
from storage.views import State

T = TypeVar("T")

_SLOW, _QUICK = 1 / 10, 1 / 20
"""Shares of its interval: a refresh that takes over the first is given up, one that takes no more than the second is taken up
again. What lies between stays as it is, so that nothing goes to and fro."""
_PATIENT_INTERVALS = 10
"""After so many, few changes are enough."""
_PAUSE_S = 1.0
"""At most, between two applications of changes."""
_MANY = 20_000
_MANY_SHARE = 1 / 10
"""Changes, and their share of the rows, from which on it is quicker to compute all."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a view."""

    interval_s: float
    changes_min: int
    freshness_s: float | None
    """It may be so far behind; None: an interval."""
    offset: float
    """Where in its interval it is refreshed: a share."""

    @property
    def wants_fresh(self) -> bool:
        return self.freshness_s is not None and self.freshness_s < self.interval_s

    @property
    def pause_s(self) -> float:
        return min(_PAUSE_S, self.freshness_s / 4) if self.freshness_s is not None else _PAUSE_S

    def slot_of(self, moment: datetime) -> int:
        """The number of the interval that a moment lies in: each has one refresh."""
        return int((moment.timestamp() / self.interval_s) - self.offset)

    def slot_begins(self, slot: int) -> float:
        return (slot + self.offset) * self.interval_s


Action = Literal["refresh", "rebuild", "apply", "skip", "wait"]


@dataclass(frozen=True, slots=True)
class Decision:
    """`skip`: its time has come, and for this reason it goes by. `again_s`: look again in so many seconds."""

    action: Action
    reason: str = ""
    again_s: float = 0.0


def wishes(config: Config) -> dict[str, Wish]:
    """By view."""
    freshness = dict(config.view_freshness_s)
    return {
        name: Wish(
            _of(config.view_interval_s, name, 60.0),
            _of(config.view_changes_min, name, 1),
            freshness.get(name, freshness.get("")),
            offset=place / len(VIEWS),
        )
        for place, name in enumerate(VIEWS)
    }


def _of(pairs: tuple[tuple[str, T], ...], name: str, default: T) -> T:
    given: Mapping[str, T] = dict(pairs)
    return given.get(name, given.get("", default))


def plan(state: State, wish: Wish) -> Decision:
    if _by_table(state, wish):
        return _plan_table(state, wish)
    return _plan_matview(state, wish)


def _by_table(state: State, wish: Wish) -> bool:
    """Whether it is to be kept by its table."""
    return wish.wants_fresh or state.took_s > wish.interval_s * (_QUICK if state.incremental else _SLOW)


def _plan_table(state: State, wish: Wish) -> Decision:
    if not state.incremental or state.lost or state.waiting > max(_MANY, state.rows * _MANY_SHARE):
        return Decision("rebuild")
    if not state.waiting:
        # That nothing is missing is written down now and then: reports say how fresh they are.
        due_s = wish.interval_s - _since(state.current_at, state)
        return Decision("skip", "unchanged", wish.interval_s) if due_s <= 0 else Decision("wait", again_s=due_s)
    patience_s = wish.freshness_s / 2 if wish.freshness_s is not None else wish.interval_s * _PATIENT_INTERVALS
    left_s = patience_s - _since(state.current_at, state)
    if state.waiting < wish.changes_min and left_s > 0:
        return Decision("wait", again_s=left_s)
    pause_s = wish.pause_s - _since(state.refreshed_at, state)
    return Decision("apply") if pause_s <= 0 else Decision("wait", again_s=pause_s)


def _plan_matview(state: State, wish: Wish) -> Decision:
    slot = wish.slot_of(state.now)
    next_s = wish.slot_begins(slot + 1) - state.now.timestamp()
    if state.incremental or state.lost:
        return Decision("refresh")
    if wish.slot_of(state.current_at) >= slot:
        return Decision("wait", again_s=next_s)
    # Half an interval at least: a refresh that came late is not followed at once by one that comes in time.
    if (early_s := wish.interval_s / 2 - _since(state.refreshed_at, state)) > 0:
        return Decision("wait", again_s=early_s)
    if not state.waiting:
        return Decision("skip", "unchanged", again_s=next_s)
    patient = timedelta(seconds=wish.interval_s * _PATIENT_INTERVALS)
    if state.waiting < wish.changes_min and state.now - state.current_at < patient:
        return Decision("skip", "few", again_s=next_s)
    return Decision("refresh")


def _since(moment: datetime, state: State) -> float:
    return (state.now - moment).total_seconds()
