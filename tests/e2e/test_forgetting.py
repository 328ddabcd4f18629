"""Who was forgotten stays forgotten: through restarts, restored exports and old backups."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest
from click.testing import CliRunner, Result
from line import Line, connect, identifier, interaction

from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_client.commands import main
from throughline_client.suite.suite import Suite
from throughline_privacy import open_forgotten_list
from throughline_replay import compare_with_live, make_folds, replay_log
from throughline_replay.sources import ServiceLog
from throughline_testkit import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ANNA, BEN = "anna.quastenfloh@post.eu", "ben@post.eu"

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Runs the command."""
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


def visit(number: int, mail: str) -> interaction_pb2.Interaction:
    """A visit with words."""
    feedback = interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim=f"{mail} complains")
    return interaction(number, identifier("email", mail), feedback=[feedback])


async def client_of(line: Line, mail: str) -> str:
    """Whom an address means now, empty where nobody."""
    who = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", mail)])
    try:
        return (await line.identity.ResolveClient(who, wait_for_ready=True)).client_id
    except grpc.aio.AioRpcError:
        return ""


async def told(line: Line, interaction_id: str) -> ingestion_pb2.GetInteractionResponse:
    """An interaction, with what of it can be opened."""
    request = ingestion_pb2.GetInteractionRequest(interaction_id=interaction_id)
    return await line.ingestion.GetInteraction(request, wait_for_ready=True)


async def assert_gone(line: Line, interaction_id: str, client_id: str) -> None:
    """Nothing of hers opens, nobody has her address, every live state is that of its log, and with the same address she
    is somebody new.
    """
    assert (await told(line, interaction_id)).forgotten
    assert await client_of(line, ANNA) == ""
    await line.settled()
    for service, fold in make_folds().items():
        with ServiceLog(service, line.suite.addresses[service]) as log:
            replayed = await asyncio.to_thread(replay_log, fold, log.read())
            compared = await asyncio.to_thread(compare_with_live, replayed, log, log)
        assert compared.equal, f"{service}: {compared.difference}"
    (again,) = await line.record([visit(900, ANNA)])
    assert again.position
    await line.settled()
    assert await client_of(line, ANNA) not in {"", client_id}


async def test_who_was_forgotten_does_not_come_back_with_an_old_export_or_backup(
    line: Line, tmp_path: Path, run: Run
) -> None:
    """Not even with one that has her key: the list that the installation keeps is applied before anybody is served."""
    annas, bens = await line.record([visit(1, ANNA), visit(2, BEN)])
    await line.settled()
    anna, ben = await client_of(line, ANNA), await client_of(line, BEN)
    export, backup = tmp_path / "export", tmp_path / "backup"
    assert run("export", export, "--keys", "--data", line.suite.folder).exit_code == 0
    line.suite.stop()
    shutil.copytree(line.suite.folder, backup, ignore=shutil.ignore_patterns("forgotten.ndjson", "lock", "logs"))
    line.suite.start()
    async with connect(line.suite) as now:
        assert (await told(now, annas.interaction_id)).personal.identifiers[0].value == ANNA
        await now.settled()
        decided = identity_pb2.ForgetClientRequest(client_id=anna, reason="asked", decided_by="test")
        await now.identity.ForgetClient(decided)
        await now.settled()
    audit = ("audit", "forgotten", anna, "--value", ANNA, "--data", line.suite.folder, "--output", "json")
    searched = run(*audit)
    findings = json.loads(searched.stdout)["findings"]
    assert [each for each in findings if each["left"]] == []
    assert searched.exit_code == 0
    sealed = {each["place"] for each in findings if each["what"] == "boxes sealed for ever" and each["count"]}
    assert sealed == {"ingestion", "identity", "feedback"}
    with_key = run(*audit, "--export", export)
    assert (with_key.exit_code, json.loads(with_key.stdout)["clean"]) == (4, False)
    assert [each["place"] for each in json.loads(with_key.stdout)["findings"] if each["left"]] == [str(export)]
    assert run("audit", "forgotten", ben, "--data", line.suite.folder).exit_code == 1
    line.suite.stop()
    listed = line.suite.folder / "forgotten.ndjson"
    assert [each.client_id.hex() for each in open_forgotten_list(str(listed)).clients()] == [anna]

    keys = tmp_path / "keys.json"
    shutil.copy2(line.suite.folder / "keys.json", keys)
    refused = run("restore", export, "--data", tmp_path / "refused", "--keys-file", keys)
    assert (refused.exit_code, "would come back" in refused.output) == (2, True)
    from_export = Suite(tmp_path / "from-export")
    restored = run("restore", export, "--data", from_export.folder, "--keys-file", keys, "--forgotten", listed)
    assert restored.exit_code == 0, restored.output
    from_backup = Suite(tmp_path / "from-backup")
    shutil.copytree(backup, from_backup.folder)
    shutil.copy2(listed, from_backup.folder)
    for suite in (from_export, from_backup):
        with suite:
            async with connect(suite) as other:
                await assert_gone(other, annas.interaction_id, anna)
                assert await client_of(other, BEN) == ben
                assert (await told(other, bens.interaction_id)).personal.identifiers[0].value == BEN


async def test_a_grace_time_survives_a_restart(tmp_path: Path, run: Run) -> None:
    """What is scheduled comes after a kill, what was cancelled does not, and a dry run tells what would go."""
    with Suite(tmp_path / "suite", environment={"IDENTITY_SWEEP_SECONDS": "0.1"}) as suite:
        async with connect(suite) as line:
            await line.register()
            annas, bens = await line.record([visit(1, ANNA), visit(2, BEN)])
            await line.settled()
            anna, ben = await client_of(line, ANNA), await client_of(line, BEN)

            async def command(*arguments: object) -> Result:
                return await asyncio.to_thread(run, *arguments, "--data", suite.folder)

            by = ("--by", "dpo", "--reason", "asked")
            asked = await command("forget", anna, *by, "--dry-run", "--output", "json")
            assert json.loads(asked.stdout)["interactions"] == 1
            for client_id in (anna, ben):
                assert (await command("forget", client_id, *by, "--grace", "2s")).exit_code == 0
            assert (await command("forget", ben, *by, "--cancel")).exit_code == 0
            assert (await command("forget", ben, *by, "--cancel", "--grace", "1s")).exit_code == 2
            scheduled = await command("forgotten", "--scheduled", "--output", "json")
            assert [each["client_id"] for each in json.loads(scheduled.stdout)] == [anna]
            suite.kill("identity")
            suite.restart("identity")

            async def gone() -> bool:
                return (await told(line, annas.interaction_id)).forgotten

            await eventually(gone)
            assert not (await told(line, bens.interaction_id)).forgotten
            done = await command("forgotten", "--output", "json")
            assert [each["client_id"] for each in json.loads(done.stdout)] == [anna]
            await assert_gone(line, annas.interaction_id, anna)
            assert await client_of(line, BEN) == ben
