"""What identity announces, event by event."""

from __future__ import annotations

import pytest
from identity_stories import Identity, hash_of, interaction

from identity.application.attribution import Attribution
from identity.application.commands import (
    CancelForgetting,
    ForgetClient,
    MergeClients,
    Merged,
    PublishRetention,
    PublishRules,
    RecordConsent,
    UndoMerge,
)
from identity.application.explanations import sentence
from identity.application.replay import make_fold
from identity.application.rulebook import Rulebook
from identity.domain.retention import RetentionRule, RetentionRules
from identity.domain.rules import SHIPPED_RULES, RuleSet
from throughline.identity.v1 import events_pb2 as pb
from throughline_kernel import Fold


def kinds(identity: Identity, after: int = 0) -> list[str]:
    return [event.type.rsplit(".", 1)[-1] for event in identity.store.log[after:]]


def test_a_new_client_is_opened_linked_and_given_its_interaction() -> None:
    """In this order; a repeat of the persona adds one event, a repeat of the interaction none."""
    identity = Identity().hear(interaction("a", 5, "login:anna!", "cookie:k"))
    assert kinds(identity, 1) == ["ClientOpened", "IdentifierLinked", "IdentifierLinked", "InteractionAttributed"]
    identity.hear(interaction("b", 6, "login:anna!", "cookie:k"), interaction("a", 5, "login:anna!", "cookie:k"))
    assert kinds(identity, 5) == ["InteractionAttributed"]
    (opened,) = identity.events(pb.ClientOpened)
    first, second = identity.events(pb.InteractionAttributed)
    assert first.client_id == second.client_id == opened.client_id
    assert second.evidence.event_ids == [first.interaction.interaction_id, second.interaction.interaction_id]


def test_a_merge_moves_interactions_one_by_one_and_names_the_way_back() -> None:
    """ClientsMerged comes before what follows from it, with the persona of either side."""
    identity = Identity().hear(interaction("letter", 1, "email:a!"), interaction("reply", 2, "email:a!", words=True))
    identity.hear(interaction("call", 0, "phone:1!"))
    before = len(identity.store.log)
    identity.hear(interaction("form", 5, "phone:1!", "email:a!"))
    assert kinds(identity, before)[-4:] == [
        "ClientsMerged",
        "InteractionReattributed",
        "InteractionReattributed",
        "InteractionAttributed",
    ]
    (merged,) = identity.events(pb.ClientsMerged)
    assert merged.client_id == identity.client_of("call")
    assert len(merged.persona_ids) == 2
    moved = identity.events(pb.InteractionReattributed)
    assert [each.personal.box for each in moved] == [b"", b"sealed"]
    assert {each.previous_client_id for each in moved} == {merged.merged_client_id}
    assert all(identity.client_of("form") == each.client_id for each in moved)


def test_every_event_is_told_in_one_sentence() -> None:
    """Each type that identity writes, and what it does not know."""
    identity = Identity().hear(
        interaction("a", 1, "login:anna!", "email:a!", "email:?"),
        interaction("b", 2, "loyalty_card:7!"),
        interaction("c", 3, "loyalty_card:7!", "email:a!"),
    )
    one, other = (bytes.fromhex(identity.client_of(name)) for name in "ab")
    merged = identity.do(MergeClients(one, other, "kim", "asked"))
    assert isinstance(merged, Merged)
    identity.do(RecordConsent(one, "newsletter", True, "desk", "store"))
    identity.do(UndoMerge(merged.merge_id, "lee", "no"))
    identity.hear(interaction("d", 4, "cookie:k"), interaction("e", 5, "phone:1!"))
    identity.hear(interaction("f", 6, "phone:1!", "social_handle:x!"), interaction("g", 0, "social_handle:x!"))
    identity.do(PublishRules(RuleSet(0, SHIPPED_RULES.types), "kim"))
    identity.do(PublishRetention(RetentionRules(0, (RetentionRule("kiosk", 1, ("kiosk",)),)), "dpo"))
    identity.do(ForgetClient(one, "asked", "desk", grace=5))
    identity.do(CancelForgetting(one, "changed their mind", "desk"))
    identity.do(ForgetClient(one, "asked", "desk"))
    names = {
        kind.DESCRIPTOR.name for kind in vars(pb).values() if hasattr(kind, "DESCRIPTOR") and isinstance(kind, type)
    }
    assert names - {"Evidence"} == {*kinds(identity)}
    fold = make_fold()
    told: Fold = fold
    assert told.service == "identity"
    for event in identity.store.log:
        text = fold.describe(event)
        assert text.endswith(".")
        assert "\n" not in text
        assert text == sentence(event)


def test_blocked_values_are_given_in_the_clear_and_compared_as_hashes() -> None:
    """However they are written in the rules; `*` blocks them for every type without a rule of its own."""
    rules = RuleSet(
        1,
        tuple(
            each if each.type != "*" else type(each)("*", 9, each.join, blocked_values=("nobody",))
            for each in SHIPPED_RULES.types
        ),
    )
    compiled = Rulebook(lambda type_, value: hash_of(type_, value.lower())).compile(rules)
    assert compiled.is_blocked("badge", hash_of("badge", "nobody"))
    assert not compiled.is_blocked("badge", hash_of("badge", "anna"))
    assert compiled.is_blocked("email", hash_of("email", "info@test.com"))


def test_rules_that_were_never_installed_stop_the_handler() -> None:
    """Rather than deciding by none."""
    identity = Identity()
    identity.store.tables["rules"].clear()
    with pytest.raises(LookupError):
        Attribution(Rulebook(hash_of))(identity.store, [interaction("a", 1)])


def test_events_that_are_not_interactions_are_passed_over() -> None:
    """Ingestion logs more than identity listens to."""
    identity = Identity()
    event = interaction("a", 1)
    other = event._replace(type="throughline.ingestion.v1.OffersTallied")
    identity.hear(other)
    assert kinds(identity) == ["RulesPublished"]
