"""`make cluster-test`: one release on the cluster that KUBECONFIG names, shaken under load; it must lose nothing.

Needs the right to make a namespace, and images that the cluster can pull: THROUGHLINE_CLUSTER_IMAGES (what
`image.repository` is, e.g. registry.example/throughline) and THROUGHLINE_CLUSTER_TAG. With
THROUGHLINE_CLUSTER_PREVIOUS_TAG, the previous version's images, an upgrade from it and the rollback are tested too.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import helm_python
import pytest
from cluster.load import Load, check_nothing_is_lost, offering, until_answered
from kubernetes import client as kubernetes
from kubernetes import config
from upgrade import freezing

from throughline_client import Throughline
from throughline_client.endpoints import SERVICES
from throughline_k8s.cluster import PODS, Cluster
from throughline_k8s.commands import to_ready_pod
from throughline_k8s.forwarding import Forward
from throughline_k8s.release import selector
from throughline_testkit import eventually

CHART = Path(__file__).parents[2] / "charts" / "throughline"
PREVIOUS_CHART = freezing.PREVIOUS / freezing.CHART
TAG = "THROUGHLINE_CLUSTER_TAG"
PREVIOUS_TAG = "THROUGHLINE_CLUSTER_PREVIOUS_TAG"
RELEASE = "crm"
MINUTES = 60.0
READY = 10 * MINUTES

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3_600),
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="no cluster: set KUBECONFIG to the file of one"),
    pytest.mark.skipif(
        not os.environ.get("THROUGHLINE_CLUSTER_IMAGES"),
        reason="no images: set THROUGHLINE_CLUSTER_IMAGES to a repository that the cluster can pull from",
    ),
]


@dataclass
class Installed:
    """A release in a namespace of its own."""

    namespace: str
    helm: helm_python.Config
    core: Any
    cluster: Cluster
    values: dict[str, Any] = field(default_factory=dict[str, Any])

    async def upgrade(self, **changes: Any) -> None:
        """`helm upgrade` with other values, which returns when everything is ready again."""
        self.values |= changes
        work = partial(self.helm.upgrade, str(CHART), RELEASE, self.values, wait="watcher", timeout=int(READY))
        await asyncio.to_thread(work, namespace=self.namespace)

    async def rollback(self) -> None:
        """`helm rollback` to the revision before, which returns when everything is ready again."""
        await asyncio.to_thread(self.helm.rollback, RELEASE, wait="watcher", timeout=int(READY))

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        """The pods of the release, or of one component."""
        return self.cluster.listed(PODS, selector(RELEASE, component))

    async def ready(self) -> None:
        """Returns when every pod that is there is ready, and of every service one is."""

        def all_ready() -> bool:
            lasting = [each for each in self.pods() if each["metadata"]["labels"][COMPONENT] in (*SERVICES, *KEPT)]
            there = {each["metadata"]["labels"][COMPONENT] for each in lasting if _is_ready(each)}
            return there == {*SERVICES, *KEPT} and all(map(_is_ready, lasting))

        async def look() -> bool:
            return await asyncio.to_thread(all_ready)

        await eventually(look, READY, why="not everything is ready")


COMPONENT = "app.kubernetes.io/component"
KEPT = ("nats", "postgres")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


@contextmanager
def _installation(chart: Path, values: dict[str, Any], tag: str) -> Iterator[Installed]:
    """A chart on an empty namespace; the namespace goes with the block, whatever became of it."""
    config.load_kube_config()
    core = kubernetes.CoreV1Api()
    namespace = f"throughline-test-{uuid4().hex[:8]}"
    core.create_namespace(kubernetes.V1Namespace(metadata=kubernetes.V1ObjectMeta(name=namespace)))
    repository = os.environ["THROUGHLINE_CLUSTER_IMAGES"]
    todays = {"image": {"repository": repository, "tag": os.environ.get(TAG, "")}, "k8sClient": {"enabled": True}}
    try:
        with helm_python.Config(namespace=namespace) as helm:
            first = {**values, "image": {"repository": repository, "tag": tag}}
            helm.install(str(chart), RELEASE, first, namespace=namespace, wait="watcher", timeout=int(READY))
            yield Installed(namespace, helm, core, Cluster.find(None, None, namespace), todays)
    finally:
        core.delete_namespace(namespace)


@pytest.fixture
def installed() -> Iterator[Installed]:
    """The chart's defaults."""
    with _installation(CHART, {"k8sClient": {"enabled": True}}, os.environ.get(TAG, "")) as installation:
        yield installation


@pytest.fixture
def previous() -> Iterator[Installed]:
    """The previous version's chart and images, with its defaults."""
    with _installation(PREVIOUS_CHART, {}, os.environ[PREVIOUS_TAG]) as installation:
        yield installation


@asynccontextmanager
async def _under_load(installed: Installed) -> AsyncIterator[Load]:
    """Interactions are offered while the block runs; after it, none that was answered may be missing."""
    with ExitStack() as forwarding:
        addresses = {
            service: forwarding.enter_context(
                Forward(partial(to_ready_pod, installed.cluster, RELEASE, service))
            ).address
            for service in SERVICES
        }
        async with Throughline(addresses) as client:
            async with offering(client) as load:
                yield load
            await check_nothing_is_lost(client, load, READY)


async def test_a_release_loses_nothing_whatever_is_done_to_it(installed: Installed, tmp_path: Path) -> None:
    """Install, helm test, load; under load an upgrade, scaling, kills and a drained node; then the five counters add
    up, each interaction answered is recorded once, live digests are those of a replay, and uninstalling leaves nothing.
    """
    await asyncio.to_thread(installed.helm.test, RELEASE, timeout=int(READY))
    async with _under_load(installed) as load:
        for shake in (_roll, _scale, _kill, _drain):
            await until_answered(load, 1_000)
            await shake(installed, load)
            await installed.ready()
        await until_answered(load, 1_000)
    assert await _throughline(installed, "doctor") == 0
    assert await _throughline(installed, "replay", "--into", str(tmp_path), "all") == 0, "a state differs from its log"
    await asyncio.to_thread(installed.helm.uninstall, RELEASE, wait="watcher", timeout=int(READY))
    left = [each for each in installed.pods() if "deletionTimestamp" not in each["metadata"]]
    assert left == []


@pytest.mark.skipif(
    not os.environ.get(PREVIOUS_TAG), reason=f"no previous version: set {PREVIOUS_TAG} to the tag of its images"
)
async def test_an_upgrade_and_its_rollback_lose_nothing(previous: Installed, tmp_path: Path) -> None:
    """From the previous version to today's, back and forward again, under load; then live digests are a replay's."""
    async with _under_load(previous) as load:
        for change in (previous.upgrade, previous.rollback, previous.upgrade):
            await until_answered(load, 1_000)
            await change()
            await previous.ready()
        await until_answered(load, 1_000)
    assert await _throughline(previous, "replay", "--into", str(tmp_path), "all") == 0, "a state differs from its log"


async def _throughline(installed: Installed, command: str, *arguments: str) -> int:
    """Runs `throughline k8s` as a person would, and answers its exit code."""
    named = ["--namespace", installed.namespace, "--release", RELEASE]
    script = "from throughline_client.commands import main; main()"
    asked = [sys.executable, "-c", script, "k8s", command, *named, *arguments]
    return (await asyncio.to_thread(partial(subprocess.run, asked, check=False))).returncode


async def _roll(installed: Installed, load: Load) -> None:
    """A rolling upgrade: every service's pods are replaced."""
    before = {each["metadata"]["name"] for each in installed.pods("ingestion")}
    await installed.upgrade(defaults={"podAnnotations": {"throughline.test/rolled": load.source}})
    assert before.isdisjoint(each["metadata"]["name"] for each in installed.pods("ingestion") if _is_ready(each))


async def _scale(installed: Installed, load: Load) -> None:
    """Three pods of a service, and one again."""
    for replicas in (3, 1):
        services = {service: {"replicas": replicas} for service in SERVICES}
        await installed.upgrade(services=services)
        await until_answered(load, 500)


async def _kill(installed: Installed, load: Load) -> None:
    """Every pod of the release killed, one after the other, without a word to it."""
    for component in (*SERVICES, *KEPT):
        for pod in installed.pods(component):
            name = pod["metadata"]["name"]
            await asyncio.to_thread(
                installed.core.delete_namespaced_pod, name, installed.namespace, grace_period_seconds=0
            )
        await installed.ready()
        await until_answered(load, 200)


async def _drain(installed: Installed, load: Load) -> None:
    """A node is cordoned and its pods of the release evicted, as `kubectl drain` does; PostgreSQL's and NATS's stay
    where their volumes may be bound to the node, and a cluster of one node has nowhere to go.
    """
    nodes = [each for each in installed.core.list_node().items if not each.spec.unschedulable]
    if len(nodes) < 2:
        return
    node = installed.pods("ingestion")[0]["spec"]["nodeName"]
    installed.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        for service in SERVICES:
            for pod in installed.pods(service):
                if pod["spec"]["nodeName"] == node:
                    await _evict(installed, pod["metadata"]["name"])
        await installed.ready()
        await until_answered(load, 500)
    finally:
        installed.core.patch_node(node, {"spec": {"unschedulable": False}})


async def _evict(installed: Installed, pod: str) -> None:
    """Evicts a pod as soon as its disruption budget allows it."""
    body = kubernetes.V1Eviction(metadata=kubernetes.V1ObjectMeta(name=pod, namespace=installed.namespace))

    async def evicted() -> bool:
        try:
            await asyncio.to_thread(installed.core.create_namespaced_pod_eviction, pod, installed.namespace, body)
        except kubernetes.ApiException as error:
            if error.status == 429:
                return False
            if error.status != 404:
                raise
        return True

    await eventually(evicted, READY, why=f"{pod} may not be evicted")
