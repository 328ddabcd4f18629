"""What the handlers need from outside, by role."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeAlias

from ingestion.domain.accounting import Account, Tally, Verdict
from ingestion.domain.deciding import Offer, Said
from ingestion.domain.registry import ChannelTraits, Registry, Source, Standing
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2, partition_pb2
from throughline_eventlog import Reader, Transaction
from throughline_kernel import Violation


class UnreadableInteraction(NamedTuple):
    """An event that cannot be decoded: what of its name could be read, and why the rest could not."""

    source: str
    source_interaction_id: str
    violations: tuple[Violation, ...]


Received: TypeAlias = interaction_pb2.Interaction | UnreadableInteraction
"""An event as it came in."""


class SealedBox(NamedTuple):
    """A sealed value and the id of its key."""

    key_id: bytes
    box: bytes


class ToSeal(NamedTuple):
    """What to seal of an interaction: its personal values, or the whole of it."""

    said: Said
    whole: bool


class Presence(NamedTuple):
    """Under which persona (16 bytes) an interaction is logged; `sealed` is None where nothing of it is personal."""

    persona_id: bytes
    sealed: SealedBox | None


class Result(NamedTuple):
    """What became of one offered event. `position` is 0 where nothing was stored."""

    verdict: Verdict
    interaction_id: str
    position: int
    violations: tuple[Violation, ...] = ()


class Quarantined(NamedTuple):
    """What waits in quarantine, and how many offers of it wait with it. Times in microseconds."""

    interaction_id: str
    source: str
    source_interaction_id: str
    channel: str
    reason: str
    remedy: str
    occurred_at: int
    content_mac: bytes
    sealed: SealedBox
    recorded_at: int
    position: int
    offers: int


class IndexEntry(NamedTuple):
    """Where an interaction stands in the log, and the MAC of its content."""

    position: int
    content_mac: bytes


class Request(IntEnum):
    """The kinds of request that offer interactions."""

    SINGLE = 1
    BATCH = 2
    STREAMED = 3
    PART = 4
    """What another partition passes on of one of these."""


class RequestRead(NamedTuple):
    """A request as it was read: one offer per event, in order; `batch_id` is empty outside of streams.

    `violations` say why the request is no message of the contract at all; then there are no offers. `size` is how many
    events the whole request has, of which these are all or a part.
    """

    batch_id: str
    offers: list[Offer]
    violations: tuple[Violation, ...] = ()
    size: int = 0


class Part(NamedTuple):
    """What of a request one partition takes: which of its events, in order, and the request of kind PART with them."""

    at: list[int]
    raw: bytes


class RequestParted(NamedTuple):
    """A request by the partitions that take it: `parts` by index, none where it has no event or cannot be read.

    `sources` are all that it names.
    """

    batch_id: str
    size: int
    sources: frozenset[str]
    parts: Mapping[int, Part]
    violations: tuple[Violation, ...] = ()


class RequestParter(Protocol):
    """Takes requests apart, as little as it can."""

    def __call__(self, kind: Request, raw: bytes) -> RequestParted:
        """Says which partition takes what of a serialised request. Refuses nothing."""
        ...


class Turns:
    """In which order the batches of one stream reach each partition: that in which they came."""

    def __init__(self) -> None:
        self._at: dict[int, asyncio.Lock] = {}

    def at(self, partition: int) -> asyncio.Lock:
        """Held while a batch is on its way to a partition, and taken in the order in which it is asked for."""
        return self._at.setdefault(partition, asyncio.Lock())


class Peer(Protocol):
    """A partition of ingestion as the others call it: in the words of the contract, personal values sealed.

    What it refuses is raised as it refuses it. Raises: UnavailableError PARTITION_UNAVAILABLE where it does not answer,
    PARTITION_MISMATCH where it is not the one that is meant.
    """

    async def record_part(self, part: bytes) -> Sequence[ingestion_pb2.InteractionResult]:
        """Records a serialised RecordPartRequest. Raises: ExhaustedError QUOTA_EXCEEDED."""
        ...

    async def look_up(self, interaction_id: str) -> partition_pb2.ReadPartInteractionResponse:
        """One interaction, as far as it is kept there."""
        ...

    async def register(self, request: partition_pb2.RegisterInPartRequest) -> partition_pb2.RegisterInPartResponse:
        """Registers a channel or a source. Raises: InvalidError, PreconditionError."""
        ...

    async def waiting(self, page_size: int, after: int) -> ingestion_pb2.ListQuarantineResponse:
        """A page of what waits there, behind a position."""
        ...

    async def redrive(self, request: ingestion_pb2.RedriveQuarantineRequest) -> ingestion_pb2.RedriveQuarantineResponse:
        """Offers what waits there again; nothing under the id that is named is no error."""
        ...

    async def tallies(self) -> ingestion_pb2.GetTalliesResponse:
        """The account of its sources."""
        ...


class RequestReader(Protocol):
    """Reads what is offered: validates it, and names it, its content and who is meant."""

    async def read(self, kind: Request, raw: bytes, *, in_turn: bool) -> RequestRead:
        """Reads a serialised request as of now; with `in_turn` none overtakes another. Refuses nothing."""
        ...


class OfferReader(Protocol):
    """Reads again what was kept whole."""

    def offer_again(self, whole: bytes, now: int) -> Offer:
        """Reads an interaction that was sealed whole, and validates it as of `now`."""
        ...


class Codec(Protocol):
    """Writes what is logged, and reads what waits."""

    def traits(self, traits: ChannelTraits) -> bytes:
        """The channel's part of an InteractionFacts, serialised."""
        ...

    def recorded(self, offer: Offer, said: Said, traits: bytes, presence: Presence) -> bytes:
        """An InteractionRecorded; `traits` is what this codec wrote."""
        ...

    def conflicted(
        self, offer: Offer, said: Said, traits: bytes, presence: Presence, *, recorded_content_mac: bytes
    ) -> bytes:
        """An InteractionConflicted; `traits` is what this codec wrote, empty where the channel is not registered."""
        ...

    def quarantined(self, offer: Offer, said: Said, standing: Standing, sealed: SealedBox) -> bytes:
        """An InteractionQuarantined."""
        ...

    def read_quarantined(self, payload: bytes, recorded_at: int, position: int) -> Quarantined:
        """What an InteractionQuarantined says, once it stands in the log."""
        ...

    def redriven(self, waiting: Quarantined, verdict: Verdict) -> bytes:
        """A QuarantineRedriven."""
        ...

    def tallied(self, tallies: Mapping[str, Tally], again: Mapping[bytes, int]) -> bytes:
        """An OffersTallied; `again` counts by interaction id and content MAC, 32 bytes."""
        ...

    def channel_registered(self, channel: str, traits: ChannelTraits) -> bytes:
        """A ChannelRegistered."""
        ...

    def source_registered(self, source: Source) -> bytes:
        """A SourceRegistered."""
        ...


class Seal(Protocol):
    """Seals personal values."""

    def seal(self, items: Sequence[ToSeal]) -> list[Presence]:
        """The persona of each and its sealed values, in order. All keys are durable on return.

        A persona that was forgotten begins anew, under its next generation.
        """
        ...

    def open(self, boxes: Sequence[SealedBox]) -> list[bytes | None]:
        """The plaintext of each, None where the person was forgotten."""
        ...

    def forget(self, persona_ids: Sequence[bytes]) -> int:
        """Destroys the keys of these personas for good; answers how many there were."""
        ...


class InteractionIndex(Protocol):
    """Finds every interaction ever recorded by its id, for ever (law 2)."""

    def find(self, tx: Transaction, keys: Collection[bytes]) -> dict[bytes, IndexEntry]:
        """Those of the interactions that are recorded."""
        ...

    def add(self, tx: Transaction, entries: Mapping[bytes, IndexEntry]) -> None:
        """Adds what was recorded in this transaction."""
        ...

    def locate(self, reader: Reader, key: bytes) -> IndexEntry | None:
        """One interaction, from any thread."""
        ...

    def rolled_back(self) -> None:
        """What was added last is not in the log."""
        ...


class Tables(Protocol):
    """The other rows that ingestion keeps beside its log."""

    def registry(self, reader: Reader) -> Registry:
        """Every channel and source."""
        ...

    def put_channel(self, tx: Transaction, channel: str, traits: ChannelTraits) -> None:
        """Stores a channel."""
        ...

    def put_source(self, tx: Transaction, source: Source) -> None:
        """Stores a source."""
        ...

    def accounts(self, reader: Reader, sources: Collection[str]) -> dict[str, Account]:
        """The account of each source named, empty where it has none."""
        ...

    def all_accounts(self, reader: Reader) -> dict[str, Account]:
        """Every account, by source."""
        ...

    def put_accounts(self, tx: Transaction, accounts: Mapping[str, Account]) -> None:
        """Stores accounts."""
        ...

    def known_conflicts(self, reader: Reader, members: Collection[bytes]) -> set[bytes]:
        """Those of (id and MAC, 32 bytes) that are kept already."""
        ...

    def put_conflicts(self, tx: Transaction, positions: Mapping[bytes, int]) -> None:
        """Stores where conflicting contents stand in the log, by id and MAC."""
        ...

    def conflicts_of(self, reader: Reader, key: bytes) -> list[int]:
        """Positions of the contents kept beside an interaction, in log order."""
        ...

    def put_asides(self, tx: Transaction, asides: Iterable[tuple[str, int]]) -> None:
        """Stores (interaction id, position) of what was logged about interactions beside their recording."""
        ...

    def asides_of(self, reader: Reader, key: bytes) -> list[int]:
        """Positions of what was logged about an interaction beside its recording, in log order."""
        ...

    def known_quarantined(self, reader: Reader, members: Collection[bytes]) -> dict[bytes, int]:
        """Position of those of (id and MAC, 32 bytes) that wait."""
        ...

    def quarantine(self, reader: Reader, *, after: int = 0, limit: int | None = None) -> list[Quarantined]:
        """What waits, oldest first, behind a position."""
        ...

    def quarantined_of(self, reader: Reader, key: bytes) -> list[Quarantined]:
        """What waits under one interaction id, oldest first."""
        ...

    def quarantined_at(self, reader: Reader, positions: Collection[int]) -> dict[int, Quarantined]:
        """What waits at these positions."""
        ...

    def put_quarantined(self, tx: Transaction, waiting: Sequence[Quarantined]) -> None:
        """Stores what waits."""
        ...

    def release(self, tx: Transaction, waiting: Sequence[Quarantined]) -> None:
        """Removes what waits no more."""
        ...
