"""What is left of somebody who was forgotten: looked for in every store, log, file and export."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import events_pb2 as feedback_events
from throughline.identity.v1 import events_pb2 as identity_events
from throughline.ingestion.v1 import events_pb2 as ingestion_events
from throughline.ingestion.v1.interaction_pb2 import Sealed
from throughline_client.endpoints import SERVICES
from throughline_client.installation import Installation
from throughline_eventlog import ArchiveReader, StoreSettings, open_store
from throughline_portability.form import KEYS, folder_of, read_lines, read_manifest
from throughline_privacy import KeyStore, open_forgotten_list, open_key_store_at
from throughline_rpc import access_log_of

PAGE: Final = 2_000
_FORGOTTEN: Final = identity_events.ClientForgotten.DESCRIPTOR.full_name
# Where ids may stand: they say that somebody was forgotten, or was one with somebody, that an interaction was recorded
# once for ever, up to where something was heard, or who read what.
_TOMBS: Final = {
    *((f"{service}_access", "access_by_id") for service in SERVICES),
    ("identity", "clients"),
    ("identity", "clients_until"),
    ("identity", "forgotten"),
    ("identity", "identifiers"),
    ("identity", "identifiers_until"),
    ("identity", "interactions"),
    *((service, "directory_clients") for service in ("journey", "feedback", "scoring")),
    *((service, "directory_clients_since") for service in ("journey", "feedback", "scoring")),
    ("journey", "cases"),
    ("journey", "dropped"),
    ("journey", "feedback_items"),
    ("journey", "owners"),
    ("scoring", "clients"),
    ("scoring", "owners"),
    # Of a client that was dropped an empty one.
    ("scoring", "snapshots"),
}
_HOLD_BOXES: Final[dict[str, type[Message]]] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        ingestion_events.InteractionRecorded,
        ingestion_events.InteractionConflicted,
        ingestion_events.InteractionQuarantined,
        identity_events.InteractionAttributed,
        identity_events.InteractionReattributed,
        feedback_events.FeedbackReceived,
        feedback_events.FeedbackConflicted,
    )
}


class NotForgottenError(LookupError):
    """No log and no list says that this client was forgotten."""


@dataclass(slots=True)
class Person:
    """A client as it was forgotten: what would lead to them. Ids of 16 bytes, identifiers as hashes of 32."""

    clients: set[bytes] = field(default_factory=set[bytes])
    personas: set[bytes] = field(default_factory=set[bytes])
    identifiers: set[bytes] = field(default_factory=set[bytes])
    interactions: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True)
class Finding:
    """So many of something at a place. `left`: it should not be there."""

    place: str
    what: str
    count: int
    left: bool


def find_leftovers(
    installation: Installation,
    client_id: bytes,
    *,
    values: Collection[str] = (),
    folder: Path | None = None,
    exports: Iterable[Path] = (),
) -> list[Finding]:
    """Searches logs, tables and key store of an installation, the files under `folder`, and exports.

    It looks for keys, for boxes that can be opened and for rows; with `values`, personal values in the clear as whoever
    asks may know them, also for those, in capitals or not.
    Raises: NotForgottenError; ExportError; UnavailableError, SettingsError for a store.
    """
    person = _person(installation, client_id)
    clear = _any_of([value.encode() for value in values], re.IGNORECASE)
    keys = open_key_store_at(installation.key_store, installation.key_store_schema)
    try:
        found = [*_in_keys(keys, person), *_on_list(installation, person)]
        destroyed = {key_id for _, key_id in keys.destroyed_after(0)}
    finally:
        keys.close()
    for log, settings in installation.logs.items():
        for kept in (settings, access_log_of(settings)):
            found += _in_store(folder_of(log, kept), kept, person, destroyed, clear)
    if folder is not None and clear is not None:
        found += _in_files(folder, clear)
    for export in exports:
        found += _in_export(export, person, clear)
    return found


def _person(installation: Installation, client_id: bytes) -> Person:
    person = Person()
    store = open_store(installation.stores["identity"])
    try:
        with store.archive() as archive:
            for _, type_, payload in _events(archive):
                if type_ == _FORGOTTEN:
                    message = identity_events.ClientForgotten.FromString(payload)
                    ids = {bytes.fromhex(each) for each in (message.client_id, *message.alias_ids)}
                    if client_id in ids or ids & person.clients:
                        person.clients |= ids
                        person.personas.update(message.persona_ids)
                        person.identifiers.update(each.hash for each in message.identifiers)
                        person.interactions.update(message.interaction_ids)
    finally:
        store.close()
    if installation.forgotten_list:
        for listed in open_forgotten_list(installation.forgotten_list).clients():
            if client_id in {listed.client_id, *listed.alias_ids}:
                person.clients |= {listed.client_id, *listed.alias_ids}
                person.personas.update(listed.persona_ids)
                person.identifiers.update(hash_ for _, hash_ in listed.identifiers)
    if not person.clients:
        raise NotForgottenError(
            f"no client {client_id.hex()} was forgotten here: `throughline forgotten` lists those who were"
        )
    return person


def _in_keys(keys: KeyStore, person: Person) -> Iterator[Finding]:
    standing = keys.fetch(person.personas)
    yield _counted("key store", "keys that open", sum(1 for key in standing.values() if key is not None), left=True)
    yield _counted("key store", "destroyed keys", sum(1 for key in standing.values() if key is None), left=False)
    missing = len(person.personas) - len(standing)
    yield _counted("key store", "personas it does not know to be forgotten", missing, left=True)


def _on_list(installation: Installation, person: Person) -> Iterator[Finding]:
    if installation.forgotten_list:
        missing = person.personas - open_forgotten_list(installation.forgotten_list).keys()
        yield _counted("list of the forgotten", "keys that an old backup would bring back", len(missing), left=True)


def _in_store(
    name: str,
    settings: StoreSettings,
    person: Person,
    destroyed: Collection[bytes],
    clear: re.Pattern[bytes] | None,
) -> Iterator[Finding]:
    names = [each.hex().encode() for each in person.clients]
    theirs = _any_of([*person.personas, *names, *(each.encode() for each in person.interactions)])
    ids = _any_of([*person.personas, *person.identifiers, *person.clients, *names])
    sealed = openable = in_clear = 0
    rows: dict[str, int] = {}
    service = settings.service
    store = open_store(settings)
    try:
        with store.archive() as archive:
            for envelope, type_, payload in _events(archive):
                if clear is not None and clear.search(envelope):
                    in_clear += 1
                if type_ in _HOLD_BOXES and theirs is not None and theirs.search(payload):
                    for box in _boxes_of(person, _HOLD_BOXES[type_].FromString(payload)):
                        sealed += box.key_id in destroyed
                        openable += box.key_id not in destroyed
            for table in archive.bookkeeping().tables:
                for key, value in _rows(archive, table):
                    in_clear += clear is not None and bool(clear.search(key) or clear.search(value))
                    if ids is not None and (ids.search(key) or ids.search(value)):
                        rows[table] = rows.get(table, 0) + 1
    finally:
        store.close()
    yield _counted(name, "boxes sealed for ever", sealed, left=False)
    yield _counted(name, "boxes that open", openable, left=True)
    yield _counted(name, "values in the clear", in_clear, left=True)
    for table, count in sorted(rows.items()):
        tomb = (service, table) in _TOMBS
        yield _counted(name, f"rows of {table}{', ids only' if tomb else ''}", count, left=not tomb)


def _in_files(folder: Path, clear: re.Pattern[bytes]) -> Iterator[Finding]:
    """Files as they are: what a log, a stream or a temporary file holds beside what is read as events and rows."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield _counted(str(file), "values in the clear", len(clear.findall(file.read_bytes())), left=True)


def _in_export(export: Path, person: Person, clear: re.Pattern[bytes] | None) -> Iterator[Finding]:
    manifest = read_manifest(export)
    if manifest.keys:
        personas = {each.hex() for each in person.personas}
        count = sum(line["key_id"] in personas for page in read_lines(export, KEYS, PAGE) for line in page)
        yield _counted(str(export), "keys that open, with the key-encryption key", count, left=True)
    if clear is None:
        return
    count = sum(
        1
        for name in manifest.files
        if name.endswith(".ndjson.gz")
        for page in read_lines(export, name, PAGE)
        for line in page
        if any(clear.search(raw) for raw in _raw(line))
    )
    yield _counted(str(export), "values in the clear", count, left=True)


def _raw(line: Mapping[str, Any]) -> Iterator[bytes]:
    for name, value in line.items():
        if name in {"envelope", "value", "wrapped"}:
            yield b64decode(value)
        elif name == "key":
            yield bytes.fromhex(value)
        else:
            yield str(value).encode()


def _events(archive: ArchiveReader) -> Iterator[tuple[bytes, str, bytes]]:
    """Envelope, type and payload of every event of a log."""
    after = 0
    while rows := archive.read_logged(after, limit=PAGE):
        for row in rows:
            yield row.envelope, row.type, eventlog_pb2.Envelope.FromString(row.envelope).payload
        after = rows[-1].position


def _rows(archive: ArchiveReader, table: str) -> Iterator[tuple[bytes, bytes]]:
    after = b""
    while page := archive.rows(table, after, PAGE):
        yield from page
        after = page[-1][0]


def _boxes_of(person: Person, message: Any) -> Iterator[Sealed]:
    """The boxes in an event that is theirs: of their personas and interactions, or a submission of the client's."""
    submitted = getattr(message, "offered", message)
    direct = isinstance(submitted, feedback_events.FeedbackReceived) and not submitted.attribution_position
    clients = {each.hex() for each in person.clients} if direct else set[str]()
    facts = getattr(message, "interaction", getattr(message, "facts", message))
    named = getattr(facts, "interaction_id", "") in person.interactions or getattr(facts, "client_id", "") in clients
    for box in _boxes(message):
        if named or box.key_id in person.personas:
            yield box


def _boxes(message: Message) -> Iterator[Sealed]:
    """Every sealed box in a message."""
    if isinstance(message, Sealed):
        if message.box:
            yield message
        return
    for part, value in message.ListFields():
        if part.message_type is None or part.message_type.GetOptions().map_entry:
            continue
        for each in value if part.is_repeated else [value]:
            yield from _boxes(each)


def _any_of(needles: Iterable[bytes], flags: int = 0) -> re.Pattern[bytes] | None:
    alternatives = b"|".join(re.escape(each) for each in sorted(set(needles)) if each)
    return re.compile(alternatives, flags) if alternatives else None


def _counted(place: str, what: str, count: int, *, left: bool) -> Finding:
    return Finding(place, what, count, left and count > 0)
