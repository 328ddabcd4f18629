"""Rebuilds feedback from its log alone, with the functions that the live service decides with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from feedback.application import codec
from feedback.application.queries import step_text
from feedback.domain.canonical import client_state
from feedback.domain.cases import Act
from feedback.domain.clients import ClientFeedback
from feedback.domain.items import Assignment
from feedback.domain.routing import RouteSet
from throughline.feedback.v1 import events_pb2 as events
from throughline_kernel import Recorded, canonical_json


@dataclass(slots=True)
class _Entry:
    payload: bytes
    client_id: str
    attribution: int
    assignments: tuple[Assignment, ...] = ()
    routes_version: int = 0


def state_key(client_id: str, feedback_id: str) -> str:
    """Names a client's state, or that of an item that nobody is known to have given."""
    return f"feedback/{client_id or feedback_id}"


def routes_state_key(version: int) -> str:
    """Names a route set."""
    return f"routes/{version:09d}"


class FeedbackFold:
    """Facts as they are logged; what follows from them is derived when asked for.

    Facts are items, whose they are, how they were classified, what was done to cases, routes and forgettings. The log's
    case events are what was announced: acts are taken from them, the rest follows.
    """

    service: Final = "feedback"

    def __init__(self) -> None:
        self._items: dict[str, _Entry] = {}
        self._owned: dict[str, set[str]] = defaultdict(set)
        self._acts: dict[str, Act] = {}
        self._opened: dict[str, tuple[str, tuple[str, str]]] = {}
        """By case: the item that opened it, and its matter."""
        self._policies: dict[int, RouteSet] = {}
        self._takes: dict[str, Callable[[Recorded], None]] = {
            codec.RECEIVED: self._received,
            codec.REASSIGNED: self._reassigned,
            codec.CLASSIFIED: self._classified,
            codec.CLIENT_DROPPED: self._dropped,
            codec.ROUTES_PUBLISHED: self._published,
            events.CaseOpened.DESCRIPTOR.full_name: self._case_opened,
            **{kind.DESCRIPTOR.full_name: partial(self._acted, kind) for kind in _ACTS},
        }

    def apply(self, event: Recorded) -> None:
        """Takes the next event of the log."""
        take = self._takes.get(event.type)
        if take is not None:
            take(event)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """The state of every client, of every item of nobody's, and every route set, in key order."""
        acts: dict[str, list[Act]] = defaultdict(list)
        for act in self._acts.values():
            acts[act.anchor].append(act)
        keys = sorted(
            (state_key(client_id, feedback_id), client_id, feedback_id)
            for client_id, owned in self._owned.items()
            for feedback_id in (owned if not client_id else [""])
            if owned
        )
        for key, client_id, feedback_id in keys:
            owned = self._owned[client_id] if client_id else {feedback_id}
            yield key, canonical_json(self._state(client_id, owned, acts))
        for version, routes in sorted(self._policies.items()):
            yield routes_state_key(version), canonical_json(codec.routes_state(routes))

    def describe(self, event: Recorded) -> str:
        """One sentence about the event."""
        kind = EVENT_KINDS.get(event.type)
        return event.type.rpartition(".")[2] if kind is None else _sentence(kind.FromString(event.payload))

    def _state(self, client_id: str, owned: set[str], acts: dict[str, list[Act]]) -> dict[str, Any]:
        messages = {each: events.FeedbackReceived.FromString(self._items[each].payload) for each in sorted(owned)}
        items = [
            codec.item_of(message, self._items[each].assignments, self._items[each].routes_version)
            for each, message in messages.items()
        ]
        client = ClientFeedback.restored(
            client_id, self._policies, 0, items, [act for each in sorted(owned) for act in acts.get(each, ())]
        )
        return client_state(
            client_id,
            (
                (
                    item,
                    codec.item_facts(messages[item.feedback_id]),
                    tuple(
                        client.case_of(item.feedback_id, (each.department, each.topic)) if each.opens else ""
                        for each in item.assignments
                    ),
                )
                for item in items
            ),
            client.cases(),
        )

    def _received(self, event: Recorded) -> None:
        message = events.FeedbackReceived.FromString(event.payload)
        self._items[message.feedback_id] = _Entry(event.payload, message.client_id, message.attribution_position)
        self._owned[message.client_id].add(message.feedback_id)

    def _reassigned(self, event: Recorded) -> None:
        message = events.FeedbackReassigned.FromString(event.payload)
        entry = self._items.get(message.feedback_id)
        if entry is None or message.attribution_position < entry.attribution:
            return
        self._owned[entry.client_id].discard(message.feedback_id)
        entry.client_id = message.client_id
        entry.attribution = message.attribution_position
        self._owned[entry.client_id].add(message.feedback_id)

    def _classified(self, event: Recorded) -> None:
        message = events.FeedbackClassified.FromString(event.payload)
        entry = self._items.get(message.feedback_id)
        if entry is not None:
            entry.assignments = codec.assignments_of(message.assignments)
            entry.routes_version = message.routes_version

    def _case_opened(self, event: Recorded) -> None:
        message = events.CaseOpened.FromString(event.payload)
        self._opened[message.case_id] = (message.feedback_id, (message.department, message.topic))

    def _acted(self, kind: type[codec.ActMessage], event: Recorded) -> None:
        message = kind.FromString(event.payload)
        # Told again under another case it is still the first act, on the item that it was done to.
        if message.act_id and message.act_id not in self._acts and message.case_id in self._opened:
            anchor, matter = self._opened[message.case_id]
            self._acts[message.act_id] = codec.act_of(message, event.occurred_at, anchor, matter)

    def _dropped(self, event: Recorded) -> None:
        message = events.ClientDropped.FromString(event.payload)
        for feedback_id in self._owned.pop(message.client_id, set()):
            del self._items[feedback_id]

    def _published(self, event: Recorded) -> None:
        routes = codec.routes_of(events.RoutesPublished.FromString(event.payload).routes)
        self._policies[routes.version] = routes


_ACTS: Final[tuple[type[codec.ActMessage], ...]] = (
    events.CaseAcknowledged,
    events.CaseReassigned,
    events.CaseEscalated,
    events.CaseResolved,
    events.CaseReopened,
)
EVENT_KINDS: Final[dict[str, type[Message]]] = {
    each.DESCRIPTOR.full_name: each
    for each in (
        events.FeedbackReceived,
        events.FeedbackReassigned,
        events.FeedbackClassified,
        events.FeedbackConflicted,
        events.CaseOpened,
        events.CaseJoined,
        *_ACTS,
        events.CaseWithdrawn,
        events.RoutesPublished,
        events.ClientDropped,
    )
}


def make_fold() -> FeedbackFold:
    """The fold, empty."""
    return FeedbackFold()


def _sentence(message: Message) -> str:  # noqa: PLR0911 # one sentence per kind of event
    match message:
        case events.FeedbackReceived():
            kind = codec.kind_of(message.fact.kind).name
            score = f" {message.fact.score}" if message.fact.HasField("score") else ""
            words = ", with words" if message.fact.has_verbatim else ""
            return f"Feedback {kind}{score} through {message.channel}{words}."
        case events.FeedbackReassigned():
            return f"Item {message.feedback_id} is of client {message.client_id or 'nobody'}."
        case events.FeedbackClassified():
            owners = "; ".join(
                f"{each.department} ({each.topic}, by {each.route}: {each.because})" for each in message.assignments
            )
            return f"Sorted to {owners}."
        case events.FeedbackConflicted():
            return f"Item {message.offered.feedback_id} was submitted again with other content; the first stands."
        case events.RoutesPublished():
            return f"Routes version {message.routes.version} published by {message.published_by}."
        case events.ClientDropped():
            return f"Feedback of client {message.client_id} was dropped: the client is forgotten."
        case _:
            name = message.DESCRIPTOR.name.removeprefix("Case").lower()
            by = getattr(message, "by", "")
            text = step_text(message)
            case_id = getattr(message, "case_id", "")
            return f"Case {case_id} {name}{f' by {by}' if by else ''}{f': {text}' if text else ''}."
