"""Every Prometheus metric of the suite, defined once; and the port that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Thread
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, Histogram, start_http_server

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)

OFFERS: Final = Counter(
    "throughline_offers", "Interactions offered, by source and what became of them.", ["source", "verdict"]
)
OVER_QUOTA: Final = Counter(
    "throughline_over_quota_events",
    "Events turned away with their request, by source; they were not offered.",
    ["source"],
)
COMMIT_ITEMS: Final = Histogram(
    "throughline_commit_items", "Calls and chunks that shared one durable commit.", buckets=_SIZES
)
COMMIT_SECONDS: Final = Histogram(
    "throughline_commit_seconds", "From the begin of a transaction to the disk having it.", buckets=_FAST
)
LOG_POSITION: Final = Gauge("throughline_log_position", "Position of the last event of this service's log.")
STORE_SYNCS: Final = Gauge(
    "throughline_store_syncs",
    "1 where the store's server says that a setting by which it keeps what it acknowledges is on, 0 where it is off.",
    ["setting"],
)
PUBLISHED_POSITION: Final = Gauge("throughline_published_position", "Position up to which the log is on the bus.")
PUBLISHED: Final = Counter("throughline_published_events", "Events put on the bus by this process.")
OUTBOX_AGE: Final = Gauge(
    "throughline_outbox_age_seconds", "Age of the oldest event that is not on the bus yet, 0 where all are."
)
CONSUMER_LAG: Final = Gauge(
    "throughline_consumer_lag_messages", "Messages of a stream that are not taken yet.", ["stream"]
)
CONSUMER_POSITION: Final = Gauge(
    "throughline_consumer_position", "Last position taken of the log behind a stream.", ["stream"]
)
CONSUMED: Final = Counter("throughline_consumed_events", "Events taken from a stream.", ["stream"])
HANDLER_SECONDS: Final = Histogram(
    "throughline_handler_seconds",
    "Time to handle one chunk of a stream, without its commit.",
    ["stream"],
    buckets=_FAST,
)
POISON: Final = Gauge(
    "throughline_poison_events", "Events of a stream that no attempt could handle, and that wait put aside.", ["stream"]
)
RPC_SECONDS: Final = Histogram(
    "throughline_rpc_seconds", "Duration of calls, by method and status.", ["method", "code"], buckets=_FAST
)
UNEXPECTED: Final = Counter(
    "throughline_unexpected_errors", "Errors nobody expected, logged with an id each.", ["where"]
)
HEALTHY: Final = Gauge(
    "throughline_healthy", "1 where a check finds nothing wrong, 0 where it gives a reason.", ["check"]
)
RESTARTS: Final = Counter(
    "throughline_background_restarts", "Times that a relay or consumer ended by itself.", ["task"]
)
BUILD: Final = Gauge("throughline_build", "1: which service and version this process is.", ["service", "version"])
CLOCK: Final = Gauge("throughline_clock_seconds", "This machine's clock, in seconds since epoch, when it was asked.")

CERTIFICATE_NOT_AFTER: Final = Gauge(
    "throughline_certificate_not_after_seconds", "When this process's own certificate ends, in seconds since epoch."
)

UNAUTHENTICATED: Final = Counter(
    "throughline_unauthenticated_calls", "Calls of nobody who could be known, by the reason.", ["reason"]
)


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """Serves this process's metrics at `/metrics` until closed."""

    port: int
    _server: WSGIServer
    _thread: Thread

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics_server(port: int, host: str = "127.0.0.1") -> MetricsServer:
    """Serves metrics over HTTP from a thread of its own; port 0 takes a free one. Raises: OSError where the port is
    taken.
    """
    server, thread = start_http_server(port, host)
    return MetricsServer(server.server_port, server, thread)
