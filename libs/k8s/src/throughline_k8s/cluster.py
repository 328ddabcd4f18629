"""The Kubernetes API, through its client: objects as the JSON that it speaks, logs, and sockets into pods."""

# The client of Kubernetes says of itself that it has types, and names few.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast

import orjson
from kubernetes import client, config
from kubernetes.stream.ws_client import create_websocket
from urllib3.exceptions import HTTPError
from websocket import (
    ABNF,
    WebSocket,
    WebSocketBadStatusException,
    WebSocketConnectionClosedException,
    WebSocketException,
)

from throughline_client.commands.running import BAD_INPUT, UNAVAILABLE, Failure

Json = dict[str, Any]
SECONDS: Final = 20.0
# A log may say nothing for long: whoever follows it comes back.
QUIET_SECONDS: Final = 60.0
PAGE: Final = 500
_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403
_FAILED: Final = 400
_FORWARDING: Final = {"sec-websocket-protocol": "v4.channel.k8s.io"}
_DATA, _ERRORS = 0, 1
_PORT_BYTES: Final = 2
_JSON: Final = {"Accept": "application/json", "Content-Type": "application/json"}


class ClusterError(Failure):
    """The API cannot be reached or refuses; the message says what to do."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message, UNAVAILABLE)
        self.status = status

    @property
    def forbidden(self) -> bool:
        """Whether one may not, rather than cannot."""
        return self.status == _FORBIDDEN

    @property
    def missing(self) -> bool:
        """Whether there is no such thing."""
        return self.status == _NOT_FOUND


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object by the path of its group's version and its plural."""

    root: str
    plural: str

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        """The path of all of a namespace, of one, or of a part of one."""
        return "/".join(filter(None, (self.root, "namespaces", namespace, self.plural, name, part)))


PODS: Final = Kind("/api/v1", "pods")
CLAIMS: Final = Kind("/api/v1", "persistentvolumeclaims")
STATEFUL_SETS: Final = Kind("/apis/apps/v1", "statefulsets")
DEPLOYMENTS: Final = Kind("/apis/apps/v1", "deployments")
BUDGETS: Final = Kind("/apis/policy/v1", "poddisruptionbudgets")
CRON_JOBS: Final = Kind("/apis/batch/v1", "cronjobs")
JOBS: Final = Kind("/apis/batch/v1", "jobs")
CERTIFICATES: Final = Kind("/apis/cert-manager.io/v1", "certificates")


@dataclass(slots=True)
class Tunnel:
    """One connection by Kubernetes' `v4.channel.k8s.io`: a channel for the data and one for errors, each of which
    begins with the port's number. It knows no half-closed connection.
    """

    _websocket: WebSocket
    _what: str
    _begun: set[int] = field(default_factory=set[int])

    def fileno(self) -> int:
        """What to wait on for something to receive."""
        return self._websocket.fileno()

    @property
    def waiting(self) -> bool:
        """Whether something was decrypted already, of which the system knows nothing any more."""
        return isinstance(self._websocket.sock, ssl.SSLSocket) and self._websocket.sock.pending() > 0

    def receive(self) -> bytes | None:
        """What came, possibly nothing; None at the end. Waits. Raises: ClusterError, where the pod does not listen."""
        try:
            opcode, frame = self._websocket.recv_data_frame(control_frame=True)
        except (WebSocketConnectionClosedException, OSError):
            return None
        if opcode == ABNF.OPCODE_CLOSE:
            return None
        if opcode != ABNF.OPCODE_BINARY:
            return b""
        channel, data = frame.data[0], bytes(frame.data[1:])
        if channel not in self._begun:
            self._begun.add(channel)
            data = data[_PORT_BYTES:]
        if channel == _ERRORS and data:
            raise ClusterError(f"{self._what}: {data.decode(errors='replace')}")
        return data if channel == _DATA else b""

    def send(self, data: bytes) -> None:
        """Sends all of it. Raises: ConnectionError where the other end is gone."""
        try:
            self._websocket.send_binary(bytes([_DATA]) + data)
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster as a kubeconfig's context, or a pod's service account, reaches it. `context` is empty in a pod."""

    configuration: client.Configuration
    namespace: str
    context: str

    @classmethod
    def find(cls, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Self:
        """By a kubeconfig (KUBECONFIG, ~/.kube/config), else as the pod that this is. Raises: Failure."""
        found = client.Configuration()
        try:
            listed: Any = config.list_kube_config_contexts(str(kubeconfig) if kubeconfig else None)
        except config.ConfigException as error:
            if kubeconfig or context:
                raise Failure(f"the kubeconfig cannot be used: {error}", BAD_INPUT) from error
            return cls._inside(found, namespace)
        contexts, chosen = listed
        if context:
            chosen = next((each for each in contexts if each["name"] == context), None)
            if chosen is None:
                known = ", ".join(sorted(each["name"] for each in contexts))
                raise Failure(f"there is no context {context!r} in the kubeconfig; it has {known}", BAD_INPUT)
        try:
            config.load_kube_config(
                str(kubeconfig) if kubeconfig else None, context=chosen["name"], client_configuration=found
            )
        except config.ConfigException as error:
            raise Failure(f"the kubeconfig cannot be used: {error}", BAD_INPUT) from error
        return cls(found, namespace or chosen["context"].get("namespace") or "default", chosen["name"])

    @classmethod
    def _inside(cls, found: client.Configuration, namespace: str | None) -> Self:
        try:
            config.load_incluster_config(client_configuration=found)
        except config.ConfigException:
            raise Failure(
                "no cluster is named: set KUBECONFIG, or give --kubeconfig; `kubectl config get-contexts` lists them",
                BAD_INPUT,
            ) from None
        own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
        return cls(found, namespace or own.read_text(encoding="utf-8").strip(), "")

    def version(self) -> tuple[str, str | None]:
        """The API server's version, and the date that it says it is. Raises: ClusterError."""
        with self._answered("GET", "/version") as answer:
            return orjson.loads(answer.data)["gitVersion"], answer.headers.get("Date")

    def listed(self, kind: Kind, selector: str = "") -> list[Json]:
        """Every object of a kind in the namespace, by labels, each with its kind. Raises: ClusterError."""
        found: list[Json] = []
        query = {"labelSelector": selector, "limit": str(PAGE), "continue": ""}
        while True:
            page = self._json("GET", kind.path(self.namespace), query)
            of = str(page.get("kind", "")).removesuffix("List")
            found += [{"kind": of, **each} for each in page["items"]]
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found

    def read(self, kind: Kind, name: str) -> Json:
        """One object. Raises: ClusterError."""
        return self._json("GET", kind.path(self.namespace, name))

    def create(self, kind: Kind, body: Mapping[str, Any]) -> Json:
        """Makes an object. Raises: ClusterError."""
        return self._json("POST", kind.path(self.namespace), body=body)

    def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object and what it owns; one that is gone is gone. Raises: ClusterError."""
        try:
            self._json("DELETE", kind.path(self.namespace, name), {"propagationPolicy": "Background"})
        except ClusterError as error:
            if not error.missing:
                raise

    def log(self, pod: str, container: str, since: str = "") -> Iterator[str]:
        """A container's log line by line, each after its time, until it ends; from an instant (RFC 3339) on.

        Raises: ClusterError where it breaks off.
        """
        query = {"container": container, "follow": "true", "timestamps": "true", "sinceTime": since}
        rest = b""
        with self._answered("GET", PODS.path(self.namespace, pod, "log"), query, quiet=QUIET_SECONDS) as answer:
            try:
                for piece in answer.stream(amt=None):
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
            except HTTPError as error:
                raise ClusterError(f"the log of {pod} broke off: {error}") from error
        if rest:
            yield rest.decode(errors="replace")

    @contextmanager
    def tunnel(self, pod: str, port: int) -> Generator[Tunnel]:
        """A connection to a port inside a pod, by way of the API. Raises: ClusterError."""
        path = PODS.path(self.namespace, pod, "portforward")
        with self._client() as api:
            _, url, headers, *_ = self._request(api, "GET", path, {"ports": str(port)})
        try:
            websocket = create_websocket(self.configuration, url.replace("http", "ws", 1), {**headers, **_FORWARDING})
        except WebSocketBadStatusException as error:
            body = error.resp_body or b""
            raise _refused(f"port {port} of {pod}", error.status_code, _message(body)) from error
        except (WebSocketException, OSError) as error:
            raise ClusterError(f"port {port} of {pod} cannot be reached: {error}") from error
        try:
            yield Tunnel(websocket, f"port {port} of {pod}")
        finally:
            websocket.shutdown()

    def _json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Json:
        with self._answered(method, path, query, body) as answer:
            return orjson.loads(answer.data)

    @contextmanager
    def _client(self) -> Generator[client.ApiClient]:
        """A client for one call: forwarding swaps a part of it while it runs, and calls come from several threads."""
        api = client.ApiClient(self.configuration)
        try:
            yield api
        finally:
            cast("Any", api).rest_client.pool_manager.clear()

    def _request(
        self,
        api: client.ApiClient,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        """Method, URL, headers with what proves who asks, body and form."""
        asked = [(name, value) for name, value in (query or {}).items() if value]
        return api.param_serialize(
            method, path, query_params=asked, header_params=dict(_JSON), body=body, auth_settings=["BearerToken"]
        )

    @contextmanager
    def _answered(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        quiet: float = SECONDS,
    ) -> Generator[Any]:
        """The response as urllib3 has it. Raises: ClusterError for anything but success."""
        with self._client() as api:
            request = self._request(api, method, path, query, body)
            try:
                answer: Any = api.call_api(*request, _request_timeout=(SECONDS, quiet)).response
            except (HTTPError, client.ApiException, OSError) as error:
                where = self.configuration.host
                raise ClusterError(f"the Kubernetes API cannot be reached at {where}: {error}") from error
            try:
                if answer.status >= _FAILED:
                    raise _refused(f"{method} {path}", answer.status, _message(answer.data))
                yield answer
            finally:
                answer.close()


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body).get("message", ""))
    except (orjson.JSONDecodeError, AttributeError):
        return body.decode(errors="replace")[:200]


def _refused(what: str, status: int, message: str) -> ClusterError:
    match status:
        case 401:
            said = "who asks is not known: log in to the cluster again"
        case 403:
            said = "it may not be done: give who runs this the chart's role (k8sClient.enabled, k8sClient.subjects)"
        case _:
            said = "the Kubernetes API refused"
    return ClusterError(f"{what}: {said} ({message})", status=status)
