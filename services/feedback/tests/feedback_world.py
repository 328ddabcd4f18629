"""Feedback on a real store, told by identity what a test makes up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from feedback.adapters.directory import DirectoryClients, KeyedIdentifiers
from feedback.adapters.route_files import packaged_routes
from feedback.adapters.vault import VaultWords
from feedback.application.caring import Caring
from feedback.application.desk import Desk
from feedback.application.intake import Intake, interaction_feedback_id
from feedback.application.queries import Queries
from feedback.application.replay import make_fold
from feedback.application.state import LiveState
from feedback.application.submitting import Submitting
from feedback.application.tables import TABLES
from feedback.domain.items import Kind
from feedback.domain.routing import Department, Route, RouteSet
from feedback.domain.submissions import Named, Submission
from throughline.identity.v1 import events_pb2 as identity
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import NewEvent, Store, Writer
from throughline_kernel import Recorded, hex_id
from throughline_privacy import IdentifierHasher, KeyEncryptionKey, SqliteKeyStore, Vault

HASH_KEY = bytes(range(32))
KEK = bytes(range(32, 64))
ALL_TABLES = (*TABLES, *DIRECTORY_TABLES)
START = 1_700_000_000_000_000
HOUR = 3_600_000_000

ROUTES = RouteSet(
    version=1,
    departments=(
        Department("care", "Customer care"),
        Department("billing", "Billing", acknowledge_within=HOUR, escalates_to="board"),
        Department("delivery", "Delivery"),
        Department("board", "Board"),
    ),
    routes=(
        Route("money", "billing", topic="money", keywords=("refund", "money back")),
        Route("late", "delivery", matters=("delivery",)),
        Route("van", "delivery", topic="van", attributes=(("vehicle", "van"),)),
    ),
    default_department="care",
    acknowledge_within=4 * HOUR,
    resolve_within=48 * HOUR,
    reopen_within=24 * HOUR,
    no_case_from=((Kind.NPS, 7),),
    complaint_words=("broken",),
)


def client(name: str) -> str:
    """A client id."""
    return hex_id("client", name)


def answer(
    kind: interaction.FeedbackKind.ValueType = interaction.FEEDBACK_KIND_COMPLAINT,
    score: int | None = None,
    *,
    words: str = "",
    topic: str = "",
    aspect: str = "",
) -> interaction.Feedback:
    """One answer of a client's."""
    given = interaction.Feedback(kind=kind, verbatim=words, topic=topic, aspect=aspect)
    if score is not None:
        given.score = score
    return given


def item_id(name: str, entry: int = 0) -> str:
    """The id of an answer that a named interaction carries."""
    return interaction_feedback_id(hex_id("interaction", "till", name), entry)


@dataclass
class Identity:
    """What identity publishes, in the order it is asked for."""

    vault: Vault
    hasher: IdentifierHasher = field(default_factory=lambda: IdentifierHasher(HASH_KEY))
    position: int = 0
    events: list[tuple[Message, int]] = field(default_factory=list[tuple[Message, int]])

    def email(self, value: str) -> interaction.IdentifierHash:
        """An e-mail address without its value."""
        hashed = self.hasher.identify("email", value)
        return interaction.IdentifierHash(
            type="email",
            hash=hashed.hash,
            assurance=interaction.ASSURANCE_CLAIMED,
            shape=interaction.IDENTIFIER_SHAPE_NORMAL,
        )

    def facts(
        self,
        name: str,
        at: int,
        answers: Sequence[interaction.Feedback] = (),
        *,
        channel: str = "web",
        matter: str = "",
        attributes: bytes = b"",
        sequence: int = 0,
        email: str = "",
    ) -> tuple[interaction.InteractionFacts, interaction.Sealed | None]:
        """An interaction and, where it carries words, its sealed part."""
        facts = interaction.InteractionFacts(
            interaction_id=hex_id("interaction", "till", name),
            source="till",
            source_interaction_id=name,
            channel=channel,
            touchpoint="page",
            kind="survey",
            occurred_at=at,
            matter=matter,
            attributes=attributes,
            sequence=sequence,
            persona_id=hashlib.blake2b((email or name).encode(), digest_size=16).digest(),
        )
        if email:
            facts.identifiers.append(self.email(email))
        for each in answers:
            fact = facts.feedback.add(
                kind=each.kind, has_verbatim=bool(each.verbatim), topic=each.topic, aspect=each.aspect
            )
            if each.HasField("score"):
                fact.score = each.score
        if not any(each.verbatim for each in answers):
            return facts, None
        values = interaction.PersonalValues(verbatims=[each.verbatim for each in answers])
        sealed = self.vault.seal(facts.persona_id, values.SerializeToString())
        return facts, interaction.Sealed(key_id=sealed.key_id, box=sealed.box)

    def attributed(
        self, who: str, name: str, at: int, answers: Sequence[interaction.Feedback] = (), **facts: Any
    ) -> Recorded:
        """The interaction is this client's."""
        said, personal = self.facts(name, at, answers, **facts)
        return self.say(identity.InteractionAttributed(client_id=client(who), interaction=said, personal=personal), at)

    def reattributed(
        self, who: str, was: str, name: str, at: int, answers: Sequence[interaction.Feedback] = (), **facts: Any
    ) -> Recorded:
        """The interaction turned out to be another client's."""
        said, personal = self.facts(name, at, answers, **facts)
        return self.say(
            identity.InteractionReattributed(
                client_id=client(who), previous_client_id=client(was), interaction=said, personal=personal
            ),
            at,
        )

    def linked(self, who: str, email: str) -> Recorded:
        """The address is this client's."""
        return self.say(identity.IdentifierLinked(client_id=client(who), identifier=self.email(email)), START)

    def opened(self, who: str) -> Recorded:
        """There is such a client."""
        return self.say(identity.ClientOpened(client_id=client(who)), START)

    def merged(self, into: str, who: str) -> Recorded:
        """Both are one."""
        return self.say(
            identity.ClientsMerged(merge_id=hex_id(into, who), client_id=client(into), merged_client_id=client(who)),
            START,
        )

    def undone(self, into: str, who: str) -> Recorded:
        """Both are two again."""
        return self.say(
            identity.MergeUndone(merge_id=hex_id(into, who), client_id=client(into), restored_client_id=client(who)),
            START,
        )

    def forgotten(self, who: str, *names: str, email: str = "", aliases: Sequence[str] = ()) -> Recorded:
        """The client is forgotten, with the interactions of these names."""
        return self.say(
            identity.ClientForgotten(
                client_id=client(who),
                alias_ids=[client(alias) for alias in aliases],
                persona_ids=[hashlib.blake2b((email or name).encode(), digest_size=16).digest() for name in names],
                identifiers=[self.email(email)] if email else [],
                interaction_ids=[hex_id("interaction", "till", name) for name in names],
            ),
            START,
        )

    def say(self, message: Message, at: int) -> Recorded:
        """The event as feedback gets it."""
        self.position += 1
        self.events.append((message, at))
        return recorded(message, self.position, at)

    def new_events(self, *, after: int = 0) -> list[NewEvent]:
        """What was said, to be appended to a log of identity's."""
        return [
            NewEvent(
                stream_id=hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest(),
                version=1,
                type=message.DESCRIPTOR.full_name,
                payload=message.SerializeToString(),
                occurred_at=at,
            )
            for number, (message, at) in enumerate(self.events)
            if number >= after
        ]


def recorded(message: Message, position: int, at: int) -> Recorded:
    """A message at a place in a log."""
    return Recorded(
        position=position,
        stream_id=bytes(16),
        version=position,
        type=message.DESCRIPTOR.full_name,
        event_id=hashlib.blake2b(position.to_bytes(8, "big"), digest_size=16).digest(),
        schema_version=1,
        occurred_at=at,
        recorded_at=at,
        correlation_id=f"correlation-{position}",
        causation_id="",
        traceparent="",
        payload=message.SerializeToString(),
    )


def submission(name: str = "s1", **changes: Any) -> Submission:
    """A sound submission, changed as told."""
    values: dict[str, Any] = {
        "source": "survey",
        "source_feedback_id": name,
        "channel": "survey",
        "touchpoint": "",
        "matter": "",
        "occurred_at": START,
        "kind": 1,
        "score": 3,
        "scale_min": 0,
        "scale_max": 0,
        "verbatim": "",
        "topic": "",
        "aspect": "",
        "solicited": True,
        "weight_micros": 0,
        "client_id": "",
        "identifiers": (),
        "interaction_id": "",
        "attributes": b"",
    } | changes
    values["identifiers"] = tuple(Named("email", each) for each in values["identifiers"])
    return Submission(**values)


class Clock:
    """The time that a test says it is."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class World:
    """One feedback without bus and server: its store, its use cases, and identity."""

    def __init__(self, store: Store, folder: Path, *, max_weight: int = 200_000, name: str = "keys") -> None:
        self.store = store
        self.vault = Vault(SqliteKeyStore(folder / f"{name}.db"), KeyEncryptionKey(KEK))
        self.identity = Identity(self.vault)
        self.clock = Clock()
        # One clock for all: when an event was recorded decides which deadlines are still ahead.
        store.clock = self.clock
        hasher = IdentifierHasher(HASH_KEY)
        self.words = VaultWords(self.vault)
        self.clients = DirectoryClients(hasher)
        self.desk = Desk(max_weight=max_weight)
        self.intake = Intake(self.desk, self.words, self.clients)
        self.writer = Writer(store)
        self.caring = Caring(self.writer, self.desk, self.clock)
        self.submitting = Submitting(
            self.writer,
            self.desk,
            self.words,
            clients=self.clients,
            identifiers=KeyedIdentifiers(hasher, HASH_KEY),
            clock=self.clock,
        )
        self.queries = Queries(store, self.words, self.clock)
        self.live = LiveState(store, self.clients)

    async def begin(self, routes: RouteSet = ROUTES) -> World:
        """Publishes the routes of the tests."""
        await self.caring.publish_first(routes)
        return self

    async def take(self, *events: Recorded, chunk: int = 0) -> None:
        """Takes events from identity, in chunks of a size (0: all at once)."""
        for start in range(0, len(events), chunk or len(events) or 1):
            await self.writer.submit(_Taking(self.intake), events[start : start + (chunk or len(events))])

    async def close(self) -> None:
        """Ends."""
        await self.writer.close()
        self.vault.close()

    def log(self) -> list[Recorded]:
        """Everything in the log."""
        with self.store.snapshot() as reader:
            return reader.read()

    def kinds(self, *, after: int = 1) -> list[str]:
        """Short names of what was logged after a position (1: the first routes)."""
        return [event.type.rpartition(".")[2] for event in self.log() if event.position > after]

    def replayed(self, events: Iterable[Recorded] | None = None) -> dict[str, bytes]:
        """The state as the log alone gives it."""
        fold = make_fold()
        for event in self.log() if events is None else events:
            fold.apply(event)
        return dict(fold.aggregates())

    async def state(self) -> dict[str, bytes]:
        """The live state."""
        _, digests = await self.live.digests()
        found: dict[str, bytes] = {}
        for key, _ in digests:
            state = await self.live.state(key)
            assert state is not None
            found[key] = state[1]
        return found

    async def checked(self) -> dict[str, bytes]:
        """The live state, having seen that a replay gives the same."""
        live = await self.state()
        assert live == self.replayed()
        return live

    async def only_case(self, department: str) -> str:
        """The one case that waits in a department."""
        inbox = await self.queries.inbox(department, (), 0, "")
        (found,) = inbox.cases
        return found.case.case_id


class _Taking:
    """A consumer's work, without the bus."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def __call__(self, tx: Any, items: Sequence[Sequence[Recorded]], /) -> Sequence[None]:
        for events in items:
            self._intake(tx, events)
        return [None] * len(items)

    def rolled_back(self) -> None:
        self._intake.rolled_back()


def default_routes() -> RouteSet:
    """The routes that come with the service."""
    return packaged_routes()
