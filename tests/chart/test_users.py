"""Users of the chart's own NATS, on the real server with the rendered configuration, and of another's."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from chart.documenting import RIGHTS, bus_rights
from chart.rendering import (
    SERVICES,
    VALUES,
    Document,
    changed,
    containers,
    installed,
    labels,
    named,
    of_kind,
    pods,
    render,
)

from throughline_eventlog import BusSettings, NatsServer, rights_of
from throughline_eventlog.nats_server import free_port
from throughline_testkit import eventually


def resolved(documents: list[Document], container: Document, others: Mapping[str, str]) -> dict[str, str]:
    """What a container is told, as a node would make it of rendered secrets and of those that are there already."""
    there = {
        f"{named(secret)}/{key}": base64.b64decode(value).decode()
        for secret in of_kind(documents, "Secret")
        for key, value in secret["data"].items()
    } | dict(others)
    found: dict[str, str] = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        if source is None:
            value = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), variable["value"])
        else:
            value = there.get(f"{source['name']}/{source['key']}", "")
        found[variable["name"]] = value
    return found


def of_service(documents: list[Document], service: str) -> Document:
    """The container of a service."""
    (pod,) = (each for each in pods(documents).values() if labels(each)["app.kubernetes.io/component"] == service)
    return pod["spec"]["containers"][0]


class Rendered(NatsServer):
    """A server with the configuration of the chart, but for where it listens and keeps its data."""

    __slots__ = ("text",)

    def _config(self) -> str:
        text = self.text.replace("port: 4222", f"port: {self.port}", 1).replace("http_port: 8222\n", "", 1)
        text = text.replace("/data", str(self.folder / "jetstream"), 1)
        return f'host: "127.0.0.1"\nhttp: "127.0.0.1:{free_port()}"\n{text}'


# Passwords that look like numbers to the server.
EXISTING = {f"bus/{service}": f"70{number}k" for number, service in enumerate(SERVICES)}


@pytest.fixture(
    params=[{}, {"nats": {"streamPrefix": "CRM", "existingSecret": "bus"}}], ids=["made", "existing-and-prefix"]
)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """The chart's default, and with secrets and a prefix of one's own."""
    return render(request.param)


@pytest.fixture
def server(documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    """Runs as the StatefulSet's container is told."""
    (config,) = (each["data"] for each in of_kind(documents, "ConfigMap") if named(each).endswith("-nats"))
    for name, value in resolved(documents, of_service(documents, "nats"), EXISTING).items():
        monkeypatch.setenv(name, value)
    running = Rendered(tmp_path / "nats")
    running.text = config["nats.conf"]
    with running:
        yield running


async def test_each_service_gets_in_as_itself_and_may_do_what_it_needs(
    documents: list[Document], server: NatsServer
) -> None:
    """As its pod is told, with the users of the rendered configuration; nothing of another's; nobody else gets in."""
    (config,) = (each["data"] for each in of_kind(documents, "ConfigMap") if named(each).endswith("-config"))
    prefix = config["THROUGHLINE_STREAM_PREFIX"]
    needs = {service: set(rights_of(service, prefix=prefix).publish) for service in SERVICES}
    everything = sorted(set.union(*needs.values()))
    for service in SERVICES:
        told = {**config, **resolved(documents, of_service(documents, service), EXISTING)}
        bus = replace(BusSettings.from_env(told, service=service), servers=server.url)
        assert bus.user == f"{prefix.lower()}_{service}"
        async with bus.connect(service) as connection:
            refused = await connection.refused(everything)
            assert set(everything) - set(refused) == needs[service]
    stranger = BusSettings(server.url).connect("stranger")
    async with stranger:
        await eventually(lambda: "does not let in" in stranger.last_error)


def test_the_chart_s_table_of_rights_is_that_of_the_code() -> None:
    """`make chart` has nothing to change."""
    assert RIGHTS.read_text() == bus_rights(), "run: make chart"


@pytest.mark.parametrize("installation", ["default", "production", "everything"])
def test_a_pod_has_what_its_own_service_shows_the_bus_and_no_other_s(installation: str) -> None:
    """By variables or by files: five users, and each pod, with whatever runs before it, has one of them."""
    shown: dict[str, set[str]] = {}
    for name, pod in pods(installed(installation)).items():
        if not name.startswith("Deployment/"):
            continue
        found = {
            f"{source['name']}/{source['key']}"
            for container in containers(pod)
            for variable in container["env"]
            if "_NATS_" in variable["name"] and (source := variable.get("valueFrom", {}).get("secretKeyRef"))
        }
        for volume in pod["spec"]["volumes"]:
            if volume["name"].startswith("nats-") and "items" in volume["secret"] and volume["name"] != "nats-ca":
                found |= {f"{volume['secret']['secretName']}/{item['key']}" for item in volume["secret"]["items"]}
        shown[labels(pod)["app.kubernetes.io/component"]] = found
    assert shown.keys() == set(SERVICES)
    assert all(len(each) == 1 for each in shown.values())
    assert len(set.union(*shown.values())) == len(SERVICES)


def test_users_are_shared_in_production_where_that_is_meant() -> None:
    """One for all, or none: said on purpose, it is rendered."""
    shared = changed(VALUES["production"], nats__sharedUser=True, defaults__nats={"credentialsKey": "user.creds"})
    told = [each for pod in pods(render(shared)).values() for each in pod["spec"]["volumes"]]
    keys = {each["secret"]["items"][0]["key"] for each in told if each["name"] == "nats-identity"}
    assert keys == {"user.creds"}
    nobody = changed(VALUES["production"], nats__sharedUser=True, nats__existingSecret="")
    assert "NATS_CREDENTIALS" not in str(pods(render(nobody)))
