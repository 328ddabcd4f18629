"""What stands in the tables beside the log: rows and their keys."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from journey.domain.telling import Journey, Telling
from journey.domain.variants import Way

# Interaction -> attribution that holds: position in identity's log, client, former clients. A last-writer register.
OWNERS: Final = "owners"
# Client -> what of the whole history is counted over clients.
CLIENTS: Final = "clients"
# Definition, client, journey -> how it went.
JOURNEYS: Final = "journeys"
# Deadline, client, journey: silence that may have become too long.
DEADLINES: Final = "deadlines"
# Token hash -> client, hand-off.
HANDOFFS: Final = "handoffs"
# Clients that were ever offered to another channel.
OFFERED: Final = "offered"
# Feedback item, case -> what of them has been heard, each field with its position in feedback's log.
FEEDBACK: Final = "feedback_items"
CASES: Final = "cases"
# Client -> identity's position at which it was forgotten.
DROPPED: Final = "dropped"
# Journey -> the definition that holds.
DEFINITIONS: Final = "definitions"
META: Final = "journey_meta"

TABLES: Final = (
    OWNERS,
    CLIENTS,
    JOURNEYS,
    DEADLINES,
    HANDOFFS,
    OFFERED,
    FEEDBACK,
    CASES,
    DROPPED,
    DEFINITIONS,
    META,
)
WATERMARK: Final = b"watermark"
# Number of definitions published so far: readers see by it that theirs are old.
GENERATION: Final = b"generation"
# Where a telling-again of all history stands: the last client done.
RETELLING: Final = b"retelling"


class Owner(NamedTuple):
    """Whose an interaction is by the attribution at `position`, and whose it was before."""

    position: int
    client_id: str
    former: tuple[str, ...]


class ClientRow(msgspec.Struct, array_like=True):
    """A client's whole history, as it is counted."""

    path: list[str]
    first_at: int
    last_at: int
    contacts: int


class JourneyRow(msgspec.Struct, array_like=True):
    """One journey, as it is counted. `deadline` decides while `status` is open."""

    status: str
    started_at: int
    last_at: int
    deadline: int
    stages: list[str]
    loops: list[str]
    channels: list[str]
    switches: int


class HandoffRow(msgspec.Struct, array_like=True):
    """Where the hand-off of a token is found."""

    client_id: str
    handoff_id: str


class FeedbackRow(msgspec.Struct, array_like=True):
    """What has been heard of one item; each position is that of the event which said it."""

    client_id: str = ""
    client_position: int = 0
    topics: list[str] = []
    topics_position: int = 0
    # Serialised FeedbackFact; empty until the item itself was heard of.
    fact: bytes = b""
    received_position: int = 0
    interaction_id: str = ""
    occurred_at: int = 0


class CaseRow(msgspec.Struct, array_like=True):
    """What has been heard of one case; each position is that of the event which said it."""

    client_id: str = ""
    position: int = 0
    event_id: str = ""
    state: str = ""
    state_position: int = 0
    department: str = ""
    department_position: int = 0
    topic: str = ""
    acknowledge_by: int = 0
    resolve_by: int = 0
    opened_position: int = 0


_encoder: Final = msgspec.msgpack.Encoder()
encode: Final = _encoder.encode
client_row: Final = msgspec.msgpack.Decoder(ClientRow).decode
journey_row: Final = msgspec.msgpack.Decoder(JourneyRow).decode
handoff_row: Final = msgspec.msgpack.Decoder(HandoffRow).decode
feedback_row: Final = msgspec.msgpack.Decoder(FeedbackRow).decode
case_row: Final = msgspec.msgpack.Decoder(CaseRow).decode


def number(value: bytes | None) -> int:
    """A number kept in a row, 0 where there is none."""
    return int.from_bytes(value, "big") if value else 0


def number_bytes(value: int) -> bytes:
    """Eight bytes that sort as the number does. Times before 1970 sort as 1970."""
    return max(value, 0).to_bytes(8, "big")


def owner_row(owner: Owner) -> bytes:
    """An attribution as a row."""
    return (
        owner.position.to_bytes(8, "big")
        + bytes.fromhex(owner.client_id)
        + b"".join([bytes.fromhex(former) for former in owner.former])
    )


def owner_of(row: bytes) -> Owner:
    """A row as an attribution."""
    return Owner(
        int.from_bytes(row[:8], "big"),
        row[8:24].hex(),
        tuple([row[at : at + 16].hex() for at in range(24, len(row), 16)]) if len(row) > 24 else (),
    )


def journey_prefix(journey: str) -> bytes:
    """What the keys of one definition's journeys begin with."""
    return journey.encode() + b"\x00"


def journey_key(journey: str, client: bytes, journey_id: str) -> bytes:
    """Key of a journey's row."""
    return journey_prefix(journey) + client + bytes.fromhex(journey_id)


def deadline_key(deadline: int, client: bytes, journey_id: str) -> bytes:
    """Key of a deadline's row: in the order of deadlines."""
    return number_bytes(deadline) + client + bytes.fromhex(journey_id)


def client_bytes(telling: Telling) -> bytes:
    """A client's row."""
    return encode(ClientRow(telling.path, telling.first_at, telling.last_at, telling.interactions))


def journey_bytes(journey: Journey) -> bytes:
    """A journey's row."""
    names = [stage.stage for stage in journey.definition.stages]
    return encode(
        JourneyRow(
            journey.status,
            journey.started_at,
            journey.last_at,
            journey.deadline,
            [names[stage] for stage in journey.stages],
            [names[stage] for stage in journey.loops],
            journey.channels,
            journey.switches,
        )
    )


def journey_way(key: bytes, value: bytes, now: int) -> Way:
    """A journey's row as a way to count, judged now (microseconds)."""
    row = journey_row(value)
    status = "abandoned" if row.status == "open" and row.deadline < now else row.status
    return Way(
        key[-16:].hex(),
        tuple(row.channels),
        status,
        row.started_at,
        row.last_at,
        tuple(row.stages),
        tuple(row.loops),
        row.switches,
    )


def client_way(key: bytes, value: bytes) -> Way:
    """A client's row as a way to count."""
    row = client_row(value)
    return Way(key.hex(), tuple(row.path), "", row.first_at, row.last_at)
