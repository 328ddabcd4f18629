"""A store taken whole: everything in it can be read in one view, and written into an empty store of either kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from throughline_eventlog.errors import SettingsError
from throughline_eventlog.records import Commit, InboxPosition, LoggedRow


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """What a store keeps beside events, commits and rows: small, and read at once.

    `types`: (event type, schema version) of everything in the log. `trackings`: the highest message sequence taken by
    `stream@created`. `tables`: the names of all tables that are there. `sealed`: the partitions that follow the log,
    empty where it is not sealed.
    """

    types: tuple[tuple[str, int], ...]
    trackings: tuple[tuple[str, int], ...]
    inboxes: tuple[InboxPosition, ...]
    tables: tuple[str, ...]
    sealed: str = ""


class ArchiveReader(Protocol):
    """One consistent view of everything a store holds."""

    def read_logged(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[LoggedRow]:
        """Events in log order with position > after."""
        ...

    def commits(self, after: int, limit: int) -> list[Commit]:
        """Commits in order with recorded_at > after."""
        ...

    def bookkeeping(self) -> Bookkeeping:
        """The rest."""
        ...

    def rows(self, table: str, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """A table's rows in key order with key > after (empty: from the first); any table that is there."""
        ...


class Restoration(Protocol):
    """Writes what an `ArchiveReader` gave into an empty store, in one transaction; events at their old positions."""

    def add_events(self, rows: Sequence[LoggedRow]) -> None:
        """Puts events where they were."""
        ...

    def add_commits(self, commits: Sequence[Commit]) -> None:
        """Puts commits where they were, so that the log can be asked as of any instant as before."""
        ...

    def add_bookkeeping(self, kept: Bookkeeping) -> None:
        """Puts the rest, and makes the tables."""
        ...

    def add_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Puts rows of a table that the bookkeeping named."""
        ...


class StoreNotEmptyError(SettingsError):
    """A restoration would mix two histories."""

    def __init__(self, service: str) -> None:
        super().__init__(
            f"the store of {service} is not empty, and two histories must not be mixed: give an installation that "
            "holds nothing, e.g. an empty data folder or a new schema"
        )
