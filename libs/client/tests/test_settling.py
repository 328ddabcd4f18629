"""Whether everything has been taken by everyone, told from the checkpoints of all logs; and which logs there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from throughline.eventlog.v1 import eventlog_pb2
from throughline_client.endpoints import PEERS, SERVICES, EndpointError, Endpoints, RunFile
from throughline_client.sdk.settling import Behind, behind
from throughline_eventlog import PARTITIONS
from throughline_eventlog.partitions import Partitioning, number_of, service_of
from throughline_kernel import UPSTREAMS


def checkpoints(partitions: str = "", **taken: int) -> dict[str, eventlog_pb2.GetCheckpointResponse]:
    """All logs stand at 7; everyone has taken all of them, but for `service_upstream` as given."""
    logs = Partitioning.parse(partitions).logs(SERVICES)
    return {
        log: eventlog_pb2.GetCheckpointResponse(
            service=service_of(log),
            partition=number_of(log),
            position=7,
            inbox=[
                eventlog_pb2.InboxPosition(
                    stream=f"ELSEWHERE_{service_of(upstream).upper()}_{number_of(upstream)}", position=position
                )
                for upstream in logs
                if service_of(upstream) in UPSTREAMS[service_of(log)]
                if (position := taken.get(f"{log}_{upstream}".replace("-", "_"), 7))
            ],
        )
        for log in logs
    }


@pytest.mark.parametrize("partitions", ["", "ingestion=1:3"])
def test_a_suite_that_has_taken_everything_is_settled(partitions: str) -> None:
    """Whatever the streams' prefix is, and however many partitions there are."""
    assert set(UPSTREAMS) == set(SERVICES)
    assert behind(checkpoints(partitions)) == []


def test_a_service_that_is_behind_is_named() -> None:
    """With what it has taken, of what there is; one that was never told anything has taken nothing."""
    assert behind(checkpoints(scoring_journey=5, feedback_identity=0)) == [
        Behind("feedback", "identity", 0, 7),
        Behind("scoring", "journey", 5, 7),
    ]
    (late,) = behind(checkpoints(scoring_journey=5))
    assert str(late) == "scoring has taken journey up to 5 of 7"


def test_a_partition_that_is_behind_or_was_not_taken_is_named() -> None:
    """Identity takes each of ingestion's partitions, and each of those takes identity."""
    assert behind(checkpoints("ingestion=1:2", identity_ingestion_101=3, ingestion_100_identity=6)) == [
        Behind("ingestion-100", "identity", 6, 7),
        Behind("identity", "ingestion-101", 3, 7),
    ]


def test_partitions_are_where_the_environment_says(tmp_path: Path) -> None:
    """Each by its log; any of them is ingestion; where they are not told all that needs each of them says so."""
    env = {PARTITIONS: "ingestion=1:2", PEERS: "one:1, two:2", "THROUGHLINE_IDENTITY_ADDRESS": "who:3"}
    told = Endpoints.find(data=tmp_path, env=env)
    assert told.logs == ("ingestion-100", "ingestion-101", "identity", "journey", "feedback", "scoring")
    assert [told.address(name) for name in ("ingestion", "ingestion-101", "identity")] == ["one:1", "two:2", "who:3"]
    assert told.log("ingestion-101") == "ingestion-101"
    with pytest.raises(EndpointError, match="ingestion has several logs, each of its own: name one of ingestion-100, "):
        told.log("ingestion")
    with pytest.raises(EndpointError, match="'ingestion-7' is no log in force; there are: ingestion-100, ingestion-1"):
        told.log("ingestion-7")
    untold = Endpoints.find(data=tmp_path, env={PARTITIONS: "ingestion=1:2", "THROUGHLINE_INGESTION_ADDRESS": "any:1"})
    assert untold.address("ingestion") == "any:1"
    with pytest.raises(EndpointError, match=f"has 2 partitions, and nothing says where each is: set {PEERS}"):
        untold.address("ingestion-100")
    with pytest.raises(EndpointError, match=f"{PEERS} has 1 addresses, and ingestion has 2 partitions"):
        Endpoints.find(data=tmp_path, env={PARTITIONS: "ingestion=1:2", PEERS: "one:1"})
    alone = Endpoints.find(data=tmp_path, env={PARTITIONS: "ingestion=1:2:1", "THROUGHLINE_INGESTION_ADDRESS": "any:1"})
    assert (alone.logs[0], alone.log("ingestion"), alone.address("ingestion-200")) == (*["ingestion-200"] * 2, "any:1")


def test_partitions_are_of_the_ingestion_that_is_called(tmp_path: Path) -> None:
    """Not of another installation's that runs here: else some of the logs would be told as all, or two be mixed."""

    def runs(partitions: str) -> dict[str, str]:
        logs = Partitioning.parse(partitions).logs(SERVICES)
        near = {"ingestion": f"near-{logs[0]}:1", **{log: f"near-{log}:1" for log in logs}}
        RunFile(os.getpid(), "", near, {}, {}, partitions).write(tmp_path)
        return {"THROUGHLINE_DATA": str(tmp_path)}

    far = {f"THROUGHLINE_{name.upper()}_ADDRESS": f"far-{name}:1" for name in SERVICES}
    parted = {PARTITIONS: "ingestion=1:2", PEERS: "far-100:1,far-101:1"}
    for here in ("", "ingestion=1:2", "ingestion=1:3"):
        env = {**runs(here), **far, **parted}
        told = Endpoints.find(env=env)
        assert [told.address(log) for log in told.logs[:3]] == ["far-100:1", "far-101:1", "far-identity:1"]
        assert not told.local
        ours = Endpoints.find(data=tmp_path, env=env)
        assert {ours.address(log).partition("-")[0] for log in ours.logs} == {"near"}
        assert ours.logs == Partitioning.parse(here).logs(SERVICES)
    untold = Endpoints.find(env={**runs(""), **far, PARTITIONS: "ingestion=1:2"})
    with pytest.raises(EndpointError, match=f"has 2 partitions, and nothing says where each is: set {PEERS}"):
        untold.address("ingestion-101")
    whole = Endpoints.find(env={**runs("ingestion=1:2"), **far})
    assert [whole.address(log) for log in whole.logs] == [f"far-{log}:1" for log in SERVICES]
    given = Endpoints.find({"ingestion": "given:1"}, env=runs("ingestion=1:2"))
    with pytest.raises(EndpointError, match="nothing says where each is"):
        given.address("ingestion-100")
    of_ours = {"ingestion": "near-ingestion-101:1"}
    for told in (
        Endpoints.find(of_ours, env=runs("ingestion=1:2")),
        Endpoints.find(env={**runs("ingestion=1:2"), "THROUGHLINE_INGESTION_ADDRESS": of_ours["ingestion"]}),
    ):
        assert told.address("ingestion") == of_ours["ingestion"]
        assert told.address("ingestion-100") == "near-ingestion-100:1"
