"""Every name that logs, traces and metrics are found by, once. Names of OpenTelemetry's own conventions are used
where one exists.
"""

from __future__ import annotations

from typing import Final

# Resource: what every span and log line of a process carries.
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
PARTITION: Final = "throughline.partition"

# Span names: one per batch, never one per event.
SPAN_COMMIT: Final = "throughline.commit"
SPAN_PUBLISH: Final = "throughline.publish"
SPAN_CONSUME: Final = "throughline.consume"

# gRPC.
RPC_SYSTEM: Final = "rpc.system"
RPC_SERVICE: Final = "rpc.service"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.grpc.status_code"

# Log and bus.
LOG: Final = "throughline.log"
EVENTS: Final = "throughline.events"
ITEMS: Final = "throughline.items"
START_POSITION: Final = "throughline.position.start"
END_POSITION: Final = "throughline.position.end"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_BATCH: Final = "messaging.batch.message_count"
MESSAGE_ID: Final = "messaging.message.id"
STREAM: Final = "throughline.stream"
SOURCE: Final = "throughline.source"
CORRELATION_ID: Final = "throughline.correlation_id"
ERROR_ID: Final = "throughline.error_id"
ERROR_REASON: Final = "throughline.error_reason"

# Header of bus messages and key of gRPC metadata that carry the W3C trace context.
TRACEPARENT: Final = "traceparent"
