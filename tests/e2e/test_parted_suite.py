"""An embedded suite whose ingestion has two partitions, and all that is asked of it: by the command, as people do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from guarded import Guarded
from line import Line, connect, identifier, interaction
from parted import SOURCES, nothing

from throughline.eventlog.v1 import eventlog_pb2
from throughline.ingestion.v1 import ingestion_pb2
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.installation import Installation, write_partitioning
from throughline_client.sdk.ingestion import IngestionClient
from throughline_client.suite import Suite
from throughline_portability.parting import change_partitions
from throughline_proof import SigningKeys
from throughline_rpc import RemoteRefusal, open_channel

pytestmark = pytest.mark.e2e

LOGS = ["ingestion-100", "ingestion-101", "identity", "journey", "feedback", "scoring"]
COUNT = 40


@pytest.fixture(scope="module")
def run() -> Callable[..., Result]:
    """Runs the command."""

    def running(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(words), catch_exceptions=False)
        assert result.exit_code == code, (words, result.output)
        return result

    return running


async def offer(line: Line, first: int) -> None:
    """Interactions of every source, each of one of seven people, in batches of all sources."""
    offered = [
        interaction(number, identifier("email", f"p{number % 7}@post.eu"), source=SOURCES[number % 4])
        for number in range(first, first + COUNT)
    ]
    assert {result.verdict for result in await line.record(offered, 10)} == {1}


async def begun(suite: Suite) -> None:
    """The registry and the first interactions."""
    async with connect(suite) as line:
        await line.register()
        for source in SOURCES:
            await line.ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source=source, name=source))
        await offer(line, 0)


async def gone_on(suite: Suite) -> None:
    """More of everybody, through both partitions, and some of what was reported before."""
    async with connect(suite) as line:
        await offer(line, COUNT)
        again = [
            interaction(number, identifier("email", f"p{number % 7}@post.eu"), source=SOURCES[number % 4])
            for number in range(8)
        ]
        assert {result.verdict for result in await line.record(again)} == {2}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Result]) -> Iterator[Suite]:
    """Begun whole, stopped, parted, and started again."""
    made = Suite(tmp_path_factory.mktemp("parted"))
    with made:
        asyncio.run(begun(made))
        run("status", "--wait", "60", "--data", str(made.folder))
    run("partitions", "set", "ingestion", "2", "--data", str(made.folder))
    with made:
        asyncio.run(gone_on(made))
        run("status", "--wait", "60", "--data", str(made.folder))
        yield made


def test_each_partition_is_a_process_and_has_its_row(suite: Suite, run: Callable[..., Result]) -> None:
    """By its log, with its own position; what was offered is told once for all."""
    assert list(suite.parts) == LOGS
    assert set(suite.pids) == {*LOGS, "nats"}
    told = json.loads(run("status", "--digest", "--output", "json", "--data", str(suite.folder)).stdout)
    assert list(told["services"]) == LOGS
    assert {each["health"] for each in told["services"].values()} == {"SERVING"}
    assert len({each["digest"] for each in told["services"].values()}) == len(LOGS)
    assert {each["stream"] for each in told["services"]["identity"]["inbox"]} >= {
        "TL_INGESTION_100",
        "TL_INGESTION_101",
    }
    offered = {each["source"]: (int(each["offered"]), int(each["recorded"])) for each in told["tallies"]}
    assert offered == dict.fromkeys(SOURCES, (2 * COUNT // 4 + 2, 2 * COUNT // 4))
    read = run("log", "read", "ingestion-101", "--limit", "3", "--output", "json", "--data", str(suite.folder))
    assert len(read.stdout.splitlines()) == 3
    refused = run("log", "read", "ingestion", "--data", str(suite.folder), code=3)
    assert "name one of ingestion-100, ingestion-101" in refused.stderr


def test_one_log_of_several_is_never_told_as_all(suite: Suite, run: Callable[..., Result], tmp_path: Path) -> None:
    """Whoever was told addresses alone, and not of partitions, is refused with what to set."""
    addresses = [word for name in SERVICES for word in ("--address", f"{name}={suite.addresses[name]}")]
    elsewhere = (*addresses, "--data", str(tmp_path / "elsewhere"))
    for words in (
        ("checkpoint",),
        ("log", "read", "ingestion"),
        ("audit", "range", "ingestion", "--to", str(tmp_path / "range.zip")),
    ):
        refused = run(*words, *elsewhere, code=1)
        assert "has the log ingestion-100, and 'ingestion' is meant" in refused.stderr
        assert "THROUGHLINE_PARTITIONS" in refused.stderr


def test_a_partition_that_was_killed_comes_back_with_what_it_had(suite: Suite, run: Callable[..., Result]) -> None:
    """Meanwhile the other one serves its own sources."""
    before = json.loads(run("status", "--digest", "--output", "json", "--data", str(suite.folder)).stdout)
    suite.kill("ingestion-101")
    assert suite.is_serving("ingestion-100")
    assert not suite.is_serving("ingestion-101")
    away = json.loads(run("status", "--output", "json", "--data", str(suite.folder), code=3).stdout)
    assert away["services"]["ingestion-101"]["health"] == "UNREACHABLE"
    suite.restart("ingestion-101")
    run("status", "--wait", "60", "--data", str(suite.folder))
    after = json.loads(run("status", "--digest", "--output", "json", "--data", str(suite.folder)).stdout)
    for log in LOGS:
        assert after["services"][log]["digest"] == before["services"][log]["digest"], log


def test_what_a_client_did_is_proved_from_every_log(suite: Suite, run: Callable[..., Result], tmp_path: Path) -> None:
    """What was taken over and what came after, of all partitions; reads too."""
    keys = tmp_path / "keys"
    keys.write_text(run("signing", "public", str(suite.folder / "signing.keys")).stdout)
    whom = ("--identifier", "email=p3@post.eu", "--data", str(suite.folder))
    checkpoints = json.loads(run("checkpoint", "--output", "json", "--data", str(suite.folder)).stdout)["checkpoints"]
    assert set(checkpoints) == {*LOGS, *(f"{log}_access" for log in LOGS)}
    origins = {name: each["origin"].partition("/")[2] for name, each in checkpoints.items()}
    assert origins["ingestion-101"] == "ingestion/101"
    run("audit", "client", *whom, "--to", str(tmp_path / "client.zip"))
    run("audit", "access", *whom, "--to", str(tmp_path / "access.zip"))
    run("audit", "range", "ingestion-100", "--to", str(tmp_path / "range.zip"), "--data", str(suite.folder))
    for name in ("client", "access", "range"):
        verified = run("verify", str(tmp_path / f"{name}.zip"), "--key", str(keys)).output
        assert "ingestion-10" in verified
    history = [json.loads(line) for line in run("history", *whom, "--output", "json").stdout.splitlines()]
    done = {(each["interaction"]["source"], each["interaction"]["source_interaction_id"]) for each in history}
    assert done == {(SOURCES[number % 4], str(number)) for number in range(3, 2 * COUNT, 7)}
    for log, interaction_id in ingested(run, suite):
        run("audit", "interaction", interaction_id, "--to", str(tmp_path / "one.zip"), "--data", str(suite.folder))
        verified = run("verify", str(tmp_path / "one.zip"), "--key", str(keys)).output
        assert [each for each in LOGS[:3] if each in verified] == [log, "identity"]


def ingested(run: Callable[..., Result], suite: Suite) -> Iterator[tuple[str, str]]:
    """Of each partition's log the first interaction, which was taken over, and the last, which was not."""
    for log in LOGS[:2]:
        read = run("log", "read", log, "--output", "json", "--data", str(suite.folder)).stdout.splitlines()
        events = [json.loads(line) for line in read]
        (opened,) = [at for at, event in enumerate(events) if event["type"].endswith(".PartitionOpened")]
        for some in (events[:opened], events[opened:][::-1]):
            yield log, next(event["event_id"] for event in some if event["type"].endswith(".InteractionRecorded"))


def test_every_log_is_replayed_and_decided_again(suite: Suite, run: Callable[..., Result], tmp_path: Path) -> None:
    """Those in force against the live states; what identity decided, on all that it ever took, sealed logs too."""
    here = ("--data", str(suite.folder))
    for more in ((), ("--from-files",)):
        told = json.loads(run("replay", "all", "--output", "json", *more, *here).stdout)["services"]
        assert [(each["service"], each["equal"]) for each in told] == [(log, True) for log in LOGS]
    client_id = json.loads(run("resolve", "-i", "email=p3@post.eu", "--output", "json", *here).stdout)["client_id"]
    told = json.loads(run("replay", "client", client_id, "--output", "json", *here).stdout)
    recorded = [each for each in told["history"] if each["type"] == "InteractionRecorded"]
    assert len(recorded) == len(range(3, 2 * COUNT, 7))
    assert {each["service"] for each in recorded} == {"ingestion-100", "ingestion-101"}
    derived = json.loads(run("rederive", "--output", "json", *here).stdout)["services"]
    assert {each["service"]: each["same"] for each in derived} == dict.fromkeys(LOGS[2:], True)
    rules = tmp_path / "rules.json"
    rules.write_text('{"types": [{"type": "*", "priority": 1, "join": "JOIN_POLICY_NEVER"}]}')
    tried = json.loads(run("whatif", "identity", str(rules), "--output", "json", *here).stdout)
    assert tried["taken"] == {each["service"]: each["taken"] for each in derived}["identity"] > 2 * COUNT
    assert [each["service"] for each in tried["carried"]] == ["feedback", "journey", "scoring"]
    for log in ("ingestion-100", "ingestion-101", "ingestion-0"):
        assert not json.loads(run("rebuild", log, "--check", "--output", "json", *here).stdout)["refused"]
    assert json.loads(run("rebuild", "ingestion-101", "--output", "json", *here).stdout)["switched"]
    sealed = run("rebuild", "ingestion-0", *here, code=2)
    assert "partitions 100, 101 follow it" in sealed.stderr
    several = run("rebuild", "ingestion", *here, code=2)
    assert "name one of ingestion-100, ingestion-101" in several.stderr


def test_all_of_it_is_exported_and_put_back(suite: Suite, run: Callable[..., Result], tmp_path: Path) -> None:
    """The sealed log too, and in how many partitions it stands: the same digests by log, and the same export again."""
    keys = ("--keys-file", str(suite.folder / "keys.json"))
    backup, again, new = tmp_path / "backup", tmp_path / "again", tmp_path / "new"
    told = json.loads(run("export", str(backup), "--keys", "--output", "json", "--data", str(suite.folder)).stdout)
    assert set(told["stores"]) == {"ingestion", *LOGS}
    assert told["partitions"] == "ingestion=1:2"
    run("restore", str(backup), "--data", str(new), *keys)
    assert (new / "partitions").read_text() == "ingestion=1:2"
    kept = json.loads(run("export", str(again), "--keys", "--output", "json", "--data", str(new)).stdout)
    assert {log: each["digest"] for log, each in kept["stores"].items()} == {
        log: each["digest"] for log, each in told["stores"].items()
    }
    assert {each.name: each.read_bytes() for each in again.rglob("*.gz")} == {
        each.name: each.read_bytes() for each in backup.rglob("*.gz")
    }
    sealed = run("rebuild", "ingestion-0", "--data", str(new), code=2)
    assert "partitions 100, 101 follow it" in sealed.stderr
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "ingestion.db").touch()
    whole = run("restore", str(backup), "--data", str(tmp_path / "whole"), *keys, code=2)
    assert "set THROUGHLINE_PARTITIONS=ingestion=1:2" in whole.stderr
    assert not (tmp_path / "whole" / "partitions").exists()


async def test_partitions_prove_themselves_to_each_other(tmp_path: Path) -> None:
    """Over TLS with certificates of both sides, in the role service; a channel is held to its sources at whichever
    partition has them.
    """
    guarded = Guarded.make(tmp_path)
    suite = replace(
        guarded.suite,
        services=("ingestion",),
        environment={
            **guarded.suite.environment,
            "INGESTION_TOKEN_FILE": str(guarded.credentials("service").token_file),
        },
        credentials=guarded.credentials("admin"),
    )
    with suite:
        pass
    change_partitions(
        Installation.in_folder(suite.folder),
        "ingestion",
        2,
        keys=lambda: SigningKeys.of_file(suite.folder / "signing.keys"),
        told=nothing,
        keep=partial(write_partitioning, suite.folder),
    )
    offered = [interaction(number, source=source) for number, source in enumerate(SOURCES)]
    with suite:
        for log in suite.parts:
            async with open_channel(suite.addresses[log], credentials=guarded.credentials("admin")) as channel:
                ingestion = IngestionClient(channel)
                assert (await ingestion.record_many(offered)).offered == len(offered)
            bound = guarded.credentials("channel", sources=SOURCES[:1])
            async with open_channel(suite.addresses[log], credentials=bound) as channel:
                with pytest.raises(RemoteRefusal) as refused:
                    await IngestionClient(channel).record_many(offered)
                assert refused.value.reason == "SOURCE_FORBIDS"
                assert (await IngestionClient(channel).record_many(offered[:1])).offered == 1
        told = {tally.source: (tally.offered, tally.quarantined) for tally in await tallies(suite, guarded)}
        assert told == {SOURCES[0]: (4, 4), **dict.fromkeys(SOURCES[1:], (2, 2))}


async def tallies(suite: Suite, guarded: Guarded) -> list[eventlog_pb2.Tally]:
    """What each source offered, as the first partition tells it."""
    async with open_channel(suite.addresses["ingestion"], credentials=guarded.credentials("admin")) as channel:
        return await IngestionClient(channel).tallies()
