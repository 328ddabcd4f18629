"""What the tests of this service are told with: facts, upstream events, and the service's own log beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from journey.adapters.shipped import shipped_definitions
from journey.application import codec, rows
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
from journey.application.replay import JourneyFold, client_key
from journey.application.taking import TakeFromFeedback, TakeFromIdentity
from journey.domain.definitions import DefineJourney, Definitions, JourneyDefinition
from journey.domain.facts import DAY, HOUR, Exchange, Fact, PromiseMade, Score
from journey.domain.record import Record
from throughline.feedback.v1 import events_pb2 as feedback_pb2
from throughline.identity.v1 import events_pb2 as identity_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline_directory import DIRECTORY_TABLES, Directory
from throughline_eventlog import Store, StoreSettings, Transaction, open_store
from throughline_kernel import Recorded, Refusal, canonical_json, hex_id
from throughline_privacy import IdentifierHasher

MINUTE = 60 * 1_000_000
START = 1_700_000_000_000_000
HASH_KEY = bytes(range(32))


def client(name: str) -> str:
    """A client's id."""
    return hex_id("client", name)


def fact(at: int, channel: str, kind: str, **more: Any) -> Fact:
    """An interaction `at` microseconds after the start; ids follow from what it says unless given."""
    source, sequence = more.pop("source", "test"), more.pop("sequence", 0)
    name = more.pop("id", f"{at}/{channel}/{kind}/{source}/{sequence}")
    values: dict[str, Any] = {
        "group": channel,
        "touchpoint": "",
        "conversation_id": "",
        "case_id": "",
        "campaign_id": "",
        "location_id": "",
        "matter": "",
        "outcome": "",
        "exchanges": (),
        "promises": (),
        "kept": (),
        "scores": (),
        "attributes": b"",
        "staff": False,
    } | more
    return Fact(
        START + at,
        source,
        sequence,
        bytes.fromhex(hex_id("interaction", name)),
        channel,
        kind=kind,
        **values,
    )


def message(known: Fact) -> interaction_pb2.InteractionFacts:
    """The same on the bus."""
    return interaction_pb2.InteractionFacts(
        interaction_id=known.id,
        source=known.source,
        source_interaction_id=known.id[:8],
        channel=known.channel,
        traits=interaction_pb2.ChannelTraits(group=known.group),
        touchpoint=known.touchpoint,
        kind=known.kind,
        occurred_at=known.occurred_at,
        conversation_id=known.conversation_id,
        case_id=known.case_id,
        campaign_id=known.campaign_id,
        location_id=known.location_id,
        matter=known.matter,
        outcome=known.outcome,
        exchanges=[
            interaction_pb2.ExchangeFact(question=e.question, answer=e.answer, sealed=e.sealed) for e in known.exchanges
        ],
        promises=[
            interaction_pb2.PromiseMade(promise_id=p.promise_id, text=p.text, due_at=p.due_at) for p in known.promises
        ],
        promises_kept=known.kept,
        feedback=[
            interaction_pb2.FeedbackFact(
                kind=interaction_pb2.FeedbackKind.ValueType(s.kind), score=s.score, aspect=s.aspect
            )
            for s in known.scores
        ],
        attributes=known.attributes,
        subject_type=interaction_pb2.SUBJECT_TYPE_STAFF if known.staff else interaction_pb2.SUBJECT_TYPE_CLIENT,
        sequence=known.sequence,
    )


@dataclass
class Upstream:
    """A log of identity or feedback, as its service would write it."""

    service: str
    events: list[Recorded] = field(default_factory=list)

    def add(self, said: Any, at: int = START) -> Recorded:
        """Appends an event."""
        position = len(self.events) + 1
        type_ = said.DESCRIPTOR.full_name
        event_id = bytes.fromhex(hex_id(self.service, str(position)))
        self.events.append(
            Recorded(position, event_id, 1, type_, event_id, 1, at, at, "correlation", "", "", said.SerializeToString())
        )
        return self.events[-1]

    def opened(self, who: str) -> Recorded:
        return self.add(identity_pb2.ClientOpened(client_id=who))

    def attributed(self, who: str, known: Fact) -> Recorded:
        return self.add(
            identity_pb2.InteractionAttributed(client_id=who, interaction=message(known)), known.occurred_at
        )

    def reattributed(self, who: str, previous: str, known: Fact) -> Recorded:
        said = identity_pb2.InteractionReattributed(
            client_id=who, previous_client_id=previous, interaction=message(known)
        )
        return self.add(said, known.occurred_at)

    def merged(self, who: str, gone: str) -> Recorded:
        return self.add(
            identity_pb2.ClientsMerged(merge_id=hex_id("merge", who, gone), client_id=who, merged_client_id=gone)
        )

    def forgotten(self, who: str, aliases: Sequence[str] = ()) -> Recorded:
        return self.add(identity_pb2.ClientForgotten(client_id=who, alias_ids=aliases))

    def received(self, who: str, feedback: str, at: int, **values: Any) -> Recorded:
        interaction_id = values.pop("interaction_id", "")
        said = feedback_pb2.FeedbackReceived(
            client_id=who,
            feedback_id=feedback,
            interaction_id=interaction_id,
            occurred_at=START + at,
            fact=interaction_pb2.FeedbackFact(**values),
        )
        return self.add(said, START + at)


@dataclass
class Line:
    """The service's own log and tables, driven without bus and calls."""

    store: Store
    cache: int = 100_000

    def __post_init__(self) -> None:
        self.directory = Directory(IdentifierHasher(HASH_KEY))
        self.records = Records(self.cache)
        self.queries = Queries(self.store, self.directory, 1_000)
        self._identity = TakeFromIdentity(self.records, self.directory)
        self._feedback = TakeFromFeedback(self.records)

    def identity(self, events: Iterable[Recorded]) -> None:
        """Takes events of identity in one transaction."""
        with self.store.transaction() as tx:
            self._identity(tx, list(events))

    def feedback(self, events: Iterable[Recorded]) -> None:
        """Takes events of feedback in one transaction."""
        with self.store.transaction() as tx:
            self._feedback(tx, list(events))

    def do(self, work: Callable[[Transaction], Any]) -> Any:
        """Does something in a transaction."""
        with self.store.transaction() as tx:
            return work(tx)

    def define(self, definition: JourneyDefinition) -> Any:
        """Publishes a definition and tells all again."""
        asked = Asked(DefineJourney(definition, "test", START))
        defined = self.do(lambda tx: DefineJourneys(self.records)(tx, [asked])[0])
        if isinstance(defined, Refusal):
            raise defined
        retell = Retell(self.records)
        while self.do(lambda tx: retell(tx, [3])[0]).more:
            pass
        return defined

    def sweep(self) -> None:
        """Sweeps all that is due, two at a time."""
        work = Sweep(self.records)
        while self.do(lambda tx: work(tx, [2])[0]):
            pass

    def offer(self, command: Any) -> Any:
        return self.do(lambda tx: OfferHandoffs(self.records, self.directory)(tx, [Asked(command)])[0])

    def accept(self, *commands: Any) -> Any:
        return self.do(lambda tx: AcceptHandoffs(self.records)(tx, [Asked(command) for command in commands]))

    def log(self) -> list[Recorded]:
        """The whole log."""
        with self.store.snapshot() as reader:
            return reader.read()

    def types(self) -> list[str]:
        """The names of the log's events, without definitions."""
        names = [event.type.rpartition(".")[2] for event in self.log()]
        return [name for name in names if name != "JourneyDefined"]

    def announced(self) -> dict[bytes, Recorded]:
        """Transitions announced and not retracted, over all clients."""
        from journey.application.records import replay

        standing: dict[bytes, Recorded] = {}
        by_stream: dict[bytes, list[Recorded]] = {}
        for event in self.log():
            by_stream.setdefault(event.stream_id, []).append(event)
        for events in by_stream.values():
            standing |= replay(Record("", Definitions(), announcing=False), events, told=False)
        return standing

    def live(self) -> dict[str, bytes]:
        """Every client's live state, from memory where it is kept there."""
        with self.store.snapshot() as reader:
            watermark = self.records.watermark(reader)
            found: dict[str, bytes] = {}
            for key, _ in reader.scan(rows.CLIENTS):
                record = self.records.cache.get(key.hex())
                if record is None:
                    record = next(iter(self.records.read(reader, [key.hex()])))
                found[client_key(key.hex())] = canonical_json(record.canonical(watermark))
            return found

    def replayed(self) -> dict[str, bytes]:
        """Every client's state, from the log alone."""
        fold = JourneyFold()
        for event in self.log():
            fold.apply(event)
        return {key: value for key, value in fold.aggregates() if key.startswith("client/")}

    def watermark(self) -> int:
        with self.store.snapshot() as reader:
            return rows.number(reader.get(rows.META, rows.WATERMARK))


def open_line(path: Path, definitions: Sequence[JourneyDefinition] = (), cache: int = 100_000) -> Line:
    """A line on the embedded store."""
    store = open_store(StoreSettings.sqlite("journey", path), tables=(*rows.TABLES, *DIRECTORY_TABLES))
    line = Line(store, cache)
    for definition in definitions:
        line.define(definition)
    return line


@pytest.fixture
def say() -> SimpleNamespace:
    """The words of the tests."""
    return SimpleNamespace(
        client=client,
        fact=fact,
        message=message,
        Upstream=Upstream,
        open_line=open_line,
        Line=Line,
        START=START,
        MINUTE=MINUTE,
        HOUR=HOUR,
        DAY=DAY,
        HASH_KEY=HASH_KEY,
        Exchange=Exchange,
        PromiseMade=PromiseMade,
        Score=Score,
        shipped=Definitions(shipped_definitions()),
        replace=replace,
        codec=codec,
    )


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """The service's log with the shipped definitions."""
    opened = open_line(tmp_path / "journey.db", shipped_definitions())
    yield opened
    opened.store.close()
