"""A whole installation taken out and put back: on the same store and on the other, it is the same to the last bit."""

from __future__ import annotations

import gzip
import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from line import Line, connect, identifier, postgres_environment, scattered_history

from throughline.eventlog.v1 import eventlog_pb2
from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_testkit.postgres import PostgresServer

pytestmark = pytest.mark.e2e

# A service has its log and its access log, each with its proofs.
KEPT = ("", "_proofs", "_access", "_access_proofs")

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Runs the command."""
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


async def fill(line: Line) -> tuple[str, str]:
    """A history with a merge undone and somebody forgotten; an interaction of theirs, and one with sealed values."""
    results = await line.record(scattered_history(5, 40, 600))
    await line.settled()
    who = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", "p3@post.eu")])
    forgotten = (await line.identity.ResolveClient(who)).client_id
    theirs = await line.identity.ListClientInteractions(
        identity_pb2.ListClientInteractionsRequest(client_id=forgotten, page_size=1)
    )
    await line.identity.ForgetClient(
        identity_pb2.ForgetClientRequest(client_id=forgotten, reason="asked for it", decided_by="test")
    )
    await line.settled()
    return theirs.interaction_ids[0], next(each.interaction_id for each in results if each.position)


async def told(line: Line, interaction_id: str) -> ingestion_pb2.GetInteractionResponse:
    """An interaction, with what of it can be opened."""
    return await line.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(interaction_id=interaction_id), wait_for_ready=True
    )


def written(backup: Path) -> list[Path]:
    """The files of an export that say what is in its stores; how far it has got on the bus is of its own time."""
    folders = [f"{service}{kept}" for service in SERVICES for kept in KEPT]
    found = [
        file
        for folder in folders
        for name in ("events*", "commits*", "tables/*")
        for file in sorted((backup / folder).glob(name))
    ]
    return [*found, *sorted((backup / "keys").iterdir())]


@pytest.mark.timeout(300)
async def test_an_installation_taken_out_and_put_back_is_the_same(
    line: Line,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Same digests, same answers, the forgotten stay forgotten, and what is exported from it is the same export."""
    postgres: PostgresServer = request.getfixturevalue("postgres")
    postgres_schema: str = request.getfixturevalue("postgres_schema")
    theirs, somebodys = await fill(line)
    digests = await line.digests()
    opened = await told(line, somebodys)
    backup = tmp_path / "backup"
    exported = run("export", backup, "--keys", "--data", line.suite.folder, "--output", "json")
    assert exported.exit_code == 0, exported.output
    manifest = json.loads(exported.stdout)
    assert {name: store["digest"] for name, store in manifest["stores"].items()} == digests
    assert all(proofs["checkpoints"] for proofs in manifest["proofs"].values())
    line.suite.stop()

    again = Suite(tmp_path / "again")
    restored = run("import", backup, "--data", again.folder)
    assert restored.exit_code == 2
    assert "--keys-file" in restored.output
    restored = run("restore", backup, "--data", again.folder, "--keys-file", line.suite.folder / "keys.json")
    assert restored.exit_code == 0, restored.output
    with again:
        async with connect(again) as other:
            assert await other.digests() == digests
            assert await told(other, somebodys) == opened
            assert (await told(other, theirs)).forgotten
            # It goes on: what was known is known, what is new is taken by everyone.
            before = await other.checkpoints()
            assert {r.position for r in await other.record(scattered_history(5, 40, 600))} <= {0}
            await other.record(scattered_history(6, 40, 10))
            after = await other.settled()
            assert after["scoring"].position > before["scoring"].position

    environment = postgres_environment(postgres, postgres_schema)
    for name, value in {
        **environment,
        "THROUGHLINE_FORGOTTEN_LIST": str(line.suite.folder / "forgotten.ndjson"),
    }.items():
        monkeypatch.setenv(name, value)
    try:
        restored = run("restore", backup, "--from-environment")
        assert restored.exit_code == 0, restored.output
        once_more = tmp_path / "once-more"
        exported = run("export", once_more, "--keys", "--from-environment", "--output", "json")
        assert exported.exit_code == 0, exported.output
        for part in ("stores", "access", "proofs"):
            assert json.loads(exported.stdout)[part] == manifest[part]
        for file in written(backup):
            assert (once_more / file.relative_to(backup)).read_bytes() == file.read_bytes(), file
        third = Suite(tmp_path / "third", environment=environment)
        third.folder.mkdir()
        shutil.copy2(line.suite.folder / "keys.json", third.folder / "keys.json")
        with third:
            async with connect(third) as other:
                assert await other.digests() == digests
                assert await told(other, somebodys) == opened
                assert (await told(other, theirs)).forgotten
    finally:
        for name in (*(f"{service}{kept}" for service in SERVICES for kept in KEPT), "keys"):
            postgres.drop_schema(f"{postgres_schema}_{name}")


@pytest.mark.timeout(120)
async def test_an_export_that_was_changed_is_refused(line: Line, tmp_path: Path, run: Run) -> None:
    """A flipped byte, a file that is missing, a folder in use or not empty: each is named, and nothing is put back."""
    await line.record(scattered_history(7, 5, 20))
    await line.settled()
    backup = tmp_path / "backup"
    assert run("export", backup, "--data", line.suite.folder).exit_code == 0
    refused = run("export", backup, "--data", line.suite.folder)
    assert (refused.exit_code, "not empty" in refused.output) == (2, True)
    refused = run("restore", backup, "--data", line.suite.folder)
    assert (refused.exit_code, "a suite runs on" in refused.output) == (2, True)

    keys = line.suite.folder / "keys.json"
    events = backup / "journey" / "events.ndjson.gz"
    raw = bytearray(events.read_bytes())
    raw[len(raw) // 2] ^= 1
    events.write_bytes(raw)
    refused = run("restore", backup, "--data", tmp_path / "new", "--keys-file", keys)
    assert (refused.exit_code, str(events) in refused.output) == (2, True)
    events.unlink()
    refused = run("restore", backup, "--data", tmp_path / "new", "--keys-file", keys)
    assert (refused.exit_code, "copy the export again" in refused.output) == (2, True)
    assert not list((tmp_path / "new").glob("*.db"))


async def test_an_export_can_be_decoded_with_what_is_in_it(line: Line, tmp_path: Path, run: Run) -> None:
    """The contracts lie beside the events: any protobuf library reads them, without this program."""
    await line.record(scattered_history(8, 5, 20))
    await line.settled()
    backup = tmp_path / "backup"
    assert run("export", backup, "--data", line.suite.folder).exit_code == 0
    pool = descriptor_pool.DescriptorPool()
    contracts = descriptor_pb2.FileDescriptorSet.FromString((backup / "contracts.binpb").read_bytes())
    for file in contracts.file:
        pool.Add(file)
    for service in SERVICES:
        for logged in gzip.decompress((backup / service / "events.ndjson.gz").read_bytes()).splitlines():
            event = json.loads(logged)
            envelope = eventlog_pb2.Envelope.FromString(b64decode(event["envelope"]))
            message = message_factory.GetMessageClass(pool.FindMessageTypeByName(event["type"]))
            assert message.FromString(envelope.payload).ByteSize() == len(envelope.payload)
