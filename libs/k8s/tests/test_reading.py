"""What is read is what is said: metrics by the names that they are defined under, NATS as it answers, API objects."""

from __future__ import annotations

import subprocess
import sys

import pytest

from throughline_k8s import reading
from throughline_k8s.findings import findings
from throughline_k8s.release import Bus, Pod, Running, Snapshot, Stream

POD = Pod("crm-identity-0", "identity", "node-1", "Running", True, 0, ())


# In a process of its own: what is set here would be every other test's.
SAID = """
from prometheus_client import REGISTRY, generate_latest
from throughline_telemetry import metrics

metrics.BUILD.labels("identity", "9.9").set(1)
metrics.CLOCK.set_function(lambda: 1_000.0)
metrics.LOG_POSITION.set(120)
metrics.PUBLISHED_POSITION.set(100)
metrics.OUTBOX_AGE.set(90.5)
metrics.CONSUMER_LAG.labels("TL_INGESTION_0").set(700)
metrics.POISON.labels("TL_INGESTION_0").set(2)
metrics.HEALTHY.labels("relay").set(0)
metrics.HEALTHY.labels("writer").set(1)
metrics.RESTARTS.labels("relay").inc(3)
metrics.UNEXPECTED.labels("rpc").inc(4)
metrics.OFFERS.labels("till", "recorded").inc(5)
metrics.OFFERS.labels("web", "recorded").inc(6)
print(generate_latest(REGISTRY).decode())
"""


def test_every_figure_is_read_by_the_name_that_it_is_defined_under() -> None:
    """From the text that a service's own metrics make."""
    said = subprocess.run([sys.executable, "-c", SAID], check=True, capture_output=True, text=True).stdout
    read = reading.running(POD, said, 990.0)
    assert (read.version, read.ahead, read.position, read.published) == ("9.9", 10.0, 120, 100)
    assert (read.outbox_age, read.lags["TL_INGESTION_0"], read.poison) == (90.5, 700, 2)
    assert (read.unhealthy, read.restarts, read.unexpected, read.offers) == (("relay",), 3, 4, {"recorded": 11})


def test_lags_and_what_is_put_aside_are_told() -> None:
    """A backlog, an outbox that is stuck, events put aside, checks with a reason: each is a finding."""
    process = Running("p", "identity", "1", 0.0, 120, 100, 90.5, {"TL_INGESTION_0": 700}, 2, 3, 4, ("relay",), {})
    found = findings(Snapshot("crm", "shop", 0, "v1.34.2", "1", running=(process,)))
    said = {each.says for each in found if each.about == "identity (p)"}
    assert said == {
        "has 700 messages of TL_INGESTION_0 still to take",
        "has events that are not on the bus for 90 s: 100 of 120 are",
        "says that something is wrong: relay",
        "could not take 2 events; they are kept whole",
        "met 4 errors that nobody expected; 3 times its background work ended",
    }


def test_a_cluster_of_nats_is_read_with_its_replicas() -> None:
    """As one of three servers answers: a stream that it leads with a follower that does not keep up, one with too few,
    and one that another leads, of which it does not know who keeps up.
    """
    server = {"server_name": "nats-0", "version": "2.12.1", "now": "2026-11-26T01:27:46.573086169Z"}
    streams = {
        "config": {"sync_always": False, "sync_interval": 120_000_000_000, "max_storage": 1_000},
        "meta_cluster": {"cluster_size": 3},
        "storage": 900,
        "account_details": [
            {
                "stream_detail": [
                    {
                        "name": "TL_IDENTITY_0",
                        "config": {"num_replicas": 3, "storage": "file"},
                        "cluster": {
                            "leader": "nats-0",
                            "replicas": [{"current": True}, {"current": True, "offline": True}],
                        },
                    },
                    {
                        "name": "TL_SCORING_0",
                        "config": {"num_replicas": 3, "storage": "file"},
                        "cluster": {"leader": "nats-1", "replicas": [{"current": True}, {"current": False}]},
                    },
                    {"name": "TL_JOURNEY_0", "config": {"num_replicas": 1, "storage": "memory"}},
                ]
            }
        ],
    }
    read = reading.bus(POD, server, streams, None)
    assert read == Bus(
        POD.name,
        "2.12.1",
        None,
        sync_always=False,
        sync_seconds=120.0,
        members=3,
        used=900,
        limit=1_000,
        streams=(Stream("TL_IDENTITY_0", 3, 2, "file"), Stream("TL_JOURNEY_0", 1, 1, "memory")),
    )
    found = findings(Snapshot("crm", "shop", 0, "v1.34.2", "1", bus=(read,)))
    said = {each.says for each in found if each.about.startswith(("stream", "pod"))}
    assert said == {
        "JetStream acknowledges before it syncs, which is every 120 s: a power cut loses what it acknowledged",
        "JetStream uses 900 of 1,000 bytes",
        "2 of its 3 replicas keep up",
        "has 1 replica in a cluster of 3",
        "is kept in memory",
    }


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-26T01:27:46.573086169Z", 1_795_656_466_573_086),
        ("2026-11-26T01:27:46Z", 1_795_656_466_000_000),
        ("2026-11-26T03:27:46.5+02:00", 1_795_656_466_500_000),
    ],
)
def test_instants_are_read_as_go_writes_them(text: str, at: int) -> None:
    """Nanoseconds are cut off."""
    assert reading.instant(text) == at


def test_a_pod_that_cannot_be_placed_says_why() -> None:
    """The scheduler's words."""
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    pod = reading.pod(
        {
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Pending", "conditions": [unplaced]},
        }
    )
    assert (pod.waiting, pod.ready, pod.reachable) == ("Unschedulable: 0/3 nodes", False, False)
