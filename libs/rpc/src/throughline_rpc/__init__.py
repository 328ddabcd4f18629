"""The gRPC host of every service: errors, health, reflection, shutdown, and the log service.

What only a server needs is imported when it is first asked for: a caller starts without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from throughline_rpc.callers import (
    EVERYBODY,
    LOG_KEY,
    PURPOSE_KEY,
    ROLES,
    Authenticator,
    Caller,
    Identity,
    Trusting,
    check_own_sources,
    purpose_of,
)
from throughline_rpc.channels import IN_THE_CLEAR, channel_options, open_blocking_channel, open_channel
from throughline_rpc.errors import RemoteRefusal, decode_error, refusal_of, status_of
from throughline_rpc.settings import (
    MAX_MESSAGE_BYTES,
    AuthenticationSettings,
    CallerCredentials,
    HostSettings,
    HostSettingsError,
    PortInUseError,
    TlsError,
    TlsFiles,
    TokenError,
    TokenSettings,
)

if TYPE_CHECKING:
    from throughline_rpc.access_log import AccessLog, access_log_of
    from throughline_rpc.event_log import EventLogServicer, Progress, State, hosted_event_log
    from throughline_rpc.host import ServiceHost, serve
    from throughline_rpc.hosted import Background, HealthCheck, Hosted
    from throughline_rpc.interceptor import RefusalInterceptor
    from throughline_rpc.permissions import AccessUnstatedError
    from throughline_rpc.proofs import Proofs, ProofSettings
    from throughline_rpc.sweeper import Sweeper
    from throughline_rpc.watching import Watched

_SERVER_SIDE = {
    "AccessLog": "access_log",
    "AccessUnstatedError": "permissions",
    "Background": "hosted",
    "EventLogServicer": "event_log",
    "HealthCheck": "hosted",
    "Hosted": "hosted",
    "Progress": "event_log",
    "ProofSettings": "proofs",
    "Proofs": "proofs",
    "RefusalInterceptor": "interceptor",
    "ServiceHost": "host",
    "State": "event_log",
    "Sweeper": "sweeper",
    "access_log_of": "access_log",
    "Watched": "watching",
    "hosted_event_log": "event_log",
    "serve": "host",
}

__all__ = [
    "EVERYBODY",
    "IN_THE_CLEAR",
    "LOG_KEY",
    "MAX_MESSAGE_BYTES",
    "PURPOSE_KEY",
    "ROLES",
    "AccessLog",
    "AccessUnstatedError",
    "AuthenticationSettings",
    "Authenticator",
    "Background",
    "Caller",
    "CallerCredentials",
    "EventLogServicer",
    "HealthCheck",
    "HostSettings",
    "HostSettingsError",
    "Hosted",
    "Identity",
    "PortInUseError",
    "Progress",
    "ProofSettings",
    "Proofs",
    "RefusalInterceptor",
    "RemoteRefusal",
    "ServiceHost",
    "State",
    "Sweeper",
    "TlsError",
    "TlsFiles",
    "TokenError",
    "TokenSettings",
    "Trusting",
    "Watched",
    "access_log_of",
    "channel_options",
    "check_own_sources",
    "decode_error",
    "hosted_event_log",
    "open_blocking_channel",
    "open_channel",
    "purpose_of",
    "refusal_of",
    "serve",
    "status_of",
]


def __getattr__(name: str) -> Any:
    if name not in _SERVER_SIDE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SERVER_SIDE[name]}"), name)
