"""Structured logs: JSON lines on standard error, `noun.past_tense`, facts as fields, never a patient's data.

Every line says when, how bad and what it is (`timestamp`, `level`, `event`), who wrote it (`service`, `component`, `process`,
`version`), and what it was written because of: the facts of its cause, which is a request, a batch of them, or a piece of a
worker's work. A cause is looked at only when a line is written, so that a request without one pays for a reference.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson
import structlog

from base.version import VERSION

_value = re.compile(r"[\n(<{\[='\"]")
FRAMES_MAX = 25
"""Of an exception, the innermost: so that a line stays below the 4096 bytes that a pipe takes as one."""


class Cause(Protocol):
    """What a line is written because of."""

    def facts(self) -> Mapping[str, Any]:
        """For the line; never a patient's data."""


CAUSE: ContextVar[Cause | None] = ContextVar("cause", default=None)


class _Work:
    """A piece of work, and what it is a part of."""

    __slots__ = ("_facts",)

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def facts(self) -> Mapping[str, Any]:
        return self._facts


@contextmanager
def about(**facts: Any) -> Iterator[None]:
    """Every line within carries these, beside those of what it is within; tasks that are begun within do, too."""
    token = CAUSE.set(within(facts))
    try:
        yield
    finally:
        CAUSE.reset(token)


def within(facts: Mapping[str, Any]) -> Cause:
    """These beside those of the present cause."""
    return _Work({**facts_of(CAUSE.get()), **facts})


def facts_of(cause: Cause | None) -> Mapping[str, Any]:
    return {} if cause is None else cause.facts()


def without_cause() -> Context:
    """The present context, for a task that outlives what caused it: its later lines are nobody's."""
    context = copy_context()
    context.run(CAUSE.set, None)
    return context


def configure(component: str = "command", *, worker: int | None = None, level: int = logging.INFO) -> None:
    """Call once, at the start of a process. `worker`: its number among those that share a port."""
    structlog.configure(
        processors=[
            _Line(component, worker),
            structlog.processors.JSONRenderer(serializer=_serialise),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Libraries()], level=max(level, logging.WARNING), force=True)


class _Line:
    """All of a line, in the order in which it is read: when and what, who, because of what, and its own facts, which win."""

    also: Callable[[], Mapping[str, Any]] | None = None
    """More facts of the cause: base/tracing.py puts the trace's id here while it is on."""

    def __init__(self, component: str, worker: int | None) -> None:
        self._writer: dict[str, Any] = {
            "service": "sluice",
            "component": component,
            "process": os.getpid(),
            "version": VERSION,
        }
        if worker is not None:
            self._writer["worker"] = worker

    def __call__(self, _logger: Any, level: str, own: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line = {
            # Always with six digits, so that every reader's one format fits.
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": "warning" if level == "warn" else level,
            "event": own.pop("event"),
            **self._writer,
            **facts_of(CAUSE.get()),
        }
        if _Line.also is not None:
            line.update(_Line.also())
        line.update(_without_values(own))
        return line


def also(facts: Callable[[], Mapping[str, Any]] | None) -> None:
    """Every line of this process carries these too; None ends it."""
    _Line.also = facts


class _Libraries(logging.Handler):
    """What libraries say through `logging`, as lines of ours.

    Of their words only what comes before the first value is kept: asyncio's report of a lost exception goes on with its
    message, and that of a failed callback with its arguments, and both may hold a patient's data.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = _value.split(str(record.msg), maxsplit=1)[0].strip()
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(record.levelno, "library.logged", logger=record.name, text=text, exc_info=error)


def _without_values(event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception as its type and the places it passed: its message and variables may hold a patient's data."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        error = innermost(error)
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
        event["exception"] = type(error).__qualname__
        event["frames"] = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def innermost(error: BaseException) -> BaseException:
    """A TaskGroup's error is that of its first task."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _serialise(event: Any, **_: Any) -> bytes:
    return orjson.dumps(event, default=repr)
