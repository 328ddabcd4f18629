"""Data of the previous version under today's code, and what a rollback finds of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from eventful import Lived, who
from line import Line, connect, scattered_history
from upgrade.freezing import DATA, DIGESTS, PREVIOUS, SWEEPS

from throughline.ingestion.v1 import events_pb2, interaction_pb2
from throughline_client.commands import main
from throughline_client.installation import Installation
from throughline_client.suite.suite import Suite
from throughline_eventlog import open_store
from throughline_replay import StoredLog, derive, make_folds, replay_log
from throughline_replay.units import derivable

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DECIDES_OTHERWISE = {"scoring": "JourneyNoted"}
"""What the previous version decided wrongly, as CHANGELOG.md tells: re-deriving its log names it."""
NEVER: dict[str, str] = dict.fromkeys(SWEEPS, "3600")
"""No clock decides while states are compared."""


@pytest.fixture
def previous(tmp_path: Path) -> Lived:
    """A data folder as the previous version left it. Its bus is gone: every stream is published anew."""
    folder = tmp_path / "previous"
    folder.mkdir()
    with tarfile.open(PREVIOUS / DATA) as packed:
        packed.extractall(folder)  # noqa: S202 -- our own, and nothing in it names a path
    return Lived(folder, json.loads((folder / DIGESTS).read_text()))


def shapes(folder: Path) -> Iterator[tuple[str, str, tuple[object, ...]]]:
    """(file, table, column as SQLite tells it) of every store in a folder."""
    for file in sorted(folder.glob("*.db")):
        with contextlib.closing(sqlite3.connect(file)) as raw:
            tables = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            for (table,) in tables:
                for column in raw.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)):
                    yield file.name, table, tuple(column)


async def test_it_is_served_gone_on_with_and_replayed(previous: Lived) -> None:
    """The states are those in which the previous version ended; what it recorded is known, and what comes is added."""
    with Suite(previous.folder, environment=NEVER) as suite:
        async with connect(suite) as line:
            assert await line.digests() == previous.digests
            again = [each for each in scattered_history(11, 20, 120)[:40] if each.channel != "kiosk"]
            assert await _verdicts(line, again) == {events_pb2.VERDICT_DUPLICATE}
            await line.record(scattered_history(12, 20, 100), 50)
            assert await who(line, "p10@post.eu")
            await line.settled()
            told = await line.checkpoints(digest=True)
            tallies = await line.tallies()
            assert all(
                each.offered == each.recorded + each.duplicate + each.conflict + each.quarantined + each.refused
                for each in tallies.values()
            )
    for service, fold in make_folds(told).items():
        store = open_store(previous.stores[service])
        folded = replay_log(fold, StoredLog(store).read(until=told[service].position))
        store.close()
        assert folded.digest() == told[service].digest, service
    for service in derivable():
        found = derive(previous.unit(service, previous.folder / "again"))
        if service in DECIDES_OTHERWISE:
            assert found.first is not None
            assert DECIDES_OTHERWISE[service] in str(found.first)
        else:
            assert found.same, f"{service}: {found.first or found.standing}"


async def _verdicts(line: Line, offered: list[interaction_pb2.Interaction]) -> set[int]:
    return {result.verdict for result in await line.record(offered)}


def test_its_proofs_hold_under_todays_signatures(previous: Lived, tmp_path: Path) -> None:
    """A pack made today reaches back to what the previous version signed, and is verified."""
    pack = tmp_path / "pack.zip"
    with Suite(previous.folder, environment=NEVER) as suite:
        client = asyncio.run(_somebody(suite))
        made = CliRunner().invoke(main, ["audit", "client", client, "--data", str(previous.folder), "--to", str(pack)])
        assert made.exit_code == 0, made.output
    public = CliRunner().invoke(main, ["signing", "public", str(previous.folder / "signing.keys")])
    key = tmp_path / "key"
    key.write_text(public.output)
    verified = CliRunner().invoke(main, ["verify", str(pack), "--key", str(key)])
    assert verified.exit_code == 0, verified.output


async def _somebody(suite: Suite) -> str:
    async with connect(suite) as line:
        return await who(line, "p10@post.eu")


def test_a_rollback_finds_every_table_as_it_was(previous: Lived) -> None:
    """Today's code adds tables and columns at most: whatever the previous version reads and writes is still there."""
    before = list(shapes(previous.folder))
    assert {file for file, _, _ in before} >= {f"{service}.db" for service in previous.stores}
    with Suite(previous.folder, environment=NEVER):
        pass
    assert set(before) <= set(shapes(previous.folder))
    assert Installation.in_folder(previous.folder).missing == []
