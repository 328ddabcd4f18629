"""The one place where ingestion's parts meet."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Final, NamedTuple

from ingestion.adapters.codec import ContractCodec
from ingestion.adapters.content import ContentMac
from ingestion.adapters.index import RunIndex
from ingestion.adapters.peers import RemotePeer
from ingestion.adapters.personas import Personas
from ingestion.adapters.quotas import quotas_from
from ingestion.adapters.reading import ContractReader
from ingestion.adapters.reading_process import ReadingProcess
from ingestion.adapters.sealing import VaultSeal
from ingestion.adapters.tables import TABLES, StoreTables
from ingestion.adapters.wire import Parter
from ingestion.application.comparing import LiveState
from ingestion.application.forgetting import ForgetPersonas
from ingestion.application.parting import check_opened
from ingestion.application.ports import Peer
from ingestion.application.queries import Queries
from ingestion.application.quotas import Quotas
from ingestion.application.recording import Recorder, RecordOffers
from ingestion.application.redriving import Redrive, RedrivePage
from ingestion.application.registering import Register
from ingestion.entrypoints.desk import Desk, OwnDesk
from ingestion.entrypoints.partitions import MEANT_KEY, AllPartitions, PartitionServicer, hosted_partition
from ingestion.entrypoints.servicer import BATCH_METHODS, IngestionServicer, hosted
from ingestion.settings import SERVICE, Settings
from throughline_eventlog import Connection, Consumer, Relay, Store, Writer, open_store
from throughline_eventlog.partitions import index_of, owner
from throughline_privacy import ForgottenListError, PrivacySettingsError, Vault, open_vault
from throughline_rpc import (
    AccessLog,
    Background,
    EventLogServicer,
    HealthCheck,
    Hosted,
    Progress,
    Proofs,
    ServiceHost,
    hosted_event_log,
    serve,
)
from throughline_telemetry import BatchObserver, configure, metrics

PUBLISHER_OF_FORGETTING: Final = "identity"
SOURCES_REMEMBERED: Final = 4_096
"""Whose partition is at hand: callers choose names."""
GROUP_EVENTS: Final = 4_000
"""Events in one commit at most: four full batches share one sync of the log and one of the key store."""


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The parts of a running ingestion."""

    store: Store
    writer: Writer
    vault: Vault
    connection: Connection
    relay: Relay
    forgetting: Consumer
    host: ServiceHost


def build(settings: Settings) -> Ingestion:
    """Builds everything; nothing listens and nothing is published yet. Must be called where an event loop runs.

    Raises: UnavailableError, SettingsError, HostSettingsError, NewerLogError.
    """
    store = open_store(settings.store, tables=TABLES)
    check_opened(store, settings.host.partitioning, settings.host.partition)
    vault = open_vault(settings.privacy)
    observer = BatchObserver()
    writer = Writer(store, group_weight=GROUP_EVENTS, observer=observer)
    personas = Personas(settings.privacy.hasher())
    tables, index = StoreTables(), RunIndex()
    reader = ContractReader(ContentMac(settings.privacy.hash_key), personas)
    reading = ReadingProcess(reader, store.clock)
    seal = VaultSeal(vault, personas, forget_elsewhere=reading.forget_remembered)
    codec = ContractCodec()
    recorder = Recorder(codec, seal, index, tables)
    queries = Queries(store, index, tables)
    desk = OwnDesk(
        writer,
        reader=reading,
        record=RecordOffers(recorder),
        register=Register(codec, tables),
        redrive=Redrive(writer, RedrivePage(recorder, reader)),
        queries=queries,
        quotas=Quotas(quotas_from(settings.quotas_file, settings.quota), time.monotonic, _over_quota),
    )
    partition = settings.host.partition
    partitions = Partitions.among(desk, settings)
    servicer = IngestionServicer(partitions.desk, seal)
    connection = settings.bus.connect(f"{SERVICE}-{partition}")
    relay = Relay(
        store,
        connection,
        SERVICE,
        partition,
        prefix=settings.bus.prefix,
        replicas=settings.bus.replicas,
        observer=observer,
    )
    forgetting = Consumer(
        writer,
        connection,
        settings.bus.stream(PUBLISHER_OF_FORGETTING, *settings.host.partitioning.in_force(PUBLISHER_OF_FORGETTING)),
        ForgetPersonas(seal),
        observer=observer,
    )
    live = LiveState(queries, index, tables)
    proofs = Proofs(
        store, settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    access = AccessLog.beside(
        settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    log_service = EventLogServicer(store, SERVICE, partition, live, Progress.of(relay, [forgetting]))
    host = ServiceHost(
        settings.host,
        [hosted(servicer), hosted_event_log(log_service), proofs.hosted, partitions.hosted],
        background=[
            # Channel systems are served without the bus: what they report is safe in the log, and is published later.
            Background("relay", relay.run, relay.health, needed_to_serve=False),
            Background("forgetting", forgetting.run, forgetting.health, needed_to_serve=False),
            Background("reading", reading.run, reading.health, needed_to_serve=False),
            *proofs.background,
        ],
        checks=[
            HealthCheck("writer", writer.health),
            HealthCheck("poison", forgetting.degraded, needed_to_serve=False),
        ],
        on_stop=[
            *partitions.on_stop,
            reading.close,
            writer.close,
            proofs.close,
            connection.close,
            store.close,
            vault.close,
        ],
        access=access,
        batch_methods=BATCH_METHODS,
    )
    return Ingestion(store, writer, vault, connection, relay, forgetting, host)


class Partitions(NamedTuple):
    """This partition among the others: the desk that answers for all, what they call, and what that needs."""

    desk: Desk
    hosted: Hosted[PartitionServicer]
    on_stop: Sequence[Callable[[], Awaitable[None]]] = ()

    @classmethod
    def among(cls, own: OwnDesk, settings: Settings) -> Partitions:
        """As the settings say. Raises: HostSettingsError where the others cannot be called."""
        partitioning, partition = settings.host.partitioning, settings.host.partition
        numbers = partitioning.in_force(SERVICE)
        count = len(numbers)
        hosted = hosted_partition(PartitionServicer(own, f"{partition}/{count}"))
        if count == 1:
            return cls(own, hosted)

        @lru_cache(SOURCES_REMEMBERED)
        def owner_of(source: str) -> int:
            return owner(source, count)

        remote = {
            number: RemotePeer(
                f"{SERVICE}-{partition}",
                address,
                (MEANT_KEY, f"{number}/{count}"),
                credentials=settings.peer_credentials,
                max_message_bytes=settings.host.max_message_bytes,
            )
            for number, address in zip(numbers, settings.peers, strict=True)
            if number != partition
        }
        peers: list[Peer] = [remote.get(number, own) for number in numbers]
        return cls(
            AllPartitions(own, index_of(partition), peers, Parter(owner_of), owner_of),
            hosted,
            [peer.close for peer in remote.values()],
        )


def _over_quota(source: str, events: int) -> None:
    metrics.OVER_QUOTA.labels(source).inc(events)


def main() -> int:
    """Serves until told to stop; answers the exit code."""

    async def host() -> ServiceHost:
        settings = Settings.from_env()
        ingestion = build(settings)
        ingestion.connection.start()
        return ingestion.host

    telemetry = configure(SERVICE, version=version(f"throughline-{SERVICE}"))
    try:
        return serve(host, startup_errors=(PrivacySettingsError, ForgottenListError))
    finally:
        telemetry.shutdown()
