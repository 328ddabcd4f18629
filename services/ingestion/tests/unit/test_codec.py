"""Between messages and the domain: nothing is lost, nothing personal gets out, and content has one code for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingestion_offers import NOTHING, NOW, PURCHASE, sent

from ingestion.adapters.codec import ContractCodec, read_interaction, write_personal
from ingestion.adapters.content import ContentMac
from ingestion.adapters.personas import Personas
from ingestion.adapters.reading import ContractReader
from ingestion.application.ports import Presence, SealedBox
from ingestion.domain.accounting import Tally
from ingestion.domain.interaction import (
    Exchange,
    Feedback,
    Identifier,
    Interaction,
    Money,
    PromiseMade,
    interaction_id_of,
)
from ingestion.domain.registry import ChannelTraits
from throughline.ingestion.v1 import events_pb2, interaction_pb2
from throughline_kernel import hex_id
from throughline_privacy import IdentifierHasher

READER = ContractReader(ContentMac(b"k" * 32), Personas(IdentifierHasher(b"h" * 32)))
CODEC = ContractCodec()
TRAITS = ChannelTraits("Store", physical=True, assisted=True, group="retail")

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=12)
ids = words.filter(bool)
snake = st.sampled_from(["purchase", "call", "on_time", "email"])
times = st.integers(0, 10**15)
monies = st.none() | st.builds(Money, st.integers(-(10**12), 10**12), st.sampled_from(["USD", "EUR"]))
interactions = st.builds(
    Interaction,
    source=st.just("till"),
    source_interaction_id=ids,
    channel=st.just("store"),
    touchpoint=words,
    kind=snake,
    occurred_at=st.integers(10**15, NOW),
    identifiers=st.lists(st.builds(Identifier, snake, words, st.integers(1, 2)), max_size=4).map(tuple),
    session_id=words,
    conversation_id=words,
    case_id=words,
    campaign_id=words,
    staff_id=words,
    location_id=words,
    matter=words,
    outcome=snake | st.just(""),
    value=monies,
    cost=monies,
    wait_time=times,
    handling_time=times,
    exchanges=st.lists(st.builds(Exchange, ids, words, st.integers(1, 2)), max_size=3).map(tuple),
    promises=st.lists(st.builds(PromiseMade, ids, words, st.just(0) | st.just(NOW)), max_size=2).map(tuple),
    promises_kept=st.lists(ids, max_size=2).map(tuple),
    attributes=st.sampled_from([b"", b'{"a":1}']),
    personal_attributes=st.sampled_from([b"", b'{"name":"Ann"}']),
    subject_type=st.integers(1, 2),
    feedback=st.lists(
        st.builds(
            Feedback,
            st.just(2),
            st.none() | st.integers(1, 5),
            st.just(1),
            st.just(5),
            words,
            words,
            words,
            st.booleans(),
            st.integers(1, 10**7),
        ),
        max_size=2,
    ).map(tuple),
    sequence=st.integers(0, 10**9),
)


@given(interactions)
def test_what_quarantine_keeps_whole_is_read_back_equal(interaction: Interaction) -> None:
    """Nothing of an interaction is lost by waiting."""
    message = interaction_pb2.Interaction.FromString(sent(interaction).SerializeToString())
    assert read_interaction(message, []) == interaction
    offer = READER.offer(message, NOW)
    assert offer.said is not None
    assert READER.offer_again(offer.said.whole, NOW) == offer
    assert offer.content_mac == ContentMac(b"k" * 32).of(interaction)


def test_the_domain_has_the_contracts_fields_in_their_order() -> None:
    """A field is read by its number: the domain must have a place for each."""
    assert [field.name for field in interaction_pb2.Interaction.DESCRIPTOR.fields] == list(Interaction._fields)
    assert [field.number for field in interaction_pb2.Interaction.DESCRIPTOR.fields] == [
        number for number, _ in enumerate(Interaction._fields, 1)
    ]
    assert read_interaction(interaction_pb2.Interaction(), []) == NOTHING


@given(interactions, st.none() | st.sampled_from([SealedBox(b"k" * 16, b"b" * size) for size in (60, 300, 70_000)]))
def test_what_is_put_together_by_hand_is_the_message(interaction: Interaction, sealed: SealedBox | None) -> None:
    """The parts of an InteractionRecorded, put together, decode to what the message would have held."""
    offer = READER.offer(sent(interaction), NOW)
    assert offer.said is not None
    presence = Presence(b"p" * 16, sealed)
    event = events_pb2.InteractionRecorded.FromString(CODEC.recorded(offer, offer.said, CODEC.traits(TRAITS), presence))
    assert event.content_mac == offer.content_mac
    assert event.HasField("personal") == (sealed is not None)
    assert sealed is None or (event.personal.key_id, event.personal.box) == sealed
    told = event.facts
    assert {(each.type, each.assurance) for each in told.identifiers} == {
        (type_, assurance) for type_, _, assurance in interaction.identifiers
    }
    assert told.persona_id == b"p" * 16
    assert (told.traits.name, told.traits.physical, told.traits.assisted, told.traits.group) == (
        "Store",
        True,
        True,
        "retail",
    )
    assert (told.interaction_id, told.persona_id) == (offer.interaction_id, b"p" * 16)
    for field in (
        "source",
        "source_interaction_id",
        "channel",
        "touchpoint",
        "kind",
        "occurred_at",
        "conversation_id",
        "case_id",
        "campaign_id",
        "staff_id",
        "location_id",
        "matter",
        "outcome",
        "wait_time",
        "handling_time",
        "attributes",
        "subject_type",
        "sequence",
    ):
        assert getattr(told, field) == getattr(interaction, field), field
    assert tuple(told.promises_kept) == interaction.promises_kept
    assert [(p.promise_id, p.text, p.due_at) for p in told.promises] == [tuple(p) for p in interaction.promises]
    assert [(f.score if f.HasField("score") else None, f.has_verbatim) for f in told.feedback] == [
        (f.score, bool(f.verbatim)) for f in interaction.feedback
    ]
    conflict = events_pb2.InteractionConflicted.FromString(
        CODEC.conflicted(offer, offer.said, b"", presence, recorded_content_mac=b"r" * 16)
    )
    assert (conflict.content_mac, conflict.recorded_content_mac) == (offer.content_mac, b"r" * 16)
    assert not conflict.facts.HasField("traits")
    assert conflict.HasField("personal") == (sealed is not None)


SECRET = "s3cret-words"
PERSONAL = PURCHASE._replace(
    identifiers=(Identifier("email", SECRET, 1),),
    session_id=SECRET,
    exchanges=(Exchange("size", "42", 2), Exchange("illness", SECRET, 1)),
    personal_attributes=json.dumps({"name": SECRET}).encode(),
    feedback=(Feedback(2, 1, 1, 5, SECRET, "food", "overall", True, 1_000_000),),
)


def test_nothing_personal_is_in_the_facts_and_all_of_it_is_in_what_is_sealed() -> None:
    """Operational answers cross the bus; of personal ones it says only that they were given."""
    offer = READER.offer(sent(PERSONAL), NOW)
    assert offer.said is not None
    payload = CODEC.recorded(offer, offer.said, CODEC.traits(TRAITS), Presence(b"p" * 16, None))
    assert SECRET.encode() not in payload
    facts = events_pb2.InteractionRecorded.FromString(payload).facts
    assert [(e.question, e.answer, e.sealed) for e in facts.exchanges] == [("size", "42", False), ("illness", "", True)]
    assert facts.feedback[0].has_verbatim
    sealed = interaction_pb2.PersonalValues.FromString(offer.said.personal)
    assert sealed.identifiers[0].value == SECRET
    assert [(e.question, e.answer) for e in sealed.exchanges] == [("illness", SECRET)]
    assert list(sealed.verbatims) == [SECRET]
    assert json.loads(sealed.personal_attributes) == {"name": SECRET}
    assert sealed.session_id == SECRET


def test_an_interaction_without_anything_personal_needs_no_key() -> None:
    """No key is made for nothing."""
    assert write_personal(PURCHASE._replace(identifiers=()), b"") == b""


def message(**fields: Any) -> interaction_pb2.Interaction:
    """A valid interaction as a source would send it, with these fields."""
    given: dict[str, Any] = {
        "source": "till",
        "source_interaction_id": "r1",
        "channel": "store",
        "kind": "purchase",
        "occurred_at": NOW,
    }
    return interaction_pb2.Interaction(**(given | fields))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"attributes": b'{"a":1,"b":[2]}'}, {"attributes": b' {"b": [2], "a": 1}'}),
        ({"personal_attributes": b'{"a":1,"b":2}'}, {"personal_attributes": b'{"b":2,"a":1}'}),
        ({"attributes": b"{}"}, {}),
        ({"subject_type": 1}, {}),
        (
            {"identifiers": [{"type": "email", "value": "a"}, {"type": "phone", "value": "1"}]},
            {
                "identifiers": [
                    {"type": "phone", "value": "1", "assurance": 1},
                    {"type": "email", "value": "a"},
                    {"type": "email", "value": "a", "assurance": 1},
                ]
            },
        ),
        (
            {"feedback": [{"kind": 2, "score": 3}]},
            {"feedback": [{"kind": 2, "score": 3, "scale_min": 1, "scale_max": 5, "weight_micros": 1_000_000}]},
        ),
        ({"exchanges": [{"question": "q"}]}, {"exchanges": [{"question": "q", "sensitivity": 1}]}),
    ],
)
def test_content_that_says_the_same_has_the_same_code(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Order of keys, order and repetition of identifiers, and defaults written out are no difference."""
    first, second = READER.offer(message(**one), NOW), READER.offer(message(**other), NOW)
    assert not first.violations
    assert first.content_mac == second.content_mac


@given(interactions, interactions)
def test_content_that_says_another_thing_has_another_code(one: Interaction, other: Interaction) -> None:
    """Every field counts."""
    mac = ContentMac(b"k" * 32)
    same = one._replace(identifiers=tuple(sorted(set(one.identifiers)))) == other._replace(
        identifiers=tuple(sorted(set(other.identifiers)))
    )
    assert (mac.of(one) == mac.of(other)) == same


def test_the_code_of_a_content_never_changes() -> None:
    """Golden: whatever is changed in the code, what is recorded must stay a duplicate of itself. Never edit these."""
    mac = ContentMac(bytes(range(32)))
    assert mac.of(PURCHASE).hex() == GOLDEN_PURCHASE
    assert mac.of(PERSONAL._replace(value=Money(1_250_000, "EUR"))).hex() == GOLDEN_PERSONAL
    assert ContentMac(b"another key of thirty-two bytes!").of(PURCHASE).hex() != GOLDEN_PURCHASE


@given(words, words)
def test_the_id_of_an_interaction_is_the_kernels(source: str, source_interaction_id: str) -> None:
    """Every service can name an interaction."""
    assert interaction_id_of(source, source_interaction_id) == hex_id("interaction", source, source_interaction_id)


def test_a_refused_event_is_named_where_it_can_be() -> None:
    """The source learns which of its events is meant; what cannot name a source is accounted under no name."""
    named = READER.offer(message(kind=""), NOW)
    assert (named.source, len(named.interaction_id), named.said) == ("till", 32, None)
    nameless = READER.offer(message(source="Till!", source_interaction_id=""), NOW)
    assert (nameless.source, nameless.interaction_id) == ("", "")


def test_an_account_is_written_with_what_was_offered() -> None:
    """The sum stands beside its parts."""
    event = events_pb2.OffersTallied.FromString(
        CODEC.tallied({"till": Tally(1, 2, 3, 4, 5), "site": Tally(1)}, {b"i" * 16 + b"m" * 16: 2})
    )
    assert [(line.source, line.offered) for line in event.tallies] == [("site", 1), ("till", 15)]
    assert [(a.interaction_id, a.content_mac, a.offers) for a in event.quarantined_again] == [
        ((b"i" * 16).hex(), b"m" * 16, 2)
    ]


GOLDEN_PURCHASE = "7badecf65d71ca017b19f4788e17d0ff"
GOLDEN_PERSONAL = "f916de6fe488cf39dcc35a69e977cdea"
