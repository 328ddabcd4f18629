"""Installations whose ingestion is parted while nothing serves, and each partition served by itself in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from line import CHANNELS, identifier, interaction

from identity.application.attribution import Attribution
from identity.bootstrap import Identity
from identity.bootstrap import build as build_identity
from identity.settings import Settings as IdentitySettings
from ingestion.bootstrap import build
from ingestion.projection import make_projection
from ingestion.settings import Settings
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_client.installation import Installation
from throughline_eventlog import PARTITIONS, BusSettings, Consumer, InboxPosition, Partitioning, Store, open_store
from throughline_kernel import digest
from throughline_portability.parting import Changed, Told, change_partitions
from throughline_privacy import PrivacySettings
from throughline_proof import SIGNING_KEYS, SigningKeys
from throughline_rpc import HostSettings, ProofSettings, open_channel
from throughline_testkit.proofs import SIGNING_ENVIRONMENT

SOURCES = ("web", "telephony", "app", "kiosk")
"""Of two partitions the first has the last two; of three, each has one, and the last two of those before meet in it."""
KEYS = SigningKeys.of_text(SIGNING_ENVIRONMENT[SIGNING_KEYS], "the test")
IDENTITY = "TL_INGESTION_"
NOWHERE = "nats://127.0.0.1:9"

Verdicts = list[int]


def nothing(*_: object) -> None:
    """Hears and does nothing."""


def history(first: int, count: int) -> list[interaction_pb2.Interaction]:
    """Interactions of all sources; of each source one in four comes again, one with other content, one unknown."""
    made: list[interaction_pb2.Interaction] = []
    for number in range(first, first + count):
        source, who = SOURCES[number % 4], identifier("email", f"p{number % 7}@post.eu")
        made.append(interaction(number, who, source=source))
        match number // 4 % 4:
            case 0:
                made.append(interaction(number, who, source=source))
            case 1:
                made.append(interaction(number, who, source=source, matter="other"))
            case 2:
                made += [interaction(f"k{number}", who, source=source, channel="booth")] * 2
            case _:
                made.append(interaction(number, who, source=source, at=1))
    made.append(interaction(first, source=""))
    return made


@dataclass
class Place:
    """Where an installation's stores are: in a data folder, or where an environment says; `text`: how it is parted."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    text: str = ""

    @property
    def installation(self) -> Installation:
        """As it is parted now."""
        if self.environment:
            return Installation.from_env({**self.environment, PARTITIONS: self.text})
        return Installation.in_folder(self.folder)

    @property
    def numbers(self) -> Sequence[int]:
        """Ingestion's partitions in force."""
        return self.installation.partitioning.in_force("ingestion")

    def open(self, number: int) -> Store:
        """The store of one partition of ingestion."""
        return open_store(self.installation.store("ingestion", number), tables=make_projection().tables)

    def settings(self, number: int, bus: BusSettings) -> Settings:
        """Those of the process that serves one partition."""
        return Settings(
            host=HostSettings("ingestion", number, self.installation.partitioning, grace_seconds=5),
            store=self.installation.store("ingestion", number),
            bus=bus,
            proofs=ProofSettings(KEYS),
            privacy=self.privacy(),
        )

    def privacy(self) -> PrivacySettings:
        """The installation's keys."""
        return PrivacySettings.from_env(
            {
                "THROUGHLINE_KEYS_FILE": str(self.folder / "keys.json"),
                "THROUGHLINE_KEY_STORE": self.installation.key_store,
                "THROUGHLINE_KEY_STORE_SCHEMA": self.installation.key_store_schema,
            }
        )

    @asynccontextmanager
    async def attributed(self, bus: BusSettings) -> AsyncIterator[Identity]:
        """An identity that takes every stream of ingestion in force, for the block."""
        host = HostSettings("identity", partitioning=self.installation.partitioning, grace_seconds=5)
        store = self.installation.stores["identity"]
        parts = await build_identity(
            IdentitySettings(host=host, store=store, bus=bus, proofs=ProofSettings(KEYS), privacy=self.privacy())
        )
        await parts.start()
        await parts.host.start()
        # Beside its own consumers: whoever comes second to an event passes over it.
        consumers = [
            Consumer(parts.writer, parts.connection, bus.stream("ingestion", number), Attribution(parts.rulebook))
            for number in self.numbers
        ]
        running = [asyncio.create_task(consumer.run()) for consumer in consumers]
        try:
            yield parts
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await parts.host.stop()

    def reached(self, identity: Identity, bus: BusSettings) -> bool:
        """Whether identity has taken all that the partitions in force have."""
        with identity.store.snapshot() as reader:
            inboxes = {each.stream: each.position for each in reader.inboxes()}
        for number in self.numbers:
            log = self.open(number)
            with log.snapshot() as reader:
                position = reader.last_position()
            log.close()
            if inboxes.get(bus.stream("ingestion", number), 0) < position:
                return False
        return True

    @asynccontextmanager
    async def served(self, bus: BusSettings | None = None) -> AsyncIterator[Ends]:
        """All partitions in force, served for the block; nothing is published without a bus."""
        async with AsyncExitStack() as running:
            stubs: dict[int, ingestion_pb2_grpc.IngestionServiceStub] = {}
            for number in self.numbers:
                parts = build(self.settings(number, bus or BusSettings(NOWHERE)))
                if bus is not None:
                    parts.connection.start()
                port = await parts.host.start()
                running.push_async_callback(parts.host.stop)
                channel = await running.enter_async_context(open_channel(f"127.0.0.1:{port}"))
                stubs[number] = ingestion_pb2_grpc.IngestionServiceStub(channel)
            yield Ends(self.installation.partitioning, stubs)

    def taken_by_identity(self) -> None:
        """As where identity has taken everything that the partitions in force have."""
        store = open_store(self.installation.stores["identity"])
        with store.transaction() as tx:
            for number in self.numbers:
                log = self.open(number)
                with log.snapshot() as reader:
                    position = reader.last_position()
                log.close()
                before = tx.inbox(f"{IDENTITY}{number}")
                sequence = 1 if before is None else before.sequence + 1
                tx.set_inbox(InboxPosition(f"{IDENTITY}{number}", 7, sequence, position))
        store.close()

    def change(self, count: int, told: Told = nothing, keys: Callable[[], SigningKeys] = lambda: KEYS) -> Changed:
        """Parts ingestion anew."""
        return change_partitions(self.installation, "ingestion", count, keys=keys, told=told, keep=self.keep)

    def keep(self, partitioning: Partitioning) -> None:
        """Notes how it is parted."""
        self.text = partitioning.write()
        if not self.environment:
            (self.folder / "partitions").write_text(self.text)

    def state(self) -> dict[str, bytes]:
        """The digest of every aggregate of ingestion, over all partitions."""
        found: dict[str, bytes] = {}
        for number in self.numbers:
            store = self.open(number)
            with store.snapshot() as reader:
                found |= {key: digest(aggregate) for key, aggregate in make_projection().aggregates(reader)}
            store.close()
        return found


@dataclass
class Ends:
    """Stubs to the partitions that are served; offers go to the one that has their source."""

    partitioning: Partitioning
    stubs: Mapping[int, ingestion_pb2_grpc.IngestionServiceStub]

    async def register(self, *channels: str) -> None:
        """Registers channels and all sources everywhere."""
        for stub in self.stubs.values():
            for channel in channels:
                await stub.RegisterChannel(
                    ingestion_pb2.RegisterChannelRequest(channel=channel, traits=CHANNELS["web"])
                )
            for source in SOURCES:
                await stub.RegisterSource(ingestion_pb2.RegisterSourceRequest(source=source, name=source))

    async def offer(self, offered: Sequence[interaction_pb2.Interaction], size: int = 10) -> Verdicts:
        """Offers in batches, split by who has the source; what became of each, in order."""
        verdicts: Verdicts = []
        for start in range(0, len(offered), size):
            batch = offered[start : start + size]
            found: dict[int, int] = {}
            for number, stub in self.stubs.items():
                places = [
                    at for at, each in enumerate(batch) if self.partitioning.owner("ingestion", each.source) == number
                ]
                if places:
                    request = ingestion_pb2.RecordInteractionsRequest(interactions=[batch[at] for at in places])
                    answer = await stub.RecordInteractions(request)
                    found |= {at: result.verdict for at, result in zip(places, answer.results, strict=True)}
            verdicts += [found[at] for at in range(len(batch))]
        return verdicts

    async def redrive(self) -> int:
        """Redrives everywhere; how many were recorded."""
        answers = [
            await stub.RedriveQuarantine(ingestion_pb2.RedriveQuarantineRequest()) for stub in self.stubs.values()
        ]
        return sum(answer.recorded for answer in answers)

    async def tallies(self) -> dict[str, tuple[int, ...]]:
        """What each source offered, and the five ends, which add up; a source is one partition's alone."""
        found: dict[str, tuple[int, ...]] = {}
        for stub in self.stubs.values():
            for line in (await stub.GetTallies(ingestion_pb2.GetTalliesRequest())).tallies:
                ends = (line.recorded, line.duplicate, line.conflict, line.quarantined, line.refused)
                assert line.offered == sum(ends), line
                assert line.source not in found, line
                found[line.source] = (line.offered, *ends)
        return found


def environment_with_keys(place: Place) -> dict[str, str]:
    """What a command's environment says of an installation that is in no folder."""
    return {**os.environ, **place.environment, PARTITIONS: place.text, **SIGNING_ENVIRONMENT}
