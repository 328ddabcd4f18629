"""One service's event log, and how it meets the bus.

What meets the bus is imported when it is first asked for: a replay, which must not be able to send, never asks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from throughline_eventlog.archive import ArchiveReader, Bookkeeping, Restoration, StoreNotEmptyError
from throughline_eventlog.codec import Codec
from throughline_eventlog.deriving import Derivation, NotAskedError, Parting, Predecessor, Projection
from throughline_eventlog.describing import file_descriptor_set
from throughline_eventlog.errors import (
    InboxConflictError,
    LogGrewError,
    LogUnavailableError,
    NewerLogError,
    SealedLogError,
    SettingsError,
    StreamConflictError,
    log_unavailable,
)
from throughline_eventlog.garbage import collecting_seldom
from throughline_eventlog.observing import BatchKind, Observer
from throughline_eventlog.partitions import PARTITIONS, PARTITIONS_FILE, Partitioning
from throughline_eventlog.records import Commit, InboxPosition, LoggedRow, NewEvent
from throughline_eventlog.rights import (
    BusRights,
    all_rights,
    inbox_of,
    relayed_logs,
    rights_of,
    server_lines,
    user_of,
)
from throughline_eventlog.schemas import SCHEMAS, Schemas, Upcaster
from throughline_eventlog.settings import StoreSettings
from throughline_eventlog.steps import Step, note_step, read_steps
from throughline_eventlog.store import (
    POISON,
    Clock,
    Grew,
    Reader,
    Store,
    Transaction,
    discard_store,
    open_store,
    wall_clock,
)
from throughline_eventlog.streams import stream_name, subject_name
from throughline_eventlog.writer import Work, Writer

if TYPE_CHECKING:
    from throughline_eventlog.bus import BusAwayError, BusError, BusForbiddenError, Connection
    from throughline_eventlog.bus_settings import BusSettings
    from throughline_eventlog.consumer import Consumer, Handler
    from throughline_eventlog.nats_server import NatsServer, NatsServerError
    from throughline_eventlog.relay import Relay

_AT_THE_BUS = {
    "BusAwayError": "bus",
    "BusError": "bus",
    "BusForbiddenError": "bus",
    "BusSettings": "bus_settings",
    "Connection": "bus",
    "Consumer": "consumer",
    "Handler": "consumer",
    "NatsServer": "nats_server",
    "NatsServerError": "nats_server",
    "Relay": "relay",
}

__all__ = [
    "PARTITIONS",
    "PARTITIONS_FILE",
    "POISON",
    "SCHEMAS",
    "ArchiveReader",
    "BatchKind",
    "Bookkeeping",
    "BusAwayError",
    "BusError",
    "BusForbiddenError",
    "BusRights",
    "BusSettings",
    "Clock",
    "Codec",
    "Commit",
    "Connection",
    "Consumer",
    "Derivation",
    "Grew",
    "Handler",
    "InboxConflictError",
    "InboxPosition",
    "LogGrewError",
    "LogUnavailableError",
    "LoggedRow",
    "NatsServer",
    "NatsServerError",
    "NewEvent",
    "NewerLogError",
    "NotAskedError",
    "Observer",
    "Parting",
    "Partitioning",
    "Predecessor",
    "Projection",
    "Reader",
    "Relay",
    "Restoration",
    "Schemas",
    "SealedLogError",
    "SettingsError",
    "Step",
    "Store",
    "StoreNotEmptyError",
    "StoreSettings",
    "StreamConflictError",
    "Transaction",
    "Upcaster",
    "Work",
    "Writer",
    "all_rights",
    "collecting_seldom",
    "discard_store",
    "file_descriptor_set",
    "inbox_of",
    "log_unavailable",
    "note_step",
    "open_store",
    "read_steps",
    "relayed_logs",
    "rights_of",
    "server_lines",
    "stream_name",
    "subject_name",
    "user_of",
    "wall_clock",
]


def __getattr__(name: str) -> Any:
    if name not in _AT_THE_BUS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_AT_THE_BUS[name]}"), name)
