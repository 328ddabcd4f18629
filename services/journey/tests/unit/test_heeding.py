"""A withdrawn consent is heeded from the moment it is noted, and the answer says what it leaves out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from journey.domain.handoffs import OfferHandoff
from throughline.identity.v1 import events_pb2 as identity_pb2
from throughline_kernel import ALWAYS, AUDIT, LeftOut, Recorded, hex_id

WEB = "web"


@pytest.fixture
def ann(say: SimpleNamespace) -> str:
    """A client."""
    return say.client("ann")


def said(log: Any, who: str, purpose: str, *, granted: bool, at: int, scope: str = "") -> Recorded:
    """What the client said, as identity logs it."""
    return log.add(
        identity_pb2.ConsentRecorded(client_id=who, purpose=purpose, granted=granted, source="desk", scope=scope),
        at,
    )


def told(line: Any, say: SimpleNamespace, who: str, purpose: str = "service", channel: str = "store") -> Any:
    return line.queries.context(who, (), channel, say.START + say.MINUTE, purpose=purpose).context


@pytest.fixture
def log(line: Any, say: SimpleNamespace, ann: str) -> Any:
    """Ann's history on three channels, a campaign among it."""
    log = say.Upstream("identity")
    log.opened(ann)
    log.attributed(ann, say.fact(0, "instagram", "post", group="social", exchanges=(say.Exchange("size", "M", False),)))
    log.attributed(ann, say.fact(1, WEB, "visit", group="site", promises=(say.PromiseMade("p", "call", 0),)))
    log.attributed(ann, say.fact(2, "mail", "campaign_sent", group="mail", campaign_id="spring"))
    line.identity(log.events)
    return log


def test_nothing_is_told_to_a_channel_that_is_not_to_know(line: Any, say: SimpleNamespace, ann: str, log: Any) -> None:
    """Given all consent is withdrawn, the answer is the client's id, what is left out, and by which word."""
    before = told(line, say, ann)
    withdrawal = said(log, ann, "service", granted=False, at=say.START + 5)
    line.identity([withdrawal])
    after = told(line, say, ann)
    assert before.interactions == 3
    assert after.left_out == (
        LeftOut("everything", 3, "service", "", say.START + 5, "desk", withdrawal.event_id.hex()),
    )
    assert (after.interactions, after.last_steps, after.answers, after.promises, after.channels_used) == (
        0,
        (),
        (),
        (),
        (),
    )
    assert after.who.client_id == ann
    assert after.who.alias_ids == ()
    assert told(line, say, ann, "research").interactions == 3
    assert told(line, say, ann, AUDIT).interactions == 3
    assert line.live() == line.replayed()
    line.identity([said(log, ann, "service", granted=True, at=say.START + 6)])
    assert told(line, say, ann) == before


def test_what_happened_on_a_channel_is_left_out_and_counted(
    line: Any, say: SimpleNamespace, ann: str, log: Any
) -> None:
    """Given consent is withdrawn for one channel, the history is told as if that channel had not been."""
    feedback = say.Upstream("feedback")
    post = say.fact(0, "instagram", "post", group="social").id
    line.feedback([feedback.received(ann, hex_id("f"), 1, kind=1, score=9, interaction_id=post)])
    line.offer(OfferHandoff(ann, "instagram", "store", "help", "", 0, b"t" * 32, say.START))
    whole = told(line, say, ann)
    assert {matter.kind for matter in whole.open_matters} == {"journey", "handoff", "promise"}
    line.identity([said(log, ann, "service", granted=False, at=say.START + 5, scope="instagram")])
    part = told(line, say, ann)
    assert [(left.what, left.count, left.scope) for left in part.left_out] == [
        ("feedback", 1, "instagram"),
        ("hand_offs", 1, "instagram"),
        ("interactions", 1, "instagram"),
    ]
    assert part.channels_used == ("web", "mail")
    assert part.answers == ()
    assert {matter.kind for matter in part.open_matters} == {"journey", "promise"}
    assert "instagram" not in repr(part).replace("scope='instagram'", "")
    entries = line.queries.timeline(ann, 0, ALWAYS, 0, 100)
    assert all("instagram" not in repr(entry) for entry in entries.entries)
    assert {"feedback", "handoff_offered"}.isdisjoint(entry.type for entry in entries.entries)
    (left,) = entries.left_out
    assert (left.what, left.scope) == ("entries", "instagram")
    assert left.count + len(entries.entries) == len(
        line.queries.timeline(ann, 0, ALWAYS, 0, 100, purpose=AUDIT).entries
    )
    assert told(line, say, ann, channel="instagram").left_out[0].what == "everything"
    assert line.live() == line.replayed()


def test_an_answer_of_earlier_heeds_the_consents_of_now(line: Any, say: SimpleNamespace, ann: str, log: Any) -> None:
    """What was withdrawn since is not told of an earlier instant either, under the id that the client had then."""
    with line.store.snapshot() as reader:
        then = reader.commit_at().recorded_at
    assert line.queries.earlier_context(ann, (), "store", then).context.interactions == 3
    bob = say.client("bob")
    line.identity([log.opened(bob), said(log, bob, "service", granted=False, at=say.START + 5), log.merged(bob, ann)])
    again = line.queries.earlier_context(ann, (), "store", then).context
    assert again.interactions == 0
    assert again.left_out[0].what == "everything"
    page = line.queries.timeline(ann, then, ALWAYS, 0, 100)
    assert (page.entries, page.left_out[0].what) == ((), "entries")
    assert line.queries.timeline(ann, then, ALWAYS, 0, 100, purpose=AUDIT).entries


def test_campaigns_are_not_told_where_marketing_is_withdrawn(
    line: Any, say: SimpleNamespace, ann: str, log: Any
) -> None:
    """Whatever a channel reads for, it does not learn what would serve to sell."""
    assert [each.campaign_id for each in told(line, say, ann).campaigns] == ["spring"]
    line.identity([said(log, ann, "marketing", granted=False, at=say.START + 5)])
    part = told(line, say, ann)
    assert part.campaigns == ()
    assert [(left.what, left.count, left.purpose) for left in part.left_out] == [("campaigns", 1, "marketing")]
    assert part.interactions == 3


def test_the_last_word_by_time_holds_in_whatever_order_it_comes(
    line: Any, say: SimpleNamespace, ann: str, log: Any
) -> None:
    """Given a consent of earlier is recorded late, the withdrawal that came after it stands."""
    line.identity([said(log, ann, "service", granted=False, at=say.START + 9)])
    line.identity([said(log, ann, "service", granted=True, at=say.START + 4)])
    assert told(line, say, ann).left_out[0].since == say.START + 9
    assert line.types().count("ConsentNoted") == 1


def test_a_watcher_is_told_that_entries_are_left_out(line: Any, say: SimpleNamespace, ann: str, log: Any) -> None:
    """From the withdrawal on the watcher sees none of the channel, and how many it does not see."""
    now = line.queries.begin_watching(ann, 0)
    line.identity([said(log, ann, "service", granted=False, at=say.START + 5, scope=WEB)])
    line.identity([log.attributed(ann, say.fact(7, WEB, "visit", group="site", id="later"))])
    line.identity([log.attributed(ann, say.fact(8, "mail", "campaign_sent", group="mail", id="mail"))])
    entries, left_out, _, _ = line.queries.watch(ann, now)
    assert [entry.channel for entry in entries if entry.type == "interaction"] == ["mail"]
    assert [left.what for left in left_out] == ["entries"]
    assert all(WEB not in (entry.channel, *entry.channels) for entry in entries)


def test_words_follow_a_merge_and_leave_with_its_undoing(line: Any, say: SimpleNamespace, ann: str, log: Any) -> None:
    """What Bob said holds for Ann while they are one client, and only then."""
    bob = say.client("bob")
    log.opened(bob)
    said(log, bob, "service", granted=False, at=say.START + 5)
    log.merged(ann, bob)
    line.identity(log.events)
    assert told(line, say, ann).left_out[0].purpose == "service"
    assert told(line, say, bob).left_out[0].purpose == "service"
    line.identity([log.add(identity_pb2.MergeUndone(client_id=ann, restored_client_id=bob))])
    assert told(line, say, ann).left_out == ()
    assert line.live() == line.replayed()


def test_forgetting_forgets_the_words_too(line: Any, say: SimpleNamespace, ann: str, log: Any) -> None:
    """A forgotten client has no consents, here or in a replay."""
    line.identity([said(log, ann, "service", granted=False, at=say.START + 5)])
    line.identity([log.forgotten(ann)])
    assert line.live() == line.replayed() == {}
    with line.store.snapshot() as reader:
        assert list(reader.scan("directory_consents")) == []
