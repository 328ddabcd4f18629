"""Law 5 and law 3 for what is decided again: nothing that sends is there, and fold, re-derive and live agree."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from eventful import Lived

from feedback.domain import routing
from journey.application.taking import TakeFromFeedback
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_eventlog import open_store
from throughline_replay import StoredLog, derive, deriving, make_folds, replay_log, units
from throughline_replay.rebuilding import rebuild
from throughline_replay.units import DerivationError, derivable
from throughline_replay.whatif import what_if

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize("place", ["lived", "lived_on_postgres"])
def test_law_05_fold_rederive_and_live_agree(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whatever happened, on either store: every event is decided as it was, and all three states are one, to the last
    bit.
    """
    lived: Lived = request.getfixturevalue(place)
    assert set(derivable()) == set(SERVICES) - {"ingestion"}
    folds = make_folds()
    stores = lived.stores
    for service in derivable():
        found = derive(lived.unit(service, tmp_path))
        assert found.first is None, f"{service}: {found.first}"
        assert found.standing is not None
        assert found.standing.first is None, f"{service}: {found.standing.first}"
        store = open_store(stores[service])
        try:
            folded = replay_log(folds[service], StoredLog(store).read())
        finally:
            store.close()
        assert found.events == found.derived == folded.events
        digests = {folded.digest(), found.standing.digest, found.standing.derived_digest, lived.digests[service]}
        assert len(digests) == 1, service
        # Beside the states, the very rows: also those that hold positions of the log.
        assert not any(rebuild(lived.unit(service, tmp_path), check=True).rows.values()), service


@pytest.mark.parametrize("place", ["lived", "lived_on_postgres"])
def test_ingestions_tables_follow_from_its_log(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It decides on what is in no log; what came of that is, to the last row, on either store."""
    lived: Lived = request.getfixturevalue(place)
    found = rebuild(lived.unit("ingestion", tmp_path), check=True)
    assert not any(found.rows.values())
    assert found.derived.standing is not None
    assert found.derived.standing.derived_digest == lived.digests["ingestion"]


def test_what_is_decided_again_is_everything_that_a_log_can_hold(lived: Lived, tmp_path: Path) -> None:
    """The history behind the law above: what people ask, what clocks do and what follows, of every kind."""
    seen = {name.rpartition(".")[2] for service in derivable() for name in derive(lived.unit(service, tmp_path)).kinds}
    identity = {"RulesPublished", "ClientsMerged", "MergeUndone", "ConsentRecorded", "ClientForgotten"}
    identity |= {"RetentionRulesPublished"}
    journey = {"JourneyDefined", "HandoffOffered", "HandoffAccepted", "TransitionRetracted", "JourneyAbandoned"}
    cases = {f"Case{what}" for what in ("Opened", "Escalated", "Acknowledged", "Reassigned", "Resolved", "Reopened")}
    feedback = {"RoutesPublished", "FeedbackConflicted", "FeedbackReassigned", "ClientDropped", *cases}
    scoring = {"FormulaPublished", "MetricDefined", "ScoreComputed", "AttributionComputed", "ContactWithdrawn"}
    assert identity | journey | feedback | scoring <= seen


def test_a_change_of_code_is_named_at_the_first_event_that_it_decides_otherwise(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event ids, field, old and new value; and the aggregates that would be others."""
    monkeypatch.setattr(routing, "UNROUTED", "nobody asked for it")
    found = derive(lived.unit("feedback", tmp_path))
    first = found.first
    assert first is not None
    assert first.type == "throughline.feedback.v1.FeedbackClassified"
    assert (first.path, first.logged, first.derived) == (
        "assignments[0].because",
        '"no route holds"',
        '"nobody asked for it"',
    )
    assert (len(first.event_id), len(first.derived_event_id), first.taken[:8]) == (32, 32, "identity")
    assert found.events == found.derived
    assert found.differing > 1
    assert found.standing is not None
    assert found.standing.families["feedback"].changed
    assert not found.same


def test_what_is_carried_on_unchanged_changes_nothing(lived: Lived, tmp_path: Path) -> None:
    """Each service decides on what was decided again before it, in the place of its upstream logs: it is the same."""
    for found in what_if(lived.unit("identity", tmp_path)):
        assert found.first is None, f"{found.service}: {found.first}"
        assert found.standing is not None
        assert found.standing.digest == found.standing.derived_digest
        assert not any(each.changed or each.gone or each.new for each in found.standing.parts.values())


def test_an_event_that_would_not_have_been_is_named(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the code at hand says less, or more, what is missing is absent on its side."""
    monkeypatch.setattr(TakeFromFeedback, "__call__", lambda *_: None)
    found = derive(lived.unit("journey", tmp_path))
    assert found.first is not None
    assert found.first.derived == "absent"
    assert found.first.type.rpartition(".")[2] in {"FeedbackNoted", "CaseNoted"}
    assert found.derived < found.events


def test_deciding_again_goes_on_where_it_was_interrupted(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided is not decided again; other code has to begin anew."""
    monkeypatch.setattr(deriving, "AT_ONCE", 300)
    heard: list[int] = []

    def interrupt(events: int) -> None:
        heard.append(events)
        if len(heard) == 2:
            raise KeyboardInterrupt

    unit = lived.unit("scoring", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        derive(unit, interrupt)
    found = derive(unit, heard.append)
    assert found.same
    assert sum(heard) == found.events
    monkeypatch.setattr(units, "code_of", lambda *_: "other")
    with pytest.raises(DerivationError, match="--fresh"):
        derive(unit)


def test_what_is_carried_on_goes_on_where_it_was_interrupted(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a service behind the first: what was decided is not decided again; other rules begin anew."""
    monkeypatch.setattr(deriving, "AT_ONCE", 300)
    heard: list[int] = []
    unit = lived.unit("identity", tmp_path)

    def interrupt(events: int) -> None:
        heard.append(events)
        if (tmp_path / "journey.db").exists() and events:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        what_if(unit, interrupt)
    found = what_if(unit, heard.append)
    assert all(each.same for each in found)
    assert sum(heard) == sum(each.events for each in found)
    monkeypatch.setattr(units, "code_of", lambda *_: "other")
    with pytest.raises(DerivationError, match="--fresh"):
        what_if(unit)


@pytest.mark.parametrize("service", ["identity", "journey", "feedback", "scoring"])
def test_a_log_that_did_not_keep_what_was_taken_together_is_refused(service: str, lived: Lived, tmp_path: Path) -> None:
    """It says so, instead of finding differences that are none."""
    older = Lived(shutil.copytree(lived.folder, tmp_path / "older"), lived.digests)
    with contextlib.closing(sqlite3.connect(older.folder / f"{service}.db")) as raw, raw:
        raw.execute("DELETE FROM t_steps")
    with pytest.raises(DerivationError, match="did not keep which"):
        derive(older.unit(service, tmp_path))
    with contextlib.closing(sqlite3.connect(lived.folder / f"{service}.db")) as raw:
        later = raw.execute("SELECT key, value FROM t_steps ORDER BY key LIMIT -1 OFFSET 3").fetchall()
    with contextlib.closing(sqlite3.connect(older.folder / f"{service}.db")) as raw, raw:
        raw.executemany("INSERT INTO t_steps VALUES (?, ?)", later)
    with pytest.raises(DerivationError, match="did not keep which"):
        derive(older.unit(service, tmp_path / "later"))


def test_the_command_decides_everything_again_and_says_so_by_its_exit_code(lived: Lived) -> None:
    """All services, two at a time, each in a process of its own; nothing is left in the data folder."""
    run = CliRunner().invoke(
        main, ["rederive", "--data", str(lived.folder), "--workers", "2", "--output", "json"], catch_exceptions=False
    )
    assert run.exit_code == 0, run.output
    services = json.loads(run.stdout)["services"]
    assert {each["service"]: each["standing"]["derived_digest"] for each in services} == {
        service: digest for service, digest in lived.digests.items() if service != "ingestion"
    }
    assert not (lived.folder / "rederive").exists()
    unknown = CliRunner().invoke(main, ["rederive", "ingestion", "--data", str(lived.folder)])
    assert (unknown.exit_code, "ingestion: nothing can be decided again" in unknown.output) == (2, True)


# Runs in a process of its own, where nothing has been imported yet. Every way out is wired to an alarm first.
TRIPWIRE = textwrap.dedent(
    """
    import json
    import socket
    import sys
    from pathlib import Path

    def alarm(*arguments, **named):
        raise AssertionError(f"what decides again tried to reach {arguments} {named}")

    socket.socket.connect = alarm
    socket.socket.connect_ex = alarm
    socket.socket.sendto = alarm
    socket.socket.bind = alarm
    socket.create_connection = alarm

    from throughline_eventlog import StoreSettings
    from throughline_replay.deriving import derive
    from throughline_replay.units import Unit, derivable
    from throughline_replay.whatif import what_if

    folder, work = Path(sys.argv[1]), Path(sys.argv[2])
    env = {"THROUGHLINE_KEYS_FILE": str(folder / "keys.json"), "THROUGHLINE_KEY_STORE": str(folder / "keys.db")}
    services = ("ingestion", "identity", "journey", "feedback", "scoring")
    stores = {service: StoreSettings.sqlite(service, folder / f"{service}.db") for service in services}
    for service in derivable():
        assert derive(Unit(service, stores, env, work / f"{service}.db")).same
    carried = what_if(Unit("identity", stores, env, work / "carried" / "identity.db"))
    assert [found.service for found in carried if found.same] == ["identity", "feedback", "journey", "scoring"]
    forbidden = {"nats", "grpc", "smtplib", "http.client", "urllib.request", "throughline_rpc", "throughline_client"}
    sending = sorted(
        name
        for name in sys.modules
        if name in forbidden or name.partition(".")[0] in services and "entrypoints" in name.split(".")
    )
    print(",".join(sending))
    """
)


def test_law_05_what_decides_again_cannot_send(lived: Lived, tmp_path: Path) -> None:
    """Four services' handlers decide a whole history: no bus, no gRPC, no server is imported, no socket opened."""
    run = tripped(TRIPWIRE, lived, tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def test_the_tripwire_is_live(lived: Lived, tmp_path: Path) -> None:
    """The guard itself: a handler that reached out would be caught, and so would one that brought gRPC with it."""
    reaching = "from journey.application import taking\n" + textwrap.dedent(
        """
        def reach(self, tx, events):
            socket.create_connection(("127.0.0.1", 9))

        taking.TakeFromIdentity.__call__ = reach
        folder, work"""
    )
    run = tripped(TRIPWIRE.replace("folder, work", reaching, 1), lived, tmp_path)
    assert "what decides again tried to reach" in run.stderr
    run = tripped("import grpc\n" + TRIPWIRE, lived, tmp_path / "again")
    assert run.stdout.strip() == "grpc"


def tripped(code: str, lived: Lived, work: Path) -> subprocess.CompletedProcess[str]:
    """Runs the code on the folder, in a process of its own."""
    command = [sys.executable, "-c", code, str(lived.folder), str(work)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
