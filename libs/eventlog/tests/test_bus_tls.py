"""The bus is spoken to over TLS, by both sides' certificates, and new ones need no restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughline_eventlog import BusSettings, Connection, NatsServer, SettingsError
from throughline_eventlog.bus import BusTls
from throughline_testkit import Authority, Mounted, eventually


def requiring_certificates(mounted: Mounted) -> str:
    """What makes a nats-server speak with those only whom its CA vouches for."""
    paths = {"cert_file": mounted.certificate, "key_file": mounted.key, "ca_file": mounted.ca}
    lines = "".join(f"  {name}: {json.dumps(str(path))}\n" for name, path in paths.items())
    return f"tls {{\n{lines}  verify: true\n}}\n"


async def test_a_connection_made_again_has_the_certificates_that_are_there_then(tmp_path: Path) -> None:
    """Both sides move to another authority; who still has the old certificate is turned away."""
    ours, theirs = Authority("ours"), Authority("theirs")
    bus = Mounted(tmp_path / "bus").put(ours.issue("nats"), ours)
    service = Mounted(tmp_path / "service").put(ours.issue("ingestion"), ours)
    late = Mounted(tmp_path / "late").put(ours.issue("late"), theirs)
    tls = BusTls(service.ca, service.certificate, service.key)
    with NatsServer(tmp_path / "nats", more=requiring_certificates(bus)) as server:
        async with (
            Connection(server.url, name="service", tls=tls) as connection,
            Connection(server.url, name="plain") as plain,
            Connection(server.url, name="unknown", tls=BusTls(service.ca)) as unknown,
            Connection(server.url, name="late", tls=BusTls(late.ca, late.certificate, late.key)) as behind,
        ):
            await connection.ready()
            await eventually(lambda: plain.last_error and unknown.last_error)
            bus.put(theirs.issue("nats"), theirs)
            service.put(theirs.issue("ingestion"), theirs)
            server.restart()
            await eventually(lambda: connection.generation >= 2 and connection.connected)
            assert "streams" in await connection.request("INFO")
            await eventually(lambda: behind.last_error)
            assert {plain.generation, unknown.generation, behind.generation} == {0}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"THROUGHLINE_NATS_CERT_FILE": "{0.certificate}"}, "belong together"),
        (
            {"THROUGHLINE_NATS_CERT_FILE": "{0.certificate}", "THROUGHLINE_NATS_KEY_FILE": "{0.key}"},
            "is set without THROUGHLINE_NATS_CA_FILE",
        ),
        ({"THROUGHLINE_NATS_CA_FILE": "{0.folder}/absent"}, "cannot be used as the CA of the bus: No such file"),
        (
            {
                "THROUGHLINE_NATS_CA_FILE": "{0.ca}",
                "THROUGHLINE_NATS_CERT_FILE": "{0.certificate}",
                "THROUGHLINE_NATS_KEY_FILE": "{0.ca}",
            },
            "cannot be used as certificate and key",
        ),
    ],
)
def test_certificates_for_the_bus_that_cannot_be_used_are_refused(
    env: dict[str, str], said: str, tmp_path: Path
) -> None:
    """The message names the file, and the settings."""
    authority = Authority()
    mounted = Mounted(tmp_path).put(authority.issue("ingestion"), authority)
    with pytest.raises(SettingsError, match=said):
        BusSettings.from_env({name: value.format(mounted) for name, value in env.items()})
