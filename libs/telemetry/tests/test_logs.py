"""Log lines say who speaks, and nothing personal."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog

from throughline_telemetry import PERSONAL_FIELDS, REDACTED, configure_logging, logger


@pytest.fixture
def lines() -> Iterator[io.BytesIO]:
    output = io.BytesIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging("identity", partition=3, version="1.2", stream=cast("Any", output))
    yield output
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def read(output: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_is_one_json_object_that_says_who_speaks(lines: io.BytesIO) -> None:
    """Service, partition, version, level, time, and what was bound."""
    with structlog.contextvars.bound_contextvars(correlation_id="c1"):
        logger().bind(component="relay").info("published", events=500, key=b"\x01\xff")
    (line,) = read(lines)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "service": "identity",
        "partition": 3,
        "version": "1.2",
        "level": "info",
        "event": "published",
        "component": "relay",
        "correlation_id": "c1",
        "events": 500,
        "key": "01ff",
    }


def test_personal_values_stay_out_at_any_depth(lines: io.BytesIO) -> None:
    """Whoever logs an identifier or what somebody said by mistake logs nothing."""
    anna = "anna@firma.de"
    logger().warning(
        f"cannot resolve {anna}",
        email=anna,
        identifiers=[anna],
        session_id="s-1-secret",
        nested={"row": [{"value": anna, "verbatim": "so rude", "kind": "call"}]},
        error=f"duplicate key {anna}",
    )
    written = lines.getvalue().decode()
    for personal in ("anna", "firma", "so rude", "s-1-secret"):
        assert personal not in written
    (line,) = read(lines)
    assert line["nested"]["row"][0] == {"value": REDACTED, "verbatim": REDACTED, "kind": "call"}
    assert line["event"] == f"cannot resolve {REDACTED}"
    assert {"email", "phone", "verbatim", "answer", "hash_key"} <= PERSONAL_FIELDS


def test_a_stack_is_logged_without_addresses(lines: io.BytesIO) -> None:
    """An exception's own words may quote what somebody typed."""
    try:
        raise ValueError("no client for anna@firma.de")  # noqa: TRY301 -- what is logged is the error's own stack
    except ValueError:
        logger().exception("failed")
    (line,) = read(lines)
    assert "ValueError" in line["exception"]
    assert "test_a_stack_is_logged_without_addresses" in line["exception"]
    assert "anna" not in line["exception"]


def test_libraries_log_in_the_same_form(lines: io.BytesIO) -> None:
    """What nats, grpc and asyncio say is JSON too, redacted too, with the logger's name."""
    logging.getLogger("nats.client").warning("reconnect for %s", "anna@firma.de")
    try:
        raise OSError("disk full")  # noqa: TRY301 -- what is logged is the error's own stack
    except OSError:
        logging.getLogger("throughline_eventlog.writer").exception("the writer failed")
    first, second = read(lines)
    assert (first["event"], first["logger"], first["level"]) == (f"reconnect for {REDACTED}", "nats.client", "warning")
    assert (first["service"], first["partition"]) == ("identity", 3)
    assert "disk full" in second["exception"]


def test_a_level_is_kept_to(lines: io.BytesIO) -> None:
    """Below it nothing is written; an unknown one is refused."""
    logger().debug("detail")
    logging.getLogger("asyncio").debug("detail")
    assert lines.getvalue() == b""
    configure_logging("identity", level="debug", stream=cast("Any", lines))
    logger().debug("detail")
    assert [line["event"] for line in read(lines)] == ["detail"]
    with pytest.raises(ValueError, match="log level 'LOUD' is unknown"):
        configure_logging("identity", level="LOUD")
