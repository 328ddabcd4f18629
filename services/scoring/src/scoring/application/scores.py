"""Names of scores, and what a score was at a position of the log, of all time or of an interval."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from scoring.application import ledger
from scoring.application.ledger import NO_METRICS
from scoring.domain.client import Client, add_shares, move_case_end, restore
from scoring.domain.dimensions import Kind, Subject
from scoring.domain.evidence import evidence
from scoring.domain.facts import Contact
from scoring.domain.intervals import case_ends_in, count_in, own_lines
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.scorecard import Figure, figures
from scoring.domain.tally import Counter, Line, Tally
from throughline_eventlog import Reader
from throughline_kernel import ALWAYS, Interval, NotFoundError

CHECK_BYTES = 4
# Clients that are looked at together.
BATCH = 200


class ScoreName(NamedTuple):
    """What a score id says: whose figure it is, by which formula, at which position of the log, of which interval of
    event time (0, 0: of all).
    """

    kind: int
    subject: str
    metric: str
    aspect: str
    formula_version: int
    position: int
    start: int = 0
    end: int = 0

    @property
    def between(self) -> Interval:
        """The interval."""
        return Interval(self.start, self.end)


_decoder = msgspec.msgpack.Decoder(ScoreName)


def score_id(name: ScoreName) -> str:
    """The name in URL-safe letters, with a check so that a damaged one is noticed."""
    # Without an interval as ever: ids that were given out stay what they were.
    packed = msgspec.msgpack.encode(name[:6] if name.between == ALWAYS else name)
    return base64.urlsafe_b64encode(_check(packed) + packed).decode().rstrip("=")


def parse_score_id(text: str) -> ScoreName:
    """The name in a score id. Raises: NotFoundError where it names no score."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        name = _decoder.decode(raw[CHECK_BYTES:])
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise score_not_found(text) from None
    if raw[:CHECK_BYTES] != _check(raw[CHECK_BYTES:]):
        raise score_not_found(text)
    return name


def score_not_found(text: str) -> NotFoundError:
    """No score has this id."""
    return NotFoundError(
        "SCORE_NOT_FOUND",
        f"no score has the id {text!r}; take it from `score_id` of a score",
        {"score_id": text},
    )


def _check(packed: bytes) -> bytes:
    return blake2b(packed, digest_size=CHECK_BYTES, person=b"scoring.id").digest()


class AsOf:
    """The state at a position of the log, all of it or what began in an interval of event time.

    Without an interval only what changed since is folded again; with one, every client's facts are read.
    """

    def __init__(self, reader: Reader, position: int, minimum: int, between: Interval = ALWAYS) -> None:
        self._reader = reader
        self._minimum = minimum
        self._position = position
        self._between = between
        self._definitions = ledger.definitions(reader)
        self.in_force = ledger.in_force(ledger.definitions_until(reader, position))
        self.metrics = Metrics.of(self.in_force.values())

    def is_withheld(self, client_id: str) -> bool:
        """Whether the client was forgotten since, so that nothing of it is shown any more."""
        return client_id in self._changes.dropped

    def lines(self, subject: Subject) -> dict[Line, int]:
        """The subject's counters."""
        kind, name = subject
        if kind == Kind.CLIENT.value:
            return own_lines(self.shown(self.client(name)), self._between, self.metrics)
        return {counter[2:]: amount for counter, amount in self.counters(kind, name).items()}

    def counters(self, kind: int, subject: str | None = None) -> dict[Counter, int]:
        """The counters of a subject, or of all subjects of a kind."""
        if self._between != ALWAYS:
            return _chosen(self._recounted, kind, subject)
        sums = ledger.counters(self._reader, kind, subject)
        for counter, amount in _chosen(self._difference, kind, subject).items():
            sums[counter] = sums.get(counter, 0) + amount
        if self._overruled:
            sums = {counter: amount for counter, amount in sums.items() if counter[2] not in self._overruled}
            sums |= _chosen(self._recounted, kind, subject)
        return {counter: amount for counter, amount in sums.items() if amount}

    def figures(self, subject: Subject) -> list[Figure]:
        """All figures of one subject."""
        return figures(self.lines(subject), self.in_force.values(), minimum=self._minimum)

    def figure(self, name: ScoreName) -> Figure | None:
        """The figure of that name; None where there is none."""
        for figure in self.figures((name.kind, name.subject)):
            if (figure.metric, figure.aspect, figure.formula_version) == (
                name.metric,
                name.aspect,
                name.formula_version,
            ):
                return figure
        return None

    def client(self, client_id: str) -> Client:
        """One client, as it was."""
        return next(self.clients([client_id]), None) or Client(client_id)

    def shown(self, client: Client) -> Client:
        """The client without what was its own then and belongs to somebody who was forgotten since."""
        if self._changes.dropped:
            for gone in ledger.nobodys(self._reader, client):
                client.withdraw_contact(gone, Tally(), NO_METRICS)
                client.withdraw_feedback(gone, Tally())
        return client

    def clients(self, client_ids: Collection[str]) -> Iterator[Client]:
        """These clients, as they were; those never heard of are left out."""
        loaded = ledger.load(self._reader, ledger.heads(self._reader, client_ids), self._position)
        for client_id in client_ids:
            if client_id in loaded:
                yield loaded[client_id]

    def everyone(self, first: str = "") -> Iterator[Client]:
        """All clients by id, from `first` on, as they were."""
        batch = [first] if first else []
        for client_id in ledger.client_ids(self._reader, first):
            batch.append(client_id)
            if len(batch) >= BATCH:
                yield from self.clients(batch)
                batch = []
        yield from self.clients(batch)

    def definition(self, name: ScoreName) -> MetricDefinition | None:
        """The metric of one's own that the score is of."""
        return self._definitions.get((name.metric, name.formula_version))

    def evidence(self, client: Client, name: ScoreName) -> list[str]:
        """What the client contributes to the score's n."""
        return evidence(
            client,
            (name.kind, name.subject),
            name.metric,
            name.aspect,
            definition=self.definition(name),
            last_of_case=self._last_of_case,
            between=self._between,
        )

    def evidence_shown(self, client: Client, name: ScoreName) -> list[str]:
        """Of that what may still be shown: nothing of who was forgotten since, and nothing that consents keep apart."""
        if self.is_withheld(client.client_id):
            return []
        return [event_id for event_id in self.evidence(self.shown(client), name) if event_id not in self._apart]

    def withheld(self, name: ScoreName) -> int:
        """How many pieces of evidence are not shown any more, since clients were forgotten or withdrew consent."""
        if not self._changes.dropped and not self._apart:
            return 0
        changed = self._changes.clients
        if name.kind == Kind.CLIENT.value:
            changed &= {name.subject}
        withheld = 0
        for client in self.clients(sorted(changed)):
            withheld += len(self.evidence(client, name))
            withheld -= len(self.evidence_shown(client, name))
        return withheld

    def _last_of_case(self, case_id: str) -> Contact | None:
        """The contact that the case counts by, over all clients."""
        if self._between != ALWAYS:
            return self._ends_in_interval.get(case_id)
        ends = ledger.case_ends(self._reader, [case_id]).get(case_id, {})
        after = {**ends, **self._moved_back.get(case_id, {})}
        return max((contact for contact in after.values() if contact is not None), default=None)

    @cached_property
    def _changes(self) -> ledger.Changes:
        return ledger.changes_since(self._reader, self._position)

    @cached_property
    def _apart(self) -> frozenset[str]:
        """The events that the consents of those who changed since keep out of every figure now."""
        apart: set[str] = set()
        changed = sorted(self._changes.clients)
        for start in range(0, len(changed), BATCH):
            heads = ledger.heads(self._reader, changed[start : start + BATCH])
            for client in ledger.load(self._reader, heads).values():
                apart |= client.apart.event_ids()
        return frozenset(apart)

    @cached_property
    def _then_and_now(self) -> tuple[Tally, Tally]:
        """What those who changed since counted for then, and count for now."""
        then, now = Tally(), Tally()
        metrics = Metrics.of(ledger.in_force(self._definitions).values())
        changed = sorted(self._changes.clients)
        for start in range(0, len(changed), BATCH):
            heads = ledger.heads(self._reader, changed[start : start + BATCH])
            for tally, position in ((then, self._position), (now, None)):
                for client_id, client in ledger.load(self._reader, heads, position).items():
                    restore(client_id, client.facts(), metrics, tally)
                tally.credits = {}
        return then, now

    @cached_property
    def _moved_back(self) -> dict[str, dict[str, Contact | None]]:
        """By case: what the last contact in it was of each client that changed since."""
        then, now = self._then_and_now
        return {
            case_id: {
                client_id: then.case_ends.get(case_id, {}).get(client_id)
                for client_id in then.case_ends.get(case_id, {}).keys() | now.case_ends.get(case_id, {}).keys()
            }
            for case_id in then.case_ends.keys() | now.case_ends.keys()
        }

    @cached_property
    def _difference(self) -> dict[Counter, int]:
        """What to add to the counters of now to have those of then."""
        then, now = self._then_and_now
        metrics = Metrics.of(ledger.in_force(self._definitions).values())
        tally = Tally()
        ends = ledger.case_ends(self._reader, self._moved_back.keys())
        for case_id, back in self._moved_back.items():
            move_case_end(ends.get(case_id, {}), back, tally, metrics)
        for sign, counted in ((1, then), (-1, now)):
            for dims, row in counted.rows.items():
                for line, amount in row.items():
                    tally.add(dims, line, sign * amount)
        return tally.counters()

    @cached_property
    def _overruled(self) -> frozenset[str]:
        """Metrics of one's own that were in force in another version then: no counter has them any more."""
        now = ledger.in_force(self._definitions)
        return frozenset(metric for metric, definition in self.in_force.items() if now[metric] != definition)

    @cached_property
    def _recounted(self) -> dict[Counter, int]:
        """What is counted anew from everyone's facts: everything for an interval, else what was overruled since."""
        tally = Tally()
        for client in self.everyone():
            count_in(client, self._between, tally, self.metrics)
        for last in self._ends_in_interval.values() if self.metrics.of_cases else ():
            add_shares(last, tally, self.metrics, 1, cases=True)
        counters = tally.counters()
        if self._between != ALWAYS:
            return counters
        return {counter: amount for counter, amount in counters.items() if counter[2] in self._overruled}

    @cached_property
    def _ends_in_interval(self) -> dict[str, Contact]:
        """The contact that each case counts by: the last in the interval, of all clients."""
        ends: dict[str, Contact] = {}
        for client in self.everyone():
            for case_id, last in case_ends_in(client, self._between).items():
                ends[case_id] = max(last, ends.get(case_id, last))
        return ends


def _chosen(counters: Mapping[Counter, int], kind: int, subject: str | None) -> dict[Counter, int]:
    return {
        counter: amount for counter, amount in counters.items() if counter[0] == kind and subject in {None, counter[1]}
    }
