"""What the application needs of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from throughline.ingestion.v1 import interaction_pb2
from throughline_eventlog import Reader, Transaction
from throughline_kernel import Consents, Recorded

# The time now: microseconds since epoch, UTC.
Clock = Callable[[], int]


class Resolution(Protocol):
    """Who an id or identifiers mean now; `client_id` is empty where nobody is known."""

    @property
    def client_id(self) -> str: ...
    @property
    def known_person(self) -> bool: ...
    @property
    def alias_ids(self) -> Sequence[str]: ...
    @property
    def forgotten(self) -> bool: ...


class Directory(Protocol):
    """Who an id or identifier means, folded from identity's events in this service's own tables."""

    def apply(self, tx: Transaction, events: Sequence[Recorded], /) -> object:
        """Takes identity's next events."""
        ...

    def consents(self, reader: Reader, events: Sequence[Recorded], /) -> Mapping[str, tuple[Consents, Recorded]]:
        """What holds now of the consents of each client that the events, once taken, may have changed; and by which."""
        ...

    def resolve(
        self,
        reader: Reader,
        client_id: str = "",
        identifiers: Sequence[interaction_pb2.Identifier] = (),
        as_of: int | None = None,
    ) -> Resolution:
        """Who the id or alias, or else the identifiers, mean now; or meant after the commit of an instant."""
        ...
