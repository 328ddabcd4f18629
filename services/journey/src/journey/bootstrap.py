"""The one place where journey's parts meet."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

from journey.adapters.shipped import shipped_definitions
from journey.application.commands import (
    AcceptHandoffs,
    Asked,
    DefineJourneys,
    OfferHandoffs,
    Retell,
    Sweep,
)
from journey.application.queries import Queries
from journey.application.records import Records
from journey.application.rows import TABLES
from journey.application.state import LiveState
from journey.application.taking import TakeFromFeedback, TakeFromIdentity
from journey.application.watching import Bells
from journey.domain.definitions import DefineJourney
from journey.entrypoints.servicer import JourneyServicer, Works, hosted
from journey.entrypoints.sweeper import Sweeper
from journey.settings import SERVICE, Settings
from throughline_directory import DIRECTORY_TABLES, Directory
from throughline_eventlog import Connection, Consumer, Relay, Store, Writer, open_store
from throughline_privacy import IdentifierHasher, PrivacySettingsError
from throughline_rpc import (
    AccessLog,
    Background,
    EventLogServicer,
    HealthCheck,
    Progress,
    Proofs,
    ServiceHost,
    hosted_event_log,
    serve,
)
from throughline_telemetry import BatchObserver, configure

# One thread may hold the interpreter so long, in seconds, before another gets it: what a waiting call costs at worst.
SWITCH_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Journey:
    """The parts of a running journey service."""

    store: Store
    writer: Writer
    records: Records
    connection: Connection
    relay: Relay
    consumers: tuple[Consumer, ...]
    sweeper: Sweeper
    servicer: JourneyServicer
    host: ServiceHost

    async def start(self) -> None:
        """Publishes the definitions that come with the package where the log has none of the name, and connects."""
        await publish_shipped(self.store, self.writer, DefineJourneys(self.records))
        self.connection.start()


async def publish_shipped(store: Store, writer: Writer, define: DefineJourneys) -> None:
    """Defines each shipped journey that the log does not know, in its first version."""
    for definition in shipped_definitions():
        with store.snapshot() as reader:
            known = reader.get("definitions", definition.journey.encode()) is not None
        if not known:
            await writer.submit(define, Asked(DefineJourney(definition, "throughline", store.clock())))


def build(settings: Settings) -> Journey:
    """Builds everything; nothing listens and nothing is published yet. Must be called where an event loop runs.

    Raises: UnavailableError, SettingsError, NewerLogError.
    """
    store = open_store(settings.store, tables=(*TABLES, *DIRECTORY_TABLES))
    observer = BatchObserver()
    writer = Writer(store, observer=observer)
    directory = Directory(IdentifierHasher(settings.hash_key))
    bells = Bells()
    records = Records(settings.cache, bells.touched)
    queries = Queries(store, directory, settings.cache // 4)
    quick = ThreadPoolExecutor(2, "context")
    patient = ThreadPoolExecutor(4, "read")
    works = Works(OfferHandoffs(records, directory), AcceptHandoffs(records), DefineJourneys(records), Retell(records))
    servicer = JourneyServicer(writer, works, queries, bells, clock=store.clock, quick=quick, patient=patient)
    partition = settings.host.partition
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
    consumers = tuple(
        Consumer(writer, connection, settings.bus.stream(upstream, partition), handler, observer=observer)
        for upstream, handler in (
            ("identity", TakeFromIdentity(records, directory)),
            ("feedback", TakeFromFeedback(records)),
        )
    )
    sweeper = Sweeper(writer, Sweep(records), servicer.tell_again, settings.sweep_seconds)
    proofs = Proofs(
        store, settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    access = AccessLog.beside(
        settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    log_service = EventLogServicer(
        store, SERVICE, partition, LiveState(store, writer, records, queries), Progress.of(relay, consumers)
    )

    async def close_readers() -> None:
        await asyncio.to_thread(quick.shutdown)
        await asyncio.to_thread(patient.shutdown)

    host = ServiceHost(
        settings.host,
        [hosted(servicer), hosted_event_log(log_service), proofs.hosted],
        background=[
            # What is known is answered without the bus; it is only older then, as health says.
            Background("relay", relay.run, relay.health, needed_to_serve=False),
            *(
                Background(consumer.stream, consumer.run, consumer.health, needed_to_serve=False)
                for consumer in consumers
            ),
            Background("sweeper", sweeper.run, sweeper.health, needed_to_serve=False),
            *proofs.background,
        ],
        checks=[
            HealthCheck("writer", writer.health),
            *(
                HealthCheck(f"poison {consumer.stream}", consumer.degraded, needed_to_serve=False)
                for consumer in consumers
            ),
        ],
        on_stop=[bells.attach(store), writer.close, proofs.close, close_readers, connection.close, store.close],
        access=access,
    )
    return Journey(store, writer, records, connection, relay, consumers, sweeper, servicer, host)


def main() -> int:
    """Serves until told to stop; answers the exit code."""
    sys.setswitchinterval(SWITCH_SECONDS)

    async def host() -> ServiceHost:
        journey = build(Settings.from_env())
        await journey.start()
        return journey.host

    telemetry = configure(SERVICE, version=version(f"throughline-{SERVICE}"))
    try:
        return serve(host, startup_errors=(PrivacySettingsError,))
    finally:
        telemetry.shutdown()
