"""`throughline bus permissions`: what it prints is what a real nats-server and the services need."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_eventlog import BusSettings, NatsServer, rights_of, user_of


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["bus", "permissions", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_printed_configuration_is_one_that_the_server_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passwords come from the server's environment; each service's user gets in and may do all that it needs."""
    for service in SERVICES:
        monkeypatch.setenv(f"{service.upper()}_NATS_PASSWORD", f'"7e5 {service}"')
    with NatsServer(tmp_path / "nats", more=run("--prefix", "CRM", "--output", "nats-server")) as server:

        async def refused(service: str) -> list[str]:
            bus = BusSettings(
                server.url, prefix="CRM", service=service, user=user_of(service, "CRM"), password=f"7e5 {service}"
            )
            async with bus.connect(service) as connection:
                return await connection.refused(rights_of(service, prefix="CRM").publish)

        for service in SERVICES:
            assert asyncio.run(refused(service)) == []


def test_every_form_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """For people, for programs and for nsc; the prefix is the services' own where none is given."""
    monkeypatch.setenv("THROUGHLINE_STREAM_PREFIX", "SHOP")
    rights = rights_of("journey", prefix="SHOP")
    (told,) = json.loads(run("--service", "journey", "--output", "json"))
    assert (told["user"], told["publish"], told["subscribe"]) == (
        "shop_journey",
        [*rights.publish],
        [*rights.subscribe],
    )
    words = shlex.split(run("--service", "journey", "--output", "nsc"))
    assert words[words.index("--allow-pub") + 1].split(",") == [*rights.publish]
    assert words[words.index("--allow-sub") + 1].split(",") == [*rights.subscribe]
    table = run("--service", "journey")
    assert all(subject in table for subject in (*rights.publish, *rights.subscribe))
    assert len(json.loads(run("--output", "json"))) == len(SERVICES)


def test_the_partitions_in_force_count_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are given, or as the services are told them."""
    rights = rights_of("identity", partitions={"ingestion": (100, 101)})
    given = json.loads(run("--service", "identity", "--partitions", "ingestion=1:2", "--output", "json"))
    monkeypatch.setenv("THROUGHLINE_PARTITIONS", "ingestion=1:2")
    assert given == json.loads(run("--service", "identity", "--output", "json"))
    assert given[0]["publish"] == list(rights.publish)
    result = CliRunner().invoke(main, ["bus", "permissions", "--partitions", "journey=2"])
    assert result.exit_code == 2
    assert "counts over all clients" in result.stderr


def test_a_prefix_that_is_none_is_refused() -> None:
    """With the rule, as the services refuse it."""
    result = CliRunner().invoke(main, ["bus", "permissions", "--prefix", "a.b"])
    assert result.exit_code == 2
    assert "letters, digits and _ are allowed" in result.stderr
