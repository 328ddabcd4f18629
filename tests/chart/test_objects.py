"""The chart renders what Kubernetes takes, and its objects fit together."""

from __future__ import annotations

from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml
from chart.custom_resources import check, is_custom
from chart.documenting import snapshot
from chart.rendering import (
    CHART,
    RELEASE,
    SERVICES,
    SUPPORTED,
    VALUES,
    changed,
    containers,
    environment,
    every_installation,
    installed,
    labels,
    named,
    of_kind,
    pods,
    port_names,
    render,
    render_files,
    selects,
    served,
)

SNAPSHOTS = Path(__file__).parent / "snapshots"


@every_installation
def test_the_chart_lints_without_a_warning(installation: str) -> None:
    """Helm's own linter, strict, has nothing to say."""
    report = helm_python.lint(CHART, VALUES[installation], strict=True)
    assert not report["errors"]
    assert [message for message in report["messages"] if message["severity"] >= 2] == []


@every_installation
@pytest.mark.parametrize("version", SUPPORTED)
def test_every_object_is_one_that_kubernetes_knows(installation: str, version: str) -> None:
    """Each object keeps the schema of the oldest and newest supported Kubernetes, unknown fields refused."""
    for document in installed(installation):
        if is_custom(document):
            check(document)
        else:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_chart_says_which_kubernetes_it_supports() -> None:
    """Chart.yaml names the oldest one that is tested."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["kubeVersion"] == f">={SUPPORTED[0]}.0-0"


@every_installation
def test_what_is_made_is_what_was_meant(installation: str) -> None:
    """Objects, and what pods are told, are those of the snapshot; `make chart` writes it anew."""
    assert snapshot(installed(installation)) == (SNAPSHOTS / f"{installation}.txt").read_text(), "run: make chart"


@every_installation
def test_names_are_given_once(installation: str) -> None:
    """No two objects of a kind share a name."""
    names = [(document["kind"], named(document)) for document in installed(installation)]
    assert len(names) == len(set(names))


def test_two_releases_in_a_namespace_share_nothing() -> None:
    """No object of one has the name of one of the other, and no selector of one hits a pod of the other."""
    one, other = render({}, release="shop"), render({}, release="branch")
    assert not {(each["kind"], named(each)) for each in one} & {(each["kind"], named(each)) for each in other}
    foreign = pods(other).values()
    for service in of_kind(one, "Service"):
        assert not any(selects({"matchLabels": service["spec"]["selector"]}, pod) for pod in foreign)
    for policy in of_kind(one, "NetworkPolicy"):
        assert not any(selects(policy["spec"]["podSelector"], pod) for pod in foreign)


@every_installation
def test_every_object_says_whose_it_is(installation: str) -> None:
    """Kubernetes' recommended labels, with the release's name; what somebody adds is his own affair."""
    for document in installed(installation):
        if named(document) in {"corporate-ca", f"{RELEASE}-text"}:
            continue
        assert labels(document)["app.kubernetes.io/instance"] == RELEASE, named(document)
        assert labels(document)["app.kubernetes.io/managed-by"] == "Helm"
        assert VALUES[installation].get("commonLabels", {}).items() <= labels(document).items()


@every_installation
def test_services_lead_to_pods_and_ports_that_exist(installation: str) -> None:
    """Every Service selects one workload's pods, or those of all its partitions; target ports are named there, and all
    say their protocol.
    """
    documents = installed(installation)
    for service in of_kind(documents, "Service"):
        hit = [pod for pod in served(documents).values() if selects({"matchLabels": service["spec"]["selector"]}, pod)]
        assert len({labels(pod)["app.kubernetes.io/component"] for pod in hit}) == 1, named(service)
        assert len(hit) == 1 or all("throughline/partition" in labels(pod) for pod in hit), named(service)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= port_names(hit[0])
        assert all(port["appProtocol"] for port in service["spec"]["ports"])
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"


@every_installation
def test_workloads_select_their_own_pods_and_nobody_elses(installation: str) -> None:
    """A workload's selector matches its template and no other; a StatefulSet's governing Service is there."""
    documents = installed(installation)
    services = {named(service) for service in of_kind(documents, "Service")}
    for workload in of_kind(documents, "Deployment", "StatefulSet"):
        spec = workload["spec"]
        hit = [name for name, pod in pods(documents).items() if selects(spec["selector"], pod)]
        assert hit == [f"{workload['kind']}/{named(workload)}"]
        if workload["kind"] == "StatefulSet":
            assert spec["serviceName"] in services


@every_installation
def test_each_service_has_a_budget_that_lets_nodes_be_drained(installation: str) -> None:
    """One PodDisruptionBudget per service, or per partition, which hits its pods and never forbids everything."""
    documents = installed(installation)
    budgets = list(of_kind(documents, "PodDisruptionBudget"))
    assert len(budgets) == len(list(of_kind(documents, "Deployment")))
    for budget in budgets:
        hit = [name for name, pod in pods(documents).items() if selects(budget["spec"]["selector"], pod)]
        assert hit == [f"Deployment/{named(budget)}"]
        assert budget["spec"]["maxUnavailable"] >= 1


@every_installation
def test_what_is_scaled_has_no_number_of_its_own(installation: str) -> None:
    """Autoscalers name a Deployment that exists and leaves `replicas` out; every other Deployment says it."""
    documents = installed(installation)
    scaled = {
        each["spec"]["scaleTargetRef"]["name"] for each in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
    }
    deployments = {named(each): each["spec"] for each in of_kind(documents, "Deployment")}
    assert scaled <= deployments.keys()
    assert {name for name, spec in deployments.items() if "replicas" not in spec} == scaled


def test_scaling_by_lag_asks_for_the_service_in_question() -> None:
    """KEDA's query names this release, its namespace and the service, as the monitors label what they scrape."""
    documents = installed("everything")
    scaled = {named(each): each["spec"]["triggers"] for each in of_kind(documents, "ScaledObject")}
    assert scaled.keys() == {f"clients-{each}" for each in SERVICES} - {"clients-scoring"}
    assert [each["type"] for each in scaled["clients-ingestion"]] == ["cpu"]
    query = scaled["clients-journey"][1]["metadata"]["query"]
    assert 'namespace="crm", throughline_release="shop", throughline_service="journey"' in query


@every_installation
def test_mounts_volumes_and_secrets_fit_together(installation: str) -> None:
    """Every mount has its volume, and secrets and ConfigMaps are read by a pod, or by Grafana."""
    documents = installed(installation)
    read: set[str] = set()
    claims = {
        f"StatefulSet/{named(each)}": {named(claim) for claim in each["spec"].get("volumeClaimTemplates", [])}
        for each in of_kind(documents, "StatefulSet")
    }
    for name, pod in pods(documents).items():
        spec = pod["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims.get(name, set())
        for volume in spec.get("volumes", []):
            read.add(volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName") or "")
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
            read |= {each["configMapRef"]["name"] for each in container.get("envFrom", [])}
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                read.add(source.get("secretKeyRef", {}).get("name", ""))
    made = {
        named(each)
        for each in of_kind(documents, "Secret", "ConfigMap")
        if "grafana_dashboard" not in labels(each) and named(each) != f"{RELEASE}-text"
    }
    made |= {each["spec"]["target"]["name"] for each in of_kind(documents, "ExternalSecret")}
    assert made <= read


@every_installation
def test_routes_lead_each_service_of_grpc_to_its_own(installation: str) -> None:
    """GRPCRoute and Ingress name Services that exist, and calls go where their gRPC service is served."""
    documents = installed(installation)
    ports = {
        named(each): {p["name"]: p["port"] for p in each["spec"]["ports"]} for each in of_kind(documents, "Service")
    }
    for route in of_kind(documents, "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            (backend,) = rule["backendRefs"]
            assert ports[backend["name"]]["grpc"] == backend["port"]
            service = backend["name"].rpartition("-")[2]
            assert rule["matches"][0]["method"]["service"] == f"throughline.{service}.v1.{service.title()}Service"
        assert len(route["spec"]["rules"]) == len(SERVICES)
    for ingress in of_kind(documents, "Ingress"):
        (rule,) = ingress["spec"]["rules"]
        for path in rule["http"]["paths"]:
            service = path["backend"]["service"]
            assert service["port"]["name"] in ports[service["name"]]
            assert service["name"].rpartition("-")[2] in path["path"]


@every_installation
def test_each_service_has_its_own_schema_and_only_three_can_open_personal_values(installation: str) -> None:
    """Journey and scoring are given no key-encryption key and no way to the key store."""
    documents = installed(installation)
    prefix = VALUES[installation].get("postgres", {}).get("schemaPrefix", "")
    for pod in served(documents).values():
        service = labels(pod)["app.kubernetes.io/component"]
        if service not in SERVICES:
            continue
        told = environment(documents, pod)
        assert told["POSTGRES_SCHEMA"] == prefix + service
        opens = {"THROUGHLINE_KEY_ENCRYPTION_KEY", "THROUGHLINE_KEY_STORE", "THROUGHLINE_FORGOTTEN_LIST"} & told.keys()
        assert bool(opens) == (service in {"ingestion", "identity", "feedback"}), service


def test_in_production_each_service_signs_in_as_itself() -> None:
    """Five roles, five passwords, and the key store is entered as the same role."""
    documents = installed("production")
    told = {
        labels(pod)["app.kubernetes.io/component"]: environment(documents, pod) for pod in served(documents).values()
    }
    assert told.keys() == set(SERVICES)
    for service, variables in told.items():
        assert variables["POSTGRES_USER"] == f"throughline_{service}"
        assert variables["POSTGRES_PASSWORD"]["secretKeyRef"] == {"name": "throughline-postgres", "key": service}
        assert variables.get("THROUGHLINE_KEY_STORE", f"//throughline_{service}@").count(f"//throughline_{service}@")
        assert variables["PGSSLMODE"] == "verify-full"
        assert variables["THROUGHLINE_NATS_REPLICAS"] == "3"


@every_installation
def test_an_ending_pod_has_time_for_everything(installation: str) -> None:
    """Before the kill: preStop, draining, calls under way, and ten seconds for the writer and the relay."""
    documents = installed(installation)
    for deployment in of_kind(documents, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        told = environment(documents, deployment["spec"]["template"])
        pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        taken = pause + int(told["THROUGHLINE_DRAIN_SECONDS"]) + int(told["THROUGHLINE_GRACE_SECONDS"])
        assert spec["terminationGracePeriodSeconds"] - taken == 10
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_changed_setting_starts_pods_anew() -> None:
    """checksum/config follows the ConfigMap, and nothing else does."""

    def checksums(**changes: object) -> set[str]:
        found = of_kind(render(changed({}, **changes)), "Deployment")
        return {each["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for each in found}

    assert len(checksums()) == 1
    assert checksums() == checksums(defaults__replicas=2)
    assert checksums() != checksums(logLevel="debug")


def test_a_service_s_own_settings_are_stronger_key_by_key() -> None:
    """Also where they say no, nothing or none, and what is not said comes from the defaults."""
    values = {
        "defaults": {"autoscaling": {"enabled": True}, "preStopSeconds": 7, "podAnnotations": {"a": "1", "b": "1"}},
        "services": {
            "journey": {"autoscaling": {"enabled": False}, "preStopSeconds": 0, "podAnnotations": {"a": "2"}},
        },
    }
    documents = render(values)
    journey, scoring = (
        next(each for each in of_kind(documents, "Deployment") if named(each).endswith(name))
        for name in ("journey", "scoring")
    )
    assert journey["spec"]["replicas"] == 1
    assert "replicas" not in scoring["spec"]
    told = journey["spec"]["template"]
    assert told["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 0
    assert {"a": "2", "b": "1"}.items() <= told["metadata"]["annotations"].items()


def test_the_quick_start_bus_and_store_write_through() -> None:
    """JetStream syncs always, and PostgreSQL's fsync is said aloud."""
    documents = installed("default")
    config = next(each for each in of_kind(documents, "ConfigMap") if named(each).endswith("-nats"))
    assert 'sync_interval: "always"' in config["data"]["nats.conf"]
    postgres = pods(documents)["StatefulSet/shop-throughline-postgres"]["spec"]["containers"][0]
    assert {"fsync=on", "synchronous_commit=on", "full_page_writes=on"} <= set(postgres["args"])


def test_keys_that_the_chart_makes_outlive_it_and_cannot_be_replaced() -> None:
    """Secrets are kept at uninstall, and immutable: a tool that renders anew is refused by the API server."""
    secrets = list(of_kind(installed("default"), "Secret"))
    assert {named(each) for each in secrets} == {
        f"shop-throughline-{each}" for each in ("keys", "nats", "postgres", "postgres-roles")
    }
    for secret in secrets:
        assert secret["immutable"]
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@every_installation
def test_the_notes_end_in_three_commands_that_fit(installation: str) -> None:
    """What to do next, in the release's own names."""
    notes = next(text for path, text in render_files(VALUES[installation]).items() if path.endswith("NOTES.txt"))
    commands = [line.strip() for line in notes.splitlines() if line.strip().startswith(("kubectl", "helm"))]
    assert len(commands) >= 3
    assert all("--namespace crm" in command for command in commands)
    name = VALUES[installation].get("fullnameOverride", "shop-throughline")
    assert f"service/{name}-ingestion" in notes
    assert ("get secret" in notes) == any(of_kind(installed(installation), "Secret"))


def test_bus_and_store_do_not_restart_for_another_version_of_the_chart() -> None:
    """Nothing in their pods tells of the version; in the services' pods it stands."""
    version = f"throughline-{yaml.safe_load((CHART / 'Chart.yaml').read_text())['version']}"
    for name, pod in served(installed("default")).items():
        assert (version in str(pod)) == name.startswith("Deployment/"), name
