"""Who consumes whom, and whether everything that is in a log has been taken by everyone who should hear of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from throughline.eventlog.v1 import eventlog_pb2
from throughline_eventlog.partitions import number_of, service_of
from throughline_kernel import UPSTREAMS


@dataclass(frozen=True, slots=True)
class Behind:
    """Who has not taken all of an upstream's log: `taken` of `position`, as log positions; both by their logs."""

    service: str
    upstream: str
    taken: int
    position: int

    def __str__(self) -> str:
        return f"{self.service} has taken {self.upstream} up to {self.taken} of {self.position}"


def taken_of(checkpoint: eventlog_pb2.GetCheckpointResponse, upstream: str) -> int:
    """The position of the upstream's log that a service has taken, 0 where it was never told anything."""
    ending = f"_{service_of(upstream).upper()}_{number_of(upstream)}"
    return max((inbox.position for inbox in checkpoint.inbox if inbox.stream.endswith(ending)), default=0)


def behind(checkpoints: Mapping[str, eventlog_pb2.GetCheckpointResponse]) -> list[Behind]:
    """Who still has something to take, by the checkpoints of all logs in force; nobody where the suite has settled.

    Ask for the checkpoints one after the other, in the order of `Endpoints.logs`: a service that had taken everything
    when it was asked grows no further while the later ones are asked, so the looks together are as good as one.
    """
    return [
        Behind(log, upstream, taken, end.position)
        for log, checkpoint in checkpoints.items()
        for upstream, end in checkpoints.items()
        if service_of(upstream) in UPSTREAMS[service_of(log)]
        if (taken := taken_of(checkpoint, upstream)) < end.position
    ]
