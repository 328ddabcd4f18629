"""Policies: what no pod, role or network of the chart may have, whatever its values."""

from __future__ import annotations

import re

import pytest
from chart.rendering import (
    RELEASE,
    SERVICES,
    VALUES,
    Document,
    changed,
    containers,
    every_installation,
    installed,
    labels,
    named,
    of_kind,
    pods,
    port_names,
    render,
    selects,
    served,
)

RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECRETIVE = re.compile(r"PASSWORD|TOKEN|SECRET|_KEY\b|_KEYS\b")
ARROWS = {
    "nats": {*SERVICES, "preflight"},
    "postgres": {*SERVICES, "preflight", "prepare"},
}
"""Who may open a connection to whom inside a release."""


@every_installation
def test_every_pod_is_restricted(installation: str) -> None:
    """The `restricted` profile of the Pod Security Standards, and a root file system that nobody writes to."""
    for name, pod in pods(installed(installation)).items():
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= RESTRICTED_VOLUMES, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", []))


@every_installation
def test_every_container_is_bounded(installation: str) -> None:
    """CPU and memory are asked for, and memory has a limit; a volume in memory has one too."""
    for name, pod in pods(installed(installation)).items():
        for container in containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
        for volume in pod["spec"].get("volumes", []):
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                assert volume["emptyDir"]["sizeLimit"], name


@every_installation
def test_what_serves_is_probed(installation: str) -> None:
    """Three probes each; services by gRPC's own health: by name for starting and readiness, and whether they live."""
    for name, pod in served(installed(installation)).items():
        (container,) = pod["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
        service = labels(pod)["app.kubernetes.io/component"]
        if service in SERVICES:
            # Over TLS there is a port for health alone: Kubernetes' probes cannot speak it.
            port = 50061 if VALUES[installation].get("tls", {}).get("enabled") else 50051
            own = {"port": port, "service": f"throughline.{service}.v1.{service.title()}Service"}
            assert container["startupProbe"]["grpc"] == container["readinessProbe"]["grpc"] == own
            assert container["livenessProbe"]["grpc"] == {"port": port, "service": "liveness"}
            assert port in {each["containerPort"] for each in container["ports"]}


@every_installation
def test_images_are_pinned_and_pulled_with_the_same_credentials(installation: str) -> None:
    """No image is without a version, none is `latest`; a digest given is used; pull secrets are every pod's."""
    values = VALUES[installation].get("image", {})
    for name, pod in pods(installed(installation)).items():
        wanted = [{"name": each} for each in values.get("pullSecrets", [])]
        assert pod["spec"].get("imagePullSecrets", []) == wanted, name
        for container in containers(pod):
            image = container["image"]
            assert ":" in image, name
            assert not image.endswith(":latest")
            for one, digest in values.get("digests", {}).items():
                assert f"-{one}:" not in image
                assert f"-{one}@" not in image or image.endswith(f"@{digest}")


@every_installation
def test_no_secret_stands_in_the_clear(installation: str) -> None:
    """Passwords and keys come from secrets: no variable, ConfigMap or annotation holds one."""
    documents = installed(installation)
    for name, pod in pods(documents).items():
        for container in containers(pod):
            for variable in container.get("env", []):
                if SECRETIVE.search(variable["name"]) and "value" in variable:
                    assert variable["value"].startswith(("$(", '"$(', "/etc/throughline/")), (
                        f"{name}: {variable['name']}"
                    )
            for variable in container.get("env", []):
                assert not re.search(r"://[^/@]*:[^/@]*@", variable.get("value", "")), name
    for config in of_kind(documents, "ConfigMap"):
        assert not any(SECRETIVE.search(key) for key in config["data"])


@every_installation
def test_every_pod_has_an_account_of_its_own_or_none(installation: str) -> None:
    """Services run under accounts of their own, without a token; nobody is granted anything by the chart."""
    documents = installed(installation)
    accounts = {named(each): each for each in of_kind(documents, "ServiceAccount")}
    for name, pod in pods(documents).items():
        account = pod["spec"].get("serviceAccountName")
        assert account is None or accounts[account]["automountServiceAccountToken"] is False, name
    users: dict[str, set[str]] = {}
    for pod in pods(documents).values():
        if "serviceAccountName" in pod["spec"]:
            users.setdefault(pod["spec"]["serviceAccountName"], set()).add(labels(pod)["app.kubernetes.io/component"])
    assert users.keys() == accounts.keys()
    # Partitions of one service are one component.
    assert all(len(each) == 1 for each in users.values())


def _policies_of(documents: list[Document], pod: Document, direction: str) -> list[Document]:
    return [
        policy["spec"]
        for policy in of_kind(documents, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod)
    ]


def _peer_hits(peer: Document, pod: Document) -> bool:
    return peer.keys() == {"podSelector"} and selects(peer["podSelector"], pod)


def _may_call(documents: list[Document], caller: Document, called: Document) -> bool:
    """Whether both sides let a connection pass, to any port of the called pod."""
    out = [
        rule
        for policy in _policies_of(documents, caller, "Egress")
        for rule in policy.get("egress", [])
        if any(_peer_hits(peer, called) for peer in rule.get("to", []))
    ]
    into = [
        rule
        for policy in _policies_of(documents, called, "Ingress")
        for rule in policy.get("ingress", [])
        if any(_peer_hits(peer, caller) for peer in rule["from"])
    ]
    named_ports = port_names(called)
    for rules in (out, into):
        assert all(port["port"] in named_ports for rule in rules for port in rule["ports"])
    return bool(out and into)


def test_the_network_has_the_arrows_of_the_architecture_and_no_other() -> None:
    """Inside a release: services reach bus and store, the test reaches services; no service reaches another."""
    documents = installed("default")
    everybody = {labels(pod)["app.kubernetes.io/component"]: pod for pod in pods(documents).values()}
    allowed = {
        (caller, called)
        for caller, calling in everybody.items()
        for called, pod in everybody.items()
        if _may_call(documents, calling, pod)
    }
    expected = {(caller, called) for called, callers in ARROWS.items() for caller in callers}
    assert allowed == expected | {("test", service) for service in SERVICES}


@every_installation
def test_policies_hit_pods_and_name_ports_that_exist(installation: str) -> None:
    """No policy is about nobody, every named port is one of the pods', and every pod is denied what no rule lets."""
    documents = installed(installation)
    everybody = pods(documents)
    policies = list(of_kind(documents, "NetworkPolicy"))
    for policy in policies:
        hit = [pod for pod in everybody.values() if selects(policy["spec"]["podSelector"], pod)]
        assert hit, named(policy)
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], f"{named(policy)} lets everybody in"
            for pod in hit:
                assert {port["port"] for port in rule["ports"]} <= port_names(pod), named(policy)
    if policies:
        for name, pod in everybody.items():
            for direction in ("Ingress", "Egress"):
                assert _policies_of(documents, pod, direction), f"{name} is open"


def test_what_is_elsewhere_is_reached_on_its_own_port_alone() -> None:
    """NATS, PostgreSQL and the collector: the ports of their addresses; nobody but the named callers comes in."""
    documents = installed("everything")
    (services,) = (each for each in of_kind(documents, "NetworkPolicy") if named(each) == "clients-services")
    ports = [[port["port"] for port in rule["ports"]] for rule in services["spec"]["egress"]]
    assert ports == [[53, 53], [4223], [6432], [8222], [4317], [443]]
    callers = {
        named(each): each["spec"]["ingress"][0]["from"]
        for each in of_kind(documents, "NetworkPolicy")
        if "callers" in named(each)
    }
    assert "clients-scoring-callers" not in callers
    assert callers["clients-ingestion-callers"][1]["ipBlock"]["cidr"] == "10.0.0.0/8"
    (production,) = (
        each for each in of_kind(installed("production"), "NetworkPolicy") if named(each).endswith("-services")
    )
    assert [port["port"] for port in production["spec"]["egress"][1]["ports"]] == [4222]
    assert all("to" in rule for rule in production["spec"]["egress"])


@pytest.mark.parametrize(
    ("auth", "port"),
    [
        ({"issuer": "https://login.shop.eu/realms/shop"}, 443),
        ({"issuer": "http://login.identity:8080/realms/shop"}, 8080),
        ({"issuer": "https://login.shop.eu", "jwks": "http://keys.identity/jwks"}, 80),
        ({"issuer": "https://login.shop.eu", "keySecret": "key"}, None),
    ],
)
def test_services_reach_whoever_has_the_keys_of_tokens(auth: Document, port: int | None) -> None:
    """On the port of that address, anywhere or where it is said to be; not where the key is mounted."""
    given = {"by": ["jwt"], "audience": "throughline", "provedElsewhere": True, **auth}
    values = {"auth": given, "helmTest": {"enabled": False}}
    before, anywhere = _egress({}), _egress(values)
    there = [{"ipBlock": {"cidr": "10.2.0.0/16"}}]
    narrowed = _egress(changed(values, networkPolicy__issuer=there))
    rule: Document = {"ports": [{"protocol": "TCP", "port": port}]}
    assert [each for each in anywhere if each not in before] == ([rule] if port else [])
    assert [each for each in narrowed if each not in before] == ([{**rule, "to": there}] if port else [])


def _egress(values: Document) -> list[Document]:
    (services,) = (each for each in of_kind(render(values), "NetworkPolicy") if named(each).endswith("-services"))
    return services["spec"]["egress"]


def test_the_default_release_is_named_after_itself() -> None:
    """Every name begins with the release's."""
    assert all(named(each).startswith(RELEASE) for each in installed("default"))
