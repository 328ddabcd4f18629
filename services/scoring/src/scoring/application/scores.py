"""Names of scores, and what a score was at a position of the log."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from scoring.application import ledger, rows
from scoring.domain.client import Client, move_case_end, own_counters, restore
from scoring.domain.dimensions import Kind, Subject
from scoring.domain.evidence import evidence, units
from scoring.domain.facts import Contact
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.scorecard import Figure, figures
from scoring.domain.tally import Counter, Line, Tally
from throughline_eventlog import Reader
from throughline_kernel import NotFoundError

CHECK_BYTES = 4
# Clients that are looked at together.
BATCH = 200


class ScoreName(NamedTuple):
    """What a score id says: whose figure it is, by which formula, at which position of the log."""

    kind: int
    subject: str
    metric: str
    aspect: str
    formula_version: int
    position: int


_decoder = msgspec.msgpack.Decoder(ScoreName)


def score_id(name: ScoreName) -> str:
    """The name in URL-safe letters, with a check so that a damaged one is noticed."""
    packed = msgspec.msgpack.encode(name)
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
    """The state at a position of the log. Only what changed since is folded again."""

    def __init__(self, reader: Reader, position: int, minimum: int) -> None:
        self._reader = reader
        self._minimum = minimum
        self._position = position
        self.definitions = ledger.definitions(reader)
        self.metrics = Metrics.of(ledger.in_force(self.definitions).values())
        changed = ledger.changed_since(reader, position) if position < reader.last_position() else set[str]()
        self._heads = ledger.heads(reader, changed)
        self._now = ledger.load(reader, self._heads)
        self._then = ledger.load(reader, self._heads, position)

    def is_withheld(self, client: Client) -> bool:
        """Whether the client was forgotten since, so that nothing of it is shown any more."""
        head = self._heads.get(client.client_id)
        return head is not None and head.forgotten > 0 and not len(self._now[client.client_id])

    def lines(self, subject: Subject) -> dict[Line, int]:
        """The subject's counters."""
        kind, name = subject
        if kind == Kind.CLIENT.value:
            client = next(self.clients([name]), None)
            return {} if client is None else own_counters(client, self.metrics)
        sums = ledger.counters(self._reader, kind, name)
        for counter, amount in self._difference().items():
            if counter[:2] == subject:
                sums[counter] = sums.get(counter, 0) + amount
        return {counter[2:]: amount for counter, amount in sums.items() if amount}

    def _difference(self) -> dict[Counter, int]:
        """What to add to the counters of now to have those of then."""
        tally, now = Tally(), Tally()
        for client_id, client in self._then.items():
            restore(client_id, client.facts(), self.metrics, tally)
            restore(client_id, self._now[client_id].facts(), self.metrics, now)
        case_ids = tally.case_ends.keys() | now.case_ends.keys()
        for case_id, ends in self._ends_now(case_ids).items():
            move_case_end(ends, self._back(case_id, ends), tally, self.metrics)
        for dims, row in now.rows.items():
            for line, amount in row.items():
                tally.add(dims, line, -amount)
        return tally.counters()

    def _ends_now(self, case_ids: set[str]) -> dict[str, dict[str, Contact]]:
        found = ledger.case_ends(self._reader, case_ids)
        return {case_id: found.get(case_id, {}) for case_id in case_ids}

    def _back(self, case_id: str, ends: dict[str, Contact]) -> dict[str, Contact | None]:
        """What each changed client's last contact in the case was."""
        back: dict[str, Contact | None] = {}
        for client_id, client in self._then.items():
            chain = client.in_cases.get(case_id)
            if chain or client_id in ends:
                back[client_id] = chain[-1] if chain else None
        return back

    def last_of_case(self, case_id: str) -> Contact | None:
        """The contact that the case counts by, over all clients."""
        ends = ledger.case_ends(self._reader, [case_id]).get(case_id, {})
        after = {**ends, **self._back(case_id, ends)}
        return max((contact for contact in after.values() if contact is not None), default=None)

    def clients(self, client_ids: list[str]) -> Iterator[Client]:
        """These clients, as they were."""
        untouched = ledger.heads(self._reader, [each for each in client_ids if each not in self._heads])
        loaded = ledger.load(self._reader, untouched)
        for client_id in client_ids:
            if client_id in self._then:
                yield self._then[client_id]
            elif client_id in loaded:
                yield loaded[client_id]

    def everyone(self, first: str = "") -> Iterator[Client]:
        """All clients by id, from `first` on, as they were."""
        batch = [first] if first else []
        for key, _ in self._reader.scan(rows.CLIENTS, after=bytes.fromhex(first)):
            batch.append(key.hex())
            if len(batch) >= BATCH:
                yield from self.clients(batch)
                batch = []
        yield from self.clients(batch)

    def figure(self, name: ScoreName) -> Figure | None:
        """The figure of that name; None where there is none."""
        definition = self.definition(name)
        if definition is not None and definition not in ledger.in_force(self.definitions).values():
            return self._overruled((name.kind, name.subject), definition)
        own = () if definition is None else (definition,)
        for figure in figures(self.lines((name.kind, name.subject)), own, minimum=self._minimum):
            if (figure.metric, figure.aspect, figure.formula_version) == (
                name.metric,
                name.aspect,
                name.formula_version,
            ):
                return figure
        return None

    def definition(self, name: ScoreName) -> MetricDefinition | None:
        """The metric of one's own that the score is of."""
        return self.definitions.get((name.metric, name.formula_version))

    def _overruled(self, subject: Subject, definition: MetricDefinition) -> Figure:
        """A metric whose version is not in force any more is counted from the facts."""
        n = k = 0
        everyone = self.clients([subject[1]]) if subject[0] == Kind.CLIENT.value else self.everyone()
        for client in everyone:
            for contact in units(client, subject, definition, self.last_of_case):
                n += 1
                k += definition.numerator.holds(contact)
        lines: dict[Line, int] = {(definition.metric, "", "n"): n, (definition.metric, "", "k"): k}
        return figures(lines, (definition,), minimum=self._minimum)[-1]

    def evidence(self, client: Client, name: ScoreName) -> list[str]:
        """What the client contributes to the score's n."""
        return evidence(
            client,
            (name.kind, name.subject),
            name.metric,
            name.aspect,
            definition=self.definition(name),
            last_of_case=self.last_of_case,
        )

    def withheld(self, name: ScoreName) -> int:
        """How many pieces of evidence belong to clients that were forgotten since."""
        return sum(len(self.evidence(each, name)) for each in self._then.values() if self.is_withheld(each))
