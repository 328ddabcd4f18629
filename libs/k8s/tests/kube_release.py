"""A release as the chart makes it and Kubernetes runs it, kept in the API server of the tests."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import helm_python
import yaml
from kube_api import KubeApi

CHART = Path(__file__).parents[3] / "charts" / "throughline"
RELEASE = "crm"
PLURALS = {
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "CronJob": "cronjobs",
}
SOMEBODY = {"kind": "User", "name": "somebody", "apiGroup": "rbac.authorization.k8s.io"}

Json = dict[str, Any]


def rendered(values: Json | None = None) -> list[Json]:
    """The chart's objects, with the roles of `throughline k8s` bound to somebody."""
    asked = {"k8sClient": {"enabled": True, "viewers": [SOMEBODY], "operators": [SOMEBODY]}, **(values or {})}
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(asked)
        files = chart.render(asked, name=RELEASE, namespace=KubeApi.namespace)
    return [
        document
        for path, text in files.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def rules(documents: list[Json], *roles: str) -> list[Json]:
    """What the chart's roles allow, those whose names end so."""
    return [
        deepcopy(rule)
        for each in documents
        if each["kind"] == "Role" and each["metadata"]["name"].endswith(roles)
        for rule in each["rules"]
    ]


def run_release(api: KubeApi, documents: list[Json]) -> None:
    """Everything ready, as it is a minute after `helm install`."""
    for document in documents:
        plural = PLURALS.get(document["kind"])
        if plural is None or "helm.sh/hook" in document["metadata"].get("annotations", {}):
            continue
        kept = deepcopy(document)
        if document["kind"] in {"Deployment", "StatefulSet"}:
            wanted = document["spec"].get("replicas", 1)
            kept["metadata"]["generation"] = 1
            kept["status"] = {
                "replicas": wanted,
                "readyReplicas": wanted,
                "updatedReplicas": wanted,
                "observedGeneration": 1,
            }
            for number in range(wanted):
                api.put("pods", ready_pod(document, f"{document['metadata']['name']}-{number}"))
            for claim in document["spec"].get("volumeClaimTemplates", []):
                api.put("persistentvolumeclaims", bound_claim(document, claim))
        if document["kind"] == "PodDisruptionBudget":
            kept["status"] = {
                "disruptionsAllowed": 1,
                "expectedPods": 1,
                "currentHealthy": 1,
                "desiredHealthy": 0,
            }
        api.put(plural, kept)


def ready_pod(workload: Json, name: str) -> Json:
    """A pod of a workload, as the kubelet tells of it when it is ready."""
    template = workload["spec"]["template"]
    container = template["spec"]["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": deepcopy(template["metadata"]["labels"])},
        "spec": {**deepcopy(template["spec"]), "nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True"},
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-11-26T00:00:00Z"}},
                }
            ],
        },
    }


def bound_claim(workload: Json, claim: Json) -> Json:
    """A claim that a StatefulSet made: it has the labels that its pods are selected by."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": f"{claim['metadata']['name']}-{workload['metadata']['name']}-0",
            "labels": deepcopy(workload["spec"]["selector"]["matchLabels"]),
        },
        "spec": {**deepcopy(claim["spec"]), "storageClassName": "standard"},
        "status": {"phase": "Bound", "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]}},
    }
