"""What `resolve` would say of a persona that comes new, in the two cases that are nearly all of them.

Each answers None wherever it is not certain; then the whole neighbourhood has to be resolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from identity.domain.personas import OrderKey, Persona, Presented
from identity.domain.resolution import ANONYMOUS, Basis
from identity.domain.rules import Rules, TypeRule


class KnownIdentifier(NamedTuple):
    """An identifier that was seen before, as far as this matters here. `client_id` is empty where it links nobody."""

    client_id: bytes
    reason: str
    basis: Basis
    identifies_person: bool
    contested: bool
    joins: bool
    beside: tuple[bytes, ...]


class KnownClient(NamedTuple):
    """A client as far as this matters here. `latest` is when its newest persona was first seen, or later."""

    latest: OrderKey
    constrained: bool
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """A new persona's place: what it links anew, and whom its limited identifiers are now seen beside."""

    home: Basis
    # The identifier that its client is named by, where it begins one.
    speaker: Presented | None
    known_person: bool
    # In order of strength, with what else is to be known of each.
    linked: tuple[tuple[Presented, bool, bool], ...]
    counts: Mapping[str, int]
    beside: Mapping[bytes, tuple[bytes, ...]]


class _Ranked(NamedTuple):
    priority: int
    hash: bytes
    identifier: Presented
    rule: TypeRule
    joins: bool


def alone(persona: Persona, rules: Rules) -> Fit | None:
    """The place of a persona of whose identifiers none was seen before: a client of its own."""
    ranked = _rank(persona.identifiers, rules)
    if len(ranked) != len(persona.identifiers):
        return None
    first = persona.first.interaction_id
    if not ranked:
        return Fit(Basis(ANONYMOUS, (first,)), None, False, (), {}, {})
    beside = _beside(ranked, {})
    counts = _counts(ranked, {})
    if beside is None or counts is None:
        return None
    speaker = _speaker(ranked)
    return Fit(
        home=Basis(rules.name(speaker.type), (first,)),
        speaker=ranked[0].identifier,
        known_person=any(_is_person(each) for each in ranked),
        linked=tuple((each.identifier, _is_person(each), each.joins) for each in ranked),
        counts=counts,
        beside=beside,
    )


def attached(
    persona: Persona, rules: Rules, known: Mapping[bytes, KnownIdentifier], client_id: bytes, client: KnownClient
) -> Fit | None:
    """The place of the newest persona of a client, whose identifiers are the client's or were never seen before."""
    if client.constrained or persona.first <= client.latest:
        return None
    # What links nobody stays out, whoever presents it once more.
    presented = [each for each in persona.identifiers if each.hash not in known or not known[each.hash].reason]
    ranked = _rank(presented, rules)
    if len(ranked) != len(presented):
        return None
    own = [each for each in ranked if each.hash in known]
    if not own or any(known[each.hash].client_id != client_id or known[each.hash].contested for each in own):
        return None
    if any(_is_person(each) and not (each.hash in known and known[each.hash].identifies_person) for each in ranked):
        return None
    by = _finder(ranked, known)
    new = [each for each in ranked if each.hash not in known]
    beside = _beside(ranked, known)
    counts = _counts(new, client.counts)
    if by is None or beside is None or counts is None:
        return None
    return Fit(
        home=known[by].basis,
        speaker=None,
        known_person=False,
        linked=tuple((each.identifier, False, each.joins) for each in new),
        counts=counts,
        beside=beside,
    )


def _rank(identifiers: Sequence[Presented], rules: Rules) -> list[_Ranked]:
    """Identifiers that may link, the one that speaks first in front."""
    ranked: list[_Ranked] = []
    for each in identifiers:
        if each.usable and not rules.is_blocked(each.type, each.hash):
            rule = rules.of(each.type)
            ranked.append(_Ranked(rule.priority, each.hash, each, rule, rules.joins(each.type, each.verified)))
    ranked.sort(key=lambda each: (each.priority, each.hash))
    return ranked


def _is_person(ranked: _Ranked) -> bool:
    return ranked.rule.identifies_person and ranked.identifier.verified


def _speaker(ranked: Sequence[_Ranked]) -> Presented:
    """What finds the client: a person first, then what joins, then what does not."""
    surest = [each for each in ranked if _is_person(each)] or [each for each in ranked if each.joins] or ranked
    return surest[0].identifier


def _finder(ranked: Sequence[_Ranked], known: Mapping[bytes, KnownIdentifier]) -> bytes | None:
    persons = [each for each in ranked if _is_person(each)]
    strong = [each for each in ranked if each.joins]
    for each in persons or strong or ranked:
        if each.hash in known and (not strong or known[each.hash].joins):
            return each.hash
    return None


def _beside(ranked: Sequence[_Ranked], known: Mapping[bytes, KnownIdentifier]) -> dict[bytes, tuple[bytes, ...]] | None:
    """Of each limited identifier the persons seen beside it, None where they are too many."""
    persons = [each.hash for each in ranked if each.rule.identifies_person]
    beside: dict[bytes, tuple[bytes, ...]] = {}
    for each in ranked:
        limit = each.rule.max_persons
        if limit:
            seen = {*(known[each.hash].beside if each.hash in known else ()), *persons} - {each.hash}
            if len(seen) > limit:
                return None
            beside[each.hash] = tuple(sorted(seen))
    return beside


def _counts(ranked: Sequence[_Ranked], before: Mapping[str, int]) -> dict[str, int] | None:
    """How many identifiers of each type the client has with these, None where they are too many."""
    counts = dict(before)
    for each in ranked:
        type_ = each.identifier.type
        counts[type_] = counts.get(type_, 0) + 1
        if each.rule.max_per_client and counts[type_] > each.rule.max_per_client:
            return None
    return counts
