"""Golden bytes: every event of every version that was ever written, as it was written.

`python -m contract.golden` (`make golden`) adds what is missing, one file a service in tests/contract/golden, and never
touches what is there: those bytes lie in somebody's log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from throughline.accesslog.v1 import events_pb2 as access_events
from throughline.feedback.v1 import events_pb2 as feedback_events
from throughline.identity.v1 import events_pb2 as identity_events
from throughline.ingestion.v1 import events_pb2 as ingestion_events
from throughline.journey.v1 import events_pb2 as journey_events
from throughline.scoring.v1 import events_pb2 as scoring_events
from throughline_eventlog import SCHEMAS

FOLDER: Final = Path(__file__).with_name("golden")
EVENT_FILES: Final[dict[str, FileDescriptor]] = {
    "accesslog": access_events.DESCRIPTOR,
    "feedback": feedback_events.DESCRIPTOR,
    "identity": identity_events.DESCRIPTOR,
    "ingestion": ingestion_events.DESCRIPTOR,
    "journey": journey_events.DESCRIPTOR,
    "scoring": scoring_events.DESCRIPTOR,
}
# Events that another event holds whole.
_ALSO_PARTS: Final = {"throughline.feedback.v1.FeedbackReceived"}
_NUMBERS: Final = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FRACTIONS: Final = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def event_types(service: str) -> list[Descriptor]:
    """The events of a service: the messages of its events.proto that are no mere part of another message there."""
    messages = list(EVENT_FILES[service].message_types_by_name.values())
    parts = {field.message_type for message in messages for field in message.fields if field.message_type is not None}
    return [message for message in messages if message not in parts or message.full_name in _ALSO_PARTS]


def filled(descriptor: Descriptor, seed: int = 1, depth: int = 0) -> Message:
    """A message with something in every field, the same every time; what contains itself ends after a few levels."""
    message = GetMessageClass(descriptor)()
    for number, field in enumerate(descriptor.fields, seed):
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(message, field, number, depth)
        elif field.message_type is not None:
            if depth < 4:
                for place in range(2 if field.is_repeated else 1):
                    part = filled(field.message_type, number + place, depth + 1)
                    target: Any = getattr(message, field.name)
                    (target.add() if field.is_repeated else target).CopyFrom(part)
        elif field.is_repeated:
            getattr(message, field.name).extend(_value(field, number + place) for place in range(2))
        elif field.containing_oneof is None or not message.WhichOneof(field.containing_oneof.name):
            setattr(message, field.name, _value(field, number))
    return message


def _fill_map(message: Message, field: FieldDescriptor, number: int, depth: int) -> None:
    entry = field.message_type
    assert entry is not None
    key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
    target: Any = getattr(message, field.name)
    if value.message_type is None:
        target[_value(key, number)] = _value(value, number)
    else:
        target[_value(key, number)].CopyFrom(filled(value.message_type, number, depth + 1))


def _value(field: FieldDescriptor, number: int) -> Any:
    if field.enum_type is not None:
        values = field.enum_type.values
        return values[number % (len(values) - 1) + 1].number
    if field.cpp_type in _NUMBERS:
        return number * 1_001
    if field.cpp_type in _FRACTIONS:
        return number + 0.25
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    text = f"{field.name} {number} \u00e9"
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text


def says(message: Message) -> dict[str, Any]:
    """What a message says, in the words of the contract."""
    return MessageToDict(message, preserving_proto_field_name=True)


def read(service: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What is kept of a service's events: by type and version, `payload` (hex) and what it `says`."""
    file = FOLDER / f"{service}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def missing(service: str) -> Iterator[tuple[Descriptor, str]]:
    """The events whose present version has no golden bytes, with that version."""
    kept = read(service)
    for descriptor in event_types(service):
        version = str(SCHEMAS.present(descriptor.full_name))
        if version not in kept.get(descriptor.full_name, {}):
            yield descriptor, version


def main() -> None:
    """Adds what is missing."""
    FOLDER.mkdir(exist_ok=True)
    for service in EVENT_FILES:
        kept = read(service)
        for descriptor, version in missing(service):
            message = filled(descriptor)
            kept.setdefault(descriptor.full_name, {})[version] = {
                "payload": message.SerializeToString(deterministic=True).hex(),
                "says": says(message),
            }
        text = json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False)
        (FOLDER / f"{service}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
