"""A line on which everything has happened that a log can hold: what people ask of every service, and what follows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from line import DAY, START, Line, identifier, interaction, scattered_history

from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import feedback_pb2
from throughline.identity.v1 import identity_pb2, rules_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline.journey.v1 import definitions_pb2, journey_pb2
from throughline.scoring.v1 import events_pb2, metrics_pb2, scoring_pb2
from throughline_client.installation import Installation
from throughline_eventlog import StoreSettings
from throughline_replay import Unit
from throughline_testkit import eventually

PROMPT = 400_000
"""Microseconds in which a case of these routes must be acknowledged."""


@dataclass(frozen=True)
class Lived:
    """An eventful line that has stopped: its folder, and the digests of the live states at its end."""

    folder: Path
    digests: dict[str, str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where its stores are, if they are not in the folder."""

    @property
    def stores(self) -> Mapping[str, StoreSettings]:
        """The logs by service."""
        place = self.environment
        installation = Installation.from_env(place) if place else Installation.in_folder(self.folder)
        return installation.stores

    def unit(self, service: str, work: Path) -> Unit:
        """What deciding one service's log again needs."""
        env = {
            "THROUGHLINE_KEY_STORE": str(self.folder / "keys.db"),
            **self.environment,
            "THROUGHLINE_KEYS_FILE": str(self.folder / "keys.json"),
        }
        return Unit(service, self.stores, env, work / f"{service}.db")


async def live(line: Line, *, people: int = 30, events: int = 400) -> None:
    """Records a history in several parts, and asks everything of everyone in between."""
    history = scattered_history(11, people, events)
    await line.record(history[: events // 2], 40)
    await line.settled()
    await decide_about_clients(line)
    await line.record(history[events // 2 : events * 3 // 4], 7)
    await hand_over(line)
    await take_care(line)
    await line.record(history[events * 3 // 4 :], 100)
    await line.settled()
    await define(line)
    await forget(line, "p4@post.eu")
    await retain(line)
    await line.record([interaction("late", identifier("email", "p5@post.eu"), at=START - 1)])
    await line.settled()


async def who(line: Line, email: str) -> str:
    """The client with this address."""
    asked = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", email)])
    return (await line.identity.ResolveClient(asked)).client_id


async def decide_about_clients(line: Line) -> None:
    """Two merges, of which one is undone, a consent, other rules, and somebody forgotten."""
    one, two, three, four = [await who(line, f"p{number}@post.eu") for number in (10, 13, 16, 19)]
    await line.identity.MergeClients(
        identity_pb2.MergeClientsRequest(client_id=one, other_client_id=two, decided_by="kim", reason="one household")
    )
    merged = await line.identity.MergeClients(
        identity_pb2.MergeClientsRequest(client_id=three, other_client_id=four, decided_by="kim", reason="it seemed so")
    )
    await line.identity.UndoMerge(
        identity_pb2.UndoMergeRequest(merge_id=merged.merge_id, decided_by="lee", reason="two people")
    )
    await line.identity.RecordConsent(
        identity_pb2.RecordConsentRequest(client_id=two, purpose="newsletter", granted=True, source="desk", scope="all")
    )
    await forget(line, "p7@post.eu")
    rules = (await line.identity.GetRules(identity_pb2.GetRulesRequest())).rules
    next(rule for rule in rules.types if rule.type == "cookie").max_persons += 1
    rules.version += 1
    await line.identity.PublishRules(identity_pb2.PublishRulesRequest(rules=rules, published_by="kim"))


async def forget(line: Line, email: str) -> None:
    """Forgets the client with this address, after it was to be later and then was not."""
    asked = identity_pb2.ForgetClientRequest(client_id=await who(line, email), reason="asked for it", decided_by="desk")
    later = identity_pb2.ForgetClientRequest()
    later.CopyFrom(asked)
    later.grace = DAY
    await line.identity.ForgetClient(later)
    await line.identity.CancelForgetting(
        identity_pb2.CancelForgettingRequest(client_id=asked.client_id, reason="not now", decided_by="desk")
    )
    await line.identity.ForgetClient(later)
    await line.identity.ForgetClient(asked)


async def retain(line: Line) -> None:
    """Rules by which one client is over, who was seen at a kiosk and nowhere else; identity forgets it by itself."""
    traits = interaction_pb2.ChannelTraits(name="Kiosk", physical=True)
    await line.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk", traits=traits))
    await line.record([interaction("kiosk", identifier("email", "kiosk@post.eu"), channel="kiosk", at=START)])
    await line.settled()
    client_id = await who(line, "kiosk@post.eu")
    rule = rules_pb2.RetentionRule(name="kiosk", keep=DAY, channels=["kiosk"])
    await line.identity.PublishRetentionRules(
        identity_pb2.PublishRetentionRulesRequest(rules=rules_pb2.RetentionRules(rules=[rule]), published_by="desk")
    )

    async def forgotten() -> bool:
        told = await line.identity.ListForgettings(identity_pb2.ListForgettingsRequest(done=True))
        return client_id in {each.client_id for each in told.forgettings if each.decided_by == "retention"}

    await eventually(forgotten)


async def hand_over(line: Line) -> None:
    """A hand-off that is taken over, and one that nobody takes."""
    for number in (1, 2):
        client_id = await who(line, f"p{number}@post.eu")
        offered = await line.journey.OfferHandoff(
            journey_pb2.OfferHandoffRequest(
                client_id=client_id, from_channel="phone", to_channel="store", note=f"fitting {number}"
            )
        )
    await line.journey.AcceptHandoff(
        journey_pb2.AcceptHandoffRequest(token=offered.token, channel="store", accepted_by="ann")  # pyright: ignore[reportPossiblyUnboundVariable]
    )


async def take_care(line: Line) -> None:
    """Routes, submissions with a repeat and a conflict, and a case's whole life, a missed deadline included."""
    routes = (await line.feedback.GetRoutes(feedback_pb2.GetRoutesRequest())).routes
    routes.version += 1
    routes.acknowledge_within = PROMPT
    for department in routes.departments:
        department.acknowledge_within = PROMPT
    await line.feedback.PublishRoutes(feedback_pb2.PublishRoutesRequest(routes=routes, published_by="kim"))
    client_id = await who(line, "p1@post.eu")
    cases: list[str] = []
    for number in range(4):
        offered = submission(number, f"late delivery, broken box {number}", client_id)
        answer = await line.feedback.SubmitFeedback(offered)
        again = await line.feedback.SubmitFeedback(offered)
        assert again.duplicate
        cases += [each.case_id for each in answer.assignments if each.case_id]
    with pytest.raises(grpc.RpcError, match="with other content"):
        await line.feedback.SubmitFeedback(submission(0, "other words", client_id))
    case_id = cases[0]

    async def escalated() -> bool:
        told = await line.feedback.GetCase(feedback_pb2.GetCaseRequest(case_id=case_id))
        return told.case.escalated

    await eventually(escalated)
    await line.feedback.AcknowledgeCase(feedback_pb2.AcknowledgeCaseRequest(case_id=case_id, by="ann"))
    case = (await line.feedback.GetCase(feedback_pb2.GetCaseRequest(case_id=case_id))).case
    other = next(each.department for each in routes.departments if each.department != case.department)
    await line.feedback.ReassignCase(
        feedback_pb2.ReassignCaseRequest(case_id=case_id, department=other, by="ann", reason="theirs")
    )
    await line.feedback.ResolveCase(
        feedback_pb2.ResolveCaseRequest(case_id=case_id, by="bob", resolution="sent anew", root_cause="carrier")
    )
    await line.feedback.ReopenCase(feedback_pb2.ReopenCaseRequest(case_id=case_id, by="bob", reason="not there yet"))


def submission(number: int, words: str, client_id: str) -> feedback_pb2.SubmitFeedbackRequest:
    """A complaint of now, given to the desk."""
    return feedback_pb2.SubmitFeedbackRequest(
        source="desk",
        source_feedback_id=str(number),
        channel="store",
        occurred_at=time.time_ns() // 1_000,
        feedback=interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim=words),
        client_id=client_id if number % 2 else "",
        identifiers=[] if number % 2 else [identifier("email", "p1@post.eu")],
    )


async def define(line: Line) -> None:
    """A journey, its next version, a metric, and scorecards put on record."""
    for stages in (1, 2):
        definition = definitions_pb2.JourneyDefinition(
            journey="call_to_till",
            version=stages,
            name="From the telephone to the till",
            owner="sales",
            stages=[
                definitions_pb2.Stage(stage="called", matches=[definitions_pb2.Match(channels=["phone"])]),
                definitions_pb2.Stage(stage="bought", matches=[definitions_pb2.Match(kinds=["purchase"])]),
            ][:stages],
            goal_stages=["called", "bought"][stages - 1 : stages],
            timeout=5 * 86_400_000_000,
        )
        await line.journey.DefineJourney(journey_pb2.DefineJourneyRequest(definition=definition, defined_by="kim"))
    metric = metrics_pb2.MetricDefinition(
        metric="calls_on_delivery",
        version=1,
        name="Calls about a delivery",
        definition="Of all calls, those about a delivery.",
        unit=metrics_pb2.UNIT_CONTACT,
        population=metrics_pb2.Condition(channels=["phone"]),
        numerator=metrics_pb2.Condition(matters=["delivery"]),
    )
    told = await line.scoring.GetScorecard(scoring_pb2.GetScorecardRequest(subject_kind=events_pb2.SUBJECT_KIND_ALL))
    await line.scoring.DefineMetric(scoring_pb2.DefineMetricRequest(definition=metric, defined_by="kim"))
    await line.settled()
    for channel in ("phone", "store", "phone"):
        await line.scoring.PublishScorecard(
            scoring_pb2.PublishScorecardRequest(
                subject_kind=events_pb2.SUBJECT_KIND_CHANNEL, subject=channel, published_by="kim"
            )
        )
    await line.scoring.PublishScorecard(
        scoring_pb2.PublishScorecardRequest(
            subject_kind=events_pb2.SUBJECT_KIND_ALL,
            published_by="kim",
            as_of=told.as_of,
            between=eventlog_pb2.Interval(end=START + 30 * DAY),
        )
    )
