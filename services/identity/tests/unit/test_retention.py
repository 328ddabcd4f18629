"""Who is over by rules of retention, and that it is forgotten as anybody is."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from identity_stories import Identity, interaction

from identity.application.commands import (
    RETAINED,
    Extent,
    ForgetOver,
    Forgotten,
    MergeClients,
    Merged,
    PublishRetention,
    RecordConsent,
    RetentionPublished,
    Settled,
)
from identity.application.retention import Retention, retention_in_force
from identity.domain.refusals import RulesChangedError
from identity.domain.retention import (
    MAX_RULES,
    NO_RETENTION,
    Known,
    RetentionRule,
    RetentionRules,
    check_retention,
    rule_that_ends,
)
from throughline.identity.v1 import events_pb2 as pb
from throughline_kernel import Consent, Consents, InvalidError

KIOSK = RetentionRule("kiosk visits", 10, ("kiosk", "wifi"))
NEWSLETTER = RetentionRule("newsletter", 20, purpose="newsletter")
BOTH = RetentionRules(1, (KIOSK, NEWSLETTER))


def word(granted: bool, at: int, scope: str = "") -> Consent:
    """What a client said about the newsletter, on one channel or on all."""
    return Consent("newsletter", scope, granted, at, "desk", f"{at:032x}")


def known(last_seen: int, channels: Collection[str], *words: Consent) -> Known:
    """A client that said these words, and a later yes to something else."""
    survey = Consent("survey", "", granted=True, at=99, source="desk", event_id="f" * 32)
    return Known(last_seen, lambda: channels, lambda: Consents.of((*words, survey)))


@pytest.mark.parametrize(
    ("client", "over"),
    [
        (known(90, {"kiosk"}), KIOSK),
        (known(90, {"kiosk", "wifi"}), KIOSK),
        (known(91, {"kiosk"}), None),
        (known(90, {"kiosk", "store"}), None),
        (known(80, {"store"}), NEWSLETTER),
        (known(81, {"store"}), None),
        (known(0, {"store"}, word(True, 0)), None),
        (known(100, {"store"}, word(False, 80)), NEWSLETTER),
        (known(0, {"store"}, word(False, 81)), None),
        (known(0, {"store"}, word(False, 10, "mail"), word(True, 5, "web")), None),
        (known(0, {"store"}, word(False, 10, "mail"), word(False, 81, "web")), None),
        (known(0, {"store"}, word(True, 5, "web"), word(False, 10)), NEWSLETTER),
        (known(0, {"store"}, word(True, 11, "web"), word(False, 10)), None),
        (known(10, {"kiosk"}, word(True, 10)), KIOSK),
    ],
)
def test_the_first_rule_that_holds_ends_a_client(client: Known, over: RetentionRule | None) -> None:
    """At 100: by channel from when it was last seen; by purpose from its last word, where none of them is a yes."""
    assert rule_that_ends(BOTH, client, 100) == over


def test_channels_are_only_asked_for_where_they_decide() -> None:
    """Reading them costs the client's history."""

    def asked() -> Collection[str]:
        raise AssertionError("who was just seen is not over")

    assert rule_that_ends(BOTH, Known(95, asked, lambda: Consents.of([word(True, 1)])), 100) is None


def test_rules_that_nobody_could_follow_are_refused_all_at_once() -> None:
    """Each with the field, what it breaks and a remedy."""
    rules = (
        RetentionRule("", 1, ("kiosk",)),
        RetentionRule("twice", 0, ("kiosk", " ")),
        RetentionRule("twice", 1, ("kiosk",), "newsletter"),
        RetentionRule("nobody", 1),
        RetentionRule("no", 1, purpose="a\0b"),
    )
    with pytest.raises(InvalidError) as refused:
        check_retention(RetentionRules(1, rules))
    assert [each.field.removeprefix("rules.rules") for each in refused.value.violations] == [
        "[0].name",
        "[1].keep",
        "[1].channels",
        "[2].name",
        "[2]",
        "[3]",
        "[4].purpose",
    ]
    with pytest.raises(InvalidError, match=str(MAX_RULES)):
        check_retention(RetentionRules(1, tuple(RetentionRule(str(n), 1, ("kiosk",)) for n in range(MAX_RULES + 1))))
    check_retention(NO_RETENTION)


def test_a_client_that_is_over_is_forgotten_with_the_rule_as_the_reason() -> None:
    """The log alone gives the same state; an id that is no client, an alias, or one who came back stays."""
    identity = Identity().hear(interaction("a", 1, "login:anna!"), interaction("b", 2, "login:ben!"))
    identity.hear(interaction("c", 3, "login:cleo!"), interaction("d", 4, "login:dan!"))
    anna, ben, cleo, dan = (bytes.fromhex(identity.client_of(name)) for name in "abcd")
    assert identity.do(ForgetOver(anna)) == Settled()
    identity.do(MergeClients(ben, dan, "kim", "one household"))
    keep = identity.store.now - 10
    rules = RetentionRules(0, (RetentionRule("store", keep, ("store",)),))
    assert identity.do(PublishRetention(rules, "dpo")) == RetentionPublished(1)
    assert retention_in_force(identity.store) == RetentionRules(1, rules.rules)
    identity.hear(interaction("again", identity.store.now, "login:cleo!"))
    alias = dan if identity.client_of("d") == ben.hex() else ben
    for nobody in (bytes(16), cleo, alias):
        assert identity.do(ForgetOver(nobody)) == Settled()
    outcome = identity.do(ForgetOver(anna))
    assert isinstance(outcome, Forgotten)
    assert isinstance(outcome.extent, Extent)
    (forgotten,) = identity.events(pb.ClientForgotten)
    assert (forgotten.client_id, forgotten.decided_by) == (anna.hex(), RETAINED)
    assert forgotten.reason == "rule store of version 1 of the retention rules"
    assert identity.do(ForgetOver(anna)) == Settled()
    assert identity.live() == identity.replayed()
    assert "retention" in identity.live()


def test_what_a_client_said_under_an_alias_counts() -> None:
    """A yes that stands keeps it, whichever of its ids it was said to."""
    identity = Identity().hear(interaction("a", 1, "login:anna!"), interaction("b", 2, "login:ben!"))
    anna, ben = (bytes.fromhex(identity.client_of(name)) for name in "ab")
    identity.do(RecordConsent(anna, "newsletter", False, "desk", ""))
    identity.do(RecordConsent(ben, "newsletter", True, "desk", "store"))
    rules = RetentionRules(1, (RetentionRule("newsletter", 1, purpose="newsletter"),))
    later = identity.store.now + 10
    assert [each for each, rule in Retention(identity.store, rules).look(later) if rule] == [anna]
    merged = identity.do(MergeClients(anna, ben, "kim", "one household"))
    assert isinstance(merged, Merged)
    assert merged.client_id == anna
    assert not [each for each, rule in Retention(identity.store, rules).look(later) if rule]


def test_each_version_follows_the_one_before() -> None:
    """Rules that were read before others were published are refused; none at all end retention."""
    identity = Identity()
    identity.do(PublishRetention(BOTH, "dpo"))
    with pytest.raises(RulesChangedError):
        identity.do(PublishRetention(BOTH, "dpo"))
    assert identity.do(PublishRetention(RetentionRules(0, ()), "dpo")) == RetentionPublished(2)
    assert not list(Retention(identity.store, retention_in_force(identity.store)).look(identity.store.now))
    assert identity.live() == identity.replayed()
