"""A client's record as the log had it at an earlier position, without what came later or was forgotten since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from journey.application import codec, rows
from journey.domain.definitions import Definitions, JourneyDefinition
from throughline.journey.v1 import events_pb2
from throughline_eventlog import Reader
from throughline_kernel import Recorded


class Earlier(NamedTuple):
    """A client's events up to a position, and how many interactions, items of feedback and cases are left out."""

    events: list[Recorded]
    withheld: int


def events_until(reader: Reader, client_id: str, position: int) -> Earlier:
    """What the client's stream said at the position.

    What a client said before it was forgotten is gone at every position; so is what was this client's then and belongs
    to somebody who was forgotten since, with the journeys that it was part of.
    """
    stream = reader.read_stream(codec.stream_of(client_id))
    dropped = max((index for index, event in enumerate(stream, 1) if event.type == codec.CLIENT_DROPPED), default=0)
    events = [event for event in stream[dropped:] if event.position <= position]
    gone = _forgotten_since(reader, _standing(events))
    if not gone:
        return Earlier(events, 0)
    journeys = {
        codec.journey_of(event)
        for event in events
        if event.type in codec.TRANSITIONS and codec.interactions_of(event) & gone
    } - {""}
    return Earlier([event for event in events if not _speaks_of(event, gone, journeys)], len(gone))


def definitions_until(reader: Reader, position: int) -> Definitions:
    """The definitions that held at the position."""
    streams = [codec.definition_stream(key.decode()) for key, _ in reader.scan(rows.DEFINITIONS)]
    held: dict[bytes, JourneyDefinition] = {}
    for stream_id, events in reader.read_streams(streams).items():
        for event in events:
            if event.position <= position:
                message = events_pb2.JourneyDefined.FromString(event.payload)
                held[stream_id] = codec.definition_from(message.definition)
    return Definitions(held.values())


def _standing(events: Iterable[Recorded]) -> Mapping[str, str]:
    """What the events leave standing: id -> the table that knows whose it is."""
    standing: dict[str, str] = {}
    for event in events:
        match event.type:
            case codec.INTERACTION_NOTED:
                standing.update(dict.fromkeys(codec.interactions_of(event), rows.OWNERS))
            case codec.INTERACTION_WITHDRAWN:
                for interaction_id in codec.interactions_of(event):
                    standing.pop(interaction_id, None)
            case codec.FEEDBACK_NOTED:
                standing[events_pb2.FeedbackNoted.FromString(event.payload).feedback_id] = rows.FEEDBACK
            case codec.FEEDBACK_WITHDRAWN:
                standing.pop(events_pb2.FeedbackWithdrawn.FromString(event.payload).feedback_id, None)
            case codec.CASE_NOTED:
                standing[events_pb2.CaseNoted.FromString(event.payload).case_id] = rows.CASES
            case _:
                pass
    return standing


def _forgotten_since(reader: Reader, standing: Mapping[str, str]) -> frozenset[str]:
    """Those of the ids that belong to somebody now who was forgotten."""
    # A later attribution than the forgetting makes an interaction somebody's again; feedback is nobody's for good.
    owners: dict[str, tuple[str, int]] = {}
    for table in (rows.OWNERS, rows.FEEDBACK, rows.CASES):
        keys = [bytes.fromhex(each) for each, where in standing.items() if where == table]
        for key, row in reader.get_many(table, keys).items():
            match table:
                case rows.OWNERS:
                    owner = rows.owner_of(row)
                    owners[key.hex()] = (owner.client_id, owner.position)
                case rows.FEEDBACK:
                    owners[key.hex()] = (rows.feedback_row(row).client_id, 0)
                case _:
                    owners[key.hex()] = (rows.case_row(row).client_id, 0)
    clients = {bytes.fromhex(client_id) for client_id, _ in owners.values()}
    dropped = {key.hex(): rows.number(row) for key, row in reader.get_many(rows.DROPPED, clients).items()}
    return frozenset(each for each, (owner, since) in owners.items() if owner in dropped and dropped[owner] >= since)


def _speaks_of(event: Recorded, gone: frozenset[str], journeys: set[str]) -> bool:
    if event.type in codec.TRANSITIONS and codec.journey_of(event) in journeys:
        return True
    if event.type == codec.FEEDBACK_NOTED and events_pb2.FeedbackNoted.FromString(event.payload).feedback_id in gone:
        return True
    if event.type == codec.CASE_NOTED and events_pb2.CaseNoted.FromString(event.payload).case_id in gone:
        return True
    return bool(codec.interactions_of(event) & gone)
