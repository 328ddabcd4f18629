"""Scoring as it is called: figures with their evidence, metrics of one's own, attribution, and every way to be
refused.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scoring_upstream import DAY, MINUTE, Upstream, client_id, interaction_id, live, replayed, state_digest

from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.identity.v1 import events_pb2 as identity
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline.journey.v1 import events_pb2 as journey
from throughline.scoring.v1 import error_reason_pb2, metrics_pb2
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_rpc import PURPOSE_KEY, RemoteRefusal, decode_error, open_channel
from throughline_testkit import eventually

if TYPE_CHECKING:
    from conftest import Running

ALL = pb.SUBJECT_KIND_ALL
CHANNEL = pb.SUBJECT_KIND_CHANNEL


def fill(up: Upstream) -> None:
    """Fourteen clients on two channels, with answers, cases, journeys, campaigns and purchases."""
    for number in range(14):
        who, at = f"c{number}", number * DAY
        channel = ("web", "phone")[number % 2]
        up.attributed(who, f"sent{number}", at, kind="campaign_sent", channel="mail", campaign_id="spring")
        up.attributed(
            who,
            f"call{number}",
            at + MINUTE,
            kind="call",
            channel=channel,
            touchpoint="desk",
            matter="bill",
            case_id=f"case{number}",
            outcome="resolved" if number % 3 else "open",
            handling_time=(number + 1) * 1_000_000,
            wait_time=5_000_000,
            cost=interaction.Money(micros=2_000_000, currency="USD"),
            attributes=b'{"reopened":0}' if number % 2 else b'{"reopened":1}',
        )
        up.attributed(
            who,
            f"again{number}",
            at + (2 if number % 4 == 0 else 9) * DAY,
            kind="purchase",
            channel="store",
            matter="bill",
            value=interaction.Money(micros=10_000_000 + number, currency="USD"),
        )
        score = 10 if number % 2 == 0 else 3
        up.received(who, f"nps{number}", at + 2 * MINUTE, f"call{number}", score=score, channel=channel)
        up.classified(who, f"nps{number}", "desk")
        up.received(
            who,
            f"csat{number}",
            at + 2 * MINUTE,
            f"call{number}",
            kind=interaction.FEEDBACK_KIND_CSAT,
            score=4,
            channel=channel,
        )
        up.case(feedback.CaseOpened, who, f"case{number}", at + 3 * MINUTE, department="desk", channel=channel)
        up.case(feedback.CaseAcknowledged, who, f"case{number}", at + (4 + number) * MINUTE, by="ann")
        up.on_journey(journey.JourneyStarted, who, f"j{number}", at + MINUTE, f"call{number}", channel=channel)
        end = journey.JourneyCompleted if number % 4 else journey.JourneyAbandoned
        up.on_journey(end, who, f"j{number}", at + DAY, f"call{number}")


async def explained(running: Running, score: pb.Score, size: int = 5) -> list[str]:
    """All pages of the evidence."""
    found: list[str] = []
    token = ""
    while True:
        page = await running.stub.ExplainScore(
            api.ExplainScoreRequest(score_id=score.score_id, page_size=size, page_token=token)
        )
        told = page.score
        assert (told.value, told.low, told.high, told.n) == (score.value, score.low, score.high, score.n)
        assert dict(told.parts) == dict(score.parts)
        assert page.formula.formula == score.formula
        assert page.formula.source
        assert len(page.event_ids) <= size
        found.extend(page.event_ids)
        token = page.next_page_token
        if not token:
            return found


def by_name(scores: Any, metric: str, aspect: str | None = None) -> pb.Score:
    (score,) = [each for each in scores if each.metric == metric and (aspect is None or each.aspect == aspect)]
    return score


async def refused(call: Any) -> RemoteRefusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refusal = decode_error(caught.value)
    assert isinstance(refusal, RemoteRefusal)
    return refusal


DEFINITION = metrics_pb2.MetricDefinition(
    metric="solved",
    version=1,
    name="Solved cases",
    definition="Cases whose last contact ended resolved and was not reopened",
    unit=metrics_pb2.UNIT_CASE,
    population=metrics_pb2.Condition(kinds=["call"]),
    numerator=metrics_pb2.Condition(outcomes=["resolved"], attributes={"reopened": "0"}),
)


async def test_law_7_every_figure_opens_its_evidence_and_the_pages_add_up_to_n(running: Running) -> None:
    """For every score of every subject: as many different event ids as n, in pages, with formula and interval."""
    fill(running.up)
    await running.publish()
    await running.stub.DefineMetric(api.DefineMetricRequest(definition=DEFINITION, defined_by="ann"))
    subjects = [
        (ALL, ""),
        (CHANNEL, "web"),
        (CHANNEL, "store"),
        (CHANNEL, "mail"),
        (pb.SUBJECT_KIND_TOUCHPOINT, "phone/desk"),
        (pb.SUBJECT_KIND_JOURNEY, "service"),
        (pb.SUBJECT_KIND_DEPARTMENT, "desk"),
        (pb.SUBJECT_KIND_ASSISTANCE, "assisted"),
        (pb.SUBJECT_KIND_CAMPAIGN, "spring"),
        (pb.SUBJECT_KIND_SOURCE, "test"),
        (pb.SUBJECT_KIND_CLIENT, client_id("c3")),
    ]
    met: set[str] = set()
    for kind, name in subjects:
        card = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=kind, subject=name))
        for score in card.scores:
            found = await explained(running, score)
            assert len(found) == len(set(found)) == score.n, (name, score.metric, score.aspect)
            assert score.formula
            assert score.formula_version
            if score.n:
                met.add(score.metric)
    assert met >= {
        *(
            "nps",
            "csat",
            "csat_mean",
            "volume",
            "clients",
            "feedback",
            "cases",
            "fcr",
            "response_time",
            "handling_time",
        ),
        *("wait_time", "measurement_coverage", "value", "cost", "value_after_costs", "completion_rate", "conversions"),
        *("attribution_first", "attribution_last", "attribution_linear", "attribution_time_decay", "solved"),
    }


async def test_the_figures_are_those_of_the_story(running: Running) -> None:
    """Counted by hand: fourteen calls, four repeated within seven days, half promoters, answers after 1 to 14
    minutes.
    """
    fill(running.up)
    await running.publish()
    card = (await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))).scores
    assert by_name(card, "nps").value == 0
    assert dict(by_name(card, "nps").parts) == {"promoters": 7, "passives": 0, "detractors": 7}
    assert by_name(card, "fcr").n == 28
    assert by_name(card, "fcr").parts["resolved"] == 24
    assert by_name(card, "volume").n == 42
    assert by_name(card, "clients").n == 14
    assert by_name(card, "measurement_coverage").parts["measured"] == 14
    assert by_name(card, "response_time").value == 60 * 7.5
    assert by_name(card, "handling_time").value == 7.5
    assert by_name(card, "handling_time").parts["p90_micros"] == 13_000_000
    assert by_name(card, "completion_rate").parts["completed"] == 10
    after_costs = by_name(card, "value_after_costs")
    assert after_costs.parts["micros"] == 14 * 10_000_000 + sum(range(14)) - 14 * 2_000_000
    assert after_costs.unit == "USD"
    assert by_name(card, "ces").note == "0 answers, at least 10 are needed"
    assert not by_name(card, "ces").HasField("value")
    one = (
        await running.stub.GetScorecard(
            api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id("c3"))
        )
    ).scores
    assert by_name(one, "nps").note == "1 answer, at least 10 are needed"
    assert by_name(one, "value_after_costs").parts["micros"] == 8_000_003


async def test_the_worst_channel_is_the_headline(running: Running) -> None:
    """Of those with enough answers; the others come last and say how many they have."""
    for number in range(12):
        running.up.received(f"c{number}", f"web{number}", number, score=9, channel="web")
        running.up.received(f"c{number}", f"phone{number}", number, score=2 if number else 9, channel="phone")
    running.up.received("c0", "kiosk", 1, score=0, channel="kiosk")
    await running.publish()
    board = await running.stub.ListScorecards(api.ListScorecardsRequest(subject_kind=CHANNEL, metrics=["nps"]))
    assert [row.subject for row in board.scorecards] == ["phone", "web", "kiosk"]
    assert [[score.metric for score in row.scores] for row in board.scorecards] == [["nps"]] * 3
    assert board.headline.subject == "phone"
    assert board.headline.text == "Worst channel by NPS: phone, -83.3 (95% -100 to -32.5, n 12)"
    assert board.scorecards[2].scores[0].note == "1 answer, at least 10 are needed"
    nothing = await running.stub.ListScorecards(api.ListScorecardsRequest(subject_kind=CHANNEL, headline_metric="ces"))
    assert not nothing.HasField("headline")


async def test_a_score_is_explained_as_it_was_told_though_the_log_went_on(running: Running) -> None:
    """Later answers, moved contacts and redefined metrics change no number that was told."""
    fill(running.up)
    await running.publish()
    await running.stub.DefineMetric(api.DefineMetricRequest(definition=DEFINITION, defined_by="ann"))
    told = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))
    before = {score.score_id: await explained(running, score) for score in told.scores}
    running.up.reattributed("c1", "c0", "call0")
    running.up.attributed("c9", "late", 1, kind="call", case_id="case3", outcome="open", matter="bill")
    running.up.received("c2", "more", 5, "call2", score=0)
    running.up.reassigned("c5", "c4", "nps4", 99)
    await running.publish()
    wider = metrics_pb2.MetricDefinition()
    wider.CopyFrom(DEFINITION)
    wider.version = 2
    wider.population.CopyFrom(metrics_pb2.Condition(channels=["web"]))
    await running.stub.DefineMetric(api.DefineMetricRequest(definition=wider, defined_by="ann"))
    for score in told.scores:
        assert await explained(running, score) == before[score.score_id], score.metric
    now = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))
    assert by_name(now.scores, "nps").n == by_name(told.scores, "nps").n + 1
    assert by_name(now.scores, "solved").formula_version == 2


async def test_a_published_scorecard_reads_back_the_same_for_ever(running: Running) -> None:
    """To the last bit, from the log too, whatever is heard later."""
    fill(running.up)
    await running.publish()
    published = await running.stub.PublishScorecard(
        api.PublishScorecardRequest(subject_kind=CHANNEL, subject="web", published_by="ann")
    )
    running.up.received("c2", "more", 5, "call2", score=0)
    await running.publish()
    with running.scoring.store.snapshot() as reader:
        logged = [
            pb.ScoreComputed.FromString(event.payload)
            for event in reader.read()
            if event.type.endswith("ScoreComputed")
        ]
        assert reader.read(published.position - 1, limit=1)[0].type.endswith("ScoreComputed")
    assert [each.score for each in logged] == list(published.scores)
    assert {each.published_by for each in logged} == {"ann"}
    for score in published.scores:
        page = await running.stub.ExplainScore(api.ExplainScoreRequest(score_id=score.score_id))
        assert page.score == score


async def test_a_scorecard_as_of_an_instant_and_of_an_interval_is_published_with_both_times(running: Running) -> None:
    """What was known then of what began in it, to the last bit, whatever was heard since; and its evidence with it."""
    fill(running.up)
    await running.publish()
    ever = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=CHANNEL, subject="web"))
    answers = [event.occurred_at for event in running.up.feedback.events if event.type.endswith("FeedbackReceived")]
    between = eventlog_pb2.Interval(start=min(answers), end=sorted(answers)[len(answers) // 2])
    asked = api.GetScorecardRequest(subject_kind=CHANNEL, subject="web", as_of=ever.as_of, between=between)
    then = await running.stub.GetScorecard(asked)
    assert 0 < by_name(then.scores, "volume").n < by_name(ever.scores, "volume").n
    for number in range(3):
        running.up.received("c2", f"more{number}", min(answers), "call2", score=0)
    await running.publish()
    published = await running.stub.PublishScorecard(
        api.PublishScorecardRequest(
            subject_kind=CHANNEL, subject="web", published_by="ann", as_of=ever.as_of, between=between
        )
    )
    assert (list(published.scores), published.as_of) == (list(then.scores), ever.as_of)
    with running.scoring.store.snapshot() as reader:
        logged = [
            pb.ScoreComputed.FromString(event.payload)
            for event in reader.read()
            if event.type.endswith("ScoreComputed")
        ]
    assert [each.score for each in logged] == list(then.scores)
    assert {(each.as_of, each.score.position, each.score.between.end) for each in logged} == {
        (ever.as_of, ever.position, between.end)
    }
    nps = by_name(published.scores, "nps")
    page = await running.stub.ExplainScore(api.ExplainScoreRequest(score_id=nps.score_id))
    assert (page.score, len(page.event_ids)) == (nps, nps.n)


async def test_credit_adds_up_over_channels_campaigns_and_models(running: Running) -> None:
    """Every conversion is credited once per model, and its value with it, to the micro."""
    fill(running.up)
    running.up.attributed("alone", "alone", 5, kind="purchase")
    await running.publish()
    answer = await running.stub.GetAttribution(api.GetAttributionRequest())
    assert (answer.conversions_total, answer.unattributed) == (15, 1)
    for model in ("first", "last", "linear", "time_decay"):
        rows = [row for row in answer.rows if row.model == model]
        assert sum(row.conversions_micros for row in rows) == 14_000_000
        assert sum(row.value_micros for row in rows) == 14 * 10_000_000 + sum(range(14))
    first = [row for row in answer.rows if row.model == "first"]
    assert {(row.channel, row.campaign_id) for row in first} == {("mail", "spring")}
    one = await running.stub.GetAttribution(api.GetAttributionRequest(client_id=client_id("c1"), model="linear"))
    assert [(row.channel, row.conversions_micros) for row in one.rows] == [("mail", 500_000), ("phone", 500_000)]
    (conversion,) = one.conversions
    assert conversion.conversion_interaction_id == interaction_id("again1")
    assert [credit.interaction_id for credit in conversion.models[0].credits] == [
        interaction_id("sent1"),
        interaction_id("call1"),
    ]
    with running.scoring.store.snapshot() as reader:
        announced = [
            pb.AttributionComputed.FromString(event.payload)
            for event in reader.read()
            if event.type.endswith("AttributionComputed")
        ]
    assert {each.conversion_interaction_id for each in announced} == {interaction_id(f"again{n}") for n in range(14)}


async def test_a_new_metric_answers_over_all_history(running: Running) -> None:
    """Before and after its definition, in every version, also over cases that two clients share."""
    fill(running.up)
    await running.publish()
    for unit, version in ((metrics_pb2.UNIT_CASE, 1), (metrics_pb2.UNIT_CONTACT, 2), (metrics_pb2.UNIT_CLIENT, 3)):
        definition = metrics_pb2.MetricDefinition()
        definition.CopyFrom(DEFINITION)
        definition.unit, definition.version = unit, version
        definition.ClearField("population")
        definition.numerator.CopyFrom(metrics_pb2.Condition(outcomes=["resolved"]))
        answer = await running.stub.DefineMetric(api.DefineMetricRequest(definition=definition, defined_by="ann"))
        assert answer.version == version
        again = await running.stub.DefineMetric(api.DefineMetricRequest(definition=definition, defined_by="ann"))
        assert again.version == version
        card = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))
        score = by_name(card.scores, "solved")
        expected = {metrics_pb2.UNIT_CASE: (14, 9), metrics_pb2.UNIT_CONTACT: (42, 9), metrics_pb2.UNIT_CLIENT: (14, 0)}
        assert (score.n, score.parts["numerator"]) == expected[unit]
    running.up.attributed("c20", "new", 5, kind="call", outcome="resolved")
    await running.publish()
    card = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))
    assert (by_name(card.scores, "solved").n, by_name(card.scores, "solved").parts["numerator"]) == (15, 1)
    listed = await running.stub.ListMetrics(api.ListMetricsRequest())
    assert [(each.metric, each.version) for each in listed.metrics] == [("solved", 3)]
    assert {formula.formula for formula in listed.formulas} >= {"nps", "fcr", "attribution", "share"}
    assert all(formula.source for formula in listed.formulas)
    with running.scoring.store.snapshot() as reader:
        assert live(reader) == replayed(reader.read())


async def test_law_9_a_forgotten_client_leaves_the_figures_and_published_scores_stay(running: Running) -> None:
    """Its contributions go, its evidence is withheld and said to be; what was published stays as it was published."""
    fill(running.up)
    await running.publish()
    published = await running.stub.PublishScorecard(api.PublishScorecardRequest(subject_kind=ALL, published_by="ann"))
    running.up.forgotten("c0")
    await running.publish()
    card = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))
    assert by_name(card.scores, "clients").n == 13
    assert by_name(card.scores, "nps").n == 13
    assert by_name(card.scores, "volume").n == 39
    nps = by_name(published.scores, "nps")
    page = await running.stub.ExplainScore(api.ExplainScoreRequest(score_id=nps.score_id))
    assert page.score.value == nps.value
    assert page.score.n == 14
    assert page.score.note == "1 of the 14 belong to clients who were forgotten or withdrew since"
    assert len(page.event_ids) == 13
    refusal = await refused(
        running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id("c0")))
    )
    assert (refusal.reason, refusal.metadata["client_id"]) == ("CLIENT_FORGOTTEN", client_id("c0"))
    with running.scoring.store.snapshot() as reader:
        assert live(reader) == replayed(reader.read())


async def test_every_refusal_names_its_reason(running: Running) -> None:
    """Each reason of the contract, with the values that a caller needs."""
    fill(running.up)
    await running.publish()
    stub = running.stub
    later = metrics_pb2.MetricDefinition()
    later.CopyFrom(DEFINITION)
    later.version = 7
    unnamed = metrics_pb2.MetricDefinition(metric="nps", version=1, unit=metrics_pb2.UNIT_CASE)
    damaged = base64.urlsafe_b64encode(b"nothing of ours").decode()
    score = (await stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))).scores[0]
    running.up.forgotten("c0")
    running.up.consented("c1", granted=False, at=1, purpose="marketing")
    await running.publish()
    cases: list[tuple[str, Any, dict[str, str]]] = [
        (
            "FIELD_INVALID",
            stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL, subject="x")),
            {"field": "subject"},
        ),
        (
            "FIELD_INVALID",
            stub.GetScorecard(api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject="x")),
            {"field": "subject"},
        ),
        (
            "FIELD_INVALID",
            stub.ListScorecards(api.ListScorecardsRequest(subject_kind=pb.SUBJECT_KIND_CLIENT)),
            {"field": "subject_kind"},
        ),
        ("FIELD_INVALID", stub.GetAttribution(api.GetAttributionRequest(model="best")), {"field": "model"}),
        (
            "FIELD_INVALID",
            stub.ExplainScore(api.ExplainScoreRequest(score_id=score.score_id, page_size=1_001)),
            {"field": "page_size"},
        ),
        ("FIELD_REQUIRED", stub.GetScorecard(api.GetScorecardRequest()), {"field": "subject_kind"}),
        ("FIELD_REQUIRED", stub.GetScorecard(api.GetScorecardRequest(subject_kind=CHANNEL)), {"field": "subject"}),
        (
            "FIELD_REQUIRED",
            stub.PublishScorecard(api.PublishScorecardRequest(subject_kind=ALL)),
            {"field": "published_by"},
        ),
        ("FIELD_REQUIRED", stub.DefineMetric(api.DefineMetricRequest(definition=DEFINITION)), {"field": "defined_by"}),
        (
            "CLIENT_NOT_FOUND",
            stub.GetAttribution(api.GetAttributionRequest(client_id="0" * 32)),
            {"client_id": "0" * 32},
        ),
        (
            "METRIC_UNKNOWN",
            stub.ListScorecards(api.ListScorecardsRequest(subject_kind=CHANNEL, metrics=["luck"])),
            {"metric": "luck"},
        ),
        (
            "METRIC_UNKNOWN",
            stub.ListScorecards(api.ListScorecardsRequest(subject_kind=CHANNEL, headline_metric="luck")),
            {"metric": "luck"},
        ),
        (
            "METRIC_INVALID",
            stub.DefineMetric(api.DefineMetricRequest(definition=unnamed, defined_by="ann")),
            {"field": "definition.metric"},
        ),
        (
            "METRIC_VERSION_STALE",
            stub.DefineMetric(api.DefineMetricRequest(definition=later, defined_by="ann")),
            {"version": "7", "next": "1"},
        ),
        ("SCORE_NOT_FOUND", stub.ExplainScore(api.ExplainScoreRequest(score_id=damaged)), {"score_id": damaged}),
        ("SCORE_NOT_FOUND", stub.ExplainScore(api.ExplainScoreRequest(score_id="%%%")), {"score_id": "%%%"}),
        (
            "PAGE_TOKEN_INVALID",
            stub.ExplainScore(api.ExplainScoreRequest(score_id=score.score_id, page_token="9")),
            {"field": "page_token"},
        ),
        (
            "SUBJECT_NOT_FOUND",
            stub.GetScorecard(api.GetScorecardRequest(subject_kind=CHANNEL, subject="kiosk")),
            {"subject_kind": "channel", "subject": "kiosk"},
        ),
        (
            "CLIENT_FORGOTTEN",
            stub.GetAttribution(api.GetAttributionRequest(client_id=client_id("c0"))),
            {"client_id": client_id("c0")},
        ),
        (
            "CONSENT_WITHDRAWN",
            stub.GetAttribution(
                api.GetAttributionRequest(client_id=client_id("c1")), metadata=((PURPOSE_KEY, "marketing"),)
            ),
            {"client_id": client_id("c1"), "purpose": "marketing"},
        ),
    ]
    for reason, call, metadata in cases:
        refusal = await refused(call)
        assert refusal.reason == reason
        assert {key: refusal.metadata[key] for key in metadata} == metadata
    await running.scoring.writer.close()
    away = await refused(stub.PublishScorecard(api.PublishScorecardRequest(subject_kind=ALL, published_by="ann")))
    assert away.reason == "LOG_UNAVAILABLE"
    met = {reason for reason, _, _ in cases} | {away.reason}
    contract = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118 -- an enum's wrapper is no mapping
    assert contract - met == {"UNSPECIFIED"}


async def test_an_old_id_of_a_merged_client_means_the_client(running: Running) -> None:
    """What moved with a merge counts for the one that is left, under either id."""
    up = running.up
    for name in ("old", "new"):
        up.identity.add(identity.ClientOpened(client_id=client_id(name)))
    up.attributed("old", "a", 0)
    up.attributed("new", "b", 5)
    up.identity.add(
        identity.ClientsMerged(merge_id="0" * 32, client_id=client_id("new"), merged_client_id=client_id("old"))
    )
    up.reattributed("new", "old", "a")
    await running.publish()
    for name in ("old", "new"):
        card = await running.stub.GetScorecard(
            api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id(name))
        )
        assert by_name(card.scores, "volume").n == 2
        assert card.scores[0].subject == client_id("new")
    everything = await running.stub.GetScorecard(api.GetScorecardRequest(subject_kind=ALL))
    assert by_name(everything.scores, "clients").n == 1
    found = [
        event
        async for page in running.log.ReadEvents(eventlog_pb2.ReadEventsRequest(interaction_ids=[interaction_id("a")]))
        for event in page.events
    ]
    kinds = [event.type.rpartition(".")[2] for event in found]
    assert kinds == ["ContactNoted", "ContactWithdrawn", "ContactNoted"]


async def test_the_live_state_is_the_replays_and_the_log_service_tells_it(running: Running) -> None:
    """Digests over gRPC are those of a fold of the log that is read over gRPC."""
    fill(running.up)
    await running.publish()
    checkpoint = await running.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=True))
    with running.scoring.store.snapshot() as reader:
        state = replayed(reader.read())
    assert checkpoint.digest == state_digest(state)
    assert {inbox.position > 0 for inbox in checkpoint.inbox} == {True}
    for key, value in list(state.items())[::7]:
        answer = await running.log.GetState(eventlog_pb2.GetStateRequest(key=key))
        assert answer.canonical_json == value
    await eventually(lambda: running.scoring.relay.published_position == checkpoint.position)


async def test_health_says_serving_and_reflection_names_the_service(running: Running) -> None:
    """A probe can believe it."""
    channel = open_channel(f"127.0.0.1:{running.scoring.host.port}")
    health: Any = health_pb2_grpc.HealthStub(channel)

    async def serving() -> bool:
        answer = await health.Check(health_pb2.HealthCheckRequest(service="throughline.scoring.v1.ScoringService"))
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    await eventually(serving)
    await channel.close()
