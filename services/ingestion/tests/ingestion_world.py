"""A running ingestion, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc.aio

from ingestion.adapters.tables import TABLES
from ingestion.application.parting import make_parting
from ingestion.application.replay import make_fold
from ingestion.bootstrap import Ingestion, build
from ingestion.settings import Settings
from throughline.eventlog.v1 import eventlog_pb2, eventlog_pb2_grpc
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_eventlog import BusSettings, StoreSettings, open_store
from throughline_eventlog.partitions import opening_stream
from throughline_kernel import combine_digests, digest
from throughline_privacy import PrivacySettings, create_keys
from throughline_rpc import HostSettings, open_channel
from throughline_testkit.proofs import new_proof_settings

NOW = 1_760_000_000_000_000
STORE = interaction_pb2.ChannelTraits(name="Store", physical=True, assisted=True, group="retail")
VERIFIED = interaction_pb2.ASSURANCE_VERIFIED
RECORDED, DUPLICATE, CONFLICT, QUARANTINED, REFUSED = range(1, 6)


def event(number: int | str = 1, **fields: Any) -> interaction_pb2.Interaction:
    """A purchase at the till."""
    given: dict[str, Any] = {
        "source": "till",
        "source_interaction_id": f"r{number}",
        "channel": "store",
        "kind": "purchase",
        "occurred_at": NOW,
        "identifiers": [interaction_pb2.Identifier(type="loyalty_card", value=f"card-{number}", assurance=VERIFIED)],
    }
    return interaction_pb2.Interaction(**(given | fields))


def settings_for(folder: Path, store: StoreSettings, bus: BusSettings) -> Settings:
    """Settings of an ingestion that keeps its keys in the folder."""
    keys = folder / "keys.json"
    if not keys.exists():
        create_keys(keys)
    return Settings(
        host=HostSettings("ingestion", health_interval_seconds=0.05, grace_seconds=5),
        store=store,
        bus=bus,
        proofs=new_proof_settings(),
        privacy=PrivacySettings.from_env(
            {"THROUGHLINE_KEYS_FILE": str(keys), "THROUGHLINE_KEY_STORE": str(folder / "keys.db")}
        ),
    )


def open_partition(settings: Settings) -> None:
    """What a change of the number of partitions leaves in each new log, here of an empty one."""
    number, count = settings.host.partition, settings.host.partitioning.count("ingestion")
    if not number:
        return
    store = open_store(settings.store, tables=TABLES)
    with store.transaction() as tx:
        if not tx.read_stream(opening_stream("ingestion")):
            tx.append([make_parting().opened(number, count, [], tx.now)])
    store.close()


@dataclass
class World:
    """An ingestion that serves, and stubs to it."""

    parts: Ingestion
    channel: grpc.aio.Channel
    ingestion: ingestion_pb2_grpc.IngestionServiceStub
    log: eventlog_pb2_grpc.EventLogServiceStub

    @classmethod
    async def start(cls, settings: Settings, *, publish: bool = True) -> World:
        """Builds and serves; without `publish` the bus is never connected to."""
        parts = build(settings)
        if publish:
            parts.connection.start()
        port = await parts.host.start()
        channel = open_channel(f"127.0.0.1:{port}")
        return cls(
            parts,
            channel,
            ingestion_pb2_grpc.IngestionServiceStub(channel),
            eventlog_pb2_grpc.EventLogServiceStub(channel),
        )

    async def stop(self) -> None:
        """Ends it as SIGTERM does."""
        await self.channel.close()
        await self.parts.host.stop()

    async def register(self) -> World:
        """Registers the channel `store` and the source `till`."""
        await self.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="store", traits=STORE))
        await self.ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source="till", name="Till"))
        return self

    async def record(self, *events: interaction_pb2.Interaction) -> Sequence[ingestion_pb2.InteractionResult]:
        """Records one batch."""
        request = ingestion_pb2.RecordInteractionsRequest(interactions=events)
        return (await self.ingestion.RecordInteractions(request)).results

    async def verdicts(self, *events: interaction_pb2.Interaction) -> list[int]:
        """What became of each event of one batch."""
        return [result.verdict for result in await self.record(*events)]

    async def tallies(self) -> dict[str, tuple[int, ...]]:
        """(recorded, duplicate, conflict, quarantined, refused) by source; they add up to what was offered."""
        answer = await self.ingestion.GetTallies(ingestion_pb2.GetTalliesRequest())
        for line in answer.tallies:
            ends = (line.recorded, line.duplicate, line.conflict, line.quarantined, line.refused)
            assert line.offered == sum(ends), line
        return {
            line.source: (line.recorded, line.duplicate, line.conflict, line.quarantined, line.refused)
            for line in answer.tallies
        }

    async def redrive(self, **filters: str) -> tuple[int, ...]:
        """(recorded, duplicate, conflict, still quarantined, refused)."""
        done = await self.ingestion.RedriveQuarantine(ingestion_pb2.RedriveQuarantineRequest(**filters))
        return done.recorded, done.duplicate, done.conflict, done.still_quarantined, done.refused

    def logged(self) -> list[str]:
        """The short type of every event in the log, in order."""
        with self.parts.store.snapshot() as reader:
            return [row.type.rpartition(".")[2] for row in reader.read_logged()]

    async def replays_to_itself(self) -> bool:
        """Whether the state folded from the log alone has the digest of the live one."""
        fold = make_fold()
        with self.parts.store.snapshot() as reader:
            for each in reader.read():
                fold.apply(each)
                assert fold.describe(each).endswith(".")
        replayed = [(key, digest(aggregate)) for key, aggregate in fold.aggregates()]
        checkpoint = await self.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=True))
        live = await self.log.ListStateDigests(eventlog_pb2.ListStateDigestsRequest())
        assert [(each.key, each.digest) for each in live.digests] == replayed
        return checkpoint.digest == combine_digests(replayed)


class StartIngestion(Protocol):
    """Starts the test's ingestion, or the same one once more; with other settings where some are given."""

    def __call__(self, *, publish: bool = True, opened: bool = True, **more: Any) -> Awaitable[World]:
        """With or without a bus; its log opened as a partition's, where it is one of several."""
        ...
