"""What a log has held against what is decided now, event by event: where do they first differ?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from throughline_eventlog import Codec, NewEvent
from throughline_kernel import Recorded
from throughline_replay.comparing import differing_paths
from throughline_replay.states import Standing

SHOWN: Final = 200
_UPSTREAM: Final = "_position"
"""What the names of fields end with that hold a position of an upstream log."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event that was decided otherwise: what the log has and what the code at hand makes of it.

    Ids in hex. `logged` and `derived` are the values at `path` within the event, as JSON, or "absent" where one side
    has no such event. `taken` says what was decided on: an upstream log and the positions taken together, a work of the
    service's own, or what was asked for.
    """

    service: str
    position: int
    type: str
    event_id: str
    derived_event_id: str
    causation_id: str
    taken: str
    path: str
    logged: str
    derived: str

    def __str__(self) -> str:
        name = self.type.rpartition(".")[2]
        event = self.event_id or self.derived_event_id
        cause = f", caused by {self.causation_id}" if self.causation_id else ""
        return (
            f"{name} {event} at position {self.position} ({self.taken}{cause}): {self.path or 'the event'} was "
            f"{self.logged}, would be {self.derived}"
        )


@dataclass(frozen=True, slots=True)
class Derived:
    """What came of deciding one service's log again, up to `position`.

    `events` are those of the log, `derived` those decided now, `taken` the upstream events; `differing` counts commits
    that decided otherwise, `refused` what people had asked for and would be refused now. `kinds` counts events by type:
    (logged, derived).
    """

    service: str
    position: int = 0
    events: int = 0
    derived: int = 0
    taken: int = 0
    differing: int = 0
    refused: int = 0
    first: Divergence | None = None
    kinds: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    standing: Standing | None = None

    @property
    def same(self) -> bool:
        """Every event was decided as it was, and the states are the same to the last bit."""
        return self.first is None and (self.standing is None or self.standing.same)


def compare_events(
    service: str, codec: Codec, logged: Sequence[Recorded], derived: Sequence[NewEvent], taken: str, *, moved: bool
) -> Divergence | None:
    """Where a group was decided otherwise first, None where nowhere; `taken` says what it was decided on.

    The order of streams among each other says nothing. With `moved`, neither do positions of upstream logs: what was
    taken stood elsewhere.
    """
    streams: dict[bytes, list[NewEvent]] = {}
    for event in derived:
        streams.setdefault(event.stream_id, []).append(event)
    for event in logged:
        mine = streams.get(event.stream_id)
        found = _difference(codec, event, mine.pop(0) if mine else None, moved=moved)
        if found is not None:
            path, there, here, other = found
            return Divergence(
                service,
                event.position,
                event.type,
                event.event_id.hex(),
                other,
                event.causation_id,
                taken,
                path,
                there,
                here,
            )
    for left in streams.values():
        for event in left:
            shown = _shown(_values(event.type, event.payload))
            event_id = _event_id(codec, event).hex()
            position = logged[-1].position if logged else 0
            return Divergence(
                service, position, event.type, "", event_id, event.causation_id, taken, "", "absent", shown
            )
    return None


def _difference(
    codec: Codec, logged: Recorded, derived: NewEvent | None, *, moved: bool
) -> tuple[str, str, str, str] | None:
    """(path, logged value, derived value, derived event id) of the first difference, None where there is none."""
    if derived is None:
        return "", _shown(_values(logged.type, logged.payload)), "absent", ""
    event_id = _event_id(codec, derived)
    for name, there, here in (
        ("type", logged.type, derived.type),
        ("version", logged.version, derived.version),
        ("event_id", logged.event_id.hex(), event_id.hex()),
        ("occurred_at", logged.occurred_at, derived.occurred_at),
        ("correlation_id", logged.correlation_id, derived.correlation_id),
        ("causation_id", logged.causation_id, derived.causation_id),
    ):
        if there != here:
            return name, _shown(there), _shown(here), event_id.hex()
    if logged.payload == derived.payload:
        return None
    # Maps are written in any order: the same values in other bytes are the same event.
    for path, there, here in differing_paths(
        _values(logged.type, logged.payload), _values(derived.type, derived.payload)
    ):
        if moved and path.endswith(_UPSTREAM):
            continue
        return path, _shown(there), _shown(here), event_id.hex()
    return None


def _event_id(codec: Codec, event: NewEvent) -> bytes:
    return event.event_id or codec.event_id(event.stream_id, event.version)


def _values(type_: str, payload: bytes) -> Any:
    """The event's fields as JSON values; its bytes in hex where its message is not known."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_)
        message = message_factory.GetMessageClass(descriptor).FromString(payload)
    except (KeyError, DecodeError):
        return payload.hex()
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)[:SHOWN]
