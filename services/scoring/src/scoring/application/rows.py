"""How records lie in table rows: fixed-width heads, MessagePack for the rest. Nothing here is published."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import msgspec

from scoring.domain.client import Facts
from scoring.domain.facts import Contact
from scoring.domain.registers import CaseRegister, FeedbackRegister, JourneyRegister
from scoring.domain.tally import Counter

CLIENTS: Final = "clients"
SNAPSHOTS: Final = "snapshots"
OWNERS: Final = "owners"
FORMER: Final = "former_owners"
FEEDBACK: Final = "feedback"
CASES: Final = "cases"
JOURNEYS: Final = "journeys"
TRANSITIONS: Final = "transitions"
COUNTERS: Final = "counters"
TIMES: Final = "times"
CASE_ENDS: Final = "case_ends"
METRICS: Final = "metrics"
PUBLISHED: Final = "published"
# Owner of what belonged to a client that was forgotten: the link is gone, how far it was told is kept.
NOBODY: Final = "0" * 32
TABLES: Final = (
    CLIENTS,
    SNAPSHOTS,
    OWNERS,
    FORMER,
    FEEDBACK,
    CASES,
    JOURNEYS,
    TRANSITIONS,
    COUNTERS,
    TIMES,
    CASE_ENDS,
    METRICS,
    PUBLISHED,
)

_HEAD = struct.Struct(">6Q")
_OWNER = struct.Struct(">16sQ")
_NUL = b"\x00"

_pack = msgspec.msgpack.Encoder().encode
_facts = msgspec.msgpack.Decoder(Facts)
_feedback = msgspec.msgpack.Decoder(FeedbackRegister)
_case = msgspec.msgpack.Decoder(CaseRegister)
_journey = msgspec.msgpack.Decoder(JourneyRegister)
_ends = msgspec.msgpack.Decoder(dict[str, Contact])


@dataclass(slots=True)
class Head:
    """Where a client's stream stands: its version, the version of its snapshot, the position of its last event.

    The last three are the upstream positions (identity, feedback, journey) up to which the client was dropped: what
    was said of it up to there never counts again. 0: never.
    """

    version: int = 0
    snapshot_version: int = 0
    position: int = 0
    forgotten: int = 0
    feedback_dropped: int = 0
    journey_dropped: int = 0


def pack_head(head: Head) -> bytes:
    """48 bytes."""
    return _HEAD.pack(
        head.version,
        head.snapshot_version,
        head.position,
        head.forgotten,
        head.feedback_dropped,
        head.journey_dropped,
    )


def unpack_head(row: bytes) -> Head:
    """The head in a row."""
    return Head(*_HEAD.unpack(row))


def pack_owner(client_id: str, position: int) -> bytes:
    """Whose an interaction is, and since which attribution."""
    return _OWNER.pack(bytes.fromhex(client_id), position)


def unpack_owner(row: bytes) -> tuple[str, int]:
    """(client id, attribution position)."""
    client, position = _OWNER.unpack(row)
    return client.hex(), position


def pack_facts(facts: Facts) -> bytes:
    """A client's facts."""
    return _pack(facts)


def unpack_facts(row: bytes) -> Facts:
    """A client's facts."""
    return _facts.decode(row)


def pack_register(register: FeedbackRegister | CaseRegister | JourneyRegister) -> bytes:
    """A register of what upstream said last."""
    return _pack(register)


def unpack_feedback(row: bytes) -> FeedbackRegister:
    """One item of feedback's register."""
    return _feedback.decode(row)


def unpack_case(row: bytes) -> CaseRegister:
    """One case's register."""
    return _case.decode(row)


def unpack_journey(row: bytes) -> JourneyRegister:
    """One journey's register."""
    return _journey.decode(row)


def pack_ends(ends: dict[str, Contact]) -> bytes:
    """A case's last contact per client."""
    return _pack(ends)


def unpack_ends(row: bytes) -> dict[str, Contact]:
    """A case's last contact per client."""
    return _ends.decode(row)


def subject_prefix(kind: int, subject: str | None = None) -> bytes:
    """What all counters of a kind, or of one subject, begin with."""
    return bytes((kind,)) if subject is None else bytes((kind,)) + subject.encode() + _NUL


def counter_key(counter: Counter) -> tuple[str, bytes]:
    """(table, key) of a counter: times lie apart, in the order of their length."""
    kind, subject, metric, aspect, part = counter
    head = bytes((kind,)) + subject.encode() + _NUL + metric.encode() + _NUL
    if isinstance(part, int):
        return TIMES, head + part.to_bytes(8, "big")
    return COUNTERS, head + aspect.encode() + _NUL + part.encode()


def counter_of(table: str, key: bytes) -> Counter:
    """The counter that a key names."""
    if table == TIMES:
        subject, metric, _ = key[1:-8].split(_NUL)
        return key[0], subject.decode(), metric.decode(), "", int.from_bytes(key[-8:], "big")
    subject, metric, aspect, part = key[1:].split(_NUL)
    return key[0], subject.decode(), metric.decode(), aspect.decode(), part.decode()


def metric_key(metric: str, version: int) -> bytes:
    """Key of one version of a metric of one's own."""
    return metric.encode() + _NUL + version.to_bytes(4, "big")
