"""What a client's consents leave of an answer, and what they leave out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from journey.domain.context import Context, Who, tell
from journey.domain.facts import Handoff
from journey.domain.record import Record
from throughline_kernel import AUDIT, MARKETING, Consent, Consents, LeftOut


def tell_heeding(
    record: Record,
    who: Who,
    channel: str,
    now: int,
    handoffs: Iterable[Handoff] = (),
    *,
    consents: Consents,
    purpose: str,
) -> Context:
    """As `tell`, without what the client's consents forbid for this purpose.

    Where the asking channel is not to know, nothing is told but who was asked for. Else what happened on the channels
    that the client spoke of is left out, and the history told as if it had not been; a case stays, since a department
    owes the client its end. Campaigns are not told where marketing was withdrawn, whatever the read is for.
    """
    if not consents or purpose == AUDIT:
        return tell(record, who, channel, now, handoffs)
    whole = consents.withdrawal(purpose, channel)
    if whole is not None:
        nothing = Record(record.client_id, record.definitions, announcing=False)
        told = tell(nothing, Who(who.client_id), channel, now)
        return replace(told, left_out=(LeftOut.by(whole, "everything", record.telling.interactions),))
    gone: Counter[tuple[str, Consent]] = Counter()
    heeded = _without(record, consents, purpose, gone)
    offered = [handoff for handoff in handoffs if not _held_back(consents, purpose, handoff, gone)]
    told = tell(heeded, who, channel, now, offered)
    sending = consents.withdrawal(MARKETING, channel)
    if sending is not None and told.campaigns:
        gone["campaigns", sending] += len(told.campaigns)
        told = replace(told, campaigns=())
    return replace(told, left_out=summed(gone))


def forbidden(consents: Consents, purpose: str, channels: Sequence[str]) -> Consent | None:
    """The word that forbids what concerns any of these channels (none: what concerns no channel)."""
    for channel in channels or ("",):
        word = consents.withdrawal(purpose, channel)
        if word is not None:
            return word
    return None


def summed(gone: Counter[tuple[str, Consent]]) -> tuple[LeftOut, ...]:
    """What was counted as left out, in one order."""
    return tuple(LeftOut.by(word, what, count) for (what, word), count in sorted(gone.items()))


def _without(record: Record, consents: Consents, purpose: str, gone: Counter[tuple[str, Consent]]) -> Record:
    """The record as if what happened on channels that the client spoke of had not been."""
    forbidding = {
        channel: word
        for channel in {fact.channel for fact in record.facts}
        if (word := consents.withdrawal(purpose, channel)) is not None
    }
    by_id = {fact.id: forbidding[fact.channel] for fact in record.facts if fact.channel in forbidding}
    for word in by_id.values():
        gone["interactions", word] += 1
    heeded = Record(record.client_id, record.definitions, announcing=False)
    heeded.cases = record.cases
    for item in record.feedback.values():
        word = by_id.get(item.interaction_id)
        if word is None:
            heeded.note_feedback(item)
        else:
            gone["feedback", word] += 1
    for handoff in record.handoffs.values():
        if not _held_back(consents, purpose, handoff, gone):
            heeded.offer(handoff)
    if by_id:
        heeded.change([fact for fact in record.facts if fact.id not in by_id])
    else:
        heeded.facts, heeded.telling = record.facts, record.telling
    return heeded


def _held_back(consents: Consents, purpose: str, handoff: Handoff, gone: Counter[tuple[str, Consent]]) -> bool:
    word = consents.withdrawal(purpose, handoff.from_channel)
    if word is not None:
        gone["hand_offs", word] += 1
    return word is not None
