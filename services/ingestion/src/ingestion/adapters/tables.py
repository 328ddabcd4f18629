"""The rows that ingestion keeps beside its log, in the same transactions: registry, accounts, conflicts, quarantine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ingestion.adapters.index import INDEX_TABLES
from ingestion.application.ports import Quarantined, SealedBox
from ingestion.domain.accounting import Account, SetDigest, Tally
from ingestion.domain.registry import ChannelTraits, Registry, Source
from throughline_eventlog import Reader, Transaction

CHANNELS: Final = "channels"
SOURCES: Final = "sources"
ACCOUNTS: Final = "accounts"
CONFLICTS: Final = "conflicts"
QUARANTINE: Final = "quarantine"
QUARANTINE_BY_CONTENT: Final = "quarantine_by_content"
ASIDES: Final = "asides"
TABLES: Final = (*INDEX_TABLES, CHANNELS, SOURCES, ACCOUNTS, CONFLICTS, QUARANTINE, QUARANTINE_BY_CONTENT, ASIDES)

_encode: Final = msgspec.msgpack.Encoder().encode
_channel: Final = msgspec.msgpack.Decoder(tuple[str, bool, bool, str]).decode
_source: Final = msgspec.msgpack.Decoder(tuple[str, tuple[str, ...]]).decode
_account: Final = msgspec.msgpack.Decoder(tuple[tuple[int, int, int, int, int], int, bytes, int, bytes]).decode
_waiting: Final = msgspec.msgpack.Decoder(
    tuple[str, str, str, str, str, str, int, bytes, bytes, bytes, int, int, int]
).decode


class StoreTables:
    """Reads and writes the rows; values are MessagePack arrays."""

    def registry(self, reader: Reader) -> Registry:
        """Every channel and source."""
        return Registry(
            {key.decode(): ChannelTraits(*_channel(value)) for key, value in reader.scan(CHANNELS)},
            {key.decode(): Source(key.decode(), *_source(value)) for key, value in reader.scan(SOURCES)},
        )

    def put_channel(self, tx: Transaction, channel: str, traits: ChannelTraits) -> None:
        """Stores a channel."""
        tx.put(CHANNELS, channel.encode(), _encode((traits.name, traits.physical, traits.assisted, traits.group)))

    def put_source(self, tx: Transaction, source: Source) -> None:
        """Stores a source."""
        tx.put(SOURCES, source.source.encode(), _encode((source.name, source.channels)))

    def accounts(self, reader: Reader, sources: Collection[str]) -> dict[str, Account]:
        """The account of each source named, empty where it has none."""
        rows = reader.get_many(ACCOUNTS, [_account_key(source) for source in sources])
        return {
            source: _read_account(row) if (row := rows.get(_account_key(source))) is not None else Account()
            for source in sources
        }

    def all_accounts(self, reader: Reader) -> dict[str, Account]:
        """Every account, by source."""
        return {key[1:].decode(): _read_account(value) for key, value in reader.scan(ACCOUNTS)}

    def put_accounts(self, tx: Transaction, accounts: Mapping[str, Account]) -> None:
        """Stores accounts."""
        tx.put_many(ACCOUNTS, {_account_key(source): _write_account(account) for source, account in accounts.items()})

    def known_conflicts(self, reader: Reader, members: Collection[bytes]) -> set[bytes]:
        """Those of (id and MAC, 32 bytes) that are kept already."""
        return set(reader.get_many(CONFLICTS, members)) if members else set()

    def put_conflicts(self, tx: Transaction, positions: Mapping[bytes, int]) -> None:
        """Stores where conflicting contents stand in the log, by id and MAC."""
        tx.put_many(CONFLICTS, {member: _position(position) for member, position in positions.items()})

    def conflicts_of(self, reader: Reader, key: bytes) -> list[int]:
        """Positions of the contents kept beside an interaction, in log order."""
        return sorted(int.from_bytes(value, "big") for _, value in reader.scan(CONFLICTS, prefix=key))

    def put_asides(self, tx: Transaction, asides: Iterable[tuple[str, int]]) -> None:
        """Stores (interaction id, position) of what was logged about interactions beside their recording."""
        tx.put_many(ASIDES, {bytes.fromhex(id_) + _position(position): b"\x01" for id_, position in asides})

    def asides_of(self, reader: Reader, key: bytes) -> list[int]:
        """Positions of what was logged about an interaction beside its recording, in log order."""
        return [int.from_bytes(row[len(key) :], "big") for row, _ in reader.scan(ASIDES, prefix=key)]

    def known_quarantined(self, reader: Reader, members: Collection[bytes]) -> dict[bytes, int]:
        """Position of those of (id and MAC, 32 bytes) that wait."""
        if not members:
            return {}
        rows = reader.get_many(QUARANTINE_BY_CONTENT, members)
        return {member: int.from_bytes(position, "big") for member, position in rows.items()}

    def quarantine(self, reader: Reader, *, after: int = 0, limit: int | None = None) -> list[Quarantined]:
        """What waits, oldest first, behind a position."""
        return [_read_waiting(row) for _, row in reader.scan(QUARANTINE, after=_position(after), limit=limit)]

    def quarantined_of(self, reader: Reader, key: bytes) -> list[Quarantined]:
        """What waits under one interaction id, oldest first."""
        positions = [int.from_bytes(value, "big") for _, value in reader.scan(QUARANTINE_BY_CONTENT, prefix=key)]
        waiting = self.quarantined_at(reader, positions)
        return [waiting[position] for position in sorted(positions)]

    def quarantined_at(self, reader: Reader, positions: Collection[int]) -> dict[int, Quarantined]:
        """What waits at these positions."""
        if not positions:
            return {}
        rows = reader.get_many(QUARANTINE, [_position(position) for position in positions])
        return {int.from_bytes(position, "big"): _read_waiting(row) for position, row in rows.items()}

    def put_quarantined(self, tx: Transaction, waiting: Sequence[Quarantined]) -> None:
        """Stores what waits."""
        tx.put_many(QUARANTINE, {_position(each.position): _write_waiting(each) for each in waiting})
        tx.put_many(QUARANTINE_BY_CONTENT, {_content(each): _position(each.position) for each in waiting})

    def release(self, tx: Transaction, waiting: Sequence[Quarantined]) -> None:
        """Removes what waits no more."""
        for each in waiting:
            tx.delete(QUARANTINE, _position(each.position))
            tx.delete(QUARANTINE_BY_CONTENT, _content(each))


def _position(position: int) -> bytes:
    return position.to_bytes(8, "big")


def _content(waiting: Quarantined) -> bytes:
    return bytes.fromhex(waiting.interaction_id) + waiting.content_mac


def _account_key(source: str) -> bytes:
    # An event may be refused for having no source at all, and a key may not be empty.
    return b"/" + source.encode()


def _write_account(account: Account) -> bytes:
    tally = account.tally
    return _encode(
        (
            (tally.recorded, tally.duplicate, tally.conflict, tally.quarantined, tally.refused),
            account.recorded.members,
            account.recorded.total.to_bytes(32, "big"),
            account.conflicting.members,
            account.conflicting.total.to_bytes(32, "big"),
        )
    )


def _read_account(row: bytes) -> Account:
    tally, recorded, recorded_total, conflicting, conflicting_total = _account(row)
    return Account(
        Tally(*tally),
        SetDigest(recorded, int.from_bytes(recorded_total, "big")),
        SetDigest(conflicting, int.from_bytes(conflicting_total, "big")),
    )


def _write_waiting(waiting: Quarantined) -> bytes:
    flat: tuple[Any, ...] = (*waiting[:8], *waiting.sealed, *waiting[9:])
    return _encode(flat)


def _read_waiting(row: bytes) -> Quarantined:
    read = _waiting(row)
    return Quarantined(*read[:8], SealedBox(read[8], read[9]), *read[10:])
