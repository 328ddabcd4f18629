"""Metrics are served, and batches count."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import REGISTRY

from throughline_telemetry import BatchObserver, metrics, start_metrics_server


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_metrics_are_served_until_closed() -> None:
    """On a port of their own; a taken port is an error and not silence."""
    server = start_metrics_server(0)
    metrics.OFFERS.labels("till", "recorded").inc(3)
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics").read().decode()
    assert 'throughline_offers_total{source="till",verdict="recorded"}' in text
    with pytest.raises(OSError, match="in use"):
        start_metrics_server(server.port)
    server.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics")


def test_batches_are_measured_by_kind() -> None:
    """Commits, published and consumed events, and how long they took; a failed batch counts as nothing done."""
    observer = BatchObserver()
    before = (
        value("throughline_commit_seconds_count"),
        value("throughline_commit_items_sum"),
        value("throughline_published_events_total"),
        value("throughline_consumed_events_total", stream="TL_X_0"),
        value("throughline_handler_seconds_count", stream="TL_X_0"),
    )
    with observer.batch("commit", [], {"service": "x", "items": 7}):
        pass
    with observer.batch("publish", [], {"service": "x", "events": 500, "start": 0, "end": 500}):
        pass
    with observer.batch("consume", [], {"service": "x", "stream": "TL_X_0", "events": 400}):
        pass
    with (
        pytest.raises(ValueError, match="poison"),
        observer.batch("consume", [], {"service": "x", "stream": "TL_X_0", "events": 9}),
    ):
        raise ValueError("poison")
    after = (
        value("throughline_commit_seconds_count"),
        value("throughline_commit_items_sum"),
        value("throughline_published_events_total"),
        value("throughline_consumed_events_total", stream="TL_X_0"),
        value("throughline_handler_seconds_count", stream="TL_X_0"),
    )
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 7, 500, 400, 1]
