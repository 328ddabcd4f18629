"""One client's or one interaction's history over all five logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from throughline.identity.v1 import events_pb2 as identity_events
from throughline_eventlog.partitions import service_of
from throughline_kernel import Fold, Recorded
from throughline_replay.replaying import SERVICES
from throughline_replay.sources import EventSource

ATTRIBUTIONS = {
    message.DESCRIPTOR.full_name: message
    for message in (identity_events.InteractionAttributed, identity_events.InteractionReattributed)
}
IDS_PER_CALL = 1000


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event of a history. Times are microseconds since epoch; `event_id` is hex."""

    occurred_at: int
    recorded_at: int
    service: str
    position: int
    type: str
    event_id: str
    summary: str

    def as_json(self) -> dict[str, object]:
        """The entry as a JSON object."""
        return asdict(self)


def client_history(
    client_id: str, sources: Mapping[str, EventSource], folds: Mapping[str, Fold], as_of: int = 0
) -> list[HistoryEntry]:
    """Everything the logs (by name) hold about one client, in the order in which it happened.

    Identity says which interactions are the client's; ingestion is then asked for exactly those.
    """
    about_client = {
        log: list(source.read(client_id=client_id, as_of=as_of))
        for log, source in sources.items()
        if service_of(log) != "ingestion"
    }
    interaction_ids = sorted(
        {
            ATTRIBUTIONS[event.type].FromString(event.payload).interaction.interaction_id
            for event in about_client["identity"]
            if event.type in ATTRIBUTIONS
        }
    )
    about_client |= {
        log: [
            event
            for start in range(0, len(interaction_ids), IDS_PER_CALL)
            for event in source.read(interaction_ids=interaction_ids[start : start + IDS_PER_CALL], as_of=as_of)
        ]
        for log, source in sources.items()
        if service_of(log) == "ingestion"
    }
    return _merge(about_client, folds)


def interaction_history(
    interaction_id: str, sources: Mapping[str, EventSource], folds: Mapping[str, Fold], as_of: int = 0
) -> list[HistoryEntry]:
    """Everything the logs (by name) hold about one interaction, in the order in which it happened."""
    return _merge(
        {log: list(source.read(interaction_ids=[interaction_id], as_of=as_of)) for log, source in sources.items()},
        folds,
    )


def _merge(events: Mapping[str, Iterable[Recorded]], folds: Mapping[str, Fold]) -> list[HistoryEntry]:
    order = {service: place for place, service in enumerate(SERVICES)}
    entries = [
        HistoryEntry(
            event.occurred_at,
            event.recorded_at,
            log,
            event.position,
            event.type.rpartition(".")[2],
            event.event_id.hex(),
            folds[service_of(log)].describe(event),
        )
        for log, logged in events.items()
        for event in logged
    ]
    entries.sort(key=lambda entry: (entry.occurred_at, order[service_of(entry.service)], entry.position))
    return entries
