"""What an operator should look at, in words, worst first. Pure: what it is told of is what the page shows."""

from collections.abc import Iterable, Mapping
from typing import Any

BAD, LOOK = "bad", "look"

LAG_MS = 100.0
"""Of the event loop's p99: from here on every request waits for it."""
WAIT_MS = 100.0
"""Of the wait for a connection, p99."""
LATE_VIEW_S = 300.0
"""A report view that lacks changes for so long, and for five of its intervals."""

Finding = dict[str, str]


def findings(tick: Mapping[str, Any], slow: Mapping[str, Any], *, view_interval_s: float = 60.0) -> list[Finding]:
    """{`weight`, `text`, `where`}: `where` is the id of the part of the page that shows it."""
    found = [
        *_server(tick),
        *_pools(tick["pools"]),
        *(_facilities(slow["facilities"]) if slow else ()),
        *(_views(slow["views"], slow["at"], view_interval_s) if slow else ()),
    ]
    return sorted(found, key=lambda one: one["weight"] != BAD)


def _finding(weight: str, where: str, text: str) -> Finding:
    return {"weight": weight, "where": where, "text": text}


def _server(tick: Mapping[str, Any]) -> Iterable[Finding]:
    answers, server = tick["answers"], tick["server"]
    if tick["database"]:
        yield _finding(BAD, "pools", tick["database"])
    if server["mismatches"]:
        yield _finding(
            BAD, "channel", f"{_many(server['mismatches'], 'batch was', 'batches were')} thrown away: rows of nobody who asked"
        )
    if answers["failed"]:
        yield _finding(BAD, "now", f"{_many(answers['failed'], 'request', 'requests')} failed (500)")
    if answers["refused"]:
        yield _finding(LOOK, "now", f"{_many(answers['refused'], 'request was', 'requests were')} refused (429, 503, 504)")
    if server["restarts"]:
        yield _finding(LOOK, "channel", f"the dispatcher was started again {_many(server['restarts'], 'time', 'times')}")
    if (server["lag_p99"] or 0) > LAG_MS:
        yield _finding(LOOK, "now", f"the event loop runs {server['lag_p99']:.0f} ms late (p99)")


def _pools(pools: Iterable[Mapping[str, Any]]) -> Iterable[Finding]:
    for pool in pools:
        if pool["timeouts"]:
            yield _finding(
                BAD, "pools", f"{_many(pool['timeouts'], 'wait', 'waits')} for a connection of {pool['name']} ended in vain"
            )
        elif (pool["wait_p99"] or 0) > WAIT_MS:
            yield _finding(LOOK, "pools", f"a connection of {pool['name']} is waited for, {pool['wait_p99']:.0f} ms (p99)")


def _facilities(facilities: Iterable[Mapping[str, Any]]) -> Iterable[Finding]:
    states: dict[str, list[str]] = {}
    for one in facilities:
        states.setdefault(one["health"], []).append(one["licence"])
    for health, weight, words in (
        ("stopped", BAD, "is stopped|are stopped"),
        ("failing", LOOK, "failed at the last poll|failed at their last poll"),
        ("overdue", LOOK, "is overdue for a poll|are overdue for a poll"),
    ):
        if names := states.get(health):
            of_one, of_many = words.split("|")
            which = f"facility {names[0]}" if len(names) == 1 else f"{len(names)} facilities"
            yield _finding(weight, "facilities", f"{which} {of_one if len(names) == 1 else of_many}")


def _views(views: Iterable[Mapping[str, Any]], now_ms: int, interval_s: float) -> Iterable[Finding]:
    for view in views:
        age_s = (now_ms - view["behind_since"]) / 1000 if view["behind_since"] else 0.0
        if view["reason"]:
            yield _finding(LOOK, "views", f"the last refresh of {view['name']} failed: {view['reason']}")
        elif age_s > max(LATE_VIEW_S, 5 * interval_s):
            yield _finding(LOOK, "views", f"{view['name']} lacks changes of {age_s / 60:.0f} minutes")


def _many(count: float, one: str, more: str) -> str:
    return f"{count:,.0f} {one if count == 1 else more}"
