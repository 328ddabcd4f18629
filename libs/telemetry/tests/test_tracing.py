"""A trace goes from the call that recorded a batch to the consumer that took it, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags

from throughline_telemetry import (
    attributes,
    call_metadata,
    caused_by,
    current_traceparent,
    format_traceparent,
    is_sampled,
    parse_traceparent,
    traceparent_of_metadata,
)

SAMPLED = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_a_traceparent_comes_back_as_it_went(trace_id: int, span_id: int, flags: int) -> None:
    """W3C trace context, written and read."""
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    text = format_traceparent(context)
    assert parse_traceparent(text) == context
    assert is_sampled(text) == bool(flags & 1)


@pytest.mark.parametrize(
    "text", ["", "x", "00-0-0-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", SAMPLED + "\n", "01"]
)
def test_what_is_no_traceparent_is_no_trace(text: str) -> None:
    """Whatever a caller sends, nothing breaks."""
    assert parse_traceparent(text) is None
    assert not is_sampled(text)
    with caused_by(text):
        assert current_traceparent() == ""


def test_the_trace_of_a_caller_goes_on_without_any_span() -> None:
    """Events and calls made within name what caused them, also where this process records nothing."""
    assert call_metadata() == ()
    for traceparent in (SAMPLED, UNSAMPLED):
        with caused_by(traceparent):
            assert current_traceparent() == traceparent
            assert traceparent_of_metadata(call_metadata()) == traceparent
    assert current_traceparent() == ""
    assert traceparent_of_metadata(None) == ""
    assert traceparent_of_metadata([("traceparent", b"x"), ("other", SAMPLED)]) == ""


# One process per service, as in life: records, commits, publishes, consumes. What one prints the next one gets.
PROGRAM = textwrap.dedent("""
    import sys
    from throughline_telemetry import BatchObserver, attributes, batch_span, configure, current_traceparent

    service, step, traceparent = sys.argv[1:]
    telemetry = configure(service, partition=2, version="9")
    observer = BatchObserver()
    if step == "record":
        causes = []
        for _ in range(3):
            with batch_span("RecordInteractions", traceparent=traceparent, attributes={attributes.RPC_SYSTEM: "grpc"}):
                causes.append(current_traceparent())
        with observer.batch("commit", [*causes, causes[0], "", "garbage"], {"service": service, "items": 3}) as trace:
            print(trace)
    elif step == "publish":
        with observer.batch("publish", [traceparent], {"service": service, "events": 500, "start": 0, "end": 500}):
            pass
    elif step == "fail":
        try:
            with observer.batch("consume", [traceparent], {"service": service, "stream": "TL_X_0", "events": 1}):
                raise ValueError("poison")
        except ValueError:
            pass
    else:
        with observer.batch("commit", [], {"service": service, "items": 1}) as commit:
            with observer.batch("consume", [traceparent], {"service": service, "stream": "TL_X_0", "events": 500}):
                print(commit)
    telemetry.shutdown()
""")


def run(step: str, traceparent: str, service: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, service, step, traceparent],
        env={**{k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "THROUGHLINE_"))}, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout.strip()


def spans(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_edges_from_call_to_consumer_are_recorded(tmp_path: Path) -> None:
    """call -> commit -> publish and consume, by links, over processes that share nothing but a traceparent; one span
    per batch.
    """
    file = tmp_path / "spans.jsonl"
    committed = run("record", SAMPLED, "ingestion", THROUGHLINE_TRACE_FILE=str(file))
    run("publish", committed, "ingestion", THROUGHLINE_TRACE_FILE=str(file))
    run("consume", committed, "identity", THROUGHLINE_TRACE_FILE=str(file))

    found = spans(file)
    calls = [span for span in found if span["name"] == "RecordInteractions"]
    (commit,) = (span for span in found if span["traceparent"] == committed)
    (publish,) = (span for span in found if span["name"] == attributes.SPAN_PUBLISH)
    (consume,) = (span for span in found if span["name"] == attributes.SPAN_CONSUME)
    assert len(found) == 7

    assert {span["trace_id"] for span in calls} == {"a" * 32}
    assert {span["parent_id"] for span in calls} == {"b" * 16}
    assert commit["links"] == [span["traceparent"] for span in calls]
    assert commit["trace_id"] == "a" * 32
    assert publish["links"] == [committed]
    assert publish["parent_id"] == commit["span_id"]
    assert consume["links"] == [committed]
    (taking,) = (span for span in found if span["span_id"] == consume["parent_id"])
    assert (taking["name"], taking["service"]) == (attributes.SPAN_COMMIT, "throughline-identity")
    assert consume["attributes"] == {attributes.LOG: "identity", attributes.STREAM: "TL_X_0", attributes.EVENTS: 500}
    assert publish["attributes"][attributes.END_POSITION] == 500
    assert (publish["kind"], consume["kind"], commit["service"]) == ("producer", "consumer", "throughline-ingestion")


def test_a_failure_is_on_its_span(tmp_path: Path) -> None:
    """What could not be handled is found by its status."""
    file = tmp_path / "spans.jsonl"
    run("fail", SAMPLED, "identity", THROUGHLINE_TRACE_FILE=str(file))
    assert [span["status"] for span in spans(file)] == ["error"]


def test_nothing_is_recorded_unless_somebody_wants_it(tmp_path: Path) -> None:
    """Without a collector or a file there are no spans, and the trace of the cause goes on."""
    assert run("record", SAMPLED, "ingestion") == SAMPLED
    assert run("consume", SAMPLED, "identity") == ""


def test_sampling_is_chosen_by_the_environment(tmp_path: Path) -> None:
    """As the OpenTelemetry specification names it; an unsampled caller is not recorded."""
    file = tmp_path / "spans.jsonl"
    run("publish", "", "ingestion", THROUGHLINE_TRACE_FILE=str(file), OTEL_TRACES_SAMPLER="always_off")
    run("publish", UNSAMPLED, "ingestion", THROUGHLINE_TRACE_FILE=str(file))
    assert spans(file) == []
    run("publish", SAMPLED, "ingestion", THROUGHLINE_TRACE_FILE=str(file))
    assert len(spans(file)) == 1


def test_every_name_is_defined_once() -> None:
    """Attribute names are lower case with dots, and none stands for two things."""
    names = [value for name, value in vars(attributes).items() if name.isupper()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z][a-z_]*(\.[a-z_]+)*", name) for name in names)
