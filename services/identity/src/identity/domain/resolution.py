"""Who is who: clients, links, proposals, as a pure function of a set of personas and the decisions that stand.

The order in which interactions arrived plays no part (law 3). Personas are taken by the strength of what they present,
and within that in canonical order of when they were first seen:

1. those that present a verified identifier which identifies a person, so that who is a known person is settled first;
2. those that present any other identifier that joins;
3. those that present only what finds a client and never joins two: a cookie, an address that nobody proved. What such
   an identifier did before anybody was known by it belongs to whoever was first known with it.

Two clients become one where an identifier that joins is found with both, unless both are known persons (law 8), a
person undid that merge, or the result would break a limit. A decision to merge outweighs all of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from identity.domain.personas import Anchor, OrderKey, Persona, Presented, anchor_of, automatic_merge_id
from identity.domain.rules import Rules

ANONYMOUS: Final = "anonymous"
MANUAL: Final = "manual"

BLOCKED_VALUE: Final = "blocked_value"
BLOCKED_SHAPE: Final = "blocked_shape"
SHARED: Final = "shared_by_too_many"
OVER_LIMIT: Final = "over_client_limit"
UNDONE: Final = "merge_undone"


class Basis(NamedTuple):
    """Why something stands: the rule, and the ids (16 bytes) of interactions or decisions it rests on."""

    rule: str
    evidence: tuple[bytes, ...]


class Joined(NamedTuple):
    """A person decided that the clients of these two personas are one."""

    merge_id: bytes
    personas: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of people that stand: merges made, and pairs that evidence must never join again."""

    joined: tuple[Joined, ...] = ()
    parted: tuple[tuple[bytes, bytes], ...] = ()


NO_DECISIONS: Final = Decisions()


class Link(NamedTuple):
    """An identifier that belongs to a client."""

    type: str
    client_id: bytes
    basis: Basis
    # It makes its client a known person.
    identifies_person: bool
    # Some persona that presents it belongs to another client.
    contested: bool
    # Some persona presents it so that it joins.
    joins: bool


class Unlinked(NamedTuple):
    """An identifier that belongs to nobody, and why."""

    type: str
    reason: str
    basis: Basis


@dataclass(frozen=True, slots=True)
class Client:
    """Personas that are one client."""

    id: bytes
    anchor: Anchor
    opened: OrderKey
    known_person: bool
    # In canonical order.
    members: tuple[bytes, ...]
    # How many identifiers of each type it has.
    counts: Mapping[str, int]


class Proposal(NamedTuple):
    """Evidence joins two clients that only a person may merge. Ids in ascending order."""

    client_id: bytes
    other_client_id: bytes
    basis: Basis


@dataclass(frozen=True, slots=True)
class Resolution:
    """What follows from the personas."""

    clients: dict[bytes, Client]
    homes: dict[bytes, tuple[bytes, Basis]]
    """Per persona: its client, and why."""
    links: dict[bytes, Link]
    unlinked: dict[bytes, Unlinked]
    proposals: dict[bytes, Proposal]
    """By the id that the merge would have."""
    joins: dict[bytes, Basis]
    """Per persona that made two clients one: why."""
    beside: dict[bytes, frozenset[bytes]]
    """Per limited identifier: the identifiers of persons seen beside it."""
    strongest: dict[bytes, bytes]
    """Per client: the persona that says most surely who it is."""


class _Strength(NamedTuple):
    """Sorts identifiers, the one that speaks first in front."""

    priority: int
    hash: bytes
    identifier: Presented


@dataclass(slots=True, eq=False)
class _Unit:
    """Personas that count as one: a single one, or several that a person joined."""

    personas: list[Persona]
    first: OrderKey
    tier: int
    # Sorted by strength.
    strong: list[Presented]
    weak: list[Presented]
    # Of the strong ones, the verified ones that identify a person.
    persons: list[Presented]
    decisions: tuple[bytes, ...] = ()

    @property
    def eligible(self) -> list[Presented]:
        return self.strong + self.weak


@dataclass(slots=True, eq=False)
class _Cluster:
    units: list[_Unit] = field(default_factory=list[_Unit])
    owned: set[bytes] = field(default_factory=set[bytes])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    known: bool = False
    # A person decided about it: limits do not take it apart again.
    decided: bool = False
    merged_into: _Cluster | None = None


def resolve(
    personas: Iterable[Persona],
    rules: Rules,
    decisions: Decisions = NO_DECISIONS,
    *,
    shared: Collection[bytes] = (),
    generations: Mapping[bytes, int] | None = None,
) -> Resolution:
    """Decides who is who among personas of which no other shares an identifier that links.

    `shared` are identifiers already known to be shared by too many, of whose other personas some may be missing here;
    `generations` says how often an identifier was forgotten.
    """
    resolver = _Resolver(list(personas), rules, decisions, frozenset(shared), generations or {})
    return resolver.run()


def standing(persona: Persona, rules: Rules) -> tuple[int, OrderKey]:
    """How surely a persona says who it is, surest first: identifies a person, joins, finds, says nothing."""
    tier = 3
    for identifier in persona.identifiers:
        if not identifier.usable or rules.is_blocked(identifier.type, identifier.hash):
            continue
        if identifier.verified and rules.of(identifier.type).identifies_person:
            return 0, persona.first
        tier = min(tier, 1 if rules.joins(identifier.type, identifier.verified) else 2)
    return tier, persona.first


class _Resolver:
    def __init__(
        self,
        personas: list[Persona],
        rules: Rules,
        decisions: Decisions,
        shared: frozenset[bytes],
        generations: Mapping[bytes, int],
    ) -> None:
        self.personas = personas
        self.rules = rules
        self.decisions = decisions
        self.shared = shared
        self.generations = generations
        self.types: dict[bytes, str] = {}
        self.excluded: dict[bytes, Unlinked] = {}
        self.refused: dict[bytes, Unlinked] = {}
        self.persons: set[bytes] = set()
        self.owner: dict[bytes, _Cluster] = {}
        self.link_basis: dict[bytes, Basis] = {}
        self.home: dict[int, _Cluster] = {}
        self.home_by: dict[int, Presented | None] = {}
        self.parted: dict[bytes, set[bytes]] = {}
        self.proposed: list[tuple[_Cluster, _Cluster, Basis]] = []
        self.joins: dict[bytes, Basis] = {}
        self.beside: dict[bytes, frozenset[bytes]] = {}

    def run(self) -> Resolution:
        self._exclude()
        units = self._units()
        self.persons = {each.hash for unit in units for each in unit.persons}
        self._part()
        strong = sorted((unit for unit in units if unit.tier < 2), key=_place)
        weak = sorted((unit for unit in units if unit.tier == 2), key=_place)
        silent = [unit for unit in units if unit.tier == 3]
        for unit in strong:
            if unit.tier <= 0:
                self._found(unit)
        for unit in strong:
            self._place_strong(unit)
        for unit in strong:
            cluster = _root(self.home[id(unit)])
            for identifier in unit.weak:
                if identifier.hash not in self.owner:
                    self._link(cluster, identifier, unit)
        for unit in weak:
            self._place_weak(unit)
        for unit in silent:
            self._settle(unit, _Cluster(), None)
        return self._outcome(strong + weak + silent)

    # What takes part.

    def _exclude(self) -> None:
        """Finds the identifiers that link nobody: unusable, blocked, or seen beside too many persons."""
        rules, excluded, types = self.rules, self.excluded, self.types
        beside: dict[bytes, set[bytes]] = {}
        for persona in sorted(self.personas, key=lambda each: each.first):
            persons: list[bytes] = []
            limited: list[Presented] = []
            for identifier in persona.identifiers:
                key = identifier.hash
                types[key] = identifier.type
                reason = self._barred(identifier)
                if reason:
                    if key not in excluded:
                        evidence = Basis(rules.name(identifier.type), (persona.first.interaction_id,))
                        excluded[key] = Unlinked(identifier.type, reason, evidence)
                    continue
                rule = rules.of(identifier.type)
                if rule.identifies_person:
                    persons.append(key)
                if rule.max_persons:
                    limited.append(identifier)
            for identifier in limited:
                key = identifier.hash
                seen = beside.setdefault(key, set())
                seen.update(persons)
                seen.discard(key)
                if key not in excluded and (key in self.shared or len(seen) > rules.of(identifier.type).max_persons):
                    evidence = Basis(rules.name(identifier.type), (persona.first.interaction_id,))
                    excluded[key] = Unlinked(identifier.type, SHARED, evidence)
        self.beside = {key: frozenset(seen) for key, seen in beside.items()}

    def _barred(self, identifier: Presented) -> str:
        if not identifier.usable:
            return BLOCKED_SHAPE
        return BLOCKED_VALUE if self.rules.is_blocked(identifier.type, identifier.hash) else ""

    def _units(self) -> list[_Unit]:
        """Single personas, and groups that people joined."""
        known = {persona.id for persona in self.personas}
        group: dict[bytes, bytes] = {}

        def top(persona: bytes) -> bytes:
            while (above := group.get(persona, persona)) != persona:
                persona = above
            return persona

        decided: dict[bytes, list[bytes]] = {}
        joined = [each for each in self.decisions.joined if known.issuperset(each.personas)]
        for each in joined:
            one, other = sorted(top(persona) for persona in each.personas)
            group[other] = one
        for each in sorted(joined):
            decided.setdefault(top(each.personas[0]), []).append(each.merge_id)
        gathered: dict[bytes, list[Persona]] = {}
        for persona in self.personas:
            gathered.setdefault(top(persona.id) if group else persona.id, []).append(persona)
        return [self._unit(members, tuple(decided.get(key, ()))) for key, members in gathered.items()]

    def _unit(self, members: list[Persona], decisions: tuple[bytes, ...]) -> _Unit:
        rules = self.rules
        strong: dict[bytes, _Strength] = {}
        weak: dict[bytes, _Strength] = {}
        persons: set[bytes] = set()
        for persona in members:
            for identifier in persona.identifiers:
                if identifier.hash in self.excluded:
                    continue
                rule = rules.of(identifier.type)
                strength = _Strength(rule.priority, identifier.hash, identifier)
                joins = rules.joins(identifier.type, identifier.verified)
                (strong if joins else weak)[identifier.hash] = strength
                if identifier.verified and rule.identifies_person:
                    persons.add(identifier.hash)
        for key in strong:
            weak.pop(key, None)
        if decisions and not strong:
            # Joined by decision alone: what the two presented must hold the unit together.
            strong, weak = weak, {}
        ordered = [strength.identifier for strength in sorted(strong.values())]
        return _Unit(
            personas=members,
            first=min(persona.first for persona in members),
            tier=-1 if decisions else 0 if persons else 1 if strong else 2 if weak else 3,
            strong=ordered,
            weak=[strength.identifier for strength in sorted(weak.values())],
            persons=[identifier for identifier in ordered if identifier.hash in persons],
            decisions=decisions,
        )

    def _part(self) -> None:
        """Turns undone merges into pairs of identifiers that evidence must not bring together."""
        if not self.decisions.parted:
            return
        personas = {persona.id: persona for persona in self.personas}
        for one, other in map(sorted, self.decisions.parted):
            if one in personas and other in personas:
                pair = self._speakers(personas[one], personas[other])
                if pair is not None:
                    self.parted.setdefault(pair[0], set()).add(pair[1])
                    self.parted.setdefault(pair[1], set()).add(pair[0])

    def _speakers(self, one: Persona, other: Persona) -> tuple[bytes, bytes] | None:
        """The strongest identifiers of two personas that tell them apart, None where nothing does."""
        left, right = self._ranked(one), self._ranked(other)
        if not left or not right:
            return None
        if left[0] != right[0]:
            return left[0], right[0]
        # Both speak by the same identifier: the one that presents more stands apart by its next.
        if len(right) > 1:
            return left[0], right[1]
        return (left[1], right[0]) if len(left) > 1 else None

    def _ranked(self, persona: Persona) -> list[bytes]:
        return [
            identifier.hash
            for identifier in sorted(
                (each for each in persona.identifiers if each.hash not in self.excluded),
                key=lambda each: (self.rules.of(each.type).priority, each.hash),
            )
        ]

    # Who it belongs to.

    def _found(self, unit: _Unit) -> None:
        """Settles a known person, or what a person joined, by that alone: what else it presents comes later."""
        keys = unit.strong if unit.decisions else unit.persons
        by = next((each for each in keys if each.hash in self.owner), None)
        home = _Cluster() if by is None else _root(self.owner[by.hash])
        home.decided = home.decided or bool(unit.decisions)
        for identifier in keys:
            if identifier.hash not in self.owner:
                self._link(home, identifier, unit)
        self._settle(unit, home, by or (keys[0] if keys else None))

    def _place_strong(self, unit: _Unit) -> None:
        if unit.tier > 0:
            self._settle(unit, *self._find(unit.strong))
        home = _root(self.home[id(unit)])
        for identifier in unit.strong:
            if identifier.hash not in self.owner:
                self._link(home, identifier, unit)
        for identifier in unit.strong:
            other = self._owner(identifier.hash)
            if other is not None:
                home = self._join(_root(home), other, identifier, unit)

    def _find(self, identifiers: list[Presented]) -> tuple[_Cluster, Presented]:
        """The cluster that the strongest of the identifiers finds, or a new one.

        What the strongest must be kept apart from is not found by a weaker one.
        """
        speaker = identifiers[0]
        for identifier in identifiers:
            owner = self._owner(identifier.hash)
            if owner is not None and (identifier is speaker or not self._kept_apart(owner, (speaker.hash,))):
                return owner, identifier
        return _Cluster(), speaker

    def _place_weak(self, unit: _Unit) -> None:
        home, by = self._find(unit.weak)
        for identifier in unit.weak:
            if identifier.hash not in self.owner:
                self._link(home, identifier, unit)
        self._settle(unit, home, by)

    def _settle(self, unit: _Unit, home: _Cluster, by: Presented | None) -> None:
        home.units.append(unit)
        self.home[id(unit)] = home
        self.home_by[id(unit)] = by

    def _link(self, cluster: _Cluster, identifier: Presented, unit: _Unit) -> None:
        rule = self.rules.of(identifier.type)
        basis = Basis(self.rules.name(identifier.type), (unit.first.interaction_id,))
        count = cluster.counts.get(identifier.type, 0)
        if not unit.decisions:
            reason = ""
            if rule.max_per_client and count >= rule.max_per_client and not cluster.decided:
                reason = OVER_LIMIT
            elif self._kept_apart(cluster, [identifier.hash]):
                reason = UNDONE
            if reason:
                self.refused.setdefault(identifier.hash, Unlinked(identifier.type, reason, basis))
                return
        cluster.owned.add(identifier.hash)
        cluster.counts[identifier.type] = count + 1
        cluster.known = cluster.known or identifier.hash in self.persons
        self.owner[identifier.hash] = cluster
        self.link_basis[identifier.hash] = basis

    def _join(self, one: _Cluster, other: _Cluster, by: Presented, unit: _Unit) -> _Cluster:
        """Makes two clusters one where that is allowed, and says so where a person should look."""
        if one is other:
            return one
        basis = Basis(self.rules.name(by.type), (unit.first.interaction_id,))
        if self._kept_apart(one, other.owned):
            return one
        if (one.known and other.known) or self._over_limit(one, other):
            self.proposed.append((one, other, basis))
            return one
        small, large = sorted((one, other), key=lambda each: (len(each.owned), len(each.units)))
        small.merged_into = large
        large.units += small.units
        large.owned |= small.owned
        for type_, count in small.counts.items():
            large.counts[type_] = large.counts.get(type_, 0) + count
        large.known = large.known or small.known
        large.decided = large.decided or small.decided
        for persona in unit.personas:
            self.joins.setdefault(persona.id, basis)
        return large

    def _over_limit(self, one: _Cluster, other: _Cluster) -> bool:
        if one.decided or other.decided:
            return False
        for type_, count in one.counts.items():
            limit = self.rules.of(type_).max_per_client
            if limit and count + other.counts.get(type_, 0) > limit and type_ in other.counts:
                return True
        return False

    def _kept_apart(self, cluster: _Cluster, identifiers: Iterable[bytes]) -> bool:
        if not self.parted:
            return False
        return any(not cluster.owned.isdisjoint(self.parted[key]) for key in identifiers if key in self.parted)

    def _owner(self, key: bytes) -> _Cluster | None:
        owner = self.owner.get(key)
        return None if owner is None else _root(owner)

    # What follows.

    def _outcome(self, units: list[_Unit]) -> Resolution:
        clients: dict[bytes, Client] = {}
        homes: dict[bytes, tuple[bytes, Basis]] = {}
        strongest: dict[bytes, bytes] = {}
        ids: dict[int, bytes] = {}
        for cluster in {id(root): root for unit in units if (root := _root(self.home[id(unit)]))}.values():
            client = self._client(cluster)
            clients[client.id] = client
            ids[id(cluster)] = client.id
            surest = min(cluster.units, key=_place)
            strongest[client.id] = min(surest.personas, key=lambda each: standing(each, self.rules)).id
            for unit in cluster.units:
                basis = self._home_basis(unit)
                for persona in unit.personas:
                    homes[persona.id] = (client.id, basis)
        return Resolution(
            clients=clients,
            homes=homes,
            links=self._links(units, ids),
            unlinked={
                **self.excluded,
                **{key: why for key, why in self.refused.items() if key not in self.owner},
            },
            proposals=self._proposals(ids),
            joins=self.joins,
            beside=self.beside,
            strongest=strongest,
        )

    def _client(self, cluster: _Cluster) -> Client:
        members = sorted((persona for unit in cluster.units for persona in unit.personas), key=lambda each: each.first)
        opener = members[0]
        held = [each for each in opener.identifiers if each.hash in cluster.owned]
        speaker = min(held, key=lambda each: (self.rules.of(each.type).priority, each.hash), default=None)
        anchor = anchor_of(opener, speaker, self.generations)
        return Client(
            id=anchor.client_id,
            anchor=anchor,
            opened=opener.first,
            known_person=cluster.known,
            members=tuple(persona.id for persona in members),
            counts=cluster.counts,
        )

    def _home_basis(self, unit: _Unit) -> Basis:
        if unit.decisions:
            return Basis(MANUAL, unit.decisions)
        by = self.home_by[id(unit)]
        if by is None:
            return Basis(ANONYMOUS, (unit.first.interaction_id,))
        return self.link_basis.get(by.hash) or Basis(self.rules.name(by.type), (unit.first.interaction_id,))

    def _links(self, units: list[_Unit], ids: Mapping[int, bytes]) -> dict[bytes, Link]:
        joining: set[bytes] = set()
        contested: set[bytes] = set()
        for unit in units:
            home = _root(self.home[id(unit)])
            joining.update(each.hash for each in unit.strong)
            contested.update(each.hash for each in unit.eligible if self._owner(each.hash) is not home)
        return {
            key: Link(
                type=self.types[key],
                client_id=ids[id(_root(owner))],
                basis=self.link_basis[key],
                identifies_person=key in self.persons,
                contested=key in contested,
                joins=key in joining,
            )
            for key, owner in self.owner.items()
        }

    def _proposals(self, ids: Mapping[int, bytes]) -> dict[bytes, Proposal]:
        proposals: dict[bytes, Proposal] = {}
        for one, other, basis in self.proposed:
            low, high = sorted((ids[id(_root(one))], ids[id(_root(other))]))
            if low != high:
                proposals.setdefault(automatic_merge_id(low, high), Proposal(low, high, basis))
        return proposals


def _place(unit: _Unit) -> tuple[int, OrderKey]:
    return unit.tier, unit.first


def _root(cluster: _Cluster) -> _Cluster:
    while cluster.merged_into is not None:
        cluster = cluster.merged_into
    return cluster
