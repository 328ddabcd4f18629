"""Exact counts over many clients: channel sequences, and how journeys of one definition went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import groupby
from typing import Final, NamedTuple

from journey.domain.definitions import JourneyDefinition
from journey.domain.facts import Fact
from throughline_kernel import Interval

EXAMPLES: Final = 5
DEFAULT_TOP: Final = 20
LARGEST_TOP: Final = 1_000


class Way(NamedTuple):
    """One way to be counted: a journey, or a client's whole history (`status` empty, `stages` too)."""

    id: str
    channels: tuple[str, ...]
    status: str
    started_at: int
    last_at: int
    stages: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    switches: int = 0


def way_between(client_id: str, facts: Iterable[Fact], between: Interval) -> Way:
    """What of a client's history, in canonical order, happened in an interval; without channels where nothing did."""
    found = [fact for fact in facts if not fact.staff and between.holds(fact.occurred_at)]
    if not found:
        return Way(client_id, (), "", 0, 0)
    channels = tuple(channel for channel, _ in groupby(fact.channel for fact in found))
    return Way(client_id, channels, "", found[0].occurred_at, found[-1].occurred_at)


@dataclass(frozen=True, slots=True)
class Variant:
    """A channel sequence and those that took it; `median_duration` in microseconds from first to last interaction."""

    channels: tuple[str, ...]
    count: int
    completed: int
    abandoned: int
    median_duration: int
    example_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variants:
    """The most frequent variants; everything else is in `others`: count(variants) + others = total."""

    variants: tuple[Variant, ...]
    others: int
    other_variants: int
    total: int


@dataclass(slots=True)
class _Tally:
    ids: list[str] = field(default_factory=list[str])
    durations: list[int] = field(default_factory=list[int])
    completed: int = 0
    abandoned: int = 0


def count_variants(ways: Iterable[Way], top: int) -> Variants:
    """Counts channel sequences exactly; equally frequent ones in the order of their channels."""
    tallies: dict[tuple[str, ...], _Tally] = {}
    total = 0
    for way in ways:
        total += 1
        tally = tallies.get(way.channels)
        if tally is None:
            tally = tallies[way.channels] = _Tally()
        tally.ids.append(way.id)
        tally.durations.append(way.last_at - way.started_at)
        tally.completed += way.status == "completed"
        tally.abandoned += way.status == "abandoned"
    listed = nsmallest(top, tallies.items(), key=lambda item: (-len(item[1].ids), item[0]))
    variants = tuple(
        Variant(
            channels,
            len(tally.ids),
            tally.completed,
            tally.abandoned,
            median(tally.durations),
            tuple(nsmallest(EXAMPLES, tally.ids)),
        )
        for channels, tally in listed
    )
    others = total - sum(variant.count for variant in variants)
    return Variants(variants, others, len(tallies) - len(variants), total)


@dataclass(slots=True)
class StageCount:
    """How one stage did: journeys that reached it, came back to it, ended in it, stand in it."""

    reached: int = 0
    loops: int = 0
    abandoned: int = 0
    open: int = 0


@dataclass(slots=True)
class JourneyCounts:
    """How the journeys of one definition went. started = open + completed + abandoned."""

    stages: dict[str, StageCount]
    started: int = 0
    open: int = 0
    completed: int = 0
    abandoned: int = 0
    channel_switches: int = 0
    median_duration: int = 0


def count_journeys(definition: JourneyDefinition, ways: Iterable[Way]) -> JourneyCounts:
    """Counts the journeys of one definition. The median duration is that of completed journeys."""
    counts = JourneyCounts({stage.stage: StageCount() for stage in definition.stages})
    durations: list[int] = []
    for way in ways:
        counts.started += 1
        counts.channel_switches += way.switches
        for stage in set(way.stages):
            counts.stages[stage].reached += 1
        for stage in way.loops:
            counts.stages[stage].loops += 1
        match way.status:
            case "completed":
                counts.completed += 1
                durations.append(way.last_at - way.started_at)
            case "abandoned":
                counts.abandoned += 1
                counts.stages[way.stages[-1]].abandoned += 1
            case _:
                counts.open += 1
                counts.stages[way.stages[-1]].open += 1
    counts.median_duration = median(durations)
    return counts


def median(values: list[int]) -> int:
    """The middle value, the lower of the two where there are two; 0 of nothing."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0
