"""What other rules would have decided, and tables rebuilt beside the live ones and switched to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result
from eventful import PROMPT, Lived, submission, who
from google.protobuf import json_format
from google.protobuf.message import Message
from line import DAY, START, Line, StartSuite, connect, identifier, interaction, scattered_history

from feedback.domain import routing
from throughline.feedback.v1 import events_pb2 as feedback_events
from throughline.feedback.v1 import feedback_pb2
from throughline.identity.v1 import events_pb2 as identity_events
from throughline.identity.v1 import identity_pb2, rules_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline.journey.v1 import definitions_pb2
from throughline.journey.v1 import events_pb2 as journey_events
from throughline_client.commands import main
from throughline_client.installation import Installation
from throughline_client.suite.suite import Suite
from throughline_eventlog import StoreSettings, open_store
from throughline_replay import StoredLog, derive, make_folds, replay_log
from throughline_replay.rebuilding import rebuild
from throughline_replay.units import derivable
from throughline_replay.whatif import what_if
from throughline_testkit import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Run = Callable[..., Result]
M = TypeVar("M", bound=Message)


@pytest.fixture
def run() -> Run:
    """Runs the command."""
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def copy(lived: Lived, tmp_path: Path) -> Lived:
    """The same installation, to be changed."""
    return Lived(shutil.copytree(lived.folder, tmp_path / "copy"), lived.digests)


@contextlib.contextmanager
def table_of(lived: Lived, service: str) -> Iterator[sqlite3.Connection]:
    """The service's file, as nobody should open it."""
    with contextlib.closing(sqlite3.connect(lived.folder / f"{service}.db")) as raw, raw:
        yield raw


def published(lived: Lived, service: str, kind: type[M]) -> list[M]:
    """Every event of the kind in the log."""
    store = open_store(Installation.in_folder(lived.folder).stores[service])
    try:
        with store.snapshot() as reader:
            return [kind.FromString(each.payload) for each in reader.read() if each.type == kind.DESCRIPTOR.full_name]
    finally:
        store.close()


def written(file: Path, message: Message) -> Path:
    """A definition in a file, as people write them."""
    file.write_text(json_format.MessageToJson(message, preserving_proto_field_name=True))
    return file


ENDS = ("recorded", "duplicate", "conflict", "quarantined", "refused")
CALLS = definitions_pb2.JourneyDefinition(
    journey="called",
    name="Whoever called comes soon",
    owner="sales",
    stages=[
        definitions_pb2.Stage(stage="called", matches=[definitions_pb2.Match(channels=["phone"])]),
        definitions_pb2.Stage(stage="bought", matches=[definitions_pb2.Match(kinds=["purchase"])]),
    ],
    goal_stages=["bought"],
    timeout=DAY // 2,
)


def complaint(number: int) -> interaction_pb2.Interaction:
    """Somebody complains, in words of whom only a cookie is known that others have too."""
    said = interaction(
        f"complaint {number}",
        identifier("cookie", f"c{number % 7}", verified=False),
        *([identifier("email", f"p{number % 11}@post.eu")] if number % 3 else []),
        kind="complaint",
        at=START + number * 3_000_000,
    )
    said.feedback.add(kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim="late delivery, broken box")
    return said


def test_other_identity_rules_tell_whose_history_would_be_another(lived: Lived, tmp_path: Path, run: Run) -> None:
    """Nothing joins: no merges any more, more clients than there are, and each one's change by its field; carried on to
    cases, journeys and scores.
    """
    rules = published(lived, "identity", identity_events.RulesPublished)[0].rules
    for rule in rules.types:
        rule.join, rule.identifies_person = rules_pb2.JOIN_POLICY_NEVER, False
    file = written(tmp_path / "rules.yaml", rules)
    asked = ("whatif", "identity", file, "--data", lived.folder)
    told = run(*asked, "--output", "json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    clients = found["standing"]["families"]["client"]
    assert clients["new"] > clients["gone"]
    assert [each["service"] for each in found["carried"]] == ["feedback", "journey", "scoring"]
    feedback, journey, scoring = [each["standing"] for each in found["carried"]]
    assert feedback["parts"]["case"]["new"] or feedback["parts"]["case"]["changed"]
    assert journey["parts"]["journey"]["new"]
    assert journey["parts"]["journey"]["gone"]
    assert scoring["parts"]["score"]["changed"]
    assert scoring["families"]["client"]["new"]
    assert found["kinds"]["throughline.identity.v1.ClientsMerged"]["logged"]
    changed = next(each for each in found["standing"]["listed"] if each["key"].startswith("client.") and each["path"])
    client_id = changed["key"].removeprefix("client.")
    alone = run(*asked, "--client", client_id, "--output", "json")
    listed = json.loads(alone.stdout)["standing"]["listed"]
    assert {each["key"] for each in listed} == {changed["key"]}
    assert changed in listed
    assert len(listed) > 1
    shown = run(*asked)
    assert "Who and what would change" in shown.stdout
    assert re.search(r"journey\W+journey\W", shown.stdout)
    assert found["standing"]["listed"][0]["key"] in shown.stdout
    nobody = run(*asked, "--client", "0" * 32)
    assert (nobody.exit_code, "nothing is kept" in nobody.output) == (2, True)


def test_the_definition_that_holds_changes_nobody_and_another_one_does(lived: Lived, tmp_path: Path, run: Run) -> None:
    """A journey told under the definition that it has is told as it was; under another one the clients on it change."""
    defined = published(lived, "journey", journey_events.JourneyDefined)
    definition = defined[-1].definition
    asked = ("--data", lived.folder, "--output", "json")
    same = json.loads(run("whatif", "journey", written(tmp_path / "same.json", definition), *asked).stdout)
    assert same["standing"]["families"]["client"]["changed"] == 0
    for found in (same, *same["carried"]):
        assert found["standing"]["digest"] == found["standing"]["derived_digest"], found["service"]
    definition.goal_stages[:] = ["called"]
    other = json.loads(run("whatif", "journey", written(tmp_path / "other.json", definition), *asked).stdout)
    assert other["standing"]["families"]["client"]["changed"] > 0
    completed = other["kinds"]["throughline.journey.v1.JourneyCompleted"]
    assert completed["derived"] > completed["logged"]
    (scoring,) = other["carried"]
    assert scoring["standing"]["families"]["client"]["changed"] > 0
    assert scoring["standing"]["parts"]["score"]["changed"] > 0


def test_other_routes_tell_which_cases_others_would_own(lived: Lived, tmp_path: Path, run: Run) -> None:
    """Everything goes to one department: what people did to cases of others is refused, and counted."""
    routes = published(lived, "feedback", feedback_events.RoutesPublished)[0].routes
    del routes.routes[:]
    file = written(tmp_path / "routes.yaml", routes)
    told = run("whatif", "feedback", file, "--data", lived.folder, "--output", "json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["standing"]["families"]["feedback"]["changed"] > 0
    assert found["refused"] > 0
    assert found["standing"]["parts"]["case"]["new"] > 0
    journey, scoring = [each["standing"] for each in found["carried"]]
    assert journey["families"]["client"]["changed"] > 0
    assert scoring["parts"]["score"]["changed"] > 0
    unknown = run("whatif", "feedback", tmp_path / "absent.yaml", "--data", lived.folder)
    assert unknown.exit_code == 2
    routes.default_department = "nobody"
    refused = run("whatif", "feedback", written(file, routes), "--data", lived.folder)
    assert (refused.exit_code, "default_department" in refused.output) == (2, True)


async def test_what_other_identities_would_mean_is_what_comes_of_them(start_suite: StartSuite, tmp_path: Path) -> None:
    """Carried on, other rules lead to the very states of a suite that had them from its beginning; to the last bit, and
    each state is also the fold of the log that it would have.
    """
    history = [*scattered_history(3, 40, 700), *(complaint(number) for number in range(30))]
    suite = start_suite("as_it_was")
    async with connect(suite) as line:
        await line.register()
        await line.record(history, 60)
        rules = (await line.identity.GetRules(identity_pb2.GetRulesRequest())).rules
        await line.settled()
    for rule in rules.types:
        rule.join, rule.identifies_person = rules_pb2.JOIN_POLICY_NEVER, False
    async with connect(start_suite("as_it_would_be", keys_of=suite)) as line:
        await line.register()
        rules.version += 1
        await line.identity.PublishRules(identity_pb2.PublishRulesRequest(rules=rules, published_by="kim"))
        await line.record(history, 90)
        digests = await line.digests()
    unit = replace(Lived(suite.folder, {}).unit("identity", tmp_path), instead=rules.SerializeToString())
    heard: list[int] = []
    first, *carried = what_if(unit, heard.append)
    assert sum(heard) == sum(each.events for each in (first, *carried))
    assert [each.service for each in carried] == ["feedback", "journey", "scoring"]
    folds = make_folds()
    for found in (first, *carried):
        assert found.standing is not None
        assert found.standing.digest != found.standing.derived_digest
        beside = open_store(StoreSettings.sqlite(found.service, tmp_path / f"{found.service}.db"))
        folded = replay_log(folds[found.service], StoredLog(beside).read())
        beside.close()
        if found is not first:
            assert folded.digest() == digests[found.service], found.service
        if found.service != "scoring":
            # Scores are compared without the ids of transitions.
            assert folded.digest() == found.standing.derived_digest, found.service
    assert carried[0].standing is not None
    assert carried[0].standing.parts["case"].new


async def test_what_clocks_would_have_done_is_done(line: Line, tmp_path: Path) -> None:
    """Nothing fell due under the rules that held, so that no step tells of a clock; under others it would have."""
    calls = [interaction(n, identifier("email", f"p{n}@post.eu"), channel="phone", at=START + n * DAY) for n in (1, 2)]
    await line.record(calls)
    await line.feedback.SubmitFeedback(submission(0, "late delivery, broken box", ""))
    routes = (await line.feedback.GetRoutes(feedback_pb2.GetRoutesRequest())).routes
    for each in (routes, *routes.departments):
        each.acknowledge_within = PROMPT
    due = time.time_ns() // 1_000 + PROMPT

    async def passed() -> bool:
        return time.time_ns() // 1_000 > due

    await eventually(passed)
    # Something later, by which the time of feedback's log is known.
    await line.feedback.SubmitFeedback(submission(2, "late delivery, broken box", ""))
    await line.settled()
    unit = replace(Lived(line.suite.folder, {}).unit("journey", tmp_path), instead=CALLS.SerializeToString())
    journey, scoring = what_if(unit)
    assert journey.kinds[journey_events.JourneyAbandoned.DESCRIPTOR.full_name] == (0, 1)
    assert scoring.standing is not None
    clients = [each.replayed for each in scoring.standing.listed if each.key.startswith("client/")]
    assert sorted(each.count("abandoned") for each in clients) == [0, 1]
    unit = replace(
        Lived(line.suite.folder, {}).unit("feedback", tmp_path / "other"), instead=routes.SerializeToString()
    )
    feedback, *_ = what_if(unit)
    logged, derived = feedback.kinds[feedback_events.CaseEscalated.DESCRIPTOR.full_name]
    assert logged == 0 < derived


async def test_tables_are_rebuilt_and_switched_to_while_the_services_run(copy: Lived, run: Run) -> None:
    """Interactions come in all the while; states are the same before and after, and everybody goes on."""
    with Suite(copy.folder) as suite:
        async with connect(suite) as line:
            history = scattered_history(12, 30, 1_000)
            rebuilt = asyncio.Event()

            async def go_on() -> int:
                offered = 0
                # A steady trickle, as long as it takes: each batch is taken by everyone before the next one.
                while not rebuilt.is_set():
                    await line.settled()
                    some = [history[(offered + each) % len(history)] for each in range(5)]
                    for each in some:
                        each.source_interaction_id += "."
                    offered += len(await line.record(some))
                return offered

            going_on = asyncio.create_task(go_on())
            for service in ("identity", "scoring"):
                done = await asyncio.to_thread(run, "rebuild", service, "--data", copy.folder, "--output", "json")
                assert done.exit_code == 0, done.output
                assert json.loads(done.stdout)["switched"]
            rebuilt.set()
            assert await going_on
            await line.record([interaction("after", identifier("email", "p1@post.eu"))])
            await line.settled()
            told = await line.checkpoints(digest=True)
            assert await who(line, "p1@post.eu")
    folds = make_folds(derivable())
    for service in derivable():
        found = derive(copy.unit(service, copy.folder / "again"))
        assert found.same, f"{service}: {found.first or found.standing}"
        # At the service's own cut: a sweep may have decided more before everything was stopped.
        store = open_store(Installation.in_folder(copy.folder).stores[service])
        folded = replay_log(folds[service], StoredLog(store).read(until=told[service].position))
        store.close()
        assert folded.digest() == told[service].digest, service


async def test_ingestions_tables_are_rebuilt_out_of_its_log(line: Line, run: Run) -> None:
    """Verdicts of every kind; whatever is lost from the tables, counts, what waits, and the index of all ids, comes
    back beside the running service, which goes on with it.
    """
    history = scattered_history(12, 20, 300)
    odd = [interaction(n, identifier("email", f"p{n}@post.eu"), channel=("kiosk", "booth")[n % 2]) for n in range(8)]
    for each in odd:
        each.source_interaction_id = f"odd {each.source_interaction_id}"
    await line.record([*history, *odd, *history[:50], *odd[:4]], 90)
    other = interaction_pb2.Interaction.FromString(history[0].SerializeToString())
    other.kind = "return"
    await line.record([other, interaction("", source="web"), *history[:9]])
    traits = interaction_pb2.ChannelTraits(name="Kiosk", physical=True)
    await line.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk", traits=traits))
    await line.ingestion.RedriveQuarantine(ingestion_pb2.RedriveQuarantineRequest())
    digests, tallies = await line.digests(), await line.tallies()
    ends = [sum(getattr(each, end) for each in tallies.values()) for end in ENDS]
    assert all(ends), ends
    asked = ("rebuild", "ingestion", "--data", line.suite.folder, "--output", "json")
    checked = json.loads((await asyncio.to_thread(run, *asked, "--check")).stdout)
    assert not any(checked["rows"].values())
    assert checked["derived"]["standing"]["derived_digest"] == digests["ingestion"]
    # No digest tells of the index: without it every repeat would be recorded again.
    with table_of(Lived(line.suite.folder, {}), "ingestion") as raw:
        raw.execute("DELETE FROM t_interaction_runs")
        raw.execute("DELETE FROM t_asides")
    switched = json.loads((await asyncio.to_thread(run, *asked)).stdout)
    assert switched["switched"]
    assert switched["rows"]["interactions"] == ends[0]
    assert {each.position for each in await line.record(history)} == {0}
    with table_of(Lived(line.suite.folder, {}), "ingestion") as raw:
        raw.execute("DELETE FROM t_quarantine")
        raw.execute("UPDATE t_accounts SET value=(SELECT value FROM t_accounts ORDER BY key LIMIT 1)")
    refused = await asyncio.to_thread(run, *asked[:-2])
    assert refused.exit_code == 4
    assert "ingestion was not switched: the live state differs" in refused.output
    repaired = await asyncio.to_thread(run, *asked, "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert json.loads(repaired.stdout)["rows"]["quarantine"] == 4
    after = await line.tallies()
    assert [sum(getattr(each, end) for each in after.values()) for end in ENDS] == [
        count + len(history) * (end == "duplicate") for end, count in zip(ENDS, ends, strict=True)
    ]
    assert not any(json.loads((await asyncio.to_thread(run, *asked, "--check")).stdout)["rows"].values())


def test_a_live_state_that_differs_is_not_switched_but_can_be_repaired(copy: Lived, run: Run) -> None:
    """It says where it differs and changes nothing; asked to repair, the log has proved which one is right."""
    with table_of(copy, "identity") as raw:
        key, value = raw.execute("SELECT key, value FROM t_personas ORDER BY key LIMIT 1").fetchone()
        other = raw.execute("SELECT value FROM t_personas ORDER BY key DESC LIMIT 1").fetchone()[0]
        raw.execute("UPDATE t_personas SET value=? WHERE key=?", (other, key))
    asked = ("rebuild", "identity", "--data", copy.folder)
    refused = run(*asked)
    assert refused.exit_code == 4
    assert "identity was not switched: the live state differs" in refused.output
    assert "client." in refused.output
    with table_of(copy, "identity") as raw:
        assert raw.execute("SELECT value FROM t_personas WHERE key=?", (key,)).fetchone()[0] == other
    repaired = run(*asked, "--repair", "--output", "json")
    assert repaired.exit_code == 0, repaired.output
    assert json.loads(repaired.stdout)["rows"]["personas"] == 1
    with table_of(copy, "identity") as raw:
        assert raw.execute("SELECT value FROM t_personas WHERE key=?", (key,)).fetchone()[0] == value


def test_a_row_that_no_digest_tells_of_is_put_right(copy: Lived, run: Run) -> None:
    """The states are the same, so it is switched; --check says what would be done and does nothing."""
    with table_of(copy, "journey") as raw:
        raw.execute("DELETE FROM t_owners WHERE key=(SELECT key FROM t_owners LIMIT 1)")
        raw.execute("INSERT INTO t_owners VALUES (x'00', x'00')")
    asked = ("rebuild", "journey", "--data", copy.folder, "--output", "json")
    checked = json.loads(run(*asked, "--check").stdout)
    assert (checked["switched"], checked["rows"]["owners"]) == (False, 2)
    switched = json.loads(run(*asked).stdout)
    assert (switched["switched"], switched["rows"]["owners"]) == (True, 2)
    assert not any(json.loads(run(*asked, "--check").stdout)["rows"].values())


def test_code_that_decides_otherwise_does_not_get_its_tables_in(
    copy: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that contradict the log are refused, also with --repair."""
    monkeypatch.setattr(routing, "UNROUTED", "nobody asked for it")
    for repair in (False, True):
        found = rebuild(copy.unit("feedback", tmp_path / str(repair)), repair=repair)
        assert not found.switched
        assert "decides otherwise" in found.refused
        assert "nobody asked for it" in found.refused
