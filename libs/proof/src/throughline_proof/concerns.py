"""Whom a logged event concerns: what its contract says.

A field with the option `(throughline.eventlog.v1.subject)` names a subject by 32 hex digits or 16 bytes, and nobody by
anything else; a message with the option is looked into. So anybody who has the contracts can tell whom an event
concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from throughline.eventlog.v1 import subject_pb2
from throughline.eventlog.v1.eventlog_pb2 import Envelope
from throughline_eventlog import SCHEMAS, Codec, LoggedRow, NewerLogError
from throughline_kernel import is_hex_id

SUBJECT_BYTES: Final = 16
_CODEC: Final = Codec("proofs")

Read = Callable[[Any, list[bytes]], None]


def subjects_of(rows: Iterable[LoggedRow]) -> list[list[bytes]]:
    """The subjects of every event, each once; none of one whose contract names none.

    Raises: NewerLogError for an event in a newer version than this code knows.
    """
    open_envelope = Envelope.FromString
    found: list[list[bytes]] = []
    for row in rows:
        reading = _reading(row.type)
        if reading is None:
            found.append([])
            continue
        parse, read = reading
        opened = open_envelope(row.envelope)
        payload = opened.payload
        if opened.schema_version > 1 or row.type in SCHEMAS.evolved:
            _CODEC.check(row.type, opened.schema_version, f"the event at position {row.position}")
            payload = SCHEMAS.upcast(row.type, opened.schema_version, payload)
        subjects: list[bytes] = []
        read(parse(payload), subjects)
        found.append(subjects if len(subjects) < 2 else sorted(set(subjects)))
    return found


@cache
def _reading(type_: str) -> tuple[Callable[[bytes], Message], Read] | None:
    """How to parse events of a type and find their subjects, None where the contract names none."""
    package, _, name = type_.rpartition(".")
    try:
        # Every service's events are in one module, whatever else this process has imported.
        contract = import_module(f"{package}.events_pb2")
    except ModuleNotFoundError:
        return None
    kind: type[Message] | None = getattr(contract, name, None)
    if kind is None:
        raise NewerLogError(
            "LOG_NEWER",
            f"the log has events of type {type_}, which this program does not know: start the version of Throughline "
            "that wrote them, or a later one",
            {"type": type_},
        )
    read = _reader(cast("Descriptor", kind.DESCRIPTOR))
    return None if read is None else (kind.FromString, read)


def _reader(descriptor: Descriptor) -> Read | None:
    reads = [_field_reader(field) for field in descriptor.fields if field.GetOptions().Extensions[subject_pb2.subject]]
    if not reads:
        return None

    def read(message: Message, subjects: list[bytes]) -> None:
        for each in reads:
            each(message, subjects)

    return reads[0] if len(reads) == 1 else read


def _field_reader(field: FieldDescriptor) -> Read:
    name, repeated = field.name, field.is_repeated
    if field.message_type is not None:
        inner = _reader(field.message_type)
        if inner is None:
            raise TypeError(f"{field.full_name} has the option `subject`, but none of its own fields has")

        def look_into(message: Message, subjects: list[bytes]) -> None:
            for each in getattr(message, name) if repeated else (getattr(message, name),):
                inner(each, subjects)

        return look_into
    as_subject = _of_hex if field.type == FieldDescriptor.TYPE_STRING else _of_bytes

    def name_them(message: Message, subjects: list[bytes]) -> None:
        for value in getattr(message, name) if repeated else (getattr(message, name),):
            as_subject(value, subjects)

    return name_them


def _of_hex(value: str, subjects: list[bytes]) -> None:
    if is_hex_id(value):
        subjects.append(bytes.fromhex(value))


def _of_bytes(value: bytes, subjects: list[bytes]) -> None:
    if len(value) == SUBJECT_BYTES:
        subjects.append(value)
