"""Reads what of a batch can be read where a part of it cannot be decoded, so that a bad event harms no other.

Protobuf decodes a message whole or not at all: one string that is not UTF-8 would cost a thousand events. Here the
batch is taken apart on the wire, by field number, and only what is broken is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from ingestion.application.ports import Received, UnreadableInteraction
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_kernel import InvalidError, Violation

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10

_UTF8: Final = "valid UTF-8"
_UTF8_REMEDY: Final = "encode the text as UTF-8; found bytes that are not"
_WHOLE: Final = "a whole message of the contract"
_WHOLE_REMEDY: Final = "serialise it with the contract's own messages; it is cut off or of another type"


class Batch(NamedTuple):
    """A batch as it came in; `batch_id` is empty outside of streams."""

    batch_id: str
    interactions: list[Received]


class _TruncatedError(ValueError):
    """The bytes end, or go wrong, within a field."""


def read_request(raw: bytes) -> Batch | InvalidError:
    """Reads a RecordInteractionsRequest; a part that cannot be read spoils itself alone."""
    try:
        return Batch("", list(ingestion_pb2.RecordInteractionsRequest.FromString(raw).interactions))
    except DecodeError:
        return _salvage(raw, ingestion_pb2.RecordInteractionsRequest.DESCRIPTOR)


def read_stream_request(raw: bytes) -> Batch | InvalidError:
    """Reads a StreamInteractionsRequest in the same way."""
    try:
        request = ingestion_pb2.StreamInteractionsRequest.FromString(raw)
        return Batch(request.batch_id, list(request.interactions))
    except DecodeError:
        return _salvage(raw, ingestion_pb2.StreamInteractionsRequest.DESCRIPTOR)


def read_single_request(raw: bytes) -> Batch | InvalidError:
    """Reads a RecordInteractionRequest as a batch of one; without an interaction it has an empty one."""
    try:
        return Batch("", [ingestion_pb2.RecordInteractionRequest.FromString(raw).interaction])
    except DecodeError:
        return _salvage(raw, ingestion_pb2.RecordInteractionRequest.DESCRIPTOR)


def _salvage(raw: bytes, descriptor: Descriptor) -> Batch | InvalidError:
    batch_id, received = "", list[Received]()
    try:
        for number, value in _fields(raw):
            field = descriptor.fields_by_number.get(number)
            if field is None or not isinstance(value, bytes):
                continue
            if field.message_type is None:
                batch_id = value.decode("utf-8", "replace")
            else:
                received.append(_interaction(value))
    except _TruncatedError:
        return InvalidError.of(Violation("request", f"{_WHOLE}: {descriptor.full_name}", _WHOLE_REMEDY))
    return Batch(batch_id, received)


def _interaction(raw: bytes) -> Received:
    try:
        return interaction_pb2.Interaction.FromString(raw)
    except DecodeError:
        pass
    name = {"source": "", "source_interaction_id": ""}
    violations = list[Violation]()
    try:
        violations += _broken(raw, interaction_pb2.Interaction.DESCRIPTOR, "", name)
    except _TruncatedError:
        violations.append(Violation("interaction", _WHOLE, _WHOLE_REMEDY))
    if not violations:
        violations.append(Violation("interaction", _WHOLE, _WHOLE_REMEDY))
    return UnreadableInteraction(name["source"], name["source_interaction_id"], tuple(violations))


def _broken(raw: bytes, descriptor: Descriptor, path: str, name: dict[str, str]) -> Iterator[Violation]:
    """The fields whose text is not UTF-8. Fills in what of the name can be read."""
    seen: dict[int, int] = {}
    for number, value in _fields(raw):
        field = descriptor.fields_by_number.get(number)
        if field is None or not isinstance(value, bytes):
            continue
        index = seen.get(number, 0)
        seen[number] = index + 1
        at = f"{path}{field.name}" + (f"[{index}]" if field.is_repeated else "")
        if field.message_type is not None:
            yield from _broken(value, field.message_type, f"{at}.", {})
        elif field.type == FieldDescriptor.TYPE_STRING:
            try:
                text = value.decode()
            except UnicodeDecodeError as error:
                yield Violation(at, _UTF8, f"{_UTF8_REMEDY} from byte {error.start}")
            else:
                if field.name in name:
                    name[field.name] = text


def _fields(raw: bytes) -> Iterator[tuple[int, bytes | None]]:
    """(field number, content where it has a length) of each field, in order. Raises: _TruncatedError."""
    at, end = 0, len(raw)
    while at < end:
        tag, at = _varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, at = _varint(raw, at)
            if number == 0 or at + length > end:
                raise _TruncatedError
            yield number, raw[at : at + length]
            at += length
        elif kind == _VARINT:
            _, at = _varint(raw, at)
            yield number, None
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
            if at > end:
                raise _TruncatedError
            yield number, None
        else:
            raise _TruncatedError


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if at >= len(raw):
            raise _TruncatedError
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _TruncatedError
