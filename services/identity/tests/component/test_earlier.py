"""Earlier answers of identity come back as of their instant, on every store, without whom was forgotten since."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc.aio
import pytest
from identity_served import Served, clear, interaction_id, recorded, refused

from identity.application import records
from throughline.eventlog.v1 import eventlog_pb2
from throughline.identity.v1 import identity_pb2 as pb
from throughline.identity.v1 import rules_pb2

pytestmark = pytest.mark.timeout(90)

Ask = Callable[[int], Awaitable[Any]]


def questions(served: Served, client_ids: list[str]) -> Mapping[str, Ask]:
    """Everything that identity answers as of an instant."""
    stub = served.stub
    asked: dict[str, Ask] = {
        "proposals": lambda at: stub.ListProposals(pb.ListProposalsRequest(as_of=at)),
        "scheduled": lambda at: stub.ListForgettings(pb.ListForgettingsRequest(as_of=at)),
        "rules": lambda at: stub.GetRules(pb.GetRulesRequest(as_of=at)),
        "retention": lambda at: stub.GetRetentionRules(pb.GetRetentionRulesRequest(as_of=at)),
    }
    for each in client_ids:
        asked[f"client {each}"] = lambda at, c=each: stub.GetClient(pb.GetClientRequest(client_id=c, as_of=at))
        asked[f"meaning of {each}"] = lambda at, c=each: stub.ResolveClient(
            pb.ResolveClientRequest(client_id=c, as_of=at)
        )
        asked[f"interactions of {each}"] = lambda at, c=each: stub.ListClientInteractions(
            pb.ListClientInteractionsRequest(client_id=c, as_of=at, between=eventlog_pb2.Interval(start=2, end=5))
        )
    for each in ("login:anna!", "email:a@mail.org!", "cookie:k", "loyalty_card:77!"):
        asked[f"meaning of {each}"] = lambda at, i=each: stub.ResolveClient(
            pb.ResolveClientRequest(identifiers=[clear(i)], as_of=at)
        )
        asked[f"reasons of {each}"] = lambda at, i=each: stub.ExplainLink(
            pb.ExplainLinkRequest(identifier=clear(i), as_of=at)
        )
    for each in ("anna", "visit", "card"):
        asked[f"reasons of the interaction {each}"] = lambda at, i=each: stub.ExplainLink(
            pb.ExplainLinkRequest(interaction_id=interaction_id(i), as_of=at)
        )
    return asked


async def told(call: Awaitable[Any]) -> Any:
    """The answer, or the status that it is refused with."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error.code()


async def merge(served: Served, one: str, other: str) -> str:
    """Makes them one; answers the merge's id."""
    request = pb.MergeClientsRequest(client_id=one, other_client_id=other, decided_by="kim", reason="asked")
    return (await served.stub.MergeClients(request)).merge_id


async def undo(served: Served, merge_id: str) -> None:
    """Takes it back."""
    await served.stub.UndoMerge(pb.UndoMergeRequest(merge_id=merge_id, decided_by="lee", reason="not one"))


async def publish(served: Served) -> None:
    """Publishes other rules, and a rule of retention by which nobody is over."""
    rules = (await served.stub.GetRules(pb.GetRulesRequest())).rules
    del rules.types[:2]
    rules.version = 0
    await served.stub.PublishRules(pb.PublishRulesRequest(rules=rules, published_by="kim"))
    retention = rules_pb2.RetentionRules(rules=[rules_pb2.RetentionRule(name="chat", keep=1 << 50, channels=["chat"])])
    await served.stub.PublishRetentionRules(pb.PublishRetentionRulesRequest(rules=retention, published_by="dpo"))


async def test_what_was_said_at_an_instant_is_said_again_whatever_came_later(served: Served) -> None:
    """Through visits that become somebody's, proposals, merges, undone merges, consents, rules and schedules."""
    stub = served.stub
    kept: list[tuple[str, int, Any]] = []
    ids: list[str] = []

    async def keep(*names: str) -> int:
        ids.extend(dict.fromkeys(client for name in names if (client := served.client_of(name)) not in ids))
        instant = (await stub.ListProposals(pb.ListProposalsRequest())).as_of
        for name, ask in questions(served, ids).items():
            kept.append((name, instant, await told(ask(0))))
        return instant

    await keep()
    await served.hear(recorded("visit", 3, "cookie:k"))
    await keep("visit")
    await served.hear(recorded("anna", 4, "login:anna!", "email:a@mail.org!"), recorded("card", 2, "loyalty_card:77!"))
    await keep("anna", "card")
    anna, card = served.client_of("anna"), served.client_of("card")
    await served.hear(recorded("known", 5, "login:anna!", "cookie:k"))
    two = await keep()
    await served.hear(recorded("both", 1, "loyalty_card:77!", "email:a@mail.org!"))
    proposed = await keep("both")
    # An earlier visit of hers became known: her first id is an alias.
    whole = served.client_of("anna")
    first = await merge(served, anna, card)
    await keep()
    await stub.RecordConsent(pb.RecordConsentRequest(client_id=card, purpose="marketing", granted=False, source="desk"))
    grace = pb.ForgetClientRequest(client_id=card, reason="asked", decided_by="desk", grace=1 << 40)
    await stub.ForgetClient(grace)
    one = await keep()
    await undo(served, first)
    await stub.CancelForgetting(pb.CancelForgettingRequest(client_id=card, reason="no", decided_by="desk"))
    await keep()
    second = await merge(served, card, anna)
    await publish(served)
    await keep()
    await undo(served, second)
    await served.hear(recorded("late", 0, "loyalty_card:77!", "cookie:k"))
    await keep()

    for name, instant, answer in kept:
        assert await told(questions(served, ids)[name](instant)) == answer, f"{name} as of {instant}"
    assert len({str(answer) for name, _, answer in kept if name == f"client {anna}"}) > 5
    earlier = (await stub.GetClient(pb.GetClientRequest(client_id=card, as_of=two))).client
    assert (earlier.client_id, list(earlier.alias_ids), earlier.interactions) == (card, [], 1)
    waiting = (await stub.ListProposals(pb.ListProposalsRequest(as_of=proposed))).proposals
    assert {each for row in waiting for each in (row.client_id, row.other_client_id)} == {whole, card}
    merged = (await stub.GetClient(pb.GetClientRequest(client_id=card, as_of=one))).client
    assert (merged.client_id, whole in merged.alias_ids) == (card, True)
    assert [each.undone for each in merged.merges if each.decided_by] == [False]
    await served.assert_replays()


async def test_who_was_forgotten_is_in_no_earlier_answer(served: Served) -> None:
    """Not by id, identifier or interaction, and not under the name of a client that they were merged with."""
    stub = served.stub
    await served.hear(
        recorded("anna", 1, "login:anna!", "email:a@mail.org!"),
        recorded("card", 2, "loyalty_card:77!", "phone:+43 1 234"),
        recorded("visit", 3, "cookie:k"),
    )
    anna, card = served.client_of("anna"), served.client_of("card")
    merge_id = await merge(served, anna, card)
    # Known by two ids for a while, and proposed to be one with somebody.
    await stub.RecordConsent(pb.RecordConsentRequest(client_id=card, purpose="marketing", granted=True, source="desk"))
    one = (await stub.GetClient(pb.GetClientRequest(client_id=anna))).as_of
    assert (await stub.ResolveClient(pb.ResolveClientRequest(client_id=card))).client_id == anna
    await undo(served, merge_id)
    apart = (await stub.GetClient(pb.GetClientRequest(client_id=card))).as_of
    await stub.ForgetClient(pb.ForgetClientRequest(client_id=card, reason="asked", decided_by="desk"))
    for instant in (one, apart, 0):
        assert (
            await refused(stub.GetClient(pb.GetClientRequest(client_id=card, as_of=instant)))
        ).reason == "CLIENT_FORGOTTEN"
        assert (
            await refused(stub.ExplainLink(pb.ExplainLinkRequest(interaction_id=interaction_id("card"), as_of=instant)))
        ).reason == "CLIENT_FORGOTTEN"
        by_card = pb.ResolveClientRequest(identifiers=[clear("loyalty_card:77")], as_of=instant)
        assert (await refused(stub.ResolveClient(by_card))).reason == "IDENTIFIERS_UNKNOWN"
        by_both = pb.ResolveClientRequest(identifiers=[clear("loyalty_card:77"), clear("login:anna")], as_of=instant)
        found = await stub.ResolveClient(by_both)
        assert (found.client_id, list(found.other_client_ids)) == (anna, [])
        left = (await stub.GetClient(pb.GetClientRequest(client_id=anna, as_of=instant))).client
        assert (list(left.alias_ids), left.interactions, list(left.merges)) == ([], 1, [])
        assert {each.identifier.type for each in left.identifiers} == {"login", "email"}
        listed = pb.ListClientInteractionsRequest(client_id=anna, as_of=instant)
        assert list((await stub.ListClientInteractions(listed)).interaction_ids) == [interaction_id("anna")]
    gone = bytes.fromhex(card)
    with served.identity.store.snapshot() as reader:
        for table in (records.FORMER_MEMBERS, records.FORMER_PROPOSALS):
            assert not list(reader.scan(table, prefix=gone))
        for table in (records.CLIENTS_UNTIL, records.FORGETTINGS_UNTIL):
            assert not list(reader.scan(table, prefix=gone))
        for table in (records.MERGES_UNTIL, records.IDENTIFIERS_UNTIL):
            assert not [key for key, row in reader.scan(table) if gone in row]
    await served.assert_replays()


async def test_the_pages_of_a_list_stand_on_the_instant_of_the_first(served: Served) -> None:
    """What comes meanwhile is not in them; a token of another question is refused."""
    await served.hear(*(recorded(f"i{at}", at, "login:anna!") for at in range(1, 6)))
    request = pb.ListClientInteractionsRequest(client_id=served.client_of("i1"), page_size=3)
    page = await served.stub.ListClientInteractions(request)
    await served.hear(recorded("i9", 9, "login:anna!"))
    request.page_token = page.next_page_token
    rest = await served.stub.ListClientInteractions(request)
    assert [*page.interaction_ids, *rest.interaction_ids] == [interaction_id(f"i{at}") for at in range(1, 6)]
    assert rest.as_of == page.as_of
    request.between.start = 2
    assert (await refused(served.stub.ListClientInteractions(request))).reason == "FIELD_INVALID"
    assert (await refused(served.stub.GetClient(pb.GetClientRequest(client_id="ab" * 16, as_of=-1)))).reason


async def test_what_a_forgotten_client_held_for_a_while_is_nobodys_then(served: Served) -> None:
    """Who was merged into somebody forgotten since is found as of now and before, not as of when all was theirs."""
    stub = served.stub
    await served.hear(recorded("anna", 1, "login:anna!"), recorded("card", 2, "loyalty_card:77!"))
    anna, card = served.client_of("anna"), served.client_of("card")
    before = (await stub.GetClient(pb.GetClientRequest(client_id=card))).as_of
    merge_id = await merge(served, anna, card)
    one = (await stub.GetClient(pb.GetClientRequest(client_id=card))).as_of
    await undo(served, merge_id)
    await stub.ForgetClient(pb.ForgetClientRequest(client_id=anna, reason="asked", decided_by="desk"))
    by_card = pb.ResolveClientRequest(identifiers=[clear("loyalty_card:77")])
    for instant in (before, 0):
        by_card.as_of = instant
        assert (await stub.ResolveClient(by_card)).client_id == card
    by_card.as_of = one
    assert (await refused(stub.ResolveClient(by_card))).reason == "IDENTIFIERS_UNKNOWN"
    then = pb.GetClientRequest(client_id=card, as_of=one)
    assert (await refused(stub.GetClient(then))).reason == "CLIENT_FORGOTTEN"
