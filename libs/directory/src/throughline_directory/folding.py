"""How identity's events change who means whom. Pure, whatever holds the rows: a service's tables, or a dictionary in
a replay.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from throughline.identity.v1 import events_pb2 as identity
from throughline_directory.consents import CONSENTS, note_consents
from throughline_kernel import Recorded, canonical_json

IDENTIFIERS: Final = "directory_identifiers"
CLIENTS: Final = "directory_clients"
# Client id and the instant (8 bytes) of the commit that changed its row -> the row from then on.
CLIENTS_SINCE: Final = "directory_clients_since"
DIRECTORY_TABLES: Final = (CLIENTS, CLIENTS_SINCE, CONSENTS, IDENTIFIERS)
"""The tables to declare in the store of a service that keeps a directory."""

_LINK: Final = struct.Struct(">16sqB")


class Rows(Protocol):
    """Where the directory is read: an event log's `Reader`, or `MemoryRows`."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The row's value, None where there is none."""
        ...

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values of those of the keys that have one."""
        ...

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order."""
        ...


class History(Rows, Protocol):
    """Where the directory of earlier instants is read: an event log's `Reader`."""

    def scan(
        self, table: str, *, prefix: bytes = b"", after: bytes = b"", limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows in key order within the prefix; with `reverse` from the last down, strictly before `after`."""
        ...


class WritableRows(Rows, Protocol):
    """Where the directory is kept: an event log's `Transaction`, or `MemoryRows`."""

    @property
    def now(self) -> int:
        """The instant of what is written (microseconds), later than that of all before it."""
        ...

    def put_many(self, table: str, rows: Mapping[bytes, bytes]) -> None:
        """Sets the rows."""
        ...

    def delete(self, table: str, key: bytes) -> None:
        """Removes the row where there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Link:
    """Whom an identifier means: a client id (16 bytes), since a position of identity's log, and whether it identifies
    a person.
    """

    client: bytes
    position: int
    identifies_person: bool

    def pack(self) -> bytes:
        """The row's 25 bytes."""
        return _LINK.pack(self.client, self.position, self.identifies_person)

    @classmethod
    def unpack(cls, row: bytes) -> Link:
        """Reads a row."""
        client, position, identifies_person = _LINK.unpack(row)
        return cls(client, position, bool(identifies_person))


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client id: the client it is an alias of (empty: itself), its own aliases, and how many identifiers make it a
    known person.
    """

    parent: bytes = b""
    aliases: tuple[bytes, ...] = ()
    person_links: int = 0
    forgotten: bool = False

    def pack(self) -> bytes:
        """The row in MessagePack."""
        return _encode((self.parent, self.aliases, self.person_links, self.forgotten))

    @classmethod
    def unpack(cls, row: bytes) -> ClientRow:
        """Reads a row."""
        return cls(*_decode(row))

    def means(self, other: ClientRow) -> bool:
        """Whether both rows answer the same to whoever asks."""
        return (self.parent, self.aliases, self.person_links > 0, self.forgotten) == (
            other.parent,
            other.aliases,
            other.person_links > 0,
            other.forgotten,
        )


def since_key(client: bytes, instant: int) -> bytes:
    """The key of a client's row as an instant left it; keys sort by client, then time."""
    return client + instant.to_bytes(8, "big")


class Earlier:
    """The rows as they were at an instant. Identifiers are read as they are now: who showed which is not kept."""

    def __init__(self, rows: History, instant: int) -> None:
        self._rows = rows
        self._instant = instant

    def get(self, table: str, key: bytes) -> bytes | None:
        """The row's value at the instant, None where there was none."""
        if table != CLIENTS:
            return self._rows.get(table, key)
        following = since_key(key, self._instant + 1)
        for _, row in self._rows.scan(CLIENTS_SINCE, prefix=key, after=following, limit=1, reverse=True):
            return row
        # A row that was written before instants were kept, and stands unchanged, held at every instant.
        changed = any(True for _ in self._rows.scan(CLIENTS_SINCE, prefix=key, limit=1))
        return None if changed else self._rows.get(CLIENTS, key)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values of those of the keys that had one."""
        if table != CLIENTS:
            return self._rows.get_many(table, keys)
        found = {key: self.get(table, key) for key in keys}
        return {key: row for key, row in found.items() if row is not None}

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order."""
        for key, row in self._rows.scan(table):
            then = self.get(table, key) if table == CLIENTS else row
            if then is not None:
                yield key, then


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[bytes, tuple[bytes, ...], int, bool]).decode
_ABSENT: Final = ClientRow()


def fold(rows: WritableRows, events: Iterable[Recorded]) -> None:
    """Takes the next events of identity's log, in order. However the log is cut into batches, the rows come out the
    same.
    """
    events = tuple(events)
    note_consents(rows, events)
    parsed = [
        (event.position, parse(event.payload)) for event in events if (parse := _PARSERS.get(event.type)) is not None
    ]
    if not parsed:
        return
    changes = _Changes(rows)
    changes.prefetch(message for _, message in parsed)
    for position, message in parsed:
        match message:
            case identity.IdentifierLinked():
                changes.link(
                    message.identifier.hash,
                    Link(bytes.fromhex(message.client_id), position, message.identifies_person),
                )
            case identity.IdentifierDemoted():
                changes.unlink(message.identifier.hash)
            case identity.ClientOpened():
                changes.open(bytes.fromhex(message.client_id))
            case identity.ClientsMerged():
                changes.merge(bytes.fromhex(message.client_id), bytes.fromhex(message.merged_client_id))
            case identity.MergeUndone():
                changes.undo(bytes.fromhex(message.client_id), bytes.fromhex(message.restored_client_id))
            case identity.ClientForgotten():
                changes.forget(message)
    changes.write()


_Message = (
    identity.IdentifierLinked
    | identity.IdentifierDemoted
    | identity.ClientOpened
    | identity.ClientsMerged
    | identity.MergeUndone
    | identity.ClientForgotten
)
_PARSERS: Final = {
    kind.DESCRIPTOR.full_name: kind.FromString
    for kind in (
        identity.IdentifierLinked,
        identity.IdentifierDemoted,
        identity.ClientOpened,
        identity.ClientsMerged,
        identity.MergeUndone,
        identity.ClientForgotten,
    )
}


@dataclass
class _Changes:
    """What a batch has read and changed so far; written once, at its end."""

    rows: WritableRows
    links: dict[bytes, Link | None] = field(default_factory=dict[bytes, Link | None])
    clients: dict[bytes, ClientRow | None] = field(default_factory=dict[bytes, ClientRow | None])
    changed_links: set[bytes] = field(default_factory=set[bytes])
    # The rows of clients that changed, as they were before the batch.
    changed_clients: dict[bytes, ClientRow | None] = field(default_factory=dict[bytes, ClientRow | None])

    def prefetch(self, messages: Iterable[_Message]) -> None:
        """Reads in two statements what the batch will surely look at."""
        hashes: set[bytes] = set()
        clients: set[bytes] = set()
        for message in messages:
            match message:
                case identity.IdentifierLinked() | identity.IdentifierDemoted():
                    hashes.add(message.identifier.hash)
                    if isinstance(message, identity.IdentifierLinked) and message.identifies_person:
                        clients.add(bytes.fromhex(message.client_id))
                case identity.ClientOpened():
                    clients.add(bytes.fromhex(message.client_id))
                case identity.ClientsMerged():
                    clients.add(bytes.fromhex(message.client_id))
                    clients.add(bytes.fromhex(message.merged_client_id))
                case identity.MergeUndone():
                    clients.add(bytes.fromhex(message.restored_client_id))
                case identity.ClientForgotten():
                    hashes.update(identifier.hash for identifier in message.identifiers)
                    clients.update(map(bytes.fromhex, (message.client_id, *message.alias_ids)))
        found_links = self.rows.get_many(IDENTIFIERS, hashes) if hashes else {}
        self.links = {hash_: Link.unpack(row) if (row := found_links.get(hash_)) else None for hash_ in hashes}
        found_clients = self.rows.get_many(CLIENTS, clients) if clients else {}
        self.clients = {
            client: ClientRow.unpack(row) if (row := found_clients.get(client)) else None for client in clients
        }

    def client(self, client: bytes) -> ClientRow:
        if client not in self.clients:
            row = self.rows.get(CLIENTS, client)
            self.clients[client] = ClientRow.unpack(row) if row is not None else None
        return self.clients[client] or _ABSENT

    def set_client(self, client: bytes, row: ClientRow) -> None:
        if self.client(client) != row or self.clients[client] is None:
            self.changed_clients.setdefault(client, self.clients[client])
            self.clients[client] = row

    def link(self, hash_: bytes, link: Link) -> None:
        self._count_person(self.links[hash_], -1)
        self.links[hash_] = link
        self.changed_links.add(hash_)
        self._count_person(link, 1)

    def unlink(self, hash_: bytes) -> None:
        before = self.links[hash_]
        if before is not None:
            self._count_person(before, -1)
            self.links[hash_] = None
            self.changed_links.add(hash_)

    def open(self, client: bytes) -> None:
        """Makes it its own client, whatever it was: an alias, or forgotten."""
        self.set_parent(client, b"")
        self.set_client(client, replace(self.client(client), forgotten=False))

    def merge(self, client: bytes, merged: bytes) -> None:
        if client == merged:
            return
        self.set_client(client, self.client(client))
        step = client
        while step := self.client(step).parent:
            if step == merged:
                # What was an alias of the other is its own client now: the two change places.
                self.set_parent(client, b"")
                break
        self.set_parent(merged, client)

    def undo(self, client: bytes, restored: bytes) -> None:
        """Ends a merge, unless a later one said already whose alias the restored id is."""
        if self.client(restored).parent == client:
            self.set_parent(restored, b"")

    def set_parent(self, client: bytes, parent: bytes) -> None:
        row = self.client(client)
        if row.parent:
            holder = self.client(row.parent)
            aliases = tuple(alias for alias in holder.aliases if alias != client)
            self.set_client(row.parent, replace(holder, aliases=aliases))
        self.set_client(client, replace(self.client(client), parent=parent))
        if parent:
            holder = self.client(parent)
            self.set_client(parent, replace(holder, aliases=tuple(sorted({*holder.aliases, client}))))

    def forget(self, event: identity.ClientForgotten) -> None:
        for identifier in event.identifiers:
            self.unlink(identifier.hash)
        for client in map(bytes.fromhex, (event.client_id, *event.alias_ids)):
            self.set_client(client, replace(self.client(client), forgotten=True))

    def write(self) -> None:
        links = {hash_: link.pack() for hash_ in sorted(self.changed_links) if (link := self.links[hash_]) is not None}
        clients = {client: row for client in sorted(self.changed_clients) if (row := self.clients[client]) is not None}
        if links:
            self.rows.put_many(IDENTIFIERS, links)
        for hash_ in sorted(self.changed_links - links.keys()):
            self.rows.delete(IDENTIFIERS, hash_)
        if clients:
            self.rows.put_many(CLIENTS, {client: row.pack() for client, row in clients.items()})
            now = self.rows.now
            self.rows.put_many(
                CLIENTS_SINCE,
                {
                    since_key(client, now): row.pack()
                    for client, row in clients.items()
                    if (before := self.changed_clients[client]) is None or not row.means(before)
                },
            )

    def _count_person(self, link: Link | None, change: int) -> None:
        if link is not None and link.identifies_person:
            row = self.client(link.client)
            self.set_client(link.client, replace(row, person_links=max(0, row.person_links + change)))


def aggregates(rows: Rows) -> Iterator[tuple[str, bytes]]:
    """The directory's state: (key, canonical JSON) in key order.

    Clients and identifiers alike name the client they mean in the end, so the state does not depend on the order in
    which merges were decided (law 3).
    """
    parents: dict[bytes, bytes] = {}
    for client, packed in rows.scan(CLIENTS):
        if parent := ClientRow.unpack(packed).parent:
            parents[client] = parent
    meant = {client: _root(parents, client) for client in parents}
    merged = set(meant.values())
    known = {
        meant.get(client, client)
        for client, packed in rows.scan(CLIENTS)
        if ClientRow.unpack(packed).person_links and (client in meant or client in merged)
    }
    for client, packed in rows.scan(CLIENTS):
        row = ClientRow.unpack(packed)
        root = meant.get(client, client)
        yield (
            f"directory/client/{client.hex()}",
            canonical_json(
                {
                    "client_id": root.hex(),
                    "forgotten": row.forgotten,
                    "known_person": root in known if root in merged else row.person_links > 0,
                }
            ),
        )
    for hash_, packed in rows.scan(IDENTIFIERS):
        link = Link.unpack(packed)
        yield (
            f"directory/identifier/{hash_.hex()}",
            canonical_json(
                {
                    "client_id": meant.get(link.client, link.client).hex(),
                    "identifies_person": link.identifies_person,
                }
            ),
        )


def _root(parents: Mapping[bytes, bytes], client: bytes) -> bytes:
    while client in parents:
        client = parents[client]
    return client


class MemoryRows:
    """Rows in dictionaries, for replays."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {table: {} for table in DIRECTORY_TABLES}
        # A replay answers for its end only: of each client the last row is enough.
        self.now = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        """The row's value, None where there is none."""
        return self._tables[table].get(key)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values of those of the keys that have one."""
        rows = self._tables[table]
        return {key: rows[key] for key in keys if key in rows}

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order."""
        yield from sorted(self._tables[table].items())

    def put_many(self, table: str, rows: Mapping[bytes, bytes]) -> None:
        """Sets the rows."""
        self._tables[table].update(rows)

    def delete(self, table: str, key: bytes) -> None:
        """Removes the row where there is one."""
        self._tables[table].pop(key, None)
