"""Events to rows and back: a serialised `throughline.eventlog.v1.Envelope` under the full name of its message."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from throughline.eventlog.v1.eventlog_pb2 import Envelope
from throughline_eventlog.errors import NewerLogError
from throughline_eventlog.records import LoggedRow, NewEvent
from throughline_eventlog.schemas import SCHEMAS, Schemas
from throughline_kernel import Recorded

STREAM_ID_BYTES = 16


class Codec:
    """Writes and reads envelopes for one service's log."""

    def __init__(self, service: str, schemas: Schemas = SCHEMAS) -> None:
        self.schemas = schemas
        raw = service.encode()
        self._named = blake2b(len(raw).to_bytes(4, "big") + raw, digest_size=16)

    def event_id(self, stream_id: bytes, version: int) -> bytes:
        """Names an event that has no natural id: `hex_id(service, stream_id, version)`, as 16 bytes."""
        number = str(version).encode()
        hashed = self._named.copy()
        hashed.update(
            len(stream_id).to_bytes(4, "big") + stream_id + len(number).to_bytes(4, "big") + number,
        )
        return hashed.digest()

    def encode(self, event: NewEvent, recorded_at: int, traceparent: str) -> bytes:
        """Serialises the event's envelope. Raises ValueError for an event that no log can hold."""
        if len(event.stream_id) != STREAM_ID_BYTES or event.version < 1 or not event.type:
            raise ValueError(
                f"an event needs a 16-byte stream id, a version from 1 and a type, not "
                f"{event.stream_id!r}, {event.version!r}, {event.type!r}"
            )
        return Envelope(
            event_id=event.event_id or self.event_id(event.stream_id, event.version),
            schema_version=self.schemas.present(event.type),
            occurred_at=event.occurred_at,
            recorded_at=recorded_at,
            correlation_id=event.correlation_id,
            causation_id=event.causation_id,
            traceparent=event.traceparent or traceparent,
            payload=event.payload,
        ).SerializeToString()

    def decode(self, rows: Iterable[LoggedRow]) -> list[Recorded]:
        """Opens the envelopes, payloads in their present version. Raises NewerLogError at an event of a newer one."""
        parse, evolved = Envelope.FromString, self.schemas.evolved
        found: list[Recorded] = []
        for position, stream_id, version, type_, envelope in rows:
            opened = parse(envelope)
            schema_version, payload = opened.schema_version, opened.payload
            if schema_version > 1 or type_ in evolved:
                self.check(type_, schema_version, f"the event at position {position}")
                payload = self.schemas.upcast(type_, schema_version, payload)
                schema_version = self.schemas.present(type_)
            found.append(
                Recorded(
                    position,
                    stream_id,
                    version,
                    type_,
                    opened.event_id,
                    schema_version,
                    opened.occurred_at,
                    opened.recorded_at,
                    opened.correlation_id,
                    opened.causation_id,
                    opened.traceparent,
                    payload,
                )
            )
        return found

    def check(self, type_: str, schema_version: int, where: str) -> None:
        """Refuses a schema version that this code does not know. Raises NewerLogError."""
        known = self.schemas.present(type_)
        if schema_version > known:
            raise NewerLogError(
                "LOG_NEWER",
                f"{where} is {type_} in schema version {schema_version}, and this program knows versions up to "
                f"{known}: start the version of Throughline that wrote it, or a later one",
                {"type": type_, "schema_version": str(schema_version), "known": str(known)},
            )
