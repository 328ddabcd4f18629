"""Takes direct submissions: once for ever, conflicts kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from feedback.application import tables
from feedback.application.desk import NO_CAUSE, Cause, Changes, Desk
from feedback.application.intake import bind_everywhere, client_of
from feedback.application.ports import Clients, Hashed, Identifiers, SealedWords, Words
from feedback.domain.submissions import Submission, check_submission
from throughline.feedback.v1 import events_pb2 as events
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline_eventlog import Clock, Transaction, Writer
from throughline_kernel import ConflictError, Refusal


class Submitted(NamedTuple):
    """What became of a submission. `assignments` are (department, topic, route, because, case id)."""

    feedback_id: str
    duplicate: bool
    assignments: list[tuple[str, str, str, str, str]]
    position: int


@dataclass(frozen=True, slots=True)
class _Offer:
    submission: Submission
    hashed: tuple[Hashed, ...]
    content_mac: bytes
    cause: Cause


class Submitting:
    """The use case: checks, seals, decides, and answers once it is durable."""

    def __init__(
        self, writer: Writer, desk: Desk, words: Words, *, clients: Clients, identifiers: Identifiers, clock: Clock
    ) -> None:
        self._writer = writer
        self._identifiers = identifiers
        self._clock = clock
        self._work = _Work(desk, words, clients)

    async def submit(self, submission: Submission, cause: Cause = NO_CAUSE) -> Submitted:
        """Takes one item.

        Raises InvalidError; ConflictError FEEDBACK_CONFLICT, with the offer kept; UnavailableError.
        """
        check_submission(submission, self._clock())
        hashed = tuple(
            sorted(
                {self._identifiers.hash(each.type, each.value, each.assurance) for each in submission.identifiers},
                key=lambda each: (each.type, each.hash, each.assurance),
            )
        )
        mac = self._identifiers.content_mac(_content(submission, hashed))
        return await self._writer.submit(
            self._work, _Offer(submission, hashed, mac, cause), traceparent=cause.traceparent
        )


class _Work:
    """Submissions of one transaction."""

    def __init__(self, desk: Desk, words: Words, clients: Clients) -> None:
        self._desk = desk
        self._words = words
        self._clients = clients

    def rolled_back(self) -> None:
        self._desk.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[_Offer], /) -> Sequence[Submitted | Refusal]:
        changes = self._desk.open(tx)
        keys = {bytes.fromhex(each.submission.feedback_id) for each in items}
        known = {key: tables.unpack_place(row) for key, row in tx.get_many(tables.PLACES, list(keys)).items()}
        fresh: dict[str, _Offer] = {}
        for offer in items:
            feedback_id = offer.submission.feedback_id
            if bytes.fromhex(feedback_id) not in known:
                fresh.setdefault(feedback_id, offer)
        sealed = self._seal(list(fresh.values()))
        for feedback_id, offer in fresh.items():
            received = _received(offer, sealed.get(feedback_id))
            receive_directly(changes, self._clients, received, offer.submission.verbatim, offer.cause)
        changes.write()
        return [self._answer(changes, offer, fresh) for offer in items]

    def _seal(self, offers: Sequence[_Offer]) -> dict[str, SealedWords]:
        worded = [each for each in offers if each.submission.verbatim]
        sealed = self._words.seal_many(
            [(each.submission.feedback_id, each.hashed, each.submission.verbatim) for each in worded]
        )
        return {each.submission.feedback_id: box for each, box in zip(worded, sealed, strict=True)}

    def _answer(self, changes: Changes, offer: _Offer, fresh: dict[str, _Offer]) -> Submitted | Refusal:
        feedback_id = offer.submission.feedback_id
        row = changes.tx.get(tables.PLACES, bytes.fromhex(feedback_id))
        assert row is not None  # noqa: S101 # what was fresh has just been written
        place = tables.unpack_place(row)
        if place.content_mac != offer.content_mac:
            return self._conflict(changes, offer, place)
        found = [] if place.owner == tables.NOBODY else _assignments(changes, place.owner, feedback_id)
        return Submitted(feedback_id, fresh.get(feedback_id) is not offer, found, place.position)

    def _conflict(self, changes: Changes, offer: _Offer, place: tables.Place) -> Refusal:
        """Law 2: kept beside the first, once, and said so."""
        tx = changes.tx
        feedback_id = offer.submission.feedback_id
        key = bytes.fromhex(feedback_id) + offer.content_mac
        if place.owner != tables.NOBODY and tx.get(tables.CONFLICTS, key) is None:
            keep_conflict(changes, _received(offer, self._seal([offer]).get(feedback_id)), place, offer.cause)
            changes.write()
        return ConflictError(
            "FEEDBACK_CONFLICT",
            f"{offer.submission.source} submitted {offer.submission.source_feedback_id} before with other content: the "
            "first stands and this one is kept beside it; give an id of its own to what is new",
            {"feedback_id": feedback_id},
        )


def receive_directly(
    changes: Changes, clients: Clients, received: events.FeedbackReceived, words: str, cause: Cause
) -> None:
    """Takes an item that nobody submitted before, for the client that it means now."""
    received.client_id = client_of(changes, clients, received)
    bind_everywhere(changes, received)
    changes.receive(received, words, cause)


def keep_conflict(changes: Changes, offered: events.FeedbackReceived, place: tables.Place, cause: Cause) -> None:
    """Keeps what was offered under a known item's id with other content, beside that item."""
    record = changes.draft_record(place.owner, offered.feedback_id)
    held = changes.held(place.owner, record.client_id)
    offered.client_id = record.client_id
    changes.append(
        held,
        events.FeedbackConflicted(offered=offered, received_content_mac=place.content_mac),
        offered.occurred_at,
        cause,
    )
    changes.put(tables.CONFLICTS, bytes.fromhex(offered.feedback_id) + offered.content_mac, b"")


def _assignments(changes: Changes, owner: bytes, feedback_id: str) -> list[tuple[str, str, str, str, str]]:
    record = changes.draft_record(owner, feedback_id)
    return [
        (department, topic, route, because, case_id)
        for (department, topic, route, because, _), case_id in zip(record.assignments, record.case_ids, strict=True)
    ]


def _received(offer: _Offer, sealed: SealedWords | None) -> events.FeedbackReceived:
    submission = offer.submission
    fact = interaction.FeedbackFact(
        kind=interaction.FeedbackKind.Name(submission.kind),  # pyright: ignore[reportArgumentType] # checked before
        score=submission.score,
        scale_min=submission.scale_min,
        scale_max=submission.scale_max,
        has_verbatim=bool(submission.verbatim),
        topic=submission.topic,
        aspect=submission.aspect,
        solicited=submission.solicited,
        weight_micros=submission.weight_micros,
    )
    received = events.FeedbackReceived(
        feedback_id=submission.feedback_id,
        interaction_id=submission.interaction_id,
        source=submission.source,
        channel=submission.channel,
        touchpoint=submission.touchpoint,
        matter=submission.matter,
        occurred_at=submission.occurred_at,
        fact=fact,
        attributes=submission.attributes or b"",
        identifiers=[
            interaction.IdentifierHash(
                type=each.type,
                hash=each.hash,
                assurance=interaction.Assurance.Name(each.assurance),  # pyright: ignore[reportArgumentType] # as above
                shape=interaction.IdentifierShape.Name(each.shape),  # pyright: ignore[reportArgumentType] # ours
            )
            for each in offer.hashed
        ],
        content_mac=offer.content_mac,
        stated_client_id=submission.client_id,
    )
    if sealed is not None:
        received.verbatim.key_id = sealed.key_id
        received.verbatim.box = sealed.box
    return received


def _content(submission: Submission, hashed: Sequence[Hashed]) -> list[bytes]:
    """Everything that makes a submission what it is, in one order for ever."""
    texts = (
        submission.source,
        submission.source_feedback_id,
        submission.channel,
        submission.touchpoint,
        submission.matter,
        str(submission.occurred_at),
        str(submission.kind),
        "" if submission.score is None else str(submission.score),
        str(submission.scale_min),
        str(submission.scale_max),
        submission.verbatim,
        submission.topic,
        submission.aspect,
        str(submission.solicited),
        str(submission.weight_micros),
        submission.client_id,
        submission.interaction_id,
    )
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    parts.append(submission.attributes or b"")
    for each in hashed:
        parts += (each.type.encode(), each.hash, str(each.assurance).encode())
    return parts
