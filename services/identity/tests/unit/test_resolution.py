"""Who is who, case by case: given these presentations, these are the clients."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_stories import hash_of, presented

from identity.domain.personas import OrderKey, Persona, automatic_merge_id
from identity.domain.resolution import (
    BLOCKED_SHAPE,
    BLOCKED_VALUE,
    NO_DECISIONS,
    OVER_LIMIT,
    SHARED,
    UNDONE,
    Decisions,
    Joined,
    Resolution,
    resolve,
)
from identity.domain.rules import SHIPPED_RULES, JoinPolicy, Rules, RuleSet, TypeRule, check_rules
from identity.domain.shortcuts import KnownClient, KnownIdentifier, alone, attached
from throughline_kernel import InvalidError

SHIPPED = Rules(SHIPPED_RULES)


def persona(name: str, at: int, *identifiers: str) -> Persona:
    key = name.encode().ljust(16, b"\0")
    return Persona(key, presented(*identifiers), OrderKey(at, "till", 0, key))


def together(outcome: Resolution) -> set[frozenset[str]]:
    """The names of the personas of each client."""
    return {
        frozenset(member.rstrip(b"\0").decode() for member in client.members) for client in outcome.clients.values()
    }


def groups(*names: str) -> set[frozenset[str]]:
    return {frozenset(name.split()) for name in names}


def linked(outcome: Resolution, type_: str, value: str) -> bytes:
    return outcome.links[hash_of(type_, value)].client_id


def test_what_a_cookie_did_belongs_to_who_logs_in_with_it() -> None:
    """The client keeps the id that its first interaction gave it."""
    outcome = resolve([persona("visit", 1, "cookie:k"), persona("login", 5, "cookie:k", "login:anna!")], SHIPPED)
    assert together(outcome) == groups("visit login")
    (client,) = outcome.clients.values()
    assert (client.anchor.type, client.known_person) == ("cookie", True)


def test_a_client_known_before_takes_in_what_her_cookie_did() -> None:
    """Though a cookie joins no two clients: nobody else was known by it."""
    outcome = resolve(
        [
            persona("purchase", 1, "login:anna!"),
            persona("visit", 3, "cookie:k"),
            persona("login", 5, "cookie:k", "login:anna!"),
        ],
        SHIPPED,
    )
    assert together(outcome) == groups("purchase visit login")


def test_a_cookie_of_two_known_people_is_the_first_ones() -> None:
    """The anonymous part goes with it, the people stay apart, and nobody is asked: a cookie is no evidence."""
    outcome = resolve(
        [
            persona("visit", 1, "cookie:k"),
            persona("anna", 5, "cookie:k", "login:anna!"),
            persona("bob", 4, "cookie:k", "login:bob!"),
        ],
        SHIPPED,
    )
    assert together(outcome) == groups("visit bob", "anna")
    assert not outcome.proposals


def test_a_claimed_address_finds_its_owner_and_joins_nobody() -> None:
    """Typed by somebody else, it brings that person's cookie nothing."""
    outcome = resolve(
        [
            persona("confirmed", 9, "email:anna!"),
            persona("typed", 1, "email:anna", "cookie:k"),
            persona("visit", 2, "cookie:k", "login:bob!"),
        ],
        SHIPPED,
    )
    assert together(outcome) == groups("confirmed typed", "visit")
    assert linked(outcome, "cookie", "k") == linked(outcome, "login", "bob")


def test_a_verified_address_joins_a_known_and_an_unknown_client() -> None:
    """And the merge names its evidence."""
    both = persona("both", 3, "login:anna!", "email:anna!")
    outcome = resolve(
        [persona("letter", 1, "email:anna!"), persona("shop", 2, "login:anna!"), both],
        SHIPPED,
    )
    assert together(outcome) == groups("letter shop both")
    outcome = resolve(
        [
            persona("letter", 1, "email:anna!"),
            persona("call", 2, "phone:1!"),
            persona("form", 3, "phone:1!", "email:anna!"),
        ],
        SHIPPED,
    )
    assert together(outcome) == groups("letter call form")
    basis = outcome.joins[persona("form", 3).id]
    assert (basis.rule, basis.evidence) == ("identifier.phone.verified", (persona("form", 3).id,))


def test_law_8_two_known_people_are_proposed() -> None:
    """One verified address with two logins joins nobody by itself."""
    outcome = resolve(
        [persona("anna", 1, "login:anna!", "email:home!"), persona("bob", 2, "login:bob!", "email:home!")], SHIPPED
    )
    assert together(outcome) == groups("anna", "bob")
    low, high = sorted(outcome.clients)
    ((merge_id, proposal),) = outcome.proposals.items()
    assert merge_id == automatic_merge_id(high, low)
    assert (proposal.client_id, proposal.other_client_id) == (low, high)
    assert outcome.links[hash_of("email", "home")].contested


def test_law_8_a_claim_makes_nobody_known() -> None:
    """Somebody who types another's card number is not that person, whoever came first."""
    for first, second in ((1, 2), (2, 1)):
        outcome = resolve(
            [persona("owner", first, "loyalty_card:7!"), persona("other", second, "login:bob!", "loyalty_card:7")],
            SHIPPED,
        )
        assert together(outcome) == groups("owner", "other")
        assert len(outcome.proposals) == 1


def test_a_decision_outweighs_and_its_undoing_leaves_no_trace() -> None:
    """Two known people are one where a person said so."""
    people = [persona("anna", 1, "login:anna!"), persona("bob", 2, "login:bob!"), persona("late", 3, "login:bob!")]
    joined = Joined(b"merge", (people[0].id, people[1].id))
    outcome = resolve(people, SHIPPED, Decisions(joined=(joined,)))
    assert together(outcome) == groups("anna bob late")
    assert outcome.homes[people[0].id][1].rule == "manual"
    assert together(resolve(people, SHIPPED, NO_DECISIONS)) == groups("anna", "bob late")


def test_what_was_parted_is_not_linked_by_whatever_comes() -> None:
    """Evidence that came before anything else does not get round it either."""
    letter, shop = persona("letter", 3, "email:anna!"), persona("shop", 2, "login:anna!")
    parted = Decisions(parted=((letter.id, shop.id),))
    for at in (1, 4):
        outcome = resolve([letter, shop, persona("both", at, "login:anna!", "email:anna!")], SHIPPED, parted)
        assert together(outcome) == groups("letter", "shop both")
        assert not outcome.proposals
    outcome = resolve([shop, persona("both", 1, "login:anna!", "email:anna!")], SHIPPED, parted)
    assert not outcome.unlinked
    parted = Decisions(parted=((shop.id, persona("typed", 9, "login:anna!", "email:x!").id),))
    outcome = resolve([shop, persona("typed", 9, "login:anna!", "email:x!")], SHIPPED, parted)
    assert outcome.unlinked[hash_of("email", "x")].reason == UNDONE


def test_placeholders_and_blocked_values_link_nobody() -> None:
    """Whoever presents only these stands alone."""
    blocked = Rules(SHIPPED_RULES, lambda type_, key: key == hash_of("email", "info"))
    outcome = resolve(
        [persona("a", 1, "email:?!"), persona("b", 2, "email:?!"), persona("c", 3, "email:info!", "email:?")], blocked
    )
    assert together(outcome) == groups("a", "b", "c")
    assert outcome.unlinked[hash_of("email", "?")].reason == BLOCKED_SHAPE
    assert outcome.unlinked[hash_of("email", "info")].reason == BLOCKED_VALUE


def test_an_identifier_of_too_many_people_links_nobody_any_more() -> None:
    """A kiosk's cookie: what it linked before stands alone again."""
    people = [persona(f"p{number}", number, "cookie:kiosk", f"login:l{number}!") for number in range(6)]
    visit = persona("visit", 0, "cookie:kiosk")
    assert together(resolve([visit, *people[:5]], SHIPPED)) >= groups("visit p0")
    outcome = resolve([visit, *people], SHIPPED)
    assert groups("visit", "p0") <= together(outcome)
    assert outcome.unlinked[hash_of("cookie", "kiosk")].reason == SHARED


def test_a_client_keeps_no_more_identifiers_than_its_limit() -> None:
    """The next one is not linked, and two clients that would have too many together are only proposed."""
    rules = Rules(
        RuleSet(1, (TypeRule("phone", 1, JoinPolicy.VERIFIED, max_per_client=1), TypeRule("*", 2, JoinPolicy.ALWAYS)))
    )
    outcome = resolve([persona("a", 1, "phone:1!", "badge:9"), persona("b", 2, "phone:2!", "badge:9")], rules)
    assert together(outcome) == groups("a b")
    assert outcome.unlinked[hash_of("phone", "2")].reason == OVER_LIMIT
    outcome = resolve(
        [persona("a", 1, "phone:1!", "badge:9"), persona("c", 2, "phone:2!"), persona("b", 3, "phone:2!", "badge:9")],
        rules,
    )
    assert len(together(outcome)) == 2
    assert len(outcome.proposals) == 1


def test_the_strongest_identifier_speaks_first() -> None:
    """Where they disagree and may not join, the interaction is the stronger one's."""
    outcome = resolve(
        [
            persona("card", 2, "loyalty_card:7!"),
            persona("login", 1, "login:anna!"),
            persona("both", 3, "loyalty_card:7!", "login:anna!"),
        ],
        SHIPPED,
    )
    assert together(outcome) == groups("card", "login both")


def test_a_forgotten_identifier_opens_another_client() -> None:
    """Its id is made of the generation, too."""
    person = persona("anna", 1, "login:anna!")
    (before,) = resolve([person], SHIPPED).clients
    (after,) = resolve([person], SHIPPED, generations={hash_of("login", "anna"): 1}).clients
    assert before != after


@given(
    st.lists(
        st.builds(
            lambda type_, value, verified: f"{type_}:{value}{'!' if verified else ''}",
            st.sampled_from(("login", "email", "cookie", "thing")),
            st.sampled_from("abc?"),
            st.booleans(),
        ),
        max_size=4,
        unique_by=lambda each: each.rstrip("!"),
    ),
    st.lists(
        st.builds(
            lambda type_, value, verified: f"{type_}:{value}{'!' if verified else ''}",
            st.sampled_from(("login", "email", "cookie", "thing")),
            st.sampled_from("abc?"),
            st.booleans(),
        ),
        max_size=4,
        unique_by=lambda each: each.rstrip("!"),
    ),
)
@settings(max_examples=300, deadline=None)
def test_shortcuts_say_what_the_resolution_says(first: list[str], second: list[str]) -> None:
    """Where a shortcut answers at all, resolving everything gives the same client, links and counts."""
    rules = Rules(
        RuleSet(
            1,
            (
                TypeRule("login", 1, JoinPolicy.ALWAYS, identifies_person=True, max_per_client=2),
                TypeRule("email", 2, JoinPolicy.VERIFIED, max_per_client=1, max_persons=1),
                TypeRule("cookie", 3, JoinPolicy.NEVER, max_persons=1),
                TypeRule("*", 4, JoinPolicy.VERIFIED),
            ),
        )
    )
    one, other = persona("one", 1, *first), persona("other", 2, *second)
    before = resolve([one], rules)
    fit = alone(one, rules)
    if fit is not None:
        (client,) = before.clients.values()
        assert fit.home == before.homes[one.id][1]
        assert fit.known_person == client.known_person
        assert dict(fit.counts) == dict(client.counts)
        assert {each.hash for each, _, _ in fit.linked} == before.links.keys()
        assert all(before.links[each.hash].identifies_person == person for each, person, _ in fit.linked)
        assert all(before.links[each.hash].joins == joins for each, _, joins in fit.linked)
        assert {key: frozenset(each) for key, each in fit.beside.items()} == before.beside
    (client,) = before.clients.values()
    known = {
        **{
            key: KnownIdentifier(
                link.client_id,
                "",
                link.basis,
                link.identifies_person,
                link.contested,
                link.joins,
                tuple(before.beside.get(key, ())),
            )
            for key, link in before.links.items()
        },
        **{
            key: KnownIdentifier(b"", each.reason, each.basis, False, False, False, ())
            for key, each in before.unlinked.items()
        },
    }
    seen = {each.hash: known[each.hash] for each in other.identifiers if each.hash in known}
    place = attached(other, rules, seen, client.id, KnownClient(one.first, False, client.counts))
    if place is not None:
        after = resolve([one, other], rules)
        (merged,) = after.clients.values()
        assert merged.id == client.id
        assert merged.known_person == client.known_person
        assert dict(merged.counts) == dict(place.counts)
        assert after.homes[other.id][1] == place.home
        assert after.links.keys() == before.links.keys() | {each.hash for each, _, _ in place.linked}
        assert not any(link.contested for link in after.links.values())
        assert all(after.beside[key] == frozenset(each) for key, each in place.beside.items())


@pytest.mark.parametrize(
    ("types", "field"),
    [
        ((TypeRule("email", 1, JoinPolicy.ALWAYS), TypeRule("email", 2, JoinPolicy.ALWAYS)), "rules.types[1].type"),
        ((TypeRule("", 1, JoinPolicy.ALWAYS),), "rules.types[0].type"),
        ((TypeRule("email", -1, JoinPolicy.ALWAYS),), "rules.types[0].priority"),
        ((TypeRule("email", 1, JoinPolicy.ALWAYS, max_persons=-1),), "rules.types[0].max_persons"),
        ((TypeRule("email", 1, JoinPolicy.NEVER, identifies_person=True),), "rules.types[0].join"),
        ((), "rules.types"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(types: tuple[TypeRule, ...], field: str) -> None:
    """The refusal names each field, its rule and the remedy."""
    others = (TypeRule("*", 9, JoinPolicy.NEVER),) if types else ()
    with pytest.raises(InvalidError) as refused:
        check_rules(RuleSet(1, (*types, *others)))
    assert refused.value.reason == "RULES_INVALID"
    (violation,) = refused.value.violations
    assert violation.field == field
    assert violation.remedy


def test_the_shipped_rules_are_sound() -> None:
    """They pass the check that published rules have to pass."""
    check_rules(SHIPPED_RULES)
