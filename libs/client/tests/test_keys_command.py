"""`throughline keys` against a suite that runs."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from throughline.ingestion.v1 import interaction_pb2
from throughline_client import Throughline
from throughline_client.commands import main
from throughline_client.suite import Suite
from throughline_privacy import KEY_STORE, KEYS_FILE, PrivacySettings

START = 1_700_000_000_000_000


def keks(result: Result) -> dict[str, int]:
    """Sealing keys by state of their key-encryption key."""
    assert result.exit_code == 0, result.output
    return {each["state"]: each["keys"] for each in json.loads(result.stdout)}


async def test_a_rotation_touches_no_log_and_restarts_nobody(tmp_path: Path) -> None:
    """Three times over, while ingestion seals and opens: what was sealed before opens, what comes is under the new key,
    and the former keys can go.
    """

    def run(*arguments: str) -> Result:
        environment = {"THROUGHLINE_DATA": str(tmp_path), "COLUMNS": "200"}
        return CliRunner().invoke(main, ["keys", *arguments], env=environment, catch_exceptions=False)

    def visit(number: int) -> interaction_pb2.Interaction:
        made = interaction_pb2.Interaction(
            source="desk", source_interaction_id=str(number), channel="web", kind="visit", occurred_at=START + number
        )
        made.identifiers.add(type="email", value=f"p{number}@rotation.eu")
        return made

    assert run("status").exit_code == 2
    with Suite(tmp_path, services=["ingestion"]):
        async with Throughline(data=tmp_path) as client:
            await client.ingestion.register_channel("web", interaction_pb2.ChannelTraits(name="Web"))
            await client.ingestion.register_source("desk", "Desk")
            ids: list[str] = []
            for number in range(6):
                result = await client.ingestion.record(visit(number))
                ids.append(result.interaction_id)
                if number % 2:
                    assert run("rotate").exit_code == 0
            for number, interaction_id in enumerate(ids):
                told = await client.ingestion.interaction(interaction_id)
                assert told.personal.identifiers[0].value == f"p{number}@rotation.eu"
            assert keks(run("status", "-o", "json")) == {"current": 6, "retired": 0}
            assert len(json.loads(run("drop", "-o", "json").stdout)["dropped"]) == 3
            assert keks(run("status", "-o", "json")) == {"current": 6, "unknown": 0}
    kept = PrivacySettings.from_env({KEYS_FILE: str(tmp_path / "keys.json"), KEY_STORE: "unused"})
    assert kept.retired == ()
