"""Offers what waits in quarantine again, page by page, until what may leave has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ingestion.application.ports import OfferReader, Quarantined
from ingestion.application.recording import REDRIVEN, Recorder, Stored, Versions, members_of
from ingestion.domain.accounting import Verdict
from ingestion.domain.deciding import Offer, judge, refused
from throughline_eventlog import NewEvent, Transaction, Writer
from throughline_kernel import Violation

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class RedriveQuarantine:
    """Offer these again: all that is left empty matches everything. `after` and `until` are positions."""

    interaction_id: str = ""
    channel: str = ""
    reason: str = ""
    after: int = 0
    until: int = 0


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of those that matched. `rest`: the command for those not looked at yet, None where there are none."""

    recorded: int = 0
    duplicate: int = 0
    conflict: int = 0
    still_quarantined: int = 0
    refused: int = 0
    rest: RedriveQuarantine | None = None

    def __add__(self, other: Redriven) -> Redriven:
        return Redriven(
            self.recorded + other.recorded,
            self.duplicate + other.duplicate,
            self.conflict + other.conflict,
            self.still_quarantined + other.still_quarantined,
            self.refused + other.refused,
            other.rest,
        )


class Redrive:
    """Redrives all that matches, in transactions of PAGE each, so that offers get their turn in between."""

    def __init__(self, writer: Writer, work: RedrivePage) -> None:
        self._writer = writer
        self._work = work

    async def __call__(self, command: RedriveQuarantine, traceparent: str = "") -> Redriven:
        """Redrives. Nothing that waits under the id that is named is nothing to redrive."""
        done = Redriven(rest=command)
        while done.rest is not None:
            done += await self._writer.submit(self._work, done.rest, weight=PAGE, traceparent=traceparent)
        return done


class RedrivePage:
    """The work of one page."""

    def __init__(self, recorder: Recorder, reader: OfferReader) -> None:
        self._recorder = recorder
        self._reader = reader

    def __call__(self, tx: Transaction, items: Sequence[RedriveQuarantine], /) -> Sequence[Redriven]:
        """Takes each command's next page, one after the other."""
        return [self._page(tx, item) for item in items]

    def rolled_back(self) -> None:
        """What was indexed last is not in the log."""
        self._recorder.index.rolled_back()

    def _page(self, tx: Transaction, command: RedriveQuarantine) -> Redriven:
        tables = self._recorder.tables
        # What is quarantined while this runs is left for the next redrive: else it might never end.
        until = command.until or tx.last_position()
        rest: RedriveQuarantine | None = None
        if command.interaction_id:
            page = tables.quarantined_of(tx, bytes.fromhex(command.interaction_id))
        else:
            page = tables.quarantine(tx, after=command.after, limit=PAGE)
            if len(page) == PAGE and page[-1].position < until:
                rest = replace(command, after=page[-1].position, until=until)
        matching = [
            each
            for each in page
            if each.position <= until and command.channel in {"", each.channel} and command.reason in {"", each.reason}
        ]
        return replace(self._redrive(tx, matching), rest=rest)

    def _redrive(self, tx: Transaction, waiting: Sequence[Quarantined]) -> Redriven:
        recorder = self._recorder
        if not waiting:
            return Redriven()
        opened = recorder.seal.open([each.sealed for each in waiting])
        offers = [
            _forgotten(each) if whole is None else self._reader.offer_again(whole, tx.now)
            for each, whole in zip(waiting, opened, strict=True)
        ]
        registry = recorder.tables.registry(tx)
        known = recorder.known(tx, offers, registry)
        judgements = [judge(offer, known, registry) for offer in offers]
        ends = [
            (each, judgement)
            for each, judgement in zip(waiting, judgements, strict=True)
            if judgement.verdict != Verdict.QUARANTINED
        ]
        stored = [
            Stored(offer, offer.said, judgement)
            for offer, judgement in zip(offers, judgements, strict=True)
            if judgement.stored and offer.said is not None
        ]
        if ends:
            versions = Versions(tx, {each.source for each in waiting})
            events = recorder.events(stored, known, registry, versions)
            events += [
                NewEvent(
                    *versions.next(each.source),
                    REDRIVEN,
                    recorder.codec.redriven(each, judgement.verdict),
                    tx.now,
                    correlation_id=each.interaction_id,
                )
                for each, judgement in ends
            ]
            positions = tx.append(events)
            recorder.store(tx, stored, positions[: len(stored)])
            redriven = zip(ends, positions[len(stored) :], strict=True)
            recorder.tables.put_asides(tx, [(each.interaction_id, position) for (each, _), position in redriven])
            recorder.tables.release(tx, [each for each, _ in ends])
            accounts = recorder.tables.accounts(tx, {each.source for each, _ in ends})
            for each, judgement in ends:
                accounts[each.source] = accounts[each.source].redriven(judgement.verdict, each.offers)
            for source, members in members_of(stored, Verdict.RECORDED).items():
                accounts[source] = accounts[source].recording(members)
            for source, members in members_of(stored, Verdict.CONFLICT).items():
                accounts[source] = accounts[source].keeping_conflicts(members)
            recorder.tables.put_accounts(tx, accounts)
        verdicts = [judgement.verdict for judgement in judgements]
        return Redriven(
            verdicts.count(Verdict.RECORDED),
            verdicts.count(Verdict.DUPLICATE),
            verdicts.count(Verdict.CONFLICT),
            verdicts.count(Verdict.QUARANTINED),
            verdicts.count(Verdict.REFUSED),
        )


def _forgotten(waiting: Quarantined) -> Offer:
    rule = Violation("identifiers", "of somebody who is not forgotten", "nothing is left to record", "FIELD_INVALID")
    return refused(waiting.source, (rule,), waiting.interaction_id)
