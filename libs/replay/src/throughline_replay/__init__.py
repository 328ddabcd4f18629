"""Reads event logs, folds them with the services' own domain functions, compares with the live state, tells histories.

Nothing here sends: a replay reads logs and folds them, and no bus, server or outgoing adapter is ever imported (law 5).
"""

from throughline_replay.comparing import Comparison, Difference, compare_with_live
from throughline_replay.histories import HistoryEntry, client_history, interaction_history
from throughline_replay.replaying import Replayed, UnknownServiceError, make_folds, replay_log
from throughline_replay.sources import EventSource, LiveState, ServiceLog, StoredLog

__all__ = [
    "Comparison",
    "Difference",
    "EventSource",
    "HistoryEntry",
    "LiveState",
    "Replayed",
    "ServiceLog",
    "StoredLog",
    "UnknownServiceError",
    "client_history",
    "compare_with_live",
    "interaction_history",
    "make_folds",
    "replay_log",
]
