"""Who read whose history can be asked, proved and taken along; operators read no words, auditors change nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from line import Line, connect, identifier, interaction

from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_proof.verifier import pack_bytes, read_keys, unpack, verify_pack
from throughline_rpc import EVERYBODY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ANNA, BEN = "anna.quastenfloh@post.eu", "ben@post.eu"


async def asked(line: Line, *arguments: object) -> Result:
    """Runs the command against the suite."""
    given = [str(each) for each in (*arguments, "--data", line.suite.folder)]
    return await asyncio.to_thread(CliRunner(env={"THROUGHLINE_CALLER": "ana"}).invoke, main, given)


async def told(line: Line, *arguments: object) -> Result:
    """As `asked`, and not refused."""
    result = await asked(line, *arguments)
    assert result.exit_code == 0, result.output
    return result


async def reads_of(line: Line, client_id: str, *arguments: object) -> list[dict[str, Any]]:
    """What the command says about reads."""
    result = await told(line, "access", client_id, *arguments, "--output", "json")
    return [json.loads(each) for each in result.stdout.splitlines()]


async def client_of(line: Line, mail: str) -> str:
    """Whom an address means."""
    who = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", mail)])
    return (await line.identity.ResolveClient(who)).client_id


def visit(number: int, mail: str) -> interaction_pb2.Interaction:
    """A visit with words."""
    feedback = interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim=f"{mail} complains")
    return interaction(number, identifier("email", mail), feedback=[feedback])


async def test_who_read_a_clients_history_is_told_proved_and_kept(line: Line, tmp_path: Path) -> None:
    """By client over all services, with reads of whole logs, whatever was killed; a pack without one is caught."""
    annas, bens = await line.record([visit(1, ANNA), visit(2, BEN)])
    await line.settled()
    anna, ben = await client_of(line, ANNA), await client_of(line, BEN)
    await told(line, "history", anna, "--role", "agent", "--purpose", "complaints")
    line.suite.kill("journey")
    line.suite.restart("journey")
    await told(line, "interaction", annas.interaction_id, "--role", "agent")
    await told(line, "interaction", bens.interaction_id, "--role", "agent")
    await told(line, "log", "read", "scoring", "--role", "operator")
    refused = await asked(line, "interaction", annas.interaction_id, "--role", "operator")
    assert (refused.exit_code, "operator may not call GetInteraction" in refused.output) == (1, True)
    refused = await asked(line, "forget", anna, "--by", "ida", "--reason", "x", "--yes", "--role", "auditor")
    assert (refused.exit_code, "auditor may not call ForgetClient" in refused.output) == (1, True)
    refused = await asked(line, "access", anna, "--role", "operator")
    assert (refused.exit_code, "that is for admin, auditor" in refused.output) == (1, True)

    def found(reads: list[dict[str, Any]]) -> list[tuple[str, ...]]:
        called = [
            (each["service"], each["access"]["method"].rpartition("/")[2], *each["access"]["roles"], each["access"])
            for each in reads
            if each["access"]["caller"] == "ana"
        ]
        return [(*what, access["purpose"], access.get("refused", "")) for *what, access in called]

    reads = found(await reads_of(line, anna, "--role", "auditor", "--purpose", "audit"))
    for expected in (
        ("journey", "GetTimeline", "agent", "complaints", ""),
        ("ingestion", "GetInteraction", "agent", "service", ""),
        ("ingestion", "GetInteraction", "operator", "service", "ROLE_FORBIDS"),
        ("scoring", "ReadEvents", "operator", "service", ""),
    ):
        assert reads.count(expected) == 1, expected

    pack, keys = tmp_path / "access.zip", tmp_path / "keys.txt"
    keys.write_text(CliRunner().invoke(main, ["signing", "public", str(line.suite.folder / "signing.keys")]).stdout)
    await told(line, "audit", "access", anna, "--to", pack, "--role", "auditor")
    checked = await asyncio.to_thread(CliRunner().invoke, main, ["verify", str(pack), "--key", str(keys)])
    assert checked.exit_code == 0, checked.output
    assert f"journey_access: of {anna} every event is shown" in checked.stdout
    assert f"scoring_access: of {EVERYBODY} every event is shown" in checked.stdout
    files = unpack(pack.read_bytes())
    page = files["index.html"].decode()
    assert page.count("complaints") >= 1
    assert bens.interaction_id not in page
    shown = files["logs/journey_access/events.ndjson"].splitlines(keepends=True)
    fewer = verify_pack(
        pack_bytes({**files, "logs/journey_access/events.ndjson": b"".join(shown[:-1])}), read_keys(keys.read_text())
    )
    assert any("journey_access" in each and anna in each for each in fewer.broken), fewer.broken
    await told(line, "audit", "access", "all", "--to", tmp_path / "all.zip", "--role", "auditor")
    every = verify_pack((tmp_path / "all.zip").read_bytes(), read_keys(keys.read_text()))
    assert every.holds, every.broken
    assert len(every.proved) >= len(SERVICES)

    signed = json.loads((await told(line, "checkpoint", "--output", "json")).stdout)["checkpoints"]
    assert set(signed) == {f"{service}{kept}" for service in SERVICES for kept in ("", "_access")}

    decided = identity_pb2.ForgetClientRequest(client_id=anna, reason="asked", decided_by="test")
    await line.identity.ForgetClient(decided)
    await line.settled()
    searched = await told(line, "audit", "forgotten", anna, "--value", ANNA, "--output", "json")
    ids_only = [each for each in json.loads(searched.stdout)["findings"] if each["place"] == "journey_access"]
    assert [each["what"] for each in ids_only if each["count"]] == ["rows of access_by_id, ids only"]
    kept = found(await reads_of(line, anna, "--role", "auditor"))
    assert ("journey", "GetTimeline", "agent", "complaints", "") in kept
    assert ben != anna


async def test_who_read_what_is_in_an_export_and_back_again(line: Line, tmp_path: Path) -> None:
    """With the same proofs; a manifest that says otherwise of an access log is refused."""
    (annas,) = await line.record([visit(1, ANNA)])
    await line.settled()
    await told(line, "interaction", annas.interaction_id, "--role", "agent")
    anna = await client_of(line, ANNA)
    before = await reads_of(line, anna)
    line.suite.stop()
    export, keys = tmp_path / "export", line.suite.folder / "keys.json"
    runner = CliRunner()
    made = runner.invoke(main, ["export", str(export), "--data", str(line.suite.folder), "--output", "json"])
    assert made.exit_code == 0, made.output
    held = json.loads(made.stdout)
    assert held["access"]["ingestion"]["events"] >= 1
    assert held["proofs"]["ingestion_access"]["last"]
    again = Suite(tmp_path / "again")
    restored = runner.invoke(main, ["restore", str(export), "--data", str(again.folder), "--keys-file", str(keys)])
    assert restored.exit_code == 0, restored.output
    shutil.copy2(line.suite.folder / "signing.keys", again.folder / "signing.keys")
    with again:
        async with connect(again) as other:
            after = await reads_of(other, anna)
    assert after[: len(before)] == before

    manifest = json.loads((export / "manifest.json").read_text())
    manifest["access"]["ingestion"]["root"] = "00" * 32
    (export / "manifest.json").write_text(json.dumps(manifest))
    refused = runner.invoke(main, ["restore", str(export), "--data", str(tmp_path / "no"), "--keys-file", str(keys)])
    assert (refused.exit_code, "ingestion_access has the root" in refused.output) == (2, True)
