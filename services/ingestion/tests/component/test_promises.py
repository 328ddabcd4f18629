"""What ingestion promises beside its answers: no bus is needed, people are forgotten, nothing personal gets out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from ingestion_world import DUPLICATE, NOW, RECORDED, StartIngestion, World, event

from throughline.identity.v1.events_pb2 import ClientForgotten
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_eventlog import Connection, NatsServer, NewEvent, Relay
from throughline_eventlog.sqlite import SQLiteStore
from throughline_rpc import decode_error
from throughline_testkit import eventually
from throughline_testkit.logs import chunks_of
from throughline_testkit.plugin import OpenStore

SECRET = "Persephone-Zweistein"


async def test_a_stopped_bus_delays_publishing_and_nothing_else(
    start: StartIngestion, nats_server: NatsServer, nats: Connection, stream_prefix: str
) -> None:
    """Law 1: ingestion acknowledges what is in its own log; the relay catches up when the bus is back."""
    nats_server.stop()
    world = await (await start()).register()
    results = await world.record(*[event(number) for number in range(300)])
    assert {result.verdict for result in results} == {RECORDED}
    check = world.channel.unary_unary("/grpc.health.v1.Health/Check")
    ask = health_pb2.HealthCheckRequest(service="throughline.ingestion.v1.IngestionService")
    answer = health_pb2.HealthCheckResponse.FromString(await check(ask.SerializeToString()))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    nats_server.start()
    await eventually(lambda: world.parts.relay.published_position >= results[-1].position)
    await nats.ready()
    chunks = await chunks_of(nats, f"{stream_prefix}_INGESTION_0")
    types = [logged.type.rpartition(".")[2] for chunk in chunks for logged in chunk.events]
    assert types == world.logged()
    assert types.count("InteractionRecorded") == 300


def personal(number: int) -> interaction_pb2.Interaction:
    """An interaction with a secret in every personal place."""
    return event(
        number,
        identifiers=[interaction_pb2.Identifier(type="email", value=f"{SECRET}-{number}@shop.org")],
        session_id=f"{SECRET}-session",
        exchanges=[interaction_pb2.Exchange(question="illness", answer=f"{SECRET}-answer")],
        feedback=[
            interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_CSAT, score=2, verbatim=f"{SECRET}-words")
        ],
        personal_attributes=f'{{"name":"{SECRET}"}}'.encode(),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """What is in every file of the folder."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_nothing_personal_is_in_clear_in_any_file_or_on_the_bus(
    start: StartIngestion, store_kind: str, tmp_path: Path, nats: Connection, stream_prefix: str
) -> None:
    """Recorded, in conflict or in quarantine: files and messages are searched byte by byte."""
    world = await (await start()).register()
    one, two = personal(1), personal(2)
    conflicting = personal(1)
    conflicting.outcome = "open"
    two.channel = "kiosk"
    results = await world.record(one, conflicting, two)
    await eventually(lambda: world.parts.relay.published_position >= results[-1].position)
    chunks = await chunks_of(nats, f"{stream_prefix}_INGESTION_0")
    on_the_bus = b"".join(chunk.SerializeToString() for chunk in chunks)
    assert b"InteractionConflicted" in on_the_bus
    assert SECRET.encode() not in on_the_bus
    assert SECRET.lower().encode() not in on_the_bus
    files = contents(tmp_path)
    assert "keys.db" in files
    assert ("ingestion.db" in files) == (store_kind == "sqlite")
    assert [name for name, content in files.items() if SECRET.lower().encode() in content.lower()] == []
    with world.parts.store.snapshot() as reader:
        logged = b"".join(row.envelope for row in reader.read_logged())
        kept = b"".join(value for table in world.parts.store.tables for _, value in reader.scan(table))
    assert SECRET.encode() not in logged + kept
    found = await world.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(source="till", source_interaction_id="r1")
    )
    assert SECRET in str(found.personal)


async def forget(nats: Connection, open_test_store: OpenStore, stream_prefix: str, personas: list[bytes]) -> None:
    """Publishes a ClientForgotten as identity would."""
    identity = open_test_store(service="identity")
    payload = ClientForgotten(client_id="c" * 32, persona_ids=personas).SerializeToString()
    with identity.transaction() as tx:
        tx.append([NewEvent(b"c" * 16, 1, "throughline.identity.v1.ClientForgotten", payload, NOW)])
    relay = Relay(identity, nats, "identity", prefix=stream_prefix)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: relay.published_position == 1)
    running.cancel()


async def test_a_forgotten_person_is_gone_and_the_log_still_verifies(
    start: StartIngestion, nats: Connection, open_test_store: OpenStore, stream_prefix: str
) -> None:
    """Law 9: facts stay, personal values do not, repeats are still known, and whoever comes back begins anew."""
    world = await (await start()).register()
    again = event(2, identifiers=event(1).identifiers)
    waiting = event(3, identifiers=event(1).identifiers, channel="kiosk")
    first, other, _ = await world.record(event(1), event(5), waiting)
    request = ingestion_pb2.GetInteractionRequest(interaction_id=first.interaction_id)
    before = await world.ingestion.GetInteraction(request)
    assert before.personal.identifiers[0].value == "card-1"

    await forget(nats, open_test_store, stream_prefix, [before.facts.persona_id])

    async def forgotten() -> bool:
        return (await world.ingestion.GetInteraction(request)).forgotten

    await eventually(forgotten)
    after = await world.ingestion.GetInteraction(request)
    assert not after.HasField("personal")
    assert after.facts == before.facts
    untouched = await world.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(interaction_id=other.interaction_id)
    )
    assert untouched.personal.identifiers[0].value == "card-5"
    assert await world.verdicts(event(1), again) == [DUPLICATE, RECORDED]
    anew = await world.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(source="till", source_interaction_id="r2")
    )
    assert anew.personal.identifiers[0].value == "card-1"
    assert anew.facts.persona_id != before.facts.persona_id
    # What waited cannot be opened any more: it ends as refused, and the account says so.
    await world.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk"))
    assert await world.redrive() == (0, 0, 0, 0, 1)
    assert await world.tallies() == {"till": (3, 1, 0, 0, 1)}
    assert await world.replays_to_itself()


async def test_a_restart_knows_everything(start: StartIngestion) -> None:
    """Tables and index are as durable as the log."""
    world = await (await start(publish=False)).register()
    await world.record(*[event(number) for number in range(50)])
    await world.record(event(1, outcome="open"), event(60, channel="kiosk"))
    before = await world.tallies()
    await world.stop()
    world = await start(publish=False)
    assert await world.tallies() == before
    assert set(await world.verdicts(*[event(number) for number in range(50)])) == {DUPLICATE}
    assert await world.replays_to_itself()


@pytest.mark.parametrize("store_kind", ["sqlite"])  # a database server's disk is not this service's to fill
async def test_a_full_disk_is_told_and_nothing_is_half_done(world: World) -> None:
    """UNAVAILABLE with the cause; once there is room the same batch is recorded, once."""
    store = world.parts.store
    assert isinstance(store, SQLiteStore)
    await world.record(event(1))
    batch = [event(f"big-{number}", attributes=b'{"a":"' + b"x" * 60_000 + b'"}') for number in range(40)]
    limit_pages(store, 100)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.record(*batch)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert decode_error(refused.value).reason == "LOG_UNAVAILABLE"
    assert "full" in decode_error(refused.value).metadata["cause"]
    limit_pages(store, 1_000_000)
    assert set(await world.verdicts(*batch)) == {RECORDED}
    assert await world.tallies() == {"till": (41, 0, 0, 0, 0)}
    assert await world.replays_to_itself()


def limit_pages(store: SQLiteStore, pages: int) -> None:
    """Lets the database grow no further than that, as a full disk would."""
    with store._datastore.get_connection(commit=True) as connection:
        connection.cursor().execute(f"PRAGMA max_page_count={pages}")
