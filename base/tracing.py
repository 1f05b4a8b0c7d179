"""Traces by OpenTelemetry: an optional extra, off unless SLUICE_TRACING is `on`; all else is said by its own OTEL_* variables.

While it is off nothing of it is imported. The API's spans are in handlers/tracing.py; here are the process' tracer and the
pieces of a worker's work, which are log facts always and spans where tracing is on. What a span says: names, counts and
outcomes; never a query, an id or a message, which may hold a patient's data.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from time import perf_counter, time_ns
from typing import Any

from base import log
from base.config import Config, ConfigError
from base.version import VERSION

_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_CLOSE_S = 5.0
_tracer: Any = None
"""The process' own, as its log is; None while tracing is off."""


def is_on(config: Config) -> bool:
    """OTEL_SDK_DISABLED goes before our setting. Raises ConfigError when the extra is not installed."""
    if config.tracing == "off" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if not all(map(_is_there, _NEEDED)):
        raise ConfigError(
            'SLUICE_TRACING=on needs OpenTelemetry, which is an extra: pip install "sluice[tracing]", '
            "or in a checkout pip install -e '.[tracing]'; SLUICE_TRACING=off goes without"
        )
    return True


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def tracing(config: Config, component: str) -> Iterator[Any]:
    """The tracer, or None. Spans are sent by a thread of the SDK's; what it still has is sent at the end, within seconds."""
    if not is_on(config):
        yield None
        return
    provider, exporter = _provider(component)
    global _tracer  # noqa: PLW0603  # one a process
    before, _tracer = _tracer, provider.get_tracer("sluice", VERSION)
    log.also(_trace_facts)
    try:
        yield _tracer
    finally:
        _tracer = before
        log.also(_trace_facts if before else None)
        # A collector that hangs would hold up our end: past some seconds, its last spans are not worth that.
        closing = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            exporter.shutdown()  # ends its tries


def _provider(component: str) -> tuple[Any, Any]:
    """Sampler, exporter and batches by the standard variables, whose defaults stand: all that the client does not unsample."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "sluice"}
    resource = Resource.create({**named, "service.version": VERSION, "sluice.component": component, "process.pid": os.getpid()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, exporter


def _trace_facts() -> dict[str, str]:
    """So that a log line leads to its trace."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}


class Work:
    """A piece of a worker's work: its facts are in every log line within, and where tracing is on it is a span."""

    __slots__ = ("_cause", "_span")

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self._cause = log.within(facts)
        self._span = None if _tracer is None else _tracer.start_span(name, attributes=_attributes(facts))

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """In any task, and any number of times until its end."""
        token = log.CAUSE.set(self._cause)
        try:
            if self._span is None:
                yield
            else:
                from opentelemetry.trace import use_span

                with use_span(self._span, record_exception=False, set_status_on_exception=False):
                    yield
        finally:
            log.CAUSE.reset(token)

    def say(self, *, error: str = "", **facts: Any) -> None:
        """More of it, for its span. `error`: what kind of failure it was."""
        if self._span is not None:
            self._span.set_attributes(_attributes(facts))
            if error:
                _fail(self._span, error)

    def end(self, *, error: str = "") -> None:
        if self._span is not None:
            self.say(error=error)
            self._span.end()


@contextmanager
def work(name: str, /, **facts: Any) -> Iterator[Work]:
    """A piece of work from here to the end of the block, which may end it before."""
    piece = Work(name, facts)
    try:
        with piece.going_on():
            yield piece
    except BaseException as error:
        piece.end(error=type(error).__name__)
        raise
    piece.end()


def passed(name: str, began: float, ended: float) -> None:
    """A part of the present work, as a span; times of perf_counter."""
    if _tracer is not None:
        shift = epoch_shift()
        _tracer.start_span(name, start_time=shift + int(began * 1e9)).end(shift + int(ended * 1e9))


def epoch_shift() -> int:
    """What makes nanoseconds of perf_counter those since 1970."""
    return time_ns() - int(perf_counter() * 1e9)


def _fail(span: Any, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


def _attributes(facts: dict[str, Any]) -> dict[str, Any]:
    return {f"sluice.{name}": value for name, value in facts.items()}
