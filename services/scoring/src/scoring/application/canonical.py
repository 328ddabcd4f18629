"""The state in canonical form: what a live store and a replay must agree on to the last byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

from scoring.application.messages import definition_json
from scoring.domain.client import Facts
from scoring.domain.facts import CaseItem, JourneyItem
from scoring.domain.metrics import MetricDefinition
from scoring.domain.tally import Counter
from throughline_kernel import Consent, canonical_json

_SUBJECT: Final = "subject/"
_CASE_EVENTS: Final = CaseItem._fields.index("opened_event")
_JOURNEY_EVENTS: Final = JourneyItem._fields.index("started_event")
_CONSENT_EVENT: Final = Consent._fields.index("event_id")


def client_key(client_id: str) -> str:
    """Key of a client's facts."""
    return f"client/{client_id}"


def client_state(facts: Facts, *, again: bool = False) -> bytes | None:
    """A client's facts; None where there are none.

    `again` where journeys were decided again: a transition's id hangs on the version of its definition, so that
    journeys then show without the ids of theirs.
    """
    if not any(facts):
        return None
    state = {name: [_plain(row) for row in each] for name, each in facts._asdict().items()}
    # Which event said it depends on which id of the client's was spoken to.
    state["consents"] = [row[:_CONSENT_EVENT] for row in state["consents"]]
    # Which events last spoke of a case depends on what arrived when; what they say does not.
    state["cases"] = [row[:_CASE_EVENTS] for row in state["cases"]]
    if again:
        state["journeys"] = [row[:_JOURNEY_EVENTS] for row in state["journeys"]]
    return canonical_json(state)


def _plain(row: tuple[Any, ...]) -> list[Any]:
    return [value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value for value in row]


def metric_key(metric: str) -> str:
    """Key of a metric of one's own."""
    return f"metric/{metric}"


def metric_state(definition: MetricDefinition) -> bytes:
    """A metric of one's own, as it is in force."""
    return canonical_json(definition_json(definition))


def subject_key(kind: int, subject: str) -> str:
    """Key of a subject's counters; kind 0 is the board of attribution."""
    return f"{_SUBJECT}{kind}/{subject}"


def subject_state(counters: Iterable[tuple[Counter, int]]) -> bytes:
    """A subject's counters: what they are does not depend on the order in which they came."""
    state: dict[str, int] = {}
    for (_, _, metric, aspect, part), amount in counters:
        # A time in microseconds is told from a part by its place.
        name = f"{metric}\x1f{aspect}\x1f{part}" if isinstance(part, str) else f"{metric}\x1f\x1f{part:d}\x1ftime"
        state[name] = amount
    return canonical_json(state)


def subject_states(counters: dict[Counter, int]) -> Iterator[tuple[str, bytes]]:
    """All subjects' counters in key order."""
    ordered = sorted(counters.items(), key=lambda item: (str(item[0][0]), item[0][1]))
    for (kind, subject), group in groupby(ordered, key=lambda item: item[0][:2]):
        yield subject_key(kind, subject), subject_state(group)


def figures(key: str, state: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """The figures of a subject's state: ("score", metric and aspect, the counters that it follows from) each."""
    if not key.startswith(_SUBJECT):
        return
    found: dict[str, dict[str, int]] = {}
    for name, amount in state.items():
        metric, aspect, part = name.split("\x1f", 2)
        found.setdefault(f"{metric}\x1f{aspect}", {})[part] = amount
    for figure, counters in found.items():
        yield "score", figure, counters
