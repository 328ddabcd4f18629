"""Folds that were interrupted go on, and several at once find what one after the other does."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from eventful import Lived

from throughline_client.commands import main
from throughline_client.installation import Installation
from throughline_client.suite.suite import Suite
from throughline_eventlog import open_store
from throughline_replay import folding
from throughline_replay.folding import Folded, Folding, fold, fold_each
from throughline_replay.replaying import SERVICES, TELLING

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NOBODY = "127.0.0.1:1"
"""As of an instant no live state is asked for."""


@pytest.fixture(params=SERVICES)
def asked(request: pytest.FixtureRequest, lived: Lived, tmp_path: Path) -> Folding:
    """Each service's log, to be folded from its file as of its end."""
    return end_of(lived, request.param, tmp_path)


def end_of(lived: Lived, service: str, work: Path) -> Folding:
    store = open_store(Installation.in_folder(lived.folder).stores[service])
    try:
        with store.snapshot() as reader:
            last = reader.read(reader.last_position() - 1)[0]
    finally:
        store.close()
    file = lived.folder / f"{service}.db"
    return Folding(service, NOBODY, last.position, work / "kept" / f"{service}.state", file, last.recorded_at)


def interrupted(asked: Folding, after: int) -> None:
    """Folds, until somebody has enough of it."""
    done = 0

    def enough(events: int) -> None:
        nonlocal done
        done += events
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold(asked, enough)


def told(asked: Folding) -> tuple[Folded, list[int]]:
    """The fold, and what it said of its progress."""
    heard: list[int] = []
    found = fold(asked, heard.append)
    assert isinstance(found, Folded)
    return found, heard


def test_an_interrupted_fold_goes_on_to_the_state_that_the_log_has(lived: Lived, asked: Folding) -> None:
    """Whichever service's: it does not begin anew, and ends where the live state stood."""
    interrupted(asked, TELLING)
    found, heard = told(asked)
    assert (heard[0], found.digest) == (TELLING, lived.digests[asked.service])
    assert not asked.kept.exists()
    _, anew = told(asked)
    assert anew[0] == 0


def test_what_was_kept_of_something_else_is_not_gone_on_with(lived: Lived, tmp_path: Path) -> None:
    """Other code, another instant, another log, a file cut short: it begins anew."""
    asked = end_of(lived, "journey", tmp_path)
    interrupted(asked, TELLING)
    kept = asked.kept.read_bytes()
    (code, where, as_of), event_id = pickle.loads(kept)  # noqa: S301 -- written by the fold just now
    rest = kept[len(pickle.dumps(((code, where, as_of), event_id))) :]
    for other in (
        pickle.dumps((("0" * 64, where, as_of), event_id)) + rest,
        pickle.dumps(((code, "/elsewhere.db", as_of), event_id)) + rest,
        pickle.dumps(((code, where, as_of - 1), event_id)) + rest,
        pickle.dumps(((code, where, as_of), bytes(16))) + rest,
        kept[: len(kept) // 2],
    ):
        asked.kept.write_bytes(other)
        found, heard = told(asked)
        assert (heard[0], found.digest) == (0, lived.digests["journey"])


def test_a_fold_is_kept_now_and_then(lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who ends the process unasked loses what came after that at most."""
    monkeypatch.setattr(folding, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(folding, "KEEP_SHARE", 0)
    asked = end_of(lived, "scoring", tmp_path)
    seen: list[bool] = []
    fold(asked, lambda _: seen.append(asked.kept.exists()))
    assert seen[:3] == [False, False, True]


def test_many_logs_are_folded_at_once(lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process of its own; what is found stands in the order asked, and whoever watches hears of each."""
    monkeypatch.setattr(folding, "APART", 1)
    asked = [end_of(lived, service, tmp_path) for service in SERVICES]
    heard: dict[int, int] = {}
    found = fold_each(asked, 1, 2, heard.__setitem__)
    assert {each.service: each.digest for each in found if isinstance(each, Folded)} == lived.digests
    assert [each.service for each in found] == list(SERVICES)
    assert sorted(heard) == list(range(len(SERVICES)))


def test_the_command_compares_with_the_live_states(lived: Lived, tmp_path: Path) -> None:
    """From the files, beside running services: every state equal, and nothing stays behind."""
    folder = shutil.copytree(lived.folder, tmp_path / "copy")
    with Suite(folder):
        asked = ("replay", "all", "--from-files", "--data", str(folder), "--output", "json", "--workers", "2")
        run = CliRunner().invoke(main, asked)
    assert run.exit_code == 0, run.output
    services = json.loads(run.stdout)["services"]
    assert {each["service"]: each["equal"] for each in services} == dict.fromkeys(SERVICES, True)
    assert not list(folder.glob("replay/*"))
