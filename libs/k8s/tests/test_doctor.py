"""`throughline k8s doctor` through the real client of Kubernetes: a release that is well, and one broken at a time."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kube_api import KubeApi
from kube_release import RELEASE, ready_pod, rendered, rules, run_release

from throughline_k8s import reading
from throughline_k8s.findings import findings
from throughline_k8s.release import Pod, Snapshot, Workload

Run = Callable[..., Result]


def found(result: Result) -> dict[tuple[str, str], str]:
    """What was found, by check and severity."""
    return {(each["check"], each["severity"]): f"{each['about']} {each['says']}" for each in told(result)["findings"]}


def told(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout)


def name(component: str) -> str:
    return f"{RELEASE}-throughline-{component}"


def test_a_release_that_is_well_has_nothing_to_be_said_of(run: Run, api: KubeApi) -> None:
    """Every service and the bus were asked by way of the API; with the chart's role nothing was refused."""
    result = run("doctor", "--output", "json")
    assert result.exit_code == 0, result.output
    assert told(result)["findings"] == []
    assert {each["component"] for each in told(result)["services"]} == {
        "ingestion",
        "identity",
        "journey",
        "feedback",
        "scoring",
    }
    assert [each["sync_always"] for each in told(result)["bus"]] == [True]
    assert told(result)["kubernetes"] == "v1.34.2"
    assert all(abs(each["ahead"]) < 2 for each in told(result)["services"])
    assert "Nothing is wrong." in run("doctor").stdout
    assert all(method == "GET" for method, _ in api.asked)


def test_a_lazy_bus_is_a_fault(run: Run, api: KubeApi, start_bus: Callable[[str], int]) -> None:
    """What the server itself says is told, not what its configuration should be."""
    api.ports[f"{name('nats')}-0", 8222] = start_bus("2m")
    result = run("doctor", "--output", "json")
    assert result.exit_code == 6
    assert "acknowledges before it syncs, which is every 120 s" in found(result)["fsync", "fault"]


def test_a_store_that_was_told_not_to_sync_is_a_fault(run: Run, api: KubeApi, unsynced_metrics_port: int) -> None:
    """What PostgreSQL itself answers its service now, wherever it runs, and not what it was started with."""
    api.ports[f"{name('identity')}-0", 9464] = unsynced_metrics_port
    result = run("doctor", "--output", "json")
    assert result.exit_code == 6
    said = [each for each in told(result)["findings"] if each["check"] == "fsync"]
    (only,) = said
    assert only["about"] == f"PostgreSQL of identity ({name('identity')}-0)"
    assert only["says"].startswith("answers that fsync is off")
    assert len(told(result)["services"]) == 5


def test_a_pod_that_cannot_be_asked_is_told_and_the_rest_is_looked_at(run: Run, api: KubeApi) -> None:
    """A port where nobody listens costs that pod's figures, no more."""
    api.ports[f"{name('journey')}-0", 9464] = 1
    result = run("doctor", "--output", "json")
    assert f"metrics of pod {name('journey')}-0 could not be looked at" in found(result)["access", "warning"]
    assert len(told(result)["services"]) == 4


def test_what_one_may_not_see_is_named_with_the_value_that_allows_it(run: Run, api: KubeApi) -> None:
    """Without the chart's role for claims: a note, and everything else all the same."""
    assert api.rules is not None
    for rule in api.rules:
        rule["resources"] = [each for each in rule["resources"] if each != "persistentvolumeclaims"]
    result = run("doctor", "--output", "json")
    assert result.exit_code == 0
    assert [each["check"] for each in told(result)["findings"]] == ["access"]
    assert "k8sClient.subjects" in told(result)["findings"][0]["says"] + told(result)["findings"][0]["remedy"]


def _missing(api: KubeApi) -> None:
    api.objects.pop(("deployments", name("scoring")))


def _not_ready(api: KubeApi) -> None:
    api.objects["deployments", name("identity")]["status"]["readyReplicas"] = 0


def _rolling(api: KubeApi) -> None:
    api.objects["deployments", name("identity")]["metadata"]["generation"] = 2


def _killed(api: KubeApi) -> None:
    status = api.objects["pods", f"{name('feedback')}-0"]["status"]["containerStatuses"][0]
    status.update(restartCount=4, lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})


def _unpullable(api: KubeApi) -> None:
    pod = api.objects["pods", f"{name('journey')}-0"]
    pod["status"]["phase"] = "Pending"
    pod["status"]["containerStatuses"][0].update(
        state={"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}
    )


def _no_probe(api: KubeApi) -> None:
    pod = api.objects["deployments", name("ingestion")]["spec"]["template"]["spec"]
    del pod["containers"][0]["readinessProbe"]


def _unsafe(api: KubeApi) -> None:
    pod = api.objects["pods", f"{name('ingestion')}-0"]["spec"]
    pod["containers"][0]["env"].append({"name": "THROUGHLINE_TEST_ONLY_UNSAFE_DURABILITY", "value": "yes"})


def _lazy_store(api: KubeApi) -> None:
    pod = api.objects["statefulsets", name("postgres")]["spec"]["template"]["spec"]
    pod["containers"][0]["args"].append("fsync=off")


def _no_volume(api: KubeApi) -> None:
    del api.objects["statefulsets", name("nats")]["spec"]["volumeClaimTemplates"]


def _pending_claim(api: KubeApi) -> None:
    api.objects["persistentvolumeclaims", f"data-{name('postgres')}-0"]["status"] = {"phase": "Pending"}


def _growing_claim(api: KubeApi) -> None:
    api.objects["persistentvolumeclaims", f"data-{name('postgres')}-0"]["status"]["conditions"] = [
        {"type": "FileSystemResizePending", "status": "True", "message": "waiting for the pod"}
    ]


def _told_otherwise(api: KubeApi) -> None:
    pod = api.objects["deployments", name("identity")]["spec"]["template"]["spec"]
    pod["containers"][0]["env"].append({"name": "THROUGHLINE_PARTITIONS", "value": "ingestion=1:2"})


def _two_images(api: KubeApi) -> None:
    pod = json.loads(json.dumps(api.objects["pods", f"{name('journey')}-0"]))
    pod["metadata"]["name"] = f"{name('journey')}-1"
    pod["spec"]["containers"][0]["image"] = "throughline-journey:another"
    api.objects["pods", pod["metadata"]["name"]] = pod
    api.ports[pod["metadata"]["name"], 9464] = api.ports[f"{name('journey')}-0", 9464]
    api.ports[pod["metadata"]["name"], 50051] = api.ports[f"{name('journey')}-0", 50051]


def _slow_clock(api: KubeApi) -> None:
    api.clock_ahead = 45.0


def _not_issued(api: KubeApi) -> None:
    api.unknown = set()
    _put_certificate(api, {"conditions": [{"type": "Ready", "status": "False", "reason": "DoesNotExist"}]})


def _expiring(api: KubeApi) -> None:
    api.unknown = set()
    soon = (datetime.now(UTC) + timedelta(days=20)).isoformat(timespec="seconds").replace("+00:00", "Z")
    _put_certificate(api, {"conditions": [{"type": "Ready", "status": "True"}], "notAfter": soon})


def _put_certificate(api: KubeApi, status: dict[str, Any]) -> None:
    labels = api.objects["deployments", name("ingestion")]["metadata"]["labels"]
    api.put(
        "certificates",
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": {"name": "tls", "labels": labels},
            "status": status,
        },
    )


def _no_eviction(api: KubeApi) -> None:
    api.objects["poddisruptionbudgets", name("identity")]["status"]["disruptionsAllowed"] = 0


@pytest.mark.parametrize(
    ("break_it", "finding", "says"),
    [
        (_missing, ("workloads", "fault"), "scoring has neither a StatefulSet nor a Deployment"),
        (_not_ready, ("replicas", "fault"), "0 of 1 pods are ready"),
        (_rolling, ("replicas", "warning"), "is being rolled out"),
        (_told_otherwise, ("partitions", "fault"), "are told different partitions: one each: "),
        (_killed, ("pods", "fault"), "was restarted 4 times, last OOMKilled (exit code 137)"),
        (_unpullable, ("pods", "fault"), "waits: ImagePullBackOff: no such tag"),
        (_no_probe, ("probes", "warning"), "has no readinessProbe"),
        (_unsafe, ("fsync", "fault"), "does not ask whether its store syncs"),
        (_lazy_store, ("fsync", "fault"), "PostgreSQL is started with fsync=off"),
        (_no_volume, ("fsync", "fault"), "keeps its data in no persistent volume"),
        (_pending_claim, ("claims", "fault"), "is Pending, of storage class standard"),
        (_growing_claim, ("claims", "warning"), "FileSystemResizePending: waiting for the pod"),
        (_two_images, ("versions", "warning"), "runs from several images"),
        (_slow_clock, ("clock", "fault"), "behind the Kubernetes API's clock"),
        (_not_issued, ("certificates", "fault"), "is not ready: DoesNotExist"),
        (_expiring, ("certificates", "warning"), "expires in 20.0 days"),
        (_no_eviction, ("replicas", "note"), "allows no eviction of identity now"),
    ],
)
def test_what_is_broken_is_found(
    run: Run, api: KubeApi, break_it: Callable[[KubeApi], None], finding: tuple[str, str], says: str
) -> None:
    """Each by its own finding, with a remedy; only a fault ends with exit code 6, with --strict a warning too."""
    break_it(api)
    result = run("doctor", "--output", "json")
    assert says in found(result).get(finding, ""), result.output
    assert all(each["remedy"] for each in told(result)["findings"])
    faults = [each for each in told(result)["findings"] if each["severity"] == "fault"]
    assert result.exit_code == (6 if faults else 0)
    if finding[1] == "warning":
        assert run("doctor", "--strict").exit_code == 6


def test_a_certificate_is_read_where_it_is_presented(run: Run, api: KubeApi, tmp_path: Path) -> None:
    """By a handshake through the API's port-forwarding: no secret is read."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "identity")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + timedelta(days=3))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "identity.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            # The doctor hangs up once it has read the certificate.
            with suppress(OSError), context.wrap_socket(plain, server_side=True) as wrapped:
                wrapped.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        api.ports[f"{name('identity')}-0", 50051] = listening.getsockname()[1]
        result = run("doctor", "--output", "json")
    assert result.exit_code == 6
    assert f"identity ({name('identity')}-0) expires in 3.0 days" in found(result)["certificates", "fault"]


def test_services_elsewhere_are_told_to_be_unseen(run: Run, metrics_port: int, tmp_path: Path) -> None:
    """A NATS and a PostgreSQL that the chart does not run are a note, not a clean bill."""
    documents = rendered(
        {
            "nats": {"enabled": False, "url": "nats://nats:4222", "monitorUrls": ["http://nats:8222"]},
            "postgres": {"enabled": False, "host": "postgres", "existingSecret": "postgres"},
        }
    )
    with KubeApi(tmp_path / "elsewhere", rules=rules(documents, "-viewer")) as api:
        run_release(api, documents)
        result = run("doctor", "--kubeconfig", str(api.kubeconfig), "--output", "json")
        assert unseen(result) == {"NATS", "PostgreSQL"}
        # A service that runs says what its PostgreSQL answers it.
        api.ports[f"{name('identity')}-0", 9464] = metrics_port
        assert unseen(run("doctor", "--kubeconfig", str(api.kubeconfig), "--output", "json")) == {"NATS"}


def unseen(result: Result) -> set[str]:
    return {each["about"] for each in told(result)["findings"] if each["check"] == "fsync"}


def test_nobody_known_and_nothing_there_are_told_apart(run: Run, api: KubeApi, tmp_path: Path) -> None:
    """Exit code 3 for an API that is away, 2 for a release that is not there or not the only one."""
    file = api.kubeconfig
    away = tmp_path / "away"
    away.write_text(file.read_text().replace("127.0.0.1:", "127.0.0.1:1"))
    assert run("doctor", "--kubeconfig", str(away)).exit_code == 3
    unknown = tmp_path / "unknown"
    unknown.write_text(file.read_text().replace("test-token", "another"))
    result = run("doctor", "--kubeconfig", str(unknown))
    assert (result.exit_code, "log in to the cluster again" in result.stderr) == (3, True)
    nothing = run("doctor", "--release", "none", "--output", "json")
    assert (nothing.exit_code, "nothing of it is in the namespace shop" in nothing.stdout) == (6, True)
    assert run("doctor", "--context", "none").exit_code == 2
    for labels in [each["metadata"]["labels"] for (of, _), each in api.objects.items() if of == "statefulsets"]:
        labels["app.kubernetes.io/instance"] = "other"
    several = run("doctor")
    assert (several.exit_code, "several are: crm, other" in several.stderr) == (2, True)


def test_partitions_that_are_not_as_they_should_be_are_faults() -> None:
    """Each in force has its Deployment, whose pods serve it and no other; as the chart makes them nothing is wrong."""
    values = {"services": {"ingestion": {"partitions": [1, 2]}}}
    made = [each for each in rendered(values) if each["kind"] == "Deployment"]
    workloads = [reading.workload(each) for each in made]

    def said(workloads: list[Workload], pods: list[Pod]) -> list[str]:
        seen = Snapshot(RELEASE, "crm", 0, "v1.34.2", "0.1.0", None, tuple(workloads), tuple(pods))
        return [f"{each.about} {each.says}" for each in findings(seen) if each.check == "partitions"]

    def pod(document: dict[str, Any], partition: str) -> Pod:
        ready = ready_pod(document, f"{document['metadata']['name']}-0")
        for variable in ready["spec"]["containers"][0]["env"]:
            if variable["name"] == "THROUGHLINE_PARTITION":
                variable["value"] = partition
        return reading.pod(ready)

    parted = {each["metadata"]["name"]: each for each in made if "-ingestion-" in each["metadata"]["name"]}
    running = [pod(each, named.rpartition("-")[2]) for named, each in parted.items()]
    assert said(workloads, running) == []
    one, other = running[0], pod(parted[name("ingestion-101")], "0")
    assert said(workloads, [one, other]) == [
        f"pod {name('ingestion-101')}-0 serves partition 0, of ingestion partitions 100, 101 are in force"
    ]
    lacking = [each for each in workloads if each.name != name("ingestion-101")]
    (missing,) = said(lacking, [one])
    assert missing.startswith("ingestion has no Deployment for partition 101")
