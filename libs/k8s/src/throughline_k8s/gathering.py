"""A snapshot of a release, read through the Kubernetes API and, by its port-forwarding, from the processes."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, TypeVar

import orjson
from cryptography import x509

from throughline_client.commands.running import BAD_INPUT, Failure
from throughline_client.importer.times import micros
from throughline_k8s import reading
from throughline_k8s.cluster import (
    BUDGETS,
    CERTIFICATES,
    CLAIMS,
    DEPLOYMENTS,
    PODS,
    STATEFUL_SETS,
    Cluster,
    ClusterError,
    Json,
    Kind,
)
from throughline_k8s.forwarding import HOST, Forward
from throughline_k8s.release import (
    NAME,
    NAME_LABEL,
    SERVICES,
    Bus,
    Certificate,
    Pod,
    Running,
    Snapshot,
    Unread,
    selector,
)

T = TypeVar("T")
SECONDS: Final = 10.0
AT_A_TIME: Final = 8
METRICS: Final = "metrics"
MONITOR: Final = "monitor"
GRPC: Final = "grpc"


def find_release(cluster: Cluster, named: str | None) -> str:
    """The release by its name, else the only one in the namespace. Raises: Failure."""
    if named:
        return named
    ours = f"{NAME_LABEL}={NAME}"
    found = reading.releases([*cluster.listed(STATEFUL_SETS, ours), *cluster.listed(DEPLOYMENTS, ours)])
    if len(found) == 1:
        return found[0]
    known = f"several are: {', '.join(found)}" if found else "none is"
    raise Failure(f"name the release with --release, or another --namespace: in {cluster.namespace} {known}", BAD_INPUT)


@dataclass(slots=True)
class Gatherer:
    """Looks at one release. What cannot be looked at is remembered, and the rest is looked at all the same."""

    cluster: Cluster
    release: str
    unread: list[Unread] = field(default_factory=list[Unread])

    def snapshot(self) -> Snapshot:
        """The release now. Raises: ClusterError where the API itself cannot be reached."""
        kubernetes, date = self.cluster.version()
        taken_at = reading.now_micros()
        said = reading.date_header(date)
        # The header counts whole seconds: on average it is half of one behind.
        now = None if said is None else said + 0.5
        started = taken_at / 1_000_000
        workloads = [reading.workload(each) for kind in (STATEFUL_SETS, DEPLOYMENTS) for each in self._listed(kind)]
        pods = [reading.pod(each) for each in self._listed(PODS)]

        def moment() -> float | None:
            """The API's clock by now."""
            return None if now is None else now + reading.now_micros() / 1_000_000 - started

        asked = [pod for pod in pods if pod.reachable]
        return Snapshot(
            self.release,
            self.cluster.namespace,
            taken_at,
            kubernetes,
            version("throughline-k8s"),
            None if now is None else started - now,
            tuple(workloads),
            tuple(pods),
            tuple(map(reading.claim, self._listed(CLAIMS))),
            tuple(map(reading.budget, self._listed(BUDGETS))),
            (*map(reading.kept_certificate, self._certificates()), *self._each(asked, GRPC, self._presented)),
            tuple(self._each(asked, METRICS, lambda pod, port: self._metrics(pod, port, moment))),
            tuple(self._each(asked, MONITOR, lambda pod, port: self._bus(pod, port, moment))),
            tuple(sorted(self.unread, key=lambda each: each.what)),
        )

    def _listed(self, kind: Kind) -> list[Json]:
        try:
            return self.cluster.listed(kind, selector(self.release))
        except ClusterError as error:
            self._not_read(kind.plural, error)
            return []

    def _certificates(self) -> list[Json]:
        try:
            return self.cluster.listed(CERTIFICATES, selector(self.release))
        except ClusterError as error:
            # A cluster without cert-manager has none.
            if not error.missing:
                self._not_read(CERTIFICATES.plural, error)
            return []

    def _each(self, pods: Iterable[Pod], name: str, ask: Callable[[Pod, int], T | None]) -> list[T]:
        """Asks every pod that has a port of that name, several at a time."""

        def asked(pod: Pod) -> T | None:
            port = pod.port(name)
            if port is None or (name != MONITOR and pod.component not in SERVICES):
                return None
            try:
                return ask(pod, port)
            except (ClusterError, OSError, http.client.HTTPException, ValueError) as error:
                self._not_read(f"{name} of pod {pod.name}", error)
                return None

        with ThreadPoolExecutor(AT_A_TIME) as asking:
            return [answer for answer in asking.map(asked, pods) if answer is not None]

    def _metrics(self, pod: Pod, port: int, moment: Callable[[], float | None]) -> Running:
        return reading.running(pod, self._get(pod, port, "/metrics").decode(), moment())

    def _bus(self, pod: Pod, port: int, moment: Callable[[], float | None]) -> Bus:
        server = orjson.loads(self._get(pod, port, "/varz"))
        now = moment()
        return reading.bus(pod, server, orjson.loads(self._get(pod, port, "/jsz?config=1&streams=1")), now)

    def _get(self, pod: Pod, port: int, path: str) -> bytes:
        failures: list[str] = []
        with Forward(lambda: self.cluster.tunnel(pod.name, port), failed=failures.append) as forward:
            connection = http.client.HTTPConnection(HOST, forward.port, timeout=SECONDS)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise ClusterError(next(iter(failures), f"{pod.name}:{port} does not answer: {error}")) from error
            finally:
                connection.close()
        if answer.status != http.client.OK:
            raise ClusterError(f"{pod.name}:{port}{path} answers {answer.status}")
        return body

    def _presented(self, pod: Pod, port: int) -> Certificate | None:
        """The certificate that a port presents, None where it speaks no TLS."""
        asking = ssl.create_default_context()
        # Whose it is does not matter here: it is read, and nothing is told to it.
        asking.check_hostname = False
        asking.verify_mode = ssl.CERT_NONE
        asking.set_alpn_protocols(["h2"])
        with (
            Forward(lambda: self.cluster.tunnel(pod.name, port)) as forward,
            socket.create_connection((HOST, forward.port), timeout=SECONDS) as plain,
        ):
            try:
                with asking.wrap_socket(plain) as wrapped:
                    der = wrapped.getpeercert(binary_form=True)
            except (ssl.SSLError, ConnectionError):
                return None
        if der is None:
            return None
        expires = x509.load_der_x509_certificate(der).not_valid_after_utc
        return Certificate(f"{pod.component} ({pod.name})", micros(expires))

    def _not_read(self, what: str, error: Exception) -> None:
        self.unread.append(Unread(what, str(error), isinstance(error, ClusterError) and error.forbidden))
