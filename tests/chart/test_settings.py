"""What the chart tells a service is what the service reads."""

from __future__ import annotations

import base64
import json
from importlib import import_module
from typing import Any

import pytest
from chart.rendering import SERVICES, VALUES, Document, environment, installed, labels, named, of_kind, pods

from throughline_rpc import CallerCredentials

KEY = base64.b64encode(b"k" * 32).decode()
SECRETS = {
    "THROUGHLINE_HASH_KEY": KEY,
    "THROUGHLINE_KEY_ENCRYPTION_KEY": KEY,
    "POSTGRES_PASSWORD": "p@ss/word",
    "THROUGHLINE_NATS_PASSWORD": "bus",
}
# Read at once, where they are mounted: other tests look at what becomes of them.
BUS_FILES = ("THROUGHLINE_NATS_CA_FILE", "THROUGHLINE_NATS_CERT_FILE", "THROUGHLINE_NATS_KEY_FILE")


def told(documents: list[Document], service: str, signing_keys: str) -> dict[str, str]:
    """A service's environment, with something in the place of each secret."""
    (pod,) = (each for each in pods(documents).values() if labels(each)["app.kubernetes.io/component"] == service)
    secrets = {**SECRETS, "THROUGHLINE_SIGNING_KEYS": signing_keys}
    given: dict[str, Any] = environment(documents, pod)
    return {
        name: value if isinstance(value, str) else secrets.get(name, "")
        for name, value in given.items()
        if name not in BUS_FILES
    }


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("installation", ["default", "production", "everything"])
def test_each_service_understands_what_it_is_told(installation: str, service: str) -> None:
    """Its own settings are made of the rendered environment, and say what the values said."""
    documents = installed(installation)
    (secret,) = (each for each in of_kind(installed("default"), "Secret") if named(each).endswith("-keys"))
    env = told(documents, service, base64.b64decode(secret["data"]["signing-keys"]).decode())
    settings = import_module(f"{service}.settings").Settings.from_env(env)
    values = VALUES[installation]
    assert settings.host.host == "0.0.0.0"  # noqa: S104 -- what a container has to listen on
    assert (settings.host.port, settings.host.metrics_port) == (50051, 9464)
    assert settings.host.default_role == values.get("auth", {}).get("defaultRole", "admin")
    assert (settings.host.tls is not None) == values.get("tls", {}).get("enabled", False)
    assert settings.host.health_port == (50061 if settings.host.tls else None)
    assert (settings.host.authentication is not None) == bool(values.get("auth", {}).get("by"))
    # A password where the chart has made one, or is told the user's name; credentials else.
    with_password = installation == "default" or (installation, service) == ("everything", "ingestion")
    assert bool(settings.bus.user) == with_password == (settings.bus.credentials is None)
    assert settings.bus.replicas == values.get("nats", {}).get("replicas", 1)
    assert settings.store.environment["POSTGRES_SCHEMA"].endswith(service)
    assert settings.proofs.keys.installation.startswith("shop-throughline-")
    if hasattr(settings, "privacy"):
        assert settings.privacy.key_store.startswith("postgresql://")
        assert "p@ss" not in settings.privacy.key_store
    if service == "ingestion" and installation == "everything":
        assert env["INGESTION_QUOTA_EVENTS"] == "1000"


def test_files_of_callers_and_quotas_are_mounted_where_they_are_looked_for() -> None:
    """As JSON, whole, in every service that reads them."""
    documents = installed("everything")
    (config,) = (each for each in of_kind(documents, "ConfigMap") if named(each) == "clients-calling")
    assert json.loads(config["data"]["callers.json"])["till.example.com"]["sources"] == ["till"]
    assert json.loads(config["data"]["quotas.json"])["till"]["events"] == 500
    for name, pod in pods(documents).items():
        if not name.startswith("Deployment/"):
            continue
        (container,) = pod["spec"]["containers"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert not any("subPath" in mount for mount in container["volumeMounts"]), "a renewed file would not be seen"
        for variable in container["env"]:
            path = variable.get("value", "")
            if path.startswith("/etc/throughline/"):
                assert path.rpartition("/")[0] in mounts, f"{name}: {variable['name']}"


@pytest.mark.parametrize("installation", ["production", "everything"])
def test_helm_test_calls_as_callers_must(installation: str) -> None:
    """Over TLS, with a certificate of its own that says its role, or with a token."""
    documents = installed(installation)
    (pod,) = of_kind(documents, "Pod")
    credentials = CallerCredentials.from_env(environment(documents, pod))
    assert credentials.tls is not None
    assert credentials.tls.ca is not None
    assert credentials.tls.certificate is not None
    assert (credentials.token_file is not None) == (installation == "everything")
    if installation == "production":
        certificates = {named(each): each["spec"] for each in of_kind(documents, "Certificate")}
        assert len(certificates) == len(SERVICES) + 1
        own = certificates["shop-throughline-test"]
        assert own["uris"] == ["urn:throughline:role:admin"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert volumes["tls"]["secret"]["secretName"] == own["secretName"]
        for service in SERVICES:
            assert f"shop-throughline-{service}" in certificates[f"shop-throughline-{service}"]["dnsNames"]
            assert "uris" not in certificates[f"shop-throughline-{service}"]
