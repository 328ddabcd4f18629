"""Renders the chart as Helm does, and finds things in what came out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import helm_python
import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "throughline"
SERVICES: Final = ("feedback", "identity", "ingestion", "journey", "scoring")
SUPPORTED: Final = ("1.32", "1.37")
"""The oldest and the newest Kubernetes."""
RELEASE: Final = "shop"
NAMESPACE: Final = "crm"
Document: TypeAlias = dict[str, Any]

VALUES: Final[dict[str, Document]] = {
    file.name.removesuffix("-values.yaml"): yaml.safe_load(file.read_text()) or {}
    for file in sorted((CHART / "ci").glob("*-values.yaml"))
}
"""What the chart is tested with, by the name of its file in `ci`."""
every_installation = pytest.mark.parametrize("installation", VALUES)


def render_files(values: Document, release: str = RELEASE) -> dict[str, str]:
    """The text that each template makes of the values. Raises: helm_python.HelmError, with the chart's own words."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(values, name=release, namespace=NAMESPACE)


def render(values: Document, release: str = RELEASE) -> list[Document]:
    """Every Kubernetes object that the chart makes of the values."""
    return [
        document
        for path, text in render_files(values, release).items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


@lru_cache
def _rendered(installation: str) -> str:
    return json.dumps(render(VALUES[installation]))


def installed(installation: str) -> list[Document]:
    """The objects of one of `VALUES`; the caller's own copy."""
    return json.loads(_rendered(installation))


def of_kind(documents: list[Document], *kinds: str) -> Iterator[Document]:
    """The objects of these kinds."""
    return (document for document in documents if document["kind"] in kinds)


def named(document: Document) -> str:
    """An object's name."""
    return document["metadata"]["name"]


def pods(documents: list[Document]) -> dict[str, Document]:
    """Every pod that is run, as its template, by `kind/name` of what runs it."""
    found = {
        f"{workload['kind']}/{named(workload)}": workload["spec"]["template"]
        for workload in of_kind(documents, "Deployment", "StatefulSet", "Job")
    }
    found |= {
        f"CronJob/{named(cron)}": cron["spec"]["jobTemplate"]["spec"]["template"]
        for cron in of_kind(documents, "CronJob")
    }
    return found | {f"Pod/{named(pod)}": pod for pod in of_kind(documents, "Pod")}


def served(documents: list[Document]) -> dict[str, Document]:
    """Those that stay, and serve something."""
    return {name: pod for name, pod in pods(documents).items() if not name.startswith(("Pod/", "Job/", "CronJob/"))}


def containers(pod: Document) -> list[Document]:
    """Its containers, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def port_names(pod: Document) -> set[str]:
    """The names of its ports."""
    return {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}


def labels(pod: Document) -> Document:
    """Its labels."""
    return pod["metadata"].get("labels", {})


def selects(selector: Document, pod: Document) -> bool:
    """Whether a label selector of the chart hits the pod."""
    given = labels(pod)
    if not selector.get("matchLabels", {}).items() <= given.items():
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if given.get(expression["key"]) not in expression["values"]:
            return False
    return True


def environment(documents: list[Document], pod: Document) -> dict[str, Any]:
    """A pod's variables: text, or the source of a value."""
    config = {named(each): each["data"] for each in of_kind(documents, "ConfigMap")}
    (container,) = pod["spec"]["containers"]
    found: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        found |= config[source["configMapRef"]["name"]]
    return found | {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


def changed(values: Document, **changes: Any) -> Document:
    """The values with others set, by path: `nats__replicas=1`."""
    other = copy.deepcopy(values)
    for path, value in changes.items():
        *way, last = path.split("__")
        place = other
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return other
