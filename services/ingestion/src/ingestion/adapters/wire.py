"""Reads what of a batch can be read where a part of it cannot be decoded, so that a bad event harms no other.

Protobuf decodes a message whole or not at all: one string that is not UTF-8 would cost a thousand events. Here the
batch is taken apart on the wire, by field number, and only what is broken is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from ingestion.application.ports import Part, Received, Request, RequestParted, UnreadableInteraction
from ingestion.domain.validation import is_name
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2, partition_pb2
from throughline_kernel import InvalidError, Violation

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10
_INTERACTIONS: Final = partition_pb2.RecordPartRequest.DESCRIPTOR.fields_by_name["interactions"].number

_UTF8: Final = "valid UTF-8"
_UTF8_REMEDY: Final = "encode the text as UTF-8; found bytes that are not"
_WHOLE: Final = "a whole message of the contract"
_WHOLE_REMEDY: Final = "serialise it with the contract's own messages; it is cut off or of another type"


class Batch(NamedTuple):
    """A batch as it came in; `batch_id` is empty outside of streams.

    `size` is that of the batch that this is a part of, 0 where it is the whole.
    """

    batch_id: str
    interactions: list[Received]
    size: int = 0


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


def read_part_request(raw: bytes) -> Batch | InvalidError:
    """Reads a RecordPartRequest in the same way."""
    try:
        request = partition_pb2.RecordPartRequest.FromString(raw)
    except DecodeError:
        return _salvage(raw, partition_pb2.RecordPartRequest.DESCRIPTOR)
    return Batch("", list(request.interactions), request.size)


class Parter:
    """Takes requests apart by who takes which source; `owner_of` gives the index of a partition.

    What cannot be decoded is passed on as it came: the partition that has its source reads what can be read.
    """

    def __init__(self, owner_of: Callable[[str], int]) -> None:
        self._owner_of = owner_of

    def __call__(self, kind: Request, raw: bytes) -> RequestParted:
        """See `RequestParter`."""
        message = _MESSAGES[kind]
        try:
            request = message.FromString(raw)
        except DecodeError:
            return self._taken_apart(READ[kind](raw), raw, message.DESCRIPTOR)
        interactions = [request.interaction] if kind == Request.SINGLE else request.interactions
        by_owner, sources = self._by_owner([each.source for each in interactions])
        size = len(interactions)
        parts = {
            owner: Part(
                at,
                partition_pb2.RecordPartRequest(
                    interactions=interactions if len(at) == size else [interactions[index] for index in at], size=size
                ).SerializeToString(),
            )
            for owner, at in by_owner.items()
        }
        return RequestParted(request.batch_id if kind == Request.STREAMED else "", size, sources, parts)

    def _taken_apart(self, batch: Batch | InvalidError, raw: bytes, descriptor: Descriptor) -> RequestParted:
        if isinstance(batch, InvalidError):
            return RequestParted("", 0, frozenset(), {}, batch.violations)
        pieces = [
            value
            for number, value in _fields(raw)
            if isinstance(value, bytes) and _holds_interaction(descriptor, number)
        ]
        by_owner, sources = self._by_owner([each.source for each in batch.interactions])
        size = partition_pb2.RecordPartRequest(size=len(pieces)).SerializeToString()
        parts = {
            owner: Part(at, b"".join(_as_field(_INTERACTIONS, pieces[index]) for index in at) + size)
            for owner, at in by_owner.items()
        }
        return RequestParted(batch.batch_id, len(pieces), sources, parts)

    def _by_owner(self, sources: Sequence[str]) -> tuple[dict[int, list[int]], frozenset[str]]:
        """Which events each partition takes, and the sources that are named. What names none possible is of ""."""
        named = {source: source if is_name(source) else "" for source in set(sources)}
        owners = {source: self._owner_of(account) for source, account in named.items()}
        by_owner: dict[int, list[int]] = {}
        for index, source in enumerate(sources):
            by_owner.setdefault(owners[source], []).append(index)
        return by_owner, frozenset(named.values()) - {""}


READ: Final[Mapping[Request, Callable[[bytes], Batch | InvalidError]]] = {
    Request.SINGLE: read_single_request,
    Request.BATCH: read_request,
    Request.STREAMED: read_stream_request,
    Request.PART: read_part_request,
}
_MESSAGES: Final[Mapping[Request, type[Any]]] = {
    Request.SINGLE: ingestion_pb2.RecordInteractionRequest,
    Request.BATCH: ingestion_pb2.RecordInteractionsRequest,
    Request.STREAMED: ingestion_pb2.StreamInteractionsRequest,
}


def _holds_interaction(descriptor: Descriptor, number: int) -> bool:
    field = descriptor.fields_by_number.get(number)
    return field is not None and field.message_type is not None


def _as_field(number: int, value: bytes) -> bytes:
    head, length = bytearray([number << 3 | _BYTES]), len(value)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + value


def _salvage(raw: bytes, descriptor: Descriptor) -> Batch | InvalidError:
    batch_id, received, size = "", list[Received](), 0
    try:
        for number, value in _fields(raw):
            field = descriptor.fields_by_number.get(number)
            if field is None or value is None:
                continue
            if isinstance(value, int):
                size = value if field.type == FieldDescriptor.TYPE_INT32 else size
                continue
            if field.message_type is None:
                batch_id = value.decode("utf-8", "replace")
            else:
                received.append(_interaction(value))
    except _TruncatedError:
        return InvalidError.of(Violation("request", f"{_WHOLE}: {descriptor.full_name}", _WHOLE_REMEDY))
    return Batch(batch_id, received, size)


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


def _fields(raw: bytes) -> Iterator[tuple[int, bytes | int | None]]:
    """(field number, content where it has a length, or a varint's value) of each field, in order.

    Raises: _TruncatedError.
    """
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
            value, at = _varint(raw, at)
            yield number, value
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
