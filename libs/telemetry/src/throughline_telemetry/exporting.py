"""Where spans go: an OTLP collector, a file of JSON lines, both, or nowhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from throughline_telemetry import attributes
from throughline_telemetry.tracing import format_traceparent

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACE_FILE: Final = "THROUGHLINE_TRACE_FILE"
_FILE_DELAY_MILLIS: Final = 100


class JsonLinesSpanExporter(SpanExporter):
    """Appends one JSON object per span to a file. Several processes may share the file: a batch is one write."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Writes the spans."""
        if self._descriptor is None:
            return SpanExportResult.FAILURE
        lines = "".join(json.dumps(_as_json(span), separators=(",", ":"), default=str) + "\n" for span in spans)
        try:
            os.write(self._descriptor, lines.encode())
        except OSError:
            return SpanExportResult.FAILURE  # a full disk must not stop the service: it loses spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def configure_tracing(
    service: str, *, partition: int = 0, version: str = "", env: Mapping[str, str] = os.environ
) -> TracerProvider | None:
    """Sends this process's spans where the environment says; records nothing, at no cost, where it says nothing.

    OTEL_EXPORTER_OTLP_ENDPOINT (or its TRACES form) names a collector for OTLP over gRPC, THROUGHLINE_TRACE_FILE a
    file for JSON lines. OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG choose what is sampled, as the OpenTelemetry
    specification has it. To be called once in a process. `shutdown` of what is returned writes what is still held.
    """
    collector = bool(env.get(ENDPOINT) or env.get(TRACES_ENDPOINT))
    file = env.get(TRACE_FILE, "")
    if not collector and not file:
        return None
    provider = TracerProvider(
        resource=Resource.create(
            {
                attributes.SERVICE_NAME: f"throughline-{service}",
                attributes.SERVICE_VERSION: version,
                attributes.PARTITION: partition,
            }
        ),
        shutdown_on_exit=False,
    )
    if collector:
        # Imported only where used: it costs 20 MB and 100 ms.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- only who exports needs it

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if file:
        exporter = JsonLinesSpanExporter(Path(file))
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_FILE_DELAY_MILLIS))
    trace.set_tracer_provider(provider)
    return provider


def _as_json(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    return {
        "service": span.resource.attributes.get(attributes.SERVICE_NAME, ""),
        "name": span.name,
        "kind": span.kind.name.lower(),
        "traceparent": format_traceparent(context) if context else "",
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "span_id": f"{context.span_id:016x}" if context else "",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
        "links": [format_traceparent(link.context) for link in span.links],
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name.lower(),
        "attributes": dict(span.attributes or {}),
    }
