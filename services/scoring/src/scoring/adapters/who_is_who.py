"""The directory of clients, folded from identity's log into this service's own tables."""

from __future__ import annotations

from collections.abc import Sequence

from throughline_directory.folding import fold
from throughline_eventlog import Transaction
from throughline_kernel import Recorded


class DirectoryTables:
    """Learns aliases and forgettings. Identifiers are never looked up here, so no hash key is needed."""

    def apply(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes the next events of identity's log."""
        fold(tx, events)
