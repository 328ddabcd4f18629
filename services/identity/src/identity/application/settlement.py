"""Decides a neighbourhood again, and announces what is different from what was announced before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from identity.application import messages
from identity.application.ledger import Ledger, stream_of
from identity.application.messages import Cause
from identity.application.records import (
    ALIAS,
    CLIENT_MERGES,
    CLIENT_PROPOSALS,
    FORMER_MEMBERS,
    FORMER_PROPOSALS,
    HOLDERS,
    LIVE,
    MEMBERS,
    ClientRow,
    IdentifierRow,
    MergeRow,
    PersonaRow,
    ProposalRow,
)
from identity.domain.personas import OrderKey, anchor_of, automatic_merge_id
from identity.domain.resolution import (
    MANUAL,
    NO_DECISIONS,
    SHARED,
    Basis,
    Decisions,
    Joined,
    Link,
    Proposal,
    Resolution,
    resolve,
    standing,
)
from identity.domain.rules import Rules
from identity.domain.shortcuts import Fit, KnownClient, KnownIdentifier, alone, attached
from throughline.identity.v1 import events_pb2 as pb
from throughline_eventlog import NewEvent

RENAMED: Final = "renamed"
"""Rule of a client that got another id because an earlier interaction of it became known."""


@dataclass(frozen=True, slots=True)
class DecidedMerge:
    """A merge that a person asks for: of two clients, for whom two personas speak, in the same order."""

    merge_id: bytes
    clients: tuple[bytes, bytes]
    personas: tuple[bytes, bytes]
    decided_by: str
    reason: str


class Neighbourhood:
    """Every persona whose client may depend on the given ones, as the rows stand."""

    def __init__(self, ledger: Ledger, rules: Rules, seeds: Iterable[bytes], *, whole: bool) -> None:
        """`whole` follows identifiers shared by too many, too: needed where that may have changed for the better."""
        self.rows: dict[bytes, PersonaRow] = {}
        self.shared: set[bytes] = set()
        self.generations: dict[bytes, int] = {}
        self._ledger = ledger
        self._rules = rules
        self._whole = whole
        self._seen: set[bytes] = set()
        self._joined: set[Joined] = set()
        self._parted: set[tuple[bytes, bytes]] = set()
        waiting = list(seeds)
        while waiting:
            ledger.personas.load(waiting)
            reached: list[bytes] = []
            for persona_id in waiting:
                row = None if persona_id in self.rows else ledger.personas.get(persona_id)
                if row is not None:
                    self.rows[persona_id] = row
                    reached += self._reach(persona_id, row)
            waiting = [persona_id for persona_id in dict.fromkeys(reached) if persona_id not in self.rows]

    @property
    def decisions(self) -> Decisions:
        """What people decided about these personas."""
        if not self._joined and not self._parted:
            return NO_DECISIONS
        return Decisions(tuple(sorted(self._joined)), tuple(sorted(self._parted)))

    def _reach(self, persona_id: bytes, row: PersonaRow) -> list[bytes]:
        reached: list[bytes] = []
        fresh = [each for each in row.identifiers if each.hash not in self._seen]
        if len(fresh) > 1:
            self._ledger.identifiers.load([each.hash for each in fresh])
        for each in fresh:
            self._seen.add(each.hash)
            known = self._ledger.identifiers.get(each.hash)
            if known is None:
                # Nobody else presented it yet.
                continue
            if known.generation:
                self.generations[each.hash] = known.generation
            usable = each.usable and not self._rules.is_blocked(each.type, each.hash)
            if not usable and not known.client:
                continue
            if known.reason == SHARED and not self._whole:
                self.shared.add(each.hash)
                continue
            reached += self._ledger.suffixes(HOLDERS, each.hash)
        if row.constrained:
            reached += self._bound(persona_id)
        return reached

    def _bound(self, persona_id: bytes) -> list[bytes]:
        reached: list[bytes] = []
        self._ledger.constraints.flush()
        for key, constraint in self._ledger.constraints.stored.scan(persona_id):
            pair = (min(persona_id, constraint.other), max(persona_id, constraint.other))
            if constraint.joined:
                self._joined.add(Joined(key[len(persona_id) :], pair))
                reached.append(constraint.other)
            else:
                self._parted.add(pair)
        return reached


class Settlement:
    """One decision over one neighbourhood, and its announcement."""

    def __init__(self, ledger: Ledger, rules: Rules, cause: Cause, causes: Mapping[bytes, Cause] | None = None) -> None:
        """`causes` are a batch's, by event id: what rests on one of them is caused by it, all else by `cause`."""
        self.ledger = ledger
        self.rules = rules
        self.cause = cause
        self.causes = causes or {}
        self.reattributed = 0

    def settle(
        self,
        seeds: Iterable[bytes],
        *,
        triggers: Collection[bytes] = (),
        whole: bool = False,
        decided: DecidedMerge | None = None,
        because: Basis | None = None,
    ) -> Neighbourhood:
        """Decides the neighbourhood of the personas again.

        `triggers` are personas that came, or came earlier than known; `decided` is the merge that a person asks for;
        `because` is named as the rule where people and not interactions are the cause.
        """
        area = Neighbourhood(self.ledger, self.rules, seeds, whole=whole)
        outcome = resolve(
            (row.persona(persona_id) for persona_id, row in area.rows.items()),
            self.rules,
            area.decisions,
            shared=area.shared,
            generations=area.generations,
        )
        before = {persona_id: row.client for persona_id, row in area.rows.items() if row.client}
        former = dict.fromkeys(before.values())
        old_aliases = self._aliases(former)
        self._open(outcome)
        self._identifiers(outcome)
        _Merging(
            self, outcome, area, before=before, old_aliases=old_aliases, triggers=triggers, decided=decided
        ).announce(former)
        self._propose(outcome, former)
        self._clients(outcome, area)
        self._move(outcome, area, because)
        return area

    def meet(self, persona_id: bytes, row: PersonaRow) -> bool:
        """Finds the client of a persona that is new where that is certain without looking at others; else False."""
        seen = self.ledger.identifiers
        known = {each.hash: found for each in row.identifiers if (found := seen.get(each.hash)) is not None}
        return self._attach(persona_id, row, known) if known else self._alone(persona_id, row)

    def earlier(self, persona_id: bytes, row: PersonaRow, first: OrderKey) -> bool:
        """Takes note that a persona was there before it was known to be; False where that may change its client."""
        client = self.ledger.clients.must(row.client)
        stands_alone = client.opened == client.latest == row.first and not row.constrained
        row.first = first
        self.ledger.personas.put(persona_id, row)
        identifiers = (self.ledger.identifiers.get(each.hash) for each in row.identifiers)
        if stands_alone and all(each and each.client == row.client and not each.contested for each in identifiers):
            client.opened = client.latest = first
            self.ledger.clients.put(row.client, client)
            return True
        return False

    def _alone(self, persona_id: bytes, row: PersonaRow) -> bool:
        persona = row.persona(persona_id)
        fit = alone(persona, self.rules)
        if fit is None:
            return False
        # What was never seen before never named a client: the id is new.
        anchor = anchor_of(persona, fit.speaker, {})
        client_id = anchor.client_id
        client = ClientRow(
            LIVE,
            anchor,
            opened=row.first,
            known_person=fit.known_person,
            counts=dict(fit.counts),
            latest=row.first,
        )
        opened = pb.ClientOpened(client_id=client_id.hex(), evidence=self.evidence(fit.home))
        self.client_event(client_id, client, messages.CLIENT_OPENED, opened.SerializeToString())
        self._fit(persona_id, row, client_id, fit)
        return True

    def _attach(self, persona_id: bytes, row: PersonaRow, known: Mapping[bytes, IdentifierRow]) -> bool:
        clients = {each.client for each in known.values() if each.client}
        if len(clients) != 1:
            return False
        client_id = clients.pop()
        client = self.ledger.clients.must(client_id)
        fit = attached(
            row.persona(persona_id),
            self.rules,
            {
                key: KnownIdentifier(
                    each.client,
                    each.reason,
                    each.basis,
                    each.identifies_person,
                    each.contested,
                    each.joins,
                    each.beside,
                )
                for key, each in known.items()
            },
            client_id,
            KnownClient(client.latest, client.constrained, client.counts),
        )
        if fit is None:
            return False
        client.latest, client.counts = row.first, dict(fit.counts)
        self.ledger.clients.put(client_id, client)
        self._fit(persona_id, row, client_id, fit)
        return True

    def _fit(self, persona_id: bytes, row: PersonaRow, client_id: bytes, fit: Fit) -> None:
        rows = self.ledger.identifiers
        for identifier, identifies_person, joins in fit.linked:
            basis = Basis(self.rules.name(identifier.type), (row.first.interaction_id,))
            link = Link(identifier.type, client_id, basis, identifies_person, False, joins)
            self._link(identifier.hash, link, IdentifierRow(identifier.type, joins=joins))
        for key, beside in fit.beside.items():
            identifier_row = rows.must(key)
            if identifier_row.beside != beside:
                identifier_row.beside = beside
                rows.put(key, identifier_row)
        row.client, row.basis = client_id, fit.home
        self.ledger.personas.put(persona_id, row)
        self.ledger.index(MEMBERS, client_id + persona_id)

    def event(
        self,
        stream_id: bytes,
        version: int,
        type_: str,
        message: bytes,
        *,
        basis: Basis | None = None,
        event_id: bytes | None = None,
    ) -> None:
        """Emits one event that follows from what its basis rests on, or from the cause of all."""
        cause = self._cause(basis)
        self.ledger.emit(
            NewEvent(
                stream_id=stream_id,
                version=version,
                type=type_,
                payload=message,
                occurred_at=cause.at,
                event_id=event_id,
                correlation_id=cause.correlation_id,
                causation_id=cause.causation_id,
                traceparent=cause.traceparent,
            )
        )

    def client_event(
        self,
        client_id: bytes,
        row: ClientRow,
        type_: str,
        message: bytes,
        *,
        basis: Basis | None = None,
        event_id: bytes | None = None,
    ) -> None:
        """Emits one event into the client's stream."""
        row.version += 1
        self.ledger.clients.put(client_id, row)
        stream = stream_of("client", client_id)
        self.event(stream, row.version, type_, message, basis=basis, event_id=event_id)

    def evidence(self, basis: Basis) -> pb.Evidence:
        """The basis, and what caused the decision."""
        return messages.evidence(basis, self.rules.version, self._cause(basis).event_id)

    def _cause(self, basis: Basis | None) -> Cause:
        if basis is not None and self.causes:
            for event_id in basis.evidence:
                if event_id in self.causes:
                    return self.causes[event_id]
        return self.cause

    def _aliases(self, former: Iterable[bytes]) -> dict[bytes, bytes]:
        """Every alias of the clients, with the client it means."""
        found: dict[bytes, bytes] = {}
        for client_id in former:
            row = self.ledger.clients.get(client_id)
            if row is not None:
                found.update(dict.fromkeys(row.aliases, client_id))
        return found

    def _open(self, outcome: Resolution) -> None:
        for client in outcome.clients.values():
            row = self.ledger.clients.get(client.id)
            if row is not None and row.state == LIVE:
                continue
            if row is None:
                row = ClientRow(LIVE, client.anchor)
            row.state, row.parent, row.aliases = LIVE, b"", ()
            basis = outcome.homes[client.members[0]][1]
            opened = pb.ClientOpened(client_id=client.id.hex(), evidence=self.evidence(basis))
            self.client_event(client.id, row, messages.CLIENT_OPENED, opened.SerializeToString(), basis=basis)

    def _identifiers(self, outcome: Resolution) -> None:
        rows = self.ledger.identifiers
        for key, link in outcome.links.items():
            row = rows.get(key) or IdentifierRow(link.type)
            if row.client != link.client_id or row.identifies_person != link.identifies_person:
                self._link(key, link, row)
            if (row.contested, row.joins) != (link.contested, link.joins):
                row.contested, row.joins = link.contested, link.joins
                rows.put(key, row)
        for key, unlinked in outcome.unlinked.items():
            row = rows.get(key) or IdentifierRow(unlinked.type)
            if row.reason != unlinked.reason:
                row.version += 1
                demoted = pb.IdentifierDemoted(
                    identifier=messages.identifier(unlinked.type, key),
                    reason=unlinked.reason,
                    evidence=self.evidence(unlinked.basis),
                    previous_client_id=row.client.hex(),
                )
                stream = stream_of("identifier", key)
                payload = demoted.SerializeToString()
                self.event(stream, row.version, messages.IDENTIFIER_DEMOTED, payload, basis=unlinked.basis)
                row.type, row.client, row.reason, row.basis = unlinked.type, b"", unlinked.reason, unlinked.basis
                row.identifies_person = row.contested = row.joins = False
                rows.put(key, row)
        for key, persons in outcome.beside.items():
            row = rows.get(key)
            if row is None or key in outcome.unlinked:
                continue
            beside = tuple(sorted(persons))
            if row.beside != beside:
                row.beside = beside
                rows.put(key, row)

    def _link(self, key: bytes, link: Link, row: IdentifierRow) -> None:
        row.version += 1
        linked = pb.IdentifierLinked(
            client_id=link.client_id.hex(),
            identifier=messages.identifier(link.type, key, verified=link.identifies_person),
            evidence=self.evidence(link.basis),
            previous_client_id=row.client.hex(),
            identifies_person=link.identifies_person,
        )
        stream = stream_of("identifier", key)
        payload = linked.SerializeToString()
        self.event(stream, row.version, messages.IDENTIFIER_LINKED, payload, basis=link.basis)
        row.type, row.client, row.reason, row.basis = link.type, link.client_id, "", link.basis
        row.identifies_person = link.identifies_person
        self.ledger.identifiers.put(key, row)

    def _propose(self, outcome: Resolution, former: Iterable[bytes]) -> None:
        ledger = self.ledger
        before: dict[bytes, Proposal] = {}
        for client_id in former:
            for merge_id in ledger.suffixes(CLIENT_PROPOSALS, client_id):
                row = ledger.proposals.get(merge_id)
                if row is not None:
                    before[merge_id] = Proposal(row.client, row.other, row.basis)
        if not before and not outcome.proposals:
            return
        for merge_id, each in before.items():
            now = outcome.proposals.get(merge_id)
            if now is None:
                ledger.proposals.delete(merge_id)
                for client_id in (each.client_id, each.other_client_id):
                    ledger.unindex(CLIENT_PROPOSALS, client_id + merge_id)
                    ledger.index(FORMER_PROPOSALS, client_id + merge_id)
        for merge_id, proposal in outcome.proposals.items():
            # The id names the two clients: a proposal that stands is about the same two.
            if merge_id not in before:
                self._proposed(merge_id, proposal)

    def _proposed(self, merge_id: bytes, proposal: Proposal) -> None:
        proposed = pb.MergeProposed(
            merge_id=merge_id.hex(),
            client_id=proposal.client_id.hex(),
            other_client_id=proposal.other_client_id.hex(),
            evidence=self.evidence(proposal.basis),
        )
        row = self.ledger.clients.must(proposal.client_id)
        self.client_event(
            proposal.client_id,
            row,
            messages.MERGE_PROPOSED,
            proposed.SerializeToString(),
            basis=proposal.basis,
        )
        self.ledger.proposals.put(merge_id, ProposalRow(*proposal, rules_version=self.rules.version, at=self.cause.at))
        for client_id in (proposal.client_id, proposal.other_client_id):
            self.ledger.index(CLIENT_PROPOSALS, client_id + merge_id)

    def _clients(self, outcome: Resolution, area: Neighbourhood) -> None:
        for client in outcome.clients.values():
            row = self.ledger.clients.must(client.id)
            counts = dict(client.counts)
            latest = area.rows[client.members[-1]].first
            constrained = any(area.rows[member].constrained for member in client.members)
            now = (client.opened, client.known_person, counts, latest, constrained)
            if (row.opened, row.known_person, row.counts, row.latest, row.constrained) != now:
                row.opened, row.known_person, row.counts, row.latest, row.constrained = now
                self.ledger.clients.put(client.id, row)

    def _move(self, outcome: Resolution, area: Neighbourhood, because: Basis | None) -> None:
        """Gives every persona to its client, and its interactions with it, one by one."""
        ledger = self.ledger
        moved: list[bytes] = []
        for persona_id, (client_id, basis) in outcome.homes.items():
            row = area.rows[persona_id]
            if row.client == client_id:
                continue
            ledger.index(MEMBERS, client_id + persona_id)
            if row.client:
                ledger.unindex(MEMBERS, row.client + persona_id)
                ledger.index(FORMER_MEMBERS, row.client + persona_id)
            if row.count:
                moved.append(persona_id)
            else:
                row.client = client_id
            row.basis = basis
            ledger.personas.put(persona_id, row)
        if not moved:
            return
        streams = ledger.streams([stream_of("persona", persona_id) for persona_id in moved])
        for persona_id in moved:
            row = area.rows[persona_id]
            client_id, basis = outcome.homes[persona_id]
            stream_id = stream_of("persona", persona_id)
            why = self.evidence(basis if because is None else Basis(because.rule, basis.evidence + because.evidence))
            for last in messages.last_attributions(streams[stream_id]).values():
                row.version += 1
                self.event(
                    stream_id,
                    row.version,
                    messages.INTERACTION_REATTRIBUTED,
                    messages.reattributed(last, client_id, row.client, why),
                )
                self.reattributed += 1
            row.client = client_id


class _Merging:
    """Says of every client id that stopped, or an alias of one, what it means now."""

    def __init__(
        self,
        settlement: Settlement,
        outcome: Resolution,
        area: Neighbourhood,
        *,
        before: Mapping[bytes, bytes],
        old_aliases: Mapping[bytes, bytes],
        triggers: Collection[bytes],
        decided: DecidedMerge | None,
    ) -> None:
        self.decided = decided
        self.settlement = settlement
        self.ledger = settlement.ledger
        self.rules = settlement.rules
        self.outcome = outcome
        self.area = area
        self.before = before
        self.old_aliases = old_aliases
        self.triggers = triggers

    def announce(self, former: Iterable[bytes]) -> None:
        """Emits ClientsMerged where what was said before leads elsewhere, and keeps every alias with its client."""
        live = self.outcome.clients
        vanished = [client_id for client_id in former if client_id not in live]
        targets: dict[bytes, bytes] = {}
        for client_id in vanished:
            targets[client_id] = self._target(client_id, client_id)
        for alias, client_id in self.old_aliases.items():
            if alias not in live:
                fallback = client_id if client_id in live else targets[client_id]
                targets[alias] = self._target(alias, fallback)
        parents: dict[bytes, bytes] = {}
        for alias in targets:
            row = self._row(alias)
            parents[alias] = b"" if row.state == LIVE else row.parent
        for alias, target in targets.items():
            if self._leads(alias, parents) != target:
                parents[alias] = target
                self._merge(alias, target)
        self._keep(targets, parents)
        if self.decided is not None:
            self._merge_halves(self.decided.clients)

    def _merge_halves(self, clients: tuple[bytes, bytes]) -> None:
        """The decision brought two personas together whose clients' ids both stand for the rest of them still."""
        client_id, other = clients
        self._merge(other, client_id)
        opened = pb.ClientOpened(
            client_id=other.hex(),
            evidence=self.settlement.evidence(self.outcome.homes[self.outcome.clients[other].members[0]][1]),
        )
        self.settlement.client_event(other, self._row(other), messages.CLIENT_OPENED, opened.SerializeToString())

    def _target(self, client_id: bytes, fallback: bytes) -> bytes:
        """The client that an id means now: whose its anchor is."""
        anchor = self._row(client_id).anchor
        if not anchor.type:
            home = self.outcome.homes.get(anchor.key)
            if home is not None:
                return home[0]
        else:
            link = self.outcome.links.get(anchor.key)
            if link is not None:
                return link.client_id
        if fallback != client_id:
            return fallback
        # The anchor is nobody's now: the id goes where its oldest persona went.
        oldest = min(
            (persona_id for persona_id, owner in self.before.items() if owner == client_id),
            key=lambda each: self.area.rows[each].first,
        )
        return self.outcome.homes[oldest][0]

    def _leads(self, alias: bytes, parents: Mapping[bytes, bytes]) -> bytes:
        """Where somebody who follows what was announced ends."""
        seen = {alias}
        client_id = parents[alias]
        while client_id in parents and client_id not in seen:
            seen.add(client_id)
            client_id = parents[client_id]
        return client_id

    def _merge(self, alias: bytes, target: bytes) -> None:
        decided, self.decided = self.decided, None if self.decided and alias in self.decided.clients else self.decided
        if decided is not None and self.decided is None:
            # The surviving side's persona first, as for every merge.
            ours, theirs = decided.personas
            personas = (ours, theirs) if alias == decided.clients[1] else (theirs, ours)
            merge_id, basis = decided.merge_id, Basis(MANUAL, ())
        else:
            decided = None
            personas = self._speakers(alias, target)
            merge_id, basis = automatic_merge_id(alias, target), self._basis(alias, personas)
            if basis.rule == MANUAL:
                # What holds the two together is a decision that has its own name: undo that one.
                personas, basis = (), Basis(RENAMED, basis.evidence)
        merged = pb.ClientsMerged(
            merge_id=merge_id.hex(),
            client_id=target.hex(),
            merged_client_id=alias.hex(),
            evidence=self.settlement.evidence(basis),
            decided_by=decided.decided_by if decided else "",
            reason=decided.reason if decided else "",
            persona_ids=personas,
        )
        self.settlement.client_event(
            target,
            self._row(target),
            messages.CLIENTS_MERGED,
            merged.SerializeToString(),
            basis=basis,
            event_id=merge_id if decided else None,
        )
        if not personas:
            return
        known = self.ledger.merges.get(merge_id)
        self.ledger.merges.put(
            merge_id,
            MergeRow(
                client=target,
                merged=alias,
                # What was undone stays undone between the two it was undone for.
                personas=known.personas if known is not None and known.undone else personas,
                basis=basis,
                rules_version=self.rules.version,
                at=self.settlement.cause.at,
                decided_by=merged.decided_by,
                reason=merged.reason,
                manual=decided is not None,
                undone=known is not None and known.undone,
            ),
        )
        for client_id in (alias, target):
            self.ledger.index(CLIENT_MERGES, client_id + merge_id)

    def _speakers(self, alias: bytes, target: bytes) -> tuple[bytes, ...]:
        """The persona that speaks for either side, the surviving one's first; none where there are no two sides."""
        members = self.outcome.clients[target].members
        merged = [persona_id for persona_id in members if self.before.get(persona_id) == alias]
        if not merged:
            # It was an alias before: those that present what it was made of.
            key = self._row(alias).anchor.key
            merged = [
                persona_id
                for persona_id in members
                if persona_id == key or any(each.hash == key for each in self.area.rows[persona_id].identifiers)
            ]
        others = [persona_id for persona_id in members if persona_id not in merged]
        staying = [persona_id for persona_id in others if self.before.get(persona_id) == target] or others
        if not merged or not staying:
            return ()
        return self._surest(staying), self._surest(merged)

    def _surest(self, personas: Iterable[bytes]) -> bytes:
        return min(personas, key=lambda each: standing(self.area.rows[each].persona(each), self.rules))

    def _basis(self, alias: bytes, personas: tuple[bytes, ...]) -> Basis:
        if not personas:
            return Basis(RENAMED, ())
        members = self.outcome.clients[self.outcome.homes[personas[1]][0]].members
        came = [persona_id for persona_id in members if persona_id in self.triggers]
        own = [persona_id for persona_id in members if self.before.get(persona_id, alias) == alias]
        for persona_id in (*came, *own):
            joined = self.outcome.joins.get(persona_id)
            if joined is not None:
                return joined
        return self.outcome.homes[personas[1]][1]

    def _keep(self, targets: Mapping[bytes, bytes], parents: Mapping[bytes, bytes]) -> None:
        kept: dict[bytes, set[bytes]] = {client_id: set() for client_id in self.outcome.clients}
        for alias, target in targets.items():
            kept[target].add(alias)
            row = self._row(alias)
            parent = parents[alias] or target
            if (row.state, row.parent) != (ALIAS, parent) or row.aliases:
                row.state, row.parent, row.aliases = ALIAS, parent, ()
                self.ledger.clients.put(alias, row)
        for client_id, aliases in kept.items():
            row = self._row(client_id)
            ordered = tuple(sorted(aliases))
            if row.aliases != ordered:
                row.aliases = ordered
                self.ledger.clients.put(client_id, row)

    def _row(self, client_id: bytes) -> ClientRow:
        return self.ledger.clients.must(client_id)
