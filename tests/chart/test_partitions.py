"""Partitions of ingestion: each is run by itself, all are found together, and a change of their number is a Job."""

from __future__ import annotations

from collections.abc import Sequence

import helm_python
import kubernetes_validate
import pytest
from chart.rendering import (
    SUPPORTED,
    VALUES,
    Document,
    changed,
    containers,
    environment,
    installed,
    labels,
    named,
    of_kind,
    pods,
    render,
    selects,
    served,
)

from throughline_client.installation import Installation
from throughline_eventlog import PARTITIONS, rights_of
from throughline_rpc import HostSettings

NAME = "shop-throughline"


def of_partitions(counts: Sequence[int], **more: object) -> Document:
    """The chart's values for ingestion parted so."""
    return changed({}, services__ingestion={"partitions": list(counts)}, **more)


def ingestion(documents: list[Document]) -> dict[str, Document]:
    """Its Deployments, by name."""
    return {
        named(each): each
        for each in of_kind(documents, "Deployment")
        if labels(each)["app.kubernetes.io/component"] == "ingestion"
    }


@pytest.mark.parametrize(
    ("counts", "numbers"), [([1, 2], (100, 101)), ([1, 2, 3], (200, 201, 202)), ([1, 2, 1], (200,)), ([1], (0,))]
)
def test_each_partition_in_force_is_told_its_number_and_takes_it(counts: list[int], numbers: tuple[int, ...]) -> None:
    """As the service itself reads its settings; every other service is told the same partitions."""
    documents = render(of_partitions(counts))
    taken: list[int] = []
    for pod in served(documents).values():
        component = labels(pod)["app.kubernetes.io/component"]
        if component in {"nats", "postgres"}:
            continue
        told = {name: value for name, value in environment(documents, pod).items() if isinstance(value, str)}
        settings = HostSettings.from_env(component, {"THROUGHLINE_PORT": "0"} | told)
        assert settings.partitioning.counts("ingestion") == tuple(counts)
        if component == "ingestion":
            taken.append(settings.partition)
    assert tuple(sorted(taken)) == numbers


@pytest.mark.parametrize("counts", [[1], [1, 2, 1]])
def test_one_partition_is_named_as_ever(counts: list[int]) -> None:
    """Its objects have the names, and its selectors the labels, of an installation that was never parted."""

    def kept(documents: list[Document]) -> set[tuple[str, str, str]]:
        return {
            (each["kind"], named(each), str(each["spec"].get("selector")))
            for each in of_kind(documents, "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy")
        }

    assert kept(render(of_partitions(counts))) == kept(installed("default"))
    assert "INGESTION_PEERS" not in str(render(of_partitions(counts)))


def test_partitions_find_each_other_by_index_and_callers_find_them_all() -> None:
    """A Service for each partition alone, listed in order; one over all, to which routes and tests lead as ever."""
    documents = installed("partitioned")
    services = {named(each): each["spec"] for each in of_kind(documents, "Service")}
    running = ingestion(documents)
    assert running.keys() == {f"{NAME}-ingestion-100", f"{NAME}-ingestion-101"}
    for name, deployment in running.items():
        pod = deployment["spec"]["template"]
        peers = environment(documents, pod)["THROUGHLINE_INGESTION_PEERS"].split(",")
        assert peers == [f"{NAME}-ingestion-100:50051", f"{NAME}-ingestion-101:50051"]
        hit = [each for each, spec in services.items() if selects({"matchLabels": spec["selector"]}, pod)]
        assert sorted(hit) == [f"{NAME}-ingestion", name]
        assert deployment["spec"]["replicas"] == 2
        assert services[name]["clusterIP"] == "None"
    routed = render(changed(of_partitions([1, 2]), route={"enabled": True, "parentRefs": [{"name": "public"}]}))
    (route,) = of_kind(routed, "GRPCRoute")
    backends = [rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"]]
    assert [each for each in backends if "ingestion" in each] == [f"{NAME}-ingestion"]


def test_partitions_may_call_each_other_and_one_alone_nobody() -> None:
    """A NetworkPolicy from ingestion to ingestion, where there are several."""
    (policy,) = (each for each in of_kind(installed("partitioned"), "NetworkPolicy") if named(each).endswith("-peers"))
    ours = [{"podSelector": policy["spec"]["podSelector"]}]
    port = [{"protocol": "TCP", "port": "grpc"}]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "ingestion"
    assert policy["spec"]["ingress"] == [{"from": ours, "ports": port}]
    assert policy["spec"]["egress"] == [{"to": ours, "ports": port}]
    assert not [each for each in of_kind(installed("default"), "NetworkPolicy") if named(each).endswith("-peers")]


def test_partitions_prove_themselves_by_a_certificate_of_their_own_names_and_the_role_service() -> None:
    """Of ingestion alone, and where there are several alone."""
    made = {named(each): each["spec"] for each in of_kind(installed("partitioned"), "Certificate")}
    own = made[f"{NAME}-ingestion"]
    assert own["uris"] == ["urn:throughline:role:service"]
    names = {f"{NAME}-ingestion", f"{NAME}-ingestion-100", f"{NAME}-ingestion-101.crm.svc.cluster.local"}
    assert names <= set(own["dnsNames"])
    assert "uris" not in made[f"{NAME}-identity"]
    one = render(changed(VALUES["partitioned"], services__ingestion={}))
    (alone,) = (each for each in of_kind(one, "Certificate") if named(each) == f"{NAME}-ingestion")
    assert "uris" not in alone["spec"]
    assert len(alone["spec"]["dnsNames"]) == 4


def test_users_of_the_bus_may_do_what_the_partitions_in_force_need() -> None:
    """Every subject that the code says, and those of no partition of before."""
    (config,) = (each for each in of_kind(installed("partitioned"), "ConfigMap") if named(each) == f"{NAME}-nats")
    text = config["data"]["nats.conf"]
    numbers = {"ingestion": (100, 101)}
    for service in ("ingestion", "identity"):
        for subject in rights_of(service, partitions=numbers).publish:
            assert f'"{subject}"' in text, subject
    assert "INGESTION_0" not in text


def test_a_change_is_a_job_for_which_ingestion_stands_still() -> None:
    """It is told the partitions of before, and has two services' passwords, the signing keys and a way to the store."""
    documents = render(changed({}, partitioning__to=2))
    (job,) = (each for each in of_kind(documents, "Job") if "partitions" in named(each))
    for version in SUPPORTED:
        kubernetes_validate.validate(job, version, strict=True)
    assert named(job) == f"{NAME}-partitions-1"
    pod = job["spec"]["template"]
    (container,) = containers(pod)
    assert container["args"][:4] == ["partitions", "set", "ingestion", "2"]
    told = environment(documents, pod)
    assert PARTITIONS not in told
    installation = Installation.from_env({name: value for name, value in told.items() if isinstance(value, str)})
    assert installation.store("ingestion", 101).environment["POSTGRES_SCHEMA"] == "ingestion_101"
    secret = {name for name, value in told.items() if not isinstance(value, str)}
    assert secret == {"THROUGHLINE_SIGNING_KEYS", "IDENTITY_POSTGRES_PASSWORD", "INGESTION_POSTGRES_PASSWORD"}
    assert {name: each["spec"]["replicas"] for name, each in ingestion(documents).items()} == {f"{NAME}-ingestion": 0}
    (prepare,) = (each for name, each in pods(documents).items() if name.startswith("Job/") and "prepare" in name)
    assert environment(documents, prepare)[PARTITIONS] == "ingestion=1:2"
    policies = {named(each): each["spec"] for each in of_kind(documents, "NetworkPolicy")}
    assert selects(policies[f"{NAME}-partitions"]["podSelector"], pod)
    assert any(selects(each["podSelector"], pod) for each in policies[f"{NAME}-postgres"]["ingress"][0]["from"])
    (again,) = (
        each
        for each in of_kind(render(of_partitions([1, 2], partitioning__to=3)), "Job")
        if "partitions" in named(each)
    )
    assert environment([], again["spec"]["template"])[PARTITIONS] == "ingestion=1:2"


def test_nothing_scales_a_service_up_whose_log_is_being_parted() -> None:
    """Neither the autoscaler nor the Deployment's own number."""
    documents = render(changed(VALUES["everything"], partitioning__to=2))
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(documents, "ScaledObject")}
    assert scaled == {"clients-feedback", "clients-identity", "clients-journey"}
    assert [each["spec"]["replicas"] for each in ingestion(documents).values()] == [0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (changed({}, services__identity={"partitions": [1, 2]}), "who may be one client is decided in one order"),
        (changed({}, services__scoring={"partitions": [1, 1]}), "scorecards count over all clients"),
        (changed({}, defaults={"partitions": [1, 2]}), "set services.ingestion.partitions"),
        (of_partitions([2]), "begin the list with 1"),
        (of_partitions([1, 65]), "65"),
        (of_partitions([1, 2], partitioning__to=2), "set partitioning.to to 0"),
        (
            changed({}, services__ingestion={"partitions": [1, 2], "autoscaling": {"enabled": True}}),
            "set services.ingestion.autoscaling.enabled to false",
        ),
        (
            changed(
                VALUES["partitioned"],
                auth={"by": ["jwt"], "issuer": "https://i", "audience": "a"},
                helmTest__enabled=False,
            ),
            "add certificate to auth.by",
        ),
        (
            changed(VALUES["partitioned"], auth={"by": []}, tls__clientCertificates="none", k8sClient__enabled=False),
            "set tls.clientCertificates to required",
        ),
        (
            changed(VALUES["partitioned"], auth__callers={"till": {"roles": ["channel"]}}),
            "add that of ingestion, with roles [service]",
        ),
        (
            changed({}, services__ingestion={"extraEnv": [{"name": "THROUGHLINE_PARTITION", "value": "100"}]}),
            "extraEnv sets THROUGHLINE_PARTITION",
        ),
    ],
)
def test_what_cannot_be_parted_so_is_refused(values: Document, sentence: str) -> None:
    """With the reason, or with what to set."""
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert sentence in str(refused.value)


def test_callers_that_are_named_may_be_partitions_too() -> None:
    """One of role service among `auth.callers` is enough."""
    render(changed(VALUES["partitioned"], auth__callers={f"{NAME}-ingestion": {"roles": ["service"]}}))
