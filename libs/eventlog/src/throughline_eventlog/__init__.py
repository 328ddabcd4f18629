"""One service's event log, and how it meets the bus."""

from throughline_eventlog.bus import BusAwayError, BusError, Connection
from throughline_eventlog.bus_settings import BusSettings
from throughline_eventlog.codec import Codec, KnownSchemaVersion, only_first_versions
from throughline_eventlog.consumer import Consumer, Handler
from throughline_eventlog.errors import (
    InboxConflictError,
    LogUnavailableError,
    NewerLogError,
    SettingsError,
    StreamConflictError,
    log_unavailable,
)
from throughline_eventlog.nats_server import NatsServer, NatsServerError
from throughline_eventlog.observing import BatchKind, Observer
from throughline_eventlog.records import InboxPosition, LoggedRow, NewEvent
from throughline_eventlog.relay import Relay
from throughline_eventlog.settings import StoreSettings
from throughline_eventlog.store import (
    POISON,
    Clock,
    Grew,
    Reader,
    Store,
    Transaction,
    open_store,
    wall_clock,
)
from throughline_eventlog.streams import stream_name, subject_name
from throughline_eventlog.writer import Work, Writer

__all__ = [
    "POISON",
    "BatchKind",
    "BusAwayError",
    "BusError",
    "BusSettings",
    "Clock",
    "Codec",
    "Connection",
    "Consumer",
    "Grew",
    "Handler",
    "InboxConflictError",
    "InboxPosition",
    "KnownSchemaVersion",
    "LogUnavailableError",
    "LoggedRow",
    "NatsServer",
    "NatsServerError",
    "NewEvent",
    "NewerLogError",
    "Observer",
    "Reader",
    "Relay",
    "SettingsError",
    "Store",
    "StoreSettings",
    "StreamConflictError",
    "Transaction",
    "Work",
    "Writer",
    "log_unavailable",
    "only_first_versions",
    "open_store",
    "stream_name",
    "subject_name",
    "wall_clock",
]
