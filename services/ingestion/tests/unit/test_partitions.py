"""Who takes what of a request, and where the others are."""

from __future__ import annotations

import pytest
from ingestion_world import event

from ingestion.adapters.wire import Parter
from ingestion.application.ports import Request
from ingestion.settings import PEERS, Settings
from throughline.ingestion.v1 import ingestion_pb2, partition_pb2
from throughline_eventlog import PARTITIONS, SettingsError
from throughline_eventlog.partitions import owner
from throughline_proof import SigningKey

HERE = next(name for name in ("till", "web", "app", "kiosk") if owner(name, 2) == 0)
THERE = next(name for name in ("till", "web", "app", "kiosk") if owner(name, 2) == 1)

FOUR = [event(number, source=source) for number in (1, 2) for source in (HERE, THERE)]


def test_who_has_a_source_is_found_without_reading_more() -> None:
    """A request is taken apart by the accounts of its sources: each event once, in order, of whatever kind it is."""
    parter = Parter(lambda source: owner(source, 2))
    parted = parter(
        Request.STREAMED,
        ingestion_pb2.StreamInteractionsRequest(batch_id="b", interactions=FOUR).SerializeToString(),
    )
    assert (parted.batch_id, parted.size, parted.sources) == ("b", 4, {HERE, THERE})
    assert {index: part.at for index, part in parted.parts.items()} == {0: [0, 2], 1: [1, 3]}
    part = partition_pb2.RecordPartRequest.FromString(parted.parts[1].raw)
    assert (part.size, list(part.interactions)) == (4, FOUR[1::2])


def test_peers_are_as_many_as_there_are_partitions() -> None:
    """Another number is refused with the variable's name, and with several there is no default."""
    key = "a" * 43 + "="
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": "ingestion.db",
        "THROUGHLINE_HASH_KEY": key,
        "THROUGHLINE_KEY_ENCRYPTION_KEY": key,
        "THROUGHLINE_KEY_STORE": "keys.db",
        "THROUGHLINE_SIGNING_KEYS": SigningKey.new("test").line,
        PARTITIONS: "ingestion=1:2",
        "THROUGHLINE_PARTITION": "101",
    }
    assert Settings.from_env(env | {PEERS: "a:1, b:2"}).peers == ["a:1", "b:2"]
    for peers in ({}, {PEERS: "a:1"}):
        with pytest.raises(SettingsError, match=r"ingestion has 2 partitions \(100, 101\): give host:port"):
            Settings.from_env(env | peers)
