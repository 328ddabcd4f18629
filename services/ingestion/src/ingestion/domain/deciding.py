"""What becomes of each offered event. Laws 2 and 6 are decided here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ingestion.domain.accounting import Tally, Verdict
from ingestion.domain.registry import Registry, Standing
from ingestion.domain.validation import MAX_BATCH
from throughline_kernel import InvalidError, Violation


class Said(NamedTuple):
    """What a valid interaction says, as deciding and logging need it: read once, wherever that was.

    `persona` is who presents themselves (16 bytes). Serialised messages of the contract: `facts`, all that may cross
    the bus but the channel's traits and the persona; `personal`, what is sealed of it, empty where nothing is; `whole`,
    the interaction as it was offered.
    """

    channel: str
    occurred_at: int
    persona: bytes
    facts: bytes
    personal: bytes
    whole: bytes


class Offer(NamedTuple):
    """One event as it was offered. `source` is the name it is accounted under: empty where it gave none that could be.

    `said` is None where a rule is broken (`violations` say which). Then `key` (16 bytes, the interaction id) and
    `content_mac` (16 bytes) are empty, and `interaction_id` is where the event has no name.
    """

    source: str
    interaction_id: str
    key: bytes
    content_mac: bytes
    said: Said | None
    violations: tuple[Violation, ...] = ()


class Judgement(NamedTuple):
    """What becomes of an offer. `stored`: it is new to the log, and kept there."""

    verdict: Verdict
    stored: bool
    violations: tuple[Violation, ...] = ()
    standing: Standing | None = None


@dataclass(slots=True)
class Known:
    """What the log holds about the offers at hand, and what deciding them has added to it.

    `recorded`: content MAC by key. `conflicting` and `quarantined`: key and content MAC, 32 bytes. What is decided is
    added, so that repeats within one batch are found like any other.
    """

    recorded: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    conflicting: set[bytes] = field(default_factory=set[bytes])
    quarantined: set[bytes] = field(default_factory=set[bytes])


def judge(offer: Offer, known: Known, registry: Registry) -> Judgement:
    """Decides one offer and adds it to what is known.

    The order of the questions is the meaning: a broken rule is refused whatever else holds; what is recorded stands for
    ever, so the same id is a duplicate or a conflict whatever the registry says by now; only what is new can wait in
    quarantine. The same content offered again ends as the first did, and is not stored twice.
    """
    if offer.said is None:
        return Judgement(Verdict.REFUSED, False, offer.violations)
    key, mac = offer.key, offer.content_mac
    recorded = known.recorded.get(key)
    if recorded is not None:
        if recorded == mac:
            return DUPLICATE
        member = key + mac
        new = member not in known.conflicting
        known.conflicting.add(member)
        return CONFLICT_NEW if new else CONFLICT_AGAIN
    standing = registry.standing(offer.source, offer.said.channel)
    if standing is not None:
        member = key + mac
        new = member not in known.quarantined
        known.quarantined.add(member)
        return Judgement(Verdict.QUARANTINED, new, standing.violations, standing)
    known.recorded[key] = mac
    return RECORDED


def tally(verdicts: Iterable[tuple[str, Verdict]]) -> dict[str, Tally]:
    """Counts what each source offered, by how it ended."""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(Verdict))
    for source, verdict in verdicts:
        counts[source][verdict - 1] += 1
    return {source: Tally(*ends) for source, ends in counts.items()}


def batch_size_error(events: int) -> InvalidError | None:
    """The refusal of a batch that has no event, or too many; None where the size is right."""
    if 0 < events <= MAX_BATCH:
        return None
    remedy = f"send 1 to {MAX_BATCH} events in a batch; this one has {events}"
    return InvalidError(
        "BATCH_SIZE_INVALID",
        remedy,
        {"field": "interactions", "events": str(events), "limit": str(MAX_BATCH)},
        (Violation("interactions", f"1 to {MAX_BATCH} events", remedy, "BATCH_SIZE_INVALID"),),
    )


def refused(source: str, violations: tuple[Violation, ...], interaction_id: str = "") -> Offer:
    """An offer of which all that is left to do is to count it."""
    return Offer(source, interaction_id, b"", b"", None, violations)


RECORDED: Final = Judgement(Verdict.RECORDED, True)
DUPLICATE: Final = Judgement(Verdict.DUPLICATE, False)
_CONFLICT: Final = (
    Violation(
        "source_interaction_id",
        "one content for one id, for ever",
        "the first content stands and this one is kept beside it; report a correction under an id of its own",
        "CONTENT_CONFLICT",
    ),
)
CONFLICT_NEW: Final = Judgement(Verdict.CONFLICT, True, _CONFLICT)
CONFLICT_AGAIN: Final = Judgement(Verdict.CONFLICT, False, _CONFLICT)
