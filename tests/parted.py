"""Installations whose ingestion is parted while nothing serves, and each partition served by itself in between."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from line import CHANNELS, identifier, interaction

from identity.bootstrap import Identity
from identity.bootstrap import build as build_identity
from identity.settings import Settings as IdentitySettings
from ingestion.bootstrap import build
from ingestion.projection import make_projection
from ingestion.settings import Settings
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_client.installation import Installation
from throughline_eventlog import PARTITIONS, BusSettings, InboxPosition, Partitioning, Store, open_store
from throughline_eventlog.nats_server import free_port
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

    def settings(self, number: int, bus: BusSettings, peers: Sequence[str] = ()) -> Settings:
        """Those of the process that serves one partition; `peers` are the addresses of all of several."""
        port = int(peers[self.numbers.index(number)].rpartition(":")[2]) if peers else 0
        return Settings(
            host=HostSettings(
                "ingestion",
                number,
                self.installation.partitioning,
                port=port,
                health_interval_seconds=0.05,
                grace_seconds=5,
            ),
            store=self.installation.store("ingestion", number),
            bus=bus,
            proofs=ProofSettings(KEYS),
            privacy=self.privacy(),
            peers=peers,
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
        try:
            yield parts
        finally:
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
        peers = [f"127.0.0.1:{free_port()}" for _ in self.numbers] if len(self.numbers) > 1 else []
        async with AsyncExitStack() as running:
            stubs: list[ingestion_pb2_grpc.IngestionServiceStub] = []
            for number in self.numbers:
                parts = build(self.settings(number, bus or BusSettings(NOWHERE), peers))
                if bus is not None:
                    parts.connection.start()
                port = await parts.host.start()
                running.push_async_callback(parts.host.stop)
                channel = await running.enter_async_context(open_channel(f"127.0.0.1:{port}"))
                stubs.append(ingestion_pb2_grpc.IngestionServiceStub(channel))
            yield Ends(stubs)

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
    """Stubs to the partitions that are served, by index; whatever is asked is asked of them in turn."""

    stubs: Sequence[ingestion_pb2_grpc.IngestionServiceStub]
    asked: int = 0

    def next(self) -> ingestion_pb2_grpc.IngestionServiceStub:
        """Whose turn it is."""
        self.asked += 1
        return self.stubs[self.asked % len(self.stubs)]

    async def register(self, *channels: str) -> None:
        """Registers channels, and all sources."""
        for channel in channels:
            await self.next().RegisterChannel(
                ingestion_pb2.RegisterChannelRequest(channel=channel, traits=CHANNELS["web"])
            )
        for source in SOURCES:
            await self.next().RegisterSource(ingestion_pb2.RegisterSourceRequest(source=source, name=source))

    async def offer(self, offered: Sequence[interaction_pb2.Interaction], size: int = 10) -> Verdicts:
        """Offers in batches; what became of each, in order."""
        verdicts: Verdicts = []
        for start in range(0, len(offered), size):
            request = ingestion_pb2.RecordInteractionsRequest(interactions=offered[start : start + size])
            verdicts += [result.verdict for result in (await self.next().RecordInteractions(request)).results]
        return verdicts

    async def redrive(self, interaction_id: str = "") -> int:
        """Redrives; how many were recorded."""
        request = ingestion_pb2.RedriveQuarantineRequest(interaction_id=interaction_id)
        return (await self.next().RedriveQuarantine(request)).recorded

    async def tallies(self) -> dict[str, tuple[int, ...]]:
        """What each source offered, and the five ends, which add up; a source is one partition's alone."""
        found: dict[str, tuple[int, ...]] = {}
        for line in (await self.next().GetTallies(ingestion_pb2.GetTalliesRequest())).tallies:
            ends = (line.recorded, line.duplicate, line.conflict, line.quarantined, line.refused)
            assert line.offered == sum(ends), line
            assert line.source not in found, line
            found[line.source] = (line.offered, *ends)
        return found


def environment_with_keys(place: Place) -> dict[str, str]:
    """What a command's environment says of an installation that is in no folder."""
    return {**os.environ, **place.environment, PARTITIONS: place.text, **SIGNING_ENVIRONMENT}
