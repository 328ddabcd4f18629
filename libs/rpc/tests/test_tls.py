"""Who is at either end is proved by certificates, and nobody has to restart for new ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served import Told, hosted, make_told

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1.eventlog_pb2_grpc import EventLogServiceStub
from throughline_rpc import (
    CallerCredentials,
    HostSettings,
    PortInUseError,
    ServiceHost,
    TlsError,
    TlsFiles,
    open_blocking_channel,
    open_channel,
)
from throughline_rpc.tls import WatchedTls
from throughline_telemetry import metrics
from throughline_testkit import Authority, Mounted, eventually

HOUR_AGO = -timedelta(hours=1)


class Seeing(Told):
    """Tells callers by whose certificate they came."""

    async def _do(self, what: str, rest: str, context: Any) -> bytes:
        if what == "peer":
            return b",".join(context.auth_context().get("x509_common_name", ()))
        return await super()._do(what, rest, context)


def files(mounted: Mounted) -> TlsFiles:
    return TlsFiles(mounted.certificate, mounted.key, mounted.ca)


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority("ours")


@pytest.fixture(scope="module")
def theirs() -> Authority:
    return Authority("theirs")


@pytest.fixture
def server(tmp_path: Path, ours: Authority) -> Mounted:
    return Mounted(tmp_path / "server").put(ours.issue("server"), ours)


@pytest.fixture
def caller(tmp_path: Path, ours: Authority) -> Mounted:
    return Mounted(tmp_path / "caller").put(ours.issue("caller"), ours)


@asynccontextmanager
async def serving(mounted: Mounted, told: Told | None = None, **more: object) -> AsyncIterator[ServiceHost]:
    settings = HostSettings("testing", health_interval_seconds=0.02, tls=files(mounted))
    host = ServiceHost(replace(settings, **{"require_client_certificates": True, **more}), hosted(told or make_told()))
    await host.start()
    yield host
    await host.stop()


async def called(host: ServiceHost, credentials: CallerCredentials) -> grpc.StatusCode:
    """How a call over a new connection ends."""
    async with open_channel(f"127.0.0.1:{host.port}", credentials=credentials) as channel:
        try:
            await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="ok"), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_callers_without_a_certificate_that_we_vouch_for_are_turned_away(
    server: Mounted, caller: Mounted, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    """No certificate, one of another authority, one that expired, no TLS at all: none of them reaches a servicer."""
    other = Mounted(tmp_path / "other").put(theirs.issue("caller"), ours)
    async with serving(server) as host:
        assert await called(host, CallerCredentials(files(caller))) is grpc.StatusCode.OK
        assert await called(host, CallerCredentials(TlsFiles(ca=caller.ca))) is grpc.StatusCode.UNAVAILABLE
        assert await called(host, CallerCredentials(files(other))) is grpc.StatusCode.UNAVAILABLE
        assert await called(host, CallerCredentials()) is grpc.StatusCode.UNAVAILABLE
        # A caller of ours refuses to start with an expired certificate; somebody else's would send it.
        expired = ours.issue("caller", lifetime=HOUR_AGO)
        credentials = grpc.ssl_channel_credentials(ours.pem, expired.key, expired.certificate)
        async with grpc.aio.secure_channel(f"127.0.0.1:{host.port}", credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="ok"), timeout=10)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_service_that_is_not_who_it_should_be_is_not_called(
    server: Mounted, caller: Mounted, theirs: Authority, tmp_path: Path
) -> None:
    """A caller knows services by their CA, and by their name where it is told one."""
    stranger = Mounted(tmp_path / "stranger").put(theirs.issue("server"), theirs)
    async with serving(stranger, require_client_certificates=False) as host:
        assert await called(host, CallerCredentials(TlsFiles(ca=caller.ca))) is grpc.StatusCode.UNAVAILABLE
    async with serving(server) as host:
        named = CallerCredentials(files(caller), server_name="localhost")
        assert await called(host, named) is grpc.StatusCode.OK
        assert await called(host, replace(named, server_name="ingestion")) is grpc.StatusCode.UNAVAILABLE


async def test_client_certificates_may_be_left_out_where_so_set(server: Mounted, caller: Mounted) -> None:
    """Callers who prove themselves otherwise need TLS all the same."""
    async with serving(server, require_client_certificates=False) as host:
        assert await called(host, CallerCredentials(TlsFiles(ca=caller.ca))) is grpc.StatusCode.OK
        assert await called(host, CallerCredentials()) is grpc.StatusCode.UNAVAILABLE


async def test_a_plain_loop_calls_over_tls_too(server: Mounted, caller: Mounted) -> None:
    """As replays do."""
    async with serving(server) as host:

        def call() -> health_pb2.HealthCheckResponse:
            target, credentials = f"127.0.0.1:{host.port}", CallerCredentials(files(caller))
            with open_blocking_channel(target, credentials=credentials) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                return stub.Check(health_pb2.HealthCheckRequest(), timeout=10)

        assert (await asyncio.to_thread(call)).status == health_pb2.HealthCheckResponse.SERVING


async def test_certificates_rotate_under_load_without_a_failed_call(
    server: Mounted, caller: Mounted, ours: Authority, theirs: Authority
) -> None:
    """From one authority to another, in the order in which one does it, with callers that never stop: connections that
    stay, connections that are new each time, and a stream that began before all of it.
    """
    told = Seeing()  # pyright: ignore[reportAbstractUsage] -- methods that it lacks are not called
    credentials = CallerCredentials(files(caller))
    steps: list[tuple[Authority, tuple[Authority, ...]]] = [
        (ours, (ours, theirs)),
        (theirs, (ours, theirs)),
        (theirs, (theirs,)),
    ]
    async with serving(server, told) as host:
        target, done, ends = f"127.0.0.1:{host.port}", asyncio.Event(), list[grpc.StatusCode]()
        seen: list[bytes] = []

        async def stays(stub: EventLogServiceStub) -> None:
            while not done.is_set():
                answer = await stub.GetState(pb.GetStateRequest(key="peer:"), timeout=10)
                seen.append(answer.canonical_json)

        async def comes_anew() -> None:
            while not done.is_set():
                ends.append(await called(host, credentials))

        async with open_channel(target, credentials=credentials) as channel:
            stub = EventLogServiceStub(channel)
            watching = stub.ReadEvents(pb.ReadEventsRequest(limit=1, client_id="wait:"))
            assert await watching.read() is not grpc.aio.EOF
            load = [asyncio.create_task(each) for each in (stays(stub), stays(stub), comes_anew(), comes_anew())]
            for step, (authority, trusted) in enumerate(steps):
                # The service has its new files first, then the caller; each is given time for calls.
                for mounted in (server, caller):
                    mounted.put(authority.issue(f"{mounted.folder.name} {step}"), *trusted)
                    before = len(seen), len(ends)
                    await eventually(lambda b=before: len(seen) > b[0] + 20 and len(ends) > b[1] + 20)
                assert seen[-1] == f"caller {step}".encode()
            assert not told.cancelled
            assert not watching.done()
            done.set()
            await asyncio.gather(*load)
            watching.cancel()
        assert set(ends) == {grpc.StatusCode.OK}
        old = CallerCredentials(files(Mounted(caller.folder.parent / "old").put(ours.issue("caller"), theirs)))
        assert await called(host, old) is grpc.StatusCode.UNAVAILABLE


async def test_files_that_cannot_be_used_are_told_and_what_was_there_stays_in_force(
    server: Mounted, caller: Mounted, ours: Authority
) -> None:
    """Half a rotation, or a broken one, cuts nobody off; health says what is wrong until it is mended."""
    async with serving(server) as host:
        server.key.write_bytes(ours.issue("another").key)
        await eventually(lambda: "is not the key of the certificate in" in host.reasons().get("certificates", ""))
        assert await called(host, CallerCredentials(files(caller))) is grpc.StatusCode.OK
        server.put(ours.issue("server", lifetime=timedelta(days=9)), ours)
        await eventually(lambda: not host.reasons())
    watched = WatchedTls(files(server))
    ends = watched.current().not_after
    assert ends is not None
    assert metrics.CERTIFICATE_NOT_AFTER._value.get() == ends.timestamp()


def unusable(mounted: Mounted, ours: Authority) -> Iterator[tuple[Callable[[], object], str]]:
    """What is done to the files, and what is said then."""
    good = ours.issue("server")

    def put(certificate: bytes = good.certificate, key: bytes = good.key, ca: bytes = ours.pem) -> None:
        mounted.certificate.write_bytes(certificate)
        mounted.key.write_bytes(key)
        mounted.ca.write_bytes(ca)

    yield lambda: put(key=ours.issue("server").key), f"{mounted.key}: is not the key of the certificate in"
    yield lambda: put(certificate=b"-"), f"{mounted.certificate}: holds no certificate in PEM"
    yield lambda: put(key=b"-"), f"{mounted.key}: holds no private key in PEM"
    yield lambda: put(ca=b""), f"{mounted.ca}: holds no certificate in PEM"
    expired = ours.issue("server", lifetime=HOUR_AGO)
    yield lambda: put(expired.certificate, expired.key), f"{mounted.certificate}: the certificate expired at"
    yield mounted.certificate.unlink, "No such file or directory; mount the secret there, or set THROUGHLINE_TLS_CERT_"


async def test_certificates_that_cannot_be_used_are_refused_at_start(server: Mounted, ours: Authority) -> None:
    """Missing, not what they should be, not belonging together, expired: the message says which, and what to do."""
    for spoil, said in unusable(server, ours):
        spoil()
        host = ServiceHost(HostSettings("testing", tls=files(server)), hosted(make_told()))
        with pytest.raises(TlsError, match=said):
            await host.start()
        with pytest.raises(TlsError, match=said):
            open_channel("127.0.0.1:1", credentials=CallerCredentials(files(server)))


async def test_probes_that_cannot_speak_tls_have_a_port_for_health_alone(server: Mounted) -> None:
    """It answers health in the clear, and nothing else."""
    async with serving(server, health_port=0) as host:
        assert host.health_port not in {None, host.port}
        async with open_channel(f"127.0.0.1:{host.health_port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="liveness"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="ok"))
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        taken = ServiceHost(HostSettings("testing", health_port=host.port), hosted(make_told()))
        with pytest.raises(PortInUseError, match="THROUGHLINE_HEALTH_PORT"):
            await taken.start()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"THROUGHLINE_TLS_CERT_FILE": "c"}, "_TLS_CERT_FILE is given without THROUGHLINE_TLS_KEY_FILE"),
        ({"TESTING_TLS_KEY_FILE": "k"}, "_TLS_KEY_FILE is given without THROUGHLINE_TLS_CERT_FILE"),
        ({"THROUGHLINE_TLS_CA_FILE": "a"}, "a service needs a certificate and key of its own"),
        ({"THROUGHLINE_TLS_CLIENT_CERTIFICATES": "required"}, "without THROUGHLINE_TLS_CERT_FILE"),
        (
            {
                "THROUGHLINE_TLS_CERT_FILE": "c",
                "THROUGHLINE_TLS_KEY_FILE": "k",
                "THROUGHLINE_TLS_CLIENT_CERTIFICATES": "required",
            },
            "without THROUGHLINE_TLS_CA_FILE",
        ),
        (
            {
                "THROUGHLINE_TLS_CERT_FILE": "c",
                "THROUGHLINE_TLS_KEY_FILE": "k",
                "THROUGHLINE_TLS_CLIENT_CERTIFICATES": "no",
            },
            "give required or none",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(env: dict[str, str], said: str) -> None:
    """A wish for safety that would not come true is told, not dropped."""
    with pytest.raises(TlsError, match=said):
        HostSettings.from_env("testing", env)


def test_tls_is_set_by_the_environment() -> None:
    """Client certificates are required where there is a CA to know them by, unless the setting says no."""
    env = {"THROUGHLINE_TLS_CERT_FILE": "c", "THROUGHLINE_TLS_KEY_FILE": "k", "TESTING_TLS_KEY_FILE": "own"}
    assert HostSettings.from_env("testing", {}).tls is None
    found = HostSettings.from_env("testing", env)
    assert (found.tls, found.require_client_certificates) == (TlsFiles(Path("c"), Path("own")), False)
    env["THROUGHLINE_TLS_CA_FILE"] = "a"
    assert HostSettings.from_env("testing", env).require_client_certificates
    env["THROUGHLINE_TLS_CLIENT_CERTIFICATES"] = "none"
    assert not HostSettings.from_env("testing", env).require_client_certificates
    assert HostSettings.from_env("testing", env).health_port is None
    assert HostSettings.from_env("testing", env | {"THROUGHLINE_HEALTH_PORT": "50059"}).health_port == 50_059
    env["THROUGHLINE_TLS_SERVER_NAME"] = "ingestion.tl.svc"
    caller = CallerCredentials.from_env(env)
    assert caller == CallerCredentials(TlsFiles(Path("c"), Path("k"), Path("a")), "ingestion.tl.svc")
    with pytest.raises(TlsError, match="without THROUGHLINE_TLS_CA_FILE"):
        CallerCredentials.from_env({"THROUGHLINE_TLS_CERT_FILE": "c", "THROUGHLINE_TLS_KEY_FILE": "k"})
