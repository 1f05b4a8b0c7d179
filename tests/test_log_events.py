"""docs/logs.md names every event, its level and its own fields; read from the calls that write them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from base.log import FRAMES_MAX
from storage.asks import NAMED_MAX

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "base", "handlers", "ingestion", "metrics", "reporting", "storage", "tenants")
LEVELS = ("debug", "info", "warning", "error")
_is_event = re.compile(r"[a-z_]+\.[a-z_]+").fullmatch
Written = dict[str, tuple[set[str], set[str]]]
"""Levels and fields by event."""
BY_VALUE = {
    "facility.polled": {"info", "warning", "error"},
    "database.server": {"info", "warning"},
    "library.logged": {"warning", "error"},
}
"""Events whose level is chosen where they are written."""


def calls() -> Iterator[tuple[ast.Call, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            yield from ((node, tree) for node in ast.walk(tree) if isinstance(node, ast.Call))


def written() -> Written:
    found: Written = defaultdict(lambda: (set(), set()))
    for call, tree in calls():
        level = level_of(call.func)
        if level is None or not call.args:
            continue
        for event in events_of(call.args[1 if level == "log" else 0], tree):
            levels, fields = found[event]
            levels |= BY_VALUE.get(event, {level})
            fields |= {word.arg for word in call.keywords if word.arg} - {"exc_info"}
    return dict(found)


def level_of(function: ast.expr) -> str | None:
    if isinstance(function, ast.Name):
        return {"say": "", "_write": "warning"}.get(function.id)
    if not isinstance(function, ast.Attribute) or function.attr not in (*LEVELS, "log"):
        return None
    return function.attr if ast.unparse(function.value) in ("log", "structlog.get_logger()") else None


def events_of(event: ast.expr, tree: ast.Module) -> list[str]:
    """Of a word, a choice of two, or a table at the top of the module."""
    if isinstance(event, ast.Subscript):
        (event,) = (
            each.value
            for each in tree.body
            if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == "_PAST" and each.value
        )
    words = [node.value for node in ast.walk(event) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [word for word in words if _is_event(word)]


def dumped() -> set[str]:
    """What a dump consists of is given on by several hands."""
    paths = [ROOT / "app" / name for name in ("dump.py", "dump_state.py", "workers.py")]
    return {word for path in paths for word in re.findall(r'"(dump\.\w+)"', path.read_text())}


def documented() -> dict[str, tuple[set[str], str]]:
    text = (ROOT / "docs" / "logs.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ([a-z, ]+) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == len({row[0] for row in rows})
    return {event: (set(levels.split(", ")), rest) for event, levels, rest in rows}


def test_events() -> None:
    """Every event that is written is in the table with its level and fields, and nothing else is."""
    found, told = written(), documented()
    assert found
    assert {event: levels for event, (levels, _) in told.items()} == {
        **{event: levels for event, (levels, _) in found.items()},
        **{event: {"error"} if event == "dump.failed" else {"warning"} for event in dumped()},
    }
    for event, (_, fields) in found.items():
        named = set(re.findall(r"`(\w+)`", told[event][1]))
        assert fields <= named, f"{event} has fields that docs/logs.md does not name: {fields - named}"


def test_limits() -> None:
    """The numbers that the page names are those of the code."""
    text = (ROOT / "docs" / "logs.md").read_text()
    assert f"at most {NAMED_MAX}" in text
    assert f"the innermost {FRAMES_MAX}" in text
