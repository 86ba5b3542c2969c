"""Traces of a question through all that answers it: W3C trace context between services, spans to an OTLP collector.

Off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or its ``_TRACES_`` form) names a collector; even then nothing but names of
parts and counts is in a span, never words of a question or anything about a patient. A context that a caller sends is
passed on in any case, and stands in the log.

What sends the spans is ours alone and not OpenTelemetry's global provider: libraries that trace by themselves, as
FastAPI does, find that one and would put paths and queries, with ids of studies and patients, into spans of their own.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Final

from opentelemetry import context, trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE_VARIABLE = "OTEL_SERVICE_NAME"
NAME = "vilam3"

Attribute = str | int | float | bool


class _Sending:
    """What starts spans: OpenTelemetry's own that go nowhere, until a collector is named."""

    tracer: Tracer = trace.get_tracer(NAME)


def setup(role: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send spans to the collector that the environment names, if it names one, and put trace ids into the log.

    Args:
        role: Of this process; the service is called ``vilam3-<role>`` unless ``OTEL_SERVICE_NAME`` says otherwise.
        environment: Names the collector.

    Returns:
        Whether spans are sent.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(TraceId())
    if not any(environment.get(name) for name in ENDPOINTS):
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - seldom needed
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - likewise

    name = environment.get(SERVICE_VARIABLE) or f"{NAME}-{role}"
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _Sending.tracer = provider.get_tracer(NAME)
    return True


@contextlib.contextmanager
def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute) -> Iterator[Span]:
    """Time a piece of work; an error gives its kind, not its message, which may quote what a caller sent."""
    named = {f"{NAME}.{key}": value for key, value in attributes.items()}
    with _Sending.tracer.start_as_current_span(
        name, kind=kind, attributes=named, record_exception=False, set_status_on_exception=False
    ) as started:
        try:
            yield started
        except Exception as error:
            started.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@contextlib.contextmanager
def continued(name: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request that came in, below that of the caller who sent it."""
    token = context.attach(extract(headers))
    try:
        with span(name, kind=SpanKind.SERVER) as started:
            yield started
    finally:
        context.detach(token)


@contextlib.contextmanager
def calling(name: str, **attributes: Attribute) -> Iterator[dict[str, str]]:
    """The span of a request to another service; yields the headers by which its spans are below this one.

    It is not made the current span, so that a generator may hold it open while its caller does other things.
    """
    named = {f"{NAME}.{key}": value for key, value in attributes.items()}
    started = _Sending.tracer.start_span(name, kind=SpanKind.CLIENT, attributes=named)
    carried: dict[str, str] = {}
    inject(carried, context=trace.set_span_in_context(started))
    try:
        yield carried
    except Exception as error:
        started.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        started.end()


def past(name: str, *, began_s: float, **attributes: Attribute) -> None:
    """A span that ends now and began at `began_s` of `time.time()`."""
    named = {f"{NAME}.{key}": value for key, value in attributes.items()}
    _Sending.tracer.start_span(name, attributes=named, start_time=int(began_s * 1e9)).end()


def note(started: Span, **attributes: Attribute) -> None:
    """Add to a span what was not known when it began."""
    for key, value in attributes.items():
        started.set_attribute(f"{NAME}.{key}", value)


def trace_id() -> str:
    """Of the current trace, 32 hexadecimal digits; empty outside of one."""
    found = trace.get_current_span().get_span_context()
    return trace.format_trace_id(found.trace_id) if found.is_valid else ""


class TraceId(logging.Filter):
    """Adds the field ``trace_id`` to records that belong to a trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Note the trace; the record always passes."""
        if found := trace_id():
            record.trace_id = found
        return True
