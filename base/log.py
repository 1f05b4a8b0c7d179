"""Structured logs: JSON lines on standard error, `noun.past_tense`, facts as fields, never a patient's data."""

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

_value = re.compile(r"[\n(<{\[='\"]")


def configure(*, level: int = logging.INFO) -> None:
    """Call once, at the start of a process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_values,
            structlog.processors.JSONRenderer(serializer=_serialise),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Libraries()], level=max(level, logging.WARNING), force=True)


class _Libraries(logging.Handler):
    """What libraries say through `logging`, as lines of ours.

    Of their words only what comes before the first value is kept: asyncio's report of a lost exception goes on with its
    message, and that of a failed callback with its arguments, and both may hold a patient's data.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = _value.split(str(record.msg), maxsplit=1)[0].strip()
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(record.levelno, "library.logged", logger=record.name, text=text, exc_info=error)


def _without_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception as its type and the places it passed: its message and variables may hold a patient's data."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        error = innermost(error)
        frames = traceback.extract_tb(error.__traceback__)
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
