"""What callers get, over real gRPC, on real stores: every end of law 6, and a clear error for what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from ingestion_world import (
    CONFLICT,
    DUPLICATE,
    NOW,
    QUARANTINED,
    RECORDED,
    REFUSED,
    STORE,
    World,
    event,
)

from throughline.eventlog.v1 import eventlog_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_rpc import decode_error

DAY = 86_400_000_000


async def test_recorded_once_for_ever(world: World) -> None:
    """Law 2: a repeat is a duplicate, other content is a conflict; neither is stored as the interaction again."""
    (first,) = await world.record(event(1))
    assert first.verdict == RECORDED
    assert first.position > 0
    (again,) = await world.record(event(1))
    assert (again.verdict, again.interaction_id, again.position) == (DUPLICATE, first.interaction_id, 0)
    (other,) = await world.record(event(1, outcome="returned"))
    assert (other.verdict, other.position > first.position) == (CONFLICT, True)
    assert other.violations[0].reason == "CONTENT_CONFLICT"
    (repeat,) = await world.record(event(1, outcome="returned"))
    assert (repeat.verdict, repeat.position) == (CONFLICT, 0)
    assert world.logged().count("InteractionRecorded") == 1
    assert world.logged().count("InteractionConflicted") == 1
    assert await world.tallies() == {"till": (1, 1, 2, 0, 0)}
    assert await world.replays_to_itself()


async def test_repeats_and_conflicts_within_one_batch(world: World) -> None:
    """A batch is judged in its order, each event on what the ones before left."""
    verdicts = await world.verdicts(event(1), event(1), event(1, outcome="open"), event(2), event(1, outcome="open"))
    assert verdicts == [RECORDED, DUPLICATE, CONFLICT, RECORDED, CONFLICT]
    assert world.logged().count("InteractionConflicted") == 1
    assert await world.replays_to_itself()


async def test_a_bad_event_harms_no_other(world: World) -> None:
    """Each is answered for itself, with every broken field."""
    results = await world.record(
        event(1),
        event(2, occurred_at=NOW * 1_000, wait_time=-1),
        event(3, attributes=b'{"a":"' + b"x" * 1_048_576 + b'"}'),
        event(4, channel="kiosk"),
        event(5, identifiers=[]),
        interaction_pb2.Interaction(),
    )
    assert [result.verdict for result in results] == [RECORDED, REFUSED, REFUSED, QUARANTINED, RECORDED, REFUSED]
    assert [violation.field for violation in results[1].violations] == ["occurred_at", "wait_time"]
    assert results[2].violations[0].rule == "at most 65536 bytes"
    assert results[2].violations[0].remedy
    assert results[3].violations[0].remedy == "register channel 'kiosk'"
    assert results[5].interaction_id == ""
    assert await world.tallies() == {"": (0, 0, 0, 0, 1), "till": (2, 0, 0, 1, 2)}
    assert await world.replays_to_itself()


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("occurred_at", NOW + 400 * DAY * 100, "at most 24 h in the future"),
        ("occurred_at", 1, "not before 1990-01-01"),
        ("attributes", b"[1,2]", "a JSON object"),
        ("kind", "Kauf", "snake_case, at most 64 characters"),
        ("source_interaction_id", "", "must be given"),
    ],
)
async def test_a_single_bad_event_ends_the_call_with_field_rule_and_remedy(
    world: World, field: str, value: object, rule: str
) -> None:
    """INVALID_ARGUMENT with ErrorInfo and BadRequest; it still counts as refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.ingestion.RecordInteraction(
            ingestion_pb2.RecordInteractionRequest(interaction=event(1, **{field: value}))
        )
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    error = decode_error(refused.value)
    assert error.domain == "throughline.ingestion"
    assert error.metadata["field"] == field
    assert [(violation.field, violation.rule) for violation in error.violations] == [(field, rule)]
    assert error.violations[0].remedy
    assert await world.tallies() == {"till": (0, 0, 0, 0, 1)}


async def test_a_single_good_event_is_answered_with_its_verdict(world: World) -> None:
    """The unary call says what the batch call says."""
    request = ingestion_pb2.RecordInteractionRequest(interaction=event(1))
    verdicts = [(await world.ingestion.RecordInteraction(request)).result.verdict for _ in range(2)]
    assert verdicts == [RECORDED, DUPLICATE]


@pytest.mark.parametrize("size", [0, 1_001, 10_000])
async def test_a_batch_of_the_wrong_size_is_refused_and_accounted_for(world: World, size: int) -> None:
    """Nothing of it is recorded, and law 6 still knows of every event."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.record(*[event(number) for number in range(size)])
    error = decode_error(refused.value)
    assert (refused.value.code(), error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_SIZE_INVALID")
    assert error.metadata["events"] == str(size)
    assert error.violations[0].remedy == f"send 1 to 1000 events in a batch; this one has {size}"
    assert await world.tallies() == ({"till": (0, 0, 0, 0, size)} if size else {})
    assert await world.replays_to_itself()


async def test_text_that_is_not_utf_8_is_refused_alone(world: World) -> None:
    """On the wire, as a careless client would send it."""
    request = ingestion_pb2.RecordInteractionsRequest(interactions=[event(1), event(2, matter="BROKEN"), event(3)])
    raw = request.SerializeToString().replace(b"BROKEN", b"\xff\xfeOKEN")
    call = world.channel.unary_unary("/throughline.ingestion.v1.IngestionService/RecordInteractions")
    answer = ingestion_pb2.RecordInteractionsResponse.FromString(await call(raw))
    assert [result.verdict for result in answer.results] == [RECORDED, REFUSED, RECORDED]
    (violation,) = answer.results[1].violations
    assert (violation.field, violation.rule) == ("matter", "valid UTF-8")
    assert answer.results[1].interaction_id
    assert await world.tallies() == {"till": (2, 0, 0, 0, 1)}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(raw[:-2])
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_channel_waits_until_it_is_registered(world: World) -> None:
    """Quarantine keeps the whole event; redriving it after registering records it as it was offered."""
    kiosk = event(1, channel="kiosk", attributes=b'{"b":1,"a":2}')
    assert await world.verdicts(kiosk, kiosk) == [QUARANTINED, QUARANTINED]
    assert await world.verdicts(kiosk) == [QUARANTINED]
    assert world.logged().count("InteractionQuarantined") == 1
    page = await world.ingestion.ListQuarantine(ingestion_pb2.ListQuarantineRequest())
    (waiting,) = page.interactions
    assert (waiting.reason, waiting.channel) == ("CHANNEL_UNKNOWN", "kiosk")
    assert waiting.remedy == "register channel 'kiosk', then redrive"
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await world.ingestion.GetInteraction(ingestion_pb2.GetInteractionRequest(interaction_id=waiting.interaction_id))
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    assert waiting.remedy in decode_error(missing.value).message

    assert await world.redrive() == (0, 0, 0, 1, 0)
    assert await world.tallies() == {"till": (0, 0, 0, 3, 0)}
    await world.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk"))
    assert await world.redrive(channel="store") == (0, 0, 0, 0, 0)
    assert await world.redrive(reason="SOURCE_UNKNOWN") == (0, 0, 0, 0, 0)
    assert await world.redrive(channel="kiosk", reason="CHANNEL_UNKNOWN") == (1, 0, 0, 0, 0)
    # Of the three offers one was recorded and the others are its repeats.
    assert await world.tallies() == {"till": (1, 2, 0, 0, 0)}
    assert await world.verdicts(kiosk) == [DUPLICATE]
    found = await world.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(source="till", source_interaction_id="r1")
    )
    assert (found.facts.attributes, found.facts.traits.name) == (b'{"a":2,"b":1}', "kiosk")
    assert found.personal.identifiers[0].value == "card-1"
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await world.redrive(interaction_id=waiting.interaction_id)
    assert decode_error(gone.value).reason == "QUARANTINE_NOT_FOUND"
    assert await world.replays_to_itself()


async def test_redriving_ends_as_offering_now_would(world: World) -> None:
    """Recorded meanwhile: a duplicate. Recorded otherwise meanwhile: a conflict. All in the account."""
    waiting = [event(number, channel="kiosk") for number in (1, 2, 3)]
    assert await world.verdicts(*waiting, event(3, channel="kiosk", outcome="open")) == [QUARANTINED] * 4
    await world.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk"))
    assert await world.verdicts(waiting[0], event(2)) == [RECORDED, RECORDED]
    assert await world.redrive() == (1, 1, 2, 0, 0)
    assert await world.tallies() == {"till": (3, 1, 2, 0, 0)}
    assert await world.replays_to_itself()
    checkpoint = await world.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest())
    history = world.log.ReadEvents(
        eventlog_pb2.ReadEventsRequest(
            interaction_ids=[(await world.record(event(2)))[0].interaction_id], until=checkpoint.position
        )
    )
    types = [each.type.rpartition(".")[2] async for chunk in history for each in chunk.events]
    assert types == ["InteractionQuarantined", "InteractionRecorded", "InteractionConflicted", "QuarantineRedriven"]


async def test_an_unknown_source_and_a_channel_not_allowed_wait_too(world: World) -> None:
    """Nothing falls through because a set-up was late."""
    site = ingestion_pb2.RegisterSourceRequest(source="site", name="Site", channels=["web"])
    await world.ingestion.RegisterSource(site)
    results = await world.record(event(1, source="nobody"), event(1, source="site"))
    assert [result.verdict for result in results] == [QUARANTINED, QUARANTINED]
    assert [result.violations[0].reason for result in results] == ["SOURCE_UNKNOWN", "CHANNEL_NOT_ALLOWED"]
    await world.ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source="nobody"))
    site.channels.append("store")
    with pytest.raises(grpc.aio.AioRpcError) as conflict:
        await world.ingestion.RegisterSource(site)
    assert decode_error(conflict.value).reason == "SOURCE_CONFLICT"
    site.replace = True
    answer = await world.ingestion.RegisterSource(site)
    assert (answer.created, list(answer.source.channels)) == (False, ["store", "web"])
    assert await world.redrive() == (2, 0, 0, 0, 0)
    assert await world.tallies() == {"nobody": (1, 0, 0, 0, 0), "site": (1, 0, 0, 0, 0)}


async def test_the_registry_is_data(world: World) -> None:
    """What is registered is listed; registering it again is no event; other traits need `replace`."""
    before = len(world.logged())
    again = await world.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="store", traits=STORE))
    assert not again.created
    assert len(world.logged()) == before
    with pytest.raises(grpc.aio.AioRpcError) as conflict:
        await world.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="store"))
    assert (conflict.value.code(), decode_error(conflict.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "CHANNEL_CONFLICT",
    )
    channels = (await world.ingestion.ListChannels(ingestion_pb2.ListChannelsRequest())).channels
    assert [(channel.channel, channel.traits) for channel in channels] == [("store", STORE)]
    sources = (await world.ingestion.ListSources(ingestion_pb2.ListSourcesRequest())).sources
    assert [(source.source, source.name) for source in sources] == [("till", "Till")]


async def test_quarantine_is_listed_in_pages_oldest_first(world: World) -> None:
    """Every entry once, whatever the page size."""
    await world.record(*[event(number, channel="kiosk") for number in range(25)])
    seen: list[str] = []
    token = ""
    while True:
        page = await world.ingestion.ListQuarantine(ingestion_pb2.ListQuarantineRequest(page_size=10, page_token=token))
        seen += [each.source_interaction_id for each in page.interactions]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"r{number}" for number in range(25)]
    for bad in ("nonsense", "AAAA", "!"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await world.ingestion.ListQuarantine(ingestion_pb2.ListQuarantineRequest(page_token=bad))
        assert decode_error(refused.value).reason == "PAGE_TOKEN_INVALID"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.ingestion.ListQuarantine(ingestion_pb2.ListQuarantineRequest(page_size=-1))
    assert decode_error(refused.value).violations[0].field == "page_size"


async def test_a_long_quarantine_is_redriven_whole(world: World) -> None:
    """Page by page, each in a commit of its own."""
    waiting = [event(number, channel="kiosk") for number in range(1_100)]
    await world.record(*waiting[:600])
    await world.record(*waiting[600:])
    await world.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk"))
    assert await world.redrive() == (1_100, 0, 0, 0, 0)
    assert await world.tallies() == {"till": (1_100, 0, 0, 0, 0)}
    assert await world.replays_to_itself()


async def test_an_interaction_is_found_with_its_personal_values_and_its_conflicts(world: World) -> None:
    """By its id, and by the source's own."""
    told = interaction_pb2.Exchange(question="allergies", answer="nuts")
    (first,) = await world.record(event(1, session_id="s-1", exchanges=[told]))
    (second,) = await world.record(event(1, outcome="open"))
    by_id = await world.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(interaction_id=first.interaction_id)
    )
    by_source = await world.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(source="till", source_interaction_id="r1")
    )
    assert by_id == by_source
    assert by_id.position == first.position
    assert by_id.recorded_at > 0
    assert not by_id.forgotten
    assert (by_id.personal.session_id, by_id.personal.exchanges[0].answer) == ("s-1", "nuts")
    (conflict,) = by_id.conflicts
    assert (conflict.position, conflict.facts.outcome) == (second.position, "open")
    assert conflict.personal.identifiers[0].value == "card-1"


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"interaction_id": "0" * 32}, grpc.StatusCode.NOT_FOUND, "INTERACTION_NOT_FOUND"),
        ({"interaction_id": "XYZ"}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        ({"source": "till"}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_REQUIRED"),
    ],
)
async def test_an_interaction_that_is_not_there_is_a_clear_answer(
    world: World, request_: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    """Nothing found and nothing asked are told apart."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.ingestion.GetInteraction(ingestion_pb2.GetInteractionRequest(**request_))
    assert (refused.value.code(), decode_error(refused.value).reason) == (code, reason)


async def test_a_stream_answers_every_batch_in_order_and_survives_bad_ones(world: World) -> None:
    """Empty and oversized batches are answered with results that say so; the stream goes on."""

    async def batches() -> AsyncIterator[ingestion_pb2.StreamInteractionsRequest]:
        for number in range(12):
            size = {3: 0, 5: 1_001}.get(number, 10)
            yield ingestion_pb2.StreamInteractionsRequest(
                batch_id=f"b{number}", interactions=[event(number * 2_000 + each) for each in range(size)]
            )

    answers = [answer async for answer in world.ingestion.StreamInteractions(batches())]
    assert [answer.batch_id for answer in answers] == [f"b{number}" for number in range(12)]
    for number, answer in enumerate(answers):
        verdicts = {result.verdict for result in answer.results}
        assert verdicts == ({REFUSED} if number in {3, 5} else {RECORDED})
    assert [len(answer.results) for answer in answers[3:6]] == [1, 10, 1_001]
    assert answers[3].results[0].violations[0].reason == "BATCH_SIZE_INVALID"
    assert await world.tallies() == {"till": (100, 0, 0, 0, 1_001)}
    assert await world.replays_to_itself()


async def test_the_first_content_of_a_stream_stands(world: World) -> None:
    """Batches of one stream are judged in the order they came, long and short alike."""

    async def batches() -> AsyncIterator[ingestion_pb2.StreamInteractionsRequest]:
        for number in range(10):
            long = [event(f"{number}-{each}") for each in range(400)]
            yield ingestion_pb2.StreamInteractionsRequest(interactions=[*long, event(number)])
            yield ingestion_pb2.StreamInteractionsRequest(interactions=[event(number, outcome="open")])

    answers = [answer async for answer in world.ingestion.StreamInteractions(batches())]
    assert [answer.results[-1].verdict for answer in answers] == [RECORDED, CONFLICT] * 10


async def test_one_aggregate_can_be_looked_at(world: World) -> None:
    """`GetState` shows what a digest stands for."""
    await world.record(event(1), event(1))
    state = await world.log.GetState(eventlog_pb2.GetStateRequest(key="account/till"))
    assert b'"duplicate":1' in state.canonical_json
    assert b'"interactions":1' in state.canonical_json
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await world.log.GetState(eventlog_pb2.GetStateRequest(key="account/nobody"))
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
