"""Which partition has which event: all of one source in one, the registry in each. Touches nothing (law 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ingestion.application import recording
from throughline.ingestion.v1 import events_pb2
from throughline_eventlog import PARTITIONS, NewEvent, Partitioning, Predecessor, SettingsError, Store
from throughline_eventlog.partitions import generation_of
from throughline_kernel import Recorded

_EVERYWHERE: Final = ("channel/", "source/")
_REGISTRY: Final = frozenset({recording.CHANNEL_REGISTERED, recording.SOURCE_REGISTERED})


def check_opened(store: Store, partitioning: Partitioning, number: int) -> None:
    """Refuses to write a log of a later generation that no change of the number of partitions has made: whoever told it
    so would have forgotten all that the earlier ones know. Raises: SettingsError.
    """
    if generation_of(number) == 0:
        return
    count = partitioning.count(IngestionParting.service)
    with store.snapshot() as reader:
        opening = reader.read_stream(recording.PARTITION_STREAM)
    opened = events_pb2.PartitionOpened.FromString(opening[-1].payload) if opening else events_pb2.PartitionOpened()
    if (opened.number, opened.count) != (number, count):
        raise SettingsError(
            f"{PARTITIONS} is {partitioning.write()}, and the log of partition {number} was not opened as one of "
            f"{count}: set it to what `throughline partitions show` says, or make the change with `throughline "
            f"partitions set {IngestionParting.service} {count}`, which loses nothing"
        )


def make_parting() -> IngestionParting:
    """One that has seen nothing of its log."""
    return IngestionParting()


class IngestionParting:
    """See `Parting`. A source has all its interactions, its account, its quarantine and its conflicts in one place."""

    service = "ingestion"
    opening = recording.PARTITION_STREAM
    shared = frozenset({recording.REGISTRY_STREAM, recording.ACCOUNT_STREAM})

    def __init__(self) -> None:
        # Of what waits, by interaction id and content MAC: an account tells of it without naming the source.
        self._waiting: dict[tuple[str, bytes], str] = {}

    def part(self, event: Recorded, owner: Callable[[str], int]) -> Mapping[int, bytes] | None:
        """One partition's, for most; an account is parted; the registry is everybody's."""
        if event.type == recording.TALLIED:
            return self._tallied(event.payload, owner)
        if event.type in _REGISTRY:
            return None
        if event.type == recording.PARTITION_OPENED:
            # Tells of the log that it stands in alone.
            return {}
        return {owner(self._source(event)): event.payload}

    def everywhere(self, key: str) -> bool:
        """The registry's are."""
        return key.startswith(_EVERYWHERE)

    def opened(self, number: int, count: int, predecessors: Sequence[Predecessor], at: int) -> NewEvent:
        """A PartitionOpened, the only event of its stream."""
        message = events_pb2.PartitionOpened(
            number=number,
            count=count,
            predecessors=[
                events_pb2.Predecessor(
                    number=each.number, origin=each.origin, size=each.size, position=each.position, root=each.root
                )
                for each in predecessors
            ],
        )
        payload = message.SerializeToString(deterministic=True)
        return NewEvent(recording.PARTITION_STREAM, 1, recording.PARTITION_OPENED, payload, at)

    def _source(self, event: Recorded) -> str:
        if event.type == recording.RECORDED:
            return events_pb2.InteractionRecorded.FromString(event.payload).facts.source
        if event.type == recording.CONFLICTED:
            return events_pb2.InteractionConflicted.FromString(event.payload).facts.source
        if event.type == recording.QUARANTINED:
            waits = events_pb2.InteractionQuarantined.FromString(event.payload)
            self._waiting[waits.interaction_id, waits.content_mac] = waits.source
            return waits.source
        if event.type == recording.REDRIVEN:
            left = events_pb2.QuarantineRedriven.FromString(event.payload)
            self._waiting.pop((left.interaction_id, left.content_mac), None)
            return left.source
        raise LookupError(f"{event.type} at position {event.position} is of no source that this version knows")

    def _tallied(self, payload: bytes, owner: Callable[[str], int]) -> Mapping[int, bytes]:
        message = events_pb2.OffersTallied.FromString(payload)
        parts: dict[int, events_pb2.OffersTallied] = {}
        for tally in message.tallies:
            parts.setdefault(owner(tally.source), events_pb2.OffersTallied()).tallies.append(tally)
        for again in message.quarantined_again:
            source = self._waiting[again.interaction_id, again.content_mac]
            parts.setdefault(owner(source), events_pb2.OffersTallied()).quarantined_again.append(again)
        if len(parts) == 1:
            # As it was written, to the last bit.
            return dict.fromkeys(parts, payload)
        return {number: part.SerializeToString() for number, part in parts.items()}
