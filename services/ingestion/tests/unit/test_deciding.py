"""Laws 2 and 6: what becomes of each offer, and that it adds up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ingestion_offers import PURCHASE, offered, registered

from ingestion.domain.accounting import Account, SetDigest, Tally, Verdict
from ingestion.domain.deciding import (
    CONFLICT_AGAIN,
    CONFLICT_NEW,
    DUPLICATE,
    RECORDED,
    Known,
    Offer,
    batch_size_error,
    judge,
    refused,
    tally,
)
from throughline_kernel import Violation


def test_what_is_new_and_may_be_reported_is_recorded() -> None:
    """Given a registered source and channel, when something new is offered, then it is recorded."""
    known = Known()
    assert judge(offered(), known, registered("store")) == RECORDED
    assert known.recorded == {offered().key: offered().content_mac}


def test_the_same_content_again_is_a_duplicate_and_not_stored() -> None:
    """Law 2, without a time window: only what is recorded counts."""
    known = Known(recorded={offered().key: offered().content_mac})
    assert judge(offered(), known, registered("store")) == DUPLICATE


def test_other_content_under_the_same_id_is_a_conflict_kept_once() -> None:
    """The first stands; the other is kept beside it, and told again whenever it is offered."""
    known, registry = Known(), registered("store")
    verdicts = [judge(offered(content=content), known, registry) for content in "abbcba"]
    assert verdicts == [RECORDED, CONFLICT_NEW, CONFLICT_AGAIN, CONFLICT_NEW, CONFLICT_AGAIN, DUPLICATE]
    assert CONFLICT_NEW.violations[0].reason == "CONTENT_CONFLICT"


def test_an_unknown_channel_waits_in_quarantine_and_is_stored_once() -> None:
    """The remedy says what to register."""
    known, registry = Known(), registered("web")
    first, again = judge(offered(), known, registry), judge(offered(), known, registry)
    assert (first.verdict, first.stored) == (Verdict.QUARANTINED, True)
    assert (again.verdict, again.stored) == (Verdict.QUARANTINED, False)
    assert first.standing is not None
    assert (first.standing.reason, first.standing.remedy) == (
        "CHANNEL_UNKNOWN",
        "register channel 'store', then redrive",
    )


def test_everything_that_stands_in_the_way_is_named() -> None:
    """An unknown source and an unknown channel are mended in one go."""
    judgement = judge(offered(), Known(), registered(sources=()))
    assert [violation.reason for violation in judgement.violations] == ["SOURCE_UNKNOWN", "CHANNEL_UNKNOWN"]
    assert judgement.standing is not None
    assert judgement.standing.remedy == "register source 'till' and register channel 'store', then redrive"


def test_a_corrected_channel_is_recorded_while_the_wrong_one_waits() -> None:
    """What waits is not recorded: it blocks nobody, and ends as a conflict once it is redriven."""
    known, registry = Known(), registered("store")
    assert judge(offered(channel="shop", content="a"), known, registry).verdict == Verdict.QUARANTINED
    assert judge(offered(content="b"), known, registry) == RECORDED
    assert judge(offered(channel="shop", content="a"), known, registry) == CONFLICT_NEW


def test_what_is_recorded_stays_a_duplicate_when_its_channel_is_gone() -> None:
    """The registry says what may be recorded, never what was."""
    known = Known(recorded={offered().key: offered().content_mac})
    assert judge(offered(), known, registered()) == DUPLICATE


def test_a_broken_rule_is_refused_whatever_else_holds() -> None:
    """A refused offer leaves no trace but its count."""
    rule = Violation("kind", "snake_case", "write it so")
    known = Known()
    assert judge(refused("till", (rule,)), known, registered()).verdict == Verdict.REFUSED
    assert known == Known()


def test_a_batch_has_between_one_and_a_thousand_events() -> None:
    """The error names what was sent and the limit."""
    assert batch_size_error(1) is None
    assert batch_size_error(1_000) is None
    for size in (0, 1_001, 10_000):
        error = batch_size_error(size)
        assert error is not None
        assert (error.reason, error.metadata["events"]) == ("BATCH_SIZE_INVALID", str(size))


offers = st.builds(
    lambda number, content, channel, source, fine: (
        offered(PURCHASE, content, source=source, source_interaction_id=f"r{number}", channel=channel)
        if fine
        else refused(source, (Violation("kind", "snake_case", "write it so"),))
    ),
    st.integers(0, 3),
    st.sampled_from("ab"),
    st.sampled_from(["store", "web", "kiosk"]),
    st.sampled_from(["till", "site", "nobody"]),
    st.sampled_from([True, True, True, False]),
)


@given(st.lists(st.lists(offers, max_size=8), max_size=6))
def test_the_five_ends_add_up_to_what_was_offered(batches: list[list[Offer]]) -> None:
    """Law 6, for any batches of anything, with repeats within and across them."""
    known, registry = Known(), registered("store", "web", sources=("till", "site"))
    accounts: dict[str, Tally] = {}
    for batch in batches:
        verdicts = [(offer.source, judge(offer, known, registry).verdict) for offer in batch]
        for source, counted in tally(verdicts).items():
            accounts[source] = accounts.get(source, Tally()) + counted
    for source in {offer.source for batch in batches for offer in batch}:
        assert accounts[source].offered == sum(offer.source == source for batch in batches for offer in batch)
    assert sum(counted.recorded for counted in accounts.values()) == len(known.recorded)


@given(st.lists(offers, max_size=12), st.data())
def test_how_it_is_cut_into_batches_changes_no_verdict(events: list[Offer], data: st.DataObject) -> None:
    """Law 3 for batching: a batch is only how events travel."""
    registry = registered("store", "web", sources=("till", "site"))
    whole = Known()
    at_once = [judge(offer, whole, registry) for offer in events]
    cut = data.draw(st.integers(0, len(events)))
    first = Known()
    apart = [judge(offer, first, registry) for offer in events[:cut]]
    # What a later commit knows is what an earlier one stored.
    second = Known(dict(first.recorded), set(first.conflicting), set(first.quarantined))
    apart += [judge(offer, second, registry) for offer in events[cut:]]
    assert apart == at_once


@given(st.lists(offers, max_size=12))
def test_offering_everything_again_stores_nothing_twice(events: list[Offer]) -> None:
    """Law 2: a retry of anything is safe. What waits in quarantine while another content was recorded is a conflict by
    now, and kept as one too; nothing else is new, and after that nothing at all.
    """
    known, registry = Known(), registered("store", "web", sources=("till", "site"))
    for offer in events:
        judge(offer, known, registry)
    for offer in events:
        if judge(offer, known, registry).stored:
            assert offer.key in known.recorded
            assert offer.key + offer.content_mac in known.quarantined
    assert not any(judge(offer, known, registry).stored for offer in events)


@given(st.permutations([offered(source_interaction_id=f"r{number}") for number in range(6)]))
def test_the_order_of_different_interactions_does_not_matter(events: list[Offer]) -> None:
    """Law 3: the account's digest is that of the set."""
    known, registry, account = Known(), registered("store"), Account()
    for offer in events:
        assert judge(offer, known, registry) == RECORDED
        account = account.recording([offer.key + offer.content_mac])
    sample = [offered(source_interaction_id=f"r{number}") for number in range(6)]
    assert account.recorded == SetDigest().plus(offer.key + offer.content_mac for offer in sample)


@given(st.sampled_from([v for v in Verdict if v != Verdict.QUARANTINED]), st.integers(1, 50), st.integers(0, 50))
def test_leaving_quarantine_moves_every_offer_and_loses_none(verdict: Verdict, offers: int, others: int) -> None:
    """Law 6 across a redrive: one ends as decided, its repeats as repeats of it do."""
    before = Account(Tally(quarantined=offers + others))
    after = before.redriven(verdict, offers)
    assert after.tally.offered == before.tally.offered
    assert after.tally.quarantined == others
    if verdict == Verdict.RECORDED:
        assert (after.tally.recorded, after.tally.duplicate) == (1, offers - 1)
