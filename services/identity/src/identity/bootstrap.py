"""The one place where identity's parts meet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from identity.adapters.keys import VaultKeys
from identity.adapters.live_state import StoredState
from identity.application.attribution import Attribution
from identity.application.commands import Decisions
from identity.application.forgetting import SWEEP, Forgetting
from identity.application.records import IDENTITY_TABLES
from identity.application.rulebook import InstallRules, Rulebook
from identity.entrypoints import responses
from identity.entrypoints.servicer import IdentityServicer, hosted
from identity.settings import SERVICE, UPSTREAM, Settings
from throughline.identity.v1 import events_pb2
from throughline_eventlog import Clock, Connection, Consumer, Relay, Store, Writer, open_store, wall_clock
from throughline_kernel import Recorded
from throughline_privacy import (
    ForgottenListError,
    PrivacySettingsError,
    Vault,
    open_forgotten_list,
    open_vault,
)
from throughline_proof.verifier import CERTIFICATE_HEADER
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


@dataclass(frozen=True, slots=True)
class Identity:
    """The parts of a running identity service."""

    store: Store
    writer: Writer
    vault: Vault
    rulebook: Rulebook
    connection: Connection
    relay: Relay
    consumers: Sequence[Consumer]
    forgetting: Forgetting
    host: ServiceHost

    async def start(self) -> None:
        """Publishes the shipped rules where the log has none, forgets whom a restored log still knows, and connects to
        the bus.
        """
        await self.writer.submit(InstallRules(self.rulebook), None)
        await self.forgetting.catch_up()
        self.connection.start()


async def build(settings: Settings, *, clock: Clock = wall_clock) -> Identity:
    """Builds everything; nothing listens and nothing is published yet. Must be called where an event loop runs.

    Raises: UnavailableError, SettingsError, NewerLogError, ForgottenListError.
    """
    store = await asyncio.to_thread(open_store, settings.store, tables=IDENTITY_TABLES, clock=clock)
    vault = await asyncio.to_thread(open_vault, settings.privacy)
    observer = BatchObserver()
    writer = Writer(store, observer=observer)
    hasher = settings.privacy.hasher()
    rulebook = Rulebook(hasher.hash)
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
    # One handler for all of them: whatever it remembered would be of one store.
    attribution = Attribution(rulebook)
    consumers = [
        Consumer(writer, connection, settings.bus.stream(UPSTREAM, number), attribution, observer=observer)
        for number in settings.host.partitioning.in_force(UPSTREAM)
    ]
    proofs = Proofs(
        store, settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    access = AccessLog.beside(
        settings.store, settings.proofs, connection=connection, bus=settings.bus, partition=partition
    )
    log_service = EventLogServicer(store, SERVICE, partition, StoredState(store), Progress.of(relay, consumers))
    decisions = Decisions(rulebook)
    place = settings.privacy.forgotten_list
    keys = VaultKeys(vault, hasher, open_forgotten_list(place) if place else None)
    forgetting = Forgetting(store, writer, decisions, keys, clock)

    async def sweep() -> bool:
        if await forgetting.sweep() == SWEEP:
            return True
        await forgetting.retain()
        return False

    sweeper = Sweeper(sweep, settings.sweep_seconds, "nobody was forgotten")

    def certify(client_id: str, events: Sequence[tuple[Recorded, events_pb2.ClientForgotten]]) -> str:
        said = responses.certificate(proofs.origin, client_id, events)
        return proofs.sign(f"{CERTIFICATE_HEADER}\n{json.dumps(said, separators=(',', ':'), sort_keys=True)}\n")

    servicer = IdentityServicer(
        store, writer, rulebook, hasher.hash, decisions=decisions, forgetting=forgetting, certify=certify
    )
    host = ServiceHost(
        settings.host,
        [hosted(servicer), hosted_event_log(log_service), proofs.hosted],
        background=[
            # What is known is answered without the bus; it is only older then, as health says.
            Background("relay", relay.run, relay.health, needed_to_serve=False),
            *(Background(each.stream, each.run, each.health, needed_to_serve=False) for each in consumers),
            *proofs.background,
            Background("sweeper", sweeper.run, sweeper.health, needed_to_serve=False),
        ],
        checks=[
            HealthCheck("writer", writer.health),
            *(HealthCheck(f"poison {each.stream}", each.degraded, needed_to_serve=False) for each in consumers),
        ],
        on_stop=[writer.close, proofs.close, connection.close, store.close, vault.close],
        access=access,
    )
    return Identity(store, writer, vault, rulebook, connection, relay, consumers, forgetting, host)


def main() -> int:
    """Serves until told to stop; answers the exit code."""

    async def host() -> ServiceHost:
        identity = await build(Settings.from_env())
        await identity.start()
        return identity.host

    telemetry = configure(SERVICE, version=version(f"throughline-{SERVICE}"))
    try:
        return serve(host, startup_errors=(PrivacySettingsError, ForgottenListError))
    finally:
        telemetry.shutdown()
