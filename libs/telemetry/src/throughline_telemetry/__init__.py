"""Logs, traces and metrics, with every name defined once."""

from throughline_telemetry import attributes, metrics
from throughline_telemetry.exporting import JsonLinesSpanExporter, configure_tracing
from throughline_telemetry.logs import PERSONAL_FIELDS, REDACTED, configure_logging, logger
from throughline_telemetry.metrics import MetricsServer, start_metrics_server
from throughline_telemetry.observing import BatchObserver
from throughline_telemetry.setup import Telemetry, configure
from throughline_telemetry.tracing import (
    batch_span,
    call_metadata,
    caused_by,
    context_of,
    current_traceparent,
    format_traceparent,
    is_sampled,
    parse_traceparent,
    traceparent_of_metadata,
    tracer,
)

__all__ = [
    "PERSONAL_FIELDS",
    "REDACTED",
    "BatchObserver",
    "JsonLinesSpanExporter",
    "MetricsServer",
    "Telemetry",
    "attributes",
    "batch_span",
    "call_metadata",
    "caused_by",
    "configure",
    "configure_logging",
    "configure_tracing",
    "context_of",
    "current_traceparent",
    "format_traceparent",
    "is_sampled",
    "logger",
    "metrics",
    "parse_traceparent",
    "start_metrics_server",
    "traceparent_of_metadata",
    "tracer",
]
