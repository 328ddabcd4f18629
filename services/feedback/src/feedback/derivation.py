"""Feedback's decisions again, with the code at hand: its handlers, without bus, and without destroying a key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final, Self

from feedback.adapters.directory import DirectoryClients
from feedback.adapters.vault import VaultWords
from feedback.application import codec, tables
from feedback.application.caring import SWEPT, CommandWork, Publication, PublishWork, SweepWork
from feedback.application.desk import Cause, Desk
from feedback.application.intake import Intake
from feedback.application.ports import Hashed, SealedWords, Words
from feedback.application.replay import state_key
from feedback.application.state import aggregates
from feedback.application.submitting import keep_conflict, receive_directly
from feedback.application.tables import TABLES
from feedback.domain.items import Assignment, Remark
from feedback.domain.lifecycle import Acknowledge, Command, Reassign, Reopen, Resolve
from feedback.domain.routing import Router, RouteSet, check_routes
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import NotAskedError, Reader, Transaction
from throughline_kernel import Recorded, Refusal
from throughline_privacy import PrivacySettings, open_vault

_ACTS: Final = {
    each.DESCRIPTOR.full_name: each
    for each in (events.CaseAcknowledged, events.CaseReassigned, events.CaseResolved, events.CaseReopened)
}
_DIRECT: Final = "direct"
_CASE: Final = "case"


class _Gone(str):
    """Words that nobody can read any more, because their client was forgotten, with how they were sorted then."""

    __slots__ = ("assignments",)
    assignments: tuple[Assignment, ...]

    def __new__(cls, assignments: tuple[Assignment, ...]) -> Self:
        made = super().__new__(cls, "(forgotten)")
        made.assignments = assignments
        return made


class _Remembering(Router):
    """Sorts by the routes, except what cannot be read any more: that stays where it was sorted."""

    def classify(self, remark: Remark) -> tuple[Assignment, ...]:
        """As `Router.classify`."""
        return remark.words.assignments if isinstance(remark.words, _Gone) else super().classify(remark)


class _ReadWords:
    """Opens words, and neither seals nor destroys."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._sorted: dict[tuple[bytes, int], tuple[Assignment, ...]] = {}

    def look_at(self, logged: Sequence[Recorded]) -> None:
        """Remembers how the items in these events were sorted."""
        received: dict[str, tuple[bytes, int]] = {}
        self._sorted = {}
        for event in logged:
            if event.type == codec.RECEIVED:
                message = events.FeedbackReceived.FromString(event.payload)
                received[message.feedback_id] = (message.verbatim.box, message.entry)
            elif event.type == codec.CLASSIFIED:
                classified = events.FeedbackClassified.FromString(event.payload)
                if classified.feedback_id in received:
                    self._sorted[received[classified.feedback_id]] = codec.assignments_of(classified.assignments)

    def open_many(self, sealed: Sequence[tuple[SealedWords, int]]) -> list[str | None]:
        """The words; what is gone says how it was sorted."""
        opened = self._words.open_many(sealed)
        return [
            _Gone(self._sorted[each.box, entry]) if text is None and (each.box, entry) in self._sorted else text
            for text, (each, entry) in zip(opened, sealed, strict=True)
        ]

    def seal_many(self, items: Sequence[tuple[str, Sequence[Hashed], str]]) -> list[SealedWords]:
        """Boxes are in the log already. Raises RuntimeError."""
        raise RuntimeError(f"{len(items)} texts were to be sealed again")

    def destroy(self, key_ids: Collection[bytes]) -> None:
        """Destroys nothing: what was to be destroyed was, when it was decided."""


class FeedbackDerivation:
    """See `Derivation`. With `instead`, these routes hold from the beginning, whatever was published."""

    service = "feedback"
    tables = (*TABLES, *DIRECTORY_TABLES)

    def __init__(
        self, words: Words, clients: DirectoryClients, instead: RouteSet | None, close: Callable[[], None]
    ) -> None:
        self._words = _ReadWords(words)
        self._clients = clients
        self._desk = Desk(make_router=_Remembering)
        self._intake = Intake(self._desk, self._words, clients)
        self._sweep = SweepWork(self._desk)
        self._commands = CommandWork(self._desk)
        self._publish = PublishWork(self._desk)
        self._instead = instead
        self._close = close

    def take(self, tx: Transaction, upstream: str, events: Sequence[Recorded], logged: Sequence[Recorded]) -> None:
        """Takes from identity."""
        self._words.look_at(logged)
        self._intake(tx, events)

    def work(self, tx: Transaction, name: str, number: int) -> None:
        """Escalates what was due at a time. Raises LookupError for another work."""
        if name != SWEPT:
            raise LookupError(f"feedback has no work called {name}")
        self._sweep(tx, [number])

    def ask(self, tx: Transaction, logged: Sequence[Recorded]) -> Sequence[Refusal]:
        """Submissions, what departments did, and routes. What one commit did of a kind was one piece of work."""
        self._words.look_at(logged)
        refused: list[Refusal] = []
        for kind, run in groupby(filter(_begins, logged), key=_kind):
            found = list(run)
            results: Sequence[object] = ()
            if kind == _DIRECT:
                self._receive(tx, [event for event in found if event.type == codec.RECEIVED])
                self._conflict(tx, [event for event in found if event.type == codec.CONFLICTED])
            elif kind == _CASE:
                commands = [command for event in found if (command := _command(tx, event)) is not None]
                results = self._commands(tx, commands) if commands else ()
            else:
                results = self._publish(tx, [each for event in found for each in self._publications(event)])
            refused += [each for each in results if isinstance(each, Refusal)]
        return refused

    def settle(self, tx: Transaction, own: Reader) -> bool:
        """Escalates what fell due, each when it did, before the time of the log and before what the service had not
        looked at yet.
        """
        until = min([tx.now, *(tables.due_of(key) for key, _ in own.scan(tables.DEADLINES, limit=1))])
        for key, _ in tx.scan(tables.DEADLINES):
            due = tables.due_of(key)
            if due >= until:
                return False
            if any(self._sweep(tx, [due + 1])):
                return True
        return False

    def parts(self, key: str, state: Any) -> Iterator[tuple[str, str, Any]]:
        """The cases of a client, or of an item of nobody's."""
        if key.startswith(state_key("", "")):
            for case_id, case in state["cases"].items():
                yield "case", case_id, case

    def aggregates(self, reader: Reader, *, again: bool = False) -> Iterator[tuple[str, bytes]]:
        """Clients, items of nobody's and routes."""
        return aggregates(reader)

    def close(self) -> None:
        """Gives back the key store."""
        self._close()

    def _receive(self, tx: Transaction, submitted: Sequence[Recorded]) -> None:
        changes = self._desk.open(tx)
        for event in submitted:
            received = events.FeedbackReceived.FromString(event.payload)
            received.client_id = ""
            box = SealedWords(received.verbatim.key_id, received.verbatim.box)
            (words,) = self._words.open_many([(box, 0)]) if received.HasField("verbatim") else ("",)
            receive_directly(changes, self._clients, received, words or "", _cause(event))
        changes.write()

    def _conflict(self, tx: Transaction, offered: Sequence[Recorded]) -> None:
        changes = self._desk.open(tx)
        for event in offered:
            message = events.FeedbackConflicted.FromString(event.payload).offered
            message.client_id = ""
            place = tx.get(tables.PLACES, bytes.fromhex(message.feedback_id))
            if place is not None:
                keep_conflict(changes, message, tables.unpack_place(place), _cause(event))
            changes.write()

    def _publications(self, event: Recorded) -> list[Publication]:
        published = events.RoutesPublished.FromString(event.payload)
        routes, first = codec.routes_of(published.routes), self._instead is not None
        if self._instead is not None:
            routes = self._instead
        return [Publication(routes, published.published_by, event.occurred_at, _cause(event), first=first)]


def _begins(event: Recorded) -> bool:
    """Whether somebody asked for what this event begins. Raises NotAskedError."""
    if event.type in {codec.REASSIGNED, codec.CLIENT_DROPPED}:
        raise NotAskedError(event)
    if event.type == codec.RECEIVED and events.FeedbackReceived.FromString(event.payload).attribution_position:
        raise NotAskedError(event)
    return event.type in {codec.RECEIVED, codec.CONFLICTED, codec.ROUTES_PUBLISHED, *_ACTS}


def _kind(event: Recorded) -> str:
    if event.type in _ACTS:
        return _CASE
    return _DIRECT if event.type in {codec.RECEIVED, codec.CONFLICTED} else event.type


def _cause(event: Recorded) -> Cause:
    return Cause(event.correlation_id, event.causation_id)


def _command(tx: Transaction, event: Recorded) -> tuple[Command, Cause] | None:
    """What a person did, None where the event tells again what was done before."""
    message = _ACTS[event.type].FromString(event.payload)
    owner = tx.get(tables.CASES, bytes.fromhex(message.case_id)) or b""
    told_again = not message.act_id or tx.get(tables.STATE, tables.act_key(owner, message.act_id)) is not None
    if told_again:
        return None
    at = event.occurred_at
    match message:
        case events.CaseAcknowledged():
            command: Command = Acknowledge(message.case_id, message.by, at)
        case events.CaseReassigned():
            command = Reassign(message.case_id, message.department, message.by, message.reason, at)
        case events.CaseResolved():
            command = Resolve(message.case_id, message.by, message.resolution, message.root_cause, at)
        case _:
            command = Reopen(message.case_id, message.by, message.reason, at)
    return command, _cause(event)


def make_derivation(env: Mapping[str, str], instead: bytes = b"") -> FeedbackDerivation:
    """The derivation, with keys from `env`; `instead` is a serialised RouteSet to try.

    Raises: PrivacySettingsError; InvalidError for routes that nobody could follow; UnavailableError.
    """
    privacy = PrivacySettings.from_env(env)
    routes = None
    if instead:
        routes = replace(codec.routes_of(routes_pb2.RouteSet.FromString(instead)), version=1)
        check_routes(routes)
    vault = open_vault(privacy)
    return FeedbackDerivation(VaultWords(vault), DirectoryClients(privacy.hasher()), routes, vault.close)
