"""A Kubernetes API with a release in it, behind whose pods real servers run on this machine."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from throughline_client.commands import main
from throughline_client.endpoints import SERVICES, address_variable
from throughline_client.suite import Suite
from throughline_eventlog.nats_server import find_nats_server, free_port, tied_to_parent
from throughline_testkit import eventually_sync

sys.path.insert(0, str(Path(__file__).parent))

from kube_api import KubeApi
from kube_release import RELEASE, rendered, rules, run_release

Run = Callable[..., Result]
StartBus = Callable[[str], int]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Five real services on a real bus; no test changes anything in it."""
    with Suite(tmp_path_factory.mktemp("suite")) as started:
        yield started


@pytest.fixture(scope="session")
def start_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartBus]:
    """Starts a nats-server with a monitoring port, as the chart's is, and gives that port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(sync_interval: str) -> int:
        folder = tmp_path_factory.mktemp("bus")
        port, monitor = free_port(), free_port()
        config = folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitor}"\n'
            f'jetstream {{ store_dir: "{folder}", sync_interval: "{sync_interval}" }}\n'
        )
        started.append(
            subprocess.Popen(
                tied_to_parent([str(find_nats_server()), "-c", str(config)]),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

        eventually_sync(lambda: answers(monitor, "healthz"), why="the bus does not start")
        return monitor

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def well_bus(start_bus: StartBus) -> int:
    """The monitoring port of a bus that syncs always."""
    return start_bus("always")


@pytest.fixture(scope="session")
def documents() -> list[dict[str, Any]]:
    """The chart's objects, by its defaults."""
    return rendered()


# In a process of its own: other tests' figures are in this one.
SERVES_METRICS = """
import sys
from throughline_telemetry import configure, metrics, start_metrics_server

configure("testing", version=sys.argv[2])
for switch in sys.argv[3:]:
    name, _, value = switch.partition("=")
    metrics.STORE_SYNCS.labels(name).set(float(value))
start_metrics_server(int(sys.argv[1]))
sys.stdin.read()
"""


@contextmanager
def serving_metrics(*switches: str) -> Iterator[int]:
    """A process's metrics, as every service serves them, with what its PostgreSQL said: `fsync=1`."""
    port = free_port()
    command = [sys.executable, "-c", SERVES_METRICS, str(port), version("throughline-k8s"), *switches]
    with subprocess.Popen(tied_to_parent(command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        eventually_sync(lambda: answers(port, "metrics"), why="no metrics are served")
        yield port
        process.kill()


@pytest.fixture(scope="session")
def metrics_port() -> Iterator[int]:
    """Those of a service that is well."""
    with serving_metrics("fsync=1", "full_page_writes=1") as port:
        yield port


@pytest.fixture(scope="session")
def unsynced_metrics_port() -> Iterator[int]:
    """Those of one whose PostgreSQL was told otherwise after it started; it does not answer everything."""
    with serving_metrics("fsync=0", "full_page_writes=1", "synchronous_commit=nan") as port:
        yield port


def answers(port: int, path: str) -> bool:
    """Whether somebody answers there."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}").status == 200
    except OSError:
        return False


@pytest.fixture
def api(tmp_path: Path, metrics_port: int, well_bus: int, documents: list[dict[str, Any]]) -> Iterator[KubeApi]:
    """The API with a release that is well, asked by somebody who has the chart's roles and no others."""
    with KubeApi(tmp_path / "kubernetes", rules=rules(documents, "-viewer", "-operator")) as started:
        run_release(started, documents)
        for service in SERVICES:
            pod = f"{RELEASE}-throughline-{service}-0"
            started.ports[pod, 9464] = metrics_port
            # It speaks no TLS, as no service does that has no certificate.
            started.ports[pod, 50051] = metrics_port
        started.ports[f"{RELEASE}-throughline-nats-0", 8222] = well_bus
        yield started


@pytest.fixture
def served(api: KubeApi, suite: Suite) -> KubeApi:
    """The same with a whole suite behind the pods, which Jobs reach too."""
    for service, address in suite.addresses.items():
        pod = f"{RELEASE}-throughline-{service}-0"
        api.ports[pod, 50051] = int(address.rpartition(":")[2])
        api.ports[pod, 9464] = int(suite.metrics[service].rpartition(":")[2])
    api.kubelet.environment = {address_variable(name): at for name, at in suite.addresses.items()}
    return api


@pytest.fixture
def run(api: KubeApi) -> Run:
    """Runs `throughline k8s`; an unexpected exception fails the test."""

    def invoke(command: str, *arguments: str) -> Result:
        asked = ["k8s", command, "--kubeconfig", str(api.kubeconfig), *arguments]
        return CliRunner().invoke(main, asked, env={"COLUMNS": "200"}, catch_exceptions=False)

    return invoke
