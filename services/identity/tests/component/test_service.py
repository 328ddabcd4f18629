"""Identity on both stores: real bus, real calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from identity_served import (
    HASHER,
    TRACE,
    Ingestion,
    Served,
    clear,
    client_of,
    events_of,
    interaction_id,
    reached,
    recorded,
    refused,
)

from identity.application import forgetting
from identity.application.commands import Decisions, ForgetClient, MergeClients, PublishRetention
from identity.application.queries import Queries
from identity.application.records import IDENTITY_TABLES
from identity.application.rulebook import Rulebook
from identity.bootstrap import build
from identity.domain.retention import RetentionRule, RetentionRules
from identity.settings import Settings
from throughline.eventlog.v1 import eventlog_pb2
from throughline.identity.v1 import error_reason_pb2, events_pb2, rules_pb2
from throughline.identity.v1 import identity_pb2 as pb
from throughline_eventlog import StoreSettings, open_store
from throughline_kernel import UnavailableError
from throughline_privacy import ForgottenClient, open_forgotten_list, persona_id
from throughline_rpc import open_channel
from throughline_testkit import eventually

pytestmark = pytest.mark.timeout(90)

UNKNOWN = "ab" * 16


async def test_an_anonymous_visit_becomes_the_clients_who_logs_in_with_the_same_cookie(served: Served) -> None:
    """The client of a card, known before, claims what a cookie did once she logs in on it; all ids stay good."""
    await served.hear(recorded("purchase", 10, "login:anna!", "email:anna@mail.org!"))
    await served.hear(recorded("visit", 20, "cookie:k1"), recorded("second visit", 21, "cookie:k1"))
    anonymous = served.client_of("visit")
    known = served.client_of("purchase")
    assert anonymous != known
    await served.hear(recorded("login", 30, "cookie:k1", "login:anna!"))
    assert served.client_of("visit") == served.client_of("second visit") == served.client_of("login") == known
    for given in (anonymous, known):
        resolved = await served.stub.ResolveClient(pb.ResolveClientRequest(client_id=given))
        assert (resolved.client_id, resolved.known_person) == (known, True)
    by_cookie = await served.stub.ResolveClient(pb.ResolveClientRequest(identifiers=[clear("cookie:K1 ")]))
    assert by_cookie.client_id == known
    client = (await served.stub.GetClient(pb.GetClientRequest(client_id=anonymous))).client
    assert (client.client_id, list(client.alias_ids), client.interactions) == (known, [anonymous], 4)
    assert (client.first_seen_at, client.last_seen_at) == (10, 30)
    assert {(each.identifier.type, each.interactions) for each in client.identifiers} == {
        ("login", 2),
        ("email", 1),
        ("cookie", 3),
    }
    (merge,) = client.merges
    assert (merge.client_id, merge.merged_client_id, merge.undone) == (known, anonymous, False)
    assert interaction_id("login") in merge.evidence.event_ids
    await served.assert_replays()


async def test_a_cookie_shared_by_two_known_people_joins_neither(served: Served) -> None:
    """What was anonymous on it goes to whoever was known with it first; the two stay apart."""
    await served.hear(
        recorded("before", 1, "cookie:shared"),
        recorded("bob", 9, "cookie:shared", "login:bob!"),
        recorded("anna", 5, "cookie:shared", "login:anna!"),
    )
    assert served.client_of("before") == served.client_of("anna") != served.client_of("bob")
    await served.assert_replays()


async def test_interactions_carry_what_consumers_need_and_no_more(served: Served) -> None:
    """Facts as they came, sealed words only where there are words, correlation, cause and trace of the interaction."""
    await served.hear(recorded("silent", 5, "email:a@mail.org!"), recorded("said", 6, "email:a@mail.org!", words=True))
    attributed = {
        (message := events_pb2.InteractionAttributed.FromString(event.payload)).interaction.source_interaction_id: (
            event,
            message,
        )
        for event in events_of(served.identity.store)
        if event.type.endswith("InteractionAttributed")
    }
    event, silent = attributed["silent"]
    assert not silent.HasField("personal")
    assert silent.interaction == recorded("silent", 5, "email:a@mail.org!").facts
    assert silent.interaction_recorded_at > 0
    assert (event.correlation_id, event.causation_id) == ("correlation of silent", interaction_id("silent"))
    assert event.traceparent.split("-")[1] == TRACE.split("-")[1]
    _, said = attributed["said"]
    assert said.personal.box == b"sealed"
    assert said.evidence.rule == "identifier.email.verified"


async def test_links_are_explained_by_events_rules_and_a_sentence(served: Served) -> None:
    """The steps of an interaction end with its attribution; an identifier's with whoever holds it."""
    await served.hear(
        recorded("visit", 20, "cookie:k1"),
        recorded("purchase", 10, "login:anna!"),
        recorded("nobody", 31, "email:none"),
    )
    await served.hear(recorded("login", 30, "cookie:k1", "login:anna!"))
    known = served.client_of("purchase")
    explained = await served.stub.ExplainLink(pb.ExplainLinkRequest(interaction_id=interaction_id("visit")))
    assert explained.client_id == known
    last = explained.steps[-1]
    assert last.event_type == "throughline.identity.v1.InteractionReattributed"
    assert interaction_id("login") in last.evidence.event_ids
    assert last.evidence.rules_version == 1
    assert "cookie" in last.explanation
    assert [step.position for step in explained.steps] == sorted(step.position for step in explained.steps)
    ids = {event.event_id.hex() for event in events_of(served.identity.store)}
    assert {step.event_id for step in explained.steps} <= ids
    cookie = await served.stub.ExplainLink(pb.ExplainLinkRequest(identifier=clear("cookie:k1")))
    assert (cookie.client_id, cookie.steps[-1].client_id) == (known, known)
    placeholder = await served.stub.ExplainLink(pb.ExplainLinkRequest(identifier=clear("email:none")))
    assert (placeholder.client_id, placeholder.steps[-1].client_id) == ("", "")
    assert "placeholder" in placeholder.steps[-1].explanation


async def test_interactions_are_listed_in_canonical_order_page_by_page(served: Served) -> None:
    """However they arrived."""
    times = [7, 3, 9, 1, 5]
    await served.hear(*(recorded(f"i{at}", at, "login:anna!", f"cookie:k{at}") for at in times))
    found: list[str] = []
    request = pb.ListClientInteractionsRequest(client_id=served.client_of("i1"), page_size=2)
    while True:
        page = await served.stub.ListClientInteractions(request)
        found += page.interaction_ids
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == [interaction_id(f"i{at}") for at in sorted(times)]


async def test_law_8_two_known_people_are_proposed_merged_by_a_person_and_parted_again(served: Served) -> None:
    """The proposal is listed with its evidence, the decision takes everything along, undoing gives everything back."""
    await served.hear(
        recorded("anna", 1, "login:anna!", "email:a@mail.org!"),
        recorded("card", 2, "loyalty_card:77!"),
        recorded("both", 3, "loyalty_card:77!", "email:a@mail.org!"),
    )
    anna, card = served.client_of("anna"), served.client_of("card")
    assert anna != card
    (proposal,) = (await served.stub.ListProposals(pb.ListProposalsRequest())).proposals
    assert {proposal.client_id, proposal.other_client_id} == {anna, card}
    assert proposal.evidence.event_ids[0] == interaction_id("both")
    before = await served.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=True))
    merged = await served.stub.MergeClients(
        pb.MergeClientsRequest(client_id=card, other_client_id=anna, decided_by="kim", reason="asked on the phone")
    )
    assert (merged.client_id, merged.reattributed) == (anna, 2)
    assert served.client_of("card") == served.client_of("both") == anna
    assert not (await served.stub.ListProposals(pb.ListProposalsRequest())).proposals
    await served.assert_replays()
    again = await refused(
        served.stub.MergeClients(
            pb.MergeClientsRequest(client_id=card, other_client_id=anna, decided_by="kim", reason="again")
        )
    )
    assert again.reason == "ALREADY_ONE_CLIENT"
    undone = await served.stub.UndoMerge(
        pb.UndoMergeRequest(merge_id=merged.merge_id, decided_by="lee", reason="two people after all")
    )
    assert (undone.client_id, undone.restored_client_id, undone.reattributed) == (anna, card, 2)
    after = await served.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=True))
    assert after.digest == before.digest
    twice = await refused(
        served.stub.UndoMerge(pb.UndoMergeRequest(merge_id=merged.merge_id, decided_by="lee", reason="again"))
    )
    assert twice.reason == "MERGE_ALREADY_UNDONE"
    await served.assert_replays()


async def test_an_automatic_merge_that_was_undone_stays_undone(served: Served) -> None:
    """New evidence of the same kind does not bring it back; a person's decision does."""
    await served.hear(
        recorded("letter", 1, "email:a@mail.org!"),
        recorded("anna", 2, "login:anna!"),
        recorded("both", 3, "login:anna!", "email:a@mail.org!"),
    )
    client = (await served.stub.GetClient(pb.GetClientRequest(client_id=served.client_of("both")))).client
    (merge,) = client.merges
    await served.stub.UndoMerge(
        pb.UndoMergeRequest(merge_id=merge.merge_id, decided_by="lee", reason="a shared address")
    )
    await served.hear(recorded("once more", 4, "login:anna!", "email:a@mail.org!", "cookie:k"))
    assert served.client_of("letter") != served.client_of("anna") == served.client_of("once more")
    await served.stub.MergeClients(
        pb.MergeClientsRequest(
            client_id=served.client_of("letter"),
            other_client_id=served.client_of("anna"),
            decided_by="kim",
            reason="she said so",
        )
    )
    assert served.client_of("letter") == served.client_of("anna")
    await served.assert_replays()


async def test_consent_is_kept_with_the_client_through_merges(served: Served) -> None:
    """What was said last about a purpose in a scope holds, under whichever id it was said."""
    await served.hear(recorded("anna", 1, "login:anna!"), recorded("card", 2, "loyalty_card:77!"))
    anna, card = served.client_of("anna"), served.client_of("card")

    async def said(client: str, purpose: str, granted: bool, scope: str = "") -> None:
        await served.stub.RecordConsent(
            pb.RecordConsentRequest(client_id=client, purpose=purpose, granted=granted, source="desk", scope=scope)
        )

    await said(anna, "newsletter", granted=True)
    await said(card, "newsletter", granted=False)
    await said(card, "profiling", granted=True, scope="store")
    await served.stub.MergeClients(
        pb.MergeClientsRequest(client_id=anna, other_client_id=card, decided_by="kim", reason="same")
    )
    client = (await served.stub.GetClient(pb.GetClientRequest(client_id=card))).client
    assert [(each.purpose, each.scope, each.granted) for each in client.consents] == [
        ("newsletter", "", False),
        ("profiling", "store", True),
    ]
    await served.assert_replays()


async def test_the_last_word_on_a_purpose_is_the_last_by_time(served: Served) -> None:
    """A word of earlier that is recorded late does not overrule a later one; it is logged with its own time."""
    await served.hear(recorded("anna", 1, "login:anna!"))
    anna = served.client_of("anna")

    async def said(granted: bool, at: int) -> None:
        await served.stub.RecordConsent(
            pb.RecordConsentRequest(client_id=anna, purpose="marketing", granted=granted, source="desk", at=at)
        )

    await said(granted=False, at=2_000)
    await said(granted=True, at=1_000)
    (word,) = (await served.stub.GetClient(pb.GetClientRequest(client_id=anna))).client.consents
    assert (word.granted, word.at) == (False, 2_000)
    await served.assert_replays()
    await said(granted=True, at=0)
    (word,) = (await served.stub.GetClient(pb.GetClientRequest(client_id=anna))).client.consents
    assert word.granted
    await served.assert_replays()


async def test_law_9_a_forgotten_client_is_gone_and_the_log_still_reads(served: Served) -> None:
    """Keys are destroyed, the identifier means nobody, later interactions open another client, late ones stay out."""
    vault = served.identity.vault
    first = recorded("first", 1, "login:anna!", "email:a@mail.org!")
    box = vault.seal(first.facts.persona_id, b"anna").box
    await served.hear(first, recorded("visit", 2, "cookie:k"), recorded("login", 3, "cookie:k", "login:anna!"))
    anna, alias = served.client_of("first"), served.client_of("visit")
    assert anna == alias
    forgotten = await served.stub.ForgetClient(
        pb.ForgetClientRequest(client_id=anna, reason="asked", decided_by="privacy desk")
    )
    assert (forgotten.identifiers, forgotten.interactions) == (3, 3)
    assert vault.open(first.facts.persona_id, box) is None
    assert (await refused(served.stub.GetClient(pb.GetClientRequest(client_id=anna)))).reason == "CLIENT_FORGOTTEN"
    again = served.stub.ForgetClient(pb.ForgetClientRequest(client_id=anna, reason="asked", decided_by="desk"))
    assert (await refused(again)).reason == "CLIENT_FORGOTTEN"
    explained = served.stub.ExplainLink(pb.ExplainLinkRequest(interaction_id=interaction_id("first")))
    assert (await refused(explained)).reason == "CLIENT_FORGOTTEN"
    resolved = served.stub.ResolveClient(pb.ResolveClientRequest(identifiers=[clear("login:anna")]))
    assert (await refused(resolved)).reason == "IDENTIFIERS_UNKNOWN"
    await served.hear(
        recorded("late", 2, "login:anna!", "email:a@mail.org!"),
        recorded("new", 9, "login:anna!", "email:a@mail.org!", generation=1),
    )
    assert served.client_of("late") == ""
    assert served.client_of("new") not in {"", anna}
    tombs = [
        events_pb2.ClientForgotten.FromString(event.payload)
        for event in events_of(served.identity.store)
        if event.type.endswith("ClientForgotten")
    ]
    assert [len(each.interaction_ids) for each in tombs] == [3, 1]
    assert tombs[1].interaction_ids[0] == interaction_id("late")
    await served.assert_replays()


async def test_a_forgetting_waits_is_taken_back_and_comes(served: Served) -> None:
    """A dry run destroys nothing, a cancelled one never comes, and a sweep forgets who is due, with the keys."""
    vault = served.identity.vault
    first = recorded("first", 1, "login:anna!", "email:a@mail.org!")
    box = vault.seal(first.facts.persona_id, b"anna").box
    await served.hear(first, recorded("other", 2, "login:ben!"))
    anna, ben = served.client_of("first"), served.client_of("other")

    def ask(client_id: str, grace: int = 0) -> pb.ForgetClientRequest:
        return pb.ForgetClientRequest(client_id=client_id, reason="asked", decided_by="desk", grace=grace)

    asked = ask(anna)
    asked.dry_run = True
    told = await served.stub.ForgetClient(asked)
    assert (told.client_id, told.personas, told.identifiers, told.interactions) == (anna, 1, 2, 1)
    assert told.due_at == 0
    for client_id in (anna, ben):
        scheduled = await served.stub.ForgetClient(ask(client_id, grace=1))
        assert scheduled.due_at > 0
    twice = await refused(served.stub.ForgetClient(ask(anna, grace=1)))
    assert (twice.reason, twice.metadata["client_id"]) == ("FORGETTING_SCHEDULED", anna)
    listed = await served.stub.ListForgettings(pb.ListForgettingsRequest(page_size=1))
    rest = await served.stub.ListForgettings(pb.ListForgettingsRequest(page_token=listed.next_page_token))
    assert [each.client_id for each in (*listed.forgettings, *rest.forgettings)] == sorted([anna, ben])
    cancel = pb.CancelForgettingRequest(client_id=ben, reason="changed their mind", decided_by="desk")
    await served.stub.CancelForgetting(cancel)
    assert (await refused(served.stub.CancelForgetting(cancel))).reason == "FORGETTING_NOT_FOUND"
    assert vault.open(first.facts.persona_id, box) == b"anna"
    await served.assert_replays()

    assert await served.identity.forgetting.sweep() == 1
    assert await served.identity.forgetting.sweep() == 0
    assert vault.open(first.facts.persona_id, box) is None
    assert (await refused(served.stub.GetClient(pb.GetClientRequest(client_id=anna)))).reason == "CLIENT_FORGOTTEN"
    assert (await served.stub.GetClient(pb.GetClientRequest(client_id=ben))).client.client_id == ben
    done = await served.stub.ListForgettings(pb.ListForgettingsRequest(done=True))
    assert [(each.client_id, each.reason) for each in done.forgettings] == [(anna, "asked")]
    grace = await refused(served.stub.ForgetClient(ask(ben, grace=-1)))
    assert grace.reason == "FIELD_INVALID"
    await served.assert_replays()


async def test_who_is_over_by_the_rules_of_retention_is_forgotten_as_anybody_is(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run names them; sweeps go through all clients, a few at a time; nothing of who is over opens."""
    vault = served.identity.vault
    visits = [recorded(f"visit {number}", number + 1, f"login:{number}!") for number in range(7)]
    elsewhere, lately = visits[5].facts, visits[6].facts
    elsewhere.channel = "web"
    lately.occurred_at = time.time_ns() // 1_000
    boxes = [vault.seal(each.facts.persona_id, b"words").box for each in visits]
    await served.hear(*visits)
    clients = [served.client_of(f"visit {number}") for number in range(7)]
    rule = rules_pb2.RetentionRule(name="store visits", keep=86_400_000_000, channels=["store"])
    asked = pb.PublishRetentionRulesRequest(
        rules=rules_pb2.RetentionRules(rules=[rule]), published_by="dpo", dry_run=True
    )
    told = await served.stub.PublishRetentionRules(asked)
    assert (told.version, told.clients) == (1, 5)
    assert [(each.client_id, each.rule) for each in told.over] == [(each, rule.name) for each in sorted(clients[:5])]
    assert (await served.stub.GetRetentionRules(pb.GetRetentionRulesRequest())).rules == rules_pb2.RetentionRules()
    assert await served.identity.forgetting.retain() == 0

    asked.dry_run = False
    assert (await served.stub.PublishRetentionRules(asked)).version == 1
    in_force = (await served.stub.GetRetentionRules(pb.GetRetentionRulesRequest())).rules
    assert (in_force.version, list(in_force.rules)) == (1, [rule])
    monkeypatch.setattr(forgetting, "LOOK", 3)
    monkeypatch.setattr(forgetting, "SWEEP", 2)
    swept = [await served.identity.forgetting.retain() for _ in range(8)]
    assert (max(swept), sum(swept)) == (2, 5)
    assert [vault.open(each.facts.persona_id, box) for each, box in zip(visits, boxes, strict=True)] == [
        *[None] * 5,
        b"words",
        b"words",
    ]
    done = await served.stub.ListForgettings(pb.ListForgettingsRequest(done=True))
    assert {(each.client_id, each.decided_by) for each in done.forgettings} == {
        (each, "retention") for each in clients[:5]
    }
    assert {each.reason for each in done.forgettings} == {"rule store visits of version 1 of the retention rules"}
    certified = await served.stub.GetForgettingCertificate(pb.GetForgettingCertificateRequest(client_id=clients[0]))
    assert '"keys_destroyed":1' in certified.certificate

    asked.rules.version = 1
    assert (await refused(served.stub.PublishRetentionRules(asked))).reason == "CONCURRENT_CHANGE"
    asked.rules.version = 0
    asked.rules.rules[0].keep = 0
    assert (await refused(served.stub.PublishRetentionRules(asked))).violations[0].field == "rules.rules[0].keep"
    assert (await refused(served.stub.PublishRetentionRules(pb.PublishRetentionRulesRequest()))).violations
    await served.assert_replays()


async def test_a_forgetting_that_the_list_could_not_take_is_finished_by_the_next_sweep(
    ingestion: Ingestion, identity_settings: Settings, tmp_path: Path
) -> None:
    """Log and tables come first: while the list is away the keys stay, and no restart is needed afterwards."""
    place = tmp_path / "forgotten.ndjson"
    settings = replace(identity_settings, privacy=replace(identity_settings.privacy, forgotten_list=str(place)))
    anna = recorded("first", 1, "login:anna!")
    ingestion.record(anna)
    identity = await build(settings)
    await identity.start()
    await identity.host.start()
    await eventually(lambda: reached(identity.store) == ingestion.position)
    box = identity.vault.seal(anna.facts.persona_id, b"anna").box
    rules = RetentionRules(0, (RetentionRule("store", 1, ("store",)),))
    await identity.writer.submit(Decisions(identity.rulebook), PublishRetention(rules, "dpo"))
    place.mkdir()
    with pytest.raises(UnavailableError):
        await identity.forgetting.retain()
    assert identity.vault.open(anna.facts.persona_id, box) == b"anna"
    place.rmdir()
    assert await identity.forgetting.sweep() == 0
    assert identity.vault.open(anna.facts.persona_id, box) is None
    assert len(open_forgotten_list(str(place)).clients()) == 1
    await identity.host.stop()


async def test_log_list_and_keys_agree_before_anybody_is_served(
    ingestion: Ingestion, identity_settings: Settings, tmp_path: Path
) -> None:
    """Who is on the list is forgotten by a log that does not know it; who is forgotten in the log alone, since the
    process ended then, gets onto the list and loses the keys.
    """
    place = str(tmp_path / "forgotten.ndjson")
    settings = replace(identity_settings, privacy=replace(identity_settings.privacy, forgotten_list=place))
    anna, ben = recorded("first", 1, "login:anna!"), recorded("other", 2, "login:ben!")
    ingestion.record(anna, ben)
    identity = await build(settings)
    await identity.start()
    await identity.host.start()
    await eventually(lambda: reached(identity.store) == ingestion.position)
    box = identity.vault.seal(ben.facts.persona_id, b"ben").box
    ours = ForgottenClient(bytes.fromhex(client_of(identity.store, "first")), (), (anna.facts.persona_id,), (), 1)
    open_forgotten_list(place).add_clients([ours])
    bens = ForgetClient(bytes.fromhex(client_of(identity.store, "other")), "asked", "desk")
    await identity.writer.submit(Decisions(identity.rulebook), bens)
    assert identity.vault.open(ben.facts.persona_id, box) == b"ben"
    await identity.host.stop()

    again = await build(settings)
    await again.start()
    assert again.vault.open(ben.facts.persona_id, box) is None
    listed = open_forgotten_list(place)
    assert {each.client_id for each in listed.clients()} == {ours.client_id, bens.client_id}
    with again.store.snapshot() as reader:
        assert Queries(reader).forgotten_personas() == {anna.facts.persona_id, ben.facts.persona_id}
    assert await again.forgetting.catch_up() == 0
    assert open_forgotten_list(place).clients() == listed.clients()
    await again.host.stop()


async def test_published_rules_decide_all_history_again(served: Served) -> None:
    """E-mail that joins when claimed makes one client of two; blocking the value parts them again."""
    await served.hear(
        recorded("a", 1, "email:a@mail.org"),
        recorded("b", 2, "email:a@mail.org", "phone:+44 20 8123 4567!"),
        recorded("c", 3, "phone:+44 20 8123 4567!"),
    )
    rules = (await served.stub.GetRules(pb.GetRulesRequest())).rules
    assert rules.version == 1
    email = next(each for each in rules.types if each.type == "email")
    email.join = rules_pb2.JOIN_POLICY_ALWAYS
    email.identifies_person = True
    rules.version = 2
    published = await served.stub.PublishRules(pb.PublishRulesRequest(rules=rules, published_by="kim"))
    assert published.version == 2
    assert served.client_of("a") == served.client_of("b") == served.client_of("c")
    email.blocked_values.append("A@mail.org")
    rules.version = 0
    published = await served.stub.PublishRules(pb.PublishRulesRequest(rules=rules, published_by="kim"))
    assert published.version == 3
    assert published.reattributed
    assert served.client_of("a") != served.client_of("b") == served.client_of("c")
    assert list((await served.stub.GetRules(pb.GetRulesRequest())).rules.types) == list(rules.types)
    stale = served.stub.PublishRules(
        pb.PublishRulesRequest(rules=rules_pb2.RuleSet(version=2, types=rules.types), published_by="lee")
    )
    assert (await refused(stale)).reason == "CONCURRENT_CHANGE"
    await served.assert_replays()


async def test_the_log_is_read_by_client_and_by_interaction(served: Served) -> None:
    """A client's events are all that concern it, under any of its ids; state and digests are served."""
    await served.hear(
        recorded("visit", 20, "cookie:k1"),
        recorded("purchase", 10, "login:anna!"),
        recorded("other", 31, "login:bob!"),
    )
    await served.hear(recorded("login", 30, "cookie:k1", "login:anna!"))
    known = served.client_of("purchase")
    ids = {each.client_id for each in [await served.stub.ResolveClient(pb.ResolveClientRequest(client_id=known))]}
    assert ids == {known}

    async def read(**request: object) -> list[str]:
        pages = served.log.ReadEvents(eventlog_pb2.ReadEventsRequest(**request))  # type: ignore[arg-type]
        return [each.type.rsplit(".", 1)[-1] async for page in pages for each in page.events]

    of_client = await read(client_id=known)
    assert of_client.count("InteractionAttributed") == 3
    assert of_client.count("InteractionReattributed") == 1
    assert {"ClientOpened", "IdentifierLinked", "ClientsMerged"} <= set(of_client)
    assert await read(interaction_ids=[interaction_id("visit")]) == ["InteractionAttributed", "InteractionReattributed"]
    assert await read(client_id=known, interaction_ids=[interaction_id("login")]) == ["InteractionAttributed"]
    assert await read(client_id=UNKNOWN) == []
    state = await served.log.GetState(eventlog_pb2.GetStateRequest(key=known))
    assert b'"interactions":3' in state.canonical_json
    rules = await served.log.GetState(eventlog_pb2.GetStateRequest(key="rules"))
    assert b'"version":1' in rules.canonical_json
    digests = await served.log.ListStateDigests(eventlog_pb2.ListStateDigestsRequest())
    assert f"client.{known}" in {each.key for each in digests.digests}


async def test_every_refusal_names_field_rule_and_remedy(served: Served) -> None:
    """Each reason of the contract that a call can meet, as a caller meets it."""
    await served.hear(recorded("anna", 1, "login:anna!"))
    anna = served.client_of("anna")
    stub = served.stub
    rules = (await stub.GetRules(pb.GetRulesRequest())).rules
    doubled = rules_pb2.RuleSet(types=[*rules.types, rules.types[0]])
    undecided = rules_pb2.RuleSet(types=[rules_pb2.IdentifierTypeRule(type="*")])
    calls = {
        "FIELD_INVALID": [
            stub.GetClient(pb.GetClientRequest(client_id="anna")),
            stub.ResolveClient(pb.ResolveClientRequest()),
            stub.ExplainLink(pb.ExplainLinkRequest()),
            stub.ListClientInteractions(pb.ListClientInteractionsRequest(client_id=anna, page_size=-1)),
            stub.ListClientInteractions(pb.ListClientInteractionsRequest(client_id=anna, page_token="%")),
            stub.ListProposals(pb.ListProposalsRequest(page_token="x")),
            stub.ListProposals(pb.ListProposalsRequest(page_size=5_000)),
            stub.RecordConsent(pb.RecordConsentRequest(client_id=anna, purpose="a\0b")),
            stub.RecordConsent(pb.RecordConsentRequest(client_id=anna, purpose="audit")),
            stub.RecordConsent(pb.RecordConsentRequest(client_id=anna, purpose="service", at=1 << 60)),
            stub.RecordConsent(pb.RecordConsentRequest(client_id=anna, purpose="service", at=-1)),
            stub.ResolveClient(pb.ResolveClientRequest(identifiers=[clear("email:a")] * 101)),
            stub.UndoMerge(pb.UndoMergeRequest(merge_id=UNKNOWN, decided_by="x" * 2_000, reason="y")),
        ],
        "FIELD_REQUIRED": [
            stub.GetClient(pb.GetClientRequest()),
            stub.MergeClients(pb.MergeClientsRequest(client_id=anna, other_client_id=UNKNOWN, decided_by="kim")),
            stub.RecordConsent(pb.RecordConsentRequest(client_id=anna)),
            stub.ForgetClient(pb.ForgetClientRequest(client_id=anna, reason=" ", decided_by="kim")),
            stub.PublishRules(pb.PublishRulesRequest(published_by="kim")),
            stub.ResolveClient(pb.ResolveClientRequest(identifiers=[clear(":x")])),
        ],
        "CLIENT_NOT_FOUND": [
            stub.GetClient(pb.GetClientRequest(client_id=UNKNOWN)),
            stub.MergeClients(
                pb.MergeClientsRequest(client_id=anna, other_client_id=UNKNOWN, decided_by="kim", reason="x")
            ),
            stub.ForgetClient(pb.ForgetClientRequest(client_id=UNKNOWN, reason="x", decided_by="kim")),
            stub.ListClientInteractions(pb.ListClientInteractionsRequest(client_id=UNKNOWN)),
        ],
        "ALREADY_ONE_CLIENT": [
            stub.MergeClients(
                pb.MergeClientsRequest(client_id=anna, other_client_id=anna, decided_by="kim", reason="x")
            )
        ],
        "MERGE_NOT_FOUND": [stub.UndoMerge(pb.UndoMergeRequest(merge_id=UNKNOWN, decided_by="kim", reason="x"))],
        "INTERACTION_NOT_FOUND": [stub.ExplainLink(pb.ExplainLinkRequest(interaction_id=UNKNOWN))],
        "IDENTIFIERS_UNKNOWN": [
            stub.ResolveClient(pb.ResolveClientRequest(identifiers=[clear("email:who@mail.org")])),
            stub.ExplainLink(pb.ExplainLinkRequest(identifier=clear("email:who@mail.org"))),
        ],
        "RULES_INVALID": [
            stub.PublishRules(pb.PublishRulesRequest(rules=doubled, published_by="kim")),
            stub.PublishRules(pb.PublishRulesRequest(rules=undecided, published_by="kim")),
        ],
        "CONCURRENT_CHANGE": [
            stub.PublishRules(
                pb.PublishRulesRequest(rules=rules_pb2.RuleSet(version=9, types=rules.types), published_by="kim")
            )
        ],
    }
    names = {name.removeprefix("ERROR_REASON_") for name in list(error_reason_pb2.ErrorReason.keys())}
    for reason, pending in calls.items():
        assert reason in names
        for call in pending:
            refusal = await refused(call)
            assert refusal.reason == reason, refusal
            assert refusal.metadata
    # Asked for with the right ids elsewhere: CLIENT_FORGOTTEN, MERGE_ALREADY_UNDONE, LOG_UNAVAILABLE.


async def test_a_store_that_is_away_is_said_so(served: Served, store_kind: str) -> None:
    """LOG_UNAVAILABLE, to be tried again, and nothing changed."""
    await served.hear(recorded("anna", 1, "login:anna!"))
    anna = served.client_of("anna")
    await served.identity.writer.close()
    refusal = await refused(
        served.stub.RecordConsent(pb.RecordConsentRequest(client_id=anna, purpose="newsletter", granted=True))
    )
    assert refusal.reason == "LOG_UNAVAILABLE"


async def test_two_processes_on_one_store_agree(served: Served, store_settings: Callable[[str], StoreSettings]) -> None:
    """Decisions of another process on the same log are seen by the next interaction, and the other way round."""
    await served.hear(recorded("anna", 1, "login:anna!"), recorded("card", 2, "loyalty_card:77!"))
    rival = open_store(store_settings("identity"), tables=IDENTITY_TABLES)
    command = MergeClients(
        bytes.fromhex(served.client_of("anna")), bytes.fromhex(served.client_of("card")), "kim", "same"
    )
    with rival.transaction() as tx:
        Decisions(Rulebook(HASHER.hash))(tx, [command])
    rival.close()
    await served.hear(recorded("purchase", 3, "loyalty_card:77!", "cookie:k"))
    assert served.client_of("purchase") == served.client_of("card") == served.client_of("anna")
    await served.assert_replays()


async def test_identity_serves_health_and_publishes_its_log(served: Served) -> None:
    """Health is SERVING, and everything in the log comes to be on the bus."""
    await served.hear(recorded("anna", 1, "login:anna!"))
    async with open_channel(served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def serving() -> bool:
            answer = await health.Check(  # pyright: ignore -- the health stub has no types
                health_pb2.HealthCheckRequest(service="throughline.identity.v1.IdentityService")
            )
            return answer.status == health_pb2.HealthCheckResponse.SERVING

        await eventually(serving)

    async def published() -> bool:
        checkpoint = await served.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest())
        return checkpoint.published_position == checkpoint.position > 0

    await eventually(published)


async def test_concurrent_decisions_leave_one_state(served: Served) -> None:
    """Many merges and undoings asked for at once: each is decided or refused, and the log replays to the state."""
    await served.hear(*(recorded(f"c{number}", number, f"login:l{number}!") for number in range(8)))
    clients = [served.client_of(f"c{number}") for number in range(8)]
    merges = await asyncio.gather(
        *(
            served.stub.MergeClients(
                pb.MergeClientsRequest(client_id=one, other_client_id=other, decided_by="kim", reason="same")
            )
            for one, other in pairwise(clients)
        )
    )
    assert len({served.client_of(f"c{number}") for number in range(8)}) == 1
    await asyncio.gather(
        *(
            served.stub.UndoMerge(pb.UndoMergeRequest(merge_id=each.merge_id, decided_by="lee", reason="no"))
            for each in reversed(merges)
        )
    )
    assert [served.client_of(f"c{number}") for number in range(8)] == clients
    await served.assert_replays()


def test_personas_are_named_as_ingestion_names_them() -> None:
    """The persona of a set of identifiers follows from type, hash and assurance."""
    facts = recorded("x", 1, "login:anna!").facts
    (only,) = facts.identifiers
    assert facts.persona_id == persona_id([(only.type, only.hash, only.assurance)])
