"""What scoring writes because somebody asked."""

from __future__ import annotations

from collections.abc import Sequence

from scoring.application import ledger, messages, rows
from scoring.application.book import Book
from scoring.application.queries import formulas, interval, scorecard
from scoring.domain.client import backfill, backfill_case
from scoring.domain.metrics import Metrics, define
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_eventlog import NewEvent, Transaction
from throughline_kernel import InvalidError, Refusal, Violation, hex_id

# Clients that are counted together for a new metric.
BATCH = 500


def stream(*parts: str) -> bytes:
    """The stream that the parts name."""
    return bytes.fromhex(hex_id(*parts))


def _required(field: str, value: str) -> None:
    if not value:
        raise InvalidError.of(Violation(field, "must be given", "say who asks for it", "FIELD_REQUIRED"))


class PublishScorecards:
    """Writes scorecards into the log, as they stand in the transaction that writes them, or stood at an instant."""

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum

    def rolled_back(self) -> None:
        """Remembers nothing."""

    def __call__(
        self, tx: Transaction, items: Sequence[tuple[api.PublishScorecardRequest, str]]
    ) -> Sequence[api.PublishScorecardResponse | Refusal]:
        """Publishes each for its purpose, or says why not."""
        return [self._publish(tx, request, purpose) for request, purpose in items]

    def _publish(
        self, tx: Transaction, request: api.PublishScorecardRequest, purpose: str
    ) -> api.PublishScorecardResponse | Refusal:
        try:
            _required("published_by", request.published_by)
            told = scorecard(
                tx,
                request.subject_kind,
                request.subject,
                self._minimum,
                purpose,
                as_of=request.as_of,
                between=interval(request.between),
            )
        except Refusal as refusal:
            return refusal
        scores = told.messages()
        stream_id = stream("scoring.scorecard", str(told.subject[0]), told.subject[1])
        version = tx.last_version(stream_id)
        events: list[NewEvent] = []
        for score in scores:
            version += 1
            payload = pb.ScoreComputed(
                score_id=score.score_id, score=score, published_by=request.published_by, as_of=request.as_of
            ).SerializeToString(deterministic=True)
            events.append(NewEvent(stream_id, version, messages.SCORE_COMPUTED, payload, tx.now))
            tx.put(rows.PUBLISHED, score.score_id.encode(), payload)
        positions = tx.append(events)
        return api.PublishScorecardResponse(
            scores=scores,
            position=positions[-1] if positions else told.commit.position,
            left_out=messages.left_out(told.left_out),
            as_of=told.commit.recorded_at,
        )


class DefineMetrics:
    """Takes metrics of one's own into force; each answers over all history from then on."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def rolled_back(self) -> None:
        """Forgets what was held."""
        self._book.rolled_back()

    def __call__(
        self, tx: Transaction, items: Sequence[api.DefineMetricRequest]
    ) -> Sequence[api.DefineMetricResponse | Refusal]:
        """Defines each, or says why not."""
        return [self._define(tx, item) for item in items]

    def _define(self, tx: Transaction, request: api.DefineMetricRequest) -> api.DefineMetricResponse | Refusal:
        definition = messages.definition_of(request.definition)
        known = self._book.definitions(tx)
        try:
            _required("defined_by", request.defined_by)
            new = define(definition, ledger.in_force(known))
        except Refusal as refusal:
            return refusal
        response = api.DefineMetricResponse(
            metric=definition.metric, version=definition.version, position=tx.last_position()
        )
        if not new:
            return response
        payload = pb.MetricDefined(
            definition=messages.definition_message(definition), defined_by=request.defined_by
        ).SerializeToString()
        stream_id = ledger.metric_stream(definition.metric)
        event = NewEvent(stream_id, definition.version, messages.METRIC_DEFINED, payload, tx.now)
        (response.position,) = tx.append([event])
        row = messages.definition_message(definition).SerializeToString()
        tx.put(rows.METRICS, rows.metric_key(definition.metric, definition.version), row)
        if definition.version > 1:
            self._book.drop_metric(tx, definition.metric)
        self._count(tx, Metrics.of([definition]))
        self._book.define({**known, (definition.metric, definition.version): definition})
        self._book.write(tx, None)
        return response

    def _count(self, tx: Transaction, alone: Metrics) -> None:
        """Counts all history for the new metric, in the transaction that takes it into force."""
        tally = self._book.tally
        if alone.of_cases:
            for _, row in tx.scan(rows.CASE_ENDS):
                backfill_case(rows.unpack_ends(row), tally, alone)
            return
        batch: list[str] = []
        for client_id in ledger.client_ids(tx):
            batch.append(client_id)
            if len(batch) == BATCH:
                self._count_clients(tx, batch, alone)
                batch = []
        self._count_clients(tx, batch, alone)

    def _count_clients(self, tx: Transaction, client_ids: Sequence[str], alone: Metrics) -> None:
        for client in ledger.load(tx, ledger.heads(tx, client_ids)).values():
            backfill(client, self._book.tally, alone)


class PublishFormulas:
    """Writes every formula that the log does not have yet, so that a score's version can be read for ever."""

    def rolled_back(self) -> None:
        """Remembers nothing."""

    def __call__(self, tx: Transaction, items: Sequence[None]) -> Sequence[int]:
        """How many were new, for each item."""
        return [publish_formulas(tx) for _ in items]


def publish_formulas(tx: Transaction, only: tuple[str, int] | None = None) -> int:
    """Writes the formulas that the log does not have, or the one of that name and version; gives how many."""
    events: list[NewEvent] = []
    for formula in formulas():
        stream_id = stream("scoring.formula", formula.formula, str(formula.version))
        if (only is not None and only != (formula.formula, formula.version)) or tx.last_version(stream_id):
            continue
        payload = pb.FormulaPublished(formula=formula).SerializeToString()
        events.append(NewEvent(stream_id, 1, messages.FORMULA_PUBLISHED, payload, tx.now))
    tx.append(events)
    return len(events)
