"""Every log of a running suite is proved over gRPC, through restarts and a change of keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import grpc.aio
import pytest
from click.testing import CliRunner, Result
from line import Line, connect, scattered_history

from throughline.eventlog.v1.eventlog_pb2 import Envelope
from throughline.proof.v1 import proof_pb2
from throughline_client.client import Throughline
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.sdk.proofs import LogProofs
from throughline_eventlog import Connection, LoggedRow, StoreSettings, open_store, stream_name
from throughline_proof import (
    Checkpoint,
    Head,
    LogSummary,
    PublicKey,
    SubjectProof,
    open_checkpoint,
    open_note,
    subjects_of,
    verify_consistency,
    verify_inclusion,
    verify_subject,
)
from throughline_proof.verifier import leaf_hash, leaf_of
from throughline_rpc import RemoteRefusal, access_log_of
from throughline_testkit import eventually
from throughline_testkit.logs import chunks_of

pytestmark = pytest.mark.e2e

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Runs the command."""
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


def rows_of(line: Line, service: str, *, access: bool = False) -> list[LoggedRow]:
    """A service's log, or its access log, read from its file."""
    settings = StoreSettings.sqlite(service, line.suite.folder / f"{service}.db")
    store = open_store(access_log_of(settings) if access else settings)
    try:
        with store.snapshot() as reader:
            return reader.read_logged()
    finally:
        store.close()


async def check(client: Throughline, proofs: LogProofs, rows: list[LoggedRow]) -> Checkpoint:
    """Holds a log's checkpoint and some proofs against the log itself, which may have grown since."""
    keys = [PublicKey.of_vkey(vkey) for vkey in await client.proofs("identity").keys()]
    signed = await proofs.checkpoint()
    said = open_checkpoint(signed.note, keys)
    summary = LogSummary()
    summary.take(rows[: said.size])
    assert (said.size, said.root, said.map_root) == (len(rows), summary.root, summary.map_root)
    some = rows[:: max(1, len(rows) // 50)]
    answer = await proofs.inclusion([row.position for row in some], size=said.size, events=True)
    for row, proof in zip(some, answer.proofs, strict=True):
        event = proof.event
        leaf = leaf_hash(leaf_of(event.position, event.stream_id, event.version, event.type, event.envelope))
        assert (event.position, event.envelope) == (row.position, row.envelope)
        assert verify_inclusion(leaf, proof.index, answer.size, list(proof.hashes), said.root)
    concerned = subjects_of(rows)
    for subject in sorted({each for subjects in concerned for each in subjects})[:5]:
        told = await proofs.subject(subject)
        positions = [row.position for row, each in zip(rows, concerned, strict=True) if subject in each]
        assert list(told.positions[: len(positions)]) == positions
        head, proof = Head(len(told.positions), told.head), SubjectProof(told.entries, told.group, told.top)
        assert verify_subject(subject, head, proof, open_checkpoint(told.checkpoint.note, keys).map_root)
    return said


@pytest.mark.timeout(300)
async def test_every_log_is_proved_while_it_grows_and_after_a_restart(line: Line, run: Run, tmp_path: Path) -> None:
    """The events alone give the signed roots; a later log continues the earlier one, whoever signs it."""
    keys_file = line.suite.folder / "signing.keys"
    await line.record(scattered_history(5, 20, 300))
    await line.settled()
    async with Throughline(data=line.suite.folder) as client:
        before = {service: await check(client, client.proofs(service), rows_of(line, service)) for service in SERVICES}
    old_keys = run("signing", "public", keys_file).stdout.split()
    rotated = run("signing", "rotate", keys_file)
    assert rotated.exit_code == 0, rotated.output
    for service in SERVICES:
        line.suite.restart(service)
    async with connect(line.suite) as again:
        await again.record(scattered_history(6, 20, 300))
        await again.settled()
    async with Throughline(data=line.suite.folder) as client:
        for service in SERVICES:
            after = await check(client, client.proofs(service), rows_of(line, service))
            hashes = await client.proofs(service).consistency(before[service].size, after.size)
            assert before[service].size < after.size
            assert verify_consistency(before[service].size, after.size, before[service].root, after.root, hashes)
            made = [each async for each in client.proofs(service).checkpoints(page_size=2)]
            assert all(earlier.size <= later.size for earlier, later in pairwise(made))
            newest = [each async for each in client.proofs(service).checkpoints(newest_first=True, page_size=3)]
            assert newest == made[::-1]
            # While both keys sign, whoever trusts either can open it.
            for vkey in (*old_keys, rotated.stdout.strip()):
                assert open_checkpoint(made[-1].note, [PublicKey.of_vkey(vkey)]) == after

            read = rows_of(line, service, access=True)
            assert (await check(client, client.access_proofs(service), read)).size == len(read) > 0

    notes = tmp_path / "notes"
    told = await asyncio.to_thread(run, "checkpoint", "--data", line.suite.folder, "--notes", notes, "--output", "json")
    assert told.exit_code == 0, told.output
    checkpoints = json.loads(told.stdout)["checkpoints"]
    assert set(checkpoints) == {f"{service}{log}" for service in SERVICES for log in ("", "_access")}
    for name, each in checkpoints.items():
        assert (notes / f"{name}.note").read_text() == each["note"]
    assert run("signing", "retire", keys_file).stdout.count("retired") == 1
    assert run("signing", "public", keys_file).stdout.split() == [rotated.stdout.strip(), *old_keys]


@pytest.mark.timeout(120)
async def test_checkpoints_are_on_the_bus(line: Line) -> None:
    """Published like any log: who listens has them without asking."""
    await line.record(scattered_history(7, 5, 20))
    await line.settled()
    async with Throughline(data=line.suite.folder) as client:
        signed = await client.proofs("journey").checkpoint()
    stream = stream_name("journey_proofs", 0)

    async with Connection(line.suite.bus.url, name="test") as connection:
        await connection.ready()

        async def published() -> bool:
            notes = [
                proof_pb2.CheckpointSigned.FromString(Envelope.FromString(event.envelope).payload).note
                for chunk in await chunks_of(connection, stream)
                for event in chunk.events
            ]
            return signed.note in notes

        await eventually(published, 20.0, why="the checkpoint is not on the bus")


@pytest.mark.timeout(120)
async def test_what_cannot_be_proved_is_refused_by_name(line: Line) -> None:
    """Fields that break a rule, positions and sizes that are none; and a manifest's hash is signed as what it is."""
    async with Throughline(data=line.suite.folder) as client:
        proofs = client.proofs("ingestion")
        signed = await proofs.checkpoint()
        for ask, told in (
            (proofs.subject(b"short"), "subject"),
            (proofs.inclusion([1] * 1_001), "positions"),
            (proofs.inclusion([1], size=-1), "size"),
            (proofs.inclusion([signed.position + 1]), "none at position"),
            (proofs.consistency(signed.size, signed.size + 1), "the last one has"),
            (proofs.sign_manifest(b"short"), "sha256"),
        ):
            with pytest.raises(RemoteRefusal) as caught:
                await ask
            assert told in str(caught.value) or told in {each.field for each in caught.value.violations}
        for wrong in (
            proof_pb2.ListCheckpointsRequest(page_token="x"),
            proof_pb2.ListCheckpointsRequest(page_token="9" * 32),
            proof_pb2.ListCheckpointsRequest(page_size=-1),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="page_"):
                await proofs.stub.ListCheckpoints(wrong)
        keys = [PublicKey.of_vkey(vkey) for vkey in await proofs.keys()]
        text, _ = open_note(await proofs.sign_manifest(bytes(32)), keys)
        assert text == f"throughline evidence pack v1\n{'0' * 64}\n"


def test_keys_are_made_once_and_never_shown(tmp_path: Path, run: Run) -> None:
    """A file that is there is not replaced, and only public keys are printed."""
    file = tmp_path / "signing.keys"
    made = run("signing", "new", file, "--name", "shop.example")
    assert (made.exit_code, made.stdout.startswith("shop.example+")) == (0, True)
    again = run("signing", "new", file)
    assert (again.exit_code, "rotate" in again.output) == (2, True)
    assert run("signing", "new", tmp_path / "other", "--name", "a b").exit_code == 2
    assert run("signing", "public", tmp_path / "absent").exit_code == 2
    assert "it stays" in run("signing", "retire", file).stdout
    secret = file.read_text().rpartition("+")[2].strip()
    for command in ("public", "rotate", "retire"):
        assert secret not in run("signing", command, file).output
