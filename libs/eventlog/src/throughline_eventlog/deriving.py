"""What a service offers to whoever decides again: its own handlers, without anything that sends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from throughline_eventlog.records import NewEvent
from throughline_eventlog.store import Reader, Transaction
from throughline_kernel import Recorded, Refusal


class NotAskedError(Exception):
    """An event of a service's own log follows neither from a step that was kept nor from anything that was asked."""

    def __init__(self, event: Recorded) -> None:
        super().__init__(
            f"{event.type.rpartition('.')[2]} at position {event.position} was decided on upstream events by a version "
            "of Throughline that did not keep which of them were taken together: it cannot be decided again"
        )
        self.event = event


class Derivation(Protocol):
    """Decides again what a service decided, with the code at hand; found through `throughline.derivations`.

    Each call runs the works that the running service runs, in a transaction of a store of its own. `logged` are the
    events that the log has in this place: to be looked at only for what people asked, and for what can be read no more.
    """

    @property
    def service(self) -> str:
        """Name of the service."""
        ...

    @property
    def tables(self) -> Sequence[str]:
        """The tables that the service keeps beside its log."""
        ...

    def take(self, tx: Transaction, upstream: str, events: Sequence[Recorded], logged: Sequence[Recorded]) -> None:
        """Takes events of another service's log, as one batch."""
        ...

    def work(self, tx: Transaction, name: str, number: int) -> None:
        """Does what the service did by itself: `name` and `number` of the step."""
        ...

    def ask(self, tx: Transaction, logged: Sequence[Recorded]) -> Sequence[Refusal]:
        """Does what people asked for, as the events of one commit say; gives what is refused now.

        Raises NotAskedError for an event that nobody asks for.
        """
        ...

    def settle(self, tx: Transaction, own: Reader) -> bool:
        """Does some of what the service would have done by itself by now, had it decided otherwise all along; whether
        more may be left.

        No step tells of it where there was nothing to do. `own` is the state that stands: what its service had not come
        to yet is left.
        """
        ...

    def parts(self, key: str, state: Any) -> Iterator[tuple[str, str, Any]]:
        """What is to be counted within an aggregate, given by its key and JSON value: (kind, id, JSON value) each."""
        ...

    def aggregates(self, reader: Reader, *, again: bool = False) -> Iterator[tuple[str, bytes]]:
        """The state in the tables, as in the running service's digest: (key, canonical JSON) in key order.

        `again` where upstream logs were decided again too: without ids that events of theirs then have for other
        reasons than what they say.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds open."""
        ...


class Projection(Protocol):
    """Makes the tables that follow from a service's own log, where it decides on what is in no log; found through
    `throughline.projections`.
    """

    @property
    def service(self) -> str:
        """Name of the service."""
        ...

    @property
    def tables(self) -> Sequence[str]:
        """The tables that the service keeps beside its log."""
        ...

    def project(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes the next events of the log."""
        ...

    def aggregates(self, reader: Reader) -> Iterator[tuple[str, bytes]]:
        """The state in the tables, as in the running service's digest: (key, canonical JSON) in key order."""
        ...

    def rows(self, reader: Reader, table: str) -> Iterator[tuple[bytes, bytes]]:
        """The rows of a table in key order; of one that can be laid out in several ways, what it says."""
        ...

    def level(self, tx: Transaction) -> None:
        """Lays the tables out in the way in which `rows` gives them."""
        ...


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A log that others follow, as its last checkpoint says: number of its partition, origin, how many events, position
    of the last one, and root (32 bytes).
    """

    number: int
    origin: str
    size: int
    position: int
    root: bytes


class Parting(Protocol):
    """Says which of several partitions each event of a service's log belongs to; found through `throughline.partings`.

    Is shown a whole log in order: what an event says may need what was said before. One for each log.
    """

    @property
    def service(self) -> str:
        """Name of the service."""
        ...

    @property
    def opening(self) -> bytes:
        """The stream (16 bytes) of the event that ends what was taken over."""
        ...

    @property
    def shared(self) -> Collection[bytes]:
        """The streams (16 bytes) that have events in several partitions' logs."""
        ...

    def part(self, event: Recorded, owner: Callable[[str], int]) -> Mapping[int, bytes] | None:
        """The payload of the event by partition, None where the event belongs in each as it is.

        `owner` gives the partition that has a key. Raises LookupError for an event of which it cannot be said.
        """
        ...

    def everywhere(self, key: str) -> bool:
        """Whether each partition has the aggregate of this key."""
        ...

    def opened(self, number: int, count: int, predecessors: Sequence[Predecessor], at: int) -> NewEvent:
        """The event that ends what was taken over; `at` in microseconds."""
        ...
