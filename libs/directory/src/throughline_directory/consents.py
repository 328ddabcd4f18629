"""What clients said about purposes, by the id under which they said it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from throughline.identity.v1 import events_pb2 as identity
from throughline_kernel import Consent, Consents, Recorded

if TYPE_CHECKING:
    from throughline_directory.folding import Rows, WritableRows

CONSENTS: Final = "directory_consents"

_RECORDED: Final = identity.ConsentRecorded.DESCRIPTOR.full_name
_FORGOTTEN: Final = identity.ClientForgotten.DESCRIPTOR.full_name
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[Consent, ...]).decode


def note_consents(rows: WritableRows, events: Iterable[Recorded]) -> None:
    """Takes what identity's next events say of consents: words, and clients whose words are to be forgotten."""
    for event in events:
        if event.type == _RECORDED:
            said = identity.ConsentRecorded.FromString(event.payload)
            word = Consent(said.purpose, said.scope, said.granted, event.occurred_at, said.source, event.event_id.hex())
            client = bytes.fromhex(said.client_id)
            known = rows.get(CONSENTS, client)
            words = Consents.of((*(_decode(known) if known else ()), word)).words
            rows.put_many(CONSENTS, {client: _encode(words)})
        elif event.type == _FORGOTTEN:
            forgotten = identity.ClientForgotten.FromString(event.payload)
            for client_id in (forgotten.client_id, *forgotten.alias_ids):
                rows.delete(CONSENTS, bytes.fromhex(client_id))


def consents_of(rows: Rows, client_ids: Iterable[str]) -> Consents:
    """What holds of all that was said under these ids of one client."""
    found = rows.get_many(CONSENTS, {bytes.fromhex(client_id) for client_id in client_ids})
    return Consents.of(word for row in found.values() for word in _decode(row))
