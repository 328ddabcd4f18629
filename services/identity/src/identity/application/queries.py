"""What people ask about clients, answered from one consistent view each."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from identity.application import messages, records
from identity.application.explanations import sentence
from identity.application.ledger import Tables, stream_of
from identity.application.records import (
    ClientRow,
    ForgettingRow,
    IdentifierRow,
    MergeRow,
    ProposalRow,
    present_client,
)
from identity.application.standing import Member, tables_at
from identity.domain.personas import OrderKey
from identity.domain.refusals import (
    ClientForgottenError,
    ClientNotFoundError,
    IdentifiersUnknownError,
    InteractionNotFoundError,
)
from identity.domain.rules import Rules
from throughline.identity.v1 import events_pb2 as pb
from throughline_eventlog import Commit, Reader
from throughline_kernel import Consent, Consents, Interval, Recorded
from throughline_privacy import ForgottenClient

_ATTRIBUTIONS: Final = frozenset({messages.INTERACTION_ATTRIBUTED, messages.INTERACTION_REATTRIBUTED})


@dataclass(frozen=True, slots=True)
class Resolved:
    """The client that was meant, and others that some of the identifiers mean."""

    client_id: bytes
    others: tuple[bytes, ...]
    known_person: bool


@dataclass(frozen=True, slots=True)
class OwnIdentifier:
    """An identifier of a client, with what its client did under it."""

    hash: bytes
    row: IdentifierRow
    first_seen_at: int
    interactions: int


@dataclass(frozen=True, slots=True)
class ClientView:
    """Everything that is known of one client."""

    client_id: bytes
    row: ClientRow
    identifiers: tuple[OwnIdentifier, ...]
    merges: tuple[tuple[bytes, MergeRow], ...]
    proposals: tuple[tuple[bytes, ProposalRow], ...]
    consents: tuple[Consent, ...]
    interactions: int
    first_seen_at: int
    last_seen_at: int


@dataclass(frozen=True, slots=True)
class Step:
    """One event that made a link what it is. `client_id` is empty where it took the link away."""

    event: Recorded
    client_id: str
    evidence: pb.Evidence | None
    explanation: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a link came about, oldest first; the last step holds."""

    client_id: str
    steps: tuple[Step, ...]


class Queries:
    """Answers from one view of identity's tables and log, as they stand or as an instant left them (microseconds, 0:
    now).
    """

    def __init__(self, reader: Reader, as_of: int = 0) -> None:
        self._reader = reader
        self._tables = tables_at(reader, as_of)
        self._present = Tables(reader)

    @property
    def commit(self) -> Commit:
        """The commit that the answers stand on."""
        return self._tables.commit()

    def present(self, client_id: bytes) -> bytes:
        """The client that an id or alias means now. Raises: ClientNotFoundError, ClientForgottenError."""
        return present_client(self._tables.client, client_id)

    def resolve_id(self, client_id: bytes) -> Resolved:
        """The client that an id or alias means now. Raises: ClientNotFoundError, ClientForgottenError."""
        present = self.present(client_id)
        return Resolved(present, (), self._client(present).known_person)

    def resolve_identifiers(self, identifiers: Sequence[tuple[str, bytes]], rules: Rules) -> Resolved:
        """The client of the identifier that speaks first, of those that are linked. Raises: IdentifiersUnknownError."""
        rows = self._tables.identifiers({key for _, key in identifiers})
        linked = sorted((rules.of(row.type).priority, key, row.client) for key, row in rows.items() if row.client)
        if not linked:
            raise IdentifiersUnknownError(len(identifiers))
        clients = tuple(dict.fromkeys(client for _, _, client in linked))
        return Resolved(clients[0], clients[1:], self._client(clients[0]).known_person)

    def client(self, client_id: bytes) -> ClientView:
        """One client. Raises: ClientNotFoundError, ClientForgottenError."""
        tables = self._tables
        present = self.present(client_id)
        row = self._client(present)
        members = tables.members(present)
        ids = (present, *row.aliases)
        return ClientView(
            client_id=present,
            row=row,
            identifiers=self._own_identifiers(present, members.values()),
            merges=tuple(sorted(tables.merges(ids).items(), key=lambda each: (each[1].at, each[0]))),
            proposals=tuple(sorted(tables.proposals_of(present).items())),
            consents=tables.consents(ids).words,
            interactions=sum(each.interactions for each in members.values()),
            first_seen_at=min((each.first_seen_at for each in members.values()), default=0),
            last_seen_at=max((each.last_seen_at for each in members.values()), default=0),
        )

    def explain_interaction(self, interaction_id: bytes) -> Explanation:
        """Why an interaction is its client's: what linked its identifiers, and every attribution of it.

        Raises: InteractionNotFoundError, ClientForgottenError.
        """
        persona_id = self._reader.get(records.INTERACTIONS, interaction_id)
        if persona_id is None:
            raise InteractionNotFoundError(interaction_id.hex())
        persona = self._present.personas.get(persona_id)
        if persona is None:
            raise ClientForgottenError((self._reader.get(records.FORGOTTEN, persona_id) or b"").hex())
        wanted = interaction_id.hex()
        stream = stream_of("persona", persona_id)
        attributions = [
            event
            for event in self._tables.streams([stream]).get(stream, ())
            if messages.attribution(event).facts.interaction_id == wanted
        ]
        if not attributions:
            raise InteractionNotFoundError(wanted)
        links = self._tables.streams([stream_of("identifier", each.hash) for each in persona.identifiers])
        last = attributions[-1]
        events = [event for stream in links.values() for event in stream if event.position < last.position]
        client_id = bytes.fromhex(messages.attribution(last).client_id)
        # It may have been somebody's who is forgotten.
        self.present(client_id)
        return self._explained(client_id, [*events, *attributions])

    def explain_identifier(self, key: bytes) -> Explanation:
        """Why an identifier is its client's, or nobody's. Raises: IdentifiersUnknownError."""
        row = self._tables.identifiers([key]).get(key)
        events = self._tables.streams([stream_of("identifier", key)]).values()
        if row is None or not events or not (row.client or row.reason):
            raise IdentifiersUnknownError(1)
        return self._explained(row.client, [event for stream in events for event in stream])

    def interactions(self, client_id: bytes, between: Interval, after: OrderKey | None, size: int) -> list[OrderKey]:
        """The client's interactions that happened in the interval, in canonical order, at most `size`, behind `after`.

        Raises: ClientNotFoundError, ClientForgottenError.
        """
        members = self._tables.members(self.present(client_id))
        streams = self._tables.streams([stream_of("persona", each) for each in members])
        keys = (
            messages.order_key(each.facts)
            for stream in streams.values()
            for each in messages.last_attributions(stream).values()
        )
        return heapq.nsmallest(
            size, (key for key in keys if between.holds(key.occurred_at) and (after is None or key > after))
        )

    def consents(self, ids: Iterable[bytes]) -> Consents:
        """What holds of all that was said to any of these ids of one client."""
        return self._tables.consents(ids)

    def last_seen(self, client_id: bytes) -> int:
        """When the client (no alias) was last seen, microseconds."""
        return max((each.last_seen_at for each in self._tables.members(client_id).values()), default=0)

    def channels(self, client_id: bytes) -> set[str]:
        """The channels that the client (no alias) was ever seen on."""
        members = self._suffixes(records.MEMBERS, client_id)
        streams = self._reader.read_streams([stream_of("persona", each) for each in members])
        return {messages.attribution(event).facts.channel for stream in streams.values() for event in stream}

    def proposals(self, after: bytes, size: int) -> list[tuple[bytes, ProposalRow]]:
        """Merges that wait for a person, by id, at most `size`."""
        return self._tables.proposals(after, size)

    def forgotten(self, client_id: bytes) -> list[bytes]:
        """The personas that a forgotten client, or one of its aliases, was forgotten with."""
        row = self._present.clients.get(client_id)
        gone = {client_id} if row is None or not row.parent else {client_id, row.parent}
        return [persona for persona, client in self._reader.scan(records.FORGOTTEN) if client in gone]

    def forgettings_of(self, client_id: bytes) -> list[tuple[Recorded, pb.ClientForgotten]]:
        """The events by which a client, or the one that an alias belonged to, was forgotten, oldest first."""
        row = self._present.clients.get(client_id)
        return self._forgotten_events({client_id} if row is None or not row.parent else {client_id, row.parent})

    def forgotten_personas(self) -> set[bytes]:
        """Every persona that was forgotten."""
        return {persona_id for persona_id, _ in self._reader.scan(records.FORGOTTEN)}

    def forgotten_clients(self, client_ids: Collection[bytes] | None = None) -> list[ForgottenClient]:
        """These clients (None: all) as they were forgotten, oldest first; again for each time that added personas."""
        if client_ids is None:
            client_ids = {client_id for _, client_id in self._reader.scan(records.FORGOTTEN)}
        found: list[ForgottenClient] = []
        seen: set[bytes] = set()
        for event, message in self._forgotten_events(client_ids):
            if not seen.issuperset(message.persona_ids):
                seen.update(message.persona_ids)
                found.append(
                    ForgottenClient(
                        bytes.fromhex(message.client_id),
                        tuple(map(bytes.fromhex, message.alias_ids)),
                        tuple(message.persona_ids),
                        tuple((each.type, each.hash) for each in message.identifiers),
                        event.recorded_at,
                    )
                )
        return found

    def forgettings(self, after: bytes, size: int) -> list[tuple[Recorded, pb.ClientForgotten]]:
        """Clients that are forgotten, by id, at most `size`, behind `after`: the event that did it."""
        ids = sorted({client_id for _, client_id in self._reader.scan(records.FORGOTTEN) if client_id > after})
        found: list[tuple[Recorded, pb.ClientForgotten]] = []
        for start in range(0, len(ids), size):
            first: dict[str, tuple[Recorded, pb.ClientForgotten]] = {}
            for event, message in self._forgotten_events(ids[start : start + size]):
                first.setdefault(message.client_id, (event, message))
            # As of an instant some of them are not forgotten yet.
            found += [first[key] for each in ids[start : start + size] if (key := each.hex()) in first]
            if len(found) >= size:
                break
        return found[:size]

    def _forgotten_events(self, client_ids: Collection[bytes]) -> list[tuple[Recorded, pb.ClientForgotten]]:
        streams = self._tables.streams([stream_of("client", client_id) for client_id in client_ids])
        events = sorted(
            (event for stream in streams.values() for event in stream if event.type == messages.CLIENT_FORGOTTEN),
            key=lambda each: each.position,
        )
        return [(event, pb.ClientForgotten.FromString(event.payload)) for event in events]

    def due(self, now: int, size: int) -> list[bytes]:
        """Clients whose scheduled forgetting is due, at most `size`, the longest due first."""
        keys = (key for key, _ in self._reader.scan(records.FORGETTINGS_DUE, limit=size))
        return [key[8:] for key in keys if int.from_bytes(key[:8], "big") <= now]

    def scheduled(self, after: bytes, size: int) -> list[tuple[bytes, ForgettingRow]]:
        """Clients that are to be forgotten, by id, at most `size`, behind `after`."""
        return self._tables.scheduled(after, size)

    def concerning(self, client_id: str, interaction_ids: Sequence[str]) -> list[Recorded]:
        """The events that concern the client (empty: any) and the interactions (empty: any), in position order.

        Of a forgotten client what its stream holds: where its interactions were is not known any more.
        """
        if client_id:
            events = self._of_client(bytes.fromhex(client_id))
            if interaction_ids:
                wanted = frozenset(interaction_ids)
                events = [each for each in events if _interaction(each) in wanted]
            return events
        return self._of_interactions(interaction_ids)

    def _of_client(self, client_id: bytes) -> list[Recorded]:
        row = self._present.clients.get(client_id)
        if row is None:
            return []
        try:
            present = self.present(client_id)
        except ClientForgottenError:
            ids, personas = [client_id, *([row.parent] if row.parent else [])], {}
        else:
            ids, personas = [present, *self._client(present).aliases], self._tables.members(present)
        presented = {each.hash for persona in personas.values() for each in persona.identifiers}
        own = [key for key, each in self._present.identifiers.get_many(presented).items() if each.client in ids]
        streams = self._reader.read_streams(
            [
                *(stream_of("client", each) for each in ids),
                *(stream_of("persona", each) for each in personas),
                *(stream_of("identifier", each) for each in own),
            ]
        )
        return sorted((each for stream in streams.values() for each in stream), key=lambda each: each.position)

    def _of_interactions(self, interaction_ids: Sequence[str]) -> list[Recorded]:
        wanted = frozenset(interaction_ids)
        personas = set(self._reader.get_many(records.INTERACTIONS, [bytes.fromhex(each) for each in wanted]).values())
        streams = self._reader.read_streams([stream_of("persona", each) for each in personas])
        return sorted(
            (each for stream in streams.values() for each in stream if _interaction(each) in wanted),
            key=lambda each: each.position,
        )

    def _explained(self, client_id: bytes, events: Iterable[Recorded]) -> Explanation:
        steps = tuple(_step(event) for event in sorted(events, key=lambda each: each.position))
        return Explanation(client_id.hex(), steps)

    def _client(self, client_id: bytes) -> ClientRow:
        row = self._tables.client(client_id)
        if row is None:
            raise ClientNotFoundError(client_id.hex())
        return row

    def _suffixes(self, table: str, prefix: bytes) -> list[bytes]:
        return [key[len(prefix) :] for key, _ in self._reader.scan(table, prefix=prefix)]

    def _own_identifiers(self, client_id: bytes, members: Iterable[Member]) -> tuple[OwnIdentifier, ...]:
        first: dict[bytes, int] = {}
        count: dict[bytes, int] = {}
        for member in members:
            for each in member.identifiers:
                first[each.hash] = min(first.get(each.hash, member.first_seen_at), member.first_seen_at)
                count[each.hash] = count.get(each.hash, 0) + member.interactions
        rows = self._tables.identifiers(first.keys())
        own = [OwnIdentifier(key, row, first[key], count[key]) for key, row in rows.items() if row.client == client_id]
        return tuple(sorted(own, key=lambda each: (each.row.type, each.hash)))


def _interaction(event: Recorded) -> str:
    return messages.attribution(event).facts.interaction_id if event.type in _ATTRIBUTIONS else ""


def _step(event: Recorded) -> Step:
    match event.type:
        case messages.IDENTIFIER_LINKED:
            linked = pb.IdentifierLinked.FromString(event.payload)
            return Step(event, linked.client_id, linked.evidence, sentence(event))
        case messages.IDENTIFIER_DEMOTED:
            demoted = pb.IdentifierDemoted.FromString(event.payload)
            return Step(event, "", demoted.evidence, sentence(event))
        case _:
            attribution = messages.attribution(event)
            return Step(event, attribution.client_id, attribution.evidence, sentence(event))
