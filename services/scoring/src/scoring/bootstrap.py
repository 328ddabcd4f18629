"""The one place where scoring's parts meet."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from scoring.adapters.who_is_who import DirectoryTables
from scoring.application.book import Book
from scoring.application.commands import DefineMetrics, PublishFormulas, PublishScorecards
from scoring.application.intake import FeedbackIntake, IdentityIntake, JourneyIntake
from scoring.application.queries import Queries
from scoring.application.rows import TABLES
from scoring.application.state import LiveState
from scoring.entrypoints.servicer import ScoringServicer, hosted
from scoring.settings import SERVICE, Settings
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import Connection, Consumer, Relay, Store, Writer, open_store
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


@dataclass(frozen=True, slots=True)
class Scoring:
    """The parts of a running scoring."""

    store: Store
    writer: Writer
    connection: Connection
    relay: Relay
    consumers: tuple[Consumer, ...]
    host: ServiceHost

    async def start(self) -> None:
        """Publishes the formulas that the log does not have yet, and connects to the bus."""
        await self.writer.submit(PublishFormulas(), None)
        self.connection.start()


def build(settings: Settings) -> Scoring:
    """Builds everything; nothing listens and nothing is published yet. Must be called where an event loop runs.

    Raises: UnavailableError, SettingsError, NewerLogError.
    """
    store = open_store(settings.store, tables=(*TABLES, *DIRECTORY_TABLES))
    observer = BatchObserver()
    writer = Writer(store, observer=observer)
    book = Book(settings.held_facts)
    servicer = ScoringServicer(
        writer, Queries(store, settings.minimum), PublishScorecards(settings.minimum), DefineMetrics(book)
    )
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
            ("identity", IdentityIntake(book, DirectoryTables())),
            ("feedback", FeedbackIntake(book)),
            ("journey", JourneyIntake(book)),
        )
    )
    proofs = Proofs(
        store, settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    access = AccessLog.beside(
        settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    log_service = EventLogServicer(store, SERVICE, partition, LiveState(store), Progress.of(relay, consumers))
    host = ServiceHost(
        settings.host,
        [hosted(servicer), hosted_event_log(log_service), proofs.hosted],
        background=[
            # What is known is told without the bus; every score says the position that it stands on.
            Background("relay", relay.run, relay.health, needed_to_serve=False),
            *(
                Background(consumer.stream, consumer.run, consumer.health, needed_to_serve=False)
                for consumer in consumers
            ),
            *proofs.background,
        ],
        checks=[
            HealthCheck("writer", writer.health),
            *(
                HealthCheck(f"poison {consumer.stream}", consumer.degraded, needed_to_serve=False)
                for consumer in consumers
            ),
        ],
        on_stop=[writer.close, proofs.close, connection.close, store.close],
        access=access,
    )
    return Scoring(store, writer, connection, relay, consumers, host)


def main() -> int:
    """Serves until told to stop; answers the exit code."""

    async def host() -> ServiceHost:
        scoring = build(Settings.from_env())
        await scoring.start()
        return scoring.host

    telemetry = configure(SERVICE, version=version(f"throughline-{SERVICE}"))
    try:
        return serve(host)
    finally:
        telemetry.shutdown()
