"""A source over its quota is told when to come back, and nothing of what it then offered is counted as offered."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from ingestion_world import StartIngestion, event

from ingestion.domain.quota import UNBOUNDED, Quota
from ingestion.settings import Settings
from throughline.ingestion.v1 import ingestion_pb2
from throughline_client.sdk.ingestion import IngestionClient
from throughline_eventlog import SettingsError
from throughline_proof import SigningKey
from throughline_rpc import RemoteRefusal, decode_error
from throughline_telemetry import metrics


def turned_away(source: str) -> float:
    """What the metric says."""
    return metrics.OVER_QUOTA.labels(source)._value.get()


async def test_a_source_over_its_quota_is_turned_away(start: StartIngestion) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo, one by one or in a batch; counted by the metric, and in no tally (law 6); the
    source's quota is nobody else's.
    """
    world = await (await start(publish=False, quota=Quota(events=0.5, burst=20))).register()
    await world.ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source="web", name="Web"))
    before = turned_away("till")
    assert await world.verdicts(*map(event, range(10))) == [1] * 10

    async def refused(call: object) -> RemoteRefusal:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call  # type: ignore[misc]
        return decode_error(error.value)

    batch = ingestion_pb2.RecordInteractionsRequest(interactions=map(event, range(10, 15)))
    one = ingestion_pb2.RecordInteractionRequest(interaction=event(10))
    for refusal in (
        await refused(world.ingestion.RecordInteractions(batch)),
        await refused(world.ingestion.RecordInteraction(one)),
    ):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert refusal.retry_after is not None
        assert 0 < refusal.retry_after <= 10
        assert refusal.metadata["source"] == "till"
    assert turned_away("till") - before == 6
    assert await world.verdicts(event(1, source="web")) == [1]
    assert await world.tallies() == {"till": (10, 0, 0, 0, 0), "web": (1, 0, 0, 0, 0)}


async def test_a_stream_ends_at_the_quota_and_the_sdk_comes_back(start: StartIngestion) -> None:
    """What came before is answered; the SDK waits as told and offers the rest again: all of it is recorded once."""
    world = await (await start(publish=False, quota=Quota(events=200, burst=0.5))).register()
    before = turned_away("till")
    verdicts = await IngestionClient(world.channel).record_many(map(event, range(250)), batch=50)
    assert (verdicts.recorded + verdicts.duplicate, verdicts.offered) == (250, 250)
    assert turned_away("till") > before
    assert (await world.tallies())["till"][0] == 250


def test_quotas_are_set_by_the_environment() -> None:
    """None unless they are, and nonsense is refused with the variable's name."""
    key = "a" * 43 + "="
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": "ingestion.db",
        "THROUGHLINE_HASH_KEY": key,
        "THROUGHLINE_KEY_ENCRYPTION_KEY": key,
        "THROUGHLINE_KEY_STORE": "keys.db",
        "THROUGHLINE_SIGNING_KEYS": SigningKey.new("test").line,
    }
    assert Settings.from_env(env).quota == UNBOUNDED
    env |= {"INGESTION_QUOTA_EVENTS": "500", "INGESTION_QUOTA_BYTES": "1e6", "INGESTION_QUOTA_BURST_SECONDS": "3"}
    assert Settings.from_env(env).quota == Quota(500, 1e6, 3)
    for name, text in (("EVENTS", "many"), ("BYTES", "-1"), ("BURST_SECONDS", "0")):
        with pytest.raises(SettingsError, match=f"INGESTION_QUOTA_{name} is '{text}'"):
            Settings.from_env(env | {f"INGESTION_QUOTA_{name}": text})
