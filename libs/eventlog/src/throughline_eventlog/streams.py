"""How a log's stream on the bus is named and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

API: Final = "$JS.API."
"""What the subjects of requests to JetStream begin with."""
END_HEADER: Final = "Throughline-End"
EVENTS_HEADER: Final = "Throughline-Events"
MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
EXPECTED_ID: Final = "Nats-Expected-Last-Msg-Id"
EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Sequence"


def stream_name(service: str, partition: int = 0, prefix: str = "TL") -> str:
    """The stream of a log, e.g. `TL_IDENTITY_0`."""
    return f"{prefix}_{service.upper()}_{partition}"


def subject_name(service: str, partition: int = 0, prefix: str = "TL") -> str:
    """The subject of a log, e.g. `tl.identity.v1.0`."""
    return f"{prefix.lower()}.{service}.v1.{partition}"


def stream_config(name: str, subject: str, replicas: int) -> dict[str, Any]:
    """A stream that keeps everything: on disk, without limits, with nothing to be deleted out of it."""
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "discard": "new",
        "duplicate_window": 120_000_000_000,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
    }


def stream_flaw(config: Mapping[str, Any], subject: str, replicas: int) -> str | None:
    """Why a stream that somebody else made would lose events, None where it would not."""
    retention, kept = config.get("retention", "limits"), config.get("num_replicas", 1)
    limits = ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")
    flaws = {
        f"it does not take {subject}": subject not in config.get("subjects", ()),
        f"its retention is {retention}, which removes what was read": retention != "limits",
        "it is kept in memory": config.get("storage") != "file",
        "it acknowledges before it writes (persist_mode async)": config.get("persist_mode") == "async",
        f"it has {kept} of {replicas} replicas": kept < replicas,
        **{f"it has a limit, {limit}={config.get(limit)}": config.get(limit, 0) > 0 for limit in limits},
    }
    return next((flaw for flaw, found in flaws.items() if found), None)
