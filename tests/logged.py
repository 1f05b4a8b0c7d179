"""Fixtures for tests of what is logged: standard error with our log on it, and its lines."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from base import log as logs

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """Standard error, with our log on it for the length of a test."""
    stream = io.BytesIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", SimpleNamespace(buffer=stream))
    logs.configure("api")
    structlog.configure(cache_logger_on_first_use=False)  # other tests' loggers must not keep writing here
    yield stream
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def lines(written: io.BytesIO) -> Lines:
    """What was logged so far: every line is JSON."""
    return lambda: [json.loads(line) for line in written.getvalue().splitlines()]


def named(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == event]
