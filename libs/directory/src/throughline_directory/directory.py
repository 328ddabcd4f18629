"""Who an identifier or a client id means now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from throughline.identity.v1 import events_pb2 as identity
from throughline_directory.consents import CONSENTS, consents_of
from throughline_directory.folding import (
    CLIENTS,
    IDENTIFIERS,
    ClientRow,
    Earlier,
    History,
    Link,
    MemoryRows,
    Rows,
    WritableRows,
    aggregates,
    fold,
)
from throughline_kernel import Consents, Recorded
from throughline_privacy import IdentifierHasher


class ClearIdentifier(Protocol):
    """An identifier in the clear, such as `ingestion.v1.Identifier`."""

    @property
    def type(self) -> str: ...
    @property
    def value(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Resolution:
    """Whom a question means. `client_id` is empty where nobody is meant; ids are 32 hex digits.

    `alias_ids` are all other ids of the client, `other_client_ids` the clients that fewer of the identifiers mean.
    Both are sorted. A forgotten client keeps its id so that it can be said, and nothing else.
    """

    client_id: str = ""
    known_person: bool = False
    alias_ids: tuple[str, ...] = ()
    forgotten: bool = False
    other_client_ids: tuple[str, ...] = ()

    @property
    def all_ids(self) -> tuple[str, ...]:
        """The client's id and its aliases; empty where nobody is meant."""
        return (self.client_id, *self.alias_ids) if self.client_id else ()


class Directory:
    """Folds what identity publishes into the tables of the service that consumes it, and answers from them.

    `apply` belongs into the same transaction as the inbox position; events that are of no concern here are passed
    over.
    """

    def __init__(self, hasher: IdentifierHasher) -> None:
        self._hasher = hasher

    def apply(self, tx: WritableRows, events: Iterable[Recorded]) -> None:
        """Takes the next events of identity's log, in order and in batches of any size."""
        fold(tx, events)

    def resolve(
        self,
        reader: History,
        client_id: str = "",
        identifiers: Iterable[ClearIdentifier] = (),
        as_of: int | None = None,
    ) -> Resolution:
        """The client that an id or alias means, else the one that most of the identifiers mean (ties: the one named
        first).

        An id decides where both are given; clients that identifiers mean beside it are the others. With `as_of` as it
        was after the commit of that instant (microseconds).
        """
        hashes = [self._hasher.hash(each.type, each.value) for each in identifiers]
        if as_of is None:
            return resolve(reader, client_id, hashes)
        return resolve_earlier(reader, as_of, client_id, hashes)

    def consents(self, reader: Rows, events: Iterable[Recorded]) -> Mapping[str, tuple[Consents, Recorded]]:
        """As `consents_after`."""
        return consents_after(reader, events)

    def aggregates(self, reader: Rows) -> Iterator[tuple[str, bytes]]:
        """The directory's state: (key, canonical JSON) in key order; all keys begin with `directory/`."""
        return aggregates(reader)


class DirectoryFold:
    """The directory in memory, for replays: the same fold over the same log gives the same aggregates."""

    def __init__(self) -> None:
        self.rows = MemoryRows()

    def apply(self, event: Recorded) -> None:
        """Takes the next event of identity's log."""
        fold(self.rows, (event,))

    def apply_many(self, events: Sequence[Recorded]) -> None:
        """Takes the next events of identity's log, in order."""
        fold(self.rows, events)

    def resolve(self, client_id: str = "", hashes: Sequence[bytes] = ()) -> Resolution:
        """As `Directory.resolve`, of hashed identifiers."""
        return resolve(self.rows, client_id, hashes)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """The directory's state: (key, canonical JSON) in key order."""
        return aggregates(self.rows)


def resolve(rows: Rows, client_id: str, hashes: Sequence[bytes]) -> Resolution:
    """As `Directory.resolve`, of identifiers that are hashed already (32 bytes each)."""
    meant: list[bytes] = []
    if hashes:
        links = rows.get_many(IDENTIFIERS, set(hashes))
        # Each identifier counts once, however often it is given.
        meant = [_root(rows, Link.unpack(links[hash_]).client) for hash_ in dict.fromkeys(hashes) if hash_ in links]
    if client_id:
        asked = _bytes(client_id)
        if asked is None or rows.get(CLIENTS, asked) is None:
            return Resolution()
        chosen = _root(rows, asked)
    elif meant:
        # Counter keeps the order of first appearance, and most_common is stable.
        chosen = Counter(meant).most_common(1)[0][0]
    else:
        return Resolution()
    return _describe(rows, chosen, {client for client in meant if client != chosen})


def resolve_earlier(rows: History, instant: int, client_id: str, hashes: Sequence[bytes] = ()) -> Resolution:
    """As `resolve`, as it was after the commit of an instant: by the merges that held then.

    Who was forgotten since is forgotten at every instant, under whatever id they were known then.
    """
    now, earlier = resolve(rows, client_id, hashes), Earlier(rows, instant)
    if now.forgotten:
        return now
    then = resolve(earlier, client_id, hashes)
    chosen = bytes.fromhex(then.client_id)
    if not chosen or earlier.get(CLIENTS, chosen) is None:
        return Resolution()
    if then.forgotten or _client(rows, chosen).forgotten:
        return Resolution(then.client_id, forgotten=True, other_client_ids=then.other_client_ids)
    standing = tuple(alias for alias in then.alias_ids if not _client(rows, bytes.fromhex(alias)).forgotten)
    return replace(then, alias_ids=standing)


def consents_after(rows: Rows, events: Iterable[Recorded]) -> dict[str, tuple[Consents, Recorded]]:
    """For each client whose consents these events may have changed, once `apply` took them: what holds now of all that
    was said under any of its ids, and the event that made it so.

    A merge gives a client the words of the other, and its undoing takes them back; a forgotten client has none.
    """
    if next(iter(rows.scan(CONSENTS)), None) is None:
        return {}
    found: dict[str, tuple[Consents, Recorded]] = {}
    for event in events:
        parse = _TOUCHING.get(event.type)
        if parse is None:
            continue
        message = parse(event.payload)
        ids = {message.client_id}
        if isinstance(message, identity.MergeUndone):
            ids.add(message.restored_client_id)
        for client_id in sorted(ids):
            meant = resolve(rows, client_id, ())
            if meant.client_id and not meant.forgotten:
                found[meant.client_id] = (consents_of(rows, meant.all_ids), event)
    return found


_Touching = identity.ConsentRecorded | identity.ClientsMerged | identity.MergeUndone | identity.ClientOpened
_TOUCHING: Final[dict[str, Callable[[bytes], _Touching]]] = {
    kind.DESCRIPTOR.full_name: kind.FromString
    for kind in (identity.ConsentRecorded, identity.ClientsMerged, identity.MergeUndone, identity.ClientOpened)
}


def _describe(rows: Rows, client: bytes, others: set[bytes]) -> Resolution:
    row = _client(rows, client)
    other_ids = tuple(sorted(other.hex() for other in others))
    if row.forgotten:
        return Resolution(client.hex(), forgotten=True, other_client_ids=other_ids)
    known = row.person_links > 0
    aliases: list[bytes] = []
    level = row.aliases
    while level:
        aliases += level
        found = [ClientRow.unpack(packed) for packed in rows.get_many(CLIENTS, level).values()]
        known = known or any(alias.person_links for alias in found)
        level = tuple(alias for each in found for alias in each.aliases)
    return Resolution(
        client.hex(),
        known_person=known,
        alias_ids=tuple(sorted(alias.hex() for alias in aliases)),
        other_client_ids=other_ids,
    )


def _root(rows: Rows, client: bytes) -> bytes:
    while parent := _client(rows, client).parent:
        client = parent
    return client


def _client(rows: Rows, client: bytes) -> ClientRow:
    packed = rows.get(CLIENTS, client)
    return ClientRow() if packed is None else ClientRow.unpack(packed)


def _bytes(client_id: str) -> bytes | None:
    try:
        return bytes.fromhex(client_id)
    except ValueError:
        return None
