"""Scoring's figures again, with the code at hand: its handlers, without bus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from scoring.adapters.who_is_who import DirectoryTables
from scoring.application import canonical, messages
from scoring.application.book import Book
from scoring.application.commands import DefineMetrics, PublishScorecards, publish_formulas
from scoring.application.intake import FeedbackIntake, IdentityIntake, JourneyIntake
from scoring.application.rows import TABLES
from scoring.application.state import aggregates
from scoring.domain.scorecard import DEFAULT_MINIMUM
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import NotAskedError, Reader, Transaction
from throughline_kernel import AUDIT, Recorded, Refusal

_ASKED: Final = frozenset({messages.SCORE_COMPUTED, messages.METRIC_DEFINED, messages.FORMULA_PUBLISHED})


class _Figure(NamedTuple):
    """One figure of a scorecard that was asked for."""

    card: bytes
    metric: str
    aspect: str


class ScoringDerivation:
    """See `Derivation`. `minimum` is how many answers an estimate needs to be told."""

    service = "scoring"
    tables = (*TABLES, *DIRECTORY_TABLES)

    def __init__(self, minimum: int) -> None:
        book = Book()
        self._takes = {
            "identity": IdentityIntake(book, DirectoryTables()),
            "feedback": FeedbackIntake(book),
            "journey": JourneyIntake(book),
        }
        self._publish = PublishScorecards(minimum)
        self._define = DefineMetrics(book)

    def take(self, tx: Transaction, upstream: str, events: Sequence[Recorded], logged: Sequence[Recorded]) -> None:
        """Takes from identity, feedback and journey."""
        self._takes[upstream](tx, events)

    def work(self, tx: Transaction, name: str, number: int) -> None:
        """Scoring does nothing by itself. Raises LookupError."""
        raise LookupError(f"scoring has no work called {name}")

    def ask(self, tx: Transaction, logged: Sequence[Recorded]) -> Sequence[Refusal]:
        """Scorecards, metrics and formulas."""
        refused: list[Refusal] = []
        scored: set[_Figure] = set()
        for event in logged:
            if event.type not in _ASKED:
                raise NotAskedError(event)
            results: Sequence[object] = ()
            if event.type == messages.FORMULA_PUBLISHED:
                formula = pb.FormulaPublished.FromString(event.payload).formula
                publish_formulas(tx, only=(formula.formula, formula.version))
            elif event.type == messages.METRIC_DEFINED:
                defined = pb.MetricDefined.FromString(event.payload)
                request = api.DefineMetricRequest(definition=defined.definition, defined_by=defined.defined_by)
                results = self._define(tx, [request])
            else:
                computed = pb.ScoreComputed.FromString(event.payload)
                score = computed.score
                card = api.PublishScorecardRequest(
                    subject_kind=score.subject_kind,
                    subject=score.subject,
                    published_by=computed.published_by,
                    as_of=computed.as_of,
                    between=score.between,
                )
                figure = _Figure(card.SerializeToString(deterministic=True), score.metric, score.aspect)
                # A scorecard is as many events as it has figures; where one comes again, it was published again.
                if figure in scored or figure.card not in {each.card for each in scored}:
                    scored = {each for each in scored if each.card != figure.card}
                    # Whatever it was published for: a card that a client's consent forbade left no event.
                    results = self._publish(tx, [(card, AUDIT)])
                scored.add(figure)
            refused += [each for each in results if isinstance(each, Refusal)]
        return refused

    def settle(self, tx: Transaction, own: Reader) -> bool:
        """Scoring does nothing by itself."""
        return False

    def parts(self, key: str, state: Any) -> Iterator[tuple[str, str, Any]]:
        """The figures of each subject: what they are counted from."""
        return canonical.figures(key, state)

    def aggregates(self, reader: Reader, *, again: bool = False) -> Iterator[tuple[str, bytes]]:
        """Clients, metrics and subjects."""
        return aggregates(reader, again=again)

    def close(self) -> None:
        """Holds nothing open."""


def make_derivation(env: Mapping[str, str], instead: bytes = b"") -> ScoringDerivation:
    """The derivation; SCORING_MINIMUM_N in `env` as for the service. Scoring has nothing to try instead.

    Raises: ValueError where something is given instead.
    """
    if instead:
        raise ValueError("scoring decides by formulas that come with the code: there is no rule to try instead")
    return ScoringDerivation(int(env.get("SCORING_MINIMUM_N", "").strip() or DEFAULT_MINIMUM))
