"""`throughline k8s replay` as a Job: through the real client of Kubernetes, as a real process against a real suite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from kube_api import KubeApi, permissions

from throughline_client.commands.running import Failure
from throughline_client.endpoints import SERVICES
from throughline_k8s import inside
from throughline_k8s.jobs import (
    SENT_BYTES,
    Asked,
    Finished,
    NotHereError,
    Said,
    Started,
    heard,
    in_the_cluster,
    job,
    told,
)
from throughline_k8s.remote import unpack
from throughline_testkit import eventually_sync

Run = Callable[..., Result]


def left(api: KubeApi) -> list[str]:
    """Jobs and their pods that are still there."""
    return [name for plural, name in api.objects if plural == "jobs" or "-replay-" in name]


def made(api: KubeApi) -> dict[str, Any]:
    """The template that Jobs are made of."""
    return next(each for (plural, _), each in api.objects.items() if plural == "cronjobs")


def test_a_replay_runs_in_the_cluster_and_its_result_comes_back(run: Run, served: KubeApi) -> None:
    """Printed as if it had run here, with the command's exit code; nothing of it is left, here or there."""
    result = run("replay", "all", "--output", "json")
    assert result.exit_code == 0, result.output
    assert {"ingestion", "scoring"} <= {each["service"] for each in json.loads(result.stdout)["services"]}
    assert "running: throughline replay all --output json" in result.stderr
    assert left(served) == []
    assert not Path("output").exists()


def test_files_that_a_command_writes_arrive(run: Run, served: KubeApi, tmp_path: Path) -> None:
    """A pack of evidence from inside the cluster is whole."""
    result = run("replay", "--into", str(tmp_path / "here"), "audit", "range", "journey", "--to", "RANGE.zip")
    assert result.exit_code == 0, result.output
    assert zipfile.ZipFile(tmp_path / "here" / "RANGE.zip").testzip() is None
    assert [each.name for each in (tmp_path / "here").iterdir()] == ["RANGE.zip"]


def test_a_failing_command_ends_with_its_own_code_and_words(run: Run, served: KubeApi) -> None:
    """Its exit code and what it said are its own; the Job is gone all the same."""
    result = run("replay", "client", "nobody")
    assert (result.exit_code, "nobody" in result.stderr) == (2, True), result.output
    assert left(served) == []


def test_the_charts_roles_allow_what_is_needed_and_no_more(run: Run, served: KubeApi) -> None:
    """Nothing that looking and working ask for is refused, and nothing is allowed that they never ask for."""
    served.unknown = set()
    assert run("doctor").exit_code == 0
    assert run("replay", "client", "nobody").exit_code == 2
    assert served.rules is not None
    # Newer versions of Kubernetes ask for it where a WebSocket is opened.
    assert permissions(served.rules) == served.needed | {("create", "", "pods/portforward")}


def test_a_log_that_breaks_off_is_taken_up_where_it_was(run: Run, served: KubeApi) -> None:
    """No line is told twice and none is missing."""
    served.break_log_after = 1
    result = run("replay", "all", "--output", "json")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("running: throughline replay all") == 1
    assert sum(path.endswith("/log") for _, path in served.asked) >= 2


def test_what_does_not_run_as_a_job_is_refused_before_anything_is_made(run: Run, api: KubeApi) -> None:
    """Exit code 2, with what does."""
    result = run("replay", "rebuild", "scoring")
    assert (result.exit_code, "these do: all, client" in result.stderr) == (2, True)
    assert ("POST", "/apis/batch/v1/namespaces/shop/jobs") not in api.asked


def test_without_the_role_the_value_that_gives_it_is_named(run: Run, api: KubeApi) -> None:
    """Whoever may only look is told what working needs."""
    assert api.rules is not None
    api.rules = [each for each in api.rules if "batch" not in each["apiGroups"]]
    result = run("replay", "all")
    assert (result.exit_code, "k8sClient.subjects" in result.stderr) == (3, True), result.output


def test_an_interruption_takes_the_job_away(api: KubeApi, tmp_path: Path) -> None:
    """SIGTERM while it waits: the Job is deleted before the command ends."""
    api.hold_pods = True
    command = [sys.executable, "-c", "from throughline_client.commands import main; main()", "k8s", "replay"]
    process = subprocess.Popen(
        [*command, "--kubeconfig", str(api.kubeconfig), "all"], cwd=tmp_path, env=os.environ, stderr=subprocess.PIPE
    )
    eventually_sync(lambda: bool(left(api)), why="no Job was made")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, left(api)) == (1, []), said


def test_a_job_is_the_charts_template_with_another_command(api: KubeApi) -> None:
    """Its image, settings and service account are the chart's; tried once, owned by the CronJob, with an end."""
    template = made(api)
    body = job(template, "crm-1", Asked(("replay", "all"), {"RULES.yaml": b"rules: []"}, limit=60))
    spec = body["spec"]["template"]["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("crm-throughline-replay", False)
    assert spec["containers"][0]["image"].startswith("throughline-cli:")
    assert spec["containers"][0]["args"][-2:] == ["replay", "all"]
    assert (body["spec"]["backoffLimit"], body["spec"]["activeDeadlineSeconds"]) == (0, 60)
    assert body["metadata"]["ownerReferences"][0]["uid"] == template["metadata"]["uid"]
    assert "RULES.yaml" in spec["containers"][0]["env"][-1]["value"]
    assert "RULES.yaml" not in json.dumps(template)
    with pytest.raises(NotHereError, match="at most"):
        job(template, "crm-1", Asked(("replay",), {"large": bytes(SENT_BYTES + 1)}))


def test_commands_are_typed_as_they_are_here() -> None:
    """Replays by their short name; what needs the stores takes them from its settings."""
    assert in_the_cluster(["client", "5f0c"]) == ("replay", "client", "5f0c")
    assert in_the_cluster(["rederive", "identity"])[-3:] == ("--from-environment", "--work", ".work")
    assert in_the_cluster(["audit", "forgotten", "5f0c"])[-1] == "--from-environment"
    assert in_the_cluster(["audit", "client", "5f0c"]) == ("audit", "client", "5f0c")
    assert in_the_cluster(["preflight", "--output", "json"]) == ("preflight", "--output", "json")
    for other in ([], ["up"], ["forget", "5f0c"]):
        with pytest.raises(NotHereError):
            in_the_cluster(other)


def test_what_a_job_says_is_read_as_it_was_said() -> None:
    """Lines of its own kind come back as they were; whatever else looks like one is a line for people."""
    for state in (Started(("replay", "all")), Finished(4, 12, "ab" * 32, ("output",))):
        assert heard(told(state)) == state
    for line in ("deciding again: 5,000", "throughline-job {", 'throughline-job {"state":"finished"}'):
        assert heard(line) == Said(line)


def test_inside_the_folder_is_the_result_but_for_what_was_sent_and_hidden(tmp_path: Path) -> None:
    """A name that leads out of the folder is taken by its last part."""
    sent = inside.receive('{"../RULES.yaml": "cnVsZXM="}', tmp_path)
    assert (tmp_path / "RULES.yaml").read_bytes() == b"rules"
    (tmp_path / "output").write_text("{}")
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "identity.db").write_bytes(b"x")
    assert inside.pack(tmp_path, tmp_path / ".result.tar", sent) == ("output",)


def test_port_forwarding_gives_every_other_command_its_services(run: Run, served: KubeApi) -> None:
    """`status` through it answers as it does beside the suite; without a ready pod it is told which."""
    script = "from throughline_client.commands import main; main()"
    result = run("port-forward", "--port-base", "0", "--", sys.executable, "-c", script, "status")
    assert result.exit_code == 0, result.output
    for status in [each["status"] for (of, name), each in served.objects.items() if of == "pods" and "journey" in name]:
        status["conditions"][1]["status"] = "False"
    result = run("port-forward", "--port-base", "0", "--", sys.executable, "-c", script, "status")
    assert (result.exit_code, "no pod of journey is ready" in result.stderr) == (3, True), result.output


def test_port_forwarding_reaches_each_partition(run: Run, served: KubeApi) -> None:
    """Of several the commands are told which there are, and where each is; pods that disagree are refused."""
    (name,) = (name for of, name in served.objects if of == "pods" and "ingestion" in name)
    pods = [served.objects["pods", name], json.loads(json.dumps(served.objects["pods", name]))]
    served.objects["pods", f"{name}-beside"] = pods[1]
    for pod, number in zip(pods, (100, 101), strict=True):
        environment = next(each for each in pod["spec"]["containers"] if each["name"] == "ingestion")["env"]
        environment += [
            {"name": "THROUGHLINE_PARTITIONS", "value": "ingestion=1:2"},
            {"name": "THROUGHLINE_PARTITION", "value": str(number)},
        ]
    pods[1]["metadata"]["name"] = f"{name}-beside"
    script = "import os; print(os.environ['THROUGHLINE_PARTITIONS'], os.environ['THROUGHLINE_INGESTION_PEERS'])"
    result = run("port-forward", "--port-base", "0", "--", sys.executable, "-c", f"{script}; raise SystemExit(7)")
    assert result.exit_code == 7, result.output
    environment[-2]["value"] = "ingestion=1:3"
    result = run("port-forward", "--port-base", "0", "--", sys.executable, "-c", script)
    assert (result.exit_code, "are told different partitions" in result.stderr) == (3, True), result.output


def test_the_doctor_asks_the_services_themselves(run: Run, served: KubeApi) -> None:
    """Five real services and a real bus behind the pods: nothing is wrong, and all five say their version."""
    result = run("doctor", "--output", "json")
    assert result.exit_code == 0, result.output
    services = json.loads(result.stdout)["services"]
    assert {each["component"]: bool(each["version"]) for each in services} == dict.fromkeys(SERVICES, True)
    assert {each["component"] for each in services if each["lags"]} == set(SERVICES)


@pytest.mark.parametrize(
    ("name", "kind"), [("../beside.txt", tarfile.REGTYPE), ("/beside.txt", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)]
)
def test_a_result_stays_in_its_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    """A pod that was taken over writes nowhere else, and plants no link."""
    archive, into = tmp_path / "result.tar", tmp_path / "into"
    into.mkdir()
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/hosts" if kind == tarfile.SYMTYPE else ""
        tar.addfile(member)
    with pytest.raises(Failure, match="may not be put into"):
        unpack(archive, into)
    assert [each.name for each in tmp_path.iterdir() if each != archive] == ["into"]
    assert not list(into.iterdir())
