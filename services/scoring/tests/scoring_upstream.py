"""Logs of identity, feedback and journey as scoring hears them, made up; and what scoring makes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from google.protobuf.message import Message

from scoring.adapters.who_is_who import DirectoryTables
from scoring.application.book import Book
from scoring.application.intake import FeedbackIntake, IdentityIntake, JourneyIntake
from scoring.application.replay import make_fold
from scoring.application.rows import TABLES
from scoring.application.state import aggregates
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.identity.v1 import events_pb2 as identity
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline.journey.v1 import events_pb2 as journey
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import Commit, NewEvent, Reader, Store, StoreSettings, Transaction, open_store
from throughline_kernel import Recorded, combine_digests, digest, hex_id

MINUTE = 60 * 1_000_000
DAY = 24 * 3600 * 1_000_000
START = 1_700_000_000_000_000
ALL_TABLES = (*TABLES, *DIRECTORY_TABLES)


def client_id(name: str) -> str:
    return hex_id("client", name)


def interaction_id(name: str) -> str:
    return hex_id("interaction", "test", name)


def facts(name: str, at: int, **fields: Any) -> interaction.InteractionFacts:
    """An interaction at `at` microseconds after the start, by an identified client unless said otherwise."""
    given: dict[str, Any] = {
        "interaction_id": interaction_id(name),
        "source": "test",
        "source_interaction_id": name,
        "channel": "web",
        "kind": "visit",
        "occurred_at": START + at,
        "subject_type": interaction.SUBJECT_TYPE_CLIENT,
        "identifiers": [
            interaction.IdentifierHash(type="email", hash=b"h" * 32, shape=interaction.IDENTIFIER_SHAPE_NORMAL)
        ],
    }
    message = interaction.InteractionFacts(**(given | fields))
    message.traits.name = message.channel
    message.traits.assisted = message.channel in {"phone", "store"}
    return message


class Log:
    """One upstream log: events at increasing positions."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.events: list[Recorded] = []

    def add(self, message: Message, at: int = 0, event_id: str = "") -> Recorded:
        position = len(self.events) + 1
        event = Recorded(
            position=position,
            stream_id=b"\x00" * 16,
            version=position,
            type=message.DESCRIPTOR.full_name,
            event_id=bytes.fromhex(event_id or hex_id(self.service, str(position))),
            schema_version=1,
            occurred_at=START + at,
            recorded_at=START + position,
            correlation_id="",
            causation_id="",
            traceparent="",
            payload=message.SerializeToString(),
        )
        self.events.append(event)
        return event


class Upstream:
    """The three logs, told by what happens in them."""

    def __init__(self) -> None:
        self.identity = Log("identity")
        self.feedback = Log("feedback")
        self.journey = Log("journey")
        self._facts: dict[str, interaction.InteractionFacts] = {}

    def attributed(self, client: str, name: str, at: int, **fields: Any) -> Recorded:
        self._facts[name] = facts(name, at, **fields)
        message = identity.InteractionAttributed(client_id=client_id(client), interaction=self._facts[name])
        return self.identity.add(message, at, interaction_id(name))

    def reattributed(self, client: str, previous: str, name: str) -> Recorded:
        return self.identity.add(
            identity.InteractionReattributed(
                client_id=client_id(client),
                previous_client_id=client_id(previous),
                interaction=self._facts[name],
            )
        )

    def forgotten(self, client: str, *aliases: str) -> Recorded:
        return self.identity.add(
            identity.ClientForgotten(client_id=client_id(client), alias_ids=[client_id(each) for each in aliases])
        )

    def consented(self, client: str, granted: bool, at: int, scope: str = "", purpose: str = "measurement") -> Recorded:
        """What a client says, once it was opened."""
        opened = identity.ClientOpened(client_id=client_id(client))
        if all(event.payload != opened.SerializeToString() for event in self.identity.events):
            self.identity.add(opened)
        message = identity.ConsentRecorded(
            client_id=client_id(client), purpose=purpose, granted=granted, source="desk", scope=scope
        )
        return self.identity.add(message, at)

    def received(self, client: str, name: str, at: int, on: str = "", **fact: Any) -> Recorded:
        given: dict[str, Any] = {"kind": interaction.FEEDBACK_KIND_NPS}
        message = feedback.FeedbackReceived(
            feedback_id=hex_id("feedback", name),
            client_id=client_id(client),
            interaction_id=interaction_id(on) if on else "",
            source="survey",
            channel=fact.pop("channel", "web"),
            occurred_at=START + at,
            fact=interaction.FeedbackFact(**(given | fact)),
            traits=interaction.ChannelTraits(name="web"),
        )
        return self.feedback.add(message, at, message.feedback_id)

    def reassigned(self, client: str, previous: str, name: str, attribution: int) -> Recorded:
        return self.feedback.add(
            feedback.FeedbackReassigned(
                feedback_id=hex_id("feedback", name),
                client_id=client_id(client),
                previous_client_id=client_id(previous),
                attribution_position=attribution,
            )
        )

    def classified(self, client: str, name: str, *departments: str) -> Recorded:
        return self.feedback.add(
            feedback.FeedbackClassified(
                feedback_id=hex_id("feedback", name),
                client_id=client_id(client),
                assignments=[feedback.Assignment(department=each) for each in departments],
            )
        )

    def case(self, what: type[Any], client: str, name: str, at: int, **fields: Any) -> Recorded:
        return self.feedback.add(what(case_id=hex_id("case", name), client_id=client_id(client), **fields), at)

    def on_journey(self, what: type[Any], client: str, name: str, at: int, on: str = "", **fields: Any) -> Recorded:
        where = {"last_interaction_id" if what is journey.JourneyAbandoned else "interaction_id": interaction_id(on)}
        message = what(
            client_id=client_id(client),
            journey_id=hex_id("journey", name),
            journey="service",
            **(where if on else {}),
            **fields,
        )
        return self.journey.add(message, at)

    def retracted(self, client: str, event: Recorded) -> Recorded:
        name = event.type.rpartition(".")[2]
        return self.journey.add(
            journey.TransitionRetracted(client_id=client_id(client), event_id=event.event_id.hex(), event_type=name)
        )


class MemoryStore:
    """A log and its tables in memory, for laws that need hundreds of stores; component tests use the real ones.

    It reads and writes at once and cannot roll back.
    """

    overtaken = False
    traceparent = ""

    def __init__(self) -> None:
        self.log: list[Recorded] = []
        self.streams: dict[bytes, list[Recorded]] = {}
        self.tables: dict[str, dict[bytes, bytes]] = {table: {} for table in ALL_TABLES}

    @contextmanager
    def transaction(self) -> Iterator[MemoryStore]:
        yield self

    @contextmanager
    def snapshot(self) -> Iterator[MemoryStore]:
        yield self

    @property
    def now(self) -> int:
        return START + len(self.log)

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.tables[table].get(key)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        found = self.tables[table]
        return {key: found[key] for key in keys if key in found}

    def scan(
        self,
        table: str,
        *,
        prefix: bytes = b"",
        after: bytes = b"",
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        found = sorted(row for row in self.tables[table].items() if row[0].startswith(prefix))
        if reverse:
            return iter([row for row in reversed(found) if not after or row[0] < after][:limit])
        return iter([row for row in found if row[0] > after][:limit])

    def read(self, after: int = 0, *, limit: int | None = None, **_: Any) -> list[Recorded]:
        return self.log[after:][:limit]

    def commit_at(self, as_of: int | None = None) -> Commit:
        assert as_of is None
        return Commit(self.now, len(self.log))

    def read_stream(self, stream_id: bytes, *, after_version: int = 0, limit: int | None = None) -> list[Recorded]:
        return self.streams.get(stream_id, [])[after_version:][:limit]

    def read_streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        return {each: self.streams[each] for each in stream_ids if each in self.streams}

    def last_version(self, stream_id: bytes) -> int:
        return len(self.streams.get(stream_id, []))

    def last_position(self) -> int:
        return len(self.log)

    def append(self, events: Sequence[NewEvent], positions: Sequence[int] | None = None) -> list[int]:
        assert positions is None, "nothing is made again here"
        positions = []
        for event in events:
            stream = self.streams.setdefault(event.stream_id, [])
            assert event.version == len(stream) + 1, "the stream has this version already, or a gap"
            logged = Recorded(
                position=len(self.log) + 1,
                stream_id=event.stream_id,
                version=event.version,
                type=event.type,
                event_id=event.event_id or bytes.fromhex(hex_id("scoring", str(len(self.log)))),
                schema_version=1,
                occurred_at=event.occurred_at,
                recorded_at=self.now,
                correlation_id=event.correlation_id,
                causation_id=event.causation_id,
                traceparent=event.traceparent,
                payload=event.payload,
            )
            stream.append(logged)
            self.log.append(logged)
            positions.append(logged.position)
        return positions

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.tables[table][key] = value

    def put_many(self, table: str, rows: Mapping[bytes, bytes]) -> None:
        self.tables[table].update(rows)

    def delete(self, table: str, key: bytes) -> None:
        self.tables[table].pop(key, None)


class Ears:
    """Scoring's three intakes over one store."""

    def __init__(self, store: Store | MemoryStore, held_facts: int = 1_000) -> None:
        self.store = store
        self.book = Book(held_facts)
        self.intakes = {
            "identity": IdentityIntake(self.book, DirectoryTables()),
            "feedback": FeedbackIntake(self.book),
            "journey": JourneyIntake(self.book),
        }

    def hear(self, service: str, events: Sequence[Recorded]) -> None:
        with self.store.transaction() as tx:
            self.intakes[service](cast("Transaction", tx), events)

    def hear_all(self, upstream: Upstream, batch: int = 50) -> None:
        for log in (upstream.identity, upstream.feedback, upstream.journey):
            for start in range(0, len(log.events), batch):
                self.hear(log.service, log.events[start : start + batch])


def sqlite(path: Any) -> Store:
    return open_store(StoreSettings.sqlite("scoring", path), tables=ALL_TABLES)


def live(reader: Reader | MemoryStore) -> dict[str, bytes]:
    return dict(aggregates(cast("Reader", reader)))


def replayed(events: Iterable[Recorded]) -> dict[str, bytes]:
    fold = make_fold()
    for event in events:
        fold.apply(event)
    return dict(fold.aggregates())


def state_digest(state: dict[str, bytes]) -> str:
    return combine_digests((key, digest(value)) for key, value in state.items())
