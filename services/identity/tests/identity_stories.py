"""Interactions in short form, and identity without its walls: a log, the handler, commands, both views of its state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import orjson
from identity_memory import MemoryStore

from identity.application.attribution import Attribution
from identity.application.commands import Command, Decisions, Outcome
from identity.application.replay import IdentityFold
from identity.application.rulebook import Rulebook
from identity.application.states import LiveState
from identity.domain.personas import Presented
from identity.domain.rules import RuleSet
from throughline.identity.v1 import events_pb2 as pb
from throughline.ingestion.v1 import events_pb2 as ingestion_pb
from throughline.ingestion.v1 import interaction_pb2 as interaction_pb
from throughline_directory import DirectoryFold
from throughline_kernel import Recorded, Refusal, hex_id
from throughline_privacy import persona_id, persona_of_interaction

T = TypeVar("T")


def hash_of(type_: str, value: str) -> bytes:
    """A stand-in for the keyed hash."""
    return hashlib.sha256(f"{type_}\0{value}".encode()).digest()


def identifier(text: str) -> interaction_pb.IdentifierHash:
    """`email:anna` is claimed, `email:anna!` verified, `email:?` a placeholder."""
    type_, value = text.split(":")
    verified = value.endswith("!")
    value = value.removesuffix("!")
    return interaction_pb.IdentifierHash(
        type=type_,
        hash=hash_of(type_, value),
        assurance=interaction_pb.ASSURANCE_VERIFIED if verified else interaction_pb.ASSURANCE_CLAIMED,
        shape=interaction_pb.IDENTIFIER_SHAPE_PLACEHOLDER if value == "?" else interaction_pb.IDENTIFIER_SHAPE_NORMAL,
    )


def interaction(
    name: str, at: int, *identifiers: str, words: bool = False, generation: int = 0, source: str = "till"
) -> Recorded:
    """An interaction as ingestion recorded it; its id follows from its name."""
    interaction_id = hex_id("interaction", source, name)
    hashes = sorted((identifier(each) for each in identifiers), key=lambda each: (each.type, each.hash, each.assurance))
    persona = (
        persona_id([(each.type, each.hash, each.assurance) for each in hashes], generation)
        if hashes
        else persona_of_interaction(interaction_id, generation)
    )
    facts = interaction_pb.InteractionFacts(
        interaction_id=interaction_id,
        source=source,
        source_interaction_id=name,
        channel="store",
        kind="visit",
        occurred_at=at,
        identifiers=hashes,
        persona_id=persona,
    )
    if words:
        facts.feedback.add(kind=interaction_pb.FEEDBACK_KIND_VERBATIM, has_verbatim=True)
    recorded = ingestion_pb.InteractionRecorded(
        facts=facts, personal=interaction_pb.Sealed(key_id=persona, box=b"sealed"), content_mac=bytes(16)
    )
    return Recorded(
        position=1,
        stream_id=bytes(16),
        version=1,
        type="throughline.ingestion.v1.InteractionRecorded",
        event_id=bytes.fromhex(interaction_id),
        schema_version=1,
        occurred_at=at,
        recorded_at=at + 7,
        correlation_id=f"correlation of {name}",
        causation_id="",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        payload=recorded.SerializeToString(),
    )


def presented(*identifiers: str) -> tuple[Presented, ...]:
    """The same identifiers as the domain sees them."""
    return tuple(
        Presented(
            each.type,
            each.hash,
            each.assurance == interaction_pb.ASSURANCE_VERIFIED,
            each.shape == interaction_pb.IDENTIFIER_SHAPE_NORMAL,
        )
        for each in map(identifier, identifiers)
    )


class Identity:
    """Identity on a store in memory."""

    def __init__(self, rules: RuleSet | None = None) -> None:
        self.store = MemoryStore()
        self.rulebook = Rulebook(hash_of)
        self.handler = Attribution(self.rulebook)
        self.decisions = Decisions(self.rulebook)
        if rules is None:
            self.rulebook.install(self.store)
        else:
            self.rulebook.publish(self.store, rules, "test")

    def hear(self, *interactions: Recorded) -> Identity:
        """Takes one batch."""
        self.store.now += 1
        self.handler(self.store, interactions)
        return self

    def hear_one_by_one(self, interactions: Iterable[Recorded]) -> Identity:
        """Takes each in a batch of its own."""
        for each in interactions:
            self.hear(each)
        return self

    def do(self, command: Command) -> Outcome:
        """Carries out a command; raises its refusal."""
        self.store.now += 1
        decision = self.decisions(self.store, [command])[0]
        if isinstance(decision, Refusal):
            raise decision
        return decision.outcome

    def live(self) -> dict[str, Any]:
        """The state in the tables."""
        return dict(LiveState(self.store).aggregates())

    def replayed(self) -> dict[str, Any]:
        """The state that the log alone gives."""
        fold = IdentityFold()
        for event in self.store.log:
            fold.apply(event)
        return dict(fold.aggregates())

    def client_of(self, name: str, source: str = "till") -> str:
        """Whose the interaction is, by the log: the last attribution wins."""
        interaction_id = hex_id("interaction", source, name)
        found = ""
        for event in self.store.log:
            if event.type == "throughline.identity.v1.InteractionAttributed":
                attributed = pb.InteractionAttributed.FromString(event.payload)
            elif event.type == "throughline.identity.v1.InteractionReattributed":
                attributed = pb.InteractionReattributed.FromString(event.payload)
            else:
                continue
            if attributed.interaction.interaction_id == interaction_id:
                found = attributed.client_id
        return found

    def events(self, message: type[T]) -> list[T]:
        """The events of one type, oldest first."""
        name = message.DESCRIPTOR.full_name  # type: ignore[attr-defined]
        return [message.FromString(each.payload) for each in self.store.log if each.type == name]  # type: ignore[attr-defined]

    def directory(self) -> DirectoryFold:
        """What those who listen to identity make of its log."""
        fold = DirectoryFold()
        fold.apply_many(self.store.log)
        return fold

    def clusters(self) -> set[frozenset[str]]:
        """The personas of each client, by what the tables say."""
        return {
            frozenset(value["personas"])
            for key, raw in self.live().items()
            if key.startswith("client.") and (value := orjson.loads(raw))
        }


def chunks(items: Sequence[T], sizes: Sequence[int]) -> list[Sequence[T]]:
    """The items in batches of these sizes, the last size repeating."""
    batches: list[Sequence[T]] = []
    start = 0
    for size in (*sizes, *[sizes[-1]] * len(items)):
        if start >= len(items):
            break
        batches.append(items[start : start + max(1, size)])
        start += max(1, size)
    return batches
