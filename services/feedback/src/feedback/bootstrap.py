"""The one place where feedback's parts meet."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from feedback.adapters.directory import DirectoryClients, KeyedIdentifiers
from feedback.adapters.route_files import packaged_routes, read_routes_file
from feedback.adapters.vault import VaultWords
from feedback.application.caring import SWEEP, Caring
from feedback.application.desk import Desk
from feedback.application.intake import Intake
from feedback.application.queries import Queries
from feedback.application.state import LiveState
from feedback.application.submitting import Submitting
from feedback.application.tables import TABLES
from feedback.application.watching import InboxWatch
from feedback.entrypoints.servicer import FeedbackServicer, hosted
from feedback.settings import SERVICE, Settings
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import Clock, Connection, Consumer, Relay, Store, Writer, open_store, wall_clock
from throughline_privacy import ForgottenListError, PrivacySettingsError, Vault, open_vault
from throughline_rpc import (
    AccessLog,
    Background,
    EventLogServicer,
    HealthCheck,
    Progress,
    Proofs,
    ServiceHost,
    Sweeper,
    hosted_event_log,
    serve,
)
from throughline_telemetry import BatchObserver, configure

UPSTREAM: Final = "identity"


@dataclass(frozen=True, slots=True)
class FeedbackService:
    """The parts of a running feedback."""

    store: Store
    writer: Writer
    vault: Vault
    connection: Connection
    relay: Relay
    consumer: Consumer
    caring: Caring
    host: ServiceHost


async def build(settings: Settings, *, clock: Clock = wall_clock) -> FeedbackService:
    """Builds everything, and publishes the first routes where the log has none; nothing listens yet.

    Raises: UnavailableError, SettingsError, NewerLogError; InvalidError for a routes file that cannot be followed,
    OSError for one that cannot be read.
    """
    first = packaged_routes() if settings.routes_file is None else read_routes_file(settings.routes_file)
    store = open_store(settings.store, tables=(*TABLES, *DIRECTORY_TABLES), clock=clock)
    vault = open_vault(settings.privacy)
    observer = BatchObserver()
    writer = Writer(store, observer=observer)
    hasher = settings.privacy.hasher()
    words = VaultWords(vault)
    clients = DirectoryClients(hasher)
    desk = Desk()
    caring = Caring(writer, desk, clock)
    await caring.publish_first(first)
    identifiers = KeyedIdentifiers(hasher, settings.privacy.hash_key)
    submitting = Submitting(writer, desk, words, clients=clients, identifiers=identifiers, clock=clock)
    queries = Queries(store, words, clock)
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
    consumer = Consumer(
        writer,
        connection,
        settings.bus.stream(UPSTREAM, partition),
        Intake(desk, words, clients),
        observer=observer,
    )
    proofs = Proofs(
        store, settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    access = AccessLog.beside(
        settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition, clock=clock
    )
    log_service = EventLogServicer(store, SERVICE, partition, LiveState(store, clients), Progress.of(relay, [consumer]))
    servicer = FeedbackServicer(submitting, caring, queries, InboxWatch(store, clock))
    background = [
        Background("relay", relay.run, relay.health, needed_to_serve=False),
        Background("consumer", consumer.run, consumer.health, needed_to_serve=False),
        *proofs.background,
    ]
    if settings.sweep_seconds:

        async def sweep() -> bool:
            return await caring.sweep() == SWEEP

        sweeper = Sweeper(sweep, settings.sweep_seconds, "deadlines were not looked at")
        background.append(Background("sweeper", sweeper.run, sweeper.health, needed_to_serve=False))
    host = ServiceHost(
        settings.host,
        [hosted(servicer), hosted_event_log(log_service), proofs.hosted],
        background=background,
        checks=[
            HealthCheck("writer", writer.health),
            HealthCheck("poison", consumer.degraded, needed_to_serve=False),
        ],
        on_stop=[writer.close, proofs.close, connection.close, store.close, vault.close],
        access=access,
    )
    return FeedbackService(store, writer, vault, connection, relay, consumer, caring, host)


def main() -> int:
    """Serves until told to stop; answers the exit code."""

    async def host() -> ServiceHost:
        service = await build(Settings.from_env())
        service.connection.start()
        return service.host

    telemetry = configure(SERVICE, version=version(f"throughline-{SERVICE}"))
    try:
        return serve(host, startup_errors=(PrivacySettingsError, ForgottenListError))
    finally:
        telemetry.shutdown()
