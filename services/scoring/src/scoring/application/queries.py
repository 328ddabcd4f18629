"""What scoring answers, each from one consistent view of the store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from scoring.application import ledger, messages, rows
from scoring.application.scores import AsOf, ScoreName, parse_score_id, score_id, score_not_found
from scoring.domain import dimensions
from scoring.domain.catalogue import BUILT_IN, FORMULAS
from scoring.domain.client import CONVERTED, LEFT_OUT, UNATTRIBUTED, Client
from scoring.domain.dimensions import Kind, Subject
from scoring.domain.formulas.attribution import MODELS
from scoring.domain.intervals import count_in
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.scorecard import DEFAULT_MINIMUM, Figure, badness, figures, headline, worst
from scoring.domain.tally import Counter, Line, Tally, of_subject
from throughline.eventlog.v1 import eventlog_pb2
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import metrics_pb2
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_directory import Resolution, resolve, resolve_earlier
from throughline_eventlog import Commit, Reader, Store
from throughline_kernel import (
    ALWAYS,
    MEASUREMENT,
    SERVICE,
    Consent,
    Consents,
    Interval,
    InvalidError,
    LeftOut,
    NotFoundError,
    PreconditionError,
    Violation,
    is_hex_id,
)

DEFAULT_PAGE = 100
LARGEST_PAGE = 1_000
_TOKEN = re.compile(r"([0-9a-f]{32})\.([0-9]{1,12})\Z")
_PREFIX = "attribution_"


def subject_of(kind: int, name: str) -> Subject:
    """The subject that a request names. Raises: InvalidError."""
    if kind not in set(Kind) - {Kind.CREDIT}:
        raise InvalidError.of(
            Violation("subject_kind", "must be given", "name a kind of subject, e.g. channel", "FIELD_REQUIRED")
        )
    if kind == Kind.ALL.value and name:
        raise InvalidError.of(
            Violation("subject", "must be empty for SUBJECT_KIND_ALL", "leave it out, or give its kind")
        )
    if kind != Kind.ALL.value and not name:
        raise InvalidError.of(
            Violation("subject", "must be given", "name the subject, e.g. the channel's name", "FIELD_REQUIRED")
        )
    return kind, dimensions.plain(name)


def moment(reader: Reader, as_of: int) -> Commit:
    """The commit that an answer as of an instant (microseconds, 0: now) stands on."""
    commit = reader.commit_at(as_of or None)
    return commit if as_of else Commit(commit.recorded_at, reader.last_position())


def interval(between: eventlog_pb2.Interval) -> Interval:
    """The interval that a request names. Raises: InvalidError."""
    return Interval.between(between.start, between.end)


def whom(reader: Reader, client_id: str, field: str, commit: Commit) -> str:
    """The client that an id or alias meant at the commit. Raises: InvalidError, NotFoundError, PreconditionError."""
    if not is_hex_id(client_id):
        raise InvalidError.of(Violation(field, "32 lowercase hex digits", "give the id that identity told"))
    meant: Resolution = resolve_earlier(reader, commit.recorded_at, client_id)
    found = meant.client_id or client_id
    head = ledger.heads(reader, [found]).get(found)
    if meant.forgotten or (head is not None and ledger.is_forgotten(reader, found, head, commit.position)):
        raise PreconditionError(
            "CLIENT_FORGOTTEN", f"client {client_id} was forgotten; nothing is told of it", {"client_id": client_id}
        )
    if not meant.client_id and not ledger.is_known(reader, found, commit.position):
        raise NotFoundError("CLIENT_NOT_FOUND", f"no client has the id {client_id}", {"client_id": client_id})
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """A subject's figures at a commit, of all time or of an interval."""

    subject: Subject
    commit: Commit
    between: Interval
    figures: Sequence[Figure]
    left_out: Sequence[LeftOut] = ()

    def messages(self) -> list[pb.Score]:
        """The scores as they are told, each with its id."""
        kind, name = self.subject
        named = [
            ScoreName(kind, name, each.metric, each.aspect, each.formula_version, self.commit.position, *self.between)
            for each in self.figures
        ]
        return [
            messages.score_message(self.subject, figure, self.commit.position, score_id(name), self.between)
            for name, figure in zip(named, self.figures, strict=True)
        ]


def scorecard(
    reader: Reader, kind: int, name: str, minimum: int, purpose: str, *, as_of: int = 0, between: Interval = ALWAYS
) -> Told:
    """All figures of one subject, without what may not be measured; none of a client who withdrew its consent to what
    this read is for. Raises: InvalidError, NotFoundError, PreconditionError.
    """
    subject = subject_of(kind, name)
    commit = moment(reader, as_of)
    state = AsOf(reader, commit.position, minimum, between)
    if kind == Kind.CLIENT.value:
        client_id = whom(reader, name, "subject", commit)
        subject = (kind, client_id)
        word = _forbidding(_consents(reader, client_id), purpose)
        if word is not None:
            left_out = [LeftOut.by(word, "everything", len(state.shown(state.client(client_id))))]
            return Told(subject, commit, between, (), left_out)
    lines = state.lines(subject)
    if between == ALWAYS and kind not in {Kind.ALL.value, Kind.CLIENT.value} and not lines:
        raise NotFoundError(
            "SUBJECT_NOT_FOUND",
            f"nothing is known of {Kind(kind).name.lower()} {name!r}; ListScorecards names those that are",
            {"subject_kind": Kind(kind).name.lower(), "subject": name},
        )
    told = figures(lines, state.in_force.values(), minimum=minimum)
    return Told(subject, commit, between, told, left_out_of(lines))


def left_out_of(lines: Mapping[Line, int]) -> list[LeftOut]:
    """What these counters say was left out of the figures."""
    return [
        LeftOut(str(part), amount, MEASUREMENT)
        for (metric, _, part), amount in sorted(lines.items(), key=lambda line: str(line[0]))
        if metric == LEFT_OUT and amount
    ]


def _consents(reader: Reader, client_id: str) -> Consents:
    """What holds now of the consents of the client whose id this is or once was."""
    now: Resolution = resolve(reader, client_id, ())
    found = now.client_id or client_id
    client = ledger.load(reader, ledger.heads(reader, [found])).get(found)
    return client.consents if client is not None else Consents()


def _forbidding(consents: Consents, purpose: str) -> Consent | None:
    return consents.withdrawal(purpose) or consents.withdrawal(MEASUREMENT)


def _permitted(consents: Consents, client_id: str, purpose: str) -> None:
    word = _forbidding(consents, purpose)
    if word is not None:
        raise PreconditionError(
            "CONSENT_WITHDRAWN",
            f"client {client_id} withdrew its consent to {word.purpose}; its scores are not shown",
            {"client_id": client_id, "purpose": word.purpose, "event_id": word.event_id},
        )


class Queries:
    """Answers from the store. Safe to call from any thread."""

    def __init__(self, store: Store, minimum: int = DEFAULT_MINIMUM) -> None:
        self._store = store
        self._minimum = minimum

    def get_scorecard(self, request: api.GetScorecardRequest, purpose: str = SERVICE) -> api.GetScorecardResponse:
        """All figures of one subject."""
        between = interval(request.between)
        with self._store.snapshot() as reader:
            told = scorecard(
                reader,
                request.subject_kind,
                request.subject,
                self._minimum,
                purpose,
                as_of=request.as_of,
                between=between,
            )
        return api.GetScorecardResponse(
            scores=told.messages(),
            position=told.commit.position,
            as_of=told.commit.recorded_at,
            left_out=messages.left_out(told.left_out),
        )

    def list_scorecards(self, request: api.ListScorecardsRequest) -> api.ListScorecardsResponse:
        """One row a subject, the worst first."""
        between = interval(request.between)
        with self._store.snapshot() as reader:
            commit = moment(reader, request.as_of)
            state = AsOf(reader, commit.position, self._minimum, between)
            own = state.in_force
            kind = _listable(request.subject_kind)
            chief = request.headline_metric or "nps"
            for metric in (*request.metrics, chief):
                _known(metric, own)
            wanted = set(request.metrics) or set(BUILT_IN)
            counters = state.counters(kind.value)
        board = [
            Told(
                (kind.value, name),
                commit,
                between,
                figures(lines, own.values(), minimum=self._minimum),
                left_out_of(lines),
            )
            for name, lines in _by_subject(counters)
        ]
        chiefs = {told.subject[1]: _chief(told.figures, chief) for told in board}
        board.sort(key=lambda told: (_badness(chiefs[told.subject[1]]), told.subject[1]))
        response = api.ListScorecardsResponse(position=commit.position, as_of=commit.recorded_at)
        for told in board:
            shown = replace(told, figures=[each for each in told.figures if each.metric in wanted])
            response.scorecards.add(
                subject=told.subject[1], scores=shown.messages(), left_out=messages.left_out(told.left_out)
            )
        found = worst([(name, figure) for name, figure in chiefs.items() if figure is not None])
        if found is not None:
            name, figure = found
            label = BUILT_IN[chief].label if chief in BUILT_IN else own[chief].name
            response.headline.subject = name
            response.headline.score.CopyFrom(Told((kind.value, name), commit, between, [figure]).messages()[0])
            response.headline.text = headline(kind, name, figure, label)
        return response

    def explain_score(self, request: api.ExplainScoreRequest, purpose: str = SERVICE) -> api.ExplainScoreResponse:
        """A score as it was told, and a page of the event ids that it stands on."""
        size = _page_size(request.page_size)
        first, skip = _page(request.page_token)
        name = parse_score_id(request.score_id)
        with self._store.snapshot() as reader:
            if name.position > reader.last_position():
                raise score_not_found(request.score_id)
            if name.kind == Kind.CLIENT.value:
                then = Commit(reader.commit_at().recorded_at, name.position)
                client_id = whom(reader, name.subject, "score_id", then)
                _permitted(_consents(reader, client_id), client_id, purpose)
            as_of = AsOf(reader, name.position, self._minimum, name.between)
            response = api.ExplainScoreResponse(score=self._score(reader, as_of, name, request.score_id))
            formula = FORMULAS.get(response.score.formula)
            if formula is not None:
                response.formula.CopyFrom(messages.formula_message(formula))
            definition = as_of.definition(name)
            if definition is not None:
                response.definition.CopyFrom(messages.definition_message(definition))
            withheld = as_of.withheld(name)
            if withheld:
                kept_back = (
                    f"{withheld} of the {response.score.n} belong to clients who were forgotten or withdrew since"
                )
                response.score.note = "; ".join(filter(None, (response.score.note, kept_back)))
            event_ids, token = self._evidence(as_of, name, first, skip, size)
        response.event_ids.extend(event_ids)
        response.next_page_token = token
        return response

    @staticmethod
    def _score(reader: Reader, as_of: AsOf, name: ScoreName, text: str) -> pb.Score:
        published = reader.get(rows.PUBLISHED, text.encode())
        if published is not None:
            return pb.ScoreComputed.FromString(published).score
        figure = as_of.figure(name)
        if figure is None:
            raise score_not_found(text)
        return messages.score_message((name.kind, name.subject), figure, name.position, text, name.between)

    @staticmethod
    def _evidence(as_of: AsOf, name: ScoreName, first: str, skip: int, size: int) -> tuple[list[str], str]:
        page: list[str] = []
        if name.kind == Kind.CLIENT.value:
            everyone: Iterable[Client] = as_of.clients([name.subject])
        else:
            everyone = as_of.everyone(first)
        for client in everyone:
            found = as_of.evidence_shown(client, name)
            start = skip if client.client_id == first else 0
            room = size - len(page)
            if len(found) - start > room:
                page.extend(found[start : start + room])
                return page, f"{client.client_id}.{start + room}"
            page.extend(found[start:])
        return page, ""

    def get_attribution(self, request: api.GetAttributionRequest, purpose: str = SERVICE) -> api.GetAttributionResponse:
        """Credit by channel and campaign, over all clients or one."""
        if request.model and request.model not in MODELS:
            raise InvalidError.of(
                Violation("model", f"one of {', '.join(MODELS)}, or empty for all", "name one of them")
            )
        wanted = {f"{_PREFIX}{request.model}"} if request.model else {f"{_PREFIX}{model}" for model in MODELS}
        between = interval(request.between)
        with self._store.snapshot() as reader:
            commit = moment(reader, request.as_of)
            state = AsOf(reader, commit.position, self._minimum, between)
            response = api.GetAttributionResponse(position=commit.position, as_of=commit.recorded_at)
            if request.client_id:
                client = state.shown(state.client(whom(reader, request.client_id, "client_id", commit)))
                consents = _consents(reader, client.client_id)
                _permitted(consents, client.client_id, purpose)
                client.note_consents(consents, Tally(), ledger.NO_METRICS)
                totals, board = _credits_of(client, between)
                for conversion in client.conversions:
                    if not between.holds(conversion.at):
                        continue
                    told = messages.attribution_computed(
                        client.client_id, conversion.interaction_id, client.shares(conversion)
                    )
                    kept = [each for each in told.models if f"{_PREFIX}{each.model}" in wanted]
                    del told.models[:]
                    told.models.extend(kept)
                    response.conversions.append(told)
            else:
                totals = state.lines(dimensions.ALL)
                board = state.counters(Kind.CREDIT.value)
        response.conversions_total = totals.get(CONVERTED, 0)
        response.unattributed = totals.get(UNATTRIBUTED, 0)
        response.left_out.extend(messages.left_out(left_out_of(totals)))
        cells: dict[tuple[str, str, str, str], dict[str | int, int]] = {}
        for (_, place, metric, currency, part), amount in board.items():
            channel, _, campaign = place.partition("\x1f")
            cells.setdefault((metric, channel, campaign, currency), {})[part] = amount
        order = {f"{_PREFIX}{model}": index for index, model in enumerate(MODELS)}
        for cell in sorted(cells, key=lambda cell: (order[cell[0]], cell[1:])):
            metric, channel, campaign, currency = cell
            if metric in wanted:
                response.rows.add(
                    model=metric.removeprefix(_PREFIX),
                    channel=channel,
                    campaign_id=campaign,
                    currency=currency,
                    conversions_micros=cells[cell].get("micros", 0),
                    value_micros=cells[cell].get("value", 0),
                )
        return response

    def list_metrics(self, _: api.ListMetricsRequest) -> api.ListMetricsResponse:
        """Metrics of one's own in force, and every formula in words with its source."""
        with self._store.snapshot() as reader:
            own = ledger.in_force(ledger.definitions(reader))
        return api.ListMetricsResponse(
            metrics=[messages.definition_message(definition) for definition in own.values()],
            formulas=[messages.formula_message(formula) for formula in FORMULAS.values()],
        )


def _credits_of(client: Client, between: Interval) -> tuple[dict[Line, int], dict[Counter, int]]:
    tally = Tally()
    count_in(client, between, tally, Metrics())
    counters = tally.counters()
    return of_subject(counters, dimensions.ALL), {
        counter: amount for counter, amount in counters.items() if counter[0] == Kind.CREDIT.value
    }


def _listable(kind: int) -> Kind:
    if kind == Kind.CLIENT.value:
        raise InvalidError.of(
            Violation("subject_kind", "clients are not listed", "ask for one client with GetScorecard")
        )
    return Kind(subject_of(kind, "" if kind == Kind.ALL.value else "any")[0])


def _known(metric: str, own: dict[str, MetricDefinition]) -> None:
    if metric not in BUILT_IN and metric not in own:
        raise NotFoundError(
            "METRIC_UNKNOWN",
            f"no metric is called {metric!r}; ListMetrics names those that there are",
            {"metric": metric},
        )


def _by_subject(counters: dict[Counter, int]) -> Iterable[tuple[str, dict[Line, int]]]:
    for name, group in groupby(sorted(counters.items(), key=lambda item: item[0][1]), key=lambda item: item[0][1]):
        yield name, {counter[2:]: amount for counter, amount in group}


def _chief(told: Sequence[Figure], metric: str) -> Figure | None:
    """The metric's overall figure, or its only one (amounts in one currency)."""
    found = [figure for figure in told if figure.metric == metric]
    overall = [figure for figure in found if not figure.aspect]
    return overall[0] if overall else found[0] if len(found) == 1 else None


def _badness(figure: Figure | None) -> float:
    return float("inf") if figure is None else badness(figure)


def _page_size(size: int) -> int:
    if not 0 <= size <= LARGEST_PAGE:
        raise InvalidError.of(
            Violation("page_size", f"0 to {LARGEST_PAGE}", f"ask for at most {LARGEST_PAGE}, 0 means {DEFAULT_PAGE}")
        )
    return size or DEFAULT_PAGE


def _page(token: str) -> tuple[str, int]:
    if not token:
        return "", 0
    match = _TOKEN.match(token)
    if match is None:
        raise InvalidError.of(
            Violation(
                "page_token",
                "a token that an answer gave as next_page_token",
                "begin again without one",
                "PAGE_TOKEN_INVALID",
            )
        )
    return match[1], int(match[2])


def formulas() -> list[metrics_pb2.Formula]:
    """Every formula, as published."""
    return [messages.formula_message(formula) for formula in FORMULAS.values()]
