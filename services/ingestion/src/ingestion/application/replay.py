"""Ingestion's state from its log alone. Touches nothing: no store, no keys, no bus (law 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ingestion.application import recording
from ingestion.domain.accounting import Tally, Verdict
from ingestion.domain.registry import ChannelRegistered, ChannelTraits, Source, SourceRegistered
from ingestion.domain.state import State, Waiting, quarantine_key
from throughline.ingestion.v1 import events_pb2
from throughline_kernel import Recorded

SERVICE: Final = "ingestion"


def make_fold() -> IngestionFold:
    """A fold over an empty log."""
    return IngestionFold()


class IngestionFold:
    """Folds ingestion's log with the functions that the live service decides with."""

    def __init__(self) -> None:
        self.state = State()
        self._apply: dict[str, Callable[[Recorded], None]] = {
            recording.RECORDED: self._recorded,
            recording.CONFLICTED: self._conflicted,
            recording.QUARANTINED: self._quarantined,
            recording.REDRIVEN: self._redriven,
            recording.TALLIED: self._tallied,
            recording.CHANNEL_REGISTERED: self._channel_registered,
            recording.SOURCE_REGISTERED: self._source_registered,
        }
        self._describe: dict[str, Callable[[bytes], str]] = {
            recording.RECORDED: _describe_recorded,
            recording.CONFLICTED: _describe_conflicted,
            recording.QUARANTINED: _describe_quarantined,
            recording.REDRIVEN: _describe_redriven,
            recording.TALLIED: _describe_tallied,
            recording.CHANNEL_REGISTERED: _describe_channel,
            recording.SOURCE_REGISTERED: _describe_source,
            recording.PARTITION_OPENED: _describe_opened,
        }

    @property
    def service(self) -> str:
        """`ingestion`."""
        return SERVICE

    def apply(self, event: Recorded) -> None:
        """Takes the next event; one that this version does not know changes nothing."""
        apply = self._apply.get(event.type)
        if apply is not None:
            apply(event)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """The registry, the accounts and the quarantine."""
        return self.state.aggregates()

    def describe(self, event: Recorded) -> str:
        """One sentence about the event, without personal values."""
        describe = self._describe.get(event.type)
        return f"{event.type.rpartition('.')[2]}." if describe is None else describe(event.payload)

    def _recorded(self, event: Recorded) -> None:
        message = events_pb2.InteractionRecorded.FromString(event.payload)
        accounts, source = self.state.accounts, message.facts.source
        accounts[source] = self.state.account(source).recording((event.event_id + message.content_mac,))

    def _conflicted(self, event: Recorded) -> None:
        message = events_pb2.InteractionConflicted.FromString(event.payload)
        accounts, source = self.state.accounts, message.facts.source
        member = bytes.fromhex(message.facts.interaction_id) + message.content_mac
        accounts[source] = self.state.account(source).keeping_conflicts((member,))

    def _quarantined(self, event: Recorded) -> None:
        message = events_pb2.InteractionQuarantined.FromString(event.payload)
        self.state.quarantine[quarantine_key(message.interaction_id, message.content_mac)] = Waiting(
            message.source,
            message.source_interaction_id,
            message.channel,
            message.reason,
            message.occurred_at,
            1,
        )

    def _redriven(self, event: Recorded) -> None:
        message = events_pb2.QuarantineRedriven.FromString(event.payload)
        self.state.quarantine.pop(quarantine_key(message.interaction_id, message.content_mac), None)
        account = self.state.account(message.source).redriven(message.verdict, message.offers)
        self.state.accounts[message.source] = account

    def _tallied(self, event: Recorded) -> None:
        message = events_pb2.OffersTallied.FromString(event.payload)
        for line in message.tallies:
            tally = Tally(line.recorded, line.duplicate, line.conflict, line.quarantined, line.refused)
            self.state.accounts[line.source] = self.state.account(line.source).tallied(tally)
        for again in message.quarantined_again:
            key = quarantine_key(again.interaction_id, again.content_mac)
            waiting = self.state.quarantine.get(key)
            if waiting is not None:
                self.state.quarantine[key] = waiting._replace(offers=waiting.offers + again.offers)

    def _channel_registered(self, event: Recorded) -> None:
        message = events_pb2.ChannelRegistered.FromString(event.payload)
        traits = message.traits
        self.state.registry.apply(
            ChannelRegistered(
                message.channel, ChannelTraits(traits.name, traits.physical, traits.assisted, traits.group)
            )
        )

    def _source_registered(self, event: Recorded) -> None:
        message = events_pb2.SourceRegistered.FromString(event.payload)
        self.state.registry.apply(SourceRegistered(Source(message.source, message.name, tuple(message.channels))))


def _describe_recorded(payload: bytes) -> str:
    facts = events_pb2.InteractionRecorded.FromString(payload).facts
    place = f"{facts.channel}, {facts.touchpoint}" if facts.touchpoint else facts.channel
    return f"{facts.source} reported {facts.kind} ({place}) as {facts.source_interaction_id}."


def _describe_conflicted(payload: bytes) -> str:
    facts = events_pb2.InteractionConflicted.FromString(payload).facts
    return f"{facts.source} reported {facts.source_interaction_id} again with other content; the first stands."


def _describe_quarantined(payload: bytes) -> str:
    message = events_pb2.InteractionQuarantined.FromString(payload)
    return f"{message.source} reported {message.source_interaction_id}; it waits in quarantine: {message.remedy}."


def _describe_redriven(payload: bytes) -> str:
    message = events_pb2.QuarantineRedriven.FromString(payload)
    return f"Interaction {message.interaction_id} left quarantine as {Verdict(message.verdict).name}."


def _describe_tallied(payload: bytes) -> str:
    lines = events_pb2.OffersTallied.FromString(payload).tallies
    told = "; ".join(
        f"{line.source or 'nameless'} offered {line.offered}: {line.recorded} recorded, {line.duplicate} duplicate, "
        f"{line.conflict} conflict, {line.quarantined} quarantined, {line.refused} refused"
        for line in lines
    )
    return f"{told}."


def _describe_channel(payload: bytes) -> str:
    message = events_pb2.ChannelRegistered.FromString(payload)
    nature = "physical" if message.traits.physical else "digital"
    manner = "assisted" if message.traits.assisted else "automated"
    return f"Channel {message.channel} is registered: {nature}, {manner}."


def _describe_source(payload: bytes) -> str:
    message = events_pb2.SourceRegistered.FromString(payload)
    return f"Source {message.source} may report {', '.join(message.channels) or 'any channel'}."


def _describe_opened(payload: bytes) -> str:
    message = events_pb2.PartitionOpened.FromString(payload)
    before = " and ".join(f"{each.origin} ({each.size} events)" for each in message.predecessors)
    return f"Partition {message.number} is opened, one of {message.count}; what is before was taken over from {before}."
