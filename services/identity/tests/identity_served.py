"""Identity as it is called, and ingestion's log beside it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest

from identity.application.replay import make_fold
from identity.bootstrap import Identity
from throughline.eventlog.v1 import eventlog_pb2, eventlog_pb2_grpc
from throughline.identity.v1 import events_pb2, identity_pb2_grpc
from throughline.ingestion.v1 import events_pb2 as ingestion_pb
from throughline.ingestion.v1 import interaction_pb2
from throughline_eventlog import NewEvent, Store
from throughline_kernel import Recorded, combine_digests, digest, hex_id
from throughline_privacy import IdentifierHasher, persona_id, persona_of_interaction
from throughline_rpc import RemoteRefusal, decode_error
from throughline_testkit import eventually

HASH_KEY = bytes(range(1, 33))
HASHER = IdentifierHasher(HASH_KEY)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def clear(text: str) -> interaction_pb2.Identifier:
    """`email:anna@x.org!` is verified, without the mark claimed."""
    type_, _, value = text.partition(":")
    assurance = interaction_pb2.ASSURANCE_VERIFIED if value.endswith("!") else interaction_pb2.ASSURANCE_CLAIMED
    return interaction_pb2.Identifier(type=type_, value=value.removesuffix("!"), assurance=assurance)


def interaction_id(name: str) -> str:
    """The id of a named interaction."""
    return hex_id("interaction", "till", name)


def recorded(
    name: str, at: int, *identifiers: str, words: bool = False, generation: int = 0
) -> ingestion_pb.InteractionRecorded:
    """An interaction as ingestion records it."""
    hashes = []
    for each in map(clear, identifiers):
        hashed = HASHER.identify(each.type, each.value)
        shape = interaction_pb2.IdentifierShape.ValueType(int(hashed.shape))
        hashes.append(
            interaction_pb2.IdentifierHash(type=each.type, hash=hashed.hash, assurance=each.assurance, shape=shape)
        )
    hashes.sort(key=lambda each: (each.type, each.hash, each.assurance))
    persona = (
        persona_id([(each.type, each.hash, each.assurance) for each in hashes], generation)
        if hashes
        else persona_of_interaction(interaction_id(name), generation)
    )
    facts = interaction_pb2.InteractionFacts(
        interaction_id=interaction_id(name),
        source="till",
        source_interaction_id=name,
        channel="store",
        kind="visit",
        occurred_at=at,
        identifiers=hashes,
        persona_id=persona,
    )
    if words:
        facts.feedback.add(kind=interaction_pb2.FEEDBACK_KIND_VERBATIM, has_verbatim=True)
    return ingestion_pb.InteractionRecorded(
        facts=facts, personal=interaction_pb2.Sealed(key_id=persona, box=b"sealed"), content_mac=bytes(16)
    )


@dataclass
class Ingestion:
    """Ingestion's log."""

    store: Store

    def record(self, *interactions: ingestion_pb.InteractionRecorded) -> None:
        """Appends them in one transaction."""
        with self.store.transaction() as tx:
            tx.append(
                [
                    NewEvent(
                        stream_id=bytes.fromhex(each.facts.interaction_id),
                        version=1,
                        type="throughline.ingestion.v1.InteractionRecorded",
                        payload=each.SerializeToString(),
                        occurred_at=each.facts.occurred_at,
                        event_id=bytes.fromhex(each.facts.interaction_id),
                        correlation_id=f"correlation of {each.facts.source_interaction_id}",
                        traceparent=TRACE,
                    )
                    for each in interactions
                ]
            )

    @property
    def position(self) -> int:
        """Where the log ends."""
        with self.store.snapshot() as reader:
            return reader.last_position()


@dataclass
class Served:
    """The running service."""

    identity: Identity
    ingestion: Ingestion
    stub: identity_pb2_grpc.IdentityServiceStub
    log: eventlog_pb2_grpc.EventLogServiceStub
    address: str

    async def hear(self, *interactions: ingestion_pb.InteractionRecorded) -> None:
        """Records at ingestion and waits until identity has taken them."""
        self.ingestion.record(*interactions)
        await eventually(lambda: reached(self.identity.store) == self.ingestion.position)

    def client_of(self, name: str) -> str:
        """Whose the interaction is by the log."""
        return client_of(self.identity.store, name)

    async def assert_replays(self) -> None:
        """The digest of the live state is that of a replay of the log that is served."""
        checkpoint = await self.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=True))
        fold = make_fold()
        async for page in self.log.ReadEvents(eventlog_pb2.ReadEventsRequest(until=checkpoint.position)):
            for logged in page.events:
                fold.apply(opened(logged))
        assert checkpoint.digest == combine_digests((key, digest(raw)) for key, raw in fold.aggregates())


def opened(logged: eventlog_pb2.LoggedEvent) -> Recorded:
    """A served event, opened."""
    envelope = eventlog_pb2.Envelope.FromString(logged.envelope)
    return Recorded(
        logged.position,
        logged.stream_id,
        logged.version,
        logged.type,
        envelope.event_id,
        envelope.schema_version,
        envelope.occurred_at,
        envelope.recorded_at,
        envelope.correlation_id,
        envelope.causation_id,
        envelope.traceparent,
        envelope.payload,
    )


def client_of(store: Store, name: str) -> str:
    """Whose the named interaction is by the log."""
    client = ""
    for event in events_of(store):
        if event.type.endswith(("InteractionAttributed", "InteractionReattributed")):
            kind = (
                events_pb2.InteractionAttributed
                if event.type.endswith("InteractionAttributed")
                else events_pb2.InteractionReattributed
            )
            attributed = kind.FromString(event.payload)
            if attributed.interaction.interaction_id == interaction_id(name):
                client = attributed.client_id
    return client


def reached(store: Store) -> int:
    """How far ingestion's log is taken."""
    with store.snapshot() as reader:
        return max((each.position for each in reader.inboxes()), default=0)


def events_of(store: Store) -> list[Recorded]:
    """The whole log."""
    with store.snapshot() as reader:
        return reader.read()


async def refused(call: Awaitable[Any]) -> RemoteRefusal:
    """What the call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return decode_error(failed.value)
