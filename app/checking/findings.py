"""What a check has found."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.checking.scene import Scene


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"
    """It could not be examined, for a reason that another check tells of."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`found`: what there is; `remedy`: what to do next. Neither ever holds a secret."""

    state: State
    found: str
    remedy: str = ""


Findings = Sequence[Finding]
"""One at least."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    examines: str
    run: Callable[["Scene"], Awaitable[Findings]]


class CannotExamineError(Exception):
    """Another check says why, and what to do; the message says it in a word."""


def ok(found: str) -> Finding:
    return Finding(State.OK, found)


def warning(found: str, remedy: str) -> Finding:
    return Finding(State.WARNING, found, remedy)


def failure(found: str, remedy: str) -> Finding:
    return Finding(State.FAILURE, found, remedy)


def bad_or(bad: Findings, good: str) -> Findings:
    """What is wrong, or that nothing is."""
    return bad or [ok(good)]


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
