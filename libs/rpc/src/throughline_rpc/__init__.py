"""The gRPC host of every service: errors, health, reflection, shutdown, and the log service."""

from throughline_rpc.channels import channel_options, open_channel
from throughline_rpc.errors import RemoteRefusal, decode_error, status_of
from throughline_rpc.event_log import EventLogServicer, Progress, State, hosted_event_log
from throughline_rpc.host import Background, HealthCheck, Hosted, ServiceHost, serve
from throughline_rpc.interceptor import RefusalInterceptor
from throughline_rpc.settings import MAX_MESSAGE_BYTES, HostSettings, HostSettingsError, PortInUseError

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Background",
    "EventLogServicer",
    "HealthCheck",
    "HostSettings",
    "HostSettingsError",
    "Hosted",
    "PortInUseError",
    "Progress",
    "RefusalInterceptor",
    "RemoteRefusal",
    "ServiceHost",
    "State",
    "channel_options",
    "decode_error",
    "hosted_event_log",
    "open_channel",
    "serve",
    "status_of",
]
