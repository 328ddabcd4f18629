"""The published messages, to and from the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from sys import intern
from typing import Any, Final

from scoring.domain.catalogue import Formula
from scoring.domain.client import Client
from scoring.domain.dimensions import Subject, plain
from scoring.domain.facts import ASSISTED, IDENTIFIED, STAFF, CaseItem, Contact, FeedbackItem, JourneyItem
from scoring.domain.metrics import Condition, MetricDefinition, Metrics, Unit
from scoring.domain.scorecard import Figure
from scoring.domain.tally import Shares, Tally
from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.identity.v1 import consent_pb2
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import metrics_pb2
from throughline_kernel import ALWAYS, Consent, Consents, Interval, LeftOut, Recorded

CONTACT_NOTED: Final = pb.ContactNoted.DESCRIPTOR.full_name
CONTACT_WITHDRAWN: Final = pb.ContactWithdrawn.DESCRIPTOR.full_name
FEEDBACK_SCORED: Final = pb.FeedbackScored.DESCRIPTOR.full_name
FEEDBACK_WITHDRAWN: Final = pb.FeedbackWithdrawn.DESCRIPTOR.full_name
CASE_NOTED: Final = pb.CaseNoted.DESCRIPTOR.full_name
JOURNEY_NOTED: Final = pb.JourneyNoted.DESCRIPTOR.full_name
CONSENT_NOTED: Final = pb.ConsentNoted.DESCRIPTOR.full_name
CLIENT_DROPPED: Final = pb.ClientDropped.DESCRIPTOR.full_name
ATTRIBUTION_COMPUTED: Final = pb.AttributionComputed.DESCRIPTOR.full_name
SCORE_COMPUTED: Final = pb.ScoreComputed.DESCRIPTOR.full_name
METRIC_DEFINED: Final = pb.MetricDefined.DESCRIPTOR.full_name
FORMULA_PUBLISHED: Final = pb.FormulaPublished.DESCRIPTOR.full_name

ATTRIBUTION_VERSION: Final = 1
OVERALL: Final = frozenset({"", "overall"})

_USUAL_SHAPES = frozenset({interaction.IDENTIFIER_SHAPE_UNSPECIFIED, interaction.IDENTIFIER_SHAPE_NORMAL})
_STAFF = interaction.SUBJECT_TYPE_STAFF


def contact_of(facts: interaction.InteractionFacts) -> Contact:
    """The interaction as scoring counts it."""
    flags = ASSISTED if facts.traits.assisted else 0
    if facts.subject_type == _STAFF:
        flags |= STAFF
    for identifier in facts.identifiers:
        if identifier.shape in _USUAL_SHAPES:
            flags |= IDENTIFIED
            break
    value = facts.value if facts.HasField("value") else None
    cost = facts.cost if facts.HasField("cost") else None
    return Contact(
        facts.occurred_at,
        intern(facts.source),
        facts.sequence,
        facts.interaction_id,
        intern(facts.channel),
        intern(facts.touchpoint),
        intern(facts.kind),
        intern(facts.campaign_id),
        facts.case_id,
        intern(facts.matter),
        intern(facts.outcome),
        value.micros if value is not None else 0,
        intern(plain(value.currency)) if value is not None else "",
        cost.micros if cost is not None else 0,
        intern(plain(cost.currency)) if cost is not None else "",
        max(0, facts.wait_time),
        max(0, facts.handling_time),
        flags,
        facts.attributes,
    )


def feedback_of(message: feedback.FeedbackReceived | pb.FeedbackScored) -> FeedbackItem:
    """The item as scoring counts it."""
    fact = message.fact
    departments = tuple(message.departments) if isinstance(message, pb.FeedbackScored) else ()
    return FeedbackItem(
        message.occurred_at,
        message.feedback_id,
        message.interaction_id,
        message.source,
        message.channel,
        message.touchpoint,
        int(message.traits.assisted) if message.HasField("traits") else -1,
        fact.kind,
        fact.score if fact.HasField("score") else None,
        fact.scale_min,
        fact.scale_max,
        "" if fact.aspect in OVERALL else plain(fact.aspect),
        fact.weight_micros,
        departments,
    )


def scored(client_id: str, item: FeedbackItem, position: int) -> pb.FeedbackScored:
    """The item as scoring logs it."""
    return pb.FeedbackScored(
        client_id=client_id,
        feedback_id=item.feedback_id,
        interaction_id=item.interaction_id,
        source=item.source,
        channel=item.channel,
        touchpoint=item.touchpoint,
        occurred_at=item.at,
        fact=interaction.FeedbackFact(
            kind=interaction.FeedbackKind.ValueType(item.kind),
            score=item.score,
            scale_min=item.scale_min,
            scale_max=item.scale_max,
            aspect=item.aspect,
            weight_micros=item.weight,
        ),
        departments=item.departments,
        feedback_position=position,
        traits=interaction.ChannelTraits(name=item.channel, assisted=item.assisted == 1)
        if item.assisted >= 0
        else None,
    )


def case_noted(client_id: str, case: CaseItem, position: int) -> pb.CaseNoted:
    """The case as scoring logs it."""
    return pb.CaseNoted(
        client_id=client_id,
        case_id=case.case_id,
        department=case.department,
        channel=case.channel,
        state=case.state,
        opened_at=case.opened_at,
        acknowledged_at=case.acknowledged_at,
        resolved_at=case.resolved_at,
        opened_event_id=case.opened_event,
        acknowledged_event_id=case.acknowledged_event,
        resolved_event_id=case.resolved_event,
        feedback_position=position,
    )


def journey_noted(client_id: str, journey: JourneyItem, position: int) -> pb.JourneyNoted:
    """The journey as scoring logs it."""
    return pb.JourneyNoted(
        client_id=client_id,
        journey_id=journey.journey_id,
        journey=journey.journey,
        state=journey.state,
        started_at=journey.started_at,
        ended_at=journey.ended_at,
        interaction_ids=journey.interaction_ids,
        channels=journey.channels,
        started_event_id=journey.started_event,
        ended_event_id=journey.ended_event,
        journey_position=position,
    )


def attribution_computed(client_id: str, conversion_id: str, shares: Shares) -> pb.AttributionComputed:
    """How a conversion's credit is shared; no models where no touch earns any."""
    return pb.AttributionComputed(
        client_id=client_id,
        conversion_interaction_id=conversion_id,
        models=[
            pb.AttributionModel(
                model=model,
                credits=[
                    pb.Credit(
                        interaction_id=share.touch.interaction_id,
                        channel=share.touch.channel,
                        campaign_id=share.touch.campaign,
                        share_micros=share.credit,
                    )
                    for share in parts
                    if share.credit
                ],
            )
            for model, parts in shares.items()
        ],
        formula_version=ATTRIBUTION_VERSION,
    )


def consent_noted(client_id: str, consents: Consents, position: int) -> pb.ConsentNoted:
    """What holds of a client's consents."""
    return pb.ConsentNoted(
        client_id=client_id,
        words=[consent_pb2.ConsentWord(**word._asdict()) for word in consents.words],
        identity_position=position,
    )


def consents_of(payload: bytes) -> Consents:
    """What a ConsentNoted says that holds."""
    return Consents.of(
        Consent(word.purpose, word.scope, word.granted, word.at, word.source, word.event_id)
        for word in pb.ConsentNoted.FromString(payload).words
    )


def left_out(parts: Iterable[LeftOut]) -> list[consent_pb2.LeftOut]:
    """What clients' consents keep out of an answer."""
    return [consent_pb2.LeftOut(**asdict(part)) for part in parts]


def _note_contact(client: Client, payload: bytes, tally: Tally, metrics: Metrics) -> None:
    client.note_contact(contact_of(pb.ContactNoted.FromString(payload).interaction), tally, metrics)


def _withdraw_contact(client: Client, payload: bytes, tally: Tally, metrics: Metrics) -> None:
    client.withdraw_contact(pb.ContactWithdrawn.FromString(payload).interaction_id, tally, metrics)


def _note_feedback(client: Client, payload: bytes, tally: Tally, _: Metrics) -> None:
    client.note_feedback(feedback_of(pb.FeedbackScored.FromString(payload)), tally)


def _withdraw_feedback(client: Client, payload: bytes, tally: Tally, _: Metrics) -> None:
    client.withdraw_feedback(pb.FeedbackWithdrawn.FromString(payload).feedback_id, tally)


def _note_case(client: Client, payload: bytes, tally: Tally, _: Metrics) -> None:
    message = pb.CaseNoted.FromString(payload)
    client.note_case(
        CaseItem(
            message.case_id,
            message.department,
            message.channel,
            message.state,
            message.opened_at,
            message.acknowledged_at,
            message.resolved_at,
            message.opened_event_id,
            message.acknowledged_event_id,
            message.resolved_event_id,
        ),
        tally,
    )


def _note_journey(client: Client, payload: bytes, tally: Tally, metrics: Metrics) -> None:
    message = pb.JourneyNoted.FromString(payload)
    client.note_journey(
        JourneyItem(
            message.journey_id,
            message.journey,
            message.state,
            message.started_at,
            message.ended_at,
            tuple(message.interaction_ids),
            tuple(message.channels),
            message.started_event_id,
            message.ended_event_id,
        ),
        tally,
        metrics,
    )


def _note_consents(client: Client, payload: bytes, tally: Tally, metrics: Metrics) -> None:
    client.note_consents(consents_of(payload), tally, metrics)


def _clear(client: Client, _: bytes, tally: Tally, metrics: Metrics) -> None:
    client.clear(tally, metrics)


_EVOLVE: Final[dict[str, Callable[[Client, bytes, Tally, Metrics], None]]] = {
    CONTACT_NOTED: _note_contact,
    CONTACT_WITHDRAWN: _withdraw_contact,
    FEEDBACK_SCORED: _note_feedback,
    FEEDBACK_WITHDRAWN: _withdraw_feedback,
    CASE_NOTED: _note_case,
    JOURNEY_NOTED: _note_journey,
    CONSENT_NOTED: _note_consents,
    CLIENT_DROPPED: _clear,
}
CLIENT_EVENTS: Final = frozenset({*_EVOLVE, ATTRIBUTION_COMPUTED})


def evolve(client: Client, event: Recorded, tally: Tally, metrics: Metrics) -> None:
    """What one of scoring's own events makes of its client. What only announces changes nothing."""
    step = _EVOLVE.get(event.type)
    if step is not None:
        step(client, event.payload, tally, metrics)


def client_of(payload: bytes) -> str:
    """The client that one of scoring's client events concerns: field 1 of each of them, 32 hex digits."""
    return payload[2:34].decode("ascii")


def definition_of(message: metrics_pb2.MetricDefinition) -> MetricDefinition:
    """A metric as data."""
    return MetricDefinition(
        message.metric,
        message.version,
        message.name,
        message.definition,
        Unit(message.unit) if message.unit in Unit.__members__.values() else Unit.UNSPECIFIED,
        _condition(message.population),
        _condition(message.numerator),
    )


def _condition(message: metrics_pb2.Condition) -> Condition:
    return Condition(
        frozenset(message.sources),
        frozenset(message.channels),
        frozenset(message.kinds),
        frozenset(message.touchpoints),
        frozenset(message.outcomes),
        frozenset(message.matters),
        tuple(sorted(message.attributes.items())),
    )


def definition_message(definition: MetricDefinition) -> metrics_pb2.MetricDefinition:
    """A metric as a message."""
    return metrics_pb2.MetricDefinition(
        metric=definition.metric,
        version=definition.version,
        name=definition.name,
        definition=definition.definition,
        unit=metrics_pb2.Unit.ValueType(definition.unit.value),
        population=_condition_message(definition.population),
        numerator=_condition_message(definition.numerator),
    )


def _condition_message(condition: Condition) -> metrics_pb2.Condition:
    return metrics_pb2.Condition(
        sources=sorted(condition.sources),
        channels=sorted(condition.channels),
        kinds=sorted(condition.kinds),
        touchpoints=sorted(condition.touchpoints),
        outcomes=sorted(condition.outcomes),
        matters=sorted(condition.matters),
        attributes=dict(condition.attributes),
    )


def definition_json(definition: MetricDefinition) -> dict[str, Any]:
    """A metric in canonical form."""

    def condition(each: Condition) -> dict[str, Any]:
        return {
            "sources": sorted(each.sources),
            "channels": sorted(each.channels),
            "kinds": sorted(each.kinds),
            "touchpoints": sorted(each.touchpoints),
            "outcomes": sorted(each.outcomes),
            "matters": sorted(each.matters),
            "attributes": dict(each.attributes),
        }

    return {
        "version": definition.version,
        "name": definition.name,
        "definition": definition.definition,
        "unit": definition.unit.name,
        "population": condition(definition.population),
        "numerator": condition(definition.numerator),
    }


def formula_message(formula: Formula) -> metrics_pb2.Formula:
    """A formula as a message."""
    return metrics_pb2.Formula(
        formula=formula.formula, version=formula.version, text=formula.text, source=formula.source
    )


def score_message(
    subject: Subject, figure: Figure, position: int, score_id: str, between: Interval = ALWAYS
) -> pb.Score:
    """A figure as it is told."""
    return pb.Score(
        subject_kind=pb.SubjectKind.ValueType(subject[0]),
        subject=subject[1],
        metric=figure.metric,
        aspect=figure.aspect,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=figure.n,
        parts=dict(figure.parts),
        unit=figure.unit,
        formula=figure.formula,
        formula_version=figure.formula_version,
        position=position,
        note=figure.note,
        score_id=score_id,
        between=None if between == ALWAYS else eventlog_pb2.Interval(start=between.start, end=between.end),
    )
