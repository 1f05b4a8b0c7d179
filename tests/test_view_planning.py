"""What is done about a view, decided from its state and what is asked of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.config import VIEWS, Config
from reporting.planning import Decision, Wish, plan, wishes
from storage.views import State

START = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
"""An interval of the first view begins here."""
WISH = Wish(interval_s=60.0, changes_min=1, freshness_s=None, offset=0.0)
FRESH = replace(WISH, freshness_s=2.0)
STATE = State(
    name="balance-amount",
    incremental=False,
    refreshed_at=START,
    current_at=START,
    took_s=1.0,
    rows=1000,
    refreshed=1,
    applied=0,
    failed=0,
    reason="",
    now=START,
    lost=False,
    waiting=0,
)
TABLE = replace(STATE, incremental=True)


def at(seconds: float, state: State = STATE, **more: object) -> State:
    return replace(state, now=START + timedelta(seconds=seconds), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "wish", "action", "reason"),
    [
        (at(59, waiting=5), WISH, "wait", ""),
        (at(60, waiting=5), WISH, "refresh", ""),
        (at(60), WISH, "skip", "unchanged"),
        (at(60, waiting=5), replace(WISH, changes_min=6), "skip", "few"),
        (at(60, waiting=6), replace(WISH, changes_min=6), "refresh", ""),
        (at(599, waiting=5), replace(WISH, changes_min=6), "skip", "few"),
        (at(600, waiting=5), replace(WISH, changes_min=6), "refresh", ""),
        (at(70, refreshed_at=START + timedelta(seconds=59), waiting=5), WISH, "wait", ""),
        (at(0, lost=True), WISH, "refresh", ""),
        (at(5, took_s=6.0), WISH, "wait", ""),
        (at(5, took_s=6.1), WISH, "rebuild", ""),
        (at(5), FRESH, "rebuild", ""),
        (at(5), replace(WISH, freshness_s=60.0), "wait", ""),
        (at(5, TABLE), FRESH, "wait", ""),
        (at(60, TABLE), FRESH, "skip", "unchanged"),
        (at(0.4, TABLE, waiting=5), FRESH, "wait", ""),
        (at(0.5, TABLE, waiting=5), FRESH, "apply", ""),
        (at(0.9, TABLE, waiting=5, took_s=9.0), WISH, "wait", ""),
        (at(1, TABLE, waiting=5, took_s=9.0), WISH, "apply", ""),
        (at(0.9, TABLE, waiting=5), replace(FRESH, changes_min=6), "wait", ""),
        (at(1, TABLE, waiting=5), replace(FRESH, changes_min=6), "apply", ""),
        (at(1, TABLE, waiting=20_000), FRESH, "apply", ""),
        (at(1, TABLE, waiting=20_001), FRESH, "rebuild", ""),
        (at(1, TABLE, waiting=100_000, rows=1_000_000), FRESH, "apply", ""),
        (at(1, TABLE, waiting=100_001, rows=1_000_000), FRESH, "rebuild", ""),
        (at(1, TABLE, lost=True), FRESH, "rebuild", ""),
        (at(1, TABLE, took_s=3.1), WISH, "wait", ""),
        (at(1, TABLE, took_s=3.0), WISH, "refresh", ""),
        (at(1, TABLE, took_s=3.0), FRESH, "wait", ""),
    ],
)
def test_plan(state: State, wish: Wish, action: str, reason: str) -> None:
    """Each of the rules, on both sides of its bound."""
    decision = plan(state, wish)
    assert (decision.action, decision.reason) == (action, reason)


@given(
    took_s=st.floats(0, 20),
    interval_s=st.sampled_from([1.0, 60.0, 900.0]),
    freshness_s=st.none() | st.sampled_from([0.5, 2.0, 1000.0]),
    incremental=st.booleans(),
    waiting=st.integers(0, 50_000),
    after_s=st.floats(0, 2000),
)
def test_never_to_and_fro(
    took_s: float, interval_s: float, freshness_s: float | None, incremental: bool, waiting: int, after_s: float
) -> None:
    """A view that was just brought from one way of being kept to the other is not brought back while nothing else changes."""
    wish = Wish(interval_s, 1, freshness_s, 1 / 3)
    state = at(after_s, incremental=incremental, took_s=took_s, waiting=waiting)
    switching = {False: "rebuild", True: "refresh"}
    if plan(state, wish).action == switching[incremental]:
        after = replace(state, incremental=not incremental, waiting=0, refreshed_at=state.now, current_at=state.now)
        assert plan(after, wish).action not in ("refresh", "rebuild")


@given(seconds=st.floats(0, 100_000), waiting=st.integers(0, 3), place=st.integers(0, 2), interval_s=st.floats(1, 1000))
def test_looks_again_in_time(seconds: float, waiting: int, place: int, interval_s: float) -> None:
    """Who waits as long as was said finds the view's time come, and not sooner."""
    wish = replace(WISH, offset=place / 3, interval_s=interval_s, changes_min=2)
    state = at(seconds, refreshed_at=START + timedelta(seconds=seconds / 2), current_at=START + timedelta(seconds=seconds / 2))
    for now in (state, replace(state, incremental=True, waiting=waiting, took_s=interval_s)):
        decision = plan(now, wish)
        if decision.action == "wait":
            assert 0 < decision.again_s <= interval_s * 10
            early, late = (replace(now, now=now.now + timedelta(seconds=decision.again_s + more)) for more in (-0.01, 0.01))
            if decision.again_s > 0.02:
                assert plan(early, wish).action == "wait"
            assert plan(late, wish) != decision


def test_one_in_each_interval() -> None:
    """Looked at every second, with changes all the time, a view is refreshed once in each interval of its own."""
    times: dict[str, list[float]] = {}
    for name, wish in wishes(Config()).items():
        state = replace(STATE, name=name, waiting=1)
        for second in range(600):
            state = at(second, state)
            if plan(state, wish).action == "refresh":
                times.setdefault(name, []).append(second)
                state = replace(state, refreshed_at=state.now, current_at=state.now)
    gaps = {later - earlier for found in times.values() for earlier, later in pairwise(found[1:])}
    assert gaps <= {60.0}
    phases = {name: found[-1] % 60 for name, found in times.items()}
    assert sorted(phases.values()) == [0, 20, 40], "spread over the interval"


def test_wishes() -> None:
    """Settings of all views hold for those that have none of their own."""
    given = Config.from_mapping(
        {
            "SLUICE_VIEW_INTERVAL_S": "30,claims-by-payer=900",
            "SLUICE_VIEW_CHANGES_MIN": "balance-amount=7",
            "SLUICE_VIEW_FRESHNESS_S": "remittance-advice=2",
        }
    )
    found = wishes(given)
    assert [found[name].interval_s for name in VIEWS] == [30, 30, 900]
    assert [found[name].changes_min for name in VIEWS] == [7, 1, 1]
    assert [found[name].freshness_s for name in VIEWS] == [None, 2, None]
    assert [found[name].wants_fresh for name in VIEWS] == [False, True, False]
    assert plan(STATE, found["balance-amount"]) == Decision("wait", again_s=30.0)
