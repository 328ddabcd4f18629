"""The chart put over its previous version by Helm itself, and taken back: nothing is refused, no key is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import helm_python
import pytest
from chart.rendering import CHART as TODAYS
from upgrade.api_server import ApiServer, Document, refused_change
from upgrade.freezing import CHART, PREVIOUS

RELEASE: Final = "shop"
SECONDS: Final = 60
KEYS: Final = f"{RELEASE}-throughline-keys"
PASSWORD: Final = f"{RELEASE}-throughline-postgres"


def settled(document: Document) -> None:
    """Everything is ready, complete or succeeded as soon as it is there."""
    spec, generation = document.get("spec", {}), document["metadata"]["generation"]
    number = spec.get("replicas", 1)
    there = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), number)
    match document["kind"]:
        case "Job":
            document["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
        case "Pod":
            document["status"] = {"phase": "Succeeded"}
        case "Deployment":
            conditions = [
                {"type": "Available", "status": "True"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ]
            document["status"] = {"observedGeneration": generation, **there, "conditions": conditions}
        case "StatefulSet":
            revisions = dict.fromkeys(("currentRevision", "updateRevision"), "one")
            document["status"] = {"observedGeneration": generation, **there, "currentReplicas": number, **revisions}
        case _:
            pass


@dataclass
class Cluster:
    """A cluster without nodes, and Helm at work on it."""

    api: ApiServer
    helm: Any

    def install(self, chart: str, **values: Any) -> None:
        """`helm install`."""
        self.helm.install(chart, RELEASE, values, namespace="crm", timeout=SECONDS)

    def upgrade(self, **values: Any) -> None:
        """`helm upgrade` to today's chart."""
        self.helm.upgrade(str(TODAYS), RELEASE, values, namespace="crm", timeout=SECONDS)

    def rollback(self) -> None:
        """`helm rollback` to the revision before."""
        self.helm.rollback(RELEASE, timeout=SECONDS)

    def secret(self, name: str) -> dict[str, str]:
        """What a secret holds."""
        return self.api.named("secrets")[name]["data"]

    @property
    def all_names(self) -> set[tuple[str, str]]:
        """(resource, name) of everything that is there."""
        return {(plural, name) for plural, _, name in self.api.objects}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """An empty one."""
    with (
        ApiServer(settled) as api,
        helm_python.Config(
            kubeconfig_content=api.kubeconfig, namespace="crm", storage_driver="memory", qps=1_000.0, burst_limit=1_000
        ) as helm,
    ):
        yield Cluster(api, helm)


def test_upgraded_taken_back_and_upgraded_again(cluster: Cluster) -> None:
    """Kubernetes refuses nothing; keys and passwords stay those of the beginning, so that the data can be read."""
    cluster.install(str(PREVIOUS / CHART))
    first, password, there = cluster.secret(KEYS), cluster.secret(PASSWORD), cluster.all_names
    volumes = cluster.api.named("statefulsets")
    cluster.upgrade()
    upgraded = cluster.all_names
    for again in (cluster.rollback, cluster.upgrade):
        assert cluster.secret(KEYS) | first == cluster.secret(KEYS)
        assert cluster.secret(PASSWORD) | password == cluster.secret(PASSWORD)
        for name in ("nats", "postgres"):
            # The same claims, so the same volumes.
            claims = volumes[f"{RELEASE}-throughline-{name}"]["spec"]["volumeClaimTemplates"]
            now = cluster.api.named("statefulsets")[f"{RELEASE}-throughline-{name}"]["spec"]["volumeClaimTemplates"]
            assert now == claims
        again()
    # Each revision makes its schemas' Job anew.
    assert {each for each in cluster.all_names ^ upgraded if each[0] != "jobs"} == set()
    cluster.rollback()
    # A rollback leaves what is kept on purpose, and what hooks left.
    kept = {("secrets", each) for each in cluster.api.named("secrets")}
    assert there <= cluster.all_names <= there | kept | {each for each in upgraded if each[0] == "jobs"}


def test_keys_that_are_there_cannot_be_replaced(cluster: Cluster) -> None:
    """Those that today's chart makes are immutable and stay through upgrades; uninstalling leaves only them."""
    cluster.install(str(TODAYS))
    made = cluster.api.named("secrets")
    assert all(made[name]["immutable"] for name in (KEYS, PASSWORD))
    running = cluster.api.named("statefulsets")
    cluster.upgrade(image={"tag": "next"})
    # Bus and store are the same pods still.
    now = cluster.api.named("statefulsets")
    assert [now[name]["spec"] for name in running] == [each["spec"] for each in running.values()]
    assert {name: each["data"] for name, each in cluster.api.named("secrets").items()} == {
        name: each["data"] for name, each in made.items()
    }
    cluster.helm.uninstall(RELEASE, timeout=SECONDS)
    assert {plural for plural, _ in cluster.all_names} <= {"secrets", "jobs"}
    assert ("secrets", KEYS) in cluster.all_names
    # Installed again over its data, it finds its keys.
    cluster.install(str(TODAYS))
    assert cluster.secret(KEYS) == made[KEYS]["data"]


def test_the_server_refuses_what_kubernetes_would(cluster: Cluster) -> None:
    """Or these tests would hold nothing."""
    cluster.install(str(TODAYS))
    there = cluster.api.objects["deployments", "crm", f"{RELEASE}-throughline-journey"]
    # As if another chart had made it.
    there["spec"]["selector"]["matchLabels"]["other"] = "one"
    with pytest.raises(helm_python.HelmError, match=r"spec\.selector: field is immutable"):
        cluster.upgrade()
    kept = {"kind": "Secret", "immutable": True, "data": {"hash-key": "one"}}
    assert refused_change(kept, {**kept, "data": {"hash-key": "two"}}) is not None
    assert refused_change(kept, {"kind": "Secret", "data": kept["data"]}) is not None
    assert refused_change({"kind": "Secret", "data": {}}, kept) is None
    volumes = {"kind": "StatefulSet", "spec": {"replicas": 1, "volumeClaimTemplates": [1]}}
    assert (
        refused_change(volumes, {"kind": "StatefulSet", "spec": {"replicas": 2, "volumeClaimTemplates": [1]}}) is None
    )
    assert refused_change(volumes, {"kind": "StatefulSet", "spec": {"replicas": 1}}) is not None
