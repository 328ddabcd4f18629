"""How calls end, over a real connection."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from served import INGESTION_SERVICE, LOG_SERVICE, REFUSALS, Told, host_of, make_told, open_log

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1.eventlog_pb2_grpc import EventLogServiceStub
from throughline.ingestion.v1.ingestion_pb2 import StreamInteractionsRequest
from throughline.ingestion.v1.ingestion_pb2_grpc import IngestionServiceStub
from throughline_eventlog import Writer
from throughline_rpc import RemoteRefusal, ServiceHost, decode_error, open_channel
from throughline_rpc.errors import code_of
from throughline_telemetry import configure_logging
from throughline_testkit import eventually

Call = Callable[[grpc.aio.Channel, str], Awaitable[object]]


async def unary(channel: grpc.aio.Channel, what: str) -> object:
    return await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key=what))


async def reading(channel: grpc.aio.Channel, what: str) -> object:
    stub = EventLogServiceStub(channel)
    return [response async for response in stub.ReadEvents(pb.ReadEventsRequest(client_id=what, limit=2))]


async def answering(channel: grpc.aio.Channel, what: str) -> object:
    async def requests() -> AsyncIterator[StreamInteractionsRequest]:
        for batch in ("1", what):
            yield StreamInteractionsRequest(batch_id=batch)

    return [response async for response in IngestionServiceStub(channel).StreamInteractions(requests())]


KINDS_OF_CALLS = pytest.mark.parametrize("call", [unary, reading, answering])


async def refused(call: Awaitable[object]) -> RemoteRefusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return decode_error(error.value)


@KINDS_OF_CALLS
@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refusal_ends_the_call_with_its_status(call: Call, kind: str, channel: grpc.aio.Channel) -> None:
    """Unary or streaming: code, reason, message, metadata and violations arrive."""
    expected = REFUSALS[kind]
    remote = await refused(call(channel, f"refuse:{kind}"))
    assert remote.code is code_of(expected)
    assert (remote.reason, remote.message) == (expected.reason, expected.message)
    assert remote.domain == "throughline.testing"
    assert remote.metadata == expected.metadata
    assert remote.violations == expected.violations


@KINDS_OF_CALLS
async def test_a_refusal_with_too_much_to_say_still_arrives(call: Call, channel: grpc.aio.Channel) -> None:
    """Messages are cut to what fits into trailers; the status is never lost."""
    remote = await refused(call(channel, "long"))
    assert (remote.code, remote.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert remote.message.startswith("жж")


@KINDS_OF_CALLS
async def test_the_unexpected_is_logged_once_under_the_id_it_is_reported_by(call: Call, told: Told) -> None:
    """The caller learns an id and nothing of the inside; the log has the stack under that id, and no address in it."""
    lines = io.BytesIO()
    configure_logging("testing", stream=lines)  # type: ignore[arg-type]
    host = host_of(told)
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        remote = await refused(call(channel, "break:anna@firma.de"))
    await host.stop()
    assert (remote.code, remote.reason) == (grpc.StatusCode.INTERNAL, "UNEXPECTED")
    assert remote.error_id
    assert remote.error_id in remote.message
    assert "Zero" not in remote.message
    logged = [line for line in map(json.loads, lines.getvalue().splitlines()) if line["level"] == "error"]
    assert [line["error_id"] for line in logged] == [remote.error_id]
    assert "ZeroDivisionError" in logged[0]["exception"]
    assert "anna" not in lines.getvalue().decode()


@KINDS_OF_CALLS
async def test_a_handler_may_end_its_call_itself(call: Call, channel: grpc.aio.Channel) -> None:
    """What a handler aborts with is left as it is."""
    remote = await refused(call(channel, "abort"))
    assert (remote.code, remote.message) == (grpc.StatusCode.UNIMPLEMENTED, "not here")


async def test_answers_before_a_refusal_arrive(channel: grpc.aio.Channel) -> None:
    """A stream that is refused half-way has delivered its first half."""
    call = EventLogServiceStub(channel).ReadEvents(pb.ReadEventsRequest(client_id="refuse:away", limit=3))
    seen: list[int] = []
    with pytest.raises(grpc.aio.AioRpcError):  # noqa: PT012 -- what came before the error counts
        async for response in call:
            seen.append(response.events[0].position)  # noqa: PERF401 -- what came before the error counts
    assert seen == [1, 2, 3]


GARBAGE = [b"\xff\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["garbage", "truncated", "not UTF-8"])
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_stream"])
async def test_unreadable_bytes_are_refused_cleanly(kind: str, garbage: bytes, channel: grpc.aio.Channel) -> None:
    """The caller learns that its bytes are at fault, and the service serves on."""
    match kind:
        case "unary_unary":
            calling = channel.unary_unary(f"/{LOG_SERVICE}/GetState")(garbage)
            remote = await refused(calling)
        case "unary_stream":
            # Field 4 is the string here.
            stream = channel.unary_stream(f"/{LOG_SERVICE}/ReadEvents")(garbage.replace(b"\x0a", b"\x22"))
            remote = await refused(_drain(stream))
        case _:
            stream = channel.stream_stream(f"/{INGESTION_SERVICE}/StreamInteractions")(iter([garbage]))
            remote = await refused(_drain(stream))
    assert (remote.code, remote.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_UNREADABLE")
    assert remote.metadata["method"].startswith("/throughline.")
    assert await unary(channel, "nothing") == pb.GetStateResponse(canonical_json=b"{}")


async def _drain(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def test_a_method_that_does_not_exist_is_not_served(channel: grpc.aio.Channel) -> None:
    """Unknown methods end as gRPC has it."""
    remote = await refused(channel.unary_unary(f"/{LOG_SERVICE}/Absent")(b""))
    assert remote.code is grpc.StatusCode.UNIMPLEMENTED


async def test_ten_megabytes_pass_both_ways(channel: grpc.aio.Channel) -> None:
    """Batches of 1,000 events with attributes are larger than gRPC's 4 MB default."""
    answer = await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="big:10000000"))
    assert len(answer.canonical_json) == 10_000_000
    await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="nothing:" + "x" * 10_000_000))


async def test_a_message_over_the_limit_is_refused(host: ServiceHost) -> None:
    """Too large is a status, not a crash."""
    async with open_channel(f"127.0.0.1:{host.port}", max_message_bytes=64 * 1024 * 1024) as wide:
        remote = await refused(unary(wide, "x" * (33 * 1024 * 1024)))
        assert remote.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await unary(wide, "nothing")


async def test_a_cancelled_call_does_not_lose_its_commit(tmp_path: Path) -> None:
    """The caller goes away while its event is written: the event is in the log all the same."""
    store = open_log(tmp_path)
    writer = Writer(store)
    told = make_told(writer)
    told.append.gate.clear()
    host = host_of(told, on_stop=[writer.close, store.close])
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        call = EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="append:one"), timeout=0.5)
        remote = await refused(_result(call))
        assert remote.code is grpc.StatusCode.DEADLINE_EXCEEDED
        told.append.gate.set()
        await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="append:two"))
    with store.snapshot() as reader:
        assert [event.payload for event in reader.read()] == [b"one", b"two"]
    await host.stop()


async def _result(call: Awaitable[object]) -> object:
    return await call


async def test_cancellation_reaches_the_handler(told: Told, channel: grpc.aio.Channel) -> None:
    """What a caller does not wait for any more is not worked on any more."""
    call = EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="wait"))
    waiting = asyncio.ensure_future(_result(call))
    await told.waiting.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(lambda: told.cancelled == 1)


async def test_a_trace_goes_on_through_a_call(channel: grpc.aio.Channel) -> None:
    """Within a handler the current trace is the caller's, also where nothing is recorded."""
    traceparent = f"00-{'a' * 32}-{'b' * 16}-00"
    answer = await EventLogServiceStub(channel).GetState(
        pb.GetStateRequest(key="trace"), metadata=(("traceparent", traceparent),)
    )
    assert answer.canonical_json.decode() == traceparent
    assert (await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="trace"))).canonical_json == b""


async def test_reflection_names_every_service(channel: grpc.aio.Channel) -> None:
    """Tools find out by themselves what is served."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # pyright: ignore[reportArgumentType]
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {
        LOG_SERVICE,
        INGESTION_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_calls_are_counted_by_method_and_status(host: ServiceHost, channel: grpc.aio.Channel) -> None:
    """The metrics know how each call ended."""
    from prometheus_client import REGISTRY

    def count(code: str) -> float:
        labels = {"method": f"/{LOG_SERVICE}/GetState", "code": code}
        return REGISTRY.get_sample_value("throughline_rpc_seconds_count", labels) or 0.0

    before = count("OK"), count("NOT_FOUND"), count("INTERNAL")
    await unary(channel, "nothing")
    await refused(unary(channel, "refuse:absent"))
    await refused(unary(channel, "break"))
    assert (count("OK"), count("NOT_FOUND"), count("INTERNAL")) == tuple(each + 1 for each in before)


async def test_a_call_that_takes_too_long_is_ended(told: Told) -> None:
    """Whatever deadline the caller gave; and what worked for it stops."""
    host = host_of(told, max_call_seconds=0.05)
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        remote = await refused(unary(channel, "wait:"))
        assert remote.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no call may take longer than 0.05 s" in remote.message
        assert told.cancelled == 1
        assert await unary(channel, "ok")
    await host.stop()


async def test_only_so_many_calls_are_taken_at_once(told: Told) -> None:
    """Over all connections: what is beyond is turned away at once, to be tried again."""
    host = host_of(told, max_concurrent_calls=1)
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as one, open_channel(f"127.0.0.1:{host.port}") as other:
        waiting = asyncio.ensure_future(unary(one, "wait:"))
        await told.waiting.wait()
        remote = await refused(unary(other, "ok"))
        assert remote.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.cancel()

        async def taken() -> bool:
            try:
                return bool(await unary(other, "ok"))
            except grpc.aio.AioRpcError:
                return False

        await eventually(taken)
    await host.stop()
