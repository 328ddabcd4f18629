"""Scoring's state from its log alone: the same functions as the live service, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from scoring.application import canonical, messages
from scoring.domain.client import Client, backfill, backfill_case, move_case_end
from scoring.domain.facts import Contact
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.tally import Tally
from throughline.scoring.v1 import events_pb2 as pb
from throughline_kernel import Recorded


class ScoringFold:
    """Folds scoring's log into clients, counters and metrics."""

    service: Final = "scoring"

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._tally = Tally()
        self._ends: dict[str, dict[str, Contact]] = {}
        self._definitions: dict[str, MetricDefinition] = {}
        self._metrics = Metrics()

    def apply(self, event: Recorded) -> None:
        """Takes the next event of the log."""
        if event.type in messages.CLIENT_EVENTS:
            client_id = messages.client_of(event.payload)
            client = self._clients.get(client_id)
            if client is None:
                client = self._clients[client_id] = Client(client_id)
            tally = self._tally
            messages.evolve(client, event, tally, self._metrics)
            if tally.case_ends:
                for case_id, changes in tally.case_ends.items():
                    ends = move_case_end(self._ends.get(case_id, {}), changes, tally, self._metrics)
                    if ends:
                        self._ends[case_id] = ends
                    else:
                        self._ends.pop(case_id, None)
                tally.case_ends = {}
            if tally.credits:
                tally.credits = {}
        elif event.type == messages.METRIC_DEFINED:
            self._define(messages.definition_of(pb.MetricDefined.FromString(event.payload).definition))

    def _define(self, definition: MetricDefinition) -> None:
        """A new metric answers over all history; a new version takes the place of the old one."""
        for row in self._tally.rows.values():
            for line in [line for line in row if line[0] == definition.metric]:
                del row[line]
        self._definitions[definition.metric] = definition
        self._metrics = Metrics.of(self._definitions.values())
        alone = Metrics.of([definition])
        for client in self._clients.values():
            backfill(client, self._tally, alone)
        for ends in self._ends.values():
            backfill_case(ends, self._tally, alone)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """Clients, metrics and subjects, in key order."""
        for client_id in sorted(self._clients):
            state = canonical.client_state(self._clients[client_id].facts())
            if state is not None:
                yield canonical.client_key(client_id), state
        for metric, definition in sorted(self._definitions.items()):
            yield canonical.metric_key(metric), canonical.metric_state(definition)
        yield from canonical.subject_states(self._tally.counters())

    def describe(self, event: Recorded) -> str:
        """One sentence about the event."""
        tell = _SENTENCES.get(event.type)
        return tell(event.payload) if tell is not None else f"{event.type} was logged."


def _contact_noted(payload: bytes) -> str:
    message = pb.ContactNoted.FromString(payload)
    facts = message.interaction
    return f"{facts.kind} on {facts.channel} counts for client {message.client_id}."


def _contact_withdrawn(payload: bytes) -> str:
    message = pb.ContactWithdrawn.FromString(payload)
    return (
        f"Interaction {message.interaction_id} counts for client {message.client_id} no more: it is another client's."
    )


def _feedback_scored(payload: bytes) -> str:
    message = pb.FeedbackScored.FromString(payload)
    owners = f", for {', '.join(message.departments)}" if message.departments else ""
    score = f" with score {message.fact.score}" if message.fact.HasField("score") else ""
    return f"Feedback {message.feedback_id}{score} on {message.channel or 'no channel'} counts{owners}."


def _feedback_withdrawn(payload: bytes) -> str:
    message = pb.FeedbackWithdrawn.FromString(payload)
    return f"Feedback {message.feedback_id} counts for client {message.client_id} no more."


def _case_noted(payload: bytes) -> str:
    message = pb.CaseNoted.FromString(payload)
    return f"Case {message.case_id} of {message.department or 'no department'} stands as {message.state}."


def _journey_noted(payload: bytes) -> str:
    message = pb.JourneyNoted.FromString(payload)
    return f"Journey {message.journey} ({message.journey_id}) stands as {message.state}."


def _score_computed(payload: bytes) -> str:
    message = pb.ScoreComputed.FromString(payload)
    score = message.score
    told = f"{score.value:g} {score.unit}" if score.HasField("value") else score.note
    aspect = f" ({score.aspect})" if score.aspect else ""
    return f"{message.published_by} published {score.metric}{aspect} of {score.subject or 'everything'}: {told}."


def _metric_defined(payload: bytes) -> str:
    message = pb.MetricDefined.FromString(payload)
    return f"{message.defined_by} defined {message.definition.metric}, version {message.definition.version}."


def _formula_published(payload: bytes) -> str:
    formula = pb.FormulaPublished.FromString(payload).formula
    return f"Formula {formula.formula}, version {formula.version}: {formula.text}"


def _attribution_computed(payload: bytes) -> str:
    message = pb.AttributionComputed.FromString(payload)
    touches = len({credit.interaction_id for model in message.models for credit in model.credits})
    return f"Conversion {message.conversion_interaction_id} is credited to {touches} touches."


def _consent_noted(payload: bytes) -> str:
    said = ", ".join(map(str, messages.consents_of(payload).words))
    return f"What client {messages.client_of(payload)} consents to: {said or 'nothing was said'}."


def _client_dropped(payload: bytes) -> str:
    return f"Client {messages.client_of(payload)} was forgotten: nothing of it counts any more."


_SENTENCES: Final[dict[str, Callable[[bytes], str]]] = {
    messages.CONTACT_NOTED: _contact_noted,
    messages.CONTACT_WITHDRAWN: _contact_withdrawn,
    messages.FEEDBACK_SCORED: _feedback_scored,
    messages.FEEDBACK_WITHDRAWN: _feedback_withdrawn,
    messages.CASE_NOTED: _case_noted,
    messages.JOURNEY_NOTED: _journey_noted,
    messages.SCORE_COMPUTED: _score_computed,
    messages.METRIC_DEFINED: _metric_defined,
    messages.FORMULA_PUBLISHED: _formula_published,
    messages.ATTRIBUTION_COMPUTED: _attribution_computed,
    messages.CONSENT_NOTED: _consent_noted,
    messages.CLIENT_DROPPED: _client_dropped,
}


def make_fold() -> ScoringFold:
    """A fold that has seen nothing yet."""
    return ScoringFold()
