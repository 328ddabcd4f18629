"""Spans of batches, linked to what caused them, and the W3C trace context in and out."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
)

from throughline_telemetry import attributes

Attribute: TypeAlias = str | int | bool | float
MAX_LINKS: Final = 32
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


def tracer() -> Tracer:
    """The tracer of this process; it records nothing until `configure_tracing` gave it somewhere to send to."""
    return trace.get_tracer("throughline")


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """The span that a W3C traceparent names, None where it is not one."""
    match = _TRACEPARENT.match(traceparent)
    if match is None:
        return None
    parsed = SpanContext(
        int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16))
    )
    return parsed if parsed.is_valid else None


def format_traceparent(span_context: SpanContext) -> str:
    """The W3C traceparent that names the span, empty for none."""
    if not span_context.is_valid:
        return ""
    return f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{int(span_context.trace_flags):02x}"


def current_traceparent() -> str:
    """The traceparent to put on what is caused here: events, bus messages, calls. Empty outside any trace."""
    return format_traceparent(trace.get_current_span().get_span_context())


def context_of(traceparent: str) -> Context | None:
    """The context in which a span becomes the child of what the traceparent names, None where it names nothing."""
    parent = parse_traceparent(traceparent)
    return None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


def is_sampled(traceparent: str) -> bool:
    """Tells whether whoever sent the traceparent records its trace."""
    return traceparent.endswith(("1", "3", "5", "7", "9", "b", "d", "f")) and parse_traceparent(traceparent) is not None


def traceparent_of_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The traceparent among the metadata of a gRPC call, empty where there is none."""
    for key, value in metadata or ():
        if key == attributes.TRACEPARENT and isinstance(value, str):
            return value
    return ""


def call_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata for an outgoing gRPC call: the current trace, or nothing."""
    traceparent = current_traceparent()
    return ((attributes.TRACEPARENT, traceparent),) if traceparent else ()


@contextmanager
def caused_by(traceparent: str) -> Generator[None]:
    """Within the block `current_traceparent` is what was given; no span is made."""
    context = context_of(traceparent)
    if context is None:
        yield
        return
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


@contextmanager
def batch_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    traceparent: str = "",
    causes: Iterable[str] = (),
    attributes: Mapping[str, Attribute] | None = None,
) -> Generator[Span]:
    """One span for a whole batch, current within the block, and linked to the distinct traceparents that caused it
    (at most 32).

    It is a child of `traceparent`, or of the current span, or of the first cause, or a trace of its own. An exception
    marks it as failed.
    """
    links = _links(causes)
    context = context_of(traceparent) if traceparent else None
    if context is None and links and trace.get_current_span() is INVALID_SPAN:
        context = trace.set_span_in_context(NonRecordingSpan(links[0].context), Context())
    with tracer().start_as_current_span(
        name, context=context, kind=kind, links=links, attributes=dict(attributes) if attributes else None
    ) as span:
        yield span


def _links(causes: Iterable[str]) -> Sequence[Link]:
    links: list[Link] = []
    for cause in dict.fromkeys(causes):
        span_context = parse_traceparent(cause) if cause else None
        if span_context is not None:
            links.append(Link(span_context))
            if len(links) == MAX_LINKS:
                break
    return links
