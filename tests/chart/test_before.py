"""What runs before an installation, an upgrade and every service: refusals that only the servers can give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from chart.rendering import SERVICES, VALUES, Document, changed, installed, labels, named, of_kind, pods, render
from click.testing import CliRunner

from throughline_client.commands import main
from throughline_client.preparing import BESIDE
from throughline_eventlog import NatsServer
from throughline_eventlog.nats_server import free_port
from throughline_testkit.postgres import PostgresServer


def job(documents: list[Document], name: str) -> Document:
    """The Job of this component."""
    (found,) = (each for each in of_kind(documents, "Job") if labels(each)["app.kubernetes.io/component"] == name)
    return found


def variables(container: Document) -> dict[str, str]:
    """What a container is told, but for what comes out of secrets."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@pytest.fixture
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Real ones, and what stands in a container's environment in the place of a cluster's names and secrets."""
    folder = tmp_path_factory.mktemp("before")
    monitor = f"127.0.0.1:{free_port()}"
    with NatsServer(folder, more=f'http: "{monitor}"\n') as bus:
        yield {
            "POSTGRES_HOST": postgres.host,
            "POSTGRES_PORT": str(postgres.port),
            "POSTGRES_DBNAME": postgres.dbname,
            "PGSSLMODE": "prefer",
            "PGSSLROOTCERT": "",
            "THROUGHLINE_NATS_URL": bus.url,
            "THROUGHLINE_NATS_MONITORS": f"http://{monitor}",
            # This server knows nobody, and lets everybody in.
            **{f"{service.upper()}_NATS_CREDENTIALS": "" for service in SERVICES},
            "THROUGHLINE_STREAM_PREFIX": f"T{uuid4().hex[:8].upper()}",
            "POSTGRES_ADMIN_USER": postgres.user,
            "POSTGRES_ADMIN_PASSWORD": postgres.password,
            **{f"{service.upper()}_POSTGRES_USER": postgres.user for service in SERVICES},
            **{f"{service.upper()}_POSTGRES_PASSWORD": postgres.password for service in SERVICES},
        }


def run(container: Document, instead: dict[str, str]) -> Any:
    """Runs what the container runs, told what it is told."""
    told = variables(container)
    passwords = {name.replace("_USER", "_PASSWORD"): "any" for name in told if name.endswith("_NATS_USER")}
    return CliRunner().invoke(main, container["args"], env={**told, **passwords, **instead})


def test_the_job_and_every_pod_read_what_the_servers_do(servers: dict[str, str]) -> None:
    """With the names that the chart gives them: nothing is asked in vain, and one server is too few for production."""
    documents = installed("default")
    (container,) = job(documents, "preflight")["spec"]["template"]["spec"]["containers"]
    result = run(container, servers)
    assert result.exit_code == 0, result.output
    assert result.output.count("fsync=on") == len(SERVICES)
    for name, pod in pods(documents).items():
        if not name.startswith("Deployment/"):
            continue
        (first,) = pod["spec"]["initContainers"]
        result = run(first, servers)
        assert result.exit_code == 0, result.output
        assert f"PostgreSQL of {labels(pod)['app.kubernetes.io/component']}" in result.output
    (container,) = job(installed("production"), "preflight")["spec"]["template"]["spec"]["containers"]
    result = run(container, servers)
    assert result.exit_code == 1
    assert "too few for streams of 3 replicas" in result.stderr


def test_schemas_are_prepared_for_the_roles_that_will_use_them(
    servers: dict[str, str], postgres: PostgresServer
) -> None:
    """As the Job is told: five services' schemas with those beside them, and the key store, under the prefix."""
    prefix = f"t{uuid4().hex[:8]}_"
    values = changed(VALUES["production"], postgres__schemaPrefix=prefix)
    (container,) = job(render(values), "prepare")["spec"]["template"]["spec"]["containers"]
    try:
        result = run(container, servers)
        assert result.exit_code == 0, result.output
        with postgres.connect() as connection:
            made = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"{prefix}%",))
            schemas = {name for (name,) in made.fetchall()}
    finally:
        for service in SERVICES:
            for name in ("", *(f"_{each}" for each in BESIDE)):
                postgres.drop_schema(f"{prefix}{service}{name}")
        postgres.drop_schema(f"{prefix}throughline_keys")
    assert len(schemas) == len(SERVICES) * 4 + 1


@pytest.mark.parametrize(
    ("installation", "when"),
    [
        ("production", "pre-install,pre-upgrade,pre-rollback"),
        ("default", "post-install,pre-upgrade,pre-rollback"),
        ("everything", "post-install,pre-upgrade,pre-rollback"),
    ],
)
def test_it_runs_before_whatever_it_is_for(installation: str, when: str) -> None:
    """Before an installation, unless they come with it, and every change; network, then preflight, then schemas."""
    documents = installed(installation)
    hooks = [each for each in documents if "helm.sh/hook-weight" in each["metadata"].get("annotations", {})]
    annotations = [each["metadata"]["annotations"] for each in hooks]
    assert {each["helm.sh/hook"] for each in annotations} == {when}
    ordered = sorted(hooks, key=lambda each: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]))
    expected = ["before", "preflight", "prepare"][: len(ordered)]
    assert [named(each).rpartition("-")[2] for each in ordered] == expected
    assert ("prepare" in expected) == (installation == "production")


def test_what_runs_before_needs_nothing_that_the_release_brings() -> None:
    """No ConfigMap, account or secret of the chart: none of them is there yet."""
    documents = installed("production")
    made = {named(each) for each in of_kind(documents, "ConfigMap", "Secret", "ServiceAccount", "ExternalSecret")}
    for each in of_kind(documents, "Job"):
        spec = each["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert "serviceAccountName" not in spec
        assert "envFrom" not in container
        used = {e["valueFrom"]["secretKeyRef"]["name"] for e in container["env"] if "valueFrom" in e}
        used |= {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
        assert used
        assert not used & made
