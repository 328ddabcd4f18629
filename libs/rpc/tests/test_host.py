"""A service says truly whether it serves, and stops without losing anything."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served import INGESTION_SERVICE, LOG_SERVICE, Told, host_of, hosted, make_told, open_log

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1.eventlog_pb2_grpc import EventLogServiceStub
from throughline.ingestion.v1.ingestion_pb2 import StreamInteractionsRequest
from throughline.ingestion.v1.ingestion_pb2_grpc import IngestionServiceStub
from throughline_eventlog import Writer
from throughline_rpc import (
    AuthenticationSettings,
    Background,
    HealthCheck,
    HostSettings,
    HostSettingsError,
    PortInUseError,
    ServiceHost,
    TlsFiles,
    TokenSettings,
    decode_error,
    open_channel,
)
from throughline_telemetry import configure_logging
from throughline_testkit import Authority, Mounted, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def status(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_stub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_health_follows_the_checks(told: Told) -> None:
    """Not serving while any check gives a reason; a check that serving can do without blocks only the whole."""
    reasons: dict[str, str | None] = {"relay": None, "consumer": "no message for 40 s"}
    host = host_of(
        told,
        checks=[
            HealthCheck("consumer", lambda: reasons["consumer"]),
            HealthCheck("relay", lambda: reasons["relay"], needed_to_serve=False),
        ],
    )
    await host.start()

    async def statuses() -> list[int]:
        return [await status(channel, name) for name in ("", LOG_SERVICE, INGESTION_SERVICE)]

    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        assert await statuses() == [NOT_SERVING] * 3
        assert host.reasons() == {"consumer": "no message for 40 s"}
        for consumer, relay, expected in (
            (None, None, [SERVING] * 3),
            (None, "stuck", [NOT_SERVING, SERVING, SERVING]),
            ("stuck", "stuck", [NOT_SERVING] * 3),
            (None, None, [SERVING] * 3),
        ):
            reasons.update(consumer=consumer, relay=relay)
            await eventually(lambda expected=expected: _equals(statuses(), expected))
    await host.stop()


async def _equals(answer: Any, expected: object) -> bool:
    return await answer == expected


async def test_a_check_that_fails_is_a_reason(told: Told) -> None:
    """A probe never lies because its check broke."""

    def broken() -> str | None:
        raise RuntimeError("no such column")

    host = host_of(told, checks=[HealthCheck("store", broken)])
    await host.start()
    assert "no such column" in host.reasons()["store"]
    await host.stop()


async def test_background_work_that_ends_is_started_again(told: Told) -> None:
    """A relay that dies is seen in health, and comes back by itself."""
    runs: list[int] = []
    may_live = asyncio.Event()

    async def run() -> None:
        runs.append(len(runs))
        if not may_live.is_set():
            raise ConnectionError("bus away")
        await asyncio.Event().wait()

    host = host_of(told, background=[Background("relay", run, lambda: None)])
    await host.start()
    await eventually(lambda: "bus away" in host.reasons().get("relay", ""))
    may_live.set()
    await eventually(lambda: len(runs) >= 2 and not host.reasons())
    await host.stop()


async def test_stopping_lets_work_finish_and_takes_no_more(tmp_path: Path) -> None:
    """NOT_SERVING first, the call under way is answered, its event is in the log, then everything closes in order."""
    store = open_log(tmp_path)
    writer = Writer(store)
    told = make_told(writer)
    told.append.gate.clear()
    order: list[str] = []

    async def relay() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("relay ended")

    async def flush() -> None:
        order.append("flush")
        await writer.close()

    def close() -> None:
        order.append("close")
        store.close()

    host = host_of(told, on_stop=[flush, close], background=[Background("relay", relay, lambda: None)])
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel, open_channel(f"127.0.0.1:{host.port}") as late:
        await late.channel_ready()
        call = asyncio.ensure_future(_get(channel, "append:last"))
        await asyncio.to_thread(told.append.begun.wait, 10)
        watched = health_stub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await anext(aiter(watched))).status == SERVING
        stopping = asyncio.ensure_future(host.stop())
        assert (await anext(aiter(watched))).status == NOT_SERVING

        async def refused() -> bool:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await _get(late, "nothing")
            return error.value.code() is grpc.StatusCode.UNAVAILABLE

        await eventually(refused)
        assert not call.done()
        assert order == []
        told.append.gate.set()
        assert (await call).canonical_json == b"1"
        await stopping
    assert order == ["relay ended", "flush", "close"]
    reopened = open_log(tmp_path)
    with reopened.snapshot() as reader:
        assert [event.payload for event in reader.read()] == [b"last"]
    reopened.close()


async def _get(channel: grpc.aio.Channel, key: str) -> pb.GetStateResponse:
    return await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key=key))


async def test_calls_that_have_not_begun_are_turned_away_as_such(told: Told) -> None:
    """Of many calls at once each is answered, or hears SHUTTING_DOWN: none ends as if it had been broken off."""
    host = host_of(told)
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        stub = EventLogServiceStub(channel)

        async def read() -> object:
            return [each async for each in stub.ReadEvents(pb.ReadEventsRequest(limit=1))]

        calls = [asyncio.ensure_future(each) for _ in range(200) for each in (_get(channel, "nothing"), read())]
        await calls[0]
        async with asyncio.timeout(30):
            await host.stop()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    turned_away = [decode_error(each) for each in ends if isinstance(each, grpc.aio.AioRpcError)]
    assert {(each.code, each.reason) for each in turned_away} == {(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")}
    assert all(each.retry_after for each in turned_away)
    assert not [each for each in ends if isinstance(each, BaseException) and not isinstance(each, grpc.aio.AioRpcError)]


async def test_what_the_grace_cuts_off_is_committed_all_the_same(tmp_path: Path) -> None:
    """A call that outlasts the grace is cancelled; what it had submitted is in the log before the store closes."""
    store = open_log(tmp_path)
    writer = Writer(store)
    told = make_told(writer)
    told.append.gate.clear()

    async def flush() -> None:
        told.append.gate.set()
        await writer.close()

    host = host_of(told, on_stop=[flush, store.close], grace_seconds=0.05)
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        call = asyncio.ensure_future(_get(channel, "append:cut off"))
        await asyncio.to_thread(told.append.begun.wait, 10)
        await host.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    reopened = open_log(tmp_path)
    with reopened.snapshot() as reader:
        assert [event.payload for event in reader.read()] == [b"cut off"]
    reopened.close()


async def test_stopping_does_not_wait_for_watchers(told: Told) -> None:
    """Streams that only read end at once; streams that were sent something end when it is answered."""
    host = host_of(told, grace_seconds=60.0)
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        watching = EventLogServiceStub(channel).ReadEvents(pb.ReadEventsRequest(client_id="wait", limit=1))
        assert (await anext(aiter(watching))).events[0].position == 1

        never = asyncio.Event()

        async def requests() -> AsyncIterator[StreamInteractionsRequest]:
            yield StreamInteractionsRequest(batch_id="1")
            yield StreamInteractionsRequest(batch_id="2")
            await never.wait()

        streaming = IngestionServiceStub(channel).StreamInteractions(requests())
        answers = aiter(streaming)
        assert [(await anext(answers)).batch_id for _ in range(2)] == ["1", "2"]

        async with asyncio.timeout(10):
            await host.stop()
        for stream in (aiter(watching), answers):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await anext(stream)
            remote = decode_error(error.value)
            assert (remote.code, remote.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert remote.retry_after is not None
        assert told.cancelled == 1


async def test_one_that_cannot_be_closed_does_not_keep_the_others_open(told: Told) -> None:
    """Whatever fails at the end, the rest is closed."""
    closed: list[str] = []

    def fails() -> None:
        raise OSError("disk full")

    host = host_of(told, on_stop=[fails, lambda: closed.append("store")])
    await host.start()
    await host.stop()
    await host.stop()
    assert closed == ["store"]


async def test_a_busy_port_is_named(told: Told) -> None:
    """Port and remedy are in the message, everything is closed, and two hosts never share a port unseen."""
    first = host_of(told)
    port = await first.start()
    closed: list[str] = []
    second = ServiceHost(HostSettings("testing", port=port), hosted(told), on_stop=[lambda: closed.append("store")])
    with pytest.raises(PortInUseError, match=rf"port {port} on 127.0.0.1 is in use; .*THROUGHLINE_PORT"):
        await second.start()
    assert closed == ["store"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics_port = taken.getsockname()[1]
        third = ServiceHost(HostSettings("testing", metrics_port=metrics_port), hosted(told))
        with pytest.raises(PortInUseError, match=rf"port {metrics_port} .*THROUGHLINE_METRICS_PORT"):
            await third.start()
    await first.stop()


async def test_an_address_that_is_not_ours_is_named(told: Told) -> None:
    """A host that cannot be listened on says which and what to set."""
    host = ServiceHost(HostSettings("testing", host="203.0.113.7", port=7_000), hosted(told))
    with pytest.raises(OSError, match=r"203\.0\.113\.7:7000.*THROUGHLINE_HOST"):
        await host.start()


async def test_metrics_are_served(told: Told) -> None:
    """Over HTTP, on a port of their own."""
    import urllib.request

    host = ServiceHost(HostSettings("testing", metrics_port=0), hosted(told))
    await host.start()
    url = f"http://127.0.0.1:{host.metrics_port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert "throughline_rpc_seconds" in text
    await host.stop()
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(lambda: urllib.request.urlopen(url).close())


def test_settings_come_from_the_environment() -> None:
    """A service's own variable is stronger than the suite's; what cannot be used is named."""
    settings = HostSettings.from_env(
        "ingestion",
        {
            "THROUGHLINE_PORT": "7000",
            "INGESTION_PORT": "7001",
            "THROUGHLINE_GRACE_SECONDS": "2.5",
            "THROUGHLINE_HOST": "::1",
        },
    )
    assert (settings.port, settings.grace_seconds, settings.host, settings.metrics_host) == (7001, 2.5, "::1", "::1")
    assert settings.metrics_port is None
    assert HostSettings.from_env("identity", {"THROUGHLINE_METRICS_PORT": "0"}, default_port=7102) == HostSettings(
        "identity", port=7102, metrics_port=0
    )
    with pytest.raises(HostSettingsError, match="INGESTION_PORT is '70000'; give a number from 0 to 65535"):
        HostSettings.from_env("ingestion", {"INGESTION_PORT": "70000"})
    with pytest.raises(HostSettingsError, match="THROUGHLINE_GRACE_SECONDS is 'soon'"):
        HostSettings.from_env("ingestion", {"THROUGHLINE_GRACE_SECONDS": "soon"})


PROGRAM = """
import asyncio
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from served import Told, make_told, hosted, open_log
from throughline_eventlog import Writer
from throughline_rpc import HostSettings, ServiceHost, serve
from throughline_telemetry import configure

folder = Path(sys.argv[2])

async def hold(told):
    # The append under way goes on half a second after the process began to stop.
    while not told.append.begun.is_set():
        await asyncio.sleep(0.01)
    (folder / "begun").touch()
    while b"stopping" not in (folder / "service.log").read_bytes():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    told.append.gate.set()

async def build():
    store = open_log(folder)
    writer = Writer(store)
    told = make_told(writer)
    told.append.gate.clear()
    told.holding = asyncio.ensure_future(hold(told))
    settings = HostSettings("testing", port=int(sys.argv[3]), grace_seconds=30)
    return ServiceHost(settings, hosted(told), on_stop=[writer.close, store.close])

configure("testing")
sys.exit(serve(build))
"""


class Process:
    """A service as a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "service.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(folder), str(self.port)],
                stderr=log,
            )

    async def ready(self) -> grpc.aio.Channel:
        channel = open_channel(f"127.0.0.1:{self.port}")
        await eventually(lambda: b"listening" in self.log.read_bytes())
        await channel.channel_ready()
        return channel


async def test_sigterm_finishes_what_is_under_way(tmp_path: Path) -> None:
    """The process answers its last call, writes it, and ends with 0."""
    service = Process(tmp_path)
    channel = await service.ready()
    call = asyncio.ensure_future(_get(channel, "append:last"))
    await eventually((tmp_path / "begun").exists)
    service.process.send_signal(signal.SIGTERM)
    assert (await call).canonical_json == b"1"
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    await channel.close()
    store = open_log(tmp_path)
    with store.snapshot() as reader:
        assert [event.payload for event in reader.read()] == [b"last"]
    store.close()


async def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    """Whoever insists does not wait for the grace."""
    service = Process(tmp_path)
    channel = await service.ready()
    call = asyncio.ensure_future(_get(channel, "wait"))
    await _get(channel, "nothing")
    service.process.send_signal(signal.SIGINT)
    await eventually(lambda: b"stopping" in service.log.read_bytes())
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(service.process.wait, 20) == 128 + signal.SIGINT
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await channel.close()


def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    """A busy port: exit code 1, and one line that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path), str(port)],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert len(lines) == 1
    assert f"port {port} on 127.0.0.1 is in use" in lines[0].decode()


async def test_a_service_says_where_it_listens_and_what_of_that_is_unsafe(told: Told, tmp_path: Path) -> None:
    """On loopback nothing is; wider, what lacks, each with its remedy."""
    authority = Authority()
    mounted = Mounted(tmp_path).put(authority.issue("server"), authority)
    tls = TlsFiles(mounted.certificate, mounted.key)
    tokens = TokenSettings("https://login.shop.eu", "throughline", jwks="https://login.shop.eu/keys")
    authentication = AuthenticationSettings(tokens)

    async def said(**settings: Any) -> tuple[bool, list[str]]:
        lines = io.BytesIO()
        configure_logging("testing", stream=lines)  # type: ignore[arg-type]
        host = host_of(told, **settings)
        await host.start()
        await host.stop()
        logged = [json.loads(line) for line in lines.getvalue().splitlines()]
        (listening,) = (line for line in logged if line["event"] == "listening")
        return listening["loopback_only"], [line["remedy"] for line in logged if line["event"] == "unsafe"]

    assert await said() == (True, [])
    local, remedies = await said(host="0.0.0.0", metrics_host="0.0.0.0")  # noqa: S104 -- what is looked at
    assert not local
    assert ["THROUGHLINE_TLS_CERT_FILE" in remedies[0], "THROUGHLINE_AUTH" in remedies[1]] == [True, True]
    assert [len((await said(host="::", **more))[1]) for more in ({"tls": tls}, {"authentication": authentication})] == [
        1,
        1,
    ]
    assert await said(host="::", tls=tls, authentication=authentication) == (False, [])


def test_a_process_serves_a_partition_that_is_in_force() -> None:
    """Untold the only one; of several it must be told which, and a number that is not in force is refused with why."""
    assert HostSettings.from_env("ingestion", {}).partition == 0
    parted = {"THROUGHLINE_PARTITIONS": "ingestion=1:2"}
    assert HostSettings.from_env("ingestion", {**parted, "THROUGHLINE_PARTITION": "101"}).partition == 101
    assert HostSettings.from_env("ingestion", {"THROUGHLINE_PARTITIONS": "ingestion=1:2:1"}).partition == 200
    assert HostSettings.from_env("identity", parted).partition == 0
    with pytest.raises(HostSettingsError, match=r"has 2 partitions .* set THROUGHLINE_PARTITION to one of 100, 101$"):
        HostSettings.from_env("ingestion", parted)
    with pytest.raises(HostSettingsError, match=r"INGESTION_PARTITION is 0: .* was replaced and is kept for reading"):
        HostSettings.from_env("ingestion", {**parted, "INGESTION_PARTITION": "0"})
    with pytest.raises(HostSettingsError, match="THROUGHLINE_PARTITIONS gives journey other partitions"):
        HostSettings.from_env("ingestion", {"THROUGHLINE_PARTITIONS": "journey=2"})
