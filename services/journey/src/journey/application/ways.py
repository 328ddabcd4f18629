"""Journeys and whole histories to be counted: as they stand, or stood at an instant, and what is in an interval."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from journey.application import codec, rows
from journey.application.earlier import events_until
from journey.application.records import replay
from journey.domain.definitions import Definitions, JourneyDefinition
from journey.domain.record import Record
from journey.domain.variants import Way, way_between
from throughline_eventlog import Reader
from throughline_kernel import Interval

_PAGE: Final = 1_000


def journeys(
    reader: Reader, definition: JourneyDefinition, judged: int, changed: Collection[str], position: int
) -> Iterator[Way]:
    """The journeys of a definition, judged at a moment (microseconds): as they stand, but of `changed` clients as they
    stood at a position of the log, told again under the definition from their own events.
    """
    prefix = rows.journey_prefix(definition.journey)
    for key, row in reader.scan(rows.JOURNEYS, prefix=prefix):
        if key[len(prefix) :][:16].hex() not in changed:
            yield rows.journey_way(key, row, judged)
    definitions = Definitions((definition,))
    for client_id in sorted(changed):
        record = Record(client_id, definitions, announcing=False)
        replay(record, events_until(reader, client_id, position).events)
        for journey in record.telling.journeys():
            key = rows.journey_key(definition.journey, bytes.fromhex(client_id), journey.journey_id)
            yield rows.journey_way(key, rows.journey_bytes(journey), judged)


def histories(reader: Reader, between: Interval, changed: Collection[str], position: int) -> Iterator[Way]:
    """What of each client's history happened in the interval, as it stands, but of `changed` clients as it stood at a
    position of the log; those of whom nothing did are left out.

    These, and whoever has a history that goes beyond the interval, are read from their own events.
    """
    parted: list[str] = []
    for key, row in reader.scan(rows.CLIENTS):
        if key.hex() in changed:
            continue
        way = rows.client_way(key, row)
        if not way.channels:
            continue
        if between.holds(way.started_at) and between.holds(way.last_at):
            yield way
        elif not between.start or way.last_at >= between.start:
            parted.append(key.hex())
    for client_id in (*parted, *sorted(changed)):
        record = Record(client_id, Definitions(), announcing=False)
        replay(record, events_until(reader, client_id, position).events, told=False)
        way = way_between(client_id, record.facts, between)
        if way.channels:
            yield way


def clients_after(reader: Reader, position: int) -> frozenset[str]:
    """Whom the log after a position is about."""
    found: set[str] = set()
    while events := reader.read(position, limit=_PAGE):
        found.update(client_id for event in events if (client_id := codec.subject_of(event)))
        position = events[-1].position
    return frozenset(found)
