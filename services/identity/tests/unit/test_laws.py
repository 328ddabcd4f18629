"""The laws that identity is answerable for, over generated histories."""

from __future__ import annotations

import random
from itertools import permutations

import msgspec
import orjson
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from identity_stories import Identity, chunks, hash_of, interaction

from identity.application.commands import (
    CancelForgetting,
    Cancelled,
    ForgetClient,
    ForgetDue,
    ForgetListed,
    Forgotten,
    ForgottenAgain,
    MergeClients,
    Merged,
    PublishRules,
    Settled,
    UndoMerge,
)
from identity.application.queries import Queries
from identity.application.records import CLIENTS, GONE, ClientRow, present_client
from identity.domain.refusals import (
    AlreadyOneClientError,
    ClientForgottenError,
    ClientNotFoundError,
    ForgettingNotFoundError,
    ForgettingScheduledError,
    MergeAlreadyUndoneError,
)
from identity.domain.rules import SHIPPED_RULES, JoinPolicy, RuleSet, TypeRule
from throughline.identity.v1 import events_pb2 as pb
from throughline_kernel import Recorded

decode_client = msgspec.msgpack.Decoder(ClientRow).decode

TIGHT = RuleSet(
    version=1,
    types=(
        TypeRule("login", 10, JoinPolicy.ALWAYS, identifies_person=True, max_per_client=2),
        TypeRule("card", 20, JoinPolicy.VERIFIED, identifies_person=True, max_per_client=2),
        TypeRule("email", 30, JoinPolicy.VERIFIED, max_per_client=2, max_persons=2, blocked_values=("nobody", "b")),
        TypeRule("cookie", 80, JoinPolicy.NEVER, max_persons=2),
        TypeRule("*", 90, JoinPolicy.ALWAYS, max_per_client=3, max_persons=1),
    ),
)
"""Limits so low that a short history meets them."""

_VALUES = ("a", "b", "c", "d")
identifiers = st.builds(
    lambda type_, value, verified: f"{type_}:{value}{'!' if verified else ''}",
    st.sampled_from(("login", "card", "email", "cookie", "handle")),
    st.sampled_from((*_VALUES, "?", "nobody")),
    st.booleans(),
)
presentations = st.lists(identifiers, max_size=4, unique=True).map(tuple)
meetings = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.lists(
            st.sampled_from(("login:a!", "login:b!", "login:b", "card:a!", "email:a!", "email:c!", "cookie:a")),
            min_size=1,
            max_size=3,
            unique=True,
        ).map(tuple),
    ),
    min_size=2,
    max_size=8,
)
"""Few people who keep presenting the same things."""

histories = st.lists(st.tuples(st.integers(0, 12), presentations), min_size=1, max_size=14)


def told(history: list[tuple[int, tuple[str, ...]]]) -> list[Recorded]:
    return [interaction(f"i{number}", at, *ids) for number, (at, ids) in enumerate(history)]


def assert_announced(identity: Identity) -> None:
    """What the log alone gives is what the tables hold, and every interaction is announced where it is."""
    assert identity.replayed() == identity.live()
    directory = identity.directory()
    for client_id, raw in identity.store.scan(CLIENTS):
        row = decode_client(raw)
        heard = directory.resolve(client_id.hex())
        if row.state == GONE:
            assert heard.forgotten
        else:
            meant = present_client(lambda key: decode_client(identity.store.tables[CLIENTS][key]), client_id)
            assert (heard.client_id, heard.forgotten) == (meant.hex(), False)
            assert heard.known_person == decode_client(identity.store.tables[CLIENTS][meant]).known_person


@given(
    history=histories, seed=st.randoms(use_true_random=False), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_law_3_any_order_repetition_and_batching_gives_one_state(
    history: list[tuple[int, tuple[str, ...]]], seed: random.Random, sizes: list[int]
) -> None:
    """The state is a function of the set of interactions."""
    interactions = told(history)
    plain = Identity(TIGHT).hear_one_by_one(interactions)
    shuffled = [*interactions, *seed.sample(interactions, seed.randint(0, len(interactions)))]
    seed.shuffle(shuffled)
    other = Identity(TIGHT)
    for batch in chunks(shuffled, sizes):
        other.hear(*batch)
    assert other.live() == plain.live()
    assert_announced(plain)
    assert_announced(other)


@given(history=histories)
@settings(max_examples=60, deadline=None)
def test_every_interaction_is_attributed_once_and_to_the_client_it_ends_with(
    history: list[tuple[int, tuple[str, ...]]],
) -> None:
    """One InteractionAttributed for each, whatever is re-attributed later; the last word is the state."""
    interactions = told(history)
    identity = Identity(TIGHT).hear_one_by_one(interactions)
    attributed = [each.interaction.interaction_id for each in identity.events(pb.InteractionAttributed)]
    assert sorted(attributed) == sorted(each.event_id.hex() for each in interactions)
    counts: dict[str, int] = {}
    for number in range(len(history)):
        client = identity.client_of(f"i{number}")
        counts[client] = counts.get(client, 0) + 1
    state = {
        key.removeprefix("client."): orjson.loads(raw)["interactions"]
        for key, raw in identity.live().items()
        if key.startswith("client.")
    }
    assert counts == state


@given(history=histories, seed=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_every_id_ever_given_out_means_a_client_for_ever(
    history: list[tuple[int, tuple[str, ...]]], seed: random.Random
) -> None:
    """Following what was announced about an id ends at the client that the tables name, which is open."""
    interactions = told(history)
    seed.shuffle(interactions)
    identity = Identity(TIGHT).hear_one_by_one(interactions)
    parents: dict[str, str] = {}
    for event in identity.store.log:
        if event.type.endswith("ClientOpened"):
            parents[pb.ClientOpened.FromString(event.payload).client_id] = ""
        elif event.type.endswith("ClientsMerged"):
            merged = pb.ClientsMerged.FromString(event.payload)
            parents[merged.merged_client_id] = merged.client_id
    live = {key.removeprefix("client.") for key in identity.live() if key.startswith("client.")}
    for given_out in parents:
        client = given_out
        while parents[client]:
            client = parents[client]
        assert client in live
    assert {client for client, parent in parents.items() if not parent} == live


@given(history=meetings)
@settings(max_examples=60, deadline=None)
def test_law_8_two_known_people_never_merge_by_themselves(
    history: list[tuple[int, tuple[str, ...]]],
) -> None:
    """Verified identifiers of persons share a client only where a chain of interactions presented them together."""
    identity = Identity(TIGHT).hear_one_by_one(told(history))
    persons = {"login", "card"}
    group: dict[str, str] = {}

    def top(each: str) -> str:
        while group.setdefault(each, each) != each:
            each = group[each]
        return each

    for _, ids in history:
        verified = [each for each in ids if each.endswith("!") and each.split(":")[0] in persons and "?" not in each]
        for each in verified:
            group[top(each)] = top(verified[0])
    names = {hash_of(*each.rstrip("!").split(":")).hex(): each for each in group}
    for key, raw in identity.live().items():
        if key.startswith("client."):
            people = [names[each[1]] for each in orjson.loads(raw)["identifiers"] if each[2]]
            assert len({top(each) for each in people}) <= 1, people


@given(history=histories, seed=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_law_8_merges_and_undoings_in_any_order_leave_only_those_that_stand(
    history: list[tuple[int, tuple[str, ...]]], seed: random.Random
) -> None:
    """Undoing decided merges in any order leaves the state that had only the others been decided."""
    interactions = told(history)
    names = [f"i{number}" for number in range(len(history))]
    identity = Identity(TIGHT).hear_one_by_one(interactions)
    pristine = identity.live()
    made: list[tuple[bytes, MergeClients]] = []
    for _ in range(seed.randint(1, 4)):
        one, other = (bytes.fromhex(identity.client_of(seed.choice(names))) for _ in range(2))
        command = MergeClients(one, other, "ann", "the same person")
        try:
            merged = identity.do(command)
        except AlreadyOneClientError:
            continue
        assert isinstance(merged, Merged)
        made.append((merged.merge_id, command))
        assert_announced(identity)
    if not made:
        return
    order = [merge_id for merge_id, _ in made]
    seed.shuffle(made)
    undone = made[: seed.randint(1, len(made))]
    for merge_id, _ in undone:
        identity.do(UndoMerge(merge_id, "bob", "a mistake"))
        assert_announced(identity)
    with pytest.raises(MergeAlreadyUndoneError):
        identity.do(UndoMerge(undone[0][0], "bob", "again"))
    if len(undone) == len(made):
        assert identity.live() == pristine
    fresh = Identity(TIGHT).hear_one_by_one(interactions)
    left = {merge_id for merge_id, _ in undone}
    for merge_id, command in sorted(made, key=lambda each: order.index(each[0])):
        if merge_id not in left:
            try:
                fresh.do(command)
            except ClientNotFoundError:
                # Only a merge that is undone by now gave that id out.
                reject()
    assert identity.clusters() == fresh.clusters()


@given(history=histories, later=histories, seed=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_an_undone_automatic_merge_stays_undone_whatever_comes(
    history: list[tuple[int, tuple[str, ...]]],
    later: list[tuple[int, tuple[str, ...]]],
    seed: random.Random,
) -> None:
    """The order of undoings plays no part, and evidence that comes later does not bring the merges back."""
    interactions = told(history)
    coming = [interaction(f"later{number}", at, *ids) for number, (at, ids) in enumerate(later)]
    one, other = Identity(TIGHT).hear_one_by_one(interactions), Identity(TIGHT).hear_one_by_one(interactions)
    merges = sorted({each.merge_id for each in one.events(pb.ClientsMerged) if each.persona_ids})
    if not merges:
        return
    chosen = seed.sample(merges, seed.randint(1, len(merges)))
    for merge_id in chosen:
        one.do(UndoMerge(bytes.fromhex(merge_id), "bob", "not the same"))
        assert_announced(one)
    for merge_id in seed.sample(chosen, len(chosen)):
        other.do(UndoMerge(bytes.fromhex(merge_id), "bob", "not the same"))
    assert one.live() == other.live()
    one.hear_one_by_one(coming)
    seed.shuffle(coming)
    other.hear(*coming)
    assert one.live() == other.live()
    assert_announced(one)
    assert_announced(other)


@given(history=histories, later=histories, seed=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_forgotten_client_leaves_nothing_and_does_not_come_back(
    history: list[tuple[int, tuple[str, ...]]],
    later: list[tuple[int, tuple[str, ...]]],
    seed: random.Random,
) -> None:
    """No table but the tombstones knows it, the log still reads, and what comes later opens new ids."""
    interactions = told(history)
    identity = Identity(TIGHT).hear_one_by_one(interactions)
    client = identity.client_of(f"i{seed.randrange(len(history))}")
    identity.do(ForgetClient(bytes.fromhex(client), "asked", "dpo"))
    assert_announced(identity)
    forgotten = identity.events(pb.ClientForgotten)[-1]
    for table, rows in identity.store.tables.items():
        if table in {"forgotten", "interactions", "identifiers", "clients"}:
            continue
        for key in rows:
            assert not any(each in key for each in forgotten.persona_ids), table
    with pytest.raises(ClientForgottenError):
        identity.do(ForgetClient(bytes.fromhex(client), "asked", "dpo"))
    coming = [interaction(f"later{number}", at, *ids, generation=1) for number, (at, ids) in enumerate(later)]
    other_order = seed.sample(coming, len(coming))
    again = Identity(TIGHT).hear_one_by_one(interactions)
    again.do(ForgetClient(bytes.fromhex(client), "asked", "dpo"))
    identity.hear_one_by_one(coming)
    again.hear(*other_order)
    assert identity.live() == again.live()
    assert_announced(identity)
    gone = {forgotten.client_id, *forgotten.alias_ids}
    assert gone.isdisjoint(key.removeprefix("client.") for key in identity.live())


@given(history=histories, seed=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_forgetting_waits_for_its_time(history: list[tuple[int, tuple[str, ...]]], seed: random.Random) -> None:
    """A dry run says what goes and changes nothing; a scheduled one waits, can be cancelled, and does just that."""
    identity = Identity(TIGHT).hear_one_by_one(told(history))
    client_id = bytes.fromhex(identity.client_of(f"i{seed.randrange(len(history))}"))
    before = identity.live()
    asked = identity.do(ForgetClient(client_id, "asked", "dpo", dry_run=True))
    assert identity.live() == before
    scheduled = identity.do(ForgetClient(client_id, "asked", "dpo", grace=1_000))
    assert isinstance(asked, Forgotten)
    assert isinstance(scheduled, Forgotten)
    assert scheduled.extent == asked.extent
    with pytest.raises(ForgettingScheduledError):
        identity.do(ForgetClient(client_id, "asked", "dpo", grace=5))
    assert_announced(identity)
    assert isinstance(identity.do(CancelForgetting(client_id, "no", "dpo")), Cancelled)
    assert identity.live() == before
    with pytest.raises(ForgettingNotFoundError):
        identity.do(CancelForgetting(client_id, "no", "dpo"))
    identity.do(ForgetClient(client_id, "asked", "dpo", grace=1_000))
    assert isinstance(identity.do(ForgetDue(client_id)), Settled)
    identity.store.now += 1_000
    gone = identity.do(ForgetDue(client_id))
    assert isinstance(gone, Forgotten)
    assert gone.extent == asked.extent
    assert isinstance(identity.do(ForgetDue(client_id)), Settled)
    assert not identity.store.tables["forgettings"]
    assert not identity.store.tables["forgettings_due"]
    assert_announced(identity)


@given(history=histories, later=histories, cut=st.integers(0, 12), seed=st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_a_log_restored_from_before_a_forgetting_forgets_again(
    history: list[tuple[int, tuple[str, ...]]],
    later: list[tuple[int, tuple[str, ...]]],
    cut: int,
    seed: random.Random,
) -> None:
    """By the list alone: it comes to the state that it would have had, had nothing been restored, with what comes late
    and anew.
    """
    interactions = told(history)
    identity = Identity(TIGHT).hear_one_by_one(interactions)
    client_id = bytes.fromhex(identity.client_of(f"i{seed.randrange(len(history))}"))
    identity.do(ForgetClient(client_id, "asked", "dpo"))
    listed = Queries(identity.store).forgotten_clients()
    assert [each.client_id for each in listed] == [client_id]

    restored = Identity(TIGHT).hear_one_by_one(interactions[:cut])
    for each in listed:
        outcome = restored.do(ForgetListed(*each[:4]))
        assert isinstance(outcome, ForgottenAgain)
        again = restored.do(ForgetListed(*each[:4]))
        assert isinstance(again, ForgottenAgain)
        assert again.clients == 0
    assert_announced(restored)
    coming = [interaction(f"later{number}", at, *ids, generation=1) for number, (at, ids) in enumerate(later)]
    identity.hear(*coming)
    restored.hear_one_by_one(interactions[cut:]).hear(*coming)
    assert_announced(restored)
    personas = {each for client in listed for each in client.persona_ids}
    assert Queries(restored.store).forgotten_personas() == personas
    live = restored.live()

    def others(state: dict[str, bytes]) -> dict[str, bytes]:
        return {key: value for key, value in state.items() if not key.startswith("forgotten.")}

    assert others(live) == others(identity.live())
    gone = {each.hex() for client in listed for each in (client.client_id, *client.alias_ids)}
    assert gone.isdisjoint(key.removeprefix("client.") for key in live)
    assert personas.isdisjoint(restored.store.tables["personas"])


@given(history=histories, later=histories, seed=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_restored_log_takes_the_forgotten_out_of_a_merge_that_was_undone_since(
    history: list[tuple[int, tuple[str, ...]]],
    later: list[tuple[int, tuple[str, ...]]],
    seed: random.Random,
) -> None:
    """Where the restored log still makes one client of two, the one who was forgotten goes and the other stays."""
    interactions = told(history)
    identity, restored = (Identity(TIGHT).hear_one_by_one(interactions) for _ in range(2))
    one, other = (identity.client_of(f"i{seed.randrange(len(history))}") for _ in range(2))
    if one == other:
        reject()
    merge = MergeClients(bytes.fromhex(one), bytes.fromhex(other), "kim", "asked")
    merged = identity.do(merge)
    restored.do(merge)
    assert isinstance(merged, Merged)
    identity.do(UndoMerge(merged.merge_id, "lee", "no"))
    gone = bytes.fromhex(identity.client_of(f"i{seed.randrange(len(history))}"))
    identity.do(ForgetClient(gone, "asked", "dpo"))
    (listed,) = Queries(identity.store).forgotten_clients()
    restored.do(ForgetListed(*listed[:4]))
    assert_announced(restored)
    assert set(listed.persona_ids).isdisjoint(restored.store.tables["personas"])
    assert Queries(restored.store).forgotten_personas() == set(listed.persona_ids)
    coming = [interaction(f"later{number}", at, *ids, generation=1) for number, (at, ids) in enumerate(later)]
    restored.hear(*coming)
    assert_announced(restored)


@given(history=histories, later=histories)
@settings(max_examples=40, deadline=None)
def test_published_rules_decide_all_history_again(
    history: list[tuple[int, tuple[str, ...]]], later: list[tuple[int, tuple[str, ...]]]
) -> None:
    """The state is what it would be had the rules been there from the start."""
    interactions = told(history)
    coming = [interaction(f"later{number}", at, *ids) for number, (at, ids) in enumerate(later)]
    loose = RuleSet(2, SHIPPED_RULES.types)
    identity = Identity(TIGHT).hear_one_by_one(interactions)
    identity.do(PublishRules(loose, "ann"))
    assert_announced(identity)
    identity.do(PublishRules(RuleSet(0, TIGHT.types), "ann"))
    assert_announced(identity)
    identity.do(PublishRules(RuleSet(0, SHIPPED_RULES.types), "ann"))
    identity.hear_one_by_one(coming)
    fresh = Identity(RuleSet(1, SHIPPED_RULES.types)).hear_one_by_one([*coming, *interactions])
    assert_announced(identity)
    drop = lambda state: {key: value for key, value in state.items() if key != "rules"}  # noqa: E731 -- said once
    assert drop(identity.live()) == drop(fresh.live())


def test_all_orders_of_a_story_agree() -> None:
    """Anonymous, claimed, verified, shared and late: every order of five interactions gives one state."""
    story = [
        interaction("anonymous", 1, "cookie:k"),
        interaction("login", 5, "cookie:k", "login:l!"),
        interaction("card", 3, "card:c!", "email:e!"),
        interaction("newsletter", 4, "email:e!"),
        interaction("both", 9, "login:l!", "email:e!"),
    ]
    states = [Identity().hear_one_by_one(order).live() for order in permutations(story)]
    assert all(each == states[0] for each in states)
