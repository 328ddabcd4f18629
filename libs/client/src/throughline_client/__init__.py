"""The Python SDK of Throughline: one client for the five services, the importer, the embedded suite."""

from throughline_client.client import Throughline
from throughline_client.endpoints import SERVICES, EndpointError, Endpoints
from throughline_client.sdk.recording import Answered, Verdicts
from throughline_rpc import Caller, CallerCredentials, RemoteRefusal

__all__ = [
    "SERVICES",
    "Answered",
    "Caller",
    "CallerCredentials",
    "EndpointError",
    "Endpoints",
    "RemoteRefusal",
    "Throughline",
    "Verdicts",
]
