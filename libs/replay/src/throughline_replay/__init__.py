"""Reads event logs, folds them with the services' own domain functions, decides again, compares, tells histories.

Nothing here sends: a replay reads logs, and no bus, server or outgoing adapter is ever imported (law 5). What asks a
running service is imported when it is first asked for: what decides again never asks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from throughline_replay.comparing import Comparison, Difference, compare_with_live
from throughline_replay.deriving import derive
from throughline_replay.divergences import Derived, Divergence
from throughline_replay.replaying import Replayed, UnknownServiceError, make_folds, replay_log
from throughline_replay.units import Unit, make_derivation

if TYPE_CHECKING:
    from throughline_replay.histories import HistoryEntry, client_history, interaction_history
    from throughline_replay.sources import EventSource, LiveState, ServiceLog, StoredLog

_ASKING = {
    "EventSource": "sources",
    "HistoryEntry": "histories",
    "LiveState": "sources",
    "ServiceLog": "sources",
    "StoredLog": "sources",
    "client_history": "histories",
    "interaction_history": "histories",
}

__all__ = [
    "Comparison",
    "Derived",
    "Difference",
    "Divergence",
    "EventSource",
    "HistoryEntry",
    "LiveState",
    "Replayed",
    "ServiceLog",
    "StoredLog",
    "Unit",
    "UnknownServiceError",
    "client_history",
    "compare_with_live",
    "derive",
    "interaction_history",
    "make_derivation",
    "make_folds",
    "replay_log",
]


def __getattr__(name: str) -> Any:
    if name not in _ASKING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ASKING[name]}"), name)
