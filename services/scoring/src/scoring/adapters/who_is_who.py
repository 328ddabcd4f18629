"""The directory of clients, folded from identity's log into this service's own tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from throughline_directory import consents_after, fold
from throughline_eventlog import Transaction
from throughline_kernel import Consents, Recorded


class DirectoryTables:
    """Learns aliases, consents and forgettings. Identifiers are never looked up here, so no hash key is needed."""

    def apply(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes the next events of identity's log."""
        fold(tx, events)

    def consents(self, tx: Transaction, events: Sequence[Recorded]) -> Mapping[str, tuple[Consents, Recorded]]:
        """What holds now of the consents of each client that the events, once taken, may have changed; and by which."""
        return consents_after(tx, events)
