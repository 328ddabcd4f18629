"""The chart renders what Kubernetes takes, and refuses what would not work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "throughline"
SUPPORTED = ("1.32", "1.37")
SERVICES = ("ingestion", "identity", "journey", "feedback", "scoring")
Document = dict[str, Any]

example_values = pytest.mark.parametrize(
    "values", [yaml.safe_load(file.read_text()) for file in sorted((CHART / "ci").glob("*-values.yaml"))]
)


def render(values: Document) -> list[Document]:
    """Every Kubernetes object that the chart makes of the values."""
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="shop", namespace="crm")
    return [
        document
        for path, text in files.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(documents: list[Document], kind: str) -> Iterator[Document]:
    return (document for document in documents if document["kind"] == kind)


def named(document: Document) -> str:
    return document["metadata"]["name"]


def pods(documents: list[Document]) -> dict[str, Document]:
    return {named(workload): workload["spec"]["template"] for workload in of_kind(documents, "StatefulSet")}


@example_values
def test_the_chart_lints_without_a_warning(values: Document) -> None:
    """Helm's own linter, strict, has nothing to say."""
    report = helm_python.lint(CHART, values, strict=True)
    assert not report["errors"]
    assert [message for message in report["messages"] if message["severity"] >= 2] == []


@example_values
@pytest.mark.parametrize("version", SUPPORTED)
def test_every_object_is_one_that_kubernetes_knows(values: Document, version: str) -> None:
    """Each object keeps the schema of the oldest and newest supported Kubernetes, unknown fields refused."""
    for document in render(values):
        kubernetes_validate.validate(document, version, strict=True)


@example_values
def test_names_are_given_once(values: Document) -> None:
    """No two objects of a kind share a name."""
    names = [(document["kind"], named(document)) for document in render(values)]
    assert len(names) == len(set(names))


@example_values
def test_services_lead_to_pods_and_ports_that_exist(values: Document) -> None:
    """Every Service selects exactly one workload's pods and each target port is named there."""
    documents = render(values)
    for service in of_kind(documents, "Service"):
        selector = service["spec"]["selector"].items()
        hit = [pod for pod in pods(documents).values() if selector <= pod["metadata"]["labels"].items()]
        assert len(hit) == 1, named(service)
        ports = {port["name"] for container in hit[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@example_values
def test_workloads_select_their_own_pods_by_a_service_that_exists(values: Document) -> None:
    """A StatefulSet's selector matches its template, and its governing Service is there."""
    documents = render(values)
    services = {named(service) for service in of_kind(documents, "Service")}
    for workload in of_kind(documents, "StatefulSet"):
        spec = workload["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        assert spec["serviceName"] in services


@example_values
def test_every_pod_is_restricted_probed_and_bounded(values: Document) -> None:
    """No pod runs as root, writes to its image, holds a token, or goes without probes, requests and a memory limit."""
    for name, pod in pods(render(values)).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@example_values
def test_mounts_volumes_and_secrets_fit_together(values: Document) -> None:
    """Every mount has its volume, and every secret that the chart makes is one that a pod reads."""
    documents = render(values)
    read: set[str] = set()
    for workload in of_kind(documents, "StatefulSet"):
        spec = workload["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        volumes |= {named(claim) for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    read.add(reference["name"])
    assert {named(secret) for secret in of_kind(documents, "Secret")} <= read


def test_each_service_has_its_own_schema_and_only_three_can_open_personal_values() -> None:
    """Journey and scoring are given no key-encryption key and no way to the key store."""
    for name, pod in pods(render({})).items():
        service = name.rpartition("-")[2]
        if service not in SERVICES:
            continue
        env = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}
        assert env["POSTGRES_SCHEMA"] == service
        opens = {"THROUGHLINE_KEY_ENCRYPTION_KEY", "THROUGHLINE_KEY_STORE"} & env.keys()
        assert bool(opens) == (service in {"ingestion", "identity", "feedback"}), service


def test_the_quick_start_bus_and_store_write_through() -> None:
    """JetStream syncs always, and PostgreSQL's fsync is said aloud."""
    documents = render({})
    (config,) = of_kind(documents, "ConfigMap")
    assert 'sync_interval: "always"' in config["data"]["nats.conf"]
    postgres = pods(documents)["shop-throughline-postgres"]["spec"]["containers"][0]
    assert "fsync=on" in postgres["args"]
    assert "synchronous_commit=on" in postgres["args"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nats": {"enabled": False}}, "set nats.url"),
        ({"postgres": {"enabled": False}}, "set postgres.host"),
        ({"replicas": 3}, "replicas"),
        ({"services": {"billing": {}}}, "billing"),
        ({"nats": {"storage": "ten gigs"}}, "ten gigs"),
        ({"services": {"journey": {"resources": {"limits": {"memory": "1 gigabyte"}}}}}, "1 gigabyte"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence_that_helps(values: Document, sentence: str) -> None:
    """The message names the key or value at fault."""
    with pytest.raises(helm_python.HelmError, match=sentence):
        render(values)
