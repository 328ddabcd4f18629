"""Whether everything has been taken by everyone, told from the services' checkpoints."""

from __future__ import annotations

from throughline.eventlog.v1 import eventlog_pb2
from throughline_client.endpoints import SERVICES
from throughline_client.sdk.settling import Behind, behind
from throughline_kernel import UPSTREAMS


def checkpoints(**taken: int) -> dict[str, eventlog_pb2.GetCheckpointResponse]:
    """All logs stand at 7; every service has taken all of them, but for `service_upstream` as given."""
    return {
        service: eventlog_pb2.GetCheckpointResponse(
            service=service,
            partition=3,
            position=7,
            inbox=[
                eventlog_pb2.InboxPosition(
                    stream=f"ELSEWHERE_{upstream.upper()}_3", position=taken.get(f"{service}_{upstream}", 7)
                )
                for upstream in upstreams
                if taken.get(f"{service}_{upstream}") != 0
            ],
        )
        for service, upstreams in UPSTREAMS.items()
    }


def test_a_suite_that_has_taken_everything_is_settled() -> None:
    """Whatever the streams' prefix and the partition are."""
    assert set(UPSTREAMS) == set(SERVICES)
    assert behind(checkpoints()) == []


def test_a_service_that_is_behind_is_named() -> None:
    """With what it has taken, of what there is; one that was never told anything has taken nothing."""
    assert behind(checkpoints(scoring_journey=5, feedback_identity=0)) == [
        Behind("feedback", "identity", 0, 7),
        Behind("scoring", "journey", 5, 7),
    ]
    (late,) = behind(checkpoints(scoring_journey=5))
    assert str(late) == "scoring has taken journey up to 5 of 7"
